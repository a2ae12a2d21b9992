-- Removes keys of one run if it is over: at most a batch, and none that a service holds for somebody who waits.
--
-- ARGV  run, milliseconds of grace, milliseconds unclaimed, most keys, '1' to change nothing, where to go on
-- Gives back where to go on ('0' at the end), then the removed keys.
local run, grace, unclaimed = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local batch, dry, cursor = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6]
local prefix = 'run:' .. run .. ':#'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local meta = redis.call('HMGET', prefix .. 'run', 'finished', 'claimed')
local finished, claimed = tonumber(meta[1] or ''), tonumber(meta[2] or '')
local over
if finished then over = now - finished >= grace else over = now - (claimed or now) >= unclaimed end
if not over then return {'0'} end

local found = redis.call('SSCAN', prefix .. 'keys', cursor, 'COUNT', batch)
local answer = {found[1]}
for _, key in ipairs(found[2]) do
  redis.call('ZREMRANGEBYSCORE', key .. '#held', '-inf', now)
  if redis.call('ZCARD', key .. '#held') == 0 then
    answer[#answer + 1] = key
    if not dry then
      local name, kind = string.match(key, '^(.*)#(%a+)$')
      if kind == 'count' then
        redis.call('UNLINK', key, name .. '#who', key .. '#held', key .. '#waiting')
        redis.call('HINCRBY', prefix .. 'run', 'states', -1)
      else
        redis.call('UNLINK', key, key .. '#held')
        redis.call('HINCRBY', prefix .. 'run', 'topics', -1)
      end
      redis.call('SREM', prefix .. 'keys', key)
    end
  end
end
if not dry and redis.call('SCARD', prefix .. 'keys') == 0 then
  local epoch = math.floor(tonumber(time[1]) / 300)
  local gone = {prefix .. 'run', prefix .. 'keys'}
  for back = 0, 3 do gone[#gone + 1] = prefix .. 'requests:' .. (epoch - back) end
  redis.call('UNLINK', unpack(gone))
  redis.call('SREM', 'sync#runs', run)
end
return answer

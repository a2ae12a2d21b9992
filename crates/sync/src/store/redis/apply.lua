-- Carries out a batch of signals and publishes of one service, once: sent again with the same number, it gives back
-- the first answer.
--
-- KEYS[1]  the service's record: the number of its last batch, and the answers
-- ARGV     number, topics, states and bytes allowed in a run, seconds that a request key is remembered;
--          then for each request: kind, run, key, value, bytes that count, request key, who asks
local stored = redis.call('GET', KEYS[1])
if stored then
  local last = cmsgpack.unpack(stored)
  if last[1] >= tonumber(ARGV[1]) then return last[2] end
end
local max_topics, max_states, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local memory = tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local epoch = math.floor(tonumber(time[1]) / memory)
local answers, runs = {}, {}

-- A command that fails (memory is full, say) fails its request and not the batch.
local function call(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then error(answer.err, 0) end
  return answer
end

-- One more key of a run.
local function register(run, key, field, limit, words)
  local prefix = 'run:' .. run .. ':#'
  if call('HINCRBY', prefix .. 'run', field, 1) > limit then
    call('HINCRBY', prefix .. 'run', field, -1)
    error('limit ' .. field .. '_per_run: ' .. field .. ' in run "' .. run .. '" (' .. limit .. ') would be passed', 0)
  end
  call('SADD', prefix .. 'keys', key)
end

local function signal(run, name, who)
  local key = name .. '#count'
  local is_new = call('EXISTS', key) == 0
  if is_new then register(run, key, 'states', max_states) end
  local count = call('INCR', key)
  local names = name .. '#who'
  if who ~= '' and (call('HLEN', names) < 4096 or call('HEXISTS', names, who) == 1) then
    call('HINCRBY', names, who, 1)
  end
  call('PUBLISH', 'sync#' .. key, count)
  return count
end

local function publish(run, name, value, bytes)
  local key = name .. '#items'
  local length = call('XLEN', key)
  if length == 0 then register(run, key, 'topics', max_topics) end
  local meta = 'run:' .. run .. ':#run'
  if call('HINCRBY', meta, 'bytes', bytes) > max_bytes then
    call('HINCRBY', meta, 'bytes', -bytes)
    error('limit bytes_per_run: bytes published in run "' .. run .. '" (' .. max_bytes .. ') would be passed', 0)
  end
  call('XADD', key, (length + 1) .. '-0', 'p', value)
  call('PUBLISH', 'sync#' .. key, (length + 1) .. ':' .. value)
  return length + 1
end

for at = 6, #ARGV, 7 do
  local kind, run, key, value = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local bytes, request, who = tonumber(ARGV[at + 4]), ARGV[at + 5], ARGV[at + 6]
  local seen = 'run:' .. run .. ':#requests:'
  local answer
  if request ~= '' then
    answer = redis.call('HGET', seen .. epoch, request) or redis.call('HGET', seen .. (epoch - 1), request)
  end
  if answer then
    answer = tonumber(answer)
  else
    local ok, result
    if kind == 's' then
      ok, result = pcall(signal, run, key, who)
    else
      ok, result = pcall(publish, run, key, value, bytes)
    end
    answer = result
    if ok then
      runs[run] = true
      if request ~= '' then
        redis.call('HSET', seen .. epoch, request, result)
        redis.call('EXPIRE', seen .. epoch, 2 * memory + 60)
      end
    else
      answer = tostring(result)
    end
  end
  answers[#answers + 1] = answer
end
for run in pairs(runs) do
  redis.call('HSET', 'run:' .. run .. ':#run', 'claimed', now)
  redis.call('SADD', 'sync#runs', run)
end
redis.call('SET', KEYS[1], cmsgpack.pack({tonumber(ARGV[1]), answers}), 'EX', 3600)
return answers

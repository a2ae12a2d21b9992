// The calls of the published JavaScript SDK, against the service under test. Ends with "all well" or throws.
'use strict'

const assert = require('assert')
const { runtime, sync } = require('@testground/sdk')

async function main () {
  const env = runtime.currentRunEnv()
  const a = await sync.newBoundClient(env)
  const b = await sync.newBoundClient(env)

  // Signals and barriers.
  assert.strictEqual(await a.signalEntry('js-ready'), 1)
  const barrier = await b.barrier('js-ready', 2)
  let released = false
  barrier.wait.then(() => { released = true })
  await new Promise(resolve => setTimeout(resolve, 50))
  assert(!released, 'released with one of two')
  assert.strictEqual(await a.signalAndWait('js-ready', 2), 2)
  await barrier.wait
  await (await b.barrier('js-ready', 1)).wait

  // Topics: from the first item, in order, each once.
  const odd = 'quote " backslash \\ control \u0001 é 😀'
  for (let n = 1; n <= 100; n++) {
    assert.strictEqual(await a.publish('js-items', { from: 'a', n, odd }), n)
  }
  const { seq, sub } = await b.publishSubscribe('js-items', { from: 'b', n: 101, odd })
  assert.strictEqual(seq, 101)
  let expected = 1
  for await (const item of sub.wait) {
    assert.deepStrictEqual(item, { from: expected > 100 ? 'b' : 'a', n: expected, odd })
    if (expected++ === 101) break
  }
  sub.cancel()

  // Publish and wait, as for a change of the network.
  const asked = await b.subscribe('js-network')
  const answer = asked.wait.next().then(() => b.signalEntry('js-configured'))
  await a.publishAndWait('js-network', {}, 'js-configured', 1)
  await answer

  // Events.
  await a.signalEvent({ success_event: { group: 'single' } })

  // What is refused is an error, and the connection stays.
  await assert.rejects(async () => {
    try { await a.publish('js-items', 'x'.repeat(40000)) } catch (e) { throw new Error(e) }
  }, /message_bytes/)
  assert.strictEqual(await a.signalEntry('js-after'), 1)

  a.close()
  b.close()
  console.log('all well')
}

main().then(() => process.exit(0), e => { console.error(e); process.exit(1) })

// One instance of the plan {{name}}.
'use strict'

const net = require('net')
const { invokeMap, network } = require('@testground/sdk')

// Everybody listens, meets the others, and pings each of them over the links of composition.toml. The SDK makes a client
// for coordination only for a function that takes two arguments.
async function ping (env, client) {
  const count = env.testInstanceCount
  const most = Number(env.testInstanceParams.most_ms)

  const netclient = network.newClient(client, env)
  await netclient.waitNetworkInitialized()
  // Instances in Rust wait at their start until everybody has signalled this.
  const seq = await client.signalEntry('initialized_global')

  const ip = netclient.getDataNetworkIP()
  const server = await echo(ip)
  const others = await meet(client, seq, `${ip}:${server.address().port}`, count)
  for (const peer of others) {
    const took = await measure(peer.Addr)
    env.recordMessage(`instance ${peer.Seq} answered after ${took.toFixed(3)} ms`)
    if (took > most) throw new Error(`instance ${peer.Seq} took ${took.toFixed(3)} ms, more than ${most} ms`)
  }

  // Nobody leaves before everybody has pinged: who has left doesn't answer.
  await client.signalAndWait('done', count)
  server.close()
}

// Answers whatever is sent to this instance.
async function echo (ip) {
  const server = net.createServer(conn => {
    conn.setNoDelay(true)
    conn.on('error', () => {})
    conn.pipe(conn)
  })
  await new Promise((resolve, reject) => server.on('error', reject).listen(0, ip, resolve))
  return server
}

// Announces this instance and waits for all the others.
async function meet (client, seq, addr, count) {
  const { sub } = await client.publishSubscribe('peers', { Seq: seq, Addr: addr })
  const others = []
  let met = 0
  for await (const peer of sub.wait) {
    if (peer.Seq !== seq) others.push(peer)
    if (++met === count) break
  }
  sub.cancel()
  return others
}

// One ping over a connection that is there already, in milliseconds.
async function measure (addr) {
  const [host, port] = addr.split(':')
  const conn = net.connect({ host, port, noDelay: true })
  await new Promise((resolve, reject) => conn.once('connect', resolve).on('error', reject))
  const sent = process.hrtime.bigint()
  await new Promise(resolve => {
    conn.once('data', resolve)
    conn.write('ping')
  })
  const took = Number(process.hrtime.bigint() - sent) / 1e6
  conn.destroy()
  return took
}

invokeMap({ ping }).catch(e => { console.error(e); process.exit(1) })

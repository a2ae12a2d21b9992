// Asks the network for a shape through the SDK and measures, over TCP and UDP, whether it got it.
'use strict'

const dgram = require('dgram')
const net = require('net')
const { invokeMap, network } = require('@testground/sdk')

const PORT = 7400
const PATIENCE = 10000

// The SDK makes a client for the synchronisation service only for a function that takes two arguments.
async function ping (env, client) {
  const count = env.testInstanceCount
  const number = name => {
    const value = Number(env.testInstanceParams[name])
    if (Number.isNaN(value)) throw new Error(`parameter ${name} is no number: ${env.testInstanceParams[name]}`)
    return value
  }
  const [asked, tolerance, probes] = [2 * number('latency_ms'), number('tolerance_ms'), number('probes')]

  const netclient = network.newClient(client, env)
  await netclient.waitNetworkInitialized()
  // The SDKs of Go and Rust signal this by themselves, and the Rust one waits until everybody has.
  const seq = await client.signalEntry('initialized_global')
  await netclient.configureNetwork({
    network: 'default',
    enable: true,
    default: { latency: number('latency_ms') * 1e6, bandwidth: number('bandwidth') },
    callbackState: 'network-configured',
    routingPolicy: network.DENY_ALL
  })

  const ip = netclient.getDataNetworkIP()
  const servers = await echo(ip)
  try {
    const others = await meet(client, seq, `${ip}:${PORT}`, count)
    await client.signalAndWait('listening', count)

    // Everybody measures at the same time, and stays until everybody has: a peer that left would not answer.
    const failed = []
    for (const peer of others) {
      for (const protocol of ['tcp', 'udp']) {
        const to = `${protocol} to instance ${peer.Seq}`
        try {
          const took = await fairly(asked, tolerance, () => measure(protocol, peer.Addr, probes))
          env.recordMessage(`${to}: round trip ${took.toFixed(3)} ms, asked for ${asked} ms`)
          const off = Math.abs(took - asked)
          if (off > tolerance) failed.push(`${to}: round trip ${took.toFixed(3)} ms is ${off.toFixed(3)} ms off`)
        } catch (e) {
          failed.push(`${to}: ${e.message}`)
        }
      }
    }
    if (failed.length > 0) throw new Error(failed.join('; '))
    await client.signalAndWait('measured', count)
  } finally {
    // Node ends when nothing is open any more.
    servers.forEach(server => server.close())
  }
}

// Answers whatever is sent to this instance.
async function echo (ip) {
  const listener = net.createServer(conn => {
    conn.setNoDelay(true)
    conn.on('error', () => {})
    conn.pipe(conn)
  })
  const packets = dgram.createSocket('udp4')
  packets.on('message', (data, from) => packets.send(data, from.port, from.address))
  await new Promise((resolve, reject) => listener.on('error', reject).listen(PORT, ip, resolve))
  await new Promise((resolve, reject) => packets.on('error', reject).bind(PORT, ip, resolve))
  return [listener, packets]
}

// Announces this instance and waits for all the others. `Seq` and `Addr` are what the plans in the other languages say.
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

// Measures again, a few times, before a result counts as wrong: a machine that is busy with something else delays
// everything for a while, a wrong shape is wrong every time.
async function fairly (asked, tolerance, measure) {
  let best = await measure()
  for (let again = 0; again < 4 && Math.abs(best - asked) > tolerance; again++) {
    const took = await measure()
    if (Math.abs(took - asked) < Math.abs(best - asked)) best = took
  }
  return best
}

// The median round trip, in milliseconds, of some pings over one connection.
async function measure (protocol, addr, probes) {
  const [host, port] = addr.split(':')
  const peer = protocol === 'tcp' ? await overTcp(host, port) : await overUdp(host, port)
  const took = []
  try {
    for (let i = 0; i < probes; i++) {
      const sent = process.hrtime.bigint()
      await peer.ask(Buffer.alloc(64))
      took.push(Number(process.hrtime.bigint() - sent) / 1e6)
    }
  } finally {
    peer.close()
  }
  return took.sort((a, b) => a - b)[Math.floor(probes / 2)]
}

async function overTcp (host, port) {
  const conn = net.connect({ host, port, noDelay: true })
  await patiently('connect', (resolve, reject) => conn.once('connect', resolve).on('error', reject))
  return {
    ask: data => patiently('answer', resolve => {
      let missing = data.length
      const onData = part => {
        if ((missing -= part.length) > 0) return
        conn.off('data', onData)
        resolve()
      }
      conn.on('data', onData)
      conn.write(data)
    }),
    close: () => conn.destroy()
  }
}

async function overUdp (host, port) {
  const socket = dgram.createSocket('udp4')
  await new Promise((resolve, reject) => socket.on('error', reject).connect(port, host, resolve))
  return {
    ask: data => patiently('answer', resolve => {
      socket.once('message', resolve)
      socket.send(data)
    }),
    close: () => socket.close()
  }
}

// A promise that fails when nothing has happened for ten seconds.
function patiently (what, executor) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${what} for ${PATIENCE / 1000} s`)), PATIENCE)
    const over = settle => value => { clearTimeout(timer); settle(value) }
    executor(over(resolve), over(reject))
  })
}

invokeMap({ ping }).catch(e => { console.error(e); process.exit(1) })

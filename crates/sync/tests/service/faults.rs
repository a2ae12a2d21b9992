//! Nothing acknowledged is lost, and nothing counts twice: services and Redis killed with SIGKILL, connections cut in
//! the middle of a frame, at random points under load, and the histories of all clients checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use testground_sync::SyncHandle;
use testground_sync::client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{LocalService, RedisServer, ServiceProcess, client};

const SCHEDULES: u64 = 200;
/// Sets of Redis and services that work side by side.
const LANES: u64 = 4;
const CLIENTS: usize = 3;
const OPERATIONS: usize = 30;
const KEYS: u64 = 2;

/// One Redis, two services over it with a proxy before each client, and a third one with a proxy before Redis, whose
/// client sends no request keys, as an SDK.
struct Lane {
    redis: RedisServer,
    services: [ServiceProcess; 2],
    proxies: Vec<Proxy>,
    clients: Vec<Client>,
    store: Proxy,
    keyless: LocalService,
}

/// Passes bytes on until its budget is used up, then cuts the connection where it is.
struct Proxy {
    address: SocketAddr,
    budget: Arc<AtomicI64>,
}

#[derive(Debug, Clone)]
enum Operation {
    Signal { state: u64 },
    Publish { topic: u64, item: String },
}

/// Who signals and publishes.
enum Caller {
    Client(Client),
    Keyless(SyncHandle),
}

/// What a client was told.
#[derive(Debug)]
struct Acknowledged {
    operation: Operation,
    seq: u64,
}

#[test]
fn histories_stay_whole_through_random_faults() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let test = "histories_stay_whole_through_random_faults";
            let Some(redis) = RedisServer::start(test) else { return };
            lanes.spawn(async move {
                let mut world = Lane::new(redis).await;
                for seed in (lane..SCHEDULES).step_by(LANES as usize) {
                    let schedule = world.schedule(seed);
                    let ended = tokio::time::timeout(Duration::from_secs(600), schedule).await;
                    assert!(ended.is_ok(), "schedule {seed} does not end");
                }
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane.unwrap();
        }
    });
}

// === impl Lane ===

impl Lane {
    async fn new(redis: RedisServer) -> Lane {
        let services = [ServiceProcess::start(&redis), ServiceProcess::start(&redis)];
        let mut proxies = Vec::new();
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let proxy = Proxy::start(services[n % services.len()].address()).await;
            clients.push(client(proxy.address, &format!("client {n}")).await);
            proxies.push(proxy);
        }
        let store = Proxy::start(redis.address()).await;
        let keyless = LocalService::over(&format!("redis://{}/0", store.address)).await;
        Lane { redis, services, proxies, clients, store, keyless }
    }

    async fn schedule(&mut self, seed: u64) {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let run = format!("run:schedule{seed}:plan:p:case:c");
        let plans: Vec<Vec<Operation>> = (0..=CLIENTS).map(|n| plan(&mut rng, n)).collect();
        let signals: Vec<u64> = (0..KEYS).map(|state| count(&plans, |o| o.signals(state))).collect();
        let items: Vec<u64> = (0..KEYS).map(|topic| count(&plans, |o| o.publishes(topic))).collect();

        let mut work = JoinSet::new();
        let mut plans = plans.into_iter();
        for client in &self.clients {
            let (client, run) = (Caller::Client(client.clone()), run.clone());
            work.spawn(carry_out(client, run, plans.next().unwrap()));
        }
        let keyless = Caller::Keyless(self.keyless.handle.clone());
        work.spawn(carry_out(keyless, run.clone(), plans.next().unwrap()));
        let mut readers = JoinSet::new();
        let mut waiters = JoinSet::new();
        for client in &self.clients {
            for key in 0..KEYS {
                readers.spawn(read(client.clone(), format!("{run}:topics:{key}"), items[key as usize]));
                let (client, state) = (client.clone(), format!("{run}:states:{key}"));
                let target = signals[key as usize];
                waiters.spawn(async move { client.barrier(&state, target, None).await.unwrap() });
            }
        }
        for _ in 0..1 + below(&mut rng, 3) {
            tokio::time::sleep(Duration::from_micros(below(&mut rng, 20_000))).await;
            self.fault(&mut rng);
        }

        let mut acknowledged = Vec::new();
        while let Some(done) = work.join_next().await {
            acknowledged.extend(done.unwrap());
        }
        // Every wait ends: the last signal of each state was acknowledged.
        while let Some(done) = waiters.join_next().await {
            done.unwrap();
        }
        let logs = self.logs(&run).await;
        check(seed, &acknowledged, &signals, &self.counts(&run).await, &logs);
        while let Some(done) = readers.join_next().await {
            let (topic, seen) = done.unwrap();
            let topic: u64 = topic.rsplit(':').next().unwrap().parse().unwrap();
            assert_eq!(seen, logs[&topic], "schedule {seed}: a reader of topic {topic}");
        }
    }

    /// One thing breaks, and is put up again.
    fn fault(&mut self, rng: &mut Xoshiro256PlusPlus) {
        match below(rng, 5) {
            0 => {
                self.redis.kill();
                self.redis.launch();
            }
            1 => {
                let n = below(rng, 2) as usize;
                self.services[n].kill();
                self.services[n].launch();
            }
            // Answers of Redis are short: most such cuts lose one.
            2 => self.store.budget.store(1 + below(rng, 400) as i64, Ordering::Relaxed),
            _ => {
                let n = below(rng, CLIENTS as u64) as usize;
                self.proxies[n].budget.store(1 + below(rng, 1500) as i64, Ordering::Relaxed);
            }
        }
    }

    async fn counts(&self, run: &str) -> Vec<u64> {
        let mut connection = self.redis.connection().await;
        let mut counts = Vec::new();
        for state in 0..KEYS {
            let key = format!("{run}:states:{state}#count");
            let count: Option<u64> = redis::cmd("GET").arg(key).query_async(&mut connection).await.unwrap();
            counts.push(count.unwrap_or(0));
        }
        counts
    }

    async fn logs(&self, run: &str) -> BTreeMap<u64, Vec<(u64, String)>> {
        let mut connection = self.redis.connection().await;
        let mut logs = BTreeMap::new();
        for topic in 0..KEYS {
            let key = format!("{run}:topics:{topic}#items");
            let entries: Vec<(String, BTreeMap<String, String>)> =
                redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(&mut connection).await.unwrap();
            let entry = |(id, mut fields): (String, BTreeMap<String, String>)| {
                let seq = id.split('-').next().unwrap().parse().unwrap();
                (seq, fields.remove("p").unwrap())
            };
            logs.insert(topic, entries.into_iter().map(entry).collect());
        }
        logs
    }
}

/// What clients were told, and what Redis holds, are one history.
fn check(
    seed: u64,
    acknowledged: &[Acknowledged],
    signals: &[u64],
    counts: &[u64],
    logs: &BTreeMap<u64, Vec<(u64, String)>>,
) {
    assert_eq!(counts, signals, "schedule {seed}: entries counted, beside entries asked for");
    for state in 0..KEYS {
        let seqs: Vec<u64> =
            acknowledged.iter().filter(|a| a.operation.signals(state)).map(|a| a.seq).collect();
        let distinct: BTreeSet<u64> = seqs.iter().copied().collect();
        let expected: BTreeSet<u64> = (1..=signals[state as usize]).collect();
        assert_eq!(distinct, expected, "schedule {seed}: numbers of state {state}");
        assert_eq!(seqs.len(), expected.len(), "schedule {seed}: a number of state {state} was given twice");
    }
    for (topic, log) in logs {
        let told: BTreeMap<u64, String> = acknowledged
            .iter()
            .filter_map(|a| match &a.operation {
                Operation::Publish { topic: t, item } if t == topic => Some((a.seq, item.clone())),
                _ => None,
            })
            .collect();
        let held: BTreeMap<u64, String> = log.iter().cloned().collect();
        assert_eq!(told, held, "schedule {seed}: items of topic {topic}, told and held");
        assert!((1..).zip(log).all(|(n, (seq, _))| n == *seq), "schedule {seed}: topic {topic} has a gap");
    }
}

fn plan(rng: &mut Xoshiro256PlusPlus, client: usize) -> Vec<Operation> {
    (0..OPERATIONS)
        .map(|n| match below(rng, 2) {
            0 => Operation::Signal { state: below(rng, KEYS) },
            _ => {
                let padding = "x".repeat(below(rng, 200) as usize);
                let item = format!(r#"{{"by":{client},"n":{n},"padding":"{padding}"}}"#);
                Operation::Publish { topic: below(rng, KEYS), item }
            }
        })
        .collect()
}

async fn carry_out(caller: Caller, run: String, plan: Vec<Operation>) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for operation in plan {
        let seq = match &operation {
            Operation::Signal { state } => caller.signal(&format!("{run}:states:{state}")).await,
            Operation::Publish { topic, item } => {
                caller.publish(&format!("{run}:topics:{topic}"), item).await
            }
        };
        acknowledged.push(Acknowledged { operation, seq });
    }
    acknowledged
}

async fn read(client: Client, topic: String, count: u64) -> (String, Vec<(u64, String)>) {
    let mut items = client.subscribe(&topic, 0).await.unwrap();
    let mut seen = Vec::new();
    while (seen.len() as u64) < count {
        let item = items.next().await.unwrap();
        seen.push((item.seq, item.json));
    }
    (topic, seen)
}

fn count(plans: &[Vec<Operation>], what: impl Fn(&Operation) -> bool) -> u64 {
    plans.iter().flatten().filter(|o| what(o)).count() as u64
}

fn below(rng: &mut Xoshiro256PlusPlus, bound: u64) -> u64 {
    rng.next_u64() % bound
}

// === impl Operation ===

impl Operation {
    fn signals(&self, state: u64) -> bool {
        matches!(self, Operation::Signal { state: s } if *s == state)
    }

    fn publishes(&self, topic: u64) -> bool {
        matches!(self, Operation::Publish { topic: t, .. } if *t == topic)
    }
}

// === impl Caller ===

impl Caller {
    async fn signal(&self, state: &str) -> u64 {
        match self {
            Caller::Client(client) => client.signal(state).await.unwrap(),
            Caller::Keyless(handle) => handle.signal("keyless", state).await.unwrap(),
        }
    }

    async fn publish(&self, topic: &str, item: &str) -> u64 {
        match self {
            Caller::Client(client) => client.publish(topic, item).await.unwrap(),
            Caller::Keyless(handle) => handle.publish("keyless", topic, item).await.unwrap(),
        }
    }
}

// === impl Proxy ===

impl Proxy {
    async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let left = budget.clone();
        tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                // A service that is down is a connection that ends at once.
                let Ok(outside) = TcpStream::connect(target).await else { continue };
                let left = left.clone();
                tokio::spawn(async move {
                    let (inside_read, inside_write) = inside.into_split();
                    let (outside_read, outside_write) = outside.into_split();
                    tokio::select! {
                        () = pass(inside_read, outside_write, &left) => {}
                        () = pass(outside_read, inside_write, &left) => {}
                    }
                });
            }
        });
        Proxy { address, budget }
    }
}

/// Passes bytes on; ends with either side, or when the budget is used up, which is then unlimited again.
async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, left: &AtomicI64) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let before = left.load(Ordering::Relaxed);
        if before == i64::MAX {
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            continue;
        }
        let allowed = before.clamp(0, count as i64) as usize;
        // Whatever the other side thinks of it, the connection is cut after these bytes.
        let _ = to.write_all(&buffer[..allowed]).await;
        left.fetch_sub(count as i64, Ordering::Relaxed);
        if allowed < count {
            left.store(i64::MAX, Ordering::Relaxed);
            return;
        }
    }
}

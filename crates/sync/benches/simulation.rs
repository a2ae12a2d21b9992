//! The engine alone with 100,000 virtual clients: what one service would need. No sockets, one thread.
//!
//! `cargo bench -p testground-sync --bench simulation`

use std::hint::black_box;
use std::time::Instant;

use testground_sync::engine::{BarrierTerms, Engine, Limits, PeerId, Who};

const CLIENTS: u64 = 100_000;
const ITEMS: u64 = 20;

fn main() {
    let now = Instant::now();
    let mut engine = Engine::new(Limits::default());
    let before = resident_kib();
    let peers: Vec<PeerId> = timed("connect", CLIENTS, || {
        (0..CLIENTS).map(|_| engine.connect(Who { address: None, name: None })).collect()
    });
    figure("memory_per_client", (resident_kib() - before) as f64 * 1024.0 / CLIENTS as f64, "byte");

    timed("signal", CLIENTS, || {
        for peer in &peers {
            engine.signal(now, *peer, "run:r:plan:p:case:c:states:started", None).expect("within the limits");
        }
    });
    let terms = BarrierTerms { target: CLIENTS, deadline: None, explain: false };
    timed("barrier_wait", CLIENTS, || {
        for (n, peer) in peers.iter().enumerate() {
            let state = "run:r:plan:p:case:c:states:ready";
            engine.barrier(now, *peer, &n.to_string(), state, terms).expect("within the limits");
        }
    });
    figure("memory_per_waiting_client", (resident_kib() - before) as f64 * 1024.0 / CLIENTS as f64, "byte");
    for peer in &peers[1..] {
        engine.signal(now, *peer, "run:r:plan:p:case:c:states:ready", None).expect("within the limits");
    }
    timed("barrier_release", CLIENTS, || {
        engine.signal(now, peers[0], "run:r:plan:p:case:c:states:ready", None).expect("within the limits");
        drain(&mut engine);
    });

    let topic = "run:r:plan:p:case:c:topics:news";
    timed("subscribe", CLIENTS, || {
        for peer in &peers {
            engine.subscribe(now, *peer, "s", topic, 0, false).expect("within the limits");
        }
    });
    let item = br#""{\"n\":1,\"pad\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}""#;
    timed("fan_out", CLIENTS * ITEMS, || {
        for _ in 0..ITEMS {
            engine.publish(now, topic, item, None).expect("within the limits");
            drain(&mut engine);
        }
    });
    timed("disconnect", CLIENTS, || {
        for peer in &peers {
            engine.disconnect(*peer);
        }
    });
}

/// Hands everybody what there is.
fn drain(engine: &mut Engine) {
    let woken: Vec<PeerId> = engine.woken().collect();
    for peer in woken {
        engine.pull(peer, 64 << 10, &mut |delivery| {
            black_box(&delivery);
        });
    }
}

/// Nanoseconds of one of `count` operations.
fn timed<T>(name: &str, count: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    figure(name, start.elapsed().as_nanos() as f64 / count as f64, "ns/op");
    result
}

fn figure(bench: &str, value: f64, unit: &str) {
    let value = (value * 10.0).round() / 10.0;
    println!(
        r#"{{"bench":"sync/simulation/{bench}","value":{value},"unit":"{unit}","peer":"{CLIENTS} virtual clients"}}"#
    );
}

/// Resident memory, KiB.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

//! Signals and items a second over one Redis with 1, 2 and 4 services, beside `redis-benchmark` on the same server.
//!
//! `cargo bench -p testground-sync --bench redis`

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testground_sync::SyncHandle;
use testground_sync::server::{Options, Service};
use tokio::task::JoinSet;

/// Requests under way at each service.
const IN_FLIGHT: usize = 1024;
const SPAN: Duration = Duration::from_secs(3);

struct Redis(Child);

fn main() {
    for fsync in ["everysec", "always"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", fsync, "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("SKIPPED sync/redis: there is no redis-server");
            return;
        };
        let _redis = Redis(child);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        for (command, pipeline) in [("incr", "1"), ("incr", "16")] {
            peer(port, fsync, command, pipeline);
        }
        for services in [1, 2, 4] {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
            runtime.block_on(measure(port, fsync, services));
        }
    }
}

/// What Redis itself does, by its own measure.
fn peer(port: u16, fsync: &str, command: &str, pipeline: &str) {
    let output = Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-t", command, "-n", "300000", "-P", pipeline, "--csv"])
        .output();
    let Ok(output) = output else { return };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().last().and_then(|line| line.split('"').nth(3)?.parse::<f64>().ok());
    if let Some(rate) = rate {
        figure(&format!("redis-benchmark/{command}/pipeline={pipeline}/{fsync}"), rate);
    }
}

async fn measure(port: u16, fsync: &str, services: usize) {
    let url = format!("redis://127.0.0.1:{port}/0");
    let mut handles = Vec::new();
    for _ in 0..services {
        let service = Service::over_redis(&url, Options::default(), None).await.expect("Redis is up");
        handles.push(service.handle());
    }
    for publish in [false, true] {
        let start = Instant::now();
        let mut work = JoinSet::new();
        for n in 0..services * IN_FLIGHT {
            work.spawn(ask(handles[n % services].clone(), n % 64, publish, start + SPAN));
        }
        let mut count = 0;
        while let Some(done) = work.join_next().await {
            count += done.expect("a client ends");
        }
        let kind = if publish { "publish" } else { "signal" };
        let rate = count as f64 / start.elapsed().as_secs_f64();
        figure(&format!("{kind}/services={services}/{fsync}"), rate);
    }
}

async fn ask(handle: SyncHandle, key: usize, publish: bool, until: Instant) -> u64 {
    let mut count = 0;
    while Instant::now() < until {
        let done = match publish {
            true => handle.publish("bench", &format!("run:b:topics:{key}"), r#"{"n":1}"#).await,
            false => handle.signal("bench", &format!("run:b:states:{key}")).await,
        };
        done.expect("Redis is up");
        count += 1;
    }
    count
}

fn figure(bench: &str, value: f64) {
    println!(r#"{{"bench":"sync/redis/{bench}","value":{},"unit":"1/s","peer":""}}"#, value.round());
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! `testground sync-service`: the service by itself, where the original runs its own image.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use testground_model::outcome::ExitCode;
use testground_model::units;
use testground_sync::engine::Limits;
use testground_sync::server::{Collect, Options, Service};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::duration;

/// Serve signals, barriers and topics to the instances of any number of runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(long, default_value = "0.0.0.0:5050")]
    listen: SocketAddr,
    /// `memory`, or the Redis to keep everything in, redis://HOST:PORT/DB; several services may share one.
    #[arg(long, default_value = "memory")]
    store: String,
    /// Serve /metrics and /healthz on this address too.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Time between two collections of garbage; 0s collects none.
    #[arg(long, default_value = "60s", value_parser = duration)]
    gc_every: Duration,
    /// How long the keys of a finished run stay.
    #[arg(long, default_value = "10m", value_parser = duration)]
    gc_grace: Duration,
    /// How long the keys of a run stay that nobody claims or uses.
    #[arg(long, default_value = "24h", value_parser = duration)]
    gc_unclaimed: Duration,
    /// Cut a connection off that has not read for this long.
    #[arg(long, default_value = "10s", value_parser = duration)]
    stall: Duration,
    /// Most bytes of a message. The published SDKs for Go read no more than 32768.
    #[arg(long, default_value_t = Limits::default().message_bytes)]
    max_message_bytes: usize,
    /// Most topics in a run.
    #[arg(long, default_value_t = Limits::default().topics_per_run)]
    max_topics: usize,
    /// Most states in a run.
    #[arg(long, default_value_t = Limits::default().states_per_run)]
    max_states: usize,
    /// Most subscriptions in a run, at this service.
    #[arg(long, default_value_t = Limits::default().subscriptions_per_run)]
    max_subscriptions: u64,
    /// Most bytes published in a run.
    #[arg(long, default_value = "1GiB", value_parser = size)]
    max_bytes: u64,
}

/// Serves until SIGINT or SIGTERM.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args))?;
    Ok(ExitCode::Success)
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;
    let metrics = match args.metrics {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.with_context(|| format!("can't listen on {address}"))?)
        }
        None => None,
    };
    let options = args.options();
    let service = match args.store.as_str() {
        "memory" => Service::in_memory(options, None),
        url => Service::over_redis(url, options, None).await?,
    };
    let stop = CancellationToken::new();
    if let Some(listener) = metrics {
        tokio::spawn(service.serve_metrics(listener, stop.clone().cancelled_owned()));
    }
    // The first line, for whoever waits until it is up.
    println!("sync service listening on {}", listener.local_addr()?);
    service.serve(listener, terminated()).await?;
    stop.cancel();
    Ok(())
}

// === impl Args ===

impl Args {
    fn options(&self) -> Options {
        let limits = Limits {
            message_bytes: self.max_message_bytes,
            topics_per_run: self.max_topics,
            states_per_run: self.max_states,
            subscriptions_per_run: self.max_subscriptions,
            bytes_per_run: self.max_bytes,
            ..Limits::default()
        };
        let collect = Collect { every: self.gc_every, grace: self.gc_grace, unclaimed: self.gc_unclaimed };
        let collect = (!self.gc_every.is_zero()).then_some(collect);
        Options { limits, stall: self.stall, collect, ..Options::default() }
    }
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        // Without a handler the signal ends the process anyhow.
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// A connection is a descriptor: as many as this machine lets the process have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit on open files stays as it is: {e}");
    }
}

fn size(text: &str) -> Result<u64, String> {
    units::size(text).map_err(|e| e.to_string())
}

//! The service: WebSocket on any path, and HTTP beside it, on one port.
//!
//! A server is given its listener, already bound, and the future that stops it. What a connection is goes through
//! `upgrade`; WebSockets live in `connection`, everything else in `http`.

mod connection;

mod http;
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Limits, PeerId, Sweep};
use crate::handle::SyncHandle;
use crate::hub::Hub;
use crate::observe::SyncEvent;
use crate::store::{Redis, Store, StoreError};

/// What a service allows, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What instances may use.
    pub limits: Limits,
    /// How long a connection may take to say what it wants. Default 10 s.
    pub handshake: Duration,
    /// How long a connection may leave what is sent to it unread before it is cut off. Default 10 s.
    pub stall: Duration,
    /// How long connections may take to end when the service stops. Default 1 s.
    pub grace: Duration,
    /// How long Redis may be out of reach before requests fail. Default 60 s.
    pub store_patience: Duration,
    /// Garbage collection; none: whoever owns the service drops it whole, as a local run does.
    pub collect: Option<Collect>,
}

/// When keys of runs are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collect {
    /// Time between two sweeps. Default 60 s.
    pub every: Duration,
    /// How long the keys of a finished run stay. Default 10 minutes.
    pub grace: Duration,
    /// How long the keys of a run stay that nobody claims or uses. Default 24 hours.
    pub unclaimed: Duration,
}

/// A service that was made and is not yet serving.
#[derive(Debug)]
pub struct Service {
    hub: Arc<Hub>,
    options: Options,
}

/// Connections that are accepted and not yet known to be WebSockets; more of them wait in the kernel.
const MAX_HANDSHAKES: usize = 4096;

/// Keys that a sweep removes before it lets others have the lock.
const SWEEP_BATCH: usize = 256;

// === impl Service ===

impl Service {
    /// A service that keeps everything in memory. Every event goes to `observer`, as long as it has room: a full
    /// channel misses events and never holds the service up.
    pub fn in_memory(options: Options, observer: Option<mpsc::Sender<SyncEvent>>) -> Service {
        Service { hub: Hub::new(options.limits, Store::Memory, observer), options }
    }

    /// A service over the Redis at `url` (`redis://HOST:PORT/DB`), which it may share with others.
    ///
    /// # Errors
    /// The address is none, or Redis can't be used.
    pub async fn over_redis(
        url: &str,
        options: Options,
        observer: Option<mpsc::Sender<SyncEvent>>,
    ) -> Result<Service, StoreError> {
        let (redis, tasks) = Redis::open(url, options.store_patience).await?;
        let hub = Hub::new(options.limits, Store::Redis(Box::new(redis)), observer);
        tasks.start(&hub);
        Ok(Service { hub, options })
    }

    /// For use inside of this process.
    pub fn handle(&self) -> SyncHandle {
        SyncHandle::new(self.hub.clone())
    }

    /// Serves `/metrics` and `/healthz` alone, on another address, until `shutdown` is done. The main port has them too.
    pub fn serve_metrics(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        http::serve_metrics(self.hub.clone(), listener, shutdown)
    }

    /// Serves until `shutdown` is done, then ends all connections with a close frame.
    ///
    /// # Errors
    /// The listener broke. A connection's failure ends that connection only.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let options = Arc::new(self.options);
        let (plain, requests) = mpsc::channel(64);
        let collect = options.collect.unwrap_or_default();
        tasks.spawn(http::serve(self.hub.clone(), collect, requests, stop.clone()));
        tasks.spawn(give_up_barriers(self.hub.clone(), stop.clone()));
        if let Some(collect) = options.collect {
            tasks.spawn(collect_garbage(self.hub.clone(), collect, stop.clone()));
        }
        let accepting = async {
            let handshakes = Arc::new(tokio::sync::Semaphore::new(MAX_HANDSHAKES));
            loop {
                let permit = handshakes.clone().acquire_owned().await.expect("the semaphore is never closed");
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(e) => {
                        wait_after(&e).await?;
                        continue;
                    }
                };
                let (hub, options) = (self.hub.clone(), options.clone());
                let (plain, stop) = (plain.clone(), stop.clone());
                tasks.spawn(async move {
                    let kind = Box::pin(upgrade::greet(stream, &options)).await;
                    drop(permit);
                    match kind {
                        Ok(upgrade::Kind::WebSocket(stream, early)) => {
                            // The socket outlives the handshake's buffers, which are gone by now.
                            connection::run(hub, stream, address, early, &options, &stop).await;
                        }
                        Ok(upgrade::Kind::Http(stream)) => {
                            // Refused when the HTTP side is stopping, which ends the connection.
                            let _ = plain.send((stream, address)).await;
                        }
                        Err(e) => tracing::debug!(%address, "no handshake: {e}"),
                    }
                });
            }
        };
        let result = tokio::select! {
            result = accepting => result,
            () = shutdown => Ok(()),
        };
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(options.grace, tasks.wait()).await.is_err() {
            tracing::debug!("{} connections did not end within {:?}", tasks.len(), options.grace);
        }
        result
    }
}

/// Serves in memory: for a caller that needs no [`Service`] first.
///
/// # Errors
/// See [`Service::serve`].
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    options: Options,
    observer: Option<mpsc::Sender<SyncEvent>>,
) -> io::Result<()> {
    Service::in_memory(options, observer).serve(listener, shutdown).await
}

/// A connection whose first bytes were read already.
pub(crate) type Greeted = (upgrade::Rewound, SocketAddr);

/// Ends barriers at their deadlines.
async fn give_up_barriers(hub: Arc<Hub>, stop: CancellationToken) {
    loop {
        let next = hub.expire(Instant::now()).await;
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = hub.deadlines.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn collect_garbage(hub: Arc<Hub>, collect: Collect, stop: CancellationToken) {
    let sweep =
        Sweep { grace: collect.grace, unclaimed: collect.unclaimed, batch: SWEEP_BATCH, dry_run: false };
    while stop.run_until_cancelled(tokio::time::sleep(collect.every)).await.is_some() {
        match hub.sweep(&sweep).await {
            Ok(removed) => {
                for gone in &removed {
                    tracing::info!(run = gone.run, key = gone.key, "removed");
                }
            }
            Err(e) => tracing::warn!("no garbage was collected: {e}"),
        }
    }
}

/// After a failed accept: out of descriptors is waited out, a connection that is gone again is nothing, anything else
/// is the listener's end.
async fn wait_after(error: &io::Error) -> io::Result<()> {
    use io::ErrorKind;
    if matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    ) {
        return Ok(());
    }
    // EMFILE and ENFILE have no kind of their own.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        tracing::warn!("no connection can be accepted: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        return Ok(());
    }
    Err(io::Error::new(error.kind(), format!("accept: {error}")))
}

/// A socket of a thousand: it says at once what it has, and finds out when its peer is gone without a word.
fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

/// Counts a connection's begin, and its end, however it comes.
struct Closing<'a> {
    hub: &'a Hub,
    peer: PeerId,
    address: SocketAddr,
    reason: String,
}

impl<'a> Closing<'a> {
    fn open(hub: &'a Hub, peer: PeerId, address: SocketAddr) -> Closing<'a> {
        hub.metrics.opened.fetch_add(1, Ordering::Relaxed);
        hub.observe(|| SyncEvent::Opened { peer, address });
        Closing { hub, peer, address, reason: String::new() }
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.hub.metrics.closed.fetch_add(1, Ordering::Relaxed);
        let (peer, address) = (self.peer, self.address);
        let reason = std::mem::take(&mut self.reason);
        self.hub.observe(|| SyncEvent::Closed { peer, address, reason });
    }
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            store_patience: Duration::from_secs(60),
            collect: None,
        }
    }
}

// === impl Collect ===

impl Default for Collect {
    fn default() -> Self {
        Collect {
            every: Duration::from_secs(60),
            grace: Duration::from_secs(600),
            unclaimed: Duration::from_secs(24 * 3600),
        }
    }
}

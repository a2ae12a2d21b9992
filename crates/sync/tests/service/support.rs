//! What the tests stand on: a Redis of their own, services in processes of their own, and skipping with a reason.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testground_sync::SyncHandle;
use testground_sync::client::{Address, Client, ClientOptions};
use testground_sync::server::{Options, Service};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::port::Port;

/// How long anything may take on a machine that is busy with something else. It costs time where something is broken only.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Says that a test can't run here, unless this machine has to be able to run all.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    let required = std::env::var("TESTGROUND_TEST_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "{test} was skipped ({reason}) and TESTGROUND_TEST_REQUIRE=all");
}

/// A Redis that writes everything down before it answers. Killed when dropped.
pub(crate) struct RedisServer {
    child: Option<Child>,
    dir: TempDir,
    port: Port,
}

/// A service over Redis in a process of its own. Killed when dropped.
pub(crate) struct ServiceProcess {
    child: Option<Child>,
    port: Port,
    url: String,
}

/// A service in this process; it stops when dropped.
pub(crate) struct LocalService {
    pub(crate) handle: SyncHandle,
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

/// A client that calls itself `name`.
pub(crate) async fn client(address: SocketAddr, name: &str) -> Client {
    let options = ClientOptions { name: Some(name.to_owned()), ..ClientOptions::default() };
    let address = Address { host: address.ip().to_string(), port: address.port() };
    Client::connect(address, options).await.unwrap()
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts one, or skips the test.
    pub(crate) fn start(test: &str) -> Option<RedisServer> {
        let mut redis = RedisServer { child: None, dir: tempfile::tempdir().unwrap(), port: Port::free() };
        if let Err(e) = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status() {
            skip(test, &format!("redis-server: {e}"));
            return None;
        }
        redis.launch();
        Some(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port.number)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    /// Starts it again after [`RedisServer::kill`], with what it had written down.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.number.to_string(), "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(self.dir.path())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for_port(self.port.number, self.dir.path());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }

    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// The names of all keys, sorted.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut connection = self.connection().await;
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        keys.sort();
        keys
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

// === impl ServiceProcess ===

impl ServiceProcess {
    /// This test binary once more, as a service (see [`service_process`]).
    pub(crate) fn start(redis: &RedisServer) -> ServiceProcess {
        let mut service = ServiceProcess { child: None, port: Port::free(), url: redis.url() };
        service.launch();
        service
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number))
    }

    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::service_process", "--nocapture"])
            .env("SYNC_TEST_LISTEN", self.address().to_string())
            .env("SYNC_TEST_STORE", &self.url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

// === impl LocalService ===

impl LocalService {
    pub(crate) async fn in_memory(options: Options) -> LocalService {
        LocalService::serve(Service::in_memory(options, None)).await
    }

    pub(crate) async fn over(store: &str) -> LocalService {
        let service = Service::over_redis(store, Options::default(), None).await.unwrap();
        LocalService::serve(service).await
    }

    pub(crate) async fn serve(service: Service) -> LocalService {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = service.handle();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move { service.serve(listener, stopped).await.unwrap() });
        LocalService { handle, address, _stop: stop.drop_guard() }
    }
}

/// No test: the process that [`ServiceProcess`] and the tests of the SDKs start.
#[test]
fn service_process() {
    let Ok(listen) = std::env::var("SYNC_TEST_LISTEN") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let service = match std::env::var("SYNC_TEST_STORE") {
            Ok(store) => over_redis(&store).await,
            Err(_) => Service::in_memory(Options::default(), None),
        };
        if let Ok(state) = std::env::var("SYNC_TEST_SIGNAL") {
            service.handle().signal("test", &state).await.unwrap();
        }
        service.serve(listener, std::future::pending()).await.unwrap();
    });
}

/// A service over a Redis that may be on its way up, too.
async fn over_redis(store: &str) -> Service {
    loop {
        match Service::over_redis(store, Options::default(), None).await {
            Ok(service) => return service,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn wait_for_port(port: u16, dir: &Path) {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "redis-server does not come up:\n{}", log());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself, which is as good.
        let _ = child.kill();
        child.wait().unwrap();
    }
}

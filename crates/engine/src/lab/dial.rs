//! Connections to the outside: asked for inside the lab, which has no way out of its own, and made by the client, which
//! hands the connected socket in.
//!
//! Both ends are here. What travels through the sockets is not known: see `supervisor/outside`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testground_linux::Errno;
use testground_linux::fdpass::{Channel, ChannelError};
use testground_model::outside::Endpoint;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

/// How long the outside has to take a connection.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that the client makes at the same time; others wait for their turn.
const AT_ONCE: usize = 256;

/// Longest message either way.
const MAX_MESSAGE: usize = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    number: u64,
    to: Endpoint,
}

/// With a descriptor, or with the reason why there is none.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    number: u64,
    refused: Option<String>,
}

/// The end in the lab. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    asks: std::sync::mpsc::Sender<Ask>,
    open: Arc<Open>,
}

/// Whoever waits for an answer, by number.
#[derive(Debug)]
struct Open {
    /// None when nobody answers any more.
    waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    next: AtomicU64,
}

type Waiter = oneshot::Sender<Result<OwnedFd, String>>;

/// The client's end: makes the connections that are asked for until the lab is gone. To be called within the runtime
/// that makes them; returns at once.
pub(super) fn serve(channel: OwnedFd) -> io::Result<()> {
    let channel = Arc::new(Channel::from_fd(channel));
    let runtime = tokio::runtime::Handle::current();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let listen = move || {
        let mut letter = vec![0; MAX_MESSAGE];
        while let Ok(Some(received)) = channel.receive(&mut letter) {
            let Ok(Ask { number, to }) = serde_json::from_slice(&letter[..received.length]) else { continue };
            let (channel, turns) = (Arc::clone(&channel), Arc::clone(&turns));
            runtime.spawn(async move {
                let _turn = turns.acquire().await;
                let (refused, fd) = match connect(&to).await {
                    Ok(fd) => (None, Some(fd)),
                    Err(why) => (Some(why), None),
                };
                let answer = serde_json::to_vec(&Answer { number, refused }).unwrap_or_default();
                let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                // A lab that is gone needs no answer.
                let _ = channel.send(&answer, &fds);
            });
        }
    };
    std::thread::Builder::new().name("dial".to_owned()).spawn(listen).map(|_| ())
}

async fn connect(to: &Endpoint) -> Result<OwnedFd, String> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect((to.host.as_str(), to.port))).await {
        Ok(Ok(stream)) => stream.into_std().map(OwnedFd::from).map_err(|e| plain(&e)),
        Ok(Err(e)) => Err(plain(&e)),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

/// An error of the system without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

// === impl Dialer ===

impl Dialer {
    /// Takes the channel over. The threads end with the process.
    pub(super) fn start(channel: OwnedFd) -> io::Result<Dialer> {
        let (hearing, saying) = (Channel::from_fd(channel.try_clone()?), Channel::from_fd(channel));
        let (asks, asked) = std::sync::mpsc::channel::<Ask>();
        let open = Arc::new(Open::new());
        let (heard, unsaid) = (Arc::clone(&open), Arc::clone(&open));
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("hear dial").spawn(move || {
            let mut letter = vec![0; MAX_MESSAGE];
            while let Ok(Some(received)) = hearing.receive(&mut letter) {
                let Ok(answer) = serde_json::from_slice::<Answer>(&letter[..received.length]) else {
                    continue;
                };
                let fd = received.fds.into_iter().next();
                let result = fd.ok_or_else(|| answer.refused.unwrap_or_else(|| "no socket came".to_owned()));
                heard.answer(answer.number, result);
            }
            heard.close();
        })?;
        thread("ask dial").spawn(move || {
            while let Ok(ask) = asked.recv() {
                let bytes = serde_json::to_vec(&ask).unwrap_or_default();
                match saying.send(&bytes, &[]) {
                    Ok(()) => {}
                    // The other thread hears of it too, sooner or later.
                    Err(ChannelError::Call { source: Errno::PIPE | Errno::CONNRESET, .. }) => unsaid.close(),
                    Err(e) => {
                        let why = format!("the client can't be asked: {}", super::init::text(e));
                        unsaid.answer(ask.number, Err(why));
                    }
                }
            }
        })?;
        Ok(Dialer { asks, open })
    }

    /// A connection to a host outside.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn dial(&self, to: &Endpoint) -> Result<TcpStream, String> {
        let gone = || "the client is gone".to_owned();
        let (number, answer) = self.open.wait().ok_or_else(gone)?;
        self.asks.send(Ask { number, to: to.clone() }).map_err(|_| gone())?;
        let fd = answer.await.map_err(|_| gone())??;
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(|e| plain(&e))
    }
}

// === impl Open ===

impl Open {
    fn new() -> Open {
        Open { waiting: Mutex::new(Some(HashMap::new())), next: AtomicU64::new(0) }
    }

    fn wait(&self) -> Option<(u64, oneshot::Receiver<Result<OwnedFd, String>>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        self.lock().as_mut()?.insert(number, waiter);
        Some((number, answer))
    }

    fn answer(&self, number: u64, result: Result<OwnedFd, String>) {
        if let Some(waiter) = self.lock().as_mut().and_then(|waiting| waiting.remove(&number)) {
            // Whoever has stopped waiting lets the socket go.
            let _ = waiter.send(result);
        }
    }

    /// Nobody answers any more.
    fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, Waiter>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn both_ends() -> (OwnedFd, OwnedFd) {
        let (one, other) = Channel::pair().unwrap();
        (one.into_fd(), other.into_fd())
    }

    #[tokio::test]
    async fn a_connection_is_made_at_the_one_end_and_used_at_the_other() {
        let (client, lab) = both_ends();
        serve(client).unwrap();
        let dialer = Dialer::start(lab).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = Endpoint::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let (near, far) = tokio::join!(dialer.dial(&to), listener.accept());
        near.unwrap().write_all(b"hello").await.unwrap();
        let mut heard = String::new();
        far.unwrap().0.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        drop(listener);
        assert_eq!(dialer.dial(&to).await.unwrap_err(), "Connection refused");
        let nowhere = Endpoint::parse("nowhere.invalid:1").unwrap();
        assert!(!dialer.dial(&nowhere).await.unwrap_err().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_said_and_not_waited_for() {
        let (client, lab) = both_ends();
        let dialer = Dialer::start(lab).unwrap();
        let to = Endpoint::parse("127.0.0.1:1").unwrap();
        let waiting = tokio::spawn({
            let (dialer, to) = (dialer.clone(), to.clone());
            async move { dialer.dial(&to).await.map(|_| ()) }
        });
        tokio::task::yield_now().await;
        drop(client);
        assert_eq!(waiting.await.unwrap(), Err("the client is gone".to_owned()));
        assert!(dialer.dial(&to).await.is_err());
    }
}

//! The client: signal, publish, wait, subscribe, over a connection that comes back by itself.
//!
//! A signal or publish carries a request key and is sent again after a lost connection, so that it counts once; a
//! subscription goes on after the last item it saw; a barrier is asked for again. Against a service that knows none
//! of this (the original) a request whose answer was lost counts twice, and nothing else is different.

mod address;
mod gc;
mod link;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Explanation;

pub use address::{Address, BadAddress, DEFAULT_PORT};
pub use gc::{claim, collect, finish, report};
use link::{Ask, Command};

/// A connection to a service. Cheap to clone; the connection ends with the last clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// What it calls itself in reports, such as `sidecar`.
    pub name: Option<String>,
    /// How long to try to reach the service, at first and after a loss, before requests fail. Default 30 s.
    pub give_up: Duration,
    /// After how long without a byte from the service, although it was asked for one, the connection counts as lost.
    /// Default 20 s.
    pub silence: Duration,
    /// Most bytes of a message from the service. Default 1 MiB.
    pub message_bytes: usize,
}

/// An item of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number, from 1.
    pub seq: u64,
    /// It, as JSON.
    pub json: String,
}

/// A topic's items, in order, each once. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    items: mpsc::Receiver<Result<Item, ClientError>>,
    /// The link stopped delivering because the channel was full.
    paused: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The service said no.
    #[error("the sync service refused: {0}")]
    Refused(String),
    /// A barrier ended without opening.
    #[error("{error}")]
    NotOpened {
        /// The service's words.
        error: String,
        /// What it waited for.
        explanation: Box<Explanation>,
    },
    /// The service can't be reached.
    #[error("no sync service at {address}{}: {last}", within(*after))]
    Unreachable {
        /// Where.
        address: String,
        /// How long it was tried; zero: once.
        after: Duration,
        /// The last failure.
        last: String,
    },
    /// The service ended the connection for good.
    #[error("the sync service closed the connection: {0}")]
    Closed(String),
    /// What is to be published is no JSON.
    #[error("the payload is no JSON: {0}")]
    NotJson(String),
}

/// Items that wait for a slow reader of a subscription before the service is asked to stop.
const BUFFERED_ITEMS: usize = 1024;

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    next_id: AtomicU64,
    nonce: u64,
}

/// Tells the link to forget a request that nobody waits for any more.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
    armed: bool,
}

fn within(after: Duration) -> String {
    if after.is_zero() { String::new() } else { format!(" within {after:?}") }
}

// === impl Client ===

impl Client {
    /// Connects: `host`, `host:port` or `ws://host:port/…`; without a port it is 5050.
    ///
    /// # Errors
    /// The service can't be reached within `options.give_up`.
    pub async fn connect(address: Address, options: ClientOptions) -> Result<Client, ClientError> {
        let (commands, receiver) = mpsc::channel(256);
        let (up, connected) = oneshot::channel();
        tokio::spawn(link::run(address, options, receiver, up));
        // The link answers in any case before it ends.
        connected.await.unwrap_or_else(|_| Err(ClientError::Closed("the client's task ended".to_owned())))?;
        let nonce = RandomState::new().hash_one(std::process::id());
        Ok(Client { shared: Arc::new(Shared { commands, next_id: AtomicU64::new(0), nonce }) })
    }

    /// Counts one more entry into a state (a whole key) and gives back how many there are.
    ///
    /// # Errors
    /// The service refused or is out of reach.
    pub async fn signal(&self, state: &str) -> Result<u64, ClientError> {
        let id = self.shared.id();
        self.number(id, Ask::Signal { state: state.to_owned(), key: self.shared.request_key(id) }).await
    }

    /// Appends JSON to a topic (a whole key) and gives back its number.
    ///
    /// # Errors
    /// `json` is no JSON, or the service refused or is out of reach.
    pub async fn publish(&self, topic: &str, json: &str) -> Result<u64, ClientError> {
        let payload =
            RawValue::from_string(json.to_owned()).map_err(|e| ClientError::NotJson(e.to_string()))?;
        let id = self.shared.id();
        let key = self.shared.request_key(id);
        self.number(id, Ask::Publish { topic: topic.to_owned(), payload, key }).await
    }

    /// Waits until a state has `target` entries, at most `timeout`. Dropping the future ends the wait.
    ///
    /// # Errors
    /// It did not open in time or was cancelled, or the service refused or is out of reach.
    pub async fn barrier(
        &self,
        state: &str,
        target: u64,
        timeout: Option<Duration>,
    ) -> Result<(), ClientError> {
        let id = self.shared.id();
        let deadline = timeout.map(|t| tokio::time::Instant::now() + t);
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Barrier { state: state.to_owned(), target, deadline };
        self.shared.send(Command::Ask { id, ask, reply }).await?;
        self.shared.wait(id, answer).await.map(|_| ())
    }

    /// All items of a topic after the first `after`, then each new one.
    ///
    /// # Errors
    /// The client has ended.
    pub async fn subscribe(&self, topic: &str, after: u64) -> Result<Subscription, ClientError> {
        let id = self.shared.id();
        let (sender, items) = mpsc::channel(BUFFERED_ITEMS);
        let paused = Arc::new(AtomicBool::new(false));
        let command =
            Command::Subscribe { id, topic: topic.to_owned(), after, items: sender, paused: paused.clone() };
        self.shared.send(command).await?;
        Ok(Subscription { id, items, paused, shared: self.shared.clone() })
    }

    async fn number(&self, id: u64, ask: Ask) -> Result<u64, ClientError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Command::Ask { id, ask, reply }).await?;
        self.shared.wait(id, answer).await
    }
}

// === impl Shared ===

impl Shared {
    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn request_key(&self, id: u64) -> String {
        format!("{:016x}-{id}", self.nonce)
    }

    async fn send(&self, command: Command) -> Result<(), ClientError> {
        let ended = |_| ClientError::Closed("the client's task ended".to_owned());
        self.commands.send(command).await.map_err(ended)
    }

    async fn wait(
        &self,
        id: u64,
        answer: oneshot::Receiver<Result<u64, ClientError>>,
    ) -> Result<u64, ClientError> {
        let mut forget = Forget { shared: self, id, armed: true };
        let answer = answer.await;
        forget.armed = false;
        answer.unwrap_or_else(|_| Err(ClientError::Closed("the client's task ended".to_owned())))
    }
}

// === impl Subscription ===

impl Subscription {
    /// The next item, when there is one. May be dropped and called again.
    ///
    /// # Errors
    /// The service ended the subscription or is out of reach; nothing more comes then.
    pub async fn next(&mut self) -> Result<Item, ClientError> {
        if self.items.is_empty() && self.paused.load(Ordering::Acquire) {
            // All that was buffered is read: go on behind it.
            self.shared.send(Command::Resume { id: self.id }).await?;
        }
        let ended = || Err(ClientError::Closed("the subscription ended".to_owned()));
        self.items.recv().await.unwrap_or_else(ended)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // With the queue full the link notices that nobody receives any more.
        let _ = self.shared.commands.try_send(Command::Forget { id: self.id });
    }
}

// === impl Forget ===

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if self.armed {
            // With the queue full the link drops the answer that nobody waits for.
            let _ = self.shared.commands.try_send(Command::Forget { id: self.id });
        }
    }
}

// === impl ClientOptions ===

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            name: None,
            give_up: Duration::from_secs(30),
            silence: Duration::from_secs(20),
            message_bytes: 1 << 20,
        }
    }
}

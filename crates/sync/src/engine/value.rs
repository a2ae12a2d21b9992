//! The values that go into the engine and come out of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::report::Explanation;
use super::slab::Key;

/// A connection, or somebody inside of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub(super) Key);

/// Who a peer is, for people who read a report.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Who {
    /// The address of its connection; none inside of this process.
    pub address: Option<SocketAddr>,
    /// What it calls itself, if it does.
    pub name: Option<String>,
}

/// What an instance may use. Whatever is refused names one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message, as the clients can read it and as the service accepts it. Default 32,768.
    pub message_bytes: usize,
    /// Subscriptions and pending barriers of one connection. Default 16,384.
    pub requests_per_peer: usize,
    /// Subscriptions in a run. Default 1,048,576.
    pub subscriptions_per_run: u64,
    /// Topics in a run. Default 131,072.
    pub topics_per_run: usize,
    /// States in a run. Default 131,072.
    pub states_per_run: usize,
    /// Bytes of all values published in a run. Default 1 GiB.
    pub bytes_per_run: u64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id names a request of this connection that is still open.
    #[error("id {0:?} is in use by an open request of this connection")]
    IdInUse(String),
    /// One of [`Limits`].
    #[error("limit {name}: {what} ({limit}) would be passed")]
    Limit {
        /// The field of [`Limits`].
        name: &'static str,
        /// What it bounds, and whose.
        what: String,
        /// The value in force.
        limit: u64,
    },
    /// The peer is gone.
    #[error("the connection is closed")]
    Gone,
}

/// What a barrier did at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It was open already.
    Open {
        /// Signals so far.
        count: u64,
    },
    /// The peer waits.
    Waiting {
        /// Signals so far.
        count: u64,
    },
}

/// What a cancelled request was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited at a barrier over this state.
    Barrier(Arc<str>),
    /// It was subscribed to this topic.
    Subscription(Arc<str>),
}

/// How a barrier ended, other than by opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarrierEnd {
    /// Its time was up.
    TimedOut,
    /// Somebody ended it.
    Cancelled,
}

/// Something for a peer, in the order in which it is to be told.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// A signal or publish was given this number (only where the answer could not be had at once).
    Numbered {
        /// The request.
        id: &'a str,
        /// What it was.
        kind: Numbered,
        /// Its number.
        seq: u64,
    },
    /// The barrier is open.
    Released {
        /// The request.
        id: &'a str,
    },
    /// The barrier ended without opening. Never produced for a peer that did not ask for explanations.
    Ended {
        /// The request.
        id: &'a str,
        /// How.
        end: BarrierEnd,
        /// What it waited for.
        explanation: &'a Explanation,
    },
    /// The request failed.
    Failed {
        /// The request.
        id: &'a str,
        /// Why.
        error: &'a str,
    },
    /// The next item of a subscription.
    Item {
        /// The request.
        id: &'a str,
        /// The item's number, from 1; only where it was asked for.
        seq: Option<u64>,
        /// The item: a JSON document, encoded as a JSON string with its quotes.
        value: &'a [u8],
    },
}

/// How a pull went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// The budget did not suffice for all there is.
    pub more: bool,
    /// When the first of it came.
    pub since: Option<Instant>,
}

/// Requests that are answered with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbered {
    /// `signal_entry`.
    Signal,
    /// `publish`.
    Publish,
}

/// What a peer waits for at a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierTerms {
    /// Signals wanted.
    pub target: u64,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The peer understands an error as an answer. SDKs take one for success, so they must never get one.
    pub explain: bool,
}

// === impl PeerId ===

impl PeerId {
    /// The place of the peer among all; used again when the peer is gone.
    pub fn place(self) -> usize {
        self.0.place()
    }

    /// As a number that no other peer of this engine has.
    pub fn to_u64(self) -> u64 {
        self.0.to_u64()
    }
}

// === impl Who ===

impl Who {
    /// Somebody inside of this process.
    pub fn local(name: &str) -> Who {
        Who { address: None, name: Some(name.to_owned()) }
    }

    /// Its name, or else the host it comes from.
    pub fn short(&self) -> String {
        match (&self.name, self.address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => address.ip().to_string(),
            (None, None) => String::new(),
        }
    }

    /// A connection from this address.
    pub fn at(address: SocketAddr) -> Who {
        Who { address: Some(address), name: None }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, self.address) {
            (Some(name), Some(address)) => write!(f, "{name} ({address})"),
            (Some(name), None) => f.write_str(name),
            (None, Some(address)) => write!(f, "{address}"),
            (None, None) => f.write_str("unknown"),
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 32_768,
            requests_per_peer: 16_384,
            subscriptions_per_run: 1 << 20,
            topics_per_run: 1 << 17,
            states_per_run: 1 << 17,
            bytes_per_run: 1 << 30,
        }
    }
}

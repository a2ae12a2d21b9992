//! What happens in a service, for whoever watches it: the supervisor of a run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::engine::PeerId;

/// Something that happened. Events of one connection come in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncEvent {
    /// A connection spoke WebSocket.
    Opened {
        /// It.
        peer: PeerId,
        /// Where it comes from.
        address: SocketAddr,
    },
    /// A connection ended; what it waited for is cancelled.
    Closed {
        /// It.
        peer: PeerId,
        /// Where it came from.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A state has one more entry.
    Signalled {
        /// Who.
        peer: PeerId,
        /// The state's whole key.
        state: String,
        /// Entries now.
        seq: u64,
    },
    /// A topic has one more item.
    Published {
        /// Who.
        peer: PeerId,
        /// The topic's whole key.
        topic: String,
        /// Items now.
        seq: u64,
        /// The item, JSON.
        payload: String,
    },
    /// Somebody waits at a barrier.
    Waiting {
        /// Who.
        peer: PeerId,
        /// The state's whole key.
        state: String,
        /// Entries so far.
        count: u64,
        /// Entries wanted.
        target: u64,
    },
    /// A signal opened barriers.
    Released {
        /// The state's whole key.
        state: String,
        /// Entries now.
        count: u64,
        /// How many waited.
        peers: u64,
    },
    /// A wait at a barrier was cancelled by who waited.
    BarrierCancelled {
        /// Who.
        peer: PeerId,
        /// The state's whole key.
        state: String,
    },
    /// A subscription began.
    Subscribed {
        /// Who.
        peer: PeerId,
        /// The topic's whole key.
        topic: String,
    },
    /// A subscription was cancelled.
    Unsubscribed {
        /// Who.
        peer: PeerId,
        /// The topic's whole key.
        topic: String,
    },
    /// A request was refused, or could not be understood.
    Refused {
        /// Whose.
        peer: PeerId,
        /// The request's id; empty if it could not be told.
        id: String,
        /// Why.
        error: String,
    },
}

/// The sending side: it never waits.
#[derive(Debug)]
pub(crate) struct Observer {
    events: mpsc::Sender<SyncEvent>,
    missed: AtomicU64,
}

// === impl Observer ===

impl Observer {
    pub(crate) fn new(events: mpsc::Sender<SyncEvent>) -> Observer {
        Observer { events, missed: AtomicU64::new(0) }
    }

    pub(crate) fn send(&self, event: SyncEvent) {
        if self.events.try_send(event).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

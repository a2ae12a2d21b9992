//! A service, wherever it is: in this process, or at the other end of a connection.

use crate::client::{self, Client};
use crate::handle::{self, SyncHandle};

/// A way to signal and to read topics. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Access {
    /// In this process.
    Here(SyncHandle),
    /// Elsewhere, by a connection that comes back by itself.
    There(Client),
}

/// A topic's items, in order. Dropping it ends the subscription.
#[derive(Debug)]
pub enum Items {
    /// Of a service in this process.
    Here(handle::Subscription),
    /// Of another one.
    There(client::Subscription),
}

/// The service refused, or is out of reach for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

// === impl Access ===

impl Access {
    /// Counts one more entry into a state (a whole key). `who` appears in the reports of a service in this process; a
    /// client has its own name for all that it does.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub async fn signal(&self, who: &str, state: &str) -> Result<u64, AccessError> {
        match self {
            Access::Here(handle) => handle.signal(who, state).await.map_err(AccessError::of),
            Access::There(client) => client.signal(state).await.map_err(AccessError::of),
        }
    }

    /// All items of a topic (a whole key) from the first on, then each new one.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub async fn subscribe(&self, who: &str, topic: &str) -> Result<Items, AccessError> {
        Ok(match self {
            Access::Here(handle) => Items::Here(handle.subscribe(who, topic, 0).map_err(AccessError::of)?),
            Access::There(client) => Items::There(client.subscribe(topic, 0).await.map_err(AccessError::of)?),
        })
    }
}

impl From<SyncHandle> for Access {
    fn from(handle: SyncHandle) -> Access {
        Access::Here(handle)
    }
}

// === impl Items ===

impl Items {
    /// The next item, JSON, when there is one.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub async fn next(&mut self) -> Result<String, AccessError> {
        match self {
            Items::Here(items) => items.next().await.map(|item| item.json).map_err(AccessError::of),
            Items::There(items) => items.next().await.map(|item| item.json).map_err(AccessError::of),
        }
    }
}

// === impl AccessError ===

impl AccessError {
    fn of(error: impl std::error::Error) -> AccessError {
        AccessError(error.to_string())
    }
}

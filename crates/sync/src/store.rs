//! Where counts and items are kept.
//!
//! In memory the engine itself is the store, and an answer is there at once. With Redis any number of services share
//! one state: a request goes to Redis, and its answer comes back to the peer later; the engine holds what this
//! service's peers wait for.

mod redis;

pub(crate) use redis::{Answered, Redis};
pub use redis::{GcReport, StoreError, collect};

/// The store of a service.
#[derive(Debug)]
pub(crate) enum Store {
    /// In the engine.
    Memory,
    /// In Redis.
    Redis(Box<Redis>),
}

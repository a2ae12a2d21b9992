//! Signals, barriers and topics: the engine, its stores, the service and a client.

mod access;
pub mod client;
pub mod engine;
pub mod frame;
mod handle;
mod hub;
mod metrics;
mod observe;
pub mod server;
mod store;
pub mod wire;

pub use access::{Access, AccessError, Items};
pub use handle::{HandleError, Item, Subscription, SyncHandle};
pub use observe::SyncEvent;
pub use store::{GcReport, StoreError, collect};

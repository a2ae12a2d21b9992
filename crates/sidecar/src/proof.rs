//! The proof of the declared shapes, before the instances are let go.

mod measure;
mod schedule;
mod verdict;

/// The name of the network on which shapes are proved. No data network can have it.
pub const NETWORK: &str = "(proof)";

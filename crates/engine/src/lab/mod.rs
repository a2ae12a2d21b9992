//! The lab.
pub mod output;
pub mod protocol;
pub mod speech;

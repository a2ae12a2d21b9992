//! What a run is made of: manifests, compositions, link shapes, events and outcomes.
//!
//! Everything here is a plain value. Files are read, clocks asked and sockets opened elsewhere: this crate is
//! given text and gives back either a value or every mistake in it, with its place.

pub mod address;
pub mod artifacts;
pub mod catalogue;
pub mod composition;
pub mod diagnostic;
pub mod event;
pub mod manifest;
pub mod measure;
pub mod name;
pub mod outcome;
pub mod outside;
pub mod pick;
mod reader;
pub mod regions;
pub mod resolve;
pub mod run;
pub mod shape;
mod show;
pub mod single;
pub mod template;
pub mod topology;
pub mod trace;
pub mod units;

pub use reader::At;

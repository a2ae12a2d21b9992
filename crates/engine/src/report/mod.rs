//! Readers of the one stream of events: what a person sees, what scripts parse, what a CI server files.
//!
//! Each reader is fed with `on_event` and owns its own state; none of them knows another, and none decides anything
//! about the run. What an event means for the outcome belongs to `verdict`.

pub mod events;
pub mod junit;
pub mod page;
pub mod replay;
pub mod terminal;

mod compared;
mod flood;
mod line;
mod measured;
mod outlet;
mod record;
mod summary;
mod words;

pub use self::compared::{comparison, regressions};
pub use self::events::EventLog;
pub use self::junit::Junit;
pub use self::measured::{table, whole_table};
pub use self::page::Page;
pub use self::replay::{Replay, Shown};
pub use self::terminal::{Look, Terminal};

#[cfg(test)]
mod tests;

//! The life of a pod as a plain state machine: events and the time in, actions and status out.
//!
//! Nothing here does I/O or reads a clock; running processes belongs to the supervisor, virtual time to `simulate`.

mod status;
mod types;

pub use status::{Columns, Condition, ConditionType, ContainerStatus, Phase, PodStatus, State, Terminated};
pub use types::{
    Action, ContainerId, ContainerKind, CreateError, Event, Exit, HookKind, Instance, ProbeKind,
    ProbeOutcome, PullError, Record, Signal, Text, Time,
};

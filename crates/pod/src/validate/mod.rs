//! What the API server would refuse, in its own words.
//!
//! The checks and their order follow `pkg/apis/core/validation` (and `batch`, `apps`) of Kubernetes 1.34; what other
//! versions say differently is chosen by gate. The recorded messages of a real API server are the tests. Three
//! refusals are our own: durations that overflow nanoseconds, more than [`crate::load::MAX_CONTAINERS`] containers,
//! and quantities that the API would cap in silence.
//!
//! Not checked, because nothing here depends on it: the sources of volumes beyond names and modes, affinity,
//! topology spread, security contexts beyond ids, claims of devices.

mod container;
mod controller;
mod field;
mod gates;
mod handler;
mod names;
mod pod;
mod resources;
mod restart;
pub mod update;
mod volume;

pub use field::FieldError;
pub(crate) use gates::{drop_disabled, unknown_fields};

use crate::{load::Workload, version::Features};

/// Everything that the API server would refuse in an object, in its order.
///
/// Fields of switched off gates must have been dropped before, as reading a manifest does.
pub fn workload(workload: &Workload, features: &Features) -> Vec<FieldError> {
    let mut errors = field::Errors::default();
    controller::object(workload, features, &mut errors);
    errors.into_list()
}

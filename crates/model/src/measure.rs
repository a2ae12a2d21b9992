//! Measurements of a run: what instances record, as values and arithmetic.
//!
//! The record is InfluxDB's line protocol ([`line`]), because that is what the SDKs speak; the files that the Go SDK
//! writes beside it become the same lines ([`sdk`]). A [`Summarizer`] adds lines up in bounded memory, and [`rank`]
//! compares two samples. Files, sockets and what is shown belong in `engine`.

pub mod line;
pub mod rank;
pub mod sdk;

mod series;
mod summary;
mod timeline;

pub use self::series::{EXACT_VALUES, QUANTILE_ERROR};
pub use self::summary::{Bucket, Kind, MAX_SERIES, Measured, Row, SeriesName, Summarizer};

/// The run that lines belong to: what the names of the SDKs' measurements are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The plan.
    pub plan: String,
    /// The test case.
    pub case: String,
    /// The run's id.
    pub run: String,
}

/// The tag that says whose a point is by group; the SDKs set it.
pub const GROUP_TAG: &str = "group_id";
/// The tag that says which of its group's instances sent a point; added by the lab.
pub const INSTANCE_TAG: &str = "instance";
/// The tag with the run's id; the SDKs set it.
pub const RUN_TAG: &str = "run";

//! One run, from a resolved composition to its outcome: builders, the lab, runners and reports.

pub mod build;
pub mod collect;
pub mod healthcheck;
pub mod home;
pub mod lab;
pub mod measure;
pub mod plans;
pub mod report;
pub mod run;
pub mod runs;
pub mod verdict;

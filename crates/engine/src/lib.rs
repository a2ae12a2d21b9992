//! One run, from a resolved composition to its outcome: builders, the lab, runners and reports.

pub mod build;
mod claim;
pub mod collect;
pub mod forward;
pub mod healthcheck;
pub mod home;
pub mod lab;
pub mod measure;
pub mod plans;
mod relay;
pub mod report;
pub mod run;
pub mod runs;
pub mod text;
mod unbegun;
pub mod verdict;

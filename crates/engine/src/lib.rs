//! One run, from a resolved composition to its outcome: builders, the lab, runners and reports.

pub mod lab;
pub mod verdict;

//! Runs of the real binary, seen from outside.

mod browser;
mod builds;
mod faults;
mod house;
mod instances;
mod life;
mod limits;
mod links;
mod main_path;
mod measurements;
mod network;
mod outside;
mod planes;
mod plans;
#[path = "../../../sync/tests/service/port.rs"]
mod port;
mod refused;
mod report;
mod support;
mod verdicts;

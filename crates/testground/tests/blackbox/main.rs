//! Runs of the real binary, seen from outside.

mod faults;
mod house;
mod instances;
mod main_path;
mod network;
mod support;
mod verdicts;

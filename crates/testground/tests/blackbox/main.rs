//! Runs of the real binary, seen from outside.

mod faults;
mod house;
mod instances;
mod life;
mod links;
mod main_path;
mod network;
mod plans;
mod support;
mod verdicts;

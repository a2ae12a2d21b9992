//! Whatever a client sends: see `body.rs`.
//!
//! `cargo fuzz run frames` in this folder's parent, on a toolchain that cargo-fuzz supports.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../body.rs"]
mod body;

fuzz_target!(|data: &[u8]| body::frames(data));

//! Any text through the loader, the checks, the explanation and its forms: nothing panics, nothing takes long.
//!
//! Seeds: `tests/manifests` and `tests/conformance/kubelet-1.34/manifests`, each behind one byte that chooses the release.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/random/mod.rs"]
mod random;

fuzz_target!(|data: &[u8]| random::loader::bytes(data));

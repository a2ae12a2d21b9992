//! Any bytes as a pod and what happens to it: the machine never panics and never breaks its properties.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/random/mod.rs"]
mod random;

fuzz_target!(|data: &[u8]| {
    if let Err(broken) = random::machine(data) {
        panic!("{broken}");
    }
});

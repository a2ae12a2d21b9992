//! Whatever a template holds: it is expanded or refused, within its bounds and without a panic.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use testground_model::artifacts::write_artifacts;
use testground_model::composition::Files;
use testground_model::template::{Expanded, MAX_OUTPUT, expand};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = BTreeMap::from([("N".to_owned(), "3".to_owned())]);
    let files = Files::from([("r".to_owned(), Ok("a = 1\n[[t]]\nb = [\"c\"]\n".to_owned()))]);
    if let Ok(Expanded::Text { text, .. }) = expand("t", text, &environment, &files) {
        assert!(text.len() <= MAX_OUTPUT);
    }
    let _ = write_artifacts(text, &[("a", "artifact")]);
});

//! Any text through the loader, the checks, the explanation and its forms: nothing panics, nothing takes long.
//!
//! Seeds: `tests/manifests` and `tests/conformance/kubelet-1.34/manifests`.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use testground_pod::{
    explain::{self, NODE_MEMORY, Options, sarif, text},
    load,
    version::{Features, KubernetesVersion},
};

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = std::str::from_utf8(data) else { return };
    let minor = KubernetesVersion::OLDEST.minor() + data.first().copied().unwrap_or(0) % 9;
    let version = KubernetesVersion::new(minor).expect("nine releases are modelled");
    let options =
        Options { features: Features::of(version), node_memory: NODE_MEMORY, times: BTreeMap::new() };
    let read = load::read(manifest, &options.features);
    for document in &read.documents {
        let _ = document.api_message();
    }
    let report = explain::report("fuzz.yaml", &read, &options).expect("no times are given");
    let _ = (text::report(&report), text::mistakes("fuzz.yaml", &report.mistakes), sarif::log(&[report]));
});

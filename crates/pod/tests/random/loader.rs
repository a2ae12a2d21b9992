//! Any text through the loader, the checks, the explanation and its forms: nothing panics, every mistake has a place in the
//! text, and what is accepted can be explained.

use std::collections::BTreeMap;

use testground_pod::explain::{self, NODE_MEMORY, Options, sarif, text};
use testground_pod::load;
use testground_pod::version::{Features, KubernetesVersion};

/// The first byte chooses the release, the rest is the text.
pub(crate) fn bytes(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    if let Ok(manifest) = std::str::from_utf8(rest) {
        check(manifest, KubernetesVersion::OLDEST.minor() + first % 9);
    }
}

pub(crate) fn check(manifest: &str, minor: u8) {
    let features = Features::of(KubernetesVersion::new(minor).expect("nine releases are modelled"));
    let options = Options { features, node_memory: NODE_MEMORY, times: BTreeMap::new() };
    let read = load::read(manifest, &options.features);
    let lines = manifest.split(['\n', '\r']).count() as u32 + 1;
    for mistake in read.all_mistakes() {
        assert!(mistake.at.line >= 1 && mistake.at.line <= lines, "{mistake:?} in {lines} lines");
        assert!(mistake.at.column >= 1 && !mistake.message.is_empty());
    }
    for document in &read.documents {
        // What the API server would say, and what is said here, are about the same thing.
        if document.workload.is_some() {
            assert_eq!(
                document.api_message().is_some(),
                !document.mistakes.is_empty(),
                "{:?}",
                document.mistakes
            );
        }
    }
    let report = explain::report("damaged.yaml", &read, &options).expect("no times are given");
    text::report(&report);
    text::mistakes("damaged.yaml", &report.mistakes);
    sarif::log(&[report]);
}

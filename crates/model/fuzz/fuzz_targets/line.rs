//! Any bytes as a batch of InfluxDB's line protocol: each line is a point whose parts can be read, or a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testground_model::measure::line::{self, Precision};
use testground_model::measure::{Source, Summarizer};

fuzz_target!(|bytes: &[u8]| {
    let source = Source { plan: "p".into(), case: "c".into(), run: "r".into() };
    let mut sum = Summarizer::new(&source);
    let mut at = 0;
    while at < bytes.len() {
        let end = line::line_end(bytes, at).unwrap_or(bytes.len());
        let text = &bytes[at..end];
        if !line::is_blank(text)
            && let Ok(point) = line::parse(text, Precision::Milliseconds)
        {
            assert!(point.fields().count() > 0 && !point.measurement().is_empty());
            let again = format!("{} {} 1", point.key, point.fields);
            assert!(line::parse(again.as_bytes(), Precision::Nanoseconds).is_ok(), "{again}");
            sum.add(&point, 0);
        }
        at = end + 1;
    }
    let _ = sum.finish();
});

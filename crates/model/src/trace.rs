//! Bandwidth traces in mahimahi's form.

use crate::diagnostic::{Diagnostics, Source};

/// The most opportunities that a trace can have.
pub const MAX_OPPORTUNITIES: usize = 1_000_000;

/// Reads a trace: a line for each delivery opportunity (one packet of 1,500 bytes) with its millisecond since the
/// start, never falling; the last one is the trace's length. Empty lines and lines that begin with `#` are passed over.
pub fn parse(file: &str, text: &str) -> Result<Vec<u64>, Diagnostics> {
    let source = Source::new(file, text);
    let mut mistakes = Diagnostics::new();
    let mut opportunities: Vec<u64> = Vec::new();
    let mut offset = 0;
    for line in text.split('\n') {
        let start = offset + (line.len() - line.trim_start().len());
        offset += line.len() + 1;
        let word = line.trim();
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let at = source.place(start..start + word.len(), "");
        let last = opportunities.last().copied().unwrap_or(0);
        match word.parse::<u64>() {
            Err(_) => mistakes.push(
                at.error(format!("{word:?} is no millisecond: a whole number, one a line, is expected")),
            ),
            Ok(ms) if ms < last => {
                mistakes.push(at.error(format!("the trace goes back in time: {ms} comes after {last}")));
            }
            Ok(ms) if ms > 30 * 24 * 3_600_000 => {
                mistakes.push(at.error(format!("{ms} is out of range: a trace lasts at most 30 days")));
            }
            Ok(_) if opportunities.len() == MAX_OPPORTUNITIES => {
                mistakes
                    .push(at.error(format!("the trace is too long: {MAX_OPPORTUNITIES} lines are allowed")));
                break;
            }
            Ok(ms) => opportunities.push(ms),
        }
        if mistakes.len() == 20 {
            break;
        }
    }
    if mistakes.is_empty() && opportunities.last().is_none_or(|&last| last == 0) {
        let what = if opportunities.is_empty() { "is empty" } else { "has no length: its last line is 0" };
        mistakes.push(
            source
                .start()
                .error(format!("the trace {what}; a line with a millisecond for each packet is expected")),
        );
    }
    mistakes.check(Some(opportunities)).map(|checked| checked.value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trace_is_read_and_its_mistakes_have_places() {
        assert_eq!(parse("t", "0\n1\r\n1\n# comment\n\n5\n"), Ok(vec![0, 1, 1, 5]));
        for (text, line, word) in [
            ("", 1, "empty"),
            ("0\n0\n", 1, "no length"),
            ("3\n2\n", 2, "back in time"),
            ("1\nx\n", 2, "whole number"),
            ("-1\n", 1, "whole number"),
        ] {
            let found = parse("t", text).unwrap_err();
            let first = found.iter().next().unwrap();
            assert!(first.line == line && first.message.contains(word), "{text:?}: {first}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_never_falls(text in "([0-9]{0,3}\n){0,20}|\\PC*") {
            if let Ok(read) = parse("t", &text) {
                prop_assert!(read.is_sorted() && *read.last().unwrap() > 0);
            }
        }
    }
}

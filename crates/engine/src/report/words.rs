//! Numbers, times and lists as people read them.

use std::time::Duration;

use jiff::Timestamp;

/// A point in time as the log shows it, UTC: `Nov  3 07:05:09.000123`. Scripts count its fields.
pub(super) fn clock(ts: u64) -> String {
    let at =
        i64::try_from(ts / 1000).ok().and_then(|us| Timestamp::from_microsecond(us).ok()).unwrap_or_default();
    at.strftime("%b %e %H:%M:%S.%6f").to_string()
}

/// A delay in milliseconds with two places, or in microseconds below one.
pub(super) fn delay(delay: Duration) -> String {
    let us = delay.as_secs_f64() * 1e6;
    match us {
        0.0 => "0 ms".to_owned(),
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 10e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A delay that somebody wrote: without places that say nothing.
pub(super) fn asked_delay(delay: Duration) -> String {
    let ms = delay.as_secs_f64() * 1e3;
    if ms >= 10_000.0 { format!("{} s", trimmed(ms / 1e3)) } else { format!("{} ms", trimmed(ms)) }
}

/// Bits per second with three digits that count.
pub(super) fn rate(bits: f64) -> String {
    // What is rounded to a thousand of a unit is one of the next.
    let (value, unit) = match bits {
        b if b >= 999.5e6 => (b / 1e9, "Gbit/s"),
        b if b >= 999.5e3 => (b / 1e6, "Mbit/s"),
        b if b >= 999.5 => (b / 1e3, "kbit/s"),
        b => (b, "bit/s"),
    };
    let places = if value >= 100.0 { 0 } else { 2 - usize::from(value >= 10.0) };
    let text = format!("{value:.places$}");
    let text = if places > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// A share in percent.
pub(super) fn percent(percent: f64) -> String {
    format!("{} %", trimmed(percent))
}

/// Seconds that something took.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.0995 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.2} s"),
        s => format!("{} min {:02.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

/// A measured number with four digits that count.
pub(super) fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e8).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    if size >= 9_999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", count(size.round() as u64));
    }
    let places = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.places$}");
    if places > 0 { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A count with a comma every three digits.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `n thing` or `n things`.
pub(super) fn counted(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// The first `most` of a list, and how many more there are.
pub(super) fn list(items: &[String], most: usize) -> String {
    match items.len() {
        0 => "nobody".to_owned(),
        n if n > most => format!("{} and {} more", items[..most].join(", "), count((n - most) as u64)),
        _ => items.join(", "),
    }
}

/// Breaks text at spaces so that no line is longer than `width` characters, unless one word is. The first line starts
/// with `first`, the others with as many spaces.
pub(super) fn wrapped(first: &str, text: &str, width: usize) -> String {
    let indent = " ".repeat(first.chars().count());
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let long = indent.len() + line.chars().count() + 1 + word.chars().count() > width;
            if long && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let start = if i == 0 { first } else { indent.as_str() };
        out.push_str(format!("{start}{line}").trim_end());
        out.push('\n');
    }
    out
}

/// Text from outside, safe to be shown on a terminal: one line, without control characters.
pub(super) fn tame(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{b7}',
        c => c,
    };
    let lines = text.trim_end().lines().map(|line| line.chars().map(safe).collect::<String>());
    lines.collect::<Vec<_>>().join("; ")
}

/// Cuts at a number of characters, with a mark where something is missing.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Three places at most, none that are zero.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_at_every_size() {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let delays = [(0.0, "0 ms"), (0.31, "310 us"), (25.034, "25.03 ms"), (12_345.6, "12.35 s")];
        for (value, text) in delays {
            assert_eq!(delay(ms(value)), text);
        }
        let asked = [(25.0, "25 ms"), (0.5, "0.5 ms"), (1500.0, "1500 ms"), (60_000.0, "60 s")];
        for (value, text) in asked {
            assert_eq!(asked_delay(ms(value)), text);
        }
        let rates = [(10e6, "10 Mbit/s"), (9.966e6, "9.97 Mbit/s"), (1e9, "1 Gbit/s"), (64e3, "64 kbit/s")];
        for (value, text) in rates {
            assert_eq!(rate(value), text);
        }
        assert_eq!((rate(999.7e6), rate(999.4e6)), ("1 Gbit/s".into(), "999 Mbit/s".into()));
        assert_eq!(rate(256_000.0), "256 kbit/s");
        assert_eq!(rate(100.0), "100 bit/s");
        assert_eq!((percent(1.0), percent(0.25)), ("1 %".into(), "0.25 %".into()));
        assert_eq!(
            (count(999), count(12_345), count(1_000_000)),
            ("999".into(), "12,345".into(), "1,000,000".into())
        );
        assert_eq!(
            (seconds(0.015), seconds(1.017), seconds(125.0)),
            ("15 ms".into(), "1.02 s".into(), "2 min 05 s".into())
        );
    }

    #[test]
    fn figures_have_four_digits_that_count() {
        let figures = [
            (40.2134, "40.21"),
            (0.5, "0.5"),
            (0.001_234_5, "0.001234"),
            (1234.5, "1234"),
            (9_999.9, "10,000"),
            (1_234_567.0, "1,234,567"),
            (-12_345.0, "-12,345"),
            (1.5e9, "1.5e9"),
            (2e-7, "2e-7"),
            (100.0, "100"),
            (3.0, "3"),
        ];
        for (value, text) in figures {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn the_clock_has_three_fields_on_every_day() {
        assert_eq!(clock(1_162_537_509_000_123_456), "Nov  3 07:05:09.000123");
        assert_eq!(clock(1_162_537_509_000_123_456).split_whitespace().count(), 3);
        assert_eq!(clock(0), "Jan  1 00:00:00.000000");
    }

    #[test]
    fn lines_are_wrapped_cut_and_tamed() {
        let text = wrapped("  - ", "one two three four five six", 16);
        assert_eq!(text, "  - one two\n    three four\n    five six\n");
        assert_eq!(wrapped("> ", "a-word-that-is-too-long b", 10), "> a-word-that-is-too-long\n  b\n");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(tame("a\x1b[31mred\tb\rc\nd\n"), "a·[31mred b·c; d");
        let names: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        assert_eq!(
            (list(&names, 2), list(&names, 3), list(&[], 3)),
            ("a, b and 1 more".into(), "a, b, c".into(), "nobody".into())
        );
    }
}

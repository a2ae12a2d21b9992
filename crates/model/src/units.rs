//! Quantities as people write them: durations, rates, shares, sizes, Kubernetes quantities.
//!
//! A unit is always written out, and its case counts: `Mbit/s` and `MB/s` differ by eight. Each function says what is
//! allowed when it refuses.

use std::time::Duration;

/// Why a text is no quantity: what is wrong, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

// === impl UnitError ===

impl UnitError {
    /// A message that says what is wrong and what is allowed.
    pub(crate) fn new(message: String) -> UnitError {
        UnitError(message)
    }
}

/// Reads a duration in Go's form: numbers with `ns`, `us` (or `µs`), `ms`, `s`, `m` or `h`, such as `1m30s` or `1.5s`;
/// `0` needs no unit. At most about 292 years (what nanoseconds in 63 bits hold).
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "{text:?} is no duration: {why}; write one such as \"50ms\", \"1.5s\" or \"1m30s\" (ns, us, ms, s, m, h)"
        ))
    };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if trimmed.starts_with('-') {
        return Err(wrong("it is negative"));
    }
    let mut rest = trimmed;
    let mut nanos = 0f64;
    let mut exact: u128 = 0;
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(|| wrong("a number is missing"))?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit: u64 = match after[..end].trim() {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(wrong("its unit is missing")),
            _ => return Err(wrong("its unit is unknown")),
        };
        match number.parse::<u64>() {
            Ok(whole) => exact = exact.saturating_add(u128::from(whole) * u128::from(unit)),
            Err(_) => nanos += number.parse::<f64>().map_err(|_| wrong("a number is missing"))? * unit as f64,
        }
        rest = &after[end..];
    }
    let total = exact as f64 + nanos;
    if !total.is_finite() || total > i64::MAX as f64 {
        return Err(wrong("it is too long"));
    }
    Ok(Duration::from_nanos(exact as u64 + nanos.round() as u64))
}

/// Reads a rate in bits per second. Bits: `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s`, `Tbit/s` (powers of 1000) and
/// `Kibit/s`, `Mibit/s`, `Gibit/s`. Bytes: `B/s`, `kB/s`, `MB/s`, `GB/s` and `KiB/s`, `MiB/s`, `GiB/s`.
/// `Mbps` and its like are refused: some tools mean bits by it, tc(8) means bytes.
pub fn rate(text: &str) -> Result<u64, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "{text:?} is no rate: {why}; write bits such as \"10Mbit/s\" or bytes such as \"1.25MB/s\""
        ))
    };
    let (number, unit) = split_number(text.trim()).ok_or_else(|| wrong("it does not begin with a number"))?;
    let factor = match unit.trim() {
        "bit/s" => 1.0,
        "kbit/s" => 1e3,
        "Mbit/s" => 1e6,
        "Gbit/s" => 1e9,
        "Tbit/s" => 1e12,
        "Kibit/s" => 1024.0,
        "Mibit/s" => 1024.0 * 1024.0,
        "Gibit/s" => 1024.0 * 1024.0 * 1024.0,
        "B/s" => 8.0,
        "kB/s" => 8e3,
        "MB/s" => 8e6,
        "GB/s" => 8e9,
        "KiB/s" => 8.0 * 1024.0,
        "MiB/s" => 8.0 * 1024.0 * 1024.0,
        "GiB/s" => 8.0 * 1024.0 * 1024.0 * 1024.0,
        "" => return Err(wrong("its unit is missing (bits and bytes differ by eight)")),
        other if other.to_lowercase().ends_with("bps") => {
            return Err(wrong("`bps` means bits to some tools and bytes to others"));
        }
        _ => return Err(wrong("its unit is unknown (case counts)")),
    };
    let value = number.parse::<f64>().map_err(|_| wrong("it does not begin with a number"))? * factor;
    if !(1.0..=1e15).contains(&value) {
        return Err(wrong("it must be 1 bit/s to 1000 Tbit/s"));
    }
    Ok(value.round() as u64)
}

/// Reads a share in percent, 0 to 100: a number and `%`.
pub fn percent(text: &str) -> Result<f64, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "{text:?} is no percentage: {why}; write 0 to 100 with a percent sign, such as \"0.5%\""
        ))
    };
    let number = text.trim().strip_suffix('%').ok_or_else(|| wrong("the percent sign is missing"))?;
    let number = number.trim_end();
    if split_number(number).is_none_or(|(_, rest)| !rest.is_empty()) {
        return Err(wrong(if number.starts_with('-') { "it is negative" } else { "a number is expected" }));
    }
    let value: f64 = number.parse().map_err(|_| wrong("a number is expected"))?;
    if !(0.0..=100.0).contains(&value) {
        return Err(wrong("it is above 100"));
    }
    Ok(value)
}

/// Reads a size in bytes: `B`, `kB`, `MB`, `GB`, `TB` (powers of 1000), `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024).
pub fn size(text: &str) -> Result<u64, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!("{text:?} is no size: {why}; write one such as \"1500B\", \"64KiB\" or \"1.5MB\""))
    };
    let (number, unit) = split_number(text.trim()).ok_or_else(|| wrong("it does not begin with a number"))?;
    let factor: f64 = match unit.trim() {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024f64.powi(2),
        "GiB" => 1024f64.powi(3),
        "TiB" => 1024f64.powi(4),
        "" => return Err(wrong("its unit is missing")),
        _ => return Err(wrong("its unit is unknown (case counts)")),
    };
    let value = number.parse::<f64>().map_err(|_| wrong("it does not begin with a number"))? * factor;
    if !(0.0..9e18).contains(&value) {
        return Err(wrong("it is too large"));
    }
    Ok(value.round() as u64)
}

/// Reads a Kubernetes quantity, in thousandths, rounded up: digits with `n`, `u`, `m`, nothing, `k`, `M`, `G`, `T`,
/// `P`, `E`, `Ki` to `Ei`, or a decimal exponent. Rules: apimachinery's `resource.Quantity`.
pub fn quantity_millis(text: &str) -> Result<u128, UnitError> {
    let wrong = |why: &str| {
        UnitError(format!(
            "{text:?} is no Kubernetes quantity: {why}; write one such as \"500m\", \"1.5\", \"256Mi\" or \"1G\""
        ))
    };
    let text_ = text.trim();
    let text_ = text_.strip_prefix('+').unwrap_or(text_);
    if text_.starts_with('-') {
        return Err(wrong("it is negative"));
    }
    let (number, suffix) = split_number(text_).ok_or_else(|| wrong("it does not begin with a number"))?;
    // In millionths of a thousandth (nano units): exact for every suffix.
    let (numerator, denominator): (u128, u128) = match suffix {
        "n" => (1, 1),
        "u" => (1_000, 1),
        "m" => (1_000_000, 1),
        "" => (1_000_000_000, 1),
        "k" => (1_000_000_000_000, 1),
        "M" => (10u128.pow(15), 1),
        "G" => (10u128.pow(18), 1),
        "T" => (10u128.pow(21), 1),
        "P" => (10u128.pow(24), 1),
        "E" => (10u128.pow(27), 1),
        "Ki" => (1_000_000_000 << 10, 1),
        "Mi" => (1_000_000_000 << 20, 1),
        "Gi" => (1_000_000_000 << 30, 1),
        "Ti" => (1_000_000_000 << 40, 1),
        "Pi" => (1_000_000_000 << 50, 1),
        "Ei" => (1_000_000_000 << 60, 1),
        exponent if exponent.starts_with(['e', 'E']) => {
            let power: i32 = exponent[1..].parse().map_err(|_| wrong("its suffix is unknown"))?;
            match power {
                0..=18 => (10u128.pow(power as u32 + 9), 1),
                -18..=-1 => (1_000_000_000, 10u128.pow(power.unsigned_abs())),
                _ => return Err(wrong("its exponent is out of range")),
            }
        }
        _ => return Err(wrong("its suffix is unknown (case counts)")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() > 18 {
        return Err(wrong("it has more than 18 digits"));
    }
    let digits: u128 =
        format!("{whole}{fraction}").parse().map_err(|_| wrong("it does not begin with a number"))?;
    let scale = 10u128.pow(fraction.len() as u32);
    let nanos = digits.checked_mul(numerator).ok_or_else(|| wrong("it is too large"))?;
    Ok(nanos.div_ceil(scale * denominator).div_ceil(1_000_000))
}

/// A duration in the form that [`duration`] reads: exact, with one unit where that suffices.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (value, unit) = match nanos {
        0 => return "0s".to_owned(),
        n if n % 3_600_000_000_000 == 0 => (n / 3_600_000_000_000, "h"),
        n if n % 60_000_000_000 == 0 => (n / 60_000_000_000, "m"),
        n if n % 1_000_000_000 == 0 => (n / 1_000_000_000, "s"),
        n if n % 1_000_000 == 0 => (n / 1_000_000, "ms"),
        n if n % 1_000 == 0 => (n / 1_000, "us"),
        n => (n, "ns"),
    };
    format!("{value}{unit}")
}

/// A rate in the form that [`rate`] reads: exact.
pub fn show_rate(bits: u64) -> String {
    match bits {
        b if b >= 1_000_000_000 && b % 1_000_000 == 0 => format!("{}Gbit/s", b as f64 / 1e9),
        b if b >= 1_000_000 && b % 1_000 == 0 => format!("{}Mbit/s", b as f64 / 1e6),
        b if b >= 1_000 => format!("{}kbit/s", b as f64 / 1e3),
        b => format!("{b}bit/s"),
    }
}

/// A size in the form that [`size`] reads: exact.
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Cuts a decimal number (digits, at most one point with digits around it) from the front.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    (digits > 0 && number.len() - digits <= 1).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("50ms", ms(50)),
            ("1m30s", ms(90_000)),
            ("1.5s", ms(1_500)),
            ("0", ms(0)),
            ("2h", ms(7_200_000)),
            (".5s", ms(500)),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        assert_eq!(duration("7ns"), Ok(Duration::from_nanos(7)));
        assert_eq!(duration("3µs"), duration("3us"));
        for text in ["", "5", "-1s", "1 day", "s", "1.2.3s", "1e9s", "999999999999h", "5 minutes", "1s 2"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bits_and_bytes_are_told_apart() {
        assert_eq!(rate("10Mbit/s"), Ok(10_000_000));
        assert_eq!(rate("1.25 MB/s"), Ok(10_000_000));
        assert_eq!(rate("1MiB/s"), Ok(8 << 20));
        for text in
            ["10", "10Mbps", "10MBps", "10mbit/s", "0bit/s", "-1bit/s", "1e3bit/s", "9999999Tbit/s", ""]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_carry_their_sign() {
        assert_eq!(percent("1%"), Ok(1.0));
        assert_eq!(percent("0.5 %"), Ok(0.5));
        for text in ["1", "-1%", "101%", "%", "1e1%", "nan%", "inf%", "1%%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_round_up_as_in_kubernetes() {
        for (text, want) in [
            ("500m", 500),
            ("1", 1000),
            ("1.5", 1500),
            ("1n", 1),
            ("0.1m", 1),
            ("2Ki", 2_048_000),
            ("1e3", 1_000_000),
            ("5e-3", 5),
            ("1E", 10u128.pow(21)),
        ] {
            assert_eq!(quantity_millis(text), Ok(want), "{text}");
        }
        for text in ["", "m", "1mb", "-1", "1 Gi", "1e99", "1kI", "12345678901234567890"] {
            assert!(quantity_millis(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|[0-9.eEnumskMGKBbit/hµ% -]{0,12}") {
            let _ = (duration(&text), rate(&text), percent(&text), size(&text), quantity_millis(&text));
        }

        #[test]
        fn what_is_shown_is_read_back(nanos in 0..i64::MAX as u64 / 2, bits in 1..1_000_000_000_000u64, bytes in 0..1u64 << 50) {
            prop_assert_eq!(duration(&show_duration(Duration::from_nanos(nanos))), Ok(Duration::from_nanos(nanos)));
            prop_assert_eq!(rate(&show_rate(bits)), Ok(bits));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
    }
}

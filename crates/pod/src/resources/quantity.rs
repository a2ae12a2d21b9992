//! Quantities of resources, exact: `100m`, `1.5Gi`, `2e3`.
//!
//! The arithmetic and the canonical forms are those of `k8s.io/apimachinery/pkg/api/resource`: values are kept to the
//! nano, rounded up (away from zero) when they are finer, and printed with the suffix family they were written in.
//! Two deviations, both refusals: a value beyond ±(2⁶³-1) is an error instead of being capped in silence, and so is
//! `-0`.

use std::{cmp::Ordering, fmt, iter::Sum, ops::Add, str::FromStr};

use serde::{Serialize, Serializer};
use thiserror::Error;

/// An amount of some resource, to the nano.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// The family of suffixes that a quantity was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `n u m (none) k M G T P E`
    Decimal,
    /// `Ki Mi Gi Ti Pi Ei`
    Binary,
    /// `e3`
    Exponent,
}

/// Why a text is not a quantity. The first three messages are the API server's own.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form of a quantity at all.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The digits are no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Beyond what 63 bits hold.
    #[error("`{0}` is out of range: the largest quantity is 9223372036854775807 (2^63-1)")]
    Range(String),
    /// Minus zero.
    #[error("`{0}` is minus zero: write 0")]
    NegativeZero(String),
    /// Finer than anything that is kept.
    #[error("`{0}` has more than 18 digits after the point")]
    Precision(String),
}

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

// === impl Quantity ===

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// A whole number of units: bytes, or cores.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::Decimal }
    }

    /// A whole number of bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Units, rounded up: bytes of memory. Saturates.
    pub fn units(self) -> i64 {
        saturate(ceil_div(self.nanos, NANO))
    }

    /// Thousandths, rounded up: milli-cores. Saturates.
    pub fn millis(self) -> i64 {
        saturate(ceil_div(self.nanos, NANO / 1000))
    }

    /// Billionths, exactly.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// Whether this is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether this is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The difference; negative when `other` is larger.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_sub(other.nanos), format: self.format }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let range = || QuantityError::Range(text.to_owned());
        let (negative, rest) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        check_form(number, suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError::Numeric);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 18 {
            return Err(QuantityError::Precision(text.to_owned()));
        }
        let whole: i128 = match whole.trim_start_matches('0') {
            "" => 0,
            digits if digits.len() > 28 => return Err(range()),
            digits => digits.parse().map_err(|_| QuantityError::Numeric)?,
        };
        let scale = 10_i128.pow(fraction.len() as u32);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or_default() };
        let (format, nanos) = match suffix_of(suffix)? {
            Suffix::Binary(shift) => {
                let part = fraction << shift;
                let fine = (part / scale) * NANO + ceil_div((part % scale) * NANO, scale);
                let coarse = whole.checked_mul(1 << shift).and_then(|n| n.checked_mul(NANO));
                (Format::Binary, coarse.and_then(|n| n.checked_add(fine)))
            }
            Suffix::Decimal(format, exponent) => {
                let mantissa = whole.checked_mul(scale).and_then(|n| n.checked_add(fraction));
                let mantissa = mantissa.ok_or_else(range)?;
                (format, scale_decimal(mantissa, i64::from(exponent) + 9 - scale.ilog10() as i64))
            }
        };
        let nanos = nanos.filter(|n| *n <= MAX).ok_or_else(range)?;
        if negative && nanos == 0 {
            return Err(QuantityError::NegativeZero(text.to_owned()));
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.pad("0");
        }
        // A binary quantity below 1024 is printed as a decimal one.
        if self.format == Format::Binary && self.nanos.abs() >= 1024 * NANO {
            let mut number = ceil_div(self.nanos, NANO);
            let mut step = 0;
            while number % 1024 == 0 && step + 1 < BINARY.len() {
                number /= 1024;
                step += 1;
            }
            return f.pad(&format!("{number}{}", BINARY[step]));
        }
        let mut number = self.nanos;
        let mut step = 0;
        while number % 1000 == 0 && (self.format == Format::Exponent || step + 1 < DECIMAL.len()) {
            number /= 1000;
            step += 1;
        }
        match self.format {
            Format::Exponent if step == 3 => f.pad(&number.to_string()),
            Format::Exponent => f.pad(&format!("{number}e{}", step as i32 * 3 - 9)),
            _ => f.pad(&format!("{number}{}", DECIMAL[step])),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The sum, in the format of the left one (or of the right one, when the left one is zero).
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

enum Suffix {
    Binary(u32),
    Decimal(Format, i32),
}

fn check_form(number: &str, suffix: &str) -> Result<(), QuantityError> {
    let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if number.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(QuantityError::Format);
    }
    Ok(())
}

fn suffix_of(suffix: &str) -> Result<Suffix, QuantityError> {
    if let Some(step) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok(Suffix::Decimal(Format::Decimal, step as i32 * 3 - 9));
    }
    if let Some(step) = BINARY.iter().position(|s| *s == suffix) {
        return Ok(Suffix::Binary(step as u32 * 10));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok(Suffix::Decimal(Format::Exponent, exponent))
}

/// `mantissa · 10^exponent`, rounded up; `None` when it overflows.
fn scale_decimal(mantissa: i128, exponent: i64) -> Option<i128> {
    let power = u32::try_from(exponent.unsigned_abs()).ok().and_then(|e| 10_i128.checked_pow(e));
    match (exponent >= 0, power) {
        _ if mantissa == 0 => Some(0),
        (true, power) => mantissa.checked_mul(power?),
        (false, Some(power)) => Some(ceil_div(mantissa, power)),
        (false, None) => Some(1),
    }
}

/// Division that rounds away from zero, as the API's quantities do.
fn ceil_div(n: i128, d: i128) -> i128 {
    let exact = n / d;
    if n % d == 0 { exact } else { exact + n.signum() }
}

fn saturate(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
    }

    #[test]
    fn canonical_forms_are_those_of_the_api() {
        for (text, expect) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.25", "1250m"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("100000", "100k"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("12e1", "120"),
            ("0.0000000001", "1n"),
            ("1e-400", "1e-9"),
            ("+3", "3"),
            ("-1", "-1"),
            ("9223372036854775807", "9223372036854775807"),
            ("00012", "12"),
            (".5", "500m"),
            ("5.", "5"),
        ] {
            assert_eq!(canonical(text), expect, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        for text in ["", "x", "12X", "1 Gi", "--1", "1Gi "] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Format), "{text}");
        }
        for text in [".", "1.2.3", "..1"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Numeric), "{text}");
        }
        for text in ["1e", "1mi", "1KiKi", "1e99999999999", "1k3"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text}");
        }
        for text in ["1e400", "8Ei", "9223372036854775808", "99999999999999999999999999999999"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Range(text.into())), "{text}");
        }
        assert!(matches!("-0".parse::<Quantity>(), Err(QuantityError::NegativeZero(_))));
        assert!(matches!("0.1234567890123456789".parse::<Quantity>(), Err(QuantityError::Precision(_))));
    }

    #[test]
    fn sums_are_exact_and_compare_as_numbers() {
        let q = |t: &str| t.parse::<Quantity>().unwrap();
        assert_eq!(q("1Gi") + q("64Mi"), q("1088Mi"));
        assert_eq!((q("2") + q("100m")).to_string(), "2100m");
        assert_eq!(["0.1"; 10].iter().map(|t| q(t)).sum::<Quantity>(), q("1"));
        assert!(q("1023Mi") < q("1Gi") && q("1G") < q("1Gi"));
        assert_eq!(q("0.0001").millis(), 1);
        assert_eq!(q("1.5").units(), 2);
    }
}

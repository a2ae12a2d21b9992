//! What a plain scalar means, as `kubectl` reads it: YAML 1.1, where `yes` is a boolean and `0644` is octal.
//!
//! `kubectl` uses go-yaml 2 and then JSON; the rules here are go-yaml's resolution of untagged plain scalars.

use std::borrow::Cow;

/// A scalar, its text as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    text: Box<str>,
    meaning: Meaning,
}

/// The type that a scalar has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that needs 64 unsigned bits.
    Large(u64),
    /// Any other number.
    Float(f64),
    /// A text.
    String,
}

// === impl Scalar ===

impl Scalar {
    /// A scalar as the parser gives it: `tag` is the suffix of a `!!` tag.
    pub(super) fn new(text: &str, plain: bool, tag: Option<&str>) -> Self {
        let meaning = match tag {
            Some("str" | "binary") => Meaning::String,
            Some(_) => resolve(text),
            None if plain => resolve(text),
            None => Meaning::String,
        };
        Self { text: text.into(), meaning }
    }

    /// What it means.
    pub fn meaning(&self) -> Meaning {
        self.meaning
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        (self.meaning == Meaning::String).then_some(&*self.text)
    }

    /// Whether this is nothing.
    pub fn is_null(&self) -> bool {
        self.meaning == Meaning::Null
    }

    pub(super) fn is_plain(&self, text: &str) -> bool {
        self.meaning == Meaning::String && *self.text == *text
    }

    /// The number as JSON would have it, for types that take numbers as text.
    pub(super) fn as_number(&self) -> Option<Cow<'_, str>> {
        match self.meaning {
            Meaning::Int(n) => Some(Cow::Owned(n.to_string())),
            Meaning::Large(n) => Some(Cow::Owned(n.to_string())),
            Meaning::Float(_) => Some(Cow::Borrowed(&self.text)),
            _ => None,
        }
    }

    /// The key that JSON would have.
    pub(super) fn as_key(&self) -> String {
        match self.meaning {
            Meaning::Bool(b) => b.to_string(),
            Meaning::Int(n) => n.to_string(),
            Meaning::Large(n) => n.to_string(),
            Meaning::Null => "null".to_owned(),
            Meaning::Float(_) | Meaning::String => self.text.to_string(),
        }
    }
}

impl Meaning {
    /// JSON's word for the type, as the API server uses it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Large(_) | Self::Float(_) => "number",
            Self::String => "string",
        }
    }
}

fn resolve(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Meaning::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Meaning::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Meaning::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Meaning::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Meaning::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Meaning::String;
    }
    let digits: Cow<'_, str> =
        if text.contains('_') { Cow::Owned(text.replace('_', "")) } else { Cow::Borrowed(text) };
    whole(&digits).or_else(|| float(&digits)).unwrap_or(Meaning::String)
}

/// A whole number with Go's prefixes: `0x`, `0b`, `0o`, and a leading zero for octal.
fn whole(text: &str) -> Option<Meaning> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match rest.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &rest[2..]),
        [b'0', b'b' | b'B', ..] => (2, &rest[2..]),
        [b'0', b'o' | b'O', ..] => (8, &rest[2..]),
        [b'0', _, ..] => (8, &rest[1..]),
        _ => (10, rest),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let n = u64::from_str_radix(digits, radix).ok()?;
    match (negative, i64::try_from(n)) {
        (false, Ok(n)) => Some(Meaning::Int(n)),
        (true, Ok(n)) => Some(Meaning::Int(-n)),
        (true, Err(_)) if n == 1 << 63 => Some(Meaning::Int(i64::MIN)),
        (true, Err(_)) => None,
        (false, Err(_)) => Some(Meaning::Large(n)),
    }
}

fn float(text: &str) -> Option<Meaning> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let starts = unsigned.strip_prefix('.').unwrap_or(unsigned).starts_with(|c: char| c.is_ascii_digit());
    let known = unsigned.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    let n: f64 = if starts && known { text.parse().ok()? } else { return None };
    // Go's parser refuses what overflows, and the text stays a text.
    n.is_finite().then_some(Meaning::Float(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_takes_them_for() {
        use Meaning::{Bool, Float, Int, Large, Null, String};
        for (text, meaning) in [
            ("", Null),
            ("~", Null),
            ("yes", Bool(true)),
            ("off", Bool(false)),
            ("N", Bool(false)),
            ("0644", Int(420)),
            ("0o644", Int(420)),
            ("0x1F", Int(31)),
            ("1_000", Int(1000)),
            ("-7", Int(-7)),
            ("08", Float(8.0)),
            ("1.5", Float(1.5)),
            ("1e3", Float(1000.0)),
            ("1e400", String),
            ("18446744073709551615", Large(u64::MAX)),
            ("-9223372036854775808", Int(i64::MIN)),
            ("100m", String),
            ("2020-01-01", String),
            ("1.2.3", String),
            ("-", String),
            ("..", String),
            ("truely", String),
        ] {
            assert_eq!(Scalar::new(text, true, None).meaning(), meaning, "{text}");
        }
    }

    #[test]
    fn quotes_and_tags_make_strings() {
        assert_eq!(Scalar::new("yes", false, None).meaning(), Meaning::String);
        assert_eq!(Scalar::new("12", true, Some("str")).meaning(), Meaning::String);
        assert_eq!(Scalar::new("12", false, Some("int")).meaning(), Meaning::Int(12));
        assert_eq!(Scalar::new("on", true, None).as_key(), "true");
    }
}

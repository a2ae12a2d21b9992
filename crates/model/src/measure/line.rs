//! InfluxDB's line protocol, read and written as InfluxDB 1.x does it.
//!
//! `measurement,tag=value field=1,other="text" 1700000000000000000`. The rules are those of the parser in
//! `influxdb1-client/models/points.go`, and its errors have its words, because clients show them. We are stricter in
//! three things: a line has to be UTF-8, has at most [`MAX_FIELDS`] fields, and nothing may stand between the closing
//! quote of a text and the comma or blank behind it.

use std::borrow::Cow;
use std::fmt::Write;

/// Most fields that one point may have.
pub const MAX_FIELDS: usize = 1000;
/// Longest measurement with its tags, bytes (InfluxDB's `MaxKeyLength`).
pub const MAX_KEY: usize = 65_535;

/// One point, checked, still in the words it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Measurement and tags, as they were written.
    pub key: &'a str,
    /// Fields, as they were written.
    pub fields: &'a str,
    /// Nanoseconds since 1970, where the line says when.
    pub time: Option<i64>,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A number; never NaN or infinite.
    Float(f64),
    /// A whole number, `42i`.
    Integer(i64),
    /// `t`, `true`, `f`, `false` and their capitals.
    Boolean(bool),
    /// Text in double quotes.
    Text(Cow<'a, str>),
}

/// The unit of the time stamps of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Nanoseconds.
    #[default]
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Minutes.
    Minutes,
    /// Hours.
    Hours,
}

/// Why a line is no point, in InfluxDB's words where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing before the tags or fields.
    #[error("missing measurement")]
    MissingMeasurement,
    /// `,=value`.
    #[error("missing tag key")]
    MissingTagKey,
    /// `,tag=`.
    #[error("missing tag value")]
    MissingTagValue,
    /// `,tag=a=b`.
    #[error("invalid tag format")]
    InvalidTagFormat,
    /// The same tag twice.
    #[error("duplicate tags")]
    DuplicateTags,
    /// Measurement and tags are too long.
    #[error("max key length exceeded: {0} > {MAX_KEY}")]
    KeyTooLong(usize),
    /// Nothing but measurement and tags.
    #[error("missing fields")]
    MissingFields,
    /// `=1`.
    #[error("missing field key")]
    MissingFieldKey,
    /// `a=`.
    #[error("missing field value")]
    MissingFieldValue,
    /// Something that is no `key=value`.
    #[error("invalid field format")]
    InvalidFieldFormat,
    /// Something that begins like a number.
    #[error("invalid number")]
    InvalidNumber,
    /// Something that begins like nothing else.
    #[error("invalid boolean")]
    InvalidBoolean,
    /// A text without its end.
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    /// More than [`MAX_FIELDS`].
    #[error("too many fields: more than {MAX_FIELDS}")]
    TooManyFields,
    /// Something that is no whole number.
    #[error("bad timestamp")]
    BadTimestamp,
    /// A time that 64 bits of nanoseconds don't hold.
    #[error("time outside range")]
    TimeOutsideRange,
    /// Something behind the time stamp.
    #[error("invalid point")]
    Trailing,
    /// Bytes that are no UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
}

/// Where the line that begins at `from` ends: the place of its newline, or none when the bytes end first. A newline
/// within a text or behind a backslash ends no line.
pub fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = &bytes[from..];
    let first = memchr(rest, b'\n');
    let candidate = &rest[..first.unwrap_or(rest.len())];
    if !candidate.iter().any(|&b| b == b'"' || b == b'\\') {
        return first.map(|n| from + n);
    }
    let (mut in_fields, mut quoted) = (false, false);
    let (mut equals, mut commas) = (0usize, 0usize);
    let mut i = 0;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 1,
            b'\n' if !quoted => return Some(from + i),
            b' ' if !quoted => in_fields = true,
            b'=' if in_fields && !quoted => equals += 1,
            b',' if in_fields && !quoted => commas += 1,
            b'"' if in_fields && equals > commas => quoted = !quoted,
            _ => {}
        }
        i += 1;
    }
    None
}

/// Whether a line has nothing to say: blank, or a comment.
pub fn is_blank(line: &[u8]) -> bool {
    line.get(blanks(line)).is_none_or(|&b| b == b'#')
}

/// Reads one line without its newline.
///
/// # Errors
/// What is wrong with it.
pub fn parse(line: &[u8], precision: Precision) -> Result<Line<'_>, Fault> {
    let text = std::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?;
    let text = &text[blanks(line)..];
    let bytes = text.as_bytes();
    let key_end = scan_key(bytes)?;
    let begin = key_end + blanks(&bytes[key_end..]);
    let end = scan_fields(bytes, begin)?;
    let time = scan_time(&bytes[end..], precision)?;
    Ok(Line { key: &text[..key_end], fields: &text[begin..end], time })
}

/// Writes a point. Names and tags without characters, and tags without a value, are left out, as the protocol has no way
/// to write them.
pub fn write<'v>(
    out: &mut String,
    measurement: &str,
    tags: &[(&str, &str)],
    fields: impl IntoIterator<Item = (&'v str, Value<'v>)>,
    time: i64,
) {
    escape(out, measurement, b",= ");
    for (key, value) in tags.iter().filter(|(k, v)| !k.is_empty() && !v.is_empty()) {
        out.push(',');
        escape(out, key, b",= ");
        out.push('=');
        escape(out, value, b",= ");
    }
    let mut before = ' ';
    for (key, value) in fields {
        out.push(std::mem::replace(&mut before, ','));
        escape(out, key, b",= ");
        out.push('=');
        let _ = match value {
            Value::Float(x) => write!(out, "{x:?}"),
            Value::Integer(n) => write!(out, "{n}i"),
            Value::Boolean(b) => write!(out, "{b}"),
            Value::Text(text) => {
                write!(out, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
        };
    }
    let _ = writeln!(out, " {time}");
}

/// Appends a tag's key or value as the protocol writes it.
pub fn escape_tag(out: &mut String, text: &str) {
    escape(out, text, b",= ");
}

/// A name without what has no place in a line: a line break would end it, and a backslash at its end would swallow what
/// follows.
fn escape(out: &mut String, text: &str, special: &[u8]) {
    for c in text.trim_end_matches('\\').chars() {
        if c == '\n' {
            out.push(' ');
            continue;
        }
        if c.is_ascii() && special.contains(&(c as u8)) {
            out.push('\\');
        }
        out.push(c);
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    /// The measurement's name.
    pub fn measurement(&self) -> Cow<'a, str> {
        unescape(&self.key[..self.measurement_end()], b",= ")
    }

    /// The tags, in the order they were written.
    pub fn tags(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        let mut rest = self.key.get(self.measurement_end() + 1..).unwrap_or_default();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = stop(rest.as_bytes(), 1, b",").unwrap_or(rest.len());
            let tag = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            let equals = stop(tag.as_bytes(), 1, b"=").unwrap_or(tag.len());
            let value = tag.get(equals + 1..).unwrap_or_default();
            Some((unescape(&tag[..equals], b",= "), unescape(value, b",= ")))
        })
    }

    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<Cow<'a, str>> {
        self.tags().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The fields: their names as they were written, and their values.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            let bytes = rest.as_bytes();
            let equals = stop(bytes, 1, b"=")?;
            let end = value_end(bytes, equals + 1).ok()?;
            let (key, value) = (&rest[..equals], &rest[equals + 1..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
            Some((key, value_of(value).ok()?))
        })
    }

    fn measurement_end(&self) -> usize {
        stop(self.key.as_bytes(), 1, b",").unwrap_or(self.key.len())
    }
}

/// A field's name as it is meant.
pub fn field_name(raw: &str) -> Cow<'_, str> {
    unescape(raw, b",= ")
}

// === impl Value ===

impl Value<'_> {
    /// The value as a number, where it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            Value::Integer(n) => Some(*n as f64),
            Value::Boolean(_) | Value::Text(_) => None,
        }
    }
}

// === impl Precision ===

impl Precision {
    /// The unit that the parameter `precision` of a write names.
    ///
    /// # Errors
    /// In InfluxDB's words when it names none.
    pub fn parse(name: &str) -> Result<Precision, String> {
        Ok(match name {
            "" | "n" | "ns" => Precision::Nanoseconds,
            "u" | "us" | "µ" => Precision::Microseconds,
            "ms" => Precision::Milliseconds,
            "s" => Precision::Seconds,
            "m" => Precision::Minutes,
            "h" => Precision::Hours,
            other => return Err(format!("invalid precision {other:?} (use n, u, ms, s, m or h)")),
        })
    }

    /// Nanoseconds in one of them.
    pub fn nanoseconds(self) -> i64 {
        match self {
            Precision::Nanoseconds => 1,
            Precision::Microseconds => 1_000,
            Precision::Milliseconds => 1_000_000,
            Precision::Seconds => 1_000_000_000,
            Precision::Minutes => 60_000_000_000,
            Precision::Hours => 3_600_000_000_000,
        }
    }
}

// === scanning ===

/// How many blanks a line begins with.
fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !matches!(b, b' ' | b'\t' | 0)).unwrap_or(bytes.len())
}

/// The first of `set` from `from` on that has no backslash before it.
fn stop(bytes: &[u8], from: usize, set: &[u8]) -> Option<usize> {
    let from = from.max(1);
    (from..bytes.len()).find(|&i| set.contains(&bytes[i]) && bytes[i - 1] != b'\\')
}

fn memchr(bytes: &[u8], wanted: u8) -> Option<usize> {
    bytes.iter().position(|&b| b == wanted)
}

/// The end of measurement and tags: the blank before the fields.
fn scan_key(bytes: &[u8]) -> Result<usize, Fault> {
    if bytes.first().is_none_or(|&b| b == b',') {
        return Err(Fault::MissingMeasurement);
    }
    let mut at = stop(bytes, 1, b", ").ok_or(Fault::MissingFields)?;
    let mut keys: Vec<&[u8]> = Vec::new();
    while bytes[at] == b',' {
        let begin = at + 1;
        if bytes.get(begin).is_none_or(|b| b" ,=".contains(b)) {
            return Err(Fault::MissingTagKey);
        }
        let equals = stop(bytes, begin + 1, b"=, ").ok_or(Fault::MissingTagValue)?;
        if bytes[equals] != b'=' || bytes.get(equals + 1).is_none_or(|b| b" ,".contains(b)) {
            return Err(Fault::MissingTagValue);
        }
        keys.push(&bytes[begin..equals]);
        // The first character of a value may be anything but a comma or a blank.
        at = stop(bytes, equals + 2, b"=, ").ok_or(Fault::MissingFields)?;
        if bytes[at] == b'=' {
            return Err(Fault::InvalidTagFormat);
        }
    }
    keys.sort_unstable();
    if keys.windows(2).any(|two| two[0] == two[1]) {
        return Err(Fault::DuplicateTags);
    }
    if at > MAX_KEY {
        return Err(Fault::KeyTooLong(at));
    }
    Ok(at)
}

/// The end of the fields that begin at `from`.
fn scan_fields(bytes: &[u8], from: usize) -> Result<usize, Fault> {
    let mut at = from;
    if at >= bytes.len() {
        return Err(Fault::MissingFields);
    }
    for _ in 0..MAX_FIELDS {
        if bytes.get(at) == Some(&b'=') {
            return Err(Fault::MissingFieldKey);
        }
        let equals =
            stop(bytes, at, b"=, ").filter(|&i| bytes[i] == b'=').ok_or(Fault::InvalidFieldFormat)?;
        if bytes.get(equals + 1).is_none_or(|b| b" ,".contains(b)) {
            return Err(Fault::MissingFieldValue);
        }
        let end = value_end(bytes, equals + 1)?;
        if bytes[equals + 1] != b'"' {
            // The bounds are ASCII, so that this is text again.
            value_of(std::str::from_utf8(&bytes[equals + 1..end]).map_err(|_| Fault::NotUtf8)?)?;
        }
        match bytes.get(end) {
            Some(b',') => at = end + 1,
            _ => return Ok(end),
        }
    }
    Err(Fault::TooManyFields)
}

/// Where the value that begins at `from` ends.
fn value_end(bytes: &[u8], from: usize) -> Result<usize, Fault> {
    if bytes.get(from) != Some(&b'"') {
        let end = bytes[from.min(bytes.len())..].iter().position(|b| b" ,".contains(b));
        return Ok(end.map_or(bytes.len(), |n| from + n));
    }
    let mut i = from + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' if bytes.get(i + 1).is_none_or(|b| b" ,".contains(b)) => return Ok(i + 1),
            b'"' => return Err(Fault::InvalidFieldFormat),
            _ => i += 1,
        }
    }
    Err(Fault::UnbalancedQuotes)
}

/// What a value means.
fn value_of(text: &str) -> Result<Value<'_>, Fault> {
    let first = text.as_bytes().first().ok_or(Fault::MissingFieldValue)?;
    match first {
        b'"' => {
            let inner = text.get(1..text.len() - 1).unwrap_or_default();
            Ok(Value::Text(unescape(inner, b"\"\\")))
        }
        b'0'..=b'9' | b'.' | b'-' | b'N' | b'n' => number(text),
        _ => match text {
            "t" | "T" | "true" | "True" | "TRUE" => Ok(Value::Boolean(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Ok(Value::Boolean(false)),
            _ => Err(Fault::InvalidBoolean),
        },
    }
}

fn number(text: &str) -> Result<Value<'static>, Fault> {
    if let Some(digits) = text.strip_suffix('i') {
        let whole = digits.bytes().enumerate().all(|(i, b)| b.is_ascii_digit() || (i == 0 && b == b'-'));
        let value = whole.then(|| digits.parse().ok()).flatten();
        return value.map(Value::Integer).ok_or(Fault::InvalidNumber);
    }
    // Rust would take `inf` and `nan` too.
    if !text.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b)) {
        return Err(Fault::InvalidNumber);
    }
    let value: f64 = text.parse().map_err(|_| Fault::InvalidNumber)?;
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(Fault::InvalidNumber) }
}

fn scan_time(bytes: &[u8], precision: Precision) -> Result<Option<i64>, Fault> {
    let bytes = &bytes[blanks(bytes)..];
    let end = memchr(bytes, b' ').unwrap_or(bytes.len());
    let (digits, rest) = bytes.split_at(end);
    if digits.is_empty() {
        return Ok(None);
    }
    let whole = digits.iter().enumerate().all(|(i, b)| b.is_ascii_digit() || (i == 0 && *b == b'-'));
    let text = std::str::from_utf8(digits).ok().filter(|_| whole).ok_or(Fault::BadTimestamp)?;
    if text == "-" {
        return Err(Fault::BadTimestamp);
    }
    if rest.iter().any(|&b| b != b' ') {
        return Err(Fault::Trailing);
    }
    let time = text.parse::<i64>().ok().and_then(|n| n.checked_mul(precision.nanoseconds()));
    // InfluxDB keeps the smallest two and the largest of 64 bits for itself.
    time.filter(|t| (i64::MIN + 2..i64::MAX).contains(t)).map(Some).ok_or(Fault::TimeOutsideRange)
}

/// Takes away the backslashes before any of `special`; others stand for themselves.
fn unescape<'a>(text: &'a str, special: &[u8]) -> Cow<'a, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escapes =
            c == '\\' && chars.peek().is_some_and(|n| n.is_ascii() && special.contains(&(*n as u8)));
        if escapes {
            plain.extend(chars.next());
        } else {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests;

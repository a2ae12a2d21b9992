//! The messages: one JSON document a frame, as the published SDKs write and read them, and the fields that this
//! project adds. Added fields are optional in requests, and appear in responses only to those who asked.

mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::engine::{Explanation, Numbered};

pub use parse::{BadRequest, parse, parse_cut};

/// Most bytes of a request's id, as it stands in a frame between its quotes.
pub const MAX_ID_BYTES: usize = 64;

/// Bytes that the frame of an item needs beside its value: the five keys, the longest id, a number.
pub const ITEM_OVERHEAD: usize = 160;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Chosen by the client; names the request on its connection.
    pub id: Cow<'a, str>,
    /// What the client calls itself (added: `from`).
    pub from: Option<Cow<'a, str>>,
    /// What.
    pub operation: Operation<'a>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Operation<'a> {
    /// `signal_entry`: count one more entry.
    Signal {
        /// The state.
        state: Cow<'a, str>,
        /// Counts once however often it is sent (added: `key`).
        key: Option<Cow<'a, str>>,
    },
    /// `publish`: append to a topic.
    Publish {
        /// The topic.
        topic: Cow<'a, str>,
        /// Any JSON.
        payload: &'a RawValue,
        /// Counts once however often it is sent (added: `key`).
        key: Option<Cow<'a, str>>,
    },
    /// `barrier`: wait for a count.
    Barrier {
        /// The state.
        state: Cow<'a, str>,
        /// Entries wanted.
        target: u64,
        /// Give up after this long (added: `timeout_ms`).
        timeout: Option<Duration>,
        /// The client understands an error as an answer (added: `explain`; a timeout implies it).
        explain: bool,
    },
    /// `subscribe`: all items, then each new one.
    Subscribe {
        /// The topic.
        topic: Cow<'a, str>,
        /// Only items after this number, and each with its number (added: `after`).
        after: Option<u64>,
    },
    /// `is_cancel`: end the open request of this id.
    Cancel,
}

/// What the service answers, as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Response {
    /// The request.
    #[serde(default)]
    pub id: String,
    /// Empty unless the request failed.
    #[serde(default)]
    pub error: String,
    /// The answer to `publish`.
    #[serde(default)]
    pub publish: Option<Seq>,
    /// An item: JSON in a string.
    #[serde(default)]
    pub subscribe: String,
    /// The answer to `signal_entry`.
    #[serde(default)]
    pub signal_entry: Option<Seq>,
    /// The item's number, where `after` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Why a barrier ended without opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barrier: Option<Explanation>,
}

/// A number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seq {
    /// The number.
    pub seq: u64,
}

/// How errors are written on a connection. The Rust SDK reads the field `error` as JSON and panics on anything else;
/// it is also the only one that sends binary frames, and that is how it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ErrorForm {
    /// As it is.
    #[default]
    Text,
    /// As a JSON string within the JSON string.
    Json,
}

/// Writes the answer to a signal or a publish.
pub fn write_numbered(out: &mut Vec<u8>, id: &str, kind: Numbered, seq: u64) {
    write_head(out, id);
    let mut digits = [0; 20];
    let digits = decimal(seq, &mut digits);
    match kind {
        Numbered::Signal => {
            out.extend_from_slice(br#","error":"","publish":null,"subscribe":"","signal_entry":{"seq":"#);
            out.extend_from_slice(digits);
            out.extend_from_slice(b"}}");
        }
        Numbered::Publish => {
            out.extend_from_slice(br#","error":"","publish":{"seq":"#);
            out.extend_from_slice(digits);
            out.extend_from_slice(br#"},"subscribe":"","signal_entry":null}"#);
        }
    }
}

/// Writes the release of a barrier.
pub fn write_released(out: &mut Vec<u8>, id: &str) {
    write_head(out, id);
    out.extend_from_slice(br#","error":"","publish":null,"subscribe":"","signal_entry":null}"#);
}

/// Writes an item of a subscription. `value` is a JSON string with its quotes.
pub fn write_item(out: &mut Vec<u8>, id: &str, value: &[u8], seq: Option<u64>) {
    write_head(out, id);
    out.extend_from_slice(br#","error":"","publish":null,"subscribe":"#);
    out.extend_from_slice(value);
    out.extend_from_slice(br#","signal_entry":null"#);
    if let Some(seq) = seq {
        let mut digits = [0; 20];
        out.extend_from_slice(br#","seq":"#);
        out.extend_from_slice(decimal(seq, &mut digits));
    }
    out.push(b'}');
}

/// Writes an error, with what a barrier waited for where there is one.
pub fn write_error(
    out: &mut Vec<u8>,
    id: &str,
    error: &str,
    form: ErrorForm,
    explanation: Option<&Explanation>,
) {
    write_head(out, id);
    out.extend_from_slice(br#","error":"#);
    match form {
        ErrorForm::Text => write_string(out, error),
        ErrorForm::Json => {
            let mut inner = Vec::with_capacity(error.len() + 2);
            write_string(&mut inner, error);
            write_string(out, std::str::from_utf8(&inner).unwrap_or("\"\""));
        }
    }
    out.extend_from_slice(br#","publish":null,"subscribe":"","signal_entry":null"#);
    if let Some(explanation) = explanation {
        out.extend_from_slice(br#","barrier":"#);
        write_json(out, explanation);
    }
    out.push(b'}');
}

/// A JSON document as the string that a subscription carries, quotes included.
pub fn quote(document: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(document.len() + document.len() / 8 + 2);
    write_string(&mut out, document);
    out
}

/// The JSON document in such a string.
pub fn unquote(value: &[u8]) -> String {
    serde_json::from_slice(value).unwrap_or_default()
}

fn write_head(out: &mut Vec<u8>, id: &str) {
    out.extend_from_slice(br#"{"id":"#);
    write_string(out, id);
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        write_json(out, text);
    }
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // A vector takes every write, and these types have no map with keys that are no strings.
    serde_json::to_writer(out, value).expect("strings and numbers always serialize");
}

fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

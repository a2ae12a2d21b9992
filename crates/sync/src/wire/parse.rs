//! Requests out of frames, and what is wrong with those that are none.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{MAX_ID_BYTES, Operation, Request};

/// Why a frame is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadRequest {
    /// The request's id, as far as it can be told; empty otherwise.
    pub id: String,
    /// It asks for a barrier, so that the answer must not be an error frame.
    pub barrier: bool,
    /// What is wrong, and what is allowed.
    pub what: String,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    from: Option<Cow<'a, str>>,
    #[serde(default)]
    is_cancel: Option<bool>,
    #[serde(borrow, default)]
    publish: Option<RawPublish<'a>>,
    #[serde(borrow, default)]
    subscribe: Option<RawSubscribe<'a>>,
    #[serde(borrow, default)]
    barrier: Option<RawBarrier<'a>>,
    #[serde(borrow, default)]
    signal_entry: Option<RawSignal<'a>>,
}

#[derive(Deserialize)]
struct RawPublish<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawSubscribe<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(default)]
    after: Option<u64>,
}

#[derive(Deserialize)]
struct RawBarrier<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    target: &'a RawValue,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    explain: bool,
}

#[derive(Deserialize)]
struct RawSignal<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

/// Reads one request.
///
/// # Errors
/// The bytes are no UTF-8 or no JSON, hold more than one document, ask for nothing, for something unknown or for two
/// things, or a value is out of its range.
pub fn parse(frame: &[u8]) -> Result<Request<'_>, BadRequest> {
    let text = std::str::from_utf8(frame).map_err(|e| BadRequest {
        id: guess_id(frame, frame),
        barrier: guess_barrier(frame),
        what: format!("the message is not UTF-8 from byte {} on", e.valid_up_to()),
    })?;
    let raw: Raw<'_> = serde_json::from_str(text).map_err(|e| BadRequest {
        id: guess_id(frame, frame),
        barrier: guess_barrier(frame),
        what: syntax(text, &e),
    })?;
    let bad = |what: String| BadRequest {
        id: raw.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES).unwrap_or_default().to_owned(),
        barrier: raw.barrier.as_ref().is_some_and(|b| !b.explain && b.timeout_ms.is_none()),
        what,
    };
    let Some(id) = &raw.id else {
        return Err(bad("the request has no \"id\" (a string of the client's choice)".to_owned()));
    };
    let id_bytes = id.len().max(super::quote(id).len() - 2);
    if id_bytes > MAX_ID_BYTES {
        return Err(bad(format!("the id has {id_bytes} bytes; {MAX_ID_BYTES} are allowed")));
    }
    let asked = [
        raw.publish.is_some(),
        raw.subscribe.is_some(),
        raw.barrier.is_some(),
        raw.signal_entry.is_some(),
        raw.is_cancel == Some(true),
    ];
    match asked.iter().filter(|a| **a).count() {
        1 => {}
        // The SDKs' type has all of them in a cancellation.
        _ if raw.is_cancel == Some(true) => {}
        0 => return Err(bad(unknown_kind(text))),
        _ => {
            let what = "the request asks for several things; one of publish, subscribe, barrier, signal_entry is \
                        allowed";
            return Err(bad(what.to_owned()));
        }
    }
    let operation = if raw.is_cancel == Some(true) {
        Operation::Cancel
    } else if let Some(publish) = &raw.publish {
        let payload = publish.payload.unwrap_or(RawValue::NULL);
        Operation::Publish { topic: publish.topic.clone(), payload, key: publish.key.clone() }
    } else if let Some(subscribe) = &raw.subscribe {
        Operation::Subscribe { topic: subscribe.topic.clone(), after: subscribe.after }
    } else if let Some(barrier) = &raw.barrier {
        let target = barrier.target.get().parse().map_err(|_| {
            bad(format!("the barrier's target is {}; a whole number from 0 on is allowed", barrier.target))
        })?;
        let timeout = barrier.timeout_ms.map(Duration::from_millis);
        let explain = barrier.explain || timeout.is_some();
        Operation::Barrier { state: barrier.state.clone(), target, timeout, explain }
    } else if let Some(signal) = &raw.signal_entry {
        Operation::Signal { state: signal.state.clone(), key: signal.key.clone() }
    } else {
        return Err(bad(unknown_kind(text)));
    };
    let empty = match &operation {
        Operation::Signal { state, .. } | Operation::Barrier { state, .. } => state.is_empty(),
        Operation::Publish { topic, .. } | Operation::Subscribe { topic, .. } => topic.is_empty(),
        Operation::Cancel => false,
    };
    if empty {
        return Err(bad("the state or topic is empty".to_owned()));
    }
    Ok(Request { id: raw.id.clone().unwrap_or_default(), from: raw.from.clone(), operation })
}

/// What to answer to a message of which only the first and the last bytes were kept.
pub fn parse_cut(head: &[u8], tail: &[u8], what: String) -> BadRequest {
    BadRequest { id: guess_id(head, tail), barrier: guess_barrier(head), what }
}

/// The id of a request that can't be read as a whole, where it is the first or the last key, as the SDKs write it.
/// Empty if it can't be told: a key of the same name within a payload must not be taken for it.
fn guess_id(head: &[u8], tail: &[u8]) -> String {
    id_at_begin(head).or_else(|| id_at_end(tail)).filter(|id| id.len() <= MAX_ID_BYTES).unwrap_or_default()
}

fn id_at_begin(head: &[u8]) -> Option<String> {
    let rest = head.trim_ascii_start().strip_prefix(b"{")?;
    let rest = rest.trim_ascii_start().strip_prefix(b"\"id\"")?;
    let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let mut escaped = false;
    let end = rest.iter().skip(1).position(|b| {
        let closes = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        closes
    })?;
    serde_json::from_slice(&rest[..end + 2]).ok()
}

/// `},"id":"…"}` at the end, for an id without escapes.
fn id_at_end(tail: &[u8]) -> Option<String> {
    let rest = tail.trim_ascii_end().strip_suffix(b"}")?;
    let rest = rest.trim_ascii_end().strip_suffix(b"\"")?;
    let begin = rest.iter().rposition(|b| *b == b'"')?;
    let (rest, id) = (&rest[..begin], &rest[begin + 1..]);
    let rest = rest.trim_ascii_end().strip_suffix(b":")?;
    let rest = rest.trim_ascii_end().strip_suffix(b"\"id\"")?;
    let rest = rest.trim_ascii_end().strip_suffix(b",")?;
    rest.trim_ascii_end().strip_suffix(b"}")?;
    String::from_utf8(id.to_vec()).ok().filter(|id| !id.contains('\\'))
}

/// Whether a frame that can't be read as a whole seems to ask for a barrier.
fn guess_barrier(frame: &[u8]) -> bool {
    find(&frame[..frame.len().min(4096)], b"\"barrier\"").is_some()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn syntax(text: &str, error: &serde_json::Error) -> String {
    let second = error.to_string().starts_with("trailing characters");
    if second && text.trim_start().starts_with('{') {
        return format!(
            "the message holds more than one request (column {}); one is allowed",
            error.column()
        );
    }
    format!("the message is no request: {error}")
}

/// What to say of a request without a known kind.
fn unknown_kind(text: &str) -> String {
    const KNOWN: [&str; 7] = ["id", "is_cancel", "from", "publish", "subscribe", "barrier", "signal_entry"];
    let keys: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text).ok();
    let unknown = keys.and_then(|map| map.keys().find(|k| !KNOWN.contains(&k.as_str())).cloned());
    let allowed = "one of publish, subscribe, barrier, signal_entry is needed";
    match unknown {
        Some(kind) => {
            let short: String = kind.chars().take(40).collect();
            format!("unknown request {short:?}; {allowed}")
        }
        None => format!("the request asks for nothing; {allowed}"),
    }
}

//! The event protocol of the SDKs: what an instance says of itself, on stdout or over sync.
//!
//! One line of stdout is `{"ts":…, "group_id":…, "run_id":…, "event":{"success_event":{…}}}`; over sync only the
//! inner object travels. Whoever hears it decides what it means.

use serde_json::Value;
use testground_model::event::Report;

/// What a line of stdout is.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// Ordinary output.
    Plain,
    /// The event protocol.
    Report(Report),
    /// An `event` object of a kind that nobody knows.
    Unknown(String),
}

/// Reads a line of stdout.
pub fn line(bytes: &[u8]) -> Line {
    // Almost no line is an event: look before parsing.
    if bytes.first() != Some(&b'{') || !contains(bytes, b"\"event\"") {
        return Line::Plain;
    }
    let Ok(Value::Object(mut outer)) = serde_json::from_slice::<Value>(bytes) else { return Line::Plain };
    match outer.remove("event") {
        Some(event @ Value::Object(_)) => match report(&event) {
            Some(report) => Line::Report(report),
            None => Line::Unknown(event.to_string()),
        },
        _ => Line::Plain,
    }
}

/// Reads the inner object, as it travels over sync.
pub fn report(event: &Value) -> Option<Report> {
    let (kind, body) = event.as_object()?.iter().next()?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(match kind.as_str() {
        "start_event" => Report::Start,
        "message_event" => Report::Message { message: text("message") },
        "success_event" => Report::Success,
        "failure_event" => Report::Failure { error: text("error") },
        "crash_event" => Report::Crash { error: text("error"), stacktrace: text("stacktrace") },
        "stage_start_event" => Report::StageStart { name: text("name") },
        "stage_end_event" => Report::StageEnd { name: text("name") },
        _ => return None,
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_sdk_are_understood() {
        let said =
            br#"{"ts":1,"msg":"","group_id":"g","run_id":"r","event":{"success_event":{"group":"g"}}}"#;
        assert_eq!(line(said), Line::Report(Report::Success));
        let said = br#"{"ts":1,"event":{"failure_event":{"group":"g","error":"no route"}}}"#;
        assert_eq!(line(said), Line::Report(Report::Failure { error: "no route".into() }));
        let said = br#"{"event":{"crash_event":{"error":"e","stacktrace":"s"}}}"#;
        assert_eq!(line(said), Line::Report(Report::Crash { error: "e".into(), stacktrace: "s".into() }));
    }

    #[test]
    fn everything_else_is_plain_or_unknown() {
        for plain in [&b"hello"[..], b"{", b"", b"{\"event\"", b"[\"event\"]", b"{\"event\":3}", b"\xff\xfe"]
        {
            assert_eq!(line(plain), Line::Plain, "{plain:?}");
        }
        let odd = br#"{"event":{"tea_event":{}}}"#;
        assert_eq!(line(odd), Line::Unknown(r#"{"tea_event":{}}"#.into()));
        assert_eq!(line(br#"{"event":{}}"#), Line::Unknown("{}".into()));
    }
}

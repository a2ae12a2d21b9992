//! The record of decisions: one JSON object a line for what was decided about a packet, or a row of segments.

use serde::Serialize;

use super::counters::Cause;

/// Lines that wait to be written.
#[derive(Debug, Default)]
pub struct Decisions {
    lines: Vec<u8>,
    count: u64,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It leaves.
    Departs {
        /// When, nanoseconds.
        at: u64,
        /// Whether it is the second arrival of one that was decided on before.
        copy: bool,
        /// Whether it has a flipped bit.
        flipped: bool,
    },
    /// It does not.
    Dropped {
        /// Why.
        cause: Cause,
        /// Whether it is the second arrival of one that was decided on before.
        copy: bool,
    },
}

/// A line.
#[derive(Serialize)]
struct Line<'a> {
    /// Nanoseconds since the switch was started.
    t: u64,
    from: &'a str,
    to: &'a str,
    /// The packet's number on this link, from 0.
    n: u64,
    /// How many consecutive numbers met the same fate together.
    #[serde(skip_serializing_if = "is_one")]
    count: u32,
    fate: &'a str,
    /// When it leaves, nanoseconds since the switch was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    copy: bool,
    #[serde(skip_serializing_if = "is_false")]
    flipped: bool,
}

// === impl Decisions ===

impl Decisions {
    /// Notes a decision.
    pub fn note(&mut self, now: u64, from: &str, to: &str, index: u64, count: u32, fate: Fate) {
        let (name, due, copy, flipped) = match fate {
            Fate::Departs { at, copy, flipped } => ("departs", Some(at), copy, flipped),
            Fate::Dropped { cause, copy } => (cause.as_str(), None, copy, false),
        };
        let line = Line { t: now, from, to, n: index, count, fate: name, due, copy, flipped };
        // Writing numbers and strings into memory can't fail.
        if serde_json::to_writer(&mut self.lines, &line).is_ok() {
            self.lines.push(b'\n');
            self.count += 1;
        }
    }

    /// What was noted since the last call, and how many lines.
    pub fn take(&mut self) -> Option<(Vec<u8>, u64)> {
        (self.count > 0).then(|| (std::mem::take(&mut self.lines), std::mem::take(&mut self.count)))
    }
}

fn is_one(count: &u32) -> bool {
    *count == 1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

//! The streams of one instance: what is worth telling the dispatcher of what it writes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use testground_model::event::{Report, Stream};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::super::output::{self, Kept};
use super::super::speech::{self, Line};

/// What an instance was heard to say, or that it fell silent.
#[derive(Debug)]
pub(super) enum Heard {
    /// Something in the event protocol.
    Report { number: u32, report: Report },
    /// A line.
    Line { number: u32, stream: Stream, line: String },
    /// An event of an unknown kind.
    Unknown { number: u32, event: String },
    /// A stream is read to its end.
    Closed { number: u32, stream: Stream, kept: Kept, hushed: u64, tail: VecDeque<String> },
}

/// Longest line that is told; the file has it whole.
const TOLD: usize = 4096;
/// Lines that are told at once, and in each second after: a flood is in the file, not in the record.
const BURST: f64 = 1000.0;
const PER_SECOND: f64 = 200.0;

/// How many last lines are remembered, and how many bytes of each.
const TAIL: usize = 10;
const TAIL_LINE: usize = 400;

/// Follows one stream of an instance to its end.
pub(super) async fn follow(
    number: u32,
    stream: Stream,
    from: OwnedFd,
    path: &Path,
    limit: u64,
    heard: mpsc::Sender<Heard>,
) {
    let mut hushed = 0;
    let mut tail = VecDeque::new();
    let mut allowance = Allowance { left: BURST, at: Instant::now() };
    let on_line = |bytes: &[u8]| {
        if stream == Stream::Stdout {
            match speech::line(bytes) {
                Line::Report(report) => return Some(Heard::Report { number, report }),
                Line::Unknown(event) => return Some(Heard::Unknown { number, event }),
                Line::Plain => {}
            }
        }
        remember(&mut tail, bytes);
        if !allowance.take(Instant::now()) {
            hushed += 1;
            return None;
        }
        let line = String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD)]).into_owned();
        Some(Heard::Line { number, stream, line })
    };
    let kept = match pipe::Receiver::from_owned_fd(from) {
        Ok(receiver) => output::follow(receiver, path, limit, on_line, &heard).await,
        Err(e) => Kept { error: Some(e), ..Kept::default() },
    };
    let _ = heard.send(Heard::Closed { number, stream, kept, hushed, tail }).await;
}

/// Keeps the last ordinary lines, for whoever asks how it ended.
fn remember(tail: &mut VecDeque<String>, line: &[u8]) {
    if tail.len() == TAIL {
        tail.pop_front();
    }
    tail.push_back(String::from_utf8_lossy(&line[..line.len().min(TAIL_LINE)]).into_owned());
}

/// A token bucket of lines.
struct Allowance {
    left: f64,
    at: Instant,
}

// === impl Allowance ===

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(BURST);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_hushed_and_a_trickle_is_not() {
        let t0 = Instant::now();
        let mut allowance = Allowance { left: BURST, at: t0 };
        let told = (0..5000).filter(|_| allowance.take(t0)).count();
        assert_eq!(told, 1000);
        let later = t0 + Duration::from_secs(1);
        let told = (0..5000).filter(|_| allowance.take(later)).count();
        assert_eq!(told, 200);
    }
}

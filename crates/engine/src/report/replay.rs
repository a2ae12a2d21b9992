//! A run's events as the lines that the terminal showed, with nothing left out: for a look at them later.

use testground_model::event::{Event, EventKind, Stream};
use testground_model::name::InstanceName;

use super::line::{Level, Line, lines};
use super::record::Record;
use super::summary::Paint;
use super::terminal::{instance_line, log_line};
use super::words;

/// Turns events into lines, in the order in which they come.
pub struct Replay {
    record: Record,
    paint: Paint,
}

/// A line, and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The instance; none for a line of the run itself.
    pub instance: Option<InstanceName>,
    /// The stream, for what an instance wrote or reported.
    pub stream: Option<Stream>,
    /// What was said, without the time and the name before it.
    pub said: String,
    /// The whole line with its newline.
    pub line: String,
}

// === impl Replay ===

impl Replay {
    /// Begins, with or without colours.
    pub fn new(colour: bool) -> Replay {
        Replay { record: Record::default(), paint: Paint(colour) }
    }

    /// The lines of an event.
    pub fn on_event(&mut self, event: &Event) -> Vec<Shown> {
        let lines = lines(event, &self.record);
        self.record.on_event(event);
        let stream = match &event.kind {
            EventKind::Output { stream, .. } => Some(*stream),
            EventKind::Reported { .. } => Some(Stream::Stdout),
            _ => None,
        };
        lines.into_iter().filter_map(|line| self.shown(event.ts, stream, line)).collect()
    }

    /// A line that an instance wrote and that is in no event.
    pub fn output(&self, ts: u64, instance: &InstanceName, stream: Stream, line: &str) -> Shown {
        let class = if stream == Stream::Stderr { "ERROR" } else { "OTHER" };
        self.of_instance(ts, Some(stream), instance.clone(), class, words::tame(line))
    }

    fn shown(&self, ts: u64, stream: Option<Stream>, line: Line) -> Option<Shown> {
        Some(match line {
            Line::Log(Level::Debug, _) => return None,
            Line::Log(level, said) => {
                let line = log_line(ts, level, &said, self.paint);
                Shown { instance: None, stream: None, said, line }
            }
            Line::Instance { instance, class, text, .. } => {
                self.of_instance(ts, stream, instance, class, text)
            }
        })
    }

    fn of_instance(
        &self,
        ts: u64,
        stream: Option<Stream>,
        instance: InstanceName,
        class: &str,
        said: String,
    ) -> Shown {
        let pid = self.record.pids.get(&instance).copied();
        let line = instance_line(self.record.elapsed(ts), class, &instance, pid, &said, self.paint);
        Shown { instance: Some(instance), stream, said, line }
    }
}

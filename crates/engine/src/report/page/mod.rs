//! A run as one HTML file that needs nothing else: no network, no server, no other file.
//!
//! What matters most stands in the markup itself and needs no script: outcome, causes, links, measurements, with the words
//! of the terminal's summary. The script draws what many instances need: the grid, plots, the timeline and the search.
//! Everything that comes from plans is text, never markup, and the page's own policy lets nothing but its script run.

mod data;
mod html;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use testground_model::event::{Event, EventKind, Report};
use testground_model::measure::Measured;
use testground_model::name::InstanceName;

use super::record::Record;
use super::words::{counted, tame};

/// Happenings in the list of events; ends, stages and messages beyond are only counted.
const MOST_HAPPENINGS: usize = 5000;
/// Failed instances whose last lines are kept.
const MOST_WITH_LINES: usize = 300;
/// Lines of each.
const MOST_LINES: usize = 30;
/// Characters of a line, and of a happening.
const MOST_CHARACTERS: usize = 400;

/// Reads the events of a run and becomes a page.
#[derive(Debug, Default)]
pub struct Page {
    record: Record,
    happenings: Vec<Happening>,
    /// Happenings that are not in the list.
    left_out: u64,
    instances: BTreeMap<InstanceName, Life>,
    with_lines: usize,
    /// Lines of output in the record.
    output_lines: u64,
    last_ts: u64,
}

/// Something for the timeline.
#[derive(Debug)]
struct Happening {
    /// Seconds since the run began.
    at: f64,
    kind: Kind,
    who: Option<InstanceName>,
    text: String,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    Network,
    Stage,
    Message,
    End,
    Failure,
    Warning,
}

/// An instance from beginning to end.
#[derive(Debug, Default)]
struct Life {
    started: Option<f64>,
    ended: Option<f64>,
    lines: Vec<String>,
    last_word: Option<String>,
}

// === impl Page ===

impl Page {
    /// Reads the events of a run from its record; what is half at its end is left out.
    ///
    /// # Errors
    /// When the record can't be read, or has no event.
    pub fn read(outputs: &Path) -> io::Result<Page> {
        let path = outputs.join(crate::runs::RECORD_FILE);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&path)?);
        let (mut page, mut line) = (Page::default(), Vec::new());
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // Most lines are output: what instances wrote is in files of their own.
            if is_output(&line) {
                page.output_lines += 1;
            } else if let Ok(event) = serde_json::from_slice(&line) {
                page.on_event(&event);
            }
        }
        if page.record.run.is_none() {
            return Err(io::Error::other(format!("{} has no events of a run", path.display())));
        }
        Ok(page)
    }

    /// Takes an event.
    pub fn on_event(&mut self, event: &Event) {
        self.record.on_event(event);
        self.last_ts = self.last_ts.max(event.ts);
        let at = self.record.elapsed(event.ts);
        match &event.kind {
            EventKind::Output { .. } => self.output_lines += 1,
            EventKind::InstanceStarted { instance, .. } => self.life(instance).started = Some(at),
            EventKind::InstanceEnded { instance, end, last_lines, .. } => {
                let keep = end.is_cause() && self.with_lines < MOST_WITH_LINES;
                self.with_lines += usize::from(keep);
                let life = self.life(instance);
                life.ended = Some(at);
                if keep {
                    let said: Vec<String> =
                        last_lines.iter().filter_map(|line| super::summary::spoken(line)).collect();
                    life.lines =
                        said[said.len().saturating_sub(MOST_LINES)..].iter().map(|l| short(l)).collect();
                }
                let kind = if end.is_cause() { Kind::Failure } else { Kind::End };
                self.happens(at, kind, Some(instance), &end.to_string());
            }
            EventKind::Reported { instance, report } => self.reported(at, instance, report),
            _ => self.of_the_run(at, &event.kind),
        }
    }

    fn of_the_run(&mut self, at: f64, kind: &EventKind) {
        let (kind, text) = match kind {
            EventKind::RunQueued { .. } => (Kind::Run, "the run begins".to_owned()),
            EventKind::BuildStarted { groups, builder } => {
                (Kind::Run, format!("building {} with {builder}", groups.join(", ")))
            }
            EventKind::BuildFinished { groups, cached, .. } => {
                let how = if *cached { "is taken from an earlier build" } else { "is built" };
                (Kind::Run, format!("the artifact of {} {how}", groups.join(", ")))
            }
            EventKind::LabStarted { .. } => (Kind::Run, "the lab is up".to_owned()),
            EventKind::NetworkProgress { attached, total } if attached == total => {
                (Kind::Network, format!("{} attached to the network", counted(u64::from(*total), "instance")))
            }
            EventKind::ShapeProved(proof) if proof.off.is_empty() => {
                (Kind::Network, format!("link {} is as it was asked for", proof.label))
            }
            EventKind::ShapeProved(proof) => {
                (Kind::Warning, format!("link {} is off: {}", proof.label, proof.off.join("; ")))
            }
            EventKind::InstancesReleased => (Kind::Run, "the instances are let go".to_owned()),
            EventKind::NetworkChanged { change, at } => {
                (Kind::Network, format!("{change} (due at {at:.3} s)"))
            }
            EventKind::Stalled { seconds, barriers } => {
                let barriers: Vec<String> =
                    barriers.iter().map(|b| format!("{} ({} of {})", b.state, b.count, b.target)).collect();
                let at = barriers.join(", ");
                (
                    Kind::Failure,
                    format!("everybody waits, nothing has changed for {seconds:.1} s: barrier {at}"),
                )
            }
            EventKind::OutputLost { instance, error } => {
                (Kind::Warning, format!("output of {instance} is lost: {error}"))
            }
            EventKind::LabHeld => (Kind::Run, "the lab is held for a look".to_owned()),
            EventKind::Warning { message } => (Kind::Warning, message.clone()),
            EventKind::RunFinished { outcome, .. } => {
                (Kind::Run, format!("the run is over: {}", outcome.title()))
            }
            _ => return,
        };
        self.happens(at, kind, None, &text);
    }

    fn reported(&mut self, at: f64, instance: &InstanceName, report: &Report) {
        let (kind, text) = match report {
            Report::Message { message } => (Kind::Message, message.clone()),
            Report::StageStart { name } => (Kind::Stage, format!("stage {name} begins")),
            Report::StageEnd { name } => (Kind::Stage, format!("stage {name} ends")),
            // The end of the instance says these.
            Report::Start | Report::Success | Report::Failure { .. } | Report::Crash { .. } => return,
        };
        self.life(instance).last_word = Some(short(&text));
        self.happens(at, kind, Some(instance), &text);
    }

    /// The list is bounded: what many instances do alike gives way to failures, warnings and what the run itself does.
    fn happens(&mut self, at: f64, kind: Kind, who: Option<&InstanceName>, text: &str) {
        let most = match kind {
            Kind::Message => MOST_HAPPENINGS / 4,
            Kind::Stage | Kind::End => MOST_HAPPENINGS / 2,
            Kind::Run | Kind::Network | Kind::Failure | Kind::Warning => MOST_HAPPENINGS,
        };
        if self.happenings.len() >= most {
            self.left_out += 1;
            return;
        }
        self.happenings.push(Happening { at, kind, who: who.cloned(), text: short(text) });
    }

    fn life(&mut self, instance: &InstanceName) -> &mut Life {
        self.instances.entry(instance.clone()).or_default()
    }

    /// The page. `measured` is the summary with its values over time; without one the events' own is shown.
    pub fn finish(mut self, measured: Option<Measured>) -> String {
        if measured.as_ref().is_some_and(|m| m.points > 0 || m.refused > 0) {
            self.record.measured = measured;
        }
        html::page(&self)
    }
}

fn is_output(line: &[u8]) -> bool {
    let head = &line[..line.len().min(120)];
    head.windows(17).any(|w| w == b"\"event\":\"output\",")
}

/// Whether a character overrides the direction of writing: it could make a line read as another.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One tame line of bounded length.
fn short(text: &str) -> String {
    super::words::cut(&tame(text), MOST_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use testground_model::event::Stream;
    use testground_model::name::RunId;

    use super::*;

    #[test]
    fn lines_of_output_are_told_by_their_beginning() {
        let kind = EventKind::Output {
            instance: InstanceName::new("g", 1),
            stream: Stream::Stdout,
            line: "{\"event\":\"output\",".to_owned(),
        };
        let event = Event { ts: u64::MAX, run: RunId::new(1, [1; 8]), kind };
        assert!(is_output(&serde_json::to_vec(&event).unwrap()));
        let kind = EventKind::Warning { message: format!("{}\"event\":\"output\",", "x".repeat(100)) };
        let event = Event { ts: 1, run: RunId::new(1, [1; 8]), kind };
        assert!(!is_output(&serde_json::to_vec(&event).unwrap()));
    }
}

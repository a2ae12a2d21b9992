//! A run as a person follows it: lines as things happen, a line of progress below them on a terminal, and a summary.
//!
//! Lines go to the writer that is given (standard output), progress to standard error, so that a redirected log has no
//! progress in it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use testground_model::event::{Event, EventKind};
use testground_model::name::InstanceName;

use super::flood::{Flood, LeftOut};
use super::line::{Level, Line, lines};
use super::outlet::Outlet;
use super::record::{Phase, Record};
use super::summary::{self, Paint};
use super::words;
use crate::home::STDOUT_FILE;

/// Ends of instances that are shown in any case; more of them are counted like other lines.
const MOST_VITAL: u32 = 50;

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// A line of progress below the log.
    pub progress: bool,
    /// Colours.
    pub colour: bool,
    /// Columns of the summary, 60 at least.
    pub width: usize,
    /// Also what only matters when something is looked for (`-v`).
    pub verbose: bool,
}

/// Shows a run.
pub struct Terminal {
    outlet: Outlet,
    look: Look,
    record: Record,
    flood: Flood,
    vital: u32,
}

// === impl Look ===

impl Look {
    /// What suits this process: progress when both streams are a terminal that can move its cursor, colours on a
    /// terminal unless `NO_COLOR` is set (no-color.org), as many columns as it has.
    pub fn detect(variable: impl Fn(&str) -> Option<OsString>, verbose: bool) -> Look {
        let terminal = io::stdout().is_terminal();
        let dumb = variable("TERM").is_none_or(|t| t == "dumb");
        let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| usize::from(size.ws_col));
        Look {
            progress: terminal && io::stderr().is_terminal() && !dumb,
            colour: terminal && !dumb && variable("NO_COLOR").is_none_or(|v| v.is_empty()),
            width: if columns == 0 { 80 } else { columns.clamp(60, 120) },
            verbose,
        }
    }
}

// === impl Terminal ===

impl Terminal {
    /// Shows a run on `out`, from a thread of its own.
    pub fn new(out: Box<dyn Write + Send>, look: Look) -> Terminal {
        let outlet = Outlet::new(out, look.progress);
        Terminal { outlet, look, record: Record::default(), flood: Flood::new(), vital: 0 }
    }

    /// Takes an event; after the last one of a run everything is written when this returns. A writer that fails is not
    /// tried to death, and one that blocks is not waited for: the run matters more than who watches it.
    pub fn on_event(&mut self, event: &Event) {
        let lines = lines(event, &self.record);
        self.record.on_event(event);
        let mut text = String::new();
        let over = matches!(event.kind, EventKind::RunFinished { .. });
        if let Some(note) = self.flood.note(event.ts, over) {
            self.left_out(&mut text, &note);
        }
        if matches!(event.kind, EventKind::LabHeld) {
            text.push_str(&summary::causes(&self.record, self.look.width, Paint(self.look.colour)));
        }
        for line in lines {
            self.write(&mut text, event.ts, line);
        }
        if over {
            text.push_str(&summary::summary(&self.record, self.look.width, Paint(self.look.colour)));
            self.outlet.finish(text);
            return;
        }
        if !text.is_empty() {
            self.outlet.say(text);
        }
        if self.look.progress && !matches!(event.kind, EventKind::Output { .. }) {
            self.outlet.status(status(&self.record));
        }
    }

    /// Writes a line of the log that is about no run.
    pub fn note(&mut self, ts: u64, words: &str) {
        let mut text = String::new();
        self.write(&mut text, ts, Line::Log(Level::Info, words.to_owned()));
        self.outlet.say(text);
    }

    /// Everything is written when this returns; for what has no end of a run.
    pub fn finish(&mut self) {
        self.outlet.finish(String::new());
    }

    fn write(&mut self, text: &mut String, ts: u64, line: Line) {
        let paint = Paint(self.look.colour);
        match line {
            Line::Log(Level::Debug, _) if !self.look.verbose => {}
            Line::Log(level, words) => text.push_str(&log_line(ts, level, &words, paint)),
            Line::Instance { instance, class, text: said, vital } => {
                let shown = if vital && self.vital < MOST_VITAL {
                    self.vital += 1;
                    true
                } else {
                    self.flood.admits(&instance, ts)
                };
                if shown {
                    let elapsed = self.record.elapsed(ts);
                    let pid = self.record.pids.get(&instance).copied();
                    text.push_str(&instance_line(elapsed, class, &instance, pid, &said, paint));
                }
            }
        }
    }

    fn left_out(&self, text: &mut String, note: &LeftOut) {
        let lines = words::count(note.lines);
        let dir = crate::home::instance_dir(self.record.outputs.as_ref(), &note.most);
        let file = dir.join(STDOUT_FILE);
        let words = match note.instances {
            1 => format!("… {lines} more lines of {}: see {}", note.most, file.display()),
            n => format!(
                "… {lines} more lines of {}, most of {}: see {}",
                words::counted(n, "instance"),
                note.most,
                file.display()
            ),
        };
        text.push_str(&words);
        text.push('\n');
    }
}

/// `Jan _2 15:04:05.000000<TAB>LEVEL<TAB>text`.
pub(super) fn log_line(ts: u64, level: Level, text: &str, paint: Paint) -> String {
    let word = match level {
        Level::Debug => paint.dim(level.word()),
        Level::Info => paint.blue(level.word()),
        Level::Warn => paint.yellow(level.word()),
        Level::Error => paint.red(level.word()),
    };
    format!("{}\t{word}\t{text}\n", words::clock(ts))
}

/// `%.4fs  CLASS << group[000] (123456) >> text`, the process in the place of the original's container.
pub(super) fn instance_line(
    elapsed: f64,
    class: &str,
    instance: &InstanceName,
    pid: Option<u32>,
    text: &str,
    paint: Paint,
) -> String {
    let InstanceName { group, index } = instance;
    let padded = format!("{class:>10}");
    let class = match class {
        "OK" => paint.green(&padded),
        "FAIL" | "CRASH" | "ERROR" | "INCOMPLETE" | "INTERNAL_ERR" => paint.red(&padded),
        _ => padded,
    };
    let line = format!("{elapsed:.4}s {class} << {group}[{index:03}] ({:06}) >> {text}", pid.unwrap_or(0));
    format!("{}\n", line.trim_end())
}

/// The line of progress.
fn status(record: &Record) -> String {
    let (ok, failed) = record.tally();
    let mut parts = VecDeque::new();
    match record.phase {
        Phase::Queued => parts.push_back("starting".to_owned()),
        Phase::Building => parts.push_back(format!("building {} of {}", record.builds.1, record.builds.0)),
        Phase::Attaching => {
            parts.push_back(format!("network up {} of {}", record.network.0, record.network.1));
        }
        Phase::Proving => {
            parts.push_back(format!("proving links, {} measured", words::count(record.proofs.len() as u64)));
        }
        Phase::Running => {
            parts.push_back(format!(
                "running {} of {}",
                record.instances.saturating_sub(ok + failed),
                record.instances
            ));
            parts.push_back(format!("{ok} ok"));
        }
        Phase::Over => parts.push_back("over".to_owned()),
    }
    if failed > 0 {
        parts.push_back(format!("{failed} failed"));
    }
    parts.push_front(format!("{}:{}", record.plan, record.case));
    Vec::from(parts).join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_line_has_the_form_that_scripts_know() {
        let line =
            |pid, text| instance_line(1.5, "MESSAGE", &InstanceName::new("g", 7), pid, text, Paint(false));
        assert_eq!(line(Some(4711), "hi"), "1.5000s    MESSAGE << g[007] (004711) >> hi\n");
        assert_eq!(line(None, ""), "1.5000s    MESSAGE << g[007] (000000) >>\n");
    }

    #[test]
    fn the_line_of_progress_says_where_a_run_is() {
        let mut record = Record { plan: "p".into(), case: "c".into(), instances: 5, ..Record::default() };
        assert_eq!(status(&record), "p:c  starting");
        (record.phase, record.builds) = (Phase::Building, (2, 1));
        assert_eq!(status(&record), "p:c  building 1 of 2");
        (record.phase, record.network) = (Phase::Attaching, (3, 5));
        assert_eq!(status(&record), "p:c  network up 3 of 5");
        record.phase = Phase::Running;
        assert_eq!(status(&record), "p:c  running 5 of 5  0 ok");
    }
}

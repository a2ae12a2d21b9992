//! A run as a JUnit file: a suite for each group, a case for each instance, for the pages of CI servers.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use testground_model::event::Event;
use testground_model::outcome::InstanceEnd;

use super::record::{End, Record};

/// Gathers runs and writes the file.
pub struct Junit {
    path: PathBuf,
    runs: Vec<(String, Record)>,
}

// === impl Junit ===

impl Junit {
    /// Will write to this file.
    pub fn new(path: &Path) -> Junit {
        Junit { path: path.to_owned(), runs: Vec::new() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many runs it has.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The events that follow are those of another run. Where there are several, suites carry its name.
    pub fn begin(&mut self, run: &str) {
        self.runs.push((run.to_owned(), Record::default()));
    }

    /// Takes an event.
    pub fn on_event(&mut self, event: &Event) {
        if self.runs.is_empty() {
            self.begin("");
        }
        if let Some((_, record)) = self.runs.last_mut() {
            record.on_event(event);
        }
    }

    /// Writes the file with all runs so far, in place of an earlier one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self) -> io::Result<()> {
        std::fs::write(&self.path, xml(&self.runs))
    }
}

fn xml(runs: &[(String, Record)]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = runs.first().map_or_else(String::new, |(_, r)| escaped(&format!("{}:{}", r.plan, r.case)));
    let seconds: f64 = runs.iter().filter_map(|(_, r)| r.finished.as_ref()).map(|f| f.seconds).sum();
    let _ = writeln!(out, "<testsuites name=\"{name}\" time=\"{seconds:.3}\">");
    for (run, record) in runs {
        let prefix = if runs.len() > 1 { format!("{run} ") } else { String::new() };
        suites(&mut out, &prefix, record);
    }
    out.push_str("</testsuites>\n");
    out
}

/// A run's suites; their names begin with `prefix`.
fn suites(out: &mut String, prefix: &str, record: &Record) {
    let name = escaped(&format!("{}:{}", record.plan, record.case));
    let seconds = record.finished.as_ref().map_or(0.0, |f| f.seconds);
    let groups = record.finished.as_ref().map_or(&[][..], |f| &f.groups);
    for (group, tally) in groups {
        let ends: Vec<&End> = record.ends.iter().filter(|e| e.instance.group == *group).collect();
        suite(out, &name, prefix, group, tally.total, &ends);
    }
    // A run can fail without an instance to blame: a build, a stall, its time, its lab.
    let cause = record.finished.as_ref().and_then(|f| f.outcome.cause());
    let cause = cause.filter(|_| record.causes().next().is_none());
    // A run on a late emulator is not judged by it, unless it was asked to be: then that is its cause.
    let late = record.finished.as_ref().and_then(|f| f.emulator_late).map(|late| late.to_string());
    let late = late.filter(|late| cause != Some(late));
    if cause.is_some() || late.is_some() {
        let suite = escaped(&format!("{prefix}run"));
        let (errors, skipped) = (u8::from(cause.is_some()), u8::from(late.is_some()));
        let _ = writeln!(
            out,
            "  <testsuite name=\"{suite}\" tests=\"{}\" failures=\"0\" errors=\"{errors}\" skipped=\"{skipped}\">",
            errors + skipped
        );
        for (case, word, message) in [("run", "error", cause), ("emulator", "skipped", late.as_deref())] {
            let Some(message) = message else { continue };
            let _ =
                writeln!(out, "    <testcase classname=\"{name}\" name=\"{case}\" time=\"{seconds:.3}\">");
            let _ = writeln!(out, "      <{word} message=\"{}\"/>\n    </testcase>", escaped(message));
        }
        out.push_str("  </testsuite>\n");
    }
}

fn suite(out: &mut String, name: &str, prefix: &str, group: &str, total: u32, ends: &[&End]) {
    let count = |word: &str| ends.iter().filter(|e| verdict(&e.end) == Some(word)).count();
    let never = (total as usize).saturating_sub(ends.len());
    let (failures, errors, skipped) = (count("failure"), count("error"), count("skipped") + never);
    let _ = writeln!(
        out,
        "  <testsuite name=\"{}\" tests=\"{total}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">",
        escaped(&format!("{prefix}{group}"))
    );
    let mut ends = ends.to_vec();
    ends.sort_by_key(|e| e.instance.index);
    for end in &ends {
        let instance = escaped(&end.instance.to_string());
        let _ =
            write!(out, "    <testcase classname=\"{name}\" name=\"{instance}\" time=\"{:.3}\"", end.seconds);
        let Some(word) = verdict(&end.end) else {
            out.push_str("/>\n");
            continue;
        };
        let _ = writeln!(out, ">\n      <{word} message=\"{}\"/>", escaped(&end.end.to_string()));
        if !end.last_lines.is_empty() {
            let _ = writeln!(out, "      <system-err>{}</system-err>", escaped(&end.last_lines.join("\n")));
        }
        out.push_str("    </testcase>\n");
    }
    let seen: Vec<u32> = ends.iter().map(|e| e.instance.index).collect();
    for index in (0..total).filter(|i| seen.binary_search(i).is_err()) {
        let instance = escaped(&format!("{group}[{index}]"));
        let _ = writeln!(out, "    <testcase classname=\"{name}\" name=\"{instance}\" time=\"0.000\">");
        out.push_str("      <skipped message=\"was never started\"/>\n    </testcase>\n");
    }
    out.push_str("  </testsuite>\n");
}

/// The element that says how an instance ended; none for success.
fn verdict(end: &InstanceEnd) -> Option<&'static str> {
    match end {
        InstanceEnd::Succeeded => None,
        InstanceEnd::ReportedFailure { .. } => Some("failure"),
        InstanceEnd::Stopped => Some("skipped"),
        _ => Some("error"),
    }
}

/// XML 1.0 has no way to write most control characters, nor U+FFFE and U+FFFF: they become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(' '),
            c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

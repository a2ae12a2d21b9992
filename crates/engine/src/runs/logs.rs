//! What the instances of a run wrote, merged by time, of a run that ended or goes on.
//!
//! The record has the time of a line but neither all lines of a flood nor the end of a long one; the files of an
//! instance have everything and no time. Here the record is read in its order, and each line of it takes along what
//! its file has before that line: nothing is missing, and what the record left out has the time of the next line that
//! it has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rustix::event::Timespec;
use rustix::process::{Resource, Rlimit};
use testground_model::event::{Event, EventKind, Stream};
use testground_model::name::InstanceName;

use super::{RECORD_FILE, is_going};
use crate::home::{STDERR_FILE, STDOUT_FILE, instance_dir};
use crate::lab::speech;
use crate::report::{Replay, Shown};

/// Longest line that is shown, as long as the lab takes lines.
const LONGEST: usize = 1 << 20;
/// So much of a line is in the record.
const RECORDED: usize = 4096;
/// How often a record that is followed is looked at again.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Which lines are wanted.
pub struct Wanted {
    /// The instances of this group.
    pub group: Option<String>,
    /// Only this one of them.
    pub index: Option<u32>,
    /// Only what was written to this stream.
    pub stream: Option<Stream>,
    /// Only lines whose text fits.
    pub fits: Box<dyn Fn(&str) -> bool>,
}

/// Why lines can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A record can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever reads the lines is gone, or has no room.
    #[error("failed to write: {0}")]
    Write(#[source] io::Error),
}

/// The lines of a run.
pub struct Logs {
    dir: PathBuf,
    wanted: Wanted,
    replay: Replay,
    record: Lines,
    /// By instance and whether it is standard error; none for a file that is missing or read to its end.
    files: BTreeMap<(InstanceName, bool), Option<Lines>>,
    /// The time of the last event.
    ts: u64,
    over: bool,
    /// The first file that can't be read, and why.
    unreadable: Option<(PathBuf, io::Error)>,
}

// === impl Wanted ===

impl Wanted {
    fn wants(&self, instance: &InstanceName) -> bool {
        self.group.as_ref().is_none_or(|g| *g == instance.group)
            && self.index.is_none_or(|i| i == instance.index)
    }

    fn wants_stream(&self, stream: Stream) -> bool {
        self.stream.is_none_or(|s| s == stream)
    }

    fn takes(&self, shown: &Shown) -> bool {
        let whose = match &shown.instance {
            Some(instance) => self.wants(instance),
            None => self.group.is_none(),
        };
        let from = self.stream.is_none() || self.stream == shown.stream;
        whose && from && (self.fits)(&shown.said)
    }
}

// === impl Logs ===

impl Logs {
    /// Opens the record of the run in a directory.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub fn open(dir: &Path, wanted: Wanted, colour: bool) -> Result<Logs, LogError> {
        let path = dir.join(RECORD_FILE);
        let record = File::open(&path).map_err(|source| LogError::Record { path, source })?;
        // Two files for each instance are open at once.
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        Ok(Logs {
            dir: dir.to_owned(),
            wanted,
            replay: Replay::new(colour),
            record: Lines::new(record),
            files: BTreeMap::new(),
            ts: 0,
            over: false,
            unreadable: None,
        })
    }

    /// Writes everything there is; with `follow` also what comes, until the run is over or its client is gone.
    ///
    /// # Errors
    /// When the record can't be read or nothing can be written.
    pub fn write(&mut self, out: &mut dyn Write, follow: bool) -> Result<(), LogError> {
        loop {
            // Asked before reading: what is written until it is gone is read below.
            let going = is_going(&self.dir);
            while let Some(line) = self.record.next().map_err(|e| self.failed(e))? {
                // Half a line, after a crash, or a kind of event of another version is no reason to hide the rest.
                if let Ok(event) = serde_json::from_slice::<Event>(&line) {
                    self.on_event(&event, out)?;
                }
            }
            if self.over || !going {
                self.rest(out)?;
                return out.flush().map_err(LogError::Write);
            }
            out.flush().map_err(LogError::Write)?;
            if !follow {
                return Ok(());
            }
            let _ = rustix::event::poll(&mut [], Some(&LOOK));
        }
    }

    /// Whether the run's end has been shown.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The first file of an instance that couldn't be read, and why: then lines are missing.
    pub fn unreadable(&self) -> Option<&(PathBuf, io::Error)> {
        self.unreadable.as_ref()
    }

    fn on_event(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), LogError> {
        self.ts = event.ts;
        let mut whole = None;
        match &event.kind {
            EventKind::Output { instance, stream, line }
                if self.wanted.wants(instance) && self.wanted.wants_stream(*stream) =>
            {
                whole = self.catch_up(instance, *stream, Some(line), out)?;
            }
            EventKind::InstanceEnded { instance, .. } if self.wanted.wants(instance) => {
                self.rest_of(instance, out)?;
            }
            EventKind::RunFinished { .. } => {
                self.rest(out)?;
                self.over = true;
            }
            _ => {}
        }
        let mut shown = self.replay.on_event(event);
        if let (Some(whole), EventKind::Output { instance, stream, .. }) = (whole, &event.kind) {
            shown = vec![self.replay.output(event.ts, instance, *stream, &whole)];
        }
        shown.iter().try_for_each(|shown| self.show(shown, out))
    }

    /// Shows the lines of a file up to the one that the record has, and gives that one as the file has it. Without
    /// one, all that are left.
    fn catch_up(
        &mut self,
        instance: &InstanceName,
        stream: Stream,
        upto: Option<&str>,
        out: &mut dyn Write,
    ) -> Result<Option<String>, LogError> {
        let key = (instance.clone(), stream == Stream::Stderr);
        // Taken out, so that showing doesn't hold the list.
        let mut lines = match self.files.remove(&key) {
            Some(lines) => lines,
            None => self.open_file(instance, stream),
        };
        let mut found = None;
        if let Some(file) = &mut lines {
            loop {
                let line = match file.next() {
                    Ok(Some(line)) => line,
                    // Its end, without a newline, is a line when the record has it, or when there is no more to come.
                    Ok(None) => match file.unfinished(upto) {
                        Some(line) => line,
                        None => break,
                    },
                    Err(e) => {
                        self.unreadable.get_or_insert((file_path(&self.dir, instance, stream), e));
                        break;
                    }
                };
                if stream == Stream::Stdout && speech::line(&line) != speech::Line::Plain {
                    continue;
                }
                let text = String::from_utf8_lossy(&line).into_owned();
                if upto.is_some_and(|recorded| is_recorded(&line, recorded)) {
                    found = Some(text);
                    break;
                }
                let shown = self.replay.output(self.ts, instance, stream, &text);
                self.show(&shown, out)?;
            }
        }
        self.files.insert(key, lines);
        Ok(found)
    }

    /// What is left of an instance's files.
    fn rest_of(&mut self, instance: &InstanceName, out: &mut dyn Write) -> Result<(), LogError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.wanted.wants_stream(stream) {
                self.catch_up(instance, stream, None, out)?;
                // Read to its end: closed, and not opened again.
                self.files.insert((instance.clone(), stream == Stream::Stderr), None);
            }
        }
        Ok(())
    }

    /// What is left of all files that were begun.
    fn rest(&mut self, out: &mut dyn Write) -> Result<(), LogError> {
        let open = self.files.iter().filter(|(_, lines)| lines.is_some());
        let instances: Vec<InstanceName> = open.map(|((instance, _), _)| instance.clone()).collect();
        instances.iter().try_for_each(|instance| self.rest_of(instance, out))
    }

    fn open_file(&mut self, instance: &InstanceName, stream: Stream) -> Option<Lines> {
        let path = file_path(&self.dir, instance, stream);
        match File::open(&path) {
            Ok(file) => Some(Lines::new(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                self.unreadable.get_or_insert((path, e));
                None
            }
        }
    }

    fn show(&self, shown: &Shown, out: &mut dyn Write) -> Result<(), LogError> {
        if self.wanted.takes(shown) {
            out.write_all(shown.line.as_bytes()).map_err(LogError::Write)?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> LogError {
        LogError::Record { path: self.dir.join(RECORD_FILE), source }
    }
}

fn file_path(dir: &Path, instance: &InstanceName, stream: Stream) -> PathBuf {
    let name = if stream == Stream::Stdout { STDOUT_FILE } else { STDERR_FILE };
    instance_dir(dir, instance).join(name)
}

/// Whether a line of a file is the one that the record has.
fn is_recorded(line: &[u8], recorded: &str) -> bool {
    String::from_utf8_lossy(&line[..line.len().min(RECORDED)]) == recorded
}

/// The lines of a file that may be growing.
struct Lines {
    reader: BufReader<File>,
    /// A line that has no end yet; at most [`LONGEST`] of it.
    open: Vec<u8>,
}

// === impl Lines ===

impl Lines {
    fn new(file: File) -> Lines {
        Lines { reader: BufReader::new(file), open: Vec::new() }
    }

    /// The next line that has its end, without it.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = bytes.iter().position(|&b| b == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = LONGEST - self.open.len();
            self.open.extend_from_slice(&part[..part.len().min(room)]);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.open)));
            }
        }
    }

    /// The line without an end, if it is the recorded one, or if nothing else will come.
    fn unfinished(&mut self, recorded: Option<&str>) -> Option<Vec<u8>> {
        let is_line = !self.open.is_empty() && recorded.is_none_or(|r| is_recorded(&self.open, r));
        is_line.then(|| std::mem::take(&mut self.open))
    }
}

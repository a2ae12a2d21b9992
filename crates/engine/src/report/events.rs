//! The stream of events as JSON lines, for programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use testground_model::event::{Event, EventKind};
use testground_model::name::InstanceName;

/// Writes every event as one line of JSON, each at once, so that a follower sees it when it happens.
///
/// Lines of output are bounded like the files they are kept in; what is left out is said in a `warning` event.
pub struct EventLog {
    out: Box<dyn Write + Send>,
    most_output: u64,
    written: BTreeMap<InstanceName, Written>,
    failed: Option<io::Error>,
}

#[derive(Default)]
struct Written {
    bytes: u64,
    left_out: u64,
}

// === impl EventLog ===

impl EventLog {
    /// Writes to anything, at most `most_output` bytes of output lines for each instance.
    pub fn new(out: Box<dyn Write + Send>, most_output: u64) -> EventLog {
        EventLog { out, most_output, written: BTreeMap::new(), failed: None }
    }

    /// Writes to a file, or to standard output for `-`.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn create(path: &Path, most_output: u64) -> io::Result<EventLog> {
        let out: Box<dyn Write + Send> =
            if path == Path::new("-") { Box::new(io::stdout()) } else { Box::new(File::create(path)?) };
        Ok(EventLog::new(out, most_output))
    }

    /// Takes an event. A failure to write is kept for [`EventLog::finish`]; the run goes on.
    pub fn on_event(&mut self, event: &Event) {
        if let EventKind::Output { instance, line, .. } = &event.kind {
            if !self.written.contains_key(instance) {
                self.written.insert(instance.clone(), Written::default());
            }
            if let Some(written) = self.written.get_mut(instance) {
                written.bytes = written.bytes.saturating_add(line.len() as u64 + 1);
                if written.bytes > self.most_output {
                    written.left_out += 1;
                    return;
                }
            }
        }
        if matches!(event.kind, EventKind::RunFinished { .. }) {
            for (instance, written) in std::mem::take(&mut self.written) {
                if written.left_out > 0 {
                    let message =
                        format!("{} lines of {instance} are left out of these events", written.left_out);
                    let kind = EventKind::Warning { message };
                    self.write(&Event { ts: event.ts, run: event.run.clone(), kind });
                }
            }
        }
        self.write(event);
    }

    /// Ends the log.
    ///
    /// # Errors
    /// The first failure to write: then the log isn't whole.
    pub fn finish(mut self) -> io::Result<()> {
        self.failed.take().map_or_else(|| self.out.flush(), Err)
    }

    fn write(&mut self, event: &Event) {
        if self.failed.is_some() {
            return;
        }
        let written = serde_json::to_vec(event).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.out.write_all(&line)?;
            self.out.flush()
        });
        self.failed = written.err();
    }
}

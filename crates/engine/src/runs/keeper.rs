//! What a run writes about itself while it goes on: `run.jsonl` and `run.json`.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use testground_model::event::{Event, EventKind};
use testground_model::name::RunId;
use testground_model::run::Run;

use super::RECORD_FILE;
use super::info::{self, GroupInfo, RunInfo};
use crate::home::Home;
use crate::report::EventLog;

/// Keeps a run's record. For as long as it lives, the run counts as one that goes on.
pub struct Keeper {
    dir: PathBuf,
    run: String,
    runner: String,
    groups: Vec<GroupInfo>,
    log: EventLog,
    info: Option<RunInfo>,
    /// The first failure to write `run.json`.
    failed: Option<io::Error>,
}

// === impl Keeper ===

impl Keeper {
    /// Makes the run's directory and begins its record.
    ///
    /// # Errors
    /// When the directory or the record can't be made.
    pub fn open(home: &Home, run: &Run, id: &RunId) -> io::Result<Keeper> {
        let dir = home.outputs_dir(&run.runner, &run.plan, id);
        fs::create_dir_all(&dir)?;
        let record = File::create(dir.join(RECORD_FILE))?;
        // A file system without locks makes a run look as if nobody carried it out; it still runs.
        let _ = rustix::fs::flock(&record, FlockOperation::LockExclusive);
        let group =
            |g: &testground_model::run::Group| GroupInfo { id: g.id.clone(), instances: g.instances, ok: 0 };
        Ok(Keeper {
            dir,
            run: run.id.clone(),
            runner: run.runner.clone(),
            groups: run.groups.iter().map(group).collect(),
            log: EventLog::new(Box::new(record), run.settings.max_output),
            info: None,
            failed: None,
        })
    }

    /// Takes an event.
    pub fn on_event(&mut self, event: &Event) {
        self.log.on_event(event);
        match &event.kind {
            EventKind::RunQueued { .. } => {
                let groups = std::mem::take(&mut self.groups);
                self.info = RunInfo::begin(event, &self.run, &self.runner, groups);
                self.write();
            }
            EventKind::RunFinished { outcome, groups, seconds, emulator_late } => {
                if let Some(info) = &mut self.info {
                    info.end(outcome, groups, *seconds, *emulator_late, info::size(&self.dir));
                }
                self.write();
            }
            _ => {}
        }
    }

    /// Ends the record.
    ///
    /// # Errors
    /// The first failure to write: then the record isn't whole.
    pub fn finish(self) -> io::Result<()> {
        let finished = self.log.finish();
        self.failed.map_or(finished, Err)
    }

    fn write(&mut self) {
        if let Some(Err(e)) = self.info.as_ref().map(|info| info.write(&self.dir)) {
            self.failed.get_or_insert(e);
        }
    }
}

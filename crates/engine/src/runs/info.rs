//! `run.json`: what is known of a run without reading its events again.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use testground_model::event::{Event, EventKind};
use testground_model::name::RunId;
use testground_model::outcome::{EmulatorLate, GroupTally, RunOutcome};

use super::{RECORD_FILE, is_going};

/// The file's name in the run's directory.
pub const INFO_FILE: &str = "run.json";
/// The form of the file that this program writes.
const VERSION: u32 = 1;
/// The last event of a record is looked for in so many bytes at its end.
const TAIL: u64 = 1 << 20;

/// What is known of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The form of this record: 1.
    pub version: u32,
    /// The run's id.
    pub id: RunId,
    /// The plan.
    pub plan: String,
    /// The case.
    pub case: String,
    /// Which of the composition's runs it is.
    pub run: String,
    /// The runner.
    pub runner: String,
    /// How many instances.
    pub instances: u32,
    /// The seed in force.
    pub seed: u64,
    /// When it began, RFC 3339 in UTC, microseconds.
    pub began: String,
    /// Its groups, in the composition's order.
    pub groups: Vec<GroupInfo>,
    /// How it ended; missing while it goes on, and for ever when its client was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// A group of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its id in the run.
    pub id: String,
    /// How many instances.
    pub instances: u32,
    /// How many of them succeeded; 0 before the run's end.
    pub ok: u32,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// How, with its cause.
    #[serde(flatten)]
    pub outcome: RunOutcome,
    /// The exit code that belongs to it.
    pub exit_code: u8,
    /// From command to end, seconds.
    pub seconds: f64,
    /// Bytes on disk of all that it left.
    pub size: u64,
    /// What the outcome is to be read with, where the emulator was later than the run tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator_late: Option<EmulatorLate>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its client is still there.
    Going,
    /// It ended, and its record says how.
    Ended,
    /// Its client was killed before it could say how it ended.
    Lost,
}

// === impl RunInfo ===

impl RunInfo {
    /// Reads what is known of the run in a directory: its `run.json`, or the ends of its events where that is missing.
    ///
    /// # Errors
    /// When neither can be read.
    pub fn read(dir: &Path) -> io::Result<RunInfo> {
        let text = match fs::read(dir.join(INFO_FILE)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return from_record(dir),
            Err(e) => return Err(e),
        };
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// Writes it, so that a reader finds the old one or the new one and never a half.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let half = tempfile::Builder::new().prefix(".run-").suffix(".json").tempfile_in(dir)?;
        fs::write(half.path(), text)?;
        fs::set_permissions(half.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        half.persist(dir.join(INFO_FILE)).map_err(|e| e.error)?;
        Ok(())
    }

    /// Where the run is.
    pub fn state(&self, dir: &Path) -> State {
        match (&self.ended, is_going(dir)) {
            (Some(_), _) => State::Ended,
            (None, true) => State::Going,
            (None, false) => State::Lost,
        }
    }

    /// What the first event of a run tells.
    pub(super) fn begin(event: &Event, run: &str, runner: &str, groups: Vec<GroupInfo>) -> Option<RunInfo> {
        let EventKind::RunQueued { plan, case, instances, seed, .. } = &event.kind else { return None };
        Some(RunInfo {
            version: VERSION,
            id: event.run.clone(),
            plan: plan.clone(),
            case: case.clone(),
            run: run.to_owned(),
            runner: runner.to_owned(),
            instances: *instances,
            seed: *seed,
            began: moment(event.ts),
            groups,
            ended: None,
        })
    }

    /// What the last event tells.
    pub(super) fn end(
        &mut self,
        outcome: &RunOutcome,
        tallies: &[(String, GroupTally)],
        seconds: f64,
        emulator_late: Option<EmulatorLate>,
        size: u64,
    ) {
        self.groups = tallies
            .iter()
            .map(|(id, tally)| GroupInfo { id: id.clone(), instances: tally.total, ok: tally.ok })
            .collect();
        let exit_code = outcome.exit_code() as u8;
        self.ended = Some(Ended { outcome: outcome.clone(), exit_code, seconds, size, emulator_late });
    }
}

/// Bytes that everything below a directory takes on disk. What can't be read counts nothing.
pub(super) fn size(dir: &Path) -> u64 {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    below
        .map(|entry| match fs::symlink_metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => meta.blocks() * 512 + size(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// For a run that wrote no `run.json`, as those of earlier versions: the first event, and the last one if it is there.
fn from_record(dir: &Path) -> io::Result<RunInfo> {
    let path = dir.join(RECORD_FILE);
    let mut file = File::open(&path)?;
    let mut first = Vec::new();
    BufReader::new(&file).take(TAIL).read_until(b'\n', &mut first)?;
    let first: Event = serde_json::from_slice(&first)?;
    let runner = dir.ancestors().nth(2).and_then(Path::file_name).unwrap_or_default();
    let runner = runner.to_string_lossy().replacen('_', ":", 1);
    let mut info = RunInfo::begin(&first, "", &runner, Vec::new())
        .ok_or_else(|| io::Error::other(format!("{} does not begin with a run", path.display())))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let last = tail.split(|&b| b == b'\n').rev().find(|line| !line.is_empty()).unwrap_or_default();
    let last = serde_json::from_slice::<Event>(last).map(|event| event.kind);
    if let Ok(EventKind::RunFinished { outcome, groups, seconds, emulator_late }) = last {
        info.end(&outcome, &groups, seconds, emulator_late, size(dir));
    }
    Ok(info)
}

fn moment(ts: u64) -> String {
    let at = i64::try_from(ts / 1000).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    at.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ts: u64, kind: EventKind) -> Event {
        Event { ts, run: RunId::new(1, [0; 8]), kind }
    }

    fn queued() -> Event {
        let text = |t: &str| t.to_owned();
        event(
            1_500_000_000,
            EventKind::RunQueued {
                plan: text("p"),
                case: text("c"),
                instances: 2,
                outputs: text("/o"),
                seed: 7,
                command: Vec::new(),
            },
        )
    }

    fn failed() -> Event {
        let outcome = RunOutcome::Failure { cause: "g[1] exited with code 3".to_owned() };
        let groups = vec![("g".to_owned(), GroupTally { ok: 1, total: 2 })];
        event(2_000_000_000, EventKind::RunFinished { outcome, groups, seconds: 0.5, emulator_late: None })
    }

    #[test]
    fn a_run_json_is_read_as_it_was_written_and_says_the_outcome_in_a_word() {
        let t = tempfile::tempdir().expect("a directory");
        let mut info = RunInfo::begin(&queued(), "default", "local:exec", Vec::new()).expect("begun");
        info.write(t.path()).expect("written");
        assert_eq!(RunInfo::read(t.path()).expect("read"), info);
        assert_eq!(info.state(t.path()), State::Lost, "nobody holds the record");
        let outcome = RunOutcome::Failure { cause: "x".to_owned() };
        info.end(&outcome, &[("g".to_owned(), GroupTally { ok: 1, total: 2 })], 0.5, None, 4096);
        info.write(t.path()).expect("written");
        assert_eq!(RunInfo::read(t.path()).expect("read"), info);
        let raw: serde_json::Value =
            serde_json::from_slice(&fs::read(t.path().join(INFO_FILE)).expect("a file")).expect("JSON");
        assert_eq!(raw["began"], "1970-01-01T00:00:01.500000Z");
        assert_eq!(raw["ended"]["outcome"], "failure");
        assert_eq!((&raw["ended"]["exit_code"], &raw["groups"][0]["ok"]), (&1.into(), &1.into()));
        assert_eq!(fs::read_dir(t.path()).expect("a directory").count(), 1, "no half is left");
    }

    #[test]
    fn a_run_without_one_is_known_by_its_first_and_last_event() {
        let t = tempfile::tempdir().expect("a directory");
        let dir = t.path().join("local_exec/p/id");
        fs::create_dir_all(&dir).expect("a directory");
        let line = |e: &Event| serde_json::to_string(e).expect("JSON") + "\n";
        fs::write(dir.join(RECORD_FILE), line(&queued())).expect("a file");
        let info = RunInfo::read(&dir).expect("read");
        assert_eq!((info.runner.as_str(), info.seed, &info.ended), ("local:exec", 7, &None));
        fs::write(dir.join(RECORD_FILE), line(&queued()) + &line(&failed())).expect("a file");
        let info = RunInfo::read(&dir).expect("read");
        assert_eq!(info.groups, [GroupInfo { id: "g".to_owned(), instances: 2, ok: 1 }]);
        assert_eq!(info.ended.expect("ended").exit_code, 1);
        fs::write(dir.join(RECORD_FILE), "nonsense\n").expect("a file");
        assert!(RunInfo::read(&dir).is_err());
    }
}

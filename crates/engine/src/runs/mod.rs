//! Runs that left something on disk: how they are named, found, described and removed.
//!
//! A run's directory is `data/outputs/<runner>/<plan>/<run id>`. In it are `run.jsonl` (every event; locked for as long
//! as its client lives), `run.json` (what is known of the run, see [`RunInfo`]) and the outputs of its instances.
//! Labs that run are found by [`crate::lab::find`]; what a run's events mean belongs to `report`.

mod info;
mod keeper;
mod logs;
mod remove;

pub use self::info::{Ended, GroupInfo, INFO_FILE, RunInfo, State};
pub use self::keeper::Keeper;
pub use self::logs::{LogError, Logs, Wanted};
pub use self::remove::{RemoveError, Spare, remove, stale};

use std::fs;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use testground_model::event::{Event, EventKind};
use testground_model::name::RunId;

use crate::home::Home;

/// The file with every event of a run.
pub const RECORD_FILE: &str = "run.jsonl";

/// Most names in a suggestion.
const SUGGESTED: usize = 3;
/// How far a mistyped id may be off, in changes of one character.
const FAR: usize = 3;

/// A run that left something on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The run.
    pub id: RunId,
    /// Its directory.
    pub dir: PathBuf,
}

/// Why what was typed names no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// There are none at all.
    #[error("run {typed:?} is unknown: no run has left anything in {}", outputs.display())]
    NoRuns {
        /// What was typed.
        typed: String,
        /// Where runs leave what they leave.
        outputs: PathBuf,
    },
    /// No id begins so.
    #[error("run {typed:?} is unknown; {} (`testground runs list` has all)", suggestion(nearest, latest))]
    Unknown {
        /// What was typed.
        typed: String,
        /// Ids that are spelled nearly so.
        nearest: Vec<RunId>,
        /// The latest ones, for when none is near.
        latest: Vec<RunId>,
    },
    /// Several do.
    #[error("several runs begin with {typed:?}: {}", names(fitting))]
    Several {
        /// What was typed.
        typed: String,
        /// Which.
        fitting: Vec<RunId>,
    },
}

/// Every run that left something, oldest first. What can't be read is not there.
pub fn all(home: &Home) -> Vec<Kept> {
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let run = |dir: PathBuf| {
        let id = RunId::parse(dir.file_name()?.to_str()?)?;
        dir.is_dir().then_some(Kept { id, dir })
    };
    let mut found: Vec<Kept> =
        below(home.outputs()).flat_map(below).flat_map(below).filter_map(run).collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// The run that is meant: by its id, by how the id begins when only one does so, or `last` (or `latest`).
///
/// # Errors
/// Says which runs are near, or which ones begin so.
pub fn find(home: &Home, typed: &str) -> Result<Kept, FindError> {
    let mut all = all(home);
    let ids: Vec<RunId> = all.iter().map(|kept| kept.id.clone()).collect();
    if ids.is_empty() {
        return Err(FindError::NoRuns { typed: typed.to_owned(), outputs: home.outputs() });
    }
    choose(&ids, typed).map(|chosen| all.swap_remove(chosen))
}

/// Which of these ids, oldest first and not none, is meant.
///
/// # Errors
/// [`FindError::Unknown`] or [`FindError::Several`].
pub fn choose(ids: &[RunId], typed: &str) -> Result<usize, FindError> {
    if matches!(typed, "last" | "latest") && !ids.is_empty() {
        return Ok(ids.len() - 1);
    }
    let begins = |id: &RunId| !typed.is_empty() && id.as_str().starts_with(typed);
    let fitting: Vec<usize> = (0..ids.len()).filter(|&i| begins(&ids[i])).collect();
    match fitting[..] {
        [one] => Ok(one),
        [] => Err(FindError::Unknown {
            typed: typed.to_owned(),
            nearest: nearest(ids, typed),
            latest: ids.iter().rev().take(SUGGESTED).cloned().collect(),
        }),
        _ => {
            let fitting = fitting.iter().rev().map(|&i| ids[i].clone()).collect();
            Err(FindError::Several { typed: typed.to_owned(), fitting })
        }
    }
}

/// Whether the process that carries a run out is still there: it holds a lock on the record for as long as it lives.
pub fn is_going(dir: &Path) -> bool {
    let Ok(record) = fs::File::open(dir.join(RECORD_FILE)) else { return false };
    // The probe's own lock is gone when the file is closed, a moment later; whoever begins a run waits for that.
    let free = rustix::fs::flock(&record, FlockOperation::NonBlockingLockShared);
    matches!(free, Err(rustix::io::Errno::WOULDBLOCK))
}

/// Whether the run's lab came up, by what its record says; without a record it did not.
pub fn had_lab(dir: &Path) -> bool {
    let Ok(record) = fs::File::open(dir.join(RECORD_FILE)) else { return false };
    let lines = io::BufReader::new(record).lines().map_while(Result::ok);
    let mut kinds =
        lines.filter_map(|line| serde_json::from_str::<Event>(&line).ok()).map(|event| event.kind);
    kinds.any(|kind| matches!(kind, EventKind::LabStarted { .. }))
}

fn nearest(ids: &[RunId], typed: &str) -> Vec<RunId> {
    let mut near: Vec<(usize, &RunId)> = ids
        .iter()
        .map(|id| (strsim::damerau_levenshtein(&typed.to_lowercase(), id.as_str()), id))
        .filter(|(off, _)| *off <= FAR)
        .collect();
    near.sort();
    near.into_iter().take(SUGGESTED).map(|(_, id)| id.clone()).collect()
}

fn suggestion(nearest: &[RunId], latest: &[RunId]) -> String {
    match nearest {
        [] => format!("the latest are {}", names(latest)),
        near => format!("did you mean {}?", names(near)),
    }
}

/// A few ids, and how many more.
fn names(ids: &[RunId]) -> String {
    const MOST: usize = 6;
    let shown: Vec<&str> = ids.iter().take(MOST).map(RunId::as_str).collect();
    let more = ids.len().saturating_sub(MOST);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<RunId> {
        ["dc0ktn09duh5ig50e930", "dc0ktp00000000000000", "dc1aaaaaaaaaaaaaaaa0"]
            .map(|t| RunId::parse(t).expect("an id"))
            .to_vec()
    }

    #[test]
    fn a_run_is_named_by_its_id_its_beginning_or_as_the_last_one() {
        let ids = ids();
        for (typed, index) in
            [("last", 2), ("latest", 2), ("dc1", 2), ("dc0ktn09duh5ig50e930", 0), ("dc0ktp", 1)]
        {
            assert_eq!(choose(&ids, typed), Ok(index), "{typed}");
        }
        let several = choose(&ids, "dc0k").expect_err("two begin so").to_string();
        assert_eq!(several, "several runs begin with \"dc0k\": dc0ktp00000000000000, dc0ktn09duh5ig50e930");
        let near = choose(&ids, "dc0ktn09duh5jg50e93").expect_err("misspelt").to_string();
        assert!(near.contains("did you mean dc0ktn09duh5ig50e930?"), "{near}");
        for far in ["zzz", ""] {
            let far = choose(&ids, far).expect_err("unknown").to_string();
            assert!(far.contains("the latest are dc1aaaaaaaaaaaaaaaa0, dc0ktp"), "{far}");
        }
    }

    #[test]
    fn runs_are_found_below_every_runner_and_plan_and_nothing_else_is() {
        let t = tempfile::tempdir().expect("a directory");
        let home = Home::at(t.path()).expect("a home");
        assert!(matches!(find(&home, "last"), Err(FindError::NoRuns { .. })));
        for (runner, plan, id) in [("local:exec", "a/b", 2), ("local:docker", "c", 1)] {
            let dir = home.outputs_dir(runner, plan, &RunId::new(id, [0; 8]));
            fs::create_dir_all(&dir).expect("a directory");
        }
        fs::create_dir_all(home.outputs().join("local_exec/a-b/notes")).expect("a directory");
        let found = all(&home);
        assert_eq!(
            found.iter().map(|k| k.id.clone()).collect::<Vec<_>>(),
            [1, 2].map(|s| RunId::new(s, [0; 8]))
        );
        let last = find(&home, "last").expect("the last one");
        assert_eq!(last.dir, home.outputs_dir("local:exec", "a/b", &last.id));
    }

    #[test]
    fn a_run_goes_on_for_as_long_as_its_record_is_locked() {
        let t = tempfile::tempdir().expect("a directory");
        assert!(!is_going(t.path()), "there is no record");
        let record = fs::File::create(t.path().join(RECORD_FILE)).expect("a file");
        assert!(!is_going(t.path()));
        rustix::fs::flock(&record, FlockOperation::LockExclusive).expect("a lock");
        assert!(is_going(t.path()));
        drop(record);
        assert!(!is_going(t.path()));
    }
}

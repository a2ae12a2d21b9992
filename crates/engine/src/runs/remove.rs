//! Removing what runs left. A run that goes on is never touched.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use testground_model::name::RunId;

use super::{Kept, RECORD_FILE, RunInfo, State};
use crate::lab;

/// Why a run is still there.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It goes on.
    #[error("run {0} is still going; end it first (Ctrl-C where it was started)")]
    Going(RunId),
    /// A file can't be removed.
    #[error("failed to remove {}: {source}{}", path.display(), hint(source))]
    Io {
        /// The run's directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Which runs stay when others go. A run that fits any part that is set goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    /// Runs younger than this stay.
    pub younger: Option<Duration>,
    /// The latest so many stay.
    pub latest: Option<usize>,
    /// The latest ones that fit into so many bytes together stay.
    pub bytes: Option<u64>,
}

/// Removes all that a run left.
///
/// # Errors
/// When it goes on, or something can't be removed; then part of it may be gone.
pub fn remove(kept: &Kept) -> Result<(), RemoveError> {
    let failed = |source| RemoveError::Io { path: kept.dir.clone(), source };
    // Held until everything is gone. Nobody begins a run with an id that exists.
    let record = File::open(kept.dir.join(RECORD_FILE));
    let locked = record.as_ref().map(|r| rustix::fs::flock(r, FlockOperation::NonBlockingLockExclusive));
    let going = matches!(locked, Ok(Err(rustix::io::Errno::WOULDBLOCK)));
    if going || lab::find::running().iter().any(|lab| lab.id == kept.id) {
        return Err(RemoveError::Going(kept.id.clone()));
    }
    match fs::remove_dir_all(&kept.dir) {
        // A directory that its owner may not write, as Go's module cache has them.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(&kept.dir);
            fs::remove_dir_all(&kept.dir).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// The runs that are to go, oldest first: those that have ended and that nothing spares. `now` is in seconds since 1970.
pub fn stale(runs: &[(Kept, RunInfo)], spare: &Spare, now: i64) -> Vec<Kept> {
    let mut kept_bytes = 0_u64;
    let mut full = false;
    let mut go = Vec::new();
    for (place, (kept, info)) in runs.iter().rev().enumerate() {
        let state = info.state(&kept.dir);
        let size = match (&info.ended, state) {
            (Some(ended), _) => ended.size,
            (None, State::Going) => 0,
            (None, _) => super::info::size(&kept.dir),
        };
        kept_bytes = kept_bytes.saturating_add(size);
        full |= spare.bytes.is_some_and(|most| kept_bytes > most);
        let began: Option<jiff::Timestamp> = info.began.parse().ok();
        let age = began.map_or(0, |began| now.saturating_sub(began.as_second()));
        let old = spare.younger.is_some_and(|least| age >= 0 && age as u64 >= least.as_secs());
        let many = spare.latest.is_some_and(|most| place >= most);
        if (old || many || full) && state != State::Going {
            go.push(kept.clone());
        }
    }
    go.reverse();
    go
}

/// Gives the owner of every directory the right to change it. Links are not followed.
fn open_up(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (files of other users, such as those of a run by root, only they or root can remove)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use testground_model::outcome::RunOutcome;

    use super::super::Ended;
    use super::*;

    fn run(dir: &Path, began: u32, size: Option<u64>) -> (Kept, RunInfo) {
        let id = RunId::new(began, [0; 8]);
        let kept = Kept { dir: dir.join(id.as_str()), id: id.clone() };
        fs::create_dir_all(kept.dir.join("g/0")).expect("a directory");
        let ended = size.map(|size| Ended {
            outcome: RunOutcome::Success,
            exit_code: 0,
            seconds: 1.0,
            size,
            emulator_late: None,
        });
        let began = jiff::Timestamp::from_second(began.into()).expect("a time").to_string();
        let text = |t: &str| t.to_owned();
        let (plan, case, run, runner) = (text("p"), text("c"), text("default"), text("local:exec"));
        let (groups, instances) = (Vec::new(), 1);
        let info =
            RunInfo { version: 1, id, plan, case, run, runner, instances, seed: 0, began, groups, ended };
        (kept, info)
    }

    #[test]
    fn what_is_old_or_too_much_goes_and_what_goes_on_stays() {
        let t = tempfile::tempdir().expect("a directory");
        let runs = [
            run(t.path(), 1000, Some(100)),
            run(t.path(), 2000, None),
            run(t.path(), 3000, Some(100)),
            run(t.path(), 4000, Some(100)),
        ];
        let record = File::create(runs[1].0.dir.join(RECORD_FILE)).expect("a file");
        rustix::fs::flock(&record, FlockOperation::LockExclusive).expect("a lock");
        let began = |spare: Spare| -> Vec<RunId> {
            stale(&runs, &spare, 4100).into_iter().map(|kept| kept.id).collect()
        };
        let id = |began| RunId::new(began, [0; 8]);
        let none = Spare::default();
        assert_eq!(began(none), []);
        let younger = Some(Duration::from_secs(1100));
        assert_eq!(began(Spare { younger, ..none }), [id(1000), id(3000)]);
        assert_eq!(began(Spare { latest: Some(1), ..none }), [id(1000), id(3000)]);
        assert_eq!(began(Spare { bytes: Some(250), ..none }), [id(1000)]);
        assert_eq!(began(Spare { bytes: Some(99), ..none }), [id(1000), id(3000), id(4000)]);
        drop(record);
        assert_eq!(began(Spare { latest: Some(0), ..none }).len(), 4, "a lost run goes like any other");
    }

    #[test]
    fn everything_goes_also_what_its_owner_may_not_write_and_nothing_behind_a_link() {
        let t = tempfile::tempdir().expect("a directory");
        let (kept, _) = run(t.path(), 1, None);
        let outside = t.path().join("outside");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("file"), "").expect("a file");
        std::os::unix::fs::symlink(&outside, kept.dir.join("link")).expect("a link");
        fs::write(kept.dir.join("g/0/file"), "").expect("a file");
        fs::set_permissions(kept.dir.join("g/0"), fs::Permissions::from_mode(0o500)).expect("a mode");
        let record = File::create(kept.dir.join(RECORD_FILE)).expect("a file");
        rustix::fs::flock(&record, FlockOperation::LockExclusive).expect("a lock");
        assert!(matches!(remove(&kept), Err(RemoveError::Going(_))));
        assert!(kept.dir.join("g/0/file").exists());
        drop(record);
        remove(&kept).expect("removed");
        assert!(!kept.dir.exists() && outside.join("file").exists());
    }
}

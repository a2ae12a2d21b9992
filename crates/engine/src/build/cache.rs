//! Artifacts that are kept: a directory for each hash of sources, settings and tools.
//!
//! A directory appears under its name by a rename, when everything in it is written: what exists is whole. One build
//! of a hash at a time is kept by a lock on a file beside it, which the kernel gives back however its owner ends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Artifact, BuildError, io_error};

/// What an artifact directory says about itself; its time of change is when it was last used.
const RECIPE_FILE: &str = "artifact.json";
/// Artifacts that nobody used for this long are removed.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often a lock that somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The place of one hash.
pub(super) struct Slot {
    builds: PathBuf,
    key: String,
}

/// The sole right to build a hash; given back when dropped.
pub(super) struct Held<'a> {
    slot: &'a Slot,
    _lock: File,
}

/// How the program in an artifact directory is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// Relative to the directory, or absolute.
    pub(super) program: PathBuf,
    /// Arguments.
    pub(super) args: Vec<String>,
}

// === impl Slot ===

impl Slot {
    /// The place of a key below the home's work directory.
    pub(super) fn new(work: &Path, key: String) -> Slot {
        Slot { builds: work.join("builds"), key }
    }

    /// The finished artifact, if there is one.
    pub(super) fn artifact(&self) -> Option<Artifact> {
        let dir = self.dir();
        let recipe = dir.join(RECIPE_FILE);
        let Recipe { program, args } = serde_json::from_slice(&fs::read(&recipe).ok()?).ok()?;
        let program = dir.join(program);
        // Somebody may have tidied up by hand.
        if !program.is_file() {
            return None;
        }
        // Only a hint for tidying up: a cache that can be read and not written still serves.
        let _ = File::options().append(true).open(&recipe).and_then(|f| f.set_modified(SystemTime::now()));
        Some(Artifact { program, args, dir })
    }

    /// Waits for the sole right to build this key.
    pub(super) async fn hold(&self) -> Result<Held<'_>, BuildError> {
        fs::create_dir_all(&self.builds).map_err(|e| io_error("make", &self.builds, e))?;
        let path = self.lock_path();
        loop {
            let lock = try_lock(&path).map_err(|e| io_error("lock", &path, e))?;
            if let Some(lock) = lock {
                return Ok(Held { slot: self, _lock: lock });
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn dir(&self) -> PathBuf {
        self.builds.join(&self.key)
    }

    fn lock_path(&self) -> PathBuf {
        self.builds.join(format!("{}.lock", self.key))
    }
}

// === impl Held ===

impl Held<'_> {
    /// An empty directory to build in; it goes when it is dropped. Ones that a killed build left are removed first.
    pub(super) fn scratch(&self) -> Result<TempDir, BuildError> {
        let (builds, prefix) = (&self.slot.builds, format!(".{}-", self.slot.key));
        for left in fs::read_dir(builds).map_err(|e| io_error("read", builds, e))?.flatten() {
            if left.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(left.path()).map_err(|e| io_error("remove", &left.path(), e))?;
            }
        }
        tempfile::Builder::new().prefix(&prefix).tempdir_in(builds).map_err(|e| io_error("make", builds, e))
    }

    /// Makes `whole`, a directory inside of a scratch directory, the artifact of this key.
    pub(super) fn keep(&self, whole: &Path, recipe: &Recipe) -> Result<Artifact, BuildError> {
        let file = whole.join(RECIPE_FILE);
        let text = serde_json::to_vec(recipe).map_err(|e| io_error("write", &file, e.into()))?;
        fs::write(&file, text).map_err(|e| io_error("write", &file, e))?;
        let dir = self.slot.dir();
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|e| io_error("replace", &dir, e))?;
        }
        fs::rename(whole, &dir).map_err(|e| io_error("put in place", &dir, e))?;
        prune(&self.slot.builds, SystemTime::now());
        Ok(Artifact { program: dir.join(&recipe.program), args: recipe.args.clone(), dir })
    }
}

/// Directories that killed builds left: those whose key nobody holds.
pub(super) fn leftovers(work: &Path) -> Vec<PathBuf> {
    let builds = work.join("builds");
    let abandoned = |name: &str| {
        let key = name.strip_prefix('.').and_then(|rest| rest.split_once('-')).map(|(key, _)| key);
        key.is_some_and(|key| matches!(try_lock(&builds.join(format!("{key}.lock"))), Ok(Some(_))))
    };
    let entries = fs::read_dir(&builds).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.path().is_dir() && e.file_name().to_str().is_some_and(abandoned));
    dirs.map(|e| e.path()).collect()
}

/// Removes artifacts that nobody used for long. What can't be removed stays, and costs only room.
fn prune(builds: &Path, now: SystemTime) {
    for found in fs::read_dir(builds).into_iter().flatten().flatten() {
        let Ok(meta) = fs::metadata(found.path().join(RECIPE_FILE)) else { continue };
        let unused = meta.modified().ok().and_then(|used| now.duration_since(used).ok());
        if unused.is_none_or(|unused| unused < KEPT_UNUSED) {
            continue;
        }
        let lock_path = found.path().with_extension("lock");
        if let Ok(Some(_lock)) = try_lock(&lock_path) {
            let _ = fs::remove_dir_all(found.path());
            let _ = fs::remove_file(&lock_path);
        }
    }
}

/// The lock, or `None` when somebody holds it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    // Whoever tidied up may have removed the file between the two calls: then this lock keeps nobody out.
    let same = fs::metadata(path).is_ok_and(|at| file.metadata().is_ok_and(|own| at.ino() == own.ino()));
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path) -> Recipe {
        fs::write(dir.join("bin"), "").unwrap();
        Recipe { program: "bin".into(), args: vec!["-v".into()] }
    }

    #[tokio::test]
    async fn only_what_was_put_in_place_is_an_artifact() {
        let t = tempfile::tempdir().unwrap();
        let slot = Slot::new(t.path(), "k".into());
        assert_eq!(slot.artifact(), None);
        {
            let held = slot.hold().await.unwrap();
            let half = held.scratch().unwrap();
            program(half.path());
            assert_eq!(slot.artifact(), None);
            assert!(leftovers(t.path()).is_empty(), "it is being built");
            // As if the client had been killed: nobody removes the directory.
            let half = half.keep();
            drop(held);
            assert_eq!(leftovers(t.path()), [half]);
        }
        let held = slot.hold().await.unwrap();
        let scratch = held.scratch().unwrap();
        let left = fs::read_dir(t.path().join("builds")).unwrap().flatten();
        assert_eq!(left.filter(|e| e.path().is_dir()).count(), 1, "the half-written one is gone");
        let whole = scratch.path().join("whole");
        fs::create_dir(&whole).unwrap();
        let made = held.keep(&whole, &program(&whole)).unwrap();
        assert_eq!(slot.artifact(), Some(made));
    }

    #[tokio::test(start_paused = true)]
    async fn one_build_of_a_key_at_a_time() {
        let t = tempfile::tempdir().unwrap();
        let slot = Slot::new(t.path(), "k".into());
        let first = slot.hold().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(5), slot.hold()).await.is_err());
        assert!(Slot::new(t.path(), "another".into()).hold().await.is_ok());
        drop(first);
        assert!(tokio::time::timeout(Duration::from_secs(5), slot.hold()).await.is_ok());
    }

    #[tokio::test]
    async fn what_nobody_used_for_long_goes_and_the_rest_stays() {
        let t = tempfile::tempdir().unwrap();
        for key in ["old", "new"] {
            let slot = Slot::new(t.path(), key.into());
            let held = slot.hold().await.unwrap();
            let scratch = held.scratch().unwrap();
            let whole = scratch.path().join("whole");
            fs::create_dir(&whole).unwrap();
            held.keep(&whole, &program(&whole)).unwrap();
        }
        let builds = t.path().join("builds");
        let long_ago = SystemTime::now() - KEPT_UNUSED - Duration::from_secs(60);
        File::options()
            .append(true)
            .open(builds.join("old").join(RECIPE_FILE))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        prune(&builds, SystemTime::now());
        assert!(!builds.join("old").exists() && !builds.join("old.lock").exists());
        assert!(builds.join("new").exists());
    }
}

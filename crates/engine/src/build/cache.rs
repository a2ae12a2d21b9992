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
/// What most builders call their program.
pub(super) const PROGRAM: &str = "plan";
/// Artifacts that nobody used for this long are removed.
const KEPT_UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often a lock that somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The place of one hash.
#[derive(Clone)]
pub(super) struct Slot {
    builds: PathBuf,
    key: String,
}

/// The sole right to build a hash; given back when dropped.
pub(super) struct Held {
    slot: Slot,
    _lock: File,
}

/// What became of a claim to build a hash.
pub(super) enum Claim {
    /// It is there already.
    Made(Artifact),
    /// It is to be built by whoever claimed it.
    Mine(Held),
}

/// How the program in an artifact directory is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recipe {
    /// Relative to the directory, or absolute.
    pub(super) program: PathBuf,
    /// Arguments.
    pub(super) args: Vec<String>,
    /// The builder that made it.
    #[serde(default)]
    pub(super) builder: String,
    /// The directory of the plan that it was made of.
    #[serde(default)]
    pub(super) plan: PathBuf,
}

// === impl Recipe ===

impl Recipe {
    /// What most builders make: one program, called `plan`, that is started without arguments.
    pub(super) fn of(builder: &str, plan: &Path) -> Recipe {
        let (builder, plan) = (builder.to_owned(), plan.to_owned());
        Recipe { program: PROGRAM.into(), args: Vec::new(), builder, plan }
    }
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
        let Recipe { program, args, .. } = serde_json::from_slice(&fs::read(&recipe).ok()?).ok()?;
        let program = dir.join(program);
        // Somebody may have tidied up by hand.
        if !program.is_file() {
            return None;
        }
        // Only a hint for tidying up: a cache that can be read and not written still serves.
        let _ = File::options().append(true).open(&recipe).and_then(|f| f.set_modified(SystemTime::now()));
        Some(Artifact { program, args, dir })
    }

    /// The artifact of this key, or the sole right to make it, for which others are waited for.
    pub(super) async fn claim(&self, timeout: Duration) -> Result<Claim, BuildError> {
        if let Some(artifact) = self.artifact() {
            return Ok(Claim::Made(artifact));
        }
        let held = self.hold(timeout).await?;
        // Whoever had it before may have made it.
        Ok(self.artifact().map_or(Claim::Mine(held), Claim::Made))
    }

    /// Waits for the sole right to build this key.
    pub(super) async fn hold(&self, timeout: Duration) -> Result<Held, BuildError> {
        fs::create_dir_all(&self.builds).map_err(|e| io_error("make", &self.builds, e))?;
        Ok(Held { slot: self.clone(), _lock: lock(&self.lock_path(), timeout).await? })
    }

    fn dir(&self) -> PathBuf {
        self.builds.join(&self.key)
    }

    fn lock_path(&self) -> PathBuf {
        self.builds.join(format!("{}.lock", self.key))
    }
}

// === impl Held ===

impl Held {
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

/// Removes the artifacts that a builder made of a plan; says how many, and how many bytes. One that is being built
/// stays.
pub(super) fn purge(work: &Path, builder: &str, plan: &Path) -> Result<(usize, u64), BuildError> {
    let builds = work.join("builds");
    let (mut count, mut bytes) = (0, 0);
    for found in fs::read_dir(&builds).into_iter().flatten().flatten() {
        let dir = found.path();
        let read = fs::read(dir.join(RECIPE_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let is_its = |recipe: &Recipe| recipe.builder == builder && recipe.plan == plan;
        if !read.as_ref().is_some_and(is_its) {
            continue;
        }
        let lock_path = dir.with_extension("lock");
        if let Some(_lock) = try_lock(&lock_path).map_err(|e| io_error("lock", &lock_path, e))? {
            bytes += size(&dir);
            fs::remove_dir_all(&dir).map_err(|e| io_error("remove", &dir, e))?;
            fs::remove_file(&lock_path).map_err(|e| io_error("remove", &lock_path, e))?;
            count += 1;
        }
    }
    Ok((count, bytes))
}

/// The bytes of all files below a directory; what can't be read has none.
pub(super) fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Waits for a lock, as long as `timeout`.
pub(super) async fn lock(path: &Path, timeout: Duration) -> Result<File, BuildError> {
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        if let Some(lock) = try_lock(path).map_err(|e| io_error("lock", path, e))? {
            return Ok(lock);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(BuildError::Busy { path: path.to_owned(), seconds: timeout.as_secs() });
        }
        tokio::time::sleep(RETRY).await;
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

    const PATIENCE: Duration = Duration::from_secs(5);

    fn program(dir: &Path) -> Recipe {
        fs::write(dir.join("bin"), "").unwrap();
        Recipe {
            program: "bin".into(),
            args: vec!["-v".into()],
            builder: "exec:go".into(),
            plan: "/plan".into(),
        }
    }

    #[tokio::test]
    async fn only_what_was_put_in_place_is_an_artifact() {
        let t = tempfile::tempdir().unwrap();
        let slot = Slot::new(t.path(), "k".into());
        assert_eq!(slot.artifact(), None);
        {
            let held = slot.hold(PATIENCE).await.unwrap();
            let half = held.scratch().unwrap();
            program(half.path());
            assert_eq!(slot.artifact(), None);
            assert!(leftovers(t.path()).is_empty(), "it is being built");
            // As if the client had been killed: nobody removes the directory.
            let half = half.keep();
            drop(held);
            assert_eq!(leftovers(t.path()), [half]);
        }
        let held = slot.hold(PATIENCE).await.unwrap();
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
        let first = slot.hold(PATIENCE).await.unwrap();
        let busy = slot.hold(PATIENCE).await.err().expect("it is held").to_string();
        assert!(busy.contains("k.lock") && busy.contains("5 s"), "{busy}");
        assert!(Slot::new(t.path(), "another".into()).hold(PATIENCE).await.is_ok());
        drop(first);
        assert!(matches!(slot.claim(PATIENCE).await, Ok(Claim::Mine(_))));
    }

    #[tokio::test]
    async fn what_nobody_used_for_long_goes_and_the_rest_stays() {
        let t = tempfile::tempdir().unwrap();
        for key in ["old", "new"] {
            let slot = Slot::new(t.path(), key.into());
            let held = slot.hold(PATIENCE).await.unwrap();
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

    #[tokio::test]
    async fn a_purge_takes_what_one_builder_made_of_one_plan() {
        let t = tempfile::tempdir().unwrap();
        for (key, builder, plan) in
            [("a", "exec:go", "/plan"), ("b", "exec:go", "/other"), ("c", "exec:rust", "/plan")]
        {
            let held = Slot::new(t.path(), key.into()).hold(PATIENCE).await.unwrap();
            let scratch = held.scratch().unwrap();
            let whole = scratch.path().join("whole");
            fs::create_dir(&whole).unwrap();
            let recipe = Recipe { builder: builder.into(), plan: plan.into(), ..program(&whole) };
            fs::write(whole.join("bin"), [0; 1000]).unwrap();
            held.keep(&whole, &recipe).unwrap();
        }
        let (count, bytes) = purge(t.path(), "exec:go", Path::new("/plan")).unwrap();
        assert!(count == 1 && (1000..2000).contains(&bytes), "{count} {bytes}");
        let left = |key: &str| t.path().join("builds").join(key).exists();
        assert_eq!([left("a"), left("b"), left("c")], [false, true, true]);
    }
}

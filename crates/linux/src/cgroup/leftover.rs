//! Cgroups that dead runs have left: found by their name, in whichever cgroup the run was started, and known to be dead by the
//! lock that nobody holds.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{CgroupError, PREFIX, empty, lock, open, place, refused, rmdir};
use crate::process;

/// How deep cgroups are looked into: containers in services in slices need five.
const DEPTH: u32 = 8;

/// The directories that dead runs have left and this user may remove.
pub fn find() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for hierarchy in place::hierarchies(&mountinfo) {
        let useful =
            hierarchy.v1.as_ref().is_none_or(|names| names.iter().any(|n| n == "memory" || n == "cpu"));
        if useful {
            look(&hierarchy.at, DEPTH, &mut found);
        }
    }
    found.sort();
    found
}

/// How long somebody else who removes the same one is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes one of those. One that is gone already is removed.
///
/// # Errors
/// When its run lives after all, something else runs in it, or it is not this user's.
#[allow(clippy::disallowed_methods, reason = "a lock can't be waited for with an end")]
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + PATIENCE;
    let _dir = loop {
        let dir = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(refused("open", path))?,
        };
        if lock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            break dir;
        }
        if Instant::now() >= deadline {
            return Err(CgroupError {
                what: "remove",
                path: path.to_owned(),
                source: io::Error::new(io::ErrorKind::WouldBlock, "its run lives"),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let now = Instant::now();
    empty(path, now).and(rmdir(path, now))
}

fn look(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            if is_dead(&path) {
                found.push(path);
            }
        } else if depth > 1 {
            look(&path, depth - 1, found);
        }
    }
}

/// Whether nobody holds it, and it is this user's to remove.
fn is_dead(path: &Path) -> bool {
    let (user, _) = process::ids();
    if user != 0 && fs::metadata(path).map_or(true, |there| there.uid() != user) {
        return false;
    }
    // The lock is given up with the descriptor.
    open(path).is_ok_and(|dir| lock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok())
}

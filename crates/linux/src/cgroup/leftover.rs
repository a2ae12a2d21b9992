//! Cgroups that dead runs have left: found by their name, in whichever cgroup the run was started, and known to be dead by the
//! lock that nobody holds.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

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

/// Removes one of those.
///
/// # Errors
/// When its run lives after all, something else runs in it, or it is not this user's.
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    let dir = open(path).map_err(refused("open", path))?;
    lock(dir.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|_| CgroupError {
        what: "remove",
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::WouldBlock, "its run lives"),
    })?;
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

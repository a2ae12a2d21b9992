//! Control groups of a run: how much memory and processor time each of its instances gets, by version 1 or 2 of the kernel's
//! interface (cgroups(7)).
//!
//! A [`Room`] is a directory of the run's own in each hierarchy that it needs, with one directory below it for each instance
//! that has a limit. Where on this machine it can be is found by [`place`]; what dead runs left, by [`leftover`].

mod leftover;
mod place;

pub use leftover::{find, remove};

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::vmstat;

/// What the directories of runs are called: this, and the run's id. No other thing of this project is called so.
pub const PREFIX: &str = "testground-run-";

/// Something of which a cgroup can have a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
}

/// The limits of one instance. What is none is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, swap included.
    pub memory: Option<u64>,
    /// Thousandths of a processor; at least 1.
    pub cpu_millis: Option<u64>,
}

/// Why a controller can't be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Which.
    pub controller: Controller,
    /// What the machine lacks, and where.
    pub reason: String,
}

/// A file or directory of a hierarchy that could not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {}", path.display())]
pub struct CgroupError {
    /// `make`, `write` or the like.
    pub what: &'static str,
    /// Which.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The cgroups of one run.
///
/// Each directory is held open and locked: the lock tells a sweep that the run lives, and lasts until every process that got
/// the descriptor has closed it. All work goes by the descriptors, so that it can be done from a mount namespace in which
/// the hierarchies can't be seen.
#[derive(Debug)]
pub struct Room {
    name: String,
    trees: Vec<OwnedFd>,
}

// === impl Room ===

impl Room {
    /// Makes a room for the run `id` with these controllers, as far as this machine and user have them.
    pub fn make(id: &str, wanted: &[Controller]) -> (Option<Room>, Vec<Lack>) {
        let name = format!("{PREFIX}{id}");
        let (made, lacks) = place::make(&name, wanted);
        let room = (!made.is_empty()).then_some(Room { name, trees: made });
        (room, lacks)
    }

    /// The room that another process made, by the descriptors it gave away.
    pub fn from_fds(id: &str, trees: Vec<OwnedFd>) -> Option<Room> {
        (!trees.is_empty()).then(|| Room { name: format!("{PREFIX}{id}"), trees })
    }

    /// A descriptor of each of its directories.
    ///
    /// # Errors
    /// When this process may open no more descriptors.
    pub fn fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.trees.iter().map(OwnedFd::try_clone).collect()
    }

    /// Adds a cgroup for an instance, and sets its limits. A limit whose controller the room lacks is left out.
    ///
    /// # Errors
    /// What the kernel refuses, such as a limit that it finds too small.
    pub fn add(&self, instance: &str, limits: &Limits) -> Result<(), CgroupError> {
        for tree in &self.trees {
            let room = path_of(tree);
            let leaf = room.join(instance);
            // What the hierarchy has can be seen by its files only in a child of the root.
            fs::create_dir(&leaf).or_else(exists).map_err(refused("make", &leaf))?;
            for (file, value) in settings(&leaf, limits) {
                let path = leaf.join(file);
                fs::write(&path, &value).map_err(refused("write", &path))?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into an instance's cgroup; what it starts from then on belongs there too.
    ///
    /// # Errors
    /// When there is no such cgroup, or this process may not enter it.
    pub fn enter(&self, instance: &str) -> Result<(), CgroupError> {
        for tree in &self.trees {
            let procs = path_of(tree).join(instance).join("cgroup.procs");
            fs::write(&procs, "0").map_err(refused("write", &procs))?;
        }
        Ok(())
    }

    /// How many processes of an instance the kernel has killed for want of memory.
    pub fn oom_kills(&self, instance: &str) -> u64 {
        let leaves = self.trees.iter().map(|tree| path_of(tree).join(instance));
        leaves.filter_map(|leaf| vmstat::cgroup_oom_kills(&leaf).ok()).sum()
    }

    /// Where its directories are, as this process sees them.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.trees.iter().filter_map(|tree| fs::read_link(path_of(tree)).ok()).collect()
    }

    /// Removes it. To be called when its processes have ended; one that is still on its way out is waited for, but no
    /// longer than `patience`.
    ///
    /// # Errors
    /// The first directory that stays; the others are removed all the same.
    pub fn remove(self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        let mut first = Ok(());
        for tree in &self.trees {
            let room = path_of(tree);
            first = first.and(empty(&room, deadline)).and(rmdir(&room.join("..").join(&self.name), deadline));
        }
        first
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Controller {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Cpu];

    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// The files of a cgroup that set these limits, and what is written to them, in order.
///
/// Version 1: `Documentation/admin-guide/cgroup-v1/memory.rst` and `scheduler/sched-bwc.rst`; version 2: `cgroup-v2.rst`.
fn settings(leaf: &Path, limits: &Limits) -> Vec<(&'static str, String)> {
    let has = |file: &&str| leaf.join(file).exists();
    let mut all = Vec::new();
    if let Some(bytes) = limits.memory {
        // The limit of memory and swap together can't be below that of memory, so it comes second.
        for file in
            ["memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"].into_iter().filter(has)
        {
            all.push((file, bytes.to_string()));
        }
        if has(&"memory.swap.max") {
            all.push(("memory.swap.max", "0".to_owned()));
        }
    }
    if let Some(millis) = limits.cpu_millis {
        let (quota, period) = bandwidth(millis);
        if has(&"cpu.max") {
            all.push(("cpu.max", format!("{quota} {period}")));
        }
        if has(&"cpu.cfs_quota_us") {
            all.push(("cpu.cfs_period_us", period.to_string()));
            all.push(("cpu.cfs_quota_us", quota.to_string()));
        }
    }
    all
}

/// Quota and period in microseconds. The kernel takes no quota below 1 ms and no period above 1 s.
fn bandwidth(millis: u64) -> (u64, u64) {
    let period = if millis < 10 { 1_000_000 } else { 100_000 };
    (millis.max(1).saturating_mul(period / 1000), period)
}

/// A path that leads to what a descriptor refers to, wherever that is mounted.
fn path_of(dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

fn refused<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> CgroupError + use<'p> {
    // The kernel's own name for the place says more than a descriptor.
    move |source| CgroupError { what, path: shown(path), source }
}

/// A path by descriptor as one that people know.
fn shown(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let fd: PathBuf = parts.by_ref().take(5).collect();
    match fs::read_link(&fd) {
        Ok(real) if fd.starts_with("/proc/self/fd") => real.join(parts.as_path()),
        _ => path.to_owned(),
    }
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Opens a directory of a run, or of one that was a run's.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn lock(dir: BorrowedFd<'_>, how: FlockOperation) -> io::Result<()> {
    Ok(rustix::fs::flock(dir, how)?)
}

/// Removes the cgroups below one, until `deadline`.
fn empty(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(refused("read", dir))?,
    };
    let mut first = Ok(());
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let below = entry.path();
        first = first.and(empty(&below, deadline)).and(rmdir(&below, deadline));
    }
    first
}

/// A cgroup goes when its last process has; one that ends is in it for a moment longer than it can be waited for.
#[allow(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when a cgroup can be removed (version 1 has no event)"
)]
fn rmdir(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                if Instant::now() >= deadline {
                    return Err(refused("remove", dir)(error));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done.map_err(refused("remove", dir)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_share_of_a_period_that_the_kernel_takes() {
        assert_eq!(bandwidth(500), (50_000, 100_000));
        assert_eq!(bandwidth(2500), (250_000, 100_000));
        assert_eq!(bandwidth(10), (1000, 100_000));
        assert_eq!(bandwidth(9), (9000, 1_000_000));
        assert_eq!(bandwidth(0), (1000, 1_000_000));
    }

    #[test]
    fn the_files_of_both_versions_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { memory: Some(1 << 20), cpu_millis: Some(250) };
        assert_eq!(settings(dir.path(), &limits), []);
        for file in ["memory.max", "memory.swap.max", "cpu.max"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let text = |files: &[(&str, String)]| -> Vec<String> {
            files.iter().map(|(file, value)| format!("{file}={value}")).collect()
        };
        assert_eq!(
            text(&settings(dir.path(), &limits)),
            ["memory.max=1048576", "memory.swap.max=0", "cpu.max=25000 100000"]
        );
        let dir = tempfile::tempdir().unwrap();
        for file in
            ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us"]
        {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert_eq!(
            text(&settings(dir.path(), &limits)),
            [
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1048576",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=25000"
            ]
        );
        assert_eq!(settings(dir.path(), &Limits::default()), []);
    }
}

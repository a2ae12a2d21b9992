//! A file that gets its name when it is whole, so that whoever is killed before leaves nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// How the names of drafts begin, where one has a name.
const PREFIX: &str = ".testground-collect-";
/// A draft that nobody has written to for so long may be a stale one.
const STALE: Duration = Duration::from_secs(60);

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    /// On file systems without unnamed files (FUSE, NFS): such a one stays when its process is killed.
    name: Option<tempfile::TempPath>,
}

// === impl Draft ===

impl Draft {
    /// Begins a file in a directory, and removes what killed processes left of theirs there.
    ///
    /// # Errors
    /// When no file can be made there.
    pub(super) fn begin(dir: &Path) -> io::Result<Draft> {
        sweep(dir);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Draft::locked(File::from(file), None),
            // open(2): a file system without O_TMPFILE, and a kernel that takes it for a plain open of the directory.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (file, name) = tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)?.into_parts();
                Draft::locked(file, Some(name))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn locked(file: File, name: Option<tempfile::TempPath>) -> io::Result<Draft> {
        // Says that its process is alive. Where there are no locks, only the time of the last write does.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(Draft { file, name })
    }

    /// Device and inode: what tells this file from all others.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        let meta = self.file.metadata()?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Gives it its name, in the place of whatever has it now. The name has to be in the directory it was begun in.
    ///
    /// # Errors
    /// When it can't have that name; then nothing is left of it.
    pub(super) fn finish(self, path: &Path) -> io::Result<()> {
        let name = match self.name {
            Some(name) => name,
            None => {
                let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let here = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                // A link replaces nothing, a rename does.
                let link = |name: &Path| -> io::Result<()> {
                    Ok(rustix::fs::linkat(CWD, &here, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
                };
                tempfile::Builder::new().prefix(PREFIX).make_in(dir, link)?.into_temp_path()
            }
        };
        name.persist(path).map_err(|e| e.error)
    }
}

impl io::Write for Draft {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes drafts whose processes are gone. What can't be removed stays.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_draft = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_draft && entry.file_type().is_ok_and(|kind| kind.is_file()) && is_stale(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_stale(draft: &Path) -> bool {
    let Ok(file) = File::open(draft) else { return false };
    let written = file.metadata().and_then(|meta| meta.modified()).ok();
    // The lock alone would take a draft away that is made just now.
    written.and_then(|at| at.elapsed().ok()).is_some_and(|age| age >= STALE)
        && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::SystemTime;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_replaces_an_older_one() {
        let t = tempfile::tempdir().expect("a directory");
        let path = t.path().join("a.tgz");
        fs::write(&path, "old").expect("a file");
        let mut draft = Draft::begin(t.path()).expect("a draft");
        draft.write_all(b"new").expect("written");
        assert_eq!(fs::read(&path).expect("a file"), b"old");
        draft.finish(&path).expect("finished");
        assert_eq!(fs::read(&path).expect("a file"), b"new");
        assert_eq!(names(t.path()), ["a.tgz"]);
        drop(Draft::begin(t.path()).expect("a draft"));
        assert_eq!(names(t.path()), ["a.tgz"]);
    }

    #[test]
    fn drafts_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let t = tempfile::tempdir().expect("a directory");
        let draft = |name: &str, age: Duration| {
            let file = File::create(t.path().join(format!("{PREFIX}{name}"))).expect("a file");
            file.set_modified(SystemTime::now() - age).expect("a time");
            file
        };
        let living = draft("living", STALE * 2);
        rustix::fs::flock(&living, FlockOperation::LockExclusive).expect("a lock");
        drop(draft("new", Duration::ZERO));
        drop(draft("dead", STALE * 2));
        fs::write(t.path().join("mine"), "").expect("a file");
        let begun = Draft::begin(t.path()).expect("a draft");
        let expected = [format!("{PREFIX}living"), format!("{PREFIX}new"), "mine".to_owned()];
        if begun.name.is_none() {
            assert_eq!(names(t.path()), expected);
        }
        assert!(!names(t.path()).contains(&format!("{PREFIX}dead")));
    }
}

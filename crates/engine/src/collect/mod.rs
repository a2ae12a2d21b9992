//! A run's outputs as one archive, in the layout of the original: `<run id>/<group>/<index>/<file>`.

mod draft;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use testground_model::name::RunId;

use self::draft::Draft;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// No run of that id has outputs here.
    #[error("there are no outputs of run {0}")]
    NoOutputs(RunId),
    /// Something can't be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody did not want to wait for it.
    #[error("interrupted")]
    Stopped,
}

/// What all of a collection is about.
struct Site<'a> {
    /// The archive.
    archive: &'a Path,
    /// The archive's own device and inode, should it be made among the outputs.
    own: (u64, u64),
    /// Whether somebody wants it to stop.
    stop: &'a AtomicBool,
}

/// Writes the outputs in `outputs` to a gzipped tar archive, which appears under its name when it is whole. Ends early when
/// `stop` becomes true.
///
/// # Errors
/// When outputs can't be read, the archive can't be written, or it is stopped; then there is none.
pub fn collect(outputs: &Path, id: &RunId, archive: &Path, stop: &AtomicBool) -> Result<(), CollectError> {
    let cannot = |source| CollectError::Write { path: archive.to_owned(), source };
    if !outputs.is_dir() {
        return Err(CollectError::NoOutputs(id.clone()));
    }
    let dir = archive.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = Draft::begin(dir).map_err(cannot)?;
    let site = Site { archive, own: draft.identity().map_err(cannot)?, stop };
    let gzip = GzEncoder::new(BufWriter::new(draft), Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    let packed = append_root(&mut tar, id, outputs)
        .map_err(cannot)
        .and_then(|()| site.walk(&mut tar, outputs, Path::new(id.as_str())));
    if stop.load(Ordering::Relaxed) {
        return Err(CollectError::Stopped);
    }
    packed?;
    let draft = tar.into_inner().and_then(GzEncoder::finish).map_err(cannot)?;
    let draft = draft.into_inner().map_err(|e| cannot(e.into_error()))?;
    draft.finish(archive).map_err(cannot)
}

// === impl Site ===

impl Site<'_> {
    fn walk<W: Write>(&self, tar: &mut tar::Builder<W>, dir: &Path, name: &Path) -> Result<(), CollectError> {
        let unreadable = |path: &Path, source| CollectError::Read { path: path.to_owned(), source };
        let cannot = |source| CollectError::Write { path: self.archive.to_owned(), source };
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
            entries.push(entry.map_err(|e| unreadable(dir, e))?.path());
        }
        entries.sort();
        for path in entries {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CollectError::Stopped);
            }
            let name = name.join(path.file_name().unwrap_or_default());
            let meta = fs::symlink_metadata(&path).map_err(|e| unreadable(&path, e))?;
            if meta.is_dir() {
                let mut header = header(&meta, EntryType::Directory, 0);
                tar.append_data(&mut header, &name, io::empty()).map_err(cannot)?;
                self.walk(tar, &path, &name)?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).map_err(|e| unreadable(&path, e))?;
                let mut header = header(&meta, EntryType::Symlink, 0);
                tar.append_link(&mut header, &name, target).map_err(cannot)?;
            } else if meta.is_file() && (meta.dev(), meta.ino()) != self.own {
                let file = File::open(&path).map_err(|e| unreadable(&path, e))?;
                // Somebody may still be writing: the archive has what there was when its entry began.
                let whole = Padded { inner: file.take(meta.len()), left: meta.len(), stop: self.stop };
                let mut header = header(&meta, EntryType::Regular, meta.len());
                tar.append_data(&mut header, &name, whole).map_err(cannot)?;
            }
            // Sockets, FIFOs and devices have no contents to keep.
        }
        Ok(())
    }
}

/// The entry `<run id>/.`, whose name the library would tidy up.
fn append_root<W: Write>(tar: &mut tar::Builder<W>, id: &RunId, outputs: &Path) -> io::Result<()> {
    let mut header = header(&fs::metadata(outputs)?, EntryType::Directory, 0);
    let name = format!("{id}/.");
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, io::empty())
}

fn header(meta: &fs::Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(size);
    header
}

/// A file that is as long as it was: one that became shorter ends in zeros, for its size is in the archive already.
struct Padded<'a, R> {
    inner: R,
    left: u64,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Padded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut n = self.inner.read(&mut buffer[..most])?;
        if n == 0 && most > 0 {
            buffer[..most].fill(0);
            n = most;
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use crate::home::Home;

    static GO_ON: AtomicBool = AtomicBool::new(false);

    /// What tar itself lists.
    fn listed(archive: &Path) -> String {
        let output = Command::new("tar").arg("-tzf").arg(archive).output().expect("tar runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_archive_has_the_layout_that_scripts_unpack() {
        let t = tempfile::tempdir().unwrap();
        let home = Home::at(&t.path().join("home")).unwrap();
        let id = RunId::new(7, [9; 8]);
        let outputs = home.outputs_dir("local:exec", "p", &id);
        fs::create_dir_all(outputs.join("g/0/deep")).unwrap();
        fs::write(outputs.join("g/0/run.out"), "one\n").unwrap();
        let long = "x".repeat(150);
        fs::write(outputs.join("g/0/deep").join(&long), "two\n").unwrap();
        symlink("run.out", outputs.join("g/0/link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, outputs.join("g/0/fifo"), mode).unwrap();

        // Into the outputs themselves: an archive must not contain itself.
        let archive = outputs.join("all.tgz");
        collect(&outputs, &id, &archive, &GO_ON).unwrap();
        let names =
            ["/.", "/g", "/g/0", "/g/0/deep", &format!("/g/0/deep/{long}"), "/g/0/link", "/g/0/run.out"];
        let expected: Vec<String> = names.iter().map(|n| format!("{id}{n}")).collect();
        let text = listed(&archive);
        let seen: Vec<&str> = text.lines().map(|l| l.strip_suffix("/").unwrap_or(l)).collect();
        assert_eq!(seen, expected);

        let unpacked = t.path().join("unpacked");
        fs::create_dir(&unpacked).unwrap();
        assert!(
            Command::new("tar")
                .arg("-xzf")
                .arg(&archive)
                .arg("-C")
                .arg(&unpacked)
                .status()
                .unwrap()
                .success()
        );
        let same = |name: &str| fs::read(unpacked.join(id.as_str()).join(name)).unwrap();
        assert_eq!(same("g/0/link"), b"one\n");
        assert_eq!(same(&format!("g/0/deep/{long}")), b"two\n");
    }

    #[test]
    fn a_file_that_shrinks_keeps_its_size_in_zeros() {
        let mut whole = Vec::new();
        Padded { inner: &b"abc"[..], left: 5, stop: &GO_ON }.read_to_end(&mut whole).unwrap();
        assert_eq!(whole, b"abc\0\0");
    }

    #[test]
    fn an_archive_that_cannot_be_written_leaves_nothing() {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir(t.path().join("outputs")).unwrap();
        let id = RunId::new(1, [1; 8]);
        let wrong = collect(&t.path().join("outputs"), &id, &t.path().join("nowhere/a.tgz"), &GO_ON);
        assert!(matches!(wrong, Err(CollectError::Write { .. })));
        assert!(matches!(
            collect(&t.path().join("gone"), &id, &t.path().join("a"), &GO_ON),
            Err(CollectError::NoOutputs(_))
        ));
        let stopped = collect(&t.path().join("outputs"), &id, &t.path().join("a"), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(CollectError::Stopped)));
        assert_eq!(fs::read_dir(t.path()).unwrap().count(), 1);
    }
}

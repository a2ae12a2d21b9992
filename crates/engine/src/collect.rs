//! A run's outputs as one archive, in the layout of the original: `<run id>/<group>/<index>/<file>`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use testground_model::name::RunId;

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
}

/// Writes the outputs in `outputs` to a gzipped tar archive, which appears under its name when it is whole.
///
/// # Errors
/// When outputs can't be read or the archive can't be written; then there is none.
pub fn collect(outputs: &Path, id: &RunId, archive: &Path) -> Result<(), CollectError> {
    let cannot = |source| CollectError::Write { path: archive.to_owned(), source };
    if !outputs.is_dir() {
        return Err(CollectError::NoOutputs(id.clone()));
    }
    let dir = archive.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let half = tempfile::Builder::new().prefix(".testground-collect-").tempfile_in(dir).map_err(cannot)?;
    let own = fs::canonicalize(half.path()).map_err(cannot)?;
    let gzip = GzEncoder::new(BufWriter::new(half), Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    append_root(&mut tar, id, outputs).map_err(cannot)?;
    walk(&mut tar, outputs, &PathBuf::from(id.as_str()), archive, &own)?;
    let half = tar.into_inner().and_then(GzEncoder::finish).map_err(cannot)?;
    let half = half.into_inner().map_err(|e| cannot(e.into_error()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    half.as_file().set_permissions(mode).map_err(cannot)?;
    half.persist(archive).map_err(|e| cannot(e.error))?;
    Ok(())
}

fn walk<W: Write>(
    tar: &mut tar::Builder<W>,
    dir: &Path,
    name: &Path,
    archive: &Path,
    own: &Path,
) -> Result<(), CollectError> {
    let unreadable = |path: &Path, source| CollectError::Read { path: path.to_owned(), source };
    let cannot = |source| CollectError::Write { path: archive.to_owned(), source };
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| unreadable(dir, e))? {
        entries.push(entry.map_err(|e| unreadable(dir, e))?.path());
    }
    entries.sort();
    for path in entries {
        let name = name.join(path.file_name().unwrap_or_default());
        let meta = fs::symlink_metadata(&path).map_err(|e| unreadable(&path, e))?;
        if meta.is_dir() {
            append_dir(tar, &name.to_string_lossy(), &path, archive)?;
            walk(tar, &path, &name, archive, own)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| unreadable(&path, e))?;
            let mut header = header(&meta, EntryType::Symlink, 0);
            tar.append_link(&mut header, &name, target).map_err(cannot)?;
        } else if meta.is_file() && path != own {
            let file = File::open(&path).map_err(|e| unreadable(&path, e))?;
            // Somebody may still be writing: the archive has what there was when its entry began.
            let whole = Padded { inner: file.take(meta.len()), left: meta.len() };
            let mut header = header(&meta, EntryType::Regular, meta.len());
            tar.append_data(&mut header, &name, whole).map_err(cannot)?;
        }
        // Sockets, FIFOs and devices have no contents to keep.
    }
    Ok(())
}

/// The entry `<run id>/.`, whose name the library would tidy up.
fn append_root<W: Write>(tar: &mut tar::Builder<W>, id: &RunId, outputs: &Path) -> io::Result<()> {
    let mut header = header(&fs::metadata(outputs)?, EntryType::Directory, 0);
    let name = format!("{id}/.");
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, io::empty())
}

fn append_dir<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    dir: &Path,
    archive: &Path,
) -> Result<(), CollectError> {
    let meta = fs::metadata(dir).map_err(|source| CollectError::Read { path: dir.to_owned(), source })?;
    let mut header = header(&meta, EntryType::Directory, 0);
    tar.append_data(&mut header, name, io::empty())
        .map_err(|source| CollectError::Write { path: archive.to_owned(), source })
}

fn header(meta: &fs::Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(size);
    header
}

/// A file that is as long as it was: one that became shorter ends in zeros, for its size is in the archive already.
struct Padded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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
        collect(&outputs, &id, &archive).unwrap();
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
        Padded { inner: &b"abc"[..], left: 5 }.read_to_end(&mut whole).unwrap();
        assert_eq!(whole, b"abc\0\0");
    }

    #[test]
    fn an_archive_that_cannot_be_written_leaves_nothing() {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir(t.path().join("outputs")).unwrap();
        let id = RunId::new(1, [1; 8]);
        let wrong = collect(&t.path().join("outputs"), &id, &t.path().join("nowhere/a.tgz"));
        assert!(matches!(wrong, Err(CollectError::Write { .. })));
        assert!(matches!(
            collect(&t.path().join("gone"), &id, &t.path().join("a")),
            Err(CollectError::NoOutputs(_))
        ));
        assert_eq!(fs::read_dir(t.path()).unwrap().count(), 1);
    }
}

//! Places where files are to be written later: looked at before a run, so that it isn't carried out in vain.

use std::io;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::fs::Access;

/// Whether a file can be written here, over what may be there now.
///
/// # Errors
/// Says what keeps it from being written.
pub(super) fn writable(path: &Path) -> anyhow::Result<()> {
    if path.exists() && !path.is_dir() { check(path, Access::WRITE_OK) } else { replaceable(path) }
}

/// Whether a file can be put in the place of what may be there now.
///
/// # Errors
/// Says what keeps it from being put there.
pub(super) fn replaceable(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("{} is a directory", path.display());
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        bail!("{} is no directory", dir.display());
    }
    check(dir, Access::WRITE_OK | Access::EXEC_OK)
}

fn check(path: &Path, access: Access) -> anyhow::Result<()> {
    let flags = rustix::fs::AtFlags::EACCESS;
    let checked = rustix::fs::accessat(rustix::fs::CWD, path, access, flags).map_err(io::Error::from);
    checked.with_context(|| format!("{} can't be written to", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_good_when_a_file_can_be_there() {
        let t = tempfile::tempdir().expect("a directory");
        let file = t.path().join("file");
        assert!(writable(&file).is_ok() && replaceable(&file).is_ok());
        std::fs::write(&file, "").expect("a file");
        assert!(writable(&file).is_ok() && replaceable(&file).is_ok());
        assert!(writable(Path::new("/dev/null")).is_ok());
        for (wrong, says) in [
            (t.path().to_owned(), "is a directory"),
            (t.path().join("no/file"), "no is no directory"),
            (file.join("below"), "file is no directory"),
        ] {
            for check in [writable, replaceable] {
                let said = check(&wrong).expect_err("no place for a file").to_string();
                assert!(said.ends_with(says), "{said}");
            }
        }
    }
}

//! `.testgroundignore` in a plan's directory: what of it is no source, with the syntax of gitignore(5).

use std::io;
use std::path::Path;

use ::ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The file's name, at the top of the plan.
pub(super) const IGNORE_FILE: &str = ".testgroundignore";

/// What a plan's sources leave out.
#[derive(Debug)]
pub(super) struct Ignored(Gitignore);

// === impl Ignored ===

impl Ignored {
    /// Reads the file of a directory; without one nothing is left out.
    ///
    /// # Errors
    /// When it can't be read, or a line of it is no pattern.
    pub(super) fn of(root: &Path) -> io::Result<Ignored> {
        let path = root.join(IGNORE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ignored(Gitignore::empty())),
            Err(e) => return Err(e),
        };
        let wrong = |line: usize, e: &::ignore::Error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: {e}"))
        };
        let mut patterns = GitignoreBuilder::new(root);
        for (i, line) in text.lines().enumerate() {
            patterns.add_line(None, line).map_err(|e| wrong(i + 1, &e))?;
        }
        patterns.build().map(Ignored).map_err(|e| wrong(text.lines().count(), &e))
    }

    /// Whether a file or directory below the plan's is left out. What lies in a directory that is left out is never
    /// asked for.
    pub(super) fn excludes(&self, name: &Path, is_dir: bool) -> bool {
        self.0.matched(name, is_dir).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_git() {
        let t = tempfile::tempdir().expect("a directory");
        let excludes =
            |name: &str, is_dir| Ignored::of(t.path()).expect("patterns").excludes(Path::new(name), is_dir);
        assert!(!excludes("a.log", false), "there is no file");
        std::fs::write(t.path().join(IGNORE_FILE), "# logs\n*.log\n!keep.log\n/out/\ndata/**/big\n")
            .expect("a file");
        for (name, is_dir, expected) in [
            ("a.log", false, true),
            ("sub/a.log", false, true),
            ("keep.log", false, false),
            ("out", true, true),
            ("out", false, false),
            ("sub/out", true, false),
            ("data/x/y/big", false, true),
            ("main.go", false, false),
        ] {
            assert_eq!(excludes(name, is_dir), expected, "{name}");
        }
        std::fs::write(t.path().join(IGNORE_FILE), "ok\n[z-a]\n").expect("a file");
        let wrong = Ignored::of(t.path()).expect_err("no pattern").to_string();
        assert!(wrong.starts_with("line 2: "), "{wrong}");
    }
}

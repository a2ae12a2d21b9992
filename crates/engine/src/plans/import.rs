//! Plans from elsewhere: a link to a directory, or a clone of a repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{PlansError, free_place, last_part, list, place};
use crate::home::MANIFEST_FILE;

/// Where plans come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory, which is linked to.
    Directory(PathBuf),
    /// A repository, which is cloned by the user's own git.
    Git(String),
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The name under which it is known.
    pub name: String,
    /// Plans in it.
    pub plans: Vec<String>,
    /// It was there already, from the same source: nothing was done.
    pub already: bool,
}

// === impl Source ===

impl Source {
    /// What was typed is a repository when it is said to be, or looks like an address.
    pub fn of(typed: &str, git: bool) -> Source {
        let is_scp = typed.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
        let is_address = typed.contains("://") || is_scp;
        if git || is_address && !Path::new(typed).exists() {
            Source::Git(typed.to_owned())
        } else {
            Source::Directory(PathBuf::from(typed))
        }
    }

    fn name(&self) -> String {
        match self {
            Source::Directory(dir) => {
                let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
                last_part(&real.display().to_string()).to_owned()
            }
            Source::Git(address) => last_part(address).to_owned(),
        }
    }
}

/// Imports plans under a name; without one it is the last part of where they come from. `root` is where plans are.
///
/// # Errors
/// When there is no plan in it, the name is taken by something else, or git fails.
pub fn import(root: &Path, source: &Source, name: Option<&str>) -> Result<Imported, PlansError> {
    let name = name.map_or_else(|| source.name(), str::to_owned);
    match source {
        Source::Directory(dir) => link(root, dir, name),
        Source::Git(address) => clone(root, address, name),
    }
}

fn link(root: &Path, dir: &Path, name: String) -> Result<Imported, PlansError> {
    let failed = |doing, path: &Path, source| PlansError::Io { doing, path: path.to_owned(), source };
    let real = fs::canonicalize(dir).map_err(|e| failed("find", dir, e))?;
    let plans =
        plans_of(&real, &name).ok_or_else(|| PlansError::NoPlan { what: real.display().to_string() })?;
    let there = place(root, &name)?;
    if there.is_symlink() && fs::canonicalize(&there).is_ok_and(|known| known == real) {
        return Ok(Imported { name, plans, already: true });
    }
    let path = free_place(root, &name)?;
    std::os::unix::fs::symlink(&real, &path).map_err(|e| failed("make", &path, e))?;
    Ok(Imported { name, plans, already: false })
}

fn clone(root: &Path, address: &str, name: String) -> Result<Imported, PlansError> {
    let failed = |doing, path: &Path, source| PlansError::Io { doing, path: path.to_owned(), source };
    let path = free_place(root, &name)?;
    // Beside its place and hidden, so that a clone that fails or has no plan in it leaves nothing.
    let half = tempfile::Builder::new().prefix(".import-").tempdir_in(root);
    let half = half.map_err(|e| failed("make a directory in", root, e))?;
    let into = half.path().join("clone");
    // Git asks for what it needs, and shows its progress, as it does for whoever types it.
    let mut git = Command::new("git");
    git.args(["clone", "--"]).arg(address).arg(&into).stdout(Stdio::null());
    match git.status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(PlansError::Git(format!("git couldn't clone {address} ({status})"))),
        Err(e) => {
            return Err(PlansError::Git(format!(
                "failed to start git: {e} (install it, or import a directory)"
            )));
        }
    }
    let plans = plans_of(&into, &name).ok_or_else(|| PlansError::NoPlan { what: address.to_owned() })?;
    fs::rename(&into, &path).map_err(|e| failed("make", &path, e))?;
    Ok(Imported { name, plans, already: false })
}

/// Names of the plans in a directory, as they will be known; none where there are none.
fn plans_of(dir: &Path, name: &str) -> Option<Vec<String>> {
    let own = dir.join(MANIFEST_FILE).is_file().then(|| name.to_owned());
    let below = list(dir).into_iter().map(|plan| format!("{name}/{plan}"));
    let plans: Vec<String> = own.into_iter().chain(below).collect();
    (!plans.is_empty()).then_some(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_repository_and_a_path_a_directory() {
        for git in ["https://example.org/p", "git@example.org:p.git", "ssh://h/p", "file:///p"] {
            assert_eq!(Source::of(git, false), Source::Git(git.to_owned()), "{git}");
        }
        for dir in ["p", "./a:b", "/x/y.git"] {
            assert_eq!(Source::of(dir, false), Source::Directory(dir.into()), "{dir}");
        }
        assert_eq!(Source::of("/x/y", true), Source::Git("/x/y".to_owned()));
    }

    #[test]
    fn a_directory_is_linked_once_and_its_name_is_never_taken_from_another() {
        let t = tempfile::tempdir().expect("a directory");
        let (root, dir, other) = (t.path().join("plans"), t.path().join("a/ping"), t.path().join("b/ping"));
        for dir in [&root, &dir, &other] {
            fs::create_dir_all(dir).expect("a directory");
        }
        let source = Source::Directory(dir.clone());
        assert!(matches!(import(&root, &source, None), Err(PlansError::NoPlan { .. })));
        for dir in [&dir, &other] {
            fs::write(dir.join(MANIFEST_FILE), "").expect("a file");
        }
        let first = import(&root, &source, None).expect("imported");
        assert_eq!(
            (first.name.as_str(), first.already, first.plans),
            ("ping", false, vec!["ping".to_owned()])
        );
        assert!(import(&root, &source, None).expect("there").already);
        let taken = import(&root, &Source::Directory(other.clone()), None).expect_err("taken").to_string();
        assert!(taken.contains("exists already"), "{taken}");
        assert!(import(&root, &Source::Directory(other), Some("net/ping")).is_ok());
        assert_eq!(list(&root), ["net/ping", "ping"]);
    }
}

//! The plans in the home: made from a template, imported, listed and removed.
//!
//! How a plan that somebody named is found belongs to `home`; what a manifest says, to `model`.

mod create;
mod import;

pub use self::create::{Target, create};
pub use self::import::{Imported, Source, import};

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::home::MANIFEST_FILE;

/// Deepest directory that is looked at for plans.
const DEEPEST: usize = 12;
/// Most directories that are looked at.
const MOST: usize = 50_000;
/// Directories of tools, in which nobody keeps plans.
const PASSED_OVER: [&str; 2] = ["node_modules", "target"];

/// What can be wrong with a plan that is made, imported or removed.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    /// The name is no name.
    #[error(
        "{0:?} is no name for a plan: letters, digits, `-`, `_` and `.`, beginning with a letter or digit; `/` between \
         such parts"
    )]
    Name(String),
    /// Something of that name is there.
    #[error("{} exists already; `testground plan rm --plan {name}` removes it", path.display())]
    Exists {
        /// The plan's name.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
    /// No plan has that name.
    #[error("plan {name:?} is not in {}{}", root.display(), nearest.as_ref().map_or_else(String::new, |n| format!(" (did you mean {n}?)")))]
    Missing {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        root: PathBuf,
        /// A plan of nearly that name.
        nearest: Option<String>,
    },
    /// The plan lies behind a link that was imported.
    #[error("{name} lies in {}, which is linked to and not ours to remove; `plan rm --plan {link}` removes the link", real.display())]
    BehindLink {
        /// What was asked for.
        name: String,
        /// The plan that is the link.
        link: String,
        /// Where it leads.
        real: PathBuf,
    },
    /// There are no plans in what is to be imported.
    #[error("there is no {MANIFEST_FILE} in {what} or below it, so that there is nothing to import")]
    NoPlan {
        /// The directory or repository.
        what: String,
    },
    /// A module's name is none.
    #[error("{0:?} is no Go module path, such as example.org/ping")]
    Module(String),
    /// The file system refuses.
    #[error("failed to {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Git could not do it, and has said why.
    #[error("{0}")]
    Git(String),
}

/// Names of all plans below a directory: paths relative to it, in order. Links are followed, circles are not.
pub fn list(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut looked = 0;
    walk(root, "", &mut Vec::new(), &mut looked, &mut found);
    found.sort();
    found
}

fn walk(dir: &Path, name: &str, above: &mut Vec<PathBuf>, looked: &mut usize, found: &mut Vec<String>) {
    let Ok(real) = fs::canonicalize(dir) else { return };
    if above.len() > DEEPEST || *looked >= MOST || above.contains(&real) {
        return;
    }
    *looked += 1;
    if !name.is_empty() && dir.join(MANIFEST_FILE).is_file() {
        found.push(name.to_owned());
    }
    above.push(real);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(part) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if part.starts_with('.') || PASSED_OVER.contains(&part.as_str()) || !path.is_dir() {
            continue;
        }
        let below = if name.is_empty() { part } else { format!("{name}/{part}") };
        walk(&path, &below, above, looked, found);
    }
    above.pop();
}

/// Removes a plan, or a directory of plans, from the home's plans; of one that is a link only the link. `root` is where
/// plans are.
///
/// # Errors
/// When it is not there, lies behind a link, or can't be removed.
pub fn remove(root: &Path, name: &str) -> Result<(), PlansError> {
    let path = find(root, name)?;
    let failed = |source| PlansError::Io { doing: "remove", path: path.clone(), source };
    if path.is_symlink() { fs::remove_file(&path) } else { fs::remove_dir_all(&path) }.map_err(failed)
}

/// Where a plan, or a directory of plans, lies that may be removed.
///
/// # Errors
/// When it is not there, or lies behind a link.
pub fn find(root: &Path, name: &str) -> Result<PathBuf, PlansError> {
    let path = place(root, name)?;
    if fs::symlink_metadata(&path).is_err() {
        let near = list(root)
            .into_iter()
            .map(|known| (strsim::normalized_damerau_levenshtein(&known, name), known))
            .filter(|(likeness, _)| *likeness >= 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = near.map(|(_, known)| known);
        return Err(PlansError::Missing { name: name.to_owned(), root: root.to_owned(), nearest });
    }
    for above in path.ancestors().skip(1).take_while(|above| *above != root) {
        if above.is_symlink() {
            let link = above.strip_prefix(root).unwrap_or(above).display().to_string();
            let real = fs::canonicalize(above).unwrap_or_else(|_| above.to_owned());
            return Err(PlansError::BehindLink { name: name.to_owned(), link, real });
        }
    }
    Ok(path)
}

/// Where a plan of that name belongs.
fn place(root: &Path, name: &str) -> Result<PathBuf, PlansError> {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if name.len() <= 200 && name.split('/').all(is_part) {
        Ok(root.join(name))
    } else {
        Err(PlansError::Name(name.to_owned()))
    }
}

/// Where a new plan of that name goes: nothing is there, and its parent is.
fn free_place(root: &Path, name: &str) -> Result<PathBuf, PlansError> {
    let path = place(root, name)?;
    if fs::symlink_metadata(&path).is_ok() {
        return Err(PlansError::Exists { name: name.to_owned(), path });
    }
    if let Some(parent) = path.parent() {
        let failed = |source| PlansError::Io { doing: "make", path: parent.to_owned(), source };
        fs::create_dir_all(parent).map_err(failed)?;
    }
    Ok(path)
}

/// The last part of a path or address, without `.git`.
fn last_part(of: &str) -> &str {
    let trimmed = of.trim_end_matches('/');
    let trimmed = trimmed.strip_suffix(".git").unwrap_or(trimmed).trim_end_matches('/');
    let last = trimmed.rsplit(['/', ':']).next().unwrap_or(trimmed);
    Path::new(last).file_name().and_then(OsStr::to_str).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(root: &Path, name: &str) {
        fs::create_dir_all(root.join(name)).expect("a directory");
        fs::write(root.join(name).join(MANIFEST_FILE), "").expect("a file");
    }

    #[test]
    fn plans_are_listed_through_links_and_circles_end() {
        let t = tempfile::tempdir().expect("a directory");
        let (root, other) = (t.path().join("plans"), t.path().join("other"));
        for name in ["b", "a/x", "a/.hidden/y", "b/node_modules/z"] {
            plan(&root, name);
        }
        plan(&other, "far");
        std::os::unix::fs::symlink(&other, root.join("link")).expect("a link");
        std::os::unix::fs::symlink(&root, root.join("a/circle")).expect("a link");
        assert_eq!(list(&root), ["a/x", "b", "link/far"]);
    }

    #[test]
    fn only_what_is_in_the_home_is_removed() {
        let t = tempfile::tempdir().expect("a directory");
        let (root, other) = (t.path().join("plans"), t.path().join("other"));
        plan(&root, "mine");
        plan(&other, "theirs");
        std::os::unix::fs::symlink(&other, root.join("link")).expect("a link");
        for outside in ["../other", "/etc", "", ".", "a//b", "mine/..", ".hidden"] {
            assert!(matches!(remove(&root, outside), Err(PlansError::Name(_))), "{outside}");
        }
        let near = remove(&root, "mime").expect_err("misspelt").to_string();
        assert!(near.contains("did you mean mine?"), "{near}");
        let behind = remove(&root, "link/theirs").expect_err("not ours").to_string();
        assert!(behind.contains("--plan link`"), "{behind}");
        remove(&root, "mine").expect("removed");
        remove(&root, "link").expect("removed");
        assert!(other.join("theirs").join(MANIFEST_FILE).exists());
        assert_eq!(fs::read_dir(&root).expect("a directory").count(), 0);
    }

    #[test]
    fn a_source_is_named_by_its_last_part() {
        for (from, name) in [
            ("https://example.org/a/plans.git", "plans"),
            ("git@example.org:plans.git/", "plans"),
            ("/home/u/ping/", "ping"),
            ("ping", "ping"),
        ] {
            assert_eq!(last_part(from), name, "{from}");
        }
    }
}

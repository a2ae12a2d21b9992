//! A plan's sources: which files they are, what they hash to, and a private copy of them.
//!
//! The hash covers names, contents, the executable bit and symbolic links, and no times: two checkouts of the same
//! commit are the same sources. Sockets, FIFOs and devices are no sources and are passed over without being opened.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use testground_model::pick::COMPOSITION_DIRS;

use super::ignore::{IGNORE_FILE, Ignored};
use crate::home::MANIFEST_FILE;

/// Most files of a plan: beyond that it is rather somebody's home directory than a plan.
const MOST_ENTRIES: usize = 500_000;
/// Deepest directory below the plan's.
const DEEPEST: usize = 64;
/// Never part of the sources, at the top of the plan or below.
const NEVER: [&str; 1] = [".git"];
/// How a file begins that marks its directory as made by a tool, to be made again (https://bford.info/cachedir/).
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Which files of a directory are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Take {
    /// All of them.
    All,
    /// These files, and these directories with all that is in them.
    Only(Vec<String>),
    /// All but what compilers and package managers put there themselves (`node_modules`, and directories with a cache
    /// tag, such as cargo's `target`), and what says how the plan is run: its manifest and compositions.
    Sources,
}

/// Why sources can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory can't be read, or its copy can't be written.
    #[error("failed to read the sources: {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory contains itself by way of a symbolic link.
    #[error("failed to read the sources: {} leads back to a directory above it", path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// There are too many, or they lie too deep.
    #[error("failed to read the sources: {} has {problem}", path.display())]
    TooMuch {
        /// The directory.
        path: PathBuf,
        /// What there is too much of.
        problem: String,
    },
    /// They changed between being hashed and being copied, again and again.
    #[error("the sources in {} change while they are being copied", path.display())]
    Changing {
        /// The directory.
        path: PathBuf,
    },
}

/// A list of files below a directory, in the order of their names.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Below the root.
    name: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Dir,
    File {
        executable: bool,
    },
    /// A link whose target lies in the tree too, and is kept as a link.
    Link {
        target: PathBuf,
    },
}

// === impl Tree ===

impl Tree {
    /// Lists a directory.
    pub(super) fn list(root: &Path, take: &Take) -> Result<Tree, SourceError> {
        let root = fs::canonicalize(root).map_err(|e| failed(root, e))?;
        let ignored = Ignored::of(&root).map_err(|e| failed(&root.join(IGNORE_FILE), e))?;
        let above = vec![root.clone()];
        let sources_only = *take == Take::Sources;
        let mut walk = Walk { root, sources_only, ignored, entries: Vec::new(), above };
        match take {
            Take::All | Take::Sources => walk.enter(Path::new(""))?,
            Take::Only(names) => names.iter().try_for_each(|name| walk.visit(Path::new(name)))?,
        }
        let Walk { root, mut entries, .. } = walk;
        entries.sort();
        entries.dedup();
        Ok(Tree { root, entries })
    }

    /// The files, where they lie.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.entries.iter().filter(|e| matches!(e.kind, Kind::File { .. }));
        files.map(|e| self.root.join(&e.name))
    }

    /// Feeds names and contents to a hash.
    pub(super) fn hash(&self, hash: &mut Sha256) -> Result<(), SourceError> {
        let mut buffer = vec![0; 64 << 10];
        for entry in &self.entries {
            self.feed(entry, hash, &mut buffer, &mut io::sink())?;
        }
        hash.update([0]);
        Ok(())
    }

    /// Copies the files into an existing directory and feeds the hash with exactly the bytes that were copied. A file that
    /// is there already with these bytes is left alone, its time of change too: compilers go by that.
    pub(super) fn copy(&self, to: &Path, hash: &mut Sha256) -> Result<(), SourceError> {
        let mut buffer = vec![0; 64 << 10];
        for entry in &self.entries {
            let place = to.join(&entry.name);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
            }
            match &entry.kind {
                Kind::Dir => {
                    fs::create_dir_all(&place).map_err(|e| failed(&place, e))?;
                    self.feed(entry, hash, &mut buffer, &mut io::sink())?;
                }
                Kind::Link { target } => {
                    std::os::unix::fs::symlink(target, &place).map_err(|e| failed(&place, e))?;
                    self.feed(entry, hash, &mut buffer, &mut io::sink())?;
                }
                Kind::File { executable } => {
                    let mut copy = Replacing::open(&place).map_err(|e| failed(&place, e))?;
                    self.feed(entry, hash, &mut buffer, &mut copy)?;
                    copy.end().map_err(|e| failed(&place, e))?;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&place, fs::Permissions::from_mode(mode))
                        .map_err(|e| failed(&place, e))?;
                }
            }
        }
        hash.update([0]);
        Ok(())
    }

    /// One entry into the hash, and a file's bytes into `copy` on the way. Every part has its length in front, so
    /// that no two trees give the same bytes.
    fn feed(
        &self,
        entry: &Entry,
        hash: &mut Sha256,
        buffer: &mut [u8],
        copy: &mut dyn Write,
    ) -> Result<(), SourceError> {
        let part = |hash: &mut Sha256, kind: u8, bytes: &[u8]| {
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let name = entry.name.as_os_str().as_bytes();
        match &entry.kind {
            Kind::Dir => part(hash, 1, name),
            Kind::Link { target } => {
                part(hash, 2, name);
                part(hash, 2, target.as_os_str().as_bytes());
            }
            Kind::File { executable } => {
                part(hash, if *executable { 4 } else { 3 }, name);
                let path = self.root.join(&entry.name);
                let mut file = File::open(&path).map_err(|e| failed(&path, e))?;
                let mut length = 0_u64;
                loop {
                    let n = match file.read(buffer) {
                        Ok(0) => break,
                        Ok(n) => n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        Err(e) => return Err(failed(&path, e)),
                    };
                    length += n as u64;
                    hash.update(&buffer[..n]);
                    copy.write_all(&buffer[..n]).map_err(|e| failed(&path, e))?;
                }
                hash.update(length.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// Removes what lies in a copy and is in no `tree` any more; `spared` stays where it is (relative to the copy).
pub(super) fn remove_others(copy: &Path, tree: &Tree, spared: &Path) -> Result<(), SourceError> {
    let wanted: HashMap<&Path, &Kind> = tree.entries.iter().map(|e| (e.name.as_path(), &e.kind)).collect();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let path = copy.join(&dir);
        for found in fs::read_dir(&path).map_err(|e| failed(&path, e))? {
            let found = found.map_err(|e| failed(&path, e))?;
            let (name, place) = (dir.join(found.file_name()), found.path());
            let kind = found.file_type().map_err(|e| failed(&place, e))?;
            match wanted.get(name.as_path()) {
                Some(Kind::Dir) if kind.is_dir() => open.push(name),
                Some(Kind::File { .. }) if kind.is_file() => {}
                _ if name == spared => {}
                _ if kind.is_dir() => fs::remove_dir_all(&place).map_err(|e| failed(&place, e))?,
                _ => fs::remove_file(&place).map_err(|e| failed(&place, e))?,
            }
        }
    }
    Ok(())
}

/// A file that gets new contents, and is written to from the first byte on that differs.
struct Replacing {
    file: File,
    /// How far it is the same.
    same: Option<u64>,
    buffer: Vec<u8>,
}

// === impl Replacing ===

impl Replacing {
    fn open(path: &Path) -> io::Result<Replacing> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Replacing { file, same: Some(0), buffer: Vec::new() })
    }

    /// Cuts off what the new contents don't have.
    fn end(self) -> io::Result<()> {
        match self.same {
            Some(length) if self.file.metadata()?.len() != length => self.file.set_len(length),
            _ => Ok(()),
        }
    }
}

impl Write for Replacing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(at) = self.same {
            self.buffer.clear();
            (&mut self.file).take(bytes.len() as u64).read_to_end(&mut self.buffer)?;
            if self.buffer == bytes {
                self.same = Some(at + bytes.len() as u64);
                return Ok(bytes.len());
            }
            self.same = None;
            self.file.set_len(at)?;
            self.file.seek(SeekFrom::Start(at))?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A walk through a directory.
struct Walk {
    root: PathBuf,
    sources_only: bool,
    ignored: Ignored,
    entries: Vec<Entry>,
    /// The real directories on the way down, so that a link back up is seen.
    above: Vec<PathBuf>,
}

// === impl Walk ===

impl Walk {
    fn enter(&mut self, dir: &Path) -> Result<(), SourceError> {
        let path = self.root.join(dir);
        if self.above.len() > DEEPEST {
            let problem = format!("more than {DEEPEST} directories above it");
            return Err(SourceError::TooMuch { path, problem });
        }
        for found in fs::read_dir(&path).map_err(|e| failed(&path, e))? {
            let found = found.map_err(|e| failed(&path, e))?;
            let name = dir.join(found.file_name());
            // Of a link, what it leads to decides, as it does below; one that leads nowhere is no directory.
            let passed_over = NEVER.iter().any(|never| found.file_name() == *never)
                || self.ignored.excludes(&name, found.path().is_dir())
                || (self.sources_only
                    && (is_made_by_a_tool(&found.path()) || says_how_to_run(&name, &found.path())));
            if !passed_over {
                self.visit(&name)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, name: &Path) -> Result<(), SourceError> {
        if self.entries.len() >= MOST_ENTRIES {
            let problem = format!("more than {MOST_ENTRIES} files");
            return Err(SourceError::TooMuch { path: self.root.clone(), problem });
        }
        let path = self.root.join(name);
        let meta = fs::symlink_metadata(&path).map_err(|e| failed(&path, e))?;
        if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|e| failed(&path, e))?;
            // A link that leads nowhere is copied as it is: it may be meant for the place where the program runs.
            if stays_inside(name, &target) || matches!(fs::metadata(&path), Err(e) if leads_nowhere(&e)) {
                self.entries.push(Entry { name: name.to_owned(), kind: Kind::Link { target } });
                return Ok(());
            }
        }
        // What a link leads to outside of the tree is taken as if it lay here.
        let meta = fs::metadata(&path).map_err(|e| failed(&path, e))?;
        if meta.is_dir() {
            let real = fs::canonicalize(&path).map_err(|e| failed(&path, e))?;
            if self.above.contains(&real) {
                return Err(SourceError::Loop { path });
            }
            self.entries.push(Entry { name: name.to_owned(), kind: Kind::Dir });
            self.above.push(real);
            self.enter(name)?;
            self.above.pop();
        } else if meta.is_file() {
            let kind = Kind::File { executable: meta.mode() & 0o111 != 0 };
            self.entries.push(Entry { name: name.to_owned(), kind });
        }
        Ok(())
    }
}

fn is_made_by_a_tool(path: &Path) -> bool {
    if path.file_name().is_some_and(|name| name == "node_modules") {
        return path.is_dir();
    }
    let mut start = [0; CACHE_TAG.len()];
    // Asked before it is opened: opening a FIFO would wait for its writer.
    let tag = Some(path.join("CACHEDIR.TAG")).filter(|tag| tag.is_file());
    let read = tag.and_then(|tag| File::open(tag).ok()).map(|mut file| file.read_exact(&mut start));
    matches!(read, Some(Ok(()))) && start == CACHE_TAG
}

/// The plan's manifest, or a composition: a TOML file with a table `global`, where compositions are looked for.
fn says_how_to_run(name: &Path, path: &Path) -> bool {
    let dir = name.parent().and_then(Path::to_str).unwrap_or_default();
    let at_top = dir.is_empty();
    if at_top && name == Path::new(MANIFEST_FILE) {
        return true;
    }
    let is_looked_for = (at_top || COMPOSITION_DIRS.contains(&dir))
        && name.extension().is_some_and(|e| e == "toml")
        && path.is_file();
    let text = is_looked_for.then(|| fs::read_to_string(path).ok()).flatten().unwrap_or_default();
    text.lines().any(|line| line.split('#').next().is_some_and(|line| line.trim() == "[global]"))
}

fn leads_nowhere(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP))
}

/// Whether a link at `name` with this target stays inside of the tree, by the words alone.
fn stays_inside(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count() as i64 - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

fn failed(path: &Path, source: io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(root: &Path) -> Vec<u8> {
        let mut hash = Sha256::new();
        Tree::list(root, &Take::All).unwrap().hash(&mut hash).unwrap();
        hash.finalize().to_vec()
    }

    #[test]
    fn the_hash_sees_contents_names_bits_and_links_and_no_times() {
        let t = tempfile::tempdir().unwrap();
        let t = t.path();
        fs::create_dir_all(t.join("sub/.git")).unwrap();
        fs::write(t.join("a"), "one").unwrap();
        fs::write(t.join("sub/b"), "two").unwrap();
        let first = digest(t);
        fs::write(t.join("sub/.git/x"), "history").unwrap();
        fs::File::open(t.join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest(t), first);

        let mut seen = vec![first];
        let mut differs = |what: &str| {
            let now = digest(t);
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(t.join("a"), "One").unwrap();
        differs("contents");
        fs::rename(t.join("a"), t.join("c")).unwrap();
        differs("a name");
        fs::set_permissions(t.join("c"), fs::Permissions::from_mode(0o755)).unwrap();
        differs("the executable bit");
        std::os::unix::fs::symlink("sub/b", t.join("link")).unwrap();
        differs("a link");
        // The same bytes, divided in another way between two files.
        fs::write(t.join("c"), "Onet").unwrap();
        fs::write(t.join("sub/b"), "wo").unwrap();
        differs("where one file ends");
    }

    #[test]
    fn a_copy_has_the_hash_of_its_source_and_follows_links_that_lead_outside() {
        let t = tempfile::tempdir().unwrap();
        let (plan, outside, copy) = (t.path().join("plan"), t.path().join("outside"), t.path().join("copy"));
        for dir in [&plan.join("sub"), &outside, &copy] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(plan.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(plan.join("run.sh"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(outside.join("lib"), "shared").unwrap();
        std::os::unix::fs::symlink("../run.sh", plan.join("sub/inside")).unwrap();
        std::os::unix::fs::symlink(&outside, plan.join("lib")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, plan.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600))
            .unwrap();

        let tree = Tree::list(&plan, &Take::All).unwrap();
        let (mut plain, mut copied) = (Sha256::new(), Sha256::new());
        tree.hash(&mut plain).unwrap();
        tree.copy(&copy, &mut copied).unwrap();
        assert_eq!(plain.finalize(), copied.finalize());
        assert_eq!(fs::read_to_string(copy.join("lib/lib")).unwrap(), "shared");
        assert!(!copy.join("lib").is_symlink() && copy.join("sub/inside").is_symlink());
        assert_eq!(fs::read_to_string(copy.join("sub/inside")).unwrap(), "#!/bin/sh\n");
        assert_eq!(fs::metadata(copy.join("run.sh")).unwrap().mode() & 0o111, 0o111);
        assert!(!copy.join("fifo").exists());
    }

    #[test]
    fn links_that_lead_back_up_end_in_an_error() {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir_all(t.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink(t.path().join("a"), t.path().join("a/b/up")).unwrap();
        assert!(matches!(Tree::list(t.path(), &Take::All), Err(SourceError::Loop { .. })));
        // The same within the tree stays a link and is never followed.
        fs::remove_file(t.path().join("a/b/up")).unwrap();
        std::os::unix::fs::symlink("../../a", t.path().join("a/b/up")).unwrap();
        assert!(Tree::list(t.path(), &Take::All).is_ok());
    }

    #[test]
    fn what_the_plan_ignores_is_neither_hashed_nor_copied() {
        let t = tempfile::tempdir().unwrap();
        let (plan, copy) = (t.path().join("plan"), t.path().join("copy"));
        fs::create_dir_all(plan.join("out/deep")).unwrap();
        fs::create_dir_all(&copy).unwrap();
        // A circle in a directory that is left out is none of our business.
        std::os::unix::fs::symlink(&plan, plan.join("out/circle")).unwrap();
        fs::write(plan.join("main"), "").unwrap();
        fs::write(plan.join(".testgroundignore"), "/out\n*.log\n").unwrap();
        let before = digest(&plan);
        fs::write(plan.join("out/deep/x"), "").unwrap();
        fs::write(plan.join("y.log"), "").unwrap();
        assert_eq!(digest(&plan), before);
        Tree::list(&plan, &Take::All).unwrap().copy(&copy, &mut Sha256::new()).unwrap();
        let mut names: Vec<_> = fs::read_dir(&copy).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".testgroundignore", "main"]);
        fs::write(plan.join(".testgroundignore"), "[z-a]\n").unwrap();
        let wrong = Tree::list(&plan, &Take::All).unwrap_err().to_string();
        assert!(wrong.contains(".testgroundignore: line 1"), "{wrong}");
    }

    #[test]
    fn a_list_of_sources_takes_just_those() {
        let t = tempfile::tempdir().unwrap();
        fs::create_dir_all(t.path().join("src")).unwrap();
        fs::write(t.path().join("src/x"), "").unwrap();
        fs::write(t.path().join("big"), "").unwrap();
        let tree = Tree::list(t.path(), &Take::Only(vec!["src".to_owned()])).unwrap();
        let names: Vec<&Path> = tree.entries.iter().map(|e| e.name.as_path()).collect();
        assert_eq!(names, [Path::new("src"), Path::new("src/x")]);
        let missing = Tree::list(t.path(), &Take::Only(vec!["nothing".to_owned()])).unwrap_err().to_string();
        assert!(missing.contains("nothing"), "{missing}");
    }

    #[test]
    fn a_copy_is_brought_up_to_date_and_what_is_equal_keeps_its_time() {
        let t = tempfile::tempdir().unwrap();
        let (plan, copy) = (t.path().join("plan"), t.path().join("copy"));
        for dir in [&plan.join("target"), &plan.join("js/node_modules/x"), &plan.join("src/target"), &copy] {
            fs::create_dir_all(dir).unwrap();
        }
        let tag = String::from_utf8(CACHE_TAG.to_vec()).unwrap() + "\n# why\n";
        let files = [
            ("a", "one two three"),
            ("b", "kept"),
            ("c", "longer than its successor"),
            ("d", "a file"),
            ("target/CACHEDIR.TAG", tag.as_str()),
            ("target/big", "made"),
            ("src/target/mod.rs", "// a module"),
            ("js/node_modules/x/y", "made"),
            ("manifest.toml", "name = \"p\""),
            ("composition.toml", "# why\n[global] # all\nplan = \"p\""),
            ("settings.toml", "[globals]\nx = 1"),
            ("src/composition.toml", "[global]"),
        ];
        for (name, text) in files {
            fs::write(plan.join(name), text).unwrap();
        }
        let bring = || {
            let tree = Tree::list(&plan, &Take::Sources).unwrap();
            remove_others(&copy, &tree, Path::new("made.lock")).unwrap();
            let (mut plain, mut copied) = (Sha256::new(), Sha256::new());
            tree.hash(&mut plain).unwrap();
            tree.copy(&copy, &mut copied).unwrap();
            assert_eq!(plain.finalize(), copied.finalize());
        };
        bring();
        assert!(copy.join("src/target/mod.rs").is_file());
        assert!(copy.join("settings.toml").is_file() && copy.join("src/composition.toml").is_file());
        for other in ["target", "js/node_modules", "manifest.toml", "composition.toml"] {
            assert!(!copy.join(other).exists(), "{other} is no source");
        }

        fs::write(copy.join("made.lock"), "").unwrap();
        fs::write(copy.join("stray"), "").unwrap();
        let changed = |name: &str| fs::metadata(copy.join(name)).unwrap().modified().unwrap();
        for name in ["a", "b", "c"] {
            fs::File::open(copy.join(name)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        fs::write(plan.join("a"), "one 2").unwrap();
        fs::write(plan.join("c"), "longer").unwrap();
        fs::remove_file(plan.join("d")).unwrap();
        fs::create_dir(plan.join("d")).unwrap();
        bring();
        let read = |name: &str| fs::read_to_string(copy.join(name)).unwrap();
        assert_eq!((read("a"), read("b"), read("c")), ("one 2".into(), "kept".into(), "longer".into()));
        assert_eq!(changed("b"), std::time::UNIX_EPOCH);
        assert!(changed("a") > std::time::UNIX_EPOCH && changed("c") > std::time::UNIX_EPOCH);
        assert!(copy.join("d").is_dir() && copy.join("made.lock").exists() && !copy.join("stray").exists());
    }
}

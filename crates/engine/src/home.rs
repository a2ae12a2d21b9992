//! Where Testground keeps things, and where a plan is looked for.
//!
//! Only places: what is written into them belongs to `build`, the lab and `collect`. The environment is an
//! argument, so that the executable reads it once and tests don't touch it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use testground_model::manifest::Manifest;
use testground_model::name::{InstanceName, RunId};

use crate::text::read_text;

/// The file in an instance's output directory that keeps its standard output (SDKs write `run.out` themselves).
pub const STDOUT_FILE: &str = "stdout.log";
/// The file in an instance's output directory that keeps its standard error (SDKs write `run.err` themselves).
pub const STDERR_FILE: &str = "stderr.log";
/// The file that makes a directory a plan.
pub const MANIFEST_FILE: &str = "manifest.toml";

/// The directory that everything lasting lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// A plan's directory: it exists, can be read, and holds a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanDir {
    /// The directory, absolute and without symbolic links.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: PathBuf,
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Nothing says where it should be.
    #[error(
        "there is no place for Testground's files: none of TESTGROUND_HOME, XDG_CONFIG_HOME and HOME is set\n\
         (set TESTGROUND_HOME to a directory that you can write)"
    )]
    Nowhere,
    /// It can't be made.
    #[error("{what} can't be made: {source}\n(set TESTGROUND_HOME to a directory that you can write)", what = dir.display())]
    CannotMake {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there, and can't be written.
    #[error("{what} can't be written: {source}\n(set TESTGROUND_HOME to a directory that you can write)", what = dir.display())]
    ReadOnly {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a plan can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is nowhere.
    #[error("plan {typed:?} is missing{}; looked for\n{}", nearest_words(nearest.as_deref()), lines(looked))]
    Missing {
        /// What was typed.
        typed: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
        /// A plan that exists and whose name is near.
        nearest: Option<String>,
    },
    /// It is a file.
    #[error("plan {} is no directory (a composition is run with `run composition -f FILE`)", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It, or its manifest, can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its path goes in circles.
    #[error("{} leads nowhere: its symbolic links form a loop", path.display())]
    SymlinkLoop {
        /// The path.
        path: PathBuf,
    },
    /// The directory has no manifest.
    #[error("{} is no plan: it has no {MANIFEST_FILE}{}", dir.display(), nearest_words(nearest.as_deref()))]
    NoManifest {
        /// The directory.
        dir: PathBuf,
        /// What might have been meant: a plan below it, or a file of nearly that name.
        nearest: Option<String>,
    },
}

// === impl Home ===

impl Home {
    /// Finds the home and makes what is missing of it: `$TESTGROUND_HOME`, else `$HOME/testground` where that exists
    /// (as old installations have it), else `$XDG_CONFIG_HOME/testground`, else `$HOME/.config/testground`.
    ///
    /// # Errors
    /// When no variable says where, or the directory can't be made or written.
    pub fn open(variable: impl Fn(&str) -> Option<OsString>) -> Result<Home, HomeError> {
        Home::at(&locate(variable)?)
    }

    /// Takes this directory as the home and makes what is missing of it.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn at(root: &Path) -> Result<Home, HomeError> {
        let cannot = |dir: &Path, source| HomeError::CannotMake { dir: dir.to_owned(), source };
        let home = Home { root: std::path::absolute(root).map_err(|e| cannot(root, e))? };
        for dir in [home.plans(), home.sdks(), home.work(), home.outputs(), home.daemon()] {
            fs::create_dir_all(&dir).map_err(|e| cannot(&dir, e))?;
        }
        for dir in [home.work(), home.outputs()] {
            rustix::fs::access(&dir, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|e| HomeError::ReadOnly { dir, source: e.into() })?;
        }
        Ok(home)
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Plans that are known by name.
    pub fn plans(&self) -> PathBuf {
        self.root.join("plans")
    }

    /// SDKs that are known by name.
    pub fn sdks(&self) -> PathBuf {
        self.root.join("sdks")
    }

    /// What builders keep.
    pub fn work(&self) -> PathBuf {
        self.root.join("data/work")
    }

    /// What runs leave.
    pub fn outputs(&self) -> PathBuf {
        self.root.join("data/outputs")
    }

    /// The daemon's own files.
    pub fn daemon(&self) -> PathBuf {
        self.root.join("data/daemon")
    }

    /// Where a run's outputs lie: `data/outputs/local_exec/<plan>/<run id>` for the runner `local:exec`.
    pub fn outputs_dir(&self, runner: &str, plan: &str, run: &RunId) -> PathBuf {
        let mut dir = self.outputs();
        dir.push(runner.replace([':', '/'], "_"));
        dir.push(plan.replace('/', "-"));
        dir.push(run.as_str());
        dir
    }
}

/// Where an instance's outputs lie inside those of its run: `<group>/<index>`.
pub fn instance_dir(run_outputs: &Path, instance: &InstanceName) -> PathBuf {
    run_outputs.join(&instance.group).join(instance.index.to_string())
}

/// The home's directory by the environment alone, whether it exists or not.
///
/// # Errors
/// When no variable says where.
pub fn locate(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
    let set = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("TESTGROUND_HOME") {
        return Ok(dir);
    }
    let home = set("HOME");
    if let Some(old) = home.as_ref().map(|h| h.join("testground")).filter(|old| old.is_dir()) {
        return Ok(old);
    }
    set("XDG_CONFIG_HOME")
        .or_else(|| home.map(|h| h.join(".config")))
        .map(|config| config.join("testground"))
        .ok_or(HomeError::Nowhere)
}

// === plans ===

/// Finds a plan: the path as it was typed, else `plans/<typed>` in the home, else `./plans/<typed>`; and where the
/// name comes from a composition, the directory in which it lies (`beside`) when that, or the manifest in it, has the plan's
/// name.
///
/// # Errors
/// Says what was looked for and where, and the nearest name.
pub fn find_plan(home: &Home, typed: &str, here: &Path, beside: Option<&Path>) -> Result<PlanDir, PlanError> {
    let mut candidates = vec![here.join(typed)];
    // Who writes `./ping` or `/ping` means that place and no other.
    if !Path::new(typed).is_absolute() && !typed.starts_with("./") && !typed.starts_with("../") {
        candidates.extend([home.plans().join(typed), here.join("plans").join(typed)]);
    }
    candidates.extend(beside.filter(|dir| names(dir, typed)).map(Path::to_owned));
    candidates.extend(beside.map(|dir| dir.join(typed)));
    candidates.dedup();
    // A directory that is no plan yields to one further down that is: `ping` may be a folder here and a plan there.
    let mut first_wrong = None;
    for candidate in &candidates {
        match open_plan(candidate) {
            Ok(plan) => return Ok(plan),
            Err(PlanError::Missing { .. }) => {}
            Err(e) => first_wrong = first_wrong.or(Some(e)),
        }
    }
    Err(first_wrong.unwrap_or_else(|| PlanError::Missing {
        typed: typed.to_owned(),
        nearest: nearest_plan(&[home.plans(), here.join("plans"), here.to_owned()], typed)
            .or_else(|| nearest_beside(here, typed)),
        looked: candidates,
    }))
}

/// Takes exactly this directory as a plan.
///
/// # Errors
/// When it is missing, no directory, can't be read, leads in circles or has no manifest.
pub fn open_plan(path: &Path) -> Result<PlanDir, PlanError> {
    let failed = |path: &Path, source: io::Error| {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => PlanError::SymlinkLoop { path },
            Some(Errno::NOENT) => {
                PlanError::Missing { typed: path.display().to_string(), looked: vec![path], nearest: None }
            }
            Some(Errno::NOTDIR) => PlanError::NotADirectory { path },
            _ => PlanError::Unreadable { path, source },
        }
    };
    let dir = fs::canonicalize(path).map_err(|e| failed(path, e))?;
    if !dir.is_dir() {
        return Err(PlanError::NotADirectory { path: path.to_owned() });
    }
    fs::read_dir(&dir).map_err(|e| failed(&dir, e))?;
    let manifest = dir.join(MANIFEST_FILE);
    // Asked before it is opened: opening a FIFO would wait for its writer.
    match fs::metadata(&manifest) {
        Ok(found) if found.is_file() => {}
        Ok(found) => {
            let errno = if found.is_dir() { Errno::ISDIR } else { Errno::INVAL };
            return Err(failed(&manifest, errno.into()));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(PlanError::NoManifest { nearest: nearest_manifest(&dir), dir });
        }
        Err(e) => return Err(failed(&manifest, e)),
    }
    fs::File::open(&manifest).map_err(|e| failed(&manifest, e))?;
    Ok(PlanDir { dir, manifest })
}

/// Whether a directory has a plan's name, or is that plan by what its manifest says.
fn names(dir: &Path, typed: &str) -> bool {
    let last = Path::new(typed).file_name();
    let by_directory = || last.is_some() && fs::canonicalize(dir).is_ok_and(|dir| dir.file_name() == last);
    by_directory() || declared_name(&dir.join(MANIFEST_FILE)).is_some_and(|name| name == typed)
}

fn declared_name(manifest: &Path) -> Option<String> {
    let text = read_text(manifest).ok()?;
    Manifest::parse("manifest.toml", &text).ok().map(|manifest| manifest.name.value)
}

fn nearest_plan(roots: &[PathBuf], typed: &str) -> Option<String> {
    let wanted = Path::new(typed).file_name()?.to_str()?;
    roots
        .iter()
        .flat_map(|root| plans_in(root))
        .map(|name| (strsim::normalized_damerau_levenshtein(&name, wanted), name))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A plan or a composition in the directory that a path names, spelled nearly as its last part.
fn nearest_beside(here: &Path, typed: &str) -> Option<String> {
    let typed = Path::new(typed);
    let (parent, wanted) = (typed.parent()?, typed.file_name()?.to_str()?);
    let entries = fs::read_dir(here.join(parent)).into_iter().flatten().flatten().take(10_000);
    entries
        .filter(|e| {
            e.path().join(MANIFEST_FILE).is_file() || e.path().extension().is_some_and(|e| e == "toml")
        })
        .filter_map(|e| e.file_name().into_string().ok())
        .map(|name| (strsim::normalized_damerau_levenshtein(&name, wanted), name))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| parent.join(name).display().to_string())
}

/// Names of the plans directly in a directory; none where it can't be read.
fn plans_in(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten().take(10_000);
    entries
        .filter(|e| e.path().join(MANIFEST_FILE).is_file())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

fn nearest_manifest(dir: &Path) -> Option<String> {
    let below = plans_in(dir).into_iter().min().map(|plan| dir.join(plan).display().to_string());
    let files = fs::read_dir(dir).into_iter().flatten().flatten().take(10_000);
    let alike = files
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| strsim::damerau_levenshtein(&name.to_lowercase(), MANIFEST_FILE) <= 2)
        .min();
    alike.or(below)
}

fn nearest_words(nearest: Option<&str>) -> String {
    nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default()
}

fn lines(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| format!("  {}", p.display())).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(MANIFEST_FILE), "name = \"x\"").unwrap();
    }

    #[test]
    fn no_group_is_called_as_a_file_of_a_run_s_outputs() {
        use crate::{measure, runs};
        let files = [
            measure::RECORD_FILE,
            measure::REFUSED_FILE,
            measure::SUMMARY_FILE,
            runs::INFO_FILE,
            runs::RECORD_FILE,
        ];
        for file in files {
            assert!(testground_model::composition::OUTPUT_NAMES.contains(&file), "{file}");
        }
    }

    #[test]
    fn the_home_is_where_the_first_variable_that_counts_says() {
        let t = tempfile::tempdir().unwrap();
        let t = t.path();
        let find = |pairs: &[(&str, &Path)]| {
            locate(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_os_str().to_owned())).ok()
        };
        let (user, xdg, own) = (t.join("user"), t.join("xdg"), t.join("own"));
        let none = Path::new("");
        assert_eq!(find(&[]), None);
        assert_eq!(
            find(&[("HOME", none), ("TESTGROUND_HOME", none)]),
            None,
            "an empty variable says nothing"
        );
        assert_eq!(find(&[("HOME", &user)]), Some(user.join(".config/testground")));
        assert_eq!(find(&[("HOME", &user), ("XDG_CONFIG_HOME", &xdg)]), Some(xdg.join("testground")));
        fs::create_dir_all(user.join("testground")).unwrap();
        assert_eq!(find(&[("HOME", &user), ("XDG_CONFIG_HOME", &xdg)]), Some(user.join("testground")));
        assert_eq!(find(&[("HOME", &user), ("TESTGROUND_HOME", &own)]), Some(own));
    }

    #[test]
    fn a_home_is_made_on_demand_and_says_what_it_cannot() {
        let t = tempfile::tempdir().unwrap();
        let home = Home::at(&t.path().join("a/b")).unwrap();
        for dir in ["plans", "sdks", "data/work", "data/outputs", "data/daemon"] {
            assert!(home.root().join(dir).is_dir(), "{dir}");
        }
        let id = RunId::new(1, [7; 8]);
        let outputs = home.outputs_dir("local:exec", "net/ping", &id);
        assert_eq!(outputs, home.root().join("data/outputs/local_exec/net-ping").join(id.as_str()));
        assert_eq!(instance_dir(&outputs, &InstanceName::new("g", 3)), outputs.join("g/3"));

        let file = t.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Home::at(&file.join("home")).unwrap_err().to_string();
        assert!(
            error.contains("file/home/plans can't be made") && error.contains("TESTGROUND_HOME"),
            "{error}"
        );
    }

    #[test]
    fn a_plan_is_found_as_typed_in_the_home_here_and_beside_its_composition() {
        let t = tempfile::tempdir().unwrap();
        let t = fs::canonicalize(t.path()).unwrap();
        let home = Home::at(&t.join("home")).unwrap();
        let here = t.join("here");
        let find = |typed: &str| find_plan(&home, typed, &here, None).map(|p| p.dir).ok();
        plan(&here.join("plans/near"));
        assert_eq!(find("near"), Some(here.join("plans/near")));
        plan(&home.plans().join("near"));
        assert_eq!(find("near"), Some(home.plans().join("near")));
        fs::create_dir_all(here.join("near")).unwrap();
        assert_eq!(
            find("near"),
            Some(home.plans().join("near")),
            "a folder without a manifest is passed over"
        );
        plan(&here.join("near"));
        assert_eq!(find("near"), Some(here.join("near")));

        let far = t.join("far/away");
        plan(&far);
        let beside = find_plan(&home, "away", &here, Some(&far)).unwrap();
        assert_eq!(beside.dir, far);
        assert!(find_plan(&home, "another", &here, Some(&far)).is_err());
        let declared = "name = \"another\"\n[builders.\"exec:go\"]\n[runners.\"local:exec\"]\n\
                        [[testcases]]\nname = \"c\"\n";
        fs::write(far.join(MANIFEST_FILE), declared).unwrap();
        let beside = find_plan(&home, "another", &here, Some(&far)).unwrap();
        assert_eq!(beside.dir, far, "its manifest says so");
    }

    #[test]
    fn every_way_of_having_no_plan_has_its_own_words() {
        let t = tempfile::tempdir().unwrap();
        let t = t.path();
        let home = Home::at(&t.join("home")).unwrap();
        let here = t.join("here");
        plan(&here.join("plans/quickstart"));
        let words = |typed: &str| find_plan(&home, typed, &here, None).unwrap_err().to_string();

        let missing = words("quikstart");
        assert!(
            missing.contains("did you mean quickstart?") && missing.contains("home/plans/quikstart"),
            "{missing}"
        );
        assert!(!words("zzz").contains("did you mean"));
        fs::write(here.join("plans/big.toml"), "").unwrap();
        let composition = words("./plans/bog.toml");
        assert!(composition.contains("did you mean ./plans/big.toml?"), "{composition}");
        assert!(!composition.contains("home"), "such a path means one place: {composition}");

        std::os::unix::fs::symlink("loop", here.join("loop")).unwrap();
        assert!(words("loop").contains("form a loop"), "{}", words("loop"));

        fs::write(here.join("file"), "").unwrap();
        assert!(words("file").contains("is no directory"), "{}", words("file"));

        fs::create_dir_all(here.join("bare")).unwrap();
        fs::write(here.join("bare/Manifest.tml"), "").unwrap();
        assert!(words("bare").contains("did you mean Manifest.tml?"), "{}", words("bare"));
        assert!(words("plans").contains("plans/quickstart?"), "{}", words("plans"));
    }

    #[test]
    fn a_manifest_that_is_no_file_is_refused_and_never_waited_for() {
        let t = tempfile::tempdir().unwrap();
        let (dir, fifo) = (t.path().join("dir"), t.path().join("fifo"));
        fs::create_dir_all(dir.join(MANIFEST_FILE)).unwrap();
        fs::create_dir_all(&fifo).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, fifo.join(MANIFEST_FILE), mode).unwrap();
        for plan in [dir, fifo] {
            let error = open_plan(&plan).unwrap_err();
            assert!(matches!(error, PlanError::Unreadable { .. }), "{error}");
        }
    }
}

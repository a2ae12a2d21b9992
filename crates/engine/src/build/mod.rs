//! From a plan's sources to a program that can be started: one artifact for each distinct build of a run.
//!
//! Builders run outside the lab, with the user's own tools, caches and network. They never write into the plan's
//! directory: what has to be compiled is compiled in a private copy. How an artifact is started belongs to the lab.

mod cache;
mod generic;
mod go;
mod ignore;
mod node;
mod purge;
mod rust;
pub mod sdk;
mod settings;
mod source;
mod tool;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use testground_model::event::EventKind;
use testground_model::run::{Build, Group};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::purge::{Purged, purge};
pub use self::source::SourceError;
pub use self::tool::find as find_tool;

use crate::healthcheck::Sweeper;
use crate::home::Home;

/// The builders that exist.
pub const BUILDERS: [&str; 4] = ["exec:generic", "exec:go", "exec:rust", "exec:node"];

/// A program that is ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The executable, absolute.
    pub program: PathBuf,
    /// Arguments for it.
    pub args: Vec<String>,
    /// The directory that its instances' working directories are made from: the plan's own (nothing was built) or the
    /// built copy. It may be read-only, and instances don't write to it.
    pub dir: PathBuf,
}

/// Where builds take place.
#[derive(Debug, Clone)]
pub struct Site {
    /// The plan's directory, absolute.
    pub plan: PathBuf,
    /// Where artifacts are kept.
    pub home: Home,
    /// The directory for the tools' own output, made when a tool is started.
    pub logs: PathBuf,
    /// The directories that tools are looked for in, in the form of `PATH`.
    pub path: OsString,
    /// The longest that one build may take.
    pub timeout: Duration,
}

/// A finished build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What it made.
    pub artifact: Artifact,
    /// Whether an earlier build of the same sources was taken.
    pub cached: bool,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No builder has that name.
    #[error("builder {builder:?} is not there{}; known are {}", near(nearest.as_deref()), BUILDERS.join(", "))]
    UnknownBuilder {
        /// What was asked for.
        builder: String,
        /// A builder of nearly that name.
        nearest: Option<String>,
    },
    /// A tool that the builder needs is not installed.
    #[error("builder {builder} needs `{tool}`, which is nowhere in PATH\n({mend})")]
    MissingTool {
        /// The builder.
        builder: String,
        /// The tool.
        tool: String,
        /// What mends it.
        mend: String,
    },
    /// A setting has a wrong value.
    #[error("setting {key:?} of builder {builder}: {problem}")]
    Setting {
        /// The builder.
        builder: &'static str,
        /// The setting.
        key: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// The program is missing or can't be run.
    #[error("program {}: {problem}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The sources can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A tool was started and failed.
    #[error("`{command}` {ended}\n{}{}(all of its output: {})", quoted(tail), line(*hint), log.display())]
    Tool {
        /// The tool and its arguments.
        command: String,
        /// How it ended.
        ended: String,
        /// The last lines of its output.
        tail: Vec<String>,
        /// What mends it, where that is known.
        hint: Option<&'static str>,
        /// Where the rest of it is.
        log: PathBuf,
    },
    /// Somebody else builds, and doesn't end.
    #[error("another build has held {} for more than {seconds} s; `fuser` says who", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Something around the build failed.
    #[error("failed to {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A build that failed, and the groups that wanted it.
#[derive(Debug, thiserror::Error)]
#[error("failed to build {} with {builder}: {source}", groups.join(", "))]
pub struct FailedBuild {
    /// The groups.
    pub groups: Vec<String>,
    /// The builder.
    pub builder: String,
    /// Why.
    #[source]
    pub source: Box<BuildError>,
}

/// Checks, before anything is started, that every tool is installed and every setting makes sense.
///
/// # Errors
/// The first build that can't work, with the groups that want it.
pub fn check_tools(groups: &[Group], path: &std::ffi::OsStr) -> Result<(), FailedBuild> {
    for (build, wanted_by) in distinct(groups) {
        let checked = match (build.artifact.as_ref(), build.builder.as_str()) {
            (Some(_), _) => Ok(()),
            (None, "exec:go") => go::check(build, path),
            (None, "exec:generic") => generic::check(build, path),
            (None, "exec:rust") => rust::check(build, path),
            (None, "exec:node") => node::check(build, path),
            (None, other) => Err(unknown(other)),
        };
        checked.map_err(|e| failed(build, wanted_by, e))?;
    }
    Ok(())
}

/// Builds what the groups need, distinct builds side by side, at most `concurrent` at a time, and gives back one
/// artifact for each group in their order. Groups with a Pod manifest need none and get `None`.
///
/// Dropping the future ends every tool that is running.
///
/// # Errors
/// The first build that failed; the others are ended.
pub async fn build_all(
    groups: &[Group],
    site: &Site,
    concurrent: usize,
    mut tell: impl FnMut(EventKind),
) -> Result<Vec<Option<Artifact>>, FailedBuild> {
    let permits = Arc::new(Semaphore::new(concurrent.max(1)));
    let builds = distinct(groups);
    let mut tasks = JoinSet::new();
    for (number, (wanted, wanted_by)) in builds.iter().enumerate() {
        tell(EventKind::BuildStarted { groups: wanted_by.clone(), builder: wanted.builder.clone() });
        let (wanted, site, permits) = ((*wanted).clone(), site.clone(), Arc::clone(&permits));
        tasks.spawn(async move {
            // The semaphore is never closed, so that a missing permit can't happen; going on would do no harm.
            let _permit = permits.acquire_owned().await.ok();
            let begun = Instant::now();
            (number, build(&wanted, &site).await, begun.elapsed())
        });
    }
    let mut made: Vec<Option<Artifact>> = vec![None; builds.len()];
    while let Some(joined) = tasks.join_next().await {
        let (number, result, took) = match joined {
            Ok(done) => done,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => continue,
            },
        };
        let (wanted, wanted_by) = &builds[number];
        let built = result.map_err(|e| failed(wanted, wanted_by.clone(), e))?;
        tell(EventKind::BuildFinished {
            groups: wanted_by.clone(),
            artifact: built.artifact.program.display().to_string(),
            cached: built.cached,
            seconds: took.as_secs_f64(),
        });
        made[number] = Some(built.artifact);
    }
    let artifact_of = |group: &Group| {
        let number = builds.iter().position(|(build, _)| **build == group.build)?;
        made[number].clone()
    };
    Ok(groups.iter().map(|g| if g.pod.is_some() { None } else { artifact_of(g) }).collect())
}

/// Makes one artifact, or takes an earlier one of the same sources, settings and tools.
///
/// # Errors
/// See [`BuildError`].
pub async fn build(build: &Build, site: &Site) -> Result<Built, BuildError> {
    if let Some(artifact) = &build.artifact {
        let program = site.plan.join(artifact);
        generic::must_be_executable(&program)?;
        let args = generic::args(build)?;
        return Ok(Built { artifact: Artifact { program, args, dir: site.plan.clone() }, cached: true });
    }
    match build.builder.as_str() {
        "exec:go" => go::build(build, site).await.map_err(|e| e.hinted(&go::HINTS)),
        "exec:rust" => rust::build(build, site).await.map_err(|e| e.hinted(&rust::HINTS)),
        "exec:node" => node::build(build, site).await.map_err(|e| e.hinted(&node::HINTS)),
        "exec:generic" => generic::build(build, site).await,
        other => Err(unknown(other)),
    }
}

/// What killed builds leave in a home: half-written directories, which the next build of the same sources removes too.
pub fn sweeper(home: &Path) -> Sweeper {
    let work = home.join("data/work");
    Sweeper {
        name: "builds",
        find: Box::new(move || {
            Ok(cache::leftovers(&work).iter().map(|dir| dir.display().to_string()).collect())
        }),
        remove: Box::new(|dir| std::fs::remove_dir_all(dir).map_err(|e| e.to_string())),
    }
}

// === impl BuildError ===

impl BuildError {
    /// Says what mends a failed tool, by words of its output: of its last lines, else of all that was kept, because npm
    /// ends with a screenful about its flags.
    fn hinted(mut self, hints: &[(&str, &'static str)]) -> BuildError {
        if let BuildError::Tool { tail, hint, log, .. } = &mut self {
            let whole = std::fs::read(log).unwrap_or_default();
            let of = |text: &str| hints.iter().find(|(words, _)| text.contains(words)).map(|(_, hint)| *hint);
            *hint = of(&tail.join("\n")).or_else(|| of(&String::from_utf8_lossy(&whole)));
        }
        self
    }
}

/// What tells one version of a tool from another without asking it: an answer takes longer than all else of a build that
/// is in the cache.
fn identity(tool: &Path) -> String {
    let real = std::fs::canonicalize(tool).unwrap_or_else(|_| tool.to_owned());
    let meta = std::fs::metadata(&real).ok();
    let changed = meta.as_ref().and_then(|m| m.modified().ok());
    format!("{real:?} {:?} {changed:?}", meta.map(|m| m.len()))
}

/// The distinct builds of the groups without a Pod manifest, each with the groups that want it.
fn distinct(groups: &[Group]) -> Vec<(&Build, Vec<String>)> {
    let mut builds: Vec<(&Build, Vec<String>)> = Vec::new();
    for group in groups.iter().filter(|g| g.pod.is_none()) {
        match builds.iter_mut().find(|(build, _)| **build == group.build) {
            Some((_, wanted_by)) => wanted_by.push(group.id.clone()),
            None => builds.push((&group.build, vec![group.id.clone()])),
        }
    }
    builds
}

fn failed(build: &Build, groups: Vec<String>, source: BuildError) -> FailedBuild {
    FailedBuild { groups, builder: build.builder.clone(), source: Box::new(source) }
}

fn unknown(builder: &str) -> BuildError {
    let nearest = BUILDERS.iter().max_by_key(|b| strsim_percent(b, builder));
    let nearest = nearest.filter(|b| strsim_percent(b, builder) >= 50).map(|b| (*b).to_owned());
    BuildError::UnknownBuilder { builder: builder.to_owned(), nearest }
}

/// How alike two names are, in percent.
fn strsim_percent(a: &str, b: &str) -> u32 {
    (strsim::normalized_damerau_levenshtein(a, b) * 100.0) as u32
}

fn near(nearest: Option<&str>) -> String {
    nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default()
}

fn quoted(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  | {line}\n")).collect()
}

/// The hint of a failure on a line of its own.
fn line(hint: Option<&str>) -> String {
    hint.map(|hint| format!("({hint})\n")).unwrap_or_default()
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;

//! `exec:generic`: a program that is there already, or that a command of the plan makes.
//!
//! Settings: `program` (text, or a list with arguments), `build` (a command: text for the shell, or a list), `sources`
//! (what the command depends on, relative to the plan; everything when missing). Without `build` the plan's own
//! directory is used as it is, so that it may be read-only. With it the command runs in a private copy.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use sha2::{Digest, Sha256};
use testground_model::run::Build;

use super::cache::{Claim, Recipe, Slot};
use super::settings::{Settings, Texts};
use super::source::{SourceError, Take, Tree, remove_others};
use super::tool::{Tool, find};
use super::{Artifact, BuildError, Built, Site, go};

const NAME: &str = "exec:generic";

struct Config {
    program: String,
    args: Vec<String>,
    command: Option<Vec<String>>,
    sources: Option<Vec<String>>,
}

/// Checks the settings, and that the command's own program is installed.
pub(super) fn check(build: &Build, path: &OsStr) -> Result<(), BuildError> {
    let config = Config::read(build)?;
    match config.command.as_deref().and_then(<[String]>::first) {
        Some(tool) if !tool.contains('/') && find(tool, path).is_none() => {
            let mend = format!("install {tool}, or change the setting `build` of the composition");
            Err(BuildError::MissingTool { builder: NAME.into(), tool: tool.clone(), mend })
        }
        _ => Ok(()),
    }
}

pub(super) async fn build(build: &Build, site: &Site) -> Result<Built, BuildError> {
    let config = Config::read(build)?;
    let Some(command) = &config.command else {
        let program = locate(&config.program, &site.plan, &site.path)?;
        let artifact = Artifact { program, args: config.args, dir: site.plan.clone() };
        return Ok(Built { artifact, cached: true });
    };
    let take = config.sources.clone().map_or(Take::All, Take::Only);
    let salt = format!("{NAME} 1 {:?} {:?} {:?}", config.command, config.program, config.args);
    let key = source_key(&site.plan, &take, &salt).await?;
    let held = match Slot::new(&site.home.work(), key.clone()).claim(site.timeout).await? {
        Claim::Made(artifact) => return Ok(Built { artifact, cached: true }),
        Claim::Mine(held) => held,
    };
    let scratch = held.scratch()?;
    let whole = scratch.path().join("plan");
    copy_unchanged(&site.plan, &take, &whole, Path::new(""), (&salt, &key)).await?;
    let tool = command.first().map(String::as_str).unwrap_or_default();
    let program = if tool.contains('/') { Some(whole.join(tool)) } else { find(tool, &site.path) };
    let program = program.ok_or_else(|| BuildError::MissingTool {
        builder: NAME.into(),
        tool: tool.to_owned(),
        mend: format!("install {tool}"),
    })?;
    let args = command.iter().skip(1).map(OsString::from).collect();
    let log = site.logs.join(format!("build-{}.log", go::short(&key)));
    Tool { program: &program, args, dir: &whole, env: Vec::new() }.run(&log, site.timeout).await?;
    let made = locate(&config.program, &whole, &site.path)?;
    // Inside of the copy the name must survive the copy's move to its place.
    let program = made.strip_prefix(&whole).map(Path::to_owned).unwrap_or(made);
    let recipe = Recipe { program, args: config.args, builder: NAME.into(), plan: site.plan.clone() };
    let artifact = held.keep(&whole, &recipe)?;
    Ok(Built { artifact, cached: false })
}

/// The arguments for a program that is there already.
pub(super) fn args(build: &Build) -> Result<Vec<String>, BuildError> {
    if build.builder != NAME || !build.config.contains_key("program") {
        return Ok(Vec::new());
    }
    Ok(Config::read(build)?.args)
}

/// Fails unless the file is there and may be executed.
pub(super) fn must_be_executable(program: &Path) -> Result<(), BuildError> {
    let wrong = |problem: &str| BuildError::Program { path: program.to_owned(), problem: problem.to_owned() };
    let meta = std::fs::metadata(program).map_err(|e| wrong(&e.to_string()))?;
    if !meta.is_file() {
        return Err(wrong("it is no file"));
    }
    let allowed = rustix::fs::access(program, Access::EXEC_OK);
    allowed.map_err(|e| {
        wrong(&format!("it can't be executed: {} (chmod +x mends that)", std::io::Error::from(e)))
    })
}

/// The key of a plan's sources under settings that are part of the salt.
pub(super) async fn source_key(plan: &Path, take: &Take, salt: &str) -> Result<String, BuildError> {
    let (plan, take, mut hash) = (plan.to_owned(), take.clone(), Sha256::new_with_prefix(salt.as_bytes()));
    let hashed = tokio::task::spawn_blocking(move || {
        Tree::list(&plan, &take)?.hash(&mut hash)?;
        Ok::<_, SourceError>(hex(&hash.finalize()))
    });
    Ok(joined(hashed).await?)
}

/// Copies a plan's sources to a directory of their own, and makes sure that they are those of the key. The directory may
/// have an earlier copy: it becomes the same as a new one, but what hasn't changed isn't written again, and a file
/// called `spared` in it stays.
pub(super) async fn copy_unchanged(
    plan: &Path,
    take: &Take,
    to: &Path,
    spared: &Path,
    (salt, key): (&str, &str),
) -> Result<(), BuildError> {
    let (plan, take, to, spared) = (plan.to_owned(), take.clone(), to.to_owned(), spared.to_owned());
    let (salt, key) = (salt.to_owned(), key.to_owned());
    let copied = tokio::task::spawn_blocking(move || {
        let failed = |source| SourceError::Io { path: to.clone(), source };
        std::fs::create_dir_all(&to).map_err(failed)?;
        // An editor may be saving right now. The key is what was asked for, so the copy has to catch up with it or
        // the build is refused; it is never filed under the name of other sources.
        for _ in 0..3 {
            let mut hash = Sha256::new_with_prefix(salt.as_bytes());
            let tree = Tree::list(&plan, &take)?;
            remove_others(&to, &tree, &spared)?;
            tree.copy(&to, &mut hash)?;
            if hex(&hash.finalize()) == key {
                return Ok(());
            }
        }
        Err(SourceError::Changing { path: plan })
    });
    Ok(joined(copied).await?)
}

/// A name with a `/`, or that exists in `dir`, is a file there; any other is looked up in PATH.
fn locate(program: &str, dir: &Path, path: &OsStr) -> Result<PathBuf, BuildError> {
    // Without the `./` in between: the path is shown, and written into compositions.
    let own: PathBuf = dir.join(program).components().collect();
    let file = if program.contains('/') || own.exists() { Some(own.clone()) } else { find(program, path) };
    let file = file.ok_or_else(|| BuildError::Program {
        path: own,
        problem: "it is missing, and no program of that name is in PATH".into(),
    })?;
    must_be_executable(&file)?;
    Ok(file)
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T, SourceError>>) -> Result<T, SourceError> {
    match task.await {
        Ok(result) => result,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

// === impl Config ===

impl Config {
    fn read(build: &Build) -> Result<Config, BuildError> {
        let settings = Settings::new(NAME, &build.config);
        let Some(program) = settings.texts("program")? else {
            let problem = "it is missing: name the program, or give a list of the program and its arguments";
            return Err(settings.wrong("program", problem));
        };
        let mut words = program.owned();
        let args = words.split_off(1);
        let program = words.swap_remove(0);
        let command = settings.texts("build")?.map(|command| match command {
            Texts::One(line) => vec!["sh".to_owned(), "-c".to_owned(), line.to_owned()],
            list @ Texts::Many(_) => list.owned(),
        });
        let sources = settings.texts("sources")?.map(|s| s.owned());
        let outside =
            |name: &&String| Path::new(name).is_absolute() || Path::new(name).iter().any(|p| p == "..");
        if let Some(name) = sources.iter().flatten().find(outside) {
            return Err(settings.wrong("sources", &format!("{name:?} lies outside of the plan")));
        }
        Ok(Config { program, args, command, sources })
    }
}

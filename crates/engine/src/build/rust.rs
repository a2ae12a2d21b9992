//! `exec:rust`: a program of the plan's package, compiled by the user's own cargo.
//!
//! Settings: `path` (where the package lies in the plan), `package` (which of a workspace), `bin` (which of its
//! programs), `features`, `profile` (default `release`). Selectors are features too. A Cargo.lock of the plan is used as
//! it is. Sources are copied to a place that stays, and everything is compiled in one target directory of the home, so
//! that a change costs as little as in the plan itself, and plans share what they depend on.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use testground_model::run::Build;

use super::cache::{self, Claim, PROGRAM, Recipe, Slot};
use super::generic::{copy_unchanged, hex, source_key};
use super::go::short;
use super::settings::{Settings, Texts};
use super::source::Take;
use super::tool::{Tool, find};
use super::{BuildError, Built, Site, identity, io_error};

const NAME: &str = "exec:rust";
const LOCK_FILE: &str = "Cargo.lock";
/// How lines of `--message-format=json` begin.
const MESSAGE: &str = "{\"reason\":";
/// Variables that decide what is compiled, besides the sources: these, and what begins with the prefixes.
const DECISIVE: [&str; 7] =
    ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CC", "CXX", "CFLAGS", "LDFLAGS"];
const DECISIVE_PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
/// Said of a registry that doesn't answer.
const UNREACHABLE: &str = "crates can't be fetched; `cargo fetch` in the plan fetches them ahead of a run, and what is built \
     once is taken from the cache";

/// What mends failures, by words that they have.
pub(super) const HINTS: [(&str, &str); 8] = [
    ("--locked was passed", STALE_LOCK),
    ("needs to be updated but --locked", STALE_LOCK),
    ("linker `cc` not found", "a linker is missing: `apt-get install gcc libc6-dev`"),
    ("no default toolchain", "rustup has no toolchain: `rustup default stable`"),
    ("failed to download", UNREACHABLE),
    ("Could not resolve host", UNREACHABLE),
    ("failed to fetch", UNREACHABLE),
    ("failed to query replaced source registry", UNREACHABLE),
];
const STALE_LOCK: &str = "Cargo.lock doesn't fit Cargo.toml: `cargo build` in the plan brings it up to date; without one a lock file is made for \
     the build";

struct Config {
    path: PathBuf,
    package: Option<String>,
    bin: Option<String>,
    features: Vec<String>,
    profile: String,
}

/// What cargo says of something that it made, as far as we read it.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Target,
}

#[derive(Deserialize, Default)]
struct Target {
    #[serde(default)]
    kind: Vec<String>,
    #[serde(default)]
    name: String,
}

/// Checks the settings, and that cargo is installed.
pub(super) fn check(build: &Build, path: &OsStr) -> Result<(), BuildError> {
    Config::read(build)?;
    installed(path).map(drop)
}

pub(super) async fn build(build: &Build, site: &Site) -> Result<Built, BuildError> {
    let config = Config::read(build)?;
    let cargo = installed(&site.path)?;
    let package = site.plan.join(&config.path);
    if !package.join("Cargo.toml").is_file() {
        let problem = "it is missing (where it lies elsewhere in the plan the setting `path` says so)".into();
        return Err(BuildError::Program { path: package.join("Cargo.toml"), problem });
    }
    let Config { path, package: name, bin, features, profile } = &config;
    let salt =
        format!("{NAME} 1 {path:?} {name:?} {bin:?} {features:?} {profile} {}", toolchain(&cargo, site));
    let key = source_key(&site.plan, &Take::Sources, &salt).await?;
    let held = match Slot::new(&site.home.work(), key.clone()).claim(site.timeout).await? {
        Claim::Made(artifact) => return Ok(Built { artifact, cached: true }),
        Claim::Mine(held) => held,
    };
    let workshop = Workshop::of(site);
    fs::create_dir_all(&workshop.copy).map_err(|e| io_error("make", &workshop.copy, e))?;
    // One build at a time has the target directory, as cargo itself would have it; and the program that it leaves there
    // is taken away before another plan's of the same name takes its place.
    let _alone = cache::lock(&workshop.lock, site.timeout).await?;
    let has_lock = lock_file(&package, &site.plan).is_some();
    // A lock file that cargo made for an earlier build stays: the next build is of the same crates.
    let spared = if has_lock { PathBuf::new() } else { config.path.join(LOCK_FILE) };
    copy_unchanged(&site.plan, &Take::Sources, &workshop.copy, &spared, (&salt, &key)).await?;
    let log = site.logs.join(format!("build-{}.log", short(&key)));
    let program = compile(&config, &cargo, &workshop, has_lock, site, &log).await?;
    let scratch = held.scratch()?;
    let whole = scratch.path().join("whole");
    fs::create_dir(&whole).map_err(|e| io_error("make", &whole, e))?;
    fs::copy(&program, whole.join(PROGRAM)).map_err(|e| io_error("copy", &program, e))?;
    Ok(Built { artifact: held.keep(&whole, &Recipe::of(NAME, &site.plan))?, cached: false })
}

/// Where a home's Rust plans are compiled.
pub(super) struct Workshop {
    /// The copy of this plan's sources.
    pub(super) copy: PathBuf,
    /// What cargo makes, of all plans.
    pub(super) target: PathBuf,
    /// Held by whoever compiles.
    pub(super) lock: PathBuf,
    /// A place for crates, for users who have none.
    home: PathBuf,
}

// === impl Workshop ===

impl Workshop {
    pub(super) fn of(site: &Site) -> Workshop {
        Workshop::at(&site.home.work(), &site.plan)
    }

    pub(super) fn at(work: &Path, plan: &Path) -> Workshop {
        let root = work.join("rust");
        let name = hex(&Sha256::digest(plan.as_os_str().as_encoded_bytes()));
        Workshop {
            copy: root.join("plans").join(&name[..16]),
            target: root.join("target"),
            lock: root.join("lock"),
            home: root.join("cargo"),
        }
    }
}

/// Compiles the copy, and says where the program is.
async fn compile(
    config: &Config,
    cargo: &Path,
    workshop: &Workshop,
    locked: bool,
    site: &Site,
    log: &Path,
) -> Result<PathBuf, BuildError> {
    let mut args: Vec<OsString> =
        vec!["build".into(), "--message-format=json-render-diagnostics".into(), "--profile".into()];
    args.push(config.profile.as_str().into());
    if locked {
        args.push("--locked".into());
    }
    for (flag, value) in [("--package", &config.package), ("--bin", &config.bin)] {
        if let Some(value) = value {
            args.extend([flag.into(), value.into()]);
        }
    }
    if !config.features.is_empty() {
        args.extend(["--features".into(), config.features.join(",").into()]);
    }
    let mut env: Vec<(&str, OsString)> =
        vec![("CARGO_TARGET_DIR", workshop.target.clone().into()), ("CARGO_TERM_COLOR", "never".into())];
    if !has_cargo_home() {
        env.push(("CARGO_HOME", workshop.home.clone().into()));
    }
    let dir = workshop.copy.join(&config.path);
    let tool = Tool { program: cargo, args, dir: &dir, env };
    let messages = tool.run_and_pick(log, site.timeout, Some(MESSAGE)).await?;
    let programs = messages.iter().filter_map(|line| {
        let message: Message = serde_json::from_str(line).ok()?;
        let is_program = message.target.kind.iter().any(|kind| kind == "bin");
        Some((message.target.name, message.executable?)).filter(|_| is_program)
    });
    let programs: Vec<(String, PathBuf)> = programs.collect();
    match programs.as_slice() {
        [(_, program)] => Ok(program.clone()),
        [] => {
            let problem = "it has no program (`src/main.rs`), so that there is nothing to start".into();
            Err(BuildError::Program { path: dir, problem })
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            let problem = format!("there are {}: choose one", names.join(", "));
            Err(BuildError::Setting { builder: NAME, key: "bin".into(), problem })
        }
    }
}

fn installed(path: &OsStr) -> Result<PathBuf, BuildError> {
    find("cargo", path).ok_or_else(|| BuildError::MissingTool {
        builder: NAME.into(),
        tool: "cargo".into(),
        mend: "install Rust from https://rustup.rs, or with `apt-get install cargo`".into(),
    })
}

/// The lock file that cargo uses for a package: its own, or that of a workspace around it.
fn lock_file(package: &Path, plan: &Path) -> Option<PathBuf> {
    package
        .ancestors()
        .take_while(|dir| dir.starts_with(plan))
        .map(|dir| dir.join(LOCK_FILE))
        .find(|f| f.is_file())
}

/// What decides what the compiler makes, besides the sources: its version, variables and settings.
fn toolchain(cargo: &Path, site: &Site) -> String {
    let mut text = identity(cargo);
    if let Some(rustc) = find("rustc", &site.path) {
        text.push_str(&identity(&rustc));
    }
    let mut decisive: Vec<_> = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            DECISIVE.contains(&name.as_ref()) || DECISIVE_PREFIXES.iter().any(|p| name.starts_with(p))
        })
        .filter(|(name, _)| name != "CARGO_TARGET_DIR" && name != "CARGO_BUILD_JOBS")
        .collect();
    decisive.sort();
    text.push_str(&format!(" {decisive:?}"));
    if let Some(home) = home_of("CARGO_HOME", ".cargo") {
        for file in ["config.toml", "config"] {
            text.push_str(&format!(" {:?}", fs::read_to_string(home.join(file)).ok()));
        }
    }
    // Where cargo is rustup's, which compiler it starts is in rustup's settings, and `rustup update` changes that one.
    if let Some(rustup) = home_of("RUSTUP_HOME", ".rustup") {
        text.push_str(&format!(" {:?}", fs::read_to_string(rustup.join("settings.toml")).ok()));
        let toolchains = fs::read_dir(rustup.join("toolchains")).into_iter().flatten().flatten();
        let mut versions: Vec<String> = toolchains.map(|t| identity(&t.path().join("bin/rustc"))).collect();
        versions.sort();
        text.push_str(&versions.concat());
    }
    text
}

/// A directory that a variable names, else one of the user's home.
fn home_of(variable: &str, below: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| set("HOME").map(|home| home.join(below)))
}

/// Whether the user has a place for crates: a user without a home, or with one that is read-only, gets one in ours.
fn has_cargo_home() -> bool {
    home_of("CARGO_HOME", ".cargo").is_some_and(|home| {
        (home.is_dir() || fs::create_dir_all(&home).is_ok())
            && rustix::fs::access(&home, Access::WRITE_OK).is_ok()
    })
}

// === impl Config ===

impl Config {
    fn read(build: &Build) -> Result<Config, BuildError> {
        let settings = Settings::new(NAME, &build.config);
        let name = |key: &str, expected: &str| match settings.text(key)? {
            Some(text) if text.starts_with('-') || text.contains(char::is_whitespace) => {
                Err(settings.wrong(key, &format!("{expected} is expected, {text:?} is given")))
            }
            text => Ok(text.map(str::to_owned)),
        };
        let features = match settings.texts("features")? {
            Some(Texts::One(text)) => text.split([',', ' ']).map(str::to_owned).collect(),
            Some(list) => list.owned(),
            None => Vec::new(),
        };
        let mut features: Vec<String> =
            features.into_iter().chain(build.selectors.iter().cloned()).filter(|f| !f.is_empty()).collect();
        features.sort();
        features.dedup();
        Ok(Config {
            path: settings.folder("path")?,
            package: name("package", "the name of a package")?,
            bin: name("bin", "the name of a program")?,
            features,
            profile: name("profile", "the name of a profile, such as dev or release,")?
                .unwrap_or_else(|| "release".to_owned()),
        })
    }
}

//! `exec:go`: a main package of the plan's module, compiled by the user's own Go.
//!
//! Settings: `path` (where the module lies in the plan), `exec_pkg` (the package, default `.`), `module_path` and
//! `fresh_gomod` (a new go.mod is made for the build), `modfile` (another file in the place of go.mod), `enable_cgo`.
//! Selectors are build tags; dependencies are replacements in go.mod. Whatever changes go.mod or go.sum changes those
//! of the private copy.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use serde::Deserialize;
use testground_model::run::{Build, Dependency};

use super::cache::{Claim, Recipe, Slot};
use super::generic::{copy_unchanged, source_key};
use super::settings::Settings;
use super::source::Take;
use super::tool::{Tool, find};
use super::{Artifact, BuildError, Built, Site, io_error};

const NAME: &str = "exec:go";
/// The longest that a question to the tool may take.
const QUESTION: Duration = Duration::from_secs(60);
/// What decides what the compiler makes, besides the sources.
const DECISIVE: [&str; 11] = [
    "GOVERSION",
    "GOOS",
    "GOARCH",
    "GOAMD64",
    "GOARM64",
    "GOFLAGS",
    "GOEXPERIMENT",
    "CGO_ENABLED",
    "CC",
    "CXX",
    "CGO_CFLAGS",
];

/// What mends failures, by words that they have.
pub(super) const HINTS: [(&str, &str); 6] = [
    ("checksum mismatch", "go.sum doesn't fit the modules: `go mod tidy` in the plan writes it anew"),
    ("dial tcp", UNREACHABLE),
    ("no such host", UNREACHABLE),
    ("i/o timeout", UNREACHABLE),
    ("TLS handshake timeout", UNREACHABLE),
    ("module lookup disabled", UNREACHABLE),
];
const UNREACHABLE: &str = "modules can't be fetched: see `go env GOPROXY`; `go mod download` in the plan fetches them ahead of a \
     run, and what is built once is taken from the cache";

struct Config {
    path: PathBuf,
    cgo: Option<bool>,
    package: String,
    module: Option<String>,
    fresh: bool,
    modfile: Option<String>,
}

/// What `go mod edit -json` says, as far as we read it.
#[derive(Deserialize, Default)]
struct GoMod {
    #[serde(rename = "Replace", default)]
    replace: Option<Vec<Replace>>,
}

#[derive(Deserialize)]
struct Replace {
    #[serde(rename = "Old")]
    old: Module,
    #[serde(rename = "New")]
    new: Module,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "Path")]
    path: String,
    #[serde(rename = "Version", default)]
    version: String,
}

/// A replacement in go.mod.
struct Edit {
    /// The argument of `-replace`.
    argument: String,
    /// The directory outside of the plan that is compiled in.
    outside: Option<PathBuf>,
}

/// Checks the settings, and that Go is installed.
pub(super) fn check(build: &Build, path: &OsStr) -> Result<(), BuildError> {
    Config::read(build)?;
    installed(path).map(drop)
}

pub(super) async fn build(build: &Build, site: &Site) -> Result<Built, BuildError> {
    let config = Config::read(build)?;
    let program = installed(&site.path)?;
    let module = site.plan.join(&config.path);
    let cgo = config.cgo.map(|on| ("CGO_ENABLED", OsString::from(if on { "1" } else { "0" })));
    let go = Go { program: &program, site, module: &module, env: cgo.into_iter().collect() };
    let asking = site.logs.join("build-go.log");
    let (environment, edits) =
        tokio::join!(go.environment(&asking), go.edits(&config, &build.dependencies, &asking));
    let edits = edits?;
    // Go answers nothing when it can't make its cache, as for a user without a home: it gets ours then.
    let (environment, mut env) = match environment {
        Ok(environment) => (environment, go.env.clone()),
        Err(refused) => {
            let mut env = go.env.clone();
            env.push(("GOCACHE", site.home.work().join("go/cache").into_os_string()));
            let go = Go { env: env.clone(), ..go };
            (go.environment(&asking).await.map_err(|_| refused)?, env)
        }
    };
    env.extend(caches(&environment, site));
    let go = Go { program: &program, site, module: &module, env };

    let Config { path, package, module: name, fresh, modfile, .. } = &config;
    let mut salt = format!("{NAME} 2 {path:?} {package} {name:?} {fresh} {modfile:?}");
    for name in DECISIVE {
        let _ = write!(salt, " {name}={}", environment.get(name).map_or("", String::as_str));
    }
    let _ = write!(salt, " tags={:?}", build.selectors);
    for edit in &edits {
        let _ = write!(salt, " {}", edit.argument);
        if let Some(dir) = &edit.outside {
            let _ = write!(salt, "={}", source_key(dir, &Take::Sources, "").await?);
        }
    }
    let key = source_key(&site.plan, &Take::Sources, &salt).await?;
    let in_plan = |artifact: Artifact| Artifact { dir: site.plan.clone(), ..artifact };
    let held = match Slot::new(&site.home.work(), key.clone()).claim(site.timeout).await? {
        Claim::Made(artifact) => return Ok(Built { artifact: in_plan(artifact), cached: true }),
        Claim::Mine(held) => held,
    };
    let scratch = held.scratch()?;
    let (sources, whole) = (scratch.path().join("src"), scratch.path().join("whole"));
    copy_unchanged(&site.plan, &Take::Sources, &sources, Path::new(""), (&salt, &key)).await?;
    let sources = sources.join(&config.path);
    fs::create_dir(&whole).map_err(|e| io_error("make", &whole, e))?;
    let log = site.logs.join(format!("build-{}.log", short(&key)));
    go.prepare(&config, &edits, &sources, &log).await?;
    go.compile(&config, build, &sources, &whole.join("plan"), &log).await?;
    let artifact = held.keep(&whole, &Recipe::of(NAME, &site.plan))?;
    Ok(Built { artifact: in_plan(artifact), cached: false })
}

/// The part of a key that people see.
pub(super) fn short(key: &str) -> &str {
    &key[..12]
}

fn installed(path: &OsStr) -> Result<PathBuf, BuildError> {
    find("go", path).ok_or_else(|| BuildError::MissingTool {
        builder: NAME.into(),
        tool: "go".into(),
        mend: "install it from https://go.dev/dl, or with `apt-get install golang`".into(),
    })
}

/// The user's Go, working for one site.
struct Go<'a> {
    program: &'a Path,
    site: &'a Site,
    /// Where the module lies, in the plan itself.
    module: &'a Path,
    env: Vec<(&'static str, OsString)>,
}

// === impl Go ===

impl Go<'_> {
    fn tool<'t>(&'t self, dir: &'t Path, args: Vec<OsString>) -> Tool<'t> {
        Tool { program: self.program, args, dir, env: self.env.clone() }
    }

    /// `go env`, asked in the plan's directory: its go.mod may choose a toolchain.
    async fn environment(
        &self,
        log: &Path,
    ) -> Result<std::collections::BTreeMap<String, String>, BuildError> {
        let names = DECISIVE.iter().chain(&["GOCACHE", "GOMODCACHE"]).map(OsString::from);
        let args = ["env".into(), "-json".into()].into_iter().chain(names).collect();
        let answer = self.tool(self.module, args).answer(log, QUESTION).await?;
        Ok(read_json(&answer))
    }

    /// Replacements of the composition, and those of go.mod that lead out of the plan, made absolute.
    async fn edits(
        &self,
        config: &Config,
        dependencies: &std::collections::BTreeMap<String, Dependency>,
        log: &Path,
    ) -> Result<Vec<Edit>, BuildError> {
        let mut edits = Vec::new();
        let file = config.modfile.as_deref().unwrap_or("go.mod");
        if !config.fresh {
            if !self.module.join(file).is_file() {
                let problem = "it is missing: write one with `go mod init`, or set fresh_gomod = true (where it \
                               lies elsewhere in the plan the setting `path` says so)";
                return Err(BuildError::Program { path: self.module.join(file), problem: problem.into() });
            }
            let args = vec!["mod".into(), "edit".into(), "-json".into(), file.into()];
            let answer = self.tool(self.module, args).answer(log, QUESTION).await?;
            let replaced = read_json::<GoMod>(&answer).replace.unwrap_or_default();
            edits.extend(replaced.into_iter().filter_map(|r| self.moved(&r)));
        }
        edits.extend(dependencies.iter().map(|(module, dependency)| self.replaced(module, dependency)));
        Ok(edits)
    }

    /// A replacement by a directory outside of the plan would lead astray from the private copy.
    fn moved(&self, replace: &Replace) -> Option<Edit> {
        let dir = self.outside(&replace.new.path)?;
        let version = if replace.old.version.is_empty() { "" } else { "@" };
        let argument = format!("{}{version}{}={}", replace.old.path, replace.old.version, dir.display());
        Some(Edit { argument, outside: Some(dir) })
    }

    fn replaced(&self, module: &str, dependency: &Dependency) -> Edit {
        let target = dependency.target.as_deref().filter(|t| !t.is_empty()).unwrap_or(module);
        match self.outside(target) {
            Some(dir) => Edit { argument: format!("{module}={}", dir.display()), outside: Some(dir) },
            None if is_local(target) => Edit { argument: format!("{module}={target}"), outside: None },
            None => Edit { argument: format!("{module}={target}@{}", dependency.version), outside: None },
        }
    }

    /// The directory that a path of a replacement means, when it lies outside of the plan.
    fn outside(&self, path: &str) -> Option<PathBuf> {
        let dir = is_local(path).then(|| self.module.join(path))?;
        let dir = fs::canonicalize(&dir).unwrap_or(dir);
        (!dir.starts_with(&self.site.plan)).then_some(dir)
    }

    /// Brings go.mod of the private copy into the state that the build wants.
    async fn prepare(
        &self,
        config: &Config,
        edits: &[Edit],
        sources: &Path,
        log: &Path,
    ) -> Result<(), BuildError> {
        let (gomod, gosum) = (sources.join("go.mod"), sources.join("go.sum"));
        if config.fresh {
            for file in [&gomod, &gosum] {
                remove_if_there(file)?;
            }
            let module = config.module.as_deref().unwrap_or("testground.test/plan");
            let init = vec!["mod".into(), "init".into(), module.into()];
            self.tool(sources, init).run(log, self.site.timeout).await?;
        }
        if let Some(file) = config.modfile.as_deref().filter(|f| *f != "go.mod") {
            let from = sources.join(file);
            fs::copy(&from, &gomod).map_err(|e| io_error("take the place of go.mod with", &from, e))?;
            let from = from.with_extension("sum");
            remove_if_there(&gosum)?;
            if from.is_file() {
                fs::copy(&from, &gosum).map_err(|e| io_error("take the place of go.sum with", &from, e))?;
            }
        }
        if !edits.is_empty() {
            let replace = edits.iter().map(|e| OsString::from(format!("-replace={}", e.argument)));
            let args = ["mod".into(), "edit".into()].into_iter().chain(replace).collect();
            self.tool(sources, args).run(log, self.site.timeout).await?;
        }
        if config.fresh {
            self.tool(sources, vec!["mod".into(), "tidy".into()]).run(log, self.site.timeout).await?;
        }
        Ok(())
    }

    async fn compile(
        &self,
        config: &Config,
        build: &Build,
        sources: &Path,
        to: &Path,
        log: &Path,
    ) -> Result<(), BuildError> {
        // Without version control and without the copy's own path in it, equal sources give equal programs and Go's
        // cache serves every copy.
        let mut args: Vec<OsString> = vec!["build".into(), "-trimpath".into(), "-buildvcs=false".into()];
        // Missing lines of go.sum are filled in: a plan fresh from a template has none. A vendored plan stays as it
        // is, unless something is replaced in it.
        if !sources.join("vendor/modules.txt").is_file() || !build.dependencies.is_empty() {
            args.push("-mod=mod".into());
        }
        if !build.selectors.is_empty() {
            args.extend(["-tags".into(), build.selectors.join(",").into()]);
        }
        args.extend(["-o".into(), to.into(), config.package.as_str().into()]);
        self.tool(sources, args).run(log, self.site.timeout).await?;
        if to.is_file() {
            return Ok(());
        }
        // `go build -o` writes an archive or nothing for a package that is no main package.
        let problem = "it is no main package, so that there is nothing to start (setting `exec_pkg`)".into();
        Err(BuildError::Program { path: PathBuf::from(&config.package), problem })
    }
}

// === impl Config ===

impl Config {
    fn read(build: &Build) -> Result<Config, BuildError> {
        let settings = Settings::new(NAME, &build.config);
        let config = Config {
            path: settings.folder("path")?,
            cgo: settings.choice("enable_cgo")?,
            package: settings.text("exec_pkg")?.unwrap_or(".").to_owned(),
            module: settings.text("module_path")?.map(str::to_owned),
            fresh: settings.flag("fresh_gomod")?,
            modfile: settings.text("modfile")?.map(str::to_owned),
        };
        if config.package.starts_with('-') {
            return Err(settings.wrong("exec_pkg", "a package is expected, such as ./cmd/node"));
        }
        if config.fresh && config.modfile.is_some() {
            return Err(settings.wrong("modfile", "it can't be combined with fresh_gomod = true"));
        }
        if config.modfile.as_deref().is_some_and(|f| f.contains("..") || Path::new(f).is_absolute()) {
            return Err(settings.wrong("modfile", "a file of the plan is expected, such as go.other.mod"));
        }
        Ok(config)
    }
}

/// Go's caches, moved to our own directory where the user's can't be written: a user without a home builds too.
fn caches(
    environment: &std::collections::BTreeMap<String, String>,
    site: &Site,
) -> Vec<(&'static str, OsString)> {
    let usable = |dir: &str, write: bool| {
        let made = !dir.is_empty() && dir != "off" && fs::create_dir_all(dir).is_ok();
        made && (!write || rustix::fs::access(dir, Access::WRITE_OK).is_ok())
    };
    // Modules that were downloaded can be read from a cache that others own.
    let moved = [("GOCACHE", "go/cache", true), ("GOMODCACHE", "go/mod", false)];
    moved
        .into_iter()
        .filter(|(name, _, write)| !usable(environment.get(*name).map_or("", String::as_str), *write))
        .map(|(name, dir, _)| (name, site.home.work().join(dir).into_os_string()))
        .collect()
}

/// Whether the target of a replacement is a directory (what cmd/go takes for one).
fn is_local(target: &str) -> bool {
    target == "." || target == ".." || ["./", "../", "/"].iter().any(|p| target.starts_with(p))
}

/// The JSON document in a tool's output. Go may write a notice in front of it (about a toolchain it fetched).
fn read_json<T: for<'de> Deserialize<'de> + Default>(answer: &[u8]) -> T {
    let start = answer.iter().position(|&b| b == b'{').unwrap_or(0);
    serde_json::from_slice(&answer[start..]).unwrap_or_default()
}

fn remove_if_there(file: &Path) -> Result<(), BuildError> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", file, e)),
        _ => Ok(()),
    }
}

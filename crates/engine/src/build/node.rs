//! `exec:node`: a package of the plan, with what it depends on, run by the user's own Node.
//!
//! Settings: `path` (where the package lies in the plan), `script` (which of package.json's scripts starts it, default
//! `start`). With a lock file it is `npm ci`, without one `npm install`, always in a private copy that becomes the
//! artifact: the plan never gets a `node_modules`. The artifact is a small script, so that it stands for itself as a
//! compiled program does.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use testground_model::run::Build;

use super::cache::{Claim, PROGRAM, Recipe, Slot};
use super::generic::{copy_unchanged, source_key};
use super::go::short;
use super::settings::Settings;
use super::source::Take;
use super::tool::{Tool, find};
use super::{BuildError, Built, Site, identity, io_error};

const NAME: &str = "exec:node";
/// Where the package's copy lies in the artifact.
const COPY: &str = "src";
/// What is started when package.json names nothing, in this order, as node and npm have it.
const DEFAULTS: [&str; 2] = ["index.js", "server.js"];
/// Scripts that npm runs when it installs, so that it has to.
const AT_INSTALL: [&str; 5] = ["preinstall", "install", "postinstall", "prepublish", "prepare"];
/// Said of a registry that doesn't answer.
const UNREACHABLE: &str =
    "the registry can't be reached (`npm config get registry`); what is built once is taken from the cache";

/// What mends failures, by words that they have.
pub(super) const HINTS: [(&str, &str); 9] = [
    ("are in sync", STALE_LOCK),
    ("EUSAGE", STALE_LOCK),
    (
        "EINTEGRITY",
        "a package is not the one that the lock file names; `npm install` in the plan writes it anew",
    ),
    ("ETARGET", "there is no such version of a package: see package.json"),
    ("ENOTFOUND", UNREACHABLE),
    ("ECONNREFUSED", UNREACHABLE),
    ("EAI_AGAIN", UNREACHABLE),
    ("ETIMEDOUT", UNREACHABLE),
    ("ECONNRESET", UNREACHABLE),
];
const STALE_LOCK: &str = "the lock file doesn't fit package.json: `npm install --package-lock-only` in the plan brings it up to date";

struct Config {
    path: PathBuf,
    script: Option<String>,
}

/// How the package is started.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// Node runs this file of the package, with these arguments.
    File(String, Vec<String>),
    /// The shell runs this line in the package's directory, as npm would.
    Line(String),
}

/// Checks the settings, and that Node and npm are installed.
pub(super) fn check(build: &Build, path: &OsStr) -> Result<(), BuildError> {
    Config::read(build)?;
    for tool in ["node", "npm"] {
        installed(tool, path)?;
    }
    Ok(())
}

pub(super) async fn build(build: &Build, site: &Site) -> Result<Built, BuildError> {
    let config = Config::read(build)?;
    let (node, npm) = (installed("node", &site.path)?, installed("npm", &site.path)?);
    let package = Package::read(&site.plan.join(&config.path))?;
    let start = package.start(config.script.as_deref())?;
    let salt = format!("{NAME} 1 {:?} {start:?} {} {}", config.path, identity(&node), identity(&npm));
    let key = source_key(&site.plan, &Take::Sources, &salt).await?;
    let held = match Slot::new(&site.home.work(), key.clone()).claim(site.timeout).await? {
        Claim::Made(artifact) => return Ok(Built { artifact, cached: true }),
        Claim::Mine(held) => held,
    };
    let scratch = held.scratch()?;
    let whole = scratch.path().join("whole");
    let copy = whole.join(COPY);
    copy_unchanged(&site.plan, &Take::Sources, &copy, Path::new(""), (&salt, &key)).await?;
    let dir = copy.join(&config.path);
    let log = site.logs.join(format!("build-{}.log", short(&key)));
    if let Some(command) = package.install() {
        let flags = ["--no-audit", "--no-fund", "--prefer-offline"];
        let args = std::iter::once(command).chain(flags).map(OsString::from).collect();
        Tool { program: &npm, args, dir: &dir, env: npm_env(site) }.run(&log, site.timeout).await?;
    }
    // Node adds `.js`, and takes a directory for its `index.js`; what install scripts make is there by now.
    if let Start::File(file, _) = &start
        && !dir.join(file).exists()
        && !dir.join(format!("{file}.js")).exists()
    {
        let problem = "it is what starts the package, and it is missing".into();
        return Err(BuildError::Program { path: package.dir.join(file), problem });
    }
    let launcher = whole.join(PROGRAM);
    fs::write(&launcher, start.launcher(&node, &config.path))
        .and_then(|()| fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)))
        .map_err(|e| io_error("write", &launcher, e))?;
    Ok(Built { artifact: held.keep(&whole, &Recipe::of(NAME, &site.plan))?, cached: false })
}

fn installed(tool: &str, path: &OsStr) -> Result<PathBuf, BuildError> {
    find(tool, path).ok_or_else(|| BuildError::MissingTool {
        builder: NAME.into(),
        tool: tool.into(),
        mend: "install Node.js from https://nodejs.org, or with `apt-get install nodejs npm`".into(),
    })
}

/// What npm is told besides the user's own settings: a dead registry is given up after seconds, not minutes, and a user
/// without a home gets a cache in ours.
fn npm_env(site: &Site) -> Vec<(&'static str, OsString)> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut env: Vec<(&str, OsString)> =
        [("npm_config_fetch_retry_mintimeout", "1000"), ("npm_config_fetch_retry_maxtimeout", "5000")]
            .into_iter()
            .filter(|(name, _)| !set(name))
            .map(|(name, value)| (name, value.into()))
            .collect();
    env.push(("npm_config_update_notifier", "false".into()));
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = home.join(".npm");
    let usable = home.is_dir()
        && (cache.is_dir() || fs::create_dir(&cache).is_ok())
        && rustix::fs::access(&cache, rustix::fs::Access::WRITE_OK).is_ok();
    if !usable && !set("npm_config_cache") {
        env.push(("npm_config_cache", site.home.work().join("npm").into()));
    }
    env
}

/// A package.json, and where it lies.
struct Package {
    dir: PathBuf,
    json: Map<String, Value>,
}

// === impl Package ===

impl Package {
    fn read(dir: &Path) -> Result<Package, BuildError> {
        let file = dir.join("package.json");
        let wrong = |problem: String| BuildError::Program { path: file.clone(), problem };
        let text = fs::read_to_string(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => wrong(
                "it is missing: `npm init` writes one (where it lies elsewhere in the plan the setting `path` says so)"
                    .to_owned(),
            ),
            _ => wrong(e.to_string()),
        })?;
        // npm takes a byte order mark in front.
        let json = serde_json::from_str(text.trim_start_matches('\u{feff}'));
        let json = json.map_err(|e| wrong(format!("it is no JSON object: {e}")))?;
        Ok(Package { dir: dir.to_owned(), json })
    }

    fn scripts(&self) -> impl Iterator<Item = (&str, &str)> {
        let scripts = self.json.get("scripts").and_then(Value::as_object).into_iter().flatten();
        scripts.filter_map(|(name, line)| Some((name.as_str(), line.as_str()?)))
    }

    /// How it is started: the script that is asked for, else `start`, else the main file.
    fn start(&self, script: Option<&str>) -> Result<Start, BuildError> {
        let line = self.scripts().find(|(name, _)| *name == script.unwrap_or("start")).map(|(_, line)| line);
        if let Some(line) = line {
            return Ok(Start::of_line(line));
        }
        if let Some(script) = script {
            let known: Vec<&str> = self.scripts().map(|(name, _)| name).collect();
            let problem = match known.as_slice() {
                [] => format!("package.json has no script {script:?}, and no other"),
                known => format!("package.json has no script {script:?}; there are {}", known.join(", ")),
            };
            return Err(BuildError::Setting { builder: NAME, key: "script".into(), problem });
        }
        let main = self.json.get("main").and_then(Value::as_str).map(|main| main.trim_start_matches("./"));
        let file = main.or_else(|| DEFAULTS.into_iter().find(|file| self.dir.join(file).is_file()));
        file.map(|file| Start::File(file.to_owned(), Vec::new())).ok_or_else(|| BuildError::Program {
            path: self.dir.join("package.json"),
            problem: format!(
                "it says nothing about what is started: a script \"start\" or \"main\" does, or a file {}",
                DEFAULTS.join(" or ")
            ),
        })
    }

    /// What npm has to do; nothing for a package that depends on nothing.
    fn install(&self) -> Option<&'static str> {
        let locked = ["package-lock.json", "npm-shrinkwrap.json"].iter().any(|f| self.dir.join(f).is_file());
        let wants = |key: &&str| match self.json.get(*key) {
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            _ => false,
        };
        let tables = ["dependencies", "devDependencies", "optionalDependencies", "workspaces"];
        let needed = tables.iter().any(wants) || self.scripts().any(|(name, _)| AT_INSTALL.contains(&name));
        needed.then_some(if locked { "ci" } else { "install" })
    }
}

// === impl Start ===

impl Start {
    /// `node FILE WORDS...` needs no shell, and so no directory of its own; of anything else only npm's way is known.
    fn of_line(line: &str) -> Start {
        let plain = |c: char| c.is_alphanumeric() || "/._-=:@,+ ".contains(c);
        let mut words = line.split_whitespace().map(str::to_owned);
        if line.chars().all(plain)
            && words.next().as_deref() == Some("node")
            && let Some(file) =
                words.next().filter(|word| !word.starts_with(['-', '/', '=']) && !word.contains(".."))
        {
            // Without `./`, as in package.json's main; node itself adds `.js` where it is missing.
            return Start::File(file.trim_start_matches("./").to_owned(), words.collect());
        }
        Start::Line(line.to_owned())
    }

    /// A script that starts the copy beside it.
    fn launcher(&self, node: &Path, path: &Path) -> String {
        let mut text = String::from("#!/bin/sh\n");
        let dir = Path::new(COPY).join(path);
        // The place of the script is only known when it runs: it was written where it was made, and then moved.
        let dir = format!("\"${{0%/*}}\"/{}", quoted(&dir.to_string_lossy()));
        let _ = match self {
            Start::File(file, args) => {
                let args: String = args.iter().map(|arg| format!(" {}", quoted(arg))).collect();
                writeln!(text, "exec {} {dir}/{}{args} \"$@\"", quoted(&node.to_string_lossy()), quoted(file))
            }
            Start::Line(line) => writeln!(
                text,
                "cd {dir} || exit 127\nPATH=$PWD/node_modules/.bin:$PATH\nexport PATH\n{line} \"$@\""
            ),
        };
        text
    }
}

/// A word of the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

// === impl Config ===

impl Config {
    fn read(build: &Build) -> Result<Config, BuildError> {
        let settings = Settings::new(NAME, &build.config);
        Ok(Config { path: settings.folder("path")?, script: settings.text("script")?.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_line_that_only_names_a_file_needs_no_shell() {
        let file = |name: &str, args: &[&str]| {
            Start::File(name.to_owned(), args.iter().map(|a| (*a).to_owned()).collect())
        };
        for (line, start) in [
            ("node index.js", file("index.js", &[])),
            ("  node ./lib/main.mjs --port=80 x", file("lib/main.mjs", &["--port=80", "x"])),
        ] {
            assert_eq!(Start::of_line(line), start);
        }
        for line in [
            "tsc && node dist/x.js",
            "node --require ./x index.js",
            "node $FILE",
            "NODE_ENV=x node index.js",
            "node ../index.js",
            "ts-node index.ts",
            "node",
        ] {
            assert_eq!(Start::of_line(line), Start::Line(line.to_owned()));
        }
    }

    #[test]
    fn package_json_says_how_it_is_started_and_whether_npm_is_needed() {
        let t = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(t.path().join("package.json"), text).unwrap();
            Package::read(t.path())
        };
        let package =
            read("{\"scripts\": {\"start\": \"node a.js\", \"other\": \"b\"}, \"main\": \"c.js\"}").unwrap();
        assert_eq!(package.start(None).unwrap(), Start::File("a.js".into(), Vec::new()));
        assert_eq!(package.start(Some("other")).unwrap(), Start::Line("b".into()));
        let unknown = package.start(Some("sart")).unwrap_err().to_string();
        assert!(unknown.contains("\"sart\"; there are start, other"), "{unknown}");
        assert_eq!(package.install(), None);

        let package = read("{\"main\": \"./c.js\", \"dependencies\": {\"x\": \"1\"}}").unwrap();
        assert_eq!(package.start(None).unwrap(), Start::File("c.js".into(), Vec::new()));
        assert_eq!(package.install(), Some("install"));
        fs::write(t.path().join("package-lock.json"), "{}").unwrap();
        assert_eq!(package.install(), Some("ci"));

        let nothing = read("{}").unwrap().start(None).unwrap_err().to_string();
        assert!(nothing.contains("says nothing about what is started"), "{nothing}");
        let broken = read("{").err().expect("no JSON").to_string();
        assert!(broken.contains("no JSON object"), "{broken}");
    }
}

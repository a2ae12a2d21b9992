//! From what was typed to runs with nothing left to decide: files are found and read here, `model` does the rest.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use testground_engine::build::{check_tools, sdk};
use testground_engine::home::{self, Home, PlanDir};
use testground_engine::lab::environment::SERVICES;
use testground_engine::text::{read_bytes, read_text};
use testground_model::composition::{Composition, Files};
use testground_model::diagnostic::{Checked, Diagnostics};
use testground_model::manifest::Manifest;
use testground_model::outcome::ExitCode;
use testground_model::pick::{COMPOSITION_DIRS, Pick, pick};
use testground_model::resolve::{Overrides, resolve};
use testground_model::run::{Plane, Run};
use testground_model::single::Single;
use testground_model::template::{Expanded, expand, is_template};
use testground_sidecar::plane::kernel::{Abilities, Wishes, refusals};

use super::{Common, SingleArgs, What, capture, link};
use crate::cli::build;

/// Runs in their order, and where their plan is.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) runs: Vec<Run>,
    pub(super) plan_dir: PathBuf,
    pub(super) concurrent_builds: usize,
    /// The seed of runs for which nobody has chosen one.
    pub(super) drawn_seed: u64,
    /// Whose packets are captured.
    pub(super) capture: capture::Wanted,
    /// What `--write-artifacts` needs: the file, and what was read.
    written: Option<Box<Written>>,
}

/// A composition that gets its artifacts written into it.
#[derive(Debug)]
struct Written {
    file: PathBuf,
    manifest: Manifest,
    composition: Composition,
    ignore_artifacts: bool,
}

/// There are mistakes in files, and they have been shown.
#[derive(Debug)]
pub(in crate::cli) struct Mistaken;

// === impl Prepared ===

impl Prepared {
    /// Builds and writes the artifacts where that is asked for; `Some` ends everything. The runs find them built.
    pub(super) fn write_artifacts(&self, common: &Common, verbose: bool) -> anyhow::Result<Option<ExitCode>> {
        let Some(written) = &self.written else { return Ok(None) };
        let home = Home::open(|name| std::env::var_os(name))?;
        let wanted = build::Wanted {
            plan: &self.plan_dir,
            manifest: &written.manifest,
            composition: &written.composition,
            link_sdk: common.link_sdk.as_deref(),
            ignore_artifacts: written.ignore_artifacts,
            timeout: self.runs.first().map_or_else(Default::default, |run| run.settings.timeout),
        };
        let code = build::groups(&wanted, Some(&written.file), &home, verbose)?;
        Ok(Some(code).filter(|code| *code != ExitCode::Success))
    }
}

/// Finds, reads and resolves. The outer error is what kept the files from being read at all.
pub(super) fn prepare(what: &What, common: &Common) -> anyhow::Result<Result<Prepared, Mistaken>> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let here = std::env::current_dir().context("failed to find the working directory")?;
    let ignore_artifacts = matches!(what, What::Composition { ignore_artifacts: true, .. });
    let write_to = match what {
        What::Composition { file, write_artifacts: true, .. } => Some(file.clone()),
        _ => None,
    };
    let read = match what {
        What::Path(path) if path.is_file() => composition_file(path, &home, &here)?,
        What::Composition { file, .. } => composition_file(file, &home, &here)?,
        What::Path(path) => plan_directory(&path.display().to_string(), &home, &here)?,
        What::Single(args) => single_group(&single(args, common), &home, &here)?,
    };
    let (plan, manifest, composition, folder) = match read {
        Ok(read) => read,
        Err(mistakes) => return Ok(Err(tell(&mistakes))),
    };
    let files = needed(&composition, &folder);
    let drawn_seed = drawn_seed();
    let overrides = Overrides {
        run_ids: common.run_ids.clone(),
        seed: common.seed,
        fallback_seed: drawn_seed,
        timeout: common.timeout,
        keep_going: common.keep_going,
        late_fails: common.late_fails,
        ignore_artifacts,
        disable_metrics: common.disable_metrics,
        plane: common.plane,
    };
    let named_seed = common.seed.is_some() || composition.global.run_config.contains_key("seed");
    Ok(match resolve(&manifest, &composition, &files, &overrides) {
        Ok(Checked { value: mut runs, warnings }) => {
            eprint!("{}", warnings.render());
            if let Some(typed) = &common.link_sdk {
                link::link_sdk(typed, &home, runs.iter_mut().flat_map(|run| &mut run.groups))?;
            }
            for run in &mut runs {
                choose_plane(run, common, named_seed)?;
                for warning in sdk::warnings(run, &plan.dir) {
                    eprintln!("warning: run {}: {warning}", run.id);
                }
                check_hosts(run)?;
                check_tools(&run.groups, &std::env::var_os("PATH").unwrap_or_default())
                    .map_err(|e| anyhow!("{e}"))?;
            }
            let capture = capture::Wanted::of(&common.capture, &runs)?;
            let concurrent_builds = concurrent_builds(&composition);
            let written = write_to.map(|file| Written { file, manifest, composition, ignore_artifacts });
            let written = written.map(Box::new);
            Ok(Prepared { runs, plan_dir: plan.dir, concurrent_builds, drawn_seed, capture, written })
        }
        Err(mistakes) => Err(tell(&mistakes)),
    })
}

/// How many builds go on side by side.
pub(in crate::cli) fn concurrent_builds(composition: &Composition) -> usize {
    let wanted = composition.global.concurrent_builds.as_ref().map_or(0, |n| n.value as usize);
    if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(1, usize::from) }
}

/// Refuses what the kernel's plane can't do where it was asked for; where it was left open, the switch does it.
fn choose_plane(run: &mut Run, common: &Common, named_seed: bool) -> anyhow::Result<()> {
    if run.settings.plane == Plane::Switch {
        return Ok(());
    }
    let wishes = Wishes { capture: !common.capture.is_empty(), record: common.record, replay: named_seed };
    let refusals = refusals(run, wishes, &Abilities::default());
    if refusals.is_empty() {
        return Ok(());
    }
    if run.settings.plane == Plane::Kernel {
        bail!(
            "run {}: the kernel plane can't do what is asked for; `--plane switch` can:\n  {}",
            run.id,
            refusals.join("\n  ")
        );
    }
    eprintln!(
        "run {}: the switch carries the packets, since the kernel plane can't: {}",
        run.id,
        refusals.join("; ")
    );
    run.settings.plane = Plane::Switch;
    Ok(())
}

/// Shows runs as they were resolved.
pub(super) fn show(prepared: &Prepared) {
    println!("plan directory: {}", prepared.plan_dir.display());
    for run in &prepared.runs {
        println!("\n{run}");
    }
}

/// Instances can't know a host outside by a name that something in the lab has.
fn check_hosts(run: &Run) -> anyhow::Result<()> {
    let instances: HashSet<String> = run.instances().map(|instance| instance.hostname()).collect();
    for host in &run.settings.additional_hosts {
        let name = host.name();
        let whose = if SERVICES.contains(&name.as_str()) {
            "a service of the lab"
        } else if instances.contains(&name) {
            "an instance"
        } else {
            continue;
        };
        bail!(
            "run {}: additional_hosts: {host}: {name} is the name of {whose}; give the host's address",
            run.id
        );
    }
    Ok(())
}

/// Everything that was read: the plan, its manifest, a composition, and the folder its files are relative to.
pub(in crate::cli) type Read = Result<(PlanDir, Manifest, Composition, PathBuf), Diagnostics>;

pub(in crate::cli) fn composition_file(file: &Path, home: &Home, here: &Path) -> anyhow::Result<Read> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(here).to_owned();
    let composition = match composition_text(file, &file.display().to_string(), &folder)? {
        Ok(composition) => composition,
        Err(mistakes) => return Ok(Err(mistakes)),
    };
    let named = &composition.global.plan;
    let plan = match home::find_plan(home, &named.value, here, Some(&folder)) {
        Ok(plan) => plan,
        Err(e) => {
            let mut mistakes = Diagnostics::new();
            mistakes.push(named.place.error(e.to_string()));
            return Ok(Err(mistakes));
        }
    };
    Ok(manifest_of(&plan)?.map(|manifest| (plan, manifest, composition, folder)))
}

/// Reads a composition, expanding it first where it is a template.
fn composition_text(
    file: &Path,
    shown: &str,
    folder: &Path,
) -> anyhow::Result<Result<Composition, Diagnostics>> {
    let text = text_of(file)?;
    if !is_template(&text) {
        return Ok(Composition::parse(shown, &text));
    }
    let environment = std::env::vars().collect();
    let mut files = Files::new();
    loop {
        match expand(shown, &text, &environment, &files) {
            Ok(Expanded::Text { text, warnings }) => {
                eprint!("{}", warnings.render());
                return Ok(Composition::parse_expanded(&format!("{shown} (expanded)"), &text));
            }
            Ok(Expanded::Needs(paths)) => {
                for path in paths {
                    let text = read(&folder.join(&path));
                    files.insert(path, text);
                }
            }
            Err(mistakes) => return Ok(Err(mistakes)),
        }
    }
}

/// The text of a file.
///
/// # Errors
/// When it can't be read; where it is none, with the place of the first byte that is no UTF-8.
fn text_of(file: &Path) -> anyhow::Result<String> {
    let bytes = read_bytes(file).with_context(|| format!("failed to read {}", file.display()))?;
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    String::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]);
        let (line, last) = (good.matches('\n').count() + 1, good.rsplit('\n').next().unwrap_or_default());
        let byte = e.as_bytes()[good.len()];
        let what = if is_utf16 {
            "it is UTF-16; save it as UTF-8".to_owned()
        } else {
            format!("the byte 0x{byte:02x} is no UTF-8, so that this is no text")
        };
        anyhow!("{}:{line}:{}: {what}", file.display(), last.chars().count() + 1)
    })
}

fn plan_directory(typed: &str, home: &Home, here: &Path) -> anyhow::Result<Read> {
    let plan = home::find_plan(home, typed, here, None)?;
    let manifest = match manifest_of(&plan)? {
        Ok(manifest) => manifest,
        Err(mistakes) => return Ok(Err(mistakes)),
    };
    let names = files_of(&plan.dir)?;
    match pick(names.iter().map(String::as_str)) {
        Pick::Composition(name) => {
            let file = plan.dir.join(&name);
            let folder = file.parent().unwrap_or(&plan.dir).to_owned();
            let composition = composition_text(&file, &shown(&file, here), &folder)?;
            Ok(composition.map(|composition| (plan, manifest, composition, folder)))
        }
        Pick::FirstCase { passed_over } => {
            if !passed_over.is_empty() {
                eprintln!(
                    "warning: none of several compositions is called default or composition, so the first test case is run; \
                     there are {}",
                    passed_over.join(", ")
                );
            }
            let folder = plan.dir.clone();
            let first = Single::first_case(&manifest);
            Ok(first.map(|single| (plan, manifest, single.composition(), folder)))
        }
    }
}

/// What the flags of `run single` say.
fn single(args: &SingleArgs, common: &Common) -> Single {
    Single {
        plan: args.plan.clone(),
        testcase: Some(args.testcase.clone()),
        builder: args.builder.clone(),
        runner: Some(args.runner.clone()),
        instances: args.instances,
        test_params: args.test_param.clone(),
        build_cfg: args.build_cfg.clone(),
        run_cfg: args.run_cfg.clone(),
        dependencies: args.dep.clone(),
        use_build: args.use_build.clone(),
        disable_metrics: common.disable_metrics,
    }
}

pub(in crate::cli) fn single_group(single: &Single, home: &Home, here: &Path) -> anyhow::Result<Read> {
    let plan = home::find_plan(home, &single.plan, here, None)?;
    let folder = plan.dir.clone();
    Ok(manifest_of(&plan)?.map(|manifest| (plan, manifest, single.composition(), folder)))
}

fn manifest_of(plan: &PlanDir) -> anyhow::Result<Result<Manifest, Diagnostics>> {
    let file = &plan.manifest;
    let text = text_of(file)?;
    let here = std::env::current_dir().unwrap_or_default();
    Ok(Manifest::parse(&shown(file, &here), &text))
}

/// A path as a user would write it: relative where it is below.
fn shown(path: &Path, here: &Path) -> String {
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// Names of the files that may be compositions, relative to the plan.
fn files_of(plan: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in std::iter::once("").chain(COMPOSITION_DIRS) {
        let folder = plan.join(dir);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(_) if !dir.is_empty() => continue,
            Err(e) => return Err(e).with_context(|| format!("failed to read {}", folder.display())),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("failed to read {}", folder.display()))?;
            if let Some(name) = entry.file_name().to_str()
                && entry.path().is_file()
            {
                names.push(if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") });
            }
        }
    }
    Ok(names)
}

/// The files that a composition names.
fn needed(composition: &Composition, folder: &Path) -> Files {
    let here = std::env::current_dir().unwrap_or_default();
    let read_one = |path: &str| {
        let file = folder.join(path);
        read(&file).map_err(|why| format!("{}: {why}", shown(&file, &here)))
    };
    composition.needed_files().into_iter().map(|f| (f.path.value.clone(), read_one(&f.path.value))).collect()
}

fn read(file: &Path) -> Result<String, String> {
    read_text(file).map_err(|e| e.to_string())
}

pub(in crate::cli) fn tell(mistakes: &Diagnostics) -> Mistaken {
    eprint!("{}", mistakes.render());
    Mistaken
}

/// Any number that every language's signed integers hold.
pub(super) fn drawn_seed() -> u64 {
    let mut chance = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(chance) >> 1
}

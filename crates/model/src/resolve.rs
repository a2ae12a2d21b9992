//! From what was typed to what it means: a manifest and a composition become runs with nothing left to decide.
//!
//! Every default is filled in here and every name looked up; nothing below reads a composition. All mistakes of both
//! files come together.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalogue::{self, RUNNERS};
use crate::composition::{Composition, DEFAULT_RUN, Files, GroupSpec, RunGroupSpec, RunSpec};
use crate::diagnostic::{Checked, Diagnostic, Diagnostics, Place, Severity, Source, names, nearest};
use crate::manifest::{Manifest, nearest_key};
use crate::reader::{At, Mistakes};
use crate::run::{Build, Group, Resources, Run};

pub use settings::{seed, timeout};

mod build;
mod contradictions;
mod counts;
mod effect;
mod network;
mod params;
mod regions;
mod scope;
mod settings;
mod timeline;

/// What the command line says over a composition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// The runs that are wanted (`--run-ids`); empty means all, sorted by name.
    pub run_ids: Vec<String>,
    /// `--seed`.
    pub seed: Option<u64>,
    /// The seed where neither the command line nor the composition names one.
    pub fallback_seed: u64,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--keep-going`.
    pub keep_going: bool,
    /// `--late-fails`.
    pub late_fails: bool,
    /// `--ignore-artifacts`: everything is built again.
    pub ignore_artifacts: bool,
    /// `--disable-metrics`.
    pub disable_metrics: bool,
    /// `--plane`.
    pub plane: Option<crate::run::Plane>,
}

/// Works out the runs of a composition, in the order in which they are to take place.
///
/// `files` holds what [`Composition::needed_files`] asked for. `Err` holds every mistake of both files.
pub fn resolve(
    manifest: &Manifest,
    composition: &Composition,
    files: &Files,
    overrides: &Overrides,
) -> Result<Checked<Vec<Run>>, Diagnostics> {
    let resolver = Resolver { manifest, composition, files, overrides, mistakes: Mistakes::new() };
    let runs = resolver.runs();
    resolver.finish(runs)
}

/// Works out what a composition builds, group by group: all that `build composition` needs, so that neither a case
/// nor a runner has to be named.
pub fn resolve_builds(
    manifest: &Manifest,
    composition: &Composition,
    overrides: &Overrides,
) -> Result<Checked<Vec<(String, Build)>>, Diagnostics> {
    let files = Files::new();
    let resolver = Resolver { manifest, composition, files: &files, overrides, mistakes: Mistakes::new() };
    let builds = composition
        .groups
        .iter()
        .map(|group| {
            resolver.refuse_pod(group);
            Some((group.id.value.clone(), resolver.build(group)?))
        })
        .collect();
    resolver.finish(builds)
}

/// A group of a run: what it takes from the composition's group and what the run says over it.
struct Member<'a> {
    base: &'a GroupSpec,
    run: Option<(&'a RunSpec, Option<&'a RunGroupSpec>)>,
}

struct Resolver<'a> {
    manifest: &'a Manifest,
    composition: &'a Composition,
    files: &'a Files,
    overrides: &'a Overrides,
    mistakes: Mistakes,
}

// === impl Member ===

impl<'a> Member<'a> {
    fn in_run(&self) -> Option<&'a RunGroupSpec> {
        self.run.and_then(|(_, group)| group)
    }

    fn id(&self) -> &'a At<String> {
        self.in_run().map_or(&self.base.id, |group| &group.id)
    }
}

// === impl Resolver ===

impl<'a> Resolver<'a> {
    /// Puts the mistakes of both files and of their meaning together. What follows from a mistake that is reported
    /// already, because it is about a part that could not be read, is left out.
    fn finish<T>(self, value: Option<T>) -> Result<Checked<T>, Diagnostics> {
        let mut all = self.composition.mistakes();
        let manifest = self.manifest.mistakes();
        let known: Vec<(String, String)> = all
            .iter()
            .chain(manifest.iter())
            .filter(|d| d.severity == Severity::Error)
            .map(|d| (d.file.clone(), d.path.clone()))
            .collect();
        let follows = |d: &Diagnostic| {
            let below = |path: &str| !d.path.is_empty() && path.starts_with(&d.path);
            known.iter().any(|(file, path)| *file == d.file && below(path))
        };
        for mistake in self.mistakes.into_inner() {
            if !follows(&mistake) {
                all.push(mistake);
            }
        }
        all.append(manifest);
        all.check(value)
    }

    fn runs(&self) -> Option<Vec<Run>> {
        let global = &self.composition.global;
        let runner = self.runner();
        let case = match &global.case {
            Some(case) => Some(case),
            None => {
                self.error(global.plan.place.error("`case` of global is missing: a run needs a test case"));
                None
            }
        };
        if let Some(case) = case
            && self.manifest.testcase(&case.value).is_none()
        {
            self.error(self.manifest.no_such_case(&case.place, &case.value));
        }
        let builds: BTreeMap<&str, Option<Build>> = self
            .composition
            .groups
            .iter()
            .map(|group| {
                self.refuse_pod(group);
                (group.id.value.as_str(), self.build(group))
            })
            .collect();
        let settings = self.settings(runner);
        let networks = self.networks();
        let wanted = self.wanted();
        let mut runs = Vec::new();
        for run in &wanted {
            let members = self.members(*run);
            runs.push(self.run(*run, &members, &builds, case, &settings, &networks));
        }
        runs.into_iter().collect()
    }

    /// One run, and every mistake of it.
    fn run(
        &self,
        spec: Option<&'a RunSpec>,
        members: &[Member<'a>],
        builds: &BTreeMap<&str, Option<Build>>,
        case: Option<&At<String>>,
        settings: &crate::run::Settings,
        networks: &[crate::topology::Network],
    ) -> Option<Run> {
        let case_spec = case.and_then(|case| self.manifest.testcase(&case.value));
        let counts = self.counts(spec, members);
        if let (Some(counts), Some(case)) = (&counts, case_spec) {
            self.check_total(spec, counts.iter().sum(), case);
            self.check_room(networks, counts.iter().sum());
        }
        let mut groups = Vec::new();
        for (i, member) in members.iter().enumerate() {
            let params = self.params(member, case_spec);
            let build = builds.get(member.base.id.value.as_str()).cloned().flatten();
            let (Some(counts), Some(build)) = (&counts, build) else { continue };
            groups.push(Group {
                id: member.id().value.clone(),
                instances: counts[i],
                build,
                params,
                profiles: self.profiles(member),
                resources: resources(member),
                pod: member.base.pod.as_ref().map(|p| p.value.clone()),
            });
        }
        let whole = counts.is_some() && groups.len() == members.len();
        let regions = counts.as_ref().map(|counts| self.regions(members, counts)).unwrap_or_default();
        let topology = network::Scene { members, counts: counts.as_deref(), regions: &regions, networks };
        let links = self.links(&topology);
        let timeline = self.timeline(&topology, &links, settings.timeout);
        let global = &self.composition.global;
        Some(Run {
            id: spec.map_or_else(|| DEFAULT_RUN.to_owned(), |s| s.id.value.clone()),
            plan: self.manifest.plan(),
            case: case?.value.replace('/', "-"),
            runner: global.runner.as_ref()?.value.clone(),
            groups: whole.then_some(groups)?,
            networks: networks.to_vec(),
            links,
            timeline,
            regions,
            disable_metrics: global.disable_metrics || self.overrides.disable_metrics,
            settings: settings.clone(),
        })
    }

    /// The runs that are wanted: `None` stands for the default run.
    fn wanted(&self) -> Vec<Option<&'a RunSpec>> {
        let known = self.composition.run_ids();
        let find = |id: &str| self.composition.runs.iter().find(|run| run.id.value == id);
        if self.overrides.run_ids.is_empty() {
            return known.iter().map(|id| find(id)).collect();
        }
        let mut wanted = Vec::new();
        // As it was typed, for the place of a mistake.
        let flag = "--run-ids ";
        let typed = Source::new("command line", format!("{flag}{}", self.overrides.run_ids.join(",")));
        let mut end = flag.len();
        for id in &self.overrides.run_ids {
            let begin = end;
            end += id.len() + 1;
            if known.contains(&id.as_str()) {
                wanted.push(find(id));
                continue;
            }
            let message = format!(
                "--run-ids names {id:?}, and there is no such run; there are {}",
                names(known.iter().copied())
            );
            let at = typed.place(begin..begin + id.len(), "--run-ids");
            self.error(at.error(message).suggest_nearest(id, known.iter().copied()));
        }
        wanted
    }

    /// The groups of a run.
    fn members(&self, run: Option<&'a RunSpec>) -> Vec<Member<'a>> {
        match run {
            Some(run) if !run.groups.is_empty() => run
                .groups
                .iter()
                .filter_map(|group| {
                    let base = self.composition.group(&group.group_id.as_ref().unwrap_or(&group.id).value)?;
                    Some(Member { base, run: Some((run, Some(group))) })
                })
                .collect(),
            _ => self
                .composition
                .groups
                .iter()
                .map(|base| Member { base, run: run.map(|run| (run, None)) })
                .collect(),
        }
    }

    /// The runner, checked against what there is, the plan, and the builders of all groups.
    fn runner(&self) -> Option<&'static catalogue::Runner> {
        let global = &self.composition.global;
        let Some(named) = &global.runner else {
            self.error(global.plan.place.error("`runner` of global is missing: a run needs a runner"));
            return None;
        };
        let known = || RUNNERS.iter().map(|r| r.name);
        let Some(runner) = catalogue::runner(&named.value) else {
            let message = format!("unknown runner: {}; known are {}", named.value, names(known()));
            self.error(named.place.error(message).suggest_nearest(&named.value, known()));
            return None;
        };
        if !runner.ready {
            let ready = names(RUNNERS.iter().filter(|r| r.ready).map(|r| r.name));
            self.error(
                named.place.error(format!("runner {} is not there yet; there is {ready}", runner.name)),
            );
            return None;
        }
        if !self.manifest.runners.contains_key(runner.name) {
            let message = format!(
                "plan does not support runner '{}'; supported: {}",
                runner.name,
                names(self.manifest.runners.keys().map(String::as_str))
            );
            self.error(with_suggestion(
                named.place.error(message),
                nearest_key(runner.name, &self.manifest.runners),
            ));
        }
        let mut refused: Vec<&Place> = Vec::new();
        for group in &self.composition.groups {
            let builder = group.builder.as_ref().or(global.builder.as_ref());
            let Some(builder) = builder.filter(|b| catalogue::builder(&b.value).is_some_and(|b| b.ready))
            else {
                continue;
            };
            if !runner.builders.contains(&builder.value.as_str()) && !refused.contains(&&builder.place) {
                refused.push(&builder.place);
                self.error(builder.place.error(format!(
                    "runner {} is incompatible with builder {}; it runs what {} make",
                    runner.name,
                    builder.value,
                    names(runner.builders.iter().copied())
                )));
            }
        }
        Some(runner)
    }

    fn refuse_pod(&self, group: &GroupSpec) {
        if let Some(pod) = &group.pod {
            self.error(pod.place.error(format!(
                "group {} is a Pod manifest, and those are not there yet; name a builder instead",
                group.id.value
            )));
        }
    }

    fn error(&self, mistake: Diagnostic) {
        self.mistakes.push(mistake);
    }

    /// The text of a file that the composition names, and the name to report its mistakes under. `what` says what it
    /// is for, such as `trace`; `else_known` are names that need no file.
    fn text<'t>(&'t self, what: &str, named: &At<String>, else_known: &[&str]) -> Option<(String, &'t str)> {
        let typed = named.value.as_str();
        if typed.is_empty() {
            self.error(
                named.place.error(format!("the name of a {what}'s file is expected, and this is empty")),
            );
            return None;
        }
        let built_in = match else_known {
            [] => String::new(),
            [one] => format!("; built in is {one}"),
            known => format!("; built in are {}", names(known.iter().copied())),
        };
        match self.files.get(typed) {
            Some(Ok(text)) => return Some((self.beside(typed), text)),
            Some(Err(why)) => {
                let message = format!("can't read the {what} {typed:?}: {why}{built_in}");
                let mistake = named.place.error(message);
                self.error(with_suggestion(mistake, near(typed, else_known.iter().copied())));
            }
            None => {
                self.error(named.place.error(format!("the {what} {typed:?} was not read{built_in}")));
            }
        }
        None
    }

    /// Reports the mistakes of a file that the composition names; the first one says where that is.
    fn errors_of(&self, what: &str, named: &At<String>, mistakes: crate::diagnostic::Diagnostics) {
        let (line, _) = named.place.line_and_column();
        let source = named.place.source().name();
        for (i, mut mistake) in mistakes.into_iter().enumerate() {
            if i == 0 {
                mistake.message.push_str(&format!(" (the {what} of {source}:{line})"));
            }
            self.error(mistake);
        }
    }

    /// The path of a file that the composition names, from where the composition's own path leads.
    fn beside(&self, file: &str) -> String {
        let folder = std::path::Path::new(self.composition.source.name()).parent();
        folder.map_or_else(|| file.to_owned(), |folder| folder.join(file).display().to_string())
    }
}

fn with_suggestion(mistake: Diagnostic, name: Option<&str>) -> Diagnostic {
    match name {
        Some(name) => mistake.suggest(name),
        None => mistake,
    }
}

/// Run-group over group, field by field.
fn resources(member: &Member<'_>) -> Resources {
    let (base, over) = (&member.base.resources, member.in_run().map(|group| &group.resources));
    let memory = over.and_then(|r| r.memory.as_ref()).or(base.memory.as_ref());
    let cpu = over.and_then(|r| r.cpu_millis.as_ref()).or(base.cpu_millis.as_ref());
    Resources { memory: memory.map(|m| m.value), cpu_millis: cpu.map(|c| c.value) }
}

/// The hint for a name that isn't there, from any list of names.
fn near<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest(wrong, known)
}

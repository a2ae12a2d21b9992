//! A composition: what was typed. Every value keeps its place, nothing is merged or defaulted.
//!
//! What it means, together with a manifest, is worked out in `resolve`. The schema is written down in
//! `docs/composition.md`.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostics, Source};
use crate::reader::{At, read_document};
use crate::run::toml_value::Value;

pub use network::{ChangeSpec, Deed, LinkSpec, NetworkSpec, RegionShare, RegionsSpec, SelectorSpec};
pub use shape::ShapeSpec;

pub use groups::OUTPUT_NAMES;
pub(crate) use groups::check_param;

mod groups;
mod network;
mod shape;

/// The most instances that a run can have: what the control network's /16 has room for.
pub const MAX_INSTANCES: u32 = 65_000;

/// A composition as it was written, with its mistakes.
#[derive(Debug, Clone)]
pub struct Composition {
    /// `[metadata]`: what it is called and who wrote it.
    pub metadata: Metadata,
    /// `[global]`.
    pub global: Global,
    /// `[[groups]]`, at least one.
    pub groups: Vec<GroupSpec>,
    /// `[[runs]]`; without any, one run `default` of all groups is meant.
    pub runs: Vec<RunSpec>,
    /// `[[networks]]`.
    pub networks: Vec<NetworkSpec>,
    /// `[regions]`.
    pub regions: Option<RegionsSpec>,
    /// `[[links]]`.
    pub links: Vec<LinkSpec>,
    /// `[[timeline]]`.
    pub timeline: Vec<ChangeSpec>,
    pub(crate) source: Source,
    mistakes: Diagnostics,
}

/// `[metadata]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// What the composition is called.
    pub name: Option<String>,
    /// Who wrote it.
    pub author: Option<String>,
}

/// `[global]`.
#[derive(Debug, Clone)]
pub struct Global {
    /// The plan's name.
    pub plan: At<String>,
    /// The test case; builds do without.
    pub case: Option<At<String>>,
    /// The runner; builds do without.
    pub runner: Option<At<String>>,
    /// The builder of groups that name none.
    pub builder: Option<At<String>>,
    /// Instances of the `default` run that is made where there is no `[[runs]]`.
    pub total_instances: Option<At<u32>>,
    /// How many builds go on side by side; 0 is no limit.
    pub concurrent_builds: Option<At<u32>>,
    /// Instances must not send metrics.
    pub disable_metrics: bool,
    /// `[global.build_config]`, `[global.build]`.
    pub build: BuildSpec,
    /// `[global.run_config]`: settings of the run and of the runner.
    pub run_config: BTreeMap<String, At<Value>>,
    /// `[global.run]`.
    pub run: RunParts,
}

/// How a group is built.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BuildSpec {
    /// `build_config`.
    pub config: BTreeMap<String, At<Value>>,
    /// `build.selectors`, where they are given.
    pub selectors: Option<At<Vec<At<String>>>>,
    /// `build.dependencies`.
    pub dependencies: Vec<DependencySpec>,
}

/// A replaced dependency.
#[derive(Debug, Clone, PartialEq)]
pub struct DependencySpec {
    /// The module that is replaced.
    pub module: At<String>,
    /// What by, where it is another module or directory.
    pub target: Option<String>,
    /// The version.
    pub version: String,
}

/// `run` of the globe or of a group, and the same keys of a run and of a group in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunParts {
    /// An artifact that exists already.
    pub artifact: Option<At<String>>,
    /// Test parameters as instances read them.
    pub test_params: BTreeMap<String, At<String>>,
    /// Profiles to capture: kind to value.
    pub profiles: BTreeMap<String, At<String>>,
}

/// How many instances.
#[derive(Debug, Clone, PartialEq)]
pub enum Instances {
    /// So many.
    Count(At<u32>),
    /// A share of the run's `total_instances`, 0 to 1.
    Share(At<f64>),
}

/// `[[groups]]`.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// Its id.
    pub id: At<String>,
    /// Its builder.
    pub builder: Option<At<String>>,
    /// How it is built.
    pub build: BuildSpec,
    /// Its limits.
    pub resources: ResourcesSpec,
    /// How many instances it has where a run says nothing else.
    pub instances: Option<Instances>,
    /// `[groups.run]`.
    pub run: RunParts,
    /// Regions that its instances are in, in the order written.
    pub regions: Vec<(At<String>, At<RegionShare>)>,
    /// A Pod manifest instead of an artifact: a path relative to the composition.
    pub pod: Option<At<String>>,
}

/// Limits of an instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourcesSpec {
    /// Memory in bytes.
    pub memory: Option<At<u64>>,
    /// CPU in thousandths of a core.
    pub cpu_millis: Option<At<u64>>,
}

/// `[[runs]]`.
#[derive(Debug, Clone)]
pub struct RunSpec {
    /// Its id.
    pub id: At<String>,
    /// How many instances all its groups have together.
    pub total_instances: Option<At<u32>>,
    /// Test parameters of all its groups.
    pub test_params: BTreeMap<String, At<String>>,
    /// `[[runs.groups]]`; without any, all groups of the composition are meant.
    pub groups: Vec<RunGroupSpec>,
}

/// `[[runs.groups]]`.
#[derive(Debug, Clone)]
pub struct RunGroupSpec {
    /// Its id in the run.
    pub id: At<String>,
    /// The group of the composition; the id without it.
    pub group_id: Option<At<String>>,
    /// Limits over those of the group.
    pub resources: ResourcesSpec,
    /// How many instances; without it the group's.
    pub instances: Option<Instances>,
    /// Test parameters and profiles over all others. No artifact.
    pub run: RunParts,
    /// Regions instead of those of the group.
    pub regions: Vec<(At<String>, At<RegionShare>)>,
}

/// A file that a composition names and that has to be read before it can be resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct NeededFile {
    /// The path as it was written, relative to the composition.
    pub path: At<String>,
}

/// The files that compositions name: path as it was written, to its text or to why there is none.
pub type Files = BTreeMap<String, Result<String, String>>;

// === impl Composition ===

impl Composition {
    /// Reads a composition. `Err` when it is so wrong that there is nothing to look at; other mistakes stay in the
    /// value until `resolve` reports them together with its own, or [`Composition::check`] does.
    ///
    /// A template is refused by name: [`template::expand`](crate::template::expand) comes first.
    pub fn parse(file: &str, text: &str) -> Result<Composition, Diagnostics> {
        if let Some(at) = text.find("{{") {
            let mut mistakes = Diagnostics::new();
            let message =
                "this composition is a template (it has `{{`), and must be expanded before it is read";
            mistakes.push(Source::new(file, text).place(at..at + 2, "").error(message));
            return Err(mistakes);
        }
        Composition::parse_expanded(file, text)
    }

    /// Reads what a template became, where `{{` has no meaning any more. Its places are those of the expanded text.
    pub fn parse_expanded(file: &str, text: &str) -> Result<Composition, Diagnostics> {
        let source = Source::new(file, text);
        let (parts, mistakes) =
            read_document(&source, |root, mistakes| groups::read(&source, root, mistakes));
        match parts.flatten() {
            Some(parts) => Ok(Composition { mistakes, ..parts }),
            None => Err(mistakes.check::<()>(None).unwrap_err()),
        }
    }

    /// Its warnings when there is no error so far, all mistakes otherwise.
    pub fn check(&self) -> Result<Diagnostics, Diagnostics> {
        self.mistakes.clone().check(Some(())).map(|checked| checked.warnings)
    }

    /// The files it names, each once: the caller reads them and hands their text to `resolve`.
    pub fn needed_files(&self) -> Vec<NeededFile> {
        let mut files: Vec<NeededFile> = Vec::new();
        let matrix = self.regions.as_ref().and_then(|r| r.latency_matrix.clone());
        let matrix = matrix.filter(|m| crate::regions::built_in(&m.value).is_none());
        let traces = self.timeline.iter().filter_map(|change| match &change.deed {
            Deed::Trace { file, .. } => Some(file.clone()),
            _ => None,
        });
        for path in matrix.into_iter().chain(traces).filter(|path| !path.value.is_empty()) {
            if !files.iter().any(|f| f.path.value == path.value) {
                files.push(NeededFile { path });
            }
        }
        files
    }

    /// The ids of its runs, sorted by name: what `--run-ids` chooses from.
    pub fn run_ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.runs.iter().map(|run| run.id.value.as_str()).collect();
        if ids.is_empty() {
            ids.push(DEFAULT_RUN);
        }
        ids.sort_unstable();
        ids
    }

    /// The group of that id.
    pub fn group(&self, id: &str) -> Option<&GroupSpec> {
        self.groups.iter().find(|group| group.id.value == id)
    }

    /// The mistakes so far, for `resolve` to add to.
    pub(crate) fn mistakes(&self) -> Diagnostics {
        self.mistakes.clone()
    }

    /// Puts a composition together that was not read from one text.
    pub(crate) fn from_parts(
        source: Source,
        global: Global,
        groups: Vec<GroupSpec>,
        mistakes: Diagnostics,
    ) -> Self {
        Composition {
            metadata: Metadata::default(),
            global,
            groups,
            runs: Vec::new(),
            networks: Vec::new(),
            regions: None,
            links: Vec::new(),
            timeline: Vec::new(),
            source,
            mistakes,
        }
    }
}

/// The id of the run that is made where a composition has no `[[runs]]`.
pub const DEFAULT_RUN: &str = "default";

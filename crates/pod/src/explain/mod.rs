//! `pod explain`: what a pod will ask for, how it will start and stop, and what is likely to go wrong.
//!
//! Everything here is computed from the manifest alone. How a pod behaves over time, with containers that run and fail,
//! is [`crate::simulate`].

pub mod known;
pub mod lint;
pub mod sarif;
pub mod start;
pub mod stop;
pub mod text;

use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;

pub use lint::{Lint, Severity, Warning};
pub use start::StartStep;
pub use stop::{StopSchedule, Times};

use crate::{
    load::{Document, Dropped, Kind, Mistake, Position, Workload, nearest},
    resources::{
        ContainerCgroup, Effective, OomScore, PodCgroup, PodResources, QosClass, Quantity, Requirements,
        Role, memory_volume_size,
    },
    version::{Features, KubernetesVersion},
};

/// What a pod is explained for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The version of Kubernetes and its gates.
    pub features: Features,
    /// The memory of the node in bytes, for `oom_score_adj` and memory volumes.
    pub node_memory: i64,
    /// How long containers take to stop, by name.
    pub times: BTreeMap<String, Times>,
}

/// A pod, explained.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// `deployment/web`.
    pub title: String,
    /// The kind of the object.
    pub kind: Kind,
    /// The name of the object.
    pub name: String,
    /// Where the object starts in its file.
    pub at: Position,
    /// The version that it is explained for.
    pub kubernetes: KubernetesVersion,
    /// The pod's `restartPolicy`.
    pub restart_policy: String,
    /// The grace period in seconds.
    pub grace_seconds: i64,
    /// Every container, in the order of the spec.
    pub containers: Vec<ContainerFacts>,
    /// What the pod asks for in all, and how that came about.
    pub resources: Effective,
    /// The quality of service class.
    pub qos: QosClass,
    /// Why the class is what it is.
    pub qos_because: String,
    /// The pod's cgroup.
    pub cgroup: PodCgroup,
    /// The memory of the node that `oom_score_adj` was computed for, in bytes.
    pub node_memory: i64,
    /// The size of each `emptyDir` in memory, in bytes.
    pub memory_volumes: BTreeMap<String, i64>,
    /// How it starts.
    pub start: Vec<StartStep>,
    /// What makes the pod Ready.
    pub ready_when: String,
    /// How it stops when nothing stops by itself.
    pub stop_worst: StopSchedule,
    /// How it stops with the times that were given; where none was, containers stop at once.
    pub stop_given: StopSchedule,
    /// Whether any time was given.
    pub times_given: bool,
    /// Fields that this version drops.
    pub dropped: Vec<Dropped>,
    /// What is likely to go wrong.
    pub warnings: Vec<Warning>,
}

/// What is known of one container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerFacts {
    /// Its name.
    pub name: String,
    /// Its part in the pod.
    pub role: Role,
    /// Its image.
    pub image: String,
    /// Where it was written.
    pub at: Position,
    /// Its requests and limits, with defaults.
    #[serde(flatten)]
    pub own: Requirements,
    /// Its cgroup.
    pub cgroup: ContainerCgroup,
    /// Its `oom_score_adj`.
    pub oom: OomScore,
}

/// A time given for a container that the pod does not have.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{title} has no container `{name}`{}", .nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
pub struct NoSuchContainer {
    /// The object.
    pub title: String,
    /// What was asked for.
    pub name: String,
    /// The nearest container.
    pub nearest: Option<String>,
}

/// The result for a whole file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The file as it was named.
    pub file: String,
    /// Mistakes: what the API server would refuse, and what can't be read.
    pub mistakes: Vec<Mistake>,
    /// Each object that could be explained.
    pub objects: Vec<Explanation>,
    /// Documents without a pod, as `Service/web`.
    pub skipped: Vec<String>,
}

/// The default of [`Options::node_memory`]: 16 GiB.
pub const NODE_MEMORY: i64 = 16 << 30;

/// Explains the pod of an object.
pub fn explain(workload: &Workload, dropped: &[Dropped], options: &Options) -> Explanation {
    let spec = workload.spec();
    let resources = PodResources::of(spec, &options.features);
    let scores = resources.oom_scores(options.node_memory);
    let apps = spec.containers.iter().enumerate().map(|(i, c)| (format!("containers[{i}]"), c));
    let inits = spec.init_containers.iter().flatten().enumerate();
    let all = inits.map(|(i, c)| (format!("initContainers[{i}]"), c)).chain(apps);
    let containers: Vec<_> = all
        .zip(resources.containers.iter().zip(scores))
        .map(|((path, c), (own, oom))| ContainerFacts {
            name: c.name.clone(),
            role: own.role,
            image: c.image.clone().unwrap_or_default(),
            at: workload.position(&workload.path(&path)),
            cgroup: ContainerCgroup::of(&own.own),
            own: own.own.clone(),
            oom,
        })
        .collect();
    let memory = spec.volumes.iter().flatten().filter_map(|v| Some((v, v.empty_dir.as_ref()?)));
    let memory_volumes = memory
        .filter(|(_, e)| e.medium.as_deref() == Some("Memory"))
        .map(|(v, e)| {
            let limit: Option<Quantity> = e.size_limit.as_ref().and_then(|q| q.0.parse().ok());
            (v.name.clone(), memory_volume_size(&resources, limit, options.node_memory))
        })
        .collect();
    let members = stop::members(spec);
    let grace = stop::grace(spec);
    let stop_worst = stop::schedule(grace, &stop::worst(&members));
    let stop_given = stop::schedule(grace, &stop::given(&members, &options.times));
    let warnings = lint::all(&lint::Subject {
        workload,
        dropped,
        resources: &resources,
        containers: &containers,
        stop_given: &stop_given,
        times: &options.times,
        features: &options.features,
    });
    Explanation {
        title: workload.title(),
        kind: workload.kind(),
        name: workload.name(),
        at: workload.at(),
        kubernetes: options.features.version(),
        restart_policy: spec.restart_policy.clone().unwrap_or_else(|| "Always".to_owned()),
        grace_seconds: grace,
        qos: resources.qos(),
        qos_because: qos_because(&resources),
        cgroup: resources.cgroup(),
        resources: resources.effective(),
        node_memory: options.node_memory,
        memory_volumes,
        start: start::steps(spec),
        ready_when: start::ready_when(spec),
        stop_worst,
        stop_given,
        times_given: !options.times.is_empty(),
        dropped: dropped.to_vec(),
        warnings,
        containers,
    }
}

/// Explains everything in a file that has been read.
///
/// # Errors
/// A time was given for a container that no pod of the file has.
pub fn report(
    file: &str,
    manifest: &crate::load::Manifest,
    options: &Options,
) -> Result<Report, NoSuchContainer> {
    let mut report = Report { file: file.to_owned(), ..Report::default() };
    report.mistakes = manifest.all_mistakes().into_iter().cloned().collect();
    check_times(manifest, options)?;
    for Document { kind, name, workload, mistakes, dropped, .. } in &manifest.documents {
        match workload {
            Some(workload) if mistakes.is_empty() => report.objects.push(explain(workload, dropped, options)),
            None if mistakes.is_empty() => {
                report.skipped.push(format!("{kind}/{}", name.as_deref().unwrap_or("(unnamed)")));
            }
            _ => {}
        }
    }
    Ok(report)
}

fn check_times(manifest: &crate::load::Manifest, options: &Options) -> Result<(), NoSuchContainer> {
    let specs = manifest.workloads().map(Workload::spec);
    let names: Vec<&str> = specs
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
        .map(|c| c.name.as_str())
        .collect();
    // Without any pod there are mistakes or nothing to explain, which is said elsewhere.
    let unknown = options.times.keys().find(|name| !names.is_empty() && !names.contains(&name.as_str()));
    match unknown {
        None => Ok(()),
        Some(name) => Err(NoSuchContainer {
            title: manifest.workloads().map(Workload::title).collect::<Vec<_>>().join(", "),
            nearest: nearest(name, names).map(str::to_owned),
            name: name.clone(),
        }),
    }
}

fn qos_because(resources: &PodResources) -> String {
    if resources.pod_level.is_some() {
        return "pod-level resources alone decide".to_owned();
    }
    match (resources.qos(), resources.qos_mix()) {
        (QosClass::Guaranteed, _) => "every container has cpu and memory with request = limit".to_owned(),
        (QosClass::BestEffort, _) => "no container requests or limits cpu or memory".to_owned(),
        (QosClass::Burstable, Some([(a, of_a), (b, of_b)])) => {
            format!("the containers differ: `{a}` alone would be {of_a}, `{b}` {of_b}")
        }
        (QosClass::Burstable, None) => "not every request of cpu and memory equals its limit".to_owned(),
    }
}

// === impl Report ===

impl Report {
    /// How many mistakes there are, and how many warnings of the given severity or above.
    pub fn counts(&self) -> (usize, usize) {
        let warnings = self.objects.iter().flat_map(|o| &o.warnings);
        (self.mistakes.len(), warnings.filter(|w| w.severity == Severity::Warning).count())
    }
}

/// A number of seconds for people: `90 s`, `10 min`, `2 h`.
pub(crate) fn seconds(n: i64) -> String {
    match n {
        n if n >= 7200 && n % 3600 == 0 => format!("{} h", n / 3600),
        n if n >= 300 && n % 60 == 0 => format!("{} min", n / 60),
        n => format!("{n} s"),
    }
}

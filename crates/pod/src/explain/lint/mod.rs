//! Warnings: what goes wrong with sidecars in practice, found before it does.
//!
//! Each [`Lint`] comes from trouble that people really had; `docs/pods.md` lists them with their sources. A lint that
//! must guess says by what it was led.

mod job;
mod resources;
mod starting;
mod stopping;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::{Serialize, Serializer};

use super::{ContainerFacts, StopSchedule, Times};
use crate::{
    load::{Dropped, Position, Workload},
    resources::{PodResources, Role},
    version::Features,
};

/// Something that is likely to go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Which lint.
    pub lint: Lint,
    /// How bad it is.
    pub severity: Severity,
    /// The rules behind it.
    pub rules: &'static [&'static str],
    /// The field that is to be changed.
    pub path: String,
    /// Where it was written, or where it should be.
    #[serde(flatten)]
    pub at: Position,
    /// What was found.
    pub found: String,
    /// What follows from it.
    pub consequence: String,
    /// What to do.
    pub fix: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; may be meant.
    Note,
    /// A mistake, most likely.
    Warning,
}

macro_rules! lints {
    ($($lint:ident $id:literal $severity:ident [$($rule:literal),*] $about:literal;)*) => {
        /// The lints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Lint {
            $(#[doc = $about] $lint,)*
        }

        impl Lint {
            /// Every lint.
            pub const ALL: &[Self] = &[$(Self::$lint),*];

            /// Its stable name.
            pub fn id(self) -> &'static str {
                match self { $(Self::$lint => $id),* }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Self::$lint => Severity::$severity),* }
            }

            /// The rules behind it.
            pub fn rules(self) -> &'static [&'static str] {
                match self { $(Self::$lint => &[$($rule),*]),* }
            }

            /// What it finds, in a sentence.
            pub fn about(self) -> &'static str {
                match self { $(Self::$lint => $about),* }
            }
        }
    };
}

lints! {
    HelperInJob "helper-in-job" Warning ["R45", "R71"] "A Job whose `containers` hold a helper that never ends does not complete.";
    HelperExitCode "helper-exit-code" Warning ["R41", "R46"] "A helper in `containers` decides with its exit code whether the pod has failed.";
    HelperInContainers "helper-in-containers" Warning ["R19", "R49", "R50"] "A proxy in `containers` starts together with its app and is stopped together with it.";
    InjectedSidecar "injected-sidecar" Note ["R1", "R71"] "A sidecar that a webhook adds later is not in this manifest.";
    NativeSidecarAnnotation "native-sidecar-annotation" Warning ["R1"] "An annotation that asks for a native sidecar has a name that nobody reads.";
    InitNeverEnds "init-never-ends" Warning ["R10"] "A helper among the inits lacks `restartPolicy: Always` and is waited for until it ends.";
    NoStartupProbe "sidecar-without-startup-probe" Warning ["R11"] "A sidecar without a startup probe counts as started as soon as its process exists.";
    InitBeforeProxy "init-before-proxy" Warning ["R10", "R16"] "An init that uses the network runs before the proxy that it needs.";
    StartupDeadlock "startup-deadlock" Warning ["R10", "R11"] "A sidecar's startup probe waits for something that starts only after it.";
    UnknownPortName "unknown-port-name" Warning ["R30", "R37"] "A probe or hook names a port that its container does not have.";
    PostStartBlocks "post-start-blocks" Note ["R11", "R19", "R20"] "While a postStart hook runs nothing else in the pod starts, and the pod can't be deleted.";
    PreStopStopsProxy "pre-stop-stops-sidecar" Warning ["R51"] "A sidecar's preStop hook stops it at the very beginning of the termination.";
    PreStopInSidecar "sidecar-pre-stop-sleep" Note ["R50", "R51"] "A sidecar's preStop hook runs from the beginning of the termination, not at the sidecar's turn.";
    GraceTooShort "grace-too-short" Warning ["R48", "R49", "R53"] "The grace period does not last for the app and its sidecars.";
    PreStopEatsGrace "pre-stop-eats-grace" Warning ["R49", "R54", "R56"] "A preStop hook uses up the grace period.";
    DeafToSigterm "ignores-sigterm" Warning ["R45", "R49", "R58"] "Process 1 of a container does not react to SIGTERM, so that its end takes the whole grace period.";
    QuitOnPurpose "sidecar-quits-on-purpose" Warning ["R15", "R45"] "A native sidecar that is told to quit is started again.";
    LivenessBlocksRestart "liveness-kill-blocks-pod" Note ["R36", "R60"] "While a sidecar is being killed by its liveness probe no other container is restarted.";
    FlappingSidecar "flapping-sidecar-fails-job" Warning ["R72"] "The restarts of a sidecar count against the Job's backoffLimit.";
    SidecarReadiness "sidecar-readiness-counts" Note ["R39"] "A sidecar that is not ready takes the whole pod out of its Services.";
    NoReadinessProbe "proxy-without-readiness-probe" Note ["R38", "R39"] "A sidecar without a readiness probe counts as ready as soon as it is started.";
    SidecarLowersQos "sidecar-lowers-qos" Warning ["R66"] "One container without equal requests and limits makes the whole pod Burstable.";
    HelperKilledFirst "helper-killed-first" Note ["R67", "R69"] "A helper in `containers` with a small memory request is the first that the OOM killer takes.";
    MemoryVolumeUnbounded "memory-volume-unbounded" Warning ["R75"] "An emptyDir in memory may grow to the node's memory.";
    PodWithoutMemoryLimit "pod-without-memory-limit" Note ["R64", "R69"] "One container without a memory limit leaves the whole pod without one.";
    DroppedField "dropped-field" Warning ["R5", "R7"] "The API server drops a field because its feature gate is off.";
}

/// What the lints look at.
pub(super) struct Subject<'a> {
    pub(super) workload: &'a Workload,
    pub(super) dropped: &'a [Dropped],
    pub(super) resources: &'a PodResources,
    pub(super) containers: &'a [ContainerFacts],
    pub(super) stop_given: &'a StopSchedule,
    pub(super) times: &'a BTreeMap<String, Times>,
    pub(super) features: &'a Features,
}

/// A container and where it is.
#[derive(Clone)]
struct Entry<'a> {
    role: Role,
    /// Its path in the pod's spec: `initContainers[0]`.
    path: String,
    container: &'a Container,
}

/// Warnings as they are found.
struct Found<'a, 's> {
    subject: &'s Subject<'a>,
    warnings: Vec<Warning>,
}

/// Every warning about a pod, in the order of the text.
pub(super) fn all(subject: &Subject<'_>) -> Vec<Warning> {
    let mut found = Found { subject, warnings: Vec::new() };
    let entries = entries(subject.workload.spec());
    job::check(&entries, &mut found);
    starting::check(&entries, &mut found);
    stopping::check(&entries, &mut found);
    resources::check(&entries, &mut found);
    for field in subject.dropped {
        let version = subject.features.version();
        found.at(
            Lint::DroppedField,
            field.path.clone(),
            format!("Kubernetes {version} drops this field without a word: {} is off", field.gate),
            "the pod runs as if it was not written".into(),
            format!("switch the gate on, or use a version where it is on; with --feature-gates {}=true it is kept here", field.gate),
        );
    }
    found.warnings.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.lint.id().cmp(b.lint.id())));
    found.warnings
}

fn entries(spec: &PodSpec) -> Vec<Entry<'_>> {
    let inits = spec.init_containers.iter().flatten().enumerate().map(|(i, container)| Entry {
        role: Role::of_init(container),
        path: format!("initContainers[{i}]"),
        container,
    });
    let apps = spec.containers.iter().enumerate().map(|(i, container)| Entry {
        role: Role::App,
        path: format!("containers[{i}]"),
        container,
    });
    inits.chain(apps).collect()
}

// === impl Lint ===

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

// === impl Entry ===

impl Entry<'_> {
    fn field(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    fn name(&self) -> &str {
        &self.container.name
    }
}

// === impl Found ===

impl Found<'_, '_> {
    /// A warning about a field of the pod's spec.
    fn add(&mut self, lint: Lint, in_spec: &str, found: String, consequence: String, fix: String) {
        let path = self.subject.workload.path(in_spec);
        self.at(lint, path, found, consequence, fix);
    }

    /// A warning about a field of the object.
    fn at(&mut self, lint: Lint, path: String, found: String, consequence: String, fix: String) {
        let at = self.subject.workload.position(&path);
        let (severity, rules) = (lint.severity(), lint.rules());
        self.warnings.push(Warning { lint, severity, rules, path, at, found, consequence, fix });
    }
}

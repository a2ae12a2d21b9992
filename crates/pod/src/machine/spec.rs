//! What the machine needs of a `PodSpec`, with every default filled in.
//!
//! Validation with the API server's messages is elsewhere: here only what would make the machine meaningless is
//! refused, and numbers are brought into a range in which sums can't overflow.

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use thiserror::Error;

use crate::version::{Features, Gate};

use super::types::{ContainerId, ContainerKind, HookKind, ProbeKind, Signal, Text};

/// The most containers that a pod may have here. The API server has no bound of its own; its objects do.
pub const MAX_CONTAINERS: usize = 1000;

/// Why a pod can't be run.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// No `spec`.
    #[error("the pod `{0}` has no spec")]
    NoSpec(String),
    /// No app.
    #[error("the pod `{0}` has no containers: at least one is needed")]
    NoContainers(String),
    /// Too many.
    #[error("the pod `{pod}` has {count} containers: at most {MAX_CONTAINERS} are allowed")]
    TooMany {
        /// The pod.
        pod: String,
        /// How many.
        count: usize,
    },
    /// Two of one name.
    #[error("the pod `{pod}` has two containers named `{name}`")]
    Duplicate {
        /// The pod.
        pod: String,
        /// The name.
        name: String,
    },
    /// A policy that is none.
    #[error("`{value}` is no restart policy of {of}: use Always, OnFailure or Never")]
    Policy {
        /// The container, or the pod.
        of: String,
        /// What was written.
        value: String,
    },
    /// A rule's action or operator that is none.
    #[error("container `{container}`: `{value}` is no {what} of a restart rule: use {allowed}")]
    Rule {
        /// The container.
        container: String,
        /// What was written.
        value: String,
        /// `action` or `operator`.
        what: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// A pod, as the machine sees it.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: Text,
    pub(super) policy: Policy,
    /// Whole seconds; negative counts as 1 (R48).
    pub(super) grace: i64,
    pub(super) active_deadline: Option<Duration>,
    /// Inits and sidecars, then apps.
    pub(super) containers: Vec<ContainerSpec>,
    /// How many of them are inits and sidecars.
    pub(super) inits: usize,
    pub(super) readiness_gates: Vec<Text>,
}

/// A container, as the machine sees it.
#[derive(Clone, Debug)]
pub(super) struct ContainerSpec {
    pub(super) name: Text,
    pub(super) kind: ContainerKind,
    pub(super) image: Text,
    pub(super) policy: Option<Policy>,
    pub(super) rules: Vec<Rule>,
    pub(super) probes: [Option<ProbeSpec>; 3],
    pub(super) post_start: Option<Hook>,
    pub(super) pre_stop: Option<Hook>,
    pub(super) stop_signal: Option<Signal>,
}

/// `restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// One of `restartPolicyRules`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) all: bool,
    pub(super) within: bool,
    pub(super) codes: Vec<i32>,
}

/// A probe's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSpec {
    pub(super) initial_delay: i64,
    pub(super) period: Duration,
    pub(super) success: u32,
    pub(super) failure: u32,
    pub(super) grace: Option<i64>,
}

/// How a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the container: it dies with it.
    Exec,
    /// Against the container, from outside.
    Remote,
    /// A plain timer.
    Sleep(Duration),
}

// === impl Spec ===

impl Spec {
    pub(super) fn of(pod: &api::Pod, features: &Features) -> Result<Self, SpecError> {
        let name = pod.metadata.name.clone().unwrap_or_else(|| "pod".to_owned());
        let spec = pod.spec.as_ref().ok_or_else(|| SpecError::NoSpec(name.clone()))?;
        if spec.containers.is_empty() {
            return Err(SpecError::NoContainers(name));
        }
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let count = inits.len() + spec.containers.len();
        if count > MAX_CONTAINERS {
            return Err(SpecError::TooMany { pod: name, count });
        }
        let mut names: Vec<&str> =
            inits.iter().chain(&spec.containers).map(|container| container.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SpecError::Duplicate { name: pair[0].to_owned(), pod: name });
        }
        let policy = match spec.restart_policy.as_deref() {
            None | Some("") => Policy::Always,
            Some(value) => Policy::parse(value).ok_or_else(|| SpecError::Policy {
                of: format!("the pod `{name}`"),
                value: value.to_owned(),
            })?,
        };
        let containers = inits
            .iter()
            .map(|container| ContainerSpec::of(container, true, features))
            .chain(spec.containers.iter().map(|container| ContainerSpec::of(container, false, features)))
            .collect::<Result<Vec<_>, _>>()?;
        let grace = match seconds(spec.termination_grace_period_seconds.unwrap_or(30)) {
            negative if negative < 0 => 1,
            grace => grace,
        };
        Ok(Self {
            name: name.into(),
            policy,
            grace,
            active_deadline: spec.active_deadline_seconds.map(duration),
            inits: inits.len(),
            containers,
            readiness_gates: spec
                .readiness_gates
                .iter()
                .flatten()
                .map(|gate| Text::from(&gate.condition_type))
                .collect(),
        })
    }

    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = ContainerId> + use<> {
        (0..self.containers.len() as u16).map(ContainerId)
    }

    pub(super) fn init_ids(&self) -> impl DoubleEndedIterator<Item = ContainerId> + use<> {
        (0..self.inits as u16).map(ContainerId)
    }

    pub(super) fn app_ids(&self) -> impl DoubleEndedIterator<Item = ContainerId> + use<> {
        (self.inits as u16..self.containers.len() as u16).map(ContainerId)
    }
}

impl std::ops::Index<ContainerId> for Spec {
    type Output = ContainerSpec;

    fn index(&self, id: ContainerId) -> &ContainerSpec {
        &self.containers[usize::from(id.0)]
    }
}

// === impl ContainerSpec ===

impl ContainerSpec {
    fn of(container: &api::Container, init: bool, features: &Features) -> Result<Self, SpecError> {
        let sidecar = init && container.restart_policy.as_deref() == Some("Always");
        let kind = match (init, sidecar) {
            (true, true) => ContainerKind::Sidecar,
            (true, false) => ContainerKind::Init,
            (false, _) => ContainerKind::App,
        };
        // Without the gate the API server drops the fields silently (R5).
        let ruled = features.on(Gate::ContainerRestartRules);
        let policy = match container.restart_policy.as_deref() {
            Some(value) if ruled && !sidecar => Some(Policy::parse(value).ok_or_else(|| {
                SpecError::Policy { of: format!("container `{}`", container.name), value: value.to_owned() }
            })?),
            _ => None,
        };
        let all_allowed = features.on(Gate::RestartAllContainersOnContainerExits);
        let rules = container
            .restart_policy_rules
            .iter()
            .flatten()
            .filter(|_| ruled)
            .map(|rule| Rule::of(&container.name, rule))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            // A sidecar is restarted anyway; only the rule that restarts all has an effect on it.
            .filter(|rule| if rule.all { all_allowed } else { !sidecar })
            .collect();
        let lifecycle = container.lifecycle.as_ref();
        let signals = features.on(Gate::ContainerStopSignals);
        Ok(Self {
            name: Text::from(&container.name),
            kind,
            image: Text::from(container.image.as_deref().unwrap_or_default()),
            policy,
            rules,
            probes: if kind == ContainerKind::Init {
                [None; 3]
            } else {
                [&container.startup_probe, &container.liveness_probe, &container.readiness_probe]
                    .map(|probe| probe.as_ref().map(ProbeSpec::of))
            },
            post_start: lifecycle.and_then(|l| l.post_start.as_ref()).and_then(Hook::of),
            pre_stop: lifecycle.and_then(|l| l.pre_stop.as_ref()).and_then(Hook::of),
            stop_signal: lifecycle
                .and_then(|l| l.stop_signal.as_ref())
                .filter(|_| signals)
                .map(|signal| Signal(signal.into())),
        })
    }

    pub(super) fn probe(&self, kind: ProbeKind) -> Option<&ProbeSpec> {
        self.probes[kind as usize].as_ref()
    }

    pub(super) fn hook(&self, kind: HookKind) -> Option<Hook> {
        match kind {
            HookKind::PostStart => self.post_start,
            HookKind::PreStop => self.pre_stop,
        }
    }
}

// === impl Policy ===

impl Policy {
    fn parse(value: &str) -> Option<Self> {
        match value {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    /// Whether an end with this code is followed by a new start.
    pub(super) fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

// === impl Rule ===

impl Rule {
    fn of(container: &str, rule: &api::ContainerRestartRule) -> Result<Self, SpecError> {
        let wrong = |what, value: &str, allowed| SpecError::Rule {
            container: container.to_owned(),
            value: value.to_owned(),
            what,
            allowed,
        };
        let all = match rule.action.as_str() {
            "Restart" => false,
            "RestartAllContainers" => true,
            other => return Err(wrong("action", other, "Restart or RestartAllContainers")),
        };
        let (within, codes) = match &rule.exit_codes {
            Some(codes) => match codes.operator.as_str() {
                "In" => (true, codes.values.clone().unwrap_or_default()),
                "NotIn" => (false, codes.values.clone().unwrap_or_default()),
                other => return Err(wrong("operator", other, "In or NotIn")),
            },
            // A rule without a condition matches nothing.
            None => (true, Vec::new()),
        };
        Ok(Self { all, within, codes })
    }

    pub(super) fn matches(&self, code: i32) -> bool {
        self.codes.contains(&code) == self.within
    }
}

// === impl ProbeSpec ===

impl ProbeSpec {
    fn of(probe: &api::Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: i32| value.filter(|v| *v > 0).unwrap_or(default);
        Self {
            initial_delay: i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0)),
            period: Duration::from_secs(at_least_one(probe.period_seconds, 10) as u64),
            success: at_least_one(probe.success_threshold, 1) as u32,
            failure: at_least_one(probe.failure_threshold, 3) as u32,
            grace: probe.termination_grace_period_seconds.map(seconds),
        }
    }
}

// === impl Hook ===

impl Hook {
    fn of(handler: &api::LifecycleHandler) -> Option<Self> {
        if handler.exec.is_some() {
            Some(Self::Exec)
        } else if let Some(sleep) = &handler.sleep {
            Some(Self::Sleep(duration(sleep.seconds)))
        } else if handler.http_get.is_some() || handler.tcp_socket.is_some() {
            Some(Self::Remote)
        } else {
            None
        }
    }
}

/// Seconds within 68 years, so that no sum of times overflows.
pub(super) fn seconds(value: i64) -> i64 {
    value.clamp(i64::from(i32::MIN), i64::from(i32::MAX))
}

/// Seconds as a duration; below 0 is 0.
pub(super) fn duration(value: i64) -> Duration {
    Duration::from_secs(seconds(value).max(0) as u64)
}

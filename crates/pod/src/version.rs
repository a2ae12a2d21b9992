//! Which Kubernetes is meant: a minor version, and the feature gates that change how a pod behaves or what the API
//! server accepts.
//!
//! The releases of each gate are those of its KEP's `kep.yaml`. A gate in alpha is off, from beta on it is on, unless
//! [`Features::set`] says otherwise. What a gate *does* belongs where the behaviour is: here is only whether it is on.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::load::nearest;

/// A minor release of Kubernetes, 1.29 to 1.37.
///
/// 1.29 is the first release with native sidecars on by default; 1.37 is the newest one whose types are compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KubernetesVersion(u8);

/// Feature gates that matter to a single pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `restartPolicy` and `restartPolicyRules` on every container (KEP-5307).
    ContainerRestartRules,
    /// The action `RestartAllContainers` of a restart rule (KEP-5532).
    RestartAllContainersOnContainerExits,
    /// `lifecycle.stopSignal` (KEP-4960).
    ContainerStopSignals,
    /// `spec.resources` (KEP-2837).
    PodLevelResources,
    /// A missing pod-level limit becomes the sum of the containers' limits (KEP-2837, 1.36).
    PodLevelResourcesFixUpdateDefaulting,
    /// The `sleep` action of a hook (KEP-3960).
    PodLifecycleSleepAction,
    /// A `sleep` of zero seconds (KEP-4818).
    PodLifecycleSleepActionAllowZero,
    /// Environment names beyond C identifiers (KEP-4369).
    RelaxedEnvironmentVariableValidation,
    /// Sidecars are restarted while the pod terminates (KEP-4438).
    SidecarsRestartableDuringPodTermination,
    /// Back-off from 1 s to 60 s (KEP-4603).
    ReduceDefaultCrashLoopBackOffDecay,
    /// The node's own cap on the back-off (KEP-4603).
    KubeletCrashLoopBackOffMax,
    /// A restart of the kubelet makes started containers unstarted until their probes ran again: always so before
    /// 1.35, off since.
    ChangeContainerStatusOnKubeletRestart,
}

/// A version and the gates that were switched by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    version: KubernetesVersion,
    switched: Vec<(Gate, bool)>,
}

/// Why a version or a gate is not known.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VersionError {
    /// Not of the form `1.N`.
    #[error("`{0}` is not a version of Kubernetes: write it as 1.34")]
    Form(String),
    /// A release that this program does not model.
    #[error("Kubernetes {0} is not modelled: choose 1.{oldest} to 1.{newest}", oldest = KubernetesVersion::OLDEST.0, newest = KubernetesVersion::NEWEST.0)]
    Range(String),
    /// No such feature gate.
    #[error("there is no feature gate `{name}` among those that matter to a pod; {}", hint(*.nearest))]
    Gate {
        /// What was asked for.
        name: String,
        /// The nearest known name, if one is near.
        nearest: Option<&'static str>,
    },
    /// A gate without `=true` or `=false`.
    #[error("`{0}` does not say whether the gate is on: write it as {0}=true")]
    Switch(String),
}

fn hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("they are {}", Gate::ALL.map(Gate::name).join(", ")),
    }
}

// === impl KubernetesVersion ===

impl KubernetesVersion {
    /// The oldest release that is modelled.
    pub const OLDEST: Self = Self(29);
    /// The newest release that is modelled, and the default.
    pub const NEWEST: Self = Self(37);

    /// `1.minor`, if that release is modelled.
    pub fn new(minor: u8) -> Option<Self> {
        (Self::OLDEST.0..=Self::NEWEST.0).contains(&minor).then_some(Self(minor))
    }

    /// The part after `1.`.
    pub fn minor(self) -> u8 {
        self.0
    }
}

impl Default for KubernetesVersion {
    fn default() -> Self {
        Self::NEWEST
    }
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

impl Serialize for KubernetesVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    /// Accepts `1.34`, `v1.34` and `1.34.2`.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let form = || VersionError::Form(text.to_owned());
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let (Some("1"), Some(minor)) = (parts.next(), parts.next()) else { return Err(form()) };
        if !parts.all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) {
            return Err(form());
        }
        let minor: u32 = minor.parse().map_err(|_| form())?;
        u8::try_from(minor).ok().and_then(Self::new).ok_or_else(|| VersionError::Range(format!("1.{minor}")))
    }
}

// === impl Gate ===

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 12] = [
        Self::ContainerRestartRules,
        Self::RestartAllContainersOnContainerExits,
        Self::ContainerStopSignals,
        Self::PodLevelResources,
        Self::PodLevelResourcesFixUpdateDefaulting,
        Self::PodLifecycleSleepAction,
        Self::PodLifecycleSleepActionAllowZero,
        Self::RelaxedEnvironmentVariableValidation,
        Self::SidecarsRestartableDuringPodTermination,
        Self::ReduceDefaultCrashLoopBackOffDecay,
        Self::KubeletCrashLoopBackOffMax,
        Self::ChangeContainerStatusOnKubeletRestart,
    ];

    /// The gate's name as `--feature-gates` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ContainerRestartRules => "ContainerRestartRules",
            Self::RestartAllContainersOnContainerExits => "RestartAllContainersOnContainerExits",
            Self::ContainerStopSignals => "ContainerStopSignals",
            Self::PodLevelResources => "PodLevelResources",
            Self::PodLevelResourcesFixUpdateDefaulting => "PodLevelResourcesFixUpdateDefaulting",
            Self::PodLifecycleSleepAction => "PodLifecycleSleepAction",
            Self::PodLifecycleSleepActionAllowZero => "PodLifecycleSleepActionAllowZero",
            Self::RelaxedEnvironmentVariableValidation => "RelaxedEnvironmentVariableValidation",
            Self::SidecarsRestartableDuringPodTermination => "SidecarsRestartableDuringPodTermination",
            Self::ReduceDefaultCrashLoopBackOffDecay => "ReduceDefaultCrashLoopBackOffDecay",
            Self::KubeletCrashLoopBackOffMax => "KubeletCrashLoopBackOffMax",
            Self::ChangeContainerStatusOnKubeletRestart => "ChangeContainerStatusOnKubeletRestart",
        }
    }

    /// The first minor release that has the gate at all, be it off.
    pub fn since(self) -> u8 {
        match self {
            Self::ContainerRestartRules => 34,
            Self::RestartAllContainersOnContainerExits => 35,
            Self::ContainerStopSignals | Self::ReduceDefaultCrashLoopBackOffDecay => 33,
            Self::PodLevelResources
            | Self::KubeletCrashLoopBackOffMax
            | Self::PodLifecycleSleepActionAllowZero => 32,
            Self::PodLevelResourcesFixUpdateDefaulting => 36,
            Self::PodLifecycleSleepAction => 29,
            Self::RelaxedEnvironmentVariableValidation => 30,
            Self::SidecarsRestartableDuringPodTermination => 37,
            Self::ChangeContainerStatusOnKubeletRestart => 29,
        }
    }

    /// Whether the gate is on when nobody switched it.
    pub fn default_in(self, version: KubernetesVersion) -> bool {
        let minor = version.minor();
        match self {
            Self::ContainerRestartRules | Self::KubeletCrashLoopBackOffMax => minor >= 35,
            Self::RestartAllContainersOnContainerExits | Self::PodLevelResourcesFixUpdateDefaulting => {
                minor >= 36
            }
            Self::ContainerStopSignals => minor >= 37,
            Self::PodLevelResources => minor >= 34,
            Self::PodLifecycleSleepAction => minor >= 30,
            Self::PodLifecycleSleepActionAllowZero => minor >= 33,
            Self::RelaxedEnvironmentVariableValidation => minor >= 32,
            Self::SidecarsRestartableDuringPodTermination | Self::ReduceDefaultCrashLoopBackOffDecay => false,
            Self::ChangeContainerStatusOnKubeletRestart => minor < 35,
        }
    }
}

impl FromStr for Gate {
    type Err = VersionError;

    fn from_str(name: &str) -> Result<Self, VersionError> {
        Self::ALL.into_iter().find(|g| g.name() == name).ok_or_else(|| {
            let nearest = nearest(name, Self::ALL.iter().map(|g| g.name()));
            VersionError::Gate { name: name.to_owned(), nearest }
        })
    }
}

// === impl Features ===

impl Features {
    /// The gates of a version as they are by default.
    pub fn of(version: KubernetesVersion) -> Self {
        Self { version, switched: Vec::new() }
    }

    /// Switches one gate by hand.
    #[must_use]
    pub fn set(mut self, gate: Gate, on: bool) -> Self {
        self.switched.retain(|(g, _)| *g != gate);
        self.switched.push((gate, on));
        self
    }

    /// Switches gates written as `Name=true,Other=false`.
    ///
    /// # Errors
    /// A name that is no gate, or a value that is neither `true` nor `false`.
    pub fn set_all(self, list: &str) -> Result<Self, VersionError> {
        list.split(',').map(str::trim).filter(|s| !s.is_empty()).try_fold(self, |features, item| {
            let (name, value) = item.split_once('=').ok_or_else(|| VersionError::Switch(item.to_owned()))?;
            let on = value.parse().map_err(|_| VersionError::Switch(name.to_owned()))?;
            Ok(features.set(name.parse()?, on))
        })
    }

    /// The version meant.
    pub fn version(&self) -> KubernetesVersion {
        self.version
    }

    /// Whether a gate is on. A gate that the version does not have yet is off, whatever was switched.
    pub fn on(&self, gate: Gate) -> bool {
        if self.version.minor() < gate.since() {
            return false;
        }
        let by_hand = self.switched.iter().find(|(g, _)| *g == gate).map(|(_, on)| *on);
        by_hand.unwrap_or_else(|| gate.default_in(self.version))
    }
}

impl Default for Features {
    fn default() -> Self {
        Self::of(KubernetesVersion::NEWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_as_kubectl_prints_them() {
        for text in ["1.34", "v1.34", "v1.34.2"] {
            assert_eq!(text.parse(), Ok(KubernetesVersion(34)), "{text}");
        }
        assert_eq!("1.28".parse::<KubernetesVersion>(), Err(VersionError::Range("1.28".into())));
        assert_eq!("1.300".parse::<KubernetesVersion>(), Err(VersionError::Range("1.300".into())));
        for text in ["", "2.1", "1", "1.x", "1.34.", "latest"] {
            assert!(matches!(text.parse::<KubernetesVersion>(), Err(VersionError::Form(_))), "{text}");
        }
    }

    #[test]
    fn a_gate_is_on_by_version_by_hand_and_never_before_it_exists() {
        let at = |minor| Features::of(KubernetesVersion(minor));
        assert!(!at(34).on(Gate::ContainerRestartRules));
        assert!(at(35).on(Gate::ContainerRestartRules));
        assert!(at(34).set_all("ContainerRestartRules=true").unwrap().on(Gate::ContainerRestartRules));
        assert!(!at(33).set(Gate::ContainerRestartRules, true).on(Gate::ContainerRestartRules));
        assert_eq!(
            at(34).set_all("ContainerRestartRule=true").unwrap_err().to_string(),
            "there is no feature gate `ContainerRestartRule` among those that matter to a pod; did you mean \
             `ContainerRestartRules`?"
        );
        assert_eq!(
            at(34).set_all("ContainerStopSignals").unwrap_err(),
            VersionError::Switch("ContainerStopSignals".into())
        );
    }
}

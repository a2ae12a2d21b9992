//! The status of a pod as the API has it.
//!
//! Here are only the types; `conditions.rs` and `report.rs` beside it compute them, `kubectl.rs` puts them in words.

use serde::{Deserialize, Serialize};

use super::types::{Exit, Text, Time};

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers were started yet.
    #[default]
    Pending,
    /// Initialized, and at least one container runs, is being started or restarted.
    Running,
    /// All apps ended with 0 and none will be started again.
    Succeeded,
    /// Ended otherwise.
    Failed,
}

/// `status`, as far as the engine and the API server write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodStatus {
    /// The phase.
    pub phase: Phase,
    /// Such as `Evicted`; belongs to the phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// More words for the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Text>,
    /// The conditions, in a fixed order.
    pub conditions: Vec<Condition>,
    /// One for each container: `initContainers`, then `containers`.
    pub containers: Vec<ContainerStatus>,
    /// `metadata.deletionGracePeriodSeconds` once the pod is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting: Option<i64>,
}

/// The types of condition that the engine writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// The sandbox is there.
    PodReadyToStartContainers,
    /// Every init ended with 0 and every sidecar is started (R40).
    Initialized,
    /// All containers and readiness gates are ready.
    Ready,
    /// All apps and sidecars are ready (R39).
    ContainersReady,
    /// A node was found.
    PodScheduled,
    /// A rule restarts all containers (R63).
    AllContainersRestarting,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub holds: bool,
    /// Such as `ContainersNotReady`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// Such as `containers with unready status: [app]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The status of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: Text,
    /// The image of its instance, or of the spec before there is one.
    pub image: Text,
    /// What it is doing.
    pub state: State,
    /// How the instance before, or the present one that waits, ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Terminated>,
    /// Whether it runs and its startup probe, if any, has passed (R38).
    pub started: bool,
    /// Ready for traffic; of an init: ended with 0.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// Which life this is about; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Not running, and to be started.
    Waiting {
        /// Such as `CrashLoopBackOff`.
        reason: Text,
        /// More words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Running.
    Running {
        /// Since when.
        since: Time,
    },
    /// Ended.
    Terminated(Terminated),
}

/// How a container ended, in the API's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terminated {
    /// Exit code and signal.
    #[serde(flatten)]
    pub exit: Exit,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ContainerStatusUnknown`.
    pub reason: Text,
    /// When; none if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// More words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Text>,
}

/// The columns of `kubectl get pods`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// READY: how many containers are ready.
    pub ready: u32,
    /// READY: of how many.
    pub of: u32,
    /// STATUS, such as `Init:1/2`.
    pub status: String,
    /// RESTARTS.
    pub restarts: u32,
}

// === impl Phase ===

impl Phase {
    /// Whether nothing comes after it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

// === impl PodStatus ===

impl PodStatus {
    /// A condition by its type.
    pub fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// A container's status by its name.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| &*c.name == name)
    }

    /// Whether a condition is there and holds.
    pub fn holds(&self, kind: ConditionType) -> bool {
        self.condition(kind).is_some_and(|c| c.holds)
    }
}

// === impl State ===

impl State {
    /// `running`, `waiting:REASON` or `terminated:CODE:REASON`.
    pub fn short(&self) -> String {
        match self {
            Self::Waiting { reason, .. } => format!("waiting:{reason}"),
            Self::Running { .. } => "running".to_owned(),
            Self::Terminated(t) => t.short(),
        }
    }

    /// How it ended, if it did.
    pub fn terminated(&self) -> Option<&Terminated> {
        match self {
            Self::Terminated(t) => Some(t),
            _ => None,
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// Whether it waits.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }
}

// === impl Terminated ===

impl Terminated {
    /// `terminated:CODE:REASON`.
    pub fn short(&self) -> String {
        format!("terminated:{}:{}", self.exit.code, self.reason)
    }
}

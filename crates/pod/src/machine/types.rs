//! The words of the pod machine: what may happen to a pod, and what is to be done about it.
//!
//! Here are only types; what follows from an event is in the modules beside this one.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::status::PodStatus;

/// A moment, as the time since the pod object was created.
pub type Time = Duration;

/// A short text that is shared rather than copied: a name, an image, a reason.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

/// A container of the pod: its place in the list of `initContainers` followed by `containers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub u16);

/// One life of a container. Attempts count from 0 over the whole life of the pod, so that an event that comes late
/// can't be taken for one of a newer life; `restartCount`, which may start again, is another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Which container.
    pub container: ContainerId,
    /// Which of its lives.
    pub attempt: u32,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerKind {
    /// Runs to its end before the next one starts.
    Init,
    /// An entry of `initContainers` with `restartPolicy: Always`.
    Sidecar,
    /// An entry of `containers`.
    App,
}

/// The kinds of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// Gates the next container and the other two probes.
    Startup,
    /// Its failure kills the container.
    Liveness,
    /// Takes the pod out of its Services; gates nothing.
    Readiness,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeOutcome {
    /// Exit 0, status 200 to 399, an open port, or SERVING.
    Success,
    /// Anything else, a timeout included.
    Failure,
    /// The probe could not be made; it counts for nothing.
    Error,
}

/// The kinds of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    /// Runs after the start; the start is not complete before its end.
    PostStart,
    /// Runs before the stop signal, within the grace period.
    PreStop,
}

/// A signal by its Linux name, such as `SIGTERM`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(pub Text);

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// The signal that ended it, where the runtime knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel's OOM killer struck in the container, whatever the exit code (R69).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom: bool,
}

/// Why an image is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PullError {
    /// The registry, or the way to it, refused. Tried again with a back-off of its own (R28).
    ErrImagePull,
    /// Not on the node, and the pull policy is `Never`.
    ErrImageNeverPull,
    /// The reference can't be read.
    InvalidImageName,
}

/// Why a container could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CreateError {
    /// A ConfigMap, Secret or user that the container needs is missing. No record of the attempt stays.
    CreateContainerConfigError,
    /// The runtime refused. No record of the attempt stays.
    CreateContainerError,
}

/// What the machine is told.
///
/// Answers to actions name the [`Instance`] that the action named; an answer that comes too late is ignored.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Answer to [`Action::CreateSandbox`].
    SandboxCreated,
    /// Answer to [`Action::CreateSandbox`]; it is tried again.
    SandboxFailed,
    /// Answer to [`Action::StopSandbox`]: all that lived in it is gone.
    SandboxStopped,
    /// Answer to [`Action::Pull`].
    Pulled(ContainerId),
    /// Answer to [`Action::Pull`], with what the registry said.
    PullFailed(ContainerId, PullError, Text),
    /// Answer to [`Action::Create`].
    Created(Instance),
    /// Answer to [`Action::Create`], with what the runtime said.
    CreateFailed(Instance, CreateError, Text),
    /// Answer to [`Action::Start`].
    Started(Instance),
    /// Answer to [`Action::Start`], with what the runtime said: it keeps a record with exit code 128 (`StartError`).
    StartFailed(Instance, Text),
    /// The container ended, by itself or by a signal.
    Exited(Instance, Exit),
    /// The runtime could not stop a container although it is to be taken as stopped soon: nothing behind it gets its
    /// turn before the grace period is over (R56).
    StopFailed(Instance),
    /// The runtime lost sight of a container: neither running nor exited (R23).
    Unknown(Instance),
    /// Answer to [`Action::RunHook`].
    HookDone {
        /// Where it ran.
        instance: Instance,
        /// Which hook.
        hook: HookKind,
        /// Whether it succeeded.
        ok: bool,
    },
    /// Answer to [`Action::Probe`].
    Probed {
        /// What was probed.
        instance: Instance,
        /// By which probe.
        probe: ProbeKind,
        /// What came of it.
        outcome: ProbeOutcome,
    },
    /// The pod is deleted; seconds of grace, or the spec's. A second one changes only what the API shows (R48).
    Delete {
        /// `gracePeriodSeconds` of the request. Below 1 counts as 1, but 0 removes the object at once.
        grace: Option<i64>,
    },
    /// The image of a container in the spec is another one now.
    ImageChanged(ContainerId, Text),
    /// The node evicts the pod: grace 1 for limits of local storage, 0 for hard node pressure (R70).
    Evict {
        /// What becomes the pod's message.
        message: Text,
        /// Seconds of grace for all containers.
        grace: i64,
    },
    /// The sandbox (its pause process or its network) is gone. Containers that died with it are told by `Exited`.
    SandboxLost,
    /// The engine (the kubelet) stops: what runs goes on, nothing is noticed, timers stand still.
    EngineStopped,
    /// The engine is back; all that it knew only by itself is lost (R25, R59, R62).
    EngineStarted,
    /// The machine under the pod is gone, engine and containers with it.
    NodeLost,
    /// It boots again: no sandbox is left, and each container that ran has ended with 255.
    NodeBack,
    /// The runtime removed the record of an ended container.
    RecordRemoved(ContainerId),
    /// A condition of a readiness gate has another value.
    GateChanged(Text, bool),
}

/// What the machine wants done. Actions come in the order in which they are to begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the sandbox: namespaces, network, pod cgroup. Attempts count from 0.
    CreateSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// End the sandbox and all that is left in it.
    StopSandbox,
    /// Make the image of a container present.
    Pull(ContainerId, Text),
    /// Make a container, without starting it.
    Create {
        /// Its new life.
        instance: Instance,
        /// Its image.
        image: Text,
        /// Its `restartCount`, for the name of its log and for its environment.
        restart_count: u32,
    },
    /// Start what was created.
    Start(Instance),
    /// Run a hook in or against the container. `sleep` hooks need no hand and are not asked for.
    RunHook(Instance, HookKind),
    /// Make one probe. The answer `Failure` is due after `timeoutSeconds` at the latest.
    Probe(Instance, ProbeKind),
    /// Send a signal to process 1 of the container.
    Signal(Instance, Signal),
    /// The container is not started again before this moment.
    BackOff {
        /// Which container.
        container: ContainerId,
        /// When its back-off is over.
        until: Time,
        /// How long it is, from the last end.
        delay: Duration,
    },
    /// Remove the record and what is left of an ended container.
    Remove(Instance),
    /// The pod's status is another one now.
    Report(Box<PodStatus>),
    /// A Kubernetes event.
    Record(Record),
    /// The API has no such pod any more.
    Gone,
    /// The pod is over: remove its volumes and its cgroup. Nothing of its containers is left to be done.
    Forget,
}

/// A Kubernetes event, as `kubectl describe` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whether its type is `Warning` rather than `Normal`.
    pub warning: bool,
    /// Such as `Killing`.
    pub reason: String,
    /// Such as `Stopping container app`.
    pub message: String,
    /// What it is about, if not the whole pod; in JSON it is named by whoever writes it.
    #[serde(skip)]
    pub container: Option<ContainerId>,
}

// === impl Text ===

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.as_ref().into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

// === impl Signal ===

impl Signal {
    /// What stops a container unless the spec says otherwise.
    pub fn term() -> Self {
        Self("SIGTERM".into())
    }

    /// What ends a container that did not stop in time.
    pub fn kill() -> Self {
        Self("SIGKILL".into())
    }

    /// Whether this can't be caught.
    pub fn is_kill(&self) -> bool {
        &*self.0 == "SIGKILL"
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ProbeKind ===

impl ProbeKind {
    /// All of them, in the order in which the engine starts their workers.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// `startup`, `liveness` or `readiness`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }
}

// === impl HookKind ===

impl HookKind {
    /// `postStart` or `preStop`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }
}

// === impl Exit ===

impl Exit {
    /// An end by `exit(code)`.
    pub fn code(code: i32) -> Self {
        Self { code, signal: None, oom: false }
    }

    /// An end by SIGKILL.
    pub fn killed() -> Self {
        Self::code(137)
    }
}

//! The recorded timeline of a simulated pod, as data.
//!
//! Recording is done by the simulation; drawing and printing by the renderers. Times are those of the machine: since the
//! creation of the pod. In JSON they are milliseconds.

use serde::{Deserialize, Serialize};

use crate::machine::{
    Columns, Condition, ContainerKind, ContainerStatus, Exit, HookKind, Phase, ProbeKind, ProbeOutcome,
    Record, Signal, Text, Time,
};

/// All that happened to one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// The pod's name.
    pub pod: String,
    /// Whose behaviour it shows, such as `1.34`.
    pub kubernetes: String,
    /// `ideal` or `kubelet`.
    pub timing: String,
    /// The last recorded moment.
    #[serde(with = "millis")]
    pub end: Time,
    /// When the API had no such pod any more. Nothing of its status is recorded after that.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "millis::option")]
    pub gone: Option<Time>,
    /// Why the recording ended.
    pub ending: Ending,
    /// One for each container, in the order of the spec: `initContainers`, then `containers`.
    pub lanes: Vec<Lane>,
    /// The phase, at each change.
    pub phases: Vec<At<PhaseChange>>,
    /// The conditions, each at each of its changes.
    pub conditions: Vec<At<Condition>>,
    /// What `kubectl get pods` shows, at each change.
    pub kubectl: Vec<At<Columns>>,
    /// Each time that the whole pod was being stopped, with its budget of grace.
    pub stops: Vec<PodStop>,
    /// What the script did.
    pub script: Vec<At<String>>,
    /// The Kubernetes events, in order.
    pub events: Vec<At<Event>>,
    /// The Job's conditions and counts, where the manifest is a Job, at each change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub job: Vec<At<String>>,
}

/// Something, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct At<T> {
    /// When.
    #[serde(with = "millis")]
    pub at: Time,
    /// What.
    #[serde(flatten)]
    pub what: Wrapped<T>,
}

/// Keeps what is not a map (a string) representable beside `at`: it is always under the key `is`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wrapped<T> {
    /// The thing itself.
    pub is: T,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The pod came to a terminal phase and all is done.
    Terminal,
    /// The pod was deleted and its object is gone.
    Gone,
    /// The script's time was over.
    Until,
    /// Nothing more would ever happen.
    Still,
}

/// The phase, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseChange {
    /// The phase.
    pub phase: Phase,
    /// Such as `Evicted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
}

/// What happened to one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Its name.
    pub name: Text,
    /// What it is to the pod.
    pub kind: ContainerKind,
    /// Stretches of time; they overlap (a running container is also ready).
    pub spans: Vec<Span>,
    /// Moments.
    pub points: Vec<At<Point>>,
    /// The status that the API had, at each change.
    pub statuses: Vec<At<ContainerStatus>>,
}

/// A stretch of time of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Its begin.
    #[serde(with = "millis")]
    pub from: Time,
    /// Its end, or the end of the recording if it lasted that long.
    #[serde(with = "millis")]
    pub to: Time,
    /// Whether it was still going on at the end of the recording.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Which life of the container, counted from 0; the next one while it waits.
    pub attempt: u32,
    /// What it was.
    pub what: SpanKind,
}

/// What a container was doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum SpanKind {
    /// Not running, though to be started; the reason is the API's (`PodInitializing`, `CrashLoopBackOff`, ...).
    Waiting {
        /// Why.
        reason: Text,
    },
    /// Its process ran (the truth, not the API's view).
    Running,
    /// `started` was true in the API.
    Started,
    /// `ready` was true in the API.
    Ready,
    /// A hook ran.
    Hook {
        /// Which.
        hook: HookKind,
        /// Whether it succeeded; none if it was cut off or goes on.
        ok: Option<bool>,
    },
    /// It may not be started again: from the end of the instance before to the end of the back-off.
    BackOff {
        /// The back-off's length in milliseconds.
        #[serde(with = "millis")]
        delay: Time,
    },
    /// From the moment that it was told to stop (preStop, waiting for its turn, signal) to its end.
    Stopping {
        /// Why, such as `delete` or `liveness probe`.
        why: String,
    },
}

/// A moment in the life of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Point {
    /// Its process was started.
    Start {
        /// Which life, from 0.
        attempt: u32,
        /// The image.
        image: Text,
    },
    /// Its process ended.
    Exit {
        /// Which life.
        attempt: u32,
        /// How.
        exit: Exit,
        /// The API's word for it, such as `OOMKilled`.
        reason: Text,
    },
    /// A probe was answered.
    Probe {
        /// Which life.
        attempt: u32,
        /// Which probe.
        probe: ProbeKind,
        /// The answer.
        outcome: ProbeOutcome,
    },
    /// It was sent a signal.
    Signal {
        /// Which life.
        attempt: u32,
        /// The signal.
        signal: Signal,
    },
    /// It could not be started; the reason is the API's.
    StartFailed {
        /// Such as `ErrImagePull`.
        reason: Text,
    },
}

/// One stop of the whole pod: what the grace budget was spent on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodStop {
    /// When the engine began (t0 of the budget).
    #[serde(with = "millis")]
    pub from: Time,
    /// When the last container had ended.
    #[serde(with = "millis")]
    pub to: Time,
    /// Whether it was still going on at the end of the recording.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Seconds of grace.
    pub grace: i64,
    /// Why, such as `delete`, `completed`, `evicted`.
    pub why: String,
}

/// A Kubernetes event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The container's name, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Text>,
    /// Type, reason and message.
    #[serde(flatten)]
    pub record: Record,
}

// === impl At ===

impl<T> At<T> {
    /// `what`, at `at`.
    pub fn new(at: Time, what: T) -> Self {
        Self { at, what: Wrapped { is: what } }
    }

    /// What happened.
    pub fn is(&self) -> &T {
        &self.what.is
    }
}

// === impl Timeline ===

impl Timeline {
    /// A lane by its container's name.
    pub fn lane(&self, name: &str) -> Option<&Lane> {
        self.lanes.iter().find(|l| &*l.name == name)
    }

    /// The phase at the end.
    pub fn phase(&self) -> Phase {
        self.phases.last().map_or(Phase::Pending, |p| p.is().phase)
    }
}

// === impl Lane ===

impl Lane {
    /// When its lives began.
    pub fn starts(&self) -> impl Iterator<Item = Time> + '_ {
        self.points.iter().filter(|p| matches!(p.is(), Point::Start { .. })).map(|p| p.at)
    }

    /// When and how its lives ended.
    pub fn exits(&self) -> impl Iterator<Item = (Time, Exit)> + '_ {
        self.points.iter().filter_map(|p| match p.is() {
            Point::Exit { exit, .. } => Some((p.at, *exit)),
            _ => None,
        })
    }
}

/// Times as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Ok(Duration::from_millis(u64::deserialize(d)?))
    }

    /// Times that may be missing.
    pub(super) mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            s: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, s),
                None => s.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<u64>::deserialize(d)?.map(Duration::from_millis))
        }
    }
}

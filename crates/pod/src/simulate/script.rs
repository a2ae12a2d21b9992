//! The script of a simulation: how each container behaves, and what befalls the pod. `docs/pods.md` describes it.
//!
//! Here are the types and the checks that need the pod's names; carrying it out is in `run.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::machine::{ContainerId, CreateError, Machine, ProbeOutcome, PullError, Time};

/// The longest time that may be simulated: a week.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// All that happens to a pod from outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// When to stop watching. By default: when the pod has ended, when nothing more can happen, or after an hour.
    pub until: Option<Span>,
    /// By name, how each container behaves; one that is not named runs for ever and stops at once when told to.
    pub containers: BTreeMap<String, Behaviour>,
    /// What befalls the pod.
    pub events: Vec<Step>,
}

/// How one container behaves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Behaviour {
    /// Its lives in turn; the last one is repeated.
    pub runs: Vec<Run>,
    /// What it does when it is told to stop.
    pub stop: StopBehaviour,
    /// What its startup probe finds.
    pub startup: ProbeBehaviour,
    /// What its liveness probe finds.
    pub liveness: ProbeBehaviour,
    /// What its readiness probe finds.
    pub readiness: ProbeBehaviour,
    /// Its postStart hook.
    pub post_start: HookBehaviour,
    /// Its preStop hook.
    pub pre_stop: HookBehaviour,
    /// Why its image can't be pulled.
    pub pull: Option<Trouble<PullError>>,
    /// Why it can't be created.
    pub create: Option<Trouble<CreateError>>,
    /// Why it can't be started: what the runtime says.
    pub start: Option<Trouble<String>>,
}

/// One life of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// How long it runs by itself; for ever if not given.
    #[serde(rename = "for")]
    pub lasts: Option<Span>,
    /// Its exit code then.
    pub exit: i32,
    /// Whether the OOM killer ends it (exit code 137 then, unless another is given).
    pub oom: bool,
}

/// What a container does on its stop signal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopBehaviour {
    /// How long it takes to exit.
    pub after: Span,
    /// With which code; 143 if not given, which is what a program without a handler leaves.
    pub exit: Option<i32>,
    /// Whether it does not listen: only SIGKILL ends it.
    pub ignored: bool,
}

/// What a probe finds. Times count from the start of each life of the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ProbeBehaviour {
    /// The answers in turn, from the first of the container's first life on; the last one is repeated.
    pub answers: Vec<ProbeOutcome>,
    /// It fails before this.
    pub succeeds_after: Option<Span>,
    /// It fails from this on.
    pub fails_after: Option<Span>,
    /// How long each probe takes; `timeoutSeconds` of the manifest cuts it off as a failure.
    pub takes: Span,
}

/// What a hook does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookBehaviour {
    /// How long it takes.
    pub takes: Span,
    /// Whether it fails at its end.
    pub fails: bool,
    /// Whether it never ends by itself.
    pub hangs: bool,
    /// Whether it tells its own container to stop, at its end.
    pub stops: bool,
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble<E> {
    /// What is wrong.
    pub error: E,
    /// How many tries it takes until it works; for ever if not given.
    #[serde(default)]
    pub times: Option<u32>,
}

/// One thing that befalls the pod: a moment, and exactly one of the things.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// When, from the creation of the pod.
    pub at: Option<Span>,
    /// Or: after what.
    pub after: Option<Cause>,
    /// The pod is deleted.
    pub delete: Option<Delete>,
    /// An image is changed.
    pub image: Option<ImageChange>,
    /// A container is killed from outside.
    pub kill: Option<Kill>,
    /// The node evicts the pod.
    pub evict: Option<Evict>,
    /// What happens to the sandbox.
    pub sandbox: Option<SandboxEvent>,
    /// What happens to the engine.
    pub engine: Option<EngineEvent>,
    /// What happens to the node.
    pub node: Option<NodeEvent>,
    /// The runtime loses the records of these containers, if they have ended.
    pub forget: Vec<String>,
    /// The runtime fails to stop a container, which ends all the same.
    #[serde(rename = "stopFails")]
    pub stop_fails: Option<String>,
    /// A readiness gate's condition.
    pub gate: Option<GateChange>,
}

/// A moment in the life of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// Whose.
    pub container: String,
    /// Which moment.
    #[serde(default)]
    pub is: Moment,
    /// The how manyth, from 1.
    #[serde(default = "one")]
    pub nth: u32,
    /// How long after it.
    #[serde(default)]
    pub wait: Span,
}

/// Which moment in the life of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// Its process was started.
    #[default]
    Starts,
    /// Its process ended.
    Exits,
}

/// A deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delete {
    /// `gracePeriodSeconds`; the pod's own if not given.
    pub grace: Option<i64>,
}

/// A change of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageChange {
    /// Whose.
    pub container: String,
    /// The new image.
    pub to: String,
}

/// A death from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Whose.
    pub container: String,
    /// The exit code, 137 if not given.
    #[serde(default)]
    pub exit: Option<i32>,
    /// Whether it was the OOM killer.
    #[serde(default)]
    pub oom: bool,
}

/// An eviction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evict {
    /// The pod's message then.
    pub message: String,
    /// Seconds of grace: 1 for limits of local storage, 0 for hard pressure on the node.
    pub grace: i64,
}

/// What happens to the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxEvent {
    /// It is gone, and all containers with it.
    Lost,
    /// Its own process died; the containers run on.
    PauseDied,
}

/// What happens to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineEvent {
    /// It stops.
    Stopped,
    /// It starts again.
    Started,
}

/// What happens to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeEvent {
    /// Its power is off.
    Lost,
    /// It has booted again.
    Back,
}

/// A readiness gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateChange {
    /// The type of its condition.
    pub name: String,
    /// Its value.
    pub holds: bool,
}

/// A length of time, written as seconds (`1.5`) or with units (`1m30s`, `250ms`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// What is wrong with a script.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScriptError {
    /// A container that the pod does not have.
    #[error("{place}: the pod has no container `{name}`; did you mean `{nearest}`?")]
    Container {
        /// Where in the script.
        place: String,
        /// What was written.
        name: String,
        /// The nearest name of the pod.
        nearest: String,
    },
    /// Neither or both of `at` and `after`.
    #[error("events[{0}]: exactly one of `at` and `after` says when")]
    When(usize),
    /// Not exactly one thing.
    #[error(
        "events[{index}]: {count} things at once; write exactly one of delete, image, kill, evict, sandbox, engine, node, \
         forget, stopFails, gate"
    )]
    What {
        /// Which event.
        index: usize,
        /// How many things it has.
        count: usize,
    },
    /// Too long.
    #[error("{0}: at most a week can be simulated (604800 s)")]
    TooLong(String),
    /// A thing that never happens before the first.
    #[error("events[{0}]: `nth` counts from 1")]
    Nth(usize),
}

fn one() -> u32 {
    1
}

// === impl Script ===

impl Script {
    /// Checks the script against a pod.
    ///
    /// # Errors
    /// All that is wrong: unknown containers, moments that are none, times of more than a week.
    pub fn check(&self, pod: &Machine) -> Result<(), Vec<ScriptError>> {
        let mut wrong = Vec::new();
        let known = |place: String, name: &str, wrong: &mut Vec<ScriptError>| {
            if pod.find(name).is_none() {
                wrong.push(ScriptError::Container {
                    place,
                    name: name.to_owned(),
                    nearest: nearest(pod, name),
                });
            }
        };
        for name in self.containers.keys() {
            known(format!("containers.{name}"), name, &mut wrong);
        }
        for (index, step) in self.events.iter().enumerate() {
            let place = format!("events[{index}]");
            if step.at.is_some() == step.after.is_some() {
                wrong.push(ScriptError::When(index));
            }
            if step.things() != 1 {
                wrong.push(ScriptError::What { index, count: step.things() });
            }
            if step.after.as_ref().is_some_and(|cause| cause.nth == 0) {
                wrong.push(ScriptError::Nth(index));
            }
            let names = step
                .after
                .iter()
                .map(|cause| &cause.container)
                .chain(step.image.iter().map(|image| &image.container))
                .chain(step.kill.iter().map(|kill| &kill.container))
                .chain(&step.forget)
                .chain(&step.stop_fails);
            for name in names {
                known(place.clone(), name, &mut wrong);
            }
            let moment = step.at.or_else(|| step.after.as_ref().map(|cause| cause.wait));
            if moment.is_some_and(|at| at.0 > LONGEST) {
                wrong.push(ScriptError::TooLong(place));
            }
        }
        if self.until.is_some_and(|until| until.0 > LONGEST) {
            wrong.push(ScriptError::TooLong("until".to_owned()));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

// === impl Step ===

impl Step {
    fn things(&self) -> usize {
        [
            self.delete.is_some(),
            self.image.is_some(),
            self.kill.is_some(),
            self.evict.is_some(),
            self.sandbox.is_some(),
            self.engine.is_some(),
            self.node.is_some(),
            !self.forget.is_empty(),
            self.stop_fails.is_some(),
            self.gate.is_some(),
        ]
        .into_iter()
        .filter(|there| *there)
        .count()
    }
}

impl fmt::Display for Step {
    /// In a few words, for the timeline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(delete) = self.delete {
            return match delete.grace {
                Some(grace) => write!(f, "delete with grace {grace}"),
                None => f.write_str("delete"),
            };
        }
        if let Some(image) = &self.image {
            return write!(f, "image of {} becomes {}", image.container, image.to);
        }
        if let Some(kill) = &self.kill {
            return write!(f, "{} is killed", kill.container);
        }
        if self.evict.is_some() {
            return f.write_str("evict");
        }
        match self.sandbox {
            Some(SandboxEvent::Lost) => return f.write_str("sandbox lost"),
            Some(SandboxEvent::PauseDied) => return f.write_str("pause process died"),
            None => {}
        }
        match self.engine {
            Some(EngineEvent::Stopped) => return f.write_str("engine stopped"),
            Some(EngineEvent::Started) => return f.write_str("engine started"),
            None => {}
        }
        match self.node {
            Some(NodeEvent::Lost) => return f.write_str("node lost"),
            Some(NodeEvent::Back) => return f.write_str("node back"),
            None => {}
        }
        if let Some(gate) = &self.gate {
            return write!(f, "readiness gate {} is {}", gate.name, gate.holds);
        }
        match &self.stop_fails {
            Some(name) => write!(f, "stopping {name} fails"),
            None => write!(f, "records of {} removed", self.forget.join(", ")),
        }
    }
}

// === impl Behaviour ===

impl Behaviour {
    /// The life with this number, from 0.
    pub fn life(&self, number: u32) -> Run {
        let last = self.runs.len().saturating_sub(1);
        self.runs.get((number as usize).min(last)).cloned().unwrap_or_default()
    }
}

// === impl ProbeBehaviour ===

impl ProbeBehaviour {
    /// The answer with this number, from 0, at an age of the container.
    pub fn answer(&self, number: u32, age: Time) -> ProbeOutcome {
        let last = self.answers.len().saturating_sub(1);
        let said = self.answers.get((number as usize).min(last)).copied().unwrap_or(ProbeOutcome::Success);
        let early = self.succeeds_after.is_some_and(|from| age < from.0);
        let late = self.fails_after.is_some_and(|from| age >= from.0);
        if early || late { ProbeOutcome::Failure } else { said }
    }
}

// === impl Span ===

impl Span {
    /// Whole seconds.
    pub fn seconds(value: u64) -> Self {
        Self(Duration::from_secs(value))
    }

    /// Reads `90`, `1.5`, `1m30s` or `250ms`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).ok().map(Self);
        }
        let (mut rest, mut total) = (text, Duration::ZERO);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
            let (number, tail) = rest.split_at(digits);
            let (unit, after) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let scale = match unit.trim() {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
            let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()?;
            total = total.checked_add(part)?;
            rest = after;
        }
        (!text.is_empty()).then_some(Self(total))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 20, 1.5, 250ms or 1m30s")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Span, E> {
                let span = Duration::try_from_secs_f64(value).ok().map(Span);
                span.ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Span, E> {
                Ok(Span::seconds(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Span, E> {
                let seconds = u64::try_from(value).ok().map(Span::seconds);
                seconds.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
        }
        d.deserialize_any(Visitor)
    }
}

fn nearest(pod: &Machine, name: &str) -> String {
    pod.containers()
        .map(|(_, known, _): (ContainerId, _, _)| known)
        .min_by_key(|known| strsim::levenshtein(known, name))
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_write_them() {
        for (text, millis) in
            [("20", 20_000), ("1.5", 1_500), ("1m30s", 90_000), ("250ms", 250), ("2h", 7_200_000)]
        {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "1d", "-1", "1e400", "nan", "5s5", "99999999999999999999h"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}

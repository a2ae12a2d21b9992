//! A pod in virtual time: a script says how its containers behave, the machine what the engine does, and all of it is
//! recorded in a timeline.

mod job;
mod record;
pub mod script;
pub mod timeline;
mod world;

use std::time::Duration;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;
use thiserror::Error;

use crate::machine::{Event, Exit, Machine, Settings, SpecError, Text, Time, Timing};

use self::job::JobWatch;
use self::record::Recorder;
use self::script::{EngineEvent, LONGEST, Moment, NodeEvent, SandboxEvent, Script, ScriptError, Step};
use self::timeline::{Ending, Timeline};
use self::world::{Happened, Happening, Latency, World};

/// How long is watched if the script does not say.
const WATCH: Duration = Duration::from_secs(3600);
/// The most things that may happen in one simulation.
const MOST_STEPS: u64 = 5_000_000;

/// Why a pod can't be simulated.
#[derive(Debug, Error)]
pub enum SimulateError {
    /// The pod makes no machine.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The script does not fit the pod.
    #[error("the script does not fit the pod: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Script(Vec<ScriptError>),
    /// More happens than can be simulated.
    #[error("too much happens: more than can be recorded before {}; choose a smaller `until`", .0.as_secs_f64())]
    TooMuch(Time),
}

/// Runs a pod under a script, and records it.
///
/// # Errors
/// A pod that makes no machine, a script that does not fit it, or one under which too much happens.
pub fn simulate(pod: &Pod, script: &Script, settings: &Settings) -> Result<Timeline, SimulateError> {
    Simulation::new(pod, script, settings)?.run()
}

/// Runs the first pod of a Job under a script, with what its controller does to it (R71, R72).
///
/// # Errors
/// As [`simulate`].
pub fn simulate_job(
    pod: &Pod,
    job: &JobSpec,
    script: &Script,
    settings: &Settings,
) -> Result<Timeline, SimulateError> {
    let mut simulation = Simulation::new(pod, script, settings)?;
    simulation.job = Some(JobWatch::new(pod, job, settings.timing));
    simulation.run()
}

struct Simulation<'s> {
    script: &'s Script,
    machine: Machine,
    world: World,
    recorder: Recorder,
    job: Option<JobWatch>,
    now: Time,
    starts: Vec<u32>,
    exits: Vec<u32>,
    log: Vec<Happened>,
    /// Steps of the script that are still to come.
    to_come: usize,
}

// === impl Simulation ===

impl<'s> Simulation<'s> {
    fn new(pod: &Pod, script: &'s Script, settings: &Settings) -> Result<Self, SimulateError> {
        let mut machine = Machine::new(pod, settings)?;
        machine.without_reports();
        script.check(&machine).map_err(SimulateError::Script)?;
        let (latency, timing) = match settings.timing {
            Timing::Ideal => (Latency::default(), "ideal"),
            Timing::Kubelet { .. } => (Latency::kubelet(), "kubelet"),
        };
        let spec = pod.spec.clone().unwrap_or_default();
        let mut world = World::new(&machine, &spec, latency);
        for (name, behaviour) in &script.containers {
            if let Some(id) = machine.find(name) {
                world.behave(id, behaviour.clone());
            }
        }
        for (index, step) in script.events.iter().enumerate() {
            if let Some(at) = step.at {
                world.plan(at.0, Happening::Step(index));
            }
        }
        let recorder = Recorder::new(&machine, settings.features.version().to_string(), timing);
        let count = machine.containers().count();
        Ok(Self {
            script,
            machine,
            world,
            recorder,
            job: None,
            now: Time::ZERO,
            starts: vec![0; count],
            exits: vec![0; count],
            log: Vec::new(),
            to_come: script.events.len(),
        })
    }

    fn run(mut self) -> Result<Timeline, SimulateError> {
        let until = self.script.until.map_or(WATCH, |until| until.0).min(LONGEST);
        self.recorder.look(self.now, &self.machine);
        for _ in 0..MOST_STEPS {
            if self.recorder.is_full() {
                return Err(SimulateError::TooMuch(self.now));
            }
            if let Some(ending) = self.ending() {
                return Ok(self.recorder.finish(self.now, ending));
            }
            let job = self.job.as_ref().and_then(JobWatch::deadline);
            let next = [self.world.next_at(), self.machine.next_deadline(), job].into_iter().flatten().min();
            let Some(at) = next else {
                return Ok(self
                    .recorder
                    .finish(self.now.max(self.script.until.map_or(self.now, |u| u.0)), Ending::Still));
            };
            if at > until {
                return Ok(self.recorder.finish(until, Ending::Until));
            }
            self.now = self.now.max(at);
            self.step();
        }
        Err(SimulateError::TooMuch(self.now))
    }

    /// Whether the pod and its script have come to their end.
    fn ending(&self) -> Option<Ending> {
        if !self.machine.is_over() || self.job.as_ref().is_some_and(|job| !job.is_over()) {
            return None;
        }
        if self.machine.is_gone() {
            return Some(Ending::Gone);
        }
        (self.to_come == 0).then_some(Ending::Terminal)
    }

    /// What is due now: first what the machine waits for, then the world.
    fn step(&mut self) {
        let now = self.now;
        if self.machine.next_deadline().is_some_and(|at| at <= now) {
            self.machine.tick(now);
            self.settle();
            return;
        }
        if self.job.as_ref().and_then(JobWatch::deadline).is_some_and(|at| at <= now) {
            self.watch_job();
            return;
        }
        let Some((_, what)) = self.world.pop() else { return };
        let event = match what {
            Happening::Step(index) => {
                self.take(index);
                None
            }
            other => self.world.happen(now, other, &mut self.log),
        };
        self.write_log();
        if let Some(event) = event {
            self.machine.on(now, event);
        }
        self.settle();
    }

    /// Carries out what the machine wants, until it wants nothing more.
    fn settle(&mut self) {
        let now = self.now;
        while let Some(action) = self.machine.next_action() {
            self.recorder.action(now, &action);
            self.world.carry_out(now, &action, &mut self.log);
            self.write_log();
        }
        self.recorder.look(now, &self.machine);
        self.watch_job();
    }

    fn watch_job(&mut self) {
        let now = self.now;
        let Some(job) = &mut self.job else { return };
        let gone =
            self.machine.is_gone() || (self.machine.is_over() && self.machine.status().deleting.is_some());
        for note in job.watch(now, self.machine.status(), gone) {
            self.recorder.job(now, note);
        }
        if job.take_deletion() {
            self.recorder.script(now, "the Job deletes its pod".to_owned());
            self.machine.on(now, Event::Delete { grace: None });
            self.settle();
        }
    }

    fn write_log(&mut self) {
        let now = self.now;
        for what in std::mem::take(&mut self.log) {
            match &what {
                Happened::Started(instance) => {
                    let at = usize::from(instance.container.0);
                    self.starts[at] += 1;
                    self.caused(now, at, Moment::Starts, self.starts[at]);
                }
                Happened::Ended(instance, _) => {
                    let at = usize::from(instance.container.0);
                    self.exits[at] += 1;
                    self.caused(now, at, Moment::Exits, self.exits[at]);
                }
                _ => {}
            }
            self.recorder.happened(now, what);
        }
    }

    /// Plans the steps of the script that come after this.
    fn caused(&mut self, now: Time, container: usize, moment: Moment, nth: u32) {
        for (index, step) in self.script.events.iter().enumerate() {
            if let Some(cause) = &step.after
                && cause.is == moment
                && cause.nth == nth
                && self.machine.find(&cause.container).is_some_and(|id| usize::from(id.0) == container)
            {
                self.world.plan(now.saturating_add(cause.wait.0), Happening::Step(index));
            }
        }
    }

    fn take(&mut self, index: usize) {
        let step: &Step = &self.script.events[index];
        let now = self.now;
        self.to_come = self.to_come.saturating_sub(1);
        self.recorder.script(now, step.to_string());
        let find = |name: &str| self.machine.find(name);
        if let Some(delete) = step.delete {
            self.machine.on(now, Event::Delete { grace: delete.grace });
        } else if let Some(image) = &step.image {
            if let Some(id) = find(&image.container) {
                self.machine.on(now, Event::ImageChanged(id, Text::from(&image.to)));
            }
        } else if let Some(kill) = &step.kill {
            if let Some(id) = find(&kill.container) {
                let exit = Exit { oom: kill.oom, ..Exit::code(kill.exit.unwrap_or(137)) };
                self.world.kill(now, id, exit, &mut self.log);
            }
        } else if let Some(evict) = &step.evict {
            let message = Text::from(&evict.message);
            self.machine.on(now, Event::Evict { message, grace: evict.grace });
        } else if let Some(sandbox) = step.sandbox {
            if sandbox == SandboxEvent::Lost {
                let ids: Vec<_> = self.machine.containers().map(|(id, _, _)| id).collect();
                for id in ids {
                    self.world.kill(now, id, Exit::killed(), &mut self.log);
                }
            }
            self.machine.on(now, Event::SandboxLost);
        } else if let Some(engine) = step.engine {
            match engine {
                EngineEvent::Stopped => {
                    self.machine.on(now, Event::EngineStopped);
                    self.world.stop_engine(&mut self.log);
                }
                EngineEvent::Started => {
                    self.machine.on(now, Event::EngineStarted);
                }
            }
        } else if let Some(node) = step.node {
            match node {
                NodeEvent::Lost => {
                    self.machine.on(now, Event::NodeLost);
                    self.world.lose_node(&mut self.log);
                }
                NodeEvent::Back => {
                    self.machine.on(now, Event::NodeBack);
                }
            }
        } else if let Some(name) = &step.stop_fails {
            if let Some(instance) = find(name).and_then(|id| self.machine.running(id)) {
                self.machine.on(now, Event::StopFailed(instance));
            }
        } else if let Some(gate) = &step.gate {
            self.machine.on(now, Event::GateChanged(Text::from(&gate.name), gate.holds));
        } else {
            for id in step.forget.iter().filter_map(|name| self.machine.find(name)).collect::<Vec<_>>() {
                self.machine.on(now, Event::RecordRemoved(id));
            }
        }
    }
}

// === impl Latency ===

impl Latency {
    /// What containerd and runc took on the machine whose kubelet was recorded.
    const fn kubelet() -> Self {
        Self {
            sandbox: Duration::from_millis(80),
            create: Duration::from_millis(25),
            start: Duration::from_millis(30),
            signal: Duration::from_millis(15),
            call: Duration::from_millis(15),
        }
    }
}

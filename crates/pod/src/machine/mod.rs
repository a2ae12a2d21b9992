//! The life of a pod as a plain state machine: events and the time in, actions and status out.
//!
//! It does what a kubelet does with one pod: see what the runtime has, work out what is missing, do it step by step. Nothing
//! here does I/O or reads a clock; running processes belongs to the supervisor, virtual time to `simulate`.
//!
//! Rules are named by their numbers in `docs/pods.md` (R1-R73). Where the text of the rules and a kubelet of 1.34 differ,
//! the kubelet is right here.

mod backoff;
mod container;
mod kubectl;
mod outside;
mod plan;
mod probe;
mod report;
mod restart;
mod spec;
mod start;
mod status;
mod stop;
mod sync;
mod timing;
mod types;

pub use kubectl::columns;
pub use spec::{MAX_CONTAINERS, SpecError};
pub use status::{Columns, Condition, ConditionType, ContainerStatus, Phase, PodStatus, State, Terminated};
pub use timing::Timing;
pub use types::{
    Action, ContainerId, ContainerKind, CreateError, Event, Exit, HookKind, Instance, ProbeKind,
    ProbeOutcome, PullError, Record, Signal, Text, Time,
};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::version::{Features, Gate};

use self::backoff::Curve;
use self::container::{Container, LifeState};
use self::report::View;
use self::spec::Spec;
use self::sync::{Mode, Work};
use self::timing::Clock;

/// How a pod is to be run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Version and gates.
    pub features: Features,
    /// Which moments the machine chooses.
    pub timing: Timing,
    /// The node's own cap on the back-off of restarts (`crashLoopBackOff.maxContainerRestartPeriod`), 1 to 300 s.
    pub max_restart_period: Option<Duration>,
}

/// One pod.
///
/// Give it each event by [`on`](Self::on), wake it at [`next_deadline`](Self::next_deadline) by [`tick`](Self::tick), and
/// after each of these carry out what [`next_action`](Self::next_action) yields until it yields nothing.
#[derive(Clone, Debug)]
pub struct Machine {
    spec: Arc<Spec>,
    features: Arc<Features>,
    clock: Clock,
    curve: Curve,
    /// Whether changes of the status are reported as actions.
    reporting: bool,
    /// From 1.35 on what ran before a restart of the engine counts as started after it (R62).
    forgets_started: bool,
    now: Time,
    actions: VecDeque<Action>,
    containers: Vec<Container>,
    sandbox: Sandbox,
    seen_sandbox: Sandbox,
    /// What the API has.
    status: PodStatus,
    /// Grows with each change of the status.
    revision: u64,
    gates: Vec<(Text, Option<bool>)>,
    // The engine.
    engine_up: bool,
    node_up: bool,
    /// When it was started again; none for the one that was there from the beginning.
    engine_since: Option<Time>,
    mode: Mode,
    work: Work,
    /// Something asks for a sync.
    pending: bool,
    /// When the last sync ended.
    synced: Option<Time>,
    resync: Option<Time>,
    /// When the next poll sees what the last one could not.
    poll_at: Option<Time>,
    poll_wakes: bool,
    /// Changes in the API that are on their way.
    inbox: VecDeque<(Time, Notice)>,
    mounted: bool,
    probing: bool,
    creating: Vec<(ContainerId, u32, u32)>,
    termination: Option<Termination>,
    deletion: Option<Deletion>,
    /// Reason and message of a phase `Failed` that the engine decides itself.
    verdict: Option<(Text, Text)>,
    /// No container can run any more.
    stopped_for_good: bool,
    restarting_all: Option<bool>,
    /// What [`Machine::shows_initialized`] said when the termination began.
    was_initialized: bool,
    gone: bool,
    deadline_noticed: bool,
    /// `Ideal` timing: something changed since the status was last made.
    stale: bool,
}

/// The pod's namespaces and network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sandbox {
    /// How many were made.
    attempts: u32,
    ready: bool,
    stopped: bool,
}

/// Why and how the pod is brought to its end.
#[derive(Clone, Debug)]
struct Termination {
    grace: i64,
    why: &'static str,
    verdict: Option<(Text, Text)>,
}

#[derive(Clone, Copy, Debug)]
struct Deletion {
    /// What counts: never below 1 (R48).
    effective: i64,
}

#[derive(Clone, Debug)]
enum Notice {
    Terminate(Termination),
    Image(ContainerId, Text),
}

// === impl Machine ===

impl Machine {
    /// A pod that was just created and bound to its node, at time 0.
    ///
    /// # Errors
    /// A spec that no machine can be made of: no containers, names twice, a policy or rule that is none.
    pub fn new(pod: &Pod, settings: &Settings) -> Result<Self, SpecError> {
        let spec = Arc::new(Spec::of(pod, &settings.features)?);
        Ok(Self::with(spec, Arc::new(settings.features.clone()), settings))
    }

    /// Another pod of the same template, sharing what does not change. `timing` may differ, as each pod's chance does.
    #[must_use]
    pub fn sibling(&self, timing: Timing) -> Self {
        let settings = Settings { timing, ..Settings::default() };
        let mut sibling = Self::with(Arc::clone(&self.spec), Arc::clone(&self.features), &settings);
        sibling.curve = self.curve;
        sibling
    }

    fn with(spec: Arc<Spec>, features: Arc<Features>, settings: &Settings) -> Self {
        let containers = spec.containers.iter().map(|c| Container::new(&c.image)).collect();
        let gates = spec.readiness_gates.iter().map(|gate| (gate.clone(), None)).collect();
        let curve = Curve::of(&features, settings.max_restart_period);
        let forgets_started = features.on(Gate::ChangeContainerStatusOnKubeletRestart);
        let clock = Clock::new(settings.timing);
        let first = clock.watched(Time::ZERO);
        let mut machine = Self {
            spec,
            features,
            clock,
            curve,
            reporting: true,
            forgets_started,
            now: Time::ZERO,
            actions: VecDeque::new(),
            containers,
            sandbox: Sandbox::default(),
            seen_sandbox: Sandbox::default(),
            status: PodStatus::default(),
            revision: 0,
            gates,
            engine_up: true,
            node_up: true,
            engine_since: None,
            mode: Mode::Sync,
            work: Work::Ready { at: first },
            pending: true,
            synced: None,
            resync: None,
            poll_at: None,
            poll_wakes: false,
            inbox: VecDeque::new(),
            mounted: false,
            probing: false,
            creating: Vec::new(),
            termination: None,
            deletion: None,
            verdict: None,
            stopped_for_good: false,
            restarting_all: None,
            was_initialized: false,
            gone: false,
            deadline_noticed: false,
            stale: false,
        };
        machine.status = machine.blank_status();
        machine.deadline_noticed = machine.spec.active_deadline.is_none();
        machine
    }

    /// Tells what happened, and when. A `now` before that of an earlier call counts as that one.
    pub fn on(&mut self, now: Time, event: Event) {
        self.tick(now);
        self.apply(event);
        self.drive();
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Time) {
        // Each deadline is met at its own time, however late the call comes.
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            self.expire();
            self.drive();
        }
        self.now = self.now.max(now);
    }

    /// What is to be done now; none if all is asked for.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The moment at which [`tick`](Self::tick) has something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        if !self.engine_up {
            return None;
        }
        let wake = if self.pending && matches!(self.work, Work::Idle) && self.mode != Mode::Over {
            Some(self.now)
        } else {
            None
        };
        let active = self
            .spec
            .active_deadline
            .filter(|_| !self.deadline_noticed && self.mode == Mode::Sync)
            .map(|deadline| self.clock.noticed(deadline));
        [
            wake,
            self.work_deadline(),
            self.resync,
            self.poll_at,
            self.inbox.front().map(|(at, _)| *at),
            active,
            self.stop_deadline(),
            if self.probing { self.probe_deadline() } else { None },
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The status as the API has it now.
    pub fn status(&self) -> &PodStatus {
        &self.status
    }

    /// Grows with each change of [`status`](Self::status): who has seen one need not look again before it does.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What `kubectl get pods` shows now.
    pub fn columns(&self) -> Columns {
        let kinds: Vec<_> = self.spec.containers.iter().map(|c| c.kind).collect();
        columns(&self.status, &kinds)
    }

    /// The pod's name.
    pub fn pod(&self) -> &str {
        &self.spec.name
    }

    /// The containers in order, with their names and kinds: `initContainers`, then `containers`.
    pub fn containers(&self) -> impl Iterator<Item = (ContainerId, &Text, ContainerKind)> {
        self.spec.ids().map(|id| (id, &self.spec[id].name, self.spec[id].kind))
    }

    /// A container by its name.
    pub fn find(&self, name: &str) -> Option<ContainerId> {
        self.spec.ids().find(|id| &*self.spec[*id].name == name)
    }

    /// The newest life of a container that runs now.
    pub fn running(&self, id: ContainerId) -> Option<Instance> {
        let life = self.containers.get(usize::from(id.0))?.real.latest.as_ref().filter(|life| life.runs())?;
        Some(Instance { container: id, attempt: life.attempt })
    }

    /// Whether nothing is left to be done, whatever happens.
    pub fn is_over(&self) -> bool {
        self.mode == Mode::Over
    }

    /// Whether the API has no such pod any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The stop of the whole pod that is under way: its seconds of grace, and why.
    pub fn stopping(&self) -> Option<(i64, &'static str)> {
        let stops = self.containers.iter().any(|c| c.stop.is_some());
        match &self.termination {
            Some(termination) if stops && self.mode == Mode::Terminating => {
                Some((termination.grace, termination.why))
            }
            _ => None,
        }
    }

    /// Keeps [`Action::Report`] from being made, for who only looks at [`status`](Self::status).
    pub fn without_reports(&mut self) {
        self.reporting = false;
    }

    fn drive(&mut self) {
        loop {
            self.observe();
            let stops = self.drive_stops();
            let worker = self.drive_worker();
            if !stops && !worker {
                break;
            }
        }
        if !self.clock.is_kubelet() && self.engine_up {
            if self.stale && self.mode != Mode::Over {
                self.stale = false;
                self.show(View::Real, self.stopped_for_good);
            }
            self.rebase_probers();
        }
    }

    /// What is due at this very moment.
    fn expire(&mut self) {
        let now = self.now;
        if self.poll_at.is_some_and(|at| at <= now) {
            self.look();
            if std::mem::take(&mut self.poll_wakes) {
                self.request_sync();
            }
        }
        while self.inbox.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, notice)) = self.inbox.pop_front() {
                self.notice(notice);
            }
        }
        if self.resync.is_some_and(|at| at <= now) {
            self.resync = None;
            self.request_sync();
        }
        if !self.deadline_noticed
            && self.spec.active_deadline.is_some_and(|deadline| self.clock.noticed(deadline) <= now)
        {
            self.deadline_noticed = true;
            self.request_sync();
        }
        if self.probing {
            self.tick_probers();
        }
    }

    /// The runtime's state is not what it was. `wakes`: the change is one that a poll makes a sync of.
    fn changed(&mut self, wakes: bool) {
        self.stale = true;
        self.poll_wakes |= wakes;
        if self.poll_at.is_none() {
            self.poll_at = Some(self.clock.next_poll(self.now));
        }
    }

    /// `Ideal` timing sees at once.
    fn observe(&mut self) {
        if !self.clock.is_kubelet() && self.poll_at.is_some() && self.engine_up {
            self.look();
            if std::mem::take(&mut self.poll_wakes) {
                self.request_sync();
            }
        }
    }

    fn look(&mut self) {
        self.poll_at = None;
        self.seen_sandbox = self.sandbox;
        for container in &mut self.containers {
            if container.seen != container.real {
                container.seen.clone_from(&container.real);
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Terminate(termination) => {
                if self.termination.is_none() {
                    self.termination = Some(termination);
                }
            }
            Notice::Image(id, image) => {
                self.container_mut(id).image = image;
                self.stale = true;
            }
        }
        self.request_sync();
    }

    fn send(&mut self, notice: Notice) {
        let at = self.clock.watched(self.now);
        if self.engine_up && self.clock.is_kubelet() {
            self.inbox.push_back((at, notice));
        } else {
            self.notice(notice);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::SandboxCreated => self.on_sandbox(true),
            Event::SandboxFailed => self.on_sandbox(false),
            Event::SandboxStopped => self.on_sandbox_stopped(),
            Event::Pulled(id) if self.knows(id) => self.on_pulled(id),
            Event::PullFailed(id, error, message) if self.knows(id) => {
                self.on_pull_failed(id, error, &message);
            }
            Event::Created(instance) if self.knows(instance.container) => self.on_created(instance),
            Event::CreateFailed(instance, error, message) if self.knows(instance.container) => {
                self.on_create_failed(instance, error, &message);
            }
            Event::Started(instance) if self.knows(instance.container) => self.on_started(instance),
            Event::StartFailed(instance, message) if self.knows(instance.container) => {
                self.on_start_failed(instance, &message);
            }
            Event::Exited(instance, exit) if self.knows(instance.container) => self.on_exited(instance, exit),
            Event::StopFailed(instance) if self.knows(instance.container) => self.stop_failed(instance),
            Event::Unknown(instance) if self.knows(instance.container) => {
                if let Some(life) = self.container_mut(instance.container).real.attempt_mut(instance.attempt)
                    && life.runs()
                {
                    life.state = LifeState::Unknown;
                    self.changed(true);
                }
            }
            Event::HookDone { instance, hook, ok } if self.knows(instance.container) => match hook {
                HookKind::PostStart => self.post_start_ended(instance, ok),
                HookKind::PreStop => self.stop_saw_hook(instance, ok),
            },
            Event::Probed { instance, probe, outcome } if self.knows(instance.container) => {
                self.on_probed(instance, probe, outcome);
            }
            Event::Delete { grace } => self.on_delete(grace),
            Event::ImageChanged(id, image) if self.knows(id) => self.send(Notice::Image(id, image)),
            Event::Evict { message, grace } => self.on_evict(message, grace),
            Event::SandboxLost => self.lose_sandbox(),
            Event::EngineStopped => self.stop_engine(),
            Event::EngineStarted => self.start_engine(),
            Event::NodeLost => {
                self.stop_engine();
                self.node_up = false;
            }
            Event::NodeBack => self.bring_node_back(),
            Event::RecordRemoved(id) if self.knows(id) && !self.container(id).runs() => {
                self.container_mut(id).real = container::Lives::default();
                self.changed(false);
            }
            Event::GateChanged(name, value) => {
                if let Some((_, gate)) = self.gates.iter_mut().find(|(gate, _)| *gate == name) {
                    *gate = Some(value);
                    self.stale = true;
                    self.request_sync();
                }
            }
            // About a container that this pod does not have.
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn knows(&self, id: ContainerId) -> bool {
        usize::from(id.0) < self.containers.len()
    }

    fn container(&self, id: ContainerId) -> &Container {
        &self.containers[usize::from(id.0)]
    }

    /// A container to which something happens.
    fn container_mut(&mut self, id: ContainerId) -> &mut Container {
        let container = &mut self.containers[usize::from(id.0)];
        container.shown = false;
        container
    }

    /// Something happened that each container's status may follow from.
    fn happened_to_all(&mut self) {
        for container in &mut self.containers {
            container.shown = false;
        }
    }

    /// The newest life that was seen.
    fn seen(&self, id: ContainerId) -> Option<&container::Life> {
        self.container(id).seen.latest.as_ref()
    }

    fn features_on(&self, gate: Gate) -> bool {
        self.features.on(gate)
    }
}

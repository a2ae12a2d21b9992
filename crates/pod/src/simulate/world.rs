//! The processes of a simulated pod: they start, run, answer and end as the script says.
//!
//! It plays the part of the runtime: it carries out the machine's actions in virtual time and tells it what came of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::machine::{
    Action, ContainerId, ContainerKind, Event, Exit, HookKind, Instance, Machine, ProbeKind, ProbeOutcome,
    Signal, Text, Time,
};

use super::script::{Behaviour, HookBehaviour};

/// How long the runtime takes for its own work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) sandbox: Duration,
    pub(super) create: Duration,
    pub(super) start: Duration,
    pub(super) signal: Duration,
    pub(super) call: Duration,
}

/// Something that will happen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happening {
    /// An answer, or any other event for the machine.
    Tell(Event),
    /// The process of a life ends by itself, unless something else ended it before.
    Ends(Instance, u32, Exit),
    /// A signal arrives.
    Signal(Instance, Signal),
    /// A hook comes to its end.
    HookEnds(Instance, HookKind),
    /// A step of the script is due.
    Step(usize),
}

/// All containers, and what is to come.
pub(super) struct World {
    pub(super) latency: Latency,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    processes: Vec<Process>,
}

/// What the world says happened to a process, for the recorder.
#[derive(Clone, Debug)]
pub(super) enum Happened {
    Started(Instance),
    Ended(Instance, Exit),
    Signalled(Instance, Signal),
    HookBegan(Instance, HookKind),
    HookEnded(Instance, HookKind, Option<bool>),
    Probed(Instance, ProbeKind, ProbeOutcome),
    Failed(ContainerId, &'static str),
}

struct Process {
    behaviour: Behaviour,
    timeouts: [Option<Duration>; 3],
    exec_hooks: [bool; 2],
    /// The life that runs now.
    alive: Option<Alive>,
    lives: u32,
    answers: [u32; 3],
    tries: [u32; 3],
    stopping: bool,
}

struct Alive {
    instance: Instance,
    since: Time,
    /// Grows with each new reason to end, so that an older one is void.
    fate: u32,
    hooks: Vec<HookKind>,
    told: bool,
}

struct Entry {
    at: Time,
    order: u64,
    what: Happening,
}

// === impl World ===

impl World {
    pub(super) fn new(
        machine: &Machine,
        pod: &k8s_openapi::api::core::v1::PodSpec,
        latency: Latency,
    ) -> Self {
        let specs = pod.init_containers.iter().flatten().chain(&pod.containers);
        let processes = machine
            .containers()
            .zip(specs)
            .map(|((_, _, kind), spec)| {
                let timeout = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
                    let probe = probe.as_ref().filter(|_| kind != ContainerKind::Init)?;
                    Some(Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64))
                };
                let lifecycle = spec.lifecycle.as_ref();
                let exec = |hook: Option<&k8s_openapi::api::core::v1::LifecycleHandler>| {
                    hook.is_some_and(|hook| hook.exec.is_some())
                };
                Process {
                    behaviour: Behaviour::default(),
                    timeouts: [
                        timeout(&spec.startup_probe),
                        timeout(&spec.liveness_probe),
                        timeout(&spec.readiness_probe),
                    ],
                    exec_hooks: [
                        exec(lifecycle.and_then(|l| l.post_start.as_ref())),
                        exec(lifecycle.and_then(|l| l.pre_stop.as_ref())),
                    ],
                    alive: None,
                    lives: 0,
                    answers: [0; 3],
                    tries: [0; 3],
                    stopping: false,
                }
            })
            .collect();
        Self { latency, queue: BinaryHeap::new(), order: 0, processes }
    }

    pub(super) fn behave(&mut self, id: ContainerId, behaviour: Behaviour) {
        self.processes[usize::from(id.0)].behaviour = behaviour;
    }

    pub(super) fn plan(&mut self, at: Time, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at, order: self.order, what }));
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(entry)| entry.at)
    }

    pub(super) fn pop(&mut self) -> Option<(Time, Happening)> {
        self.queue.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }

    /// Carries out one action.
    pub(super) fn carry_out(&mut self, now: Time, action: &Action, log: &mut Vec<Happened>) {
        let latency = self.latency;
        match action {
            Action::CreateSandbox { .. } => self.tell(now + latency.sandbox, Event::SandboxCreated),
            Action::StopSandbox => {
                for id in 0..self.processes.len() {
                    self.end(now, ContainerId(id as u16), Exit::killed(), log);
                }
                self.tell(now + latency.call, Event::SandboxStopped);
            }
            Action::Pull(id, _) => {
                let process = &mut self.processes[usize::from(id.0)];
                let answer = match &process.behaviour.pull {
                    Some(trouble) if trouble.times.is_none_or(|times| process.tries[0] < times) => {
                        process.tries[0] += 1;
                        let reason = match trouble.error {
                            crate::machine::PullError::ErrImagePull => "ErrImagePull",
                            crate::machine::PullError::ErrImageNeverPull => "ErrImageNeverPull",
                            crate::machine::PullError::InvalidImageName => "InvalidImageName",
                        };
                        log.push(Happened::Failed(*id, reason));
                        Event::PullFailed(*id, trouble.error, Text::from("failed to pull the image"))
                    }
                    _ => Event::Pulled(*id),
                };
                self.tell(now, answer);
            }
            Action::Create { instance, .. } => self.create(now, *instance, log),
            Action::Start(instance) => self.start(now, *instance, log),
            Action::RunHook(instance, hook) => self.hook(now, *instance, *hook, log),
            Action::Probe(instance, kind) => self.probe(now, *instance, *kind, log),
            Action::Signal(instance, signal) => {
                self.plan(now + latency.signal, Happening::Signal(*instance, signal.clone()));
            }
            _ => {}
        }
    }

    /// A thing that was planned comes true.
    pub(super) fn happen(&mut self, now: Time, what: Happening, log: &mut Vec<Happened>) -> Option<Event> {
        match what {
            Happening::Tell(event) => Some(self.heard(now, event, log)),
            Happening::Ends(instance, fate, exit) => {
                let process = &self.processes[usize::from(instance.container.0)];
                let due = process.alive.as_ref().is_some_and(|a| a.instance == instance && a.fate == fate);
                if due {
                    self.end(now, instance.container, exit, log);
                }
                None
            }
            Happening::Signal(instance, signal) => {
                self.signal(now, instance, &signal, log);
                None
            }
            Happening::HookEnds(instance, hook) => self.hook_ends(now, instance, hook, log),
            Happening::Step(_) => None,
        }
    }

    /// A container dies by something outside the pod.
    pub(super) fn kill(&mut self, now: Time, id: ContainerId, exit: Exit, log: &mut Vec<Happened>) {
        self.end(now, id, exit, log);
    }

    /// The engine is gone: hooks that it ran are cut off, kills that it had planned don't come.
    pub(super) fn stop_engine(&mut self, log: &mut Vec<Happened>) {
        for process in &mut self.processes {
            if let Some(alive) = &mut process.alive {
                for hook in alive.hooks.drain(..) {
                    log.push(Happened::HookEnded(alive.instance, hook, None));
                }
            }
        }
    }

    /// The power is off: every process is gone, and nobody is told.
    pub(super) fn lose_node(&mut self, log: &mut Vec<Happened>) {
        self.stop_engine(log);
        for process in &mut self.processes {
            if let Some(alive) = process.alive.take() {
                log.push(Happened::Ended(alive.instance, Exit::code(255)));
            }
        }
    }

    fn tell(&mut self, at: Time, event: Event) {
        self.plan(at, Happening::Tell(event));
    }

    /// The start of a process is the one answer that also changes the world.
    fn heard(&mut self, now: Time, event: Event, log: &mut Vec<Happened>) -> Event {
        if let Event::Started(instance) = event {
            let process = &mut self.processes[usize::from(instance.container.0)];
            let run = process.behaviour.life(process.lives);
            process.lives += 1;
            process.stopping = false;
            process.alive = Some(Alive { instance, since: now, fate: 0, hooks: Vec::new(), told: false });
            log.push(Happened::Started(instance));
            if let Some(lasts) = run.lasts {
                let code = if run.oom && run.exit == 0 { 137 } else { run.exit };
                let exit = Exit { oom: run.oom, ..Exit::code(code) };
                self.plan(now.saturating_add(lasts.0), Happening::Ends(instance, 0, exit));
            }
        }
        event
    }

    fn create(&mut self, now: Time, instance: Instance, log: &mut Vec<Happened>) {
        let at = now + self.latency.create;
        let process = &mut self.processes[usize::from(instance.container.0)];
        let event = match &process.behaviour.create {
            Some(trouble) if trouble.times.is_none_or(|times| process.tries[1] < times) => {
                process.tries[1] += 1;
                let reason = match trouble.error {
                    crate::machine::CreateError::CreateContainerConfigError => "CreateContainerConfigError",
                    crate::machine::CreateError::CreateContainerError => "CreateContainerError",
                };
                log.push(Happened::Failed(instance.container, reason));
                Event::CreateFailed(instance, trouble.error, Text::from(reason))
            }
            _ => Event::Created(instance),
        };
        self.tell(at, event);
    }

    fn start(&mut self, now: Time, instance: Instance, log: &mut Vec<Happened>) {
        let at = now + self.latency.start;
        let process = &mut self.processes[usize::from(instance.container.0)];
        let event = match &process.behaviour.start {
            Some(trouble) if trouble.times.is_none_or(|times| process.tries[2] < times) => {
                process.tries[2] += 1;
                log.push(Happened::Failed(instance.container, "StartError"));
                Event::StartFailed(instance, Text::from(&trouble.error))
            }
            _ => Event::Started(instance),
        };
        self.tell(at, event);
    }

    fn end(&mut self, now: Time, id: ContainerId, exit: Exit, log: &mut Vec<Happened>) {
        let process = &mut self.processes[usize::from(id.0)];
        let Some(alive) = process.alive.take() else { return };
        log.push(Happened::Ended(alive.instance, exit));
        self.tell(now, Event::Exited(alive.instance, exit));
        for hook in alive.hooks {
            if self.processes[usize::from(id.0)].exec_hooks[hook as usize] {
                log.push(Happened::HookEnded(alive.instance, hook, None));
                self.tell(now, Event::HookDone { instance: alive.instance, hook, ok: false });
            }
        }
    }

    fn signal(&mut self, now: Time, instance: Instance, signal: &Signal, log: &mut Vec<Happened>) {
        let process = &mut self.processes[usize::from(instance.container.0)];
        let Some(alive) = process.alive.as_mut().filter(|alive| alive.instance == instance) else { return };
        if signal.is_kill() {
            log.push(Happened::Signalled(instance, signal.clone()));
            self.end(now, instance.container, Exit::killed(), log);
            return;
        }
        // The runtime sends its stop signal once, whoever asks again (R59).
        if std::mem::replace(&mut alive.told, true) {
            return;
        }
        log.push(Happened::Signalled(instance, signal.clone()));
        self.told(now, instance);
    }

    /// The process is told to stop, by the engine or by its own hook.
    fn told(&mut self, now: Time, instance: Instance) {
        let process = &mut self.processes[usize::from(instance.container.0)];
        if process.behaviour.stop.ignored || process.stopping {
            return;
        }
        process.stopping = true;
        let stop = process.behaviour.stop.clone();
        if let Some(alive) = process.alive.as_mut() {
            alive.fate += 1;
            let fate = alive.fate;
            let exit = Exit::code(stop.exit.unwrap_or(143));
            let at = now.saturating_add(stop.after.0);
            self.plan(at, Happening::Ends(instance, fate, exit));
        }
    }

    fn hook(&mut self, now: Time, instance: Instance, hook: HookKind, log: &mut Vec<Happened>) {
        let process = &mut self.processes[usize::from(instance.container.0)];
        let exec = process.exec_hooks[hook as usize];
        log.push(Happened::HookBegan(instance, hook));
        let script = hook_behaviour(&process.behaviour, hook).clone();
        match process.alive.as_mut().filter(|alive| alive.instance == instance) {
            Some(alive) => alive.hooks.push(hook),
            None if exec => {
                log.push(Happened::HookEnded(instance, hook, None));
                self.tell(now, Event::HookDone { instance, hook, ok: false });
                return;
            }
            None => {}
        }
        if !script.hangs {
            let at = now.saturating_add(script.takes.0) + self.latency.call;
            self.plan(at, Happening::HookEnds(instance, hook));
        }
    }

    fn hook_ends(
        &mut self,
        now: Time,
        instance: Instance,
        hook: HookKind,
        log: &mut Vec<Happened>,
    ) -> Option<Event> {
        let process = &mut self.processes[usize::from(instance.container.0)];
        let script = hook_behaviour(&process.behaviour, hook).clone();
        let exec = process.exec_hooks[hook as usize];
        let alive = process.alive.as_mut().filter(|alive| alive.instance == instance);
        let stops = script.stops && alive.is_some();
        match alive {
            // It was cut off: with its container, or with the engine.
            None if exec => return None,
            Some(alive) => {
                let at = alive.hooks.iter().position(|running| *running == hook)?;
                alive.hooks.swap_remove(at);
            }
            None => {}
        }
        log.push(Happened::HookEnded(instance, hook, Some(!script.fails)));
        if stops {
            log.push(Happened::Signalled(instance, Signal::term()));
            self.told(now, instance);
        }
        Some(Event::HookDone { instance, hook, ok: !script.fails })
    }

    fn probe(&mut self, now: Time, instance: Instance, kind: ProbeKind, log: &mut Vec<Happened>) {
        let process = &mut self.processes[usize::from(instance.container.0)];
        let Some(alive) = process.alive.as_ref().filter(|alive| alive.instance == instance) else {
            // The runtime finds nothing to probe.
            self.tell(now, Event::Probed { instance, probe: kind, outcome: ProbeOutcome::Error });
            return;
        };
        let script = match kind {
            ProbeKind::Startup => &process.behaviour.startup,
            ProbeKind::Liveness => &process.behaviour.liveness,
            ProbeKind::Readiness => &process.behaviour.readiness,
        };
        let number = process.answers[kind as usize];
        let said = script.answer(number, now - alive.since);
        let timeout = process.timeouts[kind as usize].unwrap_or(Duration::from_secs(1));
        let (after, outcome) =
            if script.takes.0 >= timeout { (timeout, ProbeOutcome::Failure) } else { (script.takes.0, said) };
        process.answers[kind as usize] = number.saturating_add(1);
        log.push(Happened::Probed(instance, kind, outcome));
        self.tell(now + after + self.latency.call, Event::Probed { instance, probe: kind, outcome });
    }
}

fn hook_behaviour(behaviour: &Behaviour, hook: HookKind) -> &HookBehaviour {
    match hook {
        HookKind::PostStart => &behaviour.post_start,
        HookKind::PreStop => &behaviour.pre_stop,
    }
}

// === impl Entry ===

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

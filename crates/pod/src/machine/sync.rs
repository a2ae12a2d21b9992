//! The pod's worker: one sync after another, each a list of steps of which one may block all that come after it (R60).
//!
//! A worker syncs the pod as long as it is to run, then terminates it, then takes its leave. Every piece of work waits for a
//! poll of the runtime that is newer than the end of the piece before.

use std::collections::VecDeque;
use std::time::Duration;

use super::plan::{Plan, Why};
use super::report::View;
use super::start::Start;
use super::status::Phase;
use super::types::{Action, ContainerId, ContainerKind, Instance, Record, Signal, Text, Time};
use super::{Machine, Termination};

/// After an error that has no back-off of its own.
pub(super) const ERROR: Duration = Duration::from_secs(10);

/// What the worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Sync,
    Terminating,
    Terminated,
    Over,
}

/// What the worker is doing.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Idle,
    Ready { at: Time },
    Busy(Box<Sync>),
}

/// A piece of work under way.
#[derive(Clone, Debug)]
pub(super) struct Sync {
    mode: Mode,
    steps: VecDeque<Step>,
    wait: Option<Wait>,
    /// Whether it failed, and when its cause is over.
    failed: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Mount,
    Probes,
    Plan,
    StopAll { grace: i64 },
    StopSandbox,
    Stop(ContainerId, Why),
    Purge,
    CreateSandbox,
    Start(Start),
    KillAll,
    ForgetAll,
    Ended,
}

/// What the worker waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Until(Time),
    Stops,
    SandboxCreated,
    SandboxStopped,
    Pull(Start),
    Create(Start, u32),
    Start(Start, u32),
    PostStart(Start, u32, Option<Time>),
    AfterPostStart(Start),
    Killed,
}

impl Machine {
    /// Something happened that a sync may have to act on.
    pub(super) fn request_sync(&mut self) {
        self.pending = true;
    }

    /// Carries the worker on as far as it goes. Returns whether anything changed.
    pub(super) fn drive_worker(&mut self) -> bool {
        if !self.engine_up {
            return false;
        }
        match &self.work {
            Work::Idle => {
                if !self.pending || self.mode == Mode::Over {
                    return false;
                }
                let fresh = match (self.synced, self.clock.last_poll(self.now)) {
                    (None, _) => true,
                    (Some(synced), Some(poll)) => poll > synced || !self.clock.is_kubelet(),
                    (Some(_), None) => false,
                };
                let at = match self.synced {
                    Some(synced) if !fresh => self.clock.next_poll(synced),
                    _ => self.now,
                };
                self.work = Work::Ready { at };
                true
            }
            Work::Ready { at } => {
                if self.now < *at {
                    return false;
                }
                self.pending = false;
                self.begin();
                true
            }
            Work::Busy(_) => self.advance(),
        }
    }

    pub(super) fn work_deadline(&self) -> Option<Time> {
        match &self.work {
            Work::Idle => None,
            Work::Ready { at } => Some(*at),
            Work::Busy(sync) => match sync.wait {
                Some(Wait::Until(at) | Wait::PostStart(_, _, Some(at))) => Some(at),
                _ => None,
            },
        }
    }

    fn begin(&mut self) {
        if let Some(termination) = &self.termination
            && self.mode == Mode::Sync
        {
            self.verdict.clone_from(&termination.verdict);
            self.mode = Mode::Terminating;
        }
        let mut steps = VecDeque::new();
        match self.mode {
            Mode::Sync => {
                self.check_active_deadline();
                if self.show_and_trigger().is_terminal() {
                    let grace = self.spec.grace;
                    self.termination =
                        Some(Termination { grace, why: "completed", verdict: self.verdict.clone() });
                    self.request_sync();
                } else {
                    if !self.mounted {
                        steps.push_back(Step::Mount);
                    }
                    steps.extend([Step::Probes, Step::Plan]);
                }
            }
            Mode::Terminating => {
                self.was_initialized = self.shows_initialized();
                self.show_and_trigger();
                self.stop_liveness_and_startup();
                let grace = self.termination.as_ref().map_or(self.spec.grace, |t| t.grace);
                steps.extend([Step::StopAll { grace }, Step::StopSandbox, Step::Ended]);
            }
            Mode::Terminated => {
                self.finish_status();
                self.end_pod();
                return;
            }
            Mode::Over => {}
        }
        self.work = Work::Busy(Box::new(Sync { mode: self.mode, steps, wait: None, failed: None }));
    }

    /// The status of the beginning of a sync. What it shows as started and not ready is probed for readiness now (R33).
    fn show_and_trigger(&mut self) -> Phase {
        let phase = self.show(View::Seen, false);
        if self.clock.is_kubelet() {
            for id in self.spec.ids() {
                let container = &self.status.containers[usize::from(id.0)];
                if self.spec[id].kind != ContainerKind::Init && container.started && !container.ready {
                    self.trigger_readiness(id);
                }
            }
        }
        phase
    }

    /// Does what can be done of the work at hand. Returns whether anything changed.
    fn advance(&mut self) -> bool {
        let mut changed = false;
        loop {
            let Work::Busy(sync) = &mut self.work else { return changed };
            if let Some(wait) = sync.wait {
                if !self.wait_is_over(wait) {
                    return changed;
                }
                changed = true;
                continue;
            }
            changed = true;
            match sync.steps.pop_front() {
                Some(step) => self.take(step),
                None => {
                    self.finish();
                    return true;
                }
            }
        }
    }

    /// Whether a wait that no event ends is over; if so, takes it away.
    fn wait_is_over(&mut self, wait: Wait) -> bool {
        match wait {
            Wait::Until(at) if self.now >= at => {
                self.mounted = true;
                self.unblock();
            }
            Wait::Stops if self.stops_over() => {
                let failed = self.clear_stops();
                self.unblock();
                if failed {
                    self.fail(self.now + ERROR);
                    self.abort();
                }
            }
            Wait::Killed if !self.containers.iter().any(super::container::Container::runs) => self.unblock(),
            Wait::PostStart(start, attempt, Some(at)) if self.now >= at => {
                self.post_started(start, attempt, true);
            }
            Wait::AfterPostStart(start) if self.stops_over() => {
                self.clear_stops();
                self.unblock();
                self.start_failed(
                    start,
                    "PostStartHookError",
                    "PostStartHook failed".to_owned(),
                    self.now + ERROR,
                );
            }
            _ => return false,
        }
        true
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Mount => {
                let at = self.clock.mounted(self.now);
                self.block(Wait::Until(at));
            }
            Step::Probes => self.add_probers(),
            Step::Plan => {
                let plan = self.plan();
                self.prune_inits();
                self.enter(&plan);
            }
            Step::StopAll { grace } => {
                for id in self.seen_running() {
                    let message = format!("Stopping container {}", self.spec[id].name);
                    self.begin_stop(id, grace, true, message);
                }
                self.block(Wait::Stops);
            }
            Step::StopSandbox => {
                if self.sandbox.attempts > 0 && !self.sandbox.stopped {
                    self.act(Action::StopSandbox);
                    self.block(Wait::SandboxStopped);
                }
            }
            Step::Stop(id, why) => {
                let grace = self.kill_grace(id, why);
                self.begin_stop(id, grace, false, self.kill_message(id, why));
                self.block(Wait::Stops);
            }
            Step::Purge => self.purge_inits(),
            Step::CreateSandbox => {
                self.act(Action::CreateSandbox { attempt: self.sandbox.attempts });
                self.block(Wait::SandboxCreated);
            }
            Step::Start(start) => self.start(start),
            Step::KillAll => {
                self.restarting_all = Some(true);
                self.show(View::Seen, false);
                for id in self.spec.ids() {
                    if let Some(life) = self.container(id).real.latest.as_ref().filter(|life| life.runs()) {
                        let instance = Instance { container: id, attempt: life.attempt };
                        self.act(Action::Signal(instance, Signal::kill()));
                    }
                }
                self.block(Wait::Killed);
            }
            Step::ForgetAll => self.forget_all(),
            Step::Ended => {
                self.stopped_for_good = true;
                self.stop_probing();
                self.show(View::Real, true);
            }
        }
    }

    fn enter(&mut self, plan: &Plan) {
        let mut steps = VecDeque::new();
        if plan.restart_all {
            steps.extend([Step::KillAll, Step::ForgetAll]);
        }
        if plan.kill_pod {
            if plan.create_sandbox && self.sandbox.attempts > 0 {
                self.record(
                    false,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.".to_owned(),
                    None,
                );
            }
            steps.extend([Step::StopAll { grace: self.spec.grace }, Step::StopSandbox]);
        } else {
            steps.extend(plan.kills.iter().map(|(id, why)| Step::Stop(*id, *why)));
        }
        let starts: Vec<Step> = plan
            .inits
            .iter()
            .chain(&plan.apps)
            .map(|id| {
                let seen = &self.container(*id).seen;
                Step::Start(Start {
                    id: *id,
                    ended: seen.ended().or(self.container(*id).ended_before),
                    restarts: self.next_restarts(*id),
                })
            })
            .collect();
        if plan.create_sandbox {
            steps.extend([Step::Purge, Step::CreateSandbox]);
        }
        steps.extend(starts);
        if let Work::Busy(sync) = &mut self.work {
            sync.steps.extend(steps);
        }
    }

    /// The `restartCount` of the next life: one more than that of the newest record, or 0 if there is none (R61).
    pub(super) fn next_restarts(&self, id: ContainerId) -> u32 {
        let container = self.container(id);
        let newest = container.seen.latest.as_ref().or(container.real.latest.as_ref());
        newest.map_or_else(|| container.restarts_from.unwrap_or(0), |life| life.restarts.saturating_add(1))
    }

    pub(super) fn kill_grace(&self, id: ContainerId, why: Why) -> i64 {
        let own = why.probe().and_then(|probe| self.spec[id].probe(probe)).and_then(|probe| probe.grace);
        own.unwrap_or(self.spec.grace)
    }

    pub(super) fn kill_message(&self, id: ContainerId, why: Why) -> String {
        let name = &self.spec[id].name;
        match (why, self.spec[id].kind) {
            (Why::PostStart, _) => why.words().to_owned(),
            (_, ContainerKind::App) => {
                let again = super::restart::after_kill(&self.spec, &self.spec[id]) || why == Why::Changed;
                let tail = if again { ", will be restarted" } else { "" };
                format!("Container {name} {}{tail}", why.words())
            }
            _ => format!("Init container {name} {}", why.words()),
        }
    }

    /// Of the ended lives of an init or sidecar only the newest is kept.
    fn prune_inits(&mut self) {
        for id in self.spec.init_ids() {
            let lives = &mut self.container_mut(id).real;
            let both_ended = lives.latest.as_ref().is_some_and(|life| life.exit().is_some());
            if both_ended && let Some(previous) = lives.previous.take() {
                self.act(Action::Remove(Instance { container: id, attempt: previous.attempt }));
                self.changed(false);
            }
        }
    }

    /// A new sandbox starts with no records of inits and sidecars (R61).
    fn purge_inits(&mut self) {
        for id in self.spec.init_ids() {
            self.remove_records(id);
        }
        self.changed(false);
    }

    /// R63: as if nothing had ever run, but in the same sandbox and with the counts going on.
    fn forget_all(&mut self) {
        for id in self.spec.ids() {
            let restarts = self.container(id).real.latest.as_ref().map(|life| life.restarts);
            let container = self.container_mut(id);
            container.restarts_from =
                restarts.map(|count| count.saturating_add(1)).or(container.restarts_from);
            container.ended_before = container.real.ended();
            container.waiting = None;
            self.remove_records(id);
        }
        self.restarting_all = Some(false);
        for container in &mut self.containers {
            container.seen = container.real.clone();
        }
        self.changed(true);
        self.request_sync();
    }

    pub(super) fn remove_records(&mut self, id: ContainerId) {
        let lives = std::mem::take(&mut self.container_mut(id).real);
        for life in [lives.previous, lives.latest].into_iter().flatten() {
            self.act(Action::Remove(Instance { container: id, attempt: life.attempt }));
        }
    }

    pub(super) fn on_sandbox(&mut self, created: bool) {
        if !matches!(self.waits(), Some(Wait::SandboxCreated)) {
            return;
        }
        self.unblock();
        if created {
            self.sandbox.attempts += 1;
            self.sandbox.ready = true;
            self.sandbox.stopped = false;
            self.changed(true);
        } else {
            self.record(true, "FailedCreatePodSandBox", "Failed to create pod sandbox".to_owned(), None);
            self.fail(self.now + ERROR);
            self.abort();
        }
    }

    pub(super) fn on_sandbox_stopped(&mut self) {
        if matches!(self.waits(), Some(Wait::SandboxStopped)) {
            self.unblock();
            self.sandbox.ready = false;
            self.sandbox.stopped = true;
            self.changed(true);
        }
    }

    fn finish(&mut self) {
        let Work::Busy(sync) = std::mem::replace(&mut self.work, Work::Idle) else { return };
        self.synced = Some(self.now);
        self.resync = None;
        if let Some(due) = sync.failed {
            let at = self.clock.retry(self.now, due);
            self.resync = Some(at);
        } else if sync.mode == Mode::Terminating {
            self.mode = Mode::Terminated;
            self.request_sync();
        }
    }

    /// All is done: the object goes if it was deleted, and the worker with it.
    fn end_pod(&mut self) {
        self.mode = Mode::Over;
        self.work = Work::Idle;
        self.resync = None;
        self.pending = false;
        if self.deletion.is_some() {
            self.remove_object();
        }
        self.act(Action::Forget);
    }

    pub(super) fn remove_object(&mut self) {
        if !self.gone {
            self.gone = true;
            self.act(Action::Gone);
        }
    }

    pub(super) fn waits(&self) -> Option<Wait> {
        match &self.work {
            Work::Busy(sync) => sync.wait,
            _ => None,
        }
    }

    pub(super) fn block(&mut self, wait: Wait) {
        if let Work::Busy(sync) = &mut self.work {
            sync.wait = Some(wait);
        }
    }

    pub(super) fn unblock(&mut self) {
        if let Work::Busy(sync) = &mut self.work {
            sync.wait = None;
        }
    }

    /// The work failed; the earliest moment at which repeating it makes sense counts.
    pub(super) fn fail(&mut self, due: Time) {
        if let Work::Busy(sync) = &mut self.work {
            sync.failed = Some(sync.failed.map_or(due, |before| before.min(due)));
        }
    }

    pub(super) fn abort(&mut self) {
        if let Work::Busy(sync) = &mut self.work {
            sync.steps.clear();
        }
    }

    pub(super) fn record(
        &mut self,
        warning: bool,
        reason: &str,
        message: String,
        container: Option<ContainerId>,
    ) {
        self.act(Action::Record(Record { warning, reason: reason.to_owned(), message, container }));
    }

    /// `activeDeadlineSeconds` is over: the pod fails as if evicted (R43).
    fn check_active_deadline(&mut self) {
        let over = self.spec.active_deadline.is_some_and(|deadline| self.now >= deadline);
        if over && self.verdict.is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.record(false, "DeadlineExceeded", message.to_owned(), None);
            self.verdict = Some((Text::from("DeadlineExceeded"), Text::from(message)));
        }
    }
}

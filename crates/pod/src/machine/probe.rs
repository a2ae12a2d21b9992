//! The workers of the probes: when each is made, and what counts (R29-R37).

use std::time::Duration;

use super::status::{PodStatus, State};
use super::timing::next_tick;
use super::types::{ContainerId, ContainerKind, Instance, ProbeKind, ProbeOutcome, Time};
use super::{Action, Machine};

/// What a worker says about an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Unknown,
    Success,
    Failure,
}

/// The worker of one probe of one container. It outlives the container's instances.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    pub(super) kind: ProbeKind,
    /// The life that it is about, and what it says.
    about: Option<(u32, Verdict)>,
    /// A tick falls on this moment and on each whole number of periods after it.
    base: Time,
    /// The last tick that was taken.
    taken: Option<Time>,
    /// Nothing to do until there is a new instance.
    hold: bool,
    last: Option<ProbeOutcome>,
    run: u32,
    /// A probe is under way.
    asked: Option<u32>,
    /// A tick or a trigger fell into a probe under way.
    again: bool,
    /// `Ideal` timing: whether it had something to do when last looked at.
    wanted: bool,
    stopped: bool,
}

impl Machine {
    /// What a probe says about a life.
    pub(super) fn probed(&self, id: ContainerId, attempt: u32, kind: ProbeKind) -> Option<Verdict> {
        let prober = self.container(id).probers.iter().find(|p| p.kind == kind)?;
        prober.about.filter(|(about, _)| *about == attempt).map(|(_, verdict)| verdict)
    }

    /// Whether a worker is there.
    pub(super) fn is_probed(&self, id: ContainerId, kind: ProbeKind) -> bool {
        self.container(id).probers.iter().any(|p| p.kind == kind)
    }

    /// Starts the workers that are missing.
    pub(super) fn add_probers(&mut self) {
        if self.probing {
            return;
        }
        self.probing = true;
        let fresh = self.engine_since.map(|since| self.now.saturating_sub(since));
        for id in self.spec.ids() {
            for kind in ProbeKind::ALL {
                let Some(spec) = self.spec[id].probe(kind).copied() else { continue };
                // Only soon after the start of a kubelet are the workers spread over one period.
                let offset = match fresh {
                    Some(up) if self.clock.is_kubelet() && spec.period > up => self.clock.part(spec.period),
                    _ => Duration::ZERO,
                };
                let about = self.kept_verdict(id, kind);
                let base = self.now + offset;
                self.container_mut(id).probers.push(Prober {
                    kind,
                    about,
                    base,
                    taken: None,
                    hold: kind == ProbeKind::Startup && about.is_some(),
                    last: None,
                    run: 0,
                    asked: None,
                    again: false,
                    wanted: false,
                    stopped: false,
                });
            }
        }
    }

    /// From 1.35 on an engine that starts again believes what the API says of containers that went on (R62).
    fn kept_verdict(&self, id: ContainerId, kind: ProbeKind) -> Option<(u32, Verdict)> {
        if self.forgets_started || self.engine_since.is_none() {
            return None;
        }
        let status = &self.status.containers[usize::from(id.0)];
        let kept = match kind {
            ProbeKind::Startup => status.started,
            ProbeKind::Readiness => status.ready,
            ProbeKind::Liveness => return None,
        };
        (kept && status.state.is_running())
            .then(|| status.attempt.map(|attempt| (attempt, Verdict::Success)))?
    }

    /// At the begin of a termination: liveness and startup of apps end; those of sidecars tick on without effect (R35).
    pub(super) fn stop_liveness_and_startup(&mut self) {
        for id in self.spec.app_ids() {
            for prober in &mut self.container_mut(id).probers {
                if prober.kind != ProbeKind::Readiness {
                    prober.stopped = true;
                }
            }
        }
    }

    pub(super) fn stop_probing(&mut self) {
        self.happened_to_all();
        for container in &mut self.containers {
            container.probers.clear();
        }
    }

    /// A sync saw the container started and not ready: readiness is probed now, and the period starts again (R33).
    pub(super) fn trigger_readiness(&mut self, id: ContainerId) {
        let now = self.now;
        if !self.clock.is_kubelet() {
            return;
        }
        if let Some(at) = self.position(id, ProbeKind::Readiness) {
            let prober = &mut self.container_mut(id).probers[at];
            // Before its first tick the worker sleeps.
            if prober.base > now && prober.taken.is_none() {
                return;
            }
            prober.base = now;
            prober.taken = Some(now);
            self.tick_prober(id, at);
        }
    }

    /// The next moment at which a worker has something to do.
    pub(super) fn probe_deadline(&self) -> Option<Time> {
        let status = &self.status;
        let mut first: Option<Time> = None;
        for (index, container) in self.containers.iter().enumerate() {
            for prober in &container.probers {
                if prober.wants(status, index) {
                    let period =
                        self.spec.containers[index].probes[prober.kind as usize].map(|spec| spec.period);
                    let due = prober.due(self.now, period.unwrap_or(Duration::from_secs(1)));
                    first = Some(first.map_or(due, |f| f.min(due)));
                }
            }
        }
        first
    }

    /// Takes the ticks that are due.
    pub(super) fn tick_probers(&mut self) {
        let now = self.now;
        for id in self.spec.ids() {
            let index = usize::from(id.0);
            for at in 0..self.containers[index].probers.len() {
                let prober = &self.containers[index].probers[at];
                let period =
                    self.spec[id].probe(prober.kind).map_or(Duration::from_secs(1), |spec| spec.period);
                if prober.wants(&self.status, index) && prober.due(now, period) <= now {
                    self.container_mut(id).probers[at].taken = Some(now);
                    self.tick_prober(id, at);
                }
            }
        }
    }

    /// `Ideal` timing: a worker that gets something to do begins at once, or when its initial delay is over.
    pub(super) fn rebase_probers(&mut self) {
        if self.clock.is_kubelet() || !self.probing {
            return;
        }
        for index in 0..self.containers.len() {
            let Some((attempt, since)) = running(&self.status, index) else {
                for prober in &mut self.containers[index].probers {
                    prober.wanted = false;
                }
                continue;
            };
            for at in 0..self.containers[index].probers.len() {
                let now = self.now;
                let prober = &mut self.containers[index].probers[at];
                if prober.about.is_none_or(|(about, _)| about != attempt) {
                    prober.meet(attempt);
                    prober.wanted = false;
                    self.containers[index].shown = false;
                }
                let prober = &mut self.containers[index].probers[at];
                let wants = prober.wants(&self.status, index);
                if wants && !prober.wanted {
                    let delay = self.spec.containers[index].probes[prober.kind as usize]
                        .map_or(Duration::ZERO, |spec| super::spec::duration(spec.initial_delay));
                    prober.base = now.max(since + delay);
                    prober.taken = None;
                }
                prober.wanted = wants;
            }
        }
    }

    /// One turn of a worker.
    fn tick_prober(&mut self, id: ContainerId, at: usize) {
        let index = usize::from(id.0);
        if self.status.phase.is_terminal() {
            return;
        }
        let api = &self.status.containers[index];
        let (Some(attempt), started) = (api.attempt, api.started) else { return };
        let since = match api.state {
            State::Running { since } => Some(since),
            _ => None,
        };
        let ended = api.state.terminated().is_some();
        let kind = self.containers[index].probers[at].kind;
        if self.containers[index].probers[at].about.is_none_or(|(about, _)| about != attempt) {
            let known = self.container_mut(id).probers[at].meet(attempt);
            self.publish(id, kind, attempt, known);
        }
        let prober = &mut self.container_mut(id).probers[at];
        if prober.hold {
            return;
        }
        let Some(since) = since else {
            if ended {
                prober.about = Some((attempt, Verdict::Failure));
            }
            return;
        };
        if prober.stopped || started == (kind == ProbeKind::Startup) {
            return;
        }
        let Some(spec) = self.spec.containers[index].probes[kind as usize] else { return };
        if (self.clock.age(since, self.now) as i64) < spec.initial_delay {
            return;
        }
        let prober = &mut self.containers[index].probers[at];
        if prober.asked.is_some() {
            prober.again = true;
            return;
        }
        prober.asked = Some(attempt);
        self.act(Action::Probe(Instance { container: id, attempt }, kind));
    }

    /// A probe was answered.
    pub(super) fn on_probed(&mut self, instance: Instance, kind: ProbeKind, outcome: ProbeOutcome) {
        let id = instance.container;
        let Some(spec) = self.spec.containers.get(usize::from(id.0)).and_then(|c| c.probe(kind)).copied()
        else {
            return;
        };
        let Some(at) = self.position(id, kind) else { return };
        let prober = &mut self.container_mut(id).probers[at];
        if prober.asked != Some(instance.attempt) {
            return;
        }
        prober.asked = None;
        let again = std::mem::take(&mut prober.again);
        if prober.about.is_some_and(|(about, _)| about == instance.attempt) && !prober.hold && !prober.stopped
        {
            if outcome != ProbeOutcome::Error {
                prober.run = if prober.last == Some(outcome) { prober.run.saturating_add(1) } else { 1 };
                prober.last = Some(outcome);
                let (enough, verdict) = match outcome {
                    ProbeOutcome::Success => (prober.run >= spec.success, Verdict::Success),
                    _ => (prober.run >= spec.failure, Verdict::Failure),
                };
                if enough {
                    let before = prober.about.replace((instance.attempt, verdict));
                    if kind == ProbeKind::Startup
                        || (kind == ProbeKind::Liveness && verdict == Verdict::Failure)
                    {
                        prober.hold = true;
                        prober.run = 0;
                    }
                    if before.map(|(_, v)| v) != Some(verdict) {
                        self.publish(id, kind, instance.attempt, verdict);
                    }
                }
            }
            if again {
                self.tick_prober(id, at);
            }
        }
    }

    /// A worker says something new: the status shows it at once, and a sync follows.
    fn publish(&mut self, id: ContainerId, kind: ProbeKind, attempt: u32, verdict: Verdict) {
        match kind {
            ProbeKind::Liveness if verdict != Verdict::Failure => return,
            ProbeKind::Liveness => {}
            ProbeKind::Startup => self.patch_started(id, attempt, verdict == Verdict::Success),
            ProbeKind::Readiness => self.patch_ready(id, attempt, verdict == Verdict::Success),
        }
        self.request_sync();
    }

    fn position(&self, id: ContainerId, kind: ProbeKind) -> Option<usize> {
        self.container(id).probers.iter().position(|p| p.kind == kind)
    }

    /// Whether the container has no readiness probe, or the last result is good.
    pub(super) fn is_ready(&self, id: ContainerId, attempt: u32) -> bool {
        match self.probed(id, attempt, ProbeKind::Readiness) {
            Some(Verdict::Success) => true,
            Some(_) => false,
            None => !self.is_probed(id, ProbeKind::Readiness),
        }
    }

    /// Whether a running container counts as started.
    pub(super) fn is_started(&self, id: ContainerId, attempt: u32) -> bool {
        if self.spec[id].kind == ContainerKind::Init {
            return true;
        }
        match self.probed(id, attempt, ProbeKind::Startup) {
            Some(verdict) => verdict == Verdict::Success,
            None => !self.is_probed(id, ProbeKind::Startup),
        }
    }
}

// === impl Prober ===

impl Prober {
    /// A new instance: nothing is known of it. Returns what that counts as.
    fn meet(&mut self, attempt: u32) -> Verdict {
        let initial = match self.kind {
            ProbeKind::Readiness => Verdict::Failure,
            ProbeKind::Liveness => Verdict::Success,
            ProbeKind::Startup => Verdict::Unknown,
        };
        self.about = Some((attempt, initial));
        self.hold = false;
        self.last = None;
        self.run = 0;
        self.asked = None;
        self.again = false;
        initial
    }

    /// Whether a tick would do something, by what the API shows.
    fn wants(&self, status: &PodStatus, index: usize) -> bool {
        let api = &status.containers[index];
        let Some(attempt) = api.attempt else { return false };
        if self.stopped || status.phase.is_terminal() {
            return false;
        }
        if self.about.is_none_or(|(about, _)| about != attempt) {
            return true;
        }
        api.state.is_running() && !self.hold && api.started != (self.kind == ProbeKind::Startup)
    }

    /// The next tick at or after `now`.
    fn due(&self, now: Time, period: Duration) -> Time {
        let due = match self.taken {
            _ if now <= self.base => self.base,
            _ => {
                let next = next_tick(self.base, period, now);
                if next == now + period { now } else { next }
            }
        };
        if self.taken.is_some_and(|taken| due <= taken) { due + period } else { due }
    }
}

/// The life that the API shows as running, and since when.
fn running(status: &PodStatus, index: usize) -> Option<(u32, Time)> {
    let api = &status.containers[index];
    match (api.attempt, &api.state) {
        (Some(attempt), State::Running { since }) => Some((attempt, *since)),
        _ => None,
    }
}

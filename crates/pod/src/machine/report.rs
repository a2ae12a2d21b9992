//! The status of the pod from what was seen: states, phase, conditions (R38-R44, and the kubelet's `getPhase` and
//! `convertToAPIContainerStatuses`).

use super::Machine;
use super::container::{LifeState, Lives};
use super::restart::{self, Verdict};
use super::spec::Policy;
use super::status::{Condition, ConditionType, ContainerStatus, Phase, PodStatus, State, Terminated};
use super::types::{Action, ContainerId, ContainerKind, Exit, Text, Time};
use crate::version::Gate;

/// From which view a status is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// What the last poll saw.
    Seen,
    /// What the runtime says now.
    Real,
}

impl Machine {
    /// The status of a pod that no engine has seen yet.
    pub(super) fn blank_status(&self) -> PodStatus {
        let containers = self.spec.ids().map(|id| self.blank(id)).collect();
        let mut status = PodStatus { containers, ..PodStatus::default() };
        status.conditions = self.conditions_of(&status, Phase::Pending, false);
        status
    }

    fn blank(&self, id: ContainerId) -> ContainerStatus {
        let reason = if self.spec.inits > 0 { "PodInitializing" } else { "ContainerCreating" };
        ContainerStatus {
            name: self.spec[id].name.clone(),
            image: self.container(id).image.clone(),
            state: State::Waiting { reason: reason.into(), message: None },
            last: None,
            started: false,
            ready: false,
            restart_count: 0,
            attempt: None,
        }
    }

    /// Makes what follows from a view the pod's status, and returns the phase that the containers amount to; the status
    /// keeps its own while that is terminal and containers could still run. `terminal`: all are known to be stopped for good.
    ///
    /// A container that nothing happened to keeps its status: a pod of a thousand containers takes thousands of steps.
    pub(super) fn show(&mut self, view: View, terminal: bool) -> Phase {
        let mut before = Vec::new();
        let mut refused = false;
        for id in self.spec.ids() {
            let index = usize::from(id.0);
            let container = &self.containers[index];
            let settled = view == View::Real || container.seen == container.real;
            if container.shown && settled {
                continue;
            }
            let status = self.container_status(id, view);
            self.containers[index].shown = settled;
            if self.status.containers[index] != status {
                refused |= self.leaves_its_end(id, &status);
                before.push((id, std::mem::replace(&mut self.status.containers[index], status)));
            }
        }
        debug_assert!(
            self.containers.len() > 8
                || self.spec.ids().all(|id| {
                    self.container_status(id, view) == self.status.containers[usize::from(id.0)]
                }),
            "a container's status was taken for what it was, and is not"
        );
        let mut changed = !before.is_empty();
        let old = &self.status;
        let sandbox = if view == View::Seen { &self.seen_sandbox } else { &self.sandbox };
        let mut phase = self.phase_of(old, terminal, self.app_started(view));
        if old.phase.is_terminal() && !phase.is_terminal() {
            phase = old.phase;
        }
        let mut words = (None, None);
        if let Some((reason, message)) = &self.verdict {
            phase = Phase::Failed;
            words = (Some(reason.clone()), Some(message.clone()));
        } else if phase == old.phase {
            words = (old.reason.clone(), old.message.clone());
        }
        let conditions = self.conditions_of(old, phase, sandbox.ready);
        let mut shown = phase;
        if phase.is_terminal() && !old.phase.is_terminal() && !self.stopped_for_good {
            shown = old.phase;
            words = (old.reason.clone(), old.message.clone());
        }
        if refused {
            for (id, status) in before {
                self.containers[usize::from(id.0)].shown = false;
                self.status.containers[usize::from(id.0)] = status;
            }
            return phase;
        }
        changed |= shown != old.phase || words.0 != old.reason || words.1 != old.message;
        if changed || conditions != old.conditions {
            self.status.phase = shown;
            (self.status.reason, self.status.message) = words;
            self.status.conditions = conditions;
            self.status_changed();
        }
        phase
    }

    /// The status is not what it was.
    pub(super) fn status_changed(&mut self) {
        self.revision += 1;
        if self.reporting {
            self.act(Action::Report(Box::new(self.status.clone())));
        }
    }

    /// Whether a status shows a container alive, or waiting, that had ended for good as far as the pod's policy knows. The
    /// kubelet's status manager refuses such a status as a whole (`checkContainerStateTransition`), so that inits that ran to
    /// their end and run again in a new sandbox are not seen doing it (K24). `Ideal` timing shows every step, also such that no
    /// kubelet sees, and refuses none.
    fn leaves_its_end(&self, id: ContainerId, status: &ContainerStatus) -> bool {
        let shown = &self.status.containers[usize::from(id.0)];
        let Some(end) = shown.state.terminated().filter(|_| status.state.terminated().is_none()) else {
            return false;
        };
        self.spec[id].kind != ContainerKind::Sidecar
            && self.clock.is_kubelet()
            && self.restarting_all.is_none()
            && !self.spec.policy.restarts(end.exit.code)
            && !self.would_restart(id, end.exit.code)
    }

    /// Whether an app was started, as far as the phase asks for it.
    fn app_started(&self, view: View) -> bool {
        if self.features.version().minor() < 34 {
            return self.spec.app_ids().any(|id| has_started(&self.status.containers[usize::from(id.0)]));
        }
        let sandbox = if view == View::Seen { &self.seen_sandbox } else { &self.sandbox };
        let active = sandbox.attempts.wrapping_sub(1);
        sandbox.ready
            && self
                .spec
                .app_ids()
                .any(|id| self.lives(id, view).latest.as_ref().is_some_and(|life| life.sandbox == active))
    }

    fn lives(&self, id: ContainerId, view: View) -> &Lives {
        let container = self.container(id);
        if view == View::Seen { &container.seen } else { &container.real }
    }

    /// All of one container's status, from a view and what is shown of it now.
    fn container_status(&self, id: ContainerId, view: View) -> ContainerStatus {
        let mut status = self.state_of(id, view);
        let (running, attempt) = (status.state.is_running(), status.attempt);
        (status.started, status.ready) = match (self.spec[id].kind, attempt) {
            (ContainerKind::Init, _) => {
                (running, status.state.terminated().is_some_and(|t| t.exit.code == 0))
            }
            (_, Some(attempt)) if running && self.is_started(id, attempt) => {
                (true, self.is_ready(id, attempt))
            }
            _ => (false, false),
        };
        status
    }

    /// State, last state and restart count of one container.
    fn state_of(&self, id: ContainerId, view: View) -> ContainerStatus {
        let old = &self.status.containers[usize::from(id.0)];
        let lives = self.lives(id, view);
        let is_init = self.spec[id].kind != ContainerKind::App;
        let Some(life) = &lives.latest else {
            let mut status = self.waiting_status(id, self.missing(id, old, is_init));
            if status.state.is_waiting() {
                // Of a life whose record is gone nothing more is known.
                (status.attempt, status.image) = (None, self.container(id).image.clone());
            }
            return status;
        };
        let mut status = ContainerStatus {
            name: old.name.clone(),
            image: life.image.clone(),
            state: match life.state {
                LifeState::Created => self.blank(id).state,
                LifeState::Running { since } => State::Running { since },
                LifeState::Exited { finished, exit, failed_start } => {
                    State::Terminated(terminated(finished, exit, failed_start))
                }
                LifeState::Unknown => State::Terminated(unknown("The container could not be located")),
            },
            last: None,
            started: false,
            ready: false,
            restart_count: life.restarts,
            attempt: Some(life.attempt),
        };
        if let Some(previous) = &lives.previous
            && let LifeState::Exited { finished, exit, failed_start } = previous.state
        {
            status.last = Some(terminated(finished, exit, failed_start));
        }
        if is_init && life.exit().is_some_and(|exit| exit.code == 0) {
            return status;
        }
        status = self.waiting_status(id, status);
        status
    }

    /// A container without a record: never started, or its record was removed.
    fn missing(&self, id: ContainerId, old: &ContainerStatus, is_init: bool) -> ContainerStatus {
        if is_init && old.state.terminated().is_some() {
            return ContainerStatus { started: false, ..old.clone() };
        }
        let mut status =
            ContainerStatus { restart_count: old.restart_count, last: old.last.clone(), ..self.blank(id) };
        if let Some(last) = old.state.terminated() {
            status.last = Some(last.clone());
        } else if old.state.is_running() {
            status.last = Some(unknown(
                "The container could not be located when the pod was deleted.  The container used to be Running",
            ));
            if self.deletion.is_none() {
                status.restart_count += 1;
            }
        }
        status
    }

    /// A container that will be started and could not be so far is waiting, with the reason of the last try.
    fn waiting_status(&self, id: ContainerId, mut status: ContainerStatus) -> ContainerStatus {
        let Some(waiting) = &self.container(id).waiting else { return status };
        let will_start = self.deletion.is_none()
            && match &status.state {
                State::Running { .. } => false,
                State::Waiting { .. } => true,
                State::Terminated(t) if t.finished.is_none() => true,
                State::Terminated(t) => self.would_restart(id, t.exit.code),
            };
        if !will_start {
            return status;
        }
        if let State::Terminated(t) = status.state {
            status.last = Some(t);
        }
        let message = (!waiting.message.is_empty()).then(|| waiting.message.clone());
        status.state = State::Waiting { reason: waiting.reason.into(), message };
        status
    }

    /// Before the gate of restart rules the API's view asked only the pod's policy, so that a sidecar in back-off under
    /// `Never` is shown as terminated.
    fn would_restart(&self, id: ContainerId, code: i32) -> bool {
        if self.features.on(Gate::ContainerRestartRules) {
            restart::after_exit(&self.spec, &self.spec[id], code) != Verdict::Stay
        } else {
            self.spec.policy.restarts(code)
        }
    }

    /// R41.
    fn phase_of(&self, status: &PodStatus, terminal: bool, app_started: bool) -> Phase {
        let (mut pending, mut pending_sidecars, mut failed_init) = (0, 0, false);
        let (mut running, mut waiting, mut stopped, mut succeeded, mut restarting) = (0, 0, 0, 0, 0);
        for id in self.spec.ids() {
            let container = &status.containers[usize::from(id.0)];
            let kind = self.spec[id].kind;
            let last_failed = container.last.as_ref().map(|t| t.exit.code);
            match (kind, &container.state) {
                (ContainerKind::Init, State::Running { .. }) => pending += 1,
                (ContainerKind::Init, State::Terminated(t)) => {
                    failed_init |= t.exit.code != 0 && self.init_fails_pod(id, t.exit.code);
                }
                (ContainerKind::Init, State::Waiting { .. }) => match last_failed {
                    Some(code) => failed_init |= code != 0 && self.init_fails_pod(id, code),
                    None => pending += 1,
                },
                // When the phase is made, no container is known as started yet.
                (ContainerKind::Sidecar, State::Running { .. }) => {
                    pending_sidecars += 1;
                    running += 1;
                }
                (ContainerKind::Sidecar, State::Terminated(_)) => {}
                (ContainerKind::Sidecar, State::Waiting { .. }) => {
                    if last_failed.is_none() {
                        pending_sidecars += 1;
                        waiting += 1;
                    }
                }
                (ContainerKind::App, State::Running { .. }) => running += 1,
                (ContainerKind::App, State::Terminated(t)) => {
                    stopped += 1;
                    succeeded += usize::from(t.exit.code == 0);
                    restarting += usize::from(self.would_restart(id, t.exit.code));
                }
                (ContainerKind::App, State::Waiting { .. }) => {
                    if last_failed.is_some() {
                        stopped += 1;
                        restarting += 1;
                    } else {
                        waiting += 1;
                    }
                }
            }
        }
        if failed_init {
            return Phase::Failed;
        }
        if pending > 0 || (pending_sidecars > 0 && !app_started) || waiting > 0 {
            return Phase::Pending;
        }
        if running > 0 {
            return Phase::Running;
        }
        if stopped == 0 {
            return Phase::Pending;
        }
        if !terminal && restarting > 0 {
            return Phase::Running;
        }
        if stopped == succeeded { Phase::Succeeded } else { Phase::Failed }
    }

    fn init_fails_pod(&self, id: ContainerId, code: i32) -> bool {
        if self.features.on(Gate::ContainerRestartRules) {
            restart::after_exit(&self.spec, &self.spec[id], code) == Verdict::Stay
        } else {
            self.spec.policy == Policy::Never
        }
    }

    /// R39, R40 and the conditions of terminal phases.
    fn conditions_of(&self, status: &PodStatus, phase: Phase, sandbox: bool) -> Vec<Condition> {
        let plain = |kind, holds| Condition { kind, holds, reason: None, message: None };
        let initialized = self.initialized(status, phase);
        let containers_ready = self.containers_ready(status, phase);
        let ready = self.ready(&containers_ready);
        let mut conditions = vec![
            plain(ConditionType::PodReadyToStartContainers, sandbox),
            initialized,
            ready,
            containers_ready,
            plain(ConditionType::PodScheduled, true),
        ];
        if let Some(restarting) = self.restarting_all {
            conditions.push(plain(ConditionType::AllContainersRestarting, restarting));
        }
        conditions
    }

    fn initialized(&self, status: &PodStatus, phase: Phase) -> Condition {
        let kind = ConditionType::Initialized;
        if phase == Phase::Succeeded {
            return Condition { kind, holds: true, reason: Some("PodCompleted".into()), message: None };
        }
        let any_app = self.spec.app_ids().any(|id| has_started(&status.containers[usize::from(id.0)]));
        let incomplete: Vec<&str> = self
            .spec
            .init_ids()
            .map(|id| (self.spec[id].kind, &status.containers[usize::from(id.0)]))
            .filter(|(kind, c)| if *kind == ContainerKind::Sidecar { !c.started } else { !c.ready })
            .map(|(_, c)| &*c.name)
            .collect();
        if any_app || incomplete.is_empty() {
            return Condition { kind, holds: true, reason: None, message: None };
        }
        Condition {
            kind,
            holds: false,
            reason: Some("ContainersNotInitialized".into()),
            message: Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        }
    }

    fn containers_ready(&self, status: &PodStatus, phase: Phase) -> Condition {
        let kind = ConditionType::ContainersReady;
        let not =
            |reason: &str, message| Condition { kind, holds: false, reason: Some(reason.into()), message };
        match phase {
            Phase::Succeeded => return not("PodCompleted", None),
            Phase::Failed => return not("PodFailed", None),
            _ => {}
        }
        let unready: Vec<&str> = self
            .spec
            .ids()
            .filter(|id| self.spec[*id].kind != ContainerKind::Init)
            .map(|id| &status.containers[usize::from(id.0)])
            .filter(|c| !c.ready)
            .map(|c| &*c.name)
            .collect();
        if unready.is_empty() {
            return Condition { kind, holds: true, reason: None, message: None };
        }
        not("ContainersNotReady", Some(format!("containers with unready status: [{}]", unready.join(" "))))
    }

    fn ready(&self, containers: &Condition) -> Condition {
        if !containers.holds {
            return Condition { kind: ConditionType::Ready, ..containers.clone() };
        }
        let missing: Vec<String> = self
            .gates
            .iter()
            .filter(|(_, value)| *value != Some(true))
            .map(|(name, value)| match value {
                None => format!("corresponding condition of pod readiness gate \"{name}\" does not exist."),
                Some(_) => {
                    format!("the status of pod readiness gate \"{name}\" is not \"True\", but False")
                }
            })
            .collect();
        if missing.is_empty() {
            return Condition { kind: ConditionType::Ready, holds: true, reason: None, message: None };
        }
        Condition {
            kind: ConditionType::Ready,
            holds: false,
            reason: Some("ReadinessGatesNotReady".into()),
            message: Some(missing.join(", ")),
        }
    }

    /// A startup probe has a new result: only `started` changes now, the rest with the next sync.
    pub(super) fn patch_started(&mut self, id: ContainerId, attempt: u32, started: bool) {
        self.container_mut(id).shown = false;
        let container = &mut self.status.containers[usize::from(id.0)];
        if container.attempt != Some(attempt) || container.started == started {
            return;
        }
        let started = started && container.state.is_running();
        if std::mem::replace(&mut container.started, started) != started {
            self.status_changed();
        }
    }

    /// A readiness probe has a new result: `ready` and the two conditions change now.
    pub(super) fn patch_ready(&mut self, id: ContainerId, attempt: u32, ready: bool) {
        self.container_mut(id).shown = false;
        let container = &mut self.status.containers[usize::from(id.0)];
        if container.attempt != Some(attempt) || container.ready == ready || !container.state.is_running() {
            return;
        }
        container.ready = ready;
        let containers_ready = self.containers_ready(&self.status, self.status.phase);
        let both = self.ready(&containers_ready);
        for condition in &mut self.status.conditions {
            match condition.kind {
                ConditionType::ContainersReady => condition.clone_from(&containers_ready),
                ConditionType::Ready => condition.clone_from(&both),
                _ => {}
            }
        }
        self.status_changed();
    }

    /// Whether the API ever showed the pod as initialized: an app that did not wait, or the last entry done.
    pub(super) fn shows_initialized(&self) -> bool {
        let inits = self.spec.inits;
        let containers = &self.status.containers;
        inits == 0
            || containers[inits..].iter().any(|c| c.last.is_some() || !c.state.is_waiting())
            || match self.spec.containers[inits - 1].kind {
                ContainerKind::Sidecar => containers[inits - 1].started,
                _ => containers[inits - 1].ready,
            }
    }

    /// The last word on a pod whose containers are all gone: whatever is not known to have ended is taken as lost, and a
    /// phase that is not terminal becomes `Failed`.
    pub(super) fn finish_status(&mut self) {
        let mut status = self.status.clone();
        let inits = self.spec.inits;
        let initialized = self.was_initialized;
        let lost = |container: &mut ContainerStatus| {
            if container.state.terminated().is_none() {
                if let State::Terminated(t) = std::mem::replace(
                    &mut container.state,
                    State::Terminated(unknown(
                        "The container could not be located when the pod was terminated",
                    )),
                ) {
                    container.last = Some(t);
                }
                container.started = false;
                container.ready = false;
            }
        };
        if initialized {
            status.containers[inits..].iter_mut().for_each(lost);
        }
        let tried = status.containers[..inits]
            .iter()
            .rposition(|c| !c.state.is_waiting() || c.last.is_some())
            .map_or(usize::from(inits > 0), |last| last + 1);
        status.containers[..tried].iter_mut().for_each(lost);
        if !status.phase.is_terminal() {
            status.phase = Phase::Failed;
        }
        if status != self.status {
            self.status = status;
            self.status_changed();
        }
    }
}

/// Whether a container runs, has ended, or waits after an end.
fn has_started(status: &ContainerStatus) -> bool {
    !status.state.is_waiting() || status.last.is_some()
}

fn terminated(finished: Time, exit: Exit, failed_start: bool) -> Terminated {
    let reason = if failed_start {
        "StartError"
    } else if exit.oom {
        "OOMKilled"
    } else if exit.code == 0 {
        "Completed"
    } else {
        "Error"
    };
    Terminated { exit, reason: reason.into(), finished: Some(finished), message: None }
}

fn unknown(message: &str) -> Terminated {
    Terminated {
        exit: Exit::killed(),
        reason: "ContainerStatusUnknown".into(),
        finished: None,
        message: Some(Text::from(message)),
    }
}

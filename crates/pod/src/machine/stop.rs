//! Stopping one container: preStop, its turn, the signal, the kill (R48-R58).
//!
//! The budget is counted in whole seconds, as the kubelet does: a hook's time and the wait for the turn are each cut to
//! whole seconds before they are taken off, so that the kill may come up to two seconds after the grace period.

use std::time::Duration;

use super::Machine;
use super::container::{Life, LifeState};
use super::spec::{Hook, duration};
use super::types::{Action, ContainerId, ContainerKind, HookKind, Instance, Record, Signal, Time};
use crate::version::Gate;

/// The least time between the stop signal and the kill, in seconds.
const LEAST: i64 = 2;

/// A stop under way.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    pub(super) attempt: u32,
    /// What is left of the budget, in whole seconds.
    grace: i64,
    stage: Stage,
    /// Whether it is part of the stop of the whole pod: sidecars wait for their turn.
    ordered: bool,
    /// Whether others may count it as ended.
    terminated: bool,
    /// KEP-4438: a sidecar that ended before its turn and lives again.
    revive: Option<Revive>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Hook { since: Time, until: Time, sleep: Option<Time>, exec: bool },
    Turn { since: Time, until: Time },
    Stopping { kill_at: Time },
    Dying,
    Done,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Revive {
    At(Time),
    Creating(u32),
    Running(u32),
}

impl Machine {
    /// Begins to stop a container, with this many seconds for all of it.
    pub(super) fn begin_stop(&mut self, id: ContainerId, grace: i64, ordered: bool, message: String) {
        let Some(life) = self.container(id).real.latest.as_ref() else { return };
        let instance = Instance { container: id, attempt: life.attempt };
        self.act(Action::Record(Record {
            warning: false,
            reason: "Killing".to_owned(),
            message,
            container: Some(id),
        }));
        let now = self.now;
        let hook = self.spec[id].pre_stop.filter(|_| grace > 0);
        let until = now + duration(grace);
        let stage = match hook {
            Some(Hook::Sleep(time)) => {
                Stage::Hook { since: now, until, sleep: Some(now + time), exec: false }
            }
            Some(Hook::Exec | Hook::Remote) if !self.container(id).runs() => {
                self.record_hook_failure(id);
                Stage::Turn { since: now, until }
            }
            Some(hook) => {
                self.act(Action::RunHook(instance, HookKind::PreStop));
                Stage::Hook { since: now, until, sleep: None, exec: hook == Hook::Exec }
            }
            None => Stage::Turn { since: now, until },
        };
        self.container_mut(id).stop = Some(Box::new(Stop {
            attempt: instance.attempt,
            grace,
            stage,
            ordered,
            terminated: false,
            revive: None,
        }));
        if self.container(id).real.latest.as_ref().is_some_and(|life| !life.runs()) {
            self.stop_saw_exit(id);
        }
    }

    /// Carries all stops on as far as they go. Returns whether anything changed.
    pub(super) fn drive_stops(&mut self) -> bool {
        let mut changed = false;
        loop {
            let mut progress = false;
            // Sidecars come before apps here, so that this holds for all of them in this round.
            let apps_hold = self.spec.app_ids().any(|id| self.holds_others(id));
            for index in 0..self.containers.len() {
                if self.containers[index].stop.is_some() {
                    progress |= self.drive_stop(ContainerId(index as u16), apps_hold);
                }
            }
            changed |= progress;
            if !progress {
                return changed;
            }
        }
    }

    fn drive_stop(&mut self, id: ContainerId, apps_hold: bool) -> bool {
        let now = self.now;
        let Some(stop) = self.container(id).stop.as_deref() else { return false };
        let (stage, grace, ordered, attempt) = (stop.stage, stop.grace, stop.ordered, stop.attempt);
        let next = match stage {
            Stage::Hook { since, until, sleep, .. } => {
                let over = sleep.is_some_and(|end| now >= end);
                if !over && now < until {
                    return self.drive_revival(id);
                }
                self.after_hook(id, since);
                return true;
            }
            Stage::Turn { since, until } => {
                let free = !ordered || grace <= 0 || !self.waits_for_turn(id, apps_hold);
                if !free && now < until {
                    return self.drive_revival(id);
                }
                let left = if ordered && self.spec[id].kind == ContainerKind::Sidecar {
                    grace - now.saturating_sub(since).as_secs() as i64
                } else {
                    grace
                };
                self.send_stop(id, attempt, left.max(LEAST))
            }
            Stage::Stopping { kill_at } if now >= kill_at => {
                self.act(Action::Signal(Instance { container: id, attempt }, Signal::kill()));
                Stage::Dying
            }
            Stage::Stopping { .. } | Stage::Dying | Stage::Done | Stage::Failed => return false,
        };
        if let Some(stop) = self.container_mut(id).stop.as_deref_mut() {
            stop.stage = next;
            stop.terminated |= next == Stage::Done;
        }
        true
    }

    /// The stop signal, or nothing if the container is gone already.
    fn send_stop(&mut self, id: ContainerId, attempt: u32, left: i64) -> Stage {
        let revived = self.container(id).stop.as_deref().and_then(|stop| stop.revive);
        let (attempt, signal) = match revived {
            // Who lives again after its end is ended without ceremony (KEP-4438).
            Some(Revive::Running(attempt)) => (attempt, Signal::kill()),
            Some(_) => return Stage::Done,
            None => (attempt, self.spec[id].stop_signal.clone().unwrap_or_else(Signal::term)),
        };
        let there = self.container(id).real.latest.as_ref();
        let alive = |life: &Life| life.runs() || life.state == LifeState::Unknown;
        if !there.is_some_and(|life| life.attempt == attempt && alive(life)) {
            return Stage::Done;
        }
        if let Some(stop) = self.container_mut(id).stop.as_deref_mut() {
            stop.attempt = attempt;
        }
        let kill = signal.is_kill();
        self.act(Action::Signal(Instance { container: id, attempt }, signal));
        if kill { Stage::Dying } else { Stage::Stopping { kill_at: self.now + duration(left) } }
    }

    fn after_hook(&mut self, id: ContainerId, since: Time) {
        let now = self.now;
        if let Some(stop) = self.container_mut(id).stop.as_deref_mut() {
            stop.grace -= now.saturating_sub(since).as_secs() as i64;
            stop.stage = Stage::Turn { since: now, until: now + duration(stop.grace) };
        }
    }

    /// A sidecar waits for all apps that are being stopped, and for the next sidecar of the list if that one is (R50).
    fn waits_for_turn(&self, id: ContainerId, apps_hold: bool) -> bool {
        if self.spec[id].kind != ContainerKind::Sidecar {
            return false;
        }
        let mut later = (id.0 + 1..self.spec.inits as u16).map(ContainerId);
        let next = later.find(|i| self.spec[*i].kind == ContainerKind::Sidecar);
        apps_hold || next.is_some_and(|next| self.holds_others(next))
    }

    /// Whether it is being stopped and has not ended, as far as those know whose turn comes after it.
    fn holds_others(&self, id: ContainerId) -> bool {
        self.container(id).stop.as_deref().is_some_and(|stop| !stop.terminated)
    }

    /// Tells a stop that its container ended.
    pub(super) fn stop_saw_exit(&mut self, id: ContainerId) {
        let now = self.now;
        let revives = self.revives(id);
        let Some(stop) = self.container_mut(id).stop.as_deref_mut() else { return };
        let mut failed_hook = false;
        match stop.stage {
            // An exec hook dies with its container; any other goes on by itself.
            Stage::Hook { since, exec: true, .. } => {
                stop.grace -= now.saturating_sub(since).as_secs() as i64;
                stop.stage = Stage::Turn { since: now, until: now + duration(stop.grace) };
                failed_hook = true;
            }
            Stage::Stopping { .. } | Stage::Dying => {
                stop.stage = Stage::Done;
                stop.terminated = true;
            }
            _ => {}
        }
        if revives && matches!(stop.stage, Stage::Hook { .. } | Stage::Turn { .. }) {
            stop.revive = Some(Revive::At(now));
        }
        if failed_hook {
            self.record_hook_failure(id);
        }
    }

    /// A preStop hook came to its end.
    pub(super) fn stop_saw_hook(&mut self, instance: Instance, ok: bool) {
        let id = instance.container;
        let Some(stop) = self.container(id).stop.as_deref() else { return };
        if let Stage::Hook { since, sleep: None, .. } = stop.stage
            && stop.attempt == instance.attempt
        {
            if !ok {
                self.record_hook_failure(id);
            }
            self.after_hook(id, since);
        }
    }

    fn record_hook_failure(&mut self, id: ContainerId) {
        self.act(Action::Record(Record {
            warning: true,
            reason: "FailedPreStopHook".to_owned(),
            message: "PreStopHook failed".to_owned(),
            container: Some(id),
        }));
    }

    /// The runtime failed to stop it: it counts as ended for nobody.
    pub(super) fn stop_failed(&mut self, instance: Instance) {
        if let Some(stop) = self.container_mut(instance.container).stop.as_deref_mut()
            && stop.attempt == instance.attempt
            && stop.stage != Stage::Done
        {
            stop.stage = Stage::Failed;
        }
    }

    /// Whether every stop is over.
    pub(super) fn stops_over(&self) -> bool {
        self.containers.iter().filter_map(|c| c.stop.as_deref()).all(Stop::is_over)
    }

    /// Takes the ended stops away. Returns whether one of them failed.
    pub(super) fn clear_stops(&mut self) -> bool {
        let mut failed = false;
        for container in &mut self.containers {
            failed |= container.stop.take().is_some_and(|stop| stop.stage == Stage::Failed);
        }
        failed
    }

    pub(super) fn stop_deadline(&self) -> Option<Time> {
        self.containers.iter().filter_map(|c| c.stop.as_deref()).filter_map(Stop::deadline).min()
    }

    // KEP-4438: a sidecar that ends before its turn is started again, without hooks and probes.

    fn revives(&self, id: ContainerId) -> bool {
        self.spec[id].kind == ContainerKind::Sidecar
            && self.deletion.as_ref().is_some_and(|deletion| deletion.effective > 1)
            && self.features_on(Gate::SidecarsRestartableDuringPodTermination)
            && self.container(id).stop.as_deref().is_some_and(|stop| stop.ordered)
            && self.seen_sandbox.ready
    }

    fn drive_revival(&mut self, id: ContainerId) -> bool {
        let now = self.now;
        let Some(Revive::At(at)) = self.container(id).stop.as_deref().and_then(|stop| stop.revive) else {
            return false;
        };
        if now < at {
            return false;
        }
        let container = self.container(id);
        let ended = container.real.ended().unwrap_or(now);
        if let Some((delay, until)) = container.back_off.pending(&container.image, ended, now) {
            self.act(Action::BackOff { container: id, until, delay });
            self.set_revival(id, Revive::At(until));
            return true;
        }
        let restarts = self.next_restarts(id);
        let curve = self.curve;
        let container = self.container_mut(id);
        let (image, attempt) = (container.image.clone(), container.attempts);
        container.back_off.next(&image, curve, ended, now);
        container.attempts += 1;
        self.set_revival(id, Revive::Creating(attempt));
        self.creating.push((id, attempt, restarts));
        self.act(Action::Create {
            instance: Instance { container: id, attempt },
            image,
            restart_count: restarts,
        });
        true
    }

    /// A container was started that no sync asked for.
    pub(super) fn revival_started(&mut self, instance: Instance) {
        let revive = self.container(instance.container).stop.as_deref().and_then(|stop| stop.revive);
        if revive == Some(Revive::Creating(instance.attempt)) {
            self.set_revival(instance.container, Revive::Running(instance.attempt));
        }
    }

    /// Whether a creation under way is a revival.
    pub(super) fn is_reviving(&self, instance: Instance) -> bool {
        let revive = self.container(instance.container).stop.as_deref().and_then(|stop| stop.revive);
        revive == Some(Revive::Creating(instance.attempt))
    }

    pub(super) fn revival_failed(&mut self, instance: Instance) {
        if self.is_reviving(instance) {
            let at = self.now + Duration::from_secs(10);
            self.set_revival(instance.container, Revive::At(at));
        }
    }

    fn set_revival(&mut self, id: ContainerId, revive: Revive) {
        if let Some(stop) = self.container_mut(id).stop.as_deref_mut() {
            stop.revive = Some(revive);
        }
    }

    /// The containers that a stop of the pod goes for: those that were last seen running, or created.
    pub(super) fn seen_running(&self) -> Vec<ContainerId> {
        let alive = |life: &Life| !matches!(life.state, LifeState::Exited { .. });
        self.spec.ids().filter(|id| self.seen(*id).is_some_and(alive)).collect()
    }
}

// === impl Stop ===

impl Stop {
    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::Failed)
    }

    fn deadline(&self) -> Option<Time> {
        let revive = match self.revive {
            Some(Revive::At(at)) => Some(at),
            _ => None,
        };
        let stage = match self.stage {
            Stage::Hook { until, sleep, .. } => Some(sleep.map_or(until, |end| end.min(until))),
            Stage::Turn { until, .. } => Some(until),
            Stage::Stopping { kill_at } => Some(kill_at),
            _ => None,
        };
        match (stage, revive) {
            (Some(a), Some(b)) if matches!(self.stage, Stage::Hook { .. } | Stage::Turn { .. }) => {
                Some(a.min(b))
            }
            (stage, _) => stage,
        }
    }
}

//! Starting one container: back-off, pull, create, start, postStart (R18-R20, R25, R28).

use std::time::Duration;

use super::Machine;
use super::backoff::Curve;
use super::container::{Life, LifeState, Waiting};
use super::plan::Why;
use super::spec::Hook;
use super::sync::{ERROR, Wait};
use super::types::{
    Action, ContainerId, ContainerKind, CreateError, Exit, HookKind, Instance, PullError, Time,
};

/// A start, with what the snapshot said of the lives before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) id: ContainerId,
    pub(super) ended: Option<Time>,
    pub(super) restarts: u32,
}

impl Machine {
    pub(super) fn start(&mut self, start: Start) {
        let id = start.id;
        let now = self.now;
        let container = self.container(id);
        let image = container.image.clone();
        if let Some(ended) = start.ended {
            if let Some((delay, until)) = container.back_off.pending(&image, ended, now) {
                let (name, pod) = (&self.spec[id].name, &self.spec.name);
                let message =
                    format!("back-off {} restarting failed container={name} pod={pod}", go_duration(delay));
                let event = format!("Back-off restarting failed container {name} in pod {pod}");
                self.act(Action::BackOff { container: id, until, delay });
                self.record(true, "BackOff", event, Some(id));
                self.start_failed(start, "CrashLoopBackOff", message, until);
                return;
            }
            let curve = self.curve;
            self.container_mut(id).back_off.next(&image, curve, ended, now);
        }
        if let Some((_, until)) = self.container(id).pull_back_off.pending_since_update(&image, now) {
            let message = format!("Back-off pulling image \"{image}\"");
            self.record(false, "BackOff", message.clone(), Some(id));
            self.start_failed(start, "ImagePullBackOff", message, until);
            return;
        }
        self.act(Action::Pull(id, image));
        self.block(Wait::Pull(start));
    }

    /// One start came to nothing. Nothing after a failed init is tried; a failed sidecar or app is skipped (R18, R19).
    pub(super) fn start_failed(&mut self, start: Start, reason: &'static str, message: String, due: Time) {
        self.container_mut(start.id).waiting = Some(Waiting { reason, message });
        self.fail(due);
        if self.spec[start.id].kind == ContainerKind::Init {
            self.abort();
        }
    }

    pub(super) fn on_pulled(&mut self, id: ContainerId) {
        let Some(Wait::Pull(start)) = self.waits() else { return };
        if start.id != id {
            return;
        }
        let container = self.container_mut(id);
        container.pull_back_off.clear();
        let (attempt, image) = (container.attempts, container.image.clone());
        container.attempts += 1;
        self.creating.push((id, attempt, start.restarts));
        self.block(Wait::Create(start, attempt));
        let instance = Instance { container: id, attempt };
        self.act(Action::Create { instance, image, restart_count: start.restarts });
    }

    pub(super) fn on_pull_failed(&mut self, id: ContainerId, error: PullError, message: &str) {
        use PullError::{ErrImageNeverPull, ErrImagePull, InvalidImageName};
        let Some(Wait::Pull(start)) = self.waits() else { return };
        if start.id != id {
            return;
        }
        self.unblock();
        let now = self.now;
        let (reason, due) = match error {
            ErrImagePull => {
                let container = self.container_mut(id);
                let image = container.image.clone();
                container.pull_back_off.next(&image, Curve::PULL, now, now);
                let until = container.pull_back_off.pending_since_update(&image, now).map(|(_, until)| until);
                ("ErrImagePull", until.unwrap_or(now + ERROR))
            }
            ErrImageNeverPull => ("ErrImageNeverPull", now + ERROR),
            InvalidImageName => ("InvalidImageName", now + ERROR),
        };
        self.record(true, "Failed", format!("Error: {reason}"), Some(id));
        self.start_failed(start, reason, message.to_owned(), due);
    }

    pub(super) fn on_created(&mut self, instance: Instance) {
        let Some(at) = self
            .creating
            .iter()
            .position(|(id, attempt, _)| (*id, *attempt) == (instance.container, instance.attempt))
        else {
            return;
        };
        let (id, attempt, restarts) = self.creating.swap_remove(at);
        let image = self.container(id).image.clone();
        let sandbox = self.sandbox.attempts.wrapping_sub(1);
        self.container_mut(id).real.push(Life {
            attempt,
            restarts,
            image,
            sandbox,
            state: LifeState::Created,
        });
        self.changed(false);
        match self.waits() {
            Some(Wait::Create(start, asked)) if start.id == id && asked == attempt => {
                self.block(Wait::Start(start, attempt));
                self.act(Action::Start(instance));
            }
            _ if self.is_reviving(instance) => self.act(Action::Start(instance)),
            _ => {}
        }
    }

    pub(super) fn on_create_failed(&mut self, instance: Instance, error: CreateError, message: &str) {
        self.creating.retain(|(id, attempt, _)| (*id, *attempt) != (instance.container, instance.attempt));
        self.revival_failed(instance);
        if let Some(Wait::Create(start, attempt)) = self.waits()
            && start.id == instance.container
            && attempt == instance.attempt
        {
            self.unblock();
            let reason = match error {
                CreateError::CreateContainerConfigError => "CreateContainerConfigError",
                CreateError::CreateContainerError => "CreateContainerError",
            };
            self.record(true, "Failed", format!("Error: {message}"), Some(start.id));
            self.start_failed(start, reason, message.to_owned(), self.now + ERROR);
        }
    }

    pub(super) fn on_started(&mut self, instance: Instance) {
        let now = self.now;
        let id = instance.container;
        let Some(life) = self.container_mut(id).real.attempt_mut(instance.attempt) else { return };
        if life.state != LifeState::Created {
            return;
        }
        life.state = LifeState::Running { since: now };
        self.changed(true);
        self.revival_started(instance);
        let Some(Wait::Start(start, attempt)) = self.waits() else { return };
        if start.id != id || attempt != instance.attempt {
            return;
        }
        match self.spec[id].hook(HookKind::PostStart) {
            None => self.started(start),
            Some(Hook::Sleep(time)) => self.block(Wait::PostStart(start, attempt, Some(now + time))),
            Some(_) => {
                self.block(Wait::PostStart(start, attempt, None));
                self.act(Action::RunHook(instance, HookKind::PostStart));
            }
        }
    }

    pub(super) fn on_start_failed(&mut self, instance: Instance, message: &str) {
        let now = self.now;
        let id = instance.container;
        let Some(life) = self.container_mut(id).real.attempt_mut(instance.attempt) else { return };
        if life.state != LifeState::Created {
            return;
        }
        let exit = Exit::code(128);
        life.state = LifeState::Exited { finished: now, exit, failed_start: true };
        self.changed(true);
        self.revival_failed(instance);
        if let Some(Wait::Start(start, attempt)) = self.waits()
            && start.id == id
            && attempt == instance.attempt
        {
            self.unblock();
            self.record(true, "Failed", format!("Error: {message}"), Some(id));
            self.start_failed(start, "RunContainerError", message.to_owned(), now + ERROR);
        }
    }

    fn started(&mut self, start: Start) {
        self.container_mut(start.id).waiting = None;
        self.unblock();
    }

    /// A postStart came to its end; one that runs in the container ends with it.
    pub(super) fn post_start_ended(&mut self, instance: Instance, ok: bool) {
        if let Some(Wait::PostStart(start, attempt, None)) = self.waits()
            && start.id == instance.container
            && attempt == instance.attempt
        {
            self.post_started(start, attempt, ok);
        }
    }

    pub(super) fn post_start_saw_exit(&mut self, instance: Instance) {
        if self.spec[instance.container].post_start == Some(Hook::Exec) {
            self.post_start_ended(instance, false);
        }
    }

    pub(super) fn post_started(&mut self, start: Start, attempt: u32, ok: bool) {
        let id = start.id;
        if ok {
            self.started(start);
            return;
        }
        self.record(true, "FailedPostStartHook", "PostStartHook failed".to_owned(), Some(id));
        if self.container(id).real.latest.as_ref().is_some_and(|life| life.attempt == attempt) {
            let grace = self.kill_grace(id, Why::PostStart);
            self.begin_stop(id, grace, false, self.kill_message(id, Why::PostStart));
        }
        self.block(Wait::AfterPostStart(start));
    }
}

/// A duration as Go prints it: `10s`, `2m40s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

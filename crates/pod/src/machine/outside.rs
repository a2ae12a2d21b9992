//! What befalls a pod from outside: ends of containers, deletion, eviction, and the loss of sandbox, engine or node.

use super::container::LifeState;
use super::sync::{Mode, Work};
use super::types::{Exit, Instance, Text};
use super::{Deletion, Machine, Notice, Termination, spec};

impl Machine {
    pub(super) fn on_exited(&mut self, instance: Instance, exit: Exit) {
        let now = self.now;
        let id = instance.container;
        let Some(life) = self.container_mut(id).real.attempt_mut(instance.attempt) else { return };
        if life.exit().is_some() {
            return;
        }
        life.state = LifeState::Exited { finished: now, exit, failed_start: false };
        self.changed(true);
        self.post_start_saw_exit(instance);
        self.stop_saw_exit(id);
    }

    pub(super) fn on_delete(&mut self, grace: Option<i64>) {
        let asked = spec::seconds(grace.unwrap_or(self.spec.grace));
        // The API stores a negative grace as 1.
        let shown = if asked < 0 { 1 } else { asked };
        let deleting = self.status.deleting.map_or(shown, |before| before.min(shown));
        let effective = shown.max(1);
        if self.deletion.is_none() {
            self.deletion = Some(Deletion { effective });
            self.happened_to_all();
            if self.mode == Mode::Over {
                self.set_deleting(deleting);
                self.remove_object();
                return;
            }
            let termination = Termination { grace: effective, why: "delete", verdict: None };
            self.send(Notice::Terminate(termination));
        }
        self.set_deleting(deleting);
        if shown == 0 {
            self.remove_object();
        }
    }

    fn set_deleting(&mut self, deleting: i64) {
        if self.status.deleting != Some(deleting) {
            self.status.deleting = Some(deleting);
            self.status_changed();
        }
    }

    pub(super) fn on_evict(&mut self, message: Text, grace: i64) {
        if self.mode == Mode::Over {
            return;
        }
        self.record(true, "Evicted", message.to_string(), None);
        let verdict = Some((Text::from("Evicted"), message));
        let grace = spec::seconds(grace).max(0);
        self.send(Notice::Terminate(Termination { grace, why: "evicted", verdict }));
    }

    pub(super) fn lose_sandbox(&mut self) {
        if self.sandbox.ready {
            self.sandbox.ready = false;
            self.changed(true);
        }
    }

    /// All that the engine knew by itself is lost; what it had asked for and did not get is forgotten.
    pub(super) fn stop_engine(&mut self) {
        if !self.engine_up {
            return;
        }
        self.engine_up = false;
        self.work = Work::Idle;
        self.pending = false;
        self.synced = None;
        self.resync = None;
        self.poll_at = None;
        self.creating.clear();
        self.probing = false;
        self.happened_to_all();
        for container in &mut self.containers {
            container.stop = None;
            container.waiting = None;
            container.back_off.clear();
            container.pull_back_off.clear();
            container.probers.clear();
        }
    }

    pub(super) fn start_engine(&mut self) {
        if self.engine_up || !self.node_up {
            return;
        }
        self.engine_up = true;
        self.engine_since = Some(self.now);
        while let Some((_, notice)) = self.inbox.pop_front() {
            self.notice(notice);
        }
        self.look();
        // What a poll would see between now and the first sync counts as well.
        self.stale = true;
        if self.mode == Mode::Over {
            return;
        }
        self.mode = Mode::Sync;
        self.pending = true;
        let at = self.clock.warm(self.now);
        self.work = Work::Ready { at };
    }

    pub(super) fn bring_node_back(&mut self) {
        if self.node_up {
            return;
        }
        self.node_up = true;
        let finished = self.now;
        self.happened_to_all();
        for container in &mut self.containers {
            if let Some(life) = container.real.latest.as_mut().filter(|life| life.exit().is_none()) {
                life.state = LifeState::Exited { finished, exit: Exit::code(255), failed_start: false };
            }
        }
        self.sandbox.ready = false;
        self.start_engine();
    }
}

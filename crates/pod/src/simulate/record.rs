//! Writes down what happens to a simulated pod.

use crate::machine::{
    Action, Columns, Condition, ContainerId, ContainerStatus, HookKind, Instance, Machine, State, Text, Time,
};

use super::timeline::{At, Ending, Event, Lane, PhaseChange, PodStop, Point, Span, SpanKind, Timeline};
use super::world::Happened;

/// The most entries of one kind that a timeline holds; what comes after is not recorded, and the recording ends.
const MOST: usize = 50_000;

pub(super) struct Recorder {
    timeline: Timeline,
    lanes: Vec<Open>,
    /// That of the status that was last looked at.
    revision: Option<u64>,
    conditions: Vec<Condition>,
    columns: Option<Columns>,
    stop: Option<usize>,
    entries: usize,
}

/// The spans of one lane that go on.
#[derive(Default)]
struct Open {
    waiting: Option<usize>,
    running: Option<usize>,
    started: Option<usize>,
    ready: Option<usize>,
    stopping: Option<usize>,
    hooks: Vec<(Instance, HookKind, usize)>,
    images: Vec<Text>,
    attempt: u32,
}

// === impl Recorder ===

impl Recorder {
    pub(super) fn new(machine: &Machine, kubernetes: String, timing: &str) -> Self {
        let lanes: Vec<Lane> = machine
            .containers()
            .map(|(_, name, kind)| Lane {
                name: name.clone(),
                kind,
                spans: Vec::new(),
                points: Vec::new(),
                statuses: Vec::new(),
            })
            .collect();
        let open = lanes.iter().map(|_| Open::default()).collect();
        Self {
            timeline: Timeline {
                pod: machine.pod().to_owned(),
                kubernetes,
                timing: timing.to_owned(),
                end: Time::ZERO,
                gone: None,
                ending: Ending::Until,
                lanes,
                phases: Vec::new(),
                conditions: Vec::new(),
                kubectl: Vec::new(),
                stops: Vec::new(),
                script: Vec::new(),
                events: Vec::new(),
                job: Vec::new(),
            },
            lanes: open,
            revision: None,
            conditions: Vec::new(),
            columns: None,
            stop: None,
            entries: 0,
        }
    }

    /// Whether there is more than can be recorded.
    pub(super) fn is_full(&self) -> bool {
        self.entries > MOST
    }

    pub(super) fn script(&mut self, now: Time, text: String) {
        self.timeline.script.push(At::new(now, text));
    }

    pub(super) fn job(&mut self, now: Time, text: String) {
        self.timeline.job.push(At::new(now, text));
    }

    /// One action of the machine.
    pub(super) fn action(&mut self, now: Time, action: &Action) {
        match action {
            Action::Create { instance, image, .. } => {
                let images = &mut self.lanes[at(instance.container)].images;
                images.resize(instance.attempt as usize + 1, image.clone());
            }
            Action::BackOff { container, until, delay } => {
                let attempt = self.lanes[at(*container)].attempt;
                let from = until.saturating_sub(*delay);
                let what = SpanKind::BackOff { delay: *delay };
                let lane = &mut self.timeline.lanes[at(*container)];
                let known =
                    lane.spans.iter().rev().find(|span| matches!(span.what, SpanKind::BackOff { .. }));
                if known.is_none_or(|span| span.to != *until) {
                    lane.spans.push(Span { from, to: *until, open: false, attempt, what });
                    self.entries += 1;
                }
            }
            Action::Record(record) => {
                if record.reason == "Killing"
                    && let Some(id) = record.container
                {
                    self.stopping(now, id, &record.message);
                }
                let container = record.container.map(|id| self.timeline.lanes[at(id)].name.clone());
                self.timeline.events.push(At::new(now, Event { container, record: record.clone() }));
                self.entries += 1;
            }
            _ => {}
        }
    }

    /// One thing that the world did.
    pub(super) fn happened(&mut self, now: Time, what: Happened) {
        self.entries += 1;
        match what {
            Happened::Started(instance) => self.started(now, instance),
            Happened::Ended(instance, exit) => {
                let reason = match exit {
                    exit if exit.oom => "OOMKilled",
                    exit if exit.code == 0 => "Completed",
                    _ => "Error",
                };
                let id = instance.container;
                self.point(now, id, Point::Exit { attempt: instance.attempt, exit, reason: reason.into() });
                let open = &mut self.lanes[at(id)];
                let spans = [open.running.take(), open.stopping.take()];
                for span in spans.into_iter().flatten() {
                    self.close(now, id, span);
                }
            }
            Happened::Signalled(instance, signal) => {
                self.point(now, instance.container, Point::Signal { attempt: instance.attempt, signal });
            }
            Happened::HookBegan(instance, hook) => {
                let span =
                    self.open(now, instance.container, instance.attempt, SpanKind::Hook { hook, ok: None });
                self.lanes[at(instance.container)].hooks.push((instance, hook, span));
            }
            Happened::HookEnded(instance, hook, ended) => {
                let open = &mut self.lanes[at(instance.container)];
                let found = open.hooks.iter().position(|(i, h, _)| (*i, *h) == (instance, hook));
                if let Some((_, _, span)) = found.map(|found| open.hooks.swap_remove(found)) {
                    self.close(now, instance.container, span);
                    self.timeline.lanes[at(instance.container)].spans[span].what =
                        SpanKind::Hook { hook, ok: ended };
                }
            }
            Happened::Probed(instance, probe, outcome) => {
                self.point(
                    now,
                    instance.container,
                    Point::Probe { attempt: instance.attempt, probe, outcome },
                );
            }
            Happened::Failed(id, reason) => self.point(now, id, Point::StartFailed { reason: reason.into() }),
        }
    }

    /// The status and all that follows from it, after each step.
    pub(super) fn look(&mut self, now: Time, machine: &Machine) {
        self.pod_stop(now, machine);
        if self.timeline.gone.is_some() {
            return;
        }
        if machine.is_gone() {
            self.timeline.gone = Some(now);
        }
        if self.revision == Some(machine.revision()) {
            return;
        }
        self.revision = Some(machine.revision());
        let status = machine.status();
        let columns = machine.columns();
        if self.columns.as_ref() != Some(&columns) {
            self.timeline.kubectl.push(At::new(now, columns.clone()));
            self.columns = Some(columns);
            self.entries += 1;
        }
        let phase = PhaseChange { phase: status.phase, reason: status.reason.clone() };
        if self.timeline.phases.last().is_none_or(|last| *last.is() != phase) {
            self.timeline.phases.push(At::new(now, phase));
        }
        for condition in &status.conditions {
            let known = self.conditions.iter_mut().find(|known| known.kind == condition.kind);
            match known {
                Some(known) if known == condition => continue,
                Some(known) => known.clone_from(condition),
                None => self.conditions.push(condition.clone()),
            }
            self.timeline.conditions.push(At::new(now, condition.clone()));
            self.entries += 1;
        }
        for (index, container) in status.containers.iter().enumerate() {
            let known = self.timeline.lanes[index].statuses.last().map(At::is);
            if known != Some(container) {
                self.entries += 1;
                self.container(now, ContainerId(index as u16), container);
            }
        }
    }

    pub(super) fn finish(mut self, now: Time, ending: Ending) -> Timeline {
        self.timeline.end = now;
        self.timeline.ending = ending;
        for lane in &mut self.timeline.lanes {
            for span in &mut lane.spans {
                if span.open {
                    span.to = now;
                }
            }
        }
        for stop in &mut self.timeline.stops {
            if stop.open {
                stop.to = now;
            }
        }
        self.timeline
    }

    fn started(&mut self, now: Time, instance: Instance) {
        let id = instance.container;
        let image = self.lanes[at(id)]
            .images
            .get(instance.attempt as usize)
            .cloned()
            .unwrap_or_else(|| Text::from(""));
        self.point(now, id, Point::Start { attempt: instance.attempt, image });
        let span = self.open(now, id, instance.attempt, SpanKind::Running);
        let open = &mut self.lanes[at(id)];
        open.running = Some(span);
        open.attempt = instance.attempt + 1;
    }

    fn container(&mut self, now: Time, id: ContainerId, container: &ContainerStatus) {
        let attempt = container.attempt.unwrap_or_default();
        let next = self.lanes[at(id)].attempt;
        let waiting = match &container.state {
            State::Waiting { reason, .. } => Some(SpanKind::Waiting { reason: reason.clone() }),
            _ => None,
        };
        let slot = self.lanes[at(id)].waiting;
        let slot = self.toggle(now, id, slot, next, waiting);
        self.lanes[at(id)].waiting = slot;
        let slot = self.lanes[at(id)].started;
        let slot = self.toggle(now, id, slot, attempt, container.started.then_some(SpanKind::Started));
        self.lanes[at(id)].started = slot;
        let ready = container.ready && container.state.is_running();
        let slot = self.lanes[at(id)].ready;
        let slot = self.toggle(now, id, slot, attempt, ready.then_some(SpanKind::Ready));
        self.lanes[at(id)].ready = slot;
        self.timeline.lanes[at(id)].statuses.push(At::new(now, container.clone()));
    }

    /// Opens, keeps or closes the one span of a sort.
    fn toggle(
        &mut self,
        now: Time,
        id: ContainerId,
        slot: Option<usize>,
        attempt: u32,
        what: Option<SpanKind>,
    ) -> Option<usize> {
        let spans = &self.timeline.lanes[at(id)].spans;
        if let (Some(slot), Some(what)) = (slot, &what)
            && spans[slot].what == *what
            && spans[slot].attempt == attempt
        {
            return Some(slot);
        }
        if let Some(slot) = slot {
            self.close(now, id, slot);
        }
        what.map(|what| self.open(now, id, attempt, what))
    }

    fn stopping(&mut self, now: Time, id: ContainerId, message: &str) {
        if self.lanes[at(id)].running.is_none() || self.lanes[at(id)].stopping.is_some() {
            return;
        }
        let attempt = self.lanes[at(id)].attempt.saturating_sub(1);
        let span = self.open(now, id, attempt, SpanKind::Stopping { why: message.to_owned() });
        self.lanes[at(id)].stopping = Some(span);
    }

    fn pod_stop(&mut self, now: Time, machine: &Machine) {
        match (machine.stopping(), self.stop) {
            (Some((grace, why)), None) => {
                self.stop = Some(self.timeline.stops.len());
                let stop = PodStop { from: now, to: now, open: true, grace, why: why.to_owned() };
                self.timeline.stops.push(stop);
            }
            (None, Some(index)) => {
                self.stop = None;
                let stop = &mut self.timeline.stops[index];
                (stop.to, stop.open) = (now, false);
            }
            _ => {}
        }
    }

    fn point(&mut self, now: Time, id: ContainerId, point: Point) {
        self.timeline.lanes[at(id)].points.push(At::new(now, point));
    }

    fn open(&mut self, now: Time, id: ContainerId, attempt: u32, what: SpanKind) -> usize {
        let spans = &mut self.timeline.lanes[at(id)].spans;
        spans.push(Span { from: now, to: now, open: true, attempt, what });
        spans.len() - 1
    }

    fn close(&mut self, now: Time, id: ContainerId, span: usize) {
        let span = &mut self.timeline.lanes[at(id)].spans[span];
        (span.to, span.open) = (now, false);
    }
}

fn at(id: ContainerId) -> usize {
    usize::from(id.0)
}

//! What a report knows of a run so far: the events, added up.

use std::collections::{BTreeMap, BTreeSet};

use testground_model::event::{
    BarrierWait, Event, EventKind, InstanceWait, Lateness, NetworkRequests, Proof, Report,
};
use testground_model::measure::Measured;
use testground_model::name::{InstanceName, RunId};
use testground_model::outcome::{EmulatorLate, GroupTally, InstanceEnd, RunOutcome};

/// For so many instances that failed the last lines are kept.
const CAUSES_WITH_LINES: usize = 20;
/// So many warnings are kept.
const MOST_WARNINGS: usize = 50;

/// The sum of the events of one run.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The run, from the first event on.
    pub(super) run: Option<RunId>,
    /// When it began, nanoseconds since 1970.
    pub(super) began: u64,
    /// The plan and the case.
    pub(super) plan: String,
    pub(super) case: String,
    /// How many instances there should be.
    pub(super) instances: u32,
    /// Where outputs lie.
    pub(super) outputs: String,
    pub(super) seed: u64,
    /// What was typed behind the program's name.
    pub(super) command: Vec<String>,
    /// What is going on.
    pub(super) phase: Phase,
    /// How many builds have begun and ended.
    pub(super) builds: (u32, u32),
    /// Attached instances, of all.
    pub(super) network: (u32, u32),
    pub(super) proofs: Vec<Proof>,
    /// The processes of instances.
    pub(super) pids: BTreeMap<InstanceName, u32>,
    /// Who said by itself that it succeeded or failed.
    pub(super) spoke: BTreeSet<InstanceName>,
    pub(super) ends: Vec<End>,
    pub(super) stall: Option<(f64, Vec<BarrierWait>)>,
    /// What the living waited for when the run was ended.
    pub(super) waits: Vec<InstanceWait>,
    pub(super) warnings: Vec<String>,
    pub(super) lateness: Option<Lateness>,
    /// What instances asked of their network, where they asked for anything.
    pub(super) requests: Option<NetworkRequests>,
    pub(super) measured: Option<Measured>,
    pub(super) finished: Option<Finished>,
}

/// What is going on in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    #[default]
    Queued,
    Building,
    Attaching,
    Proving,
    Running,
    Over,
}

/// How an instance ended.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) instance: InstanceName,
    pub(super) end: InstanceEnd,
    pub(super) seconds: f64,
    /// Kept for the first that failed.
    pub(super) last_lines: Vec<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: RunOutcome,
    pub(super) groups: Vec<(String, GroupTally)>,
    pub(super) seconds: f64,
    pub(super) emulator_late: Option<EmulatorLate>,
}

// === impl Record ===

impl Record {
    /// Adds an event.
    pub(super) fn on_event(&mut self, event: &Event) {
        if self.run.is_none() {
            self.run = Some(event.run.clone());
            self.began = event.ts;
        }
        match &event.kind {
            EventKind::RunQueued { plan, case, instances, outputs, seed, command } => {
                self.plan.clone_from(plan);
                self.case.clone_from(case);
                self.outputs.clone_from(outputs);
                self.instances = *instances;
                self.seed = *seed;
                self.command.clone_from(command);
            }
            EventKind::BuildStarted { .. } => {
                self.builds.0 += 1;
                self.phase = Phase::Building;
            }
            EventKind::BuildFinished { .. } => self.builds.1 += 1,
            EventKind::LabStarted { .. } => self.phase = Phase::Attaching,
            EventKind::NetworkProgress { attached, total } => {
                self.phase = self.phase.max_with(Phase::Attaching);
                self.network = (*attached, *total);
            }
            EventKind::ShapeProved(proof) => {
                self.phase = self.phase.max_with(Phase::Proving);
                self.proofs.push(Proof::clone(proof));
            }
            EventKind::InstancesReleased => self.phase = Phase::Running,
            EventKind::InstanceStarted { instance, pid } => {
                self.pids.insert(instance.clone(), *pid);
            }
            EventKind::Reported { instance, report } => {
                if matches!(report, Report::Success | Report::Failure { .. } | Report::Crash { .. }) {
                    self.spoke.insert(instance.clone());
                }
            }
            EventKind::InstanceEnded { instance, end, seconds, last_lines } => {
                let kept = end.is_cause() && self.causes().count() < CAUSES_WITH_LINES;
                let last_lines = if kept { last_lines.clone() } else { Vec::new() };
                let end = End { instance: instance.clone(), end: end.clone(), seconds: *seconds, last_lines };
                self.ends.push(end);
            }
            EventKind::Stalled { seconds, barriers } => self.stall = Some((*seconds, barriers.clone())),
            EventKind::Waits { waits } => self.waits.clone_from(waits),
            EventKind::OutputLost { instance, error } => {
                self.warn(format!("output of {instance} is lost: {error}"));
            }
            EventKind::Warning { message } => self.warn(message.clone()),
            EventKind::EmulatorReport(lateness) => self.lateness = Some(lateness.clone()),
            EventKind::NetworkRequests(requests) => self.requests = Some(*requests),
            EventKind::Measured(measured) => self.measured = Some(measured.clone()),
            EventKind::RunFinished { outcome, groups, seconds, emulator_late } => {
                self.phase = Phase::Over;
                let (outcome, groups, emulator_late) = (outcome.clone(), groups.clone(), *emulator_late);
                self.finished = Some(Finished { outcome, groups, seconds: *seconds, emulator_late });
            }
            EventKind::Output { .. }
            | EventKind::NetworkConfigured { .. }
            | EventKind::NetworkChanged { .. }
            | EventKind::LabHeld => {}
        }
    }

    /// The instances that failed by themselves, first one first.
    pub(super) fn causes(&self) -> impl Iterator<Item = &End> {
        self.ends.iter().filter(|e| e.end.is_cause())
    }

    fn warn(&mut self, message: String) {
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(message);
        }
    }

    /// How many instances succeeded and how many failed so far.
    pub(super) fn tally(&self) -> (u32, u32) {
        let ok = self.ends.iter().filter(|e| e.end.is_success()).count() as u32;
        (ok, self.ends.len() as u32 - ok)
    }

    /// Seconds from the run's begin to an event.
    pub(super) fn elapsed(&self, ts: u64) -> f64 {
        ts.saturating_sub(self.began) as f64 / 1e9
    }
}

// === impl Phase ===

impl Phase {
    /// Phases only go forward: a shape proved late doesn't take a running run back.
    fn max_with(self, other: Phase) -> Phase {
        if (self as u8) < other as u8 { other } else { self }
    }
}

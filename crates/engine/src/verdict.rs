//! From events to the outcome of a run: a plain reducer, asked by whoever drives the run.
//!
//! It does no I/O and starts nothing. What it decides is carried out by `run`; how it is shown belongs in `report`.

use std::collections::HashMap;
use std::time::Duration;

use testground_model::event::{BarrierWait, EventKind, Proof};
use testground_model::name::InstanceName;
use testground_model::outcome::{EmulatorLate, GroupTally, InstanceEnd, RunOutcome};
use testground_model::run::Run;

/// What is known of a run so far.
#[derive(Debug)]
pub struct Verdict {
    keep_going: bool,
    mark_proof_only: bool,
    late_fails: bool,
    /// How late an emulator may be.
    tolerated: Duration,
    groups: Vec<(String, GroupTally)>,
    /// How many of each group have to succeed, in the order of `groups`.
    needed: Vec<u32>,
    /// How many of each have ended badly.
    bad: Vec<u32>,
    alive: HashMap<InstanceName, ()>,
    /// The first thing that went wrong, in words.
    cause: Option<String>,
    /// Evidence that got lost: it spoils a success.
    lost: Option<String>,
    late: Option<EmulatorLate>,
}

/// What must be done because of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: go on.
    Continue,
    /// End the run now: it can't succeed any more.
    End,
}

// === impl Verdict ===

impl Verdict {
    /// Nothing has happened yet.
    pub fn new(run: &Run) -> Verdict {
        let tally =
            |g: &testground_model::run::Group| (g.id.clone(), GroupTally { ok: 0, total: g.instances });
        Verdict {
            keep_going: run.settings.keep_going,
            mark_proof_only: run.settings.proof.mark_only,
            late_fails: run.settings.proof.late_fails,
            tolerated: run.settings.proof.delay,
            groups: run.groups.iter().map(tally).collect(),
            needed: run.groups.iter().map(|g| needed(g.instances, run.settings.min_success)).collect(),
            bad: vec![0; run.groups.len()],
            alive: run.instances().map(|i| (i, ())).collect(),
            cause: None,
            lost: None,
            late: None,
        }
    }

    /// Takes an event into account.
    pub fn on_event(&mut self, event: &EventKind) -> Decision {
        match event {
            EventKind::InstanceEnded { instance, end, last_lines, .. } => {
                self.instance_ended(instance, end, last_lines)
            }
            EventKind::Stalled { seconds, barriers } => self.fail(stalled(*seconds, barriers)),
            EventKind::ShapeProved(proof) if !proof.off.is_empty() && !self.mark_proof_only => {
                self.cause.get_or_insert_with(|| refused(proof));
                // A network that is not what it says is never worth running on, `--keep-going` or not.
                Decision::End
            }
            EventKind::EmulatorReport(record) => {
                self.late = EmulatorLate::find(record, self.tolerated);
                Decision::Continue
            }
            EventKind::OutputLost { instance, error } => {
                self.lost.get_or_insert_with(|| format!("output of {instance} could not be kept: {error}"));
                Decision::Continue
            }
            _ => Decision::Continue,
        }
    }

    /// Whether every instance has ended.
    pub fn is_over(&self) -> bool {
        self.alive.is_empty()
    }

    /// The tallies so far, by group.
    pub fn groups(&self) -> &[(String, GroupTally)] {
        &self.groups
    }

    /// What the outcome is to be read with: an emulator that was later than tolerated.
    pub fn emulator_late(&self) -> Option<EmulatorLate> {
        self.late
    }

    /// The outcome, once nothing more can happen.
    pub fn outcome(&self) -> RunOutcome {
        if let Some(cause) = &self.cause {
            return RunOutcome::Failure { cause: cause.clone() };
        }
        let groups = self.groups.iter().zip(&self.needed);
        if let Some(((group, tally), _)) = groups.into_iter().find(|((_, tally), needed)| tally.ok < **needed)
        {
            let missing = tally.total - tally.ok;
            return RunOutcome::Failure { cause: format!("{missing} of group {group} did not succeed") };
        }
        match (&self.lost, &self.late) {
            (Some(lost), _) => RunOutcome::Failure { cause: lost.clone() },
            (None, Some(late)) if self.late_fails => RunOutcome::Failure { cause: late.to_string() },
            _ => RunOutcome::Success,
        }
    }

    fn instance_ended(&mut self, instance: &InstanceName, end: &InstanceEnd, last: &[String]) -> Decision {
        if self.alive.remove(instance).is_none() {
            return Decision::Continue;
        }
        if end.is_success() {
            if let Some((_, tally)) = self.groups.iter_mut().find(|(id, _)| *id == instance.group) {
                tally.ok += 1;
            }
            return Decision::Continue;
        }
        if !end.is_cause() {
            return Decision::Continue;
        }
        if let Some(group) = self.groups.iter().position(|(id, _)| *id == instance.group) {
            self.bad[group] += 1;
            if self.bad[group] + self.needed[group] <= self.groups[group].1.total {
                // The composition says that so many may be lost.
                return Decision::Continue;
            }
        }
        let mut cause = format!("instance {instance} {end}");
        for line in last {
            cause.push_str("\n    ");
            cause.push_str(line);
        }
        self.fail(cause)
    }

    fn fail(&mut self, cause: String) -> Decision {
        self.cause.get_or_insert(cause);
        if self.keep_going { Decision::Continue } else { Decision::End }
    }
}

/// How many of `total` have to succeed when `percent` of them do, rounded up.
fn needed(total: u32, percent: f64) -> u32 {
    // A hair less, so that 99.5 % of 200 is 199 and not 200 by a rounding of the last bit.
    (f64::from(total) * percent / 100.0 - 1e-9).ceil().clamp(0.0, f64::from(total)) as u32
}

/// A barrier in words: how far it is, who waits, who has not come.
pub fn describe(barrier: &BarrierWait) -> String {
    let mut text = format!(
        "barrier {:?}: {} of {} signalled, {} waiting",
        barrier.state,
        barrier.count,
        barrier.target,
        some_of(&barrier.waiting)
    );
    if !barrier.missing.is_empty() {
        text.push_str(&format!(", not signalled by {}", some_of(&barrier.missing)));
    }
    text
}

fn stalled(seconds: f64, barriers: &[BarrierWait]) -> String {
    let mut text = format!("every living instance waits at a barrier and nothing changed for {seconds:.0} s");
    for barrier in barriers {
        text.push_str("\n    ");
        text.push_str(&describe(barrier));
    }
    text
}

fn refused(proof: &Proof) -> String {
    format!("the network is not what was asked for: {}: {}", proof.label, proof.off.join("; "))
}

/// The first few of a list, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0 => "nobody".to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use testground_model::event::{Late, Lateness};

    use super::*;

    #[test]
    fn a_late_emulator_marks_a_success_and_spoils_it_where_asked_for() {
        let verdict = |late_fails| Verdict {
            keep_going: false,
            mark_proof_only: false,
            late_fails,
            tolerated: Duration::from_millis(1),
            groups: Vec::new(),
            needed: Vec::new(),
            bad: Vec::new(),
            alive: HashMap::new(),
            cause: None,
            lost: None,
            late: None,
        };
        let report = |late_p99_us| {
            let late = Some(Late { p99_us: late_p99_us, ..Late::default() });
            EventKind::EmulatorReport(Lateness { late, packets: 100, ..Lateness::default() })
        };
        for late_fails in [false, true] {
            let mut on_time = verdict(late_fails);
            on_time.on_event(&report(999.0));
            assert_eq!((on_time.outcome(), on_time.emulator_late()), (RunOutcome::Success, None));
            let mut late = verdict(late_fails);
            assert_eq!(late.on_event(&report(1001.0)), Decision::Continue);
            assert_eq!(late.outcome() == RunOutcome::Success, !late_fails);
            assert_eq!(late.emulator_late().unwrap().late_p99_us, 1001.0);
        }
    }

    #[test]
    fn a_share_is_rounded_up_and_never_more_than_all() {
        let cases =
            [(200, 99.5, 199), (3, 100.0, 3), (3, 50.0, 2), (1000, 99.95, 1000), (5, 0.0, 0), (7, 100.0, 7)];
        for (total, percent, expected) in cases {
            assert_eq!(needed(total, percent), expected, "{percent} % of {total}");
        }
    }
}

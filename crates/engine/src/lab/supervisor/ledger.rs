//! What is known of each instance: what it said, how its program ended, and what that adds up to.
//!
//! A plain value. An instance is over when its program has ended and both of its streams are read to their end, so that
//! nothing that it said is missing from the judgement.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testground_model::event::{EventKind, Report};
use testground_model::name::InstanceName;
use testground_model::outcome::InstanceEnd;

use super::super::protocol::ProgramEnd;

/// Where a report was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Sync,
}

/// So long an instance may go on after it has said that it failed: to say more, or to write what it knows.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// All instances of the run, known by the number that init uses.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    numbers: HashMap<InstanceName, u32>,
    living: usize,
}

#[derive(Debug)]
struct Entry {
    name: InstanceName,
    started: Option<Instant>,
    /// Reports that were heard from one source and may come from the other one again.
    unmatched: VecDeque<(Source, Report)>,
    verdict: Option<Report>,
    speaks: bool,
    last_word: Option<String>,
    refused: Option<String>,
    /// We asked it to end.
    stopped: bool,
    end: Option<ProgramEnd>,
    /// The machine's count of out-of-memory kills when it started.
    oom_kills: u64,
    oom_kills_after: u64,
    /// Its limit of memory, if the kernel has killed for it.
    over_limit: Option<u64>,
    /// When it said that it has failed.
    failed_at: Option<Instant>,
    /// The last signal that it was sent because it had failed and didn't end.
    urged: Option<i32>,
    open_streams: u8,
    tails: [Vec<String>; 2],
    over: bool,
}

/// Reports of one instance that wait for their twin from the other source.
const UNMATCHED: usize = 256;

// === impl Ledger ===

impl Ledger {
    /// Adds an instance; its number is the count before.
    pub(super) fn add(&mut self, name: InstanceName) -> u32 {
        let number = self.entries.len() as u32;
        self.numbers.insert(name.clone(), number);
        self.living += 1;
        self.entries.push(Entry {
            name,
            started: None,
            unmatched: VecDeque::new(),
            verdict: None,
            speaks: false,
            last_word: None,
            refused: None,
            stopped: false,
            end: None,
            oom_kills: 0,
            oom_kills_after: 0,
            over_limit: None,
            failed_at: None,
            urged: None,
            open_streams: 2,
            tails: [Vec::new(), Vec::new()],
            over: false,
        });
        number
    }

    pub(super) fn name(&self, number: u32) -> Option<&InstanceName> {
        self.entries.get(number as usize).map(|e| &e.name)
    }

    pub(super) fn number(&self, name: &InstanceName) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Instances that are not over.
    pub(super) fn living(&self) -> impl Iterator<Item = (u32, &InstanceName)> {
        self.entries.iter().enumerate().filter(|(_, e)| !e.over).map(|(i, e)| (i as u32, &e.name))
    }

    pub(super) fn living_count(&self) -> usize {
        self.living
    }

    pub(super) fn last_word(&self, number: u32) -> Option<String> {
        self.entries.get(number as usize)?.last_word.clone()
    }

    pub(super) fn started(&mut self, number: u32, now: Instant, oom_kills: u64) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.started = Some(now);
            entry.oom_kills = oom_kills;
        }
    }

    /// The instance is being ended because the network can't give it what it asked for.
    pub(super) fn refused(&mut self, number: u32, why: String) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.refused.get_or_insert(why);
        }
    }

    /// The kernel has killed a process of it because it reached its limit of memory.
    pub(super) fn over_limit(&mut self, number: u32, limit: u64) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.over_limit = Some(limit);
        }
    }

    /// We ask it to end.
    pub(super) fn stopping(&mut self, number: u32) {
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.stopped = true;
        }
    }

    /// Instances that have said they failed, [`LINGER`] ago or longer, and have not ended; each with the signal whose turn it
    /// is: SIGTERM, and SIGKILL when that has not helped for the grace. Each signal comes once.
    pub(super) fn lingering(&mut self, now: Instant, grace: Duration) -> Vec<(u32, i32)> {
        let mut found = Vec::new();
        for (number, entry) in self.entries.iter_mut().enumerate().filter(|(_, e)| !e.over && !e.stopped) {
            let Some(waited) = entry.failed_at.map(|at| now.saturating_duration_since(at)) else { continue };
            let signal = match entry.urged {
                None if entry.end.is_none() && waited >= LINGER => Signal::TERM.as_raw(),
                Some(term) if term == Signal::TERM.as_raw() && waited >= LINGER + grace => {
                    Signal::KILL.as_raw()
                }
                _ => continue,
            };
            entry.urged = Some(signal);
            found.push((number as u32, signal));
        }
        found
    }

    /// It said something at `now`; the event for the record unless the same was heard from the other source already.
    pub(super) fn reported(
        &mut self,
        number: u32,
        source: Source,
        report: Report,
        now: Instant,
    ) -> Option<EventKind> {
        let entry = self.entries.get_mut(number as usize)?;
        entry.speaks = true;
        let twin = entry.unmatched.iter().position(|(s, r)| *s != source && *r == report);
        if let Some(twin) = twin {
            entry.unmatched.remove(twin);
            return None;
        }
        if entry.unmatched.len() == UNMATCHED {
            entry.unmatched.pop_front();
        }
        entry.unmatched.push_back((source, report.clone()));
        if matches!(report, Report::Failure { .. } | Report::Crash { .. }) {
            entry.failed_at.get_or_insert(now);
        }
        match &report {
            // The worse word stays: a plan may record a success and fail later.
            Report::Crash { .. } => entry.verdict = Some(report.clone()),
            Report::Failure { .. } if matches!(entry.verdict, None | Some(Report::Success)) => {
                entry.verdict = Some(report.clone());
            }
            Report::Success => {
                entry.verdict.get_or_insert(Report::Success);
            }
            Report::Message { message } => entry.last_word = Some(message.clone()),
            Report::StageStart { name } => entry.last_word = Some(format!("stage {name} started")),
            Report::StageEnd { name } => entry.last_word = Some(format!("stage {name} ended")),
            Report::Start | Report::Failure { .. } => {}
        }
        Some(EventKind::Reported { instance: entry.name.clone(), report })
    }

    /// Its program ended.
    pub(super) fn ended(
        &mut self,
        number: u32,
        end: ProgramEnd,
        oom_kills: u64,
        now: Instant,
    ) -> Option<EventKind> {
        let entry = self.entries.get_mut(number as usize)?;
        // A program that never ran has nothing on its streams; one that did closes them.
        entry.end.get_or_insert(end);
        entry.oom_kills_after = oom_kills;
        self.judge(number, now)
    }

    /// One of its streams (0: stdout, 1: stderr) is read to its end.
    pub(super) fn stream_closed(
        &mut self,
        number: u32,
        stream: usize,
        tail: impl IntoIterator<Item = String>,
        now: Instant,
    ) -> Option<EventKind> {
        let entry = self.entries.get_mut(number as usize)?;
        entry.open_streams = entry.open_streams.saturating_sub(1);
        entry.tails[stream] = tail.into_iter().collect();
        self.judge(number, now)
    }

    /// The event of its end, once all is known.
    fn judge(&mut self, number: u32, now: Instant) -> Option<EventKind> {
        let entry = self.entries.get_mut(number as usize)?;
        if entry.over || entry.open_streams > 0 {
            return None;
        }
        let end = instance_end(entry, entry.end.as_ref()?);
        entry.over = true;
        self.living -= 1;
        let [stdout, stderr] = std::mem::take(&mut entry.tails);
        let last_lines = if end.is_success() {
            Vec::new()
        } else if stderr.is_empty() {
            stdout
        } else {
            stderr
        };
        let seconds = entry.started.map_or(0.0, |s| now.saturating_duration_since(s).as_secs_f64());
        Some(EventKind::InstanceEnded { instance: entry.name.clone(), end, seconds, last_lines })
    }
}

fn instance_end(entry: &Entry, end: &ProgramEnd) -> InstanceEnd {
    if let Some(error) = &entry.refused {
        return InstanceEnd::NetworkRefused { error: error.clone() };
    }
    if let ProgramEnd::NotStarted(error) = end {
        return InstanceEnd::NotStarted { error: error.clone() };
    }
    let clean = *end == ProgramEnd::Exited(0);
    match &entry.verdict {
        Some(Report::Failure { error }) if !entry.stopped => {
            return InstanceEnd::ReportedFailure { error: error.clone() };
        }
        Some(Report::Crash { error, .. }) if !entry.stopped => {
            return InstanceEnd::ReportedCrash { error: error.clone() };
        }
        Some(Report::Success) if clean => return InstanceEnd::Succeeded,
        _ => {}
    }
    if entry.stopped {
        return InstanceEnd::Stopped;
    }
    if let Some(limit) = entry.over_limit {
        match *end {
            ProgramEnd::Exited(code) if code != 0 => {
                return InstanceEnd::OutOfMemory { limit, code: Some(code) };
            }
            ProgramEnd::Signaled { signal: 9, .. } | ProgramEnd::InitKilled => {
                return InstanceEnd::OutOfMemory { limit, code: None };
            }
            _ => {}
        }
    }
    match *end {
        ProgramEnd::Exited(0) if entry.speaks => InstanceEnd::NoOutcome,
        ProgramEnd::Exited(0) => InstanceEnd::Succeeded,
        ProgramEnd::Exited(code) => InstanceEnd::ExitCode { code },
        ProgramEnd::Signaled { signal: 9, .. } | ProgramEnd::InitKilled
            if entry.oom_kills_after > entry.oom_kills =>
        {
            InstanceEnd::ProbablyOutOfMemory
        }
        ProgramEnd::Signaled { signal, core } => InstanceEnd::Signal { signal, core },
        _ => InstanceEnd::Signal { signal: 9, core: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> (Ledger, u32, Instant) {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let number = ledger.add(InstanceName::new("g", 0));
        ledger.started(number, now, 7);
        (ledger, number, now)
    }

    fn end_of(said: &[(Source, Report)], end: ProgramEnd, prepare: impl Fn(&mut Ledger, u32)) -> InstanceEnd {
        let (mut ledger, n, now) = one();
        for (source, report) in said {
            ledger.reported(n, *source, report.clone(), now);
        }
        prepare(&mut ledger, n);
        assert!(ledger.ended(n, end, 7, now).is_none(), "streams are open");
        assert!(ledger.stream_closed(n, 0, [], now).is_none());
        assert_eq!(ledger.living_count(), 1);
        let event = ledger.stream_closed(n, 1, ["last".to_owned()], now);
        assert_eq!(ledger.living_count(), 0);
        match event {
            Some(EventKind::InstanceEnded { end, .. }) => end,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_way_to_end_has_its_own_word() {
        use InstanceEnd as E;
        use ProgramEnd::{Exited, InitKilled, Signaled};
        let nothing = |_: &mut Ledger, _| ();
        let success = [(Source::Sync, Report::Success)];
        let failure = [(Source::Stdout, Report::Failure { error: "e".into() })];
        assert_eq!(end_of(&[], Exited(0), nothing), E::Succeeded);
        assert_eq!(end_of(&success, Exited(0), nothing), E::Succeeded);
        assert_eq!(end_of(&success, Exited(3), nothing), E::ExitCode { code: 3 });
        assert_eq!(end_of(&failure, Exited(0), nothing), E::ReportedFailure { error: "e".into() });
        assert_eq!(end_of(&[(Source::Stdout, Report::Start)], Exited(0), nothing), E::NoOutcome);
        let abort = Signaled { signal: 6, core: true };
        assert_eq!(end_of(&[], abort, nothing), E::Signal { signal: 6, core: true });
        assert_eq!(end_of(&[], InitKilled, nothing), E::Signal { signal: 9, core: false });
        assert_eq!(end_of(&[], Exited(143), |l, n| l.stopping(n)), E::Stopped);
        assert_eq!(end_of(&success, Exited(0), |l, n| l.stopping(n)), E::Succeeded);
        let refused = |l: &mut Ledger, n| l.refused(n, "no such network".into());
        assert_eq!(end_of(&[], InitKilled, refused), E::NetworkRefused { error: "no such network".into() });
    }

    #[test]
    fn a_kill_while_memory_ran_out_is_named_and_no_other() {
        for (signal, kills, expected) in [
            (9, 8, InstanceEnd::ProbablyOutOfMemory),
            (9, 7, InstanceEnd::Signal { signal: 9, core: false }),
            (11, 8, InstanceEnd::Signal { signal: 11, core: false }),
        ] {
            let (mut ledger, n, now) = one();
            ledger.stream_closed(n, 0, [], now);
            ledger.stream_closed(n, 1, [], now);
            let event = ledger.ended(n, ProgramEnd::Signaled { signal, core: false }, kills, now);
            assert!(matches!(event, Some(EventKind::InstanceEnded { end, .. }) if end == expected));
        }
    }

    #[test]
    fn a_kill_for_the_instances_own_limit_is_certain() {
        let over = |l: &mut Ledger, n| l.over_limit(n, 64 << 20);
        let killed = ProgramEnd::Signaled { signal: 9, core: false };
        let limit = 64 << 20;
        assert_eq!(end_of(&[], killed.clone(), over), InstanceEnd::OutOfMemory { limit, code: None });
        let child = end_of(&[], ProgramEnd::Exited(137), over);
        assert_eq!(child, InstanceEnd::OutOfMemory { limit, code: Some(137) });
        assert!(
            child.to_string().contains("code 137") && child.to_string().ends_with("its limit is 64MiB"),
            "{child}"
        );
        assert_eq!(
            end_of(&[], ProgramEnd::Exited(0), over),
            InstanceEnd::Succeeded,
            "a child was, and it coped"
        );
        let term = ProgramEnd::Signaled { signal: 15, core: false };
        assert_eq!(end_of(&[], term, over), InstanceEnd::Signal { signal: 15, core: false });
        let stopped = |l: &mut Ledger, n| {
            over(l, n);
            l.stopping(n);
        };
        assert_eq!(end_of(&[], killed, stopped), InstanceEnd::Stopped);
    }

    #[test]
    fn who_has_failed_and_goes_on_is_ended_in_two_steps() {
        let (mut ledger, n, now) = one();
        let (grace, after) = (Duration::from_secs(2), |seconds| now + Duration::from_secs(seconds));
        assert!(ledger.lingering(after(100), grace).is_empty(), "it has said nothing bad");
        ledger.reported(n, Source::Stdout, Report::Failure { error: "e".into() }, now);
        ledger.reported(n, Source::Stdout, Report::Failure { error: "again".into() }, after(9));
        let steps: Vec<_> = [9, 10, 11, 12, 13].map(|s| ledger.lingering(after(s), grace)).to_vec();
        assert_eq!(steps, [vec![], vec![(n, 15)], vec![], vec![(n, 9)], vec![]]);
        let killed = ProgramEnd::Signaled { signal: 9, core: false };
        ledger.ended(n, killed, 7, after(12));
        ledger.stream_closed(n, 0, [], after(12));
        let event = ledger.stream_closed(n, 1, [], after(12));
        let Some(EventKind::InstanceEnded { end: InstanceEnd::ReportedFailure { error }, .. }) = event else {
            panic!("its own word is how it ended: {event:?}")
        };
        assert_eq!(error, "e");
    }

    #[test]
    fn what_is_said_twice_counts_once_and_what_is_said_again_counts_again() {
        let (mut ledger, n, now) = one();
        let message = Report::Message { message: "hello".into() };
        assert!(ledger.reported(n, Source::Stdout, message.clone(), now).is_some());
        assert!(ledger.reported(n, Source::Stdout, message.clone(), now).is_some());
        assert!(ledger.reported(n, Source::Sync, message.clone(), now).is_none());
        assert!(ledger.reported(n, Source::Sync, message.clone(), now).is_none());
        assert!(ledger.reported(n, Source::Sync, message, now).is_some());
        assert_eq!(ledger.last_word(n).as_deref(), Some("hello"));
    }

    #[test]
    fn the_worse_word_stays() {
        let fail = Report::Failure { error: "first".into() };
        let second = Report::Failure { error: "second".into() };
        let said = [(Source::Sync, Report::Success), (Source::Sync, fail), (Source::Sync, second)];
        let end = end_of(&said, ProgramEnd::Exited(0), |_, _| ());
        assert_eq!(end, InstanceEnd::ReportedFailure { error: "first".into() });
    }
}

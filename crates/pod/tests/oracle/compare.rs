//! Compares a recorded trace with a timeline of the machine.
//!
//! Both are turned into facts (starts, ends, signals, hooks, phases). Facts are matched by what they are, and timed from the
//! fact that caused them, since a back-off's chance would otherwise shift all that follows. How far a time may be off is
//! the spread of its kind in the table of delays that the kubelet's recording gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use testground_pod::machine::{ContainerKind, HookKind, ProbeOutcome};
use testground_pod::simulate::timeline::{Point, SpanKind, Timeline};

use super::{Line, Recorded};

/// What has to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Facts, times, last status and words.
    Kubelet,
    /// Facts and last status.
    Ideal,
}

/// What happened, without the time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Start(String, usize),
    Exit(String, usize),
    Term(String, usize),
    Hook(String, usize, &'static str, bool),
    Phase(usize),
    Gone,
    Act(usize),
    ProbeFailed(String, usize, usize),
    Startup(String, usize),
}

/// A fact: when, and its detail that has to be equal (image, code, signal, result, phase).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fact {
    pub(crate) at: f64,
    pub(crate) what: What,
    pub(crate) detail: String,
}

/// Differences that are understood: the trace, the timing (either if none), how the difference begins, and why it is one.
const EXCUSED: &[(&str, Option<Want>, &str, &str)] = &[
    // Whether a poll falls into the 10 ms for which sc1 lives is chance, and the app starts only if one does.
    ("K19", None, "missing:   179.00 Start(\"app\"", "chance"),
    ("K19", None, "missing:   779.00 Exit(\"app\"", "chance"),
    ("K19", None, "missing:   179.96 Phase(1) Running", "chance"),
    ("K19", None, "ends as Pending, not Running", "chance"),
    ("K19", None, "sc1: running is shown by the kubelet only", "chance"),
    ("K19", None, "app: ", "chance"),
    ("K19", Some(Want::Ideal), "too much:   610", "the app starts at once, and ends 600 s later"),
    // With the next sync after the back-off began comes the next restart, or the end of the recording.
    ("X15e", Some(Want::Kubelet), "init1: waiting:CrashLoopBackOff is shown by the machine only", "chance"),
    ("X37", Some(Want::Kubelet), "app: waiting:CrashLoopBackOff is shown by the machine only", "chance"),
    // The sidecar that ended by itself on the kubelet, 30 ms before the poll that saw the app's end, still runs here.
    ("X56w", Some(Want::Ideal), "too much:     3.00 Hook(\"sc2\"", "the app's end is seen at once"),
    ("X56w", Some(Want::Ideal), "order:     6.54 Term(\"sc3\"", "the same"),
    // Both are killed, one after the other; a kubelet's next poll finds both ended.
    ("Y09", Some(Want::Ideal), "too much:", "the sidecar's end is seen at once, before the app's"),
    ("Y09", Some(Want::Ideal), "sc1 ends as terminated:0:Completed x1", "the same"),
    // An evicted pod's record of the app was removed by the runtime before its last status was made.
    ("X70", None, "app ends as terminated:137:Error", "record lost"),
    ("X70", None, "app: terminated:137:", "record lost"),
];

/// The spreads of the table of delays, in seconds.
mod spread {
    /// Whatever waits for a poll: 0.02 to 1.3.
    pub(super) const POLL: f64 = 1.35;
    /// What a container, a hook or the runtime needs by itself.
    pub(super) const OWN: f64 = 0.35;
    /// A restart that falls into the back-off: nominal to nominal + 16.
    pub(super) const BACK_OFF: f64 = 16.5;
    /// The last end to the terminal phase: 0.06 to 2.2 (two polls).
    pub(super) const PHASE: f64 = 2.2;
    /// The last end to the removal: 0.16 to 1.97.
    pub(super) const GONE: f64 = 1.97;
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8.2} {:?} {}", self.at, self.what, self.detail)
    }
}

pub(crate) fn facts_of_trace(recorded: &Recorded) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut phases = 0;
    let mut acts = 0;
    let mut hooks: BTreeMap<(String, usize, &'static str), usize> = BTreeMap::new();
    let mut fails: BTreeMap<(String, usize), usize> = BTreeMap::new();
    for Line { at, kind, rest } in &recorded.trace.lines {
        let at = *at as f64 / 1000.0;
        let text = |n: usize| rest.get(n).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let (name, run) = match rest.first().and_then(|v| v.as_str()).and_then(|w| w.split_once('#')) {
            Some((name, run)) => (name.to_owned(), run.parse().unwrap_or(usize::MAX)),
            None => (String::new(), 0),
        };
        let fact = match kind.as_str() {
            "start" => (What::Start(name, run), text(1).trim_start_matches("img").to_owned()),
            "exited" => (What::Exit(name, run), rest[1].to_string()),
            "signal" => (What::Term(name, run), text(1)),
            "hook" if text(2) == "start" => {
                let kind = if text(1) == "preStop" { "preStop" } else { "postStart" };
                *hooks.entry((name.clone(), run, kind)).or_default() += 1;
                (What::Hook(name, run, kind, false), String::new())
            }
            "hook" if text(2) == "end" => {
                let kind = if text(1) == "preStop" { "preStop" } else { "postStart" };
                (What::Hook(name, run, kind, true), text(3))
            }
            "probe" if text(1) == "startup" && text(2) == "ok" => (What::Startup(name, run), String::new()),
            "probe" if text(1) != "readiness" && text(2) == "fail" => {
                let nth = fails.entry((name.clone(), run)).or_insert(0);
                *nth += 1;
                (What::ProbeFailed(name, run, *nth), String::new())
            }
            "api" if text(0) == "phase" => {
                phases += 1;
                (What::Phase(phases - 1), text(1))
            }
            "do" if text(0) == "create" => continue,
            "do" | "engine-stop" | "engine-start" | "stop-sandbox" | "remove-records" => {
                acts += 1;
                (What::Act(acts - 1), kind.clone())
            }
            "event" if text(1) == "Evicted" || text(1) == "SuccessfulDelete" => {
                acts += 1;
                (What::Act(acts - 1), kind.clone())
            }
            "api" if text(0) == "deleted" => (What::Gone, String::new()),
            _ => continue,
        };
        facts.push(Fact { at, what: fact.0, detail: fact.1 });
    }
    facts
}

pub(crate) fn facts_of_timeline(timeline: &Timeline) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut fact = |at: std::time::Duration, what, detail: String| {
        facts.push(Fact { at: at.as_secs_f64(), what, detail });
    };
    for lane in &timeline.lanes {
        let name = lane.name.to_string();
        // The trace counts the lives that wrote something.
        let mut number: BTreeMap<u32, usize> = BTreeMap::new();
        let mut fails: BTreeMap<u32, usize> = BTreeMap::new();
        for point in &lane.points {
            match point.is() {
                Point::Start { attempt, image } => {
                    let run = number.len();
                    number.insert(*attempt, run);
                    let image = image.rsplit(':').next().unwrap_or_default().to_owned();
                    fact(point.at, What::Start(name.clone(), run), image);
                }
                Point::Exit { attempt, exit, .. } => {
                    fact(point.at, What::Exit(name.clone(), number[attempt]), exit.code.to_string());
                }
                Point::Signal { attempt, signal } if !signal.is_kill() => {
                    let word = signal.0.trim_start_matches("SIG").to_owned();
                    fact(point.at, What::Term(name.clone(), number[attempt]), word);
                }
                Point::Probe { attempt, probe, outcome } => match (probe.name(), outcome) {
                    ("startup", ProbeOutcome::Success) => {
                        fact(point.at, What::Startup(name.clone(), number[attempt]), String::new());
                    }
                    ("startup" | "liveness", ProbeOutcome::Failure) => {
                        let nth = fails.entry(*attempt).or_insert(0);
                        *nth += 1;
                        fact(point.at, What::ProbeFailed(name.clone(), number[attempt], *nth), String::new());
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        for span in &lane.spans {
            if let SpanKind::Hook { hook, ok } = span.what {
                let kind = if hook == HookKind::PreStop { "preStop" } else { "postStart" };
                let run = number.get(&span.attempt).copied().unwrap_or(usize::MAX);
                fact(span.from, What::Hook(name.clone(), run, kind, false), String::new());
                if let Some(ok) = ok {
                    let code = if ok { "0" } else { "1" };
                    fact(span.to, What::Hook(name.clone(), run, kind, true), code.to_owned());
                }
            }
        }
    }
    for (n, phase) in timeline.phases.iter().enumerate() {
        fact(phase.at, What::Phase(n), format!("{:?}", phase.is().phase));
    }
    for (n, step) in timeline.script.iter().enumerate() {
        fact(step.at, What::Act(n), String::new());
    }
    if let Some(gone) = timeline.gone {
        fact(gone, What::Gone, String::new());
    }
    facts.sort_by(|a, b| a.at.total_cmp(&b.at));
    facts
}

/// Why a difference is none that has to be mended; none if it has to.
pub(crate) fn excuse(id: &str, want: Want, difference: &str) -> Option<&'static str> {
    let fits = |(excused, when, begin, _): &&(&str, Option<Want>, &str, &str)| {
        *excused == id && when.is_none_or(|when| when == want) && difference.starts_with(begin)
    };
    EXCUSED.iter().find(fits).map(|(.., why)| *why)
}

/// The differences between a trace and a timeline of the same pod that nothing excuses.
pub(crate) fn differences(recorded: &Recorded, timeline: &Timeline, want: Want) -> Vec<String> {
    let mut wrong = all_differences(recorded, timeline, want);
    wrong.retain(|text| excuse(&recorded.id, want, text).is_none());
    wrong
}

/// All differences between a trace and a timeline of the same pod.
pub(crate) fn all_differences(recorded: &Recorded, timeline: &Timeline, want: Want) -> Vec<String> {
    let timed = want == Want::Kubelet;
    let trace = facts_of_trace(recorded);
    let machine = facts_of_timeline(timeline);
    let mut wrong = Vec::new();
    let end = recorded.trace.end as f64 / 1000.0;
    let find = |facts: &[Fact], what: &What| facts.iter().find(|f| f.what == *what).cloned();
    // The same facts with the same details.
    let pulls = recorded.trace.lines.iter().any(|l| l.rest.get(1).is_some_and(|r| r == "Pulling"));
    let restarted = |f: &Fact| matches!(&f.what, What::Start(_, n) if *n >= 2);
    let backed_off = pulls || trace.iter().chain(&machine).any(restarted);
    let margin = if backed_off { 45.0 } else { 2.5 };
    for fact in &trace {
        if matches!(fact.what, What::Act(_) | What::ProbeFailed(..) | What::Startup(..)) {
            continue;
        }
        if !timed && matches!(fact.what, What::Phase(_)) {
            continue;
        }
        match find(&machine, &fact.what) {
            None if fact.at > end - margin && !matches!(fact.what, What::Phase(_) | What::Gone) => {}
            None => wrong.push(format!("missing: {fact}")),
            Some(own) if own.detail != fact.detail => wrong.push(format!("differs: {fact} / machine {own}")),
            Some(own) if timed => {
                if let Some(text) = mistimed(&trace, &machine, fact, &own) {
                    wrong.push(text);
                }
            }
            Some(_) => {}
        }
    }
    for fact in &machine {
        if matches!(fact.what, What::Act(_) | What::ProbeFailed(..) | What::Startup(..)) {
            continue;
        }
        if !timed && matches!(fact.what, What::Phase(_)) {
            continue;
        }
        let phase = matches!(fact.what, What::Phase(_));
        if find(&trace, &fact.what).is_none() && (phase || fact.at <= end - margin) {
            wrong.push(format!("too much: {fact}"));
        }
    }
    wrong.extend(ends_differently(recorded, timeline, backed_off));
    if timed {
        wrong.extend(says_otherwise(recorded, timeline));
    } else {
        wrong.extend(skips_a_phase(&trace, &machine));
        let inits: Vec<&str> =
            timeline.lanes.iter().filter(|l| l.kind == ContainerKind::Init).map(|l| &*l.name).collect();
        wrong.extend(other_order(&trace, &machine, &inits));
    }
    wrong
}

/// Without polls a pod may pass through more phases, each for no time; it passes through those that were seen.
fn skips_a_phase(trace: &[Fact], machine: &[Fact]) -> Option<String> {
    let phases = |facts: &[Fact]| -> Vec<String> {
        facts.iter().filter(|f| matches!(f.what, What::Phase(_))).map(|f| f.detail.clone()).collect()
    };
    let (theirs, ours) = (phases(trace), phases(machine));
    let mut rest = ours.iter();
    (!theirs.iter().all(|phase| rest.any(|own| own == phase)))
        .then(|| format!("phases {ours:?}, on the kubelet {theirs:?}"))
}

/// What follows from something comes after it.
fn other_order(trace: &[Fact], machine: &[Fact], inits: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    let at = |what: &What| machine.iter().find(|f| f.what == *what).map(|f| f.at);
    for fact in trace.iter().filter(|f| matches!(f.what, What::Start(..) | What::Term(..) | What::Gone)) {
        let Some(cause) = cause(trace, fact) else { continue };
        // An app or sidecar that ended just before a first start did not bring it about.
        if let (What::Start(_, 0), What::Exit(ended, _)) = (&fact.what, &cause.what)
            && !inits.contains(&ended.as_str())
        {
            continue;
        }
        if let (Some(before), Some(after)) = (at(&cause.what), at(&fact.what))
            && after < before - 0.001
        {
            wrong.push(format!("order: {fact} comes before {:?}", cause.what));
        }
    }
    wrong
}

/// Whether a fact comes at another time after its cause than it did on the kubelet.
fn mistimed(trace: &[Fact], machine: &[Fact], fact: &Fact, own: &Fact) -> Option<String> {
    let cause = cause(trace, fact)?;
    let own_cause = machine.iter().find(|f| f.what == cause.what && f.at <= own.at + 0.05)?;
    let (theirs, ours) = (fact.at - cause.at, own.at - own_cause.at);
    let allowed = match &fact.what {
        What::Start(_, n) if *n > 0 && theirs > 8.0 => spread::BACK_OFF,
        What::Exit(..) | What::Hook(_, _, _, true) => spread::OWN,
        What::Phase(_) => spread::PHASE,
        What::Gone => spread::GONE,
        _ => spread::POLL,
    };
    ((theirs - ours).abs() > allowed)
        .then(|| format!("mistimed: {fact}: {theirs:.2} s after {:?}, machine {ours:.2}", cause.what))
}

/// What brought a fact about, by the trace.
fn cause<'f>(facts: &'f [Fact], fact: &Fact) -> Option<&'f Fact> {
    let last = |is: &dyn Fn(&What) -> bool| {
        facts.iter().rev().find(|f| f.at <= fact.at && f.what != fact.what && is(&f.what))
    };
    match &fact.what {
        What::Start(name, n) if *n > 0 => last(&|w| *w == What::Exit(name.clone(), n - 1)),
        What::Start(name, _) => last(&|w| match w {
            What::Start(other, 0) | What::Exit(other, 0) | What::Startup(other, 0) => other != name,
            What::Hook(_, _, "postStart", true) => true,
            _ => false,
        }),
        What::Exit(name, n) => last(&|w| *w == What::Term(name.clone(), *n))
            .or_else(|| last(&|w| *w == What::Start(name.clone(), *n))),
        What::Hook(name, n, kind, true) => last(&|w| *w == What::Hook(name.clone(), *n, kind, false)),
        What::Hook(name, n, "postStart", false) => last(&|w| *w == What::Start(name.clone(), *n)),
        What::Term(name, n) => last(&|w| match w {
            What::Act(_) => true,
            What::Exit(other, _) => other != name,
            What::ProbeFailed(other, m, _) => other == name && m == n,
            What::Hook(other, ..) => other == name,
            _ => false,
        }),
        What::Hook(name, n, _, _) => last(&|w| match w {
            What::Act(_) | What::Exit(..) => true,
            What::ProbeFailed(other, m, _) => other == name && m == n,
            _ => false,
        }),
        What::Phase(0) => None,
        What::Phase(_) => last(&|w| matches!(w, What::Start(..) | What::Exit(..) | What::Act(_))),
        What::Gone => last(&|w| matches!(w, What::Exit(..))),
        _ => None,
    }
}

/// The last status: phase, reason, and each container's state, counts and flags.
fn ends_differently(recorded: &Recorded, timeline: &Timeline, backed_off: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let last = &recorded.trace.last;
    let phase = last["phase"].as_str().unwrap_or_default();
    if format!("{:?}", timeline.phase()) != phase {
        wrong.push(format!("ends as {:?}, not {phase}", timeline.phase()));
    }
    for (key, value) in last {
        let Some(name) = key.strip_prefix("container ") else { continue };
        let lane = timeline.lane(name).expect("a lane for each container");
        let own = lane.statuses.last().expect("a status").is();
        let flags = |started: bool, ready: bool| format!("started {started} ready {ready}");
        let theirs = format!(
            "{} x{} {}",
            value["state"].as_str().unwrap_or_default(),
            value["restartCount"],
            flags(value["started"] == true, value["ready"] == true)
        );
        let ours = format!("{} x{} {}", own.state.short(), own.restart_count, flags(own.started, own.ready));
        let waits = ours.starts_with("waiting:CrashLoopBackOff");
        let settled = !backed_off || timeline.phase().is_terminal();
        if theirs != ours && !waits && settled {
            wrong.push(format!("{name} ends as {ours}, not {theirs}"));
        }
    }
    wrong
}

/// The words that the API used for each container, without their order.
fn says_otherwise(recorded: &Recorded, timeline: &Timeline) -> Vec<String> {
    let mut wrong = Vec::new();
    for lane in &timeline.lanes {
        let key = format!("container {}", lane.name);
        let theirs: BTreeSet<String> = recorded
            .trace
            .lines
            .iter()
            .filter(|line| line.kind == "api" && line.rest[0] == key.as_str())
            .filter_map(|line| line.rest.get(1).and_then(|v| v["state"].as_str()).map(str::to_owned))
            .collect();
        let ours: BTreeSet<String> = lane.statuses.iter().map(|s| s.is().state.short()).collect();
        for word in theirs.symmetric_difference(&ours) {
            // Whether the back-off's word is seen at all is a matter of when the next sync comes.
            wrong.push(format!(
                "{}: {word} is shown by {} only",
                lane.name,
                if theirs.contains(word) { "the kubelet" } else { "the machine" }
            ));
        }
    }
    wrong
}

/// Both sides, for people.
pub(crate) fn side_by_side(recorded: &Recorded, timeline: &Timeline) -> String {
    let mut text = String::from("== kubelet\n");
    for fact in facts_of_trace(recorded) {
        text += &format!("{fact}\n");
    }
    text += "== machine\n";
    for fact in facts_of_timeline(timeline) {
        text += &format!("{fact}\n");
    }
    for lane in &timeline.lanes {
        text += &format!("== {}\n", lane.name);
        for status in &lane.statuses {
            let (at, is) = (status.at.as_secs_f64(), status.is());
            text +=
                &format!("{at:8.2} {} x{} {} {}\n", is.state.short(), is.restart_count, is.started, is.ready);
        }
    }
    for event in &timeline.events {
        text += &format!(
            "{:8.2} {} {}\n",
            event.at.as_secs_f64(),
            event.is().record.reason,
            event.is().record.message
        );
    }
    text
}

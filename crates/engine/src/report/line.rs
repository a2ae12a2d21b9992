//! One event as lines of the log, in the words that scripts of the original parse.
//!
//! Two forms: `Jan _2 15:04:05.000000<TAB>LEVEL<TAB>text<TAB>{json}` for the run, and
//! `%.4fs  CLASS << group[000] (pid) >> text` for what an instance does.

use serde_json::to_string;
use testground_model::event::{Event, EventKind, Report, Stream};
use testground_model::name::InstanceName;
use testground_model::outcome::InstanceEnd;

use super::record::Record;
use super::words;

/// Something to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Of the run itself.
    Log(Level, String),
    /// Of an instance; `vital` ones are how it ended, and are shown in any flood.
    Instance { instance: InstanceName, class: &'static str, text: String, vital: bool },
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

// === impl Level ===

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        }
    }
}

/// The lines of an event, given what was known before it.
pub(super) fn lines(event: &Event, known: &Record) -> Vec<Line> {
    let log = |level, text: String| vec![Line::Log(level, text)];
    match &event.kind {
        EventKind::RunQueued { plan, case, instances, seed, .. } => vec![
            Line::Log(Level::Info, format!("run is queued with ID: {}", event.run)),
            Line::Log(
                Level::Info,
                format!(
                    "plan {plan}, case {case}, {}, seed {seed}",
                    words::counted(u64::from(*instances), "instance")
                ),
            ),
        ],
        EventKind::BuildStarted { groups, builder } => {
            log(Level::Info, format!("building {} with {builder}", groups.join(", ")))
        }
        EventKind::BuildFinished { groups, artifact, cached, seconds } => {
            let each = groups.iter().map(|group| {
                let fields = [("group", to_string(group)), ("artifact", to_string(artifact))];
                let fields = fields.map(|(name, value)| format!("\"{name}\": {}", value.unwrap_or_default()));
                let fields =
                    format!("{}, \"cached\": {cached}, \"seconds\": {seconds:.3}", fields.join(", "));
                Line::Log(Level::Info, format!("generated build artifact\t{{{fields}}}"))
            });
            each.collect()
        }
        EventKind::LabStarted { pid, ports } => {
            let ports = to_string(ports).unwrap_or_default();
            log(Level::Info, format!("lab is up\t{{\"pid\": {pid}, \"ports\": {ports}}}"))
        }
        EventKind::NetworkProgress { attached, total } if attached == total => log(
            Level::Info,
            format!("network is up: {} attached", words::counted(u64::from(*total), "instance")),
        ),
        EventKind::NetworkProgress { attached, total } => {
            log(Level::Debug, format!("network: {attached} of {total} instances attached"))
        }
        EventKind::ShapeProved(proof) => {
            let off = proof.off.join("; ");
            match off.as_str() {
                "" => log(Level::Debug, format!("link {} is as it was asked for", proof.label)),
                off => log(Level::Warn, format!("link {} is off: {off}", proof.label)),
            }
        }
        EventKind::InstancesReleased => log(Level::Info, "instances are let go".to_owned()),
        EventKind::InstanceStarted { .. }
        | EventKind::EmulatorReport(_)
        | EventKind::NetworkRequests(_)
        | EventKind::Measured(_)
        | EventKind::Waits { .. } => Vec::new(),
        EventKind::Output { instance, stream, line } => {
            let class = if *stream == Stream::Stderr { "ERROR" } else { "OTHER" };
            vec![of_instance(instance, class, words::tame(line))]
        }
        EventKind::Reported { instance, report } => vec![reported(instance, report)],
        EventKind::NetworkConfigured { instance, network, callback } => {
            log(Level::Debug, format!("network {network} of {instance} is configured, signalled {callback}"))
        }
        EventKind::NetworkChanged { change, at } => {
            log(Level::Info, format!("network changed at {at:.3} s: {}", words::tame(change)))
        }
        EventKind::InstanceEnded { instance, end, .. } => ended(instance, end, known),
        EventKind::Stalled { seconds, barriers } => {
            let of = words::counted(barriers.len() as u64, "barrier");
            log(Level::Warn, format!("everybody waits and nothing has changed for {seconds:.1} s ({of})"))
        }
        EventKind::OutputLost { instance, error } => {
            log(Level::Warn, format!("output of {instance} is lost: {}", words::tame(error)))
        }
        EventKind::LabHeld => log(
            Level::Warn,
            format!(
                "the lab is held for a look: `testground exec {} GROUP[INDEX] -- COMMAND`; Ctrl-C ends it",
                event.run
            ),
        ),
        EventKind::Warning { message } => log(Level::Warn, words::tame(message)),
        EventKind::RunFinished { outcome, groups, emulator_late, .. } => {
            let groups: Vec<String> =
                groups.iter().map(|(id, t)| format!("{id}:{}/{}", t.ok, t.total)).collect();
            let (level, word) = match outcome.cause() {
                None => (Level::Info, outcome.word()),
                Some(_) => (Level::Error, outcome.word()),
            };
            // Behind the words that scripts look for.
            let late = emulator_late.map_or_else(String::new, |late| format!(", {late}"));
            let groups = groups.join(", ");
            vec![
                Line::Log(level, format!("run finished with outcome = {word} ({groups}){late}")),
                Line::Log(Level::Info, format!("finished run with ID: {}", event.run)),
            ]
        }
    }
}

fn reported(instance: &InstanceName, report: &Report) -> Line {
    let (class, text) = match report {
        Report::Start => ("START", String::new()),
        Report::Message { message } => ("MESSAGE", words::tame(message)),
        Report::Success => ("OK", String::new()),
        Report::Failure { error } => ("FAIL", words::tame(error)),
        Report::Crash { error, .. } => ("CRASH", words::tame(error)),
        Report::StageStart { name } => ("MESSAGE", format!("stage {} begins", words::tame(name))),
        Report::StageEnd { name } => ("MESSAGE", format!("stage {} ends", words::tame(name))),
    };
    let vital = matches!(class, "FAIL" | "CRASH");
    Line::Instance { instance: instance.clone(), class, text, vital }
}

/// How an instance ended, unless it has said so itself.
fn ended(instance: &InstanceName, end: &InstanceEnd, known: &Record) -> Vec<Line> {
    let class = match end {
        InstanceEnd::Succeeded | InstanceEnd::ReportedFailure { .. } | InstanceEnd::ReportedCrash { .. }
            if known.spoke.contains(instance) =>
        {
            return Vec::new();
        }
        InstanceEnd::Succeeded => "OK",
        InstanceEnd::ReportedFailure { .. } => "FAIL",
        InstanceEnd::ReportedCrash { .. } => "CRASH",
        InstanceEnd::NoOutcome | InstanceEnd::Stopped => "INCOMPLETE",
        _ => "ERROR",
    };
    let text = if end.is_success() { String::new() } else { words::tame(&end.to_string()) };
    vec![Line::Instance { instance: instance.clone(), class, text, vital: end.is_cause() }]
}

fn of_instance(instance: &InstanceName, class: &'static str, text: String) -> Line {
    Line::Instance { instance: instance.clone(), class, text, vital: false }
}

//! A timeline as text: what `kubectl get pods -w` would show, the events, and the life of each container.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{ending, short, word};
use crate::{
    machine::{ContainerKind, ProbeKind, ProbeOutcome, Time},
    simulate::timeline::{Lane, Point, SpanKind, Timeline},
};

/// How many columns the picture of the lanes has.
const COLUMNS: usize = 80;

/// The whole timeline.
pub fn page(timeline: &Timeline) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}  Kubernetes {}, {} timing: {} after {} s, because {}",
        timeline.pod,
        timeline.kubernetes,
        timeline.timing,
        word(timeline.phase()),
        short(timeline.end),
        ending(timeline)
    );
    let _ = writeln!(out);
    picture(&mut out, timeline);
    kubectl(&mut out, timeline);
    happenings(&mut out, timeline);
    out
}

fn picture(out: &mut String, timeline: &Timeline) {
    let width = timeline.lanes.iter().map(|l| l.name.chars().count()).max().unwrap_or(0);
    let end = timeline.end.as_secs_f64().max(0.001);
    let cell =
        |t: Time| ((t.as_secs_f64() / end) * COLUMNS as f64).floor().min(COLUMNS as f64 - 1.0) as usize;
    for lane in &timeline.lanes {
        let mut row = [' '; COLUMNS];
        for (wanted, mark) in LAYERS {
            for span in lane.spans.iter().filter(|s| wanted(&s.what)) {
                let lives = |c: usize| row_of(lane, c, &cell);
                let (from, to) = (cell(span.from), cell(span.to));
                for (c, slot) in row.iter_mut().enumerate().take(to + 1).skip(from) {
                    // The API says `ready` of an init for ever after; the picture shows processes.
                    if matches!(span.what, SpanKind::Ready | SpanKind::Started) && !lives(c) {
                        continue;
                    }
                    *slot = mark;
                }
            }
        }
        for (at, exit) in lane.exits() {
            row[cell(at)] = if exit.code == 0 { '|' } else { 'x' };
        }
        let kind = kind(lane.kind);
        let _ = writeln!(
            out,
            "  {:<width$}  {kind:<7}  {}",
            &*lane.name,
            row.iter().collect::<String>().trim_end()
        );
    }
    let _ = writeln!(out, "  {:<width$}  {:<7}  {}", "", "", axis(end));
    let _ = writeln!(
        out,
        "  . waiting  ~ back-off  - running  = started  # ready  h hook  v stopping  | exit 0  x other exit\n"
    );
}

type Layer = (fn(&SpanKind) -> bool, char);

/// What is drawn over what.
const LAYERS: [Layer; 7] = [
    (|k| matches!(k, SpanKind::Waiting { .. }), '.'),
    (|k| matches!(k, SpanKind::BackOff { .. }), '~'),
    (|k| matches!(k, SpanKind::Running), '-'),
    (|k| matches!(k, SpanKind::Started), '='),
    (|k| matches!(k, SpanKind::Ready), '#'),
    (|k| matches!(k, SpanKind::Stopping { .. }), 'v'),
    (|k| matches!(k, SpanKind::Hook { .. }), 'h'),
];

/// Whether the container's process ran in a column.
fn row_of(lane: &Lane, column: usize, cell: &impl Fn(Time) -> usize) -> bool {
    let running = lane.spans.iter().filter(|s| s.what == SpanKind::Running);
    running.into_iter().any(|s| (cell(s.from)..=cell(s.to)).contains(&column))
}

fn axis(end: f64) -> String {
    let mut line = String::new();
    for i in 0..=4 {
        let at = COLUMNS * i / 4;
        let label = format!("{:.*}", usize::from(end < 40.0), end * i as f64 / 4.0);
        let start = if i == 4 { at.saturating_sub(label.len() - 1) } else { at };
        while line.chars().count() < start {
            line.push(' ');
        }
        line.push_str(&label);
    }
    line + " s"
}

fn kubectl(out: &mut String, timeline: &Timeline) {
    let _ = writeln!(out, "  {:>9}  READY  STATUS                 RESTARTS   PHASE", "kubectl");
    for at in &timeline.kubectl {
        let columns = at.is();
        let phase = timeline.phases.iter().take_while(|p| p.at <= at.at).last();
        let phase = phase.map_or_else(String::new, |p| word(p.is().phase));
        let ready = format!("{}/{}", columns.ready, columns.of);
        let _ = writeln!(
            out,
            "  {:>8}s  {ready:<5}  {:<21}  {:<9}  {phase}",
            short(at.at),
            columns.status,
            columns.restarts
        );
    }
    let _ = writeln!(out);
}

fn happenings(out: &mut String, timeline: &Timeline) {
    let mut lines: BTreeMap<(Time, usize), String> = BTreeMap::new();
    let mut add = |at: Time, line: String| {
        let n = lines.len();
        lines.insert((at, n), line);
    };
    for step in &timeline.script {
        add(step.at, format!("SCRIPT  {}", step.is()));
    }
    for stop in &timeline.stops {
        add(stop.from, format!("the pod is stopped ({}), with {} s of grace", stop.why, stop.grace));
        let used = stop.to.saturating_sub(stop.from);
        if !stop.open {
            add(stop.to, format!("the pod has stopped, after {} of {} s", short(used), stop.grace));
        }
    }
    for lane in &timeline.lanes {
        for span in &lane.spans {
            match &span.what {
                SpanKind::Hook { hook, ok } => {
                    let end = match (ok, span.open) {
                        (_, true) => "goes on",
                        (Some(true), _) => "done",
                        (Some(false), _) => "failed",
                        (None, _) => "cut off",
                    };
                    add(span.from, format!("{}  {} hook", lane.name, hook.name()));
                    add(span.to, format!("{}  {} hook: {end}", lane.name, hook.name()));
                }
                SpanKind::BackOff { delay } => {
                    add(span.from, format!("{}  back-off of {} s", lane.name, short(*delay)));
                }
                _ => {}
            }
        }
        let mut previous: Option<(ProbeKind, ProbeOutcome)> = None;
        for point in &lane.points {
            let what = match point.is() {
                Point::Start { attempt: 0, .. } => "started".to_owned(),
                Point::Start { attempt, .. } => format!("started again, restart {attempt}"),
                Point::Exit { exit, reason, .. } => format!("exited {} {reason}", exit.code),
                Point::Signal { signal, .. } => signal.to_string(),
                Point::StartFailed { reason } => format!("could not be started: {reason}"),
                // Only changes: a probe a second would hide all the rest.
                Point::Probe { probe, outcome, .. } if previous != Some((*probe, *outcome)) => {
                    previous = Some((*probe, *outcome));
                    format!("{} probe: {}", probe.name(), outcome_word(*outcome))
                }
                Point::Probe { .. } => continue,
            };
            add(point.at, format!("{}  {what}", lane.name));
        }
    }
    for note in &timeline.job {
        add(note.at, format!("JOB  {}", note.is()));
    }
    for ((at, _), line) in lines {
        let _ = writeln!(out, "  {:>8}s  {line}", short(at));
    }
}

fn kind(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init => "init",
        ContainerKind::Sidecar => "sidecar",
        ContainerKind::App => "app",
    }
}

fn outcome_word(outcome: ProbeOutcome) -> &'static str {
    match outcome {
        ProbeOutcome::Success => "success",
        ProbeOutcome::Failure => "failure",
        ProbeOutcome::Error => "error",
    }
}

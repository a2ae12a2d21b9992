//! The lane of one container.

use super::canvas::{self, Anchor, Canvas};
use crate::{
    machine::{ContainerKind, ProbeKind, ProbeOutcome, Time},
    render::short,
    simulate::timeline::{At, Lane, Point, Span, SpanKind},
};

/// From the top of a lane: the row of signals and hooks, the bar, the probes, the exits.
const SIGNALS: f64 = 10.0;
const BAR: f64 = 24.0;
const BAR_HEIGHT: f64 = 20.0;
const HOOK_HEIGHT: f64 = 7.0;
const PROBES: f64 = BAR + BAR_HEIGHT + 7.0;
const PROBE_ROW: f64 = 10.0;

/// The height of a lane in pixels: its probes need rows.
pub(super) fn height(lane: &Lane) -> f64 {
    PROBES + PROBE_ROW * probes(lane).len() as f64 + 22.0
}

/// Draws a lane.
pub(super) fn draw(canvas: &mut Canvas, lane: &Lane, top: f64, end: Time) {
    canvas.raw_line(14.0, top - 2.0, canvas.right(), top - 2.0, "rule");
    canvas.text(14.0, top + BAR + 8.0, Anchor::Start, "name", &fit(&lane.name, 20));
    canvas.text(14.0, top + BAR + 22.0, Anchor::Start, "role", role(lane.kind));
    bars(canvas, lane, top + BAR);
    hooks(canvas, lane, top + BAR - HOOK_HEIGHT - 2.0);
    for (i, kind) in probes(lane).into_iter().enumerate() {
        probe_row(canvas, lane, kind, top + PROBES + PROBE_ROW * i as f64, end);
    }
    let exits = top + PROBES + PROBE_ROW * probes(lane).len() as f64 + 11.0;
    points(canvas, lane, top + SIGNALS, top + BAR, exits);
}

fn bars(canvas: &mut Canvas, lane: &Lane, y: f64) {
    let running: Vec<&Span> = lane.spans.iter().filter(|s| s.what == SpanKind::Running).collect();
    let title = |what: &str, span: &Span| {
        format!("{}: {what}, {} s to {} s", lane.name, short(span.from), short(span.to))
    };
    for span in &lane.spans {
        match &span.what {
            SpanKind::Waiting { reason } if &**reason != "CrashLoopBackOff" => {
                canvas.rect(span.from, span.to, y + 6.0, BAR_HEIGHT - 12.0, "wait", &title(reason, span));
                canvas.inside(span.from, span.to, y + 14.0, "wait-label", reason);
            }
            SpanKind::BackOff { delay } if !delay.is_zero() => {
                let label = format!("back-off {} s", short(*delay));
                canvas.rect(span.from, span.to, y + 3.0, BAR_HEIGHT - 6.0, "backoff", &title(&label, span));
                canvas.inside(span.from, span.to, y + 14.0, "backoff-label", &label);
            }
            _ => {}
        }
    }
    for life in &running {
        canvas.rect(life.from, life.to, y, BAR_HEIGHT, "run", &title("running", life));
    }
    // The API keeps `ready` of a finished init for ever; here is shown what a process was.
    let api = [(SpanKind::Started, "started", "started"), (SpanKind::Ready, "ready", "ready")];
    for (kind, class, word) in api {
        for span in lane.spans.iter().filter(|s| s.what == kind) {
            for life in &running {
                let (from, to) = (span.from.max(life.from), span.to.min(life.to));
                if from < to {
                    let title = format!("{}: {word}, {} s to {} s", lane.name, short(from), short(to));
                    canvas.rect(from, to, y, BAR_HEIGHT, class, &title);
                }
            }
        }
    }
    for span in &lane.spans {
        if let SpanKind::Stopping { why } = &span.what {
            let title = format!(
                "{}: being stopped ({why}), {} s to {} s",
                lane.name,
                short(span.from),
                short(span.to)
            );
            canvas.rect(span.from, span.to, y + BAR_HEIGHT - 6.0, 6.0, "stopping", &title);
        }
    }
    for life in running {
        let mut label = if life.attempt > 0 { format!("↻{}", life.attempt) } else { String::new() };
        if life.open {
            label.push_str(" …");
        }
        canvas.inside(life.from, life.to, y + 13.0, "bar-label", label.trim());
    }
}

fn hooks(canvas: &mut Canvas, lane: &Lane, y: f64) {
    for span in &lane.spans {
        let SpanKind::Hook { hook, ok } = &span.what else { continue };
        let end = match (ok, span.open) {
            (_, true) => "goes on",
            (Some(true), _) => "done",
            (Some(false), _) => "failed",
            (None, _) => "cut off",
        };
        let class = if *ok == Some(false) || (ok.is_none() && !span.open) { "hook hook-bad" } else { "hook" };
        let title =
            format!("{}: {} {end}, {} s to {} s", lane.name, hook.name(), short(span.from), short(span.to));
        canvas.rect(span.from, span.to, y, HOOK_HEIGHT, class, &title);
        let label = if end == "done" { hook.name().to_owned() } else { format!("{} {end}", hook.name()) };
        // The row above is that of the signals: a label gives way to theirs.
        let from = canvas.x(span.from) + 2.0;
        let to = from + canvas::text_width(&label, 10.0);
        let signal = |p: &At<Point>| matches!(p.is(), Point::Signal { .. });
        let taken = lane.points.iter().filter(|p| signal(p)).any(|p| {
            let x = canvas.x(p.at);
            x < to && x + 32.0 > from
        });
        if !taken {
            canvas.text(from, y - 2.0, Anchor::Start, "hook-label", &label);
        }
    }
}

/// One row of dots; where they would touch, a line with the colour of what was answered.
fn probe_row(canvas: &mut Canvas, lane: &Lane, kind: ProbeKind, y: f64, end: Time) {
    canvas.text(canvas.left() - 8.0, y + 3.0, Anchor::End, "probe-name", kind.name());
    let answers: Vec<(Time, ProbeOutcome)> = lane
        .points
        .iter()
        .filter_map(|p| match p.is() {
            Point::Probe { probe, outcome, .. } if *probe == kind => Some((p.at, *outcome)),
            _ => None,
        })
        .collect();
    let mut i = 0;
    while i < answers.len() {
        let (from, outcome) = answers[i];
        let mut last = i;
        while last + 1 < answers.len()
            && answers[last + 1].1 == outcome
            && canvas.x(answers[last + 1].0) - canvas.x(answers[last].0) < 7.0
        {
            last += 1;
        }
        let (class, word) = look(outcome);
        let count = last - i + 1;
        if count > 2 {
            let title = format!(
                "{}: {} probe, {count} times {word}, {} s to {} s",
                lane.name,
                kind.name(),
                short(from),
                short(answers[last].0)
            );
            canvas.rect(from, answers[last].0.min(end), y - 2.0, 4.0, class, &title);
        } else {
            for (at, _) in &answers[i..=last] {
                let title = format!("{}: {} probe, {word}, {} s", lane.name, kind.name(), short(*at));
                canvas.dot(canvas.x(*at), y, class, &title);
            }
        }
        i = last + 1;
    }
}

/// Signals above the bar, exits below it. A label that would cover the one before it is left to the tooltip.
fn points(canvas: &mut Canvas, lane: &Lane, signals: f64, bar: f64, exits: f64) {
    let (mut signal_end, mut exit_end) = (f64::MIN, f64::MIN);
    for point in &lane.points {
        let x = canvas.x(point.at);
        match point.is() {
            Point::Signal { signal, .. } => {
                let name = signal.to_string();
                let class = if signal.is_kill() { "signal kill" } else { "signal" };
                let title = format!("{}: {name} at {} s", lane.name, short(point.at));
                canvas.arrow(x, signals + 2.0, bar, class, &title);
                let label = name.trim_start_matches("SIG").to_owned();
                let (from, width) = (x + 4.0, canvas::text_width(&label, 10.0));
                if from > signal_end {
                    canvas.text(from, signals + 3.0, Anchor::Start, class, &label);
                    signal_end = from + width;
                } else if signal.is_kill() {
                    // The end of it all must not go unnamed: a second row, a little lower.
                    canvas.text(from, signals + 13.0, Anchor::Start, class, &label);
                }
            }
            Point::Exit { exit, reason, .. } => {
                let good = exit.code == 0;
                let title = format!("{}: exited {} {reason} at {} s", lane.name, exit.code, short(point.at));
                canvas.exit(x, bar + BAR_HEIGHT / 2.0, good, &title);
                let at = short(point.at);
                let label = match (good, &**reason) {
                    (true, _) => format!("exit 0, {at} s"),
                    (false, "Error") => format!("exit {}, {at} s", exit.code),
                    (false, reason) => format!("exit {} {reason}, {at} s", exit.code),
                };
                let width = canvas::text_width(&label, 10.0);
                let from = (x - width / 2.0).min(canvas.right() + 34.0 - width).max(canvas.left());
                if from > exit_end {
                    let class = if good { "exit-label" } else { "exit-label exit-bad" };
                    canvas.text(from, exits, Anchor::Start, class, &label);
                    exit_end = from + width + 4.0;
                }
            }
            Point::StartFailed { reason } => {
                let title = format!("{}: {reason} at {} s", lane.name, short(point.at));
                canvas.exit(x, bar + BAR_HEIGHT / 2.0, false, &title);
                let from = x + 6.0;
                if from > exit_end {
                    canvas.text(from, exits, Anchor::Start, "exit-label exit-bad", reason);
                    exit_end = from + canvas::text_width(reason, 10.0) + 4.0;
                }
            }
            Point::Start { .. } | Point::Probe { .. } => {}
        }
    }
}

/// The kinds of probes that were ever made.
fn probes(lane: &Lane) -> Vec<ProbeKind> {
    let all = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
    let made = |kind: &ProbeKind| {
        lane.points.iter().any(|p| matches!(p.is(), Point::Probe { probe, .. } if probe == kind))
    };
    all.into_iter().filter(made).collect()
}

fn look(outcome: ProbeOutcome) -> (&'static str, &'static str) {
    match outcome {
        ProbeOutcome::Success => ("probe-ok", "success"),
        ProbeOutcome::Failure => ("probe-bad", "failure"),
        ProbeOutcome::Error => ("probe-error", "error"),
    }
}

fn role(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init => "init",
        ContainerKind::Sidecar => "sidecar",
        ContainerKind::App => "app",
    }
}

fn fit(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

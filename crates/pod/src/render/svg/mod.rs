//! A timeline as one self-contained SVG picture.
//!
//! From top to bottom: the pod's phase and what `kubectl get pods` shows; a lane for each container with its process,
//! probes, hooks, signals and exits; the script and the grace budget across all of them; a legend.

mod canvas;
mod lane;

pub(super) use self::canvas::escape;
use self::canvas::{Anchor, Canvas};
use super::{ending, short, word};
use crate::{
    machine::Time,
    simulate::timeline::{Lane, PodStop, Timeline},
};

/// The width of a picture, in pixels, unless another is asked for.
pub const WIDTH: f64 = 1280.0;
/// Where time begins.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 64.0;
/// The height of the phase and of the status.
const BAND: f64 = 20.0;

/// The picture, as wide as a page.
pub fn picture(timeline: &Timeline) -> String {
    draw(timeline, WIDTH)
}

/// The picture in a given width in pixels, which is at least 600.
pub fn draw(timeline: &Timeline, width: f64) -> String {
    let width = width.max(600.0);
    // A little more than was recorded, so that the last state can be seen.
    let span = timeline.end.as_secs_f64().max(1.0) * 1.03;
    let mut canvas = Canvas::new(width, LEFT, width - RIGHT, span);
    let script_rows = script_rows(&canvas, timeline);
    let bands = TOP + 18.0 * script_rows as f64;
    let lanes_top = bands + 2.0 * (BAND + 6.0) + 14.0;
    let tops = lane_tops(timeline, lanes_top);
    let bottom = tops.last().copied().unwrap_or(lanes_top);
    header(&mut canvas, timeline);
    grid(&mut canvas, bands - 4.0, bottom);
    for stop in &timeline.stops {
        budget(&mut canvas, stop, bands - 4.0, bottom);
    }
    phases(&mut canvas, timeline, bands);
    statuses(&mut canvas, timeline, bands + BAND + 6.0);
    for (lane, top) in timeline.lanes.iter().zip(&tops) {
        lane::draw(&mut canvas, lane, *top, timeline.end);
    }
    script(&mut canvas, timeline, bottom);
    let mut y = bottom + 12.0;
    for stop in &timeline.stops {
        budget_bar(&mut canvas, timeline, stop, y);
        y += 42.0;
    }
    legend(&mut canvas, y + 6.0);
    canvas.finish(y + 62.0)
}

fn header(canvas: &mut Canvas, timeline: &Timeline) {
    canvas.text(14.0, 26.0, Anchor::Start, "title", &timeline.pod);
    let line = format!(
        "{} after {} s: {}   ·   Kubernetes {}, {} timing",
        word(timeline.phase()),
        short(timeline.end),
        ending(timeline),
        timeline.kubernetes,
        timeline.timing
    );
    canvas.text(14.0, 46.0, Anchor::Start, "sub", &line);
}

fn grid(canvas: &mut Canvas, top: f64, bottom: f64) {
    for (at, label) in canvas.ticks() {
        let x = canvas.x(at);
        canvas.line(x, top, x, bottom, "grid");
        canvas.text(x, top - 4.0, Anchor::Middle, "tick", &label);
    }
}

fn phases(canvas: &mut Canvas, timeline: &Timeline, y: f64) {
    canvas.text(14.0, y + 14.0, Anchor::Start, "band-name", "phase");
    for (i, change) in timeline.phases.iter().enumerate() {
        let to = timeline.phases.get(i + 1).map_or(canvas.end(), |next| next.at);
        let name = word(change.is().phase);
        let label = match &change.is().reason {
            Some(reason) => format!("{name} ({reason})"),
            None => name.clone(),
        };
        canvas.band(change.at, to, y, BAND, &format!("phase-{}", name.to_lowercase()), &[&label, &name]);
    }
}

fn statuses(canvas: &mut Canvas, timeline: &Timeline, y: f64) {
    canvas.text(14.0, y + 14.0, Anchor::Start, "band-name", "kubectl get pods");
    for (i, change) in timeline.kubectl.iter().enumerate() {
        let to = timeline.kubectl.get(i + 1).map_or(canvas.end(), |next| next.at);
        let columns = change.is();
        let restarts = match columns.restarts {
            0 => String::new(),
            n => format!(" ↻{n}"),
        };
        let label = format!("{}/{} {}{restarts}", columns.ready, columns.of, columns.status);
        let ready = format!("{}/{}", columns.ready, columns.of);
        canvas.band(change.at, to, y, BAND, "status", &[&label, &columns.status, &ready]);
    }
}

/// The time in which the grace lasts, over all lanes.
fn budget(canvas: &mut Canvas, stop: &PodStop, top: f64, bottom: f64) {
    let deadline = deadline(stop);
    let to = if stop.open { deadline } else { stop.to.min(deadline) };
    canvas.rect(stop.from, to, top, bottom - top, "grace", "");
    if (stop.open || stop.to >= deadline) && deadline.as_secs_f64() <= canvas.span() {
        let x = canvas.x(deadline);
        canvas.line(x, top, x, bottom, "deadline");
        canvas.text(x - 4.0, top + 2.0 * (BAND + 6.0) + 12.0, Anchor::End, "deadline-label", "grace is over");
    }
}

/// How much of the budget was used, and whose end was waited for.
fn budget_bar(canvas: &mut Canvas, timeline: &Timeline, stop: &PodStop, y: f64) {
    canvas.text(14.0, y + 13.0, Anchor::Start, "band-name", "grace budget");
    let deadline = deadline(stop);
    canvas.rect(stop.from, deadline.min(canvas.end()), y, 16.0, "budget-frame", "");
    let shares = shares(timeline, stop);
    let mut from = stop.from;
    for (i, (to, name)) in shares.iter().enumerate() {
        let took = short(to.saturating_sub(from));
        let late = to.saturating_sub(deadline).as_secs_f64() > 0.5;
        let class = if late { "budget-over" } else { ["budget-a", "budget-b"][i % 2] };
        canvas.band(from, *to, y, 16.0, class, &[&format!("{name} {took} s"), name]);
        from = *to;
    }
    let used = short(stop.to.saturating_sub(stop.from));
    let open = if stop.open { " so far" } else { "" };
    let most = shares.iter().zip(std::iter::once(stop.from).chain(shares.iter().map(|s| s.0)));
    let most = most.map(|((to, name), from)| (to.saturating_sub(from), name)).max_by_key(|(took, _)| *took);
    let eater = match most {
        Some((took, name)) if !took.is_zero() => format!("; {} s of it for {name}", short(took)),
        _ => String::new(),
    };
    let label = format!("{used} of {} s used{open} after: {}{eater}", stop.grace, stop.why);
    let x = canvas.x(stop.from).min(canvas.right() - canvas::text_width(&label, 11.0)).max(LEFT);
    canvas.text(x, y + 30.0, Anchor::Start, "label", &label);
}

/// The ends within a stop, in order: from each one to the next the pod waited for that container.
fn shares(timeline: &Timeline, stop: &PodStop) -> Vec<(Time, String)> {
    let exits = |lane: &Lane| {
        let within = lane.exits().map(|(at, _)| at).filter(|at| *at > stop.from && *at <= stop.to);
        within.last().map(|at| (at, lane.name.to_string()))
    };
    let mut ends: Vec<_> = timeline.lanes.iter().filter_map(exits).collect();
    ends.sort();
    ends
}

/// Flags of what the script did, in as many rows as they need.
fn script(canvas: &mut Canvas, timeline: &Timeline, bottom: f64) {
    let mut ends: Vec<f64> = Vec::new();
    for step in &timeline.script {
        let x = canvas.x(step.at);
        let width = canvas::text_width(step.is(), 11.0) + 10.0;
        let row = free_row(&mut ends, x, width);
        let y = TOP + 18.0 * row as f64 - 14.0;
        let flip = x + width > canvas.right() + RIGHT - 4.0;
        canvas.line(x, y + 2.0, x, bottom, "script");
        let label_x = if flip { x - width } else { x };
        canvas.raw_rect(label_x, y - 11.0, width, 15.0, "flag");
        canvas.text(label_x + 5.0, y, Anchor::Start, "flag-label", step.is());
    }
}

fn script_rows(canvas: &Canvas, timeline: &Timeline) -> usize {
    let mut ends = Vec::new();
    for step in &timeline.script {
        free_row(&mut ends, canvas.x(step.at), canvas::text_width(step.is(), 11.0) + 10.0);
    }
    ends.len()
}

/// The first row whose labels end before `x`.
fn free_row(ends: &mut Vec<f64>, x: f64, width: f64) -> usize {
    let row = ends.iter().position(|end| *end < x).unwrap_or(ends.len().min(5));
    if row == ends.len() {
        ends.push(0.0);
    }
    ends[row] = x + width + 4.0;
    row
}

fn legend(canvas: &mut Canvas, y: f64) {
    let entries = [
        ("wait", "waiting"),
        ("backoff", "back-off"),
        ("run", "running"),
        ("started", "started"),
        ("ready", "ready"),
        ("stopping", "being stopped"),
        ("hook", "hook"),
        ("probe-ok", "probe succeeds"),
        ("probe-bad", "probe fails"),
        ("grace", "grace lasts"),
    ];
    let mut x = 14.0;
    for (class, label) in entries {
        if class.starts_with("probe") {
            canvas.dot(x + 7.0, y + 8.0, class, "");
        } else {
            canvas.raw_rect(x, y + 2.0, 16.0, 12.0, class);
        }
        canvas.text(x + 21.0, y + 12.0, Anchor::Start, "label", label);
        x += 32.0 + canvas::text_width(label, 11.0);
    }
    let second = "↓ signal \u{2003} ○ exit 0 \u{2003} ✕ exit with another code, and why \u{2003} ↻ restarts \u{2003} time is \
                  seconds since the pod was created \u{2003} point at anything for its details";
    canvas.text(14.0, y + 34.0, Anchor::Start, "label", second);
}

fn lane_tops(timeline: &Timeline, top: f64) -> Vec<f64> {
    let mut y = top;
    let mut tops = Vec::with_capacity(timeline.lanes.len() + 1);
    for lane in &timeline.lanes {
        tops.push(y);
        y += lane::height(lane);
    }
    tops.push(y);
    tops
}

fn deadline(stop: &PodStop) -> Time {
    stop.from.saturating_add(Time::from_secs(u64::try_from(stop.grace).unwrap_or(0)))
}

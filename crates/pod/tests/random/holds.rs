//! What holds for every pod under whatever happens to it, asked of the timeline of a simulation.

use std::time::Duration;

use testground_pod::machine::{ContainerKind, Settings, Timing};
use testground_pod::simulate::timeline::{Lane, Point, SpanKind, Timeline};

/// A pod that is stopped ends within its grace period and two seconds.
pub(crate) fn ends_in_time(timeline: &Timeline, settings: &Settings) -> Result<(), String> {
    for stop in timeline.stops.iter().filter(|stop| !stop.open) {
        // The runtime of `kubelet` timing takes some milliseconds for each call, and what is waited for in fractions of
        // a second is cut to whole ones (R49): up to two seconds.
        let slack = if settings.timing == Timing::Ideal { 0.0 } else { 2.5 };
        let allowed = (stop.grace.max(0) as f64) + 2.0 + slack;
        let took = (stop.to - stop.from).as_secs_f64();
        if took > allowed + 0.001 {
            return Err(format!("{} took {took}, grace {}", stop.why, stop.grace));
        }
    }
    for stop in timeline.stops.iter().filter(|stop| stop.open) {
        if (stop.to - stop.from).as_secs_f64() > stop.grace.max(0) as f64 + 4.5 {
            return Err(format!("{}, grace {}, never ends", stop.why, stop.grace));
        }
    }
    Ok(())
}

/// No sidecar is told to stop while apps run and the grace period lasts.
pub(crate) fn sidecars_outlive_apps(timeline: &Timeline) -> Result<(), String> {
    for stop in &timeline.stops {
        let over = stop.from + Duration::from_secs(stop.grace.max(0).unsigned_abs());
        for lane in timeline.lanes.iter().filter(|lane| lane.kind == ContainerKind::Sidecar) {
            for point in &lane.points {
                let in_stop =
                    point.at >= stop.from && point.at < stop.to && point.at + Duration::from_secs(2) < over;
                if !in_stop || !matches!(point.is(), Point::Signal { .. }) || told_by_hook(lane, point.at) {
                    continue;
                }
                let apps = timeline.lanes.iter().filter(|lane| lane.kind == ContainerKind::App);
                let alive: Vec<_> = apps.filter(|app| runs_at(app, point.at)).map(|app| &app.name).collect();
                if !alive.is_empty() {
                    return Err(format!(
                        "{} is told to stop at {:?} while {alive:?} run",
                        lane.name, point.at
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Restart counts never fall, as long as no sandbox is lost: a new one starts inits and sidecars with a count of 0 (R61).
pub(crate) fn counts_never_fall(timeline: &Timeline) -> Result<(), String> {
    for lane in &timeline.lanes {
        let counts: Vec<u32> = lane.statuses.iter().map(|status| status.is().restart_count).collect();
        if !counts.is_sorted() {
            return Err(format!("{}: {counts:?}", lane.name));
        }
    }
    Ok(())
}

fn runs_at(lane: &Lane, at: Duration) -> bool {
    lane.spans.iter().any(|span| span.what == SpanKind::Running && span.from < at && at < span.to)
}

/// A hook of the container itself that stops it.
fn told_by_hook(lane: &Lane, at: Duration) -> bool {
    lane.spans.iter().any(|span| matches!(span.what, SpanKind::Hook { .. }) && span.to == at)
        || lane
            .points
            .iter()
            .any(|p| p.at == at && matches!(p.is(), Point::Signal { signal, .. } if signal.is_kill()))
}

/// Lives follow one another: each starts after the one before has ended, and ends once.
pub(crate) fn lanes_make_sense(timeline: &Timeline) -> Result<(), String> {
    for lane in &timeline.lanes {
        let mut alive: Option<u32> = None;
        for point in &lane.points {
            match point.is() {
                Point::Start { attempt, .. } => {
                    if alive.is_some() {
                        return Err(format!("{} starts twice at {:?}", lane.name, point.at));
                    }
                    alive = Some(*attempt);
                }
                Point::Exit { attempt, .. } => {
                    if alive != Some(*attempt) {
                        return Err(format!("{} ends without a start at {:?}", lane.name, point.at));
                    }
                    alive = None;
                }
                Point::Signal { attempt, .. } if alive != Some(*attempt) => {
                    return Err(format!(
                        "{} is sent a signal while it does not run at {:?}",
                        lane.name, point.at
                    ));
                }
                _ => {}
            }
        }
        for span in &lane.spans {
            if span.from > span.to && !matches!(span.what, SpanKind::BackOff { .. }) {
                return Err(format!("{} has a span that ends before it begins: {span:?}", lane.name));
            }
        }
    }
    Ok(())
}

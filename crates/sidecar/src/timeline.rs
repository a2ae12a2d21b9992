//! Declared changes of links over the run's time: what is in force at a moment, and when that changes next.
//!
//! Pure: the moment is an argument. Whose packets a change covers is decided in [`crate::plan`]; whether a timeline
//! makes sense is checked where the composition is read.

use std::sync::Arc;
use std::time::Duration;

use testground_model::shape::{Chance, Filter, LinkShape, Loss};
use testground_model::topology::{Action, Change, Endpoint, Link};

use crate::plan::{Later, Lift, Overlay, Schedule, contains, words};
use crate::show::{describe, seconds};

#[cfg(test)]
mod tests;

/// The changes of a run in the order of their times. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Timeline {
    entries: Arc<[Entry]>,
}

/// What the timeline says for one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// The changes in force; later ones win.
    pub overlays: Vec<Overlay>,
    /// What partial heals take back.
    pub lifts: Vec<Lift>,
    /// When anything changes next; `None`: never again.
    pub next: Option<Duration>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    change: Change,
    /// What holds for the same links without this change: where a ramp starts, and what a trace leaves as it is.
    base: LinkShape,
    schedule: Option<Arc<Schedule>>,
}

/// What an entry does at a moment after its start.
enum Effect {
    Shape(LinkShape),
    /// The shape, and when packets leave.
    Follow(LinkShape, Arc<Schedule>),
    Heal,
    /// Nothing: between two downs of a flap, after the end of a trace.
    Nothing,
}

/// A ramp moves in this many steps, as far as each then takes between [`SHORTEST_STEP`] and [`LONGEST_STEP`].
const RAMP_STEPS: u32 = 100;
const SHORTEST_STEP: Duration = Duration::from_millis(20);
const LONGEST_STEP: Duration = Duration::from_secs(1);

// === impl Timeline ===

impl Timeline {
    /// The timeline of a run. The links are those declared from the start: a ramp of a link that no earlier change
    /// covers starts at the shape of the last declared link that covers it.
    pub fn new(changes: &[Change], links: &[Link]) -> Timeline {
        let mut changes: Vec<Change> = changes.to_vec();
        changes.sort_by_key(|c| c.at);
        let mut entries: Vec<Entry> = Vec::with_capacity(changes.len());
        for (id, change) in changes.into_iter().enumerate() {
            let base = change.base.clone().unwrap_or_else(|| base(&entries, &change, links));
            let schedule = match &change.action {
                Action::Trace { opportunities, repeat } => {
                    Schedule::new(opportunities, *repeat, change.at, Schedule::window(&base)).map(Arc::new)
                }
                _ => None,
            };
            entries.push(Entry { id: id as u32, change, base, schedule });
        }
        Timeline { entries: entries.into() }
    }

    /// What is in force at a moment of the run's clock.
    pub fn at(&self, now: Duration) -> Moment {
        let mut moment = Moment { overlays: Vec::new(), lifts: Vec::new(), next: None };
        let mut later = |at: Option<Duration>| {
            if let Some(at) = at.filter(|at| *at > now) {
                moment.next = Some(moment.next.map_or(at, |next| next.min(at)));
            }
        };
        // From the last to the first, so that what a later change hides altogether is left out.
        let mut hiding: Vec<&Change> = Vec::new();
        for entry in self.entries.iter().rev() {
            let change = &entry.change;
            if change.at > now {
                later(Some(change.at));
                continue;
            }
            if hiding.iter().any(|h| governs(h, change)) {
                continue;
            }
            later(entry.next(now));
            let (id, both_ways) = (entry.id, change.both_ways);
            let (from, to, network) = (change.from.clone(), change.to.clone(), change.network.clone());
            let (shape, schedule) = match entry.effect(now) {
                Effect::Nothing => continue,
                Effect::Heal => {
                    moment.lifts.push(Lift { id, from, to, both_ways, network });
                    hiding.push(change);
                    continue;
                }
                Effect::Shape(shape) => (Arc::new(shape), None),
                Effect::Follow(shape, schedule) => (Arc::new(shape), Some(schedule)),
            };
            moment.overlays.push(Overlay { id, from, to, both_ways, network, shape, schedule });
            hiding.push(change);
        }
        moment.overlays.reverse();
        moment.lifts.retain(|lift| moment.overlays.iter().any(|o| o.id < lift.id));
        moment.lifts.reverse();
        moment
    }

    /// The shapes that changes give their links, change by change: of a ramp where it starts, the step in its middle, and where
    /// it ends; of a trace what it leaves as it is, and the trace. Both states of a flap are those of a cut and a heal.
    pub fn shapes(&self) -> Vec<Later> {
        let mut shapes = Vec::new();
        for entry in self.entries.iter() {
            for now in entry.telling() {
                let (shape, follows) = match entry.effect(now) {
                    Effect::Shape(shape) => (shape, None),
                    Effect::Follow(shape, schedule) => (shape, Some(schedule)),
                    Effect::Heal | Effect::Nothing => continue,
                };
                let Change { from, to, both_ways, network, .. } = entry.change.clone();
                shapes.push(Later { at: now, link: Link { from, to, both_ways, network, shape }, follows });
            }
        }
        shapes
    }

    /// When each change begins, and what is told of it then, by time.
    pub fn beginnings(&self) -> Vec<(Duration, String)> {
        let begins = |entry: &Entry| entry.told(None, entry.change.at).into_iter().next();
        self.entries.iter().filter_map(begins).collect()
    }

    /// What happened after one moment (from the very start: `None`) up to another, in words, by time.
    pub fn told(&self, after: Option<Duration>, upto: Duration) -> Vec<(Duration, String)> {
        let mut told: Vec<(Duration, String)> =
            self.entries.iter().flat_map(|entry| entry.told(after, upto)).collect();
        told.retain(|(at, _)| after.is_none_or(|after| *at > after) && *at <= upto);
        told.sort_by_key(|(at, _)| *at);
        told
    }
}

// === impl Entry ===

impl Entry {
    /// What the change does `now`, which is not before it.
    fn effect(&self, now: Duration) -> Effect {
        let into = now.saturating_sub(self.change.at);
        let cut = || Effect::Shape(LinkShape { filter: Filter::Drop, ..LinkShape::default() });
        match &self.change.action {
            Action::Partition => cut(),
            Action::Heal => Effect::Heal,
            Action::Shape(shape) => Effect::Shape(shape.clone()),
            Action::Ramp { to, over } => Effect::Shape(between(&self.base, to, share(into, *over))),
            Action::Flap { down, up, times } => match flap(into, *down, *up, *times) {
                Some((_, true, _)) => cut(),
                _ => Effect::Nothing,
            },
            Action::Trace { .. } => match &self.schedule {
                Some(schedule) if schedule.repeats() || into < schedule.length() => {
                    let shape = LinkShape { bandwidth: None, ..self.base.clone() };
                    Effect::Follow(shape, Arc::clone(schedule))
                }
                _ => Effect::Nothing,
            },
        }
    }

    /// The moments whose shapes stand for all that the change brings.
    fn telling(&self) -> Vec<Duration> {
        let at = self.change.at;
        match &self.change.action {
            Action::Ramp { over, .. } => {
                let step = step_of(*over);
                let steps = (over.as_nanos() / step.as_nanos()) as u32;
                let middle = (steps >= 2).then(|| at + step * (steps / 2));
                [Some(at), middle, Some(at + *over)].into_iter().flatten().collect()
            }
            _ => vec![at],
        }
    }

    /// When the change does something else after `now`, which is not before it.
    fn next(&self, now: Duration) -> Option<Duration> {
        let into = now.saturating_sub(self.change.at);
        let next = match &self.change.action {
            Action::Ramp { over, .. } if into < *over => {
                let step = step_of(*over);
                let done = (into.as_nanos() / step.as_nanos()) as u32;
                Some((step * (done + 1)).min(*over))
            }
            Action::Flap { down, up, times } => flap(into, *down, *up, *times).map(|(_, _, end)| end),
            Action::Trace { repeat: false, .. } => {
                self.schedule.as_ref().map(|s| s.length()).filter(|length| into < *length)
            }
            _ => None,
        };
        next.map(|next| self.change.at + next)
    }

    fn told(&self, after: Option<Duration>, upto: Duration) -> Vec<(Duration, String)> {
        let Change { at, from, to, both_ways, .. } = &self.change;
        if *at > upto {
            return Vec::new();
        }
        let arrow = if *both_ways { "<->" } else { "->" };
        let links = format!("{} {arrow} {}", words(from), words(to));
        match &self.change.action {
            Action::Partition => vec![(*at, format!("partition {links}"))],
            Action::Heal => vec![(*at, format!("heal {links}"))],
            Action::Shape(shape) => vec![(*at, format!("{links}: {}", describe(shape)))],
            Action::Ramp { to, over } => vec![
                (*at, format!("{links}: ramp over {} to {}", seconds(*over), describe(to))),
                (*at + *over, format!("{links}: ramp done: {}", describe(to))),
            ],
            Action::Flap { down, up, times } => {
                // Only those in the window: a flap may have millions.
                let cycle = *down + *up;
                let count = |moment: Duration| {
                    let into = moment.saturating_sub(*at);
                    into.as_nanos().checked_div(cycle.as_nanos()).unwrap_or(0).min(u128::from(*times)) as u32
                };
                let first = after.map_or(0, count);
                (first..=count(upto))
                    .filter(|n| n < times)
                    .flat_map(|n| {
                        let start = *at + cycle * n;
                        let which = format!("({} of {times})", n + 1);
                        [
                            (start, format!("{links} down {which}")),
                            (start + *down, format!("{links} up {which}")),
                        ]
                    })
                    .collect()
            }
            Action::Trace { repeat, .. } => {
                let length = self.schedule.as_ref().map_or(Duration::ZERO, |s| s.length());
                let again = if *repeat { ", again and again" } else { "" };
                let mut told =
                    vec![(*at, format!("{links}: bandwidth follows a trace of {}{again}", seconds(length)))];
                if !repeat {
                    told.push((*at + length, format!("{links}: the bandwidth trace is over")));
                }
                told
            }
        }
    }
}

/// What holds for a change's links just before it: the last change that covers them all, else the last such link.
fn base(earlier: &[Entry], change: &Change, links: &[Link]) -> LinkShape {
    for entry in earlier.iter().rev().filter(|e| governs(&e.change, change)) {
        match (&entry.change.action, entry.effect(change.at)) {
            // What a cut hides is still what a ramp starts from.
            (Action::Partition | Action::Flap { .. }, _) | (_, Effect::Nothing) => {}
            (_, Effect::Shape(shape)) => return shape,
            (_, Effect::Follow(..)) => return entry.base.clone(),
            (_, Effect::Heal) => break,
        }
    }
    let declared = links
        .iter()
        .rev()
        .find(|l| l.network == change.network && covers_all(&l.from, &l.to, l.both_ways, change));
    declared.map(|l| l.shape.clone()).unwrap_or_default()
}

/// Whether one change covers every pair that another does.
fn governs(outer: &Change, inner: &Change) -> bool {
    outer.network == inner.network && covers_all(&outer.from, &outer.to, outer.both_ways, inner)
}

fn covers_all(from: &Endpoint, to: &Endpoint, both_ways: bool, inner: &Change) -> bool {
    let covers = |f: &Endpoint, t: &Endpoint| {
        contains(from, f) && contains(to, t) || both_ways && contains(to, f) && contains(from, t)
    };
    covers(&inner.from, &inner.to) && (!inner.both_ways || covers(&inner.to, &inner.from))
}

/// Which down of a flap a moment belongs to (from 0), whether the links are down, and until when into the flap.
fn flap(into: Duration, down: Duration, up: Duration, times: u32) -> Option<(u32, bool, Duration)> {
    let cycle = down + up;
    if cycle.is_zero() {
        return None;
    }
    let n = into.as_nanos() / cycle.as_nanos();
    let n = u32::try_from(n).ok().filter(|n| *n < times)?;
    let start = cycle * n;
    let is_down = into < start + down;
    Some((n, is_down, if is_down { start + down } else { start + cycle }))
}

/// How far two steps of a ramp are apart.
fn step_of(over: Duration) -> Duration {
    (over / RAMP_STEPS).clamp(SHORTEST_STEP, LONGEST_STEP)
}

fn share(into: Duration, over: Duration) -> f64 {
    if into >= over { 1.0 } else { into.as_secs_f64() / over.as_secs_f64() }
}

/// The shape that is this share (0 to 1) of the way from one to another. What has no straight line between (filter,
/// queue, the kind of loss or of jitter) is the target's from the start; so is a bandwidth where there was none, and
/// a bandwidth that goes away does so at the end.
fn between(from: &LinkShape, to: &LinkShape, share: f64) -> LinkShape {
    if share >= 1.0 {
        return to.clone();
    }
    let number = |a: f64, b: f64| a + (b - a) * share;
    let time = |a: Duration, b: Duration| Duration::from_secs_f64(number(a.as_secs_f64(), b.as_secs_f64()));
    let chance = |a: Chance, b: Chance| Chance {
        percent: number(a.percent, b.percent),
        correlation: number(a.correlation, b.correlation),
    };
    let mut shape = to.clone();
    shape.latency = time(from.latency, to.latency);
    shape.jitter.spread = time(from.jitter.spread, to.jitter.spread);
    shape.jitter.correlation = number(from.jitter.correlation, to.jitter.correlation);
    shape.bandwidth = match (from.bandwidth, to.bandwidth) {
        (Some(a), Some(b)) => Some(number(a as f64, b as f64) as u64),
        (a, b) => b.or(a),
    };
    shape.loss = match (from.loss, to.loss) {
        (Loss::Random(a), Loss::Random(b)) => Loss::Random(chance(a, b)),
        (
            Loss::GilbertElliott { p, r, bad, good },
            Loss::GilbertElliott { p: p2, r: r2, bad: bad2, good: good2 },
        ) => Loss::GilbertElliott {
            p: number(p, p2),
            r: number(r, r2),
            bad: number(bad, bad2),
            good: number(good, good2),
        },
        (_, target) => target,
    };
    shape.corrupt = chance(from.corrupt, to.corrupt);
    shape.reorder = chance(from.reorder, to.reorder);
    shape.duplicate = chance(from.duplicate, to.duplicate);
    shape
}

//! The timeline of a run: changes by time, with contradictions refused.
//!
//! `set` and `ramp` name single settings, and what they don't name stays as declared. A [`Change`] carries whole
//! shapes, so such an entry becomes one change for each part of it whose links were declared differently.

use std::time::Duration;

use super::Resolver;
use super::network::{Scene, same_instance};
use super::scope::{Pair, Scope};
use crate::composition::{ChangeSpec, Deed, ShapeSpec};
use crate::reader::At;
use crate::shape::{Filter, LinkShape, Loss};
use crate::topology::{Action, Change, Endpoint, Link};
use crate::trace;
use crate::units::show_duration;

/// The most changes that one entry can become.
const MAX_PARTS: usize = 4096;

/// An entry with its selectors looked up.
pub(super) struct Entry<'a> {
    pub(super) spec: &'a ChangeSpec,
    pub(super) network: String,
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    /// The ordered pairs of classes that it covers; sorted. Of addresses those that instances begin with count.
    pub(super) pairs: Vec<Pair>,
    /// Whether it names addresses, so that it may cover others by the time.
    pub(super) by_address: bool,
    /// The opportunities of a trace, where the file could be read.
    opportunities: Option<Vec<u64>>,
}

impl Resolver<'_> {
    /// The changes of a run, by time. The run ends at its timeout at the latest.
    pub(super) fn timeline(&self, scene: &Scene<'_>, links: &[Link], timeout: Duration) -> Vec<Change> {
        if self.composition.timeline.is_empty() || scene.counts.is_none() {
            return Vec::new();
        }
        let mut entries: Vec<Entry<'_>> =
            self.composition.timeline.iter().filter_map(|spec| self.entry(spec, scene)).collect();
        entries.sort_by_key(|entry| entry.spec.at.value);
        let ends = entries.iter().map(|e| [&e.from, &e.to]).chain(links.iter().map(|l| [&l.from, &l.to]));
        let scope = Scope::new(scene, ends.flatten());
        for entry in &mut entries {
            let Some(pairs) = scope.pairs(&entry.from, &entry.to, entry.spec.both) else {
                let limit = super::scope::MAX_PAIRS;
                self.error(entry.spec.at.place.error(format!(
                    "it covers more than {limit} pairs of groups; say it in several entries"
                )));
                return Vec::new();
            };
            entry.pairs = pairs;
        }
        let mut changes = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            if entry.spec.at.value >= timeout {
                self.error(entry.spec.at.place.warning(format!(
                    "this never takes place: the run ends at its timeout of {} at the latest",
                    show_duration(timeout)
                )));
            }
            self.check_contradictions(&scope, &entries[..i], entry);
            changes.extend(self.changes(&entries[..i], entry, links, &scope));
        }
        changes
    }

    fn entry<'s>(&self, spec: &'s ChangeSpec, scene: &Scene<'_>) -> Option<Entry<'s>> {
        let network = self.network_name(spec.network.as_ref(), scene);
        let (from, to) =
            (self.endpoint(&spec.from, &network, scene), self.endpoint(&spec.to, &network, scene));
        let (from, to) = (from?, to?);
        if let Some(only) = same_instance(&from, &to, scene) {
            self.error(spec.from.place.warning(format!(
                "this changes nothing: both ends are {only} alone, and an instance has no link to itself"
            )));
            return None;
        }
        let by_address = [&from, &to].iter().any(|end| matches!(end, Endpoint::Subnet(_)));
        let opportunities = match &spec.deed {
            Deed::Trace { file, .. } => self.trace(file),
            _ => None,
        };
        Some(Entry { spec, network, from, to, pairs: Vec::new(), by_address, opportunities })
    }

    /// The changes that an entry stands for.
    fn changes(
        &self,
        earlier: &[Entry<'_>],
        entry: &Entry<'_>,
        links: &[Link],
        scope: &Scope,
    ) -> Vec<Change> {
        let whole = |action: Action| {
            vec![Change {
                at: entry.spec.at.value,
                from: entry.from.clone(),
                to: entry.to.clone(),
                both_ways: entry.spec.both,
                network: entry.network.clone(),
                action,
                base: None,
            }]
        };
        match &entry.spec.deed {
            Deed::Partition => whole(Action::Partition),
            Deed::Heal => whole(Action::Heal),
            Deed::Flap { down, up, times } => {
                whole(Action::Flap { down: down.value, up: up.value, times: *times })
            }
            Deed::Trace { repeat, .. } => match &entry.opportunities {
                Some(opportunities) => {
                    let lines = opportunities.len();
                    let action = Action::Trace { opportunities: opportunities.clone(), repeat: *repeat };
                    let most = MAX_PARTS.min(10 * trace::MAX_OPPORTUNITIES / lines.max(1));
                    self.parts(earlier, entry, links, scope, most, |_| Some(action.clone()))
                }
                None => Vec::new(),
            },
            Deed::Set(settings) => {
                let changes = self.parts(earlier, entry, links, scope, MAX_PARTS, |base| {
                    Some(Action::Shape(settings.over(base)))
                });
                let shapes = changes.iter().filter_map(|change| match &change.action {
                    Action::Shape(shape) => Some(shape.clone()),
                    _ => None,
                });
                self.warn_without_effect(settings, &shapes.collect::<Vec<_>>());
                changes
            }
            Deed::Ramp { to, over } => {
                if !self.check_ramp(to) {
                    return Vec::new();
                }
                self.parts(earlier, entry, links, scope, MAX_PARTS, |base| {
                    self.check_ramp_from(&entry.spec.at, base, to)
                        .then(|| Action::Ramp { to: to.over(base), over: over.value })
                })
            }
        }
    }

    /// One change for each part of an entry whose declared shapes differ; one alone where they don't.
    fn parts(
        &self,
        earlier: &[Entry<'_>],
        entry: &Entry<'_>,
        links: &[Link],
        scope: &Scope,
        most: usize,
        action: impl Fn(&LinkShape) -> Option<Action>,
    ) -> Vec<Change> {
        let at = &entry.spec.at;
        // The different shapes, and for each pair which of them it has.
        let mut shapes: Vec<LinkShape> = Vec::new();
        let mut bases: Vec<usize> = Vec::new();
        for &pair in &entry.pairs {
            let shape = base(scope, earlier, entry, links, pair);
            let known = shapes.iter().position(|s| *s == shape);
            bases.push(known.unwrap_or(shapes.len()));
            if known.is_none() {
                shapes.push(shape);
            }
        }
        if entry.pairs.is_empty() {
            match base_of_addresses(scope, earlier, entry, links) {
                Ok(shape) => shapes.push(shape),
                Err(what) => {
                    self.error(at.place.error(format!(
                        "which shape these addresses have by then can't be told: nobody begins with one of them, and {what} covers a part of them"
                    )));
                    return Vec::new();
                }
            }
        }
        let change =
            |from: Endpoint, to: Endpoint, both_ways: bool, action: Action, base: &LinkShape| Change {
                at: at.value,
                from,
                to,
                both_ways,
                network: entry.network.clone(),
                action,
                base: Some(base.clone()),
            };
        let uniform = shapes.len() <= 1;
        if uniform || entry.by_address {
            if !uniform {
                self.error(at.place.error("these addresses have links of different shapes: name groups, instances or regions instead"));
                return Vec::new();
            }
            let base = shapes.first().cloned().unwrap_or_default();
            let whole = |action| change(entry.from.clone(), entry.to.clone(), entry.spec.both, action, &base);
            return action(&base).map(whole).into_iter().collect();
        }
        let Some(actions) = shapes.iter().map(action).collect::<Option<Vec<Action>>>() else {
            return Vec::new();
        };
        let mut changes = Vec::new();
        let bases: Vec<(&Pair, &usize)> = entry.pairs.iter().zip(&bases).collect();
        for same in bases.chunk_by(|(one, _), (other, _)| (one.0, one.1) == (other.0, other.1)) {
            let (&&pair, &base) = (&same[0].0, same[0].1);
            let (a, b, _) = pair;
            if same.iter().any(|(_, other)| **other != base) {
                self.error(at.place.error(format!(
                    "{} has one shape for IPv4 and another for IPv6 by then, since earlier links or entries name addresses: name addresses here too",
                    scope.show(pair)
                )));
                return Vec::new();
            }
            let (action, base) = (&actions[base], &shapes[base]);
            for from in scope.classes[a].ends() {
                for to in scope.classes[b].ends() {
                    changes.push(change(from.clone(), to, false, action.clone(), base));
                }
            }
            if changes.len() > most {
                self.error(at.place.error(format!(
                    "it covers more than {most} links of different shapes: say it in several entries, for groups or regions as a whole"
                )));
                return Vec::new();
            }
        }
        changes
    }

    /// Refuses settings that don't move in a straight line.
    fn check_ramp(&self, to: &ShapeSpec) -> bool {
        let steps = [
            to.filter.as_ref().map(|s| ("filter", &s.place)),
            to.jitter_distribution.as_ref().map(|s| ("jitter_distribution", &s.place)),
            to.jitter_reorder.as_ref().map(|s| ("jitter_reorder", &s.place)),
            to.queue.as_ref().map(|s| ("queue", &s.place)),
            to.queue_discipline.as_ref().map(|s| ("queue_discipline", &s.place)),
            to.reorder_gap.as_ref().map(|s| ("reorder_gap", &s.place)),
            to.gilbert_elliott.as_ref().map(|s| ("gilbert_elliott", &s.place)),
        ];
        let found: Vec<_> = steps.into_iter().flatten().collect();
        for (name, place) in &found {
            self.error(place.error(format!(
                "{name} can't be ramped: it has no values between; `set` changes it at once"
            )));
        }
        found.is_empty()
    }

    /// Refuses a ramp that has no number to start from, or that nothing would be seen of.
    fn check_ramp_from(&self, at: &At<Duration>, base: &LinkShape, to: &ShapeSpec) -> bool {
        let mut fits = true;
        if base.filter != Filter::Accept {
            self.error(at.place.error(
                "nothing passes these links by then (their filter is not \"accept\"), so that nothing would be seen of the ramp: let a `set` with filter = \"accept\" come first",
            ));
            fits = false;
        }
        if let (Some(bandwidth), None) = (&to.bandwidth, base.bandwidth) {
            self.error(bandwidth.place.error("the bandwidth is unlimited by then, so there is no number to ramp from: declare one for these links"));
            fits = false;
        }
        if let (Some(loss), Loss::GilbertElliott { .. }) = (&to.loss, base.loss) {
            self.error(loss.place.error(
                "these links lose packets by gilbert_elliott, which can't be ramped into a plain loss",
            ));
            fits = false;
        }
        fits
    }

    fn trace(&self, file: &At<String>) -> Option<Vec<u64>> {
        let (shown, text) = self.text("trace", file, &[])?;
        match trace::parse(&shown, text) {
            Ok(opportunities) => Some(opportunities),
            Err(mistakes) => {
                self.errors_of("trace", file, mistakes);
                None
            }
        }
    }
}

// === impl Entry ===

impl Entry<'_> {
    pub(super) fn word(&self) -> &'static str {
        match self.spec.deed {
            Deed::Partition => "partition",
            Deed::Heal => "heal",
            Deed::Set(_) => "set",
            Deed::Ramp { .. } => "ramp",
            Deed::Flap { .. } => "flap",
            Deed::Trace { .. } => "trace",
        }
    }

    /// The line that it is declared in.
    pub(super) fn line(&self) -> usize {
        self.spec.at.place.line_and_column().0
    }

    /// Until when it changes its links by itself. A trace goes on until something else comes, so it ends at once here.
    pub(super) fn end(&self) -> Duration {
        let lasts = match &self.spec.deed {
            Deed::Ramp { over, .. } => over.value,
            Deed::Flap { down, up, times } => (down.value.saturating_add(up.value)).saturating_mul(*times),
            _ => Duration::ZERO,
        };
        self.spec.at.value.saturating_add(lasts)
    }

    /// From when on nothing of it is in force any more, where it comes to an end by itself.
    pub(super) fn over(&self) -> Option<Duration> {
        match (&self.spec.deed, &self.opportunities) {
            (Deed::Flap { .. }, _) => Some(self.end()),
            (Deed::Trace { repeat: false, .. }, Some(opportunities)) => {
                let length = Duration::from_millis(opportunities.last().copied().unwrap_or(0));
                Some(self.spec.at.value.saturating_add(length))
            }
            _ => None,
        }
    }

    /// What it makes of a declared shape; `initial` is the one before all entries.
    fn change(&self, shape: &mut LinkShape, initial: &LinkShape) {
        match &self.spec.deed {
            Deed::Heal => *shape = initial.clone(),
            Deed::Set(settings) | Deed::Ramp { to: settings, .. } => *shape = settings.over(shape),
            Deed::Partition | Deed::Flap { .. } | Deed::Trace { .. } => {}
        }
    }

    /// Whether other selectors cover all links of this entry; `None` when they cover a part of them.
    pub(super) fn is_covered(
        &self,
        scope: &Scope,
        from: &Endpoint,
        to: &Endpoint,
        both_ways: bool,
    ) -> Option<bool> {
        let and = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
        let or = |a: Option<bool>, b: Option<bool>| and(a.map(|a| !a), b.map(|b| !b)).map(|neither| !neither);
        let way = |own_from: &Endpoint, own_to: &Endpoint| {
            let there = and(scope.covers(from, own_from), scope.covers(to, own_to));
            let back = and(scope.covers(to, own_from), scope.covers(from, own_to));
            if both_ways { or(there, back) } else { there }
        };
        let there = way(&self.from, &self.to);
        if !self.spec.both {
            return there;
        }
        let back = way(&self.to, &self.from);
        if there == back { there } else { None }
    }

    pub(super) fn covers(&self, pair: Pair) -> bool {
        self.pairs.binary_search(&pair).is_ok()
    }

    /// A pair that both change.
    pub(super) fn common(&self, other: &Entry<'_>) -> Option<Pair> {
        if self.network != other.network {
            return None;
        }
        self.pairs.iter().find(|pair| other.covers(**pair)).copied()
    }
}

/// The declared shape of a pair when an entry begins.
fn base(scope: &Scope, earlier: &[Entry<'_>], entry: &Entry<'_>, links: &[Link], pair: Pair) -> LinkShape {
    let initial = declared(scope, links, entry, pair);
    let mut shape = initial.clone();
    for other in earlier.iter().filter(|other| other.network == entry.network && other.covers(pair)) {
        other.change(&mut shape, &initial);
    }
    shape
}

/// The shape that the links declare for a pair: of those that cover it the last.
fn declared(scope: &Scope, links: &[Link], entry: &Entry<'_>, (a, b, family): Pair) -> LinkShape {
    let (a, b) = (&scope.classes[a], &scope.classes[b]);
    let covers = |link: &&Link| {
        link.network == entry.network
            && (a.is_in(&link.from) && b.receives(&link.to, family)
                || link.both_ways && a.is_in(&link.to) && b.receives(&link.from, family))
    };
    links.iter().rev().find(covers).map(|link| link.shape.clone()).unwrap_or_default()
}

/// The declared shape of addresses that nobody begins with; `Err` names what covers a part of them.
fn base_of_addresses(
    scope: &Scope,
    earlier: &[Entry<'_>],
    entry: &Entry<'_>,
    links: &[Link],
) -> Result<LinkShape, String> {
    let mut initial = LinkShape::default();
    for link in links.iter().rev().filter(|link| link.network == entry.network) {
        match entry.is_covered(scope, &link.from, &link.to, link.both_ways) {
            Some(false) => {}
            Some(true) => {
                initial = link.shape.clone();
                break;
            }
            None => return Err("a declared link".to_owned()),
        }
    }
    let mut shape = initial.clone();
    for other in earlier.iter().filter(|other| other.network == entry.network) {
        match entry.is_covered(scope, &other.from, &other.to, other.spec.both) {
            Some(false) => {}
            Some(true) => other.change(&mut shape, &initial),
            None => return Err(format!("the {} of line {}", other.word(), other.line())),
        }
    }
    Ok(shape)
}

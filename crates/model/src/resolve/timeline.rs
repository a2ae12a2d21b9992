//! The timeline of a run: changes by time, with contradictions refused.
//!
//! `set` and `ramp` name single settings, and what they don't name stays as declared. A [`Change`] carries whole
//! shapes, so such an entry becomes one change for each part of it whose links were declared differently.

use std::time::Duration;

use super::network::Scene;
use super::scope::{Class, Scope};
use super::{Resolver, with_suggestion};
use crate::composition::{ChangeSpec, Deed, ShapeSpec};
use crate::reader::At;
use crate::shape::{LinkShape, Loss};
use crate::topology::{Action, Change, Endpoint, Link};
use crate::trace;
use crate::units::show_duration;

/// The most changes that one entry can become.
const MAX_PARTS: usize = 4096;

/// An entry with its selectors looked up.
struct Entry<'a> {
    spec: &'a ChangeSpec,
    network: String,
    from: Endpoint,
    to: Endpoint,
    /// The ordered pairs of classes that it covers, or may cover when it names addresses; sorted.
    pairs: Vec<(usize, usize)>,
    /// Whether it names addresses, so that its pairs are not known.
    by_address: bool,
}

impl Resolver<'_> {
    /// The changes of a run, by time.
    pub(super) fn timeline(&self, scene: &Scene<'_>, links: &[Link]) -> Vec<Change> {
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
            self.check_contradictions(&entries[..i], entry);
            changes.extend(self.changes(&entries[..i], entry, links, &scope));
        }
        changes
    }

    fn entry<'s>(&self, spec: &'s ChangeSpec, scene: &Scene<'_>) -> Option<Entry<'s>> {
        let network = self.network_name(spec.network.as_ref(), scene);
        let (from, to) =
            (self.endpoint(&spec.from, &network, scene), self.endpoint(&spec.to, &network, scene));
        let (from, to) = (from?, to?);
        let by_address = [&from, &to].iter().any(|end| matches!(end, Endpoint::Subnet(_)));
        Some(Entry { spec, network, from, to, pairs: Vec::new(), by_address })
    }

    /// Refuses an entry that can't be meant together with one before it.
    fn check_contradictions(&self, earlier: &[Entry<'_>], entry: &Entry<'_>) {
        let at = &entry.spec.at;
        let show = show_duration;
        for other in earlier.iter().filter(|other| other.meets(entry)) {
            let (word, start) = (other.word(), other.spec.at.value);
            let end = other.end();
            let (line, _) = other.spec.at.place.line_and_column();
            if start == at.value {
                self.error(at.place.error(format!(
                    "at {} the same links are changed by the {word} of line {line} too: only one of them can be in force",
                    show(start)
                )));
            } else if end > at.value {
                self.error(at.place.error(format!(
                    "at {} the {word} of line {line} (from {} to {}) still changes the same links",
                    show(at.value),
                    show(start),
                    show(end)
                )));
            }
        }
        match entry.spec.deed {
            Deed::Heal
                if !earlier
                    .iter()
                    .any(|other| other.meets(entry) && !matches!(other.spec.deed, Deed::Heal)) =>
            {
                self.error(at.place.error("there is nothing to heal: no earlier entry changes these links"));
            }
            Deed::Partition | Deed::Heal => {}
            _ => {
                if let Some(cut) =
                    earlier.iter().rev().find(|other| other.meets(entry) && other.ends_or_begins_partition())
                    && matches!(cut.spec.deed, Deed::Partition)
                {
                    self.error(at.place.error(format!(
                        "these links are partitioned since {}: heal them first",
                        show(cut.spec.at.value)
                    )));
                }
            }
        }
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
            Deed::Trace { file, repeat } => match self.trace(file) {
                Some(opportunities) => {
                    let lines = opportunities.len();
                    let action = Action::Trace { opportunities, repeat: *repeat };
                    let most = MAX_PARTS.min(10 * trace::MAX_OPPORTUNITIES / lines.max(1));
                    self.parts(earlier, entry, links, scope, most, |_| Some(action.clone()))
                }
                None => Vec::new(),
            },
            Deed::Set(settings) => self.parts(earlier, entry, links, scope, MAX_PARTS, |base| {
                Some(Action::Shape(settings.over(base)))
            }),
            Deed::Ramp { to, over } => {
                if !self.check_ramp(to) {
                    return Vec::new();
                }
                self.parts(earlier, entry, links, scope, MAX_PARTS, |base| {
                    self.check_ramp_from(base, to)
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
        for &(a, b) in &entry.pairs {
            match base(scope, earlier, entry, links, (a, b)) {
                Ok(shape) => {
                    let known = shapes.iter().position(|s| *s == shape);
                    bases.push(known.unwrap_or(shapes.len()));
                    if known.is_none() {
                        shapes.push(shape);
                    }
                }
                Err(()) => {
                    self.error(at.place.error(
                        "which shape these links have by then can't be told, since earlier links or entries name addresses: name groups, instances or regions there",
                    ));
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
        for (&(a, b), &base) in entry.pairs.iter().zip(&bases) {
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

    /// Refuses a ramp that has no number to start from.
    fn check_ramp_from(&self, base: &LinkShape, to: &ShapeSpec) -> bool {
        let mut fits = true;
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
        match self.files.get(&file.value) {
            Some(Ok(text)) => match trace::parse(&file.value, text) {
                Ok(opportunities) => return Some(opportunities),
                Err(mistakes) => mistakes.into_iter().for_each(|d| self.error(d)),
            },
            Some(Err(why)) => {
                let known = self.files.keys().map(String::as_str).filter(|k| **k != file.value);
                let mistake = file.place.error(format!("can't read the trace {:?}: {why}", file.value));
                self.error(with_suggestion(mistake, super::near(&file.value, known)));
            }
            None => self.error(file.place.error(format!("the trace {:?} was not read", file.value))),
        }
        None
    }
}

// === impl Entry ===

impl Entry<'_> {
    fn word(&self) -> &'static str {
        match self.spec.deed {
            Deed::Partition => "partition",
            Deed::Heal => "heal",
            Deed::Set(_) => "set",
            Deed::Ramp { .. } => "ramp",
            Deed::Flap { .. } => "flap",
            Deed::Trace { .. } => "trace",
        }
    }

    /// Until when it changes its links by itself. A trace goes on until something else comes, so it ends at once here.
    fn end(&self) -> Duration {
        let lasts = match &self.spec.deed {
            Deed::Ramp { over, .. } => over.value,
            Deed::Flap { down, up, times } => (down.value.saturating_add(up.value)).saturating_mul(*times),
            _ => Duration::ZERO,
        };
        self.spec.at.value.saturating_add(lasts)
    }

    fn ends_or_begins_partition(&self) -> bool {
        matches!(self.spec.deed, Deed::Partition | Deed::Heal)
    }

    /// Whether both change a link, or may do so since one of them names addresses.
    fn may_meet(&self, other: &Entry<'_>) -> bool {
        self.network == other.network && self.pairs.iter().any(|pair| other.pairs.binary_search(pair).is_ok())
    }

    /// Whether both change a link for sure. Of addresses only equal ones are known to be the same.
    fn meets(&self, other: &Entry<'_>) -> bool {
        if self.network != other.network {
            return false;
        }
        if self.by_address || other.by_address {
            let same = self.from == other.from && self.to == other.to;
            let turned = self.from == other.to && self.to == other.from;
            return same || (turned && (self.spec.both || other.spec.both));
        }
        self.may_meet(other)
    }
}

/// The declared shape of a pair when an entry begins; `Err` when it depends on addresses.
fn base(
    scope: &Scope,
    earlier: &[Entry<'_>],
    entry: &Entry<'_>,
    links: &[Link],
    pair: (usize, usize),
) -> Result<LinkShape, ()> {
    let mut shape = declared(scope, links, entry, pair)?;
    let initial = shape.clone();
    for other in earlier.iter().filter(|other| other.network == entry.network) {
        if other.pairs.binary_search(&pair).is_err() {
            continue;
        }
        if other.by_address && !(other.from == entry.from && other.to == entry.to) {
            return Err(());
        }
        match &other.spec.deed {
            Deed::Heal => shape = initial.clone(),
            Deed::Set(settings) | Deed::Ramp { to: settings, .. } => shape = settings.over(&shape),
            Deed::Partition | Deed::Flap { .. } | Deed::Trace { .. } => {}
        }
    }
    Ok(shape)
}

/// The shape that the links declare for a pair: of those that cover it the last.
fn declared(
    scope: &Scope,
    links: &[Link],
    entry: &Entry<'_>,
    (a, b): (usize, usize),
) -> Result<LinkShape, ()> {
    let classes: (&Class, &Class) = (&scope.classes[a], &scope.classes[b]);
    for link in links.iter().rev().filter(|link| link.network == entry.network) {
        let same = link.from == entry.from && link.to == entry.to && (link.both_ways || !entry.spec.both);
        if same {
            return Ok(link.shape.clone());
        }
        let there = classes.0.is_in(&link.from).zip(classes.1.is_in(&link.to)).map(|(f, t)| f && t);
        let back =
            classes.1.is_in(&link.from).zip(classes.0.is_in(&link.to)).map(|(f, t)| f && t && link.both_ways);
        // A selector by address may or may not cover the pair, unless its other end rules that out.
        let unknown = |from: &Class, to: &Class| {
            from.is_in(&link.from).unwrap_or(true) && to.is_in(&link.to).unwrap_or(true)
        };
        match (there, back) {
            (Some(true), _) | (_, Some(true)) => return Ok(link.shape.clone()),
            (None, _) if unknown(classes.0, classes.1) => return Err(()),
            (_, None) if link.both_ways && unknown(classes.1, classes.0) => return Err(()),
            _ => {}
        }
    }
    Ok(LinkShape::default())
}

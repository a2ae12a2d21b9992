//! Settings of shapes that do nothing where they stand, because of what stands beside them.

use super::Resolver;
use crate::composition::{Deed, ShapeSpec};
use crate::diagnostic::Place;
use crate::reader::At;
use crate::shape::{Discipline, Distribution, Filter, LinkShape, Loss, QueueLimit};

impl Resolver<'_> {
    /// Warns of settings that were written and have no effect in any of the shapes that they lead to. What another entry
    /// of the timeline may bring about is not warned of, and neither are settings that say what holds anyway.
    pub(super) fn warn_without_effect(&self, spec: &ShapeSpec, shapes: &[LinkShape]) {
        if shapes.is_empty() {
            return;
        }
        for (name, place, needs) in idle(spec, shapes) {
            if !self.comes_by_another(spec, needs) {
                self.error(place.warning(format!("{name} has no effect {}", needs.why())));
            }
        }
    }

    /// Whether the timeline has another entry by which a setting may get its effect.
    fn comes_by_another(&self, spec: &ShapeSpec, needs: Needs) -> bool {
        self.composition.timeline.iter().any(|change| match &change.deed {
            Deed::Set(to) | Deed::Ramp { to, .. } => !std::ptr::eq(to, spec) && needs.is_named_by(to),
            Deed::Trace { .. } => needs == Needs::Bandwidth,
            _ => false,
        })
    }
}

/// What a setting needs for an effect.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Needs {
    Jitter,
    Bandwidth,
    Latency,
    Loss,
    Corrupt,
    Reorder,
    Duplicate,
    Accept,
}

// === impl Needs ===

impl Needs {
    fn why(self) -> &'static str {
        match self {
            Needs::Jitter => "without jitter",
            Needs::Bandwidth => "without bandwidth: nothing waits",
            Needs::Latency => "without latency: packets that skip it overtake nobody",
            Needs::Loss => "without loss",
            Needs::Corrupt => "without corrupt",
            Needs::Reorder => "without reorder",
            Needs::Duplicate => "without duplicate",
            Needs::Accept => "on a link whose filter lets nothing pass",
        }
    }

    fn is_named_by(self, spec: &ShapeSpec) -> bool {
        match self {
            Needs::Jitter => spec.jitter.is_some(),
            Needs::Bandwidth => spec.bandwidth.is_some(),
            Needs::Latency => spec.latency.is_some(),
            Needs::Loss => spec.loss.is_some(),
            Needs::Corrupt => spec.corrupt.is_some(),
            Needs::Reorder => spec.reorder.is_some(),
            Needs::Duplicate => spec.duplicate.is_some(),
            Needs::Accept => spec.filter.is_some(),
        }
    }

    fn is_met(self, shape: &LinkShape) -> bool {
        match self {
            Needs::Jitter => !shape.jitter.spread.is_zero(),
            Needs::Bandwidth => shape.bandwidth.is_some(),
            Needs::Latency => !shape.latency.is_zero(),
            Needs::Loss => !matches!(shape.loss, Loss::Random(chance) if chance.is_never()),
            Needs::Corrupt => !shape.corrupt.is_never(),
            Needs::Reorder => !shape.reorder.is_never(),
            Needs::Duplicate => !shape.duplicate.is_never(),
            Needs::Accept => shape.filter == Filter::Accept,
        }
    }
}

/// Settings that are written and need something which none of the shapes has.
fn idle<'s>(spec: &'s ShapeSpec, shapes: &[LinkShape]) -> Vec<(&'static str, &'s Place, Needs)> {
    let mut found = Vec::new();
    let lacks = |needs: Needs| !shapes.iter().any(|shape| needs.is_met(shape));
    let effects = [
        spec.latency.as_ref().map(|s| ("latency", &s.place)),
        spec.jitter.as_ref().map(|s| ("jitter", &s.place)),
        spec.bandwidth.as_ref().map(|s| ("bandwidth", &s.place)),
        spec.loss.as_ref().map(|s| ("loss", &s.place)),
        spec.gilbert_elliott.as_ref().map(|s| ("gilbert_elliott", &s.place)),
        spec.corrupt.as_ref().map(|s| ("corrupt", &s.place)),
        spec.reorder.as_ref().map(|s| ("reorder", &s.place)),
        spec.duplicate.as_ref().map(|s| ("duplicate", &s.place)),
    ];
    if lacks(Needs::Accept) {
        found.extend(effects.into_iter().flatten().map(|(name, place)| (name, place, Needs::Accept)));
        return found;
    }
    let distribution = spec.jitter_distribution.as_ref().filter(|s| s.value != Distribution::default());
    let may_reorder = spec.jitter_reorder.as_ref().filter(|s| s.value);
    let queue = spec.queue.as_ref().filter(|s| s.value != QueueLimit::Auto);
    let discipline = spec.queue_discipline.as_ref().filter(|s| s.value != Discipline::default());
    let some = |s: &'s Option<At<f64>>| s.as_ref().filter(|s| s.value > 0.0).map(|s| &s.place);
    for (name, place, needs) in [
        ("jitter_distribution", distribution.map(|s| &s.place), Needs::Jitter),
        ("jitter_correlation", some(&spec.jitter_correlation), Needs::Jitter),
        ("jitter_reorder", may_reorder.map(|s| &s.place), Needs::Jitter),
        ("queue", queue.map(|s| &s.place), Needs::Bandwidth),
        ("queue_discipline", discipline.map(|s| &s.place), Needs::Bandwidth),
        ("loss_correlation", some(&spec.loss_correlation), Needs::Loss),
        ("corrupt_correlation", some(&spec.corrupt_correlation), Needs::Corrupt),
        ("reorder", some(&spec.reorder), Needs::Latency),
        ("reorder_correlation", some(&spec.reorder_correlation), Needs::Reorder),
        ("reorder_gap", spec.reorder_gap.as_ref().filter(|s| s.value > 0).map(|s| &s.place), Needs::Reorder),
        ("duplicate_correlation", some(&spec.duplicate_correlation), Needs::Duplicate),
    ] {
        found.extend(place.filter(|_| lacks(needs)).map(|place| (name, place, needs)));
    }
    found
}

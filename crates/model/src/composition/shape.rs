//! Link shapes as a composition spells them: flat keys with units, each of them optional.
//!
//! The meaning of a shape is in [`crate::shape`].

use std::time::Duration;

use crate::reader::{At, Item, Mistakes, TableReader};
use crate::shape::{Chance, Discipline, Distribution, Filter, LinkShape, Loss, QueueLimit};
use crate::units::{self, UnitError};

/// The settings of a shape that were written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShapeSpec {
    /// `filter`.
    pub filter: Option<At<Filter>>,
    /// `latency`.
    pub latency: Option<At<Duration>>,
    /// `jitter`.
    pub jitter: Option<At<Duration>>,
    /// `jitter_distribution`.
    pub jitter_distribution: Option<At<Distribution>>,
    /// `jitter_correlation`, percent.
    pub jitter_correlation: Option<At<f64>>,
    /// `jitter_reorder`.
    pub jitter_reorder: Option<At<bool>>,
    /// `bandwidth`, bits per second.
    pub bandwidth: Option<At<u64>>,
    /// `queue`.
    pub queue: Option<At<QueueLimit>>,
    /// `queue_discipline`.
    pub queue_discipline: Option<At<Discipline>>,
    /// `loss`, percent.
    pub loss: Option<At<f64>>,
    /// `loss_correlation`, percent.
    pub loss_correlation: Option<At<f64>>,
    /// `gilbert_elliott`: instead of `loss`.
    pub gilbert_elliott: Option<At<Loss>>,
    /// `corrupt`, percent.
    pub corrupt: Option<At<f64>>,
    /// `corrupt_correlation`, percent.
    pub corrupt_correlation: Option<At<f64>>,
    /// `reorder`, percent.
    pub reorder: Option<At<f64>>,
    /// `reorder_correlation`, percent.
    pub reorder_correlation: Option<At<f64>>,
    /// `reorder_gap`.
    pub reorder_gap: Option<At<u32>>,
    /// `duplicate`, percent.
    pub duplicate: Option<At<f64>>,
    /// `duplicate_correlation`, percent.
    pub duplicate_correlation: Option<At<f64>>,
}

// === impl ShapeSpec ===

impl ShapeSpec {
    /// The shape that these settings make of another one: what isn't named stays.
    pub fn over(&self, base: &LinkShape) -> LinkShape {
        fn set<T: Clone>(to: &mut T, from: Option<&At<T>>) {
            if let Some(from) = from {
                *to = from.value.clone();
            }
        }
        let mut shape = base.clone();
        set(&mut shape.filter, self.filter.as_ref());
        set(&mut shape.latency, self.latency.as_ref());
        set(&mut shape.jitter.spread, self.jitter.as_ref());
        set(&mut shape.jitter.distribution, self.jitter_distribution.as_ref());
        set(&mut shape.jitter.correlation, self.jitter_correlation.as_ref());
        set(&mut shape.jitter.may_reorder, self.jitter_reorder.as_ref());
        if let Some(bandwidth) = &self.bandwidth {
            shape.bandwidth = Some(bandwidth.value);
        }
        set(&mut shape.queue.limit, self.queue.as_ref());
        set(&mut shape.queue.discipline, self.queue_discipline.as_ref());
        if self.loss.is_some() || self.loss_correlation.is_some() {
            let mut chance = match shape.loss {
                Loss::Random(chance) => chance,
                Loss::GilbertElliott { .. } => Chance::default(),
            };
            set(&mut chance.percent, self.loss.as_ref());
            set(&mut chance.correlation, self.loss_correlation.as_ref());
            shape.loss = Loss::Random(chance);
        }
        set(&mut shape.loss, self.gilbert_elliott.as_ref());
        set(&mut shape.corrupt.percent, self.corrupt.as_ref());
        set(&mut shape.corrupt.correlation, self.corrupt_correlation.as_ref());
        set(&mut shape.reorder.percent, self.reorder.as_ref());
        set(&mut shape.reorder.correlation, self.reorder_correlation.as_ref());
        set(&mut shape.reorder_gap, self.reorder_gap.as_ref());
        set(&mut shape.duplicate.percent, self.duplicate.as_ref());
        set(&mut shape.duplicate.correlation, self.duplicate_correlation.as_ref());
        shape
    }

    /// Whether no setting was written.
    pub fn is_empty(&self) -> bool {
        *self == ShapeSpec::default()
    }
}

/// The keys of a shape.
pub(super) const KEYS: [&str; 19] = [
    "filter",
    "latency",
    "jitter",
    "jitter_distribution",
    "jitter_correlation",
    "jitter_reorder",
    "bandwidth",
    "queue",
    "queue_discipline",
    "loss",
    "loss_correlation",
    "gilbert_elliott",
    "corrupt",
    "corrupt_correlation",
    "reorder",
    "reorder_correlation",
    "reorder_gap",
    "duplicate",
    "duplicate_correlation",
];

/// Reads the keys of a shape from a table that has others too.
pub(super) fn read(t: &TableReader<'_>, mistakes: &Mistakes) -> ShapeSpec {
    let percent = |key: &'static str| t.item(key).and_then(|item| percentage(&item));
    let spec = ShapeSpec {
        filter: t.item("filter").and_then(|item| {
            one_of(&item, &[("accept", Filter::Accept), ("reject", Filter::Reject), ("drop", Filter::Drop)])
        }),
        latency: t.item("latency").and_then(|item| duration(&item, Duration::ZERO, LinkShape::MAX_LATENCY)),
        jitter: t.item("jitter").and_then(|item| duration(&item, Duration::ZERO, LinkShape::MAX_LATENCY)),
        jitter_distribution: t.item("jitter_distribution").and_then(|item| {
            let known = [
                ("uniform", Distribution::Uniform),
                ("normal", Distribution::Normal),
                ("pareto", Distribution::Pareto),
            ];
            one_of(&item, &known)
        }),
        jitter_correlation: percent("jitter_correlation"),
        jitter_reorder: t.boolean("jitter_reorder"),
        bandwidth: t
            .item("bandwidth")
            .and_then(|item| with_unit(&item, "a rate such as \"10Mbit/s\"", units::rate)),
        queue: t.item("queue").and_then(|item| {
            with_unit(&item, "a length such as \"100 packets\", \"64KiB\" or \"20ms\"", queue_limit)
        }),
        queue_discipline: t.item("queue_discipline").and_then(|item| {
            one_of(&item, &[("tail-drop", Discipline::TailDrop), ("codel", Discipline::Codel)])
        }),
        loss: percent("loss"),
        loss_correlation: percent("loss_correlation"),
        gilbert_elliott: t.item("gilbert_elliott").and_then(|item| gilbert_elliott(&item, mistakes)),
        corrupt: percent("corrupt"),
        corrupt_correlation: percent("corrupt_correlation"),
        reorder: percent("reorder"),
        reorder_correlation: percent("reorder_correlation"),
        reorder_gap: t.count("reorder_gap", 0, 1_000_000),
        duplicate: percent("duplicate"),
        duplicate_correlation: percent("duplicate_correlation"),
    };
    if let (Some(chain), true) =
        (&spec.gilbert_elliott, spec.loss.is_some() || spec.loss_correlation.is_some())
    {
        mistakes.push(chain.place.error(
            "gilbert_elliott and loss can't be given together: one of them says which packets are lost",
        ));
    }
    spec
}

/// A duration with its unit, within bounds.
pub(super) fn duration(item: &Item<'_>, least: Duration, most: Duration) -> Option<At<Duration>> {
    let at = with_unit(item, "a duration such as \"50ms\"", units::duration)?;
    if (least..=most).contains(&at.value) {
        return Some(at);
    }
    let (least, most) = (units::show_duration(least), units::show_duration(most));
    item.error(format!("{} is out of range: {least} to {most} is allowed", units::show_duration(at.value)));
    None
}

/// A percentage with its sign. A bare number is refused, since it has two readings.
pub(super) fn percentage(item: &Item<'_>) -> Option<At<f64>> {
    if let Some(number) = item.as_number() {
        let other = if (0.0..=1.0).contains(&number) {
            format!(", or \"{}%\"", number * 100.0)
        } else {
            String::new()
        };
        item.error(format!("{number} could mean percent or a fraction: write \"{number}%\"{other}"));
        return None;
    }
    with_unit(item, "a percentage such as \"0.5%\"", units::percent)
}

/// A text with a unit.
pub(super) fn with_unit<T>(
    item: &Item<'_>,
    expected: &str,
    read: impl FnOnce(&str) -> Result<T, UnitError>,
) -> Option<At<T>> {
    let Some(text) = item.as_str() else { return item.wrong_type(expected) };
    match read(text) {
        Ok(value) => Some(item.at(value)),
        Err(e) => {
            item.error(e.to_string());
            None
        }
    }
}

/// One of some words.
pub(super) fn one_of<T: Copy>(item: &Item<'_>, known: &[(&str, T)]) -> Option<At<T>> {
    let words = || known.iter().map(|(word, _)| *word);
    let Some(text) = item.as_str() else {
        return item.wrong_type(&format!("one of {}", crate::diagnostic::names(words())));
    };
    if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
        return Some(item.at(*value));
    }
    let message =
        format!("{text:?} is unknown here; one of {} is expected", crate::diagnostic::names(words()));
    item.report(item.place().error(message).suggest_nearest(text, words()));
    None
}

fn queue_limit(text: &str) -> Result<QueueLimit, UnitError> {
    let trimmed = text.trim();
    if trimmed == "auto" {
        return Ok(QueueLimit::Auto);
    }
    if let Some(number) = trimmed.strip_suffix("packets").or_else(|| trimmed.strip_suffix("packet")) {
        return match number.trim().parse::<u32>() {
            Ok(n) if (1..=10_000_000).contains(&n) => Ok(QueueLimit::Packets(n)),
            _ => Err(UnitError::new(format!("{text:?} is out of range: 1 to 10000000 packets are allowed"))),
        };
    }
    if let Ok(bytes) = units::size(trimmed) {
        return match bytes {
            1_514..=0x1_0000_0000 => Ok(QueueLimit::Bytes(bytes)),
            _ => Err(UnitError::new(format!(
                "{text:?} is out of range: 1514B (one full frame) to 4GiB is allowed"
            ))),
        };
    }
    if let Ok(time) = units::duration(trimmed) {
        return match time {
            t if t >= Duration::from_micros(1) && t <= Duration::from_secs(60) => Ok(QueueLimit::Time(t)),
            _ => Err(UnitError::new(format!("{text:?} is out of range: 1us to 60s is allowed"))),
        };
    }
    Err(UnitError::new(format!(
        "{text:?} is no length of a queue: write packets, bytes or time, such as \"100 packets\", \"64KiB\" or \"20ms\", or \"auto\""
    )))
}

fn gilbert_elliott(item: &Item<'_>, mistakes: &Mistakes) -> Option<At<Loss>> {
    let read = |t: &TableReader<'_>| {
        let percent = |key: &'static str| t.item(key).and_then(|item| percentage(&item)).map(|p| p.value);
        let (p, r) = (t.required("p", percent("p")), t.required("r", percent("r")));
        let (bad, good) = (percent("bad"), percent("good"));
        Some(Loss::GilbertElliott { p: p?, r: r?, bad: bad.unwrap_or(100.0), good: good.unwrap_or(0.0) })
    };
    let loss = item.table(read)??;
    if let Loss::GilbertElliott { p, r, bad, good } = loss {
        let warning = match (p > 0.0 && bad > 0.0, good > 0.0) {
            (false, false) => "nothing is ever lost by it: that takes p and bad above 0%, or good above 0%",
            _ if p > 0.0 && r == 0.0 => "with r = \"0%\" the bad state is never left",
            _ => return Some(item.at(loss)),
        };
        mistakes.push(item.place().warning(warning));
    }
    Some(item.at(loss))
}

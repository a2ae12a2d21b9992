//! A shape, resolved for use: shares instead of percents, tables computed, nothing to look up for each packet.

use testground_model::shape::{Chance, Discipline, Filter, LinkShape, Loss};

use super::chance::{Correlated, Effect, Memory, Stream, unit};
use super::delay::Delay;
use super::opportunity::Opportunities;
use super::server::Rate;

/// What a link does to its packets.
#[derive(Debug, Clone)]
pub struct Effects {
    /// Whether packets pass at all.
    pub filter: Filter,
    /// Which are lost.
    pub loss: LossModel,
    /// Which arrive twice.
    pub duplicate: Option<Odds>,
    /// Which get a flipped bit.
    pub corrupt: Option<Odds>,
    /// Which skip the latency.
    pub reorder: Option<Odds>,
    /// How many must have waited before one may skip.
    pub reorder_gap: u32,
    /// Time on the way.
    pub delay: Delay,
    /// The memory of the latency's deviation, where it has one.
    pub jitter: Option<Correlated>,
    /// Whether packets may overtake each other by their deviations.
    pub may_reorder: bool,
    /// How fast packets are serialised.
    pub rate: Option<Rate>,
    /// Whether CoDel manages the queue in front of it.
    pub codel: bool,
}

/// Which packets are lost.
#[derive(Debug, Clone)]
pub enum LossModel {
    /// None.
    Never,
    /// Each by these odds.
    Random(Odds),
    /// By the state of a chain of two states.
    GilbertElliott {
        /// Share of packets at which the good state turns bad.
        to_bad: f64,
        /// Share of packets at which the bad state turns good.
        to_good: f64,
        /// Loss in the bad state.
        bad: f64,
        /// Loss in the good state.
        good: f64,
    },
}

/// A share with memory.
#[derive(Debug, Clone)]
pub struct Odds {
    share: f64,
    correlated: Correlated,
}

// === impl Effects ===

impl Effects {
    /// Resolves a shape.
    pub fn new(shape: &LinkShape) -> Effects {
        let delay = Delay::new(shape);
        let rate = Rate::new(shape);
        Effects {
            filter: shape.filter,
            loss: match shape.loss {
                Loss::Random(chance) => Odds::new(&chance).map_or(LossModel::Never, LossModel::Random),
                Loss::GilbertElliott { p, r, bad, good } => LossModel::GilbertElliott {
                    to_bad: p / 100.0,
                    to_good: r / 100.0,
                    bad: bad / 100.0,
                    good: good / 100.0,
                },
            },
            duplicate: Odds::new(&shape.duplicate),
            corrupt: Odds::new(&shape.corrupt),
            reorder: Odds::new(&shape.reorder),
            reorder_gap: shape.reorder_gap,
            jitter: (!delay.is_constant()).then(|| Correlated::new(shape.jitter.correlation)),
            delay,
            may_reorder: shape.jitter.may_reorder,
            codel: rate.is_some() && shape.queue.discipline == Discipline::Codel,
            rate,
        }
    }

    /// Resolves a shape whose packets leave with opportunities instead of at a bandwidth.
    pub fn following(shape: &LinkShape, opportunities: Opportunities) -> Effects {
        let codel = shape.queue.discipline == Discipline::Codel;
        Effects { rate: Some(Rate::following(shape, opportunities)), codel, ..Effects::new(shape) }
    }

    /// Whether the fate of each packet of a row has to be looked at by itself.
    pub(super) fn is_by_chance(&self) -> bool {
        !matches!(self.loss, LossModel::Never)
            || self.duplicate.is_some()
            || self.corrupt.is_some()
            || self.reorder.is_some()
            || self.jitter.is_some()
    }
}

// === impl Odds ===

impl Odds {
    /// `None` for what never happens.
    pub fn new(chance: &Chance) -> Option<Odds> {
        let correlated = || Correlated::new(chance.correlation);
        (!chance.is_never()).then(|| Odds { share: chance.percent / 100.0, correlated: correlated() })
    }

    /// Whether it happens to the `index`-th packet of a link.
    pub fn hit(&self, stream: &Stream, effect: Effect, index: u64, memory: &mut Memory) -> bool {
        let fresh = unit(stream.draw(effect, index));
        let x = self.correlated.next(memory, fresh);
        self.share >= 1.0 || x < self.share
    }

    /// Whether it happens to the copy of the `index`-th packet; copies have no memory.
    pub fn hit_copy(&self, stream: &Stream, effect: Effect, index: u64) -> bool {
        self.share >= 1.0 || unit(stream.draw_for_copy(effect, index)) < self.share
    }
}

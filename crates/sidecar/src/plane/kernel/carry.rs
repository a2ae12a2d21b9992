//! A shape as the kernel carries it out: an HTB class, and below it a netem or a plain queue. Pure.
//!
//! netem does nearly all of it, with the arithmetic that `docs/network.md` has: with a rate it lets a packet go at
//! `max(arrival + latency, the one before) + size / rate`. The class has the same rate and a burst that never holds netem
//! up; on a kernel without netem it paces by itself.

use std::sync::OnceLock;
use std::time::Duration;

use testground_linux::tc::{HtbClass, Loss as NetemLoss, Netem, Share};
use testground_model::shape::{Chance, Distribution, Filter, LinkShape, Loss, QueueLimit};

use crate::plane::switch::link::chance::Correlated;
use crate::plane::switch::link::delay::Delay;

/// Who holds packets back until the bandwidth has room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// netem, exactly.
    Netem,
    /// HTB, for shapes that have a bandwidth and nothing else: the kernel has no netem.
    Htb,
}

/// What hangs below a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Delay, loss, pace.
    Netem(Box<Netem>),
    /// A plain queue of so many packets.
    Fifo(u32),
    /// Nothing passes, and the sender is told nothing.
    Hole,
}

/// A class's rate where the shape has no bandwidth, bytes a second: 1 Tbit/s.
const UNLIMITED: u64 = 125_000_000_000;
/// A rate at which no packet takes a nanosecond: netem lets no packet overtake another where it has a rate.
const IN_ORDER: u64 = 1 << 60;
/// Bytes of a frame with a payload of the usual length; the automatic queue is counted in these.
const FULL: u64 = 1514;
/// Packets that wait for their latency at least and at most, where no bandwidth bounds them.
const WAITING: (u64, u64) = (1_000, 100_000);
/// From this rate on a class that paces by itself has a longer burst, bytes a second: 1 Gbit/s.
const FAST: u64 = 125_000_000;
/// What such a link is expected to carry at most, bytes a second: 5 Gbit/s.
const BUSY: u64 = 625_000_000;

/// The class and the leaf of a shape that the plane can carry out ([`super::refusal::unsupported`] says which).
pub(super) fn carry(shape: &LinkShape, pacing: Pacing) -> (HtbClass, Leaf) {
    let rate = shape.bandwidth.map(|bits| (bits / 8).max(1));
    match pacing {
        Pacing::Netem => {
            (HtbClass::of_rate(rate.unwrap_or(UNLIMITED)), Leaf::Netem(Box::new(netem(shape, rate))))
        }
        Pacing::Htb if is_cut(shape) => (HtbClass::of_rate(UNLIMITED), Leaf::Hole),
        Pacing::Htb => (paced(rate.unwrap_or(UNLIMITED)), Leaf::Fifo(limit(shape))),
    }
}

/// Whether a shape decides about each packet by itself, so that super-packets have to be cut before it.
pub(super) fn acts_per_packet(shape: &LinkShape) -> bool {
    let chances = [shape.corrupt, shape.reorder, shape.duplicate];
    let loses = match shape.loss {
        Loss::Random(chance) => !chance.is_never(),
        Loss::GilbertElliott { .. } => true,
    };
    loses
        || shape.bandwidth.is_some()
        || !shape.jitter.spread.is_zero()
        || chances.iter().any(|chance| !chance.is_never())
}

/// Whether packets of one class can't be told from packets of several with the same shape: nothing that becomes of one
/// depends on another.
pub(super) fn is_shareable(shape: &LinkShape) -> bool {
    let forgetful = |chance: Chance| chance.is_never() || chance.correlation <= 0.0;
    let loss = match shape.loss {
        Loss::Random(chance) => forgetful(chance),
        Loss::GilbertElliott { .. } => false,
    };
    is_cut(shape)
        || loss
            && shape.bandwidth.is_none()
            && forgetful(shape.corrupt)
            && forgetful(shape.duplicate)
            && forgetful(shape.reorder)
            && (shape.reorder.is_never() || shape.reorder_gap <= 1)
            && (shape.jitter.spread.is_zero() || shape.jitter.may_reorder)
}

fn is_cut(shape: &LinkShape) -> bool {
    shape.filter != Filter::Accept
}

fn netem(shape: &LinkShape, rate: Option<u64>) -> Netem {
    if is_cut(shape) {
        let loss = NetemLoss::Random { share: Share::ALL, correlation: Share::NONE };
        return Netem { loss, ..Netem::default() };
    }
    let (duplicate, duplicate_correlation) = chance(shape.duplicate);
    let (corrupt, corrupt_correlation) = chance(shape.corrupt);
    let (reorder, reorder_correlation) = chance(shape.reorder);
    let jitter = Jitter::new(shape);
    let in_order = !shape.jitter.spread.is_zero() && !shape.jitter.may_reorder;
    Netem {
        limit: limit(shape),
        delay: nanos(shape.latency),
        jitter: jitter.spread,
        distribution: jitter.table(),
        loss: match shape.loss {
            Loss::Random(asked) => {
                let (share, correlation) = chance(asked);
                NetemLoss::Random { share, correlation }
            }
            Loss::GilbertElliott { p, r, bad, good } => NetemLoss::Gilbert {
                to_bad: Share::new(p / 100.0),
                to_good: Share::new(r / 100.0),
                bad_loss: Share::new(bad / 100.0),
                good_loss: Share::new(good / 100.0),
            },
        },
        duplicate,
        duplicate_correlation,
        corrupt,
        corrupt_correlation,
        reorder,
        reorder_correlation,
        gap: if shape.reorder.is_never() { 0 } else { shape.reorder_gap.max(1) },
        rate: rate.or(in_order.then_some(IN_ORDER)).unwrap_or(0),
        // Without cells it counts for nothing, and the kernel tells it: it stands for the table, which is not told.
        cell_overhead: jitter.mark,
        ..Netem::default()
    }
}

/// A chance in the kernel's terms. Its correlated numbers are seldom near their ends, so the bound is put where the share asked
/// for lies below it; then the two say the same (`docs/network.md`, Correlation).
fn chance(asked: Chance) -> (Share, Share) {
    if asked.is_never() {
        return (Share::NONE, Share::NONE);
    }
    let share = (asked.percent / 100.0).min(1.0);
    if asked.correlation <= 0.0 || share >= 1.0 {
        return (Share::new(share), Share::NONE);
    }
    let correlated = Correlated::new(asked.correlation);
    (Share::new(correlated.quantile(share)), Share::new(correlated.weight()))
}

/// A jitter as the kernel has it: a spread, and a table of deviations in 8,192ths of it.
struct Jitter {
    spread: u64,
    mark: i32,
    distribution: Distribution,
    scale: u32,
}

// === impl Jitter ===

impl Jitter {
    fn new(shape: &LinkShape) -> Jitter {
        let distribution = shape.jitter.distribution;
        // The tail of a Pareto distribution is longer than the four spreads that a table can say.
        let (mark, scale) = match distribution {
            Distribution::Uniform => (1, 1),
            Distribution::Normal => (2, 1),
            Distribution::Pareto => (3, 8),
        };
        let spread = nanos(shape.jitter.spread) * u64::from(scale);
        let mark = if spread == 0 { 0 } else { mark };
        Jitter { spread, mark, distribution, scale }
    }

    /// The quantiles of the distribution; what the kernel draws is one of them.
    fn table(&self) -> Vec<i16> {
        static TABLES: [OnceLock<Vec<i16>>; 4] = [const { OnceLock::new() }; 4];
        let make = || {
            if self.mark == 0 {
                return Vec::new();
            }
            // Far from 0, where it would be cut off.
            let middle = Duration::from_secs(1800);
            let jitter = testground_model::shape::Jitter {
                spread: Duration::from_secs(10),
                distribution: self.distribution,
                ..Default::default()
            };
            let delay = Delay::new(&LinkShape { latency: middle, jitter, ..LinkShape::default() });
            let entry = |at: u32| {
                let nanos = delay.at((f64::from(at) + 0.5) / f64::from(ENTRIES)) as f64;
                let spreads = (nanos - middle.as_nanos() as f64) / 1e10;
                (spreads / f64::from(self.scale) * UNIT)
                    .round()
                    .clamp(f64::from(-i16::MAX), f64::from(i16::MAX)) as i16
            };
            (0..ENTRIES).map(entry).collect()
        };
        TABLES[self.mark as usize].get_or_init(make).clone()
    }
}

const ENTRIES: u32 = 4096;
/// One spread in a table (`NETEM_DIST_SCALE`).
const UNIT: f64 = 8192.0;

/// How many packets wait at most, those on their way included: netem counts both. The automatic queue holds what
/// `docs/network.md` says in packets of full length.
fn limit(shape: &LinkShape) -> u32 {
    let delay = (shape.latency + shape.jitter.spread * 4).as_secs_f64();
    let packets = match (shape.bandwidth, shape.queue.limit) {
        (Some(_), QueueLimit::Packets(packets)) => packets.into(),
        (Some(bandwidth), _) => {
            let rate = bandwidth as f64 / 8.0;
            let usual = (shape.latency + shape.jitter.spread).as_secs_f64();
            let queue = (rate * 2.0 * usual).max(rate * 0.05).max((64 * FULL) as f64);
            ((queue + rate * delay) / FULL as f64).ceil() as u64
        }
        (None, _) => ((BUSY as f64 * delay / FULL as f64).ceil() as u64).clamp(WAITING.0, WAITING.1),
    };
    u32::try_from(packets).unwrap_or(u32::MAX).max(1)
}

/// A class that paces by itself. Its burst makes up for a kernel that looks late, and lets as much through at once: half a
/// millisecond, a whole one from 1 Gbit/s on. It may be less than a packet, which then is owed.
fn paced(rate: u64) -> HtbClass {
    let burst = if rate < FAST { rate / 2000 } else { rate / 1000 }.max(1);
    HtbClass { burst, ceil_burst: burst, ..HtbClass::of_rate(rate) }
}

fn nanos(time: Duration) -> u64 {
    time.min(LinkShape::MAX_LATENCY).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use testground_model::shape::{Jitter as Spread, Queue};

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn netem_of(shape: &LinkShape) -> Netem {
        match carry(shape, Pacing::Netem).1 {
            Leaf::Netem(netem) => *netem,
            Leaf::Fifo(_) | Leaf::Hole => panic!("a netem"),
        }
    }

    #[test]
    fn every_number_of_a_shape_is_told() {
        let shape = LinkShape {
            latency: ms(20),
            bandwidth: Some(10_000_000),
            loss: Loss::Random(Chance::percent(1.0)),
            corrupt: Chance::percent(2.0),
            ..LinkShape::default()
        };
        let (class, _) = carry(&shape, Pacing::Netem);
        let netem = netem_of(&shape);
        assert_eq!((class.rate, class.ceil), (1_250_000, 1_250_000));
        assert_eq!((netem.delay, netem.rate, netem.jitter), (20_000_000, 1_250_000, 0));
        assert_eq!(netem.loss, NetemLoss::Random { share: Share::new(0.01), correlation: Share::NONE });
        assert_eq!(netem.corrupt, Share::new(0.02));
        // 64 packets of the queue, and 16.5 on their way.
        assert_eq!(netem.limit, 64 + 17);
    }

    #[test]
    fn the_limit_is_never_below_the_bandwidth_delay_product() {
        for (bandwidth, latency) in
            [(1_000_000, 1), (10_000_000, 200), (1_000_000_000, 50), (10_000_000_000, 300)]
        {
            let shape =
                LinkShape { bandwidth: Some(bandwidth), latency: ms(latency), ..LinkShape::default() };
            let product = bandwidth * latency / 8000;
            assert!(u64::from(netem_of(&shape).limit) * FULL >= 3 * product, "{bandwidth} {latency}");
        }
        let long = LinkShape { latency: ms(50), ..LinkShape::default() };
        assert_eq!(netem_of(&long).limit, 20_641, "5 Gbit/s for 50 ms");
        let own = Queue { limit: QueueLimit::Packets(7), ..Queue::default() };
        let short = LinkShape { bandwidth: Some(1_000_000), queue: own, ..LinkShape::default() };
        assert_eq!(netem_of(&short).limit, 7);
    }

    #[test]
    fn jitter_keeps_the_order_by_a_rate_and_each_distribution_has_its_table() {
        let jitter = Spread { spread: ms(2), ..Spread::default() };
        let mut shape = LinkShape { latency: ms(20), jitter, ..LinkShape::default() };
        let uniform = netem_of(&shape);
        assert_eq!((uniform.rate, uniform.jitter, uniform.cell_overhead), (IN_ORDER, 2_000_000, 1));
        assert_eq!((uniform.distribution[0], uniform.distribution[4095]), (-8190, 8190));
        shape.jitter.may_reorder = true;
        assert_eq!(netem_of(&shape).rate, 0);
        shape.jitter.distribution = Distribution::Normal;
        let normal = netem_of(&shape).distribution;
        let square = |t: &i16| (f64::from(*t) / UNIT).powi(2);
        let deviation = (normal.iter().map(square).sum::<f64>() / 4096.0).sqrt();
        assert!((deviation - 1.0).abs() < 0.005, "{deviation}");
        shape.jitter.distribution = Distribution::Pareto;
        let pareto = netem_of(&shape);
        assert_eq!(pareto.jitter, 16_000_000);
        let spreads = |at: usize| f64::from(pareto.distribution[at]) / UNIT * 8.0;
        assert!((spreads(2048) - 0.26).abs() < 0.01 && (spreads(4055) - 3.64).abs() < 0.05);
        let mean = (0..4096).map(spreads).sum::<f64>() / 4096.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn a_correlated_chance_is_put_where_its_share_lies() {
        let (share, correlation) = chance(Chance { percent: 1.0, correlation: 25.0 });
        // x = 0.75 fresh + 0.25 last is below this for one packet in a hundred.
        assert!((0.06..0.12).contains(&share.as_f64()), "{share:?}");
        assert_eq!(correlation, Share::new(0.25));
        assert_eq!(chance(Chance { percent: 100.0, correlation: 25.0 }), (Share::ALL, Share::NONE));
    }

    #[test]
    fn what_has_no_memory_is_shared() {
        let late = LinkShape { latency: ms(50), ..LinkShape::default() };
        assert!(is_shareable(&late) && !acts_per_packet(&late));
        let lossy = LinkShape { loss: Loss::Random(Chance::percent(1.0)), ..late };
        assert!(is_shareable(&lossy) && acts_per_packet(&lossy));
        let narrow = LinkShape { bandwidth: Some(1_000_000), ..late };
        let jitter = Spread { spread: ms(1), ..Spread::default() };
        let trembling = LinkShape { jitter, ..late };
        let bursts =
            LinkShape { loss: Loss::GilbertElliott { p: 1.0, r: 9.0, bad: 100.0, good: 0.0 }, ..late };
        for shape in [narrow, trembling, bursts] {
            assert!(!is_shareable(&shape) && acts_per_packet(&shape), "{shape:?}");
        }
    }

    #[test]
    fn without_netem_the_class_paces_and_a_cut_link_has_no_room() {
        let narrow = LinkShape { bandwidth: Some(8_000_000_000), ..LinkShape::default() };
        let (class, leaf) = carry(&narrow, Pacing::Htb);
        assert_eq!((class.rate, class.burst), (1_000_000_000, 1_000_000));
        assert!(matches!(leaf, Leaf::Fifo(packets) if packets > 1000));
        let slow = LinkShape { bandwidth: Some(2_000_000), ..LinkShape::default() };
        assert_eq!(carry(&slow, Pacing::Htb).0.burst, 125, "not a packet: that would be 6 ms at once");
        let cut = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        assert_eq!(carry(&cut, Pacing::Htb).1, Leaf::Hole);
        assert_eq!(netem_of(&cut).loss, NetemLoss::Random { share: Share::ALL, correlation: Share::NONE });
    }
}

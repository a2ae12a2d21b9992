//! netem: a queue that delays, loses, duplicates, corrupts, reorders and paces (tc-netem(8), linux/pkt_sched.h).

use super::attributes::{Attributes, Walk, long, word, words_of};
use super::psched;

/// A share of packets, as the kernel counts it: of 2^32 - 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u32);

impl Share {
    /// Never.
    pub const NONE: Self = Self(0);
    /// Always.
    pub const ALL: Self = Self(u32::MAX);

    /// From a number between 0 and 1; what lies outside is taken for the nearer end, and NaN for 0.
    pub fn new(share: f64) -> Self {
        Self((share.clamp(0.0, 1.0) * f64::from(u32::MAX)).round() as u32)
    }

    /// As a number between 0 and 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(u32::MAX)
    }

    fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Of what this leaves over.
    pub(super) fn complement(self) -> Self {
        Self(u32::MAX - self.0)
    }
}

/// What a netem does. The default lets packets pass, a thousand of them waiting at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netem {
    /// How many packets wait at most; more are dropped.
    pub limit: u32,
    /// Delay in nanoseconds.
    pub delay: u64,
    /// How far the delay varies to both sides, in nanoseconds. It reorders.
    pub jitter: u64,
    /// How much each delay resembles the one before.
    pub delay_correlation: Share,
    /// How delays are distributed: a table as tc's `.dist` files hold, empty for an even distribution. Can't be read back.
    pub distribution: Vec<i16>,
    /// What is lost.
    pub loss: Loss,
    /// Mark packets of transports that understand it instead of losing them.
    pub ecn: bool,
    /// What is sent twice.
    pub duplicate: Share,
    /// How much that resembles the packet before.
    pub duplicate_correlation: Share,
    /// What has one bit changed.
    pub corrupt: Share,
    /// How much that resembles the packet before.
    pub corrupt_correlation: Share,
    /// What is sent at once instead of with the delay, overtaking others.
    pub reorder: Share,
    /// How much that resembles the packet before.
    pub reorder_correlation: Share,
    /// With `reorder`: the distance in packets at which it may happen; 0: tc's usual 1.
    pub gap: u32,
    /// Pace: bytes a second; 0: none.
    pub rate: u64,
    /// Bytes added to each packet when pacing.
    pub packet_overhead: i32,
    /// Packets are counted in whole cells of this size in bytes when pacing; 0: none.
    pub cell_size: u32,
    /// Bytes added to each cell.
    pub cell_overhead: i32,
    /// Hold packets back and let them go in groups.
    pub slot: Option<Slot>,
    /// Seed of its random numbers (Linux 6.6 and newer): the same seed gives the same losses.
    pub seed: Option<u64>,
}

/// What a netem loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Each packet with the same probability.
    Random {
        /// What is lost.
        share: Share,
        /// How much that resembles the packet before.
        correlation: Share,
    },
    /// A good and a bad state (Gilbert and Elliott).
    Gilbert {
        /// From good to bad.
        to_bad: Share,
        /// From bad to good.
        to_good: Share,
        /// Lost in the bad state.
        bad_loss: Share,
        /// Lost in the good state.
        good_loss: Share,
    },
    /// Four states: good (1), bad burst (3), good within a burst (2), single loss (4). Transitions between them.
    FourState {
        /// From 1 to 3.
        p13: Share,
        /// From 3 to 1.
        p31: Share,
        /// From 3 to 2.
        p32: Share,
        /// From 2 to 3.
        p23: Share,
        /// From 1 to 4.
        p14: Share,
    },
}

/// Groups in which packets are let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// Shortest time between groups in nanoseconds.
    pub min_delay: u64,
    /// Longest time between groups in nanoseconds.
    pub max_delay: u64,
    /// Packets in a group at most; 0: no limit.
    pub max_packets: u32,
    /// Bytes in a group at most; 0: no limit.
    pub max_bytes: u32,
}

impl Default for Netem {
    fn default() -> Self {
        Self {
            limit: 1000,
            delay: 0,
            jitter: 0,
            delay_correlation: Share::NONE,
            distribution: Vec::new(),
            loss: Loss::Random { share: Share::NONE, correlation: Share::NONE },
            ecn: false,
            duplicate: Share::NONE,
            duplicate_correlation: Share::NONE,
            corrupt: Share::NONE,
            corrupt_correlation: Share::NONE,
            reorder: Share::NONE,
            reorder_correlation: Share::NONE,
            gap: 0,
            rate: 0,
            packet_overhead: 0,
            cell_size: 0,
            cell_overhead: 0,
            slot: None,
            seed: None,
        }
    }
}

impl Netem {
    /// Everything, also what is not in force: a change leaves out what the kernel shall keep, so each part that can be switched
    /// off is told off. `replacing` is false for a new qdisc, where that would only be noise.
    pub(super) fn options(&self, replacing: bool) -> Attributes {
        let (loss, loss_correlation) = match self.loss {
            Loss::Random { share, correlation } => (share, correlation),
            _ => (Share::NONE, Share::NONE),
        };
        let gap = if self.reorder.is_some() { self.gap.max(1) } else { self.gap };
        let (latency, jitter) = (psched::ticks(self.delay), psched::ticks(self.jitter));
        let mut options =
            Attributes::starting_with(&[latency, self.limit, loss.0, gap, self.duplicate.0, jitter]);
        // The numbers above count in units of 64 ns and end at 274 s.
        if replacing || !psched::is_exact(self.delay) || !psched::is_exact(self.jitter) {
            options.u64(TCA_NETEM_LATENCY64, self.delay).u64(TCA_NETEM_JITTER64, self.jitter);
        }
        let correlations = [self.delay_correlation.0, loss_correlation.0, self.duplicate_correlation.0];
        if replacing || correlations.iter().any(|share| *share != 0) {
            options.bytes(TCA_NETEM_CORR, &words_of(&correlations));
        }
        if replacing || self.reorder.is_some() {
            options.bytes(TCA_NETEM_REORDER, &words_of(&[self.reorder.0, self.reorder_correlation.0]));
        }
        if replacing || self.ecn {
            options.u32(TCA_NETEM_ECN, self.ecn.into());
        }
        if replacing || self.corrupt.is_some() {
            options.bytes(TCA_NETEM_CORRUPT, &words_of(&[self.corrupt.0, self.corrupt_correlation.0]));
        }
        // Without a model the kernel goes back to random loss (netem_change).
        if let Some((kind, shares)) = self.loss_model() {
            let mut model = Attributes::default();
            model.bytes(kind, &words_of(&shares));
            options.marked(TCA_NETEM_LOSS, &model);
        }
        if replacing || self.rate > 0 {
            if self.rate > u32::MAX.into() {
                options.u64(TCA_NETEM_RATE64, self.rate);
            }
            let words = [
                u32::try_from(self.rate).unwrap_or(u32::MAX),
                self.packet_overhead as u32,
                self.cell_size,
                self.cell_overhead as u32,
            ];
            options.bytes(TCA_NETEM_RATE, &words_of(&words));
        }
        if replacing || self.slot.is_some() {
            let slot = self.slot.unwrap_or_default();
            let mut bytes = slot.min_delay.to_ne_bytes().to_vec();
            bytes.extend(slot.max_delay.to_ne_bytes());
            bytes.extend(words_of(&[slot.max_packets, slot.max_bytes]));
            // The distribution of slots, which is not offered.
            bytes.extend([0; 16]);
            options.bytes(TCA_NETEM_SLOT, &bytes);
        }
        if let Some(seed) = self.seed {
            options.u64(TCA_NETEM_PRNG_SEED, seed);
        }
        if !self.distribution.is_empty() {
            let bytes: Vec<u8> = self.distribution.iter().flat_map(|value| value.to_ne_bytes()).collect();
            options.bytes(TCA_NETEM_DELAY_DIST, &bytes);
        }
        options
    }

    fn loss_model(&self) -> Option<(u16, Vec<u32>)> {
        match self.loss {
            Loss::Random { .. } => None,
            Loss::Gilbert { to_bad, to_good, bad_loss, good_loss } => {
                Some((NETEM_LOSS_GE, vec![to_bad.0, to_good.0, bad_loss.complement().0, good_loss.0]))
            }
            Loss::FourState { p13, p31, p32, p23, p14 } => {
                Some((NETEM_LOSS_GI, vec![p13.0, p31.0, p32.0, p14.0, p23.0]))
            }
        }
    }

    /// Whether `found`, read from the kernel, does what this asks for. A seed that was not asked for, and the distribution, which
    /// the kernel does not tell, don't count.
    pub fn is_done_by(&self, found: &Self) -> bool {
        let seed = self.seed.and(found.seed);
        let gap = if self.reorder.is_some() { self.gap.max(1) } else { self.gap };
        let asked = Self { distribution: Vec::new(), gap, ..self.clone() };
        asked == Self { seed, distribution: Vec::new(), ..found.clone() }
    }

    /// From the options of a dump.
    pub(super) fn parse(options: &[u8]) -> Self {
        let mut netem = Self {
            delay: psched::nanoseconds(word(options, 0)),
            limit: word(options, 1),
            gap: word(options, 3),
            duplicate: Share(word(options, 4)),
            jitter: psched::nanoseconds(word(options, 5)),
            ..Self::default()
        };
        let (mut loss, mut correlation) = (Share(word(options, 2)), Share::NONE);
        let mut model = None;
        let share = |value: &[u8], at| Share(word(value, at));
        for (kind, value) in Walk(options.get(24..).unwrap_or_default()) {
            match kind {
                TCA_NETEM_LATENCY64 => netem.delay = long(value),
                TCA_NETEM_JITTER64 => netem.jitter = long(value),
                TCA_NETEM_CORR => {
                    netem.delay_correlation = share(value, 0);
                    correlation = share(value, 1);
                    netem.duplicate_correlation = share(value, 2);
                }
                TCA_NETEM_REORDER => {
                    (netem.reorder, netem.reorder_correlation) = (share(value, 0), share(value, 1));
                }
                TCA_NETEM_CORRUPT => {
                    (netem.corrupt, netem.corrupt_correlation) = (share(value, 0), share(value, 1));
                }
                TCA_NETEM_ECN => netem.ecn = word(value, 0) != 0,
                TCA_NETEM_RATE => {
                    netem.rate = netem.rate.max(word(value, 0).into());
                    netem.packet_overhead = word(value, 1) as i32;
                    netem.cell_size = word(value, 2);
                    netem.cell_overhead = word(value, 3) as i32;
                }
                TCA_NETEM_RATE64 => netem.rate = long(value),
                TCA_NETEM_SLOT => {
                    let slot = Slot {
                        min_delay: long(value),
                        max_delay: long(value.get(8..).unwrap_or_default()),
                        max_packets: word(value, 4),
                        max_bytes: word(value, 5),
                    };
                    netem.slot = (slot != Slot::default()).then_some(slot);
                }
                TCA_NETEM_PRNG_SEED => netem.seed = Some(long(value)),
                TCA_NETEM_LOSS => {
                    for (kind, value) in Walk(value) {
                        model = match kind {
                            NETEM_LOSS_GE => Some(Loss::Gilbert {
                                to_bad: share(value, 0),
                                to_good: share(value, 1),
                                bad_loss: share(value, 2).complement(),
                                good_loss: share(value, 3),
                            }),
                            NETEM_LOSS_GI => Some(Loss::FourState {
                                p13: share(value, 0),
                                p31: share(value, 1),
                                p32: share(value, 2),
                                p14: share(value, 3),
                                p23: share(value, 4),
                            }),
                            _ => model,
                        };
                    }
                }
                _ => {}
            }
        }
        if model.is_some() {
            loss = Share::NONE;
            correlation = Share::NONE;
        }
        netem.loss = model.unwrap_or(Loss::Random { share: loss, correlation });
        netem
    }
}

const TCA_NETEM_CORR: u16 = 1;
const TCA_NETEM_DELAY_DIST: u16 = 2;
const TCA_NETEM_REORDER: u16 = 3;
const TCA_NETEM_CORRUPT: u16 = 4;
const TCA_NETEM_LOSS: u16 = 5;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_ECN: u16 = 7;
const TCA_NETEM_RATE64: u16 = 8;
const TCA_NETEM_LATENCY64: u16 = 10;
const TCA_NETEM_JITTER64: u16 = 11;
const TCA_NETEM_SLOT: u16 = 12;
const TCA_NETEM_PRNG_SEED: u16 = 14;
const NETEM_LOSS_GI: u16 = 1;
const NETEM_LOSS_GE: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        let netem = Netem {
            limit: 7,
            delay: 1_000_000_007,
            jitter: 300 * 1_000_000_000,
            delay_correlation: Share::new(0.25),
            ecn: true,
            duplicate: Share::new(0.01),
            duplicate_correlation: Share::new(0.02),
            corrupt: Share::new(0.03),
            corrupt_correlation: Share::new(0.04),
            reorder: Share::new(0.05),
            reorder_correlation: Share::new(0.06),
            gap: 5,
            rate: 1 << 35,
            packet_overhead: -4,
            cell_size: 48,
            cell_overhead: 5,
            slot: Some(Slot { min_delay: 1, max_delay: 2, max_packets: 3, max_bytes: 4 }),
            seed: Some(42),
            ..Netem::default()
        };
        let losses = [
            Loss::Random { share: Share::new(0.5), correlation: Share::new(0.1) },
            Loss::Gilbert {
                to_bad: Share::new(0.1),
                to_good: Share::new(0.2),
                bad_loss: Share::new(0.3),
                good_loss: Share::new(0.4),
            },
            Loss::FourState {
                p13: Share::new(0.1),
                p31: Share::new(0.2),
                p32: Share::new(0.3),
                p23: Share::new(0.4),
                p14: Share::new(0.5),
            },
        ];
        for loss in losses {
            for replacing in [true, false] {
                let netem = Netem { loss, ..netem.clone() };
                assert_eq!(Netem::parse(netem.options(replacing).as_bytes()), netem);
            }
        }
        let plain = Netem::default();
        assert_eq!(plain.options(false).as_bytes().len(), 24, "nothing but the structure");
        assert_eq!(Netem::parse(plain.options(true).as_bytes()), plain);
    }

    #[test]
    fn shares_stay_within_their_bounds() {
        assert_eq!(
            (Share::new(-1.0), Share::new(2.0), Share::new(f64::NAN)),
            (Share::NONE, Share::ALL, Share::NONE)
        );
        assert!((Share::new(0.1).as_f64() - 0.1).abs() < 1e-9);
    }
}

//! Chance: every decision about the `n`-th packet of a link is a function of the seed, the link's two names, the
//! effect and `n`. Nothing else, such as other links, other effects or the wall clock, can shift it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::SplitMix64;
use testground_model::name::fnv1a;

/// What a draw is for. Each effect has its own sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Effect {
    /// Whether a packet is lost.
    Loss = 1,
    /// Which state of a Gilbert-Elliott chain comes next.
    LossState,
    /// Whether a packet arrives twice.
    Duplicate,
    /// Whether it gets a flipped bit.
    Corrupt,
    /// Which bit.
    CorruptBit,
    /// By how much the latency deviates.
    Jitter,
    /// Whether it skips the latency.
    Reorder,
}

/// The random stream of a directed link: SplitMix64, whose `n`-th output can be had without those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

/// A draw with memory, as netem's: `x = (1 - c) * fresh + c * last`.
///
/// Such an `x` is not uniform: a mean of uniform numbers is seldom near 0, so that by this rule alone a loss of 1 % with a
/// correlation of 25 % loses 0.0003 %. Here `x` is mapped through its own long-run distribution, which makes it uniform again and keeps its
/// correlation: the share asked for is the share that happens.
#[derive(Debug, Clone)]
pub struct Correlated {
    weight: f64,
    distribution: Option<Rc<[f64]>>,
}

/// What a [`Correlated`] draw remembers: the last `x`, or that there was none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory(f64);

// === impl Stream ===

impl Stream {
    /// The stream of the link from one port to another.
    pub fn new(seed: u64, from: &str, to: &str) -> Stream {
        // Each name through its own finaliser: `a -> bc` and `ab -> c` are different links.
        let from = first_output(seed ^ fnv1a(from.as_bytes()));
        let to = first_output(from.rotate_left(23) ^ fnv1a(to.as_bytes()));
        Stream { key: to }
    }

    /// The draw for the `index`-th packet.
    pub fn draw(&self, effect: Effect, index: u64) -> u64 {
        let key = first_output(self.key ^ (effect as u64).wrapping_mul(0xd605_1f1e_8b3c_9a27));
        first_output(key.wrapping_add(index.wrapping_mul(GAMMA)))
    }

    /// The draw for the copy of the `index`-th packet, where it was duplicated.
    pub fn draw_for_copy(&self, effect: Effect, index: u64) -> u64 {
        first_output(!self.draw(effect, index))
    }
}

/// A draw as a number in 0..1.
pub fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// SplitMix64's increment: outputs of states this far apart follow each other in its sequence.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn first_output(state: u64) -> u64 {
    SplitMix64::from_seed(state.to_le_bytes()).next_u64()
}

// === impl Memory ===

impl Memory {
    /// No draw is negative.
    const NONE: f64 = -1.0;
}

impl Default for Memory {
    fn default() -> Self {
        Memory(Memory::NONE)
    }
}

// === impl Correlated ===

impl Correlated {
    /// A draw whose correlation with the one before is `percent`, 0 to 100.
    pub fn new(percent: f64) -> Correlated {
        let weight = match percent / 100.0 {
            whole if whole >= 1.0 => 1.0,
            // Above 0.999 the distribution is narrower than the table's cells.
            part => part.clamp(0.0, 0.999),
        };
        let distribution = (weight > 0.0 && weight < 1.0).then(|| cached_distribution(weight));
        Correlated { weight, distribution }
    }

    /// The next number in 0..1, from a fresh one. With a correlation of 100 % the first one stays for good.
    pub fn next(&self, memory: &mut Memory, fresh: f64) -> f64 {
        if self.weight == 0.0 {
            return fresh;
        }
        let x = match memory.0 {
            Memory::NONE => self.start(fresh),
            last => (1.0 - self.weight) * fresh + self.weight * last,
        };
        memory.0 = x;
        self.share_below(x)
    }

    /// How much of the last `x` the next one has, 0 to 1.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The `x` below which a share of all draws lies.
    pub fn quantile(&self, share: f64) -> f64 {
        self.start(share)
    }

    /// The first `x` of a sequence: as likely as any later one, so that short sequences are right too.
    fn start(&self, fresh: f64) -> f64 {
        let Some(table) = &self.distribution else { return fresh };
        let above = table.partition_point(|share| *share < fresh).clamp(1, table.len() - 1);
        let (low, high) = (table[above - 1], table[above]);
        let part = if high > low { (fresh - low) / (high - low) } else { 0.0 };
        (above as f64 - 1.0 + part) / (table.len() - 1) as f64
    }

    fn share_below(&self, x: f64) -> f64 {
        let Some(table) = &self.distribution else { return x };
        let place = x.clamp(0.0, 1.0) * (table.len() - 1) as f64;
        let low = (place as usize).min(table.len() - 2);
        table[low] + (place - low as f64) * (table[low + 1] - table[low])
    }
}

const CELLS: usize = 2048;

thread_local! {
    /// By the bits of the weight. Distinct correlations in a run are few; a flood of them starts afresh.
    static DISTRIBUTIONS: RefCell<HashMap<u64, Rc<[f64]>>> = RefCell::default();
}

fn cached_distribution(weight: f64) -> Rc<[f64]> {
    DISTRIBUTIONS.with_borrow_mut(|known| {
        if known.len() > 256 {
            known.clear();
        }
        Rc::clone(known.entry(weight.to_bits()).or_insert_with(|| distribution(weight).into()))
    })
}

/// The long-run distribution function of `x = (1 - c) * fresh + c * last`, at `CELLS + 1` even steps.
///
/// It is the fixed point of `F(x) = mean of F((x - (1 - c) u) / c) over u in 0..1`. With `S` the integral of `F`, a
/// round is `F(x) = c / (1 - c) * (S(x / c) - S((x - (1 - c)) / c))`. Rounds begin with the uniform distribution that
/// has the right mean and variance already; what is left, the fourth moment, shrinks by `c^4` a round.
fn distribution(c: f64) -> Vec<f64> {
    let rounds = ((1e-8f64.ln() / (4.0 * c.ln())).ceil() as usize).clamp(4, 4096);
    let width = ((1.0 - c) / (1.0 + c)).sqrt();
    let start = |i: usize| ((i as f64 / CELLS as f64 - 0.5) / width + 0.5).clamp(0.0, 1.0);
    let mut shares: Vec<f64> = (0..=CELLS).map(start).collect();
    let mut sums = vec![0.0; CELLS + 1];
    for _ in 0..rounds {
        for i in 0..CELLS {
            sums[i + 1] = sums[i] + (shares[i] + shares[i + 1]) / 2.0 / CELLS as f64;
        }
        let integral = |x: f64| integral(&shares, &sums, x);
        let next = |i: usize| {
            let x = i as f64 / CELLS as f64;
            (c / (1.0 - c) * (integral(x / c) - integral((x - (1.0 - c)) / c))).clamp(0.0, 1.0)
        };
        shares = (0..=CELLS).map(next).collect();
    }
    shares
}

/// The integral from 0 to `x` of a function given at even steps of 0..1: 0 before, 1 behind.
fn integral(values: &[f64], sums: &[f64], x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return sums[CELLS] + (x - 1.0);
    }
    let place = x * CELLS as f64;
    let low = (place as usize).min(CELLS - 1);
    let part = place - low as f64;
    let middle = values[low] + part / 2.0 * (values[low + 1] - values[low]);
    sums[low] + part / CELLS as f64 * middle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_draw_has_its_own_place() {
        let stream = Stream::new(7, "a[0]/default", "b[0]/default");
        let other = Stream::new(7, "b[0]/default", "a[0]/default");
        let mut seen = std::collections::HashSet::new();
        for index in 0..1000 {
            for effect in [Effect::Loss, Effect::LossState, Effect::Duplicate, Effect::Jitter] {
                assert!(seen.insert(stream.draw(effect, index)));
                assert!(seen.insert(stream.draw_for_copy(effect, index)));
                assert!(seen.insert(other.draw(effect, index)));
            }
        }
        assert_ne!(Stream::new(1, "a", "bc"), Stream::new(1, "ab", "c"));
        assert_ne!(Stream::new(1, "a", "b"), Stream::new(2, "a", "b"));
    }

    /// The draws are values that runs are replayed by: a change of the generator breaks every recorded run.
    #[test]
    fn draws_never_change() {
        let stream = Stream::new(42, "clients[3]/default", "servers[0]/default");
        let draws: Vec<u64> = (0..3).map(|i| stream.draw(Effect::Loss, i)).collect();
        assert_eq!(draws, GOLDEN, "{draws:#x?}");
    }

    const GOLDEN: [u64; 3] = [0x0f94_5d51_a65f_4684, 0x8f38_550a_2da0_9a81, 0xfeb7_5181_d427_568c];

    #[test]
    fn fresh_draws_are_uniform() {
        let stream = Stream::new(1, "a", "b");
        let mean = (0..100_000).map(|i| unit(stream.draw(Effect::Loss, i))).sum::<f64>() / 1e5;
        // The mean of 100,000 uniform numbers has a standard deviation of 0.29 / 316; five of them.
        assert!((mean - 0.5).abs() < 0.0046, "{mean}");
    }

    #[test]
    fn correlated_draws_stay_uniform_and_are_correlated() {
        for percent in [10.0, 25.0, 50.0, 75.0, 90.0, 99.0] {
            let draws = sequence(percent, 200_000);
            let n = draws.len() as f64;
            let c: f64 = percent / 100.0;
            // A sequence with correlation c is worth n (1 - c) / (1 + c) independent ones.
            let worth = n * (1.0 - c) / (1.0 + c);
            for share in [0.001, 0.01, 0.1, 0.5, 0.9] {
                let below = draws.iter().filter(|&&x| x < share).count() as f64 / n;
                let sigma = (share * (1.0 - share) / worth).sqrt();
                assert!((below - share).abs() < 5.0 * sigma + 2e-4, "{percent} %: {below} for {share}");
            }
            let lagged: f64 = draws.windows(2).map(|w| (w[0] - 0.5) * (w[1] - 0.5)).sum::<f64>() / n * 12.0;
            // Mapping to a uniform variable changes a correlation by up to 0.03 (0.473 for 0.5).
            assert!((lagged - c).abs() < 0.03 + 5.0 / worth.sqrt(), "{percent} %: {lagged}");
        }
    }

    #[test]
    fn the_ends_of_correlation_are_independence_and_one_draw_for_good() {
        let free = sequence(0.0, 100);
        let stream = Stream::new(3, "a", "b");
        assert!(free.iter().enumerate().all(|(i, &x)| x == unit(stream.draw(Effect::Loss, i as u64))));
        let stuck = sequence(100.0, 100);
        assert!(stuck.iter().all(|x| *x == stuck[0]));
    }

    fn sequence(percent: f64, count: u64) -> Vec<f64> {
        let stream = Stream::new(3, "a", "b");
        let correlated = Correlated::new(percent);
        let mut memory = Memory::default();
        let draw = |i| correlated.next(&mut memory, unit(stream.draw(Effect::Loss, i)));
        (0..count).map(draw).collect()
    }
}

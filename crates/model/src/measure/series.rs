//! One series of numbers, added up in bounded memory.

use sketches_ddsketch::{Config, DDSketch};

use super::timeline::Timeline;

/// Up to so many values the quantiles are exact.
pub const EXACT_VALUES: usize = 512;
/// Beyond that they are within this share of the true value, as long as the values of a series, by magnitude, span less
/// than about nine powers of ten (DDSketch: Masson, Rim, Lee, VLDB 2019).
pub const QUANTILE_ERROR: f64 = 0.005;
/// Buckets of a sketch: with the error above they span a factor of `e^20`.
const SKETCH_BINS: u32 = 2048;
/// Magnitudes below count as zero.
const SKETCH_LEAST: f64 = 1e-12;

/// Numbers, added up.
#[derive(Clone)]
pub(super) struct Series {
    pub(super) count: u64,
    pub(super) mean: f64,
    /// The sum of squared distances from the mean (Welford).
    squares: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    values: Values,
    pub(super) over_time: Timeline,
}

#[derive(Clone)]
enum Values {
    All(Vec<f64>),
    Sketch(Box<DDSketch>),
}

// === impl Series ===

impl Series {
    pub(super) fn new() -> Series {
        Series {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            values: Values::All(Vec::new()),
            over_time: Timeline::default(),
        }
    }

    /// Adds a finite value at a time, nanoseconds.
    pub(super) fn add(&mut self, time: i64, value: f64) {
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.over_time.add(time, value);
        match &mut self.values {
            Values::All(all) if all.len() < EXACT_VALUES => all.push(value),
            Values::All(all) => {
                let mut sketch =
                    Box::new(DDSketch::new(Config::new(QUANTILE_ERROR, SKETCH_BINS, SKETCH_LEAST)));
                all.iter().for_each(|v| sketch.add(*v));
                sketch.add(value);
                self.values = Values::Sketch(sketch);
            }
            Values::Sketch(sketch) => sketch.add(value),
        }
    }

    /// The mean; a sum beyond what numbers hold stops at their bounds.
    pub(super) fn mean(&self) -> f64 {
        if self.mean.is_nan() { self.max } else { self.mean.clamp(self.min, self.max) }
    }

    /// The standard deviation of a sample; zero for a single value.
    pub(super) fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let deviation = (self.squares / (self.count - 1) as f64).sqrt();
        if deviation.is_finite() { deviation } else { f64::MAX }
    }

    /// The value below which this share of all values is (nearest rank), `0 < share <= 1`.
    pub(super) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        match &self.values {
            Values::All(all) => {
                let mut sorted = all.clone();
                sorted.sort_unstable_by(f64::total_cmp);
                shares.map(|share| {
                    let rank = (share * sorted.len() as f64).ceil() as usize;
                    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
                })
            }
            Values::Sketch(sketch) => shares.map(|share| {
                let value = sketch.quantile(share).ok().flatten().unwrap_or(self.mean());
                value.clamp(self.min, self.max)
            }),
        }
    }

    /// Whether the quantiles are those of the values themselves.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self.values, Values::All(_))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(values: &[f64]) -> Series {
        let mut series = Series::new();
        values.iter().enumerate().for_each(|(i, v)| series.add(i as i64, *v));
        series
    }

    #[test]
    fn a_small_series_is_exact() {
        let s = series(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((s.count, s.mean(), s.min, s.max), (5, 3.0, 1.0, 5.0));
        assert_eq!(s.quantiles([0.5, 0.99, 0.2]), [3.0, 5.0, 1.0]);
        assert!((s.deviation() - 2.5f64.sqrt()).abs() < 1e-12);
        assert!(s.is_exact());
        assert_eq!(series(&[7.0]).quantiles([0.5]), [7.0]);
        let huge = series(&[f64::MAX, f64::MAX, f64::MIN]);
        assert!(huge.mean().is_finite() && huge.deviation().is_finite());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_large_series_is_within_its_error(
            seed in proptest::collection::vec(-1e4f64..1e4, 50),
            scale in 1usize..40,
        ) {
            // Both signs, several magnitudes, more than are kept one by one.
            let values: Vec<f64> = (0..EXACT_VALUES + scale * 100)
                .map(|i| seed[i % seed.len()] * (1.0 + (i % 97) as f64 / 10.0))
                .collect();
            let s = series(&values);
            prop_assert!(!s.is_exact());
            let mut sorted = values;
            sorted.sort_unstable_by(f64::total_cmp);
            for share in [0.01, 0.5, 0.9, 0.99] {
                let [seen] = s.quantiles([share]);
                let rank = (share * sorted.len() as f64) as usize;
                // Definitions of a quantile differ by a rank.
                let near = &sorted[rank.saturating_sub(2)..(rank + 2).min(sorted.len())];
                let fits = near.iter().any(|v| (seen - v).abs() <= v.abs() * QUANTILE_ERROR * 1.01 + 1e-9)
                    || (near[0]..=near[near.len() - 1]).contains(&seen);
                prop_assert!(fits, "{share}: {seen} beside {near:?}");
            }
        }
    }
}

//! Two runs' measurements side by side, with a test of whether they differ.
//!
//! Values are read from the records, not from summaries, since ranks need them all. The test is Mann and Whitney's
//! ([`rank`]); its probabilities are corrected for the number of tests (Holm). It takes values for independent, which
//! those of one instance seldom are: a small probability says that these two runs differ, not that their plans do.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;
use testground_model::measure::rank;
use testground_model::measure::{SeriesName, Source, Summarizer};

/// Most values of a series that are ranked; of a longer one an even choice of them.
pub const MOST_VALUES: usize = 100_000;
/// A difference is called one below this probability.
pub const SIGNIFICANT: f64 = 0.05;
/// Most series that are compared.
const MOST_SERIES: usize = 4096;

/// The values of one run by series.
pub type Values = BTreeMap<SeriesName, Sample>;

/// Values of a series, in the order of the record.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// All values, or every `step`-th of them.
    values: Vec<f64>,
    count: u64,
    sum: f64,
    step: u64,
}

/// One series of both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    #[serde(flatten)]
    pub series: SeriesName,
    /// In the first run.
    pub a: Option<Sums>,
    /// In the second run.
    pub b: Option<Sums>,
    /// How far the second median is from the first, percent of the first; none where that is zero.
    pub change_percent: Option<f64>,
    /// The share of pairs in which the second run's value is the greater: 0.5 is no difference.
    pub greater: Option<f64>,
    /// The probability of such a difference by chance; none for fewer than [`rank::FEWEST`] values in a run.
    pub p: Option<f64>,
    /// The same, corrected for the number of series compared.
    pub p_corrected: Option<f64>,
}

/// What is shown of a series in one run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sums {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their median.
    pub p50: f64,
    /// Their 99th percentile.
    pub p99: f64,
}

/// Reads the values of a run; of series that `wanted` doesn't want, none.
///
/// # Errors
/// When the record can't be read.
pub fn read(outputs: &Path, source: &Source, wanted: impl Fn(&SeriesName) -> bool) -> io::Result<Values> {
    let names = Summarizer::new(source);
    let mut values = Values::new();
    super::record::each(outputs, source, &mut |line| {
        for (field, value) in line.fields() {
            let Some(number) = value.number() else { continue };
            let name = names.name(line, field);
            if let Some(sample) = values.get_mut(&name) {
                Sample::add(sample, number);
            } else if values.len() < MOST_SERIES && wanted(&name) {
                let mut sample = Sample::default();
                sample.add(number);
                values.insert(name, sample);
            }
        }
        Ok(())
    })?;
    Ok(values)
}

/// Compares two runs, series by series.
pub fn compare(a: &Values, b: &Values) -> Vec<Compared> {
    let mut names: Vec<&SeriesName> = a.keys().chain(b.keys().filter(|name| !a.contains_key(name))).collect();
    names.sort();
    let mut compared: Vec<Compared> =
        names.into_iter().map(|name| one(name, a.get(name), b.get(name))).collect();
    let tested: Vec<usize> = (0..compared.len()).filter(|i| compared[*i].p.is_some()).collect();
    let corrected = rank::holm(&tested.iter().filter_map(|i| compared[*i].p).collect::<Vec<_>>());
    for (i, p) in tested.into_iter().zip(corrected) {
        compared[i].p_corrected = Some(p);
    }
    compared
}

fn one(name: &SeriesName, a: Option<&Sample>, b: Option<&Sample>) -> Compared {
    let (sums_a, sums_b) = (a.map(Sample::sums), b.map(Sample::sums));
    let verdict = a.zip(b).and_then(|(a, b)| rank::mann_whitney(&a.values, &b.values));
    let change = sums_a.zip(sums_b).filter(|(a, _)| a.p50 != 0.0);
    Compared {
        series: name.clone(),
        a: sums_a,
        b: sums_b,
        change_percent: change.map(|(a, b)| (b.p50 - a.p50) / a.p50.abs() * 100.0).filter(|c| c.is_finite()),
        greater: verdict.map(|v| v.greater),
        p: verdict.and_then(|v| v.p),
        p_corrected: None,
    }
}

// === impl Compared ===

impl Compared {
    /// Whether chance is a poor explanation, given how many series were compared.
    pub fn is_significant(&self) -> bool {
        self.p_corrected.is_some_and(|p| p < SIGNIFICANT)
    }

    /// Whether the second run's median is significantly worse by more than `limit` percent.
    pub fn is_worse(&self, limit: f64, higher_is_better: bool) -> bool {
        let sign = if higher_is_better { -1.0 } else { 1.0 };
        self.is_significant() && self.change_percent.is_some_and(|change| sign * change > limit)
    }
}

// === impl Sample ===

impl Sample {
    fn add(&mut self, value: f64) {
        let step = self.step.max(1);
        if self.count.is_multiple_of(step) {
            if self.values.len() == MOST_VALUES {
                // Every second one goes, so that what stays is spread over the whole run.
                let mut keep = false;
                self.values.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.step = step * 2;
            }
            if self.count.is_multiple_of(self.step.max(1)) {
                self.values.push(value);
            }
        }
        self.count += 1;
        self.sum += value;
    }

    fn sums(&self) -> Sums {
        let mut sorted = self.values.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        Sums { count: self.count, mean: self.sum / self.count as f64, p50: at(0.5), p99: at(0.99) }
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Sample {
        let mut sample = Sample::default();
        values.into_iter().for_each(|v| sample.add(v));
        sample
    }
}

#[cfg(test)]
mod tests {
    use testground_model::measure::Kind;

    use super::*;

    fn name(name: &str) -> SeriesName {
        SeriesName {
            kind: Kind::Result,
            name: name.into(),
            tags: String::new(),
            metric: "point".into(),
            field: "value".into(),
            group: "g".into(),
        }
    }

    #[test]
    fn a_shift_is_found_and_its_size_said() {
        let line = |shift: f64| -> Sample { (0..200).map(|i| 100.0 + f64::from(i % 17) + shift).collect() };
        let a =
            Values::from([(name("same"), line(0.0)), (name("slow"), line(0.0)), (name("gone"), line(0.0))]);
        let b = Values::from([
            (name("same"), line(0.0)),
            (name("slow"), line(20.0)),
            (name("few"), [1.0].into_iter().collect()),
        ]);
        let seen = compare(&a, &b);
        let names: Vec<&str> = seen.iter().map(|c| c.series.name.as_str()).collect();
        assert_eq!(names, ["few", "gone", "same", "slow"]);
        assert!(seen[0].a.is_none() && seen[0].p.is_none() && seen[1].b.is_none());
        assert_eq!(
            (seen[2].change_percent, seen[2].greater, seen[2].p_corrected),
            (Some(0.0), Some(0.5), Some(1.0))
        );
        let slow = &seen[3];
        assert!((slow.change_percent.unwrap() - 20.0 / 108.0 * 100.0).abs() < 1e-9, "{slow:?}");
        assert!(slow.p_corrected.unwrap() < 1e-20 && slow.greater == Some(1.0), "{slow:?}");
    }

    #[test]
    fn a_long_series_is_thinned_evenly() {
        let long: Sample = (0..350_000).map(f64::from).collect();
        assert!(
            long.values.len() <= MOST_VALUES && long.values.len() > MOST_VALUES / 3,
            "{}",
            long.values.len()
        );
        assert_eq!(long.count, 350_000);
        let steps: Vec<f64> = long.values.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(steps.iter().all(|s| *s == steps[0]), "every {}th", steps[0]);
        assert!((long.sums().p50 - 175_000.0).abs() < 10.0);
    }
}

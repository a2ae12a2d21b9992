//! Whether what was measured is what was asked for: pure.
//!
//! A number is off when it lies outside of what chance allows (four standard deviations) and, beyond that, outside of
//! the run's tolerance. `docs/network.md` has the formulas.

use std::time::Duration;

use testground_model::event::Proof;
use testground_model::run::ProofSettings;
use testground_model::shape::{Chance, Distribution, Filter, LinkShape, Loss};

use super::schedule::{HEADERS, SINGLE, Trial, serial};
use crate::show::{rate, seconds};

/// What was seen of a trial.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    /// How many single packets were sent.
    pub(super) sent: u32,
    /// The one-way delay of each single packet that arrived.
    pub(super) delays: Vec<Duration>,
    /// The round trip of each that was answered.
    pub(super) round_trips: Vec<Duration>,
    /// When each packet of the burst arrived, and its payload.
    pub(super) burst: Vec<(Duration, u16)>,
}

/// How many standard deviations chance may take: one correct proof in 16,000 is off.
const SIGMAS: f64 = 4.0;

/// Puts what was measured beside what was asked for.
pub(crate) fn judge(trial: &Trial, mut sample: Sample, settings: &ProofSettings) -> Proof {
    let asked = &*trial.declared.there;
    let arrived = sample.delays.len() as u32;
    if !asked.reorder.is_never() {
        // Those that skip the latency say nothing about it.
        sample.delays.retain(|delay| *delay >= asked.latency / 2);
    }
    sample.delays.sort_unstable();
    sample.round_trips.sort_unstable();
    let mut proof = Proof {
        label: trial.declared.label.clone(),
        asked: asked.clone(),
        delay_p50: quantile(&sample.delays, 0.5),
        delay_p99: quantile(&sample.delays, 0.99),
        round_trip_p50: quantile(&sample.round_trips, 0.5),
        back: Some(trial.declared.back.latency),
        rate: burst_rate(&mut sample.burst),
        loss_percent: percent(sample.sent.saturating_sub(arrived), sample.sent),
        probes: sample.sent,
        replayed: None,
        off: Vec::new(),
    };
    if asked.filter != Filter::Accept {
        if arrived > 0 {
            proof.off.push(format!("{arrived} of {} packets passed where none should", sample.sent));
        }
        return proof;
    }
    let checks = [
        delay_off(trial, &proof, settings),
        rate_off(trial, &proof, settings),
        loss_off(asked, sample.sent, arrived),
    ];
    proof.off.extend(checks.into_iter().flatten());
    if let Some(stretch) = trial.burst.as_ref().and_then(|burst| burst.stretch.as_ref()) {
        let (rate, off) = stretch.judge(&sample.burst, settings);
        proof.replayed = Some(stretch.replayed());
        proof.rate = rate;
        proof.off.extend(off);
    }
    proof
}

/// Whether a sample of [`Trial::yardstick`] shows a machine that has time for a measurement: half of the packets took less
/// than half of the tolerance, and none was lost.
pub(crate) fn has_time(mut sample: Sample, settings: &ProofSettings) -> bool {
    sample.delays.sort_unstable();
    let median = quantile(&sample.delays, 0.5);
    sample.delays.len() as u32 == sample.sent && median.is_some_and(|m| m <= settings.delay / 2)
}

fn delay_off(trial: &Trial, proof: &Proof, settings: &ProofSettings) -> Option<String> {
    let asked = &proof.asked;
    let Some(measured) = proof.delay_p50 else {
        // Where every packet skips the latency, none is left to tell it by.
        let none = proof.loss_percent >= 100.0;
        return (none && most_lost(asked) < 100.0).then(|| "no packet arrived".to_owned());
    };
    let arrived = f64::from(proof.probes) * (1.0 - proof.loss_percent / 100.0);
    let (low, high) = median_range(asked, arrived, trial.gap);
    let on_wire = serial(asked, SINGLE);
    let (least, most) = (low + on_wire, high + on_wire + settings.delay);
    let fits = measured + settings.delay >= least && measured <= most;
    (!fits).then(|| {
        let (measured, wanted) = (seconds(measured), seconds(middle(asked) + on_wire));
        format!("the median delay is {measured} where {wanted} is asked for")
    })
}

fn rate_off(trial: &Trial, proof: &Proof, settings: &ProofSettings) -> Option<String> {
    let (Some(asked), Some(_)) = (proof.asked.bandwidth, &trial.burst) else { return None };
    let Some(measured) = proof.rate else {
        return Some("too little of a burst arrived to tell its rate".to_owned());
    };
    let asked = asked as f64;
    let fits = (measured / asked - 1.0).abs() <= settings.rate_percent / 100.0;
    (!fits).then(|| format!("the rate is {} where {} is asked for", rate(measured), rate(asked)))
}

fn loss_off(asked: &LinkShape, sent: u32, arrived: u32) -> Option<String> {
    if sent == 0 {
        return None;
    }
    let lost = sent.saturating_sub(arrived);
    let (low, high) = loss_range(asked, sent)?;
    let fits = (low..=high).contains(&f64::from(lost));
    (!fits).then(|| {
        format!(
            "{lost} of {sent} packets were lost where {:.0} to {:.0} are to be expected",
            low.ceil(),
            high
        )
    })
}

/// What chance allows the median of so many delays to be: the quantiles around the middle that hold it nearly always.
fn median_range(asked: &LinkShape, arrived: f64, gap: Duration) -> (Duration, Duration) {
    let spread = asked.jitter.spread;
    if spread.is_zero() {
        return (asked.latency, asked.latency);
    }
    let memory = correlation_factor(asked.jitter.correlation);
    let around = (SIGMAS / 2.0 * (memory / arrived.max(1.0)).sqrt()).min(0.49);
    let mut high = quantile_of(asked, 0.5 + around);
    if !asked.jitter.may_reorder && gap < spread * 4 {
        // Packets that may not overtake wait for late ones before them.
        high += spread * 2;
    }
    (quantile_of(asked, 0.5 - around), high)
}

fn middle(asked: &LinkShape) -> Duration {
    if asked.jitter.spread.is_zero() { asked.latency } else { quantile_of(asked, 0.5) }
}

/// The latency that this share of packets stays below.
fn quantile_of(asked: &LinkShape, share: f64) -> Duration {
    let deviation = match asked.jitter.distribution {
        Distribution::Uniform => 2.0 * share - 1.0,
        // The logistic curve stays within 0.15 of the normal one for shares from 0.005 to 0.995: enough for a bound.
        Distribution::Normal => (share / (1.0 - share)).ln() / 1.6,
        Distribution::Pareto => (1.0 - share).powf(-1.0 / 3.0) - 1.0,
    };
    let latency = asked.latency.as_secs_f64() + asked.jitter.spread.as_secs_f64() * deviation;
    Duration::from_secs_f64(latency.max(0.0))
}

/// How many of so many packets chance allows to be lost; `None`: any number.
fn loss_range(asked: &LinkShape, sent: u32) -> Option<(f64, f64)> {
    let sent = f64::from(sent);
    let (lost, memory) = match asked.loss {
        Loss::Random(Chance { percent, correlation }) => (percent / 100.0, correlation_factor(correlation)),
        Loss::GilbertElliott { p, r, bad, good } => {
            let (p, r) = (p / 100.0, r / 100.0);
            let bad_share = if p + r > 0.0 { p / (p + r) } else { 0.0 };
            let lost = bad_share * bad / 100.0 + (1.0 - bad_share) * good / 100.0;
            (lost, (1.0 + (1.0 - p - r).abs()) / (1.0 - (1.0 - p - r).abs()).max(1e-9))
        }
    };
    let corrupt = asked.corrupt.percent / 100.0;
    let memory = memory.max(correlation_factor(asked.corrupt.correlation));
    if memory > sent {
        return None;
    }
    // A flipped bit in the hardware address of the sender harms nobody: 6 of the frame's bytes.
    let harmless = 6.0 / (HEADERS + u64::from(SINGLE)) as f64;
    let least = 1.0 - (1.0 - lost) * (1.0 - corrupt * (1.0 - 2.0 * harmless));
    let most = 1.0 - (1.0 - lost) * (1.0 - corrupt);
    let deviation = |share: f64| SIGMAS * (sent * share * (1.0 - share) * memory).sqrt();
    // Of rare losses a few happen more often than the bell curve says.
    let rare = if most > 0.0 { SIGMAS * memory } else { 0.0 };
    let low = (sent * least - deviation(least)).max(0.0);
    let high = (sent * most + deviation(most) + rare).min(sent);
    Some((low, high))
}

/// By how much a correlation of this percentage widens the spread of a mean.
fn correlation_factor(percent: f64) -> f64 {
    let c = (percent / 100.0).min(1.0);
    (1.0 + c) / (1.0 - c).max(1e-9)
}

/// The loss that a shape asks for, percent.
fn most_lost(asked: &LinkShape) -> f64 {
    loss_range(asked, 1_000_000).map_or(100.0, |(_, high)| high / 10_000.0)
}

/// Bits per second on the wire, from when the packets of a burst arrived.
fn burst_rate(burst: &mut [(Duration, u16)]) -> Option<f64> {
    burst.sort_unstable();
    let (first, last) = (burst.first()?.0, burst.last()?.0);
    let bytes: u64 = burst.iter().skip(1).map(|(_, payload)| u64::from(*payload) + HEADERS).sum();
    let time = (last - first).as_secs_f64();
    (burst.len() >= 6 && time > 0.0).then(|| bytes as f64 * 8.0 / time)
}

/// The value that this share of sorted ones does not exceed.
fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) * 100.0 / f64::from(whole) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use testground_model::shape::Jitter;

    use super::super::schedule::rounds;
    use super::*;
    use crate::plan::Declared;

    fn trial(shape: LinkShape) -> Trial {
        let shape = Arc::new(shape);
        let there = Arc::clone(&shape);
        let declared = Declared { label: "a -> b".to_owned(), there, back: shape, follows: None };
        rounds(&[declared]).0[0].trials[0].clone()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A sample of a link that delays by just so much and loses the first packets.
    fn sample(trial: &Trial, delay: Duration, lost: u32) -> Sample {
        let arrived = trial.singles - lost;
        let shape = &trial.declared.there;
        let (burst, payload) = trial.burst.as_ref().map_or((0, SINGLE), |b| (b.packets, b.payload));
        let each = serial(shape, payload);
        Sample {
            sent: trial.singles,
            delays: vec![delay; arrived as usize],
            round_trips: vec![delay * 2; 20],
            burst: (0..burst).map(|n| (delay + each * n, payload)).collect(),
        }
    }

    fn off(shape: &LinkShape, delay: Duration, lost: u32) -> Vec<String> {
        let trial = trial(shape.clone());
        judge(&trial, sample(&trial, delay, lost), &ProofSettings::default()).off
    }

    #[test]
    fn a_delay_within_the_tolerance_is_well_and_outside_is_off() {
        let shape = LinkShape { latency: ms(50), ..LinkShape::default() };
        assert_eq!(off(&shape, ms(50), 0), Vec::<String>::new());
        assert_eq!(off(&shape, Duration::from_micros(50_900), 0), Vec::<String>::new());
        assert_eq!(off(&shape, ms(53), 0), ["the median delay is 53ms where 50ms is asked for"]);
        assert_eq!(off(&shape, ms(48), 0), ["the median delay is 48ms where 50ms is asked for"]);
        let trial = trial(shape);
        let proof = judge(&trial, Sample { sent: 41, ..Sample::default() }, &ProofSettings::default());
        assert_eq!(proof.off[0], "no packet arrived");
        assert_eq!((proof.delay_p50, proof.loss_percent, proof.probes), (None, 100.0, 41));
    }

    #[test]
    fn packets_that_all_skip_the_latency_have_arrived() {
        let shape = LinkShape { latency: ms(20), reorder: Chance::percent(100.0), ..LinkShape::default() };
        assert_eq!(off(&shape, Duration::from_micros(60), 0), Vec::<String>::new());
    }

    #[test]
    fn a_machine_without_time_is_told_by_the_yardstick() {
        let yardstick = Trial::yardstick();
        let settings = ProofSettings::default();
        assert!(has_time(sample(&yardstick, Duration::from_micros(60), 0), &settings));
        assert!(!has_time(sample(&yardstick, Duration::from_micros(60), 1), &settings));
        assert!(!has_time(sample(&yardstick, Duration::from_micros(600), 0), &settings));
        assert!(!has_time(Sample::default(), &settings));
    }

    #[test]
    fn the_time_on_the_wire_is_part_of_what_is_asked_for() {
        let shape = LinkShape { latency: ms(10), bandwidth: Some(84_800), ..LinkShape::default() };
        assert_eq!(off(&shape, ms(20), 0), Vec::<String>::new(), "106 bytes at 84.8 kbit/s take 10 ms");
        assert!(off(&shape, ms(10), 0)[0].contains("where 20ms is asked for"));
    }

    #[test]
    fn a_rate_off_by_more_than_the_tolerance_is_off() {
        let shape = LinkShape { bandwidth: Some(10_000_000), ..LinkShape::default() };
        let trial = trial(shape);
        let good = sample(&trial, ms(0), 0);
        let mut proof = judge(&trial, good.clone(), &ProofSettings::default());
        assert_eq!(proof.off, Vec::<String>::new());
        let measured = proof.rate.unwrap();
        assert!((measured / 10_000_000.0 - 1.0).abs() < 1e-3, "{measured}");
        let mut slow = good;
        for (at, _) in &mut slow.burst {
            *at = *at * 11 / 10;
        }
        proof = judge(&trial, slow, &ProofSettings::default());
        assert_eq!(proof.off, ["the rate is 9.091 Mbit/s where 10 Mbit/s is asked for"]);
    }

    #[test]
    fn losses_are_held_against_what_chance_allows() {
        let none = LinkShape { latency: ms(5), ..LinkShape::default() };
        assert_eq!(off(&none, ms(5), 1), ["1 of 41 packets were lost where 0 to 0 are to be expected"]);
        let one = LinkShape { loss: Loss::Random(Chance::percent(1.0)), ..none };
        for lost in [0, 10, 20] {
            assert_eq!(off(&one, ms(5), lost), Vec::<String>::new(), "{lost} of 1000");
        }
        assert!(off(&one, ms(5), 40)[0].contains("40 of 1000"));
        let half = LinkShape { loss: Loss::Random(Chance::percent(50.0)), ..none };
        assert_eq!(off(&half, ms(5), 520), Vec::<String>::new());
        assert!(off(&half, ms(5), 400)[0].contains("400 of 1000"));
        let chain = Loss::GilbertElliott { p: 1.0, r: 10.0, bad: 100.0, good: 0.0 };
        let bursty = LinkShape { loss: chain, ..none };
        assert_eq!(off(&bursty, ms(5), 91), Vec::<String>::new(), "1 / 11 of them");
        assert!(!off(&bursty, ms(5), 500).is_empty());
        let stuck = LinkShape { loss: Loss::Random(Chance { percent: 50.0, correlation: 100.0 }), ..none };
        assert_eq!(off(&stuck, ms(5), 1000), Vec::<String>::new(), "nothing can be said of it");
    }

    #[test]
    fn corruption_is_loss_since_checksums_are_left_wrong() {
        let shape = LinkShape { corrupt: Chance::percent(10.0), ..LinkShape::default() };
        assert_eq!(off(&shape, ms(0), 95), Vec::<String>::new());
        assert!(!off(&shape, ms(0), 0).is_empty());
    }

    #[test]
    fn jitter_widens_what_a_median_may_be_and_no_more() {
        let jitter = Jitter { spread: ms(4), may_reorder: true, ..Jitter::default() };
        let shape = LinkShape { latency: ms(50), jitter, ..LinkShape::default() };
        assert_eq!(off(&shape, ms(52), 0), Vec::<String>::new());
        assert!(!off(&shape, ms(55), 0).is_empty());
        assert!(!off(&shape, ms(45), 0).is_empty());
        let keeping = LinkShape { jitter: Jitter { may_reorder: false, ..jitter }, ..shape };
        assert_eq!(off(&keeping, ms(55), 0), Vec::<String>::new(), "packets that wait for late ones");
        let pareto = Jitter { distribution: Distribution::Pareto, ..jitter };
        let pareto = LinkShape { latency: ms(50), jitter: pareto, ..LinkShape::default() };
        assert_eq!(off(&pareto, Duration::from_micros(51_040), 0), Vec::<String>::new());
    }

    #[test]
    fn what_skips_the_latency_says_nothing_about_it() {
        let shape = LinkShape { latency: ms(50), reorder: Chance::percent(60.0), ..LinkShape::default() };
        let trial = trial(shape);
        let mut sample = sample(&trial, ms(50), 0);
        for delay in sample.delays.iter_mut().take(25) {
            *delay = Duration::from_micros(80);
        }
        let proof = judge(&trial, sample, &ProofSettings::default());
        assert_eq!(proof.delay_p50, Some(ms(50)));
        assert_eq!(proof.off, Vec::<String>::new());
        assert_eq!(proof.loss_percent, 0.0);
    }

    #[test]
    fn a_cut_link_lets_nothing_through() {
        let shape = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        let trial = trial(shape);
        let nothing = Sample { sent: trial.singles, ..Sample::default() };
        assert_eq!(judge(&trial, nothing, &ProofSettings::default()).off, Vec::<String>::new());
        let leaky = sample(&trial, ms(0), 40);
        assert!(judge(&trial, leaky, &ProofSettings::default()).off[0].contains("1 of 41"));
    }
}

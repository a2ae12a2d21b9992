//! The stretch of a trace that is replayed to prove it: which one, with which packets, and whether they left with its
//! opportunities. Pure.
//!
//! All packets are sent before the first opportunity, each as long as a whole number of opportunities carries. So the n-th
//! packet to arrive left with an opportunity that is known, whatever was lost or sent twice before the queue.

use std::time::Duration;

use testground_model::event::Replayed;
use testground_model::run::ProofSettings;

use crate::plan::Schedule;
use crate::show::{rate, seconds};

use super::schedule::{HEADERS, TOO_LONG};

/// From the moment that the packets are sent to the first opportunity: long enough for all of them to be there.
pub(crate) const LEAD: Duration = Duration::from_millis(50);

/// From the opportunity of the packet that finds the way to the moment that the others are sent.
const BEFORE: Duration = Duration::from_millis(20);

/// What one opportunity carries, and what it takes of that for a packet's TUN header (`docs/network.md`, Traces).
const BYTES: u32 = 1504;
const TUN_HEADER: u32 = 4;
const IP_AND_UDP: u32 = 20 + 8;
/// How many packets.
const PACKETS: (u64, u64) = (6, 64);
/// So many opportunities of a packet make one of 58,624 bytes.
const MOST_EACH: u64 = 39;
/// A fast trace is replayed for about this long, a slow one for as many packets as come in [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_secs(1);
/// Within less than this no rate can be told.
const TOO_SHORT: Duration = Duration::from_millis(5);

/// A stretch of a trace and the packets that are sent over it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stretch {
    /// Milliseconds since the trace's start, as the trace has them.
    moments: Vec<u64>,
    /// How many opportunities one packet takes.
    each: usize,
}

// === impl Stretch ===

impl Stretch {
    /// The stretch that is most like the whole: that whose rate is nearest to the mean. An error says why none can be
    /// replayed.
    pub(super) fn choose(schedule: &Schedule) -> Result<Stretch, String> {
        let (fewest, most) = PACKETS;
        let within = |time: Duration| {
            let share = time.as_secs_f64() / schedule.length().as_secs_f64();
            (schedule.count() as f64 * share) as u64
        };
        let each = within(SHORTEST).div_ceil(most).clamp(1, MOST_EACH);
        let mut packets = (within(LONGEST) / each).clamp(fewest, most);
        if !schedule.repeats() {
            packets = packets.min(schedule.count() / each);
        }
        if packets < fewest {
            return Err(format!("it has fewer than {fewest} opportunities"));
        }
        let whole = packets * each;
        let at = |n| schedule.at(n).unwrap_or(u64::MAX) - schedule.starts();
        let last = if schedule.repeats() { schedule.count() - 1 } else { schedule.count() - whole };
        let takes = |first: u64| at(first + whole - 1) - at(first + each - 1);
        let wanted =
            (schedule.length().as_nanos() * u128::from(whole - each) / u128::from(schedule.count())) as u64;
        let first = (0..=last).min_by_key(|first| takes(*first).abs_diff(wanted)).unwrap_or(0);
        let moments = (first..first + whole).map(|n| at(n) / 1_000_000).collect();
        let stretch = Stretch { moments, each: each as usize };
        let takes = stretch.takes();
        if takes > TOO_LONG {
            let (takes, most) = (seconds(takes), seconds(TOO_LONG));
            return Err(format!("{packets} opportunities take {takes}, at most {most} is waited for"));
        }
        if takes < TOO_SHORT {
            return Err(format!("{} is too fast to be measured", rate(schedule.mean_rate())));
        }
        Ok(stretch)
    }

    /// How many packets are sent.
    pub(super) fn packets(&self) -> u32 {
        (self.moments.len() / self.each) as u32
    }

    /// Bytes of a packet's payload.
    pub(super) fn payload(&self) -> u16 {
        (self.each as u32 * BYTES - TUN_HEADER - IP_AND_UDP) as u16
    }

    /// From the first opportunity to the last.
    pub(super) fn length(&self) -> Duration {
        let ends = (self.moments.first().copied().unwrap_or(0), self.moments.last().copied().unwrap_or(0));
        Duration::from_millis(ends.1 - ends.0)
    }

    /// The same opportunities for packets that are sent at a moment of the run's clock, and one before that moment: for a
    /// packet that only finds the way.
    pub(crate) fn schedule(&self, sent: Duration) -> Option<Schedule> {
        let first = self.moments.first().copied()?;
        let lead = (LEAD + BEFORE).as_millis() as u64;
        let millis: Vec<u64> =
            std::iter::once(0).chain(self.moments.iter().map(|ms| ms - first + lead)).collect();
        let whole = LEAD + BEFORE + self.length() + Duration::from_millis(1);
        Schedule::new(&millis, false, sent.checked_sub(BEFORE)?, whole)
    }

    /// What was replayed, in the words of the record.
    pub(super) fn replayed(&self) -> Replayed {
        let from = Duration::from_millis(self.moments.first().copied().unwrap_or(0));
        Replayed { from, length: self.length(), rate: self.rate() }
    }

    /// Whether packets that arrived at these moments left with the opportunities, up to the tolerance: the rate, and what
    /// is off.
    pub(super) fn judge(
        &self,
        burst: &[(Duration, u16)],
        settings: &ProofSettings,
    ) -> (Option<f64>, Option<String>) {
        let mut arrivals: Vec<Duration> = burst.iter().map(|(at, _)| *at).collect();
        arrivals.sort_unstable();
        let fewest = PACKETS.0 as usize;
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
            return (None, Some("no packet left with the trace's opportunities".to_owned()));
        };
        if arrivals.len() < fewest {
            let off = format!("only {} packets left with the trace's opportunities", arrivals.len());
            return (None, Some(off));
        }
        let measured = self.bits(arrivals.len() - 1) / (*last - *first).as_secs_f64().max(1e-9);
        // How far each is from its opportunity. What all have in common, the latency, is measured elsewhere.
        let mut apart: Vec<f64> = (0..self.packets() as usize)
            .zip(&arrivals)
            .map(|(n, at)| (*at - *first).as_secs_f64() - (self.departs(n) - self.departs(0)).as_secs_f64())
            .collect();
        apart.sort_unstable_by(f64::total_cmp);
        let middle = apart[apart.len() / 2];
        let mut off: Vec<f64> = apart.iter().map(|x| (x - middle).abs()).collect();
        off.sort_unstable_by(f64::total_cmp);
        let most = off[(off.len() * 9 / 10).min(off.len() - 1)];
        let fits = most <= settings.delay.as_secs_f64();
        let off = (!fits).then(|| {
            let most = seconds(Duration::from_secs_f64(most));
            format!("one packet in ten left {most} or more from its opportunity of the trace")
        });
        (Some(measured), off)
    }

    /// Bits per second on the wire that the stretch lets through, from the first packet's moment to the last one's.
    fn rate(&self) -> f64 {
        self.bits(self.packets() as usize - 1) / self.takes().as_secs_f64()
    }

    fn bits(&self, packets: usize) -> f64 {
        packets as f64 * (HEADERS + u64::from(self.payload())) as f64 * 8.0
    }

    /// From when the first packet leaves to when the last one does.
    fn takes(&self) -> Duration {
        self.departs(self.packets() as usize - 1) - self.departs(0)
    }

    /// When the n-th packet leaves, on the trace's clock.
    fn departs(&self, n: usize) -> Duration {
        Duration::from_millis(self.moments[(n + 1) * self.each - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(millis: &[u64], repeat: bool) -> Schedule {
        Schedule::new(millis, repeat, Duration::from_secs(3), Duration::from_millis(50)).unwrap()
    }

    fn choose(millis: &[u64], repeat: bool) -> Result<Stretch, String> {
        Stretch::choose(&schedule(millis, repeat))
    }

    fn arrivals(stretch: &Stretch) -> Vec<(Duration, u16)> {
        let first = Duration::from_millis(700) - stretch.departs(0);
        (0..stretch.packets() as usize).map(|n| (first + stretch.departs(n), stretch.payload())).collect()
    }

    #[test]
    fn a_slow_trace_is_replayed_for_a_second_and_a_fast_one_with_large_packets() {
        // 12 Mbit/s: an opportunity a millisecond.
        let every: Vec<u64> = (1..=10_000).collect();
        let stretch = choose(&every, false).unwrap();
        assert_eq!((stretch.packets(), stretch.payload(), stretch.takes().as_millis()), (64, 1472, 63));
        // One each 100 ms.
        let slow: Vec<u64> = (1..=100).map(|n| n * 100).collect();
        let stretch = choose(&slow, true).unwrap();
        assert_eq!((stretch.packets(), stretch.takes().as_millis()), (10, 900));
        // 1.2 Gbit/s: a hundred a millisecond.
        let fast: Vec<u64> = (1..=100_000u64).map(|n| n.div_ceil(100)).collect();
        let stretch = choose(&fast, false).unwrap();
        assert_eq!((stretch.packets(), stretch.payload()), (64, 39 * 1504 - 32));
        assert!((1.1e9..1.3e9).contains(&stretch.rate()), "{}", stretch.rate());
    }

    #[test]
    fn the_stretch_is_that_which_is_most_like_the_whole() {
        // A second of nothing, one of 100 opportunities, one of 20, and again nothing.
        let millis: Vec<u64> =
            (0..100).map(|n| 1000 + n * 10).chain((0..20).map(|n| 2000 + n * 50)).collect();
        let whole: Vec<u64> = millis.into_iter().chain([4000]).collect();
        let stretch = choose(&whole, false).unwrap();
        let mean = schedule(&whole, false).mean_rate();
        assert!((stretch.rate() / mean - 1.0).abs() < 0.2, "{} of {mean}", stretch.rate());
        assert!(stretch.replayed().from >= Duration::from_millis(1000));
        let moved = stretch.schedule(Duration::from_secs(7)).unwrap();
        assert_eq!(moved.at(0), Some(6_980_000_000), "for the packet that finds the way");
        assert_eq!(moved.at(1), Some(7_050_000_000), "the lead, and on the run's clock");
        assert_eq!(moved.count(), u64::from(stretch.packets()) + 1);
        assert_eq!(moved.most(), moved.count(), "its queue holds them all");
    }

    #[test]
    fn what_cannot_be_replayed_is_said() {
        assert_eq!(choose(&[1, 2, 3, 4, 5], false).unwrap_err(), "it has fewer than 6 opportunities");
        let stretch = choose(&[1, 2, 3, 4, 5], true).unwrap();
        assert_eq!(stretch.packets(), 64, "a trace that repeats has as many as are wanted");
        let rare: Vec<u64> = (1..=10).map(|n| n * 1000).collect();
        let why = choose(&rare, true).unwrap_err();
        assert_eq!(why, "6 opportunities take 5s, at most 4s is waited for");
        let wild: Vec<u64> = (1..=100_000u64).map(|n| n.div_ceil(10_000)).collect();
        assert!(choose(&wild, false).unwrap_err().ends_with("is too fast to be measured"));
    }

    #[test]
    fn packets_that_leave_with_their_opportunities_are_well_and_others_are_off() {
        let stretch = choose(&(1..=1000).map(|n| n * 7).collect::<Vec<_>>(), false).unwrap();
        let settings = ProofSettings::default();
        let good = arrivals(&stretch);
        let (rate, off) = stretch.judge(&good, &settings);
        assert_eq!(off, None);
        assert!((rate.unwrap() / stretch.rate() - 1.0).abs() < 1e-9);
        assert_eq!(
            stretch.judge(&good[..good.len() / 2], &settings).1,
            None,
            "the others were lost before it"
        );
        // At the same rate, but a moment of its own for each: nobody's opportunities.
        let even: Vec<_> = good
            .iter()
            .enumerate()
            .map(|(n, (at, p))| (*at + Duration::from_millis(n as u64 % 3 * 2), *p))
            .collect();
        assert!(stretch.judge(&even, &settings).1.unwrap().contains("from its opportunity"));
        let slow: Vec<_> = good.iter().map(|(at, p)| (*at * 11 / 10, *p)).collect();
        assert!(stretch.judge(&slow, &settings).1.is_some());
        assert_eq!(
            stretch.judge(&good[..5], &settings).1.unwrap(),
            "only 5 packets left with the trace's opportunities"
        );
        assert_eq!(stretch.judge(&[], &settings).1.unwrap(), "no packet left with the trace's opportunities");
    }
}

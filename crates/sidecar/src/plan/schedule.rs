//! A bandwidth that is a list of moments: mahimahi's delivery opportunities.
//!
//! Only when a link may send is here, on the run's clock. What packets make of it is the planes' business.

use std::fmt;
use std::time::Duration;

use testground_model::shape::LinkShape;

use crate::show::{rate, seconds};

/// When a link that follows a trace may send: at each opportunity so many bytes, and at no other moment.
///
/// Each number of a trace is a millisecond since its start; they never fall, and the last one is its length, which is
/// where it begins anew if it repeats. A line 0 of a later round falls on the last line of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    millis: Vec<u64>,
    repeat: bool,
    /// Nanoseconds of the run's clock.
    starts: u64,
    /// The most opportunities within any stretch of the window.
    most: u64,
}

const MILLI: u64 = 1_000_000;

/// On the wire: 1,500 bytes and the Ethernet header.
const FULL_FRAME_BITS: f64 = 1514.0 * 8.0;

/// See [`Schedule::window`].
const SHORTEST_WINDOW: Duration = Duration::from_millis(50);

// === impl Schedule ===

impl Schedule {
    /// The schedule of a trace that starts at a moment of the run's clock; `None` for one without a length. `window` is
    /// what [`Schedule::most`] is about.
    pub fn new(millis: &[u64], repeat: bool, starts: Duration, window: Duration) -> Option<Schedule> {
        let starts = u64::try_from(starts.as_nanos()).ok()?;
        if millis.last().is_none_or(|last| *last == 0) || !millis.is_sorted() {
            return None;
        }
        let mut schedule = Schedule { millis: millis.to_vec(), repeat, starts, most: 0 };
        schedule.most = schedule.most_within(window);
        Some(schedule)
    }

    /// The stretch of time whose opportunities a queue without a limit of its own can hold: the round trip over two links
    /// of this shape, and 50 ms at least.
    pub fn window(shape: &LinkShape) -> Duration {
        (2 * (shape.latency + shape.jitter.spread)).max(SHORTEST_WINDOW)
    }

    /// Bits that one round carries on the wire, in full packets and by the second.
    pub fn mean_rate(&self) -> f64 {
        self.count() as f64 * FULL_FRAME_BITS / self.length().as_secs_f64()
    }

    /// When it begins, nanoseconds of the run's clock.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Whether two are the same trace, whenever they begin.
    pub fn is_same_trace(&self, other: &Schedule) -> bool {
        self.repeat == other.repeat && self.millis == other.millis
    }

    /// How long one round is.
    pub fn length(&self) -> Duration {
        Duration::from_millis(self.millis.last().copied().unwrap_or(0))
    }

    /// Whether it begins anew at its end.
    pub fn repeats(&self) -> bool {
        self.repeat
    }

    /// Opportunities of one round.
    pub fn count(&self) -> u64 {
        self.millis.len() as u64
    }

    /// The most opportunities within any stretch as long as the window.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// When the n-th opportunity (from 0) is, nanoseconds of the run's clock; `None` when there are fewer.
    pub fn at(&self, n: u64) -> Option<u64> {
        let (round, place) = (n / self.count(), n % self.count());
        if round > 0 && !self.repeat {
            return None;
        }
        let millis =
            round.checked_mul(self.millis.last().copied()?)?.checked_add(self.millis[place as usize])?;
        self.starts.checked_add(millis.checked_mul(MILLI)?)
    }

    /// The first opportunity that is later than a moment of the run's clock. There may be none with this number.
    pub fn after(&self, now: u64) -> u64 {
        let Some(into) = now.checked_sub(self.starts) else { return 0 };
        let length = self.millis.last().copied().unwrap_or(1) * MILLI;
        let (round, rest) = (into / length, into % length);
        let passed = self.millis.partition_point(|ms| ms * MILLI <= rest);
        round * self.count() + passed as u64
    }

    fn most_within(&self, window: Duration) -> u64 {
        let window = window.as_millis() as u64;
        let length = self.millis.last().copied().unwrap_or(1);
        let rounds = if self.repeat { window / length } else { 0 };
        let (rest, all) = (window - rounds * length, self.millis.len());
        if rest == 0 {
            return rounds * self.count();
        }
        let (mut most, mut first) = (0, 0);
        // A window that repeats may begin in one round and end in the next.
        let twice = if self.repeat { 2 * all } else { all };
        let at = |n: usize| self.millis[n % all] + if n < all { 0 } else { length };
        for last in 0..twice {
            while at(last) - at(first) >= rest {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        rounds * self.count() + most as u64
    }
}

impl fmt::Display for Schedule {
    /// `a trace of 2s, 5.9 Mbit/s in the mean`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.repeat { " again and again" } else { "" };
        write!(f, "a trace of {}{again}, {} in the mean", seconds(self.length()), rate(self.mean_rate()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(millis: &[u64], repeat: bool) -> Schedule {
        Schedule::new(millis, repeat, Duration::from_secs(1), Duration::from_millis(50)).unwrap()
    }

    #[test]
    fn what_has_no_length_is_no_schedule() {
        for none in [&[] as &[u64], &[0], &[0, 0], &[2, 1]] {
            assert_eq!(Schedule::new(none, true, Duration::ZERO, Duration::ZERO), None, "{none:?}");
        }
    }

    #[test]
    fn a_round_begins_where_the_last_one_ended() {
        let twice = schedule(&[0, 3, 3, 10], true);
        let moments: Vec<u64> = (0..9).map(|n| twice.at(n).unwrap() / MILLI - 1000).collect();
        assert_eq!(moments, [0, 3, 3, 10, 10, 13, 13, 20, 20]);
        let once = schedule(&[0, 3, 3, 10], false);
        assert_eq!((once.at(3), once.at(4)), (Some(1_010 * MILLI), None));
        assert_eq!(once.after(2_000 * MILLI), 4 * 100 + 1, "which does not exist");
        assert_eq!(once.at(once.after(1_010 * MILLI)), None);
    }

    #[test]
    fn the_busiest_window_is_found() {
        // 3 at 100, 1 at 149, 1 at 150: a window of 50 ms is less than 50 ms from its first to its last one.
        let trace = [0, 100, 100, 100, 149, 150, 1000];
        let most = |repeat, window| {
            Schedule::new(&trace, repeat, Duration::ZERO, Duration::from_millis(window)).unwrap().most()
        };
        assert_eq!(most(false, 50), 4);
        assert_eq!(most(false, 51), 5);
        assert_eq!(most(false, 1), 3);
        assert_eq!(most(true, 1), 3);
        assert_eq!(
            most(true, 150),
            6,
            "the last of a round, the first of the next, and those at 100 and 149"
        );
        assert_eq!(most(true, 1000), 7);
        assert_eq!(most(true, 2001), 17);
    }

    proptest! {
        #[test]
        fn the_next_one_is_the_first_that_is_later(
            mut millis in prop::collection::vec(0u64..30, 1..12),
            repeat: bool,
            micros in 0u64..200_000,
        ) {
            millis.sort_unstable();
            *millis.last_mut().unwrap() += 1;
            let schedule = schedule(&millis, repeat);
            let now = 950 * MILLI + micros * 1000;
            let next = schedule.after(now);
            prop_assert!(schedule.at(next).is_none_or(|at| at > now));
            if next > 0 {
                prop_assert!(schedule.at(next - 1).is_none_or(|at| at <= now));
            }
        }
    }
}

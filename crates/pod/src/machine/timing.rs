//! When the machine acts: at once, or when a kubelet would.
//!
//! A kubelet polls its runtime once a second, looks at its work queue once a second, and repeats a sync that ended in an
//! error after 10 to 15 s. Figures are those of Kubernetes 1.34 and were seen on a real one.

use std::time::Duration;

use super::types::Time;

/// Which moments the machine chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// Each step as soon as its cause is there.
    #[default]
    Ideal,
    /// As a kubelet does; the seed decides about what is chance there: the phase of its polls and its jitter.
    Kubelet {
        /// Equal seeds give equal times.
        seed: u64,
    },
}

/// The period of the kubelet's poll of its runtime (the PLEG), and of its look at the work queue.
const POLL: Duration = Duration::from_secs(1);
/// The least time until a sync that ended in an error is repeated; half of it more by chance (`workerBackOffPeriod`).
const RETRY: Duration = Duration::from_secs(10);
/// Until the first sync after the volumes of a new pod are seen as mounted.
const MOUNT: Duration = Duration::from_millis(310);
/// Until the first sync of a pod after the start of a kubelet.
const WARM_UP: Duration = Duration::from_millis(1280);
/// Until a change in the API reaches the kubelet.
const WATCH: Duration = Duration::from_millis(8);

/// The moments of one pod.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    kubelet: bool,
    /// The phase of the polls within their period.
    poll: Duration,
    /// The phase of the looks at the work queue.
    queue: Duration,
    /// The phase of the wall clock's seconds: the API keeps times of start in whole ones.
    wall: Duration,
    state: u64,
}

// === impl Clock ===

impl Clock {
    pub(super) fn new(timing: Timing) -> Self {
        let seed = match timing {
            Timing::Ideal => 0,
            Timing::Kubelet { seed } => seed,
        };
        let mut clock = Self {
            kubelet: timing != Timing::Ideal,
            poll: POLL,
            queue: POLL,
            wall: POLL,
            state: seed ^ 0x5DEE_CE66_D1CE_4E5B,
        };
        if clock.kubelet {
            clock.poll = POLL.mul_f64(clock.chance());
            clock.queue = POLL.mul_f64(clock.chance());
            clock.wall = POLL.mul_f64(clock.chance());
        }
        clock
    }

    pub(super) fn is_kubelet(&self) -> bool {
        self.kubelet
    }

    /// The last poll up to now; none before the first.
    pub(super) fn last_poll(&self, now: Time) -> Option<Time> {
        if !self.kubelet {
            return Some(now);
        }
        let since = now.checked_sub(self.poll)?;
        Some(now - Duration::from_nanos((since.as_nanos() % POLL.as_nanos()) as u64))
    }

    /// The first poll after this moment.
    pub(super) fn next_poll(&self, after: Time) -> Time {
        if self.kubelet { next_tick(self.poll, POLL, after) } else { after }
    }

    /// When a sync that failed now is repeated. `due` is when its cause (a back-off) is over.
    pub(super) fn retry(&mut self, now: Time, due: Time) -> Time {
        if !self.kubelet {
            return due.max(now);
        }
        let wait = RETRY.mul_f64(1.0 + 0.5 * self.chance());
        next_tick(self.queue, POLL, now + wait)
    }

    /// When a deadline that is looked at with the work queue is noticed.
    pub(super) fn noticed(&self, due: Time) -> Time {
        if self.kubelet { next_tick(self.queue, POLL, due) } else { due }
    }

    /// When the volumes of a pod whose first sync begins now are there.
    pub(super) fn mounted(&self, now: Time) -> Time {
        if self.kubelet { now + MOUNT } else { now }
    }

    /// When an engine that starts now comes to this pod.
    pub(super) fn warm(&self, now: Time) -> Time {
        if self.kubelet { now + WARM_UP } else { now }
    }

    /// When a change in the API is seen.
    pub(super) fn watched(&self, now: Time) -> Time {
        if self.kubelet { now + WATCH } else { now }
    }

    /// Whole seconds since a start, as a probe counts them for its initial delay.
    pub(super) fn age(&self, since: Time, now: Time) -> u64 {
        let kept = if self.kubelet {
            let next = next_tick(self.wall, POLL, since);
            next.saturating_sub(POLL)
        } else {
            since
        };
        now.saturating_sub(kept).as_secs()
    }

    /// A part of a period, by chance.
    pub(super) fn part(&mut self, period: Duration) -> Duration {
        period.mul_f64(self.chance())
    }

    /// Evenly from 0 to 1 (Steele, Lea and Flood's SplitMix64).
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The first moment after `after` that is a whole number of periods from `phase`.
pub(super) fn next_tick(phase: Time, period: Duration, after: Time) -> Time {
    match after.checked_sub(phase) {
        None => phase,
        Some(since) => {
            let rest = since.as_nanos() % period.as_nanos();
            after + (period - Duration::from_nanos(u64::try_from(rest).unwrap_or(0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(value: u64) -> Time {
        Duration::from_millis(value)
    }

    #[test]
    fn polls_are_a_second_apart_and_strictly_later() {
        let clock = Clock { poll: ms(300), ..Clock::new(Timing::Kubelet { seed: 7 }) };
        assert_eq!(clock.last_poll(ms(299)), None);
        assert_eq!(clock.last_poll(ms(300)), Some(ms(300)));
        assert_eq!(clock.last_poll(ms(1_299)), Some(ms(300)));
        assert_eq!(clock.next_poll(ms(0)), ms(300));
        assert_eq!(clock.next_poll(ms(300)), ms(1_300));
        assert_eq!(clock.next_poll(ms(1_299)), ms(1_300));
    }

    #[test]
    fn a_failed_sync_is_repeated_after_ten_to_sixteen_seconds() {
        let mut clock = Clock::new(Timing::Kubelet { seed: 1 });
        for _ in 0..200 {
            let wait = clock.retry(ms(5_000), ms(0)) - ms(5_000);
            assert!(wait > ms(10_000) && wait <= ms(16_000), "{wait:?}");
        }
        assert_eq!(Clock::new(Timing::Ideal).retry(ms(5_000), ms(7_000)), ms(7_000));
    }
}

//! Whether a run still moves: every living instance waits at a barrier, and nothing has changed for a while.

use std::time::{Duration, Instant};

/// Watches for the moment at which nothing can be hoped for any more.
#[derive(Debug)]
pub(super) struct Stall {
    /// How long nothing may change; zero never minds.
    limit: Duration,
    /// When something last changed.
    since: Instant,
    told: bool,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(limit: Duration, now: Instant) -> Stall {
        Stall { limit, since: now, told: false }
    }

    /// Something changed: a signal, a line, an end, a request to the network.
    pub(super) fn stir(&mut self, now: Instant) {
        self.since = now;
        self.told = false;
    }

    /// For how long everything has stood still, once that is too long and everybody waits; said once for each
    /// standstill. `all_wait` is asked only when nothing has changed for long enough.
    pub(super) fn check(&mut self, now: Instant, all_wait: impl FnOnce() -> bool) -> Option<Duration> {
        let still = now.saturating_duration_since(self.since);
        if self.limit.is_zero() || self.told || still < self.limit || !all_wait() {
            return None;
        }
        self.told = true;
        Some(still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_told_once_and_any_change_begins_anew() {
        let t0 = Instant::now();
        let at = |s| t0 + Duration::from_secs(s);
        let mut stall = Stall::new(Duration::from_secs(5), t0);
        assert_eq!(stall.check(at(4), || true), None);
        stall.stir(at(4));
        assert_eq!(stall.check(at(8), || true), None);
        assert_eq!(stall.check(at(9), || false), None, "somebody works");
        assert_eq!(stall.check(at(10), || true), Some(Duration::from_secs(6)));
        assert_eq!(stall.check(at(20), || true), None, "told already");
        stall.stir(at(21));
        assert_eq!(stall.check(at(26), || true), Some(Duration::from_secs(5)));
    }

    #[test]
    fn zero_never_minds() {
        let t0 = Instant::now();
        let mut stall = Stall::new(Duration::ZERO, t0);
        assert_eq!(stall.check(t0 + Duration::from_secs(9999), || true), None);
    }
}

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
    /// Not before this is it asked whether everybody waits.
    next: Instant,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(limit: Duration, now: Instant) -> Stall {
        Stall { limit, since: now, told: false, next: now }
    }

    /// Something changed: a signal, a line, an end, a request to the network.
    pub(super) fn stir(&mut self, now: Instant) {
        self.since = now;
        self.told = false;
    }

    /// Whether nothing has changed for too long and it is time to ask whether everybody waits. Not again once that was
    /// told, before something changes.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let still = now.saturating_duration_since(self.since);
        !self.limit.is_zero() && !self.told && still >= self.limit && now >= self.next
    }

    /// When to ask again, if not everybody waits.
    pub(super) fn ask_again(&mut self, at: Instant) {
        self.next = at;
    }

    /// Everybody does: said once for each standstill. For how long it has lasted.
    pub(super) fn told(&mut self, now: Instant) -> Duration {
        self.told = true;
        now.saturating_duration_since(self.since)
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
        assert!(!stall.is_due(at(4)));
        stall.stir(at(4));
        assert!(!stall.is_due(at(8)));
        assert!(stall.is_due(at(9)));
        stall.ask_again(at(11));
        assert!(!stall.is_due(at(10)), "it was asked a moment ago");
        assert!(stall.is_due(at(11)));
        assert_eq!(stall.told(at(11)), Duration::from_secs(7));
        assert!(!stall.is_due(at(20)), "told already");
        stall.stir(at(21));
        assert!(stall.is_due(at(26)));
    }

    #[test]
    fn zero_never_minds() {
        let t0 = Instant::now();
        let stall = Stall::new(Duration::ZERO, t0);
        assert!(!stall.is_due(t0 + Duration::from_secs(9999)));
    }
}

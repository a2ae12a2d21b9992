//! What belongs to one run: its keys, what it may use, the request keys it has seen, and when it may be forgotten.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::slab::Key;

/// How long a request key is remembered at least; at most twice as long.
pub const REQUEST_KEY_MEMORY: Duration = Duration::from_secs(300);

/// The run that a key belongs to: `R` of `run:R:…`. A key of any other form belongs to the run without a name.
pub fn run_of(key: &str) -> &str {
    key.strip_prefix("run:").and_then(|rest| rest.split_once(':')).map_or("", |(run, _)| run)
}

/// A run as the engine keeps it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) states: HashSet<Key>,
    pub(super) topics: HashSet<Key>,
    /// Bytes of all published values.
    pub(super) bytes: u64,
    pub(super) subscriptions: u64,
    /// When somebody last claimed or used it.
    pub(super) claimed: Instant,
    pub(super) finished: Option<Instant>,
    recent: Generation,
    older: Generation,
}

/// Request keys of a span of time, with the number each request was given.
#[derive(Debug)]
struct Generation {
    since: Instant,
    seqs: HashMap<Box<str>, u64>,
}

// === impl Run ===

impl Run {
    pub(super) fn new(now: Instant) -> Run {
        let generation = || Generation { since: now, seqs: HashMap::new() };
        Run {
            states: HashSet::new(),
            topics: HashSet::new(),
            bytes: 0,
            subscriptions: 0,
            claimed: now,
            finished: None,
            recent: generation(),
            older: generation(),
        }
    }

    /// The number that a request with this key has been given before.
    pub(super) fn seen(&mut self, now: Instant, request_key: &str) -> Option<u64> {
        if now.saturating_duration_since(self.recent.since) >= REQUEST_KEY_MEMORY {
            let next = Generation { since: now, seqs: HashMap::new() };
            self.older = std::mem::replace(&mut self.recent, next);
        }
        self.recent.seqs.get(request_key).or_else(|| self.older.seqs.get(request_key)).copied()
    }

    /// Remembers the number that a request was given.
    pub(super) fn remember(&mut self, request_key: &str, seq: u64) {
        self.recent.seqs.insert(request_key.into(), seq);
    }

    /// Whether its keys may go, as far as time is concerned.
    pub(super) fn expired(&self, now: Instant, grace: Duration, unclaimed: Duration) -> bool {
        match self.finished {
            Some(at) => now.saturating_duration_since(at) >= grace,
            None => now.saturating_duration_since(self.claimed) >= unclaimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_run() {
        assert_eq!(run_of("run:r1:plan:p:case:c:states:ready"), "r1");
        assert_eq!(run_of("run:r1"), "");
        assert_eq!(run_of("run::x"), "");
        assert_eq!(run_of("ready"), "");
    }

    #[test]
    fn request_keys_are_remembered_for_a_while_and_not_for_ever() {
        let start = Instant::now();
        let mut run = Run::new(start);
        run.remember("a", 7);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(run.seen(at(299), "a"), Some(7));
        assert_eq!(run.seen(at(300), "a"), Some(7));
        assert_eq!(run.seen(at(599), "a"), Some(7));
        assert_eq!(run.seen(at(600), "a"), None);
    }
}

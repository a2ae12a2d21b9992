//! Garbage collection by run: keys live while their run does, however quiet they are.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Engine;
use super::run::Run;
use super::slab::Key;

/// What a sweep removes, and how much of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// How long the keys of a finished run stay.
    pub grace: Duration,
    /// How long the keys of a run stay that nobody claims or uses, and nobody marks finished.
    pub unclaimed: Duration,
    /// Most keys to remove.
    pub batch: usize,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// A key that a sweep removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Removed {
    /// Its run.
    pub run: String,
    /// The key.
    pub key: String,
    /// What it was.
    pub kind: Kind,
}

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A counter of entries.
    State,
    /// A list of items.
    Topic,
}

// === impl Engine ===

impl Engine {
    /// Somebody looks after this run; it is not finished.
    pub fn claim(&mut self, now: Instant, run: &str) {
        let key = self.runs.key(run).unwrap_or_else(|| self.runs.insert(run, Run::new(now)));
        let row = self.runs.row_mut(key).expect("the run was just found");
        row.claimed = now;
        row.finished = None;
    }

    /// The run is over: its keys may go after the grace time.
    pub fn finish_run(&mut self, now: Instant, run: &str) {
        if let Some(row) = self.runs.key(run).and_then(|key| self.runs.row_mut(key)) {
            row.finished.get_or_insert(now);
        }
    }

    /// Removes keys of runs that are over, never one that somebody waits for or is subscribed to. Gives back what
    /// was removed; as many as `sweep.batch` means that there may be more.
    pub fn sweep(&mut self, now: Instant, sweep: &Sweep) -> Vec<Removed> {
        let due: Vec<Key> = self
            .runs
            .iter()
            .filter(|(_, _, run)| run.expired(now, sweep.grace, sweep.unclaimed))
            .map(|(key, _, _)| key)
            .collect();
        let mut removed = Vec::new();
        for run in due {
            self.sweep_run(run, sweep, &mut removed);
            if removed.len() >= sweep.batch {
                break;
            }
        }
        removed
    }

    fn sweep_run(&mut self, run: Key, sweep: &Sweep, removed: &mut Vec<Removed>) {
        let Some(name) = self.runs.name(run).cloned() else { return };
        let Some(row) = self.runs.row(run) else { return };
        let left = sweep.batch.saturating_sub(removed.len());
        let unused = |state: &Key| self.states.row(*state).is_some_and(|s| s.waiters.is_empty());
        let states: Vec<Key> = row.states.iter().copied().filter(unused).take(left).collect();
        let left = left - states.len();
        let unread = |topic: &Key| self.topics.row(*topic).is_some_and(|t| t.subscribers.is_empty());
        let topics: Vec<Key> = row.topics.iter().copied().filter(unread).take(left).collect();
        let entry = |key: &str, kind| Removed { run: name.to_string(), key: key.to_owned(), kind };
        if sweep.dry_run {
            removed.extend(states.iter().filter_map(|k| self.states.name(*k)).map(|n| entry(n, Kind::State)));
            removed.extend(topics.iter().filter_map(|k| self.topics.name(*k)).map(|n| entry(n, Kind::Topic)));
            return;
        }
        let mut freed = 0;
        for key in &states {
            removed.extend(self.states.remove(*key).map(|(name, _)| entry(&name, Kind::State)));
        }
        for key in &topics {
            let Some((name, topic)) = self.topics.remove(*key) else { continue };
            freed += topic.items.iter().map(|i| i.len() as u64).sum::<u64>();
            removed.push(entry(&name, Kind::Topic));
        }
        self.bytes -= freed;
        self.version += 1;
        let Some(row) = self.runs.row_mut(run) else { return };
        row.bytes = row.bytes.saturating_sub(freed);
        for key in states {
            row.states.remove(&key);
        }
        for key in topics {
            row.topics.remove(&key);
        }
        if row.states.is_empty() && row.topics.is_empty() {
            self.runs.remove(run);
        }
    }
}

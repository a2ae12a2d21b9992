//! What the engine is told by a store outside of it, and what it says about what it knows.

use std::cmp::Reverse;
use std::time::Instant;

use super::report::MAX_NAMES;
use super::value::{Numbered, PeerId};
use super::{Done, Engine, Kind, Told};

// === impl Engine ===

impl Engine {
    /// A request that had to ask the store was given this number.
    pub fn numbered(&mut self, now: Instant, peer: PeerId, id: &str, kind: Numbered, seq: u64) {
        self.finish(now, peer, id, Done::Numbered(kind, seq));
    }

    /// A request that had to ask the store failed.
    pub fn failed(&mut self, now: Instant, peer: PeerId, id: &str, error: &str) {
        self.finish(now, peer, id, Done::Failed(error.into()));
    }

    /// The store says that a state has this many entries.
    pub fn learn_count(&mut self, now: Instant, state: &str, count: u64) {
        let Ok(key) = self.state(now, state) else { return };
        let row = self.states.row_mut(key).expect("the state was just found");
        if count > row.count {
            row.count = count;
            self.version += 1;
            self.release(now, key);
        }
    }

    /// The store says who has to do with a state, over all services. Nothing comes of it for a state that nobody here
    /// has to do with.
    pub fn learn_told(&mut self, state: &str, told: Told) {
        if let Some(row) = self.states.key(state).and_then(|key| self.states.row_mut(key)) {
            row.told = Some(Box::new(told));
        }
    }

    /// The states whose barriers [`Engine::expire`] would end, each once.
    pub fn due(&self, now: Instant) -> Vec<String> {
        let due = self.deadlines.iter().filter(|Reverse((at, _))| *at <= now);
        let states = due.filter_map(|Reverse((_, key))| self.states.name(self.waiters.row(*key)?.state));
        let mut names: Vec<String> = states.map(ToString::to_string).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The states at which somebody here waits.
    pub fn awaited(&self) -> impl Iterator<Item = &str> {
        let awaited = self.states.iter().filter(|(_, _, state)| !state.waiters.is_empty());
        awaited.map(|(_, name, _)| &**name)
    }

    /// Who waits here at barriers over a state, and for how many: as many as an explanation names.
    pub fn waiting_for(&self, state: &str) -> Vec<(String, u64)> {
        let Some(row) = self.states.key(state).and_then(|key| self.states.row(key)) else {
            return Vec::new();
        };
        let waiters = row.waiters.iter().filter_map(|(_, key)| self.waiters.row(*key)).take(MAX_NAMES);
        waiters.filter_map(|w| Some((self.peers.row(w.peer.0)?.who.to_string(), w.target))).collect()
    }

    /// The store says that these are the topic's items from number `first` (from 1) on. Items known already are
    /// skipped. Gives back the number of the next item wanted: more than there is of them when some are missing.
    pub fn learn_items(&mut self, now: Instant, topic: &str, first: u64, items: Vec<Box<[u8]>>) -> u64 {
        let Ok(key) = self.topic(now, topic) else { return first };
        let row = self.topics.row_mut(key).expect("the topic was just found");
        for (seq, item) in (first..).zip(items) {
            if seq == row.items.len() as u64 + 1 {
                self.bytes += item.len() as u64;
                row.items.push(item);
            }
        }
        let next = row.items.len() as u64 + 1;
        self.version += 1;
        self.announce(now, key);
        next
    }

    /// The topic's length as far as it is known here.
    pub fn length(&self, topic: &str) -> u64 {
        self.topics.key(topic).and_then(|key| self.topics.row(key)).map_or(0, |t| t.items.len() as u64)
    }

    /// The state's count as far as it is known here.
    pub fn count(&self, state: &str) -> u64 {
        self.states.key(state).and_then(|key| self.states.row(key)).map_or(0, |s| s.count)
    }

    /// Whether anybody here waits at a barrier over this state, or is subscribed to this topic.
    pub fn wanted(&self, kind: Kind, key: &str) -> bool {
        match kind {
            Kind::State => {
                self.states.key(key).and_then(|k| self.states.row(k)).is_some_and(|s| !s.waiters.is_empty())
            }
            Kind::Topic => self
                .topics
                .key(key)
                .and_then(|k| self.topics.row(k))
                .is_some_and(|t| !t.subscribers.is_empty()),
        }
    }

    /// Forgets a key that nobody here waits for any more, as the store has it. Says whether that was so.
    pub fn forget(&mut self, kind: Kind, key: &str) -> bool {
        if self.wanted(kind, key) {
            return false;
        }
        let run = match kind {
            Kind::State => {
                let Some(row) = self.states.key(key) else { return true };
                let Some((_, state)) = self.states.remove(row) else { return true };
                if let Some(run) = self.runs.row_mut(state.run) {
                    run.states.remove(&row);
                }
                state.run
            }
            Kind::Topic => {
                let Some(row) = self.topics.key(key) else { return true };
                let Some((_, topic)) = self.topics.remove(row) else { return true };
                self.bytes -= topic.items.iter().map(|i| i.len() as u64).sum::<u64>();
                if let Some(run) = self.runs.row_mut(topic.run) {
                    run.topics.remove(&row);
                }
                topic.run
            }
        };
        if self.runs.row(run).is_some_and(|r| r.states.is_empty() && r.topics.is_empty()) {
            self.runs.remove(run);
        }
        true
    }
}

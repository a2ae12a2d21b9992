//! What people and supervisors read: every barrier with its count, who signalled and who waits; every topic.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::slab::Key;
use super::{Engine, Who};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Grows with every change. Two equal versions mean that nothing happened in between.
    pub version: u64,
    /// Connections, and peers inside of this process.
    pub peers: usize,
    /// Every state, by name.
    pub barriers: Vec<BarrierReport>,
    /// Every topic, by name.
    pub topics: Vec<TopicReport>,
}

/// A state and who has to do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarrierReport {
    /// Its whole key.
    pub state: String,
    /// Entries so far.
    pub count: u64,
    /// Who signalled, and how often; at most 4,096.
    pub signalled: Vec<(Who, u64)>,
    /// Who waits at this service, and for how many.
    pub waiting: Vec<Waiting>,
    /// Who waits at other services over the same store, and for how many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_elsewhere: Vec<(String, u64)>,
}

/// Somebody who waits at a barrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who.
    pub who: Who,
    /// Entries wanted.
    pub target: u64,
    /// For how long, milliseconds.
    pub waited_ms: u64,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReport {
    /// Its whole key.
    pub topic: String,
    /// Items published.
    pub length: u64,
    /// Bytes of them, as JSON strings.
    pub bytes: u64,
    /// Subscriptions of this service.
    pub subscribers: usize,
}

/// Why a barrier is not open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The state's whole key.
    pub state: String,
    /// Entries so far.
    pub count: u64,
    /// Entries wanted.
    pub target: u64,
    /// Who signalled.
    pub signalled: Vec<String>,
    /// Who waits.
    pub waiting: Vec<String>,
}

/// Most names in an [`Explanation`]'s list: it has to fit into a frame.
pub(super) const MAX_NAMES: usize = 100;

// === impl Engine ===

impl Engine {
    /// Everything as it is now.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mut barriers: Vec<BarrierReport> =
            self.states.iter().filter_map(|(key, _, _)| self.report_state(now, key)).collect();
        barriers.sort_unstable_by(|a, b| a.state.cmp(&b.state));
        let mut topics: Vec<TopicReport> = self
            .topics
            .iter()
            .map(|(_, name, topic)| TopicReport {
                topic: name.to_string(),
                length: topic.items.len() as u64,
                bytes: topic.items.iter().map(|i| i.len() as u64).sum(),
                subscribers: topic.subscribers.len(),
            })
            .collect();
        topics.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        Snapshot { version: self.version, peers: self.peers.len(), barriers, topics }
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Why a barrier of this target over the state is not open.
    pub fn explain(&self, state: &str, target: u64) -> Explanation {
        self.states.key(state).and_then(|key| self.explain_state(key, target)).unwrap_or_else(|| {
            Explanation {
                state: state.to_owned(),
                count: 0,
                target,
                signalled: Vec::new(),
                waiting: Vec::new(),
            }
        })
    }

    /// Waiting barriers, topics, subscriptions, and bytes held.
    pub fn gauges(&self) -> [(&'static str, u64); 5] {
        [
            ("waiting_barriers", self.waiters.len() as u64),
            ("states", self.states.len() as u64),
            ("topics", self.topics.len() as u64),
            ("subscriptions", self.subscriptions.len() as u64),
            ("topic_bytes", self.bytes),
        ]
    }

    pub(super) fn explain_state(&self, key: Key, target: u64) -> Option<Explanation> {
        let name = self.states.name(key)?;
        let row = self.states.row(key)?;
        let here = row.signallers.values().map(|(who, _)| who.to_string());
        let told = row.told.iter().flat_map(|told| &told.signalled).map(|(who, _)| who.clone());
        let mut signalled: Vec<String> = here.chain(told).take(MAX_NAMES).collect();
        signalled.sort_unstable();
        let elsewhere = row.told.iter().flat_map(|told| told.waiting.clone());
        let waiting = self.waiting_for(name).into_iter().chain(elsewhere);
        let waiting = waiting.map(|(who, _)| who).take(MAX_NAMES).collect();
        Some(Explanation { state: name.to_string(), count: row.count, target, signalled, waiting })
    }

    fn report_state(&self, now: Instant, key: Key) -> Option<BarrierReport> {
        let name = self.states.name(key)?;
        let row = self.states.row(key)?;
        let mut signalled: Vec<(Who, u64)> =
            row.signallers.values().map(|(who, count)| (Who::clone(who), *count)).collect();
        let told = row.told.iter().flat_map(|told| &told.signalled);
        signalled.extend(told.map(|(who, count)| (Who::local(who), *count)));
        let waiting_elsewhere = row.told.iter().flat_map(|told| told.waiting.clone()).collect();
        signalled.sort_unstable_by_key(|(who, _)| (who.address, who.name.clone()));
        let waiting = row
            .waiters
            .iter()
            .filter_map(|(_, w)| self.waiters.row(*w))
            .filter_map(|w| {
                let who = Who::clone(&self.peers.row(w.peer.0)?.who);
                let waited_ms = now.saturating_duration_since(w.since).as_millis() as u64;
                Some(Waiting { who, target: w.target, waited_ms })
            })
            .collect();
        let (state, count) = (name.to_string(), row.count);
        Some(BarrierReport { state, count, signalled, waiting, waiting_elsewhere })
    }
}

// === impl Explanation ===

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} at {:?}", self.count, self.target, self.state)?;
        if !self.signalled.is_empty() {
            write!(f, "; signalled by {}", self.signalled.join(", "))?;
        }
        if !self.waiting.is_empty() {
            write!(f, "; waiting: {}", self.waiting.join(", "))?;
        }
        Ok(())
    }
}

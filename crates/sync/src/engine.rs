//! Signals, barriers and topics, as plain values: no socket, no clock, no lock.
//!
//! Whoever drives it passes the time in, carries answers to peers, and wakes the peers it names. With the memory
//! store this is the only copy of a run's state; with the Redis store it holds what the peers of this service wait
//! for, and learns counts and items from the store (`learn_count`, `learn_items`).

mod barrier;
mod learn;
mod report;
mod run;
mod slab;
mod sweep;
#[cfg(test)]
mod tests;
mod value;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub use report::{BarrierReport, Explanation, Snapshot, TopicReport, Waiting};
pub use run::{REQUEST_KEY_MEMORY, run_of};
pub use sweep::{Kind, Removed, Sweep};
pub use value::{
    BarrierEnd, BarrierTerms, Cancelled, Delivery, Entered, Limits, Numbered, PeerId, Pulled, Refusal, Who,
};

use run::Run;
use slab::{Key, Slab, Table};

/// Most signallers that a state remembers one by one.
const MAX_SIGNALLERS: usize = 4096;

/// All states and topics, and who waits for them.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    peers: Slab<Peer>,
    states: Table<State>,
    topics: Table<Topic>,
    waiters: Slab<Waiter>,
    subscriptions: Slab<Subscription>,
    runs: Table<Run>,
    deadlines: BinaryHeap<Reverse<(Instant, Key)>>,
    woken: Vec<PeerId>,
    version: u64,
    released: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Peer {
    who: Arc<Who>,
    requests: HashMap<Box<str>, Pending>,
    done: VecDeque<(Box<str>, Done)>,
    news: VecDeque<Key>,
    /// Since when something lies here for it, unless nothing does.
    woken: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Pending {
    Barrier(Key),
    Subscription(Key),
}

#[derive(Debug)]
enum Done {
    Numbered(Numbered, u64),
    Released,
    Ended(BarrierEnd, Box<Explanation>),
    Failed(Box<str>),
}

#[derive(Debug)]
struct State {
    run: Key,
    count: u64,
    signallers: HashMap<PeerId, (Arc<Who>, u64)>,
    /// By target, so that a signal looks only at those it releases.
    waiters: BTreeSet<(u64, Key)>,
    /// What the store last said of who has to do with it; nothing where the engine is the store.
    told: Option<Box<Told>>,
}

/// Who has to do with a state over all services, as the store says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Who signalled, and how often.
    pub signalled: Vec<(String, u64)>,
    /// Who waits at other services, and for how many.
    pub waiting: Vec<(String, u64)>,
}

#[derive(Debug)]
struct Waiter {
    peer: PeerId,
    id: Box<str>,
    state: Key,
    target: u64,
    since: Instant,
    explain: bool,
}

#[derive(Debug)]
struct Topic {
    run: Key,
    items: Vec<Box<[u8]>>,
    subscribers: Vec<Key>,
}

#[derive(Debug)]
struct Subscription {
    peer: PeerId,
    id: Box<str>,
    topic: Key,
    /// Its place among the topic's subscribers.
    place: usize,
    /// Items delivered so far, counted from the topic's first.
    next: usize,
    /// In its peer's `news`.
    queued: bool,
    numbered: bool,
}

// === impl Engine ===

impl Engine {
    /// An engine without any state.
    pub fn new(limits: Limits) -> Engine {
        Engine {
            limits,
            peers: Slab::default(),
            states: Table::default(),
            topics: Table::default(),
            waiters: Slab::default(),
            subscriptions: Slab::default(),
            runs: Table::default(),
            deadlines: BinaryHeap::new(),
            woken: Vec::new(),
            version: 0,
            released: 0,
            bytes: 0,
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A new peer.
    pub fn connect(&mut self, who: Who) -> PeerId {
        self.version += 1;
        PeerId(self.peers.insert(Peer {
            who: Arc::new(who),
            requests: HashMap::new(),
            done: VecDeque::new(),
            news: VecDeque::new(),
            woken: None,
        }))
    }

    /// The peer gives itself a name.
    pub fn rename(&mut self, peer: PeerId, name: &str) {
        if let Some(peer) = self.peers.row_mut(peer.0)
            && peer.who.name.as_deref() != Some(name)
        {
            peer.who = Arc::new(Who { address: peer.who.address, name: Some(name.to_owned()) });
        }
    }

    /// The peer is gone, and with it all it waited for. What it signalled and published stays.
    pub fn disconnect(&mut self, peer: PeerId) {
        let Some(row) = self.peers.remove(peer.0) else { return };
        self.version += 1;
        for pending in row.requests.into_values() {
            match pending {
                Pending::Barrier(key) => drop(self.remove_waiter(key)),
                Pending::Subscription(key) => drop(self.remove_subscription(key)),
            }
        }
    }

    /// The peers whose connection comes from this address.
    pub fn peers_at(&self, ip: IpAddr) -> Vec<PeerId> {
        let at = |who: &Who| who.address.is_some_and(|a| a.ip() == ip);
        self.peers.iter().filter(|(_, p)| at(&p.who)).map(|(key, _)| PeerId(key)).collect()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Who a peer is.
    pub fn who(&self, peer: PeerId) -> Option<&Who> {
        self.peers.row(peer.0).map(|p| &*p.who)
    }

    /// The number that an earlier request with this request key was given, if one was.
    pub fn seen(&mut self, now: Instant, key: &str, request_key: &str) -> Option<u64> {
        let run = self.runs.key(run_of(key))?;
        self.runs.row_mut(run)?.seen(now, request_key)
    }

    /// Counts one more entry into the state and gives back how many there are. With a request key that was seen
    /// before nothing is counted, and the earlier number is given back.
    ///
    /// # Errors
    /// A limit on states.
    pub fn signal(
        &mut self,
        now: Instant,
        peer: PeerId,
        state: &str,
        request_key: Option<&str>,
    ) -> Result<u64, Refusal> {
        if let Some(seq) = request_key.and_then(|k| self.seen(now, state, k)) {
            return Ok(seq);
        }
        let key = self.state(now, state)?;
        let who = self.peers.row(peer.0).map(|p| p.who.clone());
        let row = self.states.row_mut(key).expect("the state was just found");
        row.count += 1;
        let seq = row.count;
        if let Some(who) = who
            && (row.signallers.len() < MAX_SIGNALLERS || row.signallers.contains_key(&peer))
        {
            row.signallers.entry(peer).or_insert((who, 0)).1 += 1;
        }
        let run = row.run;
        self.remember(run, request_key, seq);
        self.version += 1;
        self.release(now, key);
        Ok(seq)
    }

    /// Appends a value (a JSON document encoded as a JSON string, with its quotes) to the topic and gives back its
    /// number, from 1. A request key works as for [`Engine::signal`].
    ///
    /// # Errors
    /// A limit on topics or bytes.
    pub fn publish(
        &mut self,
        now: Instant,
        topic: &str,
        value: &[u8],
        request_key: Option<&str>,
    ) -> Result<u64, Refusal> {
        if let Some(seq) = request_key.and_then(|k| self.seen(now, topic, k)) {
            return Ok(seq);
        }
        let key = self.topic(now, topic)?;
        let run_key = self.topics.row(key).expect("the topic was just found").run;
        let run = self.runs.row_mut(run_key).expect("a topic has a run");
        let bytes = run.bytes + value.len() as u64;
        if bytes > self.limits.bytes_per_run {
            let what = format!("bytes published in run {:?}", run_of(topic));
            return Err(Refusal::Limit { name: "bytes_per_run", what, limit: self.limits.bytes_per_run });
        }
        run.bytes = bytes;
        self.bytes += value.len() as u64;
        let row = self.topics.row_mut(key).expect("the topic was just found");
        row.items.push(value.into());
        let seq = row.items.len() as u64;
        self.remember(run_key, request_key, seq);
        self.version += 1;
        self.announce(now, key);
        Ok(seq)
    }

    /// Delivers the topic's items after the first `after`, then each new one. `numbered`: with their numbers.
    ///
    /// # Errors
    /// The id is in use, or a limit.
    pub fn subscribe(
        &mut self,
        now: Instant,
        peer: PeerId,
        id: &str,
        topic: &str,
        after: u64,
        numbered: bool,
    ) -> Result<(), Refusal> {
        self.admit(peer, id)?;
        let key = self.topic(now, topic)?;
        let row = self.topics.row_mut(key).expect("the topic was just found");
        let run = self.runs.row_mut(row.run).expect("a topic has a run");
        if run.subscriptions >= self.limits.subscriptions_per_run {
            let what = format!("subscriptions in run {:?}", run_of(topic));
            let limit = self.limits.subscriptions_per_run;
            return Err(Refusal::Limit { name: "subscriptions_per_run", what, limit });
        }
        run.subscriptions += 1;
        self.version += 1;
        let subscription = self.subscriptions.insert(Subscription {
            peer,
            id: id.into(),
            topic: key,
            place: row.subscribers.len(),
            next: usize::try_from(after).unwrap_or(usize::MAX),
            queued: false,
            numbered,
        });
        row.subscribers.push(subscription);
        let row = self.peers.row_mut(peer.0).ok_or(Refusal::Gone)?;
        row.requests.insert(id.into(), Pending::Subscription(subscription));
        self.queue(now, subscription);
        Ok(())
    }

    /// Ends an open request; nothing more is delivered for it.
    pub fn cancel(&mut self, peer: PeerId, id: &str) -> Option<Cancelled> {
        let row = self.peers.row_mut(peer.0)?;
        let pending = row.requests.remove(id)?;
        self.version += 1;
        match pending {
            Pending::Barrier(key) => {
                let waiter = self.remove_waiter(key)?;
                self.states.name(waiter.state).cloned().map(Cancelled::Barrier)
            }
            Pending::Subscription(key) => {
                let subscription = self.remove_subscription(key)?;
                self.topics.name(subscription.topic).cloned().map(Cancelled::Subscription)
            }
        }
    }

    /// The ids of a peer's subscriptions.
    pub fn subscriptions_of(&self, peer: PeerId) -> Vec<String> {
        let requests = self.peers.row(peer.0).into_iter().flat_map(|p| &p.requests);
        requests
            .filter(|(_, p)| matches!(p, Pending::Subscription(_)))
            .map(|(id, _)| id.to_string())
            .collect()
    }

    /// What kind of open request, if any, this id names; for an open barrier, whether it may be told an error.
    pub fn open_barrier_without_errors(&self, peer: PeerId, id: &str) -> bool {
        let pending = self.peers.row(peer.0).and_then(|p| p.requests.get(id));
        match pending {
            Some(Pending::Barrier(key)) => self.waiters.row(*key).is_some_and(|w| !w.explain),
            _ => false,
        }
    }

    /// The peers for which something came since this was last asked. Each is named once until it has pulled.
    pub fn woken(&mut self) -> std::vec::Drain<'_, PeerId> {
        self.woken.drain(..)
    }

    /// Whether somebody is to be woken.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Hands over what there is for a peer, about `budget` bytes of it.
    pub fn pull(&mut self, peer: PeerId, budget: usize, sink: &mut dyn FnMut(Delivery<'_>)) -> Pulled {
        let Some(row) = self.peers.row_mut(peer.0) else { return Pulled { more: false, since: None } };
        let since = row.woken.take();
        for (id, done) in row.done.drain(..) {
            sink(done.delivery(&id));
        }
        let mut left = budget;
        while let Some(key) = row.news.pop_front() {
            let Some(subscription) = self.subscriptions.row_mut(key) else { continue };
            subscription.queued = false;
            let Some(topic) = self.topics.row(subscription.topic) else { continue };
            while let Some(value) = topic.items.get(subscription.next) {
                subscription.next += 1;
                let seq = subscription.numbered.then_some(subscription.next as u64);
                sink(Delivery::Item { id: &subscription.id, seq, value });
                left = left.saturating_sub(value.len() + 64);
                if left == 0 {
                    break;
                }
            }
            if subscription.next < topic.items.len() {
                subscription.queued = true;
                row.news.push_back(key);
            }
            if left == 0 {
                break;
            }
        }
        Pulled { more: !row.news.is_empty(), since }
    }

    /// How many waits have ended by their barrier's opening.
    pub fn released(&self) -> u64 {
        self.released
    }

    fn state(&mut self, now: Instant, name: &str) -> Result<Key, Refusal> {
        if let Some(key) = self.states.key(name) {
            let run = self.states.row(key).expect("a named state exists").run;
            self.runs.row_mut(run).expect("a state has a run").claimed = now;
            return Ok(key);
        }
        let run = self.run(now, name);
        let row = self.runs.row(run).expect("the run was just found");
        if row.states.len() >= self.limits.states_per_run {
            let what = format!("states in run {:?}", run_of(name));
            return Err(Refusal::Limit {
                name: "states_per_run",
                what,
                limit: self.limits.states_per_run as u64,
            });
        }
        let state = State { run, count: 0, signallers: HashMap::new(), waiters: BTreeSet::new(), told: None };
        let key = self.states.insert(name, state);
        self.runs.row_mut(run).expect("the run was just found").states.insert(key);
        Ok(key)
    }

    fn topic(&mut self, now: Instant, name: &str) -> Result<Key, Refusal> {
        if let Some(key) = self.topics.key(name) {
            let run = self.topics.row(key).expect("a named topic exists").run;
            self.runs.row_mut(run).expect("a topic has a run").claimed = now;
            return Ok(key);
        }
        let run = self.run(now, name);
        let row = self.runs.row(run).expect("the run was just found");
        if row.topics.len() >= self.limits.topics_per_run {
            let what = format!("topics in run {:?}", run_of(name));
            return Err(Refusal::Limit {
                name: "topics_per_run",
                what,
                limit: self.limits.topics_per_run as u64,
            });
        }
        let key = self.topics.insert(name, Topic { run, items: Vec::new(), subscribers: Vec::new() });
        self.runs.row_mut(run).expect("the run was just found").topics.insert(key);
        Ok(key)
    }

    fn run(&mut self, now: Instant, key: &str) -> Key {
        let name = run_of(key);
        match self.runs.key(name) {
            Some(run) => run,
            None => self.runs.insert(name, Run::new(now)),
        }
    }

    fn remember(&mut self, run: Key, request_key: Option<&str>, seq: u64) {
        if let Some(request_key) = request_key
            && let Some(run) = self.runs.row_mut(run)
        {
            run.remember(request_key, seq);
        }
    }

    /// Whether the peer may open one more request under this id.
    fn admit(&self, peer: PeerId, id: &str) -> Result<(), Refusal> {
        let row = self.peers.row(peer.0).ok_or(Refusal::Gone)?;
        if row.requests.contains_key(id) {
            return Err(Refusal::IdInUse(id.to_owned()));
        }
        if row.requests.len() >= self.limits.requests_per_peer {
            let what = "open requests of this connection".to_owned();
            let limit = self.limits.requests_per_peer as u64;
            return Err(Refusal::Limit { name: "requests_per_peer", what, limit });
        }
        Ok(())
    }

    /// Tells the topic's subscribers that there is something new.
    fn announce(&mut self, now: Instant, topic: Key) {
        let Some(row) = self.topics.row(topic) else { return };
        for key in &row.subscribers {
            let Some(subscription) = self.subscriptions.row_mut(*key) else { continue };
            if !subscription.queued {
                subscription.queued = true;
                if let Some(peer) = self.peers.row_mut(subscription.peer.0) {
                    peer.news.push_back(*key);
                    peer.wake(now, subscription.peer, &mut self.woken);
                }
            }
        }
    }

    fn queue(&mut self, now: Instant, key: Key) {
        let Some(subscription) = self.subscriptions.row_mut(key) else { return };
        let Some(topic) = self.topics.row(subscription.topic) else { return };
        if subscription.next < topic.items.len() && !subscription.queued {
            subscription.queued = true;
            if let Some(peer) = self.peers.row_mut(subscription.peer.0) {
                peer.news.push_back(key);
                peer.wake(now, subscription.peer, &mut self.woken);
            }
        }
    }

    fn finish(&mut self, now: Instant, peer: PeerId, id: &str, done: Done) {
        if let Some(row) = self.peers.row_mut(peer.0) {
            row.done.push_back((id.into(), done));
            row.wake(now, peer, &mut self.woken);
        }
    }

    fn remove_subscription(&mut self, key: Key) -> Option<Subscription> {
        let subscription = self.subscriptions.remove(key)?;
        if let Some(topic) = self.topics.row_mut(subscription.topic) {
            topic.subscribers.swap_remove(subscription.place);
            if let Some(moved) = topic.subscribers.get(subscription.place)
                && let Some(moved) = self.subscriptions.row_mut(*moved)
            {
                moved.place = subscription.place;
            }
            if let Some(run) = self.runs.row_mut(topic.run) {
                run.subscriptions -= 1;
            }
        }
        Some(subscription)
    }
}

// === impl Peer ===

impl Peer {
    fn wake(&mut self, now: Instant, id: PeerId, woken: &mut Vec<PeerId>) {
        if self.woken.is_none() {
            self.woken = Some(now);
            woken.push(id);
        }
    }
}

// === impl Done ===

impl Done {
    fn delivery<'a>(&'a self, id: &'a str) -> Delivery<'a> {
        match self {
            Done::Numbered(kind, seq) => Delivery::Numbered { id, kind: *kind, seq: *seq },
            Done::Released => Delivery::Released { id },
            Done::Ended(end, explanation) => Delivery::Ended { id, end: *end, explanation },
            Done::Failed(error) => Delivery::Failed { id, error },
        }
    }
}

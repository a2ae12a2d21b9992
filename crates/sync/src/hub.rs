//! One engine, those who wait for it, and who watches: the middle between connections and the state.
//!
//! A connection hands frames in and takes deliveries out; both hold the lock for well under a millisecond. Nobody is
//! written to from here, so a peer that does not read can't hold anybody up.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

use crate::engine::{
    BarrierTerms, Cancelled, Delivery, Engine, Entered, Explanation, Kind, Limits, Numbered, PeerId, Refusal,
    Removed, Snapshot, Sweep, Who, run_of,
};
use crate::metrics::{Metrics, OperationKind};
use crate::observe::{Observer, SyncEvent};
use crate::store::{Answered, Store, StoreError};
use crate::wire::{self, BadRequest, ErrorForm, Operation, Request};

/// The shared middle of a service.
#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    observer: Option<Observer>,
    store: Store,
    pub(crate) metrics: Metrics,
    /// The next barrier to give up may be another one.
    pub(crate) deadlines: Notify,
    pub(crate) limits: Limits,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    /// By the peers' places.
    mailboxes: Vec<Option<Arc<Mailbox>>>,
}

/// Tells a peer's task that there is something for it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) notify: Notify,
    /// The connection is to be closed, and why.
    pub(crate) kick: OnceLock<Farewell>,
}

/// Why a connection is closed from this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// The close code.
    pub(crate) code: u16,
    /// For the close frame and the observer.
    pub(crate) reason: String,
}

/// A peer and its mailbox; both end together.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) peer: PeerId,
    pub(crate) mailbox: Arc<Mailbox>,
    hub: Arc<Hub>,
}

// === impl Hub ===

impl Hub {
    pub(crate) fn new(limits: Limits, store: Store, observer: Option<mpsc::Sender<SyncEvent>>) -> Arc<Hub> {
        Arc::new(Hub {
            inner: Mutex::new(Inner { engine: Engine::new(limits), mailboxes: Vec::new() }),
            observer: observer.map(Observer::new),
            store,
            metrics: Metrics::default(),
            deadlines: Notify::new(),
            limits,
        })
    }

    /// A new peer.
    pub(crate) fn join(self: &Arc<Self>, who: Who) -> Guest {
        let mailbox = Arc::new(Mailbox::default());
        let peer = {
            let mut inner = self.lock();
            let peer = inner.engine.connect(who);
            let place = peer.place();
            if inner.mailboxes.len() <= place {
                inner.mailboxes.resize(place + 1, None);
            }
            inner.mailboxes[place] = Some(mailbox.clone());
            peer
        };
        Guest { peer, mailbox, hub: self.clone() }
    }

    /// Works on the engine, then wakes whoever is to be woken.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut inner = self.lock();
        let result = work(&mut inner.engine);
        if !inner.engine.has_woken() {
            return result;
        }
        let Inner { engine, mailboxes } = &mut *inner;
        let woken: Vec<Arc<Mailbox>> =
            engine.woken().filter_map(|peer| mailboxes.get(peer.place())?.clone()).collect();
        drop(inner);
        for mailbox in woken {
            mailbox.notify.notify_one();
        }
        result
    }

    /// Carries out a request of a connection. Answers that are there at once are appended to `out` as frames.
    ///
    /// # Errors
    /// The request can't be answered in a way that its client would understand: the connection has to be closed.
    pub(crate) fn request(
        self: &Arc<Self>,
        peer: PeerId,
        request: &Request<'_>,
        form: ErrorForm,
        out: &mut Vec<u8>,
    ) -> Result<(), Farewell> {
        let now = Instant::now();
        let id = &*request.id;
        if let Some(name) = &request.from {
            self.with(|engine| engine.rename(peer, name));
        }
        let refused = match &request.operation {
            Operation::Signal { state, key } => match self.signal(now, peer, id, state, key.as_deref()) {
                Ok(Some(seq)) => {
                    answer(out, |out| wire::write_numbered(out, id, Numbered::Signal, seq));
                    return Ok(());
                }
                Ok(None) => return Ok(()),
                Err(refusal) => (refusal, false),
            },
            Operation::Publish { topic, payload, key } => {
                match self.publish(now, peer, id, topic, payload.get(), key.as_deref()) {
                    Ok(Some(seq)) => {
                        answer(out, |out| wire::write_numbered(out, id, Numbered::Publish, seq));
                        return Ok(());
                    }
                    Ok(None) => return Ok(()),
                    Err(refusal) => (refusal, false),
                }
            }
            Operation::Barrier { state, target, timeout, explain } => {
                let deadline = timeout.and_then(|t| now.checked_add(t));
                let terms = BarrierTerms { target: *target, deadline, explain: *explain };
                match self.barrier(now, peer, id, state, terms) {
                    Ok(Entered::Open { .. }) => {
                        answer(out, |out| wire::write_released(out, id));
                        return Ok(());
                    }
                    Ok(Entered::Waiting { .. }) => return Ok(()),
                    Err(refusal) => (refusal, !explain),
                }
            }
            Operation::Subscribe { topic, after } => match self.subscribe(now, peer, id, topic, *after) {
                Ok(()) => return Ok(()),
                Err(refusal) => (refusal, false),
            },
            Operation::Cancel => {
                self.cancel(peer, id);
                return Ok(());
            }
        };
        let (refusal, barrier) = refused;
        let what = BadRequest { id: id.to_owned(), barrier, what: refusal.to_string() };
        self.refuse(peer, &what, form, out)
    }

    /// Answers what could not be carried out.
    ///
    /// # Errors
    /// An error frame would be taken for the opening of a barrier: the connection has to be closed.
    pub(crate) fn refuse(
        &self,
        peer: PeerId,
        bad: &BadRequest,
        form: ErrorForm,
        out: &mut Vec<u8>,
    ) -> Result<(), Farewell> {
        self.metrics.refused.fetch_add(1, Ordering::Relaxed);
        self.observe(|| SyncEvent::Refused { peer, id: bad.id.clone(), error: bad.what.clone() });
        let mistaken = bad.barrier || self.lock().engine.open_barrier_without_errors(peer, &bad.id);
        if mistaken {
            return Err(Farewell { code: crate::frame::code::POLICY, reason: bad.what.clone() });
        }
        answer(out, |out| wire::write_error(out, &bad.id, &bad.what, form, None));
        Ok(())
    }

    /// Counts an entry. No number: the answer comes later.
    pub(crate) fn signal(
        self: &Arc<Self>,
        now: Instant,
        peer: PeerId,
        id: &str,
        state: &str,
        key: Option<&str>,
    ) -> Result<Option<u64>, Refusal> {
        self.metrics.count(OperationKind::Signal);
        if let Store::Redis(redis) = &self.store {
            let who = self.with(|engine| engine.who(peer).map_or_else(String::new, Who::short));
            redis.signal(peer, id, who, state, key);
            return Ok(None);
        }
        let (seq, released) = self.with(|engine| {
            let before = engine.released();
            engine.signal(now, peer, state, key).map(|seq| (seq, engine.released() - before))
        })?;
        self.observe(|| SyncEvent::Signalled { peer, state: state.to_owned(), seq });
        if released > 0 {
            self.observe(|| SyncEvent::Released { state: state.to_owned(), count: seq, peers: released });
        }
        Ok(Some(seq))
    }

    /// Appends to a topic. No number: the answer comes later.
    pub(crate) fn publish(
        self: &Arc<Self>,
        now: Instant,
        peer: PeerId,
        id: &str,
        topic: &str,
        payload: &str,
        key: Option<&str>,
    ) -> Result<Option<u64>, Refusal> {
        self.metrics.count(OperationKind::Publish);
        let value = wire::quote(payload);
        if value.len() + wire::ITEM_OVERHEAD > self.limits.message_bytes {
            let what =
                format!("{} bytes of this item as subscribers read it", value.len() + wire::ITEM_OVERHEAD);
            let limit = self.limits.message_bytes as u64;
            return Err(Refusal::Limit { name: "message_bytes", what, limit });
        }
        self.metrics.published_bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
        if let Store::Redis(redis) = &self.store {
            redis.publish(peer, id, topic, (payload, value.len()), key);
            return Ok(None);
        }
        let seq = self.with(|engine| engine.publish(now, topic, &value, key))?;
        self.observe(|| SyncEvent::Published {
            peer,
            topic: topic.to_owned(),
            seq,
            payload: payload.to_owned(),
        });
        Ok(Some(seq))
    }

    pub(crate) fn barrier(
        self: &Arc<Self>,
        now: Instant,
        peer: PeerId,
        id: &str,
        state: &str,
        terms: BarrierTerms,
    ) -> Result<Entered, Refusal> {
        self.metrics.count(OperationKind::Barrier);
        let entered = self.with(|engine| engine.barrier(now, peer, id, state, terms))?;
        if let Entered::Waiting { count } = entered {
            if let Store::Redis(redis) = &self.store {
                redis.watch(Kind::State, state);
            }
            if terms.deadline.is_some() {
                self.deadlines.notify_one();
            }
            let target = terms.target;
            self.observe(|| SyncEvent::Waiting { peer, state: state.to_owned(), count, target });
        }
        Ok(entered)
    }

    pub(crate) fn subscribe(
        self: &Arc<Self>,
        now: Instant,
        peer: PeerId,
        id: &str,
        topic: &str,
        after: Option<u64>,
    ) -> Result<(), Refusal> {
        self.metrics.count(OperationKind::Subscribe);
        self.with(|engine| engine.subscribe(now, peer, id, topic, after.unwrap_or(0), after.is_some()))?;
        if let Store::Redis(redis) = &self.store {
            redis.watch(Kind::Topic, topic);
        }
        self.observe(|| SyncEvent::Subscribed { peer, topic: topic.to_owned() });
        Ok(())
    }

    /// The ids of a peer's subscriptions.
    pub(crate) fn subscriptions_of(&self, peer: PeerId) -> Vec<String> {
        self.lock().engine.subscriptions_of(peer)
    }

    pub(crate) fn cancel(&self, peer: PeerId, id: &str) -> bool {
        self.metrics.count(OperationKind::Cancel);
        let cancelled = self.with(|engine| engine.cancel(peer, id));
        match &cancelled {
            Some(Cancelled::Barrier(state)) => {
                self.observe(|| SyncEvent::BarrierCancelled { peer, state: state.to_string() });
            }
            Some(Cancelled::Subscription(topic)) => {
                self.observe(|| SyncEvent::Unsubscribed { peer, topic: topic.to_string() });
            }
            None => {}
        }
        cancelled.is_some()
    }

    /// Hands over what there is for a peer; says whether there is more.
    pub(crate) fn pull(&self, peer: PeerId, budget: usize, sink: &mut dyn FnMut(Delivery<'_>)) -> bool {
        let pulled = self.lock().engine.pull(peer, budget, sink);
        if let Some(since) = pulled.since {
            self.metrics.delivery.record(since.elapsed());
        }
        pulled.more
    }

    /// Ends all waits over a state: those who can be told are told, the others' connections are closed.
    pub(crate) async fn cancel_barriers(&self, state: &str, reason: &str) {
        self.ask_who(&[state.to_owned()]).await;
        let mute = self.with(|engine| engine.cancel_barriers(Instant::now(), state));
        self.kick(&mute, reason);
    }

    /// Gives up the barriers whose time is up, and says when to come again.
    pub(crate) async fn expire(&self, now: Instant) -> Option<Instant> {
        if matches!(self.store, Store::Redis(_)) {
            let due = self.lock().engine.due(now);
            self.ask_who(&due).await;
        }
        let (mute, next) = self.with(|engine| (engine.expire(now), engine.next_deadline()));
        self.kick(&mute, "a barrier's time is up");
        next
    }

    /// Closes all connections from an address.
    pub(crate) fn kick_address(&self, ip: IpAddr, reason: &str) -> usize {
        let peers = self.lock().engine.peers_at(ip);
        self.kick(&peers, reason);
        peers.len()
    }

    /// Closes connections.
    pub(crate) fn kick(&self, peers: &[PeerId], reason: &str) {
        let inner = self.lock();
        for peer in peers {
            if let Some(Some(mailbox)) = inner.mailboxes.get(peer.place()) {
                let farewell = Farewell { code: crate::frame::code::POLICY, reason: reason.to_owned() };
                // A connection is closed once; the first reason counts.
                let _ = mailbox.kick.set(farewell);
                mailbox.notify.notify_one();
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.lock().engine.snapshot(Instant::now())
    }

    /// The run is looked after, or over.
    ///
    /// # Errors
    /// The store is out of reach.
    pub(crate) async fn mark_run(&self, run: &str, finished: bool) -> Result<(), StoreError> {
        match &self.store {
            Store::Memory if finished => self.with(|engine| engine.finish_run(Instant::now(), run)),
            Store::Memory => self.with(|engine| engine.claim(Instant::now(), run)),
            Store::Redis(redis) => redis.mark(run, finished).await?,
        }
        Ok(())
    }

    /// Removes all keys that may go.
    ///
    /// # Errors
    /// The store is out of reach.
    pub(crate) async fn sweep(&self, sweep: &Sweep) -> Result<Vec<Removed>, StoreError> {
        match &self.store {
            Store::Redis(redis) => redis.sweep(sweep).await,
            Store::Memory => {
                let mut removed = Vec::new();
                loop {
                    let batch = self.with(|engine| engine.sweep(Instant::now(), sweep));
                    let last = batch.len() < sweep.batch || sweep.dry_run;
                    removed.extend(batch);
                    if last {
                        return Ok(removed);
                    }
                    // Others want the lock too.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Why a barrier is not open, with who signalled and who waits over all services.
    pub(crate) async fn explain(&self, state: &str, target: u64) -> Explanation {
        self.ask_who(&[state.to_owned()]).await;
        self.with(|engine| engine.explain(state, target))
    }

    /// Everything as it is now, of one run or of all, with who signalled and who waits over all services where somebody
    /// waits at this one.
    pub(crate) async fn report(&self, run: Option<&str>) -> Snapshot {
        let fits = |key: &str| run.is_none_or(|run| run_of(key) == run);
        if matches!(self.store, Store::Redis(_)) {
            let awaited: Vec<String> = {
                let inner = self.lock();
                inner.engine.awaited().filter(|state| fits(state)).map(str::to_owned).collect()
            };
            self.ask_who(&awaited).await;
        }
        let mut snapshot = self.snapshot();
        snapshot.barriers.retain(|barrier| fits(&barrier.state));
        snapshot.topics.retain(|topic| fits(&topic.topic));
        snapshot
    }

    /// Learns from the store who has to do with these states. A store that does not answer teaches nothing.
    async fn ask_who(&self, states: &[String]) {
        let Store::Redis(redis) = &self.store else { return };
        for (state, told) in redis.told(states).await {
            self.with(|engine| engine.learn_told(&state, told));
        }
    }

    /// Whether more may be sent to the store now.
    pub(crate) fn has_room(&self) -> bool {
        match &self.store {
            Store::Memory => true,
            Store::Redis(redis) => redis.has_room(),
        }
    }

    /// Waits while too much is on its way to the store.
    pub(crate) async fn room(&self) {
        if let Store::Redis(redis) = &self.store {
            redis.room().await;
        }
    }

    /// The store has answered.
    pub(crate) fn answered<'a>(&self, answers: impl Iterator<Item = Answered<'a>>) {
        let now = Instant::now();
        let mut events = Vec::new();
        self.with(|engine| {
            for answer in answers {
                match answer.result() {
                    Ok(seq) => {
                        engine.numbered(now, answer.peer(), answer.id(), answer.kind(), seq);
                        if self.observer.is_some() {
                            events.push(answer.event(seq));
                        }
                    }
                    Err(error) => engine.failed(now, answer.peer(), answer.id(), error),
                }
            }
        });
        for event in events {
            self.observe(|| event);
        }
    }

    /// The store says how many entries a state has.
    pub(crate) fn learn_count(&self, state: &str, count: u64) {
        let released = self.with(|engine| {
            let before = engine.released();
            engine.learn_count(Instant::now(), state, count);
            engine.released() - before
        });
        if released > 0 {
            self.observe(|| SyncEvent::Released { state: state.to_owned(), count, peers: released });
        }
    }

    /// The store says what a topic holds from number `first` on. Gives back the next number wanted.
    pub(crate) fn learn_items(&self, topic: &str, first: u64, items: Vec<Box<[u8]>>) -> u64 {
        self.with(|engine| engine.learn_items(Instant::now(), topic, first, items))
    }

    pub(crate) fn observe(&self, event: impl FnOnce() -> SyncEvent) {
        if let Some(observer) = &self.observer {
            observer.send(event());
        }
    }

    /// Events that the observer missed because its channel was full.
    pub(crate) fn missed_events(&self) -> u64 {
        self.observer.as_ref().map_or(0, Observer::missed)
    }

    fn leave(&self, peer: PeerId) {
        let mut inner = self.lock();
        if inner.engine.who(peer).is_some() {
            inner.mailboxes[peer.place()] = None;
            inner.engine.disconnect(peer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held is a defect of one request; the others go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Guest ===

impl Guest {
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hub.leave(self.peer);
    }
}

fn answer(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    crate::frame::write_text(out, write);
}

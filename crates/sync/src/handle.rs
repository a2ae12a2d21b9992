//! The service from within its own process: what connections can do, without one.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{
    BarrierEnd, BarrierTerms, Delivery, Entered, Explanation, Numbered, Refusal, Removed, Snapshot, Sweep,
    Who,
};
use crate::hub::{Guest, Hub};
use crate::store::StoreError;
use crate::wire;

/// A way in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SyncHandle {
    hub: Arc<Hub>,
}

/// A topic's items, in order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    guest: Guest,
    ready: VecDeque<Item>,
}

/// An item of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number, from 1.
    pub seq: u64,
    /// It, as JSON.
    pub json: String,
}

/// Why something in this process was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error("{0}")]
    Store(String),
    /// The barrier did not open in time.
    #[error("barrier timed out: {0}")]
    TimedOut(Box<Explanation>),
    /// Somebody cancelled the barrier.
    #[error("barrier cancelled: {0}")]
    Cancelled(Box<Explanation>),
    /// The peer's connection was ended from this side.
    #[error("ended: {0}")]
    Ended(String),
}

/// The id of the one request that a peer of this module has.
const ID: &str = "0";

// === impl SyncHandle ===

impl SyncHandle {
    pub(crate) fn new(hub: Arc<Hub>) -> SyncHandle {
        SyncHandle { hub }
    }

    /// Counts one more entry into a state (a whole key) and gives back how many there are. `who` appears in reports.
    ///
    /// # Errors
    /// A limit, or the store failed.
    pub async fn signal(&self, who: &str, state: &str) -> Result<u64, HandleError> {
        self.signal_as(Who::local(who), state, None).await
    }

    /// Appends JSON to a topic (a whole key) and gives back its number.
    ///
    /// # Errors
    /// A limit, or the store failed.
    pub async fn publish(&self, who: &str, topic: &str, json: &str) -> Result<u64, HandleError> {
        self.publish_as(Who::local(who), topic, json, None).await
    }

    /// Waits until a state has `target` entries, at most `timeout`. Dropping the future ends the wait.
    ///
    /// # Errors
    /// It did not open in time or was cancelled, a limit, or the store failed.
    pub async fn barrier(
        &self,
        who: &str,
        state: &str,
        target: u64,
        timeout: Option<Duration>,
    ) -> Result<(), HandleError> {
        self.barrier_as(Who::local(who), state, target, timeout).await
    }

    /// All items of a topic after the first `after`, then each new one.
    ///
    /// # Errors
    /// A limit.
    pub fn subscribe(&self, who: &str, topic: &str, after: u64) -> Result<Subscription, HandleError> {
        self.subscribe_as(Who::local(who), topic, after)
    }

    pub(crate) async fn signal_as(
        &self,
        who: Who,
        state: &str,
        key: Option<&str>,
    ) -> Result<u64, HandleError> {
        let guest = self.hub.join(who);
        match self.hub.signal(Instant::now(), guest.peer, ID, state, key)? {
            Some(seq) => Ok(seq),
            None => number(&guest, Numbered::Signal).await,
        }
    }

    pub(crate) async fn publish_as(
        &self,
        who: Who,
        topic: &str,
        json: &str,
        key: Option<&str>,
    ) -> Result<u64, HandleError> {
        let guest = self.hub.join(who);
        match self.hub.publish(Instant::now(), guest.peer, ID, topic, json, key)? {
            Some(seq) => Ok(seq),
            None => number(&guest, Numbered::Publish).await,
        }
    }

    pub(crate) async fn barrier_as(
        &self,
        who: Who,
        state: &str,
        target: u64,
        timeout: Option<Duration>,
    ) -> Result<(), HandleError> {
        let guest = self.hub.join(who);
        let now = Instant::now();
        let deadline = timeout.and_then(|t| now.checked_add(t));
        let terms = BarrierTerms { target, deadline, explain: true };
        if let Entered::Open { .. } = self.hub.barrier(now, guest.peer, ID, state, terms)? {
            return Ok(());
        }
        answer(&guest, |delivery| match delivery {
            Delivery::Released { .. } => Some(Ok(())),
            Delivery::Ended { end: BarrierEnd::TimedOut, explanation, .. } => {
                Some(Err(HandleError::TimedOut(Box::new(Explanation::clone(explanation)))))
            }
            Delivery::Ended { end: BarrierEnd::Cancelled, explanation, .. } => {
                Some(Err(HandleError::Cancelled(Box::new(Explanation::clone(explanation)))))
            }
            Delivery::Failed { error, .. } => Some(Err(HandleError::Store((*error).to_owned()))),
            _ => None,
        })
        .await
    }

    pub(crate) fn subscribe_as(
        &self,
        who: Who,
        topic: &str,
        after: u64,
    ) -> Result<Subscription, HandleError> {
        let guest = self.hub.join(who);
        self.hub.subscribe(Instant::now(), guest.peer, ID, topic, Some(after))?;
        Ok(Subscription { guest, ready: VecDeque::new() })
    }

    /// Everything as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.hub.snapshot()
    }

    /// Grows with every change; costs nothing to ask.
    pub fn version(&self) -> u64 {
        self.hub.with(|engine| engine.version())
    }

    /// Events that the observer missed because its channel was full.
    pub fn missed_events(&self) -> u64 {
        self.hub.missed_events()
    }

    /// Closes every connection from this address with the reason, and ends what they waited for. Gives back how many.
    pub fn fail_peer(&self, ip: IpAddr, reason: &str) -> usize {
        self.hub.kick_address(ip, reason)
    }

    /// Ends every wait over a state: peers that understand an error get one, the connections of the others (an SDK
    /// would take the error for success) are closed with the reason.
    pub async fn cancel_barriers(&self, state: &str, reason: &str) {
        self.hub.cancel_barriers(state, reason).await;
    }

    /// The run is looked after: its keys stay.
    ///
    /// # Errors
    /// The store is out of reach.
    pub async fn claim(&self, run: &str) -> Result<(), StoreError> {
        self.hub.mark_run(run, false).await
    }

    /// The run is over: its keys go after the grace time.
    ///
    /// # Errors
    /// The store is out of reach.
    pub async fn finish_run(&self, run: &str) -> Result<(), StoreError> {
        self.hub.mark_run(run, true).await
    }

    /// Collects garbage at once.
    ///
    /// # Errors
    /// The store is out of reach.
    pub async fn sweep(&self, sweep: &Sweep) -> Result<Vec<Removed>, StoreError> {
        self.hub.sweep(sweep).await
    }
}

// === impl Subscription ===

impl Subscription {
    /// The next item, when there is one.
    ///
    /// # Errors
    /// The subscription was ended from the service's side.
    pub async fn next(&mut self) -> Result<Item, HandleError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let mut failed = None;
            self.guest.hub().pull(self.guest.peer, 64 << 10, &mut |delivery| match delivery {
                Delivery::Item { seq, value, .. } => {
                    self.ready.push_back(Item { seq: seq.unwrap_or_default(), json: wire::unquote(value) });
                }
                Delivery::Failed { error, .. } => failed = Some(error.to_owned()),
                _ => {}
            });
            if let Some(error) = failed {
                return Err(HandleError::Store(error));
            }
            if self.ready.is_empty() {
                wait(&self.guest).await?;
            }
        }
    }

    /// An item that is here already.
    pub(crate) fn ready(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }
}

async fn number(guest: &Guest, kind: Numbered) -> Result<u64, HandleError> {
    answer(guest, |delivery| match delivery {
        Delivery::Numbered { seq, kind: k, .. } if *k == kind => Some(Ok(*seq)),
        Delivery::Failed { error, .. } => Some(Err(HandleError::Store((*error).to_owned()))),
        _ => None,
    })
    .await
}

/// Waits for the delivery that `read` makes an answer of.
async fn answer<T>(
    guest: &Guest,
    read: impl Fn(&Delivery<'_>) -> Option<Result<T, HandleError>>,
) -> Result<T, HandleError> {
    loop {
        let mut found = None;
        guest.hub().pull(guest.peer, 64 << 10, &mut |delivery| {
            if let Some(answer) = read(&delivery) {
                found.get_or_insert(answer);
            }
        });
        if let Some(answer) = found {
            return answer;
        }
        wait(guest).await?;
    }
}

async fn wait(guest: &Guest) -> Result<(), HandleError> {
    guest.mailbox.notify.notified().await;
    match guest.mailbox.kick.get() {
        Some(farewell) => Err(HandleError::Ended(farewell.reason.clone())),
        None => Ok(()),
    }
}

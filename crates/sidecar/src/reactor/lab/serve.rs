//! A run's network at work: answers the requests of instances, and carries out the timeline on the run's clock.
//!
//! One task an instance, so that its requests act in their order and nobody waits for another's; one for the timeline.

use std::time::Duration;

use testground_model::event::EventKind;
use testground_model::name::{InstanceName, RunId};
use testground_sync::{Access, AccessError, Items};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::LabNetwork;
use crate::request::{Request, RequestError};
use crate::timeline::Timeline;

/// The keys of a run in the sync service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

/// What the supervisor is told.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "events are handled one at a time, never kept in bulk")]
pub enum Notice {
    /// For the record: `NetworkConfigured`, `NetworkChanged`, `Warning`.
    Event(EventKind),
    /// What an instance asked for can't be done. It waits for an answer that won't come: it is to be ended with this
    /// cause. Nothing it asks for any more is read.
    Refused {
        /// Which.
        instance: InstanceName,
        /// Why.
        error: RequestError,
    },
    /// The timeline or the sync service failed; the run can't be what it says any more.
    Broken {
        /// What, and why.
        cause: String,
    },
}

/// A run's network at work. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Serving {
    network: LabNetwork,
    sync: Access,
    keys: Keys,
    timeline: Timeline,
    notices: UnboundedSender<Notice>,
    stop: CancellationToken,
    _guard: DropGuard,
}

// === impl Keys ===

impl Keys {
    /// The keys of a run: id, plan and case as its instances know them (`TEST_RUN`, `TEST_PLAN`, `TEST_CASE`).
    pub fn new(run: &RunId, plan: &str, case: &str) -> Keys {
        Keys { prefix: format!("run:{run}:plan:{plan}:case:{case}") }
    }

    /// The whole key of a state.
    pub fn state(&self, name: &str) -> String {
        format!("{}:states:{name}", self.prefix)
    }

    /// The whole key of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}:topics:{name}", self.prefix)
    }
}

// === impl Serving ===

impl Serving {
    /// Begins to listen for the requests of all instances. They may appear later: what they publish waits for them.
    ///
    /// # Errors
    /// The sync service refuses the subscriptions.
    pub async fn start(
        network: LabNetwork,
        sync: Access,
        keys: Keys,
        timeline: Timeline,
    ) -> Result<(Serving, UnboundedReceiver<Notice>), AccessError> {
        let (notices, inbox) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        for instance in network.instances() {
            let Some(addresses) = network.addresses(instance) else { continue };
            let hostname = addresses.hostname;
            let topic = keys.topic(&format!("network:{hostname}"));
            let listener = Listener {
                requests: sync.subscribe("sidecar", &topic).await?,
                network: network.clone(),
                sync: sync.clone(),
                keys: keys.clone(),
                instance: instance.clone(),
                notices: notices.clone(),
            };
            tokio::spawn(until(stop.clone(), listener.listen()));
        }
        let guard = stop.clone().drop_guard();
        Ok((Serving { network, sync, keys, timeline, notices, stop, _guard: guard }, inbox))
    }

    /// Lets the instances go: puts the timeline's start in force, signals `network-initialized` once for each
    /// instance, and starts the run's clock, whose zero is the answer.
    ///
    /// # Errors
    /// The sync service or the switch failed.
    pub async fn release(&self) -> Result<Instant, String> {
        let zero = Instant::now();
        let (network, timeline) = (self.network.clone(), self.timeline.clone());
        let mut clock = Clock { network, timeline, zero, told: None, notices: self.notices.clone() };
        self.network.begin(zero.into_std()).map_err(|e| e.to_string())?;
        let next = clock.tick()?;
        let state = self.keys.state("network-initialized");
        for instance in self.network.instances() {
            self.sync.signal(&instance.hostname(), &state).await.map_err(|e| e.to_string())?;
        }
        if let Some(next) = next {
            tokio::spawn(until(self.stop.clone(), clock.run(next)));
        }
        Ok(zero)
    }
}

/// One instance's requests.
struct Listener {
    requests: Items,
    network: LabNetwork,
    sync: Access,
    keys: Keys,
    instance: InstanceName,
    notices: UnboundedSender<Notice>,
}

// === impl Listener ===

impl Listener {
    async fn listen(mut self) {
        loop {
            let item = match self.requests.next().await {
                Ok(item) => item,
                Err(e) => return self.tell(Notice::Broken { cause: self.failed(&e) }),
            };
            let request = match Request::read(item.as_bytes()) {
                Ok(request) => request,
                Err(error) => return self.refuse(error),
            };
            for warning in &request.warnings {
                let message = format!("{}: network request: {warning}", self.instance);
                self.tell(Notice::Event(EventKind::Warning { message }));
            }
            let (network, callback) = (request.network.clone(), request.callback.clone().unwrap_or_default());
            if let Err(error) = self.network.apply(&self.instance, request).await {
                return self.refuse(error);
            }
            let instance = self.instance.clone();
            let configured = EventKind::NetworkConfigured { instance, network, callback: callback.clone() };
            self.tell(Notice::Event(configured));
            if callback.is_empty() {
                continue;
            }
            let state = self.keys.state(&callback);
            if let Err(e) = self.sync.signal(&self.instance.hostname(), &state).await {
                return self.tell(Notice::Broken { cause: self.failed(&e) });
            }
        }
    }

    fn refuse(&self, error: RequestError) {
        self.tell(Notice::Refused { instance: self.instance.clone(), error });
    }

    fn failed(&self, error: &AccessError) -> String {
        format!("the network requests of {} can't be read or answered: {error}", self.instance)
    }

    fn tell(&self, notice: Notice) {
        // Nobody to tell: the supervisor is ending.
        let _ = self.notices.send(notice);
    }
}

/// The timeline on the run's clock.
struct Clock {
    network: LabNetwork,
    timeline: Timeline,
    zero: Instant,
    /// Up to when changes have been told.
    told: Option<Duration>,
    notices: UnboundedSender<Notice>,
}

// === impl Clock ===

impl Clock {
    async fn run(mut self, mut next: Duration) {
        loop {
            tokio::time::sleep_until(self.zero + next).await;
            next = match self.tick() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(cause) => {
                    let _ = self.notices.send(Notice::Broken { cause });
                    return;
                }
            };
        }
    }

    /// Puts in force what holds now; says when to come again.
    fn tick(&mut self) -> Result<Option<Duration>, String> {
        let now = self.zero.elapsed();
        let moment = self.timeline.at(now);
        self.network.change(moment.overlays, moment.lifts).map_err(|e| e.to_string())?;
        for (at, change) in self.timeline.told(self.told, now) {
            let event = EventKind::NetworkChanged { change, at: at.as_secs_f64() };
            let _ = self.notices.send(Notice::Event(event));
        }
        self.told = Some(now);
        Ok(moment.next)
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

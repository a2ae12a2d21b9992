//! The run's sync service as the supervisor sees it: the lab's own, or one outside, to which the gateway's port leads.
//!
//! What it decides with it (who stands still, what is waited for) belongs to the dispatcher.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use testground_model::outside::Endpoint;
use testground_sync::client::{self, Address, Client, ClientOptions};
use testground_sync::engine::{Limits, Snapshot, Who};
use testground_sync::server::{Options, Service};
use testground_sync::{Access, SyncEvent, SyncHandle};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::environment::SYNC_PORT;
use super::super::protocol::Setup;
use super::outside::{Outside, Way};

/// A service that was chosen and is not open yet.
pub(super) enum Closed {
    Own(Box<Service>),
    Elsewhere { to: Endpoint, outside: Outside, run: String },
}

/// A service that instances reach.
#[derive(Clone)]
pub(super) enum Meeting {
    Own(SyncHandle),
    Elsewhere(Box<Elsewhere>),
}

/// A service outside of the lab.
#[derive(Clone)]
pub(super) struct Elsewhere {
    run: String,
    gateway: Address,
    way: Way,
    /// Where instances are on the control network, by what they may call themselves.
    names: HashMap<String, IpAddr>,
}

/// How long a service outside may take to report; the run's other business waits meanwhile.
const REPORT: Duration = Duration::from_secs(1);

// === impl Closed ===

impl Closed {
    /// What the run wants, and where the events of its own service come out; none come from one outside.
    pub(super) fn choose(setup: &Setup, outside: &Outside) -> (Closed, mpsc::Receiver<SyncEvent>) {
        let (watched, events) = mpsc::channel(1 << 16);
        let closed = match &setup.run.settings.sync_service {
            Some(to) => {
                Closed::Elsewhere { to: to.clone(), outside: outside.clone(), run: setup.id.to_string() }
            }
            None => {
                let limits =
                    Limits { message_bytes: setup.run.settings.max_message as usize, ..Limits::default() };
                let options = Options { limits, ..Options::default() };
                Closed::Own(Box::new(Service::in_memory(options, Some(watched))))
            }
        };
        (closed, events)
    }

    /// Opens the gateway's port. What comes back is also for the sidecar.
    ///
    /// # Errors
    /// The port can't be opened, or the service outside can't be reached.
    pub(super) async fn open(self, gateway: Ipv4Addr) -> Result<(Meeting, Access), String> {
        match self {
            Closed::Own(service) => {
                let handle = service.handle();
                let listener = TcpListener::bind((gateway, SYNC_PORT)).await;
                let listener = listener.map_err(|e| format!("sync service: {e}"))?;
                tokio::spawn(service.serve(listener, std::future::pending()));
                Ok((Meeting::Own(handle.clone()), handle.into()))
            }
            Closed::Elsewhere { to, outside, run } => {
                let way = outside.open((gateway, SYNC_PORT), to.clone()).await?;
                let gateway = Address { host: gateway.to_string(), port: SYNC_PORT };
                let options = ClientOptions { name: Some("sidecar".to_owned()), ..ClientOptions::default() };
                let access = Client::connect(gateway.clone(), options).await;
                let access = access.map_err(|e| format!("the sync service {to} can't be used: {e}"))?;
                let names = outside.names();
                let elsewhere = Elsewhere { run, gateway, way, names };
                Ok((Meeting::Elsewhere(Box::new(elsewhere)), Access::There(access)))
            }
        }
    }
}

// === impl Meeting ===

impl Meeting {
    /// Grows with every change; with a service outside, with every byte between it and an instance.
    pub(super) fn version(&self) -> u64 {
        match self {
            Meeting::Own(handle) => handle.version(),
            Meeting::Elsewhere(elsewhere) => elsewhere.way.moved(),
        }
    }

    /// Everything as it is now, with peers by their addresses on the control network. None when a service outside does
    /// not say.
    pub(super) async fn snapshot(&self) -> Option<Snapshot> {
        match self {
            Meeting::Own(handle) => Some(handle.snapshot()),
            Meeting::Elsewhere(elsewhere) => elsewhere.report().await,
        }
    }

    /// Ends the connections of an address on the control network, and what they waited for.
    pub(super) fn fail_peer(&self, ip: IpAddr, reason: &str) {
        match self {
            Meeting::Own(handle) => {
                handle.fail_peer(ip, reason);
            }
            Meeting::Elsewhere(elsewhere) => elsewhere.way.cut(ip),
        }
    }

    /// Events that were not seen.
    pub(super) fn missed_events(&self) -> u64 {
        match self {
            Meeting::Own(handle) => handle.missed_events(),
            Meeting::Elsewhere(_) => 0,
        }
    }

    /// How often it may be asked whether everybody waits: an answer from outside costs a request.
    pub(super) fn patience(&self) -> Duration {
        match self {
            Meeting::Own(_) => Duration::ZERO,
            Meeting::Elsewhere(_) => Duration::from_secs(1),
        }
    }
}

// === impl Elsewhere ===

impl Elsewhere {
    async fn report(&self) -> Option<Snapshot> {
        let asked = tokio::time::timeout(REPORT, client::report(&self.gateway, &self.run)).await;
        let mut snapshot = asked.ok()?.inspect_err(|e| tracing::debug!("no report: {e}")).ok()?;
        for barrier in &mut snapshot.barriers {
            barrier.waiting.iter_mut().for_each(|waiting| self.recognise(&mut waiting.who));
            let mut known = true;
            for (who, _) in &mut barrier.signalled {
                self.recognise(who);
                known &= who.address.is_some();
            }
            if !known {
                // Who has not signalled can't be told from a list in which somebody is not known.
                barrier.signalled.clear();
            }
        }
        Some(snapshot)
    }

    /// The service sees connections of this machine, and names; who is behind them is known here.
    fn recognise(&self, who: &mut Who) {
        let named = || who.name.as_deref().and_then(|name| self.names.get(name));
        let inside = who.address.and_then(|seen| self.way.inside(seen)).or_else(|| named().copied());
        who.address = inside.map(|ip| SocketAddr::new(ip, who.address.map_or(0, |seen| seen.port())));
    }
}

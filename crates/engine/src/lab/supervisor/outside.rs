//! Ways out of the lab: listeners on the control network whose connections go on to hosts outside.
//!
//! Where a host can't be reached the instance sees a reset, and the record says which host and why.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use testground_model::event::EventKind;
use testground_model::name::InstanceName;
use testground_model::outside::Endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::dial::Dialer;
use super::client::Client;
use super::waits::Addresses;
use crate::relay::{relay, reset};

/// Connections to the outside at the same time; others wait in the kernel until one ends.
const MAX_CONNECTIONS: usize = 4096;

/// All that ways out have in common. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outside {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    client: Client,
    /// Who is who on the control network.
    addresses: Addresses,
    places: Arc<Semaphore>,
    end: CancellationToken,
    /// Hosts that could not be reached, by what was said of them: how many connections nobody was told of.
    untold: Mutex<HashMap<String, u64>>,
}

/// One way out: its connections, as they are now. Cheap to clone.
#[derive(Clone)]
pub(super) struct Way {
    to: Endpoint,
    outside: Outside,
    links: Arc<Mutex<HashMap<SocketAddr, Link>>>,
    moved: Arc<AtomicU64>,
}

/// A connection, known by the address that the host outside sees.
struct Link {
    inside: IpAddr,
    stop: CancellationToken,
}

// === impl Outside ===

impl Outside {
    /// All ways and their connections end when the guard is dropped: they talk to the client, which has to be rid of them
    /// at the end of the run.
    pub(super) fn new(dialer: Dialer, client: Client, addresses: Addresses) -> (Outside, DropGuard) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let inner = Inner { dialer, client, addresses, places, end, untold: Mutex::default() };
        (Outside { inner: Arc::new(inner) }, guard)
    }

    /// Opens a way from a port on the control network to a host outside.
    ///
    /// # Errors
    /// The port can't be listened on.
    pub(super) async fn open(&self, at: (Ipv4Addr, u16), to: Endpoint) -> Result<Way, String> {
        let listener = TcpListener::bind(at).await.map_err(|e| format!("{to}: {}:{}: {e}", at.0, at.1))?;
        let way = Way { to, outside: self.clone(), links: Arc::default(), moved: Arc::default() };
        let serving = way.clone().serve(listener);
        tokio::spawn(self.inner.end.clone().run_until_cancelled_owned(serving));
        Ok(way)
    }

    /// Where instances are on the control network, by what they may call themselves: `GROUP[INDEX]`, or the host name.
    pub(super) fn names(&self) -> HashMap<String, IpAddr> {
        let both = |(address, instance): (&IpAddr, &InstanceName)| {
            [(instance.to_string(), *address), (instance.hostname(), *address)]
        };
        self.inner.addresses.iter().flat_map(both).collect()
    }

    /// What was not told one by one of hosts that could not be reached. Once.
    pub(super) fn untold(&self) -> Vec<String> {
        let mut told: Vec<String> = std::mem::take(&mut *lock(&self.inner.untold))
            .into_iter()
            .filter(|(_, more)| *more > 0)
            .map(|(what, more)| format!("{what}; so {more} more times"))
            .collect();
        told.sort_unstable();
        told
    }

    async fn failed(&self, from: IpAddr, to: &Endpoint, why: &str) {
        let what = format!("{to} can't be reached from outside of the lab: {why}");
        let first = match lock(&self.inner.untold).entry(what.clone()) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                *known.get_mut() += 1;
                false
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(0);
                true
            }
        };
        if first {
            let who =
                self.inner.addresses.get(&from).map_or_else(|| "the lab".to_owned(), ToString::to_string);
            let message = format!("{what} (asked for by {who})");
            self.inner.client.event(EventKind::Warning { message }).await;
        }
    }
}

// === impl Way ===

impl Way {
    /// Grows while something passes between the host and an instance.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Who is behind an address that the host outside sees.
    pub(super) fn inside(&self, outside: SocketAddr) -> Option<IpAddr> {
        lock(&self.links).get(&outside).map(|link| link.inside)
    }

    /// Cuts the connections of one address on the control network.
    pub(super) fn cut(&self, inside: IpAddr) {
        for link in lock(&self.links).values().filter(|link| link.inside == inside) {
            link.stop.cancel();
        }
    }

    async fn serve(self, listener: TcpListener) {
        let places = Arc::clone(&self.outside.inner.places);
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, from)) = listener.accept().await else {
                // Out of descriptors, most likely: somebody will close one.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let way = self.clone();
            let end = self.outside.inner.end.clone();
            tokio::spawn(end.run_until_cancelled_owned(async move {
                way.carry(stream, from.ip()).await;
                drop(place);
            }));
        }
    }

    async fn carry(self, near: TcpStream, from: IpAddr) {
        let far = match self.outside.inner.dialer.dial(&self.to).await {
            Ok(far) => far,
            Err(why) => {
                reset(&near);
                drop(near);
                return self.outside.failed(from, &self.to, &why).await;
            }
        };
        let stop = CancellationToken::new();
        let known = far.local_addr().ok();
        if let Some(known) = known {
            lock(&self.links).insert(known, Link { inside: from, stop: stop.clone() });
        }
        let (of_the_lab, nobodys) = (!self.outside.inner.addresses.contains_key(&from), AtomicU64::new(0));
        let moved = if of_the_lab { &nobodys } else { &*self.moved };
        stop.run_until_cancelled(relay(near, far, moved)).await;
        if let Some(known) = known {
            lock(&self.links).remove(&known);
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

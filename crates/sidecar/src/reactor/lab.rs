//! The lab's reactor: gives each pod of a local run its network namespace and interfaces, and keeps them, the switch
//! and the plan in step with what instances and the timeline ask for.
//!
//! The supervisor says who appears and disappears. Programs, sync and outcomes are not known here.
//!
//! All that blocks (namespaces, netlink, answers of the switch) happens on threads of its own; the methods may be
//! called from any task, many at once.

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use testground_linux::netns::{Netns, Tour, tour};
use testground_model::event::NetworkRequests;
use testground_model::name::InstanceName;
use testground_model::run::{Plane, ProofSettings, Run};
use testground_model::shape::LinkShape;
use testground_model::topology::Network;
use thiserror::Error;

use crate::address::{AddressError, CONTROL_GATEWAY, Pool};
use crate::plan::{Later, Lift, Overlay, Plan, PortId};
use crate::plane::kernel::KernelError;
use crate::plane::switch::{Snapshot, Switch, SwitchConfig, SwitchError};
use crate::proof::Proved;
use crate::request::{Request, RequestError};
use crate::show::View;
use interface::Interface;
use pod::{Pod, Wiring};
use shortcut::Shortcuts;
use wires::Wires;
use workers::Workers;

pub use pod::PortKind;

mod apply;
mod interface;
mod pod;
mod prove;
pub mod serve;
mod shortcut;
mod wires;
mod workers;

/// The network of one lab. Clones are the same network, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct LabNetwork {
    inner: Arc<Inner>,
}

/// Where an instance is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Its host name.
    pub hostname: String,
    /// On the control network: known to the sync service as the peer's address.
    pub control: Ipv4Addr,
    /// On the data networks, in the run's order: name, IPv4, IPv6 where the network has it. Those of the start; a
    /// request may change them.
    pub data: Vec<(String, Ipv4Addr, Option<IpAddr>)>,
}

/// Why the network of a lab can't be made or changed.
#[derive(Debug, Error)]
pub enum LabError {
    /// The kernel, or the machine's settings, do not allow it.
    #[error("{doing}: {cause}")]
    Machine {
        /// What could not be done, and for whom.
        doing: String,
        /// What the kernel says.
        cause: String,
    },
    /// The switch can't, or is no more.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The kernel can't, where it carries the data networks.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The plane that was asked for can't carry this run.
    #[error("the kernel plane can't carry this run: {0} (`--plane switch` can)")]
    Plane(String),
    /// A network has too few addresses.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A network's name is taken by the lab itself.
    #[error("a data network can't be called `{0}`: the lab's own network is")]
    ReservedName(String),
    /// The run has no such instance.
    #[error("the run has no instance {0}")]
    UnknownInstance(InstanceName),
    /// It has appeared already and not disappeared since.
    #[error("instance {0} has appeared already")]
    AppearedTwice(InstanceName),
    /// It has not appeared, or has disappeared.
    #[error("instance {0} has no network")]
    Absent(InstanceName),
    /// The threads that visit namespaces have ended.
    #[error("the lab's network has been shut down")]
    Stopped,
}

#[derive(Debug)]
struct Inner {
    networks: Vec<Network>,
    /// Every instance of the run with all it will be given; who is there is in the slot.
    slots: HashMap<InstanceName, Arc<Slot>>,
    by_control: HashMap<IpAddr, InstanceName>,
    /// Names and addresses of hosts outside; the addresses are the gateway's.
    outside: Vec<(String, Ipv4Addr)>,
    switch: Switch,
    /// The data networks, where the kernel carries them.
    wires: Option<Wires>,
    /// Why it does not, where the run left it open.
    why_switch: Option<String>,
    /// The lab's own namespace.
    home: Netns,
    wiring: Wiring,
    /// What lets unshaped packets pass without the switch, where there is any use for it.
    shortcuts: Option<Shortcuts>,
    shared: Mutex<Shared>,
    workers: Workers,
    /// The gateway's, once there is one: instances never have to ask for it.
    gateway_mac: OnceLock<[u8; 6]>,
}

/// What all instances have in common, and what changes with each request.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    /// By data network: IPv4, and IPv6 where it has it.
    pools: Vec<(Pool, Option<Pool>)>,
    next_port: u32,
    /// What was asked for and was as it should be when it was measured.
    proved: Vec<LinkShape>,
    requests: NetworkRequests,
}

/// An instance's place in the network.
#[derive(Debug)]
struct Slot {
    name: InstanceName,
    hostname: String,
    regions: Vec<String>,
    control: Interface,
    /// By data network, as they are at the start.
    data: Vec<Interface>,
    /// What there is now. Held while it changes, so that one instance's requests act one after the other.
    pod: Mutex<Option<Pod>>,
}

// === impl LabNetwork ===

impl LabNetwork {
    /// Starts the switch and gives every instance of the run its addresses: the same ones for the same run. Nothing
    /// is made in the kernel yet except what `ports` needs.
    ///
    /// # Errors
    /// A subnet that is too small for the run, a network called `control`, or a machine that allows neither kind of port.
    pub fn start(run: &Run, ports: PortKind) -> Result<LabNetwork, LabError> {
        let mut shared = Shared::new(run)?;
        let slots = shared.slots(run)?;
        let (wires, why_switch) = Wires::choose(run)?;
        let networks = run.networks.iter().map(|n| n.name.clone());
        let networks = networks.chain([crate::proof::NETWORK.to_owned()]).collect();
        let switch =
            Switch::start(SwitchConfig { seed: run.settings.seed, networks, ..SwitchConfig::default() })?;
        switch.install(Arc::new(shared.plan.clone()))?;
        let wiring = Wiring::choose(ports)?;
        let shortcuts = match (ports, &wiring, &wires) {
            (PortKind::Auto, Wiring::Tap, None) => Shortcuts::choose(run, &shared.plan)?,
            _ => None,
        };
        let by_control = slots.values().map(|s| (IpAddr::V4(s.control.ipv4()), s.name.clone())).collect();
        let inner = Inner {
            networks: run.networks.clone(),
            slots,
            by_control,
            outside: interface::outside(run),
            switch,
            wires,
            why_switch,
            home: Netns::current()
                .map_err(|e| LabError::machine("failed to find the lab's namespace".to_owned(), &e))?,
            wiring,
            shortcuts,
            shared: Mutex::new(shared),
            workers: Workers::start()?,
            gateway_mac: OnceLock::new(),
        };
        Ok(LabNetwork { inner: Arc::new(inner) })
    }

    /// Who moves the packets of the data networks: never [`Plane::Auto`].
    pub fn plane(&self) -> Plane {
        if self.inner.wires.is_some() { Plane::Kernel } else { Plane::Switch }
    }

    /// Why the switch does, where the run left it open and the kernel can't.
    pub fn why_switch(&self) -> Option<&str> {
        self.inner.why_switch.as_deref()
    }

    /// What carries packets between the namespaces and the switch: [`PortKind::Tap`] or [`PortKind::PacketSocket`].
    pub fn ports(&self) -> PortKind {
        self.inner.wiring.kind()
    }

    /// What carries packets of the data networks, in a few words: `tap`, `packet-socket`, `veth`.
    pub fn carrier(&self) -> String {
        self.inner.carrier()
    }

    /// Makes the lab's own end of the control network in the namespace of the calling process, where it will be
    /// reached by the instances at this address. Once, before listeners are bound to it.
    pub async fn gateway(&self) -> Result<Ipv4Addr, LabError> {
        self.on_worker(|inner, tour| inner.make_gateway(tour)).await?;
        Ok(CONTROL_GATEWAY.addr())
    }

    /// Gives an instance its network: a namespace with `lo`, `control` and the data interfaces up and attached. What
    /// comes back is the namespace, for whoever spawns the pod's processes.
    pub async fn appear(&self, instance: &InstanceName) -> Result<OwnedFd, LabError> {
        let slot = self.slot(instance)?;
        self.on_worker(move |inner, tour| inner.make_pod(tour, &slot)).await
    }

    /// Takes an instance's network away: its ports leave the switch, and its namespace ends with its last process.
    pub async fn disappear(&self, instance: &InstanceName) -> Result<(), LabError> {
        let slot = self.slot(instance)?;
        self.on_worker(move |inner, tour| inner.end_pod(tour, &slot)).await
    }

    /// Does what an instance asks for: all of it, or nothing. When this returns it is in force for every packet sent
    /// from then on.
    pub async fn apply(&self, instance: &InstanceName, request: Request) -> Result<(), RequestError> {
        let refused = |e: LabError| RequestError::Refused(e.to_string());
        let slot = self.slot(instance).map_err(refused)?;
        self.on_worker(move |inner, tour| Ok(inner.apply(tour, &slot, &request))).await.map_err(refused)?
    }

    /// Says when the run's clock began: what schedules of the timeline are reckoned from. Before the first change.
    pub fn begin(&self, zero: std::time::Instant) -> Result<(), LabError> {
        Ok(self.inner.switch.begin(zero)?)
    }

    /// Puts these changes of the timeline in force, in the place of all before.
    pub fn change(&self, overlays: Vec<Overlay>, lifts: Vec<Lift>) -> Result<(), LabError> {
        self.inner.replan(|plan| {
            plan.overlay(overlays);
            plan.lift(lifts);
        })
    }

    /// Measures every distinct declared shape, those of the timeline among them, between two ports of the network's own, on a
    /// thread of its own. It takes about four times the longest latency, and a third of a second at least; nothing that
    /// instances send is touched.
    ///
    /// What is off is in the answer; an error means that it could not be measured.
    pub async fn prove(&self, settings: &ProofSettings, later: Vec<Later>) -> Result<Proved, LabError> {
        if !settings.enabled {
            return Ok(Proved::default());
        }
        let (inner, settings) = (Arc::clone(&self.inner), *settings);
        let proof = tokio::task::spawn_blocking(move || {
            tour(|tour| inner.prove(tour, &settings, &later))
                .map_err(|e| LabError::machine("failed to start a thread".to_owned(), &e))?
        });
        proof.await.map_err(|_| LabError::Stopped)?
    }

    /// Everything about the network at this moment, for `testground network show`. Waits for the planes' answers, which takes
    /// up to some milliseconds where there are very many links.
    pub fn show(&self) -> Result<View, LabError> {
        self.inner.view()
    }

    /// What both planes have seen so far: the switch, and the kernel where it carries the data networks.
    pub fn snapshot(&self) -> Result<Snapshot, LabError> {
        self.inner.snapshot()
    }

    /// The instance with this address on the control network: who is behind a peer of the sync service.
    pub fn instance_at(&self, control: IpAddr) -> Option<&InstanceName> {
        self.inner.by_control.get(&control)
    }

    /// Where an instance is found at the start.
    pub fn addresses(&self, instance: &InstanceName) -> Option<Addresses> {
        let slot = self.inner.slots.get(instance)?;
        let control = slot.control.ipv4();
        let data = slot.data.iter().zip(&self.inner.networks);
        let data = data.map(|(d, n)| (n.name.clone(), d.ipv4(), d.ipv6())).collect();
        Some(Addresses { hostname: slot.hostname.clone(), control, data })
    }

    /// The ports of an instance: the control network's first, then the data networks' in the run's order. What
    /// [`Switch::capture`] wants.
    pub fn ports_of(&self, instance: &InstanceName) -> Option<Vec<PortId>> {
        let slot = self.inner.slots.get(instance)?;
        let data = slot.data.iter().map(|d| d.port);
        Some(std::iter::once(slot.control.port).chain(data).collect())
    }

    /// Names and addresses of the hosts outside that the run may reach, in its order. Listeners at these addresses, which
    /// the gateway has beside its own, are reached by every instance whatever its routing policy.
    pub fn outside(&self) -> &[(String, Ipv4Addr)] {
        &self.inner.outside
    }

    /// What instances have asked for so far.
    pub fn requests(&self) -> NetworkRequests {
        self.inner.shared().requests
    }

    /// The switch, for captures, recordings and its death. What is in force in it is this network's business alone.
    pub fn switch(&self) -> &Switch {
        &self.inner.switch
    }

    /// Ends the network: stops the switch, completes captures and recordings, closes all descriptors. Waits up to two
    /// seconds for other clones (those of a [`serve::Serving`] go when it is dropped); whether it has ended by then.
    pub async fn shutdown(self) -> bool {
        let mut inner = self.inner;
        for _ in 0..100 {
            match Arc::try_unwrap(inner) {
                // Closing a thousand devices takes its time.
                Ok(last) => return tokio::task::spawn_blocking(move || drop(last)).await.is_ok(),
                Err(shared) => inner = shared,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// What is in force at this moment.
    pub fn plan(&self) -> Plan {
        self.inner.shared().plan.clone()
    }

    /// Who is behind the names of the run: all instances.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceName> {
        self.inner.slots.keys()
    }

    fn slot(&self, instance: &InstanceName) -> Result<Arc<Slot>, LabError> {
        let slot = self.inner.slots.get(instance);
        slot.cloned().ok_or_else(|| LabError::UnknownInstance(instance.clone()))
    }

    async fn on_worker<T, F>(&self, job: F) -> Result<T, LabError>
    where
        T: Send + 'static,
        F: FnOnce(&Inner, &mut Tour) -> Result<T, LabError> + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        self.inner.workers.run(move |tour| job(&inner, tour)).await.ok_or(LabError::Stopped)?
    }
}

// === impl Inner ===

impl Inner {
    fn snapshot(&self) -> Result<Snapshot, LabError> {
        let mut snapshot = self.switch.snapshot()?;
        if let Some(wires) = &self.wires {
            let plan = self.shared().plan.clone();
            wires.extend(&plan, &mut snapshot)?;
        }
        if let Some(shortcuts) = &self.shortcuts {
            shortcuts.extend(&mut snapshot)?;
        }
        Ok(snapshot)
    }

    fn view(&self) -> Result<View, LabError> {
        let snapshot = self.snapshot()?;
        let plan = self.shared().plan.clone();
        Ok(View::new(&self.carrier(), &plan, &snapshot))
    }

    fn carrier(&self) -> String {
        match (&self.wires, &self.shortcuts) {
            (Some(_), _) => "veth".to_owned(),
            (None, Some(_)) => "tap and veth".to_owned(),
            (None, None) => self.wiring.kind().to_string(),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Whatever panicked while it held the lock has answered nobody; the others go on.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Slot ===

impl Slot {
    fn pod(&self) -> MutexGuard<'_, Option<Pod>> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl LabError ===

impl LabError {
    /// What the machine refused, with all its reasons.
    fn machine(doing: String, error: &dyn Error) -> LabError {
        let mut cause = error.to_string();
        let mut next = error.source();
        while let Some(deeper) = next {
            let text = deeper.to_string();
            if !cause.contains(&text) {
                cause = format!("{cause}: {text}");
            }
            next = deeper.source();
        }
        LabError::Machine { doing, cause }
    }
}

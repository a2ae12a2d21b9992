//! A pod's namespace in the kernel: made, changed and taken away.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use testground_linux::netns::{Netns, Tour};
use testground_linux::packet_socket::{PacketSocket, PacketSocketOptions};
use testground_linux::route::{Change, LinkChange, Route, RouteSocket, VethEnd};
use testground_linux::tap::{self, Tap, TapOptions};
use testground_linux::tc::TcSocket;

use super::apply::State;
use super::interface::{CONTROL_MTU, Interface};
use super::wires::Wires;
use super::{Inner, LabError, Slot};
use crate::address::{CONTROL_GATEWAY, CONTROL_NETWORK};
use crate::plan::PortId;
use crate::plane::switch::table::mac_of;
use crate::plane::switch::{Framing, NetworkKind, PortSpec};
use crate::request::Routing;

/// What carries packets between a namespace and the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortKind {
    /// TAPs where `/dev/net/tun` can be opened, else packet sockets. With TAPs, packets that nothing is to be done to may be
    /// passed on by the kernel.
    #[default]
    Auto,
    /// The same, and every packet passes the switch: for captures and records.
    Watched,
    /// A TAP in each namespace; every packet passes the switch.
    Tap,
    /// A veth pair for each interface, its other end in a namespace of the switch, with a packet socket on it.
    PacketSocket,
}

/// The same, decided.
#[derive(Debug)]
pub(super) enum Wiring {
    Tap,
    PacketSocket {
        /// Where the other ends are.
        switch: Netns,
    },
}

/// An interface's other end.
#[derive(Debug)]
pub(crate) struct Plug {
    pub(crate) fd: OwnedFd,
    pub(crate) framing: Framing,
}

/// An instance's namespace, and what is in force in it.
#[derive(Debug)]
pub(super) struct Pod {
    netns: Netns,
    /// The index of the interface on the control network.
    pub(super) control: u32,
    pub(super) routing: Routing,
    pub(super) data: Vec<DataLink>,
}

/// A data interface as it is now.
#[derive(Debug)]
pub(super) struct DataLink {
    /// Its index.
    pub(super) link: u32,
    pub(super) state: State,
}

/// One change to a namespace; interfaces by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Down(u32),
    Up(u32),
    AddAddress(u32, IpNet),
    RemoveAddress(u32, IpNet),
    /// Gives the control network's interface the routes of `allow_all`.
    Open(u32),
    /// Takes them away.
    Close(u32),
}

const LOOPBACK: u32 = 1;
/// How long an end of a veth pair may take to carry packets.
pub(super) const UP_WITHIN: Duration = Duration::from_secs(10);

// === impl Inner ===

impl Inner {
    /// Makes the lab's own end of the control network.
    pub(super) fn make_gateway(&self, tour: &mut Tour) -> Result<(), LabError> {
        let port = self.shared().port();
        let doing = || "failed to make the control network's gateway".to_owned();
        let fail = |e: &dyn Error| LabError::machine(doing(), e);
        tour.enter(&self.home).map_err(|e| fail(&e))?;
        let plug = self.wiring.plug(tour, &self.home, CONTROL_NETWORK, port).map_err(|e| fail(&*e))?;
        let mut routes = RouteSocket::open().map_err(|e| fail(&e))?;
        let link = index_of(&mut routes, CONTROL_NETWORK).map_err(|e| fail(&*e))?;
        let address = IpNet::V4(CONTROL_GATEWAY);
        let outside = self.outside.iter().map(|(_, outside)| IpAddr::V4(*outside));
        let all: Vec<IpNet> = std::iter::once(address).chain(outside.map(IpNet::from)).collect();
        let mut changes = bring_up(link, port, CONTROL_MTU, &all);
        changes.push(Change::Link(LinkChange { up: Some(true), ..LinkChange::new(LOOPBACK) }));
        // Permanent entries don't count against the machine's neighbour table, which all namespaces share and which
        // holds 1,024 (gc_thresh3): learned ones would end with a few hundred instances.
        changes.extend(self.slots.values().map(|slot| Change::SetNeighbour {
            index: link,
            address: IpAddr::V4(slot.control.ipv4()),
            mac: mac_of(slot.control.port),
        }));
        routes.apply(&changes).map_err(|e| fail(&e))?;
        let _ = self.gateway_mac.set(mac_of(port));
        self.switch.attach(PortSpec {
            port,
            name: format!("lab/{CONTROL_NETWORK}"),
            network: NetworkKind::Control,
            mac: mac_of(port),
            addresses: all.iter().map(IpNet::addr).collect(),
            fd: plug.fd,
            framing: plug.framing,
            mtu: CONTROL_MTU,
            gateway: true,
            allow_peers: true,
        })?;
        Ok(())
    }

    /// Makes an instance's namespace with its interfaces, attached and up.
    pub(super) fn make_pod(&self, tour: &mut Tour, slot: &Slot) -> Result<OwnedFd, LabError> {
        let mut place = slot.pod();
        if place.is_some() {
            return Err(LabError::AppearedTwice(slot.name.clone()));
        }
        let fail =
            |e: &dyn Error| LabError::machine(format!("failed to make the network of {}", slot.name), e);
        let netns = tour.create().map_err(|e| fail(&e))?;
        let handed_out = netns.try_clone().map_err(|e| fail(&e))?.into_fd();
        let on_switch = if self.wires.is_some() { &[] } else { &slot.data[..] };
        let interfaces: Vec<&Interface> = std::iter::once(&slot.control).chain(on_switch).collect();
        let mut plugs = Vec::with_capacity(interfaces.len());
        if let Some(wires) = &self.wires {
            for (network, i) in slot.data.iter().enumerate() {
                let cable = wires.cable(i.port, network, &netns, &i.name, i.mtu);
                cable.map_err(|e| fail(&*e))?;
            }
        }
        for interface in &interfaces {
            let network = slot.data.iter().position(|i| i.port == interface.port);
            let plug = match (&self.shortcuts, network) {
                (Some(shortcuts), Some(network)) => shortcuts.plug(tour, &netns, network, interface),
                _ => self.wiring.plug(tour, &netns, &interface.name, interface.port),
            };
            plugs.push(plug.map_err(|e| fail(&*e))?);
        }
        let mut routes = RouteSocket::open().map_err(|e| fail(&e))?;
        let links = routes.links().map_err(|e| fail(&e))?;
        let index = |interface: &Interface| {
            let found = links.iter().find(|l| l.name == interface.name);
            found.map_or(0, |l| l.index)
        };

        let control = index(&slot.control);
        let mut changes = vec![Change::Link(LinkChange { up: Some(true), ..LinkChange::new(LOOPBACK) })];
        // Without a route to the subnet: who may be reached there is the routing policy's to say.
        let address = IpNet::from(IpAddr::V4(slot.control.ipv4()));
        changes.extend(bring_up(control, slot.control.port, CONTROL_MTU, &[address]));
        let outside = self.outside.iter().map(|(_, outside)| *outside);
        for address in std::iter::once(CONTROL_GATEWAY.addr()).chain(outside).map(IpAddr::V4) {
            changes.push(Change::AddRoute(Route::on(IpNet::from(address), control)));
            if let Some(&mac) = self.gateway_mac.get() {
                changes.push(Change::SetNeighbour { index: control, address, mac });
            }
        }
        for interface in &slot.data {
            changes.extend(bring_up(index(interface), interface.port, interface.mtu, &interface.addresses));
        }
        routes.apply(&changes).map_err(|e| fail(&e))?;

        let mut attached = Vec::new();
        for (interface, plug) in interfaces.into_iter().zip(plugs) {
            if let Err(error) = self.switch.attach(self.port_spec(slot, interface, plug)) {
                for port in attached {
                    // The first failure is the one to tell.
                    let _ = self.switch.detach(port);
                }
                return Err(error.into());
            }
            attached.push(interface.port);
        }
        if let Some(wires) = &self.wires
            && let Err(error) = self.shape_pod(wires, slot, &index, &mut routes)
        {
            // The first failure is the one to tell.
            let _ = self.switch.detach(slot.control.port);
            let _ = slot.data.iter().map(|i| wires.detach(i.port)).collect::<Vec<_>>();
            return Err(error);
        }
        if let Some(shortcuts) = &self.shortcuts {
            for interface in &slot.data {
                routes.await_running(index(interface), UP_WITHIN).map_err(|e| fail(&e))?;
                // Under the lock, so that no plan comes between.
                let shared = self.shared();
                shortcuts.refresh(&shared.plan, interface.port)?;
            }
        }
        let data = slot.data.iter().map(|i| DataLink { link: index(i), state: State::first(&i.addresses) });
        *place = Some(Pod { netns, control, routing: Routing::DenyAll, data: data.collect() });
        Ok(handed_out)
    }

    /// Puts what is wanted in force on the data interfaces of the namespace that the thread is in.
    fn shape_pod(
        &self,
        wires: &Wires,
        slot: &Slot,
        index: &impl Fn(&Interface) -> u32,
        routes: &mut RouteSocket,
    ) -> Result<(), LabError> {
        let fail =
            |e: &dyn Error| LabError::machine(format!("failed to make the network of {}", slot.name), e);
        for (network, interface) in slot.data.iter().enumerate() {
            let link = index(interface);
            let shown = format!("{}/{}", slot.name, self.networks[network].name);
            let tc = TcSocket::open().map_err(|e| fail(&e))?;
            let own = RouteSocket::open().map_err(|e| fail(&e))?;
            wires.attach(
                interface.port,
                (&interface.name, link),
                (shown, network, interface.mtu),
                (tc, own),
            )?;
            // Under the lock, so that no plan comes between.
            let shared = self.shared();
            wires.install_on(&shared.plan, interface.port)?;
        }
        for interface in &slot.data {
            routes.await_running(index(interface), UP_WITHIN).map_err(|e| fail(&e))?;
        }
        Ok(())
    }

    /// Takes an instance's network away.
    pub(super) fn end_pod(&self, tour: &mut Tour, slot: &Slot) -> Result<(), LabError> {
        let Some(pod) = slot.pod().take() else { return Err(LabError::Absent(slot.name.clone())) };
        let on_switch = if self.wires.is_some() { &[] } else { &slot.data[..] };
        let ports = std::iter::once(&slot.control).chain(on_switch).map(|i| i.port);
        let closed: Vec<_> =
            self.shortcuts.iter().flat_map(|s| slot.data.iter().map(|i| s.unplug(i.port))).collect();
        // All of them, and then the first failure.
        let detached: Vec<_> = ports.map(|port| self.switch.detach(port)).collect();
        let cut: Vec<_> =
            self.wires.iter().flat_map(|w| slot.data.iter().map(|i| w.detach(i.port))).collect();
        let unplugged = self.wiring.unplug(tour, slot);
        let doing = || format!("failed to remove the network of {}", slot.name);
        let cut =
            cut.into_iter().chain(closed).find_map(Result::err).map(|e| LabError::machine(doing(), &*e));
        self.forget(slot, &pod)?;
        for result in detached {
            result?;
        }
        cut.map_or(unplugged, Err)
    }

    fn port_spec(&self, slot: &Slot, interface: &Interface, plug: Plug) -> PortSpec {
        let index = slot.data.iter().position(|i| i.port == interface.port);
        let (network, name) = match index {
            Some(index) => (NetworkKind::Data(index as u32), self.networks[index].name.as_str()),
            None => (NetworkKind::Control, CONTROL_NETWORK),
        };
        PortSpec {
            port: interface.port,
            name: format!("{}/{name}", slot.name),
            network,
            mac: mac_of(interface.port),
            addresses: interface.addresses.iter().map(IpNet::addr).collect(),
            fd: plug.fd,
            framing: plug.framing,
            mtu: interface.mtu,
            gateway: false,
            allow_peers: false,
        }
    }
}

// === impl Wiring ===

impl Wiring {
    pub(super) fn choose(kind: PortKind) -> Result<Wiring, LabError> {
        let fail = |e: &dyn Error| LabError::machine("failed to prepare the switch's ports".to_owned(), e);
        let tap = tap::open_device();
        match (kind, tap) {
            (PortKind::Tap | PortKind::Watched | PortKind::Auto, Ok(_)) => Ok(Wiring::Tap),
            (PortKind::Tap, Err(e)) => Err(fail(&e)),
            (PortKind::PacketSocket, _) | (PortKind::Watched | PortKind::Auto, Err(_)) => {
                Ok(Wiring::PacketSocket { switch: Netns::create().map_err(|e| fail(&e))? })
            }
        }
    }

    pub(super) fn kind(&self) -> PortKind {
        match self {
            Wiring::Tap => PortKind::Tap,
            Wiring::PacketSocket { .. } => PortKind::PacketSocket,
        }
    }

    /// Takes an instance's interfaces away, where they would not go at once with their namespace.
    fn unplug(&self, tour: &mut Tour, slot: &Slot) -> Result<(), LabError> {
        let Wiring::PacketSocket { switch } = self else { return Ok(()) };
        let fail =
            |e: &dyn Error| LabError::machine(format!("failed to remove the network of {}", slot.name), e);
        tour.enter(switch).map_err(|e| fail(&e))?;
        let mut routes = RouteSocket::open().map_err(|e| fail(&e))?;
        for interface in std::iter::once(&slot.control).chain(&slot.data) {
            if let Some(link) = routes.link(&other_end(interface.port)).map_err(|e| fail(&e))? {
                routes.apply(&[Change::DeleteLink { index: link.index }]).map_err(|e| fail(&e))?;
            }
        }
        Ok(())
    }

    /// Makes an interface, still down, in the namespace that the tour is in, which is `netns`; it is there again
    /// afterwards.
    pub(crate) fn plug(
        &self,
        tour: &mut Tour,
        netns: &Netns,
        name: &str,
        port: PortId,
    ) -> Result<Plug, Box<dyn Error + Send + Sync>> {
        match self {
            Wiring::Tap => {
                let tap = Tap::open(name, &TapOptions::default())?;
                let framing = if tap.header_len() == 0 { Framing::Bare } else { Framing::VirtioNet };
                Ok(Plug { fd: tap.into_fd(), framing })
            }
            Wiring::PacketSocket { switch } => {
                tour.enter(switch)?;
                let mut routes = RouteSocket::open()?;
                let other = other_end(port);
                // As long as it may be, so that no packet which fits the one end is too long for the other.
                let here = VethEnd { mtu: Some(VETH_MTU), ..VethEnd::new(&other) };
                let there = VethEnd { netns: Some(netns), ..VethEnd::new(name) };
                routes.apply(&[Change::CreateVeth { one: here, other: there }])?;
                let index = index_of(&mut routes, &other)?;
                let up = LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) };
                routes.apply(&[Change::Link(up)])?;
                let socket = PacketSocket::open(index, &PacketSocketOptions::default())?;
                tour.enter(netns)?;
                Ok(Plug { fd: socket.into_fd(), framing: Framing::VirtioNet })
            }
        }
    }
}

/// The name of the other end of a port's veth pair.
fn other_end(port: PortId) -> String {
    format!("p{}", port.0)
}

/// The longest that a veth takes (ETH_MAX_MTU).
const VETH_MTU: u32 = 65_535;

// === impl Pod ===

impl Pod {
    /// Carries out steps in the namespace; some may have been when one fails.
    pub(super) fn visit(&self, tour: &mut Tour, steps: &[Step]) -> Result<(), LabError> {
        let fail = |e: &dyn Error| LabError::machine("failed to change the interfaces".to_owned(), e);
        tour.enter(&self.netns).map_err(|e| fail(&e))?;
        let mut routes = RouteSocket::open().map_err(|e| fail(&e))?;
        let changes: Vec<Change<'_>> = steps.iter().flat_map(Step::changes).collect();
        routes.apply(&changes).map_err(|e| fail(&e))?;
        for step in steps {
            if let Step::Up(index) = step {
                routes.await_running(*index, UP_WITHIN).map_err(|e| fail(&e))?;
            }
        }
        Ok(())
    }

    /// Carries out as many of the steps as the kernel takes: those that undo what was not done are refused.
    pub(super) fn restore(&self, tour: &mut Tour, steps: &[Step]) {
        let back = || {
            tour.enter(&self.netns).ok()?;
            let changes: Vec<Change<'_>> = steps.iter().flat_map(Step::changes).collect();
            RouteSocket::open().ok().map(|mut routes| routes.apply_each(&changes))
        };
        if { back }().is_none() {
            tracing::warn!("the network of an instance could not be set back after a refused request");
        }
    }
}

// === impl Step ===

impl Step {
    fn changes(&self) -> Vec<Change<'static>> {
        let set = |index, up| Change::Link(LinkChange { up: Some(up), ..LinkChange::new(index) });
        match *self {
            Step::Down(index) => vec![set(index, false)],
            Step::Up(index) => vec![set(index, true)],
            Step::AddAddress(index, address) => vec![Change::AddAddress { index, address }],
            Step::RemoveAddress(index, address) => vec![Change::RemoveAddress { index, address }],
            Step::Open(control) => everywhere(control).map(Change::AddRoute).into(),
            Step::Close(control) => {
                let mut routes = everywhere(control);
                routes.reverse();
                routes.map(Change::RemoveRoute).into()
            }
        }
    }
}

/// The routes to the control subnet, and through its gateway to everywhere.
fn everywhere(control: u32) -> [Route; 2] {
    let gateway = IpAddr::V4(CONTROL_GATEWAY.addr());
    let subnet = IpNet::V4(CONTROL_GATEWAY).trunc();
    [Route::on(subnet, control), Route::via(IpNet::V4(Ipv4Net::default()), gateway, control)]
}

/// Everything that an interface gets, IPv6 addresses after it is up: they go when it is down.
pub(crate) fn bring_up(index: u32, port: PortId, mtu: u32, addresses: &[IpNet]) -> Vec<Change<'static>> {
    let settings = LinkChange {
        mac: Some(mac_of(port)),
        mtu: Some(mtu),
        // Without IPv6 on the network nobody answers what the kernel would ask there.
        link_local: Some(addresses.iter().any(|a| a.addr().is_ipv6())),
        ..LinkChange::new(index)
    };
    let up = LinkChange { up: Some(true), ..LinkChange::new(index) };
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = addresses.iter().partition(|a| a.addr().is_ipv4());
    let add = |address| Change::AddAddress { index, address };
    let mut changes = vec![Change::Link(settings)];
    changes.extend(v4.into_iter().map(add));
    changes.push(Change::Link(up));
    changes.extend(v6.into_iter().map(add));
    changes
}

pub(crate) fn index_of(routes: &mut RouteSocket, name: &str) -> Result<u32, Box<dyn Error + Send + Sync>> {
    match routes.link(name)? {
        Some(link) => Ok(link.index),
        None => Err(format!("interface {name} is gone").into()),
    }
}

// === impl PortKind ===

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortKind::Auto => "auto",
            PortKind::Watched => "watched",
            PortKind::Tap => "tap",
            PortKind::PacketSocket => "packet-socket",
        })
    }
}

impl AsFd for Pod {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.netns.as_fd()
    }
}

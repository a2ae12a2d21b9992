//! A way for packets that nothing is to be done to: from an instance's interface to its receiver's within the kernel,
//! while all else goes through the switch.
//!
//! An interface is then one end of a veth pair. Its other end, in a namespace of the lab's own, has a filter for each address that
//! its instance may send to unshaped, which sends matching packets on to the receiver's pair; what no filter matches goes to
//! a TAP, and so to the switch. What must be in force belongs to the plan; a shape is never carried out here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use testground_linux::netns::{Netns, Tour};
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tap::{Tap, TapOptions};
use testground_linux::tc::{
    Action, Filter, Handle, NetlinkError, Protocol, Qdisc, Target, TcChange, TcSocket, U32Key, U32Target,
};
use testground_model::run::Run;

use super::LabError;
use super::interface::Interface;
use super::pod::{Plug, UP_WITHIN, index_of};
use crate::plan::{Plan, PortId, Touched};
use crate::plane::switch::Framing;
use crate::plane::switch::snapshot::Snapshot;
use crate::plane::switch::table::mac_of;

use passed::{Passed, passed};

mod passed;

/// The shortcuts of a lab.
#[derive(Debug)]
pub(super) struct Shortcuts {
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where the other ends and the TAPs are.
    hub: Netns,
    routes: RouteSocket,
    tc: TcSocket,
    sides: HashMap<PortId, Side>,
    /// What passed between interfaces that are no more.
    gone: Passed,
}

/// An interface of an instance, seen from the lab.
#[derive(Debug)]
struct Side {
    network: usize,
    /// The index of the veth pair's end.
    outer: u32,
    /// The index of the TAP that leads to the switch.
    tap: u32,
    /// By receiver and its address: the number of the way.
    ways: HashMap<(PortId, IpAddr), u16>,
    /// What passed on ways that are closed, by receiver.
    before: BTreeMap<PortId, Passed>,
    /// A change to its filters failed: everything goes through the switch.
    given_up: bool,
}

/// Ways that are blocked, and those that can be opened when the switch has its plan.
#[derive(Debug, Default)]
pub(super) struct Rewiring {
    closed: Vec<(PortId, (PortId, IpAddr))>,
    open: Vec<(PortId, (PortId, IpAddr))>,
}

/// Interfaces of one network that may have shortcuts: a filter for each pair is no help to thousands.
const MOST: usize = 64;
/// Priorities of filters: neighbour discovery, which the switch answers; everything, of an interface that was given up; two for each
/// way, the first of which blocks it; and everything else.
const DISCOVERY: u16 = 1;
const GIVEN_UP: u16 = 2;
const WAYS: u16 = 10;
const REST: u16 = 60_000;

// === impl Shortcuts ===

impl Shortcuts {
    /// Shortcuts where a run has any use for them and the kernel can make them.
    pub(super) fn choose(run: &Run, plan: &Plan) -> Result<Option<Shortcuts>, LabError> {
        let fail = |e: &dyn Error| LabError::machine("failed to prepare shortcuts".to_owned(), e);
        if run.instances().count() > MOST || !any_unshaped(plan) {
            return Ok(None);
        }
        let hub = Netns::create().map_err(|e| fail(&e))?;
        let routes = RouteSocket::open_in(&hub).map_err(|e| fail(&e))?;
        let tc = TcSocket::open_in(&hub).map_err(|e| fail(&e))?;
        let mut shared = Shared { hub, routes, tc, sides: HashMap::new(), gone: Passed::default() };
        if let Err(error) = shared.try_out() {
            tracing::debug!("unshaped packets go through the switch as well: {error}");
            return Ok(None);
        }
        Ok(Some(Shortcuts { shared: Mutex::new(shared) }))
    }

    /// Makes an interface, still down, in the namespace that the tour is in, which is `netns`; it is there again
    /// afterwards. Everything that the interface sends goes to the switch until [`Shortcuts::refresh`].
    pub(super) fn plug(
        &self,
        tour: &mut Tour,
        netns: &Netns,
        network: usize,
        interface: &Interface,
    ) -> Result<Plug, Box<dyn Error + Send + Sync>> {
        let mut shared = self.shared();
        let (name, mtu, port) = (&interface.name, interface.mtu, interface.port);
        let (outer, tap) = (format!("p{}", port.0), format!("t{}", port.0));
        if let Some(former) = shared.routes.link(&tap)? {
            shared.routes.apply(&[Change::DeleteLink { index: former.index }])?;
        }
        let here = VethEnd { mtu: Some(mtu), ..VethEnd::new(&outer) };
        let there = VethEnd { netns: Some(netns), mtu: Some(mtu), ..VethEnd::new(name) };
        shared.routes.apply(&[Change::CreateVeth { one: here, other: there }])?;
        tour.enter(&shared.hub)?;
        let opened = Tap::open(&tap, &TapOptions::default());
        tour.enter(netns)?;
        let opened = opened?;
        let framing = if opened.header_len() == 0 { Framing::Bare } else { Framing::VirtioNet };
        let (outer, tap) = (index_of(&mut shared.routes, &outer)?, opened.index());
        let up = |index| {
            Change::Link(LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) })
        };
        let place = |index| {
            let (parent, handle) = (Handle::INGRESS, Handle::INGRESS_QDISC);
            TcChange { index, action: Action::AddQdisc { parent, handle, qdisc: Qdisc::Ingress } }
        };
        shared.tc.apply(&[
            place(tap),
            add(tap, REST, Protocol::All, vec![ANY], outer),
            place(outer),
            add(outer, DISCOVERY, Protocol::Ipv6, vec![ICMPV6], tap),
            add(outer, REST, Protocol::All, vec![ANY], tap),
        ])?;
        shared.routes.apply(&[up(tap), up(outer)])?;
        let (ways, before) = (HashMap::new(), BTreeMap::new());
        shared.sides.insert(port, Side { network, outer, tap, ways, before, given_up: false });
        Ok(Plug { fd: opened.into_fd(), framing })
    }

    /// Opens the ways to and from an interface that has become part of the plan and is up.
    pub(super) fn refresh(&self, plan: &Plan, port: PortId) -> Result<(), LabError> {
        self.await_up(port)?;
        let mut shared = self.shared();
        let rewiring = shared.difference(plan, |from| from == port, |to| to == port);
        shared.block(&rewiring).map_err(failed)?;
        shared.settle(rewiring).map_err(failed)
    }

    /// Waits until an interface that was set up can be given packets.
    pub(super) fn await_up(&self, port: PortId) -> Result<(), LabError> {
        let mut shared = self.shared();
        let Some(outer) = shared.sides.get(&port).map(|side| side.outer) else { return Ok(()) };
        shared.routes.await_running(outer, UP_WITHIN).map(drop).map_err(failed)
    }

    /// Takes an interface away, and all ways to it and from it.
    pub(super) fn unplug(&self, port: PortId) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut shared = self.shared();
        let rewiring = shared.ways_of(port);
        shared.block(&rewiring)?;
        shared.settle(rewiring)?;
        let Some(side) = shared.sides.remove(&port) else { return Ok(()) };
        let to_it = shared.sides.values_mut().filter_map(|side| side.before.remove(&port));
        let gone: Vec<Passed> = to_it.chain(side.before.values().copied()).collect();
        gone.into_iter().for_each(|passed| shared.gone.add(passed));
        // The TAP stays until it is needed again: taking it away costs 29 ms.
        shared.routes.apply(&[Change::DeleteLink { index: side.outer }])?;
        Ok(())
    }

    /// Blocks the ways that a plan no longer leaves open: what comes on them from now on goes through the switch. The rest is for
    /// [`Shortcuts::settle`], when the switch has the plan, so that no packet passes by a shape that is in force.
    pub(super) fn prepare(&self, plan: &Plan, before: &Plan) -> Result<Rewiring, LabError> {
        let mut shared = self.shared();
        let touched = plan.touched_since(before);
        let rewiring = shared.difference(
            plan,
            |from| match &touched {
                Touched::All => true,
                Touched::Ports(ports) => ports.contains(&from),
            },
            |_| false,
        );
        shared.block(&rewiring).map_err(failed)?;
        Ok(rewiring)
    }

    /// Opens the ways that a plan leaves open, and takes away those that are blocked.
    pub(super) fn settle(&self, rewiring: Rewiring) -> Result<(), LabError> {
        self.shared().settle(rewiring).map_err(failed)
    }

    /// Adds what has taken a shortcut to the switch's own record.
    pub(super) fn extend(&self, snapshot: &mut Snapshot) -> Result<(), LabError> {
        self.shared().extend(snapshot).map_err(failed)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shared ===

impl Shared {
    /// Makes all that an interface needs once, and takes it away again.
    fn try_out(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let ends = [VethEnd::new("try"), VethEnd::new("tried")];
        let [one, other] = ends;
        self.routes.apply(&[Change::CreateVeth { one, other }])?;
        let (index, target) = (index_of(&mut self.routes, "try")?, index_of(&mut self.routes, "tried")?);
        let (parent, handle) = (Handle::INGRESS, Handle::INGRESS_QDISC);
        let keys = keys(PortId(0), IpAddr::from([16, 0, 0, 2]));
        let tried = self.tc.apply(&[
            TcChange { index, action: Action::AddQdisc { parent, handle, qdisc: Qdisc::Ingress } },
            add(index, WAYS, Protocol::Ipv4, keys, target),
            add(index, REST, Protocol::All, vec![ANY], target),
        ]);
        self.routes.apply(&[Change::DeleteLink { index }])?;
        Ok(tried?)
    }

    /// What changes for pairs whose sender or receiver is asked for.
    fn difference(
        &self,
        plan: &Plan,
        from: impl Fn(PortId) -> bool,
        to: impl Fn(PortId) -> bool,
    ) -> Rewiring {
        let mut rewiring = Rewiring::default();
        for (sender, side) in self.sides.iter().filter(|(_, side)| !side.given_up) {
            let meant = |receiver: PortId| from(*sender) || to(receiver);
            let wanted: HashSet<(PortId, IpAddr)> = self.unshaped(plan, *sender, side, meant).collect();
            let closed = side.ways.keys().filter(|way| meant(way.0) && !wanted.contains(way));
            rewiring.closed.extend(closed.map(|way| (*sender, *way)));
            let open = wanted.iter().filter(|way| !side.ways.contains_key(way));
            rewiring.open.extend(open.map(|way| (*sender, *way)));
        }
        rewiring
    }

    fn unshaped<'a>(
        &'a self,
        plan: &'a Plan,
        sender: PortId,
        side: &'a Side,
        meant: impl Fn(PortId) -> bool + 'a,
    ) -> impl Iterator<Item = (PortId, IpAddr)> + 'a {
        let known = plan.member(sender).is_some();
        let receivers = self.sides.iter().filter(move |(to, other)| {
            known && **to != sender && other.network == side.network && meant(**to)
        });
        let addresses = receivers.filter_map(move |(to, _)| Some((*to, plan.member(*to)?)));
        addresses.flat_map(move |(to, member)| {
            let free = move |address: &&IpAddr| is_unshaped(plan, sender, **address);
            member.addresses.iter().filter(free).map(move |address| (to, *address))
        })
    }

    fn ways_of(&self, port: PortId) -> Rewiring {
        let all = self.sides.iter().flat_map(|(from, side)| side.ways.keys().map(|way| (*from, *way)));
        let closed = all.filter(|(from, (to, _))| *from == port || *to == port).collect();
        Rewiring { closed, open: Vec::new() }
    }

    fn block(&mut self, rewiring: &Rewiring) -> Result<(), NetlinkError> {
        for (from, ways) in by_sender(&rewiring.closed) {
            let Some(side) = self.sides.get(&from).filter(|side| !side.given_up) else { continue };
            let block = |way: &(PortId, IpAddr)| {
                let number = side.ways.get(way)?;
                let (protocol, keys) = (protocol(way.1), keys(way.0, way.1));
                Some(add(side.outer, blocking(*number), protocol, keys, side.tap))
            };
            let changes: Vec<TcChange> = ways.iter().filter_map(block).collect();
            if let Err(error) = self.tc.apply(&changes) {
                self.give_up(from, &error)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, rewiring: Rewiring) -> Result<(), NetlinkError> {
        for (from, ways) in by_sender(&rewiring.closed) {
            if let Err(error) = self.close(from, &ways) {
                self.give_up(from, &error)?;
            }
        }
        for (from, ways) in by_sender(&rewiring.open) {
            if let Err(error) = self.open(from, &ways) {
                self.give_up(from, &error)?;
            }
        }
        Ok(())
    }

    /// Takes blocked ways away. Nothing is on them any more, so that their counters are the last ones.
    fn close(&mut self, from: PortId, ways: &[(PortId, IpAddr)]) -> Result<(), NetlinkError> {
        let Some(side) = self.sides.get_mut(&from).filter(|side| !side.given_up) else { return Ok(()) };
        let passed = passed(&mut self.tc, side)?;
        let mut changes = Vec::new();
        for way in ways {
            let Some(number) = side.ways.remove(way) else { continue };
            if let Some(passed) = passed.get(way) {
                side.before.entry(way.0).or_default().add(*passed);
            }
            for priority in [opening(number), blocking(number)] {
                let (parent, protocol) = (Handle::CLSACT_INGRESS, protocol(way.1));
                let action = Action::DeletePriority { parent, priority, protocol };
                changes.push(TcChange { index: side.outer, action });
            }
        }
        self.tc.apply(&changes)
    }

    fn open(&mut self, from: PortId, ways: &[(PortId, IpAddr)]) -> Result<(), NetlinkError> {
        let target = |to: &PortId| self.sides.get(to).map(|side| side.outer);
        let targets: Vec<_> = ways.iter().filter_map(|way| Some((*way, target(&way.0)?))).collect();
        let Some(side) = self.sides.get_mut(&from).filter(|side| !side.given_up) else { return Ok(()) };
        let mut changes = Vec::new();
        for (way, target) in targets {
            let taken: HashSet<u16> = side.ways.values().copied().collect();
            let Some(number) = (0..(REST - WAYS) / 2).find(|number| !taken.contains(number)) else { break };
            side.ways.insert(way, number);
            changes.push(add(side.outer, opening(number), protocol(way.1), keys(way.0, way.1), target));
        }
        self.tc.apply(&changes)
    }

    /// Sends everything of an interface through the switch from now on, which is slower and never wrong.
    fn give_up(&mut self, port: PortId, why: &NetlinkError) -> Result<(), NetlinkError> {
        let Some(side) = self.sides.get_mut(&port).filter(|side| !side.given_up) else { return Ok(()) };
        tracing::warn!("port {}: unshaped packets go through the switch from now on: {why}", port.0);
        side.given_up = true;
        self.tc.apply(&[add(side.outer, GIVEN_UP, Protocol::All, vec![ANY], side.tap)])
    }
}

fn failed(error: NetlinkError) -> LabError {
    LabError::machine("failed to change the ways of unshaped packets".to_owned(), &error)
}

fn any_unshaped(plan: &Plan) -> bool {
    plan.members().any(|from| {
        let others = plan.members().filter(|to| to.port != from.port && to.network == from.network);
        others.flat_map(|to| &to.addresses).any(|address| is_unshaped(plan, from.port, *address))
    })
}

fn is_unshaped(plan: &Plan, from: PortId, to: IpAddr) -> bool {
    let decision = plan.resolve(from, to);
    decision.schedule.is_none() && decision.shape.is_transparent()
}

fn by_sender(ways: &[(PortId, (PortId, IpAddr))]) -> BTreeMap<PortId, Vec<(PortId, IpAddr)>> {
    let mut sorted: BTreeMap<PortId, Vec<(PortId, IpAddr)>> = BTreeMap::new();
    for (from, way) in ways {
        sorted.entry(*from).or_default().push(*way);
    }
    sorted
}

fn add(index: u32, priority: u16, protocol: Protocol, keys: Vec<U32Key>, target: u32) -> TcChange {
    let target = U32Target::Is(Target::Redirect { index: target });
    let filter = Filter::U32 { keys, target, bucket: None };
    TcChange {
        index,
        action: Action::AddFilter { parent: Handle::CLSACT_INGRESS, priority, protocol, filter },
    }
}

/// What packets to an instance at one of its addresses have in common. Those to the address by way of another instance go through
/// the switch.
fn keys(to: PortId, address: IpAddr) -> Vec<U32Key> {
    let mut keys = U32Key::hardware(mac_of(to)).to_vec();
    keys.extend(U32Key::destination(address.into()));
    keys
}

fn protocol(address: IpAddr) -> Protocol {
    if address.is_ipv4() { Protocol::Ipv4 } else { Protocol::Ipv6 }
}

fn blocking(number: u16) -> u16 {
    WAYS + 2 * number
}

fn opening(number: u16) -> u16 {
    WAYS + 2 * number + 1
}

/// Everything.
const ANY: U32Key = U32Key { value: 0, mask: 0, offset: 0 };
/// ICMPv6 behind no other header: the next header's number is the seventh byte (RFC 8200, section 3).
const ICMPV6: U32Key = U32Key { value: 58 << 8, mask: 0xff << 8, offset: 4 };

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
use testground_linux::tc::{NetlinkError, TcSocket};
use testground_model::run::Run;

use super::LabError;
use super::interface::Interface;
use super::pod::{Plug, UP_WITHIN, index_of};
use crate::plan::{Plan, PortId, Touched};
use crate::plane::switch::Framing;
use crate::plane::switch::snapshot::Snapshot;

use filters::{DOORS, Door, Leaf};
use passed::{Passed, passed};

mod filters;
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
    /// The open ones, by receiver.
    ways: HashMap<PortId, Vec<Door>>,
    /// What passed on ways that are closed, by receiver. The switch was told.
    before: BTreeMap<PortId, Passed>,
    /// A change to its filters failed: everything goes through the switch.
    given_up: bool,
}

/// A change of ways that has begun: some are blocked, and others can be opened when the switch has its plan.
#[derive(Debug, Default)]
pub(super) struct Rewiring {
    /// By sender.
    blocked: Vec<(PortId, Vec<Door>)>,
    /// Sender, receiver and its addresses.
    open: Vec<(PortId, PortId, Vec<IpAddr>)>,
    /// How many packets have passed the ways that are blocked, by sender and receiver.
    pub(super) passed: Vec<(PortId, PortId, u64)>,
}

/// Interfaces of one network that may have shortcuts: a filter for each pair is no help to thousands.
const MOST: usize = 64;

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
        shared.tc.apply(&[filters::place(tap), filters::rest(tap, outer)])?;
        shared.tc.apply(&filters::of_sender(outer, tap))?;
        shared.routes.apply(&[up(tap), up(outer)])?;
        let (ways, before) = (HashMap::new(), BTreeMap::new());
        shared.sides.insert(port, Side { network, outer, tap, ways, before, given_up: false });
        Ok(Plug { fd: opened.into_fd(), framing })
    }

    /// Opens the ways to and from an interface that has become part of the plan and is up.
    pub(super) fn refresh(&self, plan: &Plan, port: PortId) -> Result<(), LabError> {
        self.await_up(port)?;
        let mut shared = self.shared();
        let pairs = shared.difference(plan, |from| from == port, |to| to == port);
        let rewiring = shared.block(pairs).map_err(failed)?;
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
        let pairs = shared.ways_of(port);
        let rewiring = shared.block(pairs)?;
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
        if plan.differs_in_degree_only(before) {
            return Ok(Rewiring::default());
        }
        let mut shared = self.shared();
        let touched = plan.touched_since(before);
        let pairs = shared.difference(
            plan,
            |from| match &touched {
                Touched::All => true,
                Touched::Ports(ports) => ports.contains(&from),
            },
            |_| false,
        );
        shared.block(pairs).map_err(failed)
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
        let mut all = filters::of_sender(index, target);
        let door = Door { address: [16, 0, 0, 2].into(), number: 0 };
        all.push(filters::set(index, PortId(0), door, Leaf::Open, target));
        let tried = self.tc.apply(&all);
        self.routes.apply(&[Change::DeleteLink { index }])?;
        Ok(tried?)
    }

    /// The pairs that have other ways than a plan leaves open, of those whose sender or receiver is asked for; with the addresses
    /// that are to be open.
    fn difference(
        &self,
        plan: &Plan,
        from: impl Fn(PortId) -> bool,
        to: impl Fn(PortId) -> bool,
    ) -> Vec<(PortId, PortId, Vec<IpAddr>)> {
        let mut pairs = Vec::new();
        for (sender, side) in self.sides.iter().filter(|(_, side)| !side.given_up) {
            let others =
                self.sides.iter().filter(|(to, other)| *to != sender && other.network == side.network);
            for receiver in others.map(|(port, _)| *port).filter(|port| from(*sender) || to(*port)) {
                let wanted = unshaped(plan, *sender, receiver);
                let open = side.ways.get(&receiver).map_or(&[][..], |way| way);
                if !open.iter().map(|door| door.address).eq(wanted.iter().copied()) {
                    pairs.push((*sender, receiver, wanted));
                }
            }
        }
        pairs
    }

    fn ways_of(&self, port: PortId) -> Vec<(PortId, PortId, Vec<IpAddr>)> {
        let all =
            self.sides.iter().flat_map(|(from, side)| side.ways.keys().map(|to| (*from, *to, Vec::new())));
        all.filter(|(from, to, _)| *from == port || *to == port).collect()
    }

    /// Blocks what is open of these pairs, and reads what has passed: nothing will any more.
    fn block(&mut self, mut pairs: Vec<(PortId, PortId, Vec<IpAddr>)>) -> Result<Rewiring, NetlinkError> {
        let mut rewiring = Rewiring::default();
        pairs.sort_unstable_by_key(|(from, to, _)| (*from, *to));
        for pairs in pairs.chunk_by(|one, other| one.0 == other.0) {
            let from = pairs[0].0;
            let Some(side) = self.sides.get_mut(&from).filter(|side| !side.given_up) else { continue };
            let closing = pairs.iter().flat_map(|(_, to, _)| {
                let doors = side.ways.get(to).into_iter().flatten();
                doors.map(|door| filters::set(side.outer, *to, *door, Leaf::Blocked, side.tap))
            });
            let closing: Vec<_> = closing.collect();
            if !closing.is_empty() {
                let counted = match self.tc.apply(&closing) {
                    Ok(()) => passed(&mut self.tc, side),
                    Err(error) => Err(error),
                };
                let counted = match counted {
                    Ok(counted) => counted,
                    Err(error) => {
                        self.give_up(from, &error)?;
                        continue;
                    }
                };
                for (_, to, _) in pairs {
                    let Some(doors) = side.ways.remove(to) else { continue };
                    let sum = Passed::sum(&doors, &counted);
                    side.before.entry(*to).or_default().add(sum);
                    rewiring.passed.push((from, *to, sum.sent.packets));
                    rewiring.blocked.push((from, doors));
                }
            }
            rewiring.open.extend(pairs.iter().filter(|(_, _, wanted)| !wanted.is_empty()).cloned());
        }
        Ok(rewiring)
    }

    /// Takes what is blocked away, and opens what is to be open.
    fn settle(&mut self, rewiring: Rewiring) -> Result<(), NetlinkError> {
        for (from, doors) in rewiring.blocked {
            let Some(side) = self.sides.get(&from).filter(|side| !side.given_up) else { continue };
            let leaves = doors.iter().flat_map(|door| [(*door, Leaf::Open), (*door, Leaf::Blocked)]);
            let changes: Vec<_> = leaves.map(|(door, leaf)| filters::unset(side.outer, door, leaf)).collect();
            if let Err(error) = self.tc.apply(&changes) {
                self.give_up(from, &error)?;
            }
        }
        for (from, to, addresses) in rewiring.open {
            if let Err(error) = self.open(from, to, addresses) {
                self.give_up(from, &error)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, from: PortId, to: PortId, addresses: Vec<IpAddr>) -> Result<(), NetlinkError> {
        let Some(target) = self.sides.get(&to).map(|side| side.outer) else { return Ok(()) };
        let Some(side) = self.sides.get_mut(&from).filter(|side| !side.given_up) else { return Ok(()) };
        let taken: HashSet<u16> = side.ways.values().flatten().map(|door| door.number).collect();
        let free = (0..DOORS).filter(|number| !taken.contains(number));
        let wanted = addresses.len();
        let doors: Vec<Door> =
            addresses.into_iter().zip(free).map(|(address, number)| Door { address, number }).collect();
        if doors.len() < wanted {
            return Ok(());
        }
        let opening = doors.iter().map(|door| filters::set(side.outer, to, *door, Leaf::Open, target));
        self.tc.apply(&opening.collect::<Vec<_>>())?;
        side.ways.insert(to, doors);
        Ok(())
    }

    /// Sends everything of an interface through the switch from now on, which is slower and never wrong.
    fn give_up(&mut self, port: PortId, why: &NetlinkError) -> Result<(), NetlinkError> {
        let Some(side) = self.sides.get_mut(&port).filter(|side| !side.given_up) else { return Ok(()) };
        tracing::warn!("port {}: unshaped packets go through the switch from now on: {why}", port.0);
        side.given_up = true;
        // The filters stay, behind one that is for everything.
        self.tc.apply(&[filters::all(side.outer, side.tap)])
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failed(error: NetlinkError) -> LabError {
    LabError::machine("failed to change the ways of unshaped packets".to_owned(), &error)
}

fn any_unshaped(plan: &Plan) -> bool {
    plan.members().any(|from| {
        let others = plan.members().filter(|to| to.port != from.port && to.network == from.network);
        others.into_iter().any(|to| !unshaped(plan, from.port, to.port).is_empty())
    })
}

/// The addresses of a receiver where nothing is to be done to any packet to it, whichever of them it is for; else none: packets of a
/// pair are numbered together, and those with a shape have to know their number.
fn unshaped(plan: &Plan, from: PortId, to: PortId) -> Vec<IpAddr> {
    let (Some(_), Some(to)) = (plan.member(from), plan.member(to)) else { return Vec::new() };
    let free = |address: &IpAddr| {
        let decision = plan.resolve(from, *address);
        decision.schedule.is_none() && decision.shape.is_transparent()
    };
    if to.addresses.iter().all(free) { to.addresses.clone() } else { Vec::new() }
}

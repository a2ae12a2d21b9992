//! The data networks on the kernel's plane: a veth pair for each interface, its outer end at a bridge in a namespace of the
//! lab's own, and shapes on its inner end. The control network stays on the switch.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use testground_linux::netns::Netns;
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tc::TcSocket;
use testground_model::run::{Plane, Run};
use testground_model::shape::{Filter, LinkShape, Loss};

use super::LabError;
use super::pod::index_of;
use crate::plan::{Plan, PortId, Touched};
use crate::plane::kernel::{
    Abilities, ClassKey, Counters, Interface, KernelError, Others, Wanted, Wishes, refusals, unsupported,
};
use crate::plane::switch::counters::Traffic;
use crate::plane::switch::snapshot::{ClassView, LinkView, PortView, Snapshot};
use crate::plane::switch::table::mac_of;
use crate::request::RequestError;

/// The kernel's plane of a lab.
#[derive(Debug)]
pub(super) struct Wires {
    abilities: Abilities,
    /// By index: name and subnets of the data networks, and of the proof's.
    networks: Vec<(String, Vec<IpNet>)>,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Of the namespace with the bridges, which it keeps alive.
    hub: RouteSocket,
    /// By network: how many instances each bridge has.
    bridges: Vec<Vec<u32>>,
    ends: HashMap<PortId, End>,
}

/// An interface that is shaped.
#[derive(Debug)]
pub(super) struct End {
    /// Instance and network.
    pub(super) name: String,
    /// The network's index.
    pub(super) network: usize,
    pub(super) mtu: u32,
    pub(super) interface: Interface,
}

/// A bridge takes 1,024 ports (`BR_MAX_PORTS`): so many instances, and cables to further bridges.
const PER_BRIDGE: u32 = 1000;
/// The longest that a veth takes (ETH_MAX_MTU).
const LONGEST: u32 = 65_535;

// === impl Wires ===

impl Wires {
    /// The kernel's plane where a run wants it; none: the switch, and why where the run left it open.
    pub(super) fn choose(run: &Run) -> Result<(Option<Wires>, Option<String>), LabError> {
        let plane = run.settings.plane;
        if plane == Plane::Switch {
            return Ok((None, None));
        }
        let fail = |e: &dyn Error| LabError::machine("failed to look for the kernel's plane".to_owned(), e);
        let abilities = Abilities::probe().map_err(|e| fail(&e))?;
        // Requests may ask for anything: who leaves it open gets a plane that can do the most.
        let mut reasons = abilities.shortfall(plane == Plane::Auto);
        reasons.extend(refusals(run, Wishes::default(), &abilities));
        if !reasons.is_empty() {
            let why = reasons.join("; ");
            return if plane == Plane::Auto { Ok((None, Some(why))) } else { Err(LabError::Plane(why)) };
        }
        let named = run.networks.iter().map(|network| {
            let v6 = network.subnet6.map(IpNet::V6);
            (network.name.clone(), std::iter::once(IpNet::V4(network.subnet)).chain(v6).collect())
        });
        let networks: Vec<_> = named.chain([(crate::proof::NETWORK.to_owned(), Vec::new())]).collect();
        let hub = Netns::create().map_err(|e| fail(&e))?;
        let hub = RouteSocket::open_in(&hub).map_err(|e| fail(&e))?;
        let bridges = networks.iter().map(|_| Vec::new()).collect();
        let shared = Mutex::new(Shared { hub, bridges, ends: HashMap::new() });
        Ok((Some(Wires { abilities, networks, shared }), None))
    }

    /// Why what an instance asks for can't be done, if it can't.
    pub(super) fn check(&self, wishes: &crate::plan::Wishes) -> Result<(), RequestError> {
        let shapes = wishes.rules.iter().map(|(net, shape)| (format!("rule for {net}"), shape));
        for (whose, shape) in std::iter::once(("default".to_owned(), &wishes.default)).chain(shapes) {
            if let Some(why) = unsupported(shape, &self.abilities) {
                return Err(RequestError::Refused(format!("{whose}: the kernel plane can't do this: {why}")));
            }
        }
        Ok(())
    }

    /// Makes an interface, still down, in a namespace, and joins it to its network.
    pub(super) fn cable(
        &self,
        port: PortId,
        network: usize,
        netns: &Netns,
        name: &str,
        mtu: u32,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut shared = self.shared();
        let bridge = shared.bridge(network)?;
        let outer = outer_end(port);
        let here = VethEnd { mtu: Some(mtu), ..VethEnd::new(&outer) };
        let there = VethEnd { netns: Some(netns), mtu: Some(mtu), ..VethEnd::new(name) };
        shared.hub.apply(&[Change::CreateVeth { one: here, other: there }])?;
        let index = index_of(&mut shared.hub, &outer)?;
        let joined = LinkChange {
            up: Some(true),
            bridge: Some(bridge),
            link_local: Some(false),
            ..LinkChange::new(index)
        };
        // A corrupted frame may have another's hardware address for its sender's.
        let known = [Change::LearnNothing { index }, Change::Forward { index, mac: mac_of(port) }];
        shared.hub.apply(&[Change::Link(joined)])?;
        shared.hub.apply(&known)?;
        Ok(())
    }

    /// Takes an interface over to shape it; the sockets are of its namespace.
    pub(super) fn attach(
        &self,
        port: PortId,
        (name, index): (&str, u32),
        (shown, network, mtu): (String, usize, u32),
        (tc, route): (TcSocket, RouteSocket),
    ) -> Result<(), KernelError> {
        let interface = Interface::adopt(name, index, tc, route, Others::Leave)?;
        self.shared().ends.insert(port, End { name: shown, network, mtu, interface });
        Ok(())
    }

    /// Takes an interface away, and all that was on it.
    pub(super) fn detach(&self, port: PortId) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut shared = self.shared();
        shared.ends.remove(&port);
        if let Some(link) = shared.hub.link(&outer_end(port))? {
            shared.hub.apply(&[Change::DeleteLink { index: link.index }])?;
        }
        Ok(())
    }

    /// Puts a plan in force in the place of another one: on all interfaces, or on none.
    pub(super) fn install(&self, plan: &Plan, before: &Plan) -> Result<(), KernelError> {
        let touched = plan.touched_since(before);
        self.carry_out(plan, |port| match &touched {
            Touched::All => true,
            Touched::Ports(ports) => ports.contains(&port),
        })
    }

    /// Puts a plan in force on one interface.
    pub(super) fn install_on(&self, plan: &Plan, port: PortId) -> Result<(), KernelError> {
        self.carry_out(plan, |other| other == port)
    }

    fn carry_out(&self, plan: &Plan, touched: impl Fn(PortId) -> bool) -> Result<(), KernelError> {
        let mut shared = self.shared();
        let pacing = self.abilities.pacing();
        let mut done: Vec<(PortId, Wanted)> = Vec::new();
        let mut failed = None;
        for (port, end) in shared.ends.iter_mut().filter(|(port, _)| touched(**port)) {
            // Nobody sends on an interface that is down; what it had is replaced when it is up again.
            if plan.member(*port).is_none() {
                continue;
            }
            let wanted = Wanted::of(plan, *port, &self.networks[end.network].1, end.mtu, pacing);
            let former = end.interface.wanted().clone();
            match end.interface.apply(&wanted) {
                Ok(_) => done.push((*port, former)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let Some(error) = failed else { return Ok(()) };
        for (port, former) in done.into_iter().rev() {
            let Some(end) = shared.ends.get_mut(&port) else { continue };
            if let Err(back) = end.interface.apply(&former) {
                tracing::warn!("{}: what was in force could not be put back: {back}", end.name);
            }
        }
        Err(error)
    }

    /// Adds what has passed the interfaces to the switch's own record.
    pub(super) fn extend(&self, plan: &Plan, snapshot: &mut Snapshot) -> Result<(), KernelError> {
        let mut shared = self.shared();
        let mut ports: Vec<PortId> = shared.ends.keys().copied().collect();
        ports.sort_unstable();
        for port in ports {
            let Some(end) = shared.ends.get_mut(&port) else { continue };
            let counters = end.interface.counters()?;
            let network = self.networks[end.network].0.clone();
            end.view(plan, port, network, &counters, snapshot);
        }
        snapshot.ports.sort_by_key(|port| port.port);
        // The switch's own record is of the control network alone.
        snapshot.lateness = None;
        Ok(())
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shared ===

impl Shared {
    /// The index of a bridge of a network that has room for one more instance.
    fn bridge(&mut self, network: usize) -> Result<u32, Box<dyn Error + Send + Sync>> {
        let bridges = &mut self.bridges[network];
        if let Some(last) = bridges.last_mut().filter(|instances| **instances < PER_BRIDGE) {
            *last += 1;
            let name = bridge_name(network, bridges.len() - 1);
            return index_of(&mut self.hub, &name);
        }
        let number = bridges.len();
        let name = bridge_name(network, number);
        self.hub.apply(&[Change::CreateBridge { name: &name }])?;
        let index = index_of(&mut self.hub, &name)?;
        let up = |index, bridge| {
            Change::Link(LinkChange {
                up: Some(true),
                link_local: Some(false),
                bridge,
                ..LinkChange::new(index)
            })
        };
        self.hub.apply(&[up(index, None)])?;
        if number > 0 {
            // All hang at the first one.
            let first = index_of(&mut self.hub, &bridge_name(network, 0))?;
            let ends = ["near", "far"].map(|end| format!("t{network}.{number}{end}"));
            let end = |name| VethEnd { mtu: Some(LONGEST), ..VethEnd::new(name) };
            self.hub.apply(&[Change::CreateVeth { one: end(&ends[0]), other: end(&ends[1]) }])?;
            let near = index_of(&mut self.hub, &ends[0])?;
            let far = index_of(&mut self.hub, &ends[1])?;
            self.hub.apply(&[up(near, Some(first)), up(far, Some(index))])?;
        }
        self.bridges[network].push(1);
        Ok(index)
    }
}

fn bridge_name(network: usize, number: usize) -> String {
    format!("b{network}.{number}")
}

fn outer_end(port: PortId) -> String {
    format!("p{}", port.0)
}

// === impl End ===

impl End {
    fn view(&self, plan: &Plan, port: PortId, network: String, counters: &Counters, snapshot: &mut Snapshot) {
        let link = counters.link;
        let wanted = self.interface.wanted();
        let mut own_drops: std::collections::BTreeMap<String, u64> = Default::default();
        let leaving = counters.classes.iter().map(|(key, passed)| {
            (key, passed, self.name.clone(), receivers(plan, wanted, *key, port, &network))
        });
        let arriving = counters.incoming.iter().map(|(key, passed)| {
            let from =
                wanted.incoming.as_deref().map(|incoming| prefixes(incoming, *key)).unwrap_or_default();
            (key, passed, from, self.name.clone())
        });
        for (key, (shape, stats), from, to) in leaving.chain(arriving) {
            let passed = Traffic { packets: stats.packets, bytes: stats.bytes };
            let cause = cause(shape);
            let drops = (stats.drops > 0).then(|| (cause.to_owned(), stats.drops));
            if let Some((cause, count)) = drops.clone() {
                *own_drops.entry(cause).or_default() += count;
            }
            let layer = match key {
                ClassKey::Default => "default".to_owned(),
                ClassKey::Rule(rule) => format!("rule {rule}"),
                ClassKey::Link(link, _) => format!("link {link}"),
                ClassKey::Overlay(change, _) => format!("change {change}"),
            };
            let backlog_ns = shape.bandwidth.map_or(0, |bandwidth| {
                (u128::from(stats.queued_bytes) * 8_000_000_000 / u128::from(bandwidth.max(1))) as u64
            });
            if passed.packets + stats.drops == 0 {
                continue;
            }
            snapshot.classes.push(ClassView {
                name: format!("{from} -> {to} {layer}"),
                shape: (**shape).clone(),
                passed,
                drops: drops.clone().into_iter().collect(),
                backlog_ns,
            });
            snapshot.links.push(LinkView {
                from,
                to,
                seen: stats.packets + stats.drops + u64::from(stats.queued_packets),
                delivered: passed,
                drops: drops.into_iter().collect(),
                duplicated: 0,
                corrupted: 0,
                reordered: 0,
            });
            snapshot.waiting += u64::from(stats.queued_packets);
        }
        for (cause, count) in &own_drops {
            *snapshot.data.drops.entry(cause.clone()).or_default() += count;
        }
        snapshot.data.delivered.add(link.rx_packets, link.rx_bytes);
        snapshot.ports.push(PortView {
            port: port.0,
            name: self.name.clone(),
            network,
            addresses: plan.member(port).map(|m| m.addresses.clone()).unwrap_or_default(),
            sent: Traffic { packets: link.tx_packets, bytes: link.tx_bytes },
            received: Traffic { packets: link.rx_packets, bytes: link.rx_bytes },
            drops: own_drops,
        });
    }
}

/// Why a class drops: the kernel counts without telling.
fn cause(shape: &LinkShape) -> &'static str {
    let loses = match shape.loss {
        Loss::Random(chance) => !chance.is_never(),
        Loss::GilbertElliott { .. } => true,
    };
    match (shape.filter, loses, shape.bandwidth) {
        (Filter::Drop, ..) => "filter_drop",
        (Filter::Reject, ..) => "filter_reject",
        (_, true, None) => "loss",
        (_, true, Some(_)) => "loss_or_queue",
        (_, false, _) => "queue",
    }
}

/// Who receives the packets of a class, in words.
fn receivers(plan: &Plan, wanted: &Wanted, key: ClassKey, sender: PortId, network: &str) -> String {
    let name = |port: PortId| plan.member(port).map(|m| format!("{}/{network}", m.instance));
    if let ClassKey::Link(_, Some(to)) | ClassKey::Overlay(_, Some(to)) = key {
        return name(to).unwrap_or_else(|| "elsewhere".to_owned());
    }
    let hosts =
        wanted.table.iter().filter(|(net, of)| *of == Some(key) && net.prefix_len() == net.max_prefix_len());
    let owners = hosts.filter_map(|(net, _)| plan.owner(network, net.addr()));
    let mut owners: Vec<PortId> = owners.filter(|owner| *owner != sender).collect();
    owners.sort_unstable();
    owners.dedup();
    match owners[..] {
        [] => prefixes(wanted, key),
        [one] => name(one).unwrap_or_else(|| prefixes(wanted, key)),
        [one, ..] => format!("{} and {} more", name(one).unwrap_or_default(), owners.len() - 1),
    }
}

/// The prefixes of a class.
fn prefixes(wanted: &Wanted, key: ClassKey) -> String {
    let nets = wanted.table.iter().filter(|(_, of)| *of == Some(key)).map(|(net, _)| net.to_string());
    nets.collect::<Vec<_>>().join(" ")
}

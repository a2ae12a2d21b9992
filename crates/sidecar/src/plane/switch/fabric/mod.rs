//! The switch without its descriptors: frames go in at a port, and come out at a port when it is time.
//!
//! Time is an argument and output a closure, so that a whole network runs on virtual time as it runs in the pump.

mod forward;
mod release;
mod source;
mod state;
mod view;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use hdrhistogram::Histogram;
use testground_model::shape::LinkShape;

use super::config::{NetworkKind, PortSpec, SwitchConfig, SwitchError};
use super::counters::{Cause, Drops, Traffic};
use super::link::{Effects, Step};
use super::packet::VnetHeader;
use super::pool::Pool;
use super::queue::Departures;
use super::record::Decisions;
use super::table::{Table, Taken};
use crate::plan::{ClassId, Plan, PortId};
use state::{Class, CopyBudget, Departure, Node, Pair};

/// A frame on its way out: an offload header, and the frame in two parts.
#[derive(Debug, Clone, Copy)]
pub struct Emission<'a> {
    /// The slot of the port it is for.
    pub to: u32,
    /// What is left to the receiver's kernel.
    pub vnet: VnetHeader,
    /// The first part, often empty.
    pub head: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
}

/// Where frames go out; says why one could not.
pub type Emit<'a> = dyn FnMut(Emission<'_>) -> Result<(), Cause> + 'a;

/// All of a switch but its descriptors, its clock and its thread.
pub struct Fabric {
    seed: u64,
    networks: Vec<String>,
    table: Table,
    nodes: Vec<Option<Node>>,
    slots: HashMap<PortId, u32>,
    gateway: Option<u32>,
    pairs: HashMap<(u32, u32), Rc<RefCell<Pair>>>,
    classes: HashMap<ClassId, Rc<RefCell<Class>>>,
    /// What declared shapes mean, by their place in memory, which `plan` keeps: a link from all to all is one shape in
    /// very many classes.
    effects: HashMap<*const LinkShape, Rc<Effects>>,
    plan: Arc<Plan>,
    generation: u64,
    /// When the run's clock began.
    zero: u64,
    pool: Pool,
    scratch: Vec<u8>,
    departures: Departures<Departure>,
    steps: Vec<Step>,
    tallies: Tallies,
    lateness: Histogram<u64>,
    decisions: Option<Decisions>,
}

/// Counters of the whole switch.
#[derive(Debug, Default)]
struct Tallies {
    data: (Traffic, Drops),
    control: (Traffic, Drops),
    answered: u64,
    absorbed: u64,
    vlan: u64,
    fragment: u64,
    options: u64,
    not_ip: u64,
    group: u64,
}

/// Paths that a port remembers. Who sends to more addresses has them looked up again.
const PATHS: usize = 16_384;

// === impl Fabric ===

impl Fabric {
    /// A switch without ports.
    pub fn new(config: SwitchConfig) -> Fabric {
        let pool = Pool::new(config.memory);
        let lateness = Histogram::new_with_bounds(1, 60_000_000_000, 3).or_else(|_| Histogram::new(3));
        Fabric {
            seed: config.seed,
            networks: config.networks,
            table: Table::default(),
            nodes: Vec::new(),
            slots: HashMap::new(),
            gateway: None,
            pairs: HashMap::new(),
            classes: HashMap::new(),
            effects: HashMap::new(),
            plan: Arc::default(),
            generation: 0,
            zero: 0,
            scratch: pool.scratch(),
            pool,
            departures: Departures::default(),
            steps: Vec::new(),
            tallies: Tallies::default(),
            lateness: lateness.expect("three digits over 1 ns to 60 s are within the histogram's bounds"),
            decisions: None,
        }
    }

    /// Adds a port and returns its slot, by which packets name it; slots are never used twice.
    pub fn attach(&mut self, spec: &PortSpec) -> Result<u32, SwitchError> {
        self.check(spec)?;
        let slot = self.nodes.len() as u32;
        self.table
            .attach(spec.network, slot, spec.mac, &spec.addresses)
            .map_err(|taken| self.address_taken(&spec.name, taken))?;
        if spec.network == NetworkKind::Control && spec.gateway {
            self.gateway = Some(slot);
        }
        self.slots.insert(spec.port, slot);
        self.nodes.push(Some(Node {
            id: spec.port,
            name: spec.name.clone(),
            network: spec.network,
            mac: spec.mac,
            addresses: spec.addresses.clone(),
            framing: spec.framing,
            mtu: spec.mtu,
            gateway: spec.gateway,
            allow_peers: spec.allow_peers,
            up: true,
            sent: Traffic::default(),
            received: Traffic::default(),
            drops: Drops::default(),
            paths: HashMap::new(),
            copies: CopyBudget::default(),
        }));
        Ok(slot)
    }

    /// Says whether a port's interface takes packets, where its descriptor would not say so.
    pub fn set_up(&mut self, port: PortId, up: bool) -> Result<(), SwitchError> {
        let slot = self.slot(port)?;
        let Some(node) = &mut self.nodes[slot as usize] else { return Err(SwitchError::NoSuchPort(port)) };
        node.up = up;
        Ok(())
    }

    /// Gives a port these addresses in the place of all it had.
    pub fn readdress(&mut self, port: PortId, addresses: Vec<IpAddr>) -> Result<(), SwitchError> {
        let slot = self.slot(port)?;
        let Some(node) = &mut self.nodes[slot as usize] else { return Err(SwitchError::NoSuchPort(port)) };
        let (network, mac, name) = (node.network, node.mac, node.name.clone());
        self.table
            .readdress(network, slot, mac, &addresses)
            .map_err(|taken| self.address_taken(&name, taken))?;
        if let Some(node) = &mut self.nodes[slot as usize] {
            node.addresses = addresses;
        }
        Ok(())
    }

    /// Says whether a control port may talk to others that may too.
    pub fn allow_peers(&mut self, port: PortId, allow: bool) -> Result<(), SwitchError> {
        let slot = self.slot(port)?;
        if let Some(node) = &mut self.nodes[slot as usize] {
            node.allow_peers = allow;
        }
        Ok(())
    }

    /// Removes a port and returns its slot.
    pub fn detach(&mut self, port: PortId) -> Result<u32, SwitchError> {
        let slot = self.slot(port)?;
        self.slots.remove(&port);
        if let Some(node) = self.nodes[slot as usize].take() {
            self.table.detach(node.network, slot);
        }
        if self.gateway == Some(slot) {
            self.gateway = None;
        }
        self.pairs.retain(|(from, to), _| *from != slot && *to != slot);
        for node in self.nodes.iter_mut().flatten() {
            node.paths.retain(|(to, _), _| *to != slot);
        }
        Ok(slot)
    }

    /// The slot of a port.
    pub fn slot(&self, port: PortId) -> Result<u32, SwitchError> {
        self.slots.get(&port).copied().ok_or(SwitchError::NoSuchPort(port))
    }

    /// The name of the port in a slot, and its network.
    pub fn name(&self, slot: u32) -> Option<(&str, NetworkKind)> {
        self.node(slot).map(|n| (n.name.as_str(), n.network))
    }

    /// Puts a plan in force for packets that come from now on. What is in force for a pair is looked up when its next
    /// packet comes.
    pub fn install(&mut self, plan: Arc<Plan>, now: u64) {
        self.plan = plan;
        self.effects.clear();
        // A class that nothing has named since the last plan and in which nothing waits remembers nothing but its
        // counters.
        let last = self.generation;
        self.classes.retain(|_, class| {
            let class = class.borrow();
            class.generation == last || class.server.free_at() > now || !class.codel.is_empty()
        });
        self.generation += 1;
    }

    /// Counts packets from one port to another that went another way, where both are still there.
    pub fn passed_by(&mut self, from: PortId, to: PortId, packets: u64) {
        let (Ok(from), Ok(to)) = (self.slot(from), self.slot(to)) else { return };
        // Where nothing has passed there is no link to show.
        if packets > 0
            && let Some(pair) = self.pair(from, to)
        {
            pair.borrow_mut().flow.skip(packets);
        }
    }

    /// Says when the run's clock began, which schedules of plans installed from now on are reckoned from.
    pub fn begin(&mut self, zero: u64) {
        self.zero = zero;
    }

    /// Sets the counters of the whole switch and of classes back, and the record of lateness; ports and pairs keep theirs.
    pub fn forget(&mut self) {
        self.tallies = Tallies::default();
        self.lateness.reset();
        for class in self.classes.values() {
            let mut class = class.borrow_mut();
            (class.passed, class.drops) = (Traffic::default(), Drops::default());
        }
    }

    /// Notes every decision on a data network from now on.
    pub fn record(&mut self) {
        self.decisions.get_or_insert_default();
    }

    /// The decisions noted since the last call, as JSON lines, and how many.
    pub fn take_decisions(&mut self) -> Option<(Vec<u8>, u64)> {
        self.decisions.as_mut().and_then(Decisions::take)
    }

    /// Where the next frame is to be read into: longer than any frame.
    pub fn scratch(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    /// When the next packet that waits leaves, nanoseconds.
    pub fn next_due(&self) -> Option<u64> {
        self.departures.next_due()
    }

    fn node(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)?.as_ref()
    }

    fn node_mut(&mut self, slot: u32) -> Option<&mut Node> {
        self.nodes.get_mut(slot as usize)?.as_mut()
    }

    fn tally(&mut self, network: NetworkKind) -> &mut (Traffic, Drops) {
        match network {
            NetworkKind::Data(_) => &mut self.tallies.data,
            NetworkKind::Control => &mut self.tallies.control,
        }
    }

    fn check(&self, spec: &PortSpec) -> Result<(), SwitchError> {
        let name = || spec.name.clone();
        if self.slots.contains_key(&spec.port) {
            return Err(SwitchError::PortTaken(spec.port));
        }
        if !(68..=65_535).contains(&spec.mtu) {
            return Err(SwitchError::BadMtu { name: name(), mtu: spec.mtu });
        }
        match (spec.network, self.gateway.and_then(|slot| self.name(slot))) {
            (NetworkKind::Data(index), _) if index as usize >= self.networks.len() => {
                Err(SwitchError::NoSuchNetwork { name: name(), index, count: self.networks.len() })
            }
            (NetworkKind::Control, Some((owner, _))) if spec.gateway => {
                Err(SwitchError::GatewayTaken { name: name(), owner: owner.to_owned() })
            }
            _ => Ok(()),
        }
    }

    fn address_taken(&self, name: &str, taken: Taken) -> SwitchError {
        let (what, owner) = match taken {
            Taken::Mac(owner) => ("this hardware address".to_owned(), owner),
            Taken::Address(address, owner) => (address.to_string(), owner),
        };
        let owner = self.name(owner).map_or_else(String::new, |(name, _)| name.to_owned());
        SwitchError::AddressTaken { name: name.to_owned(), what, owner }
    }
}

//! What must be in force: for each packet from a port to an address, the class it travels in and that class's shape.
//!
//! Pure, and above both planes: the switch asks [`Plan::resolve`] for the first packet between two parties, the kernel
//! plane enumerates the same answers. Who may ask for what belongs in `request`; carrying it out belongs in the planes.
//!
//! Precedence, highest first: a declared change of the timeline; the sender's own rule with the longest prefix (the
//! later one of equals); the sender's own default, unless it is without any effect; the last declared link that
//! covers the pair; nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use testground_model::name::InstanceName;
use testground_model::shape::{Filter, LinkShape};
use testground_model::topology::{Endpoint, Link};

/// An interface of an instance on a data network, numbered from 0 in the order of attachment; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

/// Who is behind a port.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The port.
    pub port: PortId,
    /// The instance.
    pub instance: InstanceName,
    /// The data network's name.
    pub network: String,
    /// Regions the instance is in.
    pub regions: Vec<String>,
    /// Its addresses on this network, IPv4 and IPv6.
    pub addresses: Vec<IpAddr>,
}

/// What a member asked for its interface.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wishes {
    /// The shape of whatever no rule covers.
    pub default: LinkShape,
    /// Shapes by destination.
    pub rules: Vec<(IpNet, LinkShape)>,
}

/// A declared change in force for the pairs it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay {
    /// Its place in the timeline: what it is known by.
    pub id: u32,
    /// Whose packets.
    pub from: Endpoint,
    /// Where to.
    pub to: Endpoint,
    /// Whether the way back is meant too.
    pub both_ways: bool,
    /// On which data network.
    pub network: String,
    /// The shape in force.
    pub shape: Arc<LinkShape>,
}

/// Packets of one class share its bandwidth and its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClassId {
    /// No effect.
    Unshaped,
    /// The sender's default: one bandwidth for all that no rule covers.
    Default(PortId),
    /// The sender's rule with this index: one bandwidth for all that it covers.
    Rule(PortId, u32),
    /// A declared link: one bandwidth for each directed pair.
    Link {
        /// The sender.
        from: PortId,
        /// The receiver.
        to: PortId,
        /// Which of the declared links.
        link: u32,
    },
    /// A declared change: one bandwidth for each directed pair.
    Overlay {
        /// The sender.
        from: PortId,
        /// The receiver.
        to: PortId,
        /// Which change.
        change: u32,
    },
}

/// What is in force for a packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The class it travels in.
    pub class: ClassId,
    /// The shape of the class.
    pub shape: Arc<LinkShape>,
}

/// All that must be in force at one moment: a value, replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    members: HashMap<PortId, Member>,
    by_address: HashMap<(String, IpAddr), PortId>,
    wishes: HashMap<PortId, Wishes>,
    links: Vec<(Link, Arc<LinkShape>)>,
    overlays: Vec<Overlay>,
    transparent: Arc<LinkShape>,
}

// === impl Plan ===

impl Plan {
    /// A plan with these declared links and nobody attached.
    pub fn new(links: Vec<Link>) -> Plan {
        let links = links.into_iter().map(|l| (l.clone(), Arc::new(l.shape))).collect();
        Plan { links, ..Plan::default() }
    }

    /// Adds or replaces a member.
    pub fn attach(&mut self, member: Member) {
        self.detach(member.port);
        for address in &member.addresses {
            self.by_address.insert((member.network.clone(), *address), member.port);
        }
        self.members.insert(member.port, member);
    }

    /// Forgets a member and what it asked for.
    pub fn detach(&mut self, port: PortId) {
        self.wishes.remove(&port);
        if let Some(member) = self.members.remove(&port) {
            for address in member.addresses {
                self.by_address.remove(&(member.network.clone(), address));
            }
        }
    }

    /// Puts what a member asked for in the place of what it asked before.
    pub fn wish(&mut self, port: PortId, wishes: Wishes) {
        self.wishes.insert(port, wishes);
    }

    /// Puts these declared changes in force, in the place of all others; later ones win.
    pub fn overlay(&mut self, overlays: Vec<Overlay>) {
        self.overlays = overlays;
    }

    /// The member behind a port.
    pub fn member(&self, port: PortId) -> Option<&Member> {
        self.members.get(&port)
    }

    /// All members, in no order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whoever has this address on the network.
    pub fn owner(&self, network: &str, address: IpAddr) -> Option<PortId> {
        self.by_address.get(&(network.to_owned(), address)).copied()
    }

    /// What is in force for a packet from a port to an address. A port that nobody is behind is unshaped.
    pub fn resolve(&self, from: PortId, to: IpAddr) -> Decision {
        let unshaped = || Decision { class: ClassId::Unshaped, shape: Arc::clone(&self.transparent) };
        let Some(sender) = self.members.get(&from) else { return unshaped() };
        let receiver = self.owner(&sender.network, to).and_then(|port| self.members.get(&port));
        let covers = |from: &Endpoint, dest: &Endpoint, both: bool, network: &str| {
            network == sender.network
                && (covers(from, Some(sender), None) && covers(dest, receiver, Some(to))
                    || both && covers(dest, Some(sender), None) && covers(from, receiver, Some(to)))
        };
        let other = receiver.map_or(PortId(u32::MAX), |r| r.port);
        if let Some(o) = self.overlays.iter().rev().find(|o| covers(&o.from, &o.to, o.both_ways, &o.network))
        {
            let class = ClassId::Overlay { from, to: other, change: o.id };
            return Decision { class, shape: Arc::clone(&o.shape) };
        }
        if let Some(wishes) = self.wishes.get(&from) {
            let rule = wishes
                .rules
                .iter()
                .enumerate()
                .filter(|(_, (net, _))| net.contains(&to))
                .max_by_key(|(index, (net, _))| (net.prefix_len(), *index));
            if let Some((index, (_, shape))) = rule {
                return Decision { class: ClassId::Rule(from, index as u32), shape: Arc::new(shape.clone()) };
            }
            if !wishes.default.is_transparent() {
                return Decision { class: ClassId::Default(from), shape: Arc::new(wishes.default.clone()) };
            }
        }
        let link = self
            .links
            .iter()
            .enumerate()
            .rev()
            .find(|(_, (l, _))| covers(&l.from, &l.to, l.both_ways, &l.network));
        match link {
            Some((index, (_, shape))) => Decision {
                class: ClassId::Link { from, to: other, link: index as u32 },
                shape: Arc::clone(shape),
            },
            None => unshaped(),
        }
    }
}

fn covers(endpoint: &Endpoint, member: Option<&Member>, address: Option<IpAddr>) -> bool {
    match endpoint {
        Endpoint::All => true,
        Endpoint::Group(group) => member.is_some_and(|m| m.instance.group == *group),
        Endpoint::Instance(instance) => member.is_some_and(|m| m.instance == *instance),
        Endpoint::Region(region) => member.is_some_and(|m| m.regions.contains(region)),
        Endpoint::Subnet(net) => match address {
            Some(address) => net.contains(&address),
            None => member.is_some_and(|m| m.addresses.iter().any(|a| net.contains(a))),
        },
    }
}

/// Whether a decision lets nothing through.
pub fn is_cut(decision: &Decision) -> bool {
    decision.shape.filter != Filter::Accept
}

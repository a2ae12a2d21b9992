//! What must be in force: for each packet from a port to an address, the class it travels in and that class's shape.
//!
//! Pure, and above both planes: the switch asks [`Plan::resolve`] for the first packet between two parties, the kernel
//! plane enumerates the same answers with [`Plan::outgoing`], and what strangers send with [`Plan::incoming`]. Who may ask
//! for what belongs in `request`; carrying it out belongs in the planes.
//!
//! Precedence, highest first: a declared change of the timeline; the sender's own rule with the longest prefix (the
//! later one of equals); the sender's own default, unless it is without any effect; the last declared link that
//! covers the pair; nothing.
//!
//! A plan is cheap to clone: its parts are shared until one of the two is changed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use testground_model::name::InstanceName;
use testground_model::shape::{Filter, LinkShape};
use testground_model::topology::{Endpoint, Link};

pub(crate) use list::contains;
pub use list::{Declared, InForce, Later, Layer, words};
pub use outgoing::Touched;
pub use schedule::Schedule;

mod incoming;
mod list;
mod outgoing;
mod schedule;
#[cfg(test)]
mod tests;

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
    /// When packets may leave, in the place of the shape's bandwidth.
    pub schedule: Option<Arc<Schedule>>,
}

/// A declared change that takes back what earlier ones did to the pairs it covers.
#[derive(Debug, Clone, PartialEq)]
pub struct Lift {
    /// Its place in the timeline: overlays with a smaller one no longer count for its pairs.
    pub id: u32,
    /// Whose packets.
    pub from: Endpoint,
    /// Where to.
    pub to: Endpoint,
    /// Whether the way back is meant too.
    pub both_ways: bool,
    /// On which data network.
    pub network: String,
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
    /// When packets of the class may leave, in the place of the shape's bandwidth.
    pub schedule: Option<Arc<Schedule>>,
}

/// All that must be in force at one moment: a value, replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    members: Arc<HashMap<PortId, Arc<Member>>>,
    /// By network, so that a look-up needs no owned key.
    owners: HashMap<String, Arc<HashMap<IpAddr, PortId>>>,
    wishes: Arc<HashMap<PortId, Arc<Wanted>>>,
    links: Arc<Vec<(Link, Arc<LinkShape>)>>,
    overlays: Arc<Vec<Overlay>>,
    lifts: Arc<Vec<Lift>>,
    transparent: Arc<LinkShape>,
}

/// [`Wishes`] with shapes that decisions can share.
#[derive(Debug)]
struct Wanted {
    default: Arc<LinkShape>,
    default_counts: bool,
    rules: Vec<(IpNet, Arc<LinkShape>)>,
}

/// Where a packet goes, as far as a decision can depend on it.
#[derive(Clone, Copy)]
enum Destination {
    /// To one address.
    Host(IpAddr),
    /// To any address in a prefix that nothing more exact tells apart from the others in it.
    Prefix(IpNet),
}

// === impl Plan ===

impl Plan {
    /// A plan with these declared links and nobody attached.
    pub fn new(links: Vec<Link>) -> Plan {
        let mut plan = Plan::default();
        plan.declare(links);
        plan
    }

    /// Adds declared links behind those that are there: where two cover a pair, the later one counts.
    pub fn declare(&mut self, links: Vec<Link>) {
        let links = links.into_iter().map(|l| (l.clone(), Arc::new(l.shape)));
        Arc::make_mut(&mut self.links).extend(links);
    }

    /// Takes back all declared links of a network. Links of others keep the number that classes know them by
    /// only when they were declared before.
    pub fn undeclare(&mut self, network: &str) {
        Arc::make_mut(&mut self.links).retain(|(link, _)| link.network != network);
        if self.overlays.iter().any(|o| o.network == network) {
            Arc::make_mut(&mut self.overlays).retain(|o| o.network != network);
        }
    }

    /// Adds declared changes to those in force.
    pub fn overlay_more(&mut self, overlays: Vec<Overlay>) {
        if !overlays.is_empty() {
            Arc::make_mut(&mut self.overlays).extend(overlays);
        }
    }

    /// Adds or replaces a member.
    pub fn attach(&mut self, member: Member) {
        self.detach(member.port);
        let owners = self.owners.entry(member.network.clone()).or_default();
        let owners = Arc::make_mut(owners);
        owners.extend(member.addresses.iter().map(|address| (*address, member.port)));
        Arc::make_mut(&mut self.members).insert(member.port, Arc::new(member));
    }

    /// Forgets a member and what it asked for.
    pub fn detach(&mut self, port: PortId) {
        if self.wishes.contains_key(&port) {
            Arc::make_mut(&mut self.wishes).remove(&port);
        }
        if !self.members.contains_key(&port) {
            return;
        }
        let Some(member) = Arc::make_mut(&mut self.members).remove(&port) else { return };
        if let Some(owners) = self.owners.get_mut(&member.network) {
            let owners = Arc::make_mut(owners);
            for address in &member.addresses {
                // Whoever has taken the address since keeps it.
                if owners.get(address) == Some(&port) {
                    owners.remove(address);
                }
            }
        }
    }

    /// Puts what a member asked for in the place of what it asked before.
    pub fn wish(&mut self, port: PortId, wishes: Wishes) {
        let wanted = Wanted {
            default_counts: !wishes.default.is_transparent(),
            default: Arc::new(wishes.default),
            rules: wishes.rules.into_iter().map(|(net, shape)| (net, Arc::new(shape))).collect(),
        };
        Arc::make_mut(&mut self.wishes).insert(port, Arc::new(wanted));
    }

    /// What a member asked for, if it asked for anything.
    pub fn wishes(&self, port: PortId) -> Option<Wishes> {
        self.wishes.get(&port).map(|wanted| Wishes {
            default: (*wanted.default).clone(),
            rules: wanted.rules.iter().map(|(net, shape)| (*net, (**shape).clone())).collect(),
        })
    }

    /// Puts these declared changes in force, in the place of all others; later ones win.
    pub fn overlay(&mut self, overlays: Vec<Overlay>) {
        self.overlays = Arc::new(overlays);
    }

    /// Puts these lifts in force, in the place of all others.
    pub fn lift(&mut self, lifts: Vec<Lift>) {
        self.lifts = Arc::new(lifts);
    }

    /// The member behind a port.
    pub fn member(&self, port: PortId) -> Option<&Member> {
        self.members.get(&port).map(|member| &**member)
    }

    /// All members, in no order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values().map(|member| &**member)
    }

    /// Whoever has this address on the network.
    pub fn owner(&self, network: &str, address: IpAddr) -> Option<PortId> {
        self.owners.get(network)?.get(&address).copied()
    }

    /// What is in force for a packet from a port to an address. A port that nobody is behind is unshaped.
    pub fn resolve(&self, from: PortId, to: IpAddr) -> Decision {
        match self.members.get(&from) {
            Some(sender) => self.decide(sender, Destination::Host(to)),
            None => self.unshaped(),
        }
    }

    fn unshaped(&self) -> Decision {
        Decision::of(ClassId::Unshaped, &self.transparent)
    }

    fn decide(&self, sender: &Member, to: Destination) -> Decision {
        let from = sender.port;
        let receiver = match to {
            Destination::Host(address) => {
                self.owner(&sender.network, address).and_then(|port| self.members.get(&port))
            }
            Destination::Prefix(_) => None,
        };
        let receiver = receiver.map(|member| &**member);
        let other = receiver.map_or(PortId(u32::MAX), |r| r.port);
        let covers = |from: &Endpoint, dest: &Endpoint, both: bool, network: &str| {
            network == sender.network
                && (sends(from, sender) && receives(dest, receiver, to)
                    || both && sends(dest, sender) && receives(from, receiver, to))
        };

        let lifted =
            self.lifts.iter().filter(|l| covers(&l.from, &l.to, l.both_ways, &l.network)).map(|l| l.id).max();
        let overlay =
            self.overlays.iter().rev().find(|o| {
                lifted.is_none_or(|id| id <= o.id) && covers(&o.from, &o.to, o.both_ways, &o.network)
            });
        if let Some(o) = overlay {
            let class = ClassId::Overlay { from, to: other, change: o.id };
            return Decision { schedule: o.schedule.clone(), ..Decision::of(class, &o.shape) };
        }

        if let Some(wanted) = self.wishes.get(&from) {
            let rule = wanted
                .rules
                .iter()
                .enumerate()
                .filter(|(_, (net, _))| to.is_in(net))
                .max_by_key(|(index, (net, _))| (net.prefix_len(), *index));
            if let Some((index, (_, shape))) = rule {
                return Decision::of(ClassId::Rule(from, index as u32), shape);
            }
            if wanted.default_counts {
                return Decision::of(ClassId::Default(from), &wanted.default);
            }
        }

        let link = self
            .links
            .iter()
            .enumerate()
            .rev()
            .find(|(_, (l, _))| covers(&l.from, &l.to, l.both_ways, &l.network));
        match link {
            Some((index, (_, shape))) => {
                Decision::of(ClassId::Link { from, to: other, link: index as u32 }, shape)
            }
            None => self.unshaped(),
        }
    }
}

// === impl Decision ===

impl Decision {
    fn of(class: ClassId, shape: &Arc<LinkShape>) -> Decision {
        Decision { class, shape: Arc::clone(shape), schedule: None }
    }
}

/// Whether a decision lets nothing through.
pub fn is_cut(decision: &Decision) -> bool {
    decision.shape.filter != Filter::Accept
}

// === impl Destination ===

impl Destination {
    fn is_in(self, net: &IpNet) -> bool {
        match self {
            Destination::Host(address) => net.contains(&address),
            Destination::Prefix(prefix) => net.contains(&prefix),
        }
    }
}

fn sends(endpoint: &Endpoint, member: &Member) -> bool {
    match endpoint {
        Endpoint::All => true,
        Endpoint::Group(group) => member.instance.group == *group,
        Endpoint::Instance(instance) => member.instance == *instance,
        Endpoint::Region(region) => member.regions.contains(region),
        Endpoint::Subnet(net) => member.addresses.iter().any(|a| net.contains(a)),
    }
}

fn receives(endpoint: &Endpoint, member: Option<&Member>, to: Destination) -> bool {
    match endpoint {
        Endpoint::All => true,
        Endpoint::Subnet(net) => to.is_in(net),
        _ => member.is_some_and(|m| sends(endpoint, m)),
    }
}

//! What must be in force on an interface, as a value: classes, which destinations are in which, and routes that refuse. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use testground_linux::tc::HtbClass;
use testground_model::shape::{Filter, LinkShape};

use super::carry::{Leaf, Pacing, acts_per_packet, carry, is_shareable};
use crate::plan::{ClassId, Decision, Plan, PortId};

/// A class of one interface, known by what it is for: it keeps its place in the kernel while its shape changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClassKey {
    /// What the instance asked for whatever no rule covers.
    Default,
    /// A rule of the instance.
    Rule(u32),
    /// A declared link; to one receiver, or to all of them where their packets can't be told apart.
    Link(u32, Option<PortId>),
    /// A declared change, alike.
    Overlay(u32, Option<PortId>),
}

/// A class with its shape, and how the kernel carries it out.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// What was asked for.
    pub shape: Arc<LinkShape>,
    pub(super) htb: HtbClass,
    pub(super) leaf: Leaf,
}

/// What must be in force on an interface.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// The classes.
    pub classes: BTreeMap<ClassKey, Class>,
    /// Which class packets to a prefix are in, longest prefix first; none: they pass unshaped.
    pub table: Vec<(IpNet, Option<ClassKey>)>,
    /// Routes by which the sender is told that a destination is not to be reached, and those around which such a route lies.
    pub routes: BTreeMap<IpNet, Way>,
    /// Bytes of the longest packet that may pass whole, where super-packets have to be cut.
    pub longest: Option<u32>,
    /// What must be in force for what arrives from strangers, where any of it is shaped: its table is of prefixes that packets
    /// come from, and it has no routes.
    pub incoming: Option<Box<Wanted>>,
}

/// A route of the plane's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// The sender gets an error at once.
    Prohibited,
    /// By the interface, although a shorter prefix is prohibited.
    Through,
}

/// An Ethernet header, and a VLAN's tag.
const HEADERS: u32 = 18;

// === impl Wanted ===

impl Wanted {
    /// What a plan wants of the interface of a port whose networks are these: senders in them are known, all others strangers.
    pub fn of(plan: &Plan, port: PortId, subnets: &[IpNet], mtu: u32, pacing: Pacing) -> Wanted {
        let decisions = plan.outgoing(port);
        let strangers = plan.incoming(port, subnets);
        let incoming = (!strangers.is_empty()).then(|| Box::new(Wanted::carrying(&strangers, mtu, pacing)));
        let routes = routes(&decisions, subnets);
        Wanted { routes, incoming, ..Wanted::carrying(&decisions, mtu, pacing) }
    }

    /// The classes of these decisions, and which prefix is in which.
    fn carrying(decisions: &[(IpNet, Decision)], mtu: u32, pacing: Pacing) -> Wanted {
        let mut wanted = Wanted::default();
        for (prefix, decision) in decisions {
            let key = key(decision);
            if let Some(key) = key {
                if acts_per_packet(&decision.shape) {
                    wanted.longest = Some(mtu + HEADERS);
                }
                wanted.classes.entry(key).or_insert_with(|| {
                    let (htb, leaf) = carry(&decision.shape, pacing);
                    Class { shape: Arc::clone(&decision.shape), htb, leaf }
                });
            }
            wanted.table.push((*prefix, key));
        }
        wanted
    }
}

/// The class of a decision; none where it has no effect.
fn key(decision: &Decision) -> Option<ClassKey> {
    let shape = &decision.shape;
    if shape.is_transparent() {
        return None;
    }
    let receiver = |to| if is_shareable(shape) { None } else { Some(to) };
    Some(match decision.class {
        ClassId::Unshaped => return None,
        ClassId::Default(_) => ClassKey::Default,
        ClassId::Rule(_, rule) => ClassKey::Rule(rule),
        ClassId::Link { to, link, .. } => ClassKey::Link(link, receiver(to)),
        ClassId::Overlay { to, change, .. } => ClassKey::Overlay(change, receiver(to)),
    })
}

/// The routes that make a kernel refuse what is to be rejected, and nothing else: within the interface's networks the longest
/// prefix decides, as it does in the plan. A network that is rejected as a whole is halved, because its own prefix has a route.
fn routes(decisions: &[(IpNet, Decision)], subnets: &[IpNet]) -> BTreeMap<IpNet, Way> {
    let mut routes = BTreeMap::new();
    let rejects = |decision: &Decision| decision.shape.filter == Filter::Reject;
    if !decisions.iter().any(|(_, decision)| rejects(decision)) {
        return routes;
    }
    for subnet in subnets {
        let subnet = subnet.trunc();
        // What holds for the subnet as a whole: that of the longest prefix around it.
        let around = decisions.iter().find(|(prefix, _)| prefix.contains(&subnet));
        let whole = around.is_some_and(|(_, decision)| rejects(decision));
        if whole {
            let length = subnet.prefix_len() + 1;
            for half in subnet.subnets(length).ok().into_iter().flatten() {
                routes.insert(half, Way::Prohibited);
            }
        }
        let within = decisions.iter().filter(|(prefix, _)| *prefix != subnet && subnet.contains(prefix));
        for (prefix, decision) in within {
            let outer = decisions
                .iter()
                .filter(|(other, _)| other != prefix && other.contains(prefix))
                .max_by_key(|(other, _)| other.prefix_len());
            let outer_rejects = outer.is_some_and(|(_, decision)| rejects(decision));
            match (rejects(decision), outer_rejects) {
                (true, _) => routes.insert(*prefix, Way::Prohibited),
                (false, true) => routes.insert(*prefix, Way::Through),
                // A half of a rejected network may lie between the two.
                (false, false) => routes.remove(prefix),
            };
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use proptest::prelude::*;
    use testground_model::name::InstanceName;
    use testground_model::topology::{Endpoint, Link};

    use super::*;
    use crate::plan::{Member, Wishes};

    const ME: PortId = PortId(0);

    fn late(ms: u64) -> LinkShape {
        LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn plan(links: Vec<Link>) -> Plan {
        let mut plan = Plan::new(links);
        for port in 0..4u8 {
            plan.attach(Member {
                port: PortId(port.into()),
                instance: InstanceName::new("a", port.into()),
                network: "default".to_owned(),
                regions: vec![],
                addresses: vec![IpAddr::from([16, 0, 0, port + 2])],
            });
        }
        plan
    }

    fn all(shape: LinkShape) -> Link {
        Link {
            from: Endpoint::All,
            to: Endpoint::All,
            both_ways: false,
            network: "default".to_owned(),
            shape,
        }
    }

    fn wanted(plan: &Plan) -> Wanted {
        Wanted::of(plan, ME, &[net("16.0.0.0/16"), net("fd00::/64")], 1500, Pacing::Netem)
    }

    #[test]
    fn nothing_asked_for_is_nothing_wanted() {
        let wanted = wanted(&plan(vec![]));
        assert_eq!((wanted.classes.len(), wanted.routes.len(), wanted.longest), (0, 0, None));
        assert!(wanted.table.iter().all(|(_, key)| key.is_none()));
    }

    #[test]
    fn receivers_share_a_class_where_their_packets_can_t_be_told_apart() {
        let shared = wanted(&plan(vec![all(late(50))]));
        assert_eq!(shared.classes.keys().copied().collect::<Vec<_>>(), [ClassKey::Link(0, None)]);
        assert_eq!(shared.longest, None, "a latency delays a super-packet as a whole");
        let narrow = LinkShape { bandwidth: Some(1_000_000), ..late(50) };
        let apart = wanted(&plan(vec![all(narrow)]));
        // One for each receiver (itself too), and one for addresses that nobody has.
        assert_eq!(apart.classes.len(), 5);
        assert_eq!(apart.longest, Some(1518));
    }

    #[test]
    fn a_shape_that_changes_keeps_its_class() {
        let mut plan = plan(vec![]);
        let mut keys = Vec::new();
        for shape in [late(1), late(2), LinkShape { bandwidth: Some(8000), ..late(3) }] {
            plan.wish(ME, Wishes { default: shape.clone(), rules: vec![(net("16.0.0.3/32"), shape)] });
            keys.push(wanted(&plan).classes.keys().copied().collect::<Vec<_>>());
        }
        assert_eq!(keys, vec![vec![ClassKey::Default, ClassKey::Rule(0)]; 3]);
    }

    #[test]
    fn a_rejected_network_is_halved_and_what_is_not_rejected_passes() {
        let reject = LinkShape { filter: Filter::Reject, ..LinkShape::default() };
        let mut plan = plan(vec![]);
        let rules = vec![(net("16.0.0.4/32"), late(1)), (net("16.0.9.0/24"), LinkShape::default())];
        plan.wish(ME, Wishes { default: reject, rules });
        let routes = wanted(&plan).routes;
        let expected = [
            ("16.0.0.0/17", Way::Prohibited),
            ("16.0.0.4/32", Way::Through),
            ("16.0.9.0/24", Way::Through),
            ("16.0.128.0/17", Way::Prohibited),
            ("fd00::/65", Way::Prohibited),
            ("fd00:0:0:0:8000::/65", Way::Prohibited),
        ];
        assert_eq!(routes, expected.into_iter().map(|(net_text, way)| (net(net_text), way)).collect());
    }

    fn shape() -> impl Strategy<Value = LinkShape> {
        prop_oneof![
            Just(LinkShape::default()),
            Just(late(5)),
            Just(LinkShape { filter: Filter::Reject, ..LinkShape::default() }),
            Just(LinkShape { filter: Filter::Drop, ..LinkShape::default() }),
        ]
    }

    proptest! {
        /// The routes refuse what the plan rejects, and the table has the class that the plan says.
        #[test]
        fn routes_and_table_say_what_the_plan_says(
            default in shape(),
            rules in prop::collection::vec((0u8..8, 14u8..=32, shape()), 0..8),
        ) {
            let mut plan = plan(vec![]);
            let rule = |(host, length, shape)| (IpNet::new([16, 0, 0, host].into(), length).unwrap(), shape);
            plan.wish(ME, Wishes { default, rules: rules.into_iter().map(rule).collect() });
            let wanted = wanted(&plan);
            for last in 0..16u8 {
                let address = IpAddr::from([16, 0, 0, last]);
                let decision = plan.resolve(ME, address);
                let way = wanted.routes.iter().filter(|(net, _)| net.contains(&address));
                let way = way.max_by_key(|(net, _)| net.prefix_len()).map(|(_, way)| *way);
                prop_assert_eq!(way == Some(Way::Prohibited), decision.shape.filter == Filter::Reject, "{}", address);
                let found = wanted.table.iter().find(|(net, _)| net.contains(&address)).and_then(|(_, key)| *key);
                prop_assert_eq!(found, key(&decision), "{}", address);
            }
        }
    }
}

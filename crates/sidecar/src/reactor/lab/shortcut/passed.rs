//! What has taken a shortcut, from the counters of filters and interfaces, entered into the switch's own record.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use testground_linux::tc::{Handle, NetlinkError, Stats, TcSocket};
use testground_model::shape::LinkShape;

use super::{Shared, Side, opening};
use crate::plan::PortId;
use crate::plane::switch::counters::Traffic;
use crate::plane::switch::snapshot::{ClassView, LinkView, Snapshot};

/// What a way was given, and how many packets of it the receiver's interface did not take, because it was down.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    sent: Traffic,
    lost: u64,
}

// === impl Shared ===

impl Shared {
    pub(super) fn extend(&mut self, snapshot: &mut Snapshot) -> Result<(), NetlinkError> {
        let mut pairs: BTreeMap<(PortId, PortId), Passed> = BTreeMap::new();
        for (from, side) in &self.sides {
            let closed = side.before.iter().map(|(to, passed)| (*to, *passed));
            let open = passed(&mut self.tc, side)?.into_iter().map(|((to, _), passed)| (to, passed));
            for (to, passed) in closed.chain(open) {
                pairs.entry((*from, to)).or_default().add(passed);
            }
        }
        let mut sum = self.gone;
        for ((from, to), passed) in pairs {
            sum.add(passed);
            passed.enter(snapshot, from, to);
        }
        let arrived = sum.arrived();
        snapshot.data.delivered.add(arrived.packets, arrived.bytes);
        count(&mut snapshot.data.drops, "receiver_down", sum.lost);
        if sum.sent.packets > 0 {
            let name = "unshaped".to_owned();
            match snapshot.classes.iter_mut().find(|class| class.name == name) {
                Some(class) => class.passed.add(arrived.packets, arrived.bytes),
                None => snapshot.classes.push(ClassView {
                    name,
                    shape: LinkShape::default(),
                    passed: arrived,
                    drops: BTreeMap::new(),
                    backlog_ns: 0,
                }),
            }
        }
        self.between(snapshot)
    }

    /// What was lost between an instance and the switch, where neither of the two has seen it.
    fn between(&mut self, snapshot: &mut Snapshot) -> Result<(), NetlinkError> {
        let links = self.routes.links()?;
        for (port, side) in &self.sides {
            let full =
                links.iter().find(|link| link.index == side.tap).map_or(0, |link| link.stats.tx_dropped);
            let to_it = self.tc.filters(side.tap, Handle::CLSACT_INGRESS)?;
            let down = to_it.iter().map(|filter| filter.acted_on.overlimits).sum();
            if let Some(view) = snapshot.ports.iter_mut().find(|view| view.port == port.0) {
                count(&mut view.drops, "switch_full", full);
                view.received.packets = view.received.packets.saturating_sub(down);
            }
            count(&mut snapshot.data.drops, "switch_full", full);
            count(&mut snapshot.data.drops, "receiver_down", down);
            let delivered = &mut snapshot.data.delivered;
            delivered.packets = delivered.packets.saturating_sub(down);
        }
        Ok(())
    }
}

/// What has passed each open way of an interface.
pub(super) fn passed(
    tc: &mut TcSocket,
    side: &Side,
) -> Result<HashMap<(PortId, IpAddr), Passed>, NetlinkError> {
    let found = tc.filters(side.outer, Handle::CLSACT_INGRESS)?;
    let stats: HashMap<u16, Stats> =
        found.iter().filter(|f| f.acted_on.packets > 0).map(|f| (f.priority, f.acted_on)).collect();
    let passed = |number: &u16| stats.get(&opening(*number)).map(|stats| Passed::of(*stats));
    Ok(side.ways.iter().filter_map(|(way, number)| Some((*way, passed(number)?))).collect())
}

// === impl Passed ===

impl Passed {
    /// A filter sees packets behind their Ethernet header; an interface that is down has it count an overlimit.
    fn of(stats: Stats) -> Passed {
        let sent = Traffic { packets: stats.packets, bytes: stats.bytes + ETHERNET * stats.packets };
        Passed { sent, lost: stats.overlimits }
    }

    pub(super) fn add(&mut self, other: Passed) {
        self.sent.add(other.sent.packets, other.sent.bytes);
        self.lost += other.lost;
    }

    /// The bytes of what was lost are an average.
    fn arrived(self) -> Traffic {
        let Passed { sent: Traffic { packets, bytes }, lost } = self;
        let left = packets.saturating_sub(lost);
        let share = u128::from(bytes) * u128::from(left) / u128::from(packets.max(1));
        Traffic { packets: left, bytes: share as u64 }
    }

    /// Counts it with a pair of interfaces.
    fn enter(self, snapshot: &mut Snapshot, from: PortId, to: PortId) {
        let arrived = self.arrived();
        let port = |port: PortId| snapshot.ports.iter().position(|view| view.port == port.0);
        let (Some(from), Some(to)) = (port(from), port(to)) else { return };
        let (sender, receiver) = (snapshot.ports[from].name.clone(), snapshot.ports[to].name.clone());
        snapshot.ports[from].sent.add(self.sent.packets, self.sent.bytes);
        count(&mut snapshot.ports[from].drops, "receiver_down", self.lost);
        snapshot.ports[to].received.add(arrived.packets, arrived.bytes);
        let links = &mut snapshot.links;
        let at = links.iter().position(|link| link.from == sender && link.to == receiver);
        let at = at.unwrap_or_else(|| {
            links.push(LinkView {
                from: sender,
                to: receiver,
                seen: 0,
                delivered: Traffic::default(),
                drops: BTreeMap::new(),
                duplicated: 0,
                corrupted: 0,
                reordered: 0,
            });
            links.len() - 1
        });
        links[at].seen += self.sent.packets;
        links[at].delivered.add(arrived.packets, arrived.bytes);
        count(&mut links[at].drops, "receiver_down", self.lost);
    }
}

fn count(drops: &mut BTreeMap<String, u64>, cause: &str, packets: u64) {
    if packets > 0 {
        *drops.entry(cause.to_owned()).or_default() += packets;
    }
}

/// The length of an Ethernet header.
const ETHERNET: u64 = 14;

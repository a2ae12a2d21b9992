//! What has taken a shortcut, from the counters of filters and interfaces, entered into the switch's own record.

use std::collections::{BTreeMap, HashMap};

use testground_linux::tc::{Handle, NetlinkError, Stats, TcSocket};
use testground_model::shape::LinkShape;

use super::filters::{Door, open_door};
use super::{Shared, Side};
use crate::plan::PortId;
use crate::plane::switch::counters::{Cause, Traffic};
use crate::plane::switch::snapshot::{ClassView, LinkView, Snapshot};

/// What a way was given, and how many packets of it the receiver's interface did not take, because it was down.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    pub(super) sent: Traffic,
    lost: u64,
}

// === impl Shared ===

impl Shared {
    pub(super) fn extend(&mut self, snapshot: &mut Snapshot) -> Result<(), NetlinkError> {
        // First, while links have what came by the switch and nothing else.
        self.between(snapshot)?;
        let mut sum = self.gone;
        for (from, side) in &self.sides {
            let counted = passed(&mut self.tc, side)?;
            for (to, passed) in &side.before {
                sum.add(*passed);
                // The switch counts these among those that it has seen.
                passed.enter(snapshot, *from, *to, 0);
            }
            for (to, doors) in &side.ways {
                let passed = Passed::sum(doors, &counted);
                sum.add(passed);
                passed.enter(snapshot, *from, *to, passed.sent.packets);
            }
        }
        let arrived = sum.arrived();
        snapshot.data.delivered.add(arrived.packets, arrived.bytes);
        count(&mut snapshot.data.drops, Cause::ReceiverDown, sum.lost);
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
        Ok(())
    }

    /// What was lost between an instance and the switch, where neither of the two has seen it.
    fn between(&mut self, snapshot: &mut Snapshot) -> Result<(), NetlinkError> {
        let links = self.routes.links()?;
        for (port, side) in &self.sides {
            let full =
                links.iter().find(|link| link.index == side.tap).map_or(0, |link| link.stats.tx_dropped);
            if let Some(view) = snapshot.ports.iter_mut().find(|view| view.port == port.0) {
                count(&mut view.drops, Cause::SwitchFull, full);
            }
            count(&mut snapshot.data.drops, Cause::SwitchFull, full);
            let to_it = self.tc.filters(side.tap, Handle::CLSACT_INGRESS)?;
            not_taken(snapshot, *port, to_it.iter().map(|filter| filter.acted_on.overlimits).sum());
        }
        Ok(())
    }
}

/// Packets that the switch took for delivered, and the receiver's interface did not take, because it was down. Of several senders each
/// has lost its share of what it sent there: which packets it were, nobody has seen.
fn not_taken(snapshot: &mut Snapshot, to: PortId, packets: u64) {
    let Some(receiver) = snapshot.ports.iter_mut().find(|view| view.port == to.0).filter(|_| packets > 0)
    else {
        return;
    };
    let name = receiver.name.clone();
    receiver.received = less(receiver.received, packets);
    snapshot.data.delivered = less(snapshot.data.delivered, packets);
    count(&mut snapshot.data.drops, Cause::ReceiverDown, packets);
    let into = || snapshot.links.iter().enumerate().filter(|(_, link)| link.to == name);
    let (mut left, mut of) = (packets, into().map(|(_, link)| link.delivered.packets).sum::<u64>());
    let places: Vec<usize> = into().map(|(place, _)| place).collect();
    for place in places {
        let link = &mut snapshot.links[place];
        let sent = link.delivered.packets;
        let share = (u128::from(left) * u128::from(sent)).div_ceil(u128::from(of.max(1))) as u64;
        (left, of) = (left - share, of - sent);
        link.delivered = less(link.delivered, share);
        count(&mut link.drops, Cause::ReceiverDown, share);
        let (from, pair) = (link.from.clone(), format!("{} -> {name} ", link.from));
        if let Some(sender) = snapshot.ports.iter_mut().find(|view| view.name == from) {
            count(&mut sender.drops, Cause::ReceiverDown, share);
        }
        let mut classes = snapshot.classes.iter_mut().filter(|class| class.name.starts_with(&pair));
        if let (Some(class), None) = (classes.next(), classes.next()) {
            class.passed = less(class.passed, share);
            count(&mut class.drops, Cause::ReceiverDown, share);
        }
    }
}

/// Without so many of the packets; of the bytes an average.
fn less(traffic: Traffic, packets: u64) -> Traffic {
    let left = traffic.packets.saturating_sub(packets);
    let share = u128::from(traffic.bytes) * u128::from(left) / u128::from(traffic.packets.max(1));
    Traffic { packets: left, bytes: share as u64 }
}

/// What has passed the open doors of an interface, by their number.
pub(super) fn passed(tc: &mut TcSocket, side: &Side) -> Result<HashMap<u16, Passed>, NetlinkError> {
    let found = tc.filters(side.outer, Handle::CLSACT_INGRESS)?;
    let open = found.iter().filter(|filter| filter.acted_on.packets > 0);
    Ok(open.filter_map(|filter| Some((open_door(filter)?, Passed::of(filter.acted_on)))).collect())
}

// === impl Passed ===

impl Passed {
    /// A filter sees packets behind their Ethernet header; an interface that is down has it count an overlimit.
    fn of(stats: Stats) -> Passed {
        let sent = Traffic { packets: stats.packets, bytes: stats.bytes + ETHERNET * stats.packets };
        Passed { sent, lost: stats.overlimits }
    }

    /// Of several doors.
    pub(super) fn sum(doors: &[Door], counted: &HashMap<u16, Passed>) -> Passed {
        let mut sum = Passed::default();
        doors.iter().filter_map(|door| counted.get(&door.number)).for_each(|passed| sum.add(*passed));
        sum
    }

    pub(super) fn add(&mut self, other: Passed) {
        self.sent.add(other.sent.packets, other.sent.bytes);
        self.lost += other.lost;
    }

    fn arrived(self) -> Traffic {
        less(self.sent, self.lost)
    }

    /// Counts it with a pair of interfaces, for which the switch has not seen so many of the packets.
    fn enter(self, snapshot: &mut Snapshot, from: PortId, to: PortId, unseen: u64) {
        if self.sent.packets == 0 {
            return;
        }
        let arrived = self.arrived();
        let port = |port: PortId| snapshot.ports.iter().position(|view| view.port == port.0);
        let (Some(from), Some(to)) = (port(from), port(to)) else { return };
        let (sender, receiver) = (snapshot.ports[from].name.clone(), snapshot.ports[to].name.clone());
        snapshot.ports[from].sent.add(self.sent.packets, self.sent.bytes);
        count(&mut snapshot.ports[from].drops, Cause::ReceiverDown, self.lost);
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
        links[at].seen += unseen;
        links[at].delivered.add(arrived.packets, arrived.bytes);
        count(&mut links[at].drops, Cause::ReceiverDown, self.lost);
    }
}

fn count(drops: &mut BTreeMap<String, u64>, cause: Cause, packets: u64) {
    if packets > 0 {
        *drops.entry(cause.as_str().to_owned()).or_default() += packets;
    }
}

/// The length of an Ethernet header.
const ETHERNET: u64 = 14;

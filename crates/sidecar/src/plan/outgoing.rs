//! The decisions of one sender as a table by destination prefix: what a plane needs that can't ask packet by packet.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use testground_model::topology::Endpoint;

use super::{Decision, Destination, Overlay, Plan, PortId};

impl Plan {
    /// The decisions for whatever a port sends, by destination prefix, longest prefix first: looking an address up
    /// by longest prefix gives what [`Plan::resolve`] says. `0.0.0.0/0` and `::/0` are always in it; prefixes
    /// whose decision is that of the next shorter one are not. Empty for a port that nobody is behind.
    pub fn outgoing(&self, from: PortId) -> Vec<(IpNet, Decision)> {
        let Some(sender) = self.members.get(&from) else { return Vec::new() };
        let mut prefixes = BTreeSet::from([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]);
        let mut add = |endpoint: &Endpoint| {
            if let Endpoint::Subnet(net) = endpoint {
                prefixes.insert(net.trunc());
            }
        };
        for (link, _) in self.links.iter() {
            add(&link.from);
            add(&link.to);
        }
        for overlay in self.overlays.iter() {
            add(&overlay.from);
            add(&overlay.to);
        }
        for lift in self.lifts.iter() {
            add(&lift.from);
            add(&lift.to);
        }
        if let Some(wanted) = self.wishes.get(&from) {
            prefixes.extend(wanted.rules.iter().map(|(net, _)| net.trunc()));
        }
        let owned = self.owners.get(&sender.network);
        let hosts = owned.into_iter().flat_map(|owned| owned.keys().copied());
        prefixes.extend(hosts.map(IpNet::from));

        // Each behind those that lie around it, which are the ones still open.
        let mut prefixes: Vec<IpNet> = prefixes.into_iter().collect();
        prefixes.sort_by_key(|net| (net.network(), net.prefix_len()));
        let mut table: Vec<(IpNet, Decision)> = Vec::with_capacity(prefixes.len());
        let mut around: Vec<usize> = Vec::new();
        for prefix in prefixes {
            let to = match is_host(&prefix) {
                Some(address) => Destination::Host(address),
                None => Destination::Prefix(prefix),
            };
            let decision = self.decide(sender, to);
            while around.pop_if(|entry| !table[*entry].0.contains(&prefix)).is_some() {}
            if around.last().is_none_or(|entry| table[*entry].1 != decision) {
                around.push(table.len());
                table.push((prefix, decision));
            }
        }
        table.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        table
    }
}

/// Whose decisions may have changed from one plan to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Everybody's.
    All,
    /// Only those of these senders.
    Ports(Vec<PortId>),
}

impl Plan {
    /// Whose decisions may be other ones than in an earlier plan.
    pub fn touched_since(&self, before: &Plan) -> Touched {
        let same_links = Arc::ptr_eq(&self.links, &before.links) || self.links == before.links;
        let same = same_links
            && self.overlays == before.overlays
            && self.lifts == before.lifts
            && self.members == before.members;
        if !same {
            return Touched::All;
        }
        if Arc::ptr_eq(&self.wishes, &before.wishes) {
            return Touched::Ports(Vec::new());
        }
        let differs = |port: &PortId| match (self.wishes.get(port), before.wishes.get(port)) {
            (Some(now), Some(then)) => !Arc::ptr_eq(now, then),
            _ => true,
        };
        let ports: BTreeSet<PortId> = self.wishes.keys().chain(before.wishes.keys()).copied().collect();
        Touched::Ports(ports.into_iter().filter(differs).collect())
    }
}

impl Plan {
    /// Whether this plan certainly leaves the same pairs unshaped as an earlier one, because only the shapes of declared changes are
    /// others: a ramp has very many steps, which need not be looked at pair by pair.
    pub fn differs_in_degree_only(&self, before: &Plan) -> bool {
        let rest = Arc::ptr_eq(&self.links, &before.links)
            && Arc::ptr_eq(&self.members, &before.members)
            && Arc::ptr_eq(&self.wishes, &before.wishes)
            && self.lifts == before.lifts
            && self.overlays.len() == before.overlays.len();
        let unshaped = |o: &Overlay| o.shape.is_transparent() && o.schedule.is_none();
        let same = |(now, then): (&Overlay, &Overlay)| {
            unshaped(now) == unshaped(then)
                && (now.id, &now.from, &now.to, now.both_ways, &now.network)
                    == (then.id, &then.from, &then.to, then.both_ways, &then.network)
        };
        rest && self.overlays.iter().zip(before.overlays.iter()).all(same)
    }
}

fn is_host(net: &IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

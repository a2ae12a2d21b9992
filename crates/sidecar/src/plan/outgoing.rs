//! The decisions of one sender as a table by destination prefix: what a plane needs that can't ask packet by packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use testground_model::topology::Endpoint;

use super::{Decision, Destination, Plan, PortId};

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

        // From short to long, so that the next shorter prefix around one is decided already.
        let mut prefixes: Vec<IpNet> = prefixes.into_iter().collect();
        prefixes.sort_by_key(|net| (net.prefix_len(), net.network()));
        let mut table: Vec<(IpNet, Decision)> = Vec::with_capacity(prefixes.len());
        let shorter = |table: &[(IpNet, Decision)], prefix: &IpNet| {
            table.iter().rev().find(|(net, _)| net != prefix && net.contains(prefix)).map(|(_, d)| d.clone())
        };
        for prefix in prefixes {
            let to = match is_host(&prefix) {
                Some(address) => Destination::Host(address),
                None => Destination::Prefix(prefix),
            };
            let decision = self.decide(sender, to);
            if shorter(&table, &prefix).is_none_or(|around| around != decision) {
                table.push((prefix, decision));
            }
        }
        table.reverse();
        table
    }
}

fn is_host(net: &IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

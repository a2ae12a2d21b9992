//! The decisions for what reaches one receiver from senders that are no instance, as a table by source prefix: nobody but the
//! receiver's side can shape it. A sender that is known shapes what it sends by itself.

use std::collections::BTreeSet;

use ipnet::IpNet;
use testground_model::topology::Endpoint;

use super::{ClassId, Decision, Member, Plan, PortId, sends};

/// Stands for a sender that has no port.
const STRANGER: PortId = PortId(u32::MAX);

impl Plan {
    /// The decisions for whatever strangers send to a port, by source prefix, longest prefix first; `known` are the addresses
    /// that are no strangers', whatever is declared for them. An address in no prefix is not shaped; the table is empty when
    /// none is. Only links and changes that name a subnet or an address are meant: `*` and the like are the run's own.
    pub fn incoming(&self, to: PortId, known: &[IpNet]) -> Vec<(IpNet, Decision)> {
        let Some(receiver) = self.members.get(&to) else { return Vec::new() };
        let mut prefixes = BTreeSet::new();
        let mut add = |from: &Endpoint, to: &Endpoint, both_ways: bool| {
            for endpoint in std::iter::once(from).chain(both_ways.then_some(to)) {
                if let Endpoint::Subnet(net) = endpoint {
                    prefixes.insert(net.trunc());
                }
            }
        };
        self.links.iter().for_each(|(l, _)| add(&l.from, &l.to, l.both_ways));
        self.overlays.iter().for_each(|o| add(&o.from, &o.to, o.both_ways));
        self.lifts.iter().for_each(|l| add(&l.from, &l.to, l.both_ways));
        let is_known = |prefix: &IpNet| known.iter().any(|net| net.contains(prefix));
        if prefixes.iter().all(is_known) {
            return Vec::new();
        }
        prefixes.extend(known.iter().map(IpNet::trunc));

        let decide = |prefix: IpNet| match is_known(&prefix) {
            true => self.unshaped(),
            false => self.decide_for_stranger(&prefix, receiver),
        };
        let mut table: Vec<_> = prefixes.into_iter().map(|prefix| (prefix, decide(prefix))).collect();
        if table.iter().all(|(_, decision)| decision.shape.is_transparent()) {
            return Vec::new();
        }
        table.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        table
    }

    /// As [`Plan::resolve`] does it, but that a stranger asks for nothing, and is meant by its address only.
    fn decide_for_stranger(&self, source: &IpNet, receiver: &Member) -> Decision {
        let is_from = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Subnet(net) if net.contains(source));
        let covers = |from: &Endpoint, to: &Endpoint, both: bool, network: &str| {
            network == receiver.network
                && (is_from(from) && sends(to, receiver) || both && is_from(to) && sends(from, receiver))
        };
        let lifted =
            self.lifts.iter().filter(|l| covers(&l.from, &l.to, l.both_ways, &l.network)).map(|l| l.id).max();
        let overlay =
            self.overlays.iter().rev().find(|o| {
                lifted.is_none_or(|id| id <= o.id) && covers(&o.from, &o.to, o.both_ways, &o.network)
            });
        let (from, to) = (STRANGER, receiver.port);
        if let Some(o) = overlay {
            return Decision::of(ClassId::Overlay { from, to, change: o.id }, &o.shape);
        }
        let mut links = self.links.iter().enumerate().rev();
        match links.find(|(_, (l, _))| covers(&l.from, &l.to, l.both_ways, &l.network)) {
            Some((link, (_, shape))) => Decision::of(ClassId::Link { from, to, link: link as u32 }, shape),
            None => self.unshaped(),
        }
    }
}

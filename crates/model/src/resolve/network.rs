//! Data networks and declared links.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Member, Resolver, near};
use crate::composition::{LinkSpec, NetworkSpec, SelectorSpec};
use crate::diagnostic::{Place, names};
use crate::name::InstanceName;
use crate::reader::At;
use crate::shape::LinkShape;
use crate::topology::{
    CONTROL_SUBNET, CONTROL_SUBNET6, DEFAULT_MTU, DEFAULT_NETWORK, Endpoint, Link, Network, default_subnet,
    default_subnet6,
};

/// What selectors are looked up in: the parts of one run.
pub(super) struct Scene<'a> {
    pub(super) members: &'a [Member<'a>],
    /// Instances of each member, where that is known.
    pub(super) counts: Option<&'a [u32]>,
    pub(super) regions: &'a BTreeMap<String, Vec<InstanceName>>,
    pub(super) networks: &'a [Network],
}

impl Resolver<'_> {
    /// The data networks: `default` first, then those of the composition in their order.
    pub(super) fn networks(&self) -> Vec<Network> {
        let specs = &self.composition.networks;
        let default = specs.iter().find(|spec| spec.name.value == DEFAULT_NETWORK);
        let others = specs.iter().filter(|spec| spec.name.value != DEFAULT_NETWORK);
        let mut networks: Vec<Network> = Vec::new();
        for spec in std::iter::once(default).chain(others.map(Some)) {
            let network = self.network(spec, &networks);
            networks.push(network);
        }
        networks
    }

    fn network(&self, spec: Option<&NetworkSpec>, earlier: &[Network]) -> Network {
        let wanted4 = spec.and_then(|s| s.subnet.as_ref());
        let wanted6 = spec.and_then(|s| s.subnet6.as_ref());
        let typed: Vec<Ipv4Net> =
            self.composition.networks.iter().filter_map(|s| s.subnet.as_ref()).map(|s| s.value).collect();
        let typed6: Vec<Ipv6Net> =
            self.composition.networks.iter().filter_map(|s| s.subnet6.as_ref()?.value).collect();
        // A default subnet keeps clear of every other network, also of those further down in the file.
        let free = |net: &Ipv4Net| {
            !typed.iter().any(|t| overlap4(t, net)) && !earlier.iter().any(|e| overlap4(&e.subnet, net))
        };
        let free6 = |net: &Ipv6Net| {
            !typed6.iter().any(|t| overlap6(t, net))
                && !earlier.iter().filter_map(|e| e.subnet6).any(|e| overlap6(&e, net))
        };
        let subnet = match wanted4 {
            Some(wanted) => {
                self.check_subnet(&wanted.place, IpNet::V4(wanted.value), earlier);
                wanted.value
            }
            None => (0..4096).map(default_subnet).find(free).unwrap_or_else(|| default_subnet(0)),
        };
        let subnet6 = match wanted6 {
            Some(At { value: None, .. }) => None,
            Some(At { value: Some(wanted), place }) => {
                self.check_subnet(place, IpNet::V6(*wanted), earlier);
                Some(*wanted)
            }
            None => (0..4096).map(default_subnet6).find(free6),
        };
        let mtu = spec.and_then(|s| s.mtu.as_ref());
        if let Some(mtu) = mtu.filter(|m| m.value < 1280 && subnet6.is_some()) {
            self.error(mtu.place.error(format!(
                "{} is out of range: a network with IPv6 needs an mtu of at least 1280 (subnet6 = false switches IPv6 off)",
                mtu.value
            )));
        }
        let name = spec.map_or(DEFAULT_NETWORK, |s| &s.name.value).to_owned();
        Network { name, subnet, subnet6, mtu: mtu.map_or(DEFAULT_MTU, |m| m.value) }
    }

    fn check_subnet(&self, at: &Place, net: IpNet, earlier: &[Network]) {
        if net.trunc() != net {
            let message = format!("{net} has bits set beyond its prefix");
            self.error(at.error(message).suggest(net.trunc().to_string()));
        }
        let control = match net {
            IpNet::V4(net) => overlap4(&net, &CONTROL_SUBNET).then(|| CONTROL_SUBNET.to_string()),
            IpNet::V6(net) => overlap6(&net, &CONTROL_SUBNET6).then(|| CONTROL_SUBNET6.to_string()),
        };
        if let Some(control) = control {
            self.error(at.error(format!("{net} overlaps with the control network {control}")));
        }
        let other = earlier.iter().find(|network| match net {
            IpNet::V4(net) => overlap4(&net, &network.subnet),
            IpNet::V6(net) => network.subnet6.is_some_and(|other| overlap6(&net, &other)),
        });
        if let Some(other) = other {
            self.error(at.error(format!("{net} overlaps with network {}", other.name)));
        }
        let (special, longest) = match net {
            IpNet::V4(net) => {
                let a = net.network();
                (
                    a.is_loopback()
                        || a.is_multicast()
                        || a.is_link_local()
                        || a.is_unspecified()
                        || a.octets()[0] >= 240,
                    30,
                )
            }
            IpNet::V6(net) => {
                let a = net.network();
                (a.is_loopback() || a.is_multicast() || a.is_unicast_link_local() || a.is_unspecified(), 126)
            }
        };
        if special {
            self.error(at.error(format!("{net} can't be a data network: loopback, link-local, multicast and reserved ranges have a meaning of their own")));
        }
        if net.prefix_len() > longest {
            self.error(at.error(format!("{net} is too small: a prefix of at most /{longest} is allowed")));
        }
    }

    /// Whether every network has an address for every instance.
    pub(super) fn check_room(&self, networks: &[Network], instances: u32) {
        // A subnet that is too small for anybody is a mistake of its own.
        for network in networks.iter().filter(|n| n.subnet.prefix_len() <= 30) {
            // The network's own address, the gateway's and the broadcast address are given to nobody.
            let room = (1u64 << (32 - network.subnet.prefix_len())).saturating_sub(3);
            let room6 = network.subnet6.map_or(u64::MAX, |net| {
                1u64.checked_shl(128 - u32::from(net.prefix_len())).map_or(u64::MAX, |n| n.saturating_sub(2))
            });
            let room6 =
                if network.subnet6.is_some_and(|net| net.prefix_len() <= 64) { u64::MAX } else { room6 };
            if u64::from(instances) <= room.min(room6) {
                continue;
            }
            let spec = self.composition.networks.iter().find(|s| s.name.value == network.name);
            let at = spec.map_or_else(|| self.composition.source.start(), |s| s.name.place.clone());
            self.error(at.error(format!(
                "network {} has room for {} instances, and the run has {instances}",
                network.name,
                room.min(room6)
            )));
        }
    }

    /// All declared links: those between regions first, so that `[[links]]` count over them.
    pub(super) fn links(&self, scene: &Scene<'_>) -> Vec<Link> {
        let mut links = self.region_links(scene);
        links.extend(self.composition.links.iter().filter_map(|spec| self.link(spec, scene)));
        links
    }

    fn link(&self, spec: &LinkSpec, scene: &Scene<'_>) -> Option<Link> {
        let network = self.network_name(spec.network.as_ref(), scene);
        let (from, to) =
            (self.endpoint(&spec.from, &network, scene), self.endpoint(&spec.to, &network, scene));
        let shape = spec.shape.over(&LinkShape::default());
        self.warn_without_effect(&spec.shape, std::slice::from_ref(&shape));
        let (from, to) = (from?, to?);
        if let Some(only) = same_instance(&from, &to, scene) {
            self.error(spec.from.place.warning(format!(
                "this link covers nothing: both of its ends are {only} alone, and an instance has no link to itself"
            )));
            return None;
        }
        Some(Link { from, to, both_ways: spec.both, network, shape })
    }

    /// The data network that is meant; an unknown one is reported.
    pub(super) fn network_name(&self, named: Option<&At<String>>, scene: &Scene<'_>) -> String {
        let Some(named) = named else { return DEFAULT_NETWORK.to_owned() };
        let known = || scene.networks.iter().map(|n| n.name.as_str());
        if !known().any(|n| n == named.value) {
            let message = format!("unknown network {:?}; known are {}", named.value, names(known()));
            self.error(named.place.error(message).suggest_nearest(&named.value, known()));
        }
        named.value.clone()
    }

    /// What a selector means in this run. `None` when it names nothing in it: unknown names are reported, those of
    /// another run's groups and regions are not.
    pub(super) fn endpoint(
        &self,
        selector: &At<SelectorSpec>,
        network: &str,
        scene: &Scene<'_>,
    ) -> Option<Endpoint> {
        let at = &selector.place;
        match &selector.value {
            SelectorSpec::All => Some(Endpoint::All),
            SelectorSpec::Group(group) => {
                self.group_in(at, group, scene).map(|_| Endpoint::Group(group.clone()))
            }
            SelectorSpec::Instance(instance) => {
                let member = self.group_in(at, &instance.group, scene)?;
                let count = scene.counts?[member];
                if instance.index >= count {
                    let last = count - 1;
                    self.error(at.error(format!(
                        "group {} has {count} instances, so {instance} is none of them: 0 to {last} is allowed",
                        instance.group
                    )));
                    return None;
                }
                Some(Endpoint::Instance(instance.clone()))
            }
            SelectorSpec::Region(region) => {
                if scene.regions.contains_key(region) {
                    return Some(Endpoint::Region(region.clone()));
                }
                let known = self.declared_regions();
                if !known.contains(&region.as_str()) {
                    let message = format!(
                        "no group is in region {region:?}; there are {}",
                        names(known.iter().copied())
                    );
                    self.error(super::with_suggestion(
                        at.error(message),
                        near(region, known).map(|r| format!("region:{r}")).as_deref(),
                    ));
                }
                None
            }
            SelectorSpec::Subnet(net) => {
                let of = scene.networks.iter().find(|n| n.name == network)?;
                let inside = match net {
                    IpNet::V4(net) => overlap4(net, &of.subnet),
                    IpNet::V6(net) => of.subnet6.is_some_and(|of| overlap6(net, &of)),
                };
                if !inside {
                    let of6 = of.subnet6.map(|n| format!(", {n}")).unwrap_or_default();
                    self.error(
                        at.error(format!("{net} lies outside of network {} ({}{of6})", of.name, of.subnet)),
                    );
                }
                Some(Endpoint::Subnet(*net))
            }
        }
    }

    fn group_in(&self, at: &Place, group: &str, scene: &Scene<'_>) -> Option<usize> {
        let found = scene.members.iter().position(|m| m.id().value == group);
        let in_runs =
            self.composition.runs.iter().flat_map(|run| run.groups.iter().map(|g| g.id.value.as_str()));
        let mut known: Vec<&str> = self.composition.groups.iter().map(|g| g.id.value.as_str()).collect();
        known.extend(in_runs);
        known.sort_unstable();
        known.dedup();
        if found.is_none() && !known.contains(&group) {
            let message = format!(
                "{group:?} selects nothing: a group ({}), GROUP[INDEX], region:NAME, a subnet or * is expected",
                names(known.iter().copied())
            );
            let mistake = at.error(message);
            self.error(match group {
                "all" => mistake.suggest("*"),
                _ => mistake.suggest_nearest(group, known),
            });
        }
        found
    }
}

/// The instance that is all that two selectors cover, if it is one and the same.
pub(super) fn same_instance(from: &Endpoint, to: &Endpoint, scene: &Scene<'_>) -> Option<InstanceName> {
    let only = |end: &Endpoint| -> Option<InstanceName> {
        let counts = scene.counts?;
        match end {
            Endpoint::Instance(name) => Some(name.clone()),
            Endpoint::Group(group) => {
                let member = scene.members.iter().position(|m| m.id().value == *group)?;
                (counts[member] == 1).then(|| InstanceName::new(group.clone(), 0))
            }
            Endpoint::Region(region) => match &scene.regions.get(region)?[..] {
                [only] => Some(only.clone()),
                _ => None,
            },
            Endpoint::All => match (scene.members, counts) {
                ([member], [1]) => Some(InstanceName::new(member.id().value.clone(), 0)),
                _ => None,
            },
            Endpoint::Subnet(_) => None,
        }
    };
    only(from).filter(|from| only(to).as_ref() == Some(from))
}

fn overlap4(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

fn overlap6(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    a.contains(b) || b.contains(a)
}

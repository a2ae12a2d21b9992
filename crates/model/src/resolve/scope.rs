//! Instances that no declared selector tells apart, so that pairs of thousands of instances can be compared.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::network::Scene;
use crate::address;
use crate::name::InstanceName;
use crate::topology::Endpoint;

/// The most pairs of classes that one entry of a timeline may cover.
pub(super) const MAX_PAIRS: usize = 250_000;

/// The classes of a run's instances.
pub(super) struct Scope {
    pub(super) classes: Vec<Class>,
    /// What pairs are told apart by: both where a selector names addresses, one that stands for both otherwise.
    families: &'static [Family],
}

/// By which of its addresses an instance is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// Packets from one class to the addresses of another.
pub(super) type Pair = (usize, usize, Family);

/// Instances that every declared selector covers alike.
pub(super) struct Class {
    group: String,
    region: Option<String>,
    /// The subnets of selectors that its members' first addresses lie in.
    subnets: Vec<IpNet>,
    /// The instance, where a selector names it alone.
    named: Option<InstanceName>,
    members: Vec<InstanceName>,
    /// Whether it is all of its group, or all of its region.
    whole_group: bool,
    whole_region: bool,
}

// === impl Scope ===

impl Scope {
    /// Sorts the instances of a run by what the selectors say of them.
    pub(super) fn new<'e>(scene: &Scene<'_>, selectors: impl Iterator<Item = &'e Endpoint>) -> Scope {
        let mut named: BTreeSet<&InstanceName> = BTreeSet::new();
        let mut subnets: BTreeSet<IpNet> = BTreeSet::new();
        for end in selectors {
            match end {
                Endpoint::Instance(name) => {
                    named.insert(name);
                }
                Endpoint::Subnet(net) => {
                    subnets.insert(*net);
                }
                _ => {}
            }
        }
        let region_of: BTreeMap<&InstanceName, &String> =
            scene.regions.iter().flat_map(|(region, all)| all.iter().map(move |i| (i, region))).collect();
        let mut classes: Vec<Class> = Vec::new();
        // Addresses follow the order of the groups.
        let mut number = 0;
        for (member, &count) in scene.members.iter().zip(scene.counts.unwrap_or_default()) {
            let group = &member.id().value;
            let first = classes.len();
            let mut alike: BTreeMap<(Option<&String>, Vec<IpNet>), usize> = BTreeMap::new();
            for instance in (0..count).map(|i| InstanceName::new(group.clone(), i)) {
                let region = region_of.get(&instance).copied();
                let is_named = named.contains(&instance);
                let within = within(&subnets, scene, number);
                number += 1;
                let key = (region, within.clone());
                let known = alike.get(&key).copied().filter(|_| !is_named);
                if let Some(known) = known {
                    classes[known].members.push(instance);
                    continue;
                }
                if !is_named {
                    alike.insert(key, classes.len());
                }
                classes.push(Class {
                    group: group.clone(),
                    region: region.cloned(),
                    subnets: within,
                    named: is_named.then(|| instance.clone()),
                    members: vec![instance],
                    whole_group: false,
                    whole_region: false,
                });
            }
            if let [only] = &mut classes[first..] {
                only.whole_group = true;
            }
        }
        for class in &mut classes {
            let region = class.region.as_ref().and_then(|r| scene.regions.get(r));
            class.whole_region = region.is_some_and(|all| all.len() == class.members.len());
        }
        let families: &[Family] = if subnets.is_empty() { &[Family::V4] } else { &[Family::V4, Family::V6] };
        Scope { classes, families }
    }

    /// The ordered pairs of classes between two selectors, sorted; selectors by address cover whoever begins with
    /// one. `None` when there are too many to look at.
    pub(super) fn pairs(&self, from: &Endpoint, to: &Endpoint, both_ways: bool) -> Option<Vec<Pair>> {
        let mut pairs = self.one_way(from, to)?;
        if both_ways {
            pairs.extend(self.one_way(to, from)?);
        }
        // An instance has no link to itself.
        pairs.retain(|&(a, b, _)| a != b || self.classes[a].members.len() > 1);
        pairs.sort_unstable();
        pairs.dedup();
        Some(pairs)
    }

    fn one_way(&self, from: &Endpoint, to: &Endpoint) -> Option<Vec<Pair>> {
        let (senders, receivers) = (self.classes_in(from), self.classes_in(to));
        if senders.len() * receivers.len() > MAX_PAIRS {
            return None;
        }
        let mut pairs = Vec::with_capacity(senders.len() * receivers.len() * self.families.len());
        for &family in self.families.iter().filter(|family| family.is_named_by(to)) {
            for &a in &senders {
                pairs.extend(receivers.iter().map(|&b| (a, b, family)));
            }
        }
        Some(pairs)
    }

    /// The classes that a selector covers.
    fn classes_in(&self, end: &Endpoint) -> Vec<usize> {
        (0..self.classes.len()).filter(|&i| self.classes[i].is_in(end)).collect()
    }

    /// Whether one selector covers all that another does; `None` when it covers a part of it. Subnets are compared as such,
    /// so that addresses which nobody begins with count too.
    pub(super) fn covers(&self, outer: &Endpoint, inner: &Endpoint) -> Option<bool> {
        match (outer, inner) {
            (Endpoint::All, _) => return Some(true),
            (Endpoint::Subnet(outer), Endpoint::Subnet(inner)) if outer.contains(inner) => return Some(true),
            (Endpoint::Subnet(outer), Endpoint::Subnet(inner)) if inner.contains(outer) => return None,
            (Endpoint::Subnet(_), Endpoint::Subnet(_)) => return Some(false),
            _ => {}
        }
        let (outer, inner) = (self.classes_in(outer), self.classes_in(inner));
        match inner.iter().filter(|class| outer.contains(class)).count() {
            0 => Some(false),
            n if n == inner.len() => Some(true),
            _ => None,
        }
    }

    /// A pair of classes by name, such as `a[4] -> b[4]`.
    pub(super) fn show(&self, (from, to, _): Pair) -> String {
        let name = |class: usize| match &self.classes[class] {
            Class { named: None, whole_group: true, group, .. } => group.clone(),
            class => class.members[0].to_string(),
        };
        format!("{} -> {}", name(from), name(to))
    }
}

/// Which subnets the addresses lie in that the run's `k`-th instance begins with.
fn within(subnets: &BTreeSet<IpNet>, scene: &Scene<'_>, k: u32) -> Vec<IpNet> {
    if subnets.is_empty() {
        return Vec::new();
    }
    let nets = scene.networks.iter().flat_map(|n| [Some(IpNet::V4(n.subnet)), n.subnet6.map(IpNet::V6)]);
    let addresses: Vec<_> = nets.flatten().filter_map(|net| address::initial(net, k)).collect();
    subnets.iter().filter(|net| addresses.iter().any(|a| net.contains(a))).copied().collect()
}

// === impl Family ===

impl Family {
    /// Whether a selector of receivers means addresses of this family too.
    fn is_named_by(self, to: &Endpoint) -> bool {
        match to {
            Endpoint::Subnet(IpNet::V4(_)) => self == Family::V4,
            Endpoint::Subnet(IpNet::V6(_)) => self == Family::V6,
            _ => true,
        }
    }
}

// === impl Class ===

impl Class {
    /// Whether a selector covers it.
    pub(super) fn is_in(&self, end: &Endpoint) -> bool {
        match end {
            Endpoint::All => true,
            Endpoint::Group(group) => self.group == *group,
            Endpoint::Instance(instance) => self.named.as_ref() == Some(instance),
            Endpoint::Region(region) => self.region.as_ref() == Some(region),
            Endpoint::Subnet(net) => self.subnets.contains(net),
        }
    }

    /// Whether a selector of receivers covers its addresses of a family.
    pub(super) fn receives(&self, end: &Endpoint, family: Family) -> bool {
        family.is_named_by(end) && self.is_in(end)
    }

    /// Selectors that cover it and nobody else.
    pub(super) fn ends(&self) -> Vec<Endpoint> {
        match (&self.named, &self.region) {
            (Some(name), _) => vec![Endpoint::Instance(name.clone())],
            (None, _) if self.whole_group => vec![Endpoint::Group(self.group.clone())],
            (None, Some(region)) if self.whole_region => vec![Endpoint::Region(region.clone())],
            _ => self.members.iter().cloned().map(Endpoint::Instance).collect(),
        }
    }
}

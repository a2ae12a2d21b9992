//! Instances that no declared selector tells apart, so that pairs of thousands of instances can be compared.

use std::collections::{BTreeMap, BTreeSet};

use super::network::Scene;
use crate::name::InstanceName;
use crate::topology::Endpoint;

/// The most pairs of classes that one entry of a timeline may cover.
pub(super) const MAX_PAIRS: usize = 250_000;

/// The classes of a run's instances.
pub(super) struct Scope {
    pub(super) classes: Vec<Class>,
}

/// Instances that every declared selector covers alike.
pub(super) struct Class {
    group: String,
    region: Option<String>,
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
        let named: BTreeSet<&InstanceName> = selectors
            .filter_map(|end| match end {
                Endpoint::Instance(name) => Some(name),
                _ => None,
            })
            .collect();
        let region_of: BTreeMap<&InstanceName, &String> =
            scene.regions.iter().flat_map(|(region, all)| all.iter().map(move |i| (i, region))).collect();
        let mut classes: Vec<Class> = Vec::new();
        for (member, &count) in scene.members.iter().zip(scene.counts.unwrap_or_default()) {
            let group = &member.id().value;
            let first = classes.len();
            let mut by_region: BTreeMap<Option<&String>, usize> = BTreeMap::new();
            for instance in (0..count).map(|i| InstanceName::new(group.clone(), i)) {
                let region = region_of.get(&instance).copied();
                let is_named = named.contains(&instance);
                let known = by_region.get(&region).copied().filter(|_| !is_named);
                if let Some(known) = known {
                    classes[known].members.push(instance);
                    continue;
                }
                if !is_named {
                    by_region.insert(region, classes.len());
                }
                classes.push(Class {
                    group: group.clone(),
                    region: region.cloned(),
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
        Scope { classes }
    }

    /// The ordered pairs of classes between two selectors, sorted; selectors by address may cover anybody. `None` when
    /// there are too many to look at.
    pub(super) fn pairs(
        &self,
        from: &Endpoint,
        to: &Endpoint,
        both_ways: bool,
    ) -> Option<Vec<(usize, usize)>> {
        let is_in = |end: &Endpoint| -> Vec<usize> {
            (0..self.classes.len()).filter(|&i| self.classes[i].is_in(end) != Some(false)).collect()
        };
        let (from, to) = (is_in(from), is_in(to));
        if from.len() * to.len() > MAX_PAIRS {
            return None;
        }
        let mut pairs: Vec<(usize, usize)> =
            from.iter().flat_map(|&a| to.iter().map(move |&b| (a, b))).collect();
        if both_ways {
            pairs.extend(pairs.clone().into_iter().map(|(a, b)| (b, a)));
        }
        // An instance has no link to itself.
        pairs.retain(|&(a, b)| a != b || self.classes[a].members.len() > 1);
        pairs.sort_unstable();
        pairs.dedup();
        Some(pairs)
    }
}

// === impl Class ===

impl Class {
    /// Whether a selector covers it; `None` when that depends on addresses.
    pub(super) fn is_in(&self, end: &Endpoint) -> Option<bool> {
        match end {
            Endpoint::All => Some(true),
            Endpoint::Group(group) => Some(self.group == *group),
            Endpoint::Instance(instance) => Some(self.named.as_ref() == Some(instance)),
            Endpoint::Region(region) => Some(self.region.as_ref() == Some(region)),
            Endpoint::Subnet(_) => None,
        }
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

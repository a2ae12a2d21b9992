//! Which instance is in which region, and the links between regions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::network::Scene;
use super::{Member, Resolver, near};
use crate::composition::{RegionShare, RegionsSpec, SelectorSpec};
use crate::diagnostic::{Place, names};
use crate::name::InstanceName;
use crate::reader::At;
use crate::regions::{self, Matrix};
use crate::shape::LinkShape;
use crate::topology::{Endpoint, Link};

/// Which instances a region has.
type Regions = BTreeMap<String, Vec<InstanceName>>;

impl Resolver<'_> {
    /// The regions of a run, each with its instances.
    pub(super) fn regions(&self, members: &[Member<'_>], counts: &[u32]) -> Regions {
        let mut regions = Regions::new();
        for (member, &count) in members.iter().zip(counts) {
            let shares = shares_of(member);
            if shares.is_empty() {
                continue;
            }
            let id = member.id();
            let asked: Vec<RegionShare> = shares.iter().map(|(_, share)| share.value).collect();
            if asked.contains(&RegionShare::Unreadable) {
                continue;
            }
            let sizes = match divide(&asked, count) {
                Ok(sizes) => sizes,
                Err((which, why)) => {
                    let at = &shares[which].1.place;
                    self.error(at.error(format!("the regions of group {} {why}", id.value)));
                    continue;
                }
            };
            for ((region, share), _) in shares.iter().zip(&sizes).filter(|(_, size)| **size == 0) {
                self.error(share.place.warning(format!(
                    "nobody is in region {} by this: the others take all {count} instances of group {}",
                    region.value, id.value
                )));
            }
            let mut index = 0;
            for ((region, _), size) in shares.iter().zip(sizes) {
                let there = regions.entry(region.value.clone()).or_default();
                there.extend((index..index + size).map(|i| InstanceName::new(id.value.clone(), i)));
                index += size;
            }
        }
        regions.retain(|_, instances| !instances.is_empty());
        regions
    }

    /// The regions that groups of any run name.
    pub(super) fn declared_regions(&self) -> Vec<&str> {
        let groups = self.composition.groups.iter().flat_map(|g| &g.regions);
        let in_runs = self.composition.runs.iter().flat_map(|run| run.groups.iter().flat_map(|g| &g.regions));
        let mut known: Vec<&str> = groups.chain(in_runs).map(|(name, _)| name.value.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        known
    }

    /// A link for each ordered pair of regions of the run, as the latency matrix says.
    pub(super) fn region_links(&self, scene: &Scene<'_>) -> Vec<Link> {
        let Some(spec) = &self.composition.regions else { return Vec::new() };
        let network = self.network_name(spec.network.as_ref(), scene);
        let Some((matrix, at)) = self.matrix(spec) else { return Vec::new() };
        let mut links = Vec::new();
        let lagging = LinkShape { latency: Duration::from_millis(1), ..LinkShape::default() };
        self.warn_without_effect(&spec.shape, &[spec.shape.over(&lagging)]);
        for (name, place) in self.places_of_regions(scene) {
            if !matrix.has(name) {
                let known = || matrix.names();
                // All of them: there is no other place to look them up in.
                let all: Vec<&str> = known().collect();
                let message =
                    format!("region {name:?} is not in the latency matrix {at}; it has {}", all.join(", "));
                self.error(super::with_suggestion(place.error(message), near(name, known())));
            }
        }
        for from in scene.regions.keys() {
            for to in scene.regions.keys() {
                // Within a region the matrix may be silent: then nothing is shaped there.
                let Some(round_trip) = matrix.round_trip(from, to) else { continue };
                let alone = scene.regions[from].len() == 1;
                if from == to && alone {
                    continue;
                }
                let shape = spec.shape.over(&LinkShape { latency: round_trip / 2, ..LinkShape::default() });
                links.push(Link {
                    from: Endpoint::Region(from.clone()),
                    to: Endpoint::Region(to.clone()),
                    both_ways: false,
                    network: network.clone(),
                    shape,
                });
            }
        }
        // What is wrong with a region may be why nobody is in it.
        if self.mistakes.has_errors() || self.composition.mistakes().has_errors() {
            return links;
        }
        if let Some(named) = spec.latency_matrix.as_ref().filter(|_| links.is_empty()) {
            let why = match scene.regions.keys().next() {
                None => "no group is in a region".to_owned(),
                Some(region) => format!("all who are in a region are in {region}"),
            };
            self.error(named.place.warning(format!("this matrix shapes nothing: {why}")));
        } else {
            self.warn_of_groups_without_region(scene);
        }
        links
    }

    /// Warns of groups that no link covers, where all that is declared is between regions.
    fn warn_of_groups_without_region(&self, scene: &Scene<'_>) {
        let by_region = |end: &SelectorSpec| matches!(end, SelectorSpec::Region(_));
        let only_regions =
            self.composition.links.iter().all(|l| by_region(&l.from.value) && by_region(&l.to.value));
        for member in scene.members.iter().filter(|member| only_regions && shares_of(member).is_empty()) {
            let id = member.id();
            self.error(id.place.warning(format!(
                "group {} is in no region, so that no link covers it: all of them are between regions",
                id.value
            )));
        }
    }

    /// The latency matrix, and what it is called.
    fn matrix(&self, spec: &RegionsSpec) -> Option<(Matrix, String)> {
        let Some(named) = &spec.latency_matrix else {
            let known = names(regions::built_in_names());
            self.error(spec.at.place.error(format!(
                "`latency_matrix` of regions is missing: a CSV file, or a built-in table ({known})"
            )));
            return None;
        };
        if let Some(matrix) = regions::built_in(&named.value) {
            return Some((matrix, named.value.clone()));
        }
        let built_in: Vec<&str> = regions::built_in_names().collect();
        let (shown, text) = self.text("latency matrix", named, &built_in)?;
        match Matrix::parse(&shown, text) {
            Ok(matrix) => Some((matrix, named.value.clone())),
            Err(mistakes) => {
                self.errors_of("latency matrix", named, mistakes);
                None
            }
        }
    }

    fn places_of_regions<'s>(&self, scene: &'s Scene<'_>) -> Vec<(&'s str, &'s Place)> {
        let mut places: Vec<(&str, &Place)> = Vec::new();
        for member in scene.members {
            for (name, _) in shares_of(member) {
                if !places.iter().any(|(n, _)| *n == name.value) {
                    places.push((&name.value, &name.place));
                }
            }
        }
        places
    }
}

fn shares_of<'a>(member: &Member<'a>) -> &'a [(At<String>, At<RegionShare>)] {
    match member.in_run() {
        Some(group) if !group.regions.is_empty() => &group.regions,
        _ => &member.base.regions,
    }
}

/// Divides a group among regions: counts first, then percentages (of the whole group, the largest remainders rounded
/// up), then the rest. Everybody has to be somewhere. `Err` has the share at which it goes wrong.
fn divide(shares: &[RegionShare], count: u32) -> Result<Vec<u32>, (usize, String)> {
    let exact = |share: &RegionShare| match share {
        RegionShare::Count(n) => f64::from(*n),
        RegionShare::Percent(p) => p / 100.0 * f64::from(count),
        RegionShare::Rest | RegionShare::Unreadable => 0.0,
    };
    let rests: Vec<usize> = (0..shares.len()).filter(|&i| shares[i] == RegionShare::Rest).collect();
    if let [_, second, ..] = rests[..] {
        return Err((second, "say \"rest\" more than once".to_owned()));
    }
    let mut sizes: Vec<u32> = shares.iter().map(|s| exact(s).floor() as u32).collect();
    let sum = |sizes: &[u32]| sizes.iter().map(|&s| u64::from(s)).sum::<u64>();
    let tolerance = f64::from(count) * 0.005 + 1e-6;
    let mut asked = 0.0;
    for (i, share) in shares.iter().enumerate() {
        asked += exact(share);
        if asked > f64::from(count) + tolerance {
            return Err((i, format!("hold more than its {count} instances from here on")));
        }
    }
    let last = shares.len() - 1;
    if rests.is_empty() && asked < f64::from(count) - tolerance {
        return Err((
            last,
            format!(
                "hold {asked:.0} of its {count} instances; give the others a region too (a share of \"rest\" takes them all)"
            ),
        ));
    }
    // Without a rest everybody has to be placed; with one only what percentages ask for.
    let target =
        if rests.is_empty() { u64::from(count) } else { (asked.round() as u64).min(u64::from(count)) };
    let mut by_fraction: Vec<usize> =
        (0..shares.len()).filter(|&i| matches!(shares[i], RegionShare::Percent(_))).collect();
    by_fraction.sort_by(|&a, &b| exact(&shares[b]).fract().total_cmp(&exact(&shares[a]).fract()));
    let missing = target.saturating_sub(sum(&sizes));
    for &i in by_fraction.iter().cycle().take(missing as usize) {
        sizes[i] += 1;
    }
    if let [rest] = rests[..] {
        sizes[rest] = (u64::from(count) - sum(&sizes).min(u64::from(count))) as u32;
    }
    if sum(&sizes) != u64::from(count) {
        return Err((last, format!("hold {} of its {count} instances", sum(&sizes))));
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everybody_is_somewhere() {
        use RegionShare::{Count, Percent, Rest};
        assert_eq!(divide(&[Percent(40.0), Count(3)], 5), Ok(vec![2, 3]));
        assert_eq!(divide(&[Percent(33.0), Percent(33.0), Percent(34.0)], 10), Ok(vec![3, 3, 4]));
        assert_eq!(divide(&[Percent(50.0), Rest], 5), Ok(vec![3, 2]));
        assert!(divide(&[Percent(40.0)], 5).unwrap_err().1.contains("rest"));
        assert!(divide(&[Count(6)], 5).is_err());
        assert_eq!(divide(&[Percent(60.0), Percent(60.0), Percent(60.0)], 5).unwrap_err().0, 1);
        assert!(divide(&[Rest, Rest], 5).is_err());
    }

    proptest! {
        #[test]
        fn shares_always_sum(parts in proptest::collection::vec(0u32..100, 1..6), count in 1u32..2000) {
            let mut shares: Vec<RegionShare> = Vec::new();
            let of: u32 = parts.iter().sum::<u32>().max(1);
            shares.extend(parts.iter().map(|&p| RegionShare::Percent(f64::from(p) / f64::from(of) * 100.0)));
            shares.push(RegionShare::Rest);
            let sizes = divide(&shares, count).unwrap();
            prop_assert_eq!(sizes.iter().sum::<u32>(), count);
        }
    }
}

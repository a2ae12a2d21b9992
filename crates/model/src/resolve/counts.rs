//! How many instances each group of a run has.

use super::{Member, Resolver};
use crate::composition::{Instances, MAX_INSTANCES, RunSpec};
use crate::diagnostic::Place;
use crate::manifest::TestCase;

impl Resolver<'_> {
    /// The instances of each group, in order; `None` when they can't be told.
    pub(super) fn counts(&self, run: Option<&RunSpec>, members: &[Member<'_>]) -> Option<Vec<u32>> {
        if members.is_empty() || self.counts_are_unreadable() {
            return None;
        }
        let total = match run {
            Some(run) => run.total_instances.as_ref(),
            None => self.composition.global.total_instances.as_ref(),
        };
        let mut wanted = Vec::new();
        for member in members {
            // What the run says replaces what the group says as a whole: a percentage there is never joined by a
            // count from here.
            let instances =
                member.in_run().and_then(|g| g.instances.as_ref()).or(member.base.instances.as_ref());
            match instances {
                None => {
                    let id = member.id();
                    self.error(id.place.error(format!(
                        "group {} has no number of instances: instances = {{ count = 1 }}, or a percentage, is expected (0 stands for none given)",
                        id.value
                    )));
                }
                Some(Instances::Share(share)) if total.is_none() => {
                    let of = run.map_or("[global]".to_owned(), |run| format!("run {}", run.id.value));
                    self.error(share.place.error(format!(
                        "groups count percentage requires a total_instance configuration: total_instances of {of} is missing"
                    )));
                }
                Some(Instances::Count(count)) => wanted.push(Want::Count(count.value)),
                Some(Instances::Share(share)) => wanted.push(Want::Share(share.value)),
            }
        }
        if wanted.len() != members.len() {
            return None;
        }
        let (counts, computed) = spread(&wanted, total.map(|t| t.value));
        if let Some(total) = total.filter(|t| u64::from(t.value) != computed) {
            self.error(total.place.error(format!(
                "total instances mismatch: computed: {computed} != configured: {}",
                total.value
            )));
            return None;
        }
        if computed > u64::from(MAX_INSTANCES) {
            let at = self.place_of(run);
            self.error(
                at.error(format!("{computed} instances are too many: a run can have {MAX_INSTANCES}")),
            );
            return None;
        }
        let mut fits = true;
        for (member, count) in members.iter().zip(&counts) {
            if *count == 0 {
                fits = false;
                let id = member.id();
                self.error(
                    id.place.error(format!(
                        "group {} comes to 0 instances; its percentage is too small",
                        id.value
                    )),
                );
            }
        }
        fits.then_some(counts)
    }

    /// Checks a run's instances against what its test case allows.
    pub(super) fn check_total(&self, run: Option<&RunSpec>, total: u32, case: &TestCase) {
        let max = case.max.unwrap_or(MAX_INSTANCES);
        if !(case.min..=max).contains(&total) {
            self.error(self.place_of(run).error(format!(
                "total instance count ({total}) outside of allowable range [{}, {max}] for test case {}",
                case.min, case.name.value
            )));
        }
    }

    /// Where a mistake about a whole run is shown.
    fn place_of(&self, run: Option<&RunSpec>) -> Place {
        match run {
            Some(run) => run.id.place.clone(),
            None => match (&self.composition.global.total_instances, &self.composition.groups[..]) {
                (Some(total), _) => total.place.clone(),
                (None, [only]) => match &only.instances {
                    Some(Instances::Count(count)) => count.place.clone(),
                    _ => only.id.place.clone(),
                },
                _ => self
                    .composition
                    .global
                    .case
                    .as_ref()
                    .map_or(&self.composition.global.plan.place, |c| &c.place)
                    .clone(),
            },
        }
    }

    /// Whether a number of instances could not even be read: then sums would only repeat that mistake.
    fn counts_are_unreadable(&self) -> bool {
        let about = |path: &str| path.contains("instances");
        let error = crate::diagnostic::Severity::Error;
        self.composition.mistakes().iter().any(|d| d.severity == error && about(&d.path))
    }
}

/// What a group wants.
#[derive(Debug, Clone, Copy)]
enum Want {
    Count(u32),
    Share(f64),
}

/// The counts, and their sum.
///
/// A share is rounded by itself, as it always was. Where that leaves a remainder although the shares are a whole
/// (three thirds of 100), the remainder goes to the largest fractions.
fn spread(wanted: &[Want], total: Option<u32>) -> (Vec<u32>, u64) {
    let total = f64::from(total.unwrap_or(0));
    let exact = |want: &Want| match want {
        Want::Count(count) => f64::from(*count),
        Want::Share(share) => share * total,
    };
    let sum = |counts: &[u32]| counts.iter().map(|&c| u64::from(c)).sum::<u64>();
    let rounded: Vec<u32> = wanted.iter().map(|want| exact(want).round() as u32).collect();
    let computed = sum(&rounded);
    let whole: f64 = wanted.iter().map(exact).sum();
    let is_whole = total > 0.0 && (whole - total).abs() <= total * 0.005;
    if computed as f64 == total || !is_whole || !wanted.iter().any(|w| matches!(w, Want::Share(_))) {
        return (rounded, computed);
    }
    let mut counts: Vec<u32> = wanted.iter().map(|want| exact(want).floor() as u32).collect();
    let mut shares: Vec<usize> = (0..wanted.len()).filter(|&i| matches!(wanted[i], Want::Share(_))).collect();
    shares.sort_by(|&a, &b| exact(&wanted[b]).fract().total_cmp(&exact(&wanted[a]).fract()));
    let missing = (total as u64).saturating_sub(sum(&counts));
    for &i in shares.iter().cycle().take(missing as usize) {
        counts[i] += 1;
    }
    let computed = sum(&counts);
    (counts, computed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_that_are_a_whole_leave_no_remainder() {
        let thirds = [Want::Share(0.333); 3];
        assert_eq!(spread(&thirds, Some(100)), (vec![34, 33, 33], 100));
        assert_eq!(
            spread(&[Want::Share(0.5), Want::Share(0.5)], Some(5)).1,
            5,
            "two halves of five, each rounded up"
        );
        assert_eq!(spread(&[Want::Share(0.5), Want::Count(3)], Some(6)), (vec![3, 3], 6));
        assert_eq!(
            spread(&[Want::Share(0.5), Want::Share(0.2)], Some(10)),
            (vec![5, 2], 7),
            "not a whole: as it is"
        );
    }

    proptest! {
        #[test]
        fn counts_sum_to_the_total_when_shares_are_a_whole(parts in proptest::collection::vec(1u32..50, 1..8), total in 1u32..5000) {
            let of = f64::from(parts.iter().sum::<u32>());
            let wanted: Vec<Want> = parts.iter().map(|&p| Want::Share(f64::from(p) / of)).collect();
            let (counts, computed) = spread(&wanted, Some(total));
            prop_assert_eq!(computed, u64::from(total));
            for (part, count) in parts.iter().zip(counts) {
                let exact = f64::from(*part) / of * f64::from(total);
                prop_assert!((f64::from(count) - exact).abs() < 1.0, "{} for {}", count, exact);
            }
        }
    }
}

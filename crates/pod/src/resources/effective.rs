//! The requests and limits of the whole pod, and how they come about (R64).

use serde::Serialize;

use super::{ContainerResources, PodResources, Quantity, ResourceList, Role, counts_for_pods};

/// What a pod asks for in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// What the scheduler sets aside.
    pub requests: ResourceList,
    /// What may be used at most.
    pub limits: ResourceList,
    /// How each amount came about: requests first.
    pub derivations: Vec<Derivation>,
}

/// How one effective amount came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Derivation {
    /// The resource.
    pub resource: String,
    /// `requests` or `limits`.
    pub of: &'static str,
    /// Sidecars and apps together: what runs when the pod is up.
    pub running: Option<Quantity>,
    /// The most that is used while an entry of `initContainers` starts or runs: it and the sidecars before it.
    pub starting: Option<Quantity>,
    /// The entry that `starting` comes from.
    pub peak_at: Option<String>,
    /// Which of the two is the larger.
    pub winner: Phase,
    /// The pod-level amount that replaces both.
    pub pod_level: Option<Quantity>,
    /// What overhead adds.
    pub overhead: Option<Quantity>,
    /// The result.
    pub effective: Quantity,
}

/// A phase in the life of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Inits run, one after the other.
    Starting,
    /// Sidecars and apps run.
    Running,
}

/// One side of a container's requirements.
type Side = fn(&ContainerResources) -> &ResourceList;

// === impl PodResources ===

impl PodResources {
    /// The requests and limits of the pod. Of each resource, requests and limits are found apart.
    pub fn effective(&self) -> Effective {
        let mut effective = Effective::default();
        let pod = self.pod_level.clone().unwrap_or_default();
        let sides: [(&'static str, Side, &ResourceList); 2] =
            [("requests", |c| &c.own.requests, &pod.requests), ("limits", |c| &c.own.limits, &pod.limits)];
        for (of, side, pod_level) in sides {
            let mut names: Vec<&String> = self.containers.iter().flat_map(|c| side(c).keys()).collect();
            names.extend(pod_level.keys().filter(|n| counts_for_pods(n)));
            if of == "requests" {
                names.extend(self.overhead.keys());
            }
            names.sort();
            names.dedup();
            for name in names {
                let derivation = self.derive(name, of, side, pod_level);
                let list = if of == "requests" { &mut effective.requests } else { &mut effective.limits };
                list.insert(name.clone(), derivation.effective);
                effective.derivations.push(derivation);
            }
        }
        effective
    }

    fn derive(&self, name: &str, of: &'static str, side: Side, pod_level: &ResourceList) -> Derivation {
        let of_role = |wanted: fn(Role) -> bool| {
            let mut amounts = self
                .containers
                .iter()
                .filter(|c| wanted(c.role))
                .filter_map(|c| side(c).get(name).copied())
                .peekable();
            amounts.peek().is_some().then(|| amounts.sum::<Quantity>())
        };
        let running = of_role(|r| r != Role::Init);
        let (starting, peak_at) = self.starting_peak(name, side);
        let winner = if starting > running { Phase::Starting } else { Phase::Running };
        let aggregate = match winner {
            Phase::Starting => starting,
            Phase::Running => running,
        };
        let pod_level = pod_level.get(name).copied().filter(|_| counts_for_pods(name));
        let base = pod_level.or(aggregate);
        let overhead = self.overhead.get(name).copied();
        let overhead = overhead.filter(|_| of == "requests" || base.is_some_and(|b| !b.is_zero()));
        let effective = base.unwrap_or(Quantity::ZERO) + overhead.unwrap_or(Quantity::ZERO);
        Derivation {
            resource: name.to_owned(),
            of,
            running,
            starting,
            peak_at,
            winner,
            pod_level,
            overhead,
            effective,
        }
    }

    /// The most that is in use while the list of `initContainers` is gone through, and at which entry.
    fn starting_peak(&self, name: &str, side: Side) -> (Option<Quantity>, Option<String>) {
        let mut sidecars: Option<Quantity> = None;
        let mut peak: (Option<Quantity>, Option<String>) = (None, None);
        for container in self.containers.iter().filter(|c| c.role != Role::App) {
            let own = side(container).get(name).copied();
            let together = match (sidecars, own) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
            if container.role == Role::Sidecar {
                sidecars = together;
            }
            if own.is_some() && together > peak.0 {
                peak = (together, Some(container.name.clone()));
            }
        }
        peak
    }
}

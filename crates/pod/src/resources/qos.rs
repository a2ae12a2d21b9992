//! The quality of service class of a pod, and the `oom_score_adj` of its containers (R66, R67).

use std::fmt;

use serde::Serialize;

use super::{PodResources, Quantity, Requirements, Role};

/// Who is evicted first, and how the OOM killer chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum QosClass {
    /// Every container has cpu and memory with request = limit.
    Guaranteed,
    /// Anything between the two others.
    Burstable,
    /// Nobody asks for anything.
    BestEffort,
}

/// A container's `oom_score_adj`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OomScore {
    /// The container.
    pub name: String,
    /// −997 (killed last) to 1000 (killed first).
    pub value: i64,
    /// The container's own value, when it is a sidecar that was lowered to that of the smallest app.
    pub own: Option<i64>,
}

const GUARANTEED: i64 = -997;
const BEST_EFFORT: i64 = 1000;

// === impl QosClass ===

impl QosClass {
    fn of(requirements: &Requirements) -> Self {
        let set = |name: &str| {
            let sides = [&requirements.requests, &requirements.limits];
            sides.into_iter().any(|list| list.get(name).is_some_and(|q| !q.is_zero()))
        };
        if !set("cpu") && !set("memory") {
            return Self::BestEffort;
        }
        let fixed = |name: &str| {
            let (request, limit) = (requirements.requests.get(name), requirements.limits.get(name));
            request == limit && limit.is_some_and(|q| !q.is_zero())
        };
        if fixed("cpu") && fixed("memory") { Self::Guaranteed } else { Self::Burstable }
    }

    /// The cgroup below `kubepods` that pods of this class live in; Guaranteed ones live in `kubepods` itself.
    pub fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "kubepods",
            Self::Burstable => "kubepods/burstable",
            Self::BestEffort => "kubepods/besteffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        })
    }
}

// === impl PodResources ===

impl PodResources {
    /// The class of the pod: that of its pod-level resources, else the one that all containers share, else Burstable.
    pub fn qos(&self) -> QosClass {
        if let Some(pod) = &self.pod_level {
            return QosClass::of(pod);
        }
        let mut classes = self.containers.iter().map(|c| QosClass::of(&c.own));
        let first = classes.next().unwrap_or(QosClass::BestEffort);
        if classes.all(|c| c == first) { first } else { QosClass::Burstable }
    }

    /// The first container whose class differs from the one before it, with both classes: why a pod is Burstable.
    pub fn qos_mix(&self) -> Option<[(&str, QosClass); 2]> {
        if self.pod_level.is_some() {
            return None;
        }
        let classes: Vec<_> =
            self.containers.iter().map(|c| (c.name.as_str(), QosClass::of(&c.own))).collect();
        classes.windows(2).find(|w| w[0].1 != w[1].1).map(|w| [w[0], w[1]])
    }

    /// The `oom_score_adj` of every container on a node with this much memory, in bytes.
    pub fn oom_scores(&self, node_memory: i64) -> Vec<OomScore> {
        let fixed = match self.qos() {
            _ if self.node_critical => Some(GUARANTEED),
            QosClass::Guaranteed => Some(GUARANTEED),
            QosClass::BestEffort => Some(BEST_EFFORT),
            QosClass::Burstable => None,
        };
        let spare = self.spare_memory();
        let capacity = i128::from(node_memory.max(1));
        let raw = |request: i64| {
            let share = 1000 * (i128::from(request) + i128::from(spare)) / capacity;
            1000 - i64::try_from(share).unwrap_or(i64::MAX / 2)
        };
        let memory = |r: &Requirements| r.requests.get("memory").map_or(0, |q| q.units());
        let apps = self.containers.iter().filter(|c| c.role == Role::App);
        let smallest_app = apps.map(|c| memory(&c.own)).min();
        let score = |c: &super::ContainerResources| {
            let own = raw(memory(&c.own));
            let lowered = smallest_app.map(raw).filter(|app| c.role == Role::Sidecar && *app < own);
            let value = fixed.unwrap_or_else(|| clamp(lowered.unwrap_or(own)));
            let own = (fixed.is_none() && lowered.is_some()).then(|| clamp(own)).filter(|own| *own != value);
            OomScore { name: c.name.clone(), value, own }
        };
        self.containers.iter().map(score).collect()
    }

    /// What a pod-level request leaves for each container beyond their own requests, in bytes.
    fn spare_memory(&self) -> i64 {
        let Some(request) = self.pod_level.as_ref().and_then(|p| p.requests.get("memory")) else { return 0 };
        let aggregate = self.without_pod_level().effective().requests.get("memory").copied();
        let left = request.minus(aggregate.unwrap_or(Quantity::ZERO)).units().max(0);
        left / i64::try_from(self.containers.len().max(1)).unwrap_or(1)
    }
}

/// A Burstable container is never as safe as a Guaranteed one, and never as exposed as a BestEffort one.
fn clamp(score: i64) -> i64 {
    score.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

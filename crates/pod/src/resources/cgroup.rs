//! The values that a pod and its containers get in their cgroups, and the sizes that follow from limits.
//!
//! The conversions are the kubelet's (`pkg/kubelet/cm/helpers_linux.go`) and, to version 2, those of KEP-2254.

use serde::Serialize;

use super::{PodResources, QosClass, Quantity, Requirements};

/// The cgroup of the whole pod. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodCgroup {
    /// The parent: `kubepods/burstable`.
    pub parent: &'static str,
    /// What the pod and each container get; the same rules for both.
    #[serde(flatten)]
    pub values: ContainerCgroup,
    /// The containers that have no memory limit, for which the pod has none either.
    pub without_memory_limit: Vec<String>,
    /// The containers that have no cpu limit, for which the pod has none either.
    pub without_cpu_limit: Vec<String>,
}

/// The cgroup values of a container. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerCgroup {
    /// Version 1: `cpu.shares`, 2 to 262144.
    pub cpu_shares: u64,
    /// Version 2: `cpu.weight`, 1 to 10000.
    pub cpu_weight: u64,
    /// Microseconds of cpu in each 100 ms: `cpu.cfs_quota_us`, or the first word of `cpu.max`.
    pub cpu_quota: Option<u64>,
    /// Bytes: `memory.limit_in_bytes`, or `memory.max`.
    pub memory_max: Option<i64>,
}

/// The period of the cpu quota, in microseconds.
const PERIOD: u64 = 100_000;
const MIN_QUOTA: u64 = 1_000;
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// The bytes of each container's termination message that are kept (R77).
pub fn termination_message_limit(containers: usize) -> usize {
    4096.min(12_288 / containers.max(1))
}

/// The bytes of an `emptyDir` in memory (R75): the least of its own limit and the pod's, or the node's memory when
/// neither has one.
pub fn memory_volume_size(pod: &PodResources, size_limit: Option<Quantity>, node_memory: i64) -> i64 {
    let pod_limit = pod.cgroup().values.memory_max;
    let size_limit = size_limit.map(Quantity::units).filter(|n| *n > 0);
    [size_limit, pod_limit, Some(node_memory)].into_iter().flatten().min().unwrap_or(node_memory)
}

// === impl ContainerCgroup ===

impl ContainerCgroup {
    /// The values of one container.
    pub fn of(own: &Requirements) -> Self {
        Self::from_amounts(own.requests.get("cpu"), own.limits.get("cpu"), own.limits.get("memory"))
    }

    fn from_amounts(cpu: Option<&Quantity>, cpu_limit: Option<&Quantity>, memory: Option<&Quantity>) -> Self {
        let milli = |q: &Quantity| u64::try_from(q.millis()).unwrap_or(0);
        let shares = cpu.map_or(0, milli).saturating_mul(1024) / 1000;
        let cpu_shares = shares.clamp(MIN_SHARES, MAX_SHARES);
        let quota = |m: u64| (m.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA);
        Self {
            cpu_shares,
            cpu_weight: 1 + (cpu_shares - MIN_SHARES) * 9_999 / (MAX_SHARES - MIN_SHARES),
            cpu_quota: cpu_limit.map(milli).filter(|m| *m > 0).map(quota),
            memory_max: memory.map(|q| q.units()).filter(|bytes| *bytes > 0),
        }
    }
}

// === impl PodResources ===

impl PodResources {
    /// The pod's cgroup. A limit of the pod is enforced only when every container has one, or the pod itself.
    pub fn cgroup(&self) -> PodCgroup {
        let effective = self.effective();
        let qos = self.qos();
        let without = |resource: &str| -> Vec<String> {
            let at_pod = self.pod_level.as_ref().and_then(|p| p.limits.get(resource));
            if at_pod.is_some_and(|q| !q.is_zero()) {
                return Vec::new();
            }
            let unlimited =
                self.containers.iter().filter(|c| c.own.limits.get(resource).is_none_or(|q| q.is_zero()));
            unlimited.map(|c| c.name.clone()).collect()
        };
        let (without_cpu_limit, without_memory_limit) = (without("cpu"), without("memory"));
        let limit = |resource: &str, without: &[String]| {
            effective.limits.get(resource).filter(|_| without.is_empty())
        };
        let values = match qos {
            QosClass::BestEffort => ContainerCgroup::from_amounts(None, None, None),
            _ => ContainerCgroup::from_amounts(
                effective.requests.get("cpu"),
                limit("cpu", &without_cpu_limit),
                limit("memory", &without_memory_limit),
            ),
        };
        PodCgroup { parent: qos.cgroup(), values, without_memory_limit, without_cpu_limit }
    }
}

//! What the containers of a pod may use, and what the kubelet makes of it. Arithmetic only.
//!
//! The rules are R64 to R68 and R75 of `docs/pods.md`. Files of cgroups are written elsewhere: here are the values.

mod cgroup;
mod effective;
mod qos;
pub mod quantity;
mod resize;

pub use cgroup::{ContainerCgroup, PodCgroup, memory_volume_size, termination_message_limit};
pub use effective::{Derivation, Effective, Phase};
pub use qos::{OomScore, QosClass};
pub use quantity::{Quantity, QuantityError};
pub use resize::resized;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use serde::Serialize;

use crate::version::{Features, Gate};

/// Amounts by the name of the resource.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Requests and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requirements {
    /// What is set aside.
    pub requests: ResourceList,
    /// What may be used at most.
    pub limits: ResourceList,
}

/// Where resources are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In a container.
    Container,
    /// In the pod's spec.
    Pod,
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs to its end before the next entry starts.
    Init,
    /// Runs from its turn among the inits until the apps are gone.
    Sidecar,
    /// One of `containers`.
    App,
}

/// A container's resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContainerResources {
    /// The container.
    pub name: String,
    /// Its part in the pod.
    pub role: Role,
    /// What it asks for.
    #[serde(flatten)]
    pub own: Requirements,
}

/// The resources of all parts of a pod, inits and sidecars first, in the order of the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    /// Every container.
    pub containers: Vec<ContainerResources>,
    /// `spec.resources`, when it is there and counts.
    pub pod_level: Option<Requirements>,
    /// What a RuntimeClass adds.
    pub overhead: ResourceList,
    /// Whether the pod is `system-node-critical`.
    pub node_critical: bool,
}

/// The requests and limits of a container or of a pod's spec as written. What is no quantity is left out: it has been
/// reported when it was read.
pub fn of_requirements(of: &ResourceRequirements) -> Requirements {
    Requirements { requests: list(of.requests.as_ref()), limits: list(of.limits.as_ref()) }
}

/// What the containers of a pod add up to, pod-level resources and overhead aside.
pub fn aggregate(spec: &PodSpec) -> Requirements {
    let mut pod = PodResources::written(spec);
    pod.default_containers();
    pod.pod_level = None;
    pod.overhead.clear();
    let effective = pod.effective();
    Requirements { requests: effective.requests, limits: effective.limits }
}

fn list(list: Option<&BTreeMap<String, Text>>) -> ResourceList {
    let parsed = |(name, text): (&String, &Text)| Some((name.clone(), text.0.parse().ok()?));
    list.into_iter().flatten().filter_map(parsed).collect()
}

/// Whether a pod-level amount of this resource replaces the containers'.
fn counts_for_pods(resource: &str) -> bool {
    resource == "cpu" || resource == "memory" || resource.starts_with("hugepages-")
}

// === impl Role ===

impl Role {
    /// The part of an entry of `initContainers`.
    pub fn of_init(container: &Container) -> Self {
        if container.restart_policy.as_deref() == Some("Always") { Self::Sidecar } else { Self::Init }
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::App => "app",
        }
    }
}

// === impl PodResources ===

impl PodResources {
    /// The resources of a pod as the API server stores them: with its defaults filled in (R65).
    pub fn of(spec: &PodSpec, features: &Features) -> Self {
        let mut pod = Self::written(spec);
        let empty_counts = features.version().minor() < 36;
        pod.pod_level = pod
            .pod_level
            .filter(|_| features.on(Gate::PodLevelResources))
            .filter(|p| empty_counts || !(p.requests.is_empty() && p.limits.is_empty()));
        pod.default_all(features);
        pod
    }

    /// The resources as they are written, without any default.
    pub fn written(spec: &PodSpec) -> Self {
        let own = |c: &Container| c.resources.as_ref().map(of_requirements).unwrap_or_default();
        let inits = spec.init_containers.iter().flatten();
        let inits =
            inits.map(|c| ContainerResources { name: c.name.clone(), role: Role::of_init(c), own: own(c) });
        let apps = spec.containers.iter();
        let apps = apps.map(|c| ContainerResources { name: c.name.clone(), role: Role::App, own: own(c) });
        Self {
            containers: inits.chain(apps).collect(),
            pod_level: spec.resources.as_ref().map(of_requirements),
            overhead: list(spec.overhead.as_ref()),
            node_critical: spec.priority_class_name.as_deref() == Some("system-node-critical"),
        }
    }

    /// Fills in the API server's defaults for containers and for the pod (R65).
    pub fn default_all(&mut self, features: &Features) {
        self.default_containers();
        let aggregate = self.without_pod_level().effective();
        let Some(pod) = &mut self.pod_level else { return };
        for (name, limit) in &pod.limits {
            let request = aggregate.requests.get(name).unwrap_or(limit);
            pod.requests.entry(name.clone()).or_insert(*request);
        }
        if features.on(Gate::PodLevelResourcesFixUpdateDefaulting) {
            for name in pod.requests.keys() {
                let all = self.containers.iter().all(|c| c.own.limits.contains_key(name));
                if let Some(sum) = aggregate.limits.get(name).filter(|_| all && !self.containers.is_empty()) {
                    pod.limits.entry(name.clone()).or_insert(*sum);
                }
            }
        }
    }

    /// Assumes requests for containers that have none, as the scheduler does when it rates nodes.
    pub fn assume_requests(&mut self, assumed: &ResourceList) {
        for container in &mut self.containers {
            for (name, amount) in assumed {
                container.own.requests.entry(name.clone()).or_insert(*amount);
            }
        }
    }

    fn default_containers(&mut self) {
        for Requirements { requests, limits } in self.containers.iter_mut().map(|c| &mut c.own) {
            for (name, limit) in limits {
                requests.entry(name.clone()).or_insert(*limit);
            }
        }
    }

    fn without_pod_level(&self) -> Self {
        Self { pod_level: None, overhead: ResourceList::new(), ..self.clone() }
    }
}

//! Where a field belongs that was written in the wrong place.

use k8s_openapi::api::{
    batch::v1::JobSpec,
    core::v1::{Container, PodSpec, Probe},
};

use super::decode::fields_of;

/// A hint for a field of a pod that stands in another struct of a pod (`owner`, by its name in Go).
pub(super) fn of_field(field: &str, owner: &str) -> Option<String> {
    if !OWNERS.contains(&owner) {
        return None;
    }
    let homes = [
        ("PodSpec", "the pod's spec", fields_of::<PodSpec>()),
        ("Container", "a container", fields_of::<Container>()),
        ("Probe", "a probe", fields_of::<Probe>()),
        ("JobSpec", "a Job's spec", fields_of::<JobSpec>()),
    ];
    let mut found = homes.iter().filter(|(name, _, fields)| *name != owner && fields.contains(&field));
    let first = found.next()?.1;
    Some(match found.next() {
        Some((_, second, _)) => format!("`{field}` is a field of {first} and of {second}"),
        None => format!("`{field}` is a field of {first}"),
    })
}

/// The structs in which fields of a pod are looked for by mistake.
const OWNERS: [&str; 16] = [
    "Container",
    "ContainerPort",
    "CronJobSpec",
    "DaemonSetSpec",
    "DeploymentSpec",
    "Job",
    "JobSpec",
    "Lifecycle",
    "ObjectMeta",
    "Pod",
    "PodSpec",
    "PodTemplateSpec",
    "Probe",
    "ResourceRequirements",
    "SecurityContext",
    "StatefulSetSpec",
];

//! What may go wrong with memory and with the class of the pod.

use super::{Entry, Found, Lint};
use crate::{
    explain::known,
    resources::{PodResources, QosClass, Quantity, Role},
};

pub(super) fn check(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    lowered_class(entries, found);
    killed_first(entries, found);
    memory_volumes(found);
    unlimited(entries, found);
}

/// The apps alone would be Guaranteed.
fn lowered_class(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let resources = found.subject.resources;
    if resources.pod_level.is_some() || resources.qos() != QosClass::Burstable {
        return;
    }
    let only = |wanted: fn(Role) -> bool| PodResources {
        containers: resources.containers.iter().filter(|c| wanted(c.role)).cloned().collect(),
        ..PodResources::default()
    };
    if only(|r| r == Role::App).qos() != QosClass::Guaranteed {
        return;
    }
    let Some(entry) = entries.iter().filter(|e| e.role != Role::App).find(|e| {
        let alone = resources.containers.iter().filter(|c| c.name == e.name()).cloned().collect();
        PodResources { containers: alone, ..PodResources::default() }.qos() != QosClass::Guaranteed
    }) else {
        return;
    };
    let (role, name) = (entry.role.word(), entry.name());
    found.add(
        Lint::SidecarLowersQos,
        &entry.path,
        format!("the apps would make the pod Guaranteed, but the {role} `{name}` lacks cpu and memory with request = limit"),
        "the pod is Burstable: it is evicted earlier, its oom_score_adj rises from -997, and it gets no exclusive cpus".into(),
        format!("give `{name}` cpu and memory limits, or set pod-level resources"),
    );
}

fn killed_first(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let apps: Vec<_> = found.subject.containers.iter().filter(|c| c.role == Role::App).collect();
    let Some(safest) = apps.iter().min_by_key(|c| c.oom.value) else { return };
    let exposed: Vec<_> = entries
        .iter()
        .filter(|e| e.role == Role::App && known::helper(e.container).is_some())
        .filter_map(|e| Some((e, apps.iter().find(|c| c.name == e.name())?)))
        .filter(|(_, facts)| facts.oom.value > safest.oom.value)
        .collect();
    for (entry, facts) in exposed {
        found.add(
            Lint::HelperKilledFirst,
            &entry.path,
            format!(
                "`{}` has oom_score_adj {}, `{}` {}",
                entry.name(),
                facts.oom.value,
                safest.name,
                safest.oom.value
            ),
            "when the node runs out of memory the helper is killed before the program that needs it".into(),
            "make it a native sidecar: its oom_score_adj is then at most that of the smallest app".into(),
        );
    }
}

fn memory_volumes(found: &mut Found<'_, '_>) {
    let spec = found.subject.workload.spec();
    if found.subject.resources.cgroup().values.memory_max.is_some() {
        return;
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(empty) = &volume.empty_dir else { continue };
        let limited =
            empty.size_limit.as_ref().is_some_and(|q| q.0.parse::<Quantity>().is_ok_and(|q| !q.is_zero()));
        if empty.medium.as_deref() != Some("Memory") || limited {
            continue;
        }
        found.add(
            Lint::MemoryVolumeUnbounded,
            &format!("volumes[{i}].emptyDir"),
            format!("the volume `{}` is in memory, without a sizeLimit, and the pod has no memory limit", volume.name),
            "it may grow to all of the node's memory; what is written counts as memory of the container that wrote it".into(),
            "set sizeLimit, or memory limits on all containers".into(),
        );
    }
}

/// Some have a memory limit, others don't: the pod has none.
fn unlimited(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let cgroup = found.subject.resources.cgroup();
    let without = &cgroup.without_memory_limit;
    if without.is_empty() || without.len() == entries.len() {
        return;
    }
    let Some(entry) = entries.iter().find(|e| without.iter().any(|n| n == e.name())) else { return };
    let names: Vec<_> = without.iter().map(|n| format!("`{n}`")).collect();
    found.add(
        Lint::PodWithoutMemoryLimit,
        &entry.path,
        format!(
            "{} {} no memory limit, though others have",
            names.join(", "),
            if names.len() == 1 { "has" } else { "have" }
        ),
        "the pod's cgroup has no limit either, and a leak there takes the node's memory".into(),
        "give every container a memory limit, or set one for the pod in spec.resources".into(),
    );
}

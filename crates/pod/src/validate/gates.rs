//! Fields that depend on the version: dropped in silence where their gate is off, unknown where they don't exist.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::{
    load::{Dropped, Workload},
    version::{Features, Gate},
};

/// Takes away what the API server would drop without a word because a gate is off.
pub(crate) fn drop_disabled(workload: &mut Workload, features: &Features) -> Vec<Dropped> {
    let mut dropped: Vec<(String, Gate)> = Vec::new();
    let minor = features.version().minor();
    let off = |gate: Gate| !features.on(gate) && minor >= gate.since();
    let spec = workload.spec_slot();
    if off(Gate::PodLevelResources) && spec.resources.take().is_some() {
        dropped.push(("resources".into(), Gate::PodLevelResources));
    }
    each_container(spec, |list, i, container| {
        let path = |field: &str| format!("{list}[{i}].{field}");
        let is_sidecar = list == "initContainers" && container.restart_policy.as_deref() == Some("Always");
        if off(Gate::ContainerRestartRules) {
            if !is_sidecar && container.restart_policy.take().is_some() {
                dropped.push((path("restartPolicy"), Gate::ContainerRestartRules));
            }
            if container.restart_policy_rules.take().is_some() {
                dropped.push((path("restartPolicyRules"), Gate::ContainerRestartRules));
            }
        }
        if off(Gate::ContainerStopSignals)
            && let Some(lifecycle) = &mut container.lifecycle
            && lifecycle.stop_signal.take().is_some()
        {
            dropped.push((path("lifecycle.stopSignal"), Gate::ContainerStopSignals));
            if lifecycle.post_start.is_none() && lifecycle.pre_stop.is_none() {
                container.lifecycle = None;
            }
        }
    });
    let at = |path: &str| workload.position(path);
    let in_object = dropped.into_iter().map(|(path, gate)| (workload.path(&path), gate));
    in_object.map(|(path, gate)| Dropped { at: at(&path), path, gate: gate.name() }).collect()
}

/// Fields that the version's API does not have: each with the first minor release that has it.
pub(crate) fn unknown_fields(workload: &Workload, features: &Features) -> Vec<(String, u8)> {
    let minor = features.version().minor();
    let mut found: Vec<(String, u8)> = Vec::new();
    let mut check = |present: bool, path: String, since: u8| {
        if present && minor < since {
            found.push((workload.path(&path), since));
        }
    };
    let spec = workload.spec();
    check(spec.resources.is_some(), "resources".into(), Gate::PodLevelResources.since());
    check(spec.hostname_override.is_some(), "hostnameOverride".into(), 34);
    check(spec.scheduling_group.is_some(), "schedulingGroup".into(), 36);
    check(spec.eviction_responders.is_some(), "evictionResponders".into(), 37);
    let apps = spec.containers.iter().enumerate().map(|(i, c)| ("containers", i, c));
    let inits = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| ("initContainers", i, c));
    for (list, i, c) in inits.chain(apps) {
        let rules = c.restart_policy_rules.is_some();
        check(rules, format!("{list}[{i}].restartPolicyRules"), Gate::ContainerRestartRules.since());
        let signal = c.lifecycle.as_ref().is_some_and(|l| l.stop_signal.is_some());
        check(signal, format!("{list}[{i}].lifecycle.stopSignal"), Gate::ContainerStopSignals.since());
    }
    found
}

fn each_container(spec: &mut PodSpec, mut f: impl FnMut(&'static str, usize, &mut Container)) {
    for (i, c) in spec.init_containers.iter_mut().flatten().enumerate() {
        f("initContainers", i, c);
    }
    for (i, c) in spec.containers.iter_mut().enumerate() {
        f("containers", i, c);
    }
}

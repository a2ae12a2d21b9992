//! A pod's spec and the metadata of any object.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    container,
    field::{At, Errors},
    handler, names, resources, restart, volume,
};
use crate::{resources::Level, version::Features};

/// What the parts of a pod are checked against.
pub(super) struct Context<'a> {
    pub(super) features: &'a Features,
    pub(super) os: Option<&'a str>,
    /// The grace period in seconds.
    pub(super) grace: i64,
    pub(super) volumes: HashSet<&'a str>,
}

/// The names, labels and annotations of an object.
pub(super) fn metadata(metadata: &ObjectMeta, at: &At, errors: &mut Errors) {
    let generated = metadata.generate_name.as_deref().unwrap_or_default();
    match metadata.name.as_deref().unwrap_or_default() {
        "" if generated.is_empty() => {
            errors.required(&at.field("name"), "name or generateName is required");
        }
        "" => {}
        name => errors.text(&at.field("name"), name, names::subdomain),
    }
    template_metadata(metadata, at, errors);
}

/// Labels and annotations.
pub(super) fn template_metadata(metadata: &ObjectMeta, at: &At, errors: &mut Errors) {
    labels(metadata.labels.as_ref(), &at.field("labels"), errors);
    for key in metadata.annotations.iter().flatten().map(|(k, _)| k) {
        errors.text(&at.field("annotations"), key, |key| names::qualified(&key.to_lowercase()));
    }
}

/// Labels, or anything else that is a set of them.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, at: &At, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.text(at, key, names::qualified);
        errors.text(at, value, names::label_value);
    }
}

/// The spec of a pod. `created` is false for a template, which may hold what only a running pod can't be born with.
pub(super) fn spec(spec: &PodSpec, at: &At, features: &Features, errors: &mut Errors) {
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let volumes = volume::all(spec.volumes.as_deref().unwrap_or_default(), &at.field("volumes"), errors);
    // A negative period is stored as 1 second.
    let grace = if grace < 0 { 1 } else { grace };
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    let context = Context { features, os, grace, volumes };
    containers(spec, at, &context, errors);
    inits(spec, at, &context, errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|e| !e.is_empty()) {
        errors.forbidden(&at.field("ephemeralContainers"), "cannot be set on create");
    }
    if let Some(of) = &spec.resources {
        resources::requirements(of, &at.field("resources"), Level::Pod, errors);
        resources::consistency(spec, at, errors);
    }
    if let Some(overhead) = &spec.overhead {
        resources::overhead(overhead, &at.field("overhead"), errors);
    }
    host_network(spec, at, errors);
    let policy = spec.restart_policy.as_deref();
    errors.one_of(&at.field("restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    errors.one_of(&at.field("dnsPolicy"), spec.dns_policy.as_deref(), &dns);
    labels(spec.node_selector.as_ref(), &at.field("nodeSelector"), errors);
    if let Some(name) = os {
        errors.one_of(&at.field("os.name"), Some(name), &["linux", "windows"]);
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            errors.text(&at.field(field), name, names::label);
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = at.field("hostAliases").index(i);
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&at.field("ip"), &alias.ip, detail);
        }
        for name in alias.hostnames.iter().flatten() {
            errors.text(&at.field("hostnames"), name, names::subdomain);
        }
    }
    if let Some(n) = spec.active_deadline_seconds.filter(|n| !(1..=i64::from(i32::MAX)).contains(n)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.invalid_raw(&at.field("activeDeadlineSeconds"), n, detail);
    }
    handler::overflow(grace, &at.field("terminationGracePeriodSeconds"), errors);
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = at.field("readinessGates").index(i).field("conditionType");
        errors.text(&at, &gate.condition_type, names::qualified);
    }
}

fn containers(spec: &PodSpec, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let at = at.field("containers");
    if spec.containers.is_empty() {
        errors.required(&at, "");
        return;
    }
    let mut known = HashSet::new();
    for (i, c) in spec.containers.iter().enumerate() {
        let at = at.index(i);
        container::common(c, &at, context, errors);
        if !c.name.is_empty() && !known.insert(c.name.as_str()) {
            errors.duplicate(&at.field("name"), &c.name);
        }
        handler::all(c, &at, context, errors);
        restart::app(c, &at, context, errors);
    }
    container::host_ports(spec.containers.iter().enumerate().map(|(i, c)| (at.index(i), c)), errors);
}

fn inits(spec: &PodSpec, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let at = at.field("initContainers");
    let mut known: HashSet<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, c) in spec.init_containers.iter().flatten().enumerate() {
        let at = at.index(i);
        container::common(c, &at, context, errors);
        restart::init(c, &at, context, errors);
        if !c.name.is_empty() && !known.insert(c.name.as_str()) {
            errors.duplicate(&at.field("name"), &c.name);
        }
        container::host_ports([(at.clone(), c)], errors);
        if c.restart_policy.as_deref() == Some("Always") {
            handler::all(c, &at, context, errors);
        } else {
            no_handlers(c, &at, errors);
        }
    }
}

fn no_handlers(c: &Container, at: &At, errors: &mut Errors) {
    let set = [
        ("lifecycle", c.lifecycle.is_some()),
        ("livenessProbe", c.liveness_probe.is_some()),
        ("readinessProbe", c.readiness_probe.is_some()),
        ("startupProbe", c.startup_probe.is_some()),
    ];
    for (field, _) in set.iter().filter(|(_, set)| *set) {
        errors.forbidden(&at.field(field), "may not be set for init containers without restartPolicy=Always");
    }
}

fn host_network(spec: &PodSpec, at: &At, errors: &mut Errors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, c) in spec.containers.iter().enumerate() {
        for (j, port) in c.ports.iter().flatten().enumerate() {
            if let Some(host) = port.host_port.filter(|h| *h != 0 && *h != port.container_port) {
                let at = at.field("containers").index(i).field("ports").index(j).field("hostPort");
                errors.invalid_raw(&at, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

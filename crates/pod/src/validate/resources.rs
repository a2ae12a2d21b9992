//! Requests and limits.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};

use super::{
    field::{At, Errors},
    names,
};
use crate::resources::{self, Level, Quantity};

type List = BTreeMap<String, Text>;

/// The resources of a container, or of the whole pod.
pub(super) fn requirements(of: &ResourceRequirements, at: &At, level: Level, errors: &mut Errors) {
    let limits = of.limits.as_ref();
    for (name, amount) in limits.into_iter().flatten() {
        resource(name, amount, &at.field("limits").key(name), level, errors);
    }
    // A missing request becomes the limit before the API server looks at it.
    let defaulted = with_defaults(of, level);
    let requests_at = at.field("requests");
    for (name, amount) in &defaulted {
        resource(name, amount, &requests_at.key(name), level, errors);
        let (Ok(request), limit) = (parse(amount), limits.and_then(|l| l.get(name))) else { continue };
        match limit.map(parse) {
            Some(Ok(limit)) if request != limit && !overcommit(name) => {
                errors.invalid(&requests_at, request, &format!("must be equal to {name} limit of {limit}"));
            }
            Some(Ok(limit)) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_at, request, &detail);
            }
            None if !overcommit(name) => {
                errors.required(&at.field("limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let named = |wanted: fn(&str) -> bool| {
        limits.into_iter().flatten().chain(&defaulted).any(|(name, _)| wanted(name))
    };
    if named(|n| n.starts_with(HUGEPAGES)) && !named(|n| n == "cpu" || n == "memory") {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
}

/// The pod's resources against those of its containers.
pub(super) fn consistency(spec: &PodSpec, base: &At, errors: &mut Errors) {
    let Some(of) = &spec.resources else { return };
    let at = base.field("resources");
    let pod = resources::of_requirements(of);
    let aggregate = resources::aggregate(spec);
    for (name, request) in &pod.requests {
        if let Some(sum) = aggregate.requests.get(name).filter(|sum| *sum > request) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&at.field("requests").key(name), request, &detail);
        }
    }
    let apps = spec.containers.iter().map(|c| ("containers", c));
    let inits = spec.init_containers.iter().flatten().map(|c| ("initContainers", c));
    for (list, containers) in [("initContainers", inits.collect::<Vec<_>>()), ("containers", apps.collect())]
    {
        for (i, (_, container)) in containers.into_iter().enumerate() {
            let own = container.resources.as_ref().map(resources::of_requirements).unwrap_or_default();
            for (name, limit) in &own.limits {
                if let Some(most) = pod.limits.get(name).filter(|most| limit > *most) {
                    let at = base.field(list).index(i).field("resources.limits");
                    errors.invalid(
                        &at,
                        limit,
                        &format!("must be less than or equal to pod limits of {most}"),
                    );
                }
            }
        }
    }
}

/// Overhead, which a RuntimeClass adds and nobody writes by hand.
pub(super) fn overhead(list: &List, at: &At, errors: &mut Errors) {
    for (name, amount) in list {
        resource(name, amount, &at.key(name), Level::Container, errors);
    }
}

const HUGEPAGES: &str = "hugepages-";

fn with_defaults(of: &ResourceRequirements, level: Level) -> List {
    let mut requests = of.requests.clone().unwrap_or_default();
    if level == Level::Container {
        for (name, limit) in of.limits.iter().flatten() {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    requests
}

fn resource(name: &str, amount: &Text, at: &At, level: Level, errors: &mut Errors) {
    if level == Level::Pod {
        if !["cpu", "memory"].contains(&name) && !name.starts_with(HUGEPAGES) {
            errors.unsupported(at, name, &["cpu", "hugepages-", "memory"]);
        }
    } else {
        container_resource(name, at, errors);
    }
    let Ok(amount) = parse(amount) else { return };
    if amount.is_negative() {
        errors.invalid(at, amount, "must be greater than or equal to 0");
    } else if is_extended(name) && amount.nanos() % 1_000_000_000 != 0 {
        errors.invalid(at, amount, "must be an integer");
    }
}

fn container_resource(name: &str, at: &At, errors: &mut Errors) {
    errors.text(at, name, names::qualified);
    if !name.contains('/') {
        let of_containers =
            ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with(HUGEPAGES);
        let standard =
            of_containers || ["storage", "pods", "services", "secrets", "configmaps"].contains(&name);
        if !standard && !name.starts_with("requests.") && !name.starts_with("limits.") {
            errors.invalid(at, name, "must be a standard resource type or fully qualified");
        }
        if !of_containers {
            errors.invalid(at, name, "must be a standard resource for containers");
        }
    } else if name.starts_with("requests.") {
        errors.invalid(at, name, "doesn't follow extended resource name standard");
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

fn overcommit(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with(HUGEPAGES)
}

fn parse(text: &Text) -> Result<Quantity, resources::QuantityError> {
    text.0.parse()
}

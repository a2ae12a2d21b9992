//! Objects that make pods: what they demand of the template.

use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1::LabelSelector};

use super::{
    field::{At, Errors},
    pod,
};
use crate::{
    load::{Kind, Object, Workload},
    version::Features,
};

/// An object of any kind.
pub(super) fn object(workload: &Workload, features: &Features, errors: &mut Errors) {
    pod::metadata(workload.metadata(), &At::new("metadata"), errors);
    let at = At::new("spec");
    match workload.object() {
        Object::Pod(_) => pod::spec(workload.spec(), &at, features, errors),
        Object::Deployment(o) => {
            let spec = &o.spec;
            errors.not_negative(&at.field("replicas"), spec.replicas);
            replicated(workload, &spec.selector, features, errors);
            errors.not_negative(&at.field("minReadySeconds"), spec.min_ready_seconds);
        }
        Object::ReplicaSet(o) => {
            let spec = &o.spec;
            errors.not_negative(&at.field("replicas"), spec.replicas);
            replicated(workload, &spec.selector, features, errors);
        }
        Object::DaemonSet(o) => replicated(workload, &o.spec.selector, features, errors),
        Object::StatefulSet(o) => {
            let spec = &o.spec;
            errors.not_negative(&at.field("replicas"), spec.replicas);
            replicated(workload, &spec.selector, features, errors);
        }
        Object::Job(_) | Object::CronJob(_) => job(workload, features, errors),
    }
}

fn replicated(workload: &Workload, selector: &LabelSelector, features: &Features, errors: &mut Errors) {
    let at = At::new("spec");
    let template_at = at.field("template");
    let empty = |s: &LabelSelector| {
        s.match_labels.as_ref().is_none_or(|l| l.is_empty())
            && s.match_expressions.as_ref().is_none_or(Vec::is_empty)
    };
    match selector {
        s if empty(s) => errors.required(&at.field("selector"), ""),
        s => matches(s, workload.template(), &template_at.field("metadata.labels"), errors),
    }
    template(workload, &template_at, features, errors);
    let policy = workload.spec().restart_policy.as_deref();
    errors.one_of(&template_at.field("spec.restartPolicy"), known_policy(policy), &["Always"]);
    if workload.spec().active_deadline_seconds.is_some() {
        let detail = match workload.kind() {
            Kind::DaemonSet => "activeDeadlineSeconds in DaemonSet is not Supported",
            Kind::StatefulSet => "activeDeadlineSeconds in StatefulSet is not Supported",
            _ => "activeDeadlineSeconds in ReplicaSet is not Supported",
        };
        errors.forbidden(&template_at.field("spec.activeDeadlineSeconds"), detail);
    }
}

fn matches(selector: &LabelSelector, template: Option<&PodTemplateSpec>, at: &At, errors: &mut Errors) {
    let labels =
        template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let by_label = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let by_expression = selector.match_expressions.iter().flatten().all(|e| {
        let value = labels.get(&e.key);
        let listed = value.is_some_and(|v| e.values.as_ref().is_some_and(|list| list.contains(v)));
        match e.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => true,
        }
    });
    if !by_label || !by_expression {
        let json = serde_json::to_string(&labels).unwrap_or_default();
        errors.invalid_raw(at, json, "`selector` does not match template `labels`");
    }
}

fn job(workload: &Workload, features: &Features, errors: &mut Errors) {
    let at = match workload.kind() {
        Kind::CronJob => At::new("spec.jobTemplate.spec"),
        _ => At::new("spec"),
    };
    if let Object::CronJob(cron) = workload.object()
        && cron.spec.schedule.is_empty()
    {
        errors.required(&At::new("spec.schedule"), "");
    }
    if let Some(spec) = workload.job() {
        errors.not_negative(&at.field("parallelism"), spec.parallelism);
        errors.not_negative(&at.field("completions"), spec.completions);
        errors.not_negative(&at.field("activeDeadlineSeconds"), spec.active_deadline_seconds);
        errors.not_negative(&at.field("backoffLimit"), spec.backoff_limit);
        errors.not_negative(&at.field("ttlSecondsAfterFinished"), spec.ttl_seconds_after_finished);
        let modes = ["Indexed", "NonIndexed"];
        errors.one_of(&at.field("completionMode"), spec.completion_mode.as_deref(), &modes);
    }
    template(workload, &at.field("template"), features, errors);
    let policy = workload.spec().restart_policy.as_deref();
    if matches!(policy, None | Some("" | "Always")) {
        let detail = "valid values: \"OnFailure\", \"Never\"";
        errors.required(&at.field("template.spec.restartPolicy"), detail);
    }
}

fn template(workload: &Workload, at: &At, features: &Features, errors: &mut Errors) {
    if let Some(metadata) = workload.template().and_then(|t| t.metadata.as_ref()) {
        pod::template_metadata(metadata, &at.field("metadata"), errors);
    }
    pod::spec(workload.spec(), &at.field("spec"), features, errors);
}

/// A policy that is none at all has been refused already.
fn known_policy(policy: Option<&str>) -> Option<&str> {
    policy.filter(|p| ["Always", "OnFailure", "Never"].contains(p))
}

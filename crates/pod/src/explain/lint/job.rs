//! Pods that are to end: Jobs, and pods that are not restarted for ever.

use super::{Entry, Found, Lint};
use crate::{
    explain::known::{self, Helper},
    resources::Role,
};

pub(super) fn check(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let workload = found.subject.workload;
    let spec = workload.spec();
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let is_job = workload.kind().is_job();
    let apps: Vec<_> = entries.iter().filter(|e| e.role == Role::App).collect();
    let helpers =
        || apps.iter().filter_map(|e| Some((*e, known::helper(e.container)?))).filter(|_| apps.len() > 1);
    for (entry, helper) in helpers() {
        if is_job {
            in_job(entry, helper, found);
        } else if policy != "Always" {
            exit_code(entry, helper, policy, found);
        }
    }
    if is_job {
        injected(found);
        flapping(entries, policy, found);
    }
}

fn in_job(entry: &Entry<'_>, helper: Helper, found: &mut Found<'_, '_>) {
    let name = entry.name();
    found.add(
        Lint::HelperInJob,
        &entry.path,
        format!("`{name}` ({}) is one of the Job's `containers`", helper.what()),
        "the Job completes only when all of `containers` have ended; this one runs on after the work is done, and if \
         something stops it, its exit code (143 for SIGTERM) counts as a failure"
            .into(),
        format!("move `{name}` to `initContainers` with `restartPolicy: Always`: it is then stopped when the work is done"),
    );
}

fn exit_code(entry: &Entry<'_>, helper: Helper, policy: &str, found: &mut Found<'_, '_>) {
    let name = entry.name();
    found.add(
        Lint::HelperExitCode,
        &entry.path,
        format!("`{name}` ({}) is one of `containers` in a pod with restartPolicy {policy}", helper.what()),
        "the pod ends only when it ends too, and when it is stopped by a signal the pod counts as Failed".into(),
        format!("move `{name}` to `initContainers` with `restartPolicy: Always`: exit codes of sidecars count for nothing"),
    );
}

/// R72: with OnFailure the limit compares with the restarts of all containers.
fn flapping(entries: &[Entry<'_>], policy: &str, found: &mut Found<'_, '_>) {
    let sidecars: Vec<_> = entries.iter().filter(|e| e.role == Role::Sidecar).collect();
    if policy != "OnFailure" || sidecars.is_empty() {
        return;
    }
    let limit = found.subject.workload.job().and_then(|j| j.backoff_limit).unwrap_or(6);
    let names: Vec<_> = sidecars.iter().map(|e| format!("`{}`", e.name())).collect();
    let reached = match limit {
        0 => "its first restart, even after exit 0, fails the Job".to_owned(),
        n => format!(
            "{n} restarts of it, together with those of the app, fail the Job, though the work goes well"
        ),
    };
    found.add(
        Lint::FlappingSidecar,
        "restartPolicy",
        format!(
            "the Job has restartPolicy OnFailure, backoffLimit {limit} and the sidecar {}",
            names.join(", ")
        ),
        format!("restarts of sidecars count against backoffLimit: {reached}"),
        "use restartPolicy Never, where only failed pods count, or a larger backoffLimit".into(),
    );
}

/// Meshes inject their proxy when the pod is created.
fn injected(found: &mut Found<'_, '_>) {
    let workload = found.subject.workload;
    let Some(metadata) = workload.pod_metadata() else { return };
    let marks = metadata.labels.iter().chain(&metadata.annotations).flatten();
    let asked = marks.into_iter().find(|(key, value)| match key.as_str() {
        "sidecar.istio.io/inject" => *value == "true",
        "linkerd.io/inject" => *value == "enabled" || *value == "ingress",
        "vault.hashicorp.com/agent-inject" | "dapr.io/enabled" | "consul.hashicorp.com/connect-inject" => {
            *value == "true"
        }
        _ => false,
    });
    let Some((key, value)) = asked else { return };
    let spec = workload.spec();
    let present =
        spec.init_containers.iter().flatten().chain(&spec.containers).any(|c| known::helper(c).is_some());
    if present {
        return;
    }
    found.at(
        Lint::InjectedSidecar,
        workload.kind().metadata_path().to_owned(),
        format!("`{key}: {value}` has a webhook add a sidecar that is not in this manifest"),
        "what is said here is said without it; unless it is added as a native sidecar the Job never completes".into(),
        "have the injector use native sidecars, and explain a created pod: kubectl get pod NAME -o yaml".into(),
    );
}

//! The order in which containers start, and what each one waits for (R9-R11, R17-R20).

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, PodSpec, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::Serialize;

use super::seconds;
use crate::resources::Role;

/// One step of the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartStep {
    /// The container.
    pub name: String,
    /// Its part in the pod.
    pub role: Role,
    /// What it waits for.
    pub after: String,
    /// When the next one may start.
    pub gate: String,
    /// What happens when it fails at this step.
    pub on_failure: String,
    /// The rules that say so.
    pub rules: &'static [&'static str],
}

/// The steps of a pod's start, in order.
pub fn steps(spec: &PodSpec) -> Vec<StartStep> {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let mut after = "at once".to_owned();
    let mut steps = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let name = &container.name;
        let role = Role::of_init(container);
        let step = match role {
            Role::Sidecar => sidecar(container, after),
            _ => init(container, after, policy),
        };
        after = match role {
            Role::Sidecar => format!("`{name}` is started"),
            _ => format!("`{name}` has exited 0"),
        };
        steps.push(step);
    }
    for container in &spec.containers {
        steps.push(app(container, after, policy));
        after = match hook(container, |l| l.post_start.as_ref()) {
            Some(_) => format!("`{}` and its postStart hook were started and done", container.name),
            None => format!("`{}` was started (its probes are not awaited)", container.name),
        };
    }
    steps
}

/// What makes the pod Ready (R39).
pub fn ready_when(spec: &PodSpec) -> String {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| Role::of_init(c) == Role::Sidecar);
    let counted: Vec<_> = sidecars.chain(&spec.containers).collect();
    let probed: Vec<_> =
        counted.iter().filter(|c| c.readiness_probe.is_some()).map(|c| c.name.as_str()).collect();
    let gates: Vec<_> = spec.readiness_gates.iter().flatten().map(|g| g.condition_type.as_str()).collect();
    let mut text = match probed.as_slice() {
        [] => "every app and sidecar has started: none has a readiness probe".to_owned(),
        [one] => format!("every app and sidecar has started and the readiness probe of `{one}` succeeds"),
        many => format!(
            "every app and sidecar has started and the readiness probes of {} succeed",
            many.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    if !gates.is_empty() {
        text += &format!(", and the readiness gates {} are true", gates.join(", "));
    }
    text
}

fn init(container: &Container, after: String, pod_policy: &str) -> StartStep {
    let policy = container.restart_policy.as_deref().unwrap_or(pod_policy);
    let on_failure = match policy {
        "Never" => "the whole pod fails".to_owned(),
        _ => "it alone is tried again, after 0, 10, 20, 40 ... 300 s; the pod stays Pending".to_owned(),
    };
    StartStep {
        name: container.name.clone(),
        role: Role::Init,
        after,
        gate: "the next one starts when it has exited 0".to_owned(),
        on_failure,
        rules: &["R10", "R17"],
    }
}

fn sidecar(container: &Container, after: String) -> StartStep {
    let hook = hook(container, |l| l.post_start.as_ref())
        .map(|h| format!("its postStart hook ({}) is done and ", handler(h)))
        .unwrap_or_default();
    let (gate, on_failure) = match &container.startup_probe {
        None => (
            format!("the next one starts when {hook}its process exists: it has no startup probe"),
            "it is restarted after 0, 10, 20, 40 ... 300 s, whatever its exit code".to_owned(),
        ),
        Some(probe) => {
            let attempts = i64::from(probe.failure_threshold.filter(|n| *n > 0).unwrap_or(3));
            let period = i64::from(probe.period_seconds.filter(|n| *n > 0).unwrap_or(10));
            let delay = i64::from(probe.initial_delay_seconds.unwrap_or(0));
            let most = delay.saturating_add(attempts.saturating_mul(period));
            let gate = format!(
                "the next one starts when {hook}its startup probe succeeds: {}, every {}",
                describe(probe),
                seconds(period)
            );
            let on_failure = format!(
                "{attempts} failures in a row ({} in all) and it is killed and started anew; nothing after it starts \
                 meanwhile",
                seconds(most)
            );
            (gate, on_failure)
        }
    };
    StartStep {
        name: container.name.clone(),
        role: Role::Sidecar,
        after,
        gate,
        on_failure,
        rules: &["R10", "R11", "R15"],
    }
}

fn app(container: &Container, after: String, pod_policy: &str) -> StartStep {
    let gate = match (hook(container, |l| l.post_start.as_ref()), &container.startup_probe) {
        (Some(h), _) => format!("the next app starts when its postStart hook ({}) is done", handler(h)),
        (None, _) => "the next app starts right after it".to_owned(),
    };
    let rules = container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty());
    let policy = container.restart_policy.as_deref().unwrap_or(pod_policy);
    let mut on_failure = match policy {
        "Always" => "it is restarted, whatever its exit code".to_owned(),
        "OnFailure" => "it is restarted unless it exits 0".to_owned(),
        _ => "it is not restarted".to_owned(),
    };
    if rules {
        on_failure += "; its restart rules come first";
    }
    StartStep {
        name: container.name.clone(),
        role: Role::App,
        after,
        gate,
        on_failure,
        rules: &["R19", "R22"],
    }
}

/// A probe in a few words: `GET :15021/healthz/ready`.
pub(crate) fn describe(probe: &Probe) -> String {
    if let Some(exec) = &probe.exec {
        command(exec.command.as_deref().unwrap_or_default())
    } else if let Some(http) = &probe.http_get {
        format!("GET :{}{}", port(&http.port), http.path.as_deref().unwrap_or("/"))
    } else if let Some(tcp) = &probe.tcp_socket {
        format!("tcp :{}", port(&tcp.port))
    } else if let Some(grpc) = &probe.grpc {
        format!("grpc :{}", grpc.port)
    } else {
        "nothing".to_owned()
    }
}

/// A hook in a few words.
pub(crate) fn handler(handler: &LifecycleHandler) -> String {
    if let Some(exec) = &handler.exec {
        command(exec.command.as_deref().unwrap_or_default())
    } else if let Some(http) = &handler.http_get {
        format!("GET :{}{}", port(&http.port), http.path.as_deref().unwrap_or("/"))
    } else if let Some(sleep) = &handler.sleep {
        format!("sleep {}", seconds(sleep.seconds))
    } else {
        "tcp".to_owned()
    }
}

/// A hook of a container.
pub(crate) fn hook(
    container: &Container,
    which: fn(&k8s_openapi::api::core::v1::Lifecycle) -> Option<&LifecycleHandler>,
) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref().and_then(which)
}

fn port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(n) => n.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn command(words: &[String]) -> String {
    let line = words.join(" ").replace('\n', " ");
    if line.chars().count() <= 48 { line } else { line.chars().take(45).chain("...".chars()).collect() }
}

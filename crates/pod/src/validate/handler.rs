//! Probes and hooks.

use k8s_openapi::{
    api::core::v1::{
        Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    field::{At, Errors},
    names,
    pod::Context,
    restart,
};
use crate::{load::MAX_SECONDS, version::Gate};

/// Everything that says how a container is started, watched and stopped. Inits have none of it.
pub(super) fn all(container: &Container, at: &At, context: &Context<'_>, errors: &mut Errors) {
    if let Some(l) = &container.lifecycle {
        lifecycle(l, &at.field("lifecycle"), context, errors);
    }
    if let Some(p) = &container.liveness_probe {
        let at = at.field("livenessProbe");
        probe(p, &at, context, errors);
        success_once(p, &at, errors);
    }
    if let Some(p) = &container.readiness_probe {
        let at = at.field("readinessProbe");
        probe(p, &at, context, errors);
        if let Some(n) = p.termination_grace_period_seconds {
            let at = at.field("terminationGracePeriodSeconds");
            errors.invalid_raw(&at, n, "must not be set for readinessProbes");
        }
    }
    if let Some(p) = &container.startup_probe {
        let at = at.field("startupProbe");
        probe(p, &at, context, errors);
        success_once(p, &at, errors);
    }
}

fn lifecycle(lifecycle: &Lifecycle, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let hooks = [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (name, hook) in hooks.into_iter().filter_map(|(n, h)| h.as_ref().map(|h| (n, h))) {
        let actions = Actions {
            exec: hook.exec.as_ref(),
            http: hook.http_get.as_ref(),
            tcp: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        handler(&actions, &at.field(name), context, errors);
    }
    restart::stop_signal(lifecycle, at, context, errors);
}

fn probe(probe: &Probe, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let actions = Actions {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler(&actions, at, context, errors);
    errors.not_negative(&at.field("initialDelaySeconds"), probe.initial_delay_seconds);
    errors.not_negative(&at.field("timeoutSeconds"), probe.timeout_seconds);
    errors.not_negative(&at.field("periodSeconds"), probe.period_seconds);
    errors.not_negative(&at.field("successThreshold"), probe.success_threshold);
    errors.not_negative(&at.field("failureThreshold"), probe.failure_threshold);
    if let Some(n) = probe.termination_grace_period_seconds {
        let at = at.field("terminationGracePeriodSeconds");
        if n <= 0 {
            errors.invalid_raw(&at, n, "must be greater than 0");
        }
        overflow(n, &at, errors);
    }
}

/// Zero means the default, which is 1.
fn success_once(probe: &Probe, at: &At, errors: &mut Errors) {
    if let Some(n) = probe.success_threshold.filter(|n| ![0, 1].contains(n)) {
        errors.invalid_raw(&at.field("successThreshold"), n, "must be 1");
    }
}

/// Durations are nanoseconds in 63 bits inside the kubelet: what does not fit is refused here.
pub(super) fn overflow(seconds: i64, at: &At, errors: &mut Errors) {
    if seconds > MAX_SECONDS {
        let detail = format!("must be at most {MAX_SECONDS} (292 years): longer durations overflow");
        errors.invalid_raw(at, seconds, &detail);
    }
}

struct Actions<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

fn handler(actions: &Actions<'_>, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let mut handlers = 0;
    let mut only = |name: &str, errors: &mut Errors| {
        handlers += 1;
        if handlers > 1 {
            errors.forbidden(&at.field(name), "may not specify more than 1 handler type");
        }
        handlers == 1
    };
    if let Some(exec) = actions.exec
        && only("exec", errors)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.required(&at.field("exec.command"), "");
    }
    if let Some(http) = actions.http
        && only("httpGet", errors)
    {
        port(&http.port, &at.field("httpGet.port"), errors);
        errors.one_of(&at.field("httpGet.scheme"), http.scheme.as_deref(), &["HTTP", "HTTPS"]);
    }
    if let Some(tcp) = actions.tcp
        && only("tcpSocket", errors)
    {
        port(&tcp.port, &at.field("tcpSocket.port"), errors);
    }
    if let Some(grpc) = actions.grpc
        && only("grpc", errors)
    {
        port_number(i64::from(grpc.port), &at.field("grpc.port"), errors);
    }
    if let Some(sleep) = actions.sleep
        && only("sleep", errors)
    {
        sleep_action(sleep.seconds, &at.field("sleep"), context, errors);
    }
    if handlers == 0 {
        errors.required(at, "must specify a handler type");
    }
}

fn sleep_action(seconds: i64, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let grace = context.grace;
    let zero = context.features.on(Gate::PodLifecycleSleepActionAllowZero);
    let low = i64::from(!zero);
    if seconds >= low && seconds <= grace {
        return;
    }
    let detail = if zero {
        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})")
    } else {
        format!(
            "must be greater than 0 and less than terminationGracePeriodSeconds ({grace}). Enable \
             AllowPodLifecycleSleepActionZeroValue feature gate for zero sleep."
        )
    };
    errors.invalid_raw(at, seconds, &detail);
}

fn port(port: &IntOrString, at: &At, errors: &mut Errors) {
    match port {
        IntOrString::Int(n) => port_number(i64::from(*n), at, errors),
        IntOrString::String(name) => errors.text(at, name, names::port),
    }
}

pub(super) fn port_number(n: i64, at: &At, errors: &mut Errors) {
    if !(1..=65535).contains(&n) {
        errors.invalid_raw(at, n, "must be between 1 and 65535, inclusive");
    }
}

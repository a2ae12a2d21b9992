//! Restart policies and rules of containers, and stop signals.

use k8s_openapi::api::core::v1::{Container, Lifecycle};

use super::{
    field::{At, Errors},
    pod::Context,
};
use crate::version::Gate;

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// `restartPolicy` and `restartPolicyRules` of an app.
pub(super) fn app(container: &Container, at: &At, context: &Context<'_>, errors: &mut Errors) {
    if context.features.on(Gate::ContainerRestartRules) {
        with_rules(container, at, context, errors);
    } else if container.restart_policy.is_some() {
        errors.forbidden(&at.field("restartPolicy"), "may not be set for non-init containers");
    }
}

/// `restartPolicy` and `restartPolicyRules` of an entry of `initContainers`.
pub(super) fn init(container: &Container, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let policy = container.restart_policy.as_deref();
    if !context.features.on(Gate::ContainerRestartRules) {
        errors.one_of(&at.field("restartPolicy"), policy, &["Always"]);
        return;
    }
    let has_rules = container.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty());
    if policy == Some("Always") && has_rules {
        let at = at.field("restartPolicyRules");
        errors.forbidden(
            &at,
            "restartPolicyRules are not allowed for init containers with restart policy Always",
        );
        return;
    }
    with_rules(container, at, context, errors);
}

fn with_rules(container: &Container, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let policy_at = at.field("restartPolicy");
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    match container.restart_policy.as_deref() {
        None if !rules.is_empty() => {
            errors.required(&policy_at, "must specify restartPolicy when restart rules are used");
        }
        policy => errors.one_of(&policy_at, policy, &POLICIES),
    }
    let at = at.field("restartPolicyRules");
    if rules.len() > MAX_RULES {
        errors.too_long(&at, MAX_RULES);
        return;
    }
    let all = context.features.on(Gate::RestartAllContainersOnContainerExits);
    let actions: &[&str] = if all { &["Restart", "RestartAllContainers"] } else { &["Restart"] };
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        if !actions.contains(&rule.action.as_str()) {
            errors.unsupported(&at.field("action"), &rule.action, actions);
        }
        let Some(codes) = &rule.exit_codes else {
            errors.required(&at.field("exitCodes"), "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            errors.unsupported(&at.field("exitCodes.operator"), &codes.operator, &["In", "NotIn"]);
        }
        if codes.values.as_ref().is_some_and(|v| v.len() > MAX_EXIT_CODES) {
            errors.too_long(&at.field("exitCodes.values"), MAX_EXIT_CODES);
        }
    }
}

/// `lifecycle.stopSignal`, which depends on the system that the pod is for.
pub(super) fn stop_signal(lifecycle: &Lifecycle, at: &At, context: &Context<'_>, errors: &mut Errors) {
    let Some(signal) = lifecycle.stop_signal.as_deref() else { return };
    let at = at.field("stopSignal");
    match context.os {
        None => errors.forbidden(&at, "may not be set for containers with empty `spec.os.name`"),
        Some("windows") => errors.one_of(&at, Some(signal), &["SIGKILL", "SIGTERM"]),
        Some(_) => errors.one_of(&at, Some(signal), &LINUX_SIGNALS),
    }
}

/// Every signal that a container on Linux may be stopped with, in the API server's order.
const LINUX_SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

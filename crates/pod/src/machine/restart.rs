//! Whether a container that ended is started again (R15, R17, R22-R24).

use super::spec::{ContainerSpec, Policy, Spec};
use super::types::ContainerKind;

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Restart,
    RestartAll,
    Stay,
}

/// What follows from an end with this code: the first rule that matches, else the container's policy, else the pod's.
pub(super) fn after_exit(pod: &Spec, container: &ContainerSpec, code: i32) -> Verdict {
    if let Some(rule) = container.rules.iter().find(|rule| rule.matches(code)) {
        return if rule.all { Verdict::RestartAll } else { Verdict::Restart };
    }
    let restarts = match container.kind {
        ContainerKind::Sidecar => true,
        // An init that ended well is never run again by any policy.
        ContainerKind::Init if code == 0 => false,
        ContainerKind::Init => container.policy.unwrap_or(pod.policy) != Policy::Never,
        ContainerKind::App => container.policy.unwrap_or(pod.policy).restarts(code),
    };
    if restarts { Verdict::Restart } else { Verdict::Stay }
}

/// Whether a container that the engine itself kills for a failed probe is started again in the same sync: rules and
/// exit codes are not asked, as there is none yet (R24).
pub(super) fn after_kill(pod: &Spec, container: &ContainerSpec) -> bool {
    container.kind == ContainerKind::Sidecar || container.policy.unwrap_or(pod.policy) != Policy::Never
}

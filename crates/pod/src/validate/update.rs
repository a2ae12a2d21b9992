//! What may be changed in a living pod, and with which grace it is deleted.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::field::{At, Errors, FieldError};

/// What the API server would refuse when `old` is replaced by `new`.
///
/// Its message goes on with a diff of its internal types, which is left out here.
pub fn pod(old: &Pod, new: &Pod) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (Some(old), Some(new)) = (&old.spec, &new.spec) else { return Vec::new() };
    let at = At::new("spec");
    let inits = |s: &PodSpec| s.init_containers.as_ref().map_or(0, Vec::len);
    if old.containers.len() != new.containers.len() {
        errors.forbidden(&at.field("containers"), "pod updates may not add or remove containers");
        return errors.into_list();
    }
    if inits(old) != inits(new) {
        errors.forbidden(&at.field("initContainers"), "pod updates may not add or remove containers");
        return errors.into_list();
    }
    if with_changeable_of(new, old) != *old {
        errors.forbidden(
            &at,
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
             negative)",
        );
    }
    if let Some(n) = new.active_deadline_seconds {
        let at = at.field("activeDeadlineSeconds");
        if !(1..=i64::from(i32::MAX)).contains(&n) {
            errors.invalid_raw(&at, n, "must be between 1 and 2147483647, inclusive");
        } else if let Some(before) = old.active_deadline_seconds.filter(|before| *before < n) {
            let detail = format!("must be less than or equal to previous value {before}");
            errors.invalid_raw(&at, n, &detail);
        }
    } else if old.active_deadline_seconds.is_some() {
        errors.invalid_raw(
            &at.field("activeDeadlineSeconds"),
            "null",
            "must not update from a positive integer to nil value",
        );
    }
    errors.into_list()
}

/// The grace period of a deletion in seconds: what was asked for, else the pod's own, else 30. A negative one is 1.
pub fn deletion_grace(asked: Option<i64>, spec: &PodSpec) -> i64 {
    let grace = asked.or(spec.termination_grace_period_seconds).unwrap_or(30);
    if grace < 0 { 1 } else { grace }
}

/// `new` with everything that may change taken back to what it was.
fn with_changeable_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut spec = new.clone();
    for (mine, theirs) in spec.containers.iter_mut().zip(&old.containers) {
        mine.image.clone_from(&theirs.image);
    }
    for (mine, theirs) in spec.init_containers.iter_mut().flatten().zip(old.init_containers.iter().flatten())
    {
        mine.image.clone_from(&theirs.image);
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    if old.termination_grace_period_seconds.is_some_and(|g| g < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    let kept = old.tolerations.iter().flatten().all(|t| new.tolerations.iter().flatten().any(|n| n == t));
    if kept {
        spec.tolerations.clone_from(&old.tolerations);
    }
    spec
}

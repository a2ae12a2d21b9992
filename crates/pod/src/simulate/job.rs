//! What a Job's controller does to its pod (R71, R72).
//!
//! One pod is watched: a Job whose pod fails under `Never` would make another one, which is not simulated.

use std::time::Duration;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use crate::machine::{Phase, PodStatus, Time, Timing};

/// How long the controller waits before it looks at a pod that changed.
const BATCH: Duration = Duration::from_secs(1);

pub(super) struct JobWatch {
    limit: u32,
    on_failure: bool,
    delay: Duration,
    /// When a change of the pod is looked at.
    look_at: Option<Time>,
    last: Option<(Phase, u32)>,
    failing: bool,
    delete: bool,
    over: bool,
}

// === impl JobWatch ===

impl JobWatch {
    pub(super) fn new(pod: &Pod, job: &JobSpec, timing: Timing) -> Self {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        Self {
            limit: job.backoff_limit.unwrap_or(6).max(0) as u32,
            on_failure: policy == Some("OnFailure"),
            delay: if timing == Timing::Ideal { Duration::ZERO } else { BATCH },
            look_at: None,
            last: None,
            failing: false,
            delete: false,
            over: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.look_at.filter(|_| !self.over)
    }

    /// Whether the pod is to be deleted now.
    pub(super) fn take_deletion(&mut self) -> bool {
        std::mem::take(&mut self.delete)
    }

    /// Looks at the pod, and says what becomes of the Job.
    pub(super) fn watch(&mut self, now: Time, status: &PodStatus, gone: bool) -> Vec<String> {
        let restarts = status.containers.iter().map(|container| container.restart_count).sum();
        let seen = (status.phase, restarts);
        if self.last != Some(seen) || (gone && self.look_at.is_none()) {
            self.last = Some(seen);
            self.look_at.get_or_insert(now + self.delay);
        }
        if self.over || self.look_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.look_at = None;
        let mut notes = Vec::new();
        if self.failing {
            if gone {
                self.over = true;
                notes.push("Failed: BackoffLimitExceeded".to_owned());
            }
            return notes;
        }
        match status.phase {
            Phase::Succeeded => {
                self.over = true;
                notes.push("Complete".to_owned());
            }
            // Under `Never` each failed pod counts one.
            Phase::Failed if self.limit > 0 => {
                self.over = true;
                notes.push("pod failed: the Job makes another one (not simulated)".to_owned());
            }
            Phase::Failed => {
                self.over = true;
                notes.push("Failed: BackoffLimitExceeded".to_owned());
            }
            // The sum over all containers, sidecars included; a limit of 0 fails at the first restart.
            Phase::Pending | Phase::Running if self.on_failure && restarts > 0 && restarts >= self.limit => {
                self.failing = true;
                self.delete = true;
                notes.push(format!(
                    "FailureTarget: BackoffLimitExceeded ({restarts} restarts, limit {})",
                    self.limit
                ));
            }
            _ => {}
        }
        notes
    }
}

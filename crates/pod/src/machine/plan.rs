//! What one sync has to do, from what was seen of the pod: the kubelet's `computePodActions`.

use super::container::{Life, LifeState};
use super::restart::{self, Verdict};
use super::spec::Policy;
use super::types::{ContainerId, ContainerKind, ProbeKind};
use super::{Machine, probe::Verdict as Probed};

/// What one sync has to do, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) restart_all: bool,
    pub(super) kill_pod: bool,
    pub(super) create_sandbox: bool,
    pub(super) kills: Vec<(ContainerId, Why)>,
    pub(super) inits: Vec<ContainerId>,
    pub(super) apps: Vec<ContainerId>,
}

/// Why one container is killed while the pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Changed,
    Liveness,
    Startup,
    Unknown,
    PostStart,
}

// === impl Why ===

impl Why {
    /// In the words of the event `Killing`.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Changed => "definition changed",
            Self::Liveness => "failed liveness probe",
            Self::Startup => "failed startup probe",
            Self::Unknown => "is in unknown state, try killing it before restart",
            Self::PostStart => "FailedPostStartHook",
        }
    }

    /// The probe whose own grace period counts.
    pub(super) fn probe(self) -> Option<ProbeKind> {
        match self {
            Self::Liveness => Some(ProbeKind::Liveness),
            Self::Startup => Some(ProbeKind::Startup),
            _ => None,
        }
    }
}

impl Machine {
    pub(super) fn plan(&self) -> Plan {
        if self.rule_restarts_all() {
            return Plan { restart_all: true, ..Plan::default() };
        }
        let mut plan = Plan::default();
        if !self.seen_sandbox.ready {
            self.plan_sandbox(&mut plan);
            return plan;
        }
        if !self.plan_inits(&mut plan) || plan.kill_pod {
            return plan;
        }
        self.plan_apps(&mut plan);
        plan
    }

    /// Whether an end that was seen in this sandbox asks for a restart of all containers (R63).
    fn rule_restarts_all(&self) -> bool {
        self.spec.ids().any(|id| {
            self.seen(id).is_some_and(|life| {
                let asks =
                    |code| restart::after_exit(&self.spec, &self.spec[id], code) == Verdict::RestartAll;
                life.exit().is_some_and(|exit| asks(exit.code))
            })
        })
    }

    /// The sandbox is gone, or was never there: start from the first entry (R61).
    fn plan_sandbox(&self, plan: &mut Plan) {
        plan.kill_pod = true;
        let any = self.spec.ids().any(|id| self.seen(id).is_some());
        if self.spec.policy == Policy::Never && self.seen_sandbox.attempts != 0 && any {
            return;
        }
        let succeeded = |id: &ContainerId| {
            self.spec.policy == Policy::OnFailure
                && self.seen(*id).and_then(Life::exit).is_some_and(|exit| exit.code == 0)
        };
        let apps: Vec<_> = self.spec.app_ids().filter(|id| !succeeded(id)).collect();
        if apps.is_empty() {
            return;
        }
        plan.create_sandbox = true;
        if self.spec.inits > 0 {
            plan.inits.push(ContainerId(0));
        } else {
            plan.apps = apps;
        }
    }

    /// Goes through the init list from its end, since the last entry with a record decides (R13). Returns whether the
    /// pod counts as initialized: an app is there *now*, or the last entry is (R14).
    fn plan_inits(&self, plan: &mut Plan) -> bool {
        if self.spec.inits == 0 {
            return true;
        }
        let mut initialized = self.spec.app_ids().any(|id| {
            self.seen(id)
                .is_some_and(|life| matches!(life.state, LifeState::Created | LifeState::Running { .. }))
        });
        let mut before = initialized;
        let last = ContainerId(self.spec.inits as u16 - 1);
        for id in self.spec.init_ids().rev() {
            let container = &self.spec[id];
            let sidecar = container.kind == ContainerKind::Sidecar;
            let Some(life) = self.seen(id) else {
                if before && sidecar {
                    plan.inits.push(id);
                }
                continue;
            };
            if before && !sidecar {
                continue;
            }
            match life.state {
                LifeState::Created => {}
                LifeState::Running { .. } if !sidecar => {}
                LifeState::Running { .. } => {
                    if container.probe(ProbeKind::Startup).is_some() {
                        match self.probed(id, life.attempt, ProbeKind::Startup) {
                            Some(Probed::Success) => {}
                            Some(Probed::Failure) => {
                                plan.kills.push((id, Why::Startup));
                                plan.inits.push(id);
                                before = true;
                                continue;
                            }
                            _ => {
                                before = true;
                                continue;
                            }
                        }
                    }
                    if id == last {
                        initialized = true;
                    } else if !before {
                        plan.inits.push(ContainerId(id.0 + 1));
                    }
                    if life.image != self.container(id).image {
                        plan.kills.push((id, Why::Changed));
                        plan.inits.push(id);
                    } else if self.probed(id, life.attempt, ProbeKind::Liveness) == Some(Probed::Failure) {
                        plan.kills.push((id, Why::Liveness));
                        plan.inits.push(id);
                    }
                }
                LifeState::Exited { .. } if sidecar => plan.inits.push(id),
                LifeState::Exited { exit, .. } if exit.code == 0 => {
                    if id == last {
                        initialized = true;
                    } else {
                        plan.inits.push(ContainerId(id.0 + 1));
                    }
                }
                LifeState::Exited { exit, .. } => {
                    if restart::after_exit(&self.spec, container, exit.code) == Verdict::Stay {
                        plan.kill_pod = true;
                        plan.inits.clear();
                        return false;
                    }
                    plan.inits.push(id);
                }
                LifeState::Unknown => {
                    if !sidecar && self.spec.policy == Policy::Never && container.policy.is_none() {
                        plan.kill_pod = true;
                        plan.inits.clear();
                        return false;
                    }
                    plan.kills.push((id, Why::Unknown));
                    plan.inits.push(id);
                }
            }
            before = true;
        }
        if !before {
            plan.inits.push(ContainerId(0));
        }
        plan.inits.reverse();
        plan.inits.dedup();
        initialized
    }

    fn plan_apps(&self, plan: &mut Plan) {
        let mut keep = 0;
        for id in self.spec.app_ids() {
            let container = &self.spec[id];
            let Some(life) = self.seen(id) else {
                plan.apps.push(id);
                continue;
            };
            match life.state {
                LifeState::Running { .. } => {}
                LifeState::Exited { exit, .. } => {
                    if restart::after_exit(&self.spec, container, exit.code) == Verdict::Restart {
                        plan.apps.push(id);
                    }
                    continue;
                }
                LifeState::Created => {
                    plan.apps.push(id);
                    continue;
                }
                LifeState::Unknown => {
                    plan.kills.push((id, Why::Unknown));
                    plan.apps.push(id);
                    continue;
                }
            }
            let failed = |probe| self.probed(id, life.attempt, probe) == Some(Probed::Failure);
            let (why, again) = if life.image != self.container(id).image {
                (Why::Changed, true)
            } else if failed(ProbeKind::Liveness) {
                (Why::Liveness, restart::after_kill(&self.spec, container))
            } else if failed(ProbeKind::Startup) {
                (Why::Startup, restart::after_kill(&self.spec, container))
            } else {
                keep += 1;
                continue;
            };
            plan.kills.push((id, why));
            if again {
                plan.apps.push(id);
            }
        }
        if keep == 0 && plan.apps.is_empty() {
            plan.kill_pod = true;
            // Else sidecars would keep the pod alive (R45).
            plan.inits.clear();
        }
    }
}

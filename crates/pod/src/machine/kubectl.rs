//! The columns of `kubectl get pods` (R44): a translation of its printer, with its quirks.

use super::status::{Columns, ConditionType, Phase, PodStatus, State};
use super::types::ContainerKind;

/// The columns for a status; `kinds` are those of the containers, in the same order.
pub fn columns(status: &PodStatus, kinds: &[ContainerKind]) -> Columns {
    let inits = kinds.iter().filter(|kind| **kind != ContainerKind::App).count();
    let of = kinds.iter().filter(|kind| **kind != ContainerKind::Init).count() as u32;
    let mut word = match &status.reason {
        Some(reason) => reason.to_string(),
        None => format!("{:?}", status.phase),
    };
    let (mut restarts, mut sidecar_restarts, mut ready) = (0, 0, 0);
    let mut initializing = false;
    for (index, container) in status.containers[..inits].iter().enumerate() {
        let sidecar = kinds[index] == ContainerKind::Sidecar;
        restarts += container.restart_count;
        sidecar_restarts += if sidecar { container.restart_count } else { 0 };
        match &container.state {
            State::Terminated(t) if t.exit.code == 0 => continue,
            _ if sidecar && container.started => {
                ready += u32::from(container.ready);
                continue;
            }
            State::Terminated(t) => word = format!("Init:{}", t.reason),
            State::Waiting { reason, .. } if &**reason != "PodInitializing" => {
                word = format!("Init:{reason}");
            }
            _ => word = format!("Init:{index}/{inits}"),
        }
        initializing = true;
        break;
    }
    if !initializing || status.holds(ConditionType::Initialized) {
        restarts = sidecar_restarts;
        let mut running = false;
        for container in status.containers[inits..].iter().rev() {
            restarts += container.restart_count;
            match &container.state {
                State::Waiting { reason, .. } => word = reason.to_string(),
                State::Terminated(t) => word = t.reason.to_string(),
                State::Running { .. } if container.ready => {
                    running = true;
                    ready += 1;
                }
                State::Running { .. } => {}
            }
        }
        if word == "Completed" && running {
            word = if status.holds(ConditionType::Ready) { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if status.deleting.is_some() && !matches!(status.phase, Phase::Succeeded | Phase::Failed) {
        word = "Terminating".to_owned();
    }
    Columns { ready, of, status: word, restarts }
}

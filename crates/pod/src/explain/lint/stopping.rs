//! What may go wrong when the pod ends.

use super::{Entry, Found, Lint};
use crate::{
    explain::{
        known, seconds,
        start::{handler, hook},
        stop::{self, LEAST},
    },
    load::MAX_SECONDS,
    resources::Role,
};

/// What a program is given at least to finish its work after SIGTERM, in seconds, before a warning.
const BREATH: i64 = 5;

pub(super) fn check(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    for entry in entries {
        match entry.role {
            Role::Init => {}
            Role::Sidecar => {
                sidecar_hook(entry, found);
                liveness(entry, found);
                deaf(entry, found);
            }
            Role::App => {
                quits_others(entry, entries, found);
                deaf(entry, found);
            }
        }
    }
    hooks_against_grace(entries, found);
    if !found.subject.times.is_empty() {
        given_times(found);
    }
}

fn sidecar_hook(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let Some(hook) = hook(entry.container, |l| l.pre_stop.as_ref()) else { return };
    let name = entry.name();
    let path = hook.http_get.as_ref().and_then(|h| h.path.clone());
    let line = hook.exec.as_ref().and_then(|e| e.command.as_ref()).map(|c| c.join(" "));
    let text = path.or(line).unwrap_or_default();
    if let Some(word) = known::stops_a_service(&text) {
        found.add(
            Lint::PreStopStopsProxy,
            &entry.field("lifecycle.preStop"),
            format!("the preStop hook of the sidecar `{name}` stops it (\"{word}\")"),
            "preStop hooks of sidecars run at once when the termination begins, not at the sidecar's turn: it is gone \
             while the apps still drain, and is not restarted"
                .into(),
            "drop the hook: a sidecar gets SIGTERM only after the apps have ended".into(),
        );
    } else if hook.sleep.is_some() || text.contains("sleep ") {
        found.add(
            Lint::PreStopInSidecar,
            &entry.field("lifecycle.preStop"),
            format!("the preStop hook of the sidecar `{name}` waits ({})", handler(hook)),
            "it runs from the beginning of the termination, at the same time as the apps' hooks: it does not make the \
             sidecar stay longer after the apps"
                .into(),
            "drop it, or put the waiting into the app's preStop hook: the sidecar stays until the app is gone".into(),
        );
    }
}

fn liveness(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let Some(probe) = &entry.container.liveness_probe else { return };
    let grace = found.subject.stop_given.grace;
    if probe.termination_grace_period_seconds.is_some() || grace <= 30 {
        return;
    }
    let name = entry.name();
    found.add(
        Lint::LivenessBlocksRestart,
        &entry.field("livenessProbe"),
        format!("the sidecar `{name}` has a liveness probe, and the pod a grace period of {}", seconds(grace)),
        "while the kubelet waits for its end after a failure, for up to that long, it restarts no other container of \
         the pod"
            .into(),
        "set terminationGracePeriodSeconds in the probe itself".into(),
    );
}

fn deaf(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let workload = found.subject.workload;
    let spec = workload.spec();
    let Some(why) = known::ignores_stop(spec, entry.container) else { return };
    let lasts =
        |c: &str| c.contains("sleep") || c.contains("tail") || c.contains("while") || c.contains("until");
    // A short script that ends by itself is not worth a word, in an app.
    if entry.role == Role::App && !lasts(&known::line(entry.container)) {
        return;
    }
    let grace = seconds(found.subject.stop_given.grace);
    let consequence = match (entry.role, workload.kind().is_job()) {
        (Role::Sidecar, true) => {
            format!("the Job completes {grace} after the work is done, when SIGKILL comes")
        }
        (Role::Sidecar, false) => format!("each deletion of the pod takes the whole {grace}, until SIGKILL"),
        _ => format!("each deletion takes the whole {grace}, and leaves the sidecars no more than 2 s"),
    };
    let name = entry.name();
    found.add(
        Lint::DeafToSigterm,
        &entry.field("command"),
        format!("`{name}` will not react to SIGTERM: {why}"),
        consequence,
        "start the program itself with `exec`, trap TERM in the script, or set shareProcessNamespace: true"
            .into(),
    );
}

/// An app that tells a sidecar to quit, as was needed before native sidecars.
fn quits_others(entry: &Entry<'_>, entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let hook = hook(entry.container, |l| l.pre_stop.as_ref());
    let hook = hook.and_then(|h| h.exec.as_ref()).and_then(|e| e.command.as_ref()).map(|c| c.join(" "));
    let text = format!("{} {}", known::line(entry.container), hook.unwrap_or_default());
    let word = ["quitquitquit", "/shutdown", "/v1.0/shutdown"].into_iter().find(|w| text.contains(w));
    let (Some(word), Some(sidecar)) = (word, entries.iter().find(|e| e.role == Role::Sidecar)) else {
        return;
    };
    let (name, sidecar) = (entry.name(), sidecar.name().to_owned());
    found.add(
        Lint::QuitOnPurpose,
        &entry.path,
        format!("`{name}` tells a sidecar to quit (\"{word}\")"),
        format!(
            "`{sidecar}` is a native sidecar: it is started again until the apps have ended, with back-off"
        ),
        "drop the call: native sidecars are stopped by the kubelet when the apps have ended".into(),
    );
}

/// What is known without any given time: sleeps in hooks against the budget.
fn hooks_against_grace(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let grace = found.subject.stop_given.grace;
    let sidecars: Vec<_> = entries.iter().filter(|e| e.role == Role::Sidecar).collect();
    for entry in entries.iter().filter(|e| e.role != Role::Init) {
        let hook = hook(entry.container, |l| l.pre_stop.as_ref());
        let Some(sleep) = hook.and_then(pause) else { continue };
        let (name, left) = (entry.name(), grace - sleep);
        if left < BREATH {
            let rest = format!("{} of {}", seconds(left.max(LEAST as i64)), seconds(grace));
            found.add(
                Lint::PreStopEatsGrace,
                &entry.field("lifecycle.preStop"),
                format!("the preStop hook of `{name}` takes {}", seconds(sleep)),
                format!("its time counts against the grace period: `{name}` has {rest} left between SIGTERM and SIGKILL"),
                format!("set terminationGracePeriodSeconds to at least {}", sleep + 2 * BREATH),
            );
        } else if entry.role == Role::App
            && !sidecars.is_empty()
            && left < BREATH * (1 + sidecars.len() as i64)
        {
            too_short(entry, sleep, grace, sidecars.len(), found);
        }
    }
    let needed = BREATH * sidecars.len() as i64;
    if !sidecars.is_empty() && grace <= needed.min(10) {
        found.add(
            Lint::GraceTooShort,
            "terminationGracePeriodSeconds",
            format!("the grace period is {}, for the apps and {} together", seconds(grace), count(sidecars.len())),
            "sidecars get what the apps leave, at least 2 s each, in reverse order; then SIGKILL".into(),
            format!("set terminationGracePeriodSeconds to what the apps need and about {BREATH} s for each sidecar"),
        );
    }
}

fn too_short(entry: &Entry<'_>, sleep: i64, grace: i64, sidecars: usize, found: &mut Found<'_, '_>) {
    let name = entry.name();
    found.add(
        Lint::GraceTooShort,
        "terminationGracePeriodSeconds",
        format!("`{name}` sleeps {} in preStop, and the grace period is {}", seconds(sleep), seconds(grace)),
        format!(
            "{} remain for `{name}` to stop and for {} after it",
            seconds(grace - sleep),
            count(sidecars)
        ),
        format!("set terminationGracePeriodSeconds to at least {}", sleep + BREATH * (1 + sidecars as i64)),
    );
}

/// What the given times lead to.
fn given_times(found: &mut Found<'_, '_>) {
    let schedule = found.subject.stop_given.clone();
    let late: Vec<_> =
        schedule.containers.iter().filter(|s| s.killed || s.by_deadline || s.hook_cut).collect();
    let Some(first) = late.first() else { return };
    let names: Vec<_> = late.iter().map(|s| format!("`{}`", s.name)).collect();
    let what = if late.iter().any(|s| s.killed) { "is killed" } else { "is not waited for" };
    let eater = match &schedule.eater {
        Some(e) => format!("`{}` takes {:.0} s of it ({})", e.name, e.took, e.doing),
        None => format!("`{}` is too slow", first.name),
    };
    found.add(
        Lint::GraceTooShort,
        "terminationGracePeriodSeconds",
        format!("with the given times {} {what}: {eater}", names.join(", ")),
        format!(
            "the grace period of {} is over before the sidecars have had their turn",
            seconds(schedule.grace)
        ),
        format!(
            "set terminationGracePeriodSeconds to at least {}, or make the slow one faster",
            needed(found)
        ),
    );
}

/// The period, in seconds, in which everything ends by itself: the end without any deadline, and some room.
fn needed(found: &Found<'_, '_>) -> i64 {
    let members = stop::members(found.subject.workload.spec());
    let unhurried = stop::schedule(MAX_SECONDS, &stop::given(&members, found.subject.times)).end;
    (unhurried.ceil() as i64 + 1).max(found.subject.stop_given.grace + 1)
}

/// The length of a hook that only waits.
fn pause(hook: &k8s_openapi::api::core::v1::LifecycleHandler) -> Option<i64> {
    if let Some(sleep) = &hook.sleep {
        return Some(sleep.seconds);
    }
    let line = hook.exec.as_ref()?.command.as_ref()?.join(" ");
    let after = line.split("sleep ").nth(1)?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn count(sidecars: usize) -> String {
    match sidecars {
        1 => "one sidecar".to_owned(),
        n => format!("{n} sidecars"),
    }
}

//! The stop schedule: one budget of grace for the whole pod, and who uses it (R48-R53).
//!
//! Times are seconds after the deletion, in `ideal` timing: what a kubelet adds by polling is left out. The kubelet
//! cuts hooks and waiting to whole seconds when it computes what is left, and so does this.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Serialize;

use super::{known, start};
use crate::{resources::Role, validate::update::deletion_grace};

/// How long a container takes to stop, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// From its stop signal to its exit; `None` is at once, unless its command tells that it ignores the signal.
    pub exit: Option<f64>,
    /// Its preStop hook; `None` is what the manifest says of a `sleep`, and at once for any other hook.
    pub pre_stop: Option<f64>,
}

/// A container that runs when the pod is stopped.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    sidecar: bool,
    signal: String,
    /// Whether its command tells that it will not react to its stop signal.
    deaf: bool,
    /// The hook, and its length when the manifest says it.
    hook: Option<(String, Option<f64>)>,
}

/// A container with its times.
#[derive(Clone, Debug)]
pub struct Timed<'m> {
    member: &'m Member,
    /// `None`: it ignores its signal.
    exit: Option<f64>,
    /// `None`: it never returns.
    hook: Option<f64>,
}

/// What happens from the deletion to the end of the last container.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopSchedule {
    /// The budget, in seconds.
    pub grace: i64,
    /// The apps in the order of the spec, then the sidecars in the order in which they stop.
    pub containers: Vec<StopStep>,
    /// When the last container is gone.
    pub end: f64,
    /// The longest part of the chain of waiting that makes the end: which container, and how long.
    pub eater: Option<Eater>,
}

/// The stop of one container. All times are seconds after the deletion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopStep {
    /// The container.
    pub name: String,
    /// Whether it is a sidecar, and waits for its turn.
    pub sidecar: bool,
    /// The end of its preStop hook, which starts at 0.
    pub hook_end: Option<f64>,
    /// Whether the hook was cut off.
    pub hook_cut: bool,
    /// When it gets its stop signal.
    pub signal_at: f64,
    /// The stop signal.
    pub signal: String,
    /// Whether its turn had not come by then: the deadline sent the signal.
    pub by_deadline: bool,
    /// When SIGKILL would come.
    pub kill_at: f64,
    /// When it is gone.
    pub exit_at: f64,
    /// Whether SIGKILL ended it.
    pub killed: bool,
    /// The container whose end it waited for.
    pub waited_for: Option<String>,
}

/// Who used the most of the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Eater {
    /// The container.
    pub name: String,
    /// What it did: `preStop` or `stopping`.
    pub doing: &'static str,
    /// For how long, in seconds.
    pub took: f64,
}

/// Whatever is left of the budget, a container has this long between its signal and SIGKILL, in seconds.
pub const LEAST: f64 = 2.0;

/// The grace period of a deletion without a choice of its own, in seconds. Zero is one second for the kubelet (R48).
pub fn grace(spec: &PodSpec) -> i64 {
    deletion_grace(None, spec).max(1)
}

/// The containers that run when an initialized pod is stopped.
pub fn members(spec: &PodSpec) -> Vec<Member> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| Role::of_init(c) == Role::Sidecar);
    let apps = spec.containers.iter().map(|c| (c, false));
    sidecars
        .map(|c| (c, true))
        .chain(apps)
        .map(|(c, sidecar)| Member {
            name: c.name.clone(),
            sidecar,
            deaf: known::ignores_stop(spec, c).is_some(),
            signal: c
                .lifecycle
                .as_ref()
                .and_then(|l| l.stop_signal.clone())
                .unwrap_or_else(|| "SIGTERM".into()),
            hook: start::hook(c, |l| l.pre_stop.as_ref())
                .map(|h| (start::handler(h), h.sleep.as_ref().map(|s| s.seconds as f64))),
        })
        .collect()
}

/// The worst: hooks of unknown length never return, and no container heeds its signal.
pub fn worst(members: &[Member]) -> Vec<Timed<'_>> {
    let hook = |m: &Member| match &m.hook {
        None => Some(0.0),
        Some((_, known)) => *known,
    };
    members.iter().map(|member| Timed { member, exit: None, hook: hook(member) }).collect()
}

/// With the times that are given. Where none is: at once, or never for a command that is deaf to its signal.
pub fn given<'m>(members: &'m [Member], times: &BTreeMap<String, Times>) -> Vec<Timed<'m>> {
    let timed = |member: &'m Member| {
        let times = times.get(&member.name).copied().unwrap_or_default();
        let hook = member.hook.as_ref().map_or(0.0, |(_, known)| times.pre_stop.or(*known).unwrap_or(0.0));
        let exit = times.exit.or((!member.deaf).then_some(0.0));
        Timed { member, exit, hook: Some(hook) }
    };
    members.iter().map(timed).collect()
}

/// Who gets which signal when.
pub fn schedule(grace: i64, containers: &[Timed<'_>]) -> StopSchedule {
    let budget = grace as f64;
    let mut steps: Vec<StopStep> =
        containers.iter().filter(|t| !t.member.sidecar).map(|t| step(t, budget, None)).collect();
    let last_app = latest(&steps);
    let mut next: Option<(f64, String)> = None;
    for timed in containers.iter().rev().filter(|t| t.member.sidecar) {
        let turn = match (&last_app, &next) {
            (Some(a), Some(b)) => Some(if b.0 > a.0 { b.clone() } else { a.clone() }),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        let step = step(timed, budget, turn);
        next = Some((step.exit_at, step.name.clone()));
        steps.push(step);
    }
    let end = steps.iter().map(|s| s.exit_at).fold(0.0, f64::max);
    StopSchedule { grace, end, eater: eater(&steps), containers: steps }
}

fn step(timed: &Timed<'_>, budget: f64, turn: Option<(f64, String)>) -> StopStep {
    let Timed { member, exit, hook } = timed;
    let hook_end = hook.map_or(budget, |h| h.min(budget));
    let mut left = budget - hook_end.floor();
    let (mut signal_at, mut by_deadline, mut waited_for) = (hook_end, false, None);
    if let Some((at, whom)) = turn.filter(|(at, _)| *at > hook_end) {
        let wait = (at - hook_end).min(left);
        by_deadline = at - hook_end > left;
        signal_at = hook_end + wait;
        left -= wait.floor();
        waited_for = Some(whom);
    }
    let kill_at = signal_at + left.max(LEAST);
    let exit_at = exit.map_or(kill_at, |e| (signal_at + e).min(kill_at));
    StopStep {
        name: member.name.clone(),
        sidecar: member.sidecar,
        hook_end: member.hook.as_ref().map(|_| hook_end),
        hook_cut: member.hook.is_some() && hook.is_none_or(|h| h > budget),
        signal_at,
        signal: member.signal.clone(),
        by_deadline,
        kill_at,
        exit_at,
        killed: exit.is_none_or(|e| signal_at + e > kill_at),
        waited_for,
    }
}

fn latest(steps: &[StopStep]) -> Option<(f64, String)> {
    let last = steps.iter().max_by(|a, b| a.exit_at.total_cmp(&b.exit_at))?;
    Some((last.exit_at, last.name.clone()))
}

/// Goes back from the last exit along what was waited for.
fn eater(steps: &[StopStep]) -> Option<Eater> {
    let mut current = steps.iter().max_by(|a, b| a.exit_at.total_cmp(&b.exit_at))?;
    let mut longest: Option<Eater> = None;
    let mut consider = |name: &str, doing, took: f64| {
        if took > longest.as_ref().map_or(0.0, |l| l.took) {
            longest = Some(Eater { name: name.to_owned(), doing, took });
        }
    };
    for _ in 0..=steps.len() {
        consider(&current.name, "stopping", current.exit_at - current.signal_at);
        match current.waited_for.as_ref().and_then(|w| steps.iter().find(|s| s.name == *w)) {
            Some(before) => current = before,
            None => break,
        }
    }
    consider(&current.name, "preStop", current.hook_end.unwrap_or(0.0));
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, sidecar: bool) -> Member {
        Member { name: name.into(), sidecar, signal: "SIGTERM".into(), deaf: false, hook: None }
    }

    fn timed(member: &Member, hook: f64, exit: f64) -> Timed<'_> {
        Timed { member, exit: Some(exit), hook: Some(hook) }
    }

    fn find<'s>(s: &'s StopSchedule, name: &str) -> &'s StopStep {
        s.containers.iter().find(|c| c.name == name).unwrap()
    }

    /// K10, as a kubelet did it: SIGTERM of sc2 at 25, SIGKILL at 30; SIGTERM of sc1 at 30, SIGKILL at 32.
    #[test]
    fn k10_the_sidecars_get_what_the_app_leaves() {
        let m = [member("sc1", true), member("sc2", true), member("app", false)];
        let s = schedule(30, &[timed(&m[0], 0.0, 10.0), timed(&m[1], 0.0, 10.0), timed(&m[2], 0.0, 25.0)]);
        let (sc1, sc2) = (find(&s, "sc1"), find(&s, "sc2"));
        assert_eq!((sc2.signal_at, sc2.exit_at, sc2.killed), (25.0, 30.0, true));
        assert_eq!((sc1.signal_at, sc1.exit_at, sc1.killed), (30.0, 32.0, true));
        assert_eq!(s.end, 32.0);
        assert_eq!(s.eater, Some(Eater { name: "app".into(), doing: "stopping", took: 25.0 }));
    }

    /// X49: grace 6 and hooks of 1.4, 3 and 5 s; SIGKILL was seen at 6.5, 6.1 and 7.1.
    #[test]
    fn x49_hooks_are_subtracted_in_whole_seconds() {
        let mut m = member("app", false);
        m.hook = Some(("x".into(), None));
        for (hook, signal, kill) in [(1.4, 1.4, 6.4), (3.0, 3.0, 6.0), (5.0, 5.0, 7.0)] {
            let s = schedule(6, &[Timed { member: &m, exit: None, hook: Some(hook) }]);
            assert_eq!((s.containers[0].signal_at, s.containers[0].exit_at), (signal, kill), "{hook}");
        }
    }

    #[test]
    fn in_the_worst_case_sidecars_get_two_seconds_after_the_deadline() {
        let m = [member("sc1", true), member("sc2", true), member("app", false)];
        let s = schedule(30, &worst(&m));
        for name in ["sc1", "sc2"] {
            let step = find(&s, name);
            assert_eq!((step.signal_at, step.kill_at, step.exit_at), (30.0, 32.0, 32.0), "{name}");
        }
        assert!(find(&s, "app").killed && find(&s, "app").exit_at == 30.0);
        // The app's end and the deadline are one moment: sc2's turn comes then, sc1's does not.
        assert!(!find(&s, "sc2").by_deadline && find(&s, "sc1").by_deadline);
    }

    /// T12: grace 5; sc2's hook would take 30 s.
    #[test]
    fn t12_a_hook_that_is_too_long_is_cut_at_the_deadline() {
        let mut m = [member("sc1", true), member("sc2", true), member("app", false)];
        m[1].hook = Some(("x".into(), None));
        let s = schedule(5, &[timed(&m[0], 0.0, 1.0), timed(&m[1], 30.0, 20.0), timed(&m[2], 0.0, 1.0)]);
        let sc2 = find(&s, "sc2");
        assert!(sc2.hook_cut && sc2.killed);
        assert_eq!((sc2.signal_at, sc2.exit_at), (5.0, 7.0));
    }
}

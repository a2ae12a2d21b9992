//! The stop schedule of `explain` against the machine's: two ways of computing one thing must agree.

use std::{collections::BTreeMap, fmt::Write as _};

use proptest::prelude::*;
use testground_pod::{
    explain::{
        Times,
        stop::{self, StopSchedule},
    },
    load,
    machine::{Settings, Timing},
    simulate::{
        self,
        script::Script,
        timeline::{Point, Timeline},
    },
    version::{Features, KubernetesVersion},
};

/// A container's hook and the time that it takes to stop, in milliseconds; `None` is never.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    hook: Option<u32>,
    exit: Option<u32>,
}

/// When the pod is deleted: everything runs by then.
const DELETED: f64 = 30.0;

fn manifest(sidecars: &[Behaviour], apps: &[Behaviour], grace: u32) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: {grace}\n"
    );
    for (list, name, more, all) in
        [("initContainers", "sc", ", restartPolicy: Always", sidecars), ("containers", "app", "", apps)]
    {
        let _ = writeln!(text, "  {list}:");
        for (i, b) in all.iter().enumerate() {
            let hook = if b.hook.is_some() { ", lifecycle: {preStop: {exec: {command: [x]}}}" } else { "" };
            let _ = writeln!(text, "  - {{name: {name}{i}, image: i{more}{hook}}}");
        }
    }
    text
}

fn script(sidecars: &[Behaviour], apps: &[Behaviour]) -> String {
    let mut text = String::from("until: 20m\ncontainers:\n");
    for (name, all) in [("sc", sidecars), ("app", apps)] {
        for (i, b) in all.iter().enumerate() {
            let stop = match b.exit {
                None => "ignored: true".to_owned(),
                Some(ms) => format!("after: {ms}ms, exit: 0"),
            };
            let hook = b.hook.map(|ms| format!(", preStop: {{takes: {ms}ms}}")).unwrap_or_default();
            let _ = writeln!(text, "  {name}{i}: {{stop: {{{stop}}}{hook}}}");
        }
    }
    let _ = writeln!(text, "events: [{{at: {DELETED}, delete: {{}}}}]");
    text
}

fn simulated(sidecars: &[Behaviour], apps: &[Behaviour], grace: u32) -> Timeline {
    let features = Features::of(KubernetesVersion::new(34).unwrap());
    let read = load::read(&manifest(sidecars, apps, grace), &features);
    let pod = read.workloads().next().unwrap_or_else(|| panic!("{:?}", read.all_mistakes())).pod();
    let script: Script = load::value(&script(sidecars, apps)).unwrap();
    simulate::simulate(&pod, &script, &Settings { features, timing: Timing::Ideal, ..Settings::default() })
        .unwrap()
}

fn explained(sidecars: &[Behaviour], apps: &[Behaviour], grace: u32) -> StopSchedule {
    let read = load::read(&manifest(sidecars, apps, grace), &Features::default());
    let spec = read.workloads().next().unwrap().spec().clone();
    let seconds = |ms: u32| f64::from(ms) / 1000.0;
    let mut times = BTreeMap::new();
    for (name, all) in [("sc", sidecars), ("app", apps)] {
        for (i, b) in all.iter().enumerate() {
            // What never ends takes longer than anything may.
            let exit = Some(b.exit.map_or(1e9, seconds));
            times.insert(format!("{name}{i}"), Times { exit, pre_stop: b.hook.map(seconds) });
        }
    }
    stop::schedule(stop::grace(&spec), &stop::given(&stop::members(&spec), &times))
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    // Whole and odd seconds: the kubelet cuts hooks and waiting to whole ones.
    let time = prop_oneof![(0_u32..40).prop_map(|s| s * 1000), 0_u32..40_000];
    (proptest::option::of(time.clone()), proptest::option::weighted(0.8, time))
        .prop_map(|(hook, exit)| Behaviour { hook, exit })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn signals_and_ends_come_at_the_same_moments(
        sidecars in proptest::collection::vec(behaviour(), 0..4),
        apps in proptest::collection::vec(behaviour(), 1..4),
        grace in 1_u32..45,
    ) {
        let timeline = simulated(&sidecars, &apps, grace);
        let schedule = explained(&sidecars, &apps, grace);
        for step in &schedule.containers {
            let lane = timeline.lane(&step.name).unwrap();
            let signal = lane.points.iter().find(|p| matches!(p.is(), Point::Signal { .. })).unwrap();
            let (exit, how) = lane.exits().last().unwrap();
            let since = |t: std::time::Duration| t.as_secs_f64() - DELETED;
            let close = |a: f64, b: f64| (a - b).abs() < 0.002;
            prop_assert!(close(since(signal.at), step.signal_at), "{step:?}: signal at {}", since(signal.at));
            prop_assert!(close(since(exit), step.exit_at), "{step:?}: exit at {}", since(exit));
            if !close(step.exit_at, step.kill_at) {
                prop_assert_eq!(how.code == 137, step.killed, "{:?}", step);
            }
        }
    }
}

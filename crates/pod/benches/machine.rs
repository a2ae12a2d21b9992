//! What a step of the pod machine costs, what a pod weighs, and how long 10,000 pods take in virtual time.
//!
//! One JSON line a figure. `cargo bench -p testground-pod --bench machine`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use testground_pod::machine::{
    Action, Event, Exit, HookKind, Instance, Machine, Phase, ProbeOutcome, Settings, Time, Timing,
};
use testground_pod::simulate::script::Script;
use testground_pod::simulate::simulate;

const PODS: usize = 10_000;

fn main() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "bench"},
        "spec": {
            "initContainers": [
                {"name": "init", "image": "a:1"},
                {"name": "proxy", "image": "a:1", "restartPolicy": "Always",
                 "startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}},
                {"name": "logs", "image": "a:1", "restartPolicy": "Always"}
            ],
            "containers": [
                {"name": "app", "image": "a:1", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
                {"name": "aid", "image": "a:1", "readinessProbe": {"exec": {"command": ["true"]}}}
            ]
        }
    }))
    .expect("a pod");
    for timing in [Timing::Ideal, Timing::Kubelet { seed: 1 }] {
        let name = if timing == Timing::Ideal { "ideal" } else { "kubelet" };
        let settings = Settings { timing, ..Settings::default() };
        let template = Machine::new(&pod, &settings).expect("a machine");
        let began = Instant::now();
        let (steps, weight) = cluster(&template, timing);
        let took = began.elapsed();
        line(
            &format!("pod machine: {PODS} pods of 5 containers, start, restart, stop ({name})"),
            took.as_secs_f64(),
            "s",
        );
        line(&format!("pod machine: a step ({name})"), took.as_nanos() as f64 / steps as f64, "ns");
        // The second round lives in what the first one left, so that only the first can be weighed.
        if timing == Timing::Ideal {
            line("pod machine: memory of a pod", weight as f64, "B");
        }
    }
    largest();
}

/// What a simulation costs of the largest pod that is modelled: containers as apps, or as sidecars that follow each other.
fn largest() {
    let containers = |policy: Option<&str>| -> Vec<serde_json::Value> {
        let one = |n| json!({"name": format!("c{n}"), "image": "a:1", "restartPolicy": policy});
        (0..999).map(one).collect()
    };
    let app = json!([{"name": "app", "image": "a:1"}]);
    for (sort, spec) in [
        ("apps", json!({"containers": containers(None)})),
        ("sidecars", json!({"initContainers": containers(Some("Always")), "containers": app})),
    ] {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "bench"}, "spec": spec})).expect("a pod");
        let began = Instant::now();
        let timeline = simulate(&pod, &Script::default(), &Settings::default()).expect("simulates");
        black_box(&timeline);
        line(&format!("pod simulate: a pod of 999 {sort}"), began.elapsed().as_secs_f64(), "s");
    }
}

/// Prints one figure; there is no other machine to compare with.
fn line(bench: &str, value: f64, unit: &str) {
    println!("{}", json!({"bench": bench, "value": value, "unit": unit, "peer": null}));
}

/// All pods side by side: they start, one app crashes at 30 s, and each is deleted at 60 s.
fn cluster(template: &Machine, timing: Timing) -> (u64, usize) {
    let before = resident();
    let mut pods: Vec<Machine> = (0..PODS)
        .map(|seed| {
            let timing = match timing {
                Timing::Ideal => Timing::Ideal,
                Timing::Kubelet { .. } => Timing::Kubelet { seed: seed as u64 },
            };
            let mut pod = template.sibling(timing);
            pod.without_reports();
            pod
        })
        .collect();
    let app = template.find("app").expect("an app");
    let mut queue: BinaryHeap<Reverse<(Time, usize, What)>> = BinaryHeap::new();
    for (index, pod) in pods.iter().enumerate() {
        queue.push(Reverse((Duration::from_secs(30), index, What::Crash)));
        queue.push(Reverse((Duration::from_secs(60), index, What::Delete)));
        queue.push(Reverse((pod.next_deadline().unwrap_or_default(), index, What::Tick)));
    }
    let (mut steps, mut weight) = (0, 0);
    while let Some(Reverse((now, index, what))) = queue.pop() {
        let pod = &mut pods[index];
        if what == What::Crash && weight == 0 {
            weight = resident().saturating_sub(before) / PODS;
        }
        match what {
            What::Tick if pod.next_deadline().is_none_or(|due| due > now) => continue,
            What::Tick => pod.tick(now),
            What::Crash => {
                if let Some(instance) = pod.running(app) {
                    pod.on(now, Event::Exited(instance, Exit::code(1)));
                }
            }
            What::Delete => pod.on(now, Event::Delete { grace: None }),
        }
        steps += 1;
        while let Some(action) = pod.next_action() {
            if let Some(answer) = answer(&action) {
                steps += 1;
                pod.on(now, answer);
            }
            // The init ends as soon as it runs.
            if let Action::Start(Instance { container, attempt }) = action
                && container.0 == 0
            {
                steps += 1;
                pod.on(now, Event::Exited(Instance { container, attempt }, Exit::code(0)));
            }
        }
        if let Some(due) = pod.next_deadline() {
            queue.push(Reverse((due.max(now), index, What::Tick)));
        }
    }
    assert!(
        pods.iter().all(|pod| pod.is_gone() && pod.status().phase == Phase::Failed),
        "all pods came to their end"
    );
    let restarts = |pod: &Machine| pod.status().container("app").map(|app| app.restart_count);
    assert!(
        pods.iter().all(|pod| restarts(pod) == Some(1)),
        "{:?}",
        pods.iter().map(restarts).collect::<std::collections::BTreeSet<_>>()
    );
    black_box(&pods);
    (steps, weight)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick,
    Crash,
    Delete,
}

/// A world in which everything works at once.
fn answer(action: &Action) -> Option<Event> {
    Some(match action {
        Action::CreateSandbox { .. } => Event::SandboxCreated,
        Action::StopSandbox => Event::SandboxStopped,
        Action::Pull(id, _) => Event::Pulled(*id),
        Action::Create { instance, .. } => Event::Created(*instance),
        Action::Start(instance) => Event::Started(*instance),
        Action::RunHook(instance, _) => {
            Event::HookDone { instance: *instance, hook: HookKind::PreStop, ok: true }
        }
        Action::Probe(instance, probe) => {
            Event::Probed { instance: *instance, probe: *probe, outcome: ProbeOutcome::Success }
        }
        Action::Signal(instance, _) => Event::Exited(*instance, Exit::code(143)),
        _ => return None,
    })
}

/// Bytes of this process that are in memory; 0 where the kernel does not say.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).map_or(0, |pages| pages * 4096)
}

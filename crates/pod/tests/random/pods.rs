//! Pods, settings and scripts by chance: valid ones, small enough that something happens to each part.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use testground_pod::machine::{ContainerKind, Settings, Timing};
use testground_pod::simulate::script::Script;
use testground_pod::version::{Features, Gate, KubernetesVersion};

fn probe() -> impl Strategy<Value = Value> {
    (0..4i64, 1..4i64, 1..3i64, 1..3i64).prop_map(|(delay, period, failure, success)| {
        json!({"exec": {"command": ["true"]}, "initialDelaySeconds": delay, "periodSeconds": period,
               "failureThreshold": failure, "successThreshold": success})
    })
}

fn handler() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"exec": {"command": ["true"]}})),
        (0..8i64).prop_map(|seconds| json!({"sleep": {"seconds": seconds}})),
        Just(json!({"httpGet": {"port": 80}})),
    ]
}

fn container(kind: ContainerKind) -> impl Strategy<Value = Value> {
    let maybe = proptest::option::weighted::<BoxedStrategy<Value>>;
    let hooks = (maybe(0.2, handler().boxed()), maybe(0.3, handler().boxed()));
    let probes = (maybe(0.2, probe().boxed()), maybe(0.2, probe().boxed()), maybe(0.2, probe().boxed()));
    let policy =
        proptest::option::weighted(0.2, prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]);
    let rule = proptest::option::weighted(0.15, (any::<bool>(), 0..4i32));
    (hooks, probes, policy, rule).prop_map(move |((post, pre), (startup, live, ready), policy, rule)| {
        let mut container = json!({"image": "a:1"});
        if kind != ContainerKind::Init {
            for (name, probe) in
                [("startupProbe", startup), ("livenessProbe", live), ("readinessProbe", ready)]
            {
                if let Some(mut probe) = probe {
                    if name != "readinessProbe" {
                        probe["successThreshold"] = json!(1);
                    }
                    container[name] = probe;
                }
            }
            let mut lifecycle = json!({});
            if let Some(post) = post {
                lifecycle["postStart"] = post;
            }
            if let Some(pre) = pre {
                lifecycle["preStop"] = pre;
            }
            container["lifecycle"] = lifecycle;
        }
        match kind {
            ContainerKind::Sidecar => container["restartPolicy"] = json!("Always"),
            ContainerKind::Init | ContainerKind::App => {
                // `Always` on an init would make it a sidecar.
                let policy = policy.filter(|p| kind == ContainerKind::App || *p != "Always");
                if let Some(policy) = policy {
                    container["restartPolicy"] = json!(policy);
                    if let Some((all, code)) = rule {
                        let action = if all { "RestartAllContainers" } else { "Restart" };
                        let codes = json!({"operator": "In", "values": [code]});
                        container["restartPolicyRules"] = json!([{"action": action, "exitCodes": codes}]);
                    }
                }
            }
        }
        container
    })
}

pub(crate) fn pod() -> impl Strategy<Value = Pod> {
    let kind = prop_oneof![Just(ContainerKind::Init), Just(ContainerKind::Sidecar)];
    let inits = proptest::collection::vec(kind.prop_flat_map(container), 0..4);
    let apps = proptest::collection::vec(container(ContainerKind::App), 1..4);
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let deadline = proptest::option::weighted(0.1, 1..60i64);
    (inits, apps, policy, 0..20i64, deadline).prop_map(|(mut inits, mut apps, policy, grace, deadline)| {
        for (n, init) in inits.iter_mut().enumerate() {
            init["name"] = json!(format!("i{n}"));
        }
        for (n, app) in apps.iter_mut().enumerate() {
            app["name"] = json!(format!("a{n}"));
        }
        let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace,
                              "initContainers": inits, "containers": apps});
        if let Some(deadline) = deadline {
            spec["activeDeadlineSeconds"] = json!(deadline);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    })
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let timing = prop_oneof![Just(Timing::Ideal), any::<u64>().prop_map(|seed| Timing::Kubelet { seed })];
    (timing, 29..38u8, any::<bool>()).prop_map(|(timing, minor, revive)| Settings {
        features: Features::of(KubernetesVersion::new(minor).expect("modelled"))
            .set(Gate::SidecarsRestartableDuringPodTermination, revive),
        timing,
        max_restart_period: None,
    })
}

/// A behaviour in whole seconds, so that nothing of the grace period is lost by cutting to whole seconds.
fn behaviour() -> impl Strategy<Value = Value> {
    let run = (proptest::option::weighted(0.8, 0..40u32), 0..4i32).prop_map(|(lasts, exit)| match lasts {
        Some(lasts) => json!({"for": lasts, "exit": exit}),
        None => json!({}),
    });
    let hook = (0..12u32, proptest::bool::weighted(0.2), proptest::bool::weighted(0.1))
        .prop_map(|(takes, fails, stops)| json!({"takes": takes, "fails": fails, "stops": stops}));
    let answers = proptest::collection::vec(prop_oneof![3 => Just("success"), 1 => Just("failure")], 0..4)
        .prop_map(|answers| json!({"answers": answers}));
    (
        proptest::collection::vec(run, 0..3),
        (0..30u32, 0..4i32, proptest::bool::weighted(0.2)),
        (hook.clone(), hook),
        (answers.clone(), answers.clone(), answers),
    )
        .prop_map(|(runs, (after, exit, ignored), (post, mut pre), (startup, live, ready))| {
            pre["hangs"] = json!(ignored && exit == 1);
            json!({"runs": runs, "stop": {"after": after, "exit": exit, "ignored": ignored},
                   "postStart": post, "preStop": pre, "startup": startup, "liveness": live, "readiness": ready})
        })
}

/// What befalls the pod; the third number tells which thing.
pub(crate) fn script() -> impl Strategy<Value = Drawn> {
    (
        proptest::collection::vec(behaviour(), 7),
        proptest::collection::vec((0..200u32, 0..7u32, 0..5u32), 0..5),
        proptest::option::weighted(0.7, (0..200u32, proptest::option::of(0..30i64))),
    )
}

/// Behaviours, what befalls the pod (when, whom, what), and its deletion.
pub(crate) type Drawn = (Vec<Value>, Vec<(u32, u32, u32)>, Option<(u32, Option<i64>)>);

pub(crate) fn script_for(pod: &Pod, (behaviours, befall, delete): &Drawn, engine: bool) -> Script {
    let spec = pod.spec.as_ref().expect("a spec");
    let names: Vec<&str> =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.name.as_str()).collect();
    let containers: BTreeMap<&str, &Value> = names.iter().copied().zip(behaviours).collect();
    let mut events: Vec<Value> = Vec::new();
    for (at, which, what) in befall {
        let name = names[*which as usize % names.len()];
        match what {
            0 => events.push(json!({"at": at, "image": {"container": name, "to": format!("a:{at}")}})),
            1 | 2 => events.push(json!({"at": at, "kill": {"container": name}})),
            3 if engine => events.push(json!({"at": at, "sandbox": "lost"})),
            _ if engine => {
                events.push(json!({"at": at, "engine": "stopped"}));
                events.push(json!({"at": at + 7, "engine": "started"}));
            }
            _ => {}
        }
    }
    if let Some((at, grace)) = delete {
        events.push(json!({"at": at, "delete": {"grace": grace}}));
    }
    let script = json!({"until": 900, "containers": containers, "events": events});
    serde_json::from_value(script).expect("a script")
}

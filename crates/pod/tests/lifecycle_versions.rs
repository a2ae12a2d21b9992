//! What other releases, gates and the node do: rules for which no trace was recorded on 1.34.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use testground_pod::machine::{
    Action, ConditionType, Event, Exit, Machine, Phase, ProbeOutcome, Settings, Text, Time, Timing,
};
use testground_pod::simulate::script::Script;
use testground_pod::simulate::simulate;
use testground_pod::simulate::timeline::{Point, Timeline};
use testground_pod::version::{Features, Gate, KubernetesVersion};

fn pod(spec: Value) -> Pod {
    let pod = Value::from_iter([("metadata", json!({"name": "p"})), ("spec", spec)]);
    serde_json::from_value(pod).expect("a pod")
}

fn script(script: Value) -> Script {
    serde_json::from_value::<Script>(script).expect("a script")
}

fn ideal(features: Features) -> Settings {
    Settings { features, timing: Timing::Ideal, max_restart_period: None }
}

fn on(minor: u8) -> Features {
    Features::of(KubernetesVersion::new(minor).expect("modelled"))
}

fn starts(timeline: &Timeline, name: &str) -> Vec<f64> {
    timeline.lane(name).expect("a lane").starts().map(|at| at.as_secs_f64()).collect()
}

fn signals(timeline: &Timeline, name: &str) -> Vec<(f64, String)> {
    let lane = timeline.lane(name).expect("a lane");
    let of = |p: &testground_pod::simulate::timeline::At<Point>| match p.is() {
        Point::Signal { signal, .. } => Some((p.at.as_secs_f64(), signal.to_string())),
        _ => None,
    };
    lane.points.iter().filter_map(of).collect()
}

fn with_sidecar(policy: &str) -> Value {
    json!({
        "restartPolicy": policy,
        "initContainers": [{"name": "sc1", "image": "a:1", "restartPolicy": "Always",
            "lifecycle": {"preStop": {"exec": {"command": ["quit"]}}}}],
        "containers": [{"name": "app", "image": "a:1"}]
    })
}

/// R57, K13: with KEP-4438 a sidecar that stops before its turn lives again, without hooks, and is killed at the end.
#[test]
fn k13_sidecars_are_restarted_during_termination_where_the_gate_is_on() {
    let run = |features: Features, grace: i64| {
        let script = script(json!({
            "containers": {"sc1": {"preStop": {"stops": true}, "stop": {"exit": 0}}, "app": {"stop": {"after": 20}}},
            "events": [{"at": 3, "delete": {"grace": grace}}]
        }));
        simulate(&pod(with_sidecar("Never")), &script, &ideal(features)).expect("simulates")
    };
    let gate = Gate::SidecarsRestartableDuringPodTermination;
    assert_eq!(starts(&run(on(37), 30), "sc1"), [0.0]);
    let timeline = run(on(37).set(gate, true), 30);
    assert_eq!(starts(&timeline, "sc1"), [0.0, 3.0]);
    assert_eq!(signals(&timeline, "sc1"), [(3.0, "SIGTERM".to_owned()), (23.0, "SIGKILL".to_owned())]);
    let last = timeline.lane("sc1").and_then(|l| l.statuses.last()).expect("a status").is();
    assert_eq!(last.restart_count, 1);
    // Not for a grace of 1 or less, and not on a release that does not have the gate.
    assert_eq!(starts(&run(on(37).set(gate, true), 1), "sc1"), [0.0]);
    assert_eq!(starts(&run(on(36).set(gate, true), 30), "sc1"), [0.0]);
}

/// R27: the delays of the gates and of the node.
#[test]
fn r27_other_curves() {
    let gaps = |features: Features, node: Option<u64>| {
        let spec = json!({"containers": [{"name": "app", "image": "a:1"}]});
        let settings =
            Settings { features, timing: Timing::Ideal, max_restart_period: node.map(Duration::from_secs) };
        let script = script(json!({"until": 100, "containers": {"app": {"runs": [{"for": 1, "exit": 1}]}}}));
        let timeline = simulate(&pod(spec), &script, &settings).expect("simulates");
        starts(&timeline, "app").windows(2).map(|pair| pair[1] - pair[0] - 1.0).take(4).collect::<Vec<_>>()
    };
    assert_eq!(gaps(on(37), None), [0.0, 10.0, 20.0, 40.0]);
    assert_eq!(gaps(on(37).set(Gate::ReduceDefaultCrashLoopBackOffDecay, true), None), [0.0, 1.0, 2.0, 4.0]);
    assert_eq!(gaps(on(37), Some(4)), [0.0, 4.0, 4.0, 4.0]);
    assert_eq!(gaps(on(34), Some(4)), [0.0, 10.0, 20.0, 40.0]);
}

/// R5: without the gate a container's own policy is not there.
#[test]
fn r5_a_containers_policy_counts_only_with_its_gate() {
    let spec = json!({"restartPolicy": "Always",
        "containers": [{"name": "app", "image": "a:1", "restartPolicy": "Never"}]});
    let script = script(json!({"until": 5, "containers": {"app": {"runs": [{"for": 1, "exit": 1}]}}}));
    let run = |minor| simulate(&pod(spec.clone()), &script, &ideal(on(minor))).expect("simulates");
    assert_eq!(starts(&run(34), "app").len(), 2);
    assert_eq!(starts(&run(35), "app").len(), 1);
    assert_eq!(run(35).phase(), Phase::Failed);
}

/// R23: a container that the runtime lost sight of is killed and started again.
#[test]
fn r23_an_unknown_container_is_killed_and_restarted() {
    let spec = json!({"containers": [{"name": "app", "image": "a:1"}]});
    let mut machine = Machine::new(&pod(spec), &ideal(on(37))).expect("a machine");
    let app = machine.find("app").expect("an app");
    let mut log = answer_all(&mut machine, Time::ZERO);
    let instance = machine.running(app).expect("it runs");
    machine.on(Duration::from_secs(5), Event::Unknown(instance));
    log.extend(answer_all(&mut machine, Duration::from_secs(5)));
    machine.on(Duration::from_secs(6), Event::Exited(instance, Exit::code(0)));
    log.extend(answer_all(&mut machine, Duration::from_secs(6)));
    assert!(log.iter().any(|action| matches!(action, Action::Signal(i, _) if *i == instance)), "{log:?}");
    assert_eq!(machine.running(app).map(|i| i.attempt), Some(1));
}

/// R39: a readiness gate comes on top of the containers.
#[test]
fn r39_readiness_gates() {
    let spec = json!({"containers": [{"name": "app", "image": "a:1"}],
        "readinessGates": [{"conditionType": "example.com/there"}]});
    let mut machine = Machine::new(&pod(spec), &ideal(on(37))).expect("a machine");
    answer_all(&mut machine, Time::ZERO);
    assert!(machine.status().holds(ConditionType::ContainersReady));
    let ready = machine.status().condition(ConditionType::Ready).expect("a condition").clone();
    assert!(!ready.holds);
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    machine.on(Duration::from_secs(1), Event::GateChanged(Text::from("example.com/there"), true));
    assert!(machine.status().holds(ConditionType::Ready));
}

/// A node that lost its power and boots again: all start anew, in order, and what ran ended with 255.
#[test]
fn a_node_is_lost_and_comes_back() {
    let script = script(json!({"until": 60, "containers": {"init1": {"runs": [{"for": 1}]}},
        "events": [{"at": 10, "node": "lost"}, {"at": 40, "node": "back"}]}));
    let mut spec = with_sidecar("Always");
    let list = spec["initContainers"].as_array_mut().expect("a list");
    list.insert(0, json!({"name": "init1", "image": "a:1"}));
    let timeline = simulate(&pod(spec), &script, &ideal(on(37))).expect("simulates");
    assert_eq!(starts(&timeline, "init1"), [0.0, 40.0]);
    assert_eq!(starts(&timeline, "sc1"), [1.0, 41.0]);
    assert_eq!(starts(&timeline, "app"), [1.0, 41.0]);
    assert_eq!(timeline.phase(), Phase::Running);
    let codes: Vec<i32> = timeline.lane("app").expect("a lane").exits().map(|(_, exit)| exit.code).collect();
    assert_eq!(codes, [255]);
}

/// R63: a rule that restarts all cannot spin: the one that asks for it is held back like any other.
#[test]
fn r63_restarting_all_is_held_back() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "app", "image": "a:1", "restartPolicy": "Never", "restartPolicyRules": rule},
        {"name": "other", "image": "a:1"}]});
    let script = script(json!({"until": 100, "containers": {"app": {"runs": [{"for": 0, "exit": 88}]}}}));
    let timeline = simulate(&pod(spec), &script, &ideal(on(37))).expect("simulates");
    assert_eq!(starts(&timeline, "app"), [0.0, 0.0, 10.0, 30.0, 70.0]);
    let other = timeline.lane("other").and_then(|l| l.statuses.last()).expect("a status").is();
    assert!(other.restart_count >= 3, "{}", other.restart_count);
}

/// Lets everything work at once.
fn answer_all(machine: &mut Machine, now: Time) -> Vec<Action> {
    machine.tick(now);
    let mut log = Vec::new();
    while let Some(action) = machine.next_action() {
        let event = match &action {
            Action::CreateSandbox { .. } => Some(Event::SandboxCreated),
            Action::StopSandbox => Some(Event::SandboxStopped),
            Action::Pull(id, _) => Some(Event::Pulled(*id)),
            Action::Create { instance, .. } => Some(Event::Created(*instance)),
            Action::Start(instance) => Some(Event::Started(*instance)),
            Action::Probe(instance, probe) => {
                Some(Event::Probed { instance: *instance, probe: *probe, outcome: ProbeOutcome::Success })
            }
            _ => None,
        };
        log.push(action);
        if let Some(event) = event {
            machine.on(now, event);
        }
    }
    log
}

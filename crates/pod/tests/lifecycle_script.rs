//! The script that `docs/pods.md` shows is one, and mistakes in scripts are told by name.

mod oracle;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use testground_pod::machine::{Machine, Settings};
use testground_pod::simulate::script::Script;
use testground_pod::simulate::{SimulateError, simulate};

fn pod() -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
        "initContainers": [
            {"name": "init1", "image": "a:1"},
            {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
        "containers": [{"name": "app", "image": "a:1",
            "lifecycle": {"postStart": {"exec": {"command": ["x"]}}, "preStop": {"exec": {"command": ["x"]}}},
            "startupProbe": {"exec": {"command": ["x"]}}, "readinessProbe": {"exec": {"command": ["x"]}}}],
        "readinessGates": [{"conditionType": "example.com/ready"}]
    }}))
    .expect("a pod")
}

#[test]
fn the_documented_script_is_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pods.md");
    let text = std::fs::read_to_string(path).expect("the page is there");
    let section = text.split_once("## Scripts of a simulation").expect("the section").1;
    let example =
        section.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).expect("the example").0;
    let script: Script = serde_json::from_value(oracle::yaml(example)).expect("a script");
    let machine = Machine::new(&pod(), &Settings::default()).expect("a machine");
    assert_eq!(script.check(&machine), Ok(()));
    assert_eq!(script.events.len(), 10);
    simulate(&pod(), &script, &Settings::default()).expect("simulates");
}

#[test]
fn all_mistakes_of_a_script_come_at_once() {
    let script: Script = serde_json::from_value(json!({
        "until": "1000h",
        "containers": {"ap": {}},
        "events": [
            {"delete": {}},
            {"at": 1, "delete": {}, "sandbox": "lost"},
            {"after": {"container": "prox", "nth": 0}, "kill": {"container": "app"}},
            {"at": 5}
        ]
    }))
    .expect("a script by its form");
    let Err(SimulateError::Script(wrong)) = simulate(&pod(), &script, &Settings::default()) else {
        panic!("the script was taken")
    };
    let words: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    let expected = [
        "containers.ap: the pod has no container `ap`; did you mean `app`?",
        "events[0]: exactly one of `at` and `after` says when",
        "events[1]: 2 things at once; write exactly one of delete, image, kill, evict, sandbox, engine, node, forget, \
         stopFails, gate",
        "events[2]: `nth` counts from 1",
        "events[2]: the pod has no container `prox`; did you mean `proxy`?",
        "events[3]: 0 things at once; write exactly one of delete, image, kill, evict, sandbox, engine, node, forget, \
         stopFails, gate",
        "until: at most a week can be simulated (604800 s)",
    ];
    assert_eq!(words, expected);
}

#[test]
fn unknown_fields_and_times_are_refused() {
    for (script, word) in [
        (json!({"untill": 5}), "unknown field `untill`"),
        (json!({"until": "soon"}), "a time such as 20, 1.5, 250ms or 1m30s"),
        (json!({"until": -1}), "a time such as"),
        (json!({"containers": {"app": {"runs": [{"four": 5}]}}}), "unknown field `four`"),
    ] {
        let error = serde_json::from_value::<Script>(script).expect_err("refused").to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_pod_that_does_too_much_is_no_endless_simulation() {
    let script: Script = serde_json::from_value(json!({"until": "168h"})).expect("a script");
    let spec = json!({"containers": [{"name": "app", "image": "a:1",
        "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1}}]});
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
    let error = simulate(&pod, &script, &Settings::default()).expect_err("too much");
    assert!(error.to_string().starts_with("too much happens"), "{error}");
}

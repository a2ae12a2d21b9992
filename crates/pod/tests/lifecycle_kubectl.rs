//! The columns of `kubectl get pods` as they were recorded (R44 in `rules.json`): READY and STATUS, in order.

mod oracle;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use testground_pod::machine::{Settings, Timing};
use testground_pod::simulate::script::Script;
use testground_pod::simulate::simulate;
use testground_pod::version::{Features, KubernetesVersion};

/// What was recorded, without what is only there before a node is found and after the object is gone.
fn recorded(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(oracle::folder().join("kubelet-1.34/rules.json")).expect("the facts");
    let rules: Value = serde_json::from_str(&text).expect("JSON");
    let rows = rules["R44-columns"][name].as_array().expect("the columns").clone();
    let rows = rows.iter().filter(|row| row[2].is_string() && row[2] != "Pending");
    let mut words: Vec<String> = rows
        .map(|row| format!("{} {}", row[1].as_str().unwrap_or(""), row[2].as_str().unwrap_or("")))
        .collect();
    words.dedup();
    words
}

fn shown(policy: &str, inits: &Value, apps: &Value, script: &Value, seed: u64) -> Vec<String> {
    let spec = json!({"restartPolicy": policy, "initContainers": inits, "containers": apps});
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod");
    let script: Script = serde_json::from_value(script.clone()).expect("a script");
    let features = Features::of(KubernetesVersion::new(34).expect("modelled"));
    let settings = Settings { features, timing: Timing::Kubelet { seed }, max_restart_period: None };
    let timeline = simulate(&pod, &script, &settings).expect("simulates");
    let mut words: Vec<String> = timeline
        .kubectl
        .iter()
        .map(|c| format!("{}/{} {}", c.is().ready, c.is().of, c.is().status))
        .collect();
    words.dedup();
    words
}

/// One of a few kubelets shows what was recorded, as far as that goes.
fn check(name: &str, policy: &str, inits: &Value, script: &Value) {
    check_apps(name, policy, inits, &json!([{"name": "a", "image": "a:1"}]), script);
}

fn check_apps(name: &str, policy: &str, inits: &Value, apps: &Value, script: &Value) {
    let theirs = recorded(name);
    let all: Vec<_> = (0..64).map(|seed| shown(policy, inits, apps, script, seed)).collect();
    assert!(all.iter().any(|ours| ours.starts_with(&theirs)), "{name}: {theirs:?}\nmachine: {:?}", all[0]);
}

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "a:1", "restartPolicy": "Always"})
}

#[test]
fn init_sidecar_init_app() {
    let inits = json!([{"name": "i1", "image": "a:1"}, sidecar("s"), {"name": "i2", "image": "a:1"}]);
    let script = json!({"containers": {"i1": {"runs": [{"for": 2}]}, "i2": {"runs": [{"for": 2}]},
        "a": {"runs": [{"for": 3}]}, "s": {"stop": {"exit": 0}}}});
    check("init-sidecar-init-app", "Never", &inits, &script);
}

#[test]
fn init_fails_never() {
    let inits = json!([sidecar("s"), {"name": "i", "image": "a:1"}]);
    let script = json!({"containers": {"i": {"runs": [{"for": 2, "exit": 1}]}, "s": {"stop": {"after": 2, "exit": 0}}}});
    check("init-fails-never", "Never", &inits, &script);
}

#[test]
fn app_crashloop() {
    let script = json!({"until": 40, "containers": {"a": {"runs": [{"for": 1.5, "exit": 1}]}}});
    check("app-crashloop", "Always", &json!([sidecar("s")]), &script);
}

#[test]
fn sidecar_not_ready() {
    let mut s = sidecar("s");
    s["readinessProbe"] = json!({"exec": {"command": ["x"]}});
    let script = json!({"until": 20, "containers": {"s": {"readiness": {"answers": ["failure"]}}}});
    check("sidecar-not-ready", "Always", &json!([s]), &script);
}

#[test]
fn deleted() {
    let script = json!({"containers": {"a": {"stop": {"after": 5, "exit": 0}}, "s": {"stop": {"exit": 0}}},
        "events": [{"at": 4, "delete": {}}]});
    check("deleted", "Always", &json!([sidecar("s")]), &script);
}

#[test]
fn app_fails() {
    let script = json!({"containers": {"a": {"runs": [{"for": 2, "exit": 3}]}, "s": {"stop": {"after": 2, "exit": 0}}}});
    check("app-fails", "Never", &json!([sidecar("s")]), &script);
}

#[test]
fn init_fails_always() {
    let inits = json!([sidecar("s"), {"name": "i", "image": "a:1"}]);
    let script = json!({"until": 40, "containers": {"i": {"runs": [{"for": 1, "exit": 3}]}}});
    check("init-fails-always", "Always", &inits, &script);
}

#[test]
fn init_image_missing() {
    let script = json!({"until": 20, "containers": {"i": {"pull": {"error": "ErrImagePull"}}}});
    check("init-image-missing", "Never", &json!([{"name": "i", "image": "missing:1"}]), &script);
}

#[test]
fn app_image_missing() {
    let apps = json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "missing:1"}]);
    let script = json!({"until": 20, "containers": {"b": {"pull": {"error": "ErrImagePull"}}}});
    check_apps("app-image-missing", "Never", &json!([sidecar("s")]), &apps, &script);
}

#[test]
fn app_oom() {
    let script = json!({"containers": {"a": {"runs": [{"for": 0.2, "oom": true}]}}});
    check("app-oom", "Never", &json!([]), &script);
}

#[test]
fn sidecar_crashloop() {
    let script = json!({"until": 40, "containers": {"s": {"runs": [{"for": 1, "exit": 3}]}}});
    check("sidecar-crashloop", "Always", &json!([sidecar("s")]), &script);
}

#[test]
fn sidecar_crashloop_exit0() {
    let script = json!({"until": 40, "containers": {"s": {"runs": [{"for": 1}]}}});
    check("sidecar-crashloop-exit0", "Always", &json!([sidecar("s")]), &script);
}

#[test]
fn sidecar_never_started() {
    let mut s = sidecar("s");
    s["startupProbe"] = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 90});
    let script = json!({"until": 12, "containers": {"s": {"startup": {"answers": ["failure"]}}}});
    check("sidecar-never-started", "Never", &json!([s]), &script);
}

//! A scenario in the oracle's notation as a pod and a script: what `oracle/lib/scenario.py` makes of it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use testground_pod::simulate::script::{
    Cause, Delete, EngineEvent, ImageChange, Kill, Moment, SandboxEvent, Script, Span, Step,
};

use super::behaviour;

const FOREVER: i64 = 1_000_000;

/// The manifest that the oracle would apply.
pub(crate) fn pod(scenario: &Value) -> Pod {
    let mut spec =
        json!({"restartPolicy": scenario["podRestartPolicy"], "containers": [], "initContainers": []});
    if let Some(grace) = scenario.get("terminationGracePeriodSeconds") {
        spec["terminationGracePeriodSeconds"] = grace.clone();
    }
    for (key, value) in scenario["podSpec"].as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    for c in scenario["containers"].as_array().expect("containers") {
        let list = if c["kind"] == "app" { "containers" } else { "initContainers" };
        spec[list].as_array_mut().expect("a list").push(container(c));
    }
    let name = scenario["id"].as_str().expect("an id").to_lowercase();
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a pod")
}

fn container(c: &Value) -> Value {
    let text = |key: &str, default: i64| match &c[key] {
        Value::Null => default.to_string(),
        other => other.to_string(),
    };
    let mut env = vec![
        json!({"name": "NAME", "value": c["name"]}),
        json!({"name": "RUN", "value": text("run", FOREVER)}),
        json!({"name": "EXIT", "value": text("exit", 0)}),
        json!({"name": "TERM_", "value": text("term", 0)}),
        json!({"name": "DELAY", "value": text("startDelay", 0)}),
    ];
    if c["ignoresTerm"] == true {
        env.push(json!({"name": "IGNORE", "value": "yes"}));
    }
    let mut made = json!({"name": c["name"], "image": "localhost/oracle/actor:1", "env": env});
    match c["image"].as_str() {
        Some("unpullable") => made["image"] = json!("localhost/oracle/missing:1"),
        Some("badcommand") => made["command"] = json!(["/bin/missing"]),
        _ => {}
    }
    if c["kind"] == "sidecar" {
        made["restartPolicy"] = json!("Always");
    }
    for key in ["restartPolicy", "restartPolicyRules"] {
        if let Some(value) = c.get(key) {
            made[key] = value.clone();
        }
    }
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        if let Some(probe) = c.get(kind) {
            made[kind] = of_probe(kind, probe);
        }
    }
    let mut life = c.get("lifecycle").cloned().unwrap_or_else(|| json!({}));
    for hook in ["postStart", "preStop"] {
        if let Some(spec) = c.get(hook) {
            let part = |key: &str| match &spec[key] {
                Value::Null => "0".to_owned(),
                other => other.to_string(),
            };
            let command =
                json!(["/bin/actor", "hook", hook, part("startDelay"), part("run"), part("exit"), ""]);
            life[hook] = json!({"exec": {"command": command}});
        }
    }
    made["lifecycle"] = life;
    made
}

fn of_probe(kind: &str, probe: &Value) -> Value {
    let names = [
        ("initialDelay", "initialDelaySeconds"),
        ("period", "periodSeconds"),
        ("failureThreshold", "failureThreshold"),
        ("successThreshold", "successThreshold"),
    ];
    let mut made = json!({"exec": {"command": ["/bin/actor", "probe", kind.trim_end_matches("Probe"), probe["result"]]}});
    for (short, long) in names {
        if let Some(value) = probe.get(short) {
            made[long] = value.clone();
        }
    }
    made
}

/// The behaviour, and the stimulus as the harness would carry it out: three seconds after its moment.
pub(crate) fn script(scenario: &Value, pod: &Pod) -> Script {
    let id = scenario["id"].as_str().expect("an id");
    let spec = pod.spec.as_ref().expect("a spec");
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers = all.map(|c| (c.name.clone(), behaviour(id, c))).collect();
    let until = scenario["watch"].as_u64().unwrap_or(240);
    Script { until: Some(Span::seconds(until)), containers, events: steps(scenario) }
}

fn steps(scenario: &Value) -> Vec<Step> {
    let Some(text) = scenario["stimulus"].as_str() else { return Vec::new() };
    let of_kind = |kind: &str| {
        let all = scenario["containers"].as_array().expect("containers");
        all.iter()
            .filter(|c| c["kind"] == kind)
            .map(|c| c["name"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    let apps = of_kind("app");
    let word_after = |mark: &str| {
        let rest = text.split_once(mark)?.1;
        Some(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned())
    };
    let (container, nth, is) = if text.contains("third start") {
        let who = if text.contains("sc1") { "sc1" } else { "app" };
        (who.to_owned(), 3, Moment::Exits)
    } else {
        match word_after("while ").filter(|who| who != "app" && who != "running") {
            Some(who) => (who, 1, Moment::Starts),
            None => (apps.last().expect("an app").clone(), 1, Moment::Starts),
        }
    };
    let at = |wait: u64| Step {
        after: Some(Cause { container: container.clone(), is, nth, wait: Span::seconds(wait) }),
        ..Step::default()
    };
    let number =
        |rest: &str| rest.split_whitespace().next().and_then(|n| n.trim_end_matches(',').parse().ok());
    let mut steps = Vec::new();
    let mut later = 3;
    if text.contains("pause process") {
        steps.push(Step { sandbox: Some(SandboxEvent::PauseDied), ..at(3) });
    } else if text.starts_with("delete") {
        let first = text.split_once("grace ").and_then(|(_, rest)| number(rest));
        steps.push(Step { delete: Some(Delete { grace: first }), ..at(3) });
        later = 5;
        if let Some((_, rest)) = text.split_once("then delete with grace ") {
            steps.push(Step { delete: Some(Delete { grace: number(rest) }), ..at(6) });
        }
    } else if text.contains("kill sc1") {
        let kill = |name: &str| Some(Kill { container: name.to_owned(), exit: None, oom: false });
        steps.push(Step { kill: kill("sc1"), ..at(3) });
        if text.contains("and app") {
            steps.push(Step { kill: kill("app"), ..at(3) });
        }
    } else if text.contains("engine") {
        steps.push(Step { engine: Some(EngineEvent::Stopped), ..at(3) });
        steps.push(Step { engine: Some(EngineEvent::Started), ..at(5) });
    }
    let changed = word_after("change image of ").or_else(|| word_after("change "));
    if let Some(who) = changed {
        let image = ImageChange { container: who, to: "localhost/oracle/actor:2".to_owned() };
        steps.push(Step { image: Some(image), ..at(later) });
    }
    steps
}

//! Scenarios in which rules meet: what the machine makes of them, in both timings.
//!
//! They are written in the oracle's notation, so that it can record them on a kubelet; until then the outcome in
//! `meeting-outcomes.json` is the machine's own, derived from the rules that each scenario names. `UPDATE_OUTCOMES=1` writes
//! it anew.

mod oracle;

use std::collections::BTreeMap;

use serde_json::Value;
use testground_pod::machine::{Settings, Timing};
use testground_pod::simulate::simulate;
use testground_pod::version::{Features, Gate, KubernetesVersion};

use oracle::compare::facts_of_timeline;
use oracle::expect::Asked;
use oracle::{folder, scenario};

fn read(file: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(file)).expect("the file is there");
    serde_json::from_str(&text).expect("JSON")
}

fn scenarios() -> Vec<Value> {
    let of = |file| read(file)["scenarios"].as_array().expect("scenarios").clone();
    of("meeting.json").into_iter().chain(of("meeting-gates.json")).collect()
}

/// The outcome in `ideal` timing, and whether all that is expected holds in both timings.
fn outcome(id: &str) -> Vec<String> {
    let all = scenarios();
    let scenario = all.iter().find(|s| s["id"] == id).expect("the scenario is there");
    let pod = scenario::pod(scenario);
    let script = scenario::script(scenario, &pod);
    let mut features = Features::of(KubernetesVersion::new(34).expect("modelled"));
    features = features.set(Gate::ContainerRestartRules, id == "Y19");
    let kubelets = (0..8).map(|seed| Timing::Kubelet { seed });
    let mut facts = Vec::new();
    for timing in [Timing::Ideal].into_iter().chain(kubelets) {
        let settings = Settings { features: features.clone(), timing, max_restart_period: None };
        let timeline = simulate(&pod, &script, &settings).unwrap_or_else(|error| panic!("{id}: {error}"));
        let own: Vec<String> = facts_of_timeline(&timeline).iter().map(ToString::to_string).collect();
        let grace = scenario["terminationGracePeriodSeconds"].as_f64().unwrap_or(30.0);
        let asked = Asked { run: id, timeline: &timeline, grace };
        for expectation in scenario["expect"].as_array().expect("expectations") {
            let text = expectation.as_str().expect("words");
            let holds = asked.holds(text).unwrap_or_else(|| panic!("{id}: nobody knows what `{text}` says"));
            assert!(holds, "{id} in {timing:?}: {text}\n{}", own.join("\n"));
        }
        if timing == Timing::Ideal {
            facts = own;
        }
    }
    facts
}

fn check(id: &str) {
    let facts = outcome(id);
    let known = read("meeting-outcomes.json");
    let known: Vec<&str> =
        known[id].as_array().expect("an outcome").iter().filter_map(Value::as_str).collect();
    assert_eq!(facts, known, "{id}");
}

#[test]
fn outcomes_are_written_if_asked_for() {
    if std::env::var_os("UPDATE_OUTCOMES").is_none() {
        return;
    }
    let ids = scenarios().iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>();
    let outcomes: BTreeMap<String, Vec<String>> =
        ids.into_iter().map(|id| (id.clone(), outcome(&id))).collect();
    let text = serde_json::to_string_pretty(&outcomes).expect("JSON");
    std::fs::write(folder().join("meeting-outcomes.json"), text + "\n").expect("can be written");
}

macro_rules! meetings {
    ($($name:ident = $id:literal),* $(,)?) => {
        $(#[test] fn $name() { check($id); })*

        #[test]
        fn every_scenario_is_a_test() {
            let ids: Vec<String> = scenarios().iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect();
            assert_eq!(ids, [$($id),*]);
        }
    };
}

meetings! {
    y01 = "Y01", y02 = "Y02", y03 = "Y03", y04 = "Y04", y05 = "Y05", y06 = "Y06", y07 = "Y07", y08 =
    "Y08", y09 = "Y09", y10 = "Y10", y11 = "Y11", y12 = "Y12", y13 = "Y13", y14 = "Y14", y15 =
    "Y15", y16 = "Y16", y17 = "Y17", y18 = "Y18", y20 = "Y20", y21 = "Y21", y22 = "Y22", y23 =
    "Y23", y24 = "Y24", y25 = "Y25", y19 = "Y19",
}

//! Scenarios in which rules meet: what each expects holds in both timings, whatever chance brings.
//!
//! They are written in the oracle's notation (`oracle/README.md`), which recorded them on a kubelet; the recordings are held
//! against the machine in `traces.rs`. Here the manifest and the stimulus are made from the scenario itself.

mod oracle;

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

fn check(id: &str) {
    let all = scenarios();
    let scenario = all.iter().find(|s| s["id"] == id).expect("the scenario is there");
    let pod = scenario::pod(scenario);
    let script = scenario::script(scenario, &pod);
    let mut features = Features::of(KubernetesVersion::new(34).expect("modelled"));
    features = features.set(Gate::ContainerRestartRules, id == "Y19");
    let kubelets = (0..8).map(|seed| Timing::Kubelet { seed });
    for timing in [Timing::Ideal].into_iter().chain(kubelets) {
        let settings = Settings { features: features.clone(), timing, max_restart_period: None };
        let timeline = simulate(&pod, &script, &settings).unwrap_or_else(|error| panic!("{id}: {error}"));
        let grace = scenario["terminationGracePeriodSeconds"].as_f64().unwrap_or(30.0);
        let asked = Asked { run: id, timeline: &timeline, grace };
        for expectation in scenario["expect"].as_array().expect("expectations") {
            let text = expectation.as_str().expect("words");
            let holds = asked.holds(text).unwrap_or_else(|| panic!("{id}: nobody knows what `{text}` says"));
            let own: Vec<String> = facts_of_timeline(&timeline).iter().map(ToString::to_string).collect();
            assert!(holds, "{id} in {timing:?}: {text}\n{}", own.join("\n"));
        }
    }
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

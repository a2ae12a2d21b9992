//! Reads what the oracle recorded on a kubelet of 1.34 (manifests, scenarios, traces), and turns it into pods and scripts.

#![allow(dead_code, reason = "each test, and the example `oracle`, uses its own part of this")]

pub(crate) mod compare;
pub(crate) mod expect;
pub(crate) mod scenario;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{Container, Pod};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::Value;
use testground_pod::machine::{CreateError, ProbeOutcome, PullError, Settings, Timing};
use testground_pod::simulate::script::{
    Behaviour, Cause, Delete, EngineEvent, Evict, HookBehaviour, ImageChange, Kill, Moment, ProbeBehaviour,
    Run, SandboxEvent, Script, Span, Step, StopBehaviour, Trouble,
};
use testground_pod::simulate::timeline::Timeline;
use testground_pod::simulate::{simulate, simulate_job};
use testground_pod::version::{Features, Gate, KubernetesVersion};

/// A recorded run: its manifest and its trace.
pub(crate) struct Recorded {
    pub(crate) id: String,
    pub(crate) pod: Pod,
    pub(crate) job: Option<JobSpec>,
    pub(crate) trace: Trace,
    pub(crate) gates: String,
}

/// One line of a trace: milliseconds since creation, kind, and the rest.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: i64,
    pub(crate) kind: String,
    pub(crate) rest: Vec<Value>,
}

pub(crate) struct Trace {
    pub(crate) lines: Vec<Line>,
    pub(crate) last: BTreeMap<String, Value>,
    pub(crate) end: i64,
    pub(crate) gone: Option<i64>,
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

// === impl Recorded ===

impl Recorded {
    /// One of the traces that the tests are held to.
    pub(crate) fn read(id: &str) -> Self {
        Self::read_from(&folder().join("kubelet-1.34"), id)
    }

    /// A trace in a folder that the oracle wrote: `manifests/ID.yaml` and `traces/ID.json`.
    pub(crate) fn read_from(base: &Path, id: &str) -> Self {
        let text = std::fs::read_to_string(base.join(format!("manifests/{id}.yaml")))
            .expect("the manifest is there");
        let manifest = yaml(&text);
        let (pod, job) = pod_of(&manifest);
        let text =
            std::fs::read_to_string(base.join(format!("traces/{id}.json"))).expect("the trace is there");
        let trace: Value = serde_json::from_str(&text).expect("a trace is JSON");
        let lines = trace["events"]
            .as_array()
            .expect("a trace has events")
            .iter()
            .map(|line| {
                let line = line.as_array().expect("a line is a list");
                Line {
                    at: line[0].as_i64().expect("a time"),
                    kind: line[1].as_str().expect("a kind").to_owned(),
                    rest: line[2..].to_vec(),
                }
            })
            .collect();
        let last = trace["final"].as_object().expect("a last status");
        Self {
            id: id.to_owned(),
            pod,
            job,
            gates: trace["gates"].as_str().unwrap_or_default().to_owned(),
            trace: Trace {
                lines,
                last: last.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
                end: trace["end"].as_i64().expect("an end"),
                gone: trace["gone"].as_i64(),
            },
        }
    }

    pub(crate) fn features(&self) -> Features {
        let features = Features::of(KubernetesVersion::new(34).expect("1.34 is modelled"));
        let features = features.set_all(&self.gates).expect("the gates of the trace are known");
        // The runtime that was recorded ignores the stop signal it is given.
        features.set(Gate::ContainerStopSignals, false)
    }

    pub(crate) fn simulate(&self, timing: Timing) -> Timeline {
        let settings = Settings { features: self.features(), timing, max_restart_period: None };
        let script = self.script();
        let timeline = match &self.job {
            Some(job) => simulate_job(&self.pod, job, &script, &settings),
            None => simulate(&self.pod, &script, &settings),
        };
        timeline.unwrap_or_else(|error| panic!("{}: {error}", self.id))
    }

    /// The behaviour that the manifest's environment and commands describe, and the steps that the trace shows.
    pub(crate) fn script(&self) -> Script {
        let spec = self.pod.spec.as_ref().expect("a pod has a spec");
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let containers = all.map(|c| (c.name.clone(), behaviour(&self.id, c))).collect();
        // A pod that has ended gets the time that its last polls take.
        let over =
            matches!(self.trace.last.get("phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
        if self.trace.last.is_empty() {
            // 1.34 rejected it, so that nothing was recorded.
            return Script { until: Some(Span::seconds(60)), containers, events: Vec::new() };
        }
        let millis = u64::try_from(self.trace.end).expect("time goes on") + if over { 4_000 } else { 0 };
        Script { until: Some(Span(Duration::from_millis(millis))), containers, events: self.steps() }
    }

    /// What the harness did, each tied to the last start of a container before it.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for line in &self.trace.lines {
            let at = match line.kind.as_str() {
                // The containers are killed first; the call returns later.
                "stop-sandbox" => line.at - 100,
                "exited" => line.at - 20,
                _ => line.at,
            };
            let Some(cause) = self.cause(at) else { continue };
            let base = Step { after: Some(cause), ..Step::default() };
            let name = |n: usize| line.rest[n].as_str().unwrap_or_default().to_owned();
            let step = match line.kind.as_str() {
                "do" => match name(0).as_str() {
                    "delete" => Step { delete: Some(Delete { grace: line.rest[1].as_i64() }), ..base },
                    "set-image" => {
                        let to = format!("localhost/oracle/actor:{}", name(2));
                        Step { image: Some(ImageChange { container: name(1), to }), ..base }
                    }
                    "kill -9" if name(1) == "pause" => {
                        Step { sandbox: Some(SandboxEvent::PauseDied), ..base }
                    }
                    "kill -9" => {
                        Step { kill: Some(Kill { container: name(1), exit: None, oom: false }), ..base }
                    }
                    _ => continue,
                },
                "engine-stop" => Step { engine: Some(EngineEvent::Stopped), ..base },
                "engine-start" => Step { engine: Some(EngineEvent::Started), ..base },
                "stop-sandbox" => Step { sandbox: Some(SandboxEvent::Lost), ..base },
                "remove-records" => Step { forget: vec!["init1".to_owned(), "init2".to_owned()], ..base },
                "event" if name(1) == "Evicted" => {
                    Step { evict: Some(Evict { message: name(2), grace: 1 }), ..base }
                }
                // containerd lost its connection while app2's hook was running.
                "exited" if name(0) == "app2#0" && self.id == "X56t" => {
                    Step { stop_fails: Some("app2".to_owned()), ..base }
                }
                _ => continue,
            };
            steps.push(step);
        }
        steps
    }

    fn cause(&self, at: i64) -> Option<Cause> {
        let mut nth: BTreeMap<String, u32> = BTreeMap::new();
        let mut cause = None;
        for line in self.trace.lines.iter().filter(|line| line.at <= at && line.kind == "start") {
            let container = name_of(&line.rest[0]);
            let count = nth.entry(container.clone()).or_default();
            *count += 1;
            cause = Some((container, *count, line.at));
        }
        let (container, nth, from) = cause?;
        let wait = Span(Duration::from_millis(u64::try_from(at - from).expect("later")));
        Some(Cause { container, is: Moment::Starts, nth, wait })
    }
}

/// `app` of `app#2`.
pub(crate) fn name_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().split('#').next().unwrap_or_default().to_owned()
}

/// The pod of a manifest, and the Job around it.
pub(crate) fn pod_of(manifest: &Value) -> (Pod, Option<JobSpec>) {
    if manifest["kind"] == "Job" {
        let mut job: JobSpec = serde_json::from_value(manifest["spec"].clone()).expect("a Job");
        let template = std::mem::take(&mut job.template);
        let mut pod = Pod { spec: template.spec, ..Pod::default() };
        pod.metadata.name = manifest["metadata"]["name"].as_str().map(str::to_owned);
        return (pod, Some(job));
    }
    (serde_json::from_value(manifest.clone()).expect("a Pod"), None)
}

/// How the oracle's actor behaves by a container's environment and commands.
pub(crate) fn behaviour(run: &str, container: &Container) -> Behaviour {
    let env = |name: &str| {
        let of = |v: &k8s_openapi::api::core::v1::EnvVar| (v.name == name).then(|| v.value.clone()).flatten();
        container.env.iter().flatten().find_map(of)
    };
    let number = |name: &str| env(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
    let span = |seconds: f64| Span(Duration::from_secs_f64(seconds));
    let delay = number("DELAY");
    let exit = number("EXIT") as i32;
    // Even the shortest run takes the shell its time.
    let lasts = (delay + number("RUN")).max(0.01);
    let mut runs = vec![Run { lasts: Some(span(lasts)), exit, oom: false }];
    if env("BEHAVIOUR").is_some_and(|text| text.starts_with("first run exits 1")) {
        runs.insert(0, Run { lasts: Some(span(1.0)), exit: 1, oom: false });
    }
    let lifecycle = container.lifecycle.as_ref();
    let probe = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        let Some(command) = probe.as_ref().and_then(|p| p.exec.as_ref()).and_then(|e| e.command.clone())
        else {
            return ProbeBehaviour::default();
        };
        // "sh -c '... sleep 4; ...'" hangs longer than its timeout.
        if command.iter().any(|word| word.contains("sleep 4")) {
            return ProbeBehaviour { takes: Span::seconds(4), ..ProbeBehaviour::default() };
        }
        match command.last().map(String::as_str) {
            Some("fail") => {
                ProbeBehaviour { answers: vec![ProbeOutcome::Failure], ..ProbeBehaviour::default() }
            }
            Some("file") => ProbeBehaviour { succeeds_after: Some(span(delay)), ..ProbeBehaviour::default() },
            _ => ProbeBehaviour::default(),
        }
    };
    let hook = |handler: Option<&k8s_openapi::api::core::v1::LifecycleHandler>| {
        let Some(command) = handler.and_then(|h| h.exec.as_ref()).and_then(|e| e.command.clone()) else {
            return HookBehaviour::default();
        };
        // actor hook KIND DELAY RUN EXIT KILLS
        let at = |n: usize| command.get(n).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        HookBehaviour {
            takes: span(at(3) + at(4)),
            fails: at(5) != 0.0,
            hangs: command.get(4).is_some_and(|word| word == "forever"),
            stops: command.get(6).is_some_and(|word| !word.is_empty()),
        }
    };
    let image = container.image.clone().unwrap_or_default();
    let bad = container.command.iter().flatten().any(|word| word == "/bin/missing");
    let _ = (run, CreateError::CreateContainerError);
    Behaviour {
        runs,
        stop: StopBehaviour {
            after: span(number("TERM_")),
            exit: Some(exit),
            ignored: env("IGNORE").is_some_and(|value| !value.is_empty()),
        },
        startup: probe(&container.startup_probe),
        liveness: probe(&container.liveness_probe),
        readiness: probe(&container.readiness_probe),
        post_start: hook(lifecycle.and_then(|l| l.post_start.as_ref())),
        pre_stop: hook(lifecycle.and_then(|l| l.pre_stop.as_ref())),
        pull: image.contains("missing").then_some(Trouble { error: PullError::ErrImagePull, times: None }),
        create: None,
        start: bad.then(|| Trouble { error: "no such file or directory".to_owned(), times: None }),
    }
}

/// YAML as JSON. The manifests use no tags, anchors or several documents.
pub(crate) fn yaml(text: &str) -> Value {
    let documents = Yaml::load_from_str(text).expect("YAML");
    json(&documents[0])
}

fn json(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => Value::from(*value),
        Yaml::Value(Scalar::Integer(value)) => Value::from(*value),
        Yaml::Value(Scalar::FloatingPoint(value)) => Value::from(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => Value::from(value.to_string()),
        Yaml::Sequence(items) => items.iter().map(json).collect(),
        Yaml::Mapping(map) => {
            let pairs = map.iter().map(|(k, v)| (k.as_str().expect("a key is a string").to_owned(), json(v)));
            Value::Object(pairs.collect())
        }
        other => panic!("unexpected YAML {other:?}"),
    }
}

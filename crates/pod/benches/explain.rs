//! How long reading and explaining a pod of a thousand containers takes. One JSON line a figure.
//!
//! `cargo bench -p testground-pod --bench explain`

use std::{collections::BTreeMap, fmt::Write as _, hint::black_box, time::Instant};

use serde_json::json;
use testground_pod::{
    explain::{self, NODE_MEMORY, Options},
    load,
    version::Features,
};

const CONTAINERS: usize = 1_000;
const ROUNDS: usize = 15;

fn main() {
    let text = manifest();
    let options = Options { features: Features::default(), node_memory: NODE_MEMORY, times: BTreeMap::new() };
    let read = || load::read(black_box(&text), &options.features);
    let manifest = read();
    assert!(manifest.all_mistakes().is_empty(), "{:?}", manifest.all_mistakes());
    let explained =
        || explain::report("bench.yaml", black_box(&manifest), &options).expect("no times are given");
    let parsed = || load::tree::parse(black_box(&text), &mut Vec::new());
    figure("pod.load.parse.1000-containers", median(parsed) * 1e3, "ms");
    figure("pod.load.1000-containers", median(read) * 1e3, "ms");
    figure("pod.load.throughput", text.len() as f64 / 1e6 / median(read), "MB/s");
    figure("pod.explain.1000-containers", median(explained) * 1e3, "ms");
    figure("pod.explain.text.1000-containers", median(|| explain::text::report(&explained())) * 1e3, "ms");
}

/// Sidecars with probes, then apps with resources, environment and mounts: what pods usually have.
fn manifest() -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: large}\nspec:\n  volumes: [{name: v, emptyDir: {}}]\n",
    );
    for (list, count) in [("initContainers", CONTAINERS / 2), ("containers", CONTAINERS / 2)] {
        let _ = writeln!(text, "  {list}:");
        for i in 0..count {
            let sidecar = if list == "initContainers" { "    restartPolicy: Always\n" } else { "" };
            let _ = write!(
                text,
                "  - name: {prefix}{i}\n    image: registry.example.com/team/program:{i}\n{sidecar}    command: [program, --config, /etc/program]\n    env:\n    - {{name: INDEX, value: \"{i}\"}}\n    - {{name: POD_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}\n    resources:\n      requests: {{cpu: {i}m, memory: 64Mi}}\n      limits: {{memory: 128Mi}}\n    volumeMounts:\n    - {{name: v, mountPath: /v}}\n    startupProbe:\n      httpGet: {{path: /healthz, port: 8080}}\n      periodSeconds: 1\n",
                prefix = if sidecar.is_empty() { "app" } else { "side" },
            );
        }
    }
    text
}

/// The median time of a call, in seconds.
fn median<T>(mut f: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(f());
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn figure(bench: &str, value: f64, unit: &str) {
    println!(
        "{}",
        json!({"bench": bench, "value": (value * 1000.0).round() / 1000.0, "unit": unit, "peer": null})
    );
}

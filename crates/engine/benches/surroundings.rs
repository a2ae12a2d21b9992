//! What surrounds a run, in figures: the check of an unchanged build, and readers of events under a flood.
//!
//! `cargo bench -p testground-engine --bench surroundings` prints a line of JSON for each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use testground_engine::build::{self, Site, find_tool};
use testground_engine::home::Home;
use testground_engine::report::{EventLog, Look, Terminal};
use testground_model::event::{Event, EventKind, Stream};
use testground_model::name::{InstanceName, RunId};
use testground_model::run::Build;
use testground_model::run::toml_value::Value;

fn main() {
    let t = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let path = std::env::var_os("PATH").unwrap_or_default();

    let plan = t.path().join("plan");
    for i in 0..1000 {
        let dir = plan.join(format!("src/{}", i % 40));
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(format!("{i}.txt")), vec![b'x'; 10_000]).expect("a file");
    }
    let text = |text: &str| Value::String(text.to_owned());
    let make = text("printf '#!/bin/sh\\n' > out; chmod +x out");
    let generic = wanted("exec:generic", &[("build", make), ("program", text("out"))]);
    unchanged(&runtime, &site(t.path(), &plan, &path), &generic, "build_unchanged_generic_1000_files_10_mb");

    if find_tool("go", &path).is_some() {
        let plan = t.path().join("go");
        fs::create_dir_all(&plan).expect("a directory");
        fs::write(plan.join("go.mod"), "module example.test/p\n\ngo 1.21\n").expect("a file");
        fs::write(plan.join("main.go"), "package main\n\nfunc main() {}\n").expect("a file");
        unchanged(&runtime, &site(t.path(), &plan, &path), &wanted("exec:go", &[]), "build_unchanged_go");
    }

    let look = Look { progress: false, colour: false, width: 80, verbose: false };
    let null = || Box::new(fs::OpenOptions::new().write(true).open("/dev/null").expect("/dev/null"));
    let mut terminal = Terminal::new(null(), look);
    flood("terminal_flood", |event| terminal.on_event(event));
    let mut log = EventLog::new(null(), u64::MAX);
    flood("event_log_flood", |event| log.on_event(event));
}

/// The median of checking that nothing has changed.
fn unchanged(runtime: &tokio::runtime::Runtime, site: &Site, wanted: &Build, name: &str) {
    runtime.block_on(build::build(wanted, site)).expect("a first build");
    let mut took: Vec<Duration> = (0..21)
        .map(|_| {
            let began = Instant::now();
            let built = runtime.block_on(build::build(wanted, site)).expect("a build");
            assert!(built.cached, "it was built again");
            began.elapsed()
        })
        .collect();
    took.sort();
    figure(name, took[took.len() / 2].as_secs_f64() * 1e3, "ms");
}

/// Lines of output that a reader takes in a second, from one instance that writes as fast as it can.
fn flood(name: &str, mut reader: impl FnMut(&Event)) {
    let lines = 1_000_000_u64;
    let run = RunId::new(1, [1; 8]);
    let kind = |line| EventKind::Output { instance: InstanceName::new("g", 0), stream: Stream::Stdout, line };
    let mut event = Event { ts: 0, run, kind: kind("x".repeat(80)) };
    let began = Instant::now();
    for i in 0..lines {
        event.ts = i * 10_000;
        reader(&event);
    }
    figure(name, lines as f64 / began.elapsed().as_secs_f64(), "lines/s");
}

fn figure(name: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({ "bench": name, "value": value, "unit": unit, "peer": null }));
}

fn site(root: &Path, plan: &Path, path: &std::ffi::OsStr) -> Site {
    let home = Home::at(&root.join("home")).expect("a home");
    let plan = fs::canonicalize(plan).expect("a plan");
    let timeout = Duration::from_secs(600);
    Site { plan, home, logs: root.join("logs"), path: path.to_owned(), timeout }
}

fn wanted(builder: &str, config: &[(&str, Value)]) -> Build {
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Build {
        builder: builder.to_owned(),
        config,
        selectors: Vec::new(),
        dependencies: BTreeMap::new(),
        artifact: None,
    }
}

//! A second build of an unchanged plan: `testground build single` on the example plans, as somebody waits for it.
//!
//! `cargo bench -p testground --bench build [-- PLAN...]` prints one JSON line a figure. Beside it stands the language's own
//! tool, asked the same: whether there is anything to do. The first build, which takes as long as the tools do, isn't
//! timed; a home of its own is used unless `TESTGROUND_HOME` names one with earlier builds.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Plan, builder, and what asks the language's tool, in the plan's copy.
const PLANS: [(&str, &str, &[&str]); 3] = [
    ("ping-go", "exec:go", &["go", "build", "-o", "/dev/null", "."]),
    ("ping-rust", "exec:rust", &["cargo", "build", "--locked", "--offline"]),
    ("ping-js", "exec:node", &["npm", "ls", "--offline"]),
];
const ROUNDS: usize = 21;

fn main() {
    let typed: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let scratch = tempfile::tempdir().expect("a directory");
    let home = std::env::var_os("TESTGROUND_HOME").map_or_else(|| scratch.path().join("home"), Into::into);
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plans");
    for (plan, builder, peer) in
        PLANS.iter().filter(|(plan, ..)| typed.is_empty() || typed.iter().any(|t| t == plan))
    {
        let build = || {
            let output = Command::new(env!("CARGO_BIN_EXE_testground"))
                .args(["build", "single", "--builder", builder, "--plan"])
                .arg(plans.join(plan))
                .env("TESTGROUND_HOME", &home)
                .output()
                .expect("the binary runs");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
            said
        };
        build();
        let ours = median(|| assert!(build().contains("\"cached\": true")));
        let copy = scratch.path().join(plan);
        let copied = Command::new("cp").arg("-rL").arg(plans.join(plan)).arg(&copy).status().expect("cp");
        assert!(copied.success());
        let ask = || {
            let mut command = Command::new(peer[0]);
            command
                .args(&peer[1..])
                .current_dir(&copy)
                .env("CARGO_TARGET_DIR", scratch.path().join("target"));
            command.output().expect("the tool runs");
        };
        if *plan == "ping-js" {
            let installed = Command::new("npm").args(["ci", "--prefer-offline"]).current_dir(&copy).output();
            assert!(installed.expect("npm").status.success());
        }
        ask();
        let peer = median(ask);
        let line = serde_json::json!({ "bench": "second_build", "plan": plan, "value": ours, "unit": "ms", "peer": peer });
        println!("{line}");
    }
}

fn median(mut what: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            what();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

//! From command to verdict: a plan that waits for the network and succeeds, with 2 to 1,000 instances.
//!
//! `cargo bench -p testground --bench run [-- COUNT...]` prints one JSON line a figure. Beside the time stands what the
//! same programs need when a shell starts them one after the other, without a lab: the floor of any runner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const MANIFEST: &str = r#"name = "bench"
[builders."exec:generic"]
program = "./plan.sh"
[runners."local:exec"]
[[testcases]]
name = "wait"
"#;

const PLAN: &str =
    "#!/bin/sh\nexec testground sync barrier network-initialized $TEST_INSTANCE_COUNT >/dev/null\n";
/// Holds until the memory of the lab was read.
const HOLD: &str =
    "#!/bin/sh\ntestground sync barrier network-initialized $TEST_INSTANCE_COUNT >/dev/null\nexec sleep 3\n";

fn main() {
    let typed: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let counts = if typed.is_empty() { vec![2, 50, 200, 1000] } else { typed };
    for count in counts {
        let runs = if count > 500 { 3 } else { 5 };
        let mut times: Vec<f64> = (0..runs).map(|_| time(count, PLAN)).collect();
        times.sort_by(f64::total_cmp);
        let floor = floor(count);
        print("run_command_to_verdict", count, times[times.len() / 2], "s", floor);
    }
    let (lab, inits, instances) = memory(1000);
    print("run_memory_lab_and_client", 1000, lab, "MiB", instances);
    print("run_memory_instance_inits", 1000, inits, "MiB", instances);
}

fn print(bench: &str, instances: u32, value: f64, unit: &str, peer: f64) {
    let line = serde_json::json!({ "bench": bench, "instances": instances, "value": value, "unit": unit, "peer": peer });
    println!("{line}");
}

fn session(count: u32, script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let plan = dir.path().join("plan");
    fs::create_dir_all(&plan).expect("a directory");
    fs::write(plan.join("manifest.toml"), MANIFEST).expect("a file");
    fs::write(plan.join("plan.sh"), script).expect("a file");
    fs::set_permissions(plan.join("plan.sh"), fs::Permissions::from_mode(0o755)).expect("an executable");
    let composition = format!(
        "[global]\nplan = \"bench\"\ncase = \"wait\"\nbuilder = \"exec:generic\"\nrunner = \"local:exec\"\n\
         [[groups]]\nid = \"g\"\ninstances = {{ count = {count} }}\n"
    );
    fs::write(plan.join("composition.toml"), composition).expect("a file");
    dir
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testground"));
    command.current_dir(dir).env("TESTGROUND_HOME", dir.join("home")).args(["run", "plan"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
    command
}

fn time(count: u32, script: &str) -> f64 {
    let dir = session(count, script);
    let begun = Instant::now();
    let output = command(dir.path()).output().expect("the binary runs");
    let took = begun.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    took
}

/// As many processes of the same executable, started by a shell.
fn floor(count: u32) -> f64 {
    let begun = Instant::now();
    let script = format!("for i in $(seq {count}); do $0 version >/dev/null & done; wait");
    let status = Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_testground")]).status();
    assert!(status.expect("a shell").success());
    begun.elapsed().as_secs_f64()
}

/// Proportional memory in MiB: client, init and supervisor; the instances' inits; the instances themselves.
fn memory(count: u32) -> (f64, f64, f64) {
    let dir = session(count, HOLD);
    let mut child = command(dir.path()).arg("--events").arg("-").spawn().expect("the binary runs");
    let out = child.stdout.take().expect("a pipe");
    let mut up = 0;
    let mut figures = (0.0, 0.0, 0.0);
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        up += u32::from(line.contains("\"event\":\"instance_started\""));
        if up == count {
            up += 1;
            #[allow(clippy::disallowed_methods, reason = "the instances need a moment to come to rest")]
            std::thread::sleep(std::time::Duration::from_secs(1));
            figures = measure(child.id());
        }
    }
    let _ = child.wait();
    figures
}

fn measure(client: u32) -> (f64, f64, f64) {
    let mut figures = (0.0, 0.0, 0.0);
    let mut lab_init = None;
    let pids = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    for pid in pids {
        let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mib = pss(pid);
        if pid == client || cmdline.contains("lab-supervisor") {
            figures.0 += mib;
        } else if cmdline.contains("lab-init") {
            if lab_init.is_none() {
                lab_init = Some(pid);
                figures.0 += mib;
            } else {
                figures.1 += mib;
            }
        } else if cmdline.starts_with("sleep\0") || cmdline.contains("network-initialized") {
            figures.2 += mib;
        }
    }
    figures
}

fn pss(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
    kib / 1024.0
}

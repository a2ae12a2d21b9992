//! The published SDKs, unmodified, with calls of their own: the programs in `tests/sdk`, built here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{LocalService, PATIENCE, skip};

const RUN: &str = "run:sdk:plan:sdks:case:calls";

/// What an instance finds in its environment.
fn environment(outputs: &Path) -> Vec<(&'static str, String)> {
    let path = outputs.display().to_string();
    [
        ("TEST_PLAN", "sdks"),
        ("TEST_CASE", "calls"),
        ("TEST_RUN", "sdk"),
        ("TEST_REPO", ""),
        ("TEST_BRANCH", ""),
        ("TEST_TAG", ""),
        ("TEST_INSTANCE_COUNT", "1"),
        ("TEST_INSTANCE_ROLE", ""),
        ("TEST_INSTANCE_PARAMS", "a=b"),
        ("TEST_GROUP_ID", "single"),
        ("TEST_GROUP_INSTANCE_COUNT", "1"),
        ("TEST_SIDECAR", "true"),
        ("TEST_DISABLE_METRICS", "true"),
        ("TEST_SUBNET", "127.1.0.0/16"),
        ("TEST_START_TIME", "2022-01-12T15:48:07-05:00"),
        ("TEST_CAPTURE_PROFILES", ""),
        ("HOSTNAME", "instance"),
        ("INFLUXDB_URL", "http://127.0.0.1:1"),
        ("REDIS_HOST", "testground-redis"),
        ("TEST_OUTPUTS_PATH", &path),
        ("TEST_TEMP_PATH", &path),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

#[tokio::test]
async fn the_go_sdk_works_unmodified() {
    let test = "the_go_sdk_works_unmodified";
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("program");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(source("go"));
    if built(test, build) {
        check(&program, &[], scratch.path()).await;
    }
}

#[tokio::test]
async fn the_javascript_sdk_works_unmodified() {
    let test = "the_javascript_sdk_works_unmodified";
    let scratch = tempfile::tempdir().unwrap();
    for file in ["main.js", "package.json", "package-lock.json"] {
        std::fs::copy(source("js").join(file), scratch.path().join(file)).unwrap();
    }
    let mut build = Command::new("npm");
    build.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(scratch.path());
    if built(test, build) {
        let main = scratch.path().join("main.js");
        check(Path::new("node"), &[main.as_os_str()], scratch.path()).await;
    }
}

/// The Rust SDK knows no other address than `testground-sync-service:5050`, so it gets a network and an `/etc/hosts`
/// of its own, with a service in it.
#[test]
fn the_rust_sdk_works_unmodified() {
    let test = "the_rust_sdk_works_unmodified";
    let scratch = tempfile::tempdir().unwrap();
    // Kept from run to run: it has some two hundred dependencies.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk-rust");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked"]).env("CARGO_TARGET_DIR", &target).current_dir(source("rust"));
    if !built(test, build) {
        return;
    }
    let hosts = scratch.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost testground-sync-service\n").unwrap();
    let script = r#"
        ip link set lo up && mount --bind "$HOSTS" /etc/hosts || { echo 'no namespace of its own' >&2; exit 77; }
        "$SERVICE" --exact support::service_process --nocapture > /dev/null & service=$!
        until (exec 3<> /dev/tcp/127.0.0.1/5050) 2> /dev/null; do kill -0 $service || exit 1; done
        timeout 120 "$PROGRAM"; code=$?
        kill $service; exit $code"#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "bash", "-c", script])
        .envs(environment(scratch.path()))
        .env("HOSTS", &hosts)
        .env("SERVICE", std::env::current_exe().unwrap())
        .env("PROGRAM", target.join("debug/sdktest"))
        .env("SYNC_TEST_LISTEN", "127.0.0.1:5050")
        .env("SYNC_TEST_SIGNAL", format!("{RUN}:states:network-initialized"))
        .output();
    match output {
        Ok(output) if output.status.code() == Some(77) || is_denied(&output) => {
            skip(test, &String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => well(&output),
        Err(e) => skip(test, &format!("unshare: {e}")),
    }
}

/// Runs a program against a service.
async fn check(program: &Path, arguments: &[&OsStr], outputs: &Path) {
    let service = LocalService::in_memory(Default::default()).await;
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .envs(environment(outputs))
        .env("SYNC_SERVICE_HOST", service.address.ip().to_string())
        .env("SYNC_SERVICE_PORT", service.address.port().to_string())
        .current_dir(outputs)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("the program does not end").unwrap();
    well(&output);
    let events = format!("{RUN}:run_events");
    let snapshot = service.handle.snapshot();
    assert!(snapshot.topics.iter().any(|t| t.topic == events && t.length > 0), "{snapshot:?}");
}

/// Builds, or skips when the toolchain is not there or what it needs can't be fetched.
fn built(test: &str, mut build: Command) -> bool {
    let output = match build.output() {
        Ok(output) => output,
        Err(e) => {
            skip(test, &format!("{}: {e}", build.get_program().display()));
            return false;
        }
    };
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return true;
    }
    let unreachable =
        ["dial tcp", "lookup ", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "failed to download"];
    assert!(
        unreachable.iter().any(|sign| words.contains(sign)),
        "{test}: the program does not build:\n{words}"
    );
    skip(test, &format!("its packages can't be fetched: {}", words.lines().next().unwrap_or_default()));
    false
}

fn well(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = out.lines().last();
    assert!(output.status.success() && last == Some("all well"), "{}\n{out}\n{err}", output.status);
}

fn is_denied(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).starts_with("unshare:")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

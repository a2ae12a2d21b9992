//! What a user gets when all goes well.

use std::collections::BTreeMap;

use testground_model::event::{EventKind, NetworkRequests};

use crate::links::{agree, proof};
use crate::support::{Done, Session, binary, composition};

#[test]
fn two_instances_run_and_the_table_says_so() {
    let session = Session::with_plan("echo hello from $TEST_INSTANCE_INDEX", &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    let mut lines = done.lines();
    lines.sort();
    assert_eq!(lines, ["hello from 0", "hello from 1"]);
    assert!(done.stdout.contains("run finished with outcome = success (g:2/2)"), "{done:?}");
    let kept = std::fs::read_to_string(done.outputs().join("g/1/stdout.log")).unwrap();
    assert_eq!(kept, "hello from 1\n");
}

#[test]
fn the_environment_has_every_variable_of_the_table() {
    let session = Session::with_plan(
        "env; echo CWD=$PWD; echo KERNEL_HOSTNAME=$(hostname 2>/dev/null || cat /proc/sys/kernel/hostname)",
        &composition(1, "[groups.run]\ntest_params = { answer = 42, who = \"you\" }"),
    );
    let done = session.run(&["--seed", "7"]);
    done.assert_success();
    let env: BTreeMap<String, String> =
        done.lines().iter().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let outputs = done.outputs().join("g/0").display().to_string();
    for (key, value) in [
        ("TEST_PLAN", "plan"),
        ("TEST_CASE", "case"),
        ("TEST_BRANCH", ""),
        ("TEST_REPO", ""),
        ("TEST_TAG", ""),
        ("TEST_INSTANCE_ROLE", ""),
        ("TEST_INSTANCE_COUNT", "1"),
        ("TEST_GROUP_INSTANCE_COUNT", "1"),
        ("TEST_GROUP_ID", "g"),
        ("TEST_INSTANCE_PARAMS", "answer=42|who=you"),
        ("TEST_CAPTURE_PROFILES", ""),
        ("TEST_SIDECAR", "true"),
        ("TEST_DISABLE_METRICS", "false"),
        ("TEST_OUTPUTS_PATH", outputs.as_str()),
        ("TEST_SUBNET", "16.0.0.0/16"),
        ("TEST_INSTANCE_INDEX", "0"),
        ("SYNC_SERVICE_HOST", "testground-sync-service"),
        ("SYNC_SERVICE_PORT", "5050"),
        ("INFLUXDB_URL", "http://testground-influxdb:8086"),
        ("REDIS_HOST", "testground-redis"),
        ("HOSTNAME", "g-0"),
        ("KERNEL_HOSTNAME", "g-0"),
        ("CWD", outputs.as_str()),
    ] {
        assert_eq!(env.get(key).map(String::as_str), Some(value), "{key} in {env:#?}");
    }
    for key in ["TEST_RUN", "TEST_TEMP_PATH", "TEST_START_TIME", "TEST_INSTANCE_SEED"] {
        assert!(env.get(key).is_some_and(|v| !v.is_empty()), "{key}");
    }
    assert!(!env.contains_key("TESTGROUND_HOME"), "the client's environment is its own");
}

#[test]
fn everybody_is_found_by_name_and_every_address_is_its_own() {
    let script = r#"
cat /etc/hosts
getent hosts g-0 g-1 testground-sync-service testground-influxdb testground-redis
for f in /proc/net/fib_trie; do grep -c 'host LOCAL' $f; done
testground sync signal up >/dev/null && testground sync barrier up 2 >/dev/null"#;
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    let text = done.lines().join("\n");
    for name in ["g-0", "g-1", "testground-sync-service", "testground-influxdb", "testground-redis"] {
        assert!(text.lines().any(|l| l.split_whitespace().any(|w| w == name)), "{name}:\n{text}");
    }
    assert!(text.contains("192.18.0.1"), "{text}");
}

#[test]
fn a_plan_without_an_sdk_signals_waits_publishes_and_shapes() {
    let script = r#"
set -e
testground sync signal ready
testground sync barrier ready 2
testground sync publish greetings "{\"from\":$TEST_INSTANCE_INDEX}"
testground sync subscribe greetings --count 2 | grep -c from
testground sync network '{"network":"default","enable":true,"default":{"latency":20000000},"callback_state":"shaped"}'
testground sync barrier shaped 2
echo done"#;
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    assert_eq!(done.lines().iter().filter(|l| *l == "done").count(), 2, "{done:?}");
    let configured = done
        .events
        .iter()
        .filter(|e| matches!(&e.kind, EventKind::NetworkConfigured { callback, .. } if callback == "shaped"));
    assert_eq!(configured.count(), 2);
    let asked = done.events.iter().find_map(|e| match &e.kind {
        EventKind::NetworkRequests(asked) => Some(*asked),
        _ => None,
    });
    assert_eq!(asked, Some(NetworkRequests { made: 2, shaped: 2, proved: 0 }));
    assert!(done.stdout.contains("  requests  instances asked for their network 2 times"), "{done:?}");
}

#[test]
fn a_declared_link_is_proved_and_felt() {
    // A connection to a closed port is refused after exactly one round trip.
    let script = r#"
testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null
[ $TEST_INSTANCE_INDEX = 0 ] || { testground sync barrier done 1; exit 0; }
for i in 1 2 3 4 5; do
  a=${EPOCHREALTIME/./}; (exec 3<>/dev/tcp/g-1/9) 2>/dev/null; b=${EPOCHREALTIME/./}
  echo rtt $((b - a))
done
testground sync signal done >/dev/null"#;
    let links = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"25ms\"\n";
    let session = Session::with_plan(script, &composition(2, links));
    let off = |done: &Done| {
        let mut trips: Vec<u64> =
            done.lines().iter().filter_map(|l| l.strip_prefix("rtt ")?.parse().ok()).collect();
        trips.sort_unstable();
        assert_eq!(trips.len(), 5, "{done:?}");
        assert!(trips[0] >= 50_000, "faster than the link allows: {trips:?}");
        let proof = proof(done);
        let trip = proof.round_trip_p50.expect("a round trip").as_secs_f64();
        assert!(trip >= 0.050, "{proof:?}");
        let mut off = proof.off;
        if trip >= 0.060 {
            off.push(format!("a round trip of {trip} s"));
        }
        off
    };
    agree(|| session.run(&[]), off);
}

#[test]
fn a_dry_run_shows_the_run_and_starts_nothing() {
    let session = Session::with_plan("touch /tmp/never", &composition(3, ""));
    let done = session.testground(&["run", "--dry-run", "plan"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for word in ["plan", "case", "local:exec", "16.0.0.0/16", "3"] {
        assert!(done.stdout.contains(word), "{word}: {done:?}");
    }
    assert!(!session.path().join("home/data/outputs/local_exec").exists());
}

#[test]
fn two_runs_at_once_do_not_meet() {
    let script =
        "ip -br addr 2>/dev/null; testground sync signal x; testground sync barrier x 2; echo met $?";
    let session = Session::with_plan(script, &composition(2, ""));
    let other = Session::with_plan(script, &composition(2, ""));
    let (a, b) = (session.start(&[]), other.start(&[]));
    let (a, b) = (a.wait(), b.wait());
    a.assert_success();
    b.assert_success();
    for done in [a, b] {
        // Two signals of its own, none of the other run's.
        let mut counts: Vec<String> = done.lines().into_iter().filter(|l| l == "1" || l == "2").collect();
        counts.sort();
        assert_eq!(counts, ["1", "2"], "{done:?}");
    }
}

#[test]
fn version_and_help_speak_of_exit_codes() {
    let session = Session::new();
    let version = session.testground(&["version"]);
    assert!(version.code == Some(0) && version.stdout.contains("Testground"), "{version:?}");
    let help = session.testground(&["--help"]);
    for (code, meaning) in testground_model::outcome::ExitCode::TABLE {
        assert!(help.stdout.contains(meaning), "{} {meaning}: {help:?}", code as u8);
    }
    assert!(binary().exists());
}

#[test]
fn what_keeps_a_composition_from_being_read_is_told_with_its_place() {
    let session = Session::with_plan("exit 0", &composition(1, ""));
    let text = composition(1, "");
    session.write("plan/other.toml", &text.replace("\"plan\"", "\"pp\""));
    std::fs::write(session.path().join("plan/latin.toml"), b"[global]\nplan = \"caf\xe9\"\n")
        .expect("a file");
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    std::fs::write(session.path().join("plan/utf16.toml"), utf16).expect("a file");
    for (file, says) in [
        ("plan/other.toml", "--> plan/other.toml:2:8 (global.plan)"),
        ("plan/latin.toml", "plan/latin.toml:2:12: the byte 0xe9 is no UTF-8"),
        ("plan/utf16.toml", "plan/utf16.toml:1:1: it is UTF-16; save it as UTF-8"),
    ] {
        for command in [&["run", "--dry-run", file][..], &["build", "composition", "-f", file]] {
            let done = session.testground(command);
            assert!(done.code == Some(2) && done.stderr.contains(says), "{says}: {done:?}");
        }
    }
}

#[test]
fn a_path_that_is_called_like_a_kind_of_run_is_pointed_out() {
    let session = Session::with_plan("exit 0", &composition(1, ""));
    std::fs::rename(session.path().join("plan"), session.path().join("s")).expect("renamed");
    let done = session.testground(&["run", "s"]);
    assert!(done.code == Some(2) && done.stderr.contains("`testground run ./s`"), "{done:?}");
    let done = session.testground(&["run", "c"]);
    assert!(done.code == Some(2) && !done.stderr.contains("./c"), "{done:?}");
    let file = session.path().join("s/composition.toml");
    let text = std::fs::read_to_string(&file).expect("a composition");
    std::fs::write(file, text.replace("plan = \"plan\"", "plan = \"s\"")).expect("a file");
    let done = session.testground(&["run", "./s"]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

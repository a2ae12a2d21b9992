//! The plans that come with the program, the README's own, builds, and what a run leaves for others to read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testground_model::event::{Event, EventKind};
use testground_model::outcome::{InstanceEnd, RunOutcome};

use crate::links::{agree, figure, proof};
use crate::support::{Done, Session, composition, measured, skip};

/// The root of the sources: where they were built, or where CI has put a copy for another user.
pub(crate) fn sources() -> PathBuf {
    let manifest_dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&manifest_dir).join("../..")
}

/// A session with one of the plans that come with the program, under its own name.
fn with_plan(name: &str) -> Session {
    let session = Session::new();
    for entry in fs::read_dir(sources().join("plans").join(name)).expect("the plan") {
        let from = entry.expect("a file").path();
        let to = session.path().join(name).join(from.file_name().expect("a name"));
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        fs::copy(&from, to).expect("a copy");
    }
    session
}

/// Lets the session's Go use the caches of this machine: its home is the session's, and empty.
pub(crate) fn with_go(session: &Session, test: &str) -> bool {
    let Ok(output) = Command::new("go").args(["env", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"]).output()
    else {
        skip(test, "Go is not installed");
        return false;
    };
    let text = String::from_utf8(output.stdout).expect("text");
    let names = ["GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"];
    let lines: String =
        names.iter().zip(text.lines()).map(|(name, value)| format!("{name}={value}\n")).collect();
    session.write(".config/go/env", &lines);
    true
}

/// Runs a command that may start a run, and reads the events it wrote.
pub(crate) fn run(session: &Session, args: &[&str]) -> Done {
    let events = session.path().join("all-events.jsonl").display().to_string();
    // Flags of a run stand behind the word that says what kind of run it is.
    let kinds = ["single", "composition"];
    let at = if args.get(1).is_some_and(|kind| kinds.contains(kind)) { 2 } else { 1 };
    let mut all = args.to_vec();
    all.splice(at..at, ["--events", &events]);
    let mut done = session.testground(&all);
    let text = fs::read_to_string(&events).unwrap_or_default();
    done.events = text.lines().map(|l| serde_json::from_str::<Event>(l).expect("an event")).collect();
    done
}

/// Runs a plan that measures time until it is content.
pub(crate) fn run_measuring(session: &Session, plan: &str) -> Done {
    let done = measured(|| {
        let done = run(session, &["run", plan]);
        // Whatever else went wrong has nothing to do with time.
        assert!(done.code == Some(0) || done.code == Some(1), "{done:?}");
        if done.outcome() == RunOutcome::Success { Ok(done) } else { Err(format!("{done:?}")) }
    });
    done.assert_success();
    done
}

#[test]
fn quickstart_measures_what_it_asked_for() {
    let session = with_plan("quickstart");
    let done = run_measuring(&session, "quickstart");
    assert_eq!(done.lines().iter().filter(|l| l.contains("round trip")).count(), 12, "{done:?}");
    assert!(done.stdout.contains("clients    3 / 3") && done.stdout.contains("servers    2 / 2"), "{done:?}");
    assert!(done.stdout.contains("asked              20 ms"), "{done:?}");
    // The plan is no decoration: it fails when the links are not what it expects.
    let file = session.path().join("quickstart/composition.toml");
    let text = fs::read_to_string(&file).expect("a composition");
    fs::write(&file, text.replace("latency = \"12ms\"", "latency = \"17ms\"")).expect("a composition");
    let done = run(&session, &["run", "quickstart"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("us off"), "{done:?}");
}

#[test]
fn two_of_five_regions_lose_each_other_and_find_each_other_again() {
    let session = with_plan("regions");
    let done = run_measuring(&session, "regions");
    let seen = |words: &str| done.lines().iter().filter(|line| line.contains(words)).count();
    // Each of the two says so of the other, and none of the other eighteen pairs.
    assert_eq!((seen(": lost back"), seen("round trip")), (2, 20), "{done:?}");
    let change = |word: &str| done.stdout.lines().any(|l| l.contains(word) && l.contains("westeurope"));
    assert!(change("partition") && change("heal"), "{}", done.stdout);
    assert!(done.stdout.matches("\n    measured ").count() >= 10, "{}", done.stdout);
}

#[test]
fn the_go_sdk_shapes_its_network_and_measures_it() {
    let session = with_plan("ping-go");
    if !with_go(&session, "the_go_sdk_shapes_its_network_and_measures_it") {
        return;
    }
    let done = run_measuring(&session, "ping-go");
    // The plan allows each of its round trips a millisecond, so their mean is no further off.
    let results = fs::read_to_string(done.outputs().join("peers/0/results.out")).expect("points");
    assert!(results.contains("round_trip_ms,protocol=udp"), "{results}");
    // The SDK writes its points into a file and sends them too; the table at the end has each once.
    let table: Vec<&str> = done.stdout.lines().skip_while(|l| !l.starts_with("  measurement")).collect();
    assert_eq!(table[1], "  round_trip_ms protocol=tcp", "{}", done.stdout);
    let words: Vec<&str> = table[2].split_whitespace().collect();
    let mean: f64 = words[2].parse().expect("a mean");
    assert_eq!(words[..2], ["peers", "6"], "{}", done.stdout);
    assert!((mean - 40.0).abs() <= 2.0, "{}", done.stdout);
    let sent = fs::read_to_string(done.outputs().join("measurements.lp")).expect("points that were sent");
    assert!(sent.contains("results.ping-go-ping.round_trip_ms.point,"), "{sent}");
}

#[test]
fn a_quic_implementation_of_others_sees_what_the_report_says() {
    let session = with_plan("quic");
    if !with_go(&session, "a_quic_implementation_of_others_sees_what_the_report_says") {
        return;
    }
    let off = |done: &Done| {
        let proof = proof(done);
        let mut off = Vec::new();
        let (reported, seen) =
            (proof.round_trip_p50.map_or(0.0, |d| d.as_secs_f64() * 1e3), figure(done, "rtt_ms"));
        if (seen - reported).abs() > 2.0 {
            off.push(format!("the round trip: {seen} ms by QUIC, {reported} ms in the report"));
        }
        let share = figure(done, "goodput") / proof.rate.unwrap_or(0.0);
        if !(0.8..=1.0).contains(&share) {
            off.push(format!("the goodput by QUIC is {share} of the rate in the report"));
        }
        off
    };
    agree(|| run(&session, &["run", "quic"]), off);
}

#[test]
fn every_case_of_placebo_ends_as_it_says() {
    let session = with_plan("placebo");
    let mut builders = vec!["exec:generic"];
    if with_go(&session, "every_case_of_placebo_ends_as_it_says") {
        builders.push("exec:go");
    }
    for builder in builders {
        for case in ["ok", "fail", "panic", "stall", "exit-code", "no-outcome"] {
            let done = run(
                &session,
                &[
                    "run",
                    "single",
                    "--plan",
                    "placebo",
                    "--testcase",
                    case,
                    "--builder",
                    builder,
                    "--runner",
                    "local:exec",
                    "--instances",
                    "2",
                    "--run-cfg",
                    "stall=1s",
                ],
            );
            let cause = done.cause();
            let fits = match case {
                "ok" => done.outcome() == RunOutcome::Success,
                "fail" => cause.contains("this case always fails"),
                "panic" if builder == "exec:go" => cause.contains("this case always panics"),
                "panic" => cause.contains("SIGABRT"),
                "stall" => cause.contains("never") && cause.contains("2 of 3"),
                "exit-code" => cause.contains("exited with code 3"),
                _ => cause.contains("without reporting an outcome"),
            };
            assert!(fits, "{builder} {case}: {done:?}");
            assert_eq!(done.code, Some(i32::from(case != "ok")), "{builder} {case}: {done:?}");
        }
    }
}

#[test]
fn the_plan_of_the_readme_works_as_it_is_printed() {
    let readme = fs::read_to_string(sources().join("README.md")).expect("the README");
    let blocks = |language: &str| -> Vec<String> {
        let fence = format!("```{language}\n");
        readme.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
    };
    let (toml, bash) = (blocks("toml"), blocks("bash"));
    let session = Session::new();
    session.write("ping/manifest.toml", &toml[0]);
    session.write("ping/composition.toml", &toml[1]);
    session.script("ping/ping.sh", bash[0].strip_prefix("#!/bin/bash\n").expect("a script"));
    let done = run(&session, &["run", "ping"]);
    done.assert_success();
    assert_eq!(done.lines().iter().filter(|l| l.contains("answered after")).count(), 3, "{done:?}");
}

#[test]
fn a_failed_build_fails_the_run_with_the_tool_s_own_words() {
    let session = Session::with_plan("true", &composition(1, ""));
    let file = session.path().join("plan/composition.toml");
    let mut text = fs::read_to_string(&file).expect("a composition");
    text.push_str("[groups.build_config]\nbuild = \"echo the compiler says no >&2; exit 3\"\n");
    fs::write(&file, &text).expect("a composition");
    let done = session.run(&[]);
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(matches!(done.outcome(), RunOutcome::BuildFailed { .. }), "{done:?}");
    assert!(done.stdout.contains("| the compiler says no"), "{done:?}");
    assert!(!done.events.iter().any(|e| matches!(e.kind, EventKind::LabStarted { .. })), "{done:?}");
    assert!(done.stdout.contains("failed\n"), "{done:?}");

    // Mended, it is built once; the second run takes what the first one made.
    fs::write(&file, text.replace("echo the compiler says no >&2; exit 3", "echo 1 > built"))
        .expect("a composition");
    let cached = |done: &Done| {
        let found = done.events.iter().find_map(|e| match e.kind {
            EventKind::BuildFinished { cached, .. } => Some(cached),
            _ => None,
        });
        found.expect("a build")
    };
    let (first, second) = (session.run(&[]), session.run(&[]));
    first.assert_success();
    second.assert_success();
    assert_eq!((cached(&first), cached(&second)), (false, true));
    assert!(!session.path().join("plan/built").exists(), "the plan is touched");
}

#[test]
fn a_run_leaves_an_archive_a_junit_file_and_words_for_scripts() {
    let session = Session::with_plan("echo kept; test $TEST_INSTANCE_INDEX = 0", &composition(2, ""));
    let (archive, junit) = (session.path().join("out"), session.path().join("junit.xml"));
    let (archive_text, junit_text) = (archive.display().to_string(), junit.display().to_string());
    let done = session.run(&["--keep-going", "--collect-file", &archive_text, "--junit", &junit_text]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(done.end("g", 1), InstanceEnd::ExitCode { code: 1 });
    let id = done.events[0].run.to_string();
    let field = |words: &str, number: usize| {
        let line =
            done.stdout.lines().find(|l| l.contains(words)).unwrap_or_else(|| panic!("{words}: {done:?}"));
        line.split_whitespace().nth(number - 1).map(str::to_owned)
    };
    assert_eq!(field("run is queued with ID", 10).as_deref(), Some(id.as_str()));
    assert_eq!(field("finished run with ID", 9).as_deref(), Some(id.as_str()));
    assert!(done.stdout.contains("run finished with outcome = failure (g:1/2)"), "{done:?}");
    assert!(done.stdout.contains(&format!("run \"{id}\" failed")), "{done:?}");
    let xml = fs::read_to_string(junit).expect("a JUnit file");
    assert!(xml.contains("<testsuite name=\"g\" tests=\"2\" failures=\"0\" errors=\"1\""), "{xml}");
    let listed = Command::new("tar").arg("-tzf").arg(archive.with_extension("tgz")).output().expect("tar");
    let listed = String::from_utf8(listed.stdout).expect("names");
    assert!(listed.contains(&format!("{id}/g/1/stdout.log")), "{listed}");
}

#[test]
fn a_plan_describes_itself_and_the_machine_is_found_healthy() {
    let session = with_plan("quickstart");
    for args in [
        &["describe", "quickstart"][..],
        &["describe", "--plan", "./quickstart"],
        &["describe", "-p", "quickstart"],
    ] {
        let done = session.testground(args);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.stdout.contains("compositions  composition.toml"), "{done:?}");
        assert!(done.stdout.contains("probes = 7"), "{done:?}");
    }
    let nearest = session.testground(&["describe", "quikstart"]);
    assert_eq!(nearest.code, Some(2), "{nearest:?}");
    assert!(nearest.stderr.contains("did you mean quickstart?"), "{nearest:?}");

    let done = session.testground(&["healthcheck", "--runner", "local:exec", "--fix"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("- local-outputs-dir: ok"), "{done:?}");
    assert!(done.stdout.contains("- user-namespace: ok"), "{done:?}");
    let kernel_plane = done.stdout.lines().filter(|line| line.starts_with("- kernel-plane-")).count();
    assert!(kernel_plane == 7 && done.stdout.contains("- kernel-plane-htb: ok"), "{done:?}");
    // A kernel without netem is told what brings it.
    let netem = done.stdout.contains("- kernel-plane-netem: ok; netem, with rates of its own");
    assert!(netem || done.stdout.contains("modprobe sch_netem"), "{done:?}");
    // A build that was killed leaves a directory, and a health check says so and removes it.
    let left = session.path().join("home/data/work/builds/.0123-left");
    fs::create_dir_all(&left).expect("a directory");
    let done = session.testground(&["healthcheck", "--runner", "local:exec"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("leftovers-builds: failed"), "{done:?}");
    let done = session.testground(&["healthcheck", "--runner", "local:exec", "--fix"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!left.exists());
    let wrong = session.testground(&["healthcheck", "--runner", "local:exe"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

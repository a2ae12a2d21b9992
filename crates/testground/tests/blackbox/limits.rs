//! Memory and processor time of instances: the limits that a composition sets hold, and nothing of them is left.
//!
//! Where this machine or user can't have them, the same tests ask that this is said by name.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use testground_model::outcome::{InstanceEnd, RunOutcome};

use crate::support::{Done, Session, composition, is_alive, processes_marked, signal_process, until};

/// Cgroups of this run, wherever they are.
fn cgroups_of(run: &str) -> Vec<PathBuf> {
    fn look(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == *name {
                    found.push(entry.path());
                }
                look(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("testground-run-{run}"), &mut found);
    found
}

/// Whether limits of this sort can be in force here, by the health check's word.
fn in_force(session: &Session, controller: &str) -> bool {
    let report = session.testground(&["healthcheck", "--runner", "local:exec", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).expect("JSON");
    let checks = report["Checks"].as_array().expect("checks");
    let check =
        checks.iter().find(|check| check["Name"] == format!("limits-of-{controller}")).expect("a check");
    let message = check["Message"].as_str().expect("a message");
    if message.contains("is not put in force: ") {
        eprintln!("limits of {controller} can't be had here: {message}");
        return false;
    }
    assert!(message.contains("is put in force, in /"), "{message}");
    true
}

fn assert_said_by_name(done: &Done, key: &str) {
    let warnings = done.warnings();
    let expected = format!("resources.{key} of g is not in force: ");
    assert!(warnings.iter().any(|w| w.starts_with(&expected)), "{done:?}");
}

#[test]
fn an_instance_that_reaches_its_memory_is_killed_and_the_report_says_so() {
    // The first is killed itself, of the second a child is, the third keeps within it.
    let script = r#"
case $TEST_INSTANCE_INDEX in
0) exec tail -c 150000000 < <(head -c 150000000 /dev/zero) >/dev/null ;;
1) head -c 150000000 /dev/zero | tail -c 150000000 >/dev/null; exit $? ;;
2) head -c 1000000 /dev/zero | tail -c 1000000 >/dev/null ;;
esac"#;
    let session = Session::with_plan(script, &composition(3, "resources = { memory = \"64Mi\" }"));
    let done = session.run(&["--keep-going"]);
    assert_eq!(done.end("g", 2), InstanceEnd::Succeeded, "{done:?}");
    if !in_force(&session, "memory") {
        return assert_said_by_name(&done, "memory");
    }
    let limit = 64 << 20;
    assert_eq!(done.end("g", 0), InstanceEnd::OutOfMemory { limit, code: None }, "{done:?}");
    assert_eq!(done.end("g", 1), InstanceEnd::OutOfMemory { limit, code: Some(137) }, "{done:?}");
    assert!(done.stdout.contains("was killed for want of memory: its limit is 64MiB"), "{done:?}");
    let warnings = done.warnings();
    assert!(warnings.iter().any(|w| w.starts_with("g[1] reached its limit of memory")), "{warnings:?}");
    assert_eq!(cgroups_of(&done.run_id()), Vec::<PathBuf>::new());
}

#[test]
fn a_busy_instance_gets_no_more_than_its_share_of_a_processor() {
    // Busy until it is told, and for as long as a figure needs to mean something.
    let script = "echo up; begun=${EPOCHREALTIME/./}; end=$((SECONDS + 3))\n\
                  until ((SECONDS >= end)) && [ -e go ]; do :; done\n\
                  times; echo elapsed $((${EPOCHREALTIME/./} - begun))";
    let session = Session::with_plan(script, &composition(1, "resources = { cpu = \"200m\" }"));
    let limited = in_force(&session, "cpu");
    let mut going = session.start(&[]);
    going.instances_up(1);
    if limited {
        let stat = until("the instance is held back", || {
            let dir = cgroups_of(&going.run_id()).into_iter().next()?;
            let stat = fs::read_to_string(dir.join("instance-g-0/cpu.stat")).ok()?;
            let throttled =
                stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse::<u32>().ok())?;
            (throttled > 0).then_some(stat)
        });
        eprintln!("{stat}");
    }
    fs::write(going.outputs().join("g/0/go"), "").expect("a file");
    let done = going.wait();
    done.assert_success();
    if !limited {
        return assert_said_by_name(&done, "cpu");
    }
    // `times` prints what the shell took: 0m0.512s 0m0.100s. A fifth of the time, and what a period more has of it at each end.
    let line =
        done.lines().into_iter().find(|line| line.starts_with("0m")).unwrap_or_else(|| panic!("{done:?}"));
    let taken: f64 = line
        .split_whitespace()
        .filter_map(|part| part.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok())
        .sum();
    let elapsed = done.lines().iter().find_map(|line| line.strip_prefix("elapsed ")?.parse::<f64>().ok());
    let most = 0.2 * elapsed.expect("how long it took") / 1e6 + 0.2;
    assert!(taken > 0.0 && taken < most, "{taken} s of at most {most} s: {line}");
    assert_eq!(cgroups_of(&done.run_id()), Vec::<PathBuf>::new());
}

/// Brings up a run whose instances have limits and daemons, lets `fault` happen, and returns the run's id when all of its
/// processes are gone.
fn after(fault: impl FnOnce(&mut crate::support::Going, i32)) -> (Session, String, Done) {
    let script = "setsid sleep 600 & echo up; exec sleep 600";
    let limits = "resources = { memory = \"64Mi\", cpu = \"500m\" }";
    let session = Session::with_plan(script, &composition(3, limits));
    let mut going = session.start(&[]);
    going.instances_up(3);
    let (lab, run) = (going.lab(), going.run_id());
    if in_force(&session, "memory") {
        let dirs = cgroups_of(&run);
        assert!(!dirs.is_empty());
        for dir in &dirs {
            let procs = fs::read_to_string(dir.join("instance-g-2/cgroup.procs")).expect("a cgroup");
            assert!(procs.lines().count() >= 3, "init, daemon and program: {procs}");
        }
    }
    fault(&mut going, lab);
    let done = going.wait();
    until("everything of the run is gone", || {
        (processes_marked(session.path()).is_empty() && !is_alive(lab)).then_some(())
    });
    (session, run, done)
}

fn assert_nothing_left(run: &str) {
    // Lab init removes them after the last process, just before it ends itself.
    until("the cgroups are gone", || cgroups_of(run).is_empty().then_some(()));
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    let (_session, run, done) = after(|going, _| going.signal(Signal::INT));
    assert_eq!(done.outcome(), RunOutcome::Interrupted, "{done:?}");
    assert_eq!(cgroups_of(&run), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_after_the_client_was_killed() {
    let (_session, run, _) = after(|going, _| going.signal(Signal::KILL));
    assert_nothing_left(&run);
}

#[test]
fn nothing_is_left_after_lab_init_was_killed() {
    let (_session, run, done) = after(|_, lab| signal_process(lab, Signal::KILL));
    assert!(matches!(done.outcome(), RunOutcome::LabLost { .. }), "{done:?}");
    assert_nothing_left(&run);
}

#[test]
fn what_a_double_kill_leaves_is_swept() {
    let double = |going: &mut crate::support::Going, lab| {
        // A client that stands still can't clear up after its lab.
        going.signal(Signal::STOP);
        signal_process(lab, Signal::KILL);
        until("the lab is gone", || (!is_alive(lab)).then_some(()));
        going.signal(Signal::KILL);
    };
    // Runs of other tests sweep as well when they start: what one of them took shows nothing, and is tried again.
    let swept = (0..20).any(|_| {
        let (session, run, _) = after(double);
        if !in_force(&session, "memory") {
            return true;
        }
        let check = session.testground(&["healthcheck", "--runner", "local:exec"]);
        let says = |line: &str| line.starts_with("- leftovers-cgroups: failed") && line.contains(&run);
        let told = check.stdout.lines().any(says);
        let fixed = session.testground(&["healthcheck", "--runner", "local:exec", "--fix"]);
        assert_eq!(cgroups_of(&run), Vec::<PathBuf>::new(), "{check:?} {fixed:?}");
        assert!(!told || check.code == Some(1), "{check:?}");
        told && fixed.stdout.contains("- leftovers-cgroups: ok; removed ")
    });
    assert!(swept, "what two kills at once leave was never told and removed");

    // The next start does it too.
    let (session, run, _) = after(double);
    session.script("plan/plan.sh", "exit 0");
    session.run(&[]).assert_success();
    assert_eq!(cgroups_of(&run), Vec::<PathBuf>::new());
}

//! What is left when things are killed: nothing but outputs.

use rustix::process::Signal;
use testground_model::outcome::RunOutcome;

use crate::support::{Session, children_of, composition, processes_marked, signal_process, skip, until};

/// Instances with daemons of their own, which is the hardest to clear up.
const SCRIPT: &str = "setsid sleep 600 & echo up; exec sleep 600";

/// Brings a run up, lets `fault` happen, and looks at what is left after it.
fn after(fault: impl FnOnce(&mut crate::support::Going, i32)) -> crate::support::Done {
    let session = Session::with_plan(SCRIPT, &composition(4, ""));
    let mut going = session.start(&[]);
    going.instances_up(4);
    let lab = going.lab();
    fault(&mut going, lab);
    let done = going.wait();
    until("everything of the run is gone", || {
        (processes_marked(session.path()).is_empty() && !crate::support::is_alive(lab)).then_some(())
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&session.path().display().to_string()), "a mount is left:\n{mounts}");
    let kept = std::fs::read_to_string(done.outputs().join("g/3/stdout.log")).unwrap();
    assert_eq!(kept, "up\n", "outputs are kept");
    done
}

/// The supervisor is the child of lab init that is no instance's init.
fn supervisor(lab: i32) -> i32 {
    let role = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let found = children_of(lab).into_iter().find(|&pid| role(pid).contains("lab-supervisor"));
    found.expect("a supervisor")
}

#[test]
fn the_client_is_killed() {
    after(|going, _| going.signal(Signal::KILL));
}

#[test]
fn lab_init_is_killed() {
    let done = after(|_, lab| signal_process(lab, Signal::KILL));
    assert_eq!(done.code, Some(6), "{done:?}");
    assert!(matches!(done.outcome(), RunOutcome::LabLost { cause } if cause.contains("SIGKILL")), "{done:?}");
}

#[test]
fn the_supervisor_is_killed() {
    let done = after(|_, lab| signal_process(supervisor(lab), Signal::KILL));
    assert_eq!(done.code, Some(6), "{done:?}");
    assert!(
        matches!(done.outcome(), RunOutcome::LabLost { cause } if cause.contains("supervisor")),
        "{done:?}"
    );
}

#[test]
fn client_and_lab_init_are_killed() {
    after(|going, lab| {
        signal_process(lab, Signal::STOP);
        going.signal(Signal::KILL);
        signal_process(lab, Signal::KILL);
    });
}

#[test]
fn lab_init_and_supervisor_are_killed() {
    let done = after(|_, lab| {
        let supervisor = supervisor(lab);
        signal_process(supervisor, Signal::KILL);
        signal_process(lab, Signal::KILL);
    });
    assert_eq!(done.code, Some(6), "{done:?}");
}

#[test]
fn one_interrupt_ends_in_order() {
    let done = after(|going, _| going.signal(Signal::INT));
    assert_eq!(done.code, Some(130), "{done:?}");
    assert_eq!(done.outcome(), RunOutcome::Interrupted);
    assert_eq!(done.end("g", 0), testground_model::outcome::InstanceEnd::Stopped);
}

#[test]
fn two_interrupts_end_at_once() {
    let session = Session::with_plan(
        "trap '' TERM INT; echo up; while :; do sleep 600; done",
        &format!("[global.run_config]\ngrace = \"300s\"\n{}", composition(2, "")),
    );
    let mut going = session.start(&[]);
    going.instances_up(2);
    let lab = going.lab();
    going.signal(Signal::INT);
    // The first one is understood when instances were asked to end: nothing tells that from outside, so it is repeated
    // until the client is gone.
    until("the client is gone", || {
        going.signal(Signal::INT);
        going.child.try_wait().unwrap().is_some().then_some(())
    });
    assert_eq!(going.wait().code, Some(130));
    until("the lab is gone", || {
        (processes_marked(session.path()).is_empty() && !crate::support::is_alive(lab)).then_some(())
    });
}

#[test]
fn a_panic_in_the_switch_ends_the_run_by_name() {
    let session = Session::with_plan("echo up; exec sleep 600", &composition(2, ""));
    let done = session.run_with_env(&[], &[("TESTGROUND_FAULT", "switch-panic")]);
    assert_eq!(done.code, Some(6), "{done:?}");
    assert!(done.cause().contains("switch"), "{}", done.cause());
    until("the lab is gone", || processes_marked(session.path()).is_empty().then_some(()));
}

#[test]
fn a_full_disk_under_the_outputs_is_told() {
    // A small file system of one's own needs a mount namespace; in it the whole run takes place.
    let session =
        Session::with_plan("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end", &composition(1, ""));
    std::fs::create_dir_all(session.path().join("home")).unwrap();
    let script =
        "mount -t tmpfs -o size=1m none home && shift 0 && exec \"$0\" run --events events-full.jsonl plan";
    let output = std::process::Command::new("unshare")
        .args(["-Urm", "sh", "-c", script])
        .arg(crate::support::binary())
        .current_dir(session.path())
        .env("TESTGROUND_HOME", session.path().join("home"))
        .env("HOME", session.path())
        .output();
    let Ok(output) = output else { return skip("full disk", "unshare(1) is missing") };
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("No space left on device"), "{text}");
}

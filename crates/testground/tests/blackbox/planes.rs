//! Who moves the packets: what the kernel's plane can't do is refused by name, and what was left open falls to the switch.

use crate::support::{Session, composition};

const LATE: &str = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"5ms\"\n";

#[test]
fn what_the_kernel_plane_can_t_do_is_refused_before_anything_starts() {
    let queue =
        "[[links]]\nfrom = \"g\"\nto = \"g\"\nbandwidth = \"1Mbit/s\"\nqueue_discipline = \"codel\"\n";
    let session = Session::with_plan("echo never", &composition(2, queue));
    let refused = session.run(&["--plane", "kernel", "--capture", "all", "--late-fails"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for word in ["g -> g", "CoDel", "--capture", "--late-fails", "--plane switch"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    assert!(refused.events.is_empty(), "nothing started");
    let lossy = "[[links]]\nfrom = \"g\"\nto = \"g\"\nloss = \"1%\"\n";
    let session = Session::with_plan("echo never", &composition(2, lossy));
    let refused = session.run(&["--plane", "kernel", "--seed", "7"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("can't repeat it"), "{refused:?}");
    let unknown = session.run(&["--plane", "kernal"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("switch, kernel or auto"), "{unknown:?}");
}

#[test]
fn what_is_left_open_is_carried_by_whoever_can() {
    let script = "testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null; echo done";
    let session = Session::with_plan(script, &composition(2, LATE));
    let done = session.run(&["--plane", "auto"]);
    done.assert_success();
    let asked = session.run(&["--plane", "kernel"]);
    let carried = |ports: &str| done.events.iter().any(|e| format!("{:?}", e.kind).contains(ports));
    if asked.code == Some(0) {
        assert!(carried("ports: \"veth\""), "{done:?}");
        return;
    }
    // This kernel lacks something: it is named with what brings it, and the switch did the work.
    assert!(asked.cause().contains("kernel module sch_netem"), "{asked:?}");
    assert!(!carried("ports: \"veth\""));
    let why = done.warnings();
    assert!(
        why.iter().any(|w| w.contains("the switch carries") && w.contains("Netem is missing")),
        "{why:?}"
    );
}

#[test]
fn a_composition_may_name_its_plane() {
    let plane = "[global.run_config]\nplane = \"kernel\"\nrecord_decisions = true\n";
    let session = Session::with_plan("echo never", &composition(1, plane));
    let refused = session.run(&["--plane", "kernel"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--record"), "{refused:?}");
    let shown = session.testground(&["run", "--dry-run", "--plane", "switch", "plan"]);
    assert!(shown.code == Some(0) && !shown.stdout.contains("plane kernel"), "{shown:?}");
}

//! The network seen from outside: what is shown, captured, recorded and changed.

use std::collections::BTreeSet;
use std::process::Command;

use testground_model::event::EventKind;

use crate::support::{Session, composition, skip};

/// Many small packets from `g[0]` to `g[1]`, over links that lose a third.
const SEND: &str = r#"
[ $TEST_INSTANCE_INDEX = 0 ] || { testground sync barrier done 1; exit 0; }
to=$(awk '$2 == "g-1" && $1 ~ /[.]/ { print $1 }' /etc/hosts)
exec 3<>/dev/udp/$to/4000
# Nobody listens there: after an answer that says so the next write fails and sends nothing.
for i in $(seq 600); do echo $i >&3; done 2>/dev/null
testground sync signal done"#;

fn lossy(seed: &str) -> (Session, String) {
    let more = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"1ms\"\nloss = \"30%\"\n\
                [global.run_config.proof]\nenabled = false\n";
    let session = Session::with_plan(SEND, &composition(2, more));
    let done = session.run(&["--record", "--seed", seed]);
    done.assert_success();
    let id = done.events[0].run.to_string();
    (session, id)
}

/// Numbers of the packets that were dropped on the way there.
fn dropped(session: &Session, id: &str) -> BTreeSet<u64> {
    let done = session.testground(&["network", "trace", id, "--from", "g[0]", "--to", "g[1]", "--drops"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let group =
        session.testground(&["network", "trace", id, "--from", "g", "--to", "g[1]/default", "--drops"]);
    assert!(group.code == Some(0) && group.stdout == done.stdout, "a group is all of it: {group:?}");
    for (flag, typed, says) in [
        ("--from", "x[0]", "has no group \"x\"; its groups are g"),
        ("--to", "G", "did you mean g?"),
        ("--to", "g[2]", "those of g are [0] to [1]"),
    ] {
        let wrong = session.testground(&["network", "trace", id, flag, typed]);
        assert!(wrong.code == Some(2) && wrong.stderr.contains(flag), "{wrong:?}");
        assert!(wrong.stderr.contains(says), "{says}: {wrong:?}");
    }
    let number = |l: &str| serde_json::from_str::<serde_json::Value>(l).ok()?.get("n")?.as_u64();
    done.stdout.lines().filter_map(number).collect()
}

#[test]
fn two_runs_with_one_seed_drop_the_same_packets() {
    let runs: Vec<BTreeSet<u64>> = ["7", "7", "8"]
        .iter()
        .map(|seed| {
            let (session, id) = lossy(seed);
            dropped(&session, &id).into_iter().filter(|&n| n < 150).collect()
        })
        .collect();
    assert!((20..80).contains(&runs[0].len()), "{} of 150 at 30 %", runs[0].len());
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[test]
fn a_running_network_is_shown_with_its_counters() {
    let script = "testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null\n\
                  [ $TEST_INSTANCE_INDEX = 0 ] && for i in 1 2 3; do (exec 3<>/dev/tcp/g-1/9) 2>/dev/null; done\n\
                  echo ready; exec sleep 600";
    let links = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"5ms\"\n";
    let session = Session::with_plan(script, &composition(2, links));
    let mut going = session.start(&[]);
    going.instances_up(2);
    let id = going.run_id();
    let shown = session.testground(&["network", "show", &id, "--json"]);
    let view: serde_json::Value =
        serde_json::from_str(&shown.stdout).unwrap_or_else(|e| panic!("{e}: {shown:?}"));
    let links = view["links"].as_array().expect("links");
    let there = links.iter().any(|l| {
        let text = l.to_string();
        text.contains("g[0]") && text.contains("g[1]")
    });
    assert!(there, "{view:#}");
    let table = session.testground(&["network", "show", &id[..12]]);
    assert!(table.stdout.contains("5ms") && table.stdout.contains("g[0]"), "{table:?}");
    let unknown = session.testground(&["network", "show", "zzz"]);
    assert!(unknown.code != Some(0) && unknown.stderr.contains(&id), "{unknown:?}");
    going.signal(rustix::process::Signal::INT);
    assert_eq!(going.wait().code, Some(130));
}

#[test]
fn a_capture_is_what_tshark_reads() {
    if Command::new("tshark").arg("--version").output().is_err() {
        return skip("capture", "tshark is missing");
    }
    let script = "[ $TEST_INSTANCE_INDEX = 0 ] && (exec 3<>/dev/tcp/g-1/4242) 2>/dev/null\n\
                  testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null";
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&["--capture", "g[1]"]);
    done.assert_success();
    let file = done.outputs().join("g/1/packets.pcapng");
    let output = Command::new("tshark")
        .args(["-n", "-T", "fields", "-e", "tcp.flags.str", "-Y", "tcp.port == 4242", "-r"])
        .arg(&file)
        .output()
        .expect("tshark runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains('S') && text.contains('R'), "a SYN and its reset: {text:?} {output:?}");
    assert!(!done.outputs().join("g/0/packets.pcapng").exists());
}

#[test]
fn a_capture_by_a_group_s_name_is_of_the_whole_group_in_the_runs_that_have_it() {
    let session = Session::with_plan("exit 0", "");
    let runs = "[[runs]]\nid = \"one\"\n[[runs.groups]]\nid = \"g\"\n\
                [[runs]]\nid = \"two\"\n[[runs.groups]]\nid = \"h\"\n";
    let other = format!("[[groups]]\nid = \"h\"\ninstances = {{ count = 1 }}\n{runs}");
    session.write("plan/composition.toml", &composition(2, &other).replace("total_instances = 2\n", ""));
    let wrong =
        [("gg", ""), ("G[0]", "g[0]"), ("h[9]", "h[0]"), ("ALL", "all"), ("g[0],h[0]", ""), ("h[x]", "h[0]")];
    for (typed, near) in wrong {
        for more in [&["--dry-run"][..], &[]] {
            let refused = session.run(&[&["--capture", typed], more].concat());
            assert_eq!(refused.code, Some(2), "{typed}: {refused:?}");
            let said = &refused.stderr;
            assert!(said.contains("there are all, g, g[0], g[1], h, h[0]"), "{typed}: {said}");
            assert!(near.is_empty() || said.contains(&format!("did you mean {near}?")), "{typed}: {said}");
        }
    }
    let none = session.testground(&["runs", "list"]);
    assert!(none.stdout.is_empty(), "nothing was started: {none:?}");

    let done = session.run(&["--capture", "g", "--capture", "g[0]"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let captured =
        |outputs: &std::path::Path, instance: &str| outputs.join(instance).join("packets.pcapng").exists();
    let outputs = done.events.iter().filter_map(|e| match &e.kind {
        EventKind::RunQueued { outputs, .. } => Some(std::path::PathBuf::from(outputs)),
        _ => None,
    });
    let outputs: Vec<_> = outputs.collect();
    assert!(captured(&outputs[0], "g/0") && captured(&outputs[0], "g/1"), "{done:?}");
    assert!(!captured(&outputs[1], "h/0"), "{done:?}");
}

#[test]
fn a_partition_and_its_heal_take_place_on_the_run_s_clock() {
    let script = r#"
testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null
[ $TEST_INSTANCE_INDEX = 0 ] || { testground sync barrier done 1 >/dev/null; exit 0; }
to=$(awk '$2 == "g-1" && $1 ~ /[.]/ { print $1 }' /etc/hosts)
lost=0
for i in $(seq 400); do
  timeout 0.3 bash -c ": </dev/tcp/$to/9" 2>/dev/null
  if [ $? = 124 ]; then lost=$((lost + 1)); elif [ $lost -gt 1 ]; then echo back; break; fi
  sleep 0.05
done
[ $lost -gt 1 ] && echo lost
testground sync signal done >/dev/null"#;
    // On a machine that is busy with something else the first one may not have begun to look that soon.
    let mut done = None;
    for heal in ["2s", "8s", "32s"] {
        let timeline = format!(
            "[[timeline]]\nat = \"500ms\"\naction = \"partition\"\nfrom = \"g[0]\"\nto = \"g[1]\"\n\
             [[timeline]]\nat = \"{heal}\"\naction = \"heal\"\nfrom = \"g[0]\"\nto = \"g[1]\"\n"
        );
        let run = Session::with_plan(script, &composition(2, &timeline)).run(&[]);
        run.assert_success();
        let seen = !run.lines().is_empty();
        done = Some(run);
        if seen {
            break;
        }
    }
    let done = done.expect("a run");
    assert_eq!(done.lines(), ["back", "lost"], "{done:?}");
    let changes = done.events.iter().filter_map(|e| match &e.kind {
        EventKind::NetworkChanged { change, .. } => Some(change.clone()),
        _ => None,
    });
    let changes: Vec<String> = changes.collect();
    assert!(
        changes.len() == 2 && changes[0].contains("partition") && changes[1].contains("heal"),
        "{changes:?}"
    );
}

#[test]
fn a_change_that_the_run_ended_before_is_said() {
    let timeline = "[[timeline]]\nat = \"0s\"\naction = \"set\"\nfrom = \"g\"\nto = \"g\"\nlatency = \"1ms\"\n\
                    [[timeline]]\nat = \"20m\"\naction = \"partition\"\nfrom = \"g[0]\"\nto = \"g[1]\"\n\
                    [global.run_config]\ntimeout = \"60s\"\n";
    // The first change is told of when the clock starts.
    let done = Session::with_plan("sleep 1", &composition(2, timeline)).run(&[]);
    done.assert_success();
    assert!(done.stderr.contains("this never takes place: the run ends at its timeout of 1m"), "{done:?}");
    let said: Vec<&String> = done
        .events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::Warning { message } if message.contains("ended before") => Some(message),
            _ => None,
        })
        .collect();
    let wanted = "the run ended before 1 of its 2 changes of the network: partition g[0] <-> g[1] (at 20m)";
    assert_eq!(said, [wanted]);
    let summary = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(summary.contains(&format!("warning {wanted}")), "{done:?}");
}

//! What programs of others see of the links, beside what the run says of them; and what it says when it can't be relied on.

use std::collections::BTreeSet;
use std::process::Command;

use testground_model::event::{EventKind, Proof};
use testground_model::outcome::{EmulatorLate, RunOutcome};

use crate::support::{Done, Session, composition, measured, skip};

/// The proof of the only link.
pub(crate) fn proof(done: &Done) -> Proof {
    let proof = done.events.iter().find_map(|e| match &e.kind {
        EventKind::ShapeProved(proof) => Some(proof.clone()),
        _ => None,
    });
    proof.unwrap_or_else(|| panic!("nothing was proved: {done:?}"))
}

/// The number behind `name=` in what instances said.
pub(crate) fn figure(done: &Done, name: &str) -> f64 {
    let lines = done.lines();
    let mut words = lines.iter().flat_map(|line| line.split_whitespace());
    let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    found.unwrap_or_else(|| panic!("nobody said {name}: {done:?}"))
}

/// Whether a machine that is busy with something else spoiled a measurement, as far as the run knows.
fn emulator_late(done: &Done) -> Option<EmulatorLate> {
    done.events.iter().rev().find_map(|e| match &e.kind {
        EventKind::RunFinished { emulator_late, .. } => Some(*emulator_late),
        _ => None,
    })?
}

/// Asserts that measurements of others agree with those of a run.
pub(crate) fn agree(run: impl Fn() -> Done, off: impl Fn(&Done) -> Vec<String>) {
    measured(|| {
        let done = run();
        if done.outcome() != RunOutcome::Success {
            return Err(format!("{done:?}"));
        }
        let off = off(&done);
        if off.is_empty() { Ok(()) } else { Err(format!("{off:#?}, {:?}", emulator_late(&done))) }
    });
}

#[test]
fn iperf3_and_ping_see_what_the_report_says() {
    for program in ["iperf3", "ping"] {
        if Command::new(program).arg("--version").output().is_err()
            && Command::new(program).arg("-V").output().is_err()
        {
            return skip("iperf3_and_ping_see_what_the_report_says", &format!("{program} is missing"));
        }
    }
    let script = r#"
to=$(awk '$2 == "g-1" && $1 ~ /[.]/ { print $1 }' /etc/hosts)
if [ $TEST_INSTANCE_INDEX = 1 ]; then
  iperf3 -s >/dev/null &
  # 5201, listening.
  until grep -q ':1451 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.05; done
  testground sync signal up >/dev/null
  testground sync barrier done 1 >/dev/null; kill $!; exit 0
fi
testground sync barrier up 1 >/dev/null
echo rtt_ms=$(ping -n -c 20 -i 0.2 $to | sed -n 's/^rtt.*= [0-9.]*\/\([0-9.]*\)\/.*/\1/p')
iperf3 -J -c $to -t 3 -O 1 >report.json
echo goodput=$(jq .end.sum_received.bits_per_second report.json)
testground sync signal done >/dev/null"#;
    let links = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"15ms\"\nbandwidth = \"20Mbit/s\"\n";
    let session = Session::with_plan(script, &composition(2, links));
    let off = |done: &Done| {
        let proof = proof(done);
        let mut off = Vec::new();
        let (asked, rtt) =
            (proof.round_trip_p50.map_or(0.0, |d| d.as_secs_f64() * 1e3), figure(done, "rtt_ms"));
        if (rtt - asked).abs() > 2.0 {
            off.push(format!("ping: {rtt} ms, the report: {asked} ms"));
        }
        // Of a stream with time stamps 1,448 of 1,514 bytes are payload.
        let (rate, goodput) = (proof.rate.unwrap_or(0.0), figure(done, "goodput") / 1448.0 * 1514.0);
        if (goodput / rate - 1.0).abs() > 0.05 {
            off.push(format!("iperf3: {goodput} bit/s on the wire, the report: {rate}"));
        }
        off
    };
    agree(|| session.run(&[]), off);
}

#[test]
fn a_trace_lets_packets_leave_at_its_opportunities_only() {
    let script = r#"
[ $TEST_INSTANCE_INDEX = 0 ] || { testground sync barrier done 1; exit 0; }
to=$(awk '$2 == "g-1" && $1 ~ /[.]/ { print $1 }' /etc/hosts)
exec 3<>/dev/udp/$to/4000
for i in $(seq 40); do echo $i >&3; sleep 0.02; done 2>/dev/null
sleep 0.2
testground sync signal done"#;
    // An opportunity each 70 ms: of the packets of each 70 ms all leave at once, for 1,504 bytes are more than they need.
    let timeline = "[[timeline]]\nat = \"0s\"\naction = \"trace\"\nfrom = \"g[0]\"\nto = \"g[1]\"\nfile = \"cell.trace\"\n";
    let session = Session::with_plan(script, &composition(2, timeline));
    session.write("plan/cell.trace", "70\n");
    let done = session.run(&["--record"]);
    done.assert_success();
    let proof = proof(&done);
    let replayed = proof.replayed.unwrap_or_else(|| panic!("{proof:?}"));
    // Packets of 1,514 bytes, one each 70 ms.
    assert!((replayed.rate / (1514.0 * 8.0 / 0.07) - 1.0).abs() < 0.01, "{replayed:?}");
    assert!(done.stdout.contains("the bandwidth follows a trace"), "{done:?}");
    let id = done.events[0].run.to_string();
    let trace = session.testground(&["network", "trace", &id, "--from", "g[0]", "--to", "g[1]"]);
    let due = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("due")?.as_u64();
    let moments: BTreeSet<u64> = trace.stdout.lines().filter_map(due).collect();
    let first = *moments.first().unwrap_or_else(|| panic!("nothing left: {trace:?}"));
    assert!(moments.len() >= 5, "{moments:?}");
    assert!(moments.iter().all(|at| (at - first).is_multiple_of(70_000_000)), "{moments:?}");
}

#[test]
fn a_late_emulator_is_said_by_the_outcome_and_fails_a_run_that_asks_for_it() {
    let script = "[ $TEST_INSTANCE_INDEX = 0 ] && (exec 3<>/dev/tcp/g-1/9) 2>/dev/null\n\
                  testground sync signal up >/dev/null; testground sync barrier up 2 >/dev/null";
    // Nothing leaves in no time at all.
    let more = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"5ms\"\n\
                [global.run_config.proof]\nenabled = false\ndelay = \"0s\"\n";
    let session = Session::with_plan(script, &composition(2, more));
    let done = session.run(&["--junit", "junit.xml", "--result-file", "results.csv"]);
    done.assert_success();
    let late = emulator_late(&done).unwrap_or_else(|| panic!("{done:?}"));
    assert!(late.late_p99_us > 0.0 && late.tolerated_us == 0.0);
    assert!(done.stdout.contains("run finished with outcome = success (g:2/2), emulator late: "), "{done:?}");
    assert!(done.stdout.contains("(emulator late: "), "{done:?}");
    let read = |name: &str| std::fs::read_to_string(session.path().join(name)).expect("a file");
    assert!(read("junit.xml").contains("<skipped message=\"emulator late: "), "{}", read("junit.xml"));
    assert!(read("results.csv").contains(",success,emulator late: "), "{}", read("results.csv"));

    let done = session.run(&["--late-fails"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.cause().starts_with("emulator late: "), "{done:?}");
    let shown = session.testground(&["runs", "show"]);
    assert_eq!(shown.stdout.matches("emulator late: ").count(), 1, "{shown:?}");
}

#[test]
fn an_interrupt_ends_a_proof_at_once() {
    // Its proof takes about eight seconds.
    let links = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"1900ms\"\n";
    let session = Session::with_plan("exit 0", &composition(2, links));
    let mut going = session.start(&[]);
    going.until("the network is up", |e| match e {
        EventKind::NetworkProgress { attached, total } if attached == total => Some(()),
        _ => None,
    });
    going.signal(rustix::process::Signal::INT);
    let done = going.wait();
    assert_eq!(done.code, Some(130), "{done:?}");
    assert!(!done.events.iter().any(|e| matches!(e.kind, EventKind::ShapeProved(_))), "{done:?}");
}

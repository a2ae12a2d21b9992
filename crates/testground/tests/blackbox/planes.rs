//! Who moves the packets: what the kernel's plane can't do is refused by name, what was left open falls to the switch, and
//! both planes give one composition the same report.

use std::collections::{BTreeMap, BTreeSet};

use testground_model::event::{EventKind, Late, Proof};

use crate::support::{Done, SHELL_MANIFEST, Session, composition};

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

/// Two clients, a server, and one behind a wall: what each of them sees of the links, as lines and as measurements.
const EVERYBODY: &str = r#"
address() { awk -v name="$1" '$2 == name && $1 ~ /[.]/ { print $1 }' /etc/hosts; }
round_trips() { # NAME, ADDRESS
  ping -n -c 10 -i 0.1 "$2" | sed -n 's/.*time=\([0-9.]*\) ms/\1/p' | while read -r ms; do
    printf '{"ts":%s000,"type":"point","name":"%s","measures":{"value":%s}}\n' "${EPOCHREALTIME/./}" "$1" "$ms"
  done >>"$TEST_OUTPUTS_PATH/results.out"
}
connect() { timeout "$2" bash -c ": </dev/tcp/$1/9" 2>/dev/null; [ $? = 124 ] && echo "$3: silence" || echo "$3: an answer at once"; }
case $(hostname) in
clients-0)
  round_trips declared "$(address server-0)"
  connect "$(address walled-0)" 10 "to the wall"
  testground sync network $ASK >/dev/null || exit 1
  round_trips asked "$(address server-0)" ;;
clients-1)
  # Until the partition is over.
  lost=0
  while read -r line; do
    case $line in
    *"no answer"*) lost=$((lost + 1)) ;;
    *time=*) [ $lost -gt 2 ] && echo "cut and healed" && break ;;
    esac
  done < <(ping -n -O -i 0.1 -w 15 "$(address server-0)") ;;
walled-0) connect "$(address clients-0)" 1 "from the wall" ;;
esac
testground sync signal-and-wait done 4 >/dev/null"#;

/// Their composition, of all kinds of settings, or of those that do without netem.
fn everybody(netem: bool) -> String {
    let (late, lossy, later) = if netem {
        ("latency = \"20ms\"\n", "latency = \"3ms\"\nloss = \"20%\"\n", "latency = \"35ms\"\n")
    } else {
        ("", "bandwidth = \"2Mbit/s\"\n", "bandwidth = \"5Mbit/s\"\n")
    };
    let mut text =
        "[global]\nplan = \"plan\"\ncase = \"case\"\nbuilder = \"exec:generic\"\nrunner = \"local:exec\"\n"
            .to_owned();
    for (group, count) in [("clients", 2), ("server", 1), ("walled", 1)] {
        text += &format!("[[groups]]\nid = \"{group}\"\ninstances = {{ count = {count} }}\n");
    }
    let mut link = |from: &str, to: &str, more: &str| {
        text += &format!("[[links]]\nfrom = \"{from}\"\nto = \"{to}\"\n{more}");
    };
    link("clients", "server", &format!("both = true\nbandwidth = \"10Mbit/s\"\n{late}"));
    link("server", "walled", lossy);
    link("clients", "walled", "filter = \"reject\"\n");
    link("walled", "clients", "filter = \"drop\"\n");
    let mut change = |at: &str, action: &str, from: &str, to: &str, more: &str| {
        text += &format!(
            "[[timeline]]\nat = \"{at}\"\naction = \"{action}\"\nfrom = \"{from}\"\nto = \"{to}\"\n{more}"
        );
    };
    change("1500ms", "partition", "clients[1]", "server", "");
    change("2500ms", "heal", "clients[1]", "server", "");
    change("2s", "set", "server", "walled", later);
    text
}

/// What must be the same on both planes, whoever is late.
#[derive(Debug, PartialEq)]
struct Same {
    code: Option<i32>,
    outcome: String,
    groups: Vec<String>,
    ends: BTreeMap<String, String>,
    /// Where each shape is in force, what was asked for, and what of it was measured.
    shapes: BTreeSet<(String, String, [bool; 4])>,
    changes: Vec<String>,
    configured: BTreeSet<String>,
    series: Vec<(String, u64)>,
    lines: Vec<String>,
    warnings: Vec<String>,
}

// === impl Same ===

impl Same {
    fn of(done: &Done) -> Same {
        let mut same = Same {
            code: done.code,
            outcome: format!("{:?}", done.outcome()),
            groups: Vec::new(),
            ends: BTreeMap::new(),
            shapes: BTreeSet::new(),
            changes: Vec::new(),
            configured: BTreeSet::new(),
            series: Vec::new(),
            lines: done.lines(),
            warnings: done.warnings(),
        };
        same.lines.sort();
        for event in &done.events {
            match &event.kind {
                EventKind::RunFinished { groups, .. } => {
                    same.groups = groups.iter().map(|group| format!("{group:?}")).collect();
                }
                EventKind::InstanceEnded { instance, end, .. } => {
                    same.ends.insert(instance.to_string(), end.to_string());
                }
                EventKind::ShapeProved(Proof {
                    label,
                    asked,
                    delay_p50,
                    round_trip_p50,
                    rate,
                    probes,
                    off,
                    ..
                }) => {
                    assert!(off.is_empty(), "{off:?}");
                    let measured =
                        [delay_p50.is_some(), round_trip_p50.is_some(), rate.is_some(), *probes > 0];
                    same.shapes.insert((label.clone(), format!("{asked:?}"), measured));
                }
                EventKind::NetworkChanged { change, .. } => same.changes.push(change.clone()),
                EventKind::NetworkConfigured { instance, network, .. } => {
                    same.configured.insert(format!("{instance} {network}"));
                }
                EventKind::Measured(measured) => {
                    let rows = measured.rows.iter();
                    same.series = rows.map(|row| (format!("{:?}", row.series), row.count)).collect();
                }
                _ => {}
            }
        }
        same
    }
}

/// What was measured, by what it is: the value, and how far the two planes may be apart (docs/planes.md, Bounds).
fn measured(done: &Done) -> BTreeMap<String, (f64, f64)> {
    let mut found = BTreeMap::new();
    // Either plane may be off by so much.
    let delay = |ms: f64| (ms, 2.0 * f64::max(0.6, 0.03 * ms));
    for event in &done.events {
        match &event.kind {
            EventKind::ShapeProved(proof) => {
                let what = |name: &str| format!("{name} of {} at {:?}", proof.label, proof.asked);
                let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
                let mut note = |name, value: Option<(f64, f64)>| {
                    value.map(|value| found.insert(what(name), value));
                };
                note("delay", proof.delay_p50.map(|time| delay(ms(time))));
                // Two shapes there and back, and two programs, which in a guest share one processor.
                let there_and_back = |(ms, within): (f64, f64)| (ms, 2.0 * within + 2.0);
                note("round trip", proof.round_trip_p50.map(|time| there_and_back(delay(ms(time)))));
                note("rate", proof.rate.map(|rate| (rate, 2.0 * 0.03 * rate)));
                // Four standard deviations of the difference of two samples of a fifth; none of nothing, and of all.
                let share = proof.loss_percent;
                let chance = if matches!(share, 0.0 | 100.0) {
                    0.0
                } else {
                    4.0 * (2.0 * 20.0 * 80.0 / f64::from(proof.probes)).sqrt()
                };
                note("loss", Some((share, chance)));
            }
            EventKind::NetworkChanged { change, at } => {
                found.insert(format!("time of {change}"), (*at, 0.5));
            }
            EventKind::Measured(measured) => {
                for row in &measured.rows {
                    // Two shapes there and back, and two programs of a busy machine.
                    let (value, within) = delay(row.min);
                    found.insert(format!("{:?}", row.series), (value, 2.0 * within));
                }
            }
            _ => {}
        }
    }
    found
}

/// How late the emulator was, as the run's record says: none where nobody knows.
fn lateness(done: &Done) -> Option<Late> {
    let found = done.events.iter().find_map(|e| match &e.kind {
        EventKind::EmulatorReport(record) => Some((record.packets, record.late)),
        _ => None,
    });
    let (packets, late) = found.unwrap_or_else(|| panic!("the emulator said nothing: {done:?}"));
    assert!(packets > 0, "{done:?}");
    late
}

/// Where the switch's record of the whole composition lies: kept by the test on a kernel without netem, and read by the one in
/// a guest that has it. A guest has no time for a switch.
const RECORD: &str = "TESTGROUND_TEST_RECORD";

/// One composition on both planes: on a kernel without netem what HTB can do alone, in a guest that has it all of it.
#[test]
fn both_planes_give_one_composition_the_same_report() {
    let plan = |netem: bool| {
        let session = Session::new();
        let late = if netem { " --latency 10ms" } else { "" };
        session.write("plan/manifest.toml", SHELL_MANIFEST);
        session.write("plan/composition.toml", &everybody(netem));
        session.script("plan/plan.sh", &format!("ASK='--bandwidth 4Mbit/s{late}'\n{EVERYBODY}"));
        session
    };
    let on_switch = |session: &Session| session.run(&["--plane", "switch"]);
    let on_kernel = |session: &Session| session.run(&["--plane", "kernel"]);
    let whole = plan(true);
    let first = on_kernel(&whole);
    let record = std::env::var_os(RECORD).map(std::path::PathBuf::from);
    if first.outcome().cause().is_some_and(|cause| cause.contains("sch_netem")) {
        let lesser = plan(false);
        assert_same(|| on_switch(&lesser), || on_kernel(&lesser));
        if let Some(record) = record {
            let done = crate::support::measured(|| {
                let done = on_switch(&whole);
                busy(&done).map_or(Ok(done), Err)
            });
            std::fs::write(record, serde_json::to_vec(&(&done.stdout, &done.events)).expect("JSON"))
                .expect("a file");
        }
        return;
    }
    let mut first = Some(first);
    let by_switch = || match &record {
        Some(record) => {
            let (stdout, events) =
                serde_json::from_slice(&std::fs::read(record).expect("a record")).expect("JSON");
            Done { code: Some(0), stdout, stderr: String::new(), events }
        }
        None => on_switch(&whole),
    };
    assert_same(by_switch, || first.take().unwrap_or_else(|| on_kernel(&whole)));
}

/// Whether the machine had no time to measure a shape, as the run itself says.
fn busy(done: &Done) -> Option<String> {
    done.warnings().into_iter().find(|said| said.contains("too busy to prove"))
}

/// Asserts that two runs of one composition say the same. A machine that is busy with something else spoils a measurement, not
/// every one: what is only too far apart is measured again.
fn assert_same(by_switch: impl Fn() -> Done, mut by_kernel: impl FnMut() -> Done) {
    crate::support::measured(|| {
        let (by_switch, by_kernel) = (by_switch(), by_kernel());
        if let Some(said) = busy(&by_switch).or_else(|| busy(&by_kernel)) {
            return Err(said);
        }
        by_kernel.assert_success();
        let (one, other) = (Same::of(&by_switch), Same::of(&by_kernel));
        // Who begins late finds the partition over.
        let said = ["cut and healed", "from the wall: silence", "to the wall: an answer at once"];
        if one.lines != said || other.lines != said {
            return Err(format!("{by_switch:?}{by_kernel:?}"));
        }
        assert_eq!(one, other);
        // What the partition leads to is proved too.
        assert_eq!((one.changes.len(), one.series.len(), one.shapes.len()), (3, 2, 6), "{one:?}");
        assert!(lateness(&by_switch).is_some() && lateness(&by_kernel).is_none());
        let unknown = "is unknown on this plane";
        assert!(by_kernel.stdout.contains(unknown) && !by_switch.stdout.contains(unknown), "{by_kernel:?}");

        let (one, other) = (measured(&by_switch), measured(&by_kernel));
        assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
        let both = one.iter().zip(other.values());
        let both = both.map(|((what, (one, within)), (other, _))| (what, one, other, within));
        let off = both.filter(|(_, one, other, within)| (*one - *other).abs() > **within);
        let apart: Vec<String> = off
            .map(|(what, one, other, within)| format!("{what}: {one}, {other}, not within {within}"))
            .collect();
        if apart.is_empty() { Ok(()) } else { Err(format!("{apart:#?}")) }
    });
}

//! Instances that don't behave.

use testground_model::outcome::InstanceEnd;

use crate::support::{Session, composition, processes_marked, until};

#[test]
fn lines_of_any_length_and_any_bytes_are_kept() {
    let script = r#"head -c 3000000 /dev/zero | tr '\0' x; echo; printf '\xff\xfe\x00binary\n'; echo last"#;
    let session = Session::with_plan(script, &composition(1, ""));
    let done = session.run(&[]);
    done.assert_success();
    let kept = std::fs::read(done.outputs().join("g/0/stdout.log")).unwrap();
    assert_eq!(kept.len(), 3_000_000 + 1 + 10 + 5);
    assert!(kept.ends_with(b"\xff\xfe\x00binary\nlast\n"));
    assert_eq!(done.lines().last().map(String::as_str), Some("last"));
}

#[test]
fn a_flood_is_bounded_on_disk_and_in_the_record() {
    let config = "[global.run_config]\nmax_output = \"1MiB\"\n";
    let script = "timeout 3 yes 'all work and no play' ; echo the end >&2; exit 0";
    let session = Session::with_plan(script, &format!("{config}{}", composition(1, "")));
    let done = session.run(&[]);
    done.assert_success();
    let kept = std::fs::metadata(done.outputs().join("g/0/stdout.log")).unwrap().len();
    assert_eq!(kept, 1 << 20);
    assert!(done.events.len() < 5000, "{} events", done.events.len());
    assert!(done.warnings().iter().any(|w| w.contains("more lines")), "{done:?}");
    assert!(done.warnings().iter().any(|w| w.contains("max_output")), "{done:?}");
}

#[test]
fn daemons_that_it_forks_end_with_it() {
    let script = "setsid sleep 987 & (trap '' TERM HUP; setsid sleep 988 &) ; echo gone";
    let session = Session::with_plan(script, &composition(1, ""));
    let done = session.run(&[]);
    done.assert_success();
    assert!(processes_marked(session.path()).is_empty());
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_grace() {
    let config = "[global.run_config]\ngrace = \"300ms\"\n";
    let script = "trap '' TERM INT HUP; [ $TEST_INSTANCE_INDEX = 0 ] && { sleep 0.3; exit 9; }; while :; do sleep 1; done";
    let session = Session::with_plan(script, &format!("{config}{}", composition(2, "")));
    let done = session.run(&[]);
    assert_eq!(done.end("g", 0), InstanceEnd::ExitCode { code: 9 });
    assert_eq!(done.end("g", 1), InstanceEnd::Stopped);
    assert!(processes_marked(session.path()).is_empty());
}

#[test]
fn one_that_closes_its_streams_or_ends_at_once_is_judged_all_the_same() {
    let script = "[ $TEST_INSTANCE_INDEX = 0 ] && exit 0; exec >&- 2>&-; sleep 0.3; exit 4";
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&["--keep-going"]);
    assert_eq!(done.end("g", 0), InstanceEnd::Succeeded);
    assert_eq!(done.end("g", 1), InstanceEnd::ExitCode { code: 4 });
}

#[test]
fn it_has_no_power_over_the_machine_or_its_own_network() {
    let before = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    let script = r#"
try() { if "$@" >/dev/null 2>&1; then echo "DID: $*"; else echo "could not: $1"; fi; }
put() { echo 1 > "$1"; }
try put /proc/sys/kernel/panic
try put /proc/sys/net/ipv4/ip_forward
try put /proc/sysrq-trigger
try put /sys/kernel/mm/ksm/run
try ip link set data down
try ip addr add 16.0.9.9/16 dev data
try ip route add blackhole 1.2.3.4
try mount -t tmpfs none /mnt
try mount -o remount,rw /proc/sys
try umount /proc/sys
try mknod /tmp/sda b 8 0
try hostname other
for d in /dev/sd* /dev/vd* /dev/nvme* /dev/mem /dev/kmsg /dev/net/tun; do [ -e $d ] && echo "SEES: $d"; done
echo finished"#;
    let session = Session::with_plan(script, &composition(1, ""));
    let done = session.run(&[]);
    done.assert_success();
    let bad: Vec<String> =
        done.lines().into_iter().filter(|l| l.starts_with("DID") || l.starts_with("SEES")).collect();
    assert!(bad.is_empty(), "{bad:?}\n{done:?}");
    assert_eq!(done.lines().iter().filter(|l| l.starts_with("could not")).count(), 12, "{done:?}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), before);
}

#[test]
fn each_sees_its_own_processes_and_interfaces_only() {
    let script = "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; ls /sys/class/net; hostname 2>/dev/null; testground sync signal x >/dev/null; testground sync barrier x 2 >/dev/null";
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    let text = done.lines().join(" ");
    for interface in ["control", "data", "lo"] {
        assert_eq!(text.matches(interface).count(), 2, "{interface}: {text}");
    }
    let counts: Vec<u32> = done.lines().iter().filter_map(|l| l.parse().ok()).collect();
    assert!(counts.iter().all(|&n| n < 10), "{counts:?}");
}

#[test]
fn malformed_and_oversized_frames_hurt_nobody_else() {
    let script = r#"
if [ $TEST_INSTANCE_INDEX = 0 ]; then
  for junk in 'GET / HTTP/9.9' 'not http at all' "$(head -c 100000 /dev/zero | tr '\0' A)"; do
    exec 3<>/dev/tcp/testground-sync-service/5050 && printf '%s\r\n\r\n' "$junk" >&3; exec 3>&-
  done
  testground sync publish t "\"$(head -c 60000 /dev/zero | tr '\0' B)\"" 2>&1 | head -c 300
fi
testground sync signal up >/dev/null; testground sync barrier up 2; echo through $?"#;
    let session = Session::with_plan(script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    assert_eq!(done.lines().iter().filter(|l| *l == "through 0").count(), 2, "{done:?}");
}

#[test]
fn a_command_runs_inside_a_running_instance() {
    let session = Session::with_plan("echo up; exec sleep 600", &composition(2, ""));
    let mut going = session.start(&[]);
    going.instances_up(2);
    let run = going.run_id();
    let done = session.testground(&[
        "exec",
        &run,
        "g[1]",
        "--",
        "bash",
        "-c",
        "echo $TEST_INSTANCE_INDEX $(cat /proc/sys/kernel/hostname); exit 5",
    ]);
    assert_eq!((done.stdout.trim(), done.code), ("1 g-1", Some(5)), "{done:?}");
    let missing = session.testground(&["exec", &run, "g[7]", "--", "true"]);
    assert!(missing.code != Some(0) && missing.stderr.contains("g[7]"), "{missing:?}");
    going.signal(rustix::process::Signal::INT);
    assert_eq!(going.wait().code, Some(130));
}

#[test]
fn a_failed_run_s_lab_stays_when_told_to() {
    let session = Session::with_plan("echo up; exit 3", &composition(1, ""));
    let mut going = session.start(&["--hold"]);
    let lab = going.lab();
    going
        .until("the lab is held", |e| matches!(e, testground_model::event::EventKind::LabHeld).then_some(()));
    let run = going.run_id();
    let done = session.testground(&["exec", &run, "g[0]", "--", "cat", "/proc/sys/kernel/hostname"]);
    assert_eq!(done.stdout.trim(), "g-0", "{done:?}");
    going.signal(rustix::process::Signal::INT);
    let marker = session.path().to_owned();
    let done = going.wait();
    assert_eq!(done.code, Some(1), "{done:?}");
    until("the lab is gone", || {
        (!crate::support::is_alive(lab) && processes_marked(&marker).is_empty()).then_some(())
    });
}

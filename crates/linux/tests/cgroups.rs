//! Limits in force: what the kernel does to a process that reaches its limit of memory or of processor time, and what is left of
//! a run's cgroups. On this machine's version, and on version 2 in a guest.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testground_linux::cgroup::{self, Controller, Limits, Room};
use testground_linux::process::{self, ExitStatus, Namespaces, SpawnExec};

/// What the re-executed binary is to do, and in which room.
const STAGE: &str = "TESTGROUND_LINUX_CGROUP";
const FIRST: i32 = 5;

/// A room for a test, or none where this machine has no cgroups for it.
fn room(test: &str, wanted: &[Controller]) -> Option<(String, Room)> {
    let id = format!("{test}-{}", std::process::id());
    let (room, lacks) = Room::make(&id, wanted);
    if let Some(lack) = lacks.first() {
        let reason = lack.reason.clone();
        if let Some(room) = room {
            room.remove(Duration::ZERO).unwrap();
        }
        common::skip(test, &format!("{}: {reason}", lack.controller));
        return None;
    }
    Some((id, room.expect("nothing is lacking")))
}

/// Starts this test again in a child that gets the room's descriptors, as lab init does.
fn child(test: &str, id: &str, room: &Room) -> ExitStatus {
    let mut spawn =
        SpawnExec::new("/proc/self/exe").args([test, "--exact", "--nocapture", "--test-threads=1"]);
    spawn.env = std::env::vars_os().collect();
    spawn.env.push((STAGE.into(), id.into()));
    for (number, fd) in (FIRST..).zip(room.fds().unwrap()) {
        spawn = spawn.fd(fd, number);
    }
    process::spawn_exec(Namespaces::NONE, spawn).unwrap().wait().unwrap()
}

/// In the child: the room of its parent, entered.
fn inside() -> bool {
    let Ok(id) = std::env::var(STAGE) else { return false };
    let fds = (FIRST..).map_while(|number| process::inherited(number).ok()).collect();
    Room::from_fds(&id, fds).expect("descriptors").enter("instance-a-0").unwrap();
    true
}

/// The number behind a word in a file of the instance's cgroup, in whichever hierarchy has it.
fn figure(room: &Room, file: &str, word: &str) -> u64 {
    let texts = room
        .paths()
        .into_iter()
        .filter_map(|path| fs::read_to_string(path.join("instance-a-0").join(file)).ok());
    let found = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    let mut found = found.filter_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    found.next().unwrap_or_else(|| panic!("{file} has no {word}"))
}

#[test]
fn a_process_that_reaches_its_memory_is_killed_and_counted() {
    let test = "a_process_that_reaches_its_memory_is_killed_and_counted";
    if inside() {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for _ in 0..200 {
            all.push(vec![1; 1 << 20]);
        }
        panic!("{} MiB were to be had", all.len());
    }
    let Some((id, room)) = room(test, &[Controller::Memory]) else { return };
    room.add("instance-a-0", &Limits { memory: Some(32 << 20), cpu_millis: None }).unwrap();
    assert_eq!(room.oom_kills("instance-a-0"), 0);
    let status = child(test, &id, &room);
    assert!(matches!(status, ExitStatus::Signaled { signal: 9, .. }), "{status}");
    assert_eq!(room.oom_kills("instance-a-0"), 1);
    let paths = room.paths();
    room.remove(Duration::from_secs(5)).unwrap();
    assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
}

#[test]
fn a_process_gets_no_more_than_its_share_of_a_processor() {
    let test = "a_process_gets_no_more_than_its_share_of_a_processor";
    if inside() {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            std::hint::spin_loop();
        }
        return;
    }
    let Some((id, room)) = room(test, &[Controller::Cpu]) else { return };
    room.add("instance-a-0", &Limits { memory: None, cpu_millis: Some(100) }).unwrap();
    let status = child(test, &id, &room);
    assert_eq!(status, ExitStatus::Exited(0));
    // A second of spinning is ten periods; it has to be stopped in each but for those in which it got no processor at all.
    let (throttled, periods) =
        (figure(&room, "cpu.stat", "nr_throttled "), figure(&room, "cpu.stat", "nr_periods "));
    assert!(throttled >= 1 && throttled <= periods, "throttled in {throttled} of {periods} periods");
    room.remove(Duration::from_secs(5)).unwrap();
}

#[test]
fn what_a_dead_run_leaves_is_found_and_what_a_living_one_has_is_not() {
    let test = "what_a_dead_run_leaves_is_found_and_what_a_living_one_has_is_not";
    // Runs of others on this machine sweep as well when they start: what one of them took shows nothing, and is tried again.
    let found = (0..20).any(|_| {
        let Some((id, room)) = room(test, &[Controller::Memory]) else { return true };
        is_found_when_dead(&id, room)
    });
    assert!(found, "what a dead run leaves was never found");
}

/// Whether it was found; somebody else may have swept it away before.
fn is_found_when_dead(id: &str, room: Room) -> bool {
    room.add("instance-a-0", &Limits { memory: Some(1 << 20), cpu_millis: None }).unwrap();
    let paths: Vec<PathBuf> = room.paths();
    let of_ours = || {
        cgroup::find()
            .into_iter()
            .filter(|path| path.ends_with(format!("testground-run-{id}")))
            .collect::<Vec<_>>()
    };
    assert!(!paths.is_empty() && paths.iter().all(|path| path.join("instance-a-0").is_dir()), "{paths:?}");
    assert_eq!(of_ours(), Vec::<PathBuf>::new(), "it lives");
    assert!(cgroup::remove(&paths[0]).unwrap_err().to_string().contains("failed to remove"));
    assert!(paths[0].is_dir());
    // A copy of the descriptor, as lab init has one, keeps it alive.
    let copies = room.fds().unwrap();
    drop(room);
    assert_eq!(of_ours(), Vec::<PathBuf>::new(), "somebody has it open");
    drop(copies);
    let found = of_ours();
    for path in &paths {
        cgroup::remove(path).unwrap();
    }
    assert!(of_ours().is_empty() && paths.iter().all(|path| !path.exists()));
    found == paths
}

/// The same tests where version 2 is mounted: a guest's kernel (`tests/uml`).
#[test]
fn the_same_in_a_guest_with_version_2() {
    in_guest("the_same_in_a_guest_with_version_2", "exec env");
}

/// An ordinary user whose part of version 2 was given to them, as a service manager does it.
#[test]
fn the_same_in_a_guest_as_a_user_with_a_part_of_version_2() {
    let prelude = "set -e; cd /sys/fs/cgroup; echo '+memory +cpu' > cgroup.subtree_control; mkdir user user/own; \
        chown 65534:65534 user user/own user/cgroup.procs user/cgroup.subtree_control user/own/cgroup.procs; \
        echo $$ > user/own/cgroup.procs; cd /; exec setpriv --reuid 65534 --regid 65534 --clear-groups env";
    in_guest("the_same_in_a_guest_as_a_user_with_a_part_of_version_2", prelude);
}

fn in_guest(name: &str, prelude: &str) {
    let tests = [
        "a_process_that_reaches_its_memory_is_killed_and_counted",
        "a_process_gets_no_more_than_its_share_of_a_processor",
        "what_a_dead_run_leaves_is_found_and_what_a_living_one_has_is_not",
    ];
    common::in_guest(name, &format!("{prelude} TESTGROUND_TEST_REQUIRE=all"), &tests);
}

//! What needs a process with a single thread, as lab init is one: running code in a fork, reaping orphans, giving up power,
//! entering another process's namespaces. The harness of usual tests has threads, so this has a main of its own.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use testground_linux::caps::{self, CapabilitySet};
use testground_linux::process::{
    self, ExitStatus, IdMap, Namespaces, Reaped, SpawnExec, fork_child, spawn_exec,
};
use testground_linux::route::{Change, LinkChange, RouteSocket};
use testground_linux::{Errno, mount, netns};

const STAGE: &str = "TESTGROUND_LINUX_SINGLE";
const NOBODY: u32 = 65534;

/// The tests that run inside a lab, each by itself.
const INSIDE: [(&str, fn()); 5] = [
    ("a_closure_runs_in_the_child", a_closure_runs_in_the_child),
    ("orphans_are_reaped", orphans_are_reaped),
    ("power_that_was_given_up_is_gone", power_that_was_given_up_is_gone),
    ("another_process_is_entered", another_process_is_entered),
    ("the_mounts_of_an_instance", the_mounts_of_an_instance),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    match std::env::var(STAGE).as_deref() {
        Err(_) => outside(arguments.iter().find(|argument| !argument.starts_with('-'))),
        Ok("user") => start_lab(&arguments[0]),
        Ok("granted device") => granted_device(),
        Ok("granted") => granted(),
        Ok(_) => {
            mount::make_private(Path::new("/")).unwrap();
            mount::proc(Path::new("/proc")).unwrap();
            let (_, test) = INSIDE.iter().find(|(name, _)| *name == arguments[0]).expect("one of them");
            test();
        }
    }
}

fn outside(filter: Option<&String>) {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter.as_str()));
    let namespaces = Command::new("unshare").args(["-Ur", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        return common::skip("single", "no user namespaces here");
    }
    let root = process::ids().0 == 0;
    for (name, _) in INSIDE.iter().filter(|(name, _)| wanted(name)) {
        start_lab(name);
        println!("test {name} ... ok");
        if !root {
            common::skip(&format!("{name} as another user"), "only root can become one");
            continue;
        }
        let status =
            Command::new("/proc/self/exe").arg(name).env(STAGE, "user").uid(NOBODY).gid(NOBODY).status();
        assert!(status.unwrap().success(), "{name} as uid {NOBODY}");
        println!("test {name} as uid {NOBODY} ... ok");
    }
    let name = "granted_ids_are_mapped";
    if wanted(name) {
        if !root || !Path::new("/usr/bin/newuidmap").exists() {
            return common::skip(name, "needs root, and newuidmap (package uidmap)");
        }
        run(Namespaces { mount: true, ..Namespaces::NONE }, None, "granted device", "-");
        println!("test {name} ... ok");
    }
}

fn start_lab(name: &str) {
    run(Namespaces::LAB, Some(IdMap::choose().map), "lab", name);
}

fn run(namespaces: Namespaces, id_map: Option<IdMap>, stage: &str, name: &str) {
    let mut spawn = SpawnExec::new("/proc/self/exe").args([name]);
    spawn.env = std::env::vars_os().filter(|(name, _)| name != STAGE).collect();
    spawn.env.push((STAGE.into(), stage.into()));
    spawn.id_map = id_map;
    let status = spawn_exec(namespaces, spawn).unwrap().wait().unwrap();
    assert!(status.success(), "{name} ({stage}): {status}");
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// Runs a closure in a child whose panics are the test's.
fn check(namespaces: Namespaces, body: impl FnOnce()) {
    let child = fork_child(namespaces, || {
        body();
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), ExitStatus::Exited(0));
}

fn a_closure_runs_in_the_child() {
    let (read, write) = pipe();
    let text = String::from("allocated before");
    let child = fork_child(Namespaces { pid: true, ..Namespaces::NONE }, || {
        let said = format!("{text}, said by {}", rustix::process::getpid());
        File::from(write).write_all(said.as_bytes()).unwrap();
        7
    })
    .unwrap();
    let mut said = String::new();
    File::from(read).read_to_string(&mut said).unwrap();
    assert_eq!(said, "allocated before, said by 1");
    assert_eq!(child.wait().unwrap(), ExitStatus::Exited(7));
    let child = fork_child(Namespaces::NONE, || {
        std::panic::set_hook(Box::new(|_| {}));
        panic!("on purpose")
    })
    .unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Exited(101));
    // With a thread it is refused, and nothing is started.
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv().unwrap_err());
    assert!(matches!(fork_child(Namespaces::NONE, || 0), Err(process::ProcessError::Threads { threads: 2 })));
    drop(done);
    thread.join().unwrap();
    assert_eq!(process::reap().unwrap(), Reaped::NoChildren);
}

fn orphans_are_reaped() {
    // Process 1: whoever loses its parent is its child.
    let parent = fork_child(Namespaces::NONE, || {
        let own = own_pidfd();
        let orphan = fork_child(Namespaces::NONE, || {
            assert!(common::await_readable(&own), "its parent ends");
            5
        });
        orphan.unwrap().pid().as_raw_nonzero().get()
    });
    let parent = parent.unwrap();
    let mut ends = Vec::new();
    loop {
        match process::reap().unwrap() {
            Reaped::Ended(pid, status) => ends.push((pid, status)),
            Reaped::AllAlive => {
                rustix::process::waitid(
                    rustix::process::WaitId::All,
                    rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
                )
                .unwrap();
            }
            Reaped::NoChildren => break,
        }
    }
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert!(ends.contains(&(parent.pid(), ExitStatus::Exited(parent.pid().as_raw_nonzero().get() + 1))));
    assert!(ends.iter().any(|(_, status)| *status == ExitStatus::Exited(5)));
}

fn power_that_was_given_up_is_gone() {
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    // Before: all of it works, so the refusals afterwards mean something.
    let attempts = || -> Vec<(&str, bool)> {
        let up = Change::Link(LinkChange { mtu: Some(1400), ..LinkChange::new(1) });
        vec![
            ("write a sysctl", fs::write(forwarding, "1").is_ok()),
            ("change an interface", RouteSocket::open().unwrap().apply(&[up]).is_ok()),
            (
                "create an interface",
                RouteSocket::open().unwrap().apply(&[Change::CreateBridge { name: "x" }]).is_ok(),
            ),
            ("mount", mount::tmpfs(Path::new("/mnt"), None, 0o755).is_ok()),
            ("lift a read-only mount", {
                let proc = Path::new("/proc/sys");
                let bound = mount::bind(proc, proc, true).is_ok();
                bound && mount::detach(proc).is_ok()
            }),
            ("name the host", process::set_hostname("taken").is_ok()),
            ("make a namespace", netns::Netns::create().is_ok()),
            (
                "trace another process",
                rustix::process::pidfd_getfd(own_pidfd(), 0, rustix::process::PidfdGetfdFlags::empty())
                    .is_ok(),
            ),
        ]
    };
    check(Namespaces::CONTAINER, || {
        mount::proc(Path::new("/proc")).unwrap();
        let now = attempts();
        assert!(now.iter().all(|(_, worked)| *worked), "with power: {now:?}");
    });
    check(Namespaces::CONTAINER, || {
        mount::proc(Path::new("/proc")).unwrap();
        let sysctls = Path::new("/proc/sys");
        mount::bind(sysctls, sysctls, true).unwrap();
        mount::remount_read_only(sysctls).unwrap();
        caps::drop_to_container_default().unwrap();
        let now = attempts();
        let worked: Vec<&str> = now.iter().filter(|(_, worked)| *worked).map(|(what, _)| *what).collect();
        assert_eq!(worked, ["trace another process"], "only its own process, which needs no power");
        assert_eq!(fs::write(forwarding, "1").unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        assert_eq!(caps::effective().unwrap(), caps::CONTAINER);
        assert_eq!(caps::bounding().unwrap(), caps::CONTAINER);
        // A program executed as root gets no more of it.
        let status = common::output("cat", &["/proc/self/status"]);
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of its own");
            CapabilitySet::from_bits_retain(u64::from_str_radix(line.trim(), 16).unwrap())
        };
        for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
            assert_eq!(set(name), caps::CONTAINER, "{name}");
        }
        for name in ["CapInh:", "CapAmb:"] {
            assert_eq!(set(name), CapabilitySet::empty(), "{name}");
        }
        assert!(CapabilitySet::all().contains(caps::CONTAINER));
    });
    check(Namespaces::NONE, || {
        let keep = CapabilitySet::NET_BIND_SERVICE | CapabilitySet::CHOWN;
        caps::keep_only(keep, true).unwrap();
        caps::no_new_privileges().unwrap();
        let status = common::output("cat", &["/proc/self/status"]);
        assert!(status.contains("CapAmb:\t0000000000000401"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    });
}

fn own_pidfd() -> OwnedFd {
    process::pidfd_open(rustix::process::getpid()).unwrap()
}

fn another_process_is_entered() {
    let (ready_read, ready_write) = pipe();
    let (stay_read, stay_write) = pipe();
    let target = fork_child(Namespaces { net: true, ipc: true, ..Namespaces::CONTAINER }, || {
        // Closures own what they drop: without that the other end would never see the end.
        let (ready, stay) = (ready_write.try_clone().unwrap(), stay_read.try_clone().unwrap());
        process::set_hostname("inner").unwrap();
        mount::proc(Path::new("/proc")).unwrap();
        mount::tmpfs(Path::new("/mnt"), Some(1 << 16), 0o755).unwrap();
        fs::write("/mnt/inside", "yes").unwrap();
        File::from(ready).write_all(b"!").unwrap();
        let _ = File::from(stay).read(&mut [0u8]);
        0
    })
    .unwrap();
    File::from(ready_read).read_exact(&mut [0u8]).unwrap();
    let outside = netns::Netns::current().unwrap().inode();
    check(Namespaces::NONE, || {
        netns::enter_all_of(target.as_fd()).unwrap();
        assert_eq!(rustix::system::uname().nodename().to_str(), Ok("inner"));
        assert_eq!(fs::read_to_string("/mnt/inside").unwrap(), "yes");
        check(Namespaces::NONE, || {
            assert!(rustix::process::getpid().as_raw_nonzero().get() < 10, "in the small PID namespace");
            assert_ne!(netns::Netns::current().unwrap().inode(), outside);
            assert_eq!(common::ip("link").as_array().unwrap().len(), 1);
        });
    });
    // Joining only the network leaves the rest.
    let inner = netns::Netns::of_pid(target.pid()).unwrap();
    check(Namespaces::NONE, || {
        netns::join(&inner).unwrap();
        assert_eq!(netns::Netns::current().unwrap(), inner);
        assert!(!Path::new("/mnt/inside").exists());
    });
    drop(stay_write);
    target.signal(process::Signal::KILL).unwrap();
    target.wait().unwrap();
    assert!(matches!(
        netns::enter_all_of(target.as_fd()),
        Err(netns::NetnsError::EnterAll { source: Errno::SRCH })
    ));
}

fn the_mounts_of_an_instance() {
    let kinds = || -> Vec<(String, String, String)> {
        let text = fs::read_to_string("/proc/self/mounts").unwrap();
        let fields = |line: &str| {
            let mut fields = line.split(' ').skip(1).map(str::to_owned);
            (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
        };
        text.lines().map(fields).collect()
    };
    let find = |path: &str| kinds().into_iter().rev().find(|(at, _, _)| at == path).expect("a mount there");
    mount::tmpfs(Path::new("/mnt"), Some(1 << 20), 0o711).unwrap();
    let (_, kind, options) = find("/mnt");
    assert_eq!(kind, "tmpfs");
    assert!(options.contains("size=1024k") && options.contains("mode=711"), "{options}");
    for name in ["sys", "pts", "mq", "root", "etc", "moved"] {
        fs::create_dir(Path::new("/mnt").join(name)).unwrap();
    }
    mount::sysfs(Path::new("/mnt/sys")).unwrap();
    let interfaces = fs::read_dir("/mnt/sys/class/net").unwrap().count();
    assert_eq!(interfaces, common::ip("link").as_array().unwrap().len(), "of this network namespace");
    mount::devpts(Path::new("/mnt/pts")).unwrap();
    assert!(Path::new("/mnt/pts/ptmx").exists());
    match mount::mqueue(Path::new("/mnt/mq")) {
        Err(error) if error.errno() == Some(Errno::NODEV) => {
            eprintln!("this kernel has no POSIX message queues: {error}");
        }
        mounted => mounted.unwrap(),
    }
    mount::bind(Path::new("/etc"), Path::new("/mnt/etc"), true).unwrap();
    mount::remount_read_only(Path::new("/mnt/etc")).unwrap();
    assert_eq!(
        File::create("/mnt/etc/testground-test").unwrap_err().raw_os_error(),
        Some(Errno::ROFS.raw_os_error())
    );
    fs::write("/mnt/file", "one").unwrap();
    fs::write("/mnt/other", "two").unwrap();
    mount::bind(Path::new("/mnt/file"), Path::new("/mnt/other"), false).unwrap();
    assert_eq!(fs::read_to_string("/mnt/other").unwrap(), "one");
    mount::detach(Path::new("/mnt/other")).unwrap();
    assert_eq!(fs::read_to_string("/mnt/other").unwrap(), "two");
    mount::tmpfs(Path::new("/mnt/root"), None, 0o755).unwrap();
    fs::write("/mnt/root/here", "").unwrap();
    mount::move_to(Path::new("/mnt/root"), Path::new("/mnt/moved")).unwrap();
    assert!(Path::new("/mnt/moved/here").exists() && !Path::new("/mnt/root/here").exists());
    let error = mount::detach(Path::new("/mnt/root")).unwrap_err();
    assert_eq!(
        (error.errno(), error.to_string()),
        (Some(Errno::INVAL), "failed to unmount /mnt/root".to_owned())
    );
    check(Namespaces { mount: true, ..Namespaces::NONE }, || {
        mount::pivot_root(Path::new("/mnt/moved")).unwrap();
        let names: Vec<_> = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["here"], "nothing but the new root");
    });
}

/// Root, in a mount namespace: grants a range of ids to the user without rights.
fn granted_device() {
    mount::make_private(Path::new("/")).unwrap();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let dir = tempfile::tempdir().unwrap();
        let grant = dir.path().join("grant");
        fs::write(&grant, "65534:200000:1000\n").unwrap();
        if !Path::new(file).exists() {
            return common::skip("granted_ids_are_mapped", "no /etc/subuid to bind over");
        }
        mount::bind(&grant, Path::new(file), false).unwrap();
    }
    let status = Command::new("/proc/self/exe").env(STAGE, "granted").uid(NOBODY).gid(NOBODY).status();
    assert!(status.unwrap().success());
}

/// The user without rights: gets what was granted.
fn granted() {
    let chosen = IdMap::choose();
    assert!(matches!(chosen.map, IdMap::Granted { .. }), "{chosen:?}");
    let (read, write) = pipe();
    let mut spawn =
        SpawnExec::new("/bin/cat").args(["/proc/self/uid_map", "/proc/self/gid_map"]).fd(write, 1);
    spawn.id_map = Some(chosen.map);
    let child = spawn_exec(Namespaces { user: true, ..Namespaces::NONE }, spawn).unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [["0", "65534", "1"], ["1", "200000", "1000"], ["0", "65534", "1"], ["1", "200000", "1000"]]
    );
}

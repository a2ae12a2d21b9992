//! Starting programs: what they get, how they end, and what becomes of them when their parent dies.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;

use testground_linux::Errno;
use testground_linux::process::{
    self, ExitStatus, LeashedGroup, Namespaces, Pid, ProcessError, Session, Signal, SpawnExec, spawn_exec,
    spawn_suspended,
};

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

fn shell(script: &str) -> SpawnExec {
    SpawnExec::new("/bin/sh").args(["-c", script]).env("PATH", "/usr/bin:/bin")
}

/// Runs a script and returns what it printed and how it ended.
fn run(mut spawn: SpawnExec, namespaces: Namespaces) -> (String, ExitStatus) {
    let (read, write) = pipe();
    spawn.fds.push((write, 1));
    let child = spawn_exec(namespaces, spawn).unwrap();
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    (text, child.wait().unwrap())
}

#[test]
fn what_keeps_a_program_from_running_is_said_by_name() {
    let failure = |spawn: SpawnExec| spawn_exec(Namespaces::NONE, spawn).unwrap_err();
    let error = failure(SpawnExec::new("/no/such/program"));
    assert!(
        matches!(&error, ProcessError::Exec { program, source: Errno::NOENT } if program == "/no/such/program")
    );
    assert!(matches!(failure(SpawnExec::new("/")), ProcessError::Exec { source: Errno::ACCESS, .. }));
    let mut lost = shell("true");
    lost.cwd = Some("/no/such/place".into());
    let error = failure(lost);
    assert!(matches!(&error, ProcessError::Setup { source: Errno::NOENT, .. }));
    assert_eq!(error.to_string(), "failed to start \"/bin/sh\": changing the working directory failed");
    let mut stray = shell("true");
    stray.enter.push(File::open("/dev/null").unwrap().into());
    assert!(matches!(failure(stray), ProcessError::Setup { step: "entering a namespace", .. }));
    assert!(matches!(failure(shell("a\0b")), ProcessError::Nul { what: "an argument", .. }));
}

#[test]
fn a_program_gets_its_own_descriptors_and_no_others() {
    let (read_a, write_a) = pipe();
    let (read_b, write_b) = pipe();
    File::from(write_a).write_all(b"from a\n").unwrap();
    File::from(write_b).write_all(b"from b\n").unwrap();
    // One that a careless library left open for every child.
    let careless = rustix::io::fcntl_dupfd_cloexec(&read_a, 50).unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    // Each source has the number that is the other one's target.
    let (a, b) = (read_a.as_raw_fd(), read_b.as_raw_fd());
    let script = format!("read x <&{a}; read y <&{b}; echo $x, $y; ls /proc/self/fd | tr '\\n' ' '");
    // Other tests have descriptors too, so that these may be above 9, which not every shell reads from.
    let bash = SpawnExec::new("/bin/bash").args(["-c", &script]).env("PATH", "/usr/bin:/bin");
    let (text, status) = run(bash.fd(read_a, b).fd(read_b, a), Namespaces::NONE);
    let mut numbers = [0, 1, 2, a, b];
    numbers.sort_unstable();
    // `ls` has one more open: the directory that it lists.
    let free = (3..).find(|number| !numbers.contains(number)).unwrap();
    let mut expected: Vec<String> = numbers.iter().chain([&free]).map(ToString::to_string).collect();
    expected.sort_unstable();
    let (greeting, list) = text.split_once('\n').unwrap();
    assert_eq!(greeting, "from b, from a");
    let mut list: Vec<&str> = list.split_whitespace().collect();
    list.sort_unstable();
    assert_eq!(list, expected);
    assert!(status.success());
}

#[test]
fn a_program_gets_its_environment_directory_mask_and_session() {
    let mut spawn = shell("echo $A $(pwd) $(umask) $0; cut -d' ' -f5,6 /proc/$$/stat; echo $$")
        .args(["name"])
        .env("A", "x y");
    spawn.cwd = Some("/usr".into());
    spawn.umask = Some(0o27);
    spawn.session = Session::New;
    let (text, _) = run(spawn, Namespaces::NONE);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "x y /usr 0027 name");
    assert_eq!(lines[1], format!("{0} {0}", lines[2]), "leads its group and its session");
    let (text, _) = run(shell("env"), Namespaces::NONE);
    assert!(
        text.lines()
            .all(|line| ["PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| line.starts_with(own))),
        "{text}"
    );
}

#[test]
fn signals_are_neither_blocked_nor_ignored() {
    // The test harness, as every Rust program, ignores SIGPIPE.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.lines().any(|line| line.starts_with("SigIgn:") && !line.ends_with("0000000000000000")));
    let (text, _) = run(shell("grep -E 'Sig(Blk|Ign)' /proc/self/status"), Namespaces::NONE);
    assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    let mask = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(mask.contains("SigBlk:\t0000000000000000"), "the caller's own mask is back");
}

#[test]
fn an_end_is_told_as_it_was() {
    assert_eq!(run(shell("exit 3"), Namespaces::NONE).1, ExitStatus::Exited(3));
    let killed = run(shell("kill -KILL $$"), Namespaces::NONE).1;
    assert_eq!(killed, ExitStatus::Signaled { signal: 9, core: false });
    assert_eq!(killed.to_string(), "signal SIGKILL");
    assert_eq!(run(shell("kill -PIPE $$"), Namespaces::NONE).1.shell_code(), 141);
    let (_read, write) = pipe();
    let child = spawn_exec(Namespaces::NONE, shell("exec sleep 1000").fd(write, 1)).unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Signaled { signal: 15, core: false });
    child.signal(Signal::TERM).expect("a signal to what has ended is no error");
    assert!(child.wait().is_err(), "reaped once");
}

#[test]
fn a_suspended_program_has_not_run_and_may_never() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!("echo > {}", mark.display());
    let suspended = spawn_suspended(Namespaces::NONE, shell(&script)).unwrap();
    let pid = suspended.child().pid();
    let image = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap();
    assert_eq!(image, std::env::current_exe().unwrap(), "still the parent's image");
    drop(suspended);
    assert!(process::pidfd_open(pid).is_err(), "ended and reaped");
    assert!(!mark.exists());
    let child = spawn_suspended(Namespaces::NONE, shell(&script)).unwrap().resume().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(mark.exists());
}

#[test]
fn a_program_ends_with_the_thread_that_started_it() {
    let child = std::thread::spawn(|| {
        let mut spawn = shell("exec sleep 1000");
        spawn.pdeathsig = Some(Signal::KILL);
        spawn_exec(Namespaces::NONE, spawn).unwrap()
    })
    .join()
    .unwrap();
    let ended = common::await_readable(&child);
    // A failure here must not leave it behind, with the harness's own output in its hands.
    child.signal(Signal::TERM).unwrap();
    assert!(ended, "it lives on");
    assert_eq!(child.wait().unwrap(), ExitStatus::Signaled { signal: 9, core: false });
}

#[test]
fn a_parent_that_dies_early_takes_the_waiting_child_along() {
    dies_with_its_parent("a_parent_that_dies_early_takes_the_waiting_child_along", || {
        let suspended = spawn_suspended(Namespaces::NONE, shell("exec sleep 20")).unwrap();
        let pid = suspended.child().pid();
        std::mem::forget(suspended);
        pid
    });
}

#[test]
#[allow(clippy::zombie_processes, reason = "its parent is to die first, without having waited")]
fn a_leashed_group_dies_with_its_maker() {
    dies_with_its_parent("a_leashed_group_dies_with_its_maker", || {
        let group = LeashedGroup::new().unwrap();
        // The one that is looked for is a child of the one that joined.
        let mut joined = std::process::Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .process_group(group.id().as_raw_nonzero().get())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = std::io::BufReader::new(joined.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        std::mem::forget(group);
        Pid::from_raw(line.trim().parse().unwrap()).unwrap()
    });
}

#[test]
fn a_leashed_group_dies_when_it_is_dropped() {
    let group = LeashedGroup::new().unwrap();
    let mut joined = std::process::Command::new("sleep")
        .arg("1000")
        .process_group(group.id().as_raw_nonzero().get())
        .spawn()
        .unwrap();
    let keeper = group.id();
    drop(group);
    assert_eq!(joined.wait().unwrap().signal(), Some(9));
    assert!(process::pidfd_open(keeper).is_err(), "the keeper is reaped");
}

/// Runs `stage` in a process that is killed right after it, and expects the process that it names to end too.
fn dies_with_its_parent(test: &str, stage: impl FnOnce() -> Pid) {
    const STAGE: &str = "TESTGROUND_LINUX_ORPHAN";
    if std::env::var_os(STAGE).is_some() {
        println!("orphan {}", stage().as_raw_nonzero());
        // No destructor runs, as in a process that was killed.
        rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    }
    let mut spawn = SpawnExec::new("/proc/self/exe").args([test, "--exact", "--nocapture"]);
    spawn.env = vec![(STAGE.into(), "1".into()), ("PATH".into(), "/usr/bin:/bin".into())];
    let (read, write) = pipe();
    let parent = spawn_exec(Namespaces::NONE, spawn.fd(write, 1)).unwrap();
    assert_eq!(parent.wait().unwrap(), ExitStatus::Signaled { signal: 9, core: false });
    let mut text = [0u8; 4096];
    let length = File::from(read).read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..length]);
    let orphan = text.lines().find_map(|line| line.split("orphan ").nth(1)).expect("its id");
    let pid = Pid::from_raw(orphan.trim().parse().unwrap()).unwrap();
    // Gone already, or soon.
    if let Ok(orphan) = process::pidfd_open(pid) {
        let ended = common::await_readable(&orphan);
        let _ = rustix::process::pidfd_send_signal(&orphan, Signal::KILL);
        assert!(ended, "{pid} lives on");
    }
}

#[test]
fn a_process_with_threads_may_not_fork_a_closure() {
    let error = process::fork_child(Namespaces::NONE, || 0).unwrap_err();
    assert!(matches!(error, ProcessError::Threads { threads } if threads > 1), "{error}");
}

#[test]
fn a_lab_has_its_own_everything() {
    let name = "a_lab_has_its_own_everything";
    common::in_lab(name, &[common::Who::Me, common::Who::NobodyWithTun], |_| {
        assert_eq!(rustix::process::getpid(), Pid::INIT);
        assert_eq!(process::ids(), (0, 0), "root inside");
        process::set_hostname("lab-host").unwrap();
        assert_eq!(rustix::system::uname().nodename().to_str(), Ok("lab-host"));
        let own = common::ip("link");
        assert_eq!(own.as_array().unwrap().len(), 1, "loopback alone: {own}");
        assert!(Path::new("/proc/1/exe").exists());
    });
}

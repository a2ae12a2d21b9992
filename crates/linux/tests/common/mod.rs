//! Runs a test's body in namespaces of its own, as this user and as one without rights, by executing the test binary again.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use testground_linux::mount;
use testground_linux::process::{self, IdMap, Namespaces, SpawnExec};

/// What the re-executed binary is to do.
const STAGE: &str = "TESTGROUND_LINUX_STAGE";
/// The user without rights.
const NOBODY: u32 = 65534;

/// Who runs the body, and what `/dev/net/tun` is to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever runs the tests.
    Me,
    /// A user without rights, who can't open the device.
    NobodyWithoutTun,
    /// A user without rights, who can.
    NobodyWithTun,
}

/// Says that a test does not run here. Fatal where everything must run.
pub fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    assert!(
        std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|value| value != "all"),
        "{test} can't run: {reason}"
    );
}

/// Runs `body` in a lab's namespaces, once for each of `whos`. The name is that of the calling test function.
pub fn in_lab(test: &str, whos: &[Who], body: impl FnOnce(Who)) {
    match std::env::var(STAGE) {
        Ok(stage) => inside(&stage, test, body),
        Err(_) => {
            for who in whos {
                outside(test, *who);
            }
        }
    }
}

fn outside(test: &str, who: Who) {
    let label = format!("{test} as {who:?}");
    let root = process::ids().0 == 0;
    if !user_namespaces() {
        return skip(&label, "no user namespaces here");
    }
    if who != Who::Me && !root {
        return skip(&label, "only root can become another user");
    }
    let child = match who {
        Who::Me => start_lab(test, who),
        // A mount namespace hides what happens to the device file from the machine.
        _ => start(Namespaces { mount: true, ..Namespaces::NONE }, None, test, &format!("{who:?}/device")),
    };
    let status = child.wait().unwrap();
    assert!(status.success(), "{label}: {status}");
}

fn inside(stage: &str, test: &str, body: impl FnOnce(Who)) {
    let (who, step) = stage.split_once('/').expect("who, and what");
    let who = [Who::Me, Who::NobodyWithoutTun, Who::NobodyWithTun]
        .into_iter()
        .find(|known| format!("{known:?}") == who)
        .expect("one of them");
    match step {
        "device" => {
            mount::make_private(Path::new("/")).unwrap();
            if !device(who) {
                return skip(&format!("{test} as {who:?}"), "no /dev/net/tun to copy");
            }
            let status = Command::new("/proc/self/exe")
                .args(arguments(test))
                .env(STAGE, format!("{who:?}/user"))
                .uid(NOBODY)
                .gid(NOBODY)
                .status()
                .unwrap();
            assert!(status.success(), "{test} as {who:?}: {status}");
        }
        "user" => {
            assert_eq!(process::ids(), (NOBODY, NOBODY));
            let status = start_lab(test, who).wait().unwrap();
            assert!(status.success(), "{test} as {who:?}: {status}");
        }
        _ => {
            mount::make_private(Path::new("/")).unwrap();
            mount::proc(Path::new("/proc")).unwrap();
            body(who);
        }
    }
}

/// Puts a device file over `/dev/net/tun` that the user may or may not open.
fn device(who: Who) -> bool {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let dir = Path::new("/dev/net");
    if !dir.is_dir() {
        return false;
    }
    mount::tmpfs(dir, Some(1 << 16), 0o755).unwrap();
    let mode = if who == Who::NobodyWithTun { 0o666 } else { 0o600 };
    let umask = process::set_umask(0);
    // A tmpfs of ours has `nodev`; the device file needs a mount without it.
    rustix::mount::mount_remount(dir, rustix::mount::MountFlags::NOSUID, c"").unwrap();
    mknodat(CWD, "/dev/net/tun", FileType::CharacterDevice, Mode::from_raw_mode(mode), makedev(10, 200))
        .unwrap();
    process::set_umask(umask);
    true
}

fn start_lab(test: &str, who: Who) -> process::Child {
    start(Namespaces::LAB, Some(IdMap::choose().map), test, &format!("{who:?}/lab"))
}

fn start(namespaces: Namespaces, id_map: Option<IdMap>, test: &str, stage: &str) -> process::Child {
    let mut spawn = SpawnExec::new("/proc/self/exe").args(arguments(test));
    spawn.argv[0] = "test".into();
    spawn.env = std::env::vars_os().filter(|(name, _)| name != STAGE).collect();
    spawn.env.push((STAGE.into(), stage.into()));
    spawn.id_map = id_map;
    process::spawn_exec(namespaces, spawn).unwrap()
}

fn arguments(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// Asked of another program, not of the code under test.
fn user_namespaces() -> bool {
    Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success())
}

/// The output of a program, which must succeed.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip -j` says.
pub fn ip(arguments: &str) -> serde_json::Value {
    let arguments: Vec<&str> = ["-j", "-d"].into_iter().chain(arguments.split_whitespace()).collect();
    let text = output("ip", &arguments);
    if text.trim().is_empty() {
        serde_json::Value::Array(Vec::new())
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

/// Waits until a descriptor can be read, two minutes at most: a machine may be busy with something else.
pub fn await_readable(fd: impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec { tv_sec: 120, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit))).unwrap() == 1
}

/// Runs tests of the calling binary as root under a kernel of their own: User Mode Linux, a whole kernel as a program
/// (`tests/uml`). `prelude` is a shell's, and ends with a word that takes a command. Returns what they wrote to stderr; none
/// where there is no such kernel.
pub fn in_guest(name: &str, prelude: &str, tests: &[&str]) -> Option<String> {
    let kernel = Command::new("sh").args(["-c", "command -v linux.uml && command -v modprobe"]).output();
    if !kernel.is_ok_and(|found| found.status.success()) {
        skip(name, "no User Mode Linux (packages user-mode-linux kmod busybox-static)");
        return None;
    }
    let exe = std::env::current_exe().unwrap();
    let script = format!("{prelude} {} --exact {} --test-threads=1", exe.display(), tests.join(" "));
    let work = tempfile::tempdir().unwrap();
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uml/run");
    let output = Command::new(run)
        .args(["-m", "512M", "-t", "900", "--", "sh", "-c", &script])
        .env("UML_WORK", work.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    assert!(said.contains(&format!("{} passed", tests.len())), "{said}\n{errors}");
    Some(errors.into_owned())
}

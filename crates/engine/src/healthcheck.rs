//! What this machine lacks for `local:exec`, and the command that mends each.
//!
//! Gathering facts and judging them are two functions: the judgement is a plain function of what was found. The words
//! and statuses of the report are the original's; how a lab is really started belongs to `lab`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use testground_linux::process::{self, IdMap, Namespaces, SpawnExec};
use testground_linux::tap::TUN_DEVICE;

use crate::home::{Home, HomeError};

/// Instances that a machine should be able to hold; what allows fewer fails a check.
const INSTANCES: u64 = 100;
/// Descriptors that a lab holds for each instance: two interfaces, two streams, a process, and room.
const DESCRIPTORS: u64 = 10;

/// What the checks are about.
pub struct Surroundings {
    /// Where the home should be, or why nobody knows.
    pub home: Result<PathBuf, HomeError>,
    /// Where tools are looked for, in the form of `PATH`.
    pub path: OsString,
    /// What dead runs may have left; from the lab.
    pub sweepers: Vec<Sweeper>,
}

/// One kind of thing that dead runs may leave.
pub struct Sweeper {
    /// Its name, such as `cgroups`.
    pub name: &'static str,
    /// What there is of it now.
    pub find: Box<Find>,
    /// Removes one of those.
    pub remove: Box<Remove>,
}

/// Names what dead runs have left.
pub type Find = dyn Fn() -> Result<Vec<String>, String>;
/// Removes something by its name.
pub type Remove = dyn Fn(&str) -> Result<(), String>;

/// The result of a health check, in the original's form.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was looked at.
    #[serde(rename = "Checks")]
    pub checks: Vec<Item>,
    /// What was mended, or not.
    #[serde(rename = "Fixes")]
    pub fixes: Vec<Item>,
}

/// One check, or one fix.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Item {
    /// Its name.
    pub name: String,
    /// How it went.
    pub status: Status,
    /// What was found or done.
    pub message: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// How a check or a fix went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It is not.
    Failed,
    /// It could not be found out.
    Aborted,
    /// Nobody asked for it, or only a person can do it.
    Omitted,
    /// Nothing was to be done.
    Unnecessary,
}

/// Checks what `local:exec` needs; with `fix` mends what can be mended.
pub fn local_exec(surroundings: &Surroundings, fix: bool) -> Report {
    let mut report = Report { checks: judge(&gather(surroundings)), fixes: Vec::new() };
    fix_home(surroundings, fix, &mut report);
    for sweeper in &surroundings.sweepers {
        sweep(sweeper, fix, &mut report);
    }
    if fix {
        let by_hand = |check: &&Item| check.status == Status::Failed && check.mend.is_some();
        let mut omitted = Vec::new();
        for check in report.checks.iter().filter(by_hand) {
            let message = "only a person can mend this".to_owned();
            omitted.push(Item {
                status: Status::Omitted,
                message,
                mend: check.mend.clone(),
                name: check.name.clone(),
            });
        }
        report.fixes.extend(omitted);
    }
    report
}

/// What was found out about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    root: bool,
    /// Making a lab's namespaces: why it failed.
    namespaces: Result<(), String>,
    /// Sysctls that can switch them off, where they exist.
    unprivileged_userns: Option<u64>,
    apparmor_restricts: Option<u64>,
    max_user_namespaces: Option<u64>,
    max_net_namespaces: Option<u64>,
    /// Opening the TUN device: why it failed.
    tun: Result<(), String>,
    /// Descriptors that a process may be given.
    descriptors: u64,
    /// Processes that there may be, and what limits them.
    processes: (u64, &'static str),
    /// Why there is one user id only.
    ids: Option<String>,
    go: Option<PathBuf>,
}

fn gather(surroundings: &Surroundings) -> Facts {
    let sysctl = |name: &str| number(Path::new("/proc/sys").join(name));
    let chosen = IdMap::choose();
    let find = |tool| crate::build::find_tool(tool, &surroundings.path);
    Facts {
        root: rustix::process::geteuid().is_root(),
        namespaces: make_namespaces(chosen.map, &surroundings.path),
        unprivileged_userns: sysctl("kernel/unprivileged_userns_clone"),
        apparmor_restricts: sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        max_user_namespaces: sysctl("user/max_user_namespaces"),
        max_net_namespaces: sysctl("user/max_net_namespaces"),
        tun: fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(TUN_DEVICE)
            .map(drop)
            .map_err(|e| e.to_string()),
        descriptors: process::nofile_limit().1,
        processes: most_processes(),
        ids: chosen.note,
        go: find("go"),
    }
}

/// Starts a program in namespaces like a lab's: whatever forbids it, the kernel knows best.
fn make_namespaces(id_map: IdMap, path: &OsStr) -> Result<(), String> {
    let program = crate::build::find_tool("true", path).ok_or("`true` is nowhere in PATH")?;
    let spawn = SpawnExec { id_map: Some(id_map), ..SpawnExec::new(program) };
    let child = process::spawn_exec(Namespaces::LAB, spawn).map_err(|e| chain(&e))?;
    let status = child.wait().map_err(|e| chain(&e))?;
    if status.success() { Ok(()) } else { Err(format!("a program in new namespaces ended with {status:?}")) }
}

/// The least of what limits processes: the kernel's own numbers, the user's limit, the cgroup's.
fn most_processes() -> (u64, &'static str) {
    let user = rustix::process::getrlimit(rustix::process::Resource::Nproc).current;
    // Root is not bound by its own limit.
    let user = user.filter(|_| !rustix::process::geteuid().is_root()).unwrap_or(u64::MAX);
    let limits = [
        (number("/proc/sys/kernel/pid_max"), "kernel.pid_max"),
        (number("/proc/sys/kernel/threads-max"), "kernel.threads-max"),
        (Some(user), "ulimit -u"),
        (number("/sys/fs/cgroup/pids.max"), "pids.max of the cgroup"),
        (number("/sys/fs/cgroup/pids/pids.max"), "pids.max of the cgroup"),
    ];
    let known = limits.into_iter().filter_map(|(limit, name)| Some((limit?, name)));
    known.min_by_key(|(limit, _)| *limit).unwrap_or((u64::MAX, "nothing"))
}

fn number(file: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn judge(facts: &Facts) -> Vec<Item> {
    vec![namespaces(facts), tun(facts), descriptors(facts), processes(facts), ids(facts), go(facts)]
}

fn namespaces(facts: &Facts) -> Item {
    let name = "user-namespaces";
    let Err(why) = &facts.namespaces else {
        let few = facts.max_net_namespaces.filter(|most| *most < INSTANCES);
        return match few {
            None => Item::ok(name, "a lab's namespaces can be made"),
            Some(most) => Item::failed(
                name,
                format!("there may be {most} network namespaces, and each instance has one"),
                "sysctl -w user.max_net_namespaces=65536",
            ),
        };
    };
    let (because, mend) = if facts.unprivileged_userns == Some(0) && !facts.root {
        ("they are switched off for users", "sysctl -w kernel.unprivileged_userns_clone=1")
    } else if facts.apparmor_restricts == Some(1) && !facts.root {
        ("AppArmor restricts them", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
    } else if facts.max_user_namespaces.is_some_and(|most| most == 0) {
        ("there may be none", "sysctl -w user.max_user_namespaces=65536")
    } else {
        (
            "this process is not allowed to",
            "in a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
        )
    };
    Item::failed(name, format!("a lab's namespaces can't be made: {because} ({why})"), mend)
}

/// Not having it is no failure: packet sockets carry the same network.
fn tun(facts: &Facts) -> Item {
    match &facts.tun {
        Ok(()) => Item::ok("tun-device", &format!("{TUN_DEVICE} can be opened")),
        Err(why) => {
            let text = format!(
                "{TUN_DEVICE} can't be opened ({why}): packet sockets carry the network, more slowly"
            );
            let mend = if Path::new(TUN_DEVICE).exists() {
                format!("chmod 666 {TUN_DEVICE}")
            } else {
                format!("modprobe tun; in a container: --device {TUN_DEVICE}")
            };
            Item { mend: Some(mend), ..Item::ok("tun-device", &text) }
        }
    }
}

fn descriptors(facts: &Facts) -> Item {
    let room = facts.descriptors / DESCRIPTORS;
    let most =
        if facts.descriptors == u64::MAX { "unlimited".to_owned() } else { facts.descriptors.to_string() };
    let text = format!("open files: {most}, enough for about {room} instances");
    if room >= INSTANCES {
        return Item::ok(
            "open-files",
            if facts.descriptors == u64::MAX { "open files: unlimited" } else { &text },
        );
    }
    Item::failed(
        "open-files",
        text,
        "prlimit --pid $$ --nofile=1048576 (as root; lasting: /etc/security/limits.conf)",
    )
}

fn processes(facts: &Facts) -> Item {
    let (most, what) = facts.processes;
    // An artifact has its init beside it, and programs have threads.
    let room = most / 8;
    let text = format!("processes: {most} ({what}), enough for about {room} instances");
    if room >= INSTANCES {
        return Item::ok("processes", &text);
    }
    let mend = match what {
        "ulimit -u" => "prlimit --pid $$ --nproc=65536 (as root; lasting: /etc/security/limits.conf)",
        "kernel.pid_max" => "sysctl -w kernel.pid_max=4194304",
        "kernel.threads-max" => "sysctl -w kernel.threads-max=262144",
        _ => "raise pids.max of the cgroup that this session is in (in a container: --pids-limit)",
    };
    Item::failed("processes", text, mend)
}

fn ids(facts: &Facts) -> Item {
    match &facts.ids {
        None => Item::ok("user-ids", "instances may use several user ids"),
        Some(why) => Item {
            mend: Some("apt-get install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER".into()),
            ..Item::ok("user-ids", why)
        },
    }
}

fn go(facts: &Facts) -> Item {
    match &facts.go {
        Some(path) => Item::ok("go-toolchain", &format!("{}", path.display())),
        None => Item {
            name: "go-toolchain".into(),
            status: Status::Omitted,
            message: "not installed: plans for exec:go can't be built".into(),
            mend: Some("apt-get install golang, or https://go.dev/dl".into()),
        },
    }
}

/// The check of the home, and its fix: opening a home makes what is missing of it.
fn fix_home(surroundings: &Surroundings, fix: bool, report: &mut Report) {
    let name = "local-outputs-dir";
    let dir = match &surroundings.home {
        Ok(dir) => dir,
        Err(e) => {
            report.checks.insert(
                0,
                Item::failed(name, first_line(&e.to_string()), "export TESTGROUND_HOME=DIRECTORY"),
            );
            return;
        }
    };
    let outputs = dir.join("data/outputs");
    if outputs.is_dir() && Home::at(dir).is_ok() {
        report.checks.insert(0, Item::ok(name, &format!("{} is there", outputs.display())));
        if fix {
            report.fixes.push(Item { status: Status::Unnecessary, ..Item::ok(name, "it is there") });
        }
        return;
    }
    // A home that isn't there yet is made by the first run: that fails nothing, unless it can't be.
    let made = if fix || outputs.is_dir() { Home::at(dir).map(drop) } else { Ok(()) };
    match (made, fix) {
        (Ok(()), true) => {
            report.checks.insert(0, Item::ok(name, &format!("{} was missing", outputs.display())));
            report.fixes.push(Item::ok(name, &format!("made {}", dir.display())));
        }
        (Ok(()), false) => {
            let text = format!("{} is not there yet: the first run makes it", outputs.display());
            report.checks.insert(0, Item::ok(name, &text));
        }
        (Err(e), _) => {
            let text = first_line(&e.to_string());
            let mend = "export TESTGROUND_HOME=DIRECTORY";
            report.checks.insert(0, Item::failed(name, text.clone(), mend));
            if fix {
                report.fixes.push(Item::failed(name, text, mend));
            }
        }
    }
}

fn sweep(sweeper: &Sweeper, fix: bool, report: &mut Report) {
    let name = format!("leftovers-{}", sweeper.name);
    let left = match (sweeper.find)() {
        Ok(left) => left,
        Err(why) => {
            report.checks.push(Item { name, status: Status::Aborted, message: why, mend: None });
            return;
        }
    };
    if left.is_empty() {
        report.checks.push(Item::ok(&name, "dead runs have left nothing"));
        return;
    }
    let shown: Vec<&str> = left.iter().take(5).map(String::as_str).collect();
    let more = if left.len() > shown.len() {
        format!(" and {} more", left.len() - shown.len())
    } else {
        String::new()
    };
    let text = format!("dead runs have left {}{more}", shown.join(", "));
    if !fix {
        report.checks.push(Item::failed(&name, text, "testground healthcheck --runner local:exec --fix"));
        return;
    }
    report.checks.push(Item { name: name.clone(), status: Status::Failed, message: text, mend: None });
    let failures: Vec<String> = left
        .iter()
        .filter_map(|one| (sweeper.remove)(one).err().map(|why| format!("{one}: {why}")))
        .collect();
    report.fixes.push(if failures.is_empty() {
        Item::ok(&name, &format!("removed {}", left.len()))
    } else {
        Item { name, status: Status::Failed, message: failures.join("; "), mend: None }
    });
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

// === impl Report ===

impl Report {
    /// Whether every check passed or was mended, and no fix failed.
    pub fn is_well(&self) -> bool {
        let bad = |item: &Item| matches!(item.status, Status::Failed | Status::Aborted);
        let mended = |check: &Item| self.fixes.iter().any(|f| f.name == check.name && f.status == Status::Ok);
        self.checks.iter().all(|check| !bad(check) || mended(check)) && !self.fixes.iter().any(bad)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, items) in [("Checks", &self.checks), ("Fixes", &self.fixes)] {
            if !items.is_empty() {
                writeln!(f, "{title}:")?;
            }
            for Item { name, status, message, mend } in items {
                writeln!(f, "- {name}: {status}; {message}")?;
                if let Some(mend) = mend {
                    let word = if *status == Status::Ok { "better with" } else { "mend it with" };
                    writeln!(f, "    {word}: {mend}")?;
                }
            }
        }
        Ok(())
    }
}

// === impl Item ===

impl Item {
    fn ok(name: &str, message: &str) -> Item {
        Item { name: name.to_owned(), status: Status::Ok, message: message.to_owned(), mend: None }
    }

    fn failed(name: &str, message: String, mend: &str) -> Item {
        Item { name: name.to_owned(), status: Status::Failed, message, mend: Some(mend.to_owned()) }
    }
}

// === impl Status ===

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Ok => "ok",
            Status::Failed => "failed",
            Status::Aborted => "aborted",
            Status::Omitted => "omitted",
            Status::Unnecessary => "unnecessary",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn healthy() -> Facts {
        Facts {
            root: false,
            namespaces: Ok(()),
            unprivileged_userns: Some(1),
            apparmor_restricts: None,
            max_user_namespaces: Some(60_000),
            max_net_namespaces: Some(60_000),
            tun: Ok(()),
            descriptors: 1 << 20,
            processes: (32_768, "kernel.pid_max"),
            ids: None,
            go: Some("/usr/bin/go".into()),
        }
    }

    fn with_sweepers(home: &Path, sweepers: Vec<Sweeper>) -> Surroundings {
        Surroundings {
            home: Ok(home.to_owned()),
            path: std::env::var_os("PATH").unwrap_or_default(),
            sweepers,
        }
    }

    #[test]
    fn a_healthy_machine_passes() {
        assert!(judge(&healthy()).iter().all(|check| check.status == Status::Ok && check.mend.is_none()));
    }

    #[test]
    fn everything_that_is_lacking_is_named_with_what_mends_it() {
        let refused = || Err("failed to create namespaces: Operation not permitted".to_owned());
        let cases = [
            (
                Facts { namespaces: refused(), unprivileged_userns: Some(0), ..healthy() },
                0,
                "unprivileged_userns_clone=1",
            ),
            (
                Facts { namespaces: refused(), apparmor_restricts: Some(1), ..healthy() },
                0,
                "restrict_unprivileged_userns=0",
            ),
            (
                Facts { namespaces: refused(), max_user_namespaces: Some(0), ..healthy() },
                0,
                "max_user_namespaces=",
            ),
            (Facts { namespaces: refused(), ..healthy() }, 0, "seccomp=unconfined"),
            (Facts { max_net_namespaces: Some(10), ..healthy() }, 0, "max_net_namespaces="),
            (Facts { descriptors: 512, ..healthy() }, 2, "--nofile="),
            (Facts { processes: (100, "ulimit -u"), ..healthy() }, 3, "--nproc="),
            (Facts { processes: (100, "pids.max of the cgroup"), ..healthy() }, 3, "--pids-limit"),
        ];
        for (facts, number, mend) in cases {
            let checks = judge(&facts);
            let failed: Vec<usize> =
                (0..checks.len()).filter(|i| checks[*i].status == Status::Failed).collect();
            assert_eq!(failed, [number], "{facts:?}");
            let said = checks[number].mend.as_deref().unwrap_or_default();
            assert!(said.contains(mend), "{said}");
        }
        let checks = judge(&Facts { tun: Err("Permission denied".into()), go: None, ..healthy() });
        assert_eq!(checks[1].status, Status::Ok, "packet sockets do");
        assert!(checks[1].mend.is_some());
        assert_eq!(checks[5].status, Status::Omitted);
    }

    #[test]
    fn leftovers_fail_until_they_are_swept_and_a_sweep_that_fails_says_why() {
        let t = tempfile::tempdir().unwrap();
        let left = Rc::new(RefCell::new(vec!["a".to_owned(), "stuck".to_owned()]));
        let sweeper = || {
            let (find, remove) = (Rc::clone(&left), Rc::clone(&left));
            Sweeper {
                name: "folders",
                find: Box::new(move || Ok(find.borrow().clone())),
                remove: Box::new(move |one| {
                    if one == "stuck" && remove.borrow().len() > 1 {
                        return Err("device is busy".into());
                    }
                    remove.borrow_mut().retain(|l| l != one);
                    Ok(())
                }),
            }
        };
        let status = |report: &Report| {
            let find =
                |items: &[Item]| items.iter().find(|i| i.name == "leftovers-folders").map(|i| i.status);
            (find(&report.checks), find(&report.fixes))
        };
        let seen = local_exec(&with_sweepers(t.path(), vec![sweeper()]), false);
        assert_eq!(status(&seen), (Some(Status::Failed), None));
        assert!(!seen.is_well() && seen.to_string().contains("dead runs have left a, stuck"), "{seen}");

        left.borrow_mut().reverse();
        let tried = local_exec(&with_sweepers(t.path(), vec![sweeper()]), true);
        assert_eq!(status(&tried), (Some(Status::Failed), Some(Status::Failed)));
        assert!(!tried.is_well() && tried.to_string().contains("stuck: device is busy"), "{tried}");

        let mended = local_exec(&with_sweepers(t.path(), vec![sweeper()]), true);
        assert_eq!(status(&mended), (Some(Status::Failed), Some(Status::Ok)));
        assert_eq!(
            status(&local_exec(&with_sweepers(t.path(), vec![sweeper()]), false)),
            (Some(Status::Ok), None)
        );
    }

    #[test]
    fn a_home_is_made_by_a_fix_only_and_one_that_cannot_be_says_why() {
        let t = tempfile::tempdir().unwrap();
        let home = t.path().join("home");
        let at = |fix| local_exec(&with_sweepers(&home, Vec::new()), fix);
        assert_eq!((at(false).checks[0].status, home.exists()), (Status::Ok, false));
        assert_eq!((at(true).fixes[0].status, home.join("data/outputs").is_dir()), (Status::Ok, true));
        assert_eq!(at(true).fixes[0].status, Status::Unnecessary);

        fs::write(t.path().join("file"), "").unwrap();
        let report = local_exec(&with_sweepers(&t.path().join("file/home"), Vec::new()), true);
        assert_eq!((report.checks[0].status, report.fixes[0].status), (Status::Failed, Status::Failed));
        assert!(!report.is_well());

        let nowhere = Surroundings { home: Err(HomeError::Nowhere), ..with_sweepers(&home, Vec::new()) };
        assert!(local_exec(&nowhere, false).to_string().contains("export TESTGROUND_HOME"));
    }

    #[test]
    fn the_report_has_the_words_of_the_original() {
        let report = Report {
            checks: vec![Item::ok("a", "there"), Item::failed("b", "gone".into(), "make b")],
            fixes: vec![Item { status: Status::Unnecessary, ..Item::ok("a", "there") }],
        };
        let text = "Checks:\n- a: ok; there\n- b: failed; gone\n    mend it with: make b\nFixes:\n- a: unnecessary; there\n";
        assert_eq!(report.to_string(), text);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.starts_with(r#"{"Checks":[{"Name":"a","Status":"ok","Message":"there"}"#), "{json}");
    }
}

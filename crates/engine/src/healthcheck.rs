//! What this machine lacks for `local:exec`, and the command that mends each.
//!
//! Gathering facts and judging them are two functions: the judgement is a plain function of what was found. The words
//! and statuses of the report are the original's; how a lab is really started belongs to `lab`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use testground_linux::cgroup::Controller;
use testground_linux::probe::{self, Feature, Finding, State};
use testground_linux::process::IdMap;

use crate::home::{Home, HomeError};
use crate::lab::limits;

/// Instances that a machine should be able to hold; what allows fewer fails a check.
const INSTANCES: u64 = 100;

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
#[derive(Debug, Clone)]
struct Facts {
    /// What was tried of what a lab makes use of.
    findings: Vec<Finding>,
    /// Limits that are too low, each with what mends it.
    low: Vec<(String, String)>,
    /// Why there is one user id only.
    ids: Option<String>,
    /// For memory and processor time: where their limits can be put in force, or why they can't.
    resources: Vec<(Controller, Result<PathBuf, String>)>,
    go: Option<PathBuf>,
}

fn gather(surroundings: &Surroundings) -> Facts {
    Facts {
        findings: probe::lab(),
        low: probe::Facts::read().limits.too_low_for(INSTANCES),
        ids: IdMap::choose().note,
        resources: limits::survey(),
        go: crate::build::find_tool("go", &surroundings.path),
    }
}

fn judge(facts: &Facts) -> Vec<Item> {
    let features = facts.findings.iter().map(|finding| feature(finding, &facts.findings));
    features
        .chain([low_limits(facts), ids(facts)])
        .chain(facts.resources.iter().map(resource))
        .chain([go(facts)])
        .collect()
}

/// How the names of checks begin that are about the kernel plane alone.
const KERNEL_PLANE: &str = "kernel-plane-";

/// What every lab needs fails when it is missing; one way to carry packets is enough.
fn feature(finding: &Finding, all: &[Finding]) -> Item {
    let works = |feature| all.iter().any(|f| f.feature == feature && f.state.works());
    let carried = works(Feature::Tap) || (works(Feature::PacketSocket) && works(Feature::Veth));
    let needed = match finding.feature {
        Feature::UserNamespace | Feature::Namespaces | Feature::MountProc | Feature::MountTmpfs => true,
        Feature::Tap | Feature::PacketSocket | Feature::Veth => !carried,
        Feature::TapOffload | Feature::Bridge | Feature::Ifb => false,
        Feature::Htb | Feature::Tbf | Feature::Bpf | Feature::Netem => false,
        Feature::Duplication | Feature::Clsact | Feature::Redirection => false,
    };
    let name = match finding.feature {
        Feature::UserNamespace => "user-namespace",
        Feature::Namespaces => "namespaces",
        Feature::MountProc => "mount-proc",
        Feature::MountTmpfs => "mount-tmpfs",
        Feature::Tap => "tap-devices",
        Feature::TapOffload => "tap-offloads",
        Feature::PacketSocket => "packet-sockets",
        Feature::Veth => "veth-pairs",
        Feature::Bridge => "bridges",
        Feature::Ifb => "ifb-devices",
        Feature::Htb => "kernel-plane-htb",
        Feature::Tbf => "kernel-plane-tbf",
        Feature::Bpf => "kernel-plane-cls-bpf",
        Feature::Netem => "kernel-plane-netem",
        Feature::Duplication => "kernel-plane-duplication",
        Feature::Clsact => "kernel-plane-clsact",
        Feature::Redirection => "kernel-plane-mirred",
    };
    match &finding.state {
        State::Works { detail } => Item::ok(name, detail.as_deref().unwrap_or(finding.feature.title())),
        State::Missing { reason, remedy } => Item {
            name: name.to_owned(),
            status: if needed { Status::Failed } else { Status::Ok },
            message: match (needed, name.starts_with(KERNEL_PLANE)) {
                (true, _) => reason.clone(),
                (false, true) => format!("{reason} (only --plane kernel has a use for it)"),
                (false, false) => format!("{reason} (a run works without)"),
            },
            mend: remedy.clone(),
        },
        State::Untried { needs } => Item {
            name: name.to_owned(),
            status: if needed { Status::Aborted } else { Status::Omitted },
            message: format!("not tried, because it needs what is missing: {}", needs.title()),
            mend: None,
        },
    }
}

fn low_limits(facts: &Facts) -> Item {
    match facts.low.as_slice() {
        [] => Item::ok("limits", &format!("enough for {INSTANCES} instances and more")),
        low => {
            let what: Vec<&str> = low.iter().map(|(what, _)| what.as_str()).collect();
            let mend: Vec<&str> = low.iter().map(|(_, mend)| mend.as_str()).collect();
            Item::failed(
                "limits",
                format!("too low for {INSTANCES} instances: {}", what.join("; ")),
                &mend.join("; "),
            )
        }
    }
}

fn ids(facts: &Facts) -> Item {
    match &facts.ids {
        None => Item::ok("user-ids", "instances may use several user ids"),
        Some(why) => Item {
            mend: Some(
                "apt-get install uidmap; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER".into(),
            ),
            ..Item::ok("user-ids", why)
        },
    }
}

/// A run goes on without limits that can't be put in force, with a warning; so nothing fails here.
fn resource((controller, found): &(Controller, Result<PathBuf, String>)) -> Item {
    let name = format!("limits-of-{controller}");
    match found {
        Ok(at) => {
            Item::ok(&name, &format!("resources.{controller} of groups is put in force, in {}", at.display()))
        }
        Err(why) => Item {
            name,
            status: Status::Ok,
            message: format!(
                "resources.{controller} of groups is not put in force: {why} (a run works without)"
            ),
            mend: Some(
                "root, or a part of cgroup version 2 that was delegated to this user (Delegate= of systemd)"
                    .into(),
            ),
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
    use std::fs;
    use std::path::Path;
    use std::rc::Rc;

    use super::*;

    fn healthy() -> Facts {
        let works = |feature| Finding { feature, state: State::Works { detail: None } };
        Facts {
            findings: Feature::ALL.map(works).to_vec(),
            low: Vec::new(),
            ids: None,
            resources: Controller::ALL.map(|controller| (controller, Ok("/cgroup".into()))).to_vec(),
            go: Some("/usr/bin/go".into()),
        }
    }

    fn without(features: &[Feature]) -> Facts {
        let mut facts = healthy();
        for finding in facts.findings.iter_mut().filter(|f| features.contains(&f.feature)) {
            let remedy = Some(format!("mend {:?}", finding.feature));
            finding.state = State::Missing { reason: "refused".into(), remedy };
        }
        facts
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
        use Feature::{
            Bridge, Ifb, MountProc, Namespaces, PacketSocket, Tap, TapOffload, UserNamespace, Veth,
        };
        let failed = |facts: &Facts| -> Vec<String> {
            let failed = judge(facts).into_iter().filter(|check| check.status == Status::Failed);
            failed.map(|check| format!("{}: {}", check.name, check.mend.unwrap_or_default())).collect()
        };
        assert_eq!(failed(&without(&[UserNamespace])), ["user-namespace: mend UserNamespace"]);
        assert_eq!(failed(&without(&[Namespaces, MountProc])).len(), 2);
        let none: [&str; 0] = [];
        assert_eq!(failed(&without(&[Tap, TapOffload])), none, "packet sockets do");
        assert_eq!(failed(&without(&[PacketSocket, Veth, Bridge, Ifb])), none, "TAP devices do");
        assert_eq!(failed(&without(&[Tap, Veth])), ["tap-devices: mend Tap", "veth-pairs: mend Veth"]);
        let low = vec![("open files: 20".to_owned(), "ulimit -n 1024".to_owned())];
        assert_eq!(failed(&Facts { low, ..healthy() }), ["limits: ulimit -n 1024"]);

        let without_netem = judge(&without(&[Feature::Netem, Feature::Duplication]));
        let found = without_netem.iter().find(|check| check.name == "kernel-plane-netem").unwrap();
        assert_eq!((found.status, found.mend.as_deref()), (Status::Ok, Some("mend Netem")));
        assert_eq!(found.message, "refused (only --plane kernel has a use for it)");

        let mut facts = without(&[UserNamespace]);
        facts.findings[1].state = State::Untried { needs: UserNamespace };
        assert_eq!(judge(&facts)[1].status, Status::Aborted);
        facts.findings[9].state = State::Untried { needs: UserNamespace };
        assert_eq!(judge(&facts)[9].status, Status::Omitted, "no run needs it");
        let lacking =
            judge(&Facts { resources: vec![(Controller::Cpu, Err("no cgroups".into()))], ..healthy() });
        let cpu = lacking.iter().find(|check| check.name == "limits-of-cpu").unwrap();
        assert!(
            cpu.status == Status::Ok && cpu.message.contains("no cgroups") && cpu.mend.is_some(),
            "{cpu:?}"
        );
        let checks = judge(&Facts { go: None, ids: Some("no uidmap".into()), ..healthy() });
        let last: Vec<Status> = checks[checks.len() - 4..].iter().map(|c| c.status).collect();
        assert_eq!(last, [Status::Ok, Status::Ok, Status::Ok, Status::Omitted]);
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

//! The real binary in a fresh directory, read like a shell session.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testground_model::event::{Event, EventKind};
use testground_model::name::InstanceName;
use testground_model::outcome::{InstanceEnd, RunOutcome};

/// A directory with a home, and plans made for one test.
pub(crate) struct Session {
    dir: tempfile::TempDir,
    /// Variables for every command.
    pub(crate) env: Vec<(&'static str, String)>,
}

/// A finished command.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) events: Vec<Event>,
}

/// A run that goes on.
pub(crate) struct Going {
    pub(crate) child: Child,
    events: PathBuf,
}

/// What a manifest needs for a plan without a build.
pub(crate) const SHELL_MANIFEST: &str = r#"name = "plan"
[builders."exec:generic"]
program = "./plan.sh"
[runners."local:exec"]
[[testcases]]
name = "case"
instances = { min = 1, max = 2000, default = 1 }
"#;

/// The whole of a composition for `count` instances of the one group `g`; `more` is put at its top level.
pub(crate) fn composition(count: u32, more: &str) -> String {
    format!(
        r#"[global]
plan = "plan"
case = "case"
builder = "exec:generic"
runner = "local:exec"
total_instances = {count}
[[groups]]
id = "g"
instances = {{ count = {count} }}
{more}
"#
    )
}

/// Names the plane that runs are to be carried by; the default where it is not set.
const PLANE: &str = "TESTGROUND_TEST_PLANE";

pub(crate) fn binary() -> PathBuf {
    match std::env::var_os("TESTGROUND_TEST_BINARY") {
        Some(path) => path.into(),
        None => env!("CARGO_BIN_EXE_testground").into(),
    }
}

/// Says that a test can't run here; fails where nothing may be skipped.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|v| v != "all"), "{test}: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
}

impl Session {
    pub(crate) fn new() -> Session {
        let dir = tempfile::Builder::new().prefix("testground-").tempdir().expect("a temporary directory");
        Session { dir, env: Vec::new() }
    }

    /// A session with the plan `plan`: a script and a composition.
    pub(crate) fn with_plan(script: &str, composition: &str) -> Session {
        let session = Session::new();
        session.write("plan/manifest.toml", SHELL_MANIFEST);
        session.write("plan/composition.toml", composition);
        session.script("plan/plan.sh", script);
        session
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("a file");
        path
    }

    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.write(name, &format!("#!/bin/bash\n{body}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("an executable");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(args)
            .current_dir(self.path())
            .env("TESTGROUND_HOME", self.path().join("home"))
            .env("HOME", self.path())
            .env_remove("LOG_LEVEL")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn testground(&self, args: &[&str]) -> Done {
        self.testground_with_env(args, &[])
    }

    /// Runs a command to its end with more in its environment.
    pub(crate) fn testground_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Done {
        let output = self.command(args).envs(env.iter().copied()).output().expect("the binary runs");
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            events: Vec::new(),
        }
    }

    /// Runs the plan `plan` to its end.
    pub(crate) fn run(&self, more: &[&str]) -> Done {
        self.start(more).wait()
    }

    /// Runs the plan `plan` to its end with more in its environment.
    pub(crate) fn run_with_env(&self, more: &[&str], env: &[(&str, &str)]) -> Done {
        self.start_with_env(more, env).wait()
    }

    /// Starts a run of the plan `plan`.
    pub(crate) fn start(&self, more: &[&str]) -> Going {
        self.start_with_env(more, &[])
    }

    fn start_with_env(&self, more: &[&str], env: &[(&str, &str)]) -> Going {
        let number = fs::read_dir(self.path()).expect("the session").count();
        let events = self.path().join(format!("events-{number}.jsonl"));
        fs::write(&events, "").expect("a file for events");
        let events_text = events.display().to_string();
        let mut args = vec!["run", "--events", &events_text];
        let plane = std::env::var(PLANE).unwrap_or_default();
        if !plane.is_empty() && !more.contains(&"--plane") {
            args.extend(["--plane", &plane]);
        }
        args.extend(more);
        args.push("plan");
        let child = self.command(&args).envs(env.iter().copied()).spawn().expect("the binary runs");
        Going { child, events }
    }
}

impl Going {
    /// The events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Waits until an event fits, for as long as [`until`] does.
    pub(crate) fn until<T>(&mut self, what: &str, fits: impl Fn(&EventKind) -> Option<T>) -> T {
        until(what, || {
            let found = self.events().iter().find_map(|e| fits(&e.kind));
            if found.is_none() && self.child.try_wait().expect("a child").is_some() {
                panic!("the run ended before {what}:\n{}", describe(&self.events()));
            }
            found
        })
    }

    /// Lab init's process id.
    pub(crate) fn lab(&mut self) -> i32 {
        self.until("the lab is up", |e| match e {
            EventKind::LabStarted { pid, .. } => Some(*pid as i32),
            _ => None,
        })
    }

    /// Waits until `count` instances were started and said something.
    pub(crate) fn instances_up(&mut self, count: usize) {
        let events = self.events.clone();
        until("instances are up", || {
            let text = fs::read_to_string(&events).unwrap_or_default();
            (text.matches("\"event\":\"output\"").count() >= count).then_some(())
        });
    }

    /// Where outputs lie.
    pub(crate) fn outputs(&mut self) -> PathBuf {
        self.until("the run is queued", |e| match e {
            EventKind::RunQueued { outputs, .. } => Some(PathBuf::from(outputs)),
            _ => None,
        })
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        signal_process(self.child.id() as i32, signal);
    }

    pub(crate) fn wait(self) -> Done {
        let events = self.events.clone();
        let output = self.child.wait_with_output().expect("a child");
        let text = fs::read_to_string(&events).unwrap_or_default();
        let parse = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            events: whole.lines().map(parse).collect(),
        }
    }

    /// The run's id.
    pub(crate) fn run_id(&self) -> String {
        until("the run has an id", || self.events().first().map(|e| e.run.to_string()))
    }
}

impl Done {
    /// The run's id.
    pub(crate) fn run_id(&self) -> String {
        self.events.first().expect("an event").run.to_string()
    }

    pub(crate) fn outcome(&self) -> RunOutcome {
        let found = self.events.iter().rev().find_map(|e| match &e.kind {
            EventKind::RunFinished { outcome, .. } => Some(outcome.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("the run has no outcome: {self:?}"))
    }

    pub(crate) fn assert_success(&self) {
        assert_eq!(self.outcome(), RunOutcome::Success, "{self:?}");
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    /// The cause of a run that failed.
    pub(crate) fn cause(&self) -> String {
        self.outcome().cause().unwrap_or_default().to_owned()
    }

    /// How an instance ended.
    pub(crate) fn end(&self, group: &str, index: u32) -> InstanceEnd {
        let name = InstanceName::new(group, index);
        let found = self.events.iter().find_map(|e| match &e.kind {
            EventKind::InstanceEnded { instance, end, .. } if *instance == name => Some(end.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{name} has not ended: {self:?}"))
    }

    /// What instances wrote to stdout, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |e: &Event| match &e.kind {
            EventKind::Output { line, .. } => Some(line.clone()),
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }

    /// The run's id.
    pub(crate) fn run(&self) -> String {
        self.events.first().expect("an event").run.to_string()
    }

    /// Where outputs lie.
    pub(crate) fn outputs(&self) -> PathBuf {
        let found = self.events.iter().find_map(|e| match &e.kind {
            EventKind::RunQueued { outputs, .. } => Some(PathBuf::from(outputs)),
            _ => None,
        });
        found.expect("a place for outputs")
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let warning = |e: &Event| match &e.kind {
            EventKind::Warning { message } => Some(message.clone()),
            _ => None,
        };
        self.events.iter().filter_map(warning).collect()
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}", self.code)?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)?;
        writeln!(f, "--- events\n{}", describe(&self.events))
    }
}

fn describe(events: &[Event]) -> String {
    let skipped = events.len().saturating_sub(60);
    events.iter().skip(skipped).map(|e| format!("{:?}\n", e.kind)).collect()
}

/// How long anything may take on a machine that is busy with something else. It costs time where something is broken only.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Asks again and again, at most for [`PATIENCE`].
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{PATIENCE:?} passed before {what}");
        pause();
    }
}

/// How long something is measured again. With three processes spinning and two compilers beside, one run of `plans/quic` in three
/// is good.
const MEASURING: Duration = Duration::from_secs(600);

/// Measures until all is as it should be, at most for [`MEASURING`]: a machine that is busy with something else spoils the
/// measurements of that time, a network that is wrong spoils every one.
pub(crate) fn measured<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    for attempts in 1.. {
        match attempt() {
            Ok(good) => return good,
            Err(e) => assert!(begun.elapsed() < MEASURING, "wrong {attempts} times, the last time: {e}"),
        }
        pause();
    }
    unreachable!("it returns or fails")
}

#[allow(
    clippy::disallowed_methods,
    reason = "a process is observed from outside: nothing tells when it is gone"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

pub(crate) fn signal_process(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    let _ = rustix::process::kill_process(pid, signal);
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Processes whose environment or command line names the session.
pub(crate) fn processes_marked(session: &Path) -> Vec<i32> {
    let marker = session.display().to_string();
    let contains = |path: String| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(marker.len()).any(|w| w == marker.as_bytes()))
    };
    let me = std::process::id() as i32;
    let pids = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&p| p != me && is_alive(p))
        .filter(|p| contains(format!("/proc/{p}/environ")) || contains(format!("/proc/{p}/cmdline")))
        .collect()
}

/// The first child of a process, by what the kernel says.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

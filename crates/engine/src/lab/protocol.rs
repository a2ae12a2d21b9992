//! What client, supervisor, lab init and instance inits say to each other.
//!
//! Client and supervisor exchange JSON lines over a stream; supervisor and init exchange single messages with
//! descriptors over a sequenced-packet channel. All ends are the same executable, so nothing here is versioned.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use testground_model::event::{EventKind, InstanceWait};
use testground_model::name::{InstanceName, RunId};
use testground_model::run::Run;

/// The first line from client to supervisor: all that the lab needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    /// The run's id.
    pub id: RunId,
    /// The run.
    pub run: Run,
    /// The run's folder; `<group>/<index>/` in it belongs to an instance.
    pub outputs: PathBuf,
    /// What each group executes.
    pub programs: BTreeMap<String, Program>,
    /// Seconds since 1970, for `TEST_START_TIME`.
    pub start_time: String,
    /// Whose packets are captured.
    pub capture: Capture,
    /// Whether every decision of the links is recorded.
    pub record: bool,
    /// Whether the run has cgroups, for the instances of groups with limits.
    pub cgroups: bool,
    /// Lab init's process id, as the machine sees it; filled in when it is known.
    pub lab_pid: u32,
}

/// Whose packets are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Nobody's.
    Nobody,
    /// Those of these instances.
    Some(Vec<InstanceName>),
    /// Everybody's.
    All,
}

/// What an instance executes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// The executable, absolute.
    pub path: PathBuf,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// The plan's sources, for `TEST_PLAN_DIR`.
    pub plan_dir: PathBuf,
}

/// From the client, after [`Setup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Let the instances go.
    Release,
    /// End all instances: SIGTERM, the grace, SIGKILL; then report and finish.
    Stop,
    /// Say what every living instance waits for: answered with [`Notice::Waits`].
    Explain,
    /// Everything is reported: end the lab.
    Finish,
}

/// From the supervisor to the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Something for the record.
    Event {
        /// Nanoseconds since 1970.
        ts: u64,
        /// What.
        kind: Box<EventKind>,
    },
    /// The network stands and every shape is measured; the lab waits for [`Command::Release`].
    Ready,
    /// What living instances wait for.
    Waits(Vec<InstanceWait>),
    /// Every instance has ended and every output is written.
    AllEnded,
    /// The lab can't go on; the last line it says.
    Broken {
        /// What, and why.
        cause: String,
    },
}

/// From supervisor to init.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Start an instance. Descriptors: network namespace, stdout, stderr.
    Spawn {
        /// The number by which it is known between the two.
        number: u32,
        /// What.
        spec: InstanceSpec,
    },
    /// Send a signal to an instance's program (through its init), or SIGKILL to all of it.
    Signal {
        /// Which.
        number: u32,
        /// The signal's number.
        signal: i32,
    },
    /// Start a command inside an instance. Descriptors: network namespace, stdin, stdout, stderr.
    Exec {
        /// The number by which the command is known.
        number: u32,
        /// The instance to enter; when it has ended, a new one with the same view is made.
        target: u32,
        /// What.
        spec: InstanceSpec,
    },
}

/// From init to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tidings {
    /// The instance's init runs; process ids as the lab sees them.
    Started {
        /// Which.
        number: u32,
        /// Its init.
        pid: i32,
    },
    /// The kernel has killed processes of the instance because it reached its limit of memory. Sent before [`Self::Ended`].
    OutOfMemory {
        /// Which.
        number: u32,
        /// How many.
        kills: u64,
    },
    /// The program ended. Sent once for each `Spawn` and `Exec`.
    Ended {
        /// Which.
        number: u32,
        /// How.
        end: ProgramEnd,
    },
}

/// How a program ended, as the process that waited for it saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramEnd {
    /// It exited.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The number.
        signal: i32,
        /// Whether it wrote a core.
        core: bool,
    },
    /// It never ran.
    NotStarted(String),
    /// Its init was killed from outside, and it with it.
    InitKilled,
}

/// An instance as its init sets it up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Its host name.
    pub hostname: String,
    /// The program.
    pub program: PathBuf,
    /// Arguments, the program's own name first.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// Its cgroup in the run's, if it has limits.
    pub cgroup: Option<String>,
}

/// Largest message between supervisor and init, and at the lab's door: an instance's environment fits.
pub const MAX_MESSAGE: usize = 128 << 10;

/// Paths inside the lab. They exist in its own mount namespace only.
pub mod paths {
    /// The lab's own folder, a tmpfs.
    pub const LAB: &str = "/testground";
    /// Where `testground` itself is found.
    pub const BIN: &str = "/testground/bin";
    /// Each instance's temporary directory is below.
    pub const TMP: &str = "/testground/tmp";
    /// The file that every instance sees as `/etc/hosts`.
    pub const HOSTS: &str = "/testground/hosts";
    /// The file that every instance sees as `/etc/nsswitch.conf`.
    pub const NSSWITCH: &str = "/testground/nsswitch.conf";
    /// Where other clients knock (`exec`, `network show`): a socket's name in [`LAB`].
    pub const SOCKET: &str = "lab.sock";
}

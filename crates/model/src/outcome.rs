//! How instances, groups and runs end, and the exit codes that say so.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum InstanceEnd {
    /// It reported success and exited 0, or speaks no event protocol at all and exited 0.
    Succeeded,
    /// It reported a failure.
    ReportedFailure {
        /// What it said.
        error: String,
    },
    /// It reported a crash (a panic that its SDK caught).
    ReportedCrash {
        /// What it said.
        error: String,
    },
    /// It exited with another code than 0.
    ExitCode {
        /// The code, 1 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it wrote a core.
        core: bool,
    },
    /// SIGKILL that we didn't send, while the kernel's count of out-of-memory kills rose.
    ProbablyOutOfMemory,
    /// It speaks the event protocol, exited 0, and never said how it went.
    NoOutcome,
    /// The program could not be started.
    NotStarted {
        /// Why.
        error: String,
    },
    /// Its request to the network could not be honoured, so it was ended.
    NetworkRefused {
        /// Which request, and why.
        error: String,
    },
    /// The run ended before it did.
    Stopped,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum RunOutcome {
    /// Every group is whole.
    Success,
    /// Something failed; the first cause, in words that name the culprit.
    Failure {
        /// The cause.
        cause: String,
    },
    /// The time was over; what each instance waited for.
    TimedOut {
        /// The cause.
        cause: String,
    },
    /// Somebody pressed Ctrl-C or sent a signal.
    Interrupted,
    /// The lab went away under the run.
    LabLost {
        /// What is known of how.
        cause: String,
    },
    /// The artifact could not be built.
    BuildFailed {
        /// Which group, and how its tool ended.
        cause: String,
    },
}

/// How many of a group's instances succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupTally {
    /// Those that succeeded.
    pub ok: u32,
    /// All of them.
    pub total: u32,
}

/// The exit codes of the command line: one table for `--help`, the documentation and the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// The run, or the command, did what was asked.
    Success = 0,
    /// The run failed, or a check did.
    Failed = 1,
    /// The command line, a manifest, a composition or the machine does not allow it; nothing was started.
    Configuration = 2,
    /// Outputs could not be collected.
    Collect = 3,
    /// An artifact could not be built.
    Build = 4,
    /// The run's time was over.
    Timeout = 5,
    /// The lab went away under the run.
    LabLost = 6,
    /// Interrupted by a signal (128 + SIGINT).
    Interrupted = 130,
}

// === impl InstanceEnd ===

impl InstanceEnd {
    /// Whether the instance did what its plan wanted.
    pub fn is_success(&self) -> bool {
        matches!(self, InstanceEnd::Succeeded)
    }

    /// Whether it counts against the run by itself: `Stopped` is a consequence, never a cause.
    pub fn is_cause(&self) -> bool {
        !matches!(self, InstanceEnd::Succeeded | InstanceEnd::Stopped)
    }
}

impl fmt::Display for InstanceEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstanceEnd::Succeeded => f.write_str("succeeded"),
            InstanceEnd::ReportedFailure { error } => write!(f, "reported a failure: {error}"),
            InstanceEnd::ReportedCrash { error } => write!(f, "crashed: {error}"),
            InstanceEnd::ExitCode { code } => write!(f, "exited with code {code}"),
            InstanceEnd::Signal { signal, core } => {
                let core = if *core { " (core dumped)" } else { "" };
                write!(f, "was ended by {}{core}", signal_name(*signal))
            }
            InstanceEnd::ProbablyOutOfMemory => f.write_str("was killed, probably for want of memory"),
            InstanceEnd::NoOutcome => f.write_str("exited with code 0 without reporting an outcome"),
            InstanceEnd::NotStarted { error } => write!(f, "could not be started: {error}"),
            InstanceEnd::NetworkRefused { error } => {
                write!(f, "was ended because its network request can't be honoured: {error}")
            }
            InstanceEnd::Stopped => f.write_str("was stopped with the run"),
        }
    }
}

/// The name of a signal of Linux (x86, arm: the numbers of signal(7)), or `signal N`.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    let name = usize::try_from(signal - 1).ok().and_then(|i| NAMES.get(i));
    name.map_or_else(|| format!("signal {signal}"), |&n| n.to_owned())
}

// === impl RunOutcome ===

impl RunOutcome {
    /// The word that scripts read: `success`, `failure` or `canceled`.
    pub fn word(&self) -> &'static str {
        match self {
            RunOutcome::Success => "success",
            RunOutcome::Interrupted => "canceled",
            _ => "failure",
        }
    }

    /// The cause in words, where there is one.
    pub fn cause(&self) -> Option<&str> {
        match self {
            RunOutcome::Success => None,
            RunOutcome::Interrupted => Some("interrupted"),
            RunOutcome::Failure { cause }
            | RunOutcome::TimedOut { cause }
            | RunOutcome::LabLost { cause }
            | RunOutcome::BuildFailed { cause } => Some(cause),
        }
    }

    /// The exit code that belongs to it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            RunOutcome::Success => ExitCode::Success,
            RunOutcome::Failure { .. } => ExitCode::Failed,
            RunOutcome::TimedOut { .. } => ExitCode::Timeout,
            RunOutcome::Interrupted => ExitCode::Interrupted,
            RunOutcome::LabLost { .. } => ExitCode::LabLost,
            RunOutcome::BuildFailed { .. } => ExitCode::Build,
        }
    }
}

// === impl ExitCode ===

impl ExitCode {
    /// The table: every code with what it means.
    pub const TABLE: [(ExitCode, &'static str); 8] = [
        (ExitCode::Success, "success"),
        (ExitCode::Failed, "the run failed (or a check of healthcheck did)"),
        (ExitCode::Configuration, "configuration: nothing was started"),
        (ExitCode::Collect, "outputs could not be collected"),
        (ExitCode::Build, "a build failed"),
        (ExitCode::Timeout, "the run's time was over"),
        (ExitCode::LabLost, "the lab was lost under the run"),
        (ExitCode::Interrupted, "interrupted"),
    ];
}

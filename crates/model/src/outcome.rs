//! How instances, groups and runs end, and the exit codes that say so.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Lateness;
use crate::units::show_size;

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
    /// The kernel killed it, or a process of it, because it reached its group's `resources.memory`.
    OutOfMemory {
        /// The limit, bytes.
        limit: u64,
        /// The code with which the program itself exited then; none if it was the one that was killed.
        code: Option<i32>,
    },
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

/// An emulator that was later than a run tolerates, or lost packets that no shape says: a part of the run's outcome, since
/// what its instances measured, and perhaps why they failed, is the emulator's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EmulatorLate {
    /// Released minus due, microseconds: the 99th percentile.
    pub late_p99_us: f64,
    /// What was tolerated of it.
    pub tolerated_us: f64,
    /// Packets that the emulator dropped because it did not manage.
    pub dropped: u64,
    /// All packets that should have passed.
    pub packets: u64,
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
            InstanceEnd::OutOfMemory { limit, code: None } => {
                write!(f, "was killed for want of memory: its limit is {}", show_size(*limit))
            }
            InstanceEnd::OutOfMemory { limit, code: Some(code) } => write!(
                f,
                "exited with code {code} after a process of it was killed for want of memory: its limit is {}",
                show_size(*limit)
            ),
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
    /// How it ended, for people.
    pub fn title(&self) -> &'static str {
        match self {
            RunOutcome::Success => "success",
            RunOutcome::Failure { .. } => "failure",
            RunOutcome::TimedOut { .. } => "timed out",
            RunOutcome::Interrupted => "interrupted",
            RunOutcome::LabLost { .. } => "lab lost",
            RunOutcome::BuildFailed { .. } => "build failed",
        }
    }

    /// The word of the original that scripts read in the log and in `--result-file`: `success`, `failure` or `canceled`;
    /// people read [`RunOutcome::title`].
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

// === impl EmulatorLate ===

impl EmulatorLate {
    /// The finding on an emulator's record: `None` when it was as it should, as far as it knows. One packet in a hundred may be later than
    /// tolerated, and one in a hundred may be dropped.
    pub fn find(record: &Lateness, tolerated: Duration) -> Option<EmulatorLate> {
        let found = EmulatorLate {
            late_p99_us: record.late.map_or(0.0, |late| late.p99_us),
            tolerated_us: tolerated.as_secs_f64() * 1e6,
            dropped: record.shortfall,
            packets: record.packets + record.shortfall,
        };
        (found.is_late() || found.is_short()).then_some(found)
    }

    fn is_late(&self) -> bool {
        self.late_p99_us > self.tolerated_us
    }

    fn is_short(&self) -> bool {
        self.dropped.saturating_mul(100) > self.packets
    }
}

impl fmt::Display for EmulatorLate {
    /// `emulator late: 1 packet in 100 left 4.2 ms or more after its time (1.0 ms is tolerated)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EmulatorLate { late_p99_us, tolerated_us, dropped, packets } = self;
        f.write_str("emulator late: ")?;
        if self.is_late() {
            let (late, tolerated) = (span(*late_p99_us), span(*tolerated_us));
            write!(f, "1 packet in 100 left {late} or more after its time ({tolerated} is tolerated)")?;
        }
        if self.is_short() {
            let and = if self.is_late() { "; " } else { "" };
            write!(f, "{and}it dropped {dropped} of {packets} packets itself")?;
        }
        Ok(())
    }
}

/// A time in microseconds for people, in the unit that leaves something of it.
fn span(us: f64) -> String {
    match us {
        us if us >= 100.0 => format!("{:.1} ms", us / 1000.0),
        us if us >= 1.0 || us == 0.0 => format!("{us:.1} µs"),
        us => format!("{:.0} ns", us * 1000.0),
    }
}

// === impl ExitCode ===

impl ExitCode {
    /// The table: every code with what it means.
    pub const TABLE: [(ExitCode, &'static str); 8] = [
        (ExitCode::Success, "success; also on an emulator that was late, which the outcome then says"),
        (
            ExitCode::Failed,
            "the run failed (or a check of healthcheck did; or, with --late-fails, the emulator was late)",
        ),
        (ExitCode::Configuration, "configuration: nothing was started"),
        (ExitCode::Collect, "outputs could not be collected"),
        (ExitCode::Build, "a build failed"),
        (ExitCode::Timeout, "the run's time was over"),
        (ExitCode::LabLost, "the lab was lost under the run"),
        (ExitCode::Interrupted, "interrupted"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Late;

    fn record(late_p99_us: f64, packets: u64, shortfall: u64) -> Option<EmulatorLate> {
        let late = Some(Late { p99_us: late_p99_us, ..Late::default() });
        let record = Lateness { late, packets, shortfall, ..Lateness::default() };
        EmulatorLate::find(&record, Duration::from_millis(1))
    }

    #[test]
    fn an_emulator_within_its_tolerance_is_not_mentioned() {
        assert_eq!(record(1000.0, 9900, 100), None);
        assert_eq!(record(0.0, 0, 0), None);
    }

    #[test]
    fn what_the_emulator_did_is_said_with_figures() {
        let said = |late, packets, dropped| record(late, packets, dropped).unwrap().to_string();
        assert_eq!(
            said(4200.0, 1000, 0),
            "emulator late: 1 packet in 100 left 4.2 ms or more after its time (1.0 ms is tolerated)"
        );
        let strict = |late_p99_us, tolerated_us| {
            EmulatorLate { late_p99_us, tolerated_us, dropped: 0, packets: 10 }.to_string()
        };
        assert!(strict(42.0, 10.0).ends_with("left 42.0 µs or more after its time (10.0 µs is tolerated)"));
        assert!(strict(0.2, 0.0).ends_with("left 200 ns or more after its time (0.0 µs is tolerated)"));
        assert_eq!(said(10.0, 90, 10), "emulator late: it dropped 10 of 100 packets itself");
        assert!(said(4200.0, 0, 7).ends_with("tolerated); it dropped 7 of 7 packets itself"));
    }
}

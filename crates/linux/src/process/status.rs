//! A child process, and how it ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

use super::{ProcessError, signal_name};

/// A process started by this one: its id, and a descriptor that stays true when the id is used again.
///
/// Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Its id, in this process's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Gives up the record for its descriptor, which becomes readable when the process ends.
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// Sends a signal. A process that has ended already is no error.
    ///
    /// # Errors
    /// `EPERM`, when the process changed its user.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(source) => Err(ProcessError::Call { what: "send a signal", source }),
        }
    }

    /// Waits until it ends, and reaps it.
    ///
    /// # Errors
    /// `ECHILD` when somebody else (such as [`reap`]) has reaped it.
    pub fn wait(&self) -> Result<ExitStatus, ProcessError> {
        loop {
            if let Some(status) = self.wait_with(WaitIdOptions::EXITED)? {
                return Ok(status);
            }
        }
    }

    /// Reaps it if it has ended.
    ///
    /// # Errors
    /// `ECHILD` when somebody else has reaped it.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, ProcessError> {
        self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn wait_with(&self, options: WaitIdOptions) -> Result<Option<ExitStatus>, ProcessError> {
        let status =
            rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options))
                .map_err(ProcessError::call("wait for a child process"))?;
        Ok(status.and_then(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(ExitStatus::Exited(code)),
            (None, Some(signal)) => Some(ExitStatus::Signaled { signal, core: status.dumped() }),
            (None, None) => None,
        }))
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number; real-time signals have no name.
        signal: i32,
        /// Whether a core file was written.
        core: bool,
    },
}

impl ExitStatus {
    /// Exited with 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// What a shell would show: the code, or 128 and the signal's number.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => 128 + signal,
        }
    }

    fn from_wait(raw: i32) -> Option<Self> {
        if libc::WIFEXITED(raw) {
            Some(Self::Exited(libc::WEXITSTATUS(raw)))
        } else if libc::WIFSIGNALED(raw) {
            Some(Self::Signaled { signal: libc::WTERMSIG(raw), core: libc::WCOREDUMP(raw) })
        } else {
            None
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled { signal, core } => {
                write!(f, "signal {}", signal_name(*signal))?;
                if *core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
        }
    }
}

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This child had ended.
    Ended(Pid, ExitStatus),
    /// There are children, all alive.
    AllAlive,
    /// There is no child at all.
    NoChildren,
}

/// Reaps one child that has ended, any of them; adopted orphans of a subreaper or of process 1 too. Never waits.
///
/// # Errors
/// None that the man page knows besides those handled.
pub fn reap() -> Result<Reaped, ProcessError> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(None) => return Ok(Reaped::AllAlive),
            Ok(Some((pid, status))) => match ExitStatus::from_wait(status.as_raw()) {
                Some(status) => return Ok(Reaped::Ended(pid, status)),
                None => continue,
            },
            Err(Errno::CHILD) => return Ok(Reaped::NoChildren),
            Err(Errno::INTR) => continue,
            Err(source) => return Err(ProcessError::Call { what: "reap a child process", source }),
        }
    }
}

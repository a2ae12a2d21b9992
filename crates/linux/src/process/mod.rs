//! Processes in namespaces: how they are started, waited for and signalled.
//!
//! Two ways to start one, because a clone of a process with several threads must not run ordinary code:
//! [`spawn_exec`] from anywhere (everything is prepared before the clone, the child only makes system calls and
//! executes a program), and [`fork_child`] from a process with a single thread, whose child runs any closure.
//! What a child is allowed to do belongs in `caps`; which network it sees belongs in `netns`.

mod clone;
mod exec;
mod idmap;
mod inherited;
mod leash;
mod setup;
mod signal;
mod status;

pub use clone::{clone_process, fork_child};
pub use exec::{Session, SpawnExec, Suspended, spawn_exec, spawn_suspended};
pub use idmap::{ChosenIdMap, IdMap, IdMapError, IdRange};
pub use inherited::inherited;
pub use leash::LeashedGroup;
pub use rustix::process::{Pid, Signal};
pub use setup::{
    become_subreaper, close_from, ids, new_session, nofile_limit, pidfd_open, set_hostname, set_nofile_limit,
    set_parent_death_signal, set_process_name, set_umask,
};
pub use signal::{SignalFd, SignalSet, signal_all_others, signal_from_number, signal_name};
pub use status::{Child, ExitStatus, Reaped, reap};

use rustix::io::Errno;

/// The namespaces that a new process gets for itself. All false: it shares everything with its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Users and capabilities.
    pub user: bool,
    /// Process ids; the new process is number 1 in it.
    pub pid: bool,
    /// The mount table.
    pub mount: bool,
    /// Network interfaces, addresses, routes.
    pub net: bool,
    /// System V and POSIX message queues, shared memory.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

impl Namespaces {
    /// Shares all with the parent.
    pub const NONE: Self = Self { user: false, pid: false, mount: false, net: false, ipc: false, uts: false };
    /// What a lab has of its own.
    pub const LAB: Self = Self { user: true, pid: true, mount: true, net: true, ipc: true, uts: true };
    /// What a container has of its own inside its pod.
    pub const CONTAINER: Self =
        Self { user: false, pid: true, mount: true, net: false, ipc: false, uts: true };

    pub(crate) fn flags(self) -> u64 {
        [
            (self.user, libc::CLONE_NEWUSER),
            (self.pid, libc::CLONE_NEWPID),
            (self.mount, libc::CLONE_NEWNS),
            (self.net, libc::CLONE_NEWNET),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |flags, (_, flag)| flags | *flag as u64)
    }
}

impl std::fmt::Display for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (self.user, "user"),
            (self.pid, "pid"),
            (self.mount, "mount"),
            (self.net, "net"),
            (self.ipc, "ipc"),
            (self.uts, "uts"),
        ];
        let named: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(if named.is_empty() { "none" } else { "" })?;
        f.write_str(&named.join(","))
    }
}

/// Why a process could not be started, waited for or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel refused the new process or its namespaces.
    #[error("failed to start a process with its own namespaces ({namespaces}): {}", hint(*namespaces, *source))]
    Clone {
        /// What was asked for.
        namespaces: Namespaces,
        /// The kernel's answer.
        source: Errno,
    },
    /// A closure may only run in the clone of a process that has one thread.
    #[error(
        "failed to fork: the process has {threads} threads, and only a single-threaded one may run code in its child"
    )]
    Threads {
        /// How many there are.
        threads: usize,
    },
    /// The user namespace's id map could not be written.
    #[error("failed to map user ids into the new namespace")]
    IdMap(#[from] IdMapError),
    /// A string for the kernel holds a NUL byte.
    #[error("failed to start {program:?}: {what} holds a NUL byte")]
    Nul {
        /// The program meant.
        program: String,
        /// Which of its strings.
        what: &'static str,
    },
    /// A step in the child, between the clone and the program, failed.
    #[error("failed to start {program:?}: {step} failed")]
    Setup {
        /// The program meant.
        program: String,
        /// What was attempted.
        step: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// The program could not be executed.
    #[error("failed to execute {program:?}")]
    Exec {
        /// The program meant.
        program: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// Any other call about processes.
    #[error("failed to {what}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
}

impl ProcessError {
    pub(crate) fn call(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Call { what, source }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Clone { source, .. }
            | Self::Setup { source, .. }
            | Self::Exec { source, .. }
            | Self::Call { source, .. } => Some(*source),
            Self::Threads { .. } | Self::IdMap(_) | Self::Nul { .. } => None,
        }
    }
}

/// The usual reason behind an error number of `clone3` (see clone(2)), where there is one.
fn hint(namespaces: Namespaces, errno: Errno) -> &'static str {
    match errno {
        Errno::PERM if namespaces.user => "user namespaces are not allowed here",
        Errno::PERM => "not permitted without a user namespace or root",
        Errno::NOSPC => "the limit of namespaces is reached (/proc/sys/user/max_*_namespaces)",
        Errno::USERS => "too many nested user namespaces",
        Errno::AGAIN => "the limit of processes is reached",
        Errno::NOMEM => "out of memory, or process 1 of the PID namespace is gone",
        Errno::NOSYS => "clone3 is missing or filtered (Linux 5.3 or newer is needed)",
        _ => "the kernel refused",
    }
}

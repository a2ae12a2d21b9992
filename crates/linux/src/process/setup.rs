//! What a process changes about itself, each one system call with a name.

use std::ffi::CString;
use std::os::fd::{OwnedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};

use super::ProcessError;
use crate::last_errno;

/// Has the kernel send this signal to the calling process when the *thread* that started it ends (prctl(2)). Ask
/// afterwards whether the parent still lives: it may have ended before this call.
///
/// # Errors
/// None in practice.
pub fn set_parent_death_signal(signal: Option<Signal>) -> Result<(), ProcessError> {
    rustix::process::set_parent_process_death_signal(signal)
        .map_err(ProcessError::call("set the signal of the parent's death"))
}

/// Makes this process adopt the orphans among its descendants, as process 1 does.
///
/// # Errors
/// None in practice.
pub fn become_subreaper() -> Result<(), ProcessError> {
    // Any process id stands for "on": the kernel only looks whether the number is zero.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(ProcessError::call("become a subreaper"))
}

/// Leaves the session and the process group for new ones.
///
/// # Errors
/// `EPERM` when this process leads a process group already.
pub fn new_session() -> Result<Pid, ProcessError> {
    rustix::process::setsid().map_err(ProcessError::call("start a new session"))
}

/// Names the UTS namespace's host.
///
/// # Errors
/// `EINVAL` over 64 bytes; `EPERM` without CAP_SYS_ADMIN over the namespace.
pub fn set_hostname(name: &str) -> Result<(), ProcessError> {
    rustix::system::sethostname(name.as_bytes()).map_err(ProcessError::call("set the host name"))
}

/// Names this process's main thread as `ps` and `/proc/PID/comm` show it: cut to 15 bytes, NUL bytes taken out.
///
/// # Errors
/// None in practice.
pub fn set_process_name(name: &str) -> Result<(), ProcessError> {
    let short: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    let name = CString::new(short).expect("NUL bytes are filtered");
    rustix::thread::set_name(&name).map_err(ProcessError::call("name the process"))
}

/// Sets the file mode creation mask (the lower nine bits count) and returns the one before.
pub fn set_umask(mask: u32) -> u32 {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask & 0o777)).as_raw_mode()
}

/// The limit of open descriptors: what is in force, and what it may be raised to. `u64::MAX` stands for no limit.
pub fn nofile_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// Sets the limit of open descriptors of a process (none: this one) to `wanted`, or to its hard limit where raising that
/// is not permitted. Returns what is in force then.
///
/// # Errors
/// `EPERM` over a process of another user.
pub fn set_nofile_limit(pid: Option<Pid>, wanted: u64) -> Result<u64, ProcessError> {
    let (_, hard) = nofile_limit();
    let set = |current: u64, maximum: u64| {
        rustix::process::prlimit(
            pid,
            Resource::Nofile,
            Rlimit { current: Some(current), maximum: Some(maximum) },
        )
    };
    if wanted > hard && set(wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let reached = wanted.min(hard);
    set(reached, hard).map_err(ProcessError::call("set the limit of open descriptors"))?;
    Ok(reached)
}

/// Marks every descriptor from `first` on to be closed when this process executes a program.
///
/// # Errors
/// `ENOSYS` or `EINVAL` before Linux 5.11.
pub fn close_from(first: RawFd) -> Result<(), ProcessError> {
    // SAFETY: only marks descriptors; none is closed now, so no owner of one is surprised.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    };
    if result < 0 {
        return Err(ProcessError::Call { what: "mark descriptors close-on-exec", source: last_errno() });
    }
    Ok(())
}

/// A descriptor of a process by its id.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, ProcessError> {
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(ProcessError::call("open a process by its id"))
}

/// The effective user and group of this process.
pub fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

pub(super) const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

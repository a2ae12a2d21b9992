//! The bare clone: one system call, and what the child does is given as a closure.

use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::process::Pid;

use super::{Child, Namespaces, ProcessError};
use crate::last_errno;

/// What a child exits with when its closure panicked: the same as a Rust program whose main panicked.
const PANIC_EXIT: i32 = 101;

/// Starts a process that runs `child` and exits with what it returns, as a copy of this one (fork semantics).
///
/// Nothing but the calling thread exists in the child. Its exit runs no destructor and no `atexit` handler.
///
/// # Errors
/// The kernel's refusal of the process or of a namespace.
///
/// # Safety
/// When this process has other threads, `child` must only do what is allowed in a signal handler: a lock that another
/// thread held at this moment stays locked for ever in the child, the allocator's among them.
pub unsafe fn clone_process(
    namespaces: Namespaces,
    child: impl FnOnce() -> i32,
) -> Result<Child, ProcessError> {
    let mut pidfd: libc::c_int = -1;
    let mut arguments = CloneArgs {
        flags: namespaces.flags() | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments live across the call, the stack is shared copy-on-write as with fork (no CLONE_VM), and the
    // caller vouches for what the closure does.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArgs>()) };
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANIC_EXIT);
        // SAFETY: ends this process at once; nothing of it is used afterwards.
        unsafe { libc::_exit(code) }
    }
    if pid < 0 {
        return Err(ProcessError::Clone { namespaces, source: last_errno() });
    }
    // SAFETY: the call succeeded, so the kernel has stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = Pid::from_raw(pid as i32).expect("a child's id is positive");
    Ok(Child::new(pid, pidfd))
}

/// Starts a process that runs `child` and exits with what it returns. Any code may run in it, because this process
/// has no other thread. Its descriptors are all shared with the child; nothing is closed.
///
/// # Errors
/// [`ProcessError::Threads`] when this process has several threads, or the kernel's refusal.
pub fn fork_child(namespaces: Namespaces, child: impl FnOnce() -> i32) -> Result<Child, ProcessError> {
    let threads = thread_count().map_err(ProcessError::call("count the threads of this process"))?;
    if threads != 1 {
        return Err(ProcessError::Threads { threads });
    }
    // SAFETY: this thread is the only one, so no lock is held by another.
    unsafe { clone_process(namespaces, child) }
}

/// The number of threads, from field 20 of /proc/self/stat (proc_pid_stat(5)), or, where /proc belongs to another PID
/// namespace (a new lab before its first mount), from what the kernel says to an `unshare` that only a
/// single-threaded process may make.
fn thread_count() -> Result<usize, Errno> {
    if let Ok(text) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, rest)) = text.rsplit_once(')')
        && let Some(count) = rest.split_ascii_whitespace().nth(17)
    {
        return count.parse().map_err(|_| Errno::INVAL);
    }
    // CLONE_VM asks for nothing but the check: unshare(2), "does nothing if the process is single-threaded".
    // SAFETY: the flag changes nothing.
    match unsafe { libc::unshare(libc::CLONE_VM) } {
        0 => Ok(1),
        _ => Ok(2),
    }
}

/// `struct clone_args` of clone(2), its first version (Linux 5.3): later fields are not used here.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

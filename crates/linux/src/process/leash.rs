//! A process group that can't outlive this process, whatever way that ends.
//!
//! The group's leader is a keeper: a copy of this process that does nothing but wait at a pipe whose other end this
//! process holds. The kernel closes that end with the process, and the keeper then kills its group, itself included.
//! The keeper is there before anybody joins, so that no moment is left uncovered, and as long as it isn't reaped the
//! group's id can't be another group's. A program that leaves the group leaves the leash too.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use super::{Child, Namespaces, ProcessError, SignalSet, clone_process};
use crate::last_errno;

/// A process group for others to join. Dropping it kills all who are in it.
#[derive(Debug)]
pub struct LeashedGroup {
    keeper: Child,
    _held: OwnedFd,
}

// === impl LeashedGroup ===

impl LeashedGroup {
    /// Makes the group.
    ///
    /// # Errors
    /// When the kernel refuses the pipe, the process or the group.
    pub fn new() -> Result<Self, ProcessError> {
        let (read, held) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(ProcessError::call("open a pipe"))?;
        // Blocked in the keeper for good: the terminal's signals are not for it.
        let mask = SignalSet::all().block_only();
        // SAFETY: `keep` makes system calls only, so it may follow the clone of a process with many threads.
        let keeper = unsafe { clone_process(Namespaces::NONE, || keep(read.as_raw_fd())) };
        mask.block_only();
        let group = Self { keeper: keeper?, _held: held };
        // Both sides set it: whoever comes first, the group is there when this returns.
        let pid = group.keeper.pid();
        rustix::process::setpgid(Some(pid), Some(pid)).map_err(ProcessError::call("make a process group"))?;
        Ok(group)
    }

    /// Its id, for `setpgid(2)` or `CommandExt::process_group`.
    pub fn id(&self) -> Pid {
        self.keeper.pid()
    }
}

impl Drop for LeashedGroup {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.id(), Signal::KILL);
        let _ = self.keeper.wait();
    }
}

/// The keeper's whole life; system calls only.
fn keep(pipe: RawFd) -> i32 {
    // SAFETY: plain system calls on this process's own descriptors and group, and on memory of this frame.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_NAME, c"tg-leash".as_ptr());
        // Nothing that others wait to see closed may stay open here, our own end of the pipe first of all.
        libc::dup2(pipe, 0);
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) < 0 {
            for fd in 1..1024 {
                libc::close(fd);
            }
        }
        let mut byte = 0u8;
        while libc::read(0, (&raw mut byte).cast(), 1) < 0 && last_errno() == Errno::INTR {}
        libc::kill(0, libc::SIGKILL);
    }
    0
}

//! Descriptors that a process was started with, by number.

use std::collections::BTreeSet;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, FdFlags};

use super::ProcessError;

/// What has been taken already: a descriptor has one owner.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes over a descriptor that this process was started with, and marks it close-on-exec. Each number above the standard
/// streams can be taken once.
///
/// # Errors
/// `EBADF` when there is no such descriptor, when it was taken already, or when this process opened it itself.
pub fn inherited(number: RawFd) -> Result<OwnedFd, ProcessError> {
    let refused = |source| ProcessError::Call { what: "take over an inherited descriptor", source };
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if number < 3 || taken.contains(&number) {
        return Err(refused(Errno::BADF));
    }
    // SAFETY: fcntl(2) only looks at the number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // What this process opened itself is close-on-exec: such a descriptor was not inherited, and has an owner.
    if flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return Err(refused(Errno::BADF));
    }
    // SAFETY: the descriptor is open, came across an exec, and is given out once only.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    taken.insert(number);
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(refused)?;
    Ok(fd)
}

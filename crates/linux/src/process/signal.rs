//! Signals: sets, blocking, reading them from a descriptor, and their names.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

use super::ProcessError;
use crate::last_errno;

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// No signal.
    pub fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// Every signal.
    pub fn all() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the whole set.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            Self(set.assume_init())
        }
    }

    /// These signals.
    pub fn of(signals: &[Signal]) -> Self {
        let mut set = Self::empty();
        for signal in signals {
            // SAFETY: the set is initialised and the number is a signal's.
            unsafe { libc::sigaddset(&raw mut set.0, signal.as_raw()) };
        }
        set
    }

    /// Makes this set the calling thread's blocked signals, and returns what was blocked before.
    pub fn block_only(self) -> Self {
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are valid for the call, which fills the second; SIG_SETMASK can't fail.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, before.as_mut_ptr());
            Self(before.assume_init())
        }
    }

    /// Adds this set to the calling thread's blocked signals, and returns what was blocked before.
    pub fn block(self) -> Self {
        let mut before = MaybeUninit::uninit();
        // SAFETY: as above, with SIG_BLOCK.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const self.0, before.as_mut_ptr());
            Self(before.assume_init())
        }
    }

    pub(super) fn as_ptr(&self) -> *const libc::sigset_t {
        &raw const self.0
    }
}

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: the set is initialised, and 1 to 64 are valid numbers.
        let members = (1..=64).filter(|n| unsafe { libc::sigismember(&raw const self.0, *n) } == 1);
        f.debug_set().entries(members.map(signal_name)).finish()
    }
}

/// A descriptor from which blocked signals are read.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks these signals in the calling thread and opens a nonblocking descriptor for them. In a process with several
    /// threads block them before the others are started.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn new(signals: &[Signal]) -> Result<Self, ProcessError> {
        let set = SignalSet::of(signals);
        set.block();
        // SAFETY: the set is valid for the call.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(ProcessError::Call { what: "open a descriptor for signals", source: last_errno() });
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal's number and the sender's process id (0 when it is not of this PID namespace), or
    /// none.
    ///
    /// # Errors
    /// None that signalfd(2) knows besides those handled.
    pub fn read(&self) -> Result<Option<(i32, i32)>, ProcessError> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut buffer)) {
            Ok(length) if length == buffer.len() => {
                // ssi_signo is the first field and ssi_pid the fourth, each of 32 bits (signalfd(2)).
                let word = |at: usize| i32::from_ne_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
                Ok(Some((word(0), word(12))))
            }
            Ok(_) | Err(Errno::AGAIN) => Ok(None),
            Err(source) => Err(ProcessError::Call { what: "read a signal", source }),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a signal to every process of this PID namespace but the caller and process 1: meant for process 1 itself, which
/// thereby reaches all others, those in nested namespaces too. Outside of a PID namespace of one's own that is everybody.
///
/// # Errors
/// `ESRCH` when there is nobody else.
pub fn signal_all_others(signal: Signal) -> Result<(), ProcessError> {
    // SAFETY: kill(2) takes no pointers.
    let result = unsafe { libc::kill(-1, signal.as_raw()) };
    if result < 0 {
        return Err(ProcessError::Call { what: "signal every process", source: last_errno() });
    }
    Ok(())
}

/// The signal with this number, if it has a name of its own (real-time signals have none).
pub fn signal_from_number(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// The usual name of a signal (`SIGKILL`), `SIGRTMIN+n` for a real-time one, or `SIG<number>`.
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match number {
        1..=31 => format!("SIG{}", NAMES[number as usize - 1]),
        34..=64 => format!("SIGRTMIN+{}", number - 34),
        _ => format!("SIG{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_system() {
        let listed = [(1, "SIGHUP"), (9, "SIGKILL"), (15, "SIGTERM"), (17, "SIGCHLD"), (31, "SIGSYS")];
        for (number, name) in listed {
            assert_eq!(signal_name(number), name);
        }
        assert_eq!(
            (signal_name(34), signal_name(64), signal_name(0)),
            ("SIGRTMIN+0".into(), "SIGRTMIN+30".into(), "SIG0".into())
        );
        assert_eq!(signal_from_number(9), Some(Signal::KILL));
        assert_eq!(signal_from_number(35), None);
    }

    #[test]
    fn a_blocked_signal_is_read_with_its_sender() {
        // Blocked in this thread only, so it is sent to this thread only.
        std::thread::spawn(|| {
            let signals = SignalFd::new(&[Signal::USR1]).unwrap();
            assert_eq!(signals.read().unwrap(), None);
            // SAFETY: sends a signal that this thread blocks to itself.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            let own = rustix::process::getpid().as_raw_nonzero().get();
            assert_eq!(signals.read().unwrap(), Some((libc::SIGUSR1, own)));
            assert_eq!(signals.read().unwrap(), None);
            assert_eq!(
                format!("{:?}", SignalSet::of(&[Signal::USR1, Signal::TERM])),
                "{\"SIGUSR1\", \"SIGTERM\"}"
            );
        })
        .join()
        .unwrap();
    }
}

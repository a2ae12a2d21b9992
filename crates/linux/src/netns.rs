//! Network namespaces as values: made, found and entered.
//!
//! A namespace is entered only by a thread made for it, to open a descriptor there; that thread ends, and all later work is
//! on the descriptor. Nothing here may be held over an await.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace, kept alive by a descriptor.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    inode: u64,
}

/// Why a network namespace could not be made, found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The kernel made none.
    #[error("failed to create a network namespace")]
    Create {
        /// `EPERM` without CAP_SYS_ADMIN over the user namespace; `ENOSPC` over the limit.
        source: Errno,
    },
    /// The file that stands for the namespace could not be opened.
    #[error("failed to open the network namespace {path} (is /proc that of this PID namespace?)")]
    Open {
        /// The file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The descriptor is not a network namespace's, or the namespace is not ours to enter.
    #[error("failed to enter network namespace {inode}")]
    Enter {
        /// Its inode number.
        inode: u64,
        /// The kernel's answer.
        source: Errno,
    },
    /// The namespaces of a process are not ours to enter.
    #[error("failed to enter the namespaces of a process")]
    EnterAll {
        /// The kernel's answer.
        source: Errno,
    },
    /// The thread is in another namespace than it was sent to.
    #[error("entered network namespace {found} instead of {wanted}")]
    Strayed {
        /// Where it should be.
        wanted: u64,
        /// Where it is.
        found: u64,
    },
    /// No thread could be started.
    #[error("failed to start a thread for a network namespace")]
    Thread {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Netns {
    /// Makes a new, empty one: its loopback interface is down.
    ///
    /// # Errors
    /// [`NetnsError::Create`] without the capability or over the limit.
    pub fn create() -> Result<Self, NetnsError> {
        tour(Tour::create)?
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// When /proc is missing, or is that of another PID namespace.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(CURRENT)
    }

    /// The one that a process is in.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub fn of_pid(pid: Pid) -> Result<Self, NetnsError> {
        Self::open(&format!("/proc/{}/ns/net", pid.as_raw_nonzero()))
    }

    /// From a descriptor of `/proc/PID/ns/net` or of a bind mount of it.
    ///
    /// # Errors
    /// When the descriptor can't be looked at. Whether it is a network namespace shows on entering.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        let inode = rustix::fs::fstat(&fd)
            .map_err(|errno| NetnsError::Open { path: "descriptor".to_owned(), source: errno.into() })?
            .st_ino;
        Ok(Self { fd, inode })
    }

    /// Its inode number, which tells namespaces apart while they exist.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// A second descriptor of the same namespace.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> Result<Self, NetnsError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|source| NetnsError::Open { path: format!("{}", self.inode), source })?;
        Ok(Self { fd, inode: self.inode })
    }

    /// Gives up the descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Runs a closure inside, on a thread made for it. A panic in the closure goes on in the caller.
    ///
    /// # Errors
    /// When the namespace can't be entered; the closure has not run then.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        tour(|tour| {
            tour.enter(self)?;
            Ok(inside())
        })?
    }

    fn open(path: &str) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        Self::from_fd(file.into())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Netns {}

/// A thread that visits many namespaces, one after the other. See [`tour`].
#[derive(Debug)]
pub struct Tour {
    /// Entering is of the thread, so the value may not leave it.
    thread_bound: PhantomData<*const ()>,
}

/// Runs a closure on a thread made for it, which may enter and make namespaces as often as it likes: the way to attach
/// a thousand of them. A panic in the closure goes on in the caller.
///
/// # Errors
/// When no thread can be started.
pub fn tour<T: Send>(visits: impl FnOnce(&mut Tour) -> T + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || visits(&mut Tour { thread_bound: PhantomData }))
            .map_err(|source| NetnsError::Thread { source })?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

impl Tour {
    /// Moves the thread into a namespace; what it opens from now on is opened there.
    ///
    /// # Errors
    /// When it is not a network namespace, or not ours to enter (`EPERM`).
    pub fn enter(&mut self, netns: &Netns) -> Result<(), NetnsError> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|source| NetnsError::Enter { inode: netns.inode, source })?;
        let found = rustix::fs::stat(CURRENT)
            .map_err(|errno| NetnsError::Open { path: CURRENT.to_owned(), source: errno.into() })?
            .st_ino;
        if found != netns.inode {
            return Err(NetnsError::Strayed { wanted: netns.inode, found });
        }
        Ok(())
    }

    /// Makes a new namespace and moves the thread into it.
    ///
    /// # Errors
    /// As [`Netns::create`].
    pub fn create(&mut self) -> Result<Netns, NetnsError> {
        // SAFETY: only the network namespace of this thread changes; its descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|source| NetnsError::Create { source })?;
        Netns::current()
    }
}

/// Moves the calling thread into a network namespace for good: for a process with a single thread that is being set up.
///
/// # Errors
/// `EINVAL` when it is no network namespace, `EPERM` when it is not ours to enter.
pub fn join(netns: impl AsFd) -> Result<(), NetnsError> {
    let inode = rustix::fs::fstat(&netns).map_or(0, |status| status.st_ino);
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|source| NetnsError::Enter { inode, source })
}

/// Moves the calling process, which must have a single thread, into all of another one's network, mount, UTS, IPC and PID
/// namespaces, given a descriptor of that process (pidfd_open(2)). The PID namespace is that of its next child.
///
/// The user namespace stays: within a lab there is only one.
///
/// # Errors
/// `ESRCH` when the process has ended, `EPERM` when it is not ours to enter, `EINVAL` with several threads.
pub fn enter_all_of(process: impl AsFd) -> Result<(), NetnsError> {
    use rustix::thread::ThreadNameSpaceType as Kind;
    let all = Kind::NETWORK
        | Kind::MOUNT
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::PROCESS_ID;
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), all)
        .map_err(|source| NetnsError::EnterAll { source })
}

const CURRENT: &str = "/proc/thread-self/ns/net";

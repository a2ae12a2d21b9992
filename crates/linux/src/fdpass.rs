//! Messages with descriptors between processes of this machine: pairs of `SOCK_SEQPACKET` sockets, and sockets with a
//! path. What the messages say belongs to those who send them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The most descriptors in a message.
pub const MAX_FDS: usize = 16;

/// One end of a connection that keeps messages apart.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A socket with a path, on which others connect.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// What arrived with one message.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message, which lie at the start of the buffer given.
    pub length: usize,
    /// Its descriptors, in the order in which they were sent, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// The process at the other end when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process id in this PID namespace; 0 when it is not of it.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A call failed; `EAGAIN` on a nonblocking channel means later.
    #[error("failed to {what}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// Too many descriptors for one message.
    #[error("failed to send a message: {count} descriptors, at most {MAX_FDS} fit")]
    TooMany {
        /// How many there were.
        count: usize,
    },
    /// The message was longer than the buffer, or carried more descriptors than could be taken. It is lost, and whatever
    /// descriptors came with it are closed.
    #[error("failed to receive a message: {what} truncated (buffer of {capacity} bytes)")]
    Truncated {
        /// Its bytes or its descriptors.
        what: &'static str,
        /// Size of the buffer given.
        capacity: usize,
    },
}

impl ChannelError {
    fn call(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Call { what, source }
    }

    /// Whether a nonblocking channel only asks to be tried again later.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Call { source: Errno::AGAIN, .. })
    }
}

impl Channel {
    /// Two connected ends, blocking and close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(ChannelError::call("open a pair of sockets"))?;
        Ok((Self(one), Self(other)))
    }

    /// An end that was inherited or passed on.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Connects to the listener `name` in a directory.
    ///
    /// # Errors
    /// `ECONNREFUSED` when nobody listens any more, `ENOENT` without the socket.
    pub fn connect(directory: BorrowedFd<'_>, name: &str) -> Result<Self, ChannelError> {
        let address = address_in(directory, name)?;
        let socket = seqpacket(SocketFlags::CLOEXEC)?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))
            .map_err(ChannelError::call("connect to a socket"))?;
        Ok(Self(socket))
    }

    /// Sends one message. An empty one can't be told from the end of the connection, so it is refused.
    ///
    /// # Errors
    /// `EPIPE` when the other end is gone, `EMSGSIZE` for more than the send buffer holds (about 200 KiB).
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        if fds.len() > MAX_FDS {
            return Err(ChannelError::TooMany { count: fds.len() });
        }
        if message.is_empty() {
            return Err(ChannelError::Call { what: "send an empty message", source: Errno::INVAL });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the space is that of MAX_FDS descriptors");
        }
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)
        })
        .map_err(ChannelError::call("send a message"))?;
        Ok(())
    }

    /// Receives one message into a buffer. None: the other end is closed.
    ///
    /// # Errors
    /// [`ChannelError::Truncated`] when the buffer is too small.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>, ChannelError> {
        let capacity = buffer.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let message = match message {
            Ok(message) => message,
            // The other end closed while messages of ours were still unread there.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(source) => return Err(ChannelError::Call { what: "receive a message", source }),
        };
        let mut fds = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                fds.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelError::Truncated { what: "its descriptors were", capacity });
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::Truncated { what: "it was", capacity });
        }
        if message.bytes == 0 && fds.is_empty() {
            return Ok(None);
        }
        Ok(Some(Received { length: message.bytes, fds }))
    }

    /// Sets whether calls return `EAGAIN` instead of waiting.
    ///
    /// # Errors
    /// None in practice.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), ChannelError> {
        rustix::io::ioctl_fionbio(&self.0, nonblocking)
            .map_err(ChannelError::call("set whether a socket blocks"))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// None in practice.
    pub fn peer(&self) -> Result<Peer, ChannelError> {
        // Not through rustix: the id of a process outside this PID namespace is 0, which its type can't hold.
        // SAFETY: three numbers, for which zero is a value.
        let mut credentials: libc::ucred = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: the value is live, and the length says how much may be written to it.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(ChannelError::Call { what: "ask who the peer is", source: crate::last_errno() });
        }
        Ok(Peer { pid: credentials.pid, uid: credentials.uid, gid: credentials.gid })
    }

    /// Gives up the record for its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Listens as `name` in a directory, which may lie as deep as it likes: a socket's own path is limited to 107 bytes.
    ///
    /// # Errors
    /// `EADDRINUSE` when the name is taken, by a dead socket too.
    pub fn bind(directory: BorrowedFd<'_>, name: &str) -> Result<Self, ChannelError> {
        let address = address_in(directory, name)?;
        let socket = seqpacket(SocketFlags::CLOEXEC)?;
        rustix::net::bind(&socket, &address).map_err(ChannelError::call("bind a socket to its path"))?;
        rustix::net::listen(&socket, 128).map_err(ChannelError::call("listen on a socket"))?;
        Ok(Self(socket))
    }

    /// A listener that was inherited or passed on.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Waits for the next connection (a nonblocking listener returns `EAGAIN`).
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn accept(&self) -> Result<Channel, ChannelError> {
        rustix::io::retry_on_intr(|| rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC))
            .map(Channel)
            .map_err(ChannelError::call("accept a connection"))
    }

    /// Sets whether [`Listener::accept`] returns `EAGAIN` instead of waiting.
    ///
    /// # Errors
    /// None in practice.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), ChannelError> {
        rustix::io::ioctl_fionbio(&self.0, nonblocking)
            .map_err(ChannelError::call("set whether a socket blocks"))
    }

    /// Gives up the record for its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn seqpacket(flags: SocketFlags) -> Result<OwnedFd, ChannelError> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(ChannelError::call("open a socket"))
}

/// The address of a socket in an open directory, by way of /proc, which keeps it short.
fn address_in(directory: BorrowedFd<'_>, name: &str) -> Result<SocketAddrUnix, ChannelError> {
    let what = "name a socket: a single path component is needed";
    if name.is_empty() || name.contains('/') {
        return Err(ChannelError::Call { what, source: Errno::INVAL });
    }
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
        .map_err(ChannelError::call("name a socket: its name is too long"))
}

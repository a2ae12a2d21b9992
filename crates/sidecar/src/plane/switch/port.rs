//! A descriptor and its framing: one frame a read, one frame a write, never waiting.

use std::io::{IoSlice, IoSliceMut};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::config::Framing;
use super::counters::Cause;
use super::packet::vnet::{self, VnetHeader};

/// The end of an interface that the switch holds.
#[derive(Debug)]
pub struct Port {
    fd: OwnedFd,
    framing: Framing,
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A frame of so many bytes with this header; `None` where the header makes no sense.
    Frame(usize, Option<VnetHeader>),
    /// Nothing more for now.
    Empty,
    /// The interface is down, and will say when it is up again.
    Down,
    /// The interface is gone: nothing will ever come.
    Gone(Errno),
}

/// Closes ports, many at once: closing a packet socket waits until no processor can be reading its interface any more (14 ms),
/// however many do so at the same time.
pub(super) fn close_all(ports: Vec<Port>) {
    let share = ports.len().div_ceil(CLOSERS).max(LEAST_SHARE);
    let mut ports = ports.into_iter();
    std::thread::scope(|scope| {
        loop {
            let some: Vec<Port> = ports.by_ref().take(share).collect();
            if some.is_empty() {
                return;
            }
            // What no thread could be had for is closed here.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(some));
        }
    });
}

/// Threads that close ports, and how many ports are worth one.
const CLOSERS: usize = 32;
const LEAST_SHARE: usize = 4;

// === impl Port ===

impl Port {
    /// Takes over a descriptor and makes it non-blocking.
    pub fn new(fd: OwnedFd, framing: Framing) -> Result<Port, Errno> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Port { fd, framing })
    }

    /// The descriptor, for polling.
    pub fn fd(&self) -> impl AsFd + '_ {
        &self.fd
    }

    /// What stands in front of each frame.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Reads a frame.
    pub fn read(&self, frame: &mut [u8]) -> Read {
        let mut head = [0u8; vnet::LENGTH];
        let (got, header) = match self.framing {
            Framing::Bare => (rustix::io::read(&self.fd, &mut *frame), 0),
            Framing::VirtioNet => {
                let mut parts = [IoSliceMut::new(&mut head), IoSliceMut::new(frame)];
                (rustix::io::readv(&self.fd, &mut parts), vnet::LENGTH)
            }
        };
        match got {
            // A read of 0 bytes is an empty frame on a packet socket, and the end of anything else.
            Ok(0) => Read::Gone(Errno::PIPE),
            Ok(length) if length < header => Read::Frame(0, None),
            Ok(length) => Read::Frame(length - header, VnetHeader::decode(&head)),
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => Read::Empty,
            Err(Errno::NETDOWN | Errno::IO) => Read::Down,
            Err(error) => Read::Gone(error),
        }
    }

    /// Writes a frame that lies in two parts. A [`Framing::Bare`] port is given nothing that was left to the device.
    pub fn write(&self, header: &VnetHeader, head: &[u8], body: &[u8]) -> Result<(), Cause> {
        let encoded = header.encode();
        let parts = [IoSlice::new(&encoded), IoSlice::new(head), IoSlice::new(body)];
        let parts = match self.framing {
            Framing::Bare => &parts[1..],
            Framing::VirtioNet => &parts[..],
        };
        match rustix::io::writev(&self.fd, parts) {
            Ok(_) => Ok(()),
            Err(Errno::IO | Errno::NETDOWN | Errno::NXIO | Errno::NODEV | Errno::BADFD) => {
                Err(Cause::ReceiverDown)
            }
            Err(Errno::AGAIN | Errno::NOBUFS) => Err(Cause::ReceiverFull),
            Err(_) => Err(Cause::Refused),
        }
    }
}

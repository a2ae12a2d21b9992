//! AF_PACKET sockets: the switch's way to an interface where `/dev/net/tun` can't be opened (packet(7)).
//!
//! Frames are read and written as those of [`crate::tap`]: a virtio-net header of 10 bytes, then the frame, so that the
//! switch handles both alike.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::last_errno;

/// How a packet socket is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSocketOptions {
    /// Wanted size of the kernel's receive and send buffers, in bytes each; cut to what `net.core.rmem_max` and
    /// `wmem_max` allow where this process may not exceed them.
    pub buffer: usize,
    /// Send past the interface's qdisc. Frames that the driver would have to be cut for first are lost then.
    pub bypass_qdisc: bool,
}

impl Default for PacketSocketOptions {
    fn default() -> Self {
        Self { buffer: 4 << 20, bypass_qdisc: true }
    }
}

/// An open packet socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: u32,
    receive_buffer: usize,
}

/// Why a packet socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PacketSocketError {
    /// No socket.
    #[error("failed to open a packet socket")]
    Open {
        /// `EPERM` without CAP_NET_RAW over the network namespace; `EAFNOSUPPORT` in a kernel without it.
        source: Errno,
    },
    /// A setting was refused.
    #[error("failed to set {setting} of a packet socket")]
    Setting {
        /// Which.
        setting: &'static str,
        /// `ENOPROTOOPT` on an old kernel.
        source: Errno,
    },
    /// The interface does not exist, or is down.
    #[error("failed to bind a packet socket to interface {index}")]
    Bind {
        /// The interface's index.
        index: u32,
        /// `ENODEV` or `ENETDOWN`.
        source: Errno,
    },
}

impl PacketSocket {
    /// Opens a nonblocking socket on an interface of the calling thread's network namespace. It sees what arrives on the
    /// interface, in promiscuous mode, and nothing of what is sent on it.
    ///
    /// # Errors
    /// Each case of [`PacketSocketError`].
    pub fn open(index: u32, options: &PacketSocketOptions) -> Result<Self, PacketSocketError> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Protocol 0: nothing is received before the settings are in force and the socket is bound.
        // SAFETY: a system call on numbers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(PacketSocketError::Open { source: last_errno() });
        }
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut socket = Self { fd, index, receive_buffer: 0 };
        socket.set("the virtio-net header", PACKET_VNET_HDR, &1i32)?;
        socket.set("ignoring what is sent", PACKET_IGNORE_OUTGOING, &1i32)?;
        if options.bypass_qdisc {
            socket.set("bypassing the qdisc", PACKET_QDISC_BYPASS, &1i32)?;
        }
        socket.receive_buffer = socket.set_buffers(options.buffer);
        socket.bind()?;
        let membership = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket.set("promiscuous mode", libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        Ok(socket)
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The size of the receive buffer that the kernel granted, in bytes (it counts its own overhead too).
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// How many frames were received and how many were dropped for want of buffer, since the last call.
    ///
    /// # Errors
    /// None in practice.
    pub fn take_statistics(&self) -> Result<(u32, u32), PacketSocketError> {
        let mut statistics = [0u32; 2];
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: `struct tpacket_stats` is two 32-bit numbers, and the length says how much may be written.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(PacketSocketError::Setting { setting: "statistics", source: last_errno() });
        }
        Ok((statistics[0], statistics[1]))
    }

    /// Gives up the record for its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn set<T>(&self, setting: &'static str, option: i32, value: &T) -> Result<(), PacketSocketError> {
        // SAFETY: the address and size are those of a live value, which the kernel only reads.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(PacketSocketError::Setting { setting, source: last_errno() });
        }
        Ok(())
    }

    /// Asks for large buffers, past the machine's limit where this process may, and returns what was granted.
    fn set_buffers(&self, bytes: usize) -> usize {
        use rustix::net::sockopt;
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.fd, bytes);
        }
        if sockopt::set_socket_send_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.fd, bytes);
        }
        sockopt::socket_recv_buffer_size(&self.fd).unwrap_or(0)
    }

    fn bind(&self) -> Result<(), PacketSocketError> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: self.index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address and size are those of a live value, which the kernel only reads.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(PacketSocketError::Bind { index: self.index, source: last_errno() });
        }
        Ok(())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// linux/if_packet.h
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;

//! TAP devices: an Ethernet interface whose cable end is a descriptor.
//!
//! A frame is read and written with a virtio-net header of [`VNET_HEADER_LEN`] bytes before it (offload state: see
//! linux/virtio_net.h), exactly as [`crate::packet_socket`] frames them. What the frames mean belongs to the switch.

use std::ffi::c_uint;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::last_errno;
use crate::route::{Change, LinkChange, NetlinkError, RouteSocket};

/// Length of the virtio-net header before each frame, in bytes: the first version of it, without `num_buffers`. It is
/// what AF_PACKET sockets use too, and puts the IP header at a multiple of eight.
pub const VNET_HEADER_LEN: usize = 10;

/// Where the kernel makes TAP devices.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// How a TAP is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapOptions {
    /// Whether a virtio-net header stands before each frame.
    pub vnet_header: bool,
    /// Whether the kernel may hand over segments larger than the MTU and frames without a checksum. Needs the header.
    pub offload: bool,
    /// Whether the device outlives its descriptor (until its namespace ends). Closing a device that does not costs about
    /// 29 ms; a restarted supervisor can attach again to one that does.
    pub persist: bool,
    /// Length of the device's transmit queue in packets; none: the kernel's default (1,000).
    pub txqueuelen: Option<u32>,
}

impl Default for TapOptions {
    fn default() -> Self {
        Self { vnet_header: true, offload: true, persist: true, txqueuelen: None }
    }
}

/// What a TAP's descriptor may be given without the kernel having done it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames without a filled-in checksum.
    pub checksum: bool,
    /// TCP segments of more than the MTU, over IPv4.
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
    /// TCP segments with congestion marks.
    pub ecn: bool,
    /// UDP datagrams to be cut, over IPv4 and IPv6 (Linux 6.2 and newer).
    pub uso: bool,
}

/// An open TAP.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
    offloads: Offloads,
    header_len: usize,
}

/// Why a TAP could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// There is no device file.
    #[error(
        "failed to open {TUN_DEVICE}: it does not exist (modprobe tun; in a container: --device {TUN_DEVICE})"
    )]
    Missing {
        /// `ENOENT`, `ENODEV` or `ENXIO`.
        source: Errno,
    },
    /// The device file is not ours to open.
    #[error("failed to open {TUN_DEVICE}: permission denied (chmod 0666 {TUN_DEVICE})")]
    Permission {
        /// `EACCES` or `EPERM`.
        source: Errno,
    },
    /// The device file could not be opened for another reason.
    #[error("failed to open {TUN_DEVICE}")]
    Device {
        /// The kernel's answer.
        source: Errno,
    },
    /// The name can't be an interface's.
    #[error(
        "failed to create TAP {name:?}: a name has 1 to 15 bytes, none of them a slash, colon, white space or NUL"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel made no device.
    #[error("failed to create TAP {name:?}{}", create_hint(*source))]
    Create {
        /// The name.
        name: String,
        /// `EPERM` without CAP_NET_ADMIN over the namespace, `EBUSY` when another process has it open.
        source: Errno,
    },
    /// The device was made, but not with a transmit queue of the length asked for.
    #[error("failed to set the transmit queue's length of TAP {name:?}")]
    QueueLength {
        /// The name.
        name: String,
        /// What netlink said.
        source: NetlinkError,
    },
    /// The device was made, but one of its settings was refused.
    #[error("failed to set or read {setting} of TAP {name:?}")]
    Setting {
        /// The name.
        name: String,
        /// Which setting.
        setting: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
}

impl Tap {
    /// Makes a TAP in the calling thread's network namespace, or attaches to the persistent one of that name. Its
    /// descriptor is nonblocking; the interface is down.
    ///
    /// # Errors
    /// Each case of [`TapError`].
    pub fn open(name: &str, options: &TapOptions) -> Result<Self, TapError> {
        let mut request = interface_request(name)?;
        let fd = open_device()?;
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
        if options.vnet_header {
            flags |= libc::IFF_VNET_HDR;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        ioctl(&fd, libc::TUNSETIFF, (&raw mut request) as libc::c_ulong)
            .map_err(|source| TapError::Create { name: name.to_owned(), source })?;

        let mut tap =
            Self { fd, name: name.to_owned(), index: 0, offloads: Offloads::default(), header_len: 0 };
        if options.persist {
            tap.set("persistence", libc::TUNSETPERSIST, 1)?;
        }
        if options.vnet_header {
            let mut length = VNET_HEADER_LEN as libc::c_int;
            tap.set("the header's length", libc::TUNSETVNETHDRSZ, (&raw mut length) as libc::c_ulong)?;
            tap.header_len = VNET_HEADER_LEN;
            tap.offloads = if options.offload { tap.negotiate() } else { Offloads::default() };
        }
        if !options.offload {
            // A device that another process used before keeps what that one had set.
            let _ = ioctl(&tap.fd, libc::TUNSETOFFLOAD, 0);
        }
        let socket = any_socket().map_err(|source| tap.refused("index", source))?;
        tap.index = rustix::net::netdevice::name_to_index(&socket, name)
            .map_err(|source| tap.refused("index", source))?;
        if let Some(length) = options.txqueuelen {
            tap.set_queue_length(length)?;
        }
        Ok(tap)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in its network namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What may be written to it unfinished.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Bytes before each frame: [`VNET_HEADER_LEN`], or 0.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Sets whether the device outlives its descriptor.
    ///
    /// # Errors
    /// None in practice.
    pub fn set_persist(&self, persist: bool) -> Result<(), TapError> {
        self.set("persistence", libc::TUNSETPERSIST, libc::c_ulong::from(persist))
    }

    /// Gives up the record for its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn set(&self, setting: &'static str, request: libc::Ioctl, value: libc::c_ulong) -> Result<(), TapError> {
        ioctl(&self.fd, request, value).map_err(|source| self.refused(setting, source))
    }

    /// Turns on as much as the kernel knows. USO is of both address families or of none (`EINVAL` otherwise).
    fn negotiate(&self) -> Offloads {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        let ladder = [
            tcp | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
            tcp | TUN_F_TSO_ECN,
            tcp,
            TUN_F_CSUM | TUN_F_TSO4,
            TUN_F_CSUM,
        ];
        let accepted = ladder
            .into_iter()
            .find(|flags| ioctl(&self.fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(*flags)).is_ok())
            .unwrap_or(0);
        let has = |flag| accepted & flag != 0;
        Offloads {
            checksum: has(TUN_F_CSUM),
            tso4: has(TUN_F_TSO4),
            tso6: has(TUN_F_TSO6),
            ecn: has(TUN_F_TSO_ECN),
            uso: has(TUN_F_USO4),
        }
    }

    /// Over netlink: the ioctl for it wants CAP_NET_ADMIN over the machine.
    fn set_queue_length(&self, length: u32) -> Result<(), TapError> {
        let change = LinkChange { txqueuelen: Some(length), ..LinkChange::new(self.index) };
        RouteSocket::open()
            .and_then(|mut socket| socket.apply(&[Change::Link(change)]))
            .map_err(|source| TapError::QueueLength { name: self.name.clone(), source })
    }

    fn refused(&self, setting: &'static str, source: Errno) -> TapError {
        TapError::Setting { name: self.name.clone(), setting, source }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens the device file, nonblocking: what a probe tries first.
///
/// # Errors
/// [`TapError::Missing`], [`TapError::Permission`] or [`TapError::Device`].
pub fn open_device() -> Result<OwnedFd, TapError> {
    rustix::fs::open(TUN_DEVICE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(
        |source| match source {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::Missing { source },
            Errno::ACCESS | Errno::PERM => TapError::Permission { source },
            source => TapError::Device { source },
        },
    )
}

/// A socket of the calling thread's network namespace, to ask about interfaces.
fn any_socket() -> Result<OwnedFd, Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn create_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::BUSY => ": another process has it open",
        Errno::PERM => ": CAP_NET_ADMIN over the network namespace is needed",
        Errno::INVAL => ": an interface of that name is of another kind or has other flags",
        _ => "",
    }
}

/// An empty `struct ifreq` for an interface of this name.
fn interface_request(name: &str) -> Result<libc::ifreq, TapError> {
    let forbidden =
        |byte: u8| byte == 0 || byte == b'/' || byte == b':' || byte == b'%' || byte.is_ascii_whitespace();
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || name.bytes().any(forbidden)
        || name == "."
        || name == ".."
    {
        return Err(TapError::Name { name: name.to_owned() });
    }
    // SAFETY: a struct of numbers and arrays of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// `ioctl` with one argument: a number, or the address of what the request reads and writes.
fn ioctl(fd: &OwnedFd, request: libc::Ioctl, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: callers in this file pass, for requests that take an address, that of a live value of the right type.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
        0.. => Ok(()),
        _ => Err(last_errno()),
    }
}

// linux/if_tun.h
const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
const TUN_F_TSO_ECN: c_uint = 0x08;
const TUN_F_USO4: c_uint = 0x20;
const TUN_F_USO6: c_uint = 0x40;

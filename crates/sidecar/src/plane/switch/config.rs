//! What a switch and its ports are made of, and what can be wrong with them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::plan::PortId;

/// What a switch is started with.
#[derive(Debug, Clone)]
pub struct SwitchConfig {
    /// What all chance is drawn from: the same seed, names and packets meet the same fate.
    pub seed: u64,
    /// The names of the data networks, by index.
    pub networks: Vec<String>,
    /// Bytes of packets that may wait in the whole switch. Beyond it packets are dropped with the cause `memory`.
    pub memory: usize,
}

/// An interface that the switch carries packets for.
#[derive(Debug)]
pub struct PortSpec {
    /// Its number; never used twice in a switch.
    pub port: PortId,
    /// Its name, such as `clients[3]/default`: shown, and what its links' chance is drawn from.
    pub name: String,
    /// The network it is on.
    pub network: NetworkKind,
    /// The interface's hardware address; see [`super::table::mac_of`].
    pub mac: [u8; 6],
    /// Its addresses, IPv4 and IPv6. IPv6 link-local addresses need not be named.
    pub addresses: Vec<IpAddr>,
    /// A TAP's queue or a packet socket, non-blocking or not: the switch makes it non-blocking.
    pub fd: OwnedFd,
    /// What stands in front of each frame on the descriptor.
    pub framing: Framing,
    /// The interface's MTU in bytes, 68 to 65,535.
    pub mtu: u32,
    /// On the control network: whether this is the one port that all others may talk to.
    pub gateway: bool,
    /// On the control network: whether it may talk to other ports that may too.
    pub allow_peers: bool,
}

/// A network of the switch. Packets never pass from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NetworkKind {
    /// The data network with this index: shaped.
    Data(u32),
    /// The control network: never shaped; ports talk to the gateway.
    Control,
}

/// What stands in front of each frame on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Bare,
    /// A `struct virtio_net_hdr` of 10 bytes, little-endian: offloads are in use.
    VirtioNet,
}

/// Why the switch could not do what it was told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SwitchError {
    /// The kernel refused what the pump needs.
    #[error("the switch could not start: {0}")]
    Start(#[source] Errno),
    /// No thread.
    #[error("the switch's thread could not start: {0}")]
    Thread(std::io::ErrorKind),
    /// Its thread has ended; the message says why.
    #[error("the switch died: {0}")]
    Died(Arc<str>),
    /// Its thread does not answer.
    #[error("the switch did not answer within {0:?}")]
    Silent(Duration),
    /// The port's number is taken.
    #[error("port {0:?} is attached already")]
    PortTaken(PortId),
    /// Nobody has this number.
    #[error("no port {0:?} is attached")]
    NoSuchPort(PortId),
    /// The data network does not exist.
    #[error("port `{name}` asks for data network {index}, but there are {count}")]
    NoSuchNetwork {
        /// The port's name.
        name: String,
        /// What it asks for.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// Two ports of one network claim the same address.
    #[error("port `{name}` can't have {what}: `{owner}` has it")]
    AddressTaken {
        /// The port's name.
        name: String,
        /// The hardware or IP address.
        what: String,
        /// Who has it.
        owner: String,
    },
    /// A second gateway.
    #[error("port `{name}` can't be the control network's gateway: `{owner}` is")]
    GatewayTaken {
        /// The port's name.
        name: String,
        /// Who is.
        owner: String,
    },
    /// An MTU outside 68 to 65,535.
    #[error("port `{name}` has an MTU of {mtu}; allowed is 68 to 65535")]
    BadMtu {
        /// The port's name.
        name: String,
        /// The MTU.
        mtu: u32,
    },
    /// The descriptor can't be polled.
    #[error("the descriptor of port `{name}` can't be used: {source}")]
    Descriptor {
        /// The port's name.
        name: String,
        /// What the kernel says.
        #[source]
        source: Errno,
    },
    /// The port is captured already.
    #[error("port {0:?} is captured already")]
    CaptureTaken(PortId),
    /// Decisions are recorded already.
    #[error("decisions are recorded already")]
    RecordTaken,
    /// The file can't be written to.
    #[error("the file can't be written: {0}")]
    File(Arc<std::io::Error>),
}

// === impl SwitchConfig ===

impl Default for SwitchConfig {
    fn default() -> Self {
        SwitchConfig { seed: 0, networks: vec!["default".to_owned()], memory: 256 << 20 }
    }
}

//! An interface as the kernel describes it, and changes to one.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use rustix::io::Errno;

use super::Mac;
use crate::netns::Netns;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is (`veth`, `bridge`, `tun`, `ifb`); none for a physical one and for loopback.
    pub kind: Option<String>,
    /// Whether it was set up.
    pub up: bool,
    /// Whether it can carry packets now.
    pub running: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Its hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Length of its transmit queue in packets.
    pub txqueuelen: u32,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
    /// Index of the other end of a veth pair, in that end's namespace.
    pub peer: Option<u32>,
    /// The root queueing discipline.
    pub qdisc: Option<String>,
    /// Packets and bytes so far.
    pub stats: LinkStats,
}

/// Packets and bytes of an interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the kernel's counters")]
pub struct LinkStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub tx_errors: u64,
}

/// What is to be different about an interface: what is none stays as it is.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Which interface.
    pub index: u32,
    /// Up or down.
    pub up: Option<bool>,
    /// A new name. A kernel before 6.2 wants the interface to be down.
    pub name: Option<&'a str>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Length of its transmit queue in packets.
    pub txqueuelen: Option<u32>,
    /// The bridge whose port it becomes; 0: none.
    pub bridge: Option<u32>,
    /// The namespace it moves to. Its index may change.
    pub netns: Option<&'a Netns>,
    /// Whether the kernel gives it a link-local IPv6 address of its own when it comes up.
    pub link_local: Option<bool>,
}

impl<'a> LinkChange<'a> {
    /// No change yet.
    pub fn new(index: u32) -> Self {
        Self { index, ..Self::default() }
    }

    pub(super) fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        if let Some(up) = self.up {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        attributes.extend(self.name.map(|name| LinkAttribute::IfName(name.to_owned())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(self.txqueuelen.map(LinkAttribute::TxQueueLen));
        attributes.extend(self.bridge.map(LinkAttribute::Controller));
        attributes.extend(self.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())));
        // A kernel without IPv6 gives no such address, and refuses to be told about it (EAFNOSUPPORT).
        attributes.extend(self.link_local.filter(|_| has_ipv6()).map(|wanted| {
            let mode = if wanted { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
            LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)])])
        }));
        message
    }
}

/// Whether this kernel has IPv6; it does not lose or gain it while a process runs.
fn has_ipv6() -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let opened = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        !matches!(opened, Err(Errno::AFNOSUPPORT))
    })
}

impl fmt::Display for LinkChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set interface {}", self.index)?;
        if let Some(up) = self.up {
            f.write_str(if up { " up" } else { " down" })?;
        }
        if let Some(name) = self.name {
            write!(f, " name {name}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some([a, b, c, d, e, g]) = self.mac {
            write!(f, " address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
        }
        if let Some(length) = self.txqueuelen {
            write!(f, " txqueuelen {length}")?;
        }
        match self.bridge {
            Some(0) => f.write_str(" nomaster")?,
            Some(bridge) => write!(f, " master {bridge}")?,
            None => {}
        }
        if let Some(netns) = self.netns {
            write!(f, " netns {}", netns.inode())?;
        }
        if let Some(link_local) = self.link_local {
            f.write_str(if link_local { " addrgenmode eui64" } else { " addrgenmode none" })?;
        }
        Ok(())
    }
}

impl Link {
    pub(super) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let message = LinkMessage::parse(body)?;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            up: message.header.flags.contains(LinkFlags::Up),
            running: message.header.flags.contains(LinkFlags::Running | LinkFlags::LowerUp),
            mtu: 0,
            mac: None,
            txqueuelen: 0,
            bridge: None,
            peer: None,
            qdisc: None,
            stats: LinkStats::default(),
        };
        debug_assert_eq!(message.header.interface_family, AddressFamily::Unspec, "a bridge port's message");
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
                LinkAttribute::TxQueueLen(length) => link.txqueuelen = length,
                LinkAttribute::Controller(index) => link.bridge = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::Qdisc(name) => link.qdisc = Some(name),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                LinkAttribute::Stats64(stats) => {
                    link.stats = LinkStats {
                        rx_packets: stats.rx_packets,
                        rx_bytes: stats.rx_bytes,
                        rx_dropped: stats.rx_dropped,
                        rx_errors: stats.rx_errors,
                        tx_packets: stats.tx_packets,
                        tx_bytes: stats.tx_bytes,
                        tx_dropped: stats.tx_dropped,
                        tx_errors: stats.tx_errors,
                    };
                }
                _ => {}
            }
        }
        Ok(link)
    }
}

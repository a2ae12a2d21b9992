//! One change to a network namespace: in words for errors, and as a message for the kernel.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::link::LinkChange;
use super::table::Route;
use super::{
    Mac, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE, address, emit, neighbour,
};
use crate::netlink::Request;
use crate::netns::Netns;

/// One change.
#[derive(Debug, Clone)]
pub enum Change<'a> {
    /// Makes a pair of interfaces joined by a cable.
    CreateVeth {
        /// One end, in this namespace unless it says otherwise.
        one: VethEnd<'a>,
        /// The other end.
        other: VethEnd<'a>,
    },
    /// Makes a bridge without spanning tree, multicast snooping and, for IPv4, without asking iptables.
    CreateBridge {
        /// Its name.
        name: &'a str,
    },
    /// Makes an intermediate functional block device: where what arrives on an interface can be queued.
    CreateIfb {
        /// Its name.
        name: &'a str,
    },
    /// Makes a monitor, on which every netlink message of the namespace can be captured.
    CreateNlmon {
        /// Its name.
        name: &'a str,
    },
    /// Changes an interface.
    Link(LinkChange<'a>),
    /// Removes an interface; the other end of a veth pair with it.
    DeleteLink {
        /// Its index.
        index: u32,
    },
    /// Gives an interface an address. An IPv6 one is usable at once, without duplicate address detection.
    AddAddress {
        /// The interface.
        index: u32,
        /// The address, with the length of its network's prefix.
        address: IpNet,
    },
    /// Takes an address from an interface.
    RemoveAddress {
        /// The interface.
        index: u32,
        /// The address, with the length of its network's prefix.
        address: IpNet,
    },
    /// Adds a route; `EEXIST` when there is one of that destination and metric.
    AddRoute(Route),
    /// Adds a route or puts it in place of the one of that destination and metric.
    ReplaceRoute(Route),
    /// Removes a route.
    RemoveRoute(Route),
    /// Has a bridge learn nothing from what a port of it receives: a frame with another's address takes nothing away from that one.
    LearnNothing {
        /// The port.
        index: u32,
    },
    /// Makes it known for good to a bridge behind which port a hardware address is.
    Forward {
        /// The port.
        index: u32,
        /// What is behind it.
        mac: Mac,
    },
    /// Makes it known for good which hardware address a neighbour has, in place of what was known.
    SetNeighbour {
        /// The interface.
        index: u32,
        /// The neighbour.
        address: IpAddr,
        /// Where it is.
        mac: Mac,
    },
    /// Forgets a neighbour.
    RemoveNeighbour {
        /// The interface.
        index: u32,
        /// The neighbour.
        address: IpAddr,
    },
}

/// One end of a veth pair as it is made.
#[derive(Debug, Clone, Default)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address; none: a random one.
    pub mac: Option<Mac>,
    /// Largest packet in bytes; none: 1,500.
    pub mtu: Option<u32>,
    /// Length of its transmit queue in packets (0 takes away its qdisc).
    pub txqueuelen: Option<u32>,
    /// The namespace in which it appears; none: that of the socket.
    pub netns: Option<&'a Netns>,
}

impl<'a> VethEnd<'a> {
    /// An end of this name with the kernel's settings.
    pub fn new(name: &'a str) -> Self {
        Self { name, ..Self::default() }
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        let attributes = &mut message.attributes;
        attributes.push(LinkAttribute::IfName(self.name.to_owned()));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.txqueuelen.map(LinkAttribute::TxQueueLen));
        attributes.extend(self.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())));
        message
    }
}

impl Change<'_> {
    pub(super) fn request(&self) -> Request {
        let (kind, flags, body) = self.encode();
        Request { what: self.to_string(), kind, flags, body }
    }

    fn encode(&self) -> (u16, u16, Vec<u8>) {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match self {
            Self::CreateVeth { one, other } => {
                let mut message = one.message();
                message.attributes.push(LinkAttribute::LinkInfo(vec![
                    LinkInfo::Kind(InfoKind::Veth),
                    LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other.message()))),
                ]));
                (RTM_NEWLINK, create, emit(&message))
            }
            Self::CreateBridge { name } => {
                let settings = vec![
                    InfoBridge::MulticastSnooping(false),
                    InfoBridge::NfCallIpTables(false),
                    InfoBridge::NfCallIp6Tables(false),
                ];
                (RTM_NEWLINK, create, device(name, InfoKind::Bridge, Some(InfoData::Bridge(settings))))
            }
            Self::CreateIfb { name } => (RTM_NEWLINK, create, device(name, InfoKind::Ifb, None)),
            Self::CreateNlmon { name } => (RTM_NEWLINK, create, device(name, InfoKind::Nlmon, None)),
            Self::Link(change) => (RTM_NEWLINK, 0, emit(&change.message())),
            Self::DeleteLink { index } => {
                let mut message = LinkMessage::default();
                message.header.index = *index;
                (RTM_DELLINK, 0, emit(&message))
            }
            Self::AddAddress { index, address } => (RTM_NEWADDR, create, address::body(*index, *address)),
            Self::RemoveAddress { index, address } => (RTM_DELADDR, 0, address::body(*index, *address)),
            Self::AddRoute(route) => (RTM_NEWROUTE, create, emit(&route.message())),
            Self::ReplaceRoute(route) => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, emit(&route.message())),
            Self::RemoveRoute(route) => (RTM_DELROUTE, 0, emit(&route.message())),
            Self::LearnNothing { index } => {
                let mut message = LinkMessage::default();
                message.header.index = *index;
                message.attributes.push(LinkAttribute::LinkInfo(vec![
                    LinkInfo::PortKind(InfoPortKind::Bridge),
                    LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Learning(false)])),
                ]));
                (RTM_NEWLINK, 0, emit(&message))
            }
            Self::Forward { index, mac } => {
                (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour::forward_body(*index, *mac))
            }
            Self::SetNeighbour { index, address, mac } => {
                (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour::body(*index, *address, Some(*mac)))
            }
            Self::RemoveNeighbour { index, address } => {
                (RTM_DELNEIGH, 0, neighbour::body(*index, *address, None))
            }
        }
    }
}

fn device(name: &str, kind: InfoKind, data: Option<InfoData>) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::empty();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
    message.attributes.push(LinkAttribute::LinkInfo(info));
    emit(&message)
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth { one, other } => {
                write!(f, "create the veth pair {} and {}", one.name, other.name)
            }
            Self::CreateBridge { name } => write!(f, "create bridge {name}"),
            Self::CreateIfb { name } => write!(f, "create ifb device {name}"),
            Self::CreateNlmon { name } => write!(f, "create netlink monitor {name}"),
            Self::Link(change) => change.fmt(f),
            Self::DeleteLink { index } => write!(f, "delete interface {index}"),
            Self::AddAddress { index, address } => write!(f, "add address {address} to interface {index}"),
            Self::RemoveAddress { index, address } => {
                write!(f, "remove address {address} from interface {index}")
            }
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::ReplaceRoute(route) => write!(f, "replace route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
            Self::LearnNothing { index } => write!(f, "have nothing learned at bridge port {index}"),
            Self::Forward { index, .. } => write!(f, "set what is behind bridge port {index}"),
            Self::SetNeighbour { index, address, .. } => {
                write!(f, "set neighbour {address} of interface {index}")
            }
            Self::RemoveNeighbour { index, address } => {
                write!(f, "forget neighbour {address} of interface {index}")
            }
        }
    }
}

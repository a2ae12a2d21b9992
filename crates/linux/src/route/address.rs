//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::emit;

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address, with the length of its network's prefix.
    pub network: IpNet,
    /// Whether it can't be used yet, because the kernel still looks for duplicates.
    pub tentative: bool,
}

impl Address {
    /// None for families other than IP.
    pub(super) fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let message = AddressMessage::parse(body)?;
        let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
        for attribute in &message.attributes {
            match attribute {
                // The address itself; `Address` is the other end's on a point-to-point interface (rtnetlink(7)).
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(found) => flags = *found,
                _ => {}
            }
        }
        let network = local.or(address).and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok());
        Ok(network.map(|network| Self {
            index: message.header.index,
            network,
            tentative: flags.contains(AddressFlags::Tentative),
        }))
    }
}

pub(super) fn body(index: u32, network: IpNet) -> Vec<u8> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = network.prefix_len();
    message.header.family = family(network.addr());
    if network.addr().is_loopback() {
        message.header.scope = AddressScope::Host;
    }
    message.attributes.push(AddressAttribute::Local(network.addr()));
    message.attributes.push(AddressAttribute::Address(network.addr()));
    match network {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    emit(&message)
}

pub(super) fn dump_body(index: Option<u32>) -> Vec<u8> {
    let mut message = AddressMessage::default();
    message.header.index = index.unwrap_or(0);
    emit(&message)
}

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

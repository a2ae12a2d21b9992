//! What is known of neighbours' hardware addresses.

use std::net::IpAddr;

use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::address::family;
use super::{Mac, emit};

/// A neighbour on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Where it is, as far as known.
    pub mac: Option<Mac>,
    /// Whether it was told for good.
    pub permanent: bool,
}

impl Neighbour {
    /// None for families other than IP.
    pub(super) fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let message = NeighbourMessage::parse(body)?;
        let (mut address, mut mac) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(ip)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(ip))
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        Ok(address.map(|address| Self { index: message.header.ifindex, address, mac, permanent }))
    }
}

pub(super) fn body(index: u32, address: IpAddr, mac: Option<Mac>) -> Vec<u8> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    emit(&message)
}

/// An entry of a bridge's table that stays where it is, as `bridge fdb add MAC dev PORT master static sticky` makes it.
pub(super) fn forward_body(port: u32, mac: Mac) -> Vec<u8> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    emit(&message)
}

pub(super) fn dump_body() -> Vec<u8> {
    emit(&NeighbourMessage::default())
}

//! Routes.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};

use super::address::family;
use super::emit;

/// Where packets for a network go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub destination: IpNet,
    /// What becomes of them.
    pub kind: RouteKind,
    /// The lower the better; none: the kernel's choice (0, and 1,024 for IPv6).
    pub metric: Option<u32>,
    /// The source address of packets that have none yet.
    pub source: Option<IpAddr>,
    /// Largest packet in bytes on this way.
    pub mtu: Option<u32>,
    /// The routing table: 254 is the main one, 255 that of local addresses.
    pub table: u32,
}

/// What becomes of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// They leave by an interface, to a gateway or straight to their destination.
    Unicast {
        /// The interface; none: the one by which the gateway is reached.
        device: Option<u32>,
        /// The gateway.
        gateway: Option<IpAddr>,
        /// Take the gateway for a neighbour even if no route says so.
        onlink: bool,
    },
    /// They are for this host, which answers for every address of the network.
    Local {
        /// The interface, usually loopback.
        device: u32,
    },
    /// They are dropped; who sent them here gets `EINVAL`.
    Blackhole,
    /// They are refused as prohibited (`EACCES`).
    Prohibit,
    /// They are refused as unreachable (`EHOSTUNREACH`).
    Unreachable,
    /// One of the kernel's other kinds (broadcast, multicast, anycast), only found when listing.
    Other,
}

/// The table of routes that `ip route` shows.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// The table of local addresses.
const LOCAL: u32 = 255;

impl Route {
    /// A route of this kind in its usual table.
    pub fn new(destination: IpNet, kind: RouteKind) -> Self {
        let table = if matches!(kind, RouteKind::Local { .. }) { LOCAL } else { MAIN };
        Self { destination: destination.trunc(), kind, metric: None, source: None, mtu: None, table }
    }

    /// To a network that lies on an interface.
    pub fn on(destination: IpNet, device: u32) -> Self {
        Self::new(destination, RouteKind::Unicast { device: Some(device), gateway: None, onlink: false })
    }

    /// To a network behind a gateway.
    pub fn via(destination: IpNet, gateway: IpAddr, device: u32) -> Self {
        Self::new(
            destination,
            RouteKind::Unicast { device: Some(device), gateway: Some(gateway), onlink: false },
        )
    }

    pub(super) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.addr());
        header.destination_prefix_length = self.destination.prefix_len();
        header.protocol = RouteProtocol::Static;
        header.scope = RouteScope::Universe;
        let attributes = &mut message.attributes;
        if self.destination.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        match self.kind {
            RouteKind::Unicast { device, gateway, onlink } => {
                header.kind = RouteType::Unicast;
                if gateway.is_none() && self.destination.addr().is_ipv4() {
                    header.scope = RouteScope::Link;
                }
                if onlink {
                    header.flags |= RouteFlags::Onlink;
                }
                attributes.extend(device.map(RouteAttribute::Oif));
                attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
            }
            RouteKind::Local { device } => {
                header.kind = RouteType::Local;
                header.scope = RouteScope::Host;
                attributes.push(RouteAttribute::Oif(device));
            }
            RouteKind::Blackhole => header.kind = RouteType::BlackHole,
            RouteKind::Prohibit => header.kind = RouteType::Prohibit,
            RouteKind::Unreachable => header.kind = RouteType::Unreachable,
            RouteKind::Other => header.kind = RouteType::Unspec,
        }
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        match u8::try_from(self.table) {
            Ok(table) => header.table = table,
            Err(_) => attributes.push(RouteAttribute::Table(self.table)),
        }
        message
    }

    /// None for families other than IP, and for entries of the route cache.
    pub(super) fn parse(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let message = RouteMessage::parse(body)?;
        let unspecified: IpNet = match message.header.address_family {
            AddressFamily::Inet => Ipv4Net::default().into(),
            AddressFamily::Inet6 => Ipv6Net::default().into(),
            _ => return Ok(None),
        };
        if message.header.flags.contains(RouteFlags::Cloned) {
            return Ok(None);
        }
        let (mut destination, mut device, mut gateway) = (unspecified.addr(), None, None);
        let mut route = Self::new(unspecified, RouteKind::Other);
        route.table = message.header.table.into();
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address).unwrap_or(destination),
                RouteAttribute::Oif(index) => device = Some(index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::Priority(metric) => route.metric = Some(metric),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Table(table) => route.table = table,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let prefix = message.header.destination_prefix_length;
        let Ok(network) = IpNet::new(destination, prefix) else { return Ok(None) };
        route.destination = network;
        let onlink = message.header.flags.contains(RouteFlags::Onlink);
        route.kind = match message.header.kind {
            RouteType::Unicast => RouteKind::Unicast { device, gateway, onlink },
            RouteType::Local => RouteKind::Local { device: device.unwrap_or(0) },
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Prohibit => RouteKind::Prohibit,
            RouteType::Unreachable => RouteKind::Unreachable,
            _ => RouteKind::Other,
        };
        Ok(Some(route))
    }
}

pub(super) fn dump_bodies() -> [Vec<u8>; 2] {
    [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        emit(&message)
    })
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast { device, gateway, onlink } => {
                write!(f, "{}", self.destination)?;
                if let Some(gateway) = gateway {
                    write!(f, " via {gateway}")?;
                }
                if let Some(device) = device {
                    write!(f, " by interface {device}")?;
                }
                if onlink { f.write_str(" onlink") } else { Ok(()) }
            }
            RouteKind::Local { device } => write!(f, "local {} by interface {device}", self.destination),
            RouteKind::Blackhole => write!(f, "blackhole {}", self.destination),
            RouteKind::Prohibit => write!(f, "prohibit {}", self.destination),
            RouteKind::Unreachable => write!(f, "unreachable {}", self.destination),
            RouteKind::Other => write!(f, "{} of another kind", self.destination),
        }
    }
}

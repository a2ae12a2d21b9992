//! What is in a frame: Ethernet, VLAN tags, ARP, IPv4, IPv6 with its extension headers, and the transport's header.
//!
//! A frame whose Ethernet or IP header contradicts its own length is [`Malformed`]; odd transports are passed on as
//! [`Transport::Other`], since whether they make sense is up to the receiver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMP6: u8 = 58;
}

const MAX_TAGS: usize = 4;
const MAX_EXTENSIONS: usize = 16;

/// Where things are in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The receiver's hardware address.
    pub to: [u8; 6],
    /// The sender's hardware address.
    pub from: [u8; 6],
    /// How many VLAN tags stand before the EtherType.
    pub tags: u8,
    /// Bytes of the Ethernet header, tags included: where the network header begins.
    pub network: usize,
    /// What the network header is.
    pub content: Network,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// An address resolution message.
    Arp,
    /// An IP packet.
    Ip(Ip),
    /// Something else, by its EtherType (or length, below 1,536).
    Other(u16),
}

/// The headers of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Where from.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// The transport's protocol number.
    pub protocol: u8,
    /// Where the transport header begins: options and extension headers lie before.
    pub transport_at: usize,
    /// Where the packet ends; what follows in the frame is padding.
    pub end: usize,
    /// Whether it is any fragment of a larger packet.
    pub fragment: bool,
    /// Whether it has IPv4 options or IPv6 extension headers.
    pub options: bool,
    /// The transport's header.
    pub transport: Transport,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, and the length of its header.
    Tcp(usize),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, with its type.
    Icmp(u8),
    /// Another protocol, a later fragment, or a header that is cut off.
    Other,
}

/// Why a frame can't be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its Ethernet header, or too many VLAN tags.
    #[error("ethernet header cut off")]
    Ethernet,
    /// An IP header that is cut off, or whose version or header length is wrong.
    #[error("IP header cut off or wrong")]
    Header,
    /// An IP length below its headers' or beyond the frame.
    #[error("IP length contradicts the frame")]
    Length,
    /// IPv6 extension headers that are cut off, or too many.
    #[error("extension headers cut off or too many")]
    Extension,
    /// An ARP message that is cut off or not about IPv4 over Ethernet.
    #[error("ARP message cut off or not IPv4 over ethernet")]
    Arp,
    /// Offload fields that contradict the frame.
    #[error("offload header contradicts the frame")]
    Offload,
}

// === impl Layout ===

impl Layout {
    /// Reads a frame's headers.
    pub fn parse(frame: &[u8]) -> Result<Layout, Malformed> {
        let to = array(frame, 0).ok_or(Malformed::Ethernet)?;
        let from = array(frame, 6).ok_or(Malformed::Ethernet)?;
        let (mut at, mut tags) = (12, 0);
        let ethertype = loop {
            let ethertype = word(frame, at).ok_or(Malformed::Ethernet)?;
            at += 2;
            // 802.1Q and 802.1ad tags: four bytes, the next EtherType behind.
            if !matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) {
                break ethertype;
            }
            tags += 1;
            at += 2;
            if tags > MAX_TAGS {
                return Err(Malformed::Ethernet);
            }
        };
        let content = match ethertype {
            IPV4 => Network::Ip(parse_v4(frame, at)?),
            IPV6 => Network::Ip(parse_v6(frame, at)?),
            ARP if frame.len() < at + 28 => return Err(Malformed::Arp),
            ARP => Network::Arp,
            other => Network::Other(other),
        };
        Ok(Layout { to, from, tags: tags as u8, network: at, content })
    }

    /// The IP packet in the frame.
    pub fn ip(&self) -> Option<&Ip> {
        match &self.content {
            Network::Ip(ip) => Some(ip),
            _ => None,
        }
    }

    /// Whether the frame is for more than one receiver.
    pub fn is_group_addressed(&self) -> bool {
        self.to[0] & 1 != 0
    }
}

// === impl Ip ===

impl Ip {
    /// Where the transport's payload begins, for TCP and UDP.
    pub fn payload_at(&self) -> Option<usize> {
        match self.transport {
            Transport::Tcp(header) => Some(self.transport_at + header),
            Transport::Udp => Some(self.transport_at + 8),
            Transport::Icmp(_) | Transport::Other => None,
        }
    }
}

fn parse_v4(frame: &[u8], at: usize) -> Result<Ip, Malformed> {
    let header = frame.get(at..at + 20).ok_or(Malformed::Header)?;
    let header_length = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_length < 20 || frame.len() < at + header_length {
        return Err(Malformed::Header);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total < header_length || frame.len() < at + total {
        return Err(Malformed::Length);
    }
    let fragment_field = u16::from_be_bytes([header[6], header[7]]);
    let later_fragment = fragment_field & 0x1fff != 0;
    let (transport_at, end) = (at + header_length, at + total);
    Ok(Ip {
        source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        protocol: header[9],
        transport_at,
        end,
        fragment: later_fragment || fragment_field & 0x2000 != 0,
        options: header_length > 20,
        transport: parse_transport(&frame[transport_at..end], header[9], later_fragment),
    })
}

fn parse_v6(frame: &[u8], at: usize) -> Result<Ip, Malformed> {
    let header = frame.get(at..at + 40).ok_or(Malformed::Header)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::Header);
    }
    let end = at + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if frame.len() < end {
        return Err(Malformed::Length);
    }
    let address = |from: usize| array::<16>(header, from).map(|a| IpAddr::V6(Ipv6Addr::from(a)));
    let source = address(8).ok_or(Malformed::Header)?;
    let destination = address(24).ok_or(Malformed::Header)?;
    let (mut next, mut transport_at) = (header[6], at + 40);
    let (mut fragment, mut later_fragment, mut extensions) = (false, false, 0);
    // RFC 8200 4: hop-by-hop options, routing, fragment, authentication, destination options, mobility. What follows
    // the header of a later fragment is the middle of something.
    while !later_fragment && matches!(next, 0 | 43 | 44 | 51 | 60 | 135) {
        extensions += 1;
        let head = frame[..end].get(transport_at..transport_at + 8).ok_or(Malformed::Extension)?;
        if extensions > MAX_EXTENSIONS {
            return Err(Malformed::Extension);
        }
        let length = match next {
            44 => {
                fragment = true;
                later_fragment = u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0;
                8
            }
            51 => (usize::from(head[1]) + 2) * 4,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        next = head[0];
        transport_at += length;
        if transport_at > end {
            return Err(Malformed::Extension);
        }
    }
    Ok(Ip {
        source,
        destination,
        protocol: next,
        transport_at,
        end,
        fragment,
        options: extensions > 0,
        transport: parse_transport(&frame[transport_at..end], next, later_fragment),
    })
}

fn parse_transport(bytes: &[u8], number: u8, later_fragment: bool) -> Transport {
    match number {
        _ if later_fragment => Transport::Other,
        protocol::TCP if bytes.len() >= 20 => match usize::from(bytes[12] >> 4) * 4 {
            header if header >= 20 && header <= bytes.len() => Transport::Tcp(header),
            _ => Transport::Other,
        },
        protocol::UDP if bytes.len() >= 8 => Transport::Udp,
        protocol::ICMP | protocol::ICMP6 if bytes.len() >= 8 => Transport::Icmp(bytes[0]),
        _ => Transport::Other,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

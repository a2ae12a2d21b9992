//! Answers that the switch makes up: ARP replies, neighbour advertisements, and the errors of a rejecting link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::parse::{Ip, Layout, Network, Transport, protocol};

/// A question for a hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Whose hardware address is asked for.
    pub target: IpAddr,
    /// Who asks, so far as it says.
    pub asker: IpAddr,
    /// Whether it only wants to know if the address is taken (RFC 5227, RFC 4862 5.4): it has none of its own yet.
    pub probe: bool,
}

/// What a frame of a resolution protocol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// A request or neighbour solicitation.
    Question(Question),
    /// Any other ARP message, a neighbour advertisement, a redirect, a router solicitation or advertisement: the
    /// switch knows who is where, and nobody on a network of instances is a router.
    Statement,
}

/// Whether a frame belongs to ARP or neighbour discovery, and what it asks.
pub fn resolution(frame: &[u8], layout: &Layout) -> Option<Resolution> {
    match &layout.content {
        Network::Arp => {
            let arp = frame.get(layout.network..layout.network + 28)?;
            // Ethernet, IPv4, address lengths 6 and 4, operation "request" (RFC 826).
            if arp[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
                return Some(Resolution::Statement);
            }
            let asker = Ipv4Addr::new(arp[14], arp[15], arp[16], arp[17]);
            let target = Ipv4Addr::new(arp[24], arp[25], arp[26], arp[27]);
            // A request for one's own address is an announcement.
            if asker == target {
                return Some(Resolution::Statement);
            }
            let probe = asker.is_unspecified();
            Some(Resolution::Question(Question { target: target.into(), asker: asker.into(), probe }))
        }
        Network::Ip(Ip { transport: Transport::Icmp(kind), protocol: protocol::ICMP6, .. }) => {
            let ip = layout.ip()?;
            match kind {
                135 => {
                    let target: [u8; 16] =
                        frame.get(ip.transport_at + 8..ip.transport_at + 24)?.try_into().ok()?;
                    let target = IpAddr::V6(Ipv6Addr::from(target));
                    let probe = ip.source.is_unspecified();
                    Some(Resolution::Question(Question { target, asker: ip.source, probe }))
                }
                133 | 134 | 136 | 137 => Some(Resolution::Statement),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a frame only says which multicast groups its sender listens to (IGMP, MLD): a switch without multicast
/// routers keeps it to itself (RFC 4541 2.1.1).
pub fn is_membership_report(layout: &Layout) -> bool {
    layout.ip().is_some_and(|ip| match ip.transport {
        Transport::Icmp(kind) => ip.protocol == protocol::ICMP6 && matches!(kind, 130..=132 | 143),
        _ => ip.protocol == protocol::IGMP,
    })
}

/// The answer to a question: `owner` is the hardware address asked for. `None` for a frame that asks nothing.
pub fn answer(frame: &[u8], layout: &Layout, question: &Question, owner: [u8; 6]) -> Option<Vec<u8>> {
    let mut reply = ethernet(frame, layout, owner);
    match (question.target, question.asker) {
        (IpAddr::V4(target), IpAddr::V4(asker)) => {
            reply.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
            reply.extend_from_slice(&owner);
            reply.extend_from_slice(&target.octets());
            reply.extend_from_slice(&layout.from);
            reply.extend_from_slice(&asker.octets());
        }
        (IpAddr::V6(target), IpAddr::V6(asker)) => {
            // RFC 4861 7.2.4: a probe is answered to all nodes and is not "solicited".
            let (to, flags) = match question.probe {
                true => (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0x20),
                false => (asker, 0x60),
            };
            let mut message = vec![136, 0, 0, 0, flags, 0, 0, 0];
            message.extend_from_slice(&target.octets());
            message.extend_from_slice(&[2, 1]);
            message.extend_from_slice(&owner);
            ipv6(&mut reply, target, to, &mut message);
        }
        _ => return None,
    }
    Some(reply)
}

/// What the sender of a rejected packet is told, as if its destination had said so: a reset for TCP, "communication
/// administratively prohibited" (RFC 1812 5.2.7.1, RFC 4443 3.1) for the rest. `None` where an error must not be
/// answered: errors and resets themselves, later fragments, group addresses.
pub fn rejection(frame: &[u8], layout: &Layout) -> Option<Vec<u8>> {
    let ip = layout.ip()?;
    if layout.is_group_addressed() || is_group(ip.destination) || is_group(ip.source) {
        return None;
    }
    let mut reply = ethernet(frame, layout, layout.to);
    let packet = frame.get(layout.network..ip.end)?;
    match (ip.transport, ip.source, ip.destination) {
        (Transport::Tcp(header), source, destination) => {
            let mut reset = tcp_reset(&frame[ip.transport_at..ip.end], header)?;
            let sum = checksum::pseudo_header(destination, source, protocol::TCP, reset.len() as u32);
            let sum = !checksum::add(sum, checksum::sum(&reset));
            reset[16..18].copy_from_slice(&sum.to_be_bytes());
            match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => ipv4(&mut reply, d, s, protocol::TCP, &reset),
                (IpAddr::V6(s), IpAddr::V6(d)) => ipv6_header(&mut reply, d, s, protocol::TCP, &reset),
                _ => return None,
            }
        }
        // A TCP header that can't be read, or the middle of something, gets no answer.
        (Transport::Other, ..) if ip.fragment || ip.protocol == protocol::TCP => return None,
        (Transport::Icmp(3 | 4 | 5 | 11 | 12), IpAddr::V4(_), _) => return None,
        (Transport::Icmp(kind), IpAddr::V6(_), _) if kind < 128 => return None,
        (_, IpAddr::V4(source), IpAddr::V4(destination)) => {
            // As much of the packet as fits in 576 bytes (RFC 1812 4.3.2.3).
            let mut message = vec![3, 13, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&packet[..packet.len().min(576 - 28)]);
            let sum = !checksum::sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            ipv4(&mut reply, destination, source, protocol::ICMP, &message);
        }
        (_, IpAddr::V6(source), IpAddr::V6(destination)) => {
            // As much of the packet as fits in the smallest MTU (RFC 4443 3.1).
            let mut message = vec![1, 1, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&packet[..packet.len().min(1280 - 48)]);
            ipv6(&mut reply, destination, source, &mut message);
        }
        _ => return None,
    }
    Some(reply)
}

/// RFC 9293 3.10.7.1, "the connection does not exist".
fn tcp_reset(segment: &[u8], header: usize) -> Option<[u8; 20]> {
    const SYN_FIN: u8 = 0x03;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let flags = segment[13];
    if flags & RST != 0 {
        return None;
    }
    let mut reset = [0u8; 20];
    reset[..2].copy_from_slice(&segment[2..4]);
    reset[2..4].copy_from_slice(&segment[..2]);
    reset[12] = 5 << 4;
    if flags & ACK != 0 {
        reset[4..8].copy_from_slice(&segment[8..12]);
        reset[13] = RST;
    } else {
        let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
        let taken = (segment.len() - header) as u32 + (flags & SYN_FIN).count_ones();
        reset[8..12].copy_from_slice(&sequence.wrapping_add(taken).to_be_bytes());
        reset[13] = RST | ACK;
    }
    Some(reset)
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
    }
}

/// The Ethernet header of an answer, with the question's VLAN tags.
fn ethernet(frame: &[u8], layout: &Layout, from: [u8; 6]) -> Vec<u8> {
    let mut reply = Vec::with_capacity(128);
    reply.extend_from_slice(&layout.from);
    reply.extend_from_slice(&from);
    reply.extend_from_slice(&frame[12..layout.network]);
    reply
}

fn ipv4(out: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, number: u8, payload: &[u8]) {
    let at = out.len();
    let total = 20 + payload.len() as u16;
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, number, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum = !checksum::sum(&out[at..]);
    out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(payload);
}

/// An ICMPv6 message with its checksum filled in. Hop limit 255, as neighbour discovery wants it.
fn ipv6(out: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr, message: &mut [u8]) {
    let sum = checksum::pseudo_header(from.into(), to.into(), protocol::ICMP6, message.len() as u32);
    let sum = !checksum::add(sum, checksum::sum(message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6_header(out, from, to, protocol::ICMP6, message);
}

fn ipv6_header(out: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr, number: u8, payload: &[u8]) {
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    out.extend_from_slice(&[number, 255]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(payload);
}

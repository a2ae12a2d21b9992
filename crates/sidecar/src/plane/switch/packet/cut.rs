//! Cutting a super-packet into runs of its segments, as a device would, and mending what the cut breaks.
//!
//! A run of one segment is an ordinary frame; a longer run is a smaller super-packet, so that it costs one write.

use std::net::IpAddr;

use super::checksum;
use super::parse::{Ip, Layout, Malformed, Transport, protocol};
use super::vnet::{Gso, GsoKind, VnetHeader};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The segments that a frame stands for; a plain frame is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// How many.
    pub count: u32,
    /// Bytes of each but the last on the wire, headers included.
    pub full: u32,
    /// Bytes of the last on the wire.
    pub last: u32,
    /// Bytes of headers in each; 0 for a plain frame.
    pub header: u32,
}

/// Why a run can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The run is empty or reaches past the last segment.
    #[error("segments {first}..{end} of {count}")]
    Range {
        /// The first.
        first: u32,
        /// One past the last.
        end: u32,
        /// How many there are.
        count: u32,
    },
    /// The frame is not what its layout says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

// === impl Segments ===

impl Segments {
    /// What a frame stands for, by its offload header; refuses a header that contradicts the frame.
    pub fn of(frame: &[u8], layout: &Layout, vnet: &VnetHeader) -> Result<Segments, Malformed> {
        if let Some((start, offset)) = vnet.partial_checksum {
            let at = usize::from(start) + usize::from(offset);
            if at + 2 > frame.len() {
                return Err(Malformed::Offload);
            }
        }
        let Some(gso) = vnet.gso else { return Ok(Segments::plain(frame.len())) };
        let ip = layout.ip().ok_or(Malformed::Offload)?;
        let fits = match (gso.kind, ip.transport) {
            (GsoKind::Tcp4, Transport::Tcp(_)) => ip.destination.is_ipv4(),
            (GsoKind::Tcp6, Transport::Tcp(_)) => ip.destination.is_ipv6(),
            (GsoKind::Udp, Transport::Udp) => true,
            _ => false,
        };
        let header = ip.payload_at().filter(|_| fits && !ip.fragment).ok_or(Malformed::Offload)?;
        let payload = ip.end.checked_sub(header).ok_or(Malformed::Offload)? as u32;
        let (header, size) = (header as u32, u32::from(gso.size));
        let count = payload.div_ceil(size).max(1);
        let last = payload - (count - 1) * size;
        Ok(Segments { count, full: header + size, last: header + last, header })
    }

    /// A frame that is a single packet.
    pub fn plain(length: usize) -> Segments {
        let length = length as u32;
        Segments { count: 1, full: length, last: length, header: 0 }
    }

    /// Bytes of one segment on the wire.
    pub fn size(&self, index: u32) -> u32 {
        if index + 1 == self.count { self.last } else { self.full }
    }

    /// Bytes of a run of segments on the wire.
    pub fn size_of(&self, first: u32, count: u32) -> u64 {
        let end = first + count;
        let lasts = u64::from(end == self.count && count > 0);
        (u64::from(count) - lasts) * u64::from(self.full) + lasts * u64::from(self.last)
    }

    /// Where the payload of a run lies in the frame.
    pub fn payload(&self, first: u32, count: u32) -> std::ops::Range<usize> {
        let step = self.full - self.header;
        let start = self.header + first * step;
        let end = if first + count == self.count {
            self.header + (self.count - 1) * step + (self.last - self.header)
        } else {
            start + count * step
        };
        start as usize..end as usize
    }
}

/// The headers and the offload header of the run `first..first + count` of a super-packet; its payload is
/// [`Segments::payload`] of the original frame.
///
/// As a device does: IPv4 identification counts up, TCP's sequence number moves on, FIN and PSH stay with the very
/// last segment, CWR with the very first. The transport checksum is left as the pseudo-header's alone, for the
/// receiver's kernel takes a frame on its word that a partial checksum is right; see [`checksum::fill_in`].
pub fn take_run(
    frame: &[u8],
    layout: &Layout,
    gso: Gso,
    segments: &Segments,
    first: u32,
    count: u32,
) -> Result<(VnetHeader, Box<[u8]>), CutError> {
    let end = first.saturating_add(count);
    if count == 0 || end > segments.count {
        return Err(CutError::Range { first, end, count: segments.count });
    }
    let ip = layout.ip().ok_or(Malformed::Offload)?;
    let header_end = segments.header as usize;
    let mut head: Box<[u8]> = frame.get(..header_end).ok_or(Malformed::Length)?.into();
    let payload = segments.payload(first, count).len();
    mend_network(&mut head, layout.network, ip, payload, first);
    let field = mend_transport(&mut head, ip, segments, gso, first, count)?;
    let length = (header_end - ip.transport_at + payload) as u32;
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
    let at = ip.transport_at + field;
    head[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let vnet = VnetHeader {
        partial_checksum: Some((ip.transport_at as u16, field as u16)),
        data_valid: false,
        gso: (count > 1).then_some(Gso { header: header_end as u16, ecn: gso.ecn && first == 0, ..gso }),
    };
    Ok((vnet, head))
}

/// Flips one bit of a frame behind its Ethernet header, chosen by a random number. What was there before is what
/// checksums are about, so the receiver sees them wrong.
pub fn flip_bit(frame: &mut [u8], network: usize, chance: u64) {
    let bits = frame.len().saturating_sub(network) as u64 * 8;
    if bits > 0 {
        // The high half of a product is a fair choice below `bits` (Lemire 2019).
        let bit = ((u128::from(chance) * u128::from(bits)) >> 64) as usize;
        frame[network + bit / 8] ^= 0x80 >> (bit % 8);
    }
}

fn mend_network(head: &mut [u8], at: usize, ip: &Ip, payload: usize, first: u32) {
    let packet = head.len() + payload - at;
    match ip.destination {
        IpAddr::V4(_) => {
            head[at + 2..at + 4].copy_from_slice(&(packet as u16).to_be_bytes());
            let id = u16::from_be_bytes([head[at + 4], head[at + 5]]).wrapping_add(first as u16);
            head[at + 4..at + 6].copy_from_slice(&id.to_be_bytes());
            head[at + 10..at + 12].fill(0);
            let sum = !checksum::sum(&head[at..ip.transport_at]);
            head[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(_) => head[at + 4..at + 6].copy_from_slice(&((packet - 40) as u16).to_be_bytes()),
    }
}

/// Returns where in the transport header the checksum is.
fn mend_transport(
    head: &mut [u8],
    ip: &Ip,
    segments: &Segments,
    gso: Gso,
    first: u32,
    count: u32,
) -> Result<usize, Malformed> {
    let at = ip.transport_at;
    match ip.protocol {
        protocol::TCP => {
            let sequence = u32::from_be_bytes([head[at + 4], head[at + 5], head[at + 6], head[at + 7]]);
            let sequence = sequence.wrapping_add(first * u32::from(gso.size));
            head[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if first + count != segments.count {
                head[at + 13] &= !(FIN | PSH);
            }
            if first != 0 {
                head[at + 13] &= !CWR;
            }
            Ok(16)
        }
        protocol::UDP => {
            let length = 8 + segments.payload(first, count).len();
            head[at + 4..at + 6].copy_from_slice(&(length as u16).to_be_bytes());
            Ok(6)
        }
        _ => Err(Malformed::Offload),
    }
}

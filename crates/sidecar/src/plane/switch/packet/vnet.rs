//! `struct virtio_net_hdr` (virtio 1.2, 5.1.6): what a sender left to the device.

/// Bytes of the header as TAPs and packet sockets use it.
pub const LENGTH: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header of one frame, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// The transport checksum is only that of the pseudo-header: where the sum starts, and where in it the field is.
    pub partial_checksum: Option<(u16, u16)>,
    /// Checksums were checked by a device before.
    pub data_valid: bool,
    /// The frame is a super-packet of this kind, cut into pieces of `size` bytes of payload.
    pub gso: Option<Gso>,
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// Over which protocols.
    pub kind: GsoKind,
    /// TCP with congestion notification: only the first segment keeps CWR.
    pub ecn: bool,
    /// Bytes of payload of every segment but the last.
    pub size: u16,
    /// Bytes of all headers, a hint of the sender.
    pub header: u16,
}

/// What a super-packet is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams over IPv4 or IPv6.
    Udp,
}

// === impl VnetHeader ===

impl VnetHeader {
    /// Reads a header; `None` when the kind of super-packet is unknown or its size is 0.
    pub fn decode(bytes: &[u8; LENGTH]) -> Option<VnetHeader> {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let kind = match bytes[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(GsoKind::Tcp4),
            GSO_TCPV6 => Some(GsoKind::Tcp6),
            GSO_UDP_L4 => Some(GsoKind::Udp),
            _ => return None,
        };
        let gso = kind.map(|kind| Gso { kind, ecn: bytes[1] & GSO_ECN != 0, size: word(4), header: word(2) });
        if gso.is_some_and(|g| g.size == 0) {
            return None;
        }
        let partial_checksum = (bytes[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
        Some(VnetHeader { partial_checksum, data_valid: bytes[0] & DATA_VALID != 0, gso })
    }

    /// Writes the header.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0u8; LENGTH];
        if let Some((start, offset)) = self.partial_checksum {
            bytes[0] |= NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        } else if self.data_valid {
            bytes[0] |= DATA_VALID;
        }
        if let Some(gso) = self.gso {
            let kind = match gso.kind {
                GsoKind::Tcp4 => GSO_TCPV4,
                GsoKind::Tcp6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            bytes[1] = kind | if gso.ecn { GSO_ECN } else { 0 };
            bytes[2..4].copy_from_slice(&gso.header.to_le_bytes());
            bytes[4..6].copy_from_slice(&gso.size.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let headers = [
            VnetHeader::default(),
            VnetHeader { partial_checksum: Some((34, 16)), data_valid: false, gso: None },
            VnetHeader {
                partial_checksum: Some((54, 6)),
                data_valid: false,
                gso: Some(Gso { kind: GsoKind::Udp, ecn: false, size: 1400, header: 62 }),
            },
            VnetHeader {
                partial_checksum: Some((34, 16)),
                data_valid: false,
                gso: Some(Gso { kind: GsoKind::Tcp6, ecn: true, size: 1, header: 66 }),
            },
        ];
        for header in headers {
            assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
        }
    }

    #[test]
    fn unknown_kinds_and_empty_segments_are_refused() {
        assert_eq!(VnetHeader::decode(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0]), None);
        assert_eq!(VnetHeader::decode(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}

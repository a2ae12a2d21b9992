//! pcapng (draft-ietf-opsawg-pcapng) as bytes: a section, one interface block a port, one packet block a frame.

use super::packet::{VnetHeader, checksum};

/// Which way a frame went, seen from the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To it.
    Inbound = 1,
    /// From it.
    Outbound = 2,
}

/// The beginning of a file: a section header, and an interface of Ethernet for each name, with nanosecond stamps.
pub fn header(interfaces: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut section = Vec::new();
    section.extend_from_slice(&0x1a2b_3c4du32.to_le_bytes());
    section.extend_from_slice(&1u16.to_le_bytes());
    section.extend_from_slice(&0u16.to_le_bytes());
    section.extend_from_slice(&u64::MAX.to_le_bytes());
    option(&mut section, 4, b"testground");
    end_of_options(&mut section);
    block(&mut out, 0x0a0d_0d0a, &section);
    for name in interfaces {
        let mut interface = Vec::new();
        interface.extend_from_slice(&1u16.to_le_bytes());
        interface.extend_from_slice(&[0; 2]);
        interface.extend_from_slice(&0u32.to_le_bytes());
        option(&mut interface, 2, name.as_bytes());
        option(&mut interface, 9, &[9]);
        end_of_options(&mut interface);
        block(&mut out, 1, &interface);
    }
    out
}

/// Appends a frame. A checksum that was left to the device is filled in; a super-packet stays one frame.
pub fn frame(
    out: &mut Vec<u8>,
    interface: u32,
    unix_nanos: u64,
    direction: Direction,
    vnet: &VnetHeader,
    parts: [&[u8]; 2],
) {
    let length = (parts[0].len() + parts[1].len()) as u32;
    let mut packet = Vec::with_capacity(length as usize + 48);
    packet.extend_from_slice(&interface.to_le_bytes());
    packet.extend_from_slice(&((unix_nanos >> 32) as u32).to_le_bytes());
    packet.extend_from_slice(&(unix_nanos as u32).to_le_bytes());
    packet.extend_from_slice(&length.to_le_bytes());
    packet.extend_from_slice(&length.to_le_bytes());
    let at = packet.len();
    packet.extend_from_slice(parts[0]);
    packet.extend_from_slice(parts[1]);
    if let Some((start, offset)) = vnet.partial_checksum {
        checksum::fill_in(&mut packet[at..], start.into(), offset.into());
    }
    pad(&mut packet);
    option(&mut packet, 2, &(direction as u32).to_le_bytes());
    end_of_options(&mut packet);
    block(out, 6, &packet);
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = body.len() as u32 + 12;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&length.to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// Blocks and options end at multiples of four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

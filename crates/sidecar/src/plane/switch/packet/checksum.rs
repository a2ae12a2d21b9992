//! The Internet checksum (RFC 1071): ones' complement sums over 16-bit words in network order.

use std::net::IpAddr;

/// The folded ones' complement sum of some bytes; an odd last byte counts as the high half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    // Sums of native-order words are byte-swapped sums of network-order ones (RFC 1071, 2 (B)).
    let mut total: u64 = 0;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut tail = [0u8; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let word = u64::from_ne_bytes(tail);
    total += (word & 0xffff_ffff) + (word >> 32);
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// The ones' complement sum of two sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum of the pseudo-header of TCP, UDP or ICMPv6 (RFC 9293 3.1, RFC 8200 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> u16 {
    let ends = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => add(sum(&s.octets()), sum(&d.octets())),
        (IpAddr::V6(s), IpAddr::V6(d)) => add(sum(&s.octets()), sum(&d.octets())),
        _ => 0,
    };
    let length = add((length >> 16) as u16, length as u16);
    add(add(ends, u16::from(protocol)), length)
}

/// Computes the checksum that a sender left to the device: the sum from `start` to the end of the frame, which
/// already holds the pseudo-header's, complemented and stored at `start + offset`.
///
/// Returns whether the place lies within the frame.
pub fn fill_in(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let at = start + offset;
    if start > frame.len() || at + 2 > frame.len() {
        return false;
    }
    let value = match !sum(&frame[start..]) {
        // A UDP checksum of 0 means "none" (RFC 768); both stand for the same sum.
        0 => 0xffff,
        value => value,
    };
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]), 0xab00);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x6834);
    }

    #[test]
    fn word_wise_sums_are_those_of_the_definition() {
        let bytes: Vec<u8> = (0..1500u32).map(|i| (i * 7 + 3) as u8).collect();
        for length in [1, 2, 3, 7, 8, 9, 15, 16, 17, 1499, 1500] {
            let mut plain: u32 = 0;
            for pair in bytes[..length].chunks(2) {
                plain += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            }
            while plain >> 16 != 0 {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(sum(&bytes[..length]), plain as u16, "{length} bytes");
        }
    }

    #[test]
    fn a_place_outside_the_frame_is_refused() {
        let mut frame = [0u8; 20];
        assert!(fill_in(&mut frame, 10, 8));
        assert!(!fill_in(&mut frame, 10, 9));
        assert!(!fill_in(&mut frame, 21, 0));
    }
}

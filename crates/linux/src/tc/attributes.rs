//! Netlink attributes as bytes: a type, a length and a value each, padded to four bytes, nested where a value is made of
//! attributes again. What they mean belongs to the modules that write and read them.

use netlink_packet_core::{NLA_F_NESTED, NLA_TYPE_MASK};

/// Attributes that are being written.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = 4 + value.len();
        self.0.extend((length as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Text with the NUL byte that ends it for the kernel.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Attributes in an attribute, marked as such.
    pub(super) fn marked(&mut self, kind: u16, value: &Attributes) -> &mut Self {
        self.bytes(kind | NLA_F_NESTED, &value.0)
    }

    /// A structure of numbers followed by attributes, as netem's options are.
    pub(super) fn starting_with(words: &[u32]) -> Self {
        let mut this = Self::default();
        this.0.extend(words_of(words));
        this
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Numbers in the order and size in which a C structure has them.
pub(super) fn words_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Attributes that were received: the type of each without its marks, and its value. Ends at the first that is malformed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The 32-bit number at a place, counted in such numbers; 0 past the end.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(4 * at..4 * at + 4).map_or(0, |word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
}

/// The 64-bit number at the start; 0 where there is none.
pub(super) fn long(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Text up to its NUL byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let mut inner = Attributes::default();
        inner.u16(3, 7).text(4, "abc");
        let mut outer = Attributes::default();
        outer.u32(1, 5).marked(2, &inner).u64(9, 1 << 40);
        let found: Vec<_> = Walk(outer.as_bytes()).collect();
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!((word(found[0].1, 0), long(found[2].1)), (5, 1 << 40));
        let nested: Vec<_> = Walk(found[1].1).collect();
        assert_eq!((nested[0].0, nested[0].1.len(), text(nested[1].1)), (3, 2, "abc".to_owned()));
    }

    #[test]
    fn malformed_bytes_end_the_walk() {
        for bytes in
            [&[][..], &[8, 0, 1], &[8, 0, 1, 0, 1], &[3, 0, 1, 0], &[0, 0, 0, 0], &[255, 255, 1, 0, 1]]
        {
            assert_eq!(Walk(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!((word(&[1, 2], 0), long(&[1]), text(b"no end")), (0, 0, "no end".to_owned()));
    }
}

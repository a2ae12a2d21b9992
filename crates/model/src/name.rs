//! Names: of runs, of instances, and what they look like as host names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A run's identity: twenty characters of base32hex, sortable by the time of creation (the form of rs/xid).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

/// One instance of a run: the group's id and the instance's index in it, from 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceName {
    /// The group's id.
    pub group: String,
    /// The index in the group, from 0.
    pub index: u32,
}

// === impl RunId ===

impl RunId {
    /// Builds an id from the seconds since 1970 and eight bytes of chance.
    pub fn new(unix_seconds: u32, chance: [u8; 8]) -> RunId {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let mut bytes = [0u8; 12];
        bytes[..4].copy_from_slice(&unix_seconds.to_be_bytes());
        bytes[4..].copy_from_slice(&chance);
        let mut text = String::with_capacity(20);
        let (mut bits, mut held) = (0u32, 0u32);
        for byte in bytes {
            held = held << 8 | u32::from(byte);
            bits += 8;
            while bits >= 5 {
                bits -= 5;
                text.push(DIGITS[(held >> bits & 31) as usize] as char);
            }
        }
        text.push(DIGITS[(held << (5 - bits) & 31) as usize] as char);
        RunId(text)
    }

    /// Takes a text as it stands if it has the form of an id.
    pub fn parse(text: &str) -> Option<RunId> {
        let fits = text.len() == 20 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'v'));
        fits.then(|| RunId(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl InstanceName ===

impl InstanceName {
    /// The instance `index` of `group`.
    pub fn new(group: impl Into<String>, index: u32) -> InstanceName {
        InstanceName { group: group.into(), index }
    }

    /// Reads `GROUP[INDEX]`, or `GROUP` for its first instance.
    pub fn parse(text: &str) -> Option<InstanceName> {
        match text.strip_suffix(']') {
            None => (!text.is_empty() && !text.contains('[')).then(|| InstanceName::new(text, 0)),
            Some(open) => {
                let (group, index) = open.rsplit_once('[')?;
                let index = index.parse().ok()?;
                (!group.is_empty()).then(|| InstanceName::new(group, index))
            }
        }
    }

    /// A DNS label (RFC 1123: at most 63 of `a-z`, `0-9` and `-`, none at either end but the first two) that is
    /// unique in a run: `<group>-<index>` where the group's id allows it, else shortened and marked with a hash.
    pub fn hostname(&self) -> String {
        let suffix = format!("-{}", self.index);
        let plain: String = self
            .group
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
        let fits = plain == self.group
            && plain.len() + suffix.len() <= 63
            && !plain.starts_with('-')
            && !plain.ends_with('-')
            && !plain.is_empty();
        if fits {
            return plain + &suffix;
        }
        let room = 63 - suffix.len() - 9;
        let kept: String = plain.trim_matches('-').chars().take(room).collect();
        let mark = fnv1a(self.group.as_bytes());
        let kept = kept.trim_end_matches('-');
        let kept = if kept.is_empty() { "g" } else { kept };
        format!("{kept}-{:08x}{suffix}", (mark >> 32) as u32 ^ mark as u32)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.group, self.index)
    }
}

/// The 64-bit FNV-1a hash: a stable number for a name, for marks and seeds; not for secrets.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_has_the_form_of_an_xid_and_sorts_by_time() {
        // The example of rs/xid's documentation: 9m4e2mr0ui3e8a215n4g is these twelve bytes.
        let id = RunId::new(0x4d88_e15b, [0x60, 0xf4, 0x86, 0xe4, 0x28, 0x41, 0x2d, 0xc9]);
        assert_eq!(id.as_str(), "9m4e2mr0ui3e8a215n4g");
        assert!(RunId::new(1, [255; 8]) < RunId::new(2, [0; 8]));
        assert_eq!(RunId::parse(id.as_str()), Some(id));
        assert_eq!(RunId::parse("not an id"), None);
    }

    #[test]
    fn instance_names_are_read_as_they_are_written() {
        let name = InstanceName::new("miners", 12);
        assert_eq!(InstanceName::parse(&name.to_string()), Some(name));
        assert_eq!(InstanceName::parse("miners"), Some(InstanceName::new("miners", 0)));
        for wrong in ["", "[1]", "miners[", "miners[x]", "miners]"] {
            assert_eq!(InstanceName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hostnames_are_labels_and_do_not_collide() {
        assert_eq!(InstanceName::new("miners", 3).hostname(), "miners-3");
        let odd = ["Miners", "miners_", "mi.ners", "-miners", "ü", "", &"x".repeat(80), &"x".repeat(81)];
        let mut seen = std::collections::HashSet::from(["miners-3".to_owned()]);
        for group in odd {
            let host = InstanceName::new(group, 3).hostname();
            assert!(host.len() <= 63 && !host.starts_with('-') && !host.ends_with('-'), "{host}");
            assert!(host.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{host}");
            assert!(seen.insert(host.clone()), "{host} twice");
        }
    }
}

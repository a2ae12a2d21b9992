//! Netlink messages: how they are framed, come apart again, and say yes or no. Sending them belongs to the parent.

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_REQUEST, NLMSG_DONE};
use rustix::io::Errno;

use super::{NetlinkError, Request};

/// Of `struct nlmsghdr`, in bytes.
pub(super) const HEADER: usize = 16;

/// Appends one framed message, padded to four bytes.
pub(super) fn frame(to: &mut Vec<u8>, request: &Request, flags: u16, sequence: u32) {
    let length = HEADER + request.body.len();
    to.extend((length as u32).to_ne_bytes());
    to.extend(request.kind.to_ne_bytes());
    to.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend([0; 4]);
    to.extend(&request.body);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The messages that one datagram holds.
pub(super) struct Messages<'a>(&'a [u8]);

pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl<'a> Messages<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = u32_at(self.0, 0).map_or(0, |length| length as usize);
        if length < HEADER || length > self.0.len() {
            let rest = self.0.len();
            self.0 = &[];
            return Some(Err(format!("a message that claims {length} bytes where {rest} are left")));
        }
        let (message, rest) = self.0.split_at(length.next_multiple_of(4).min(self.0.len()));
        self.0 = rest;
        Some(Ok(Message {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: u32_at(message, 8).unwrap_or_default(),
            body: &message[HEADER..length],
        }))
    }
}

impl Message<'_> {
    /// What an `NLMSG_ERROR` or `NLMSG_DONE` says: nothing wrong, or an error number with words.
    pub(super) fn acknowledgement(&self, what: &str) -> Result<(), NetlinkError> {
        let code = match (u32_at(self.body, 0), self.kind) {
            (Some(code), _) => code as i32,
            (None, NLMSG_DONE) => 0,
            (None, _) => {
                return Err(NetlinkError::Malformed {
                    what: what.to_owned(),
                    reason: "an acknowledgement without a code".to_owned(),
                });
            }
        };
        if code == 0 {
            return Ok(());
        }
        Err(NetlinkError::Refused {
            what: what.to_owned(),
            message: self.words(),
            source: Errno::from_raw_os_error(code.wrapping_neg()),
        })
    }

    /// The kernel's words (`NLMSGERR_ATTR_MSG`), which stand behind the request that it quotes, or behind its header only.
    fn words(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let quoted = match self.kind {
            NLMSG_DONE => 0,
            _ if self.flags & NLM_F_CAPPED != 0 => HEADER,
            _ => u32_at(self.body, 4)? as usize,
        };
        let mut rest = self.body.get(4 + quoted.next_multiple_of(4)..)?;
        while rest.len() >= 4 {
            let length = u16::from_ne_bytes([rest[0], rest[1]]) as usize;
            let kind = u16::from_ne_bytes([rest[2], rest[3]]);
            let value = rest.get(4..length)?;
            if kind == 1 {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                return Some(String::from_utf8_lossy(text).into_owned());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|word| u32::from_ne_bytes(word.try_into().expect("four bytes")))
}

//! WebSocket frames (RFC 6455), for both ends: bytes in, messages out. No socket here.
//!
//! A library's stream keeps buffers for every connection; of these there are thousands that wait, and they should
//! cost next to nothing. An [`Inbox`] owns memory only while a message is incomplete.

#[cfg(test)]
mod tests;

/// Most bytes of a message that is skipped because it is too big; the connection is closed for more.
pub const MAX_SKIPPED_BYTES: u64 = 64 << 20;

/// Bytes that are kept of a skipped message's begin and of its end, to tell which request it was.
const HEAD_BYTES: usize = 4096;
const TAIL_BYTES: usize = 256;

/// Close codes of RFC 6455, section 7.4.1.
pub mod code {
    /// Done.
    pub const NORMAL: u16 = 1000;
    /// The service stops.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A message was not what this service takes.
    pub const POLICY: u16 = 1008;
    /// A message was too big.
    pub const TOO_BIG: u16 = 1009;
    /// Something is wrong on this side.
    pub const INTERNAL: u16 = 1011;
    /// Come again later.
    pub const TRY_AGAIN: u16 = 1013;
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole message.
    Message {
        /// It came in binary frames.
        binary: bool,
        /// Its bytes.
        payload: &'a [u8],
    },
    /// A message over the limit; its bytes were skipped.
    Oversized {
        /// It came in binary frames.
        binary: bool,
        /// Its first bytes.
        head: &'a [u8],
        /// Its last bytes.
        tail: &'a [u8],
        /// How many bytes it had.
        size: u64,
    },
    /// To be answered with the same bytes.
    Ping(&'a [u8]),
    /// The peer is done.
    Close {
        /// Its code; 1005 where it gave none.
        code: u16,
        /// Its reason, if it gave one.
        reason: &'a str,
    },
}

/// The peer broke the protocol, and the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    /// For the close frame.
    pub code: u16,
    /// For the close frame.
    pub reason: &'static str,
}

/// Puts frames together to messages.
#[derive(Debug, Default)]
pub struct Inbox {
    limit: usize,
    /// The other end is a client, which has to mask.
    masked: bool,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    rest: Option<Box<Unfinished>>,
}

/// A message of which not all frames are there, or that is being skipped.
#[derive(Debug)]
struct Unfinished {
    binary: bool,
    payload: Vec<u8>,
    /// The last bytes of a message that is over the limit.
    tail: Vec<u8>,
    size: u64,
    /// Bytes of the present frame that are still to be skipped.
    skip: u64,
    /// The present frame is the last.
    last: bool,
    /// It is over the limit.
    oversized: bool,
    mask: [u8; 4],
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    length: u64,
    bytes: usize,
}

/// Appends a text frame whose payload `write` appends.
pub fn write_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    write_frame(out, 0x81, write);
}

/// Appends a ping without payload.
pub fn write_ping(out: &mut Vec<u8>) {
    write_frame(out, 0x89, |_| {});
}

/// Appends a pong.
pub fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, 0x8a, |out| out.extend_from_slice(payload));
}

/// Appends a close frame. The reason is cut to the 123 bytes that fit.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    write_frame(out, 0x88, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(&reason.as_bytes()[..end]);
    });
}

/// Masks the frame that begins at `start` and is the last in `out`, as a client has to.
pub fn mask_last(out: &mut Vec<u8>, start: usize, mask: [u8; 4]) {
    let payload = start
        + match out[start + 1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
    out[start + 1] |= 0x80;
    out.splice(payload..payload, mask);
    unmask(&mut out[payload + 4..], mask);
}

// === impl Inbox ===

impl Inbox {
    /// For what a client sends. Messages of more than `limit` bytes are skipped.
    pub fn of_client(limit: usize) -> Inbox {
        Inbox { limit, masked: true, partial: Vec::new(), rest: None }
    }

    /// For what a server sends.
    pub fn of_server(limit: usize) -> Inbox {
        Inbox { limit, masked: false, partial: Vec::new(), rest: None }
    }

    /// Takes bytes off the wire; they are overwritten.
    ///
    /// # Errors
    /// The peer broke the protocol; nothing more may be fed.
    pub fn feed(&mut self, data: &mut [u8], sink: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.consume(data, sink)?;
            self.partial.extend_from_slice(&data[used..]);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(data);
            let used = self.consume(&mut all, sink)?;
            if used < all.len() {
                all.drain(..used);
                self.partial = all;
            }
        }
        Ok(())
    }

    /// Bytes that an incomplete message holds.
    pub fn held(&self) -> usize {
        self.partial.len() + self.rest.as_ref().map_or(0, |r| r.payload.len())
    }

    /// Handles all whole frames, and says how many bytes they took.
    fn consume(&mut self, data: &mut [u8], sink: &mut dyn FnMut(Incoming<'_>)) -> Result<usize, Violation> {
        let mut used = 0;
        loop {
            let data = &mut data[used..];
            if let Some(rest) = self.rest.as_mut().filter(|r| r.skip > 0) {
                let take = usize::try_from(rest.skip).unwrap_or(usize::MAX).min(data.len());
                rest.skip(&mut data[..take]);
                used += take;
                if rest.skip > 0 {
                    return Ok(used);
                }
                self.end_skipped(sink);
                continue;
            }
            let Some(header) = Header::read(data, self.masked)? else { return Ok(used) };
            if header.opcode < 8 && self.too_big(&header) {
                let bytes = header.bytes;
                self.start_skipping(&header)?;
                used += bytes;
                if self.rest.as_ref().is_some_and(|r| r.skip == 0) {
                    self.end_skipped(sink);
                }
                continue;
            }
            let length = header.length as usize;
            let Some(payload) = data.get_mut(header.bytes..header.bytes + length) else { return Ok(used) };
            unmask(payload, header.mask);
            used += header.bytes + length;
            if header.opcode >= 8 {
                control(&header, payload, sink)?;
                if header.opcode == 8 {
                    return Ok(used);
                }
            } else {
                self.part(&header, payload, sink)?;
            }
        }
    }

    fn too_big(&self, header: &Header) -> bool {
        match &self.rest {
            Some(rest) => rest.oversized || rest.size.saturating_add(header.length) > self.limit as u64,
            None => header.length > self.limit as u64,
        }
    }

    /// A data frame that fits.
    fn part(
        &mut self,
        header: &Header,
        payload: &[u8],
        sink: &mut dyn FnMut(Incoming<'_>),
    ) -> Result<(), Violation> {
        header.fits_after(self.rest.is_some())?;
        let Some(rest) = &mut self.rest else {
            if header.fin {
                sink(Incoming::Message { binary: header.opcode == 2, payload });
            } else {
                let mut rest = Unfinished::new(header);
                rest.payload.extend_from_slice(payload);
                rest.size = header.length;
                self.rest = Some(Box::new(rest));
            }
            return Ok(());
        };
        rest.payload.extend_from_slice(payload);
        rest.size += header.length;
        if header.fin {
            let (binary, payload) = (rest.binary, std::mem::take(&mut rest.payload));
            self.rest = None;
            sink(Incoming::Message { binary, payload: &payload });
        }
        Ok(())
    }

    /// A data frame of a message that is too big.
    fn start_skipping(&mut self, header: &Header) -> Result<(), Violation> {
        header.fits_after(self.rest.is_some())?;
        let rest = self.rest.get_or_insert_with(|| Box::new(Unfinished::new(header)));
        rest.oversized = true;
        rest.payload.truncate(HEAD_BYTES);
        rest.payload.shrink_to_fit();
        rest.size = rest.size.saturating_add(header.length);
        rest.skip = header.length;
        rest.last = header.fin;
        rest.mask = header.mask;
        if rest.size > MAX_SKIPPED_BYTES {
            return Err(Violation { code: code::TOO_BIG, reason: "a message of more than 64 MiB" });
        }
        Ok(())
    }

    fn end_skipped(&mut self, sink: &mut dyn FnMut(Incoming<'_>)) {
        if let Some(rest) = self.rest.take_if(|rest| rest.last) {
            let (head, tail) = (rest.payload.as_slice(), rest.tail.as_slice());
            sink(Incoming::Oversized { binary: rest.binary, head, tail, size: rest.size });
        }
    }
}

// === impl Unfinished ===

impl Unfinished {
    fn new(header: &Header) -> Unfinished {
        Unfinished {
            binary: header.opcode == 2,
            payload: Vec::new(),
            tail: Vec::new(),
            size: 0,
            skip: 0,
            last: false,
            oversized: false,
            mask: header.mask,
        }
    }

    /// Skips these bytes, which are the next of the present frame, keeping the message's first and last ones.
    fn skip(&mut self, data: &mut [u8]) {
        let room = HEAD_BYTES.saturating_sub(self.payload.len()).min(data.len());
        unmask(&mut data[..room], self.mask);
        self.payload.extend_from_slice(&data[..room]);
        let last = room.max(data.len().saturating_sub(TAIL_BYTES));
        let mut mask = self.mask;
        mask.rotate_left(last % 4);
        unmask(&mut data[last..], mask);
        self.tail.extend_from_slice(&data[last..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        self.mask.rotate_left(data.len() % 4);
        self.skip -= data.len() as u64;
    }
}

// === impl Header ===

impl Header {
    /// Reads a frame's header if it is all there.
    fn read(data: &[u8], masked: bool) -> Result<Option<Header>, Violation> {
        let violation = |reason| Err(Violation { code: code::PROTOCOL, reason });
        let [first, second, ..] = *data else { return Ok(None) };
        if first & 0x70 != 0 {
            return violation("a reserved bit is set, and no extension was agreed on");
        }
        let opcode = first & 0x0f;
        if !matches!(opcode, 0..=2 | 8..=10) {
            return violation("an unknown opcode");
        }
        match (masked, second & 0x80 != 0) {
            (true, false) => return violation("a frame of a client without a mask"),
            (false, true) => return violation("a frame of a server with a mask"),
            _ => {}
        }
        let fin = first & 0x80 != 0;
        let (length, at) = match second & 0x7f {
            126 => match data.get(2..4) {
                Some(bytes) => (u64::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
                None => return Ok(None),
            },
            127 => match data.get(2..10).and_then(|b| b.try_into().ok()) {
                Some(bytes) => (u64::from_be_bytes(bytes), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        if length >> 63 != 0 {
            return violation("a length with its highest bit set");
        }
        if opcode >= 8 && (!fin || length > 125) {
            return violation("a control frame in parts or of more than 125 bytes");
        }
        if !masked {
            return Ok(Some(Header { fin, opcode, mask: [0; 4], length, bytes: at }));
        }
        let Some(mask) = data.get(at..at + 4).and_then(|b| b.try_into().ok()) else { return Ok(None) };
        Ok(Some(Header { fin, opcode, mask, length, bytes: at + 4 }))
    }

    /// Whether a data frame of this kind may come now.
    fn fits_after(&self, unfinished: bool) -> Result<(), Violation> {
        let reason = match (self.opcode == 0, unfinished) {
            (true, true) | (false, false) => return Ok(()),
            (true, false) => "a continuation of nothing",
            (false, true) => "a new message before the last one's end",
        };
        Err(Violation { code: code::PROTOCOL, reason })
    }
}

fn control(header: &Header, payload: &[u8], sink: &mut dyn FnMut(Incoming<'_>)) -> Result<(), Violation> {
    match header.opcode {
        8 if payload.len() == 1 => {
            return Err(Violation { code: code::PROTOCOL, reason: "a close frame of one byte" });
        }
        8 => {
            let code = payload.first_chunk().map_or(1005, |bytes| u16::from_be_bytes(*bytes));
            let reason = payload.get(2..).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
            sink(Incoming::Close { code, reason });
        }
        9 => sink(Incoming::Ping(payload)),
        _ => {}
    }
    Ok(())
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let mut chunks = payload.chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn write_frame(out: &mut Vec<u8>, first: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Most messages are short: room for their header, more is made when it is needed.
    out.extend_from_slice(&[first, 0]);
    write(out);
    let length = out.len() - start - 2;
    if length < 126 {
        out[start + 1] = length as u8;
    } else if let Ok(length) = u16::try_from(length) {
        out[start + 1] = 126;
        out.splice(start + 2..start + 2, length.to_be_bytes());
    } else {
        out[start + 1] = 127;
        out.splice(start + 2..start + 2, (length as u64).to_be_bytes());
    }
}

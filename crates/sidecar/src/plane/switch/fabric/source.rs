//! A frame that just came in: in the scratch buffer until something of it has to wait, then shared.

use std::ops::Range;
use std::rc::Rc;

use super::super::counters::Cause;
use super::super::link::Piece;
use super::super::packet::{self, Layout, Segments, VnetHeader, checksum};
use super::super::pool::{Pool, Stored};

/// The frame, what is in it, and who sent it.
pub(super) struct Source<'a> {
    pub(super) scratch: &'a mut Vec<u8>,
    pub(super) length: usize,
    pub(super) layout: Layout,
    pub(super) segments: Segments,
    pub(super) vnet: VnetHeader,
    pub(super) from: u32,
    pub(super) stored: Option<Rc<Stored>>,
}

/// Some segments of a frame, ready to leave.
pub(super) struct Cut {
    pub(super) vnet: VnetHeader,
    pub(super) head: Box<[u8]>,
    pub(super) body: Body,
}

/// Where the bytes behind `head` are.
pub(super) enum Body {
    /// In the frame.
    Frame(Range<usize>),
    /// In memory of their own.
    Own(Rc<Stored>),
}

// === impl Source ===

impl Source<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.stored {
            Some(stored) => stored,
            None => &self.scratch[..self.length],
        }
    }

    /// Makes the segments of a piece into a frame, or a smaller super-packet.
    pub(super) fn cut(&self, piece: &Piece, pool: &Pool) -> Result<Cut, Cause> {
        let whole = piece.count == self.segments.count;
        let (vnet, head, range) = match self.vnet.gso {
            Some(gso) if !whole || piece.flip.is_some() => {
                let (first, count) = (piece.first, piece.count);
                let (vnet, head) =
                    packet::take_run(self.bytes(), &self.layout, gso, &self.segments, first, count)
                        .map_err(|_| Cause::Malformed)?;
                (vnet, head, self.segments.payload(first, count))
            }
            _ => (self.vnet, Box::default(), 0..self.length),
        };
        let Some(chance) = piece.flip else { return Ok(Cut { vnet, head, body: Body::Frame(range) }) };
        let mut own = pool.store_parts(&[&head, &self.bytes()[range]], self.from).ok_or(Cause::Memory)?;
        // A receiver takes a partial checksum on trust: it has to be whole before it can be wrong.
        if let Some((start, offset)) = vnet.partial_checksum {
            checksum::fill_in(own.bytes_mut(), start.into(), offset.into());
        }
        packet::flip_bit(own.bytes_mut(), self.layout.network, chance);
        Ok(Cut { vnet: VnetHeader::default(), head: Box::default(), body: Body::Own(Rc::new(own)) })
    }

    /// The whole frame in memory that outlives the scratch buffer.
    pub(super) fn share(&mut self, pool: &Pool) -> Result<Rc<Stored>, Cause> {
        if let Some(stored) = &self.stored {
            return Ok(Rc::clone(stored));
        }
        let stored = pool.store(self.scratch, self.length, self.from).ok_or(Cause::Memory)?;
        self.stored = Some(Rc::clone(&stored));
        Ok(stored)
    }
}

//! The memory of packets that wait: pooled, and bounded.
//!
//! The bound is one for the whole switch, and shared by the rule of Choudhury and Hahne (1998): a sender's packets may
//! take up as much as is left for all. Who floods a slow link can't take the memory of the others.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

/// Bytes of the largest frame: 65,535 of IP, an Ethernet header and four VLAN tags, rounded up.
pub const LARGEST: usize = 66 << 10;

/// Sizes of buffers. A frame up to the second-largest size is copied into the smallest one that fits; a larger one
/// keeps the buffer that it was read into.
const SIZES: [usize; 5] = [256, 2 << 10, 8 << 10, 24 << 10, LARGEST];

/// Bytes of unused buffers that are kept for later.
const IDLE: usize = 8 << 20;

/// The memory of waiting packets.
#[derive(Debug, Clone)]
pub struct Pool(Rc<RefCell<Shelves>>);

#[derive(Debug)]
struct Shelves {
    free: [Vec<Vec<u8>>; SIZES.len()],
    idle: usize,
    used: usize,
    most: usize,
    limit: usize,
    by_sender: Vec<usize>,
}

/// A frame that waits. Gives its buffer back when the last holder is gone.
#[derive(Debug)]
pub struct Stored {
    bytes: Vec<u8>,
    length: usize,
    size: usize,
    sender: u32,
    pool: Pool,
}

// === impl Pool ===

impl Pool {
    /// A pool whose packets take up at most `limit` bytes.
    pub fn new(limit: usize) -> Pool {
        let free = Default::default();
        Pool(Rc::new(RefCell::new(Shelves { free, idle: 0, used: 0, most: 0, limit, by_sender: Vec::new() })))
    }

    /// A buffer to read any frame into.
    pub fn scratch(&self) -> Vec<u8> {
        self.0.borrow_mut().take(SIZES.len() - 1)
    }

    /// Keeps the first `length` bytes of `scratch`, which must be a buffer of [`Pool::scratch`]; a large frame takes
    /// the buffer itself and leaves a new one. `None` when the sender has used up its share.
    pub fn store(&self, scratch: &mut Vec<u8>, length: usize, sender: u32) -> Option<Rc<Stored>> {
        let size = SIZES.iter().position(|s| *s >= length)?;
        let mut shelves = self.0.borrow_mut();
        shelves.charge(sender, SIZES[size])?;
        let mut bytes = shelves.take(size);
        if size == SIZES.len() - 1 {
            std::mem::swap(&mut bytes, scratch);
        } else {
            bytes[..length].copy_from_slice(&scratch[..length]);
        }
        Some(Rc::new(Stored { bytes, length, size, sender, pool: self.clone() }))
    }

    /// Keeps a frame that is put together from parts.
    pub fn store_parts(&self, parts: &[&[u8]], sender: u32) -> Option<Stored> {
        let length = parts.iter().map(|p| p.len()).sum();
        let size = SIZES.iter().position(|s| *s >= length)?;
        let mut shelves = self.0.borrow_mut();
        shelves.charge(sender, SIZES[size])?;
        let mut bytes = shelves.take(size);
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Some(Stored { bytes, length, size, sender, pool: self.clone() })
    }

    /// Bytes that waiting packets take up.
    pub fn used(&self) -> usize {
        self.0.borrow().used
    }

    /// The most that they ever took up.
    pub fn most(&self) -> usize {
        self.0.borrow().most
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.0.borrow().limit
    }
}

// === impl Shelves ===

impl Shelves {
    fn take(&mut self, size: usize) -> Vec<u8> {
        match self.free[size].pop() {
            Some(bytes) => {
                self.idle -= SIZES[size];
                bytes
            }
            None => vec![0; SIZES[size]],
        }
    }

    fn charge(&mut self, sender: u32, bytes: usize) -> Option<()> {
        let sender = sender as usize;
        if self.by_sender.len() <= sender {
            self.by_sender.resize(sender + 1, 0);
        }
        let left = self.limit.saturating_sub(self.used);
        if self.by_sender[sender] + bytes > left {
            return None;
        }
        self.by_sender[sender] += bytes;
        self.used += bytes;
        self.most = self.most.max(self.used);
        Some(())
    }
}

// === impl Stored ===

impl Stored {
    /// The frame, to be changed before it is shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Deref for Stored {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let mut shelves = self.pool.0.borrow_mut();
        let bytes = SIZES[self.size];
        shelves.used -= bytes;
        shelves.by_sender[self.sender as usize] -= bytes;
        if shelves.idle + bytes <= IDLE {
            shelves.idle += bytes;
            shelves.free[self.size].push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_room_for_others() {
        let pool = Pool::new(1 << 20);
        let mut scratch = pool.scratch();
        let mut flood = Vec::new();
        while let Some(stored) = pool.store(&mut scratch, 1500, 0) {
            flood.push(stored);
        }
        // The flood may have as much as is left: half of all.
        assert_eq!(pool.used(), 1 << 19);
        let other: Vec<_> = (0..100).map_while(|_| pool.store(&mut scratch, 1500, 1)).collect();
        assert_eq!(other.len(), 100);
        drop((flood, other));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let pool = Pool::new(1 << 20);
        let mut scratch = pool.scratch();
        for length in [0, 1, 256, 257, 2048, 2049, 24 << 10, (24 << 10) + 1, LARGEST] {
            scratch.iter_mut().enumerate().for_each(|(i, b)| *b = (i + length) as u8);
            let expected = scratch[..length].to_vec();
            let stored = pool.store(&mut scratch, length, 0).unwrap();
            assert_eq!(**stored, expected[..]);
            assert_eq!(scratch.len(), LARGEST);
            let parts = pool.store_parts(&[&expected[..length / 2], &expected[length / 2..]], 0).unwrap();
            assert_eq!(*parts, expected[..]);
        }
        assert!(pool.store(&mut scratch, LARGEST + 1, 0).is_none());
        assert_eq!(pool.used(), 0);
    }
}

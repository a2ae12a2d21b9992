//! Service by mahimahi's delivery opportunities, byte for byte as its `mm-link` does it.
//!
//! Each opportunity carries [`BYTES`] of the packets that came before it, in their order: several small ones, and a part
//! of the next, which leaves with the opportunity that carries its last byte. What nobody waited for is lost. A packet
//! counts with its IP header and what follows, and four bytes for the header that a TUN device puts before it.
//! (`src/frontend/link_queue.cc` of mahimahi; which refuses packets of more than 1,500 bytes, and here they take several
//! opportunities.)

use std::sync::Arc;

use crate::plan::Schedule;

/// What one opportunity carries: a packet of 1,500 bytes and its TUN header.
pub const BYTES: u32 = 1504;

const TUN_HEADER: u32 = 4;
const ETHERNET_HEADER: u32 = 14;

/// A schedule on the switch's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Opportunities {
    schedule: Arc<Schedule>,
    /// When the run's clock began, nanoseconds of the switch's.
    zero: u64,
}

/// How far a link is in its opportunities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The opportunity that was used last.
    number: u64,
    at: u64,
    /// Bytes that it can carry still, if somebody waits for it.
    left: u32,
}

// === impl Opportunities ===

impl Opportunities {
    /// A schedule whose clock began at this moment of the switch's.
    pub fn new(schedule: Arc<Schedule>, zero: u64) -> Opportunities {
        Opportunities { schedule, zero }
    }

    /// The most bytes that leave within the schedule's window.
    pub fn most_bytes(&self) -> u64 {
        self.schedule.most() * u64::from(BYTES)
    }

    /// The opportunity at which the first byte of a packet leaves that waits since `now`, behind all others.
    pub fn turn(&self, last: Option<Place>, now: u64) -> Option<Place> {
        let number = match last.filter(|place| place.at > now) {
            Some(place) if place.left > 0 => return Some(place),
            Some(place) => place.number + 1,
            None => self.schedule.after(now.saturating_sub(self.zero)),
        };
        self.fresh(number)
    }

    /// Carries a frame of so many bytes from its first byte's opportunity on; the answer has that of its last one.
    /// `None` when the schedule ends before.
    pub fn carry(&self, first: Place, frame: u32) -> Option<Place> {
        let bytes = (frame.saturating_sub(ETHERNET_HEADER) + TUN_HEADER).max(1);
        if bytes <= first.left {
            return Some(Place { left: first.left - bytes, ..first });
        }
        let more = bytes - first.left;
        let last = self.fresh(first.number + u64::from(more.div_ceil(BYTES)))?;
        Some(Place { left: (BYTES - more % BYTES) % BYTES, ..last })
    }

    /// The opportunity so many bytes behind the last one used: when they would all have left.
    pub fn behind(&self, last: Option<Place>, now: u64, bytes: u64) -> Option<u64> {
        let turn = self.turn(last, now)?;
        let more = bytes.saturating_sub(u64::from(turn.left)).div_ceil(u64::from(BYTES));
        self.fresh(turn.number + more).map(|place| place.at)
    }

    fn fresh(&self, number: u64) -> Option<Place> {
        let at = self.schedule.at(number)?.checked_add(self.zero)?;
        Some(Place { number, at, left: BYTES })
    }
}

// === impl Place ===

impl Place {
    /// Behind the last one.
    pub const NEVER: Place = Place { number: u64::MAX - 1, at: u64::MAX, left: 0 };

    /// When the opportunity is, nanoseconds.
    pub fn at(&self) -> u64 {
        self.at
    }
}

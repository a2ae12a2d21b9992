//! The bandwidth of a class: packets are serialised one after the other, and wait for each other.
//!
//! Since nothing overtakes in it, the moment at which a packet's last bit leaves is known when it arrives. CoDel, which
//! decides when packets leave, has a queue of its own in [`super::codel`] and uses this for the serialisation only.

use std::collections::VecDeque;
use std::time::Duration;

use testground_model::shape::{LinkShape, QueueLimit};

use super::super::counters::Cause;
use super::delay::Delay;
use super::opportunity::{Opportunities, Place};

/// The smallest automatic queue: this many of Ethernet's full frames, so that the first flights of several TCP
/// connections fit at any rate.
pub const AUTO_PACKETS: u64 = 64;
/// The automatic queue holds at least what the bandwidth carries in this time.
pub const AUTO_TIME: Duration = Duration::from_millis(50);

const FULL_FRAME: u64 = 1514;

/// How fast a class is, and how much may wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Rate {
    /// When bits leave.
    pub pace: Pace,
    /// How much may wait.
    pub limit: Limit,
}

/// When bits leave.
#[derive(Debug, Clone, PartialEq)]
pub enum Pace {
    /// So many in each second, evenly; at least 1.
    Bits(u64),
    /// In opportunities.
    Opportunities(Opportunities),
}

/// How much may wait, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Packets that are not wholly serialised.
    Packets(u32),
    /// Their bytes.
    Bytes(u64),
    /// Nanoseconds until the newest one's turn.
    Time(u64),
}

/// The serialisation of one class.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// When the last bit accepted so far leaves, nanoseconds.
    free_at: u64,
    /// What the division left over, in units of 1/rate of a nanosecond: no bit is lost to rounding.
    rest: u64,
    rate: u64,
    /// Where opportunities are used: the one that carries the last bit accepted so far.
    place: Option<Place>,
    /// When each waiting packet has left, and its bytes; kept where the limit can't be told from `free_at`.
    leaving: VecDeque<(u64, u32)>,
    leaving_bytes: u64,
}

// === impl Rate ===

impl Rate {
    /// The rate of a shape, if it has one.
    pub fn new(shape: &LinkShape) -> Option<Rate> {
        let bits = shape.bandwidth?;
        Some(Rate {
            pace: Pace::Bits(bits.max(1)),
            limit: limit(shape, || auto_bytes(bits, &Delay::new(shape))),
        })
    }

    /// The opportunities that a shape has in the place of a bandwidth.
    pub fn following(shape: &LinkShape, opportunities: Opportunities) -> Rate {
        let limit = limit(shape, || opportunities.most_bytes().max(AUTO_PACKETS * FULL_FRAME));
        Rate { pace: Pace::Opportunities(opportunities), limit }
    }

    /// Whether packets leave evenly, so that those of one row may leave together at about their moments.
    pub fn is_even(&self) -> bool {
        matches!(self.pace, Pace::Bits(_))
    }
}

fn limit(shape: &LinkShape, auto: impl FnOnce() -> u64) -> Limit {
    match shape.queue.limit {
        QueueLimit::Auto => Limit::Bytes(auto()),
        QueueLimit::Packets(packets) => Limit::Packets(packets),
        QueueLimit::Bytes(bytes) => Limit::Bytes(bytes),
        QueueLimit::Time(time) => Limit::Time(time.as_nanos() as u64),
    }
}

/// The automatic length of a queue: the largest of the bandwidth times the round trip over two such links, what it
/// carries in [`AUTO_TIME`], and [`AUTO_PACKETS`] full frames.
pub fn auto_bytes(bits: u64, delay: &Delay) -> u64 {
    let time = (2 * delay.usual()).max(AUTO_TIME);
    let carried = u128::from(bits) * time.as_nanos() / 8_000_000_000;
    (carried.min(u128::from(u64::MAX)) as u64).max(AUTO_PACKETS * FULL_FRAME)
}

// === impl Server ===

impl Server {
    /// When the last bit accepted so far leaves.
    pub fn free_at(&self) -> u64 {
        self.free_at
    }

    /// When the first bit of a packet leaves that comes now; `None`: never.
    pub fn turn(&self, rate: &Rate, now: u64) -> Option<u64> {
        match &rate.pace {
            Pace::Bits(_) => Some(self.free_at.max(now)),
            Pace::Opportunities(moments) => moments.turn(self.place, now).map(|place| place.at()),
        }
    }

    /// When the last bit leaves of so many bytes that come now; `None`: never.
    pub fn drained_at(&self, rate: &Rate, now: u64, bytes: u64) -> Option<u64> {
        match &rate.pace {
            Pace::Bits(bits) => {
                let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(*bits);
                Some(self.free_at.max(now).saturating_add(nanos.min(u128::from(u64::MAX)) as u64))
            }
            Pace::Opportunities(moments) => moments.behind(self.place, now, bytes),
        }
    }

    /// Accepts a packet of some bytes and returns when its last bit leaves, or why it can't: the queue is full, or it would
    /// never leave. A packet that finds nothing waiting is not refused for the queue's sake.
    pub fn accept(&mut self, rate: &Rate, now: u64, bytes: u32) -> Result<u64, Cause> {
        let is_kept = matches!(rate.limit, Limit::Packets(_)) || !rate.is_even();
        if is_kept {
            self.forget_left(now);
        }
        let has_room = match (rate.limit, &rate.pace) {
            (Limit::Packets(limit), _) => self.leaving.len() < limit as usize,
            (Limit::Bytes(limit), Pace::Bits(bits)) => {
                let wait = self.free_at.saturating_sub(now);
                let waiting = u128::from(wait) * u128::from(*bits) / 8_000_000_000;
                waiting + u128::from(bytes) <= u128::from(limit)
            }
            (Limit::Bytes(limit), Pace::Opportunities(_)) => self.leaving_bytes + u64::from(bytes) <= limit,
            (Limit::Time(limit), _) => {
                self.turn(rate, now).is_none_or(|turn| turn.saturating_sub(now) <= limit)
            }
        };
        if self.free_at > now && !has_room {
            return Err(Cause::Queue);
        }
        let finish = self.serialise(rate, now, bytes).ok_or(Cause::TraceOver)?;
        if is_kept {
            self.leaving.push_back((finish, bytes));
            self.leaving_bytes += u64::from(bytes);
        } else if !self.leaving.is_empty() {
            (self.leaving, self.leaving_bytes) = (VecDeque::new(), 0);
        }
        Ok(finish)
    }

    /// Serialises a packet that came at `now` behind all others, whatever waits, and returns when its last bit leaves;
    /// `None`: never.
    pub fn serialise(&mut self, rate: &Rate, now: u64, bytes: u32) -> Option<u64> {
        let bits = match &rate.pace {
            Pace::Bits(bits) => *bits,
            Pace::Opportunities(moments) => {
                let first = moments.turn(self.place, now)?;
                let last = moments.carry(first, bytes);
                // What is begun and never ends has used up the rest.
                self.place = Some(last.unwrap_or(Place::NEVER));
                self.free_at = last?.at();
                return Some(self.free_at);
            }
        };
        if self.free_at < now || self.rate != bits {
            self.free_at = self.free_at.max(now);
            (self.rest, self.rate) = (0, bits);
        }
        let work = u128::from(bytes) * 8_000_000_000 + u128::from(self.rest);
        let nanos = work / u128::from(bits);
        self.rest = (work % u128::from(bits)) as u64;
        self.free_at = self.free_at.saturating_add(nanos.min(u128::from(u64::MAX)) as u64);
        Some(self.free_at)
    }

    fn forget_left(&mut self, now: u64) {
        while let Some((_, bytes)) = self.leaving.front().filter(|(left, _)| *left <= now) {
            self.leaving_bytes -= u64::from(*bytes);
            self.leaving.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_is_lost_to_rounding() {
        // 1,514 bytes at 3 Gbit/s take 4037.33 ns; a million of them take 4.037333333 s.
        let mut server = Server::default();
        let rate = Rate { pace: Pace::Bits(3_000_000_000), limit: Limit::Time(u64::MAX) };
        let last = (0..1_000_000).map(|_| server.accept(&rate, 5, 1514)).last();
        assert_eq!(last, Some(Ok(5 + 4_037_333_333)));
    }

    #[test]
    fn an_idle_link_takes_what_it_is_given_and_a_full_one_does_not() {
        for limit in [Limit::Packets(1), Limit::Bytes(100), Limit::Time(0)] {
            let mut server = Server::default();
            let rate = Rate { pace: Pace::Bits(8_000), limit };
            assert_eq!(server.accept(&rate, 0, 1000), Ok(1_000_000_000), "{limit:?}");
            assert_eq!(server.accept(&rate, 1, 10), Err(Cause::Queue), "{limit:?}");
            assert_eq!(server.accept(&rate, 1_000_000_000, 10), Ok(1_010_000_000), "{limit:?}");
        }
    }

    #[test]
    fn the_automatic_queue_never_drops_below_the_product_of_bandwidth_and_delay() {
        for bits in [1_000, 1_000_000, 1_000_000_000, 100_000_000_000] {
            for millis in [0, 1, 10, 100, 3_600_000] {
                let shape = LinkShape { latency: Duration::from_millis(millis), ..LinkShape::default() };
                let product = u128::from(bits) * u128::from(millis) / 8000;
                assert!(u128::from(auto_bytes(bits, &Delay::new(&shape))) >= product);
            }
        }
        let fast = LinkShape { latency: Duration::from_millis(50), ..LinkShape::default() };
        assert_eq!(auto_bytes(1_000_000_000, &Delay::new(&fast)), 12_500_000);
        assert_eq!(auto_bytes(1_000_000_000, &Delay::new(&LinkShape::default())), 6_250_000);
        assert_eq!(auto_bytes(1_000_000, &Delay::new(&LinkShape::default())), 96_896);
    }
}

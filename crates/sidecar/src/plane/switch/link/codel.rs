//! CoDel (RFC 8289): a queue that drops at its head what waited too long for too long.
//!
//! Deviations: the clock is the link's own (the moment at which the packet's turn comes), so that the same arrivals
//! meet the same fate however late the pump is.

use std::collections::VecDeque;

/// Acceptable standing delay (RFC 8289 4.3): 5 ms.
pub const TARGET: u64 = 5_000_000;
/// How long a standing delay may last before packets are dropped (RFC 8289 4.3): 100 ms.
pub const INTERVAL: u64 = 100_000_000;
/// A queue that holds no more than a full packet is left alone (RFC 8289 5.1).
const MTU: u64 = 1514;

/// Something that waits.
#[derive(Debug, Clone)]
pub struct Waiting<T> {
    /// What.
    pub item: T,
    /// Its bytes on the wire.
    pub bytes: u32,
    /// When it came, nanoseconds.
    pub since: u64,
}

/// A CoDel queue.
#[derive(Debug, Clone)]
pub struct Codel<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: u64,
    /// When the delay will have been above target for an interval; 0 while it is below.
    first_above: u64,
    drop_next: u64,
    count: u32,
    last_count: u32,
    dropping: bool,
}

// === impl Codel ===

impl<T> Default for Codel<T> {
    fn default() -> Self {
        Codel {
            waiting: VecDeque::new(),
            bytes: 0,
            first_above: 0,
            drop_next: 0,
            count: 0,
            last_count: 0,
            dropping: false,
        }
    }
}

impl<T> Codel<T> {
    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the packet at the head came.
    pub fn oldest(&self) -> Option<u64> {
        self.waiting.front().map(|w| w.since)
    }

    /// Lets something wait. Limits are the caller's.
    pub fn push(&mut self, waiting: Waiting<T>) {
        self.bytes += u64::from(waiting.bytes);
        self.waiting.push_back(waiting);
    }

    /// Everything that waits; nothing does any more.
    pub fn take_all(&mut self) -> VecDeque<Waiting<T>> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// The next one whose turn it is at `now`; what is dropped before it goes to `dropped`. (RFC 8289 5.5)
    pub fn pop(&mut self, now: u64, dropped: &mut impl FnMut(Waiting<T>)) -> Option<Waiting<T>> {
        let (mut next, ok_to_drop) = self.head(now);
        if self.dropping {
            if !ok_to_drop {
                self.dropping = false;
            }
            while self.dropping && now >= self.drop_next {
                dropped(next.take()?);
                self.count += 1;
                let ok_to_drop;
                (next, ok_to_drop) = self.head(now);
                if ok_to_drop {
                    self.drop_next = control_law(self.drop_next, self.count);
                } else {
                    self.dropping = false;
                }
            }
        } else if ok_to_drop {
            dropped(next.take()?);
            next = self.head(now).0;
            self.dropping = true;
            // If the last dropping state was not long ago, begin near the rate that held the queue then.
            let delta = self.count.wrapping_sub(self.last_count);
            let recent = now < self.drop_next + 16 * INTERVAL;
            self.count = if delta > 1 && recent { delta } else { 1 };
            self.drop_next = control_law(now, self.count);
            self.last_count = self.count;
        }
        next
    }

    /// RFC 8289 5.4, `dodequeue`: the head, and whether it may be dropped.
    fn head(&mut self, now: u64) -> (Option<Waiting<T>>, bool) {
        let Some(head) = self.waiting.pop_front() else {
            self.first_above = 0;
            return (None, false);
        };
        self.bytes -= u64::from(head.bytes);
        let sojourn = now.saturating_sub(head.since);
        if sojourn < TARGET || self.bytes <= MTU {
            self.first_above = 0;
            return (Some(head), false);
        }
        if self.first_above == 0 {
            self.first_above = now + INTERVAL;
            return (Some(head), false);
        }
        let ok = now >= self.first_above;
        (Some(head), ok)
    }
}

/// RFC 8289 5.2: the time between drops falls with the square root of their number.
fn control_law(at: u64, count: u32) -> u64 {
    at + (INTERVAL as f64 / f64::from(count.max(1)).sqrt()) as u64
}

//! Departures: what leaves when. Of two that leave at the same moment the one that came first is first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Things that wait for their moment. Nanoseconds on the caller's clock.
#[derive(Debug, Clone)]
pub struct Departures<T> {
    /// Moment, order of arrival, place in `items`.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    arrivals: u64,
}

// === impl Departures ===

impl<T> Default for Departures<T> {
    fn default() -> Self {
        Departures { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), arrivals: 0 }
    }
}

impl<T> Departures<T> {
    /// Lets something wait until `at`.
    pub fn push(&mut self, at: u64, item: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.items[place as usize] = Some(item);
                place
            }
            None => {
                self.items.push(Some(item));
                self.items.len() as u32 - 1
            }
        };
        self.heap.push(Reverse((at, self.arrivals, place)));
        self.arrivals += 1;
    }

    /// The next one whose moment has come, and that moment.
    pub fn pop(&mut self, now: u64) -> Option<(u64, T)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((at, _, place)) = self.heap.pop()?;
        let item = self.items[place as usize].take()?;
        self.free.push(place);
        if self.heap.is_empty() && self.items.len() > KEPT {
            *self = Departures { arrivals: self.arrivals, ..Departures::default() };
        }
        Some((at, item))
    }

    /// When the next one leaves.
    pub fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// Places that an empty queue keeps; what a burst took beyond them is given back.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_leave_by_moment_and_then_by_arrival(moments in prop::collection::vec(0u64..20, 0..200)) {
            let mut queue = Departures::default();
            let mut expected: Vec<(u64, usize)> = moments.iter().copied().zip(0..).collect();
            for (at, item) in expected.clone() {
                queue.push(at, item);
            }
            expected.sort();
            let mut left = Vec::new();
            for now in 0..20 {
                while let Some((at, item)) = queue.pop(now) {
                    prop_assert_eq!(at, now);
                    left.push((at, item));
                }
            }
            prop_assert_eq!(left, expected);
            prop_assert!(queue.is_empty());
        }
    }
}

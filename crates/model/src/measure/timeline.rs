//! Values over time in a fixed number of buckets, whatever the times are.
//!
//! The buckets' width is a power of two of nanoseconds and doubles whenever a point falls outside, so that a flood of
//! points, in any order and over any span, takes the same memory.

/// Most buckets.
const MOST: usize = 96;

/// What fell into one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// Values over time.
#[derive(Debug, Clone, Default)]
pub(super) struct Timeline {
    /// The logarithm of the buckets' width.
    shift: u32,
    /// The number of the first bucket: its time is `first << shift`.
    first: i64,
    cells: Vec<Cell>,
}

// === impl Timeline ===

impl Timeline {
    /// Adds a value at a time, nanoseconds.
    pub(super) fn add(&mut self, time: i64, value: f64) {
        if self.cells.is_empty() {
            self.first = time >> self.shift;
        }
        loop {
            let at = time >> self.shift;
            let last = self.first.saturating_add(self.cells.len() as i64 - 1).max(at);
            let first = self.first.min(at);
            // Wide numbers: the span of two times may be larger than 64 bits with a sign.
            if i128::from(last) - i128::from(first) < MOST as i128 {
                break;
            }
            self.halve();
        }
        let at = time >> self.shift;
        if at < self.first {
            let more = (self.first - at) as usize;
            self.cells.splice(0..0, std::iter::repeat_n(Cell::EMPTY, more));
            self.first = at;
        }
        let index = (at - self.first) as usize;
        if index >= self.cells.len() {
            self.cells.resize(index + 1, Cell::EMPTY);
        }
        self.cells[index].add(value);
    }

    /// The buckets that have something in them: when they begin, and what is in them.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (i64, &Cell)> {
        let times = (0i64..).map(|i| (self.first + i) << self.shift);
        times.zip(&self.cells).filter(|(_, cell)| cell.count > 0)
    }

    /// Makes two buckets one.
    fn halve(&mut self) {
        let mut wide: Vec<Cell> = Vec::with_capacity(MOST);
        let first = self.first >> 1;
        for (i, cell) in self.cells.iter().enumerate() {
            let at = (((self.first + i as i64) >> 1) - first) as usize;
            if at >= wide.len() {
                wide.resize(at + 1, Cell::EMPTY);
            }
            wide[at].join(cell);
        }
        self.cells = wide;
        self.first = first;
        self.shift += 1;
    }
}

// === impl Cell ===

impl Cell {
    const EMPTY: Cell = Cell { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn add(&mut self, value: f64) {
        self.join(&Cell { count: 1, sum: value, min: value, max: value });
    }

    fn join(&mut self, other: &Cell) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The mean of what is in it, between its least and its greatest.
    pub(super) fn mean(&self) -> f64 {
        (self.sum / self.count as f64).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_of_points_is_spread_evenly() {
        let mut line = Timeline::default();
        for ms in 0..1000 {
            line.add(ms * 1_000_000, ms as f64);
        }
        let buckets: Vec<(i64, Cell)> = line.buckets().map(|(t, c)| (t, *c)).collect();
        assert!((MOST / 2..=MOST).contains(&buckets.len()), "{}", buckets.len());
        assert!(buckets.windows(2).all(|b| b[0].0 < b[1].0 && b[0].1.max < b[1].1.min));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_at_any_time(times in proptest::collection::vec(any::<i64>(), 1..200)) {
            let mut line = Timeline::default();
            for (i, time) in times.iter().enumerate() {
                line.add(*time, i as f64);
            }
            prop_assert!(line.cells.len() <= MOST);
            prop_assert_eq!(line.buckets().map(|(_, c)| c.count).sum::<u64>(), times.len() as u64);
            let (first, _) = line.buckets().next().unwrap();
            prop_assert!(first <= *times.iter().min().unwrap());
        }
    }
}

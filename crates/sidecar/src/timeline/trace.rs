//! A bandwidth trace: mahimahi's delivery opportunities as stretches of constant bandwidth.
//!
//! Each line of mahimahi's file is a millisecond at which one packet of 1,500 bytes can leave; equal lines are several
//! packets, and the last one is the trace's length. A link here has a bandwidth, not opportunities: neighbouring ones
//! are joined to stretches of at least [`STRETCH`] that end at an opportunity. Over each stretch exactly as many
//! bytes can leave as in the trace; within it they leave evenly.

use std::time::Duration;

/// No stretch is shorter, except the last one of a short trace.
const STRETCH: Duration = Duration::from_millis(20);

/// Bits on the wire of a packet that fills an opportunity: 1,500 bytes and the Ethernet header.
const PACKET_BITS: u64 = (1500 + 14) * 8;

/// A trace, ready to be asked.
#[derive(Debug)]
pub(super) struct Trace {
    /// Ends (milliseconds into the trace) and bits per second, neighbours different.
    stretches: Vec<(u64, u64)>,
    repeat: bool,
}

/// The bandwidth of a moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bits per second.
    pub(super) rate: u64,
    /// Until when, from the trace's first start.
    pub(super) end: Duration,
}

// === impl Trace ===

impl Trace {
    /// The trace with these opportunities, milliseconds that never fall.
    pub(super) fn new(opportunities: &[u64], repeat: bool) -> Trace {
        let mut raw: Vec<(u64, u64, u64)> = Vec::new();
        let (mut start, mut packets) = (0, 0);
        for (index, &at) in opportunities.iter().enumerate() {
            packets += 1;
            let last_of_equals = opportunities.get(index + 1) != Some(&at);
            if last_of_equals && at >= start + STRETCH.as_millis() as u64 {
                raw.push((start, at, packets));
                (start, packets) = (at, 0);
            }
        }
        // A remainder shorter than a stretch joins the last one.
        if packets > 0
            && let Some(&end) = opportunities.last()
        {
            let (start, before) = raw.pop().map_or((0, 0), |(start, _, packets)| (start, packets));
            raw.push((start, end, before + packets));
        }
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for (start, end, packets) in raw.into_iter().filter(|(start, end, _)| end > start) {
            let rate = (packets * PACKET_BITS * 1000 / (end - start)).max(1);
            match stretches.last_mut().filter(|(_, same)| *same == rate) {
                Some((until, _)) => *until = end,
                None => stretches.push((end, rate)),
            }
        }
        Trace { stretches, repeat }
    }

    /// How long it is.
    pub(super) fn length(&self) -> Duration {
        Duration::from_millis(self.stretches.last().map_or(0, |(end, _)| *end))
    }

    /// The bandwidth so long after its start; `None` when it is over.
    pub(super) fn at(&self, into: Duration) -> Option<Segment> {
        let length = self.length();
        if length.is_zero() || !self.repeat && into >= length {
            return None;
        }
        let rounds = (into.as_nanos() / length.as_nanos()) as u32;
        let start = length * rounds;
        let millis = (into - start).as_millis() as u64;
        let index = self.stretches.partition_point(|(end, _)| *end <= millis);
        let &(end, rate) = self.stretches.get(index)?;
        Some(Segment { rate, end: start + Duration::from_millis(end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(trace: &Trace, upto: Duration) -> Vec<(u64, u64)> {
        let (mut now, mut seen) = (Duration::ZERO, Vec::new());
        while let Some(segment) = trace.at(now).filter(|_| now < upto) {
            seen.push((now.as_millis() as u64, segment.rate));
            assert!(segment.end > now);
            now = segment.end;
        }
        seen
    }

    #[test]
    fn a_steady_trace_is_one_bandwidth() {
        let every_ms: Vec<u64> = (1..=1000).collect();
        let trace = Trace::new(&every_ms, false);
        assert_eq!(walk(&trace, Duration::MAX), [(0, 12_112_000)]);
        assert_eq!(trace.at(Duration::from_secs(1)), None);
        assert_eq!(trace.length(), Duration::from_secs(1));
    }

    #[test]
    fn as_many_bits_can_leave_as_the_trace_has_opportunities() {
        let bursts: Vec<u64> =
            (0..50u64).flat_map(|n| std::iter::repeat_n(n * n, 1 + n as usize % 7)).collect();
        let trace = Trace::new(&bursts, false);
        let mut bits = 0.0;
        let mut now = Duration::ZERO;
        while let Some(segment) = trace.at(now) {
            bits += segment.rate as f64 * (segment.end - now).as_secs_f64();
            now = segment.end;
        }
        let asked = (bursts.len() as u64 * PACKET_BITS) as f64;
        assert!((bits - asked).abs() / asked < 1e-3, "{bits} of {asked}");
    }

    #[test]
    fn a_silence_is_part_of_the_stretch_that_ends_it() {
        let trace = Trace::new(&[20, 2020, 2040], false);
        assert_eq!(
            walk(&trace, Duration::MAX),
            [(0, PACKET_BITS * 50), (20, PACKET_BITS / 2), (2020, PACKET_BITS * 50)]
        );
    }

    #[test]
    fn it_starts_again_where_asked_for() {
        let trace = Trace::new(&[20, 20, 40], true);
        let round = [(0, PACKET_BITS * 100), (20, PACKET_BITS * 50)];
        assert_eq!(
            walk(&trace, Duration::from_millis(80)),
            [round[0], round[1], (40, round[0].1), (60, round[1].1)]
        );
    }

    #[test]
    fn what_has_no_length_is_no_trace() {
        for none in [&[] as &[u64], &[0], &[0, 0]] {
            assert_eq!(Trace::new(none, true).at(Duration::ZERO), None);
        }
        let short = Trace::new(&[1, 3], false);
        assert_eq!(walk(&short, Duration::MAX), [(0, PACKET_BITS * 2000 / 3)]);
    }
}

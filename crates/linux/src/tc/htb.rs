//! HTB: a tree of classes with a rate each (tc-htb(8), linux/pkt_sched.h).

use super::attributes::{Attributes, Walk, long, word, words_of};
use super::psched;

/// The root of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Htb {
    /// Number of the class for packets that no filter knows; 0: they pass unshaped.
    pub default_class: u32,
    /// What a class's quantum is reckoned by where it has none of its own: its rate divided by this.
    pub rate_to_quantum: u32,
    /// How many unshaped packets wait at most; none: the interface's transmit queue length.
    pub direct_queue: Option<u32>,
}

impl Default for Htb {
    fn default() -> Self {
        Self { default_class: 0, rate_to_quantum: 10, direct_queue: None }
    }
}

/// A class.
///
/// The kernel keeps bursts as times, in units of 64 ns: two classes that it can't tell apart are equal.
#[derive(Debug, Clone, Copy)]
pub struct HtbClass {
    /// Bytes a second it is entitled to.
    pub rate: u64,
    /// Bytes a second it may borrow up to.
    pub ceil: u64,
    /// Bytes it may send at once at its rate. Without some milliseconds' worth the rate is not reached: the kernel looks as
    /// often as its timer allows, and a super-packet is sent whole.
    pub burst: u64,
    /// Bytes it may send at once at its ceiling.
    pub ceil_burst: u64,
    /// Bytes it may send before another class of its level has its turn; 0: the kernel reckons it, and complains to its log
    /// when it comes out below 1,000 or above 200,000.
    pub quantum: u32,
    /// Who borrows first: 0 to 7, the lower the earlier.
    pub priority: u32,
    /// Bytes added to each packet when it is counted.
    pub overhead: u16,
    /// Packets shorter than this many bytes are counted as so long.
    pub min_packet: u16,
}

impl PartialEq for HtbClass {
    fn eq(&self, other: &Self) -> bool {
        let told = |class: &Self| {
            let bursts = (
                psched::ticks_of_bytes(class.burst, class.rate),
                psched::ticks_of_bytes(class.ceil_burst, class.ceil),
            );
            (class.rate, class.ceil, bursts, class.quantum, class.priority, class.overhead, class.min_packet)
        };
        told(self) == told(other)
    }
}

impl Eq for HtbClass {}

impl HtbClass {
    /// A class that never borrows, of a rate in bytes a second: a burst of 4 ms or 64 KiB, whichever is more (a super-packet is
    /// at most that long) but not more than 200 s, and a quantum within what the kernel likes.
    pub fn of_rate(rate: u64) -> Self {
        let burst = (rate / 250).max(64 << 10).min(rate.saturating_mul(LONGEST_BURST)).max(1);
        Self {
            rate,
            ceil: rate,
            burst,
            ceil_burst: burst,
            quantum: (rate / 10).clamp(1514, 60_000) as u32,
            priority: 0,
            overhead: 0,
            min_packet: 0,
        }
    }

    pub(super) fn options(&self) -> Attributes {
        let mut options = Attributes::default();
        if self.rate > u32::MAX.into() {
            options.u64(TCA_HTB_RATE64, self.rate);
        }
        if self.ceil > u32::MAX.into() {
            options.u64(TCA_HTB_CEIL64, self.ceil);
        }
        let mut parameters = self.rate_spec(self.rate);
        parameters.extend(self.rate_spec(self.ceil));
        parameters.extend(words_of(&[
            psched::ticks_of_bytes(self.burst, self.rate),
            psched::ticks_of_bytes(self.ceil_burst, self.ceil),
            self.quantum,
            0,
            self.priority,
        ]));
        // The tables of times that tc adds are only read by kernels that are told no link layer (before Linux 3.8).
        options.bytes(TCA_HTB_PARMS, &parameters);
        options
    }

    /// `struct tc_ratespec`.
    fn rate_spec(&self, rate: u64) -> Vec<u8> {
        let mut bytes = vec![CELL_LOG, LINKLAYER_ETHERNET];
        bytes.extend(self.overhead.to_ne_bytes());
        bytes.extend((-1i16).to_ne_bytes());
        bytes.extend(self.min_packet.to_ne_bytes());
        bytes.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        bytes
    }

    /// From the options of a dump; none when they are not a class's.
    pub(super) fn parse(options: &[u8]) -> Option<Self> {
        let (mut parameters, mut rate, mut ceil) = (None, None, None);
        for (kind, value) in Walk(options) {
            match kind {
                TCA_HTB_PARMS if value.len() >= 44 => parameters = Some(value),
                TCA_HTB_RATE64 => rate = Some(long(value)),
                TCA_HTB_CEIL64 => ceil = Some(long(value)),
                _ => {}
            }
        }
        let parameters = parameters?;
        let short = |at: usize| u16::from_ne_bytes([parameters[at], parameters[at + 1]]);
        let (rate, ceil) = (
            rate.unwrap_or_else(|| word(parameters, 2).into()),
            ceil.unwrap_or_else(|| word(parameters, 5).into()),
        );
        Some(Self {
            rate,
            ceil,
            burst: psched::bytes_of_ticks(word(parameters, 6), rate),
            ceil_burst: psched::bytes_of_ticks(word(parameters, 7), ceil),
            quantum: word(parameters, 8),
            priority: word(parameters, 10),
            overhead: short(2),
            min_packet: short(6),
        })
    }
}

impl Htb {
    /// Whether `found`, read from the kernel, is what this asks for: a queue length that was not asked for doesn't count.
    pub fn is_done_by(&self, found: &Self) -> bool {
        Self { direct_queue: self.direct_queue.and(found.direct_queue), ..*found } == *self
    }

    pub(super) fn options(&self) -> Attributes {
        let mut options = Attributes::default();
        options.bytes(TCA_HTB_INIT, &words_of(&[VERSION, self.rate_to_quantum, self.default_class, 0, 0]));
        if let Some(length) = self.direct_queue {
            options.u32(TCA_HTB_DIRECT_QLEN, length);
        }
        options
    }

    pub(super) fn parse(options: &[u8]) -> Self {
        let mut htb = Self::default();
        for (kind, value) in Walk(options) {
            match kind {
                TCA_HTB_INIT => {
                    htb.rate_to_quantum = word(value, 1);
                    htb.default_class = word(value, 2);
                }
                TCA_HTB_DIRECT_QLEN => htb.direct_queue = Some(word(value, 0)),
                _ => {}
            }
        }
        htb
    }
}

/// Seconds: what a burst may last in units of 64 ns is 274 s.
const LONGEST_BURST: u64 = 200;
/// Of the interface between tc and the kernel.
const VERSION: u32 = 3;
/// What tc reckons for its usual largest packet; without meaning where a link layer is told.
const CELL_LOG: u8 = 3;
const LINKLAYER_ETHERNET: u8 = 1;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_DIRECT_QLEN: u16 = 5;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        for rate in [1u64, 1000, 12_345, 125_000_000, u32::MAX.into(), 5_000_000_000, 12_500_000_000] {
            let class = HtbClass {
                ceil: rate * 2,
                priority: 3,
                overhead: 18,
                min_packet: 64,
                ..HtbClass::of_rate(rate)
            };
            let read = HtbClass::parse(class.options().as_bytes()).unwrap();
            assert_eq!(read, class, "at {rate}");
            assert_eq!(read, HtbClass::parse(read.options().as_bytes()).unwrap());
            assert_ne!(class, HtbClass { rate: rate + 1, ..class });
        }
        assert_eq!(HtbClass::parse(&[]), None);
    }
}

//! TBF: one token bucket (tc-tbf(8), linux/pkt_sched.h). Whatever is longer than its bucket and made of segments is cut
//! into them on its way in, which is what the kernel plane uses it for.

use super::attributes::{Attributes, Walk, long, word, words_of};
use super::psched;

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that the bucket holds, and so the longest packet that passes whole; what is longer and has no segments is dropped.
    pub burst: u32,
    /// Bytes that wait at most, where nothing else was put below it.
    pub limit: u32,
}

impl Tbf {
    pub(super) fn options(&self) -> Attributes {
        let mut parameters = vec![CELL_LOG, LINKLAYER_ETHERNET];
        parameters.extend(0u16.to_ne_bytes());
        parameters.extend((-1i16).to_ne_bytes());
        parameters.extend(0u16.to_ne_bytes());
        parameters.extend(u32::try_from(self.rate).unwrap_or(u32::MAX).to_ne_bytes());
        // No rate for its peaks.
        parameters.extend([0; 12]);
        let nanoseconds = u64::from(self.burst) * 1_000_000_000 / self.rate.max(1);
        let buffer = psched::ticks(nanoseconds);
        parameters.extend(words_of(&[self.limit, buffer, 0]));
        let mut options = Attributes::default();
        options.bytes(TCA_TBF_PARMS, &parameters).u32(TCA_TBF_BURST, self.burst);
        if self.rate > u32::MAX.into() {
            options.u64(TCA_TBF_RATE64, self.rate);
        }
        // The table of times that tc adds is only read by kernels that are told no link layer (before Linux 3.8).
        options
    }

    /// From the options of a dump, which has the bucket as a time in units of 64 ns: at high rates it is not told exactly.
    pub(super) fn parse(options: &[u8]) -> Self {
        let (mut rate, mut rate_64, mut limit, mut buffer) = (0, None, 0, 0);
        for (kind, value) in Walk(options) {
            match kind {
                TCA_TBF_PARMS => (rate, limit, buffer) = (word(value, 2), word(value, 6), word(value, 7)),
                TCA_TBF_RATE64 => rate_64 = Some(long(value)),
                _ => {}
            }
        }
        let rate = rate_64.unwrap_or(rate.into());
        let burst = u32::try_from(psched::bytes_of_ticks(buffer, rate)).unwrap_or(u32::MAX);
        Self { rate, burst, limit }
    }
}

const CELL_LOG: u8 = 3;
const LINKLAYER_ETHERNET: u8 = 1;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_is_read() {
        for rate in [125_000, 5_000_000_000] {
            let tbf = Tbf { rate, burst: 1 << 20, limit: 77 };
            let read = Tbf::parse(tbf.options().as_bytes());
            assert_eq!((read.rate, read.limit), (rate, 77));
            // Rounded down to a unit of time.
            let unit = rate * 64 / 1_000_000_000 + 1;
            assert!((1 << 20) - unit <= read.burst.into() && read.burst <= 1 << 20, "{read:?}");
        }
    }
}

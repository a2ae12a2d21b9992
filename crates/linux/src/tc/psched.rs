//! The packet scheduler's unit of time: 64 ns (`PSCHED_SHIFT` of net/pkt_sched.h; /proc/net/psched tells the same).

const NANOSECONDS: u64 = 64;

/// Nanoseconds in units, rounded down, at most as many as fit.
pub(super) fn ticks(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds / NANOSECONDS).unwrap_or(u32::MAX)
}

/// Units in nanoseconds.
pub(super) fn nanoseconds(ticks: u32) -> u64 {
    u64::from(ticks) * NANOSECONDS
}

/// Whether units can say it.
pub(super) fn is_exact(time: u64) -> bool {
    nanoseconds(ticks(time)) == time
}

/// How long so many bytes take at so many bytes a second, in units, rounded up.
pub(super) fn ticks_of_bytes(bytes: u64, rate: u64) -> u32 {
    let units = u128::from(bytes) * (1_000_000_000 / u128::from(NANOSECONDS));
    u32::try_from(units.div_ceil(u128::from(rate.max(1)))).unwrap_or(u32::MAX)
}

/// How many bytes pass in so many units, rounded down: what [`ticks_of_bytes`] was given, or a little more.
pub(super) fn bytes_of_ticks(ticks: u32, rate: u64) -> u64 {
    (u128::from(nanoseconds(ticks)) * u128::from(rate) / 1_000_000_000) as u64
}

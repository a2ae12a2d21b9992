//! The latency of one packet: a quantile function for each distribution, so that one draw gives one delay.

use std::time::Duration;

use testground_model::shape::{Distribution, LinkShape};

/// The shape of the Pareto tail. The deviation is `spread * (v^(-1/3) - 1)` for a uniform `v`: never below the latency,
/// with a median of 0.26, a mean of 0.5 and a 99th percentile of 3.64 spreads.
pub const PARETO_SHAPE: f64 = 3.0;

/// Draws beyond this share of either tail are taken for it: no single draw may stop a link for hours.
const TAIL: f64 = 1e-9;

/// How long a packet is on the way, behind the bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    latency: f64,
    spread: f64,
    distribution: Distribution,
}

// === impl Delay ===

impl Delay {
    /// The latency and jitter of a shape.
    pub fn new(shape: &LinkShape) -> Delay {
        Delay {
            latency: shape.latency.min(LinkShape::MAX_LATENCY).as_nanos() as f64,
            spread: shape.jitter.spread.min(LinkShape::MAX_LATENCY).as_nanos() as f64,
            distribution: shape.jitter.distribution,
        }
    }

    /// Whether every packet takes equally long.
    pub fn is_constant(&self) -> bool {
        self.spread == 0.0
    }

    /// Nanoseconds without jitter.
    pub fn latency(&self) -> u64 {
        self.latency as u64
    }

    /// Nanoseconds for a draw in 0..1: never below 0, never above [`LinkShape::MAX_LATENCY`].
    pub fn at(&self, draw: f64) -> u64 {
        let draw = draw.clamp(TAIL, 1.0 - TAIL);
        let deviation = match self.distribution {
            Distribution::Uniform => 2.0 * draw - 1.0,
            Distribution::Normal => normal_quantile(draw),
            Distribution::Pareto => (1.0 - draw).powf(-1.0 / PARETO_SHAPE) - 1.0,
        };
        let nanos = self.latency + self.spread * deviation;
        nanos.round().clamp(0.0, LinkShape::MAX_LATENCY.as_nanos() as f64) as u64
    }

    /// The latency and one spread: what the automatic length of a queue is reckoned from.
    pub fn usual(&self) -> Duration {
        Duration::from_nanos((self.latency + self.spread) as u64)
    }
}

/// The inverse of the normal distribution function, exact to about 1e-16 (Wichura 1988, algorithm AS 241, PPND16).
fn normal_quantile(p: f64) -> f64 {
    let horner = |c: [f64; 8], x: f64| c.iter().rev().fold(0.0, |sum, c| sum * x + c);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * horner(A, r) / horner(B, r);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let value = match r {
        r if r <= 5.0 => horner(C, r - 1.6) / horner(D, r - 1.6),
        r => horner(E, r - 5.0) / horner(F, r - 5.0),
    };
    value.copysign(q)
}

const A: [f64; 8] = [
    3.387_132_872_796_366_5,
    133.141_667_891_784_38,
    1_971.590_950_306_551_3,
    13_731.693_765_509_46,
    45_921.953_931_549_87,
    67_265.770_927_008_7,
    33_430.575_583_588_13,
    2_509.080_928_730_122_7,
];
const B: [f64; 8] = [
    1.0,
    42.313_330_701_600_91,
    687.187_007_492_057_9,
    5_394.196_021_424_751,
    21_213.794_301_586_597,
    39_307.895_800_092_71,
    28_729.085_735_721_943,
    5_226.495_278_852_545,
];
const C: [f64; 8] = [
    1.423_437_110_749_683_5,
    4.630_337_846_156_546,
    5.769_497_221_460_691,
    3.647_848_324_763_204_5,
    1.270_458_252_452_368_4,
    0.241_780_725_177_450_6,
    0.022_723_844_989_269_184,
    7.745_450_142_783_414e-4,
];
const D: [f64; 8] = [
    1.0,
    2.053_191_626_637_759,
    1.676_384_830_183_803_8,
    0.689_767_334_985_1,
    0.148_103_976_427_480_08,
    0.015_198_666_563_616_457,
    5.475_938_084_995_345e-4,
    1.050_750_071_644_416_9e-9,
];
const E: [f64; 8] = [
    6.657_904_643_501_103,
    5.463_784_911_164_114,
    1.784_826_539_917_291_3,
    0.296_560_571_828_504_87,
    0.026_532_189_526_576_124,
    1.242_660_947_388_078_4e-3,
    2.711_555_568_743_487_6e-5,
    2.010_334_399_292_288_1e-7,
];
const F: [f64; 8] = [
    1.0,
    0.599_832_206_555_888,
    0.136_929_880_922_735_8,
    0.014_875_361_290_850_615,
    7.868_691_311_456_133e-4,
    1.846_318_317_510_054_8e-5,
    1.421_511_758_316_446e-7,
    2.044_263_103_389_939_8e-15,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_quantile_is_that_of_the_tables() {
        // Values of AS 241's own test and of common tables.
        let known = [
            (0.5, 0.0),
            (0.25, -0.674_489_750_196_081_7),
            (0.001, -3.090_232_306_167_814),
            (1e-20, -9.262_340_089_798_408),
            (0.975, 1.959_963_984_540_054),
            (0.841_344_746_068_542_9, 1.0),
        ];
        for (p, z) in known {
            assert!((normal_quantile(p) - z).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }
}

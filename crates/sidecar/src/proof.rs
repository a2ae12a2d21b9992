//! The proof of the declared shapes: what is measured before the instances are let go, and what of it is off.
//!
//! What is sent and how it is judged is here, pure but for [`measure`], which has two sockets. Making the two ports that
//! they are on belongs to the reactor, carrying the packets to the plane.

use testground_model::event::{Lateness, Proof};

pub(crate) mod measure;
pub(crate) mod schedule;
pub(crate) mod stretch;
pub(crate) mod verdict;

/// The name of the network on which shapes are proved. No data network can have it.
pub const NETWORK: &str = "(proof)";

/// How often a shape is measured that is off: a wrong one is wrong every time.
pub const ATTEMPTS: u32 = 3;

/// The outcome of a proof.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Proved {
    /// Each distinct declared shape that can be measured, in the order of the links.
    pub proofs: Vec<Proof>,
    /// What can't be measured, and why.
    pub unproved: Vec<String>,
    /// The switch's own record for the time of the measurement; of several the worst.
    pub lateness: Lateness,
    /// Where something is off and that may not be the plane's doing, since the machine had no time for a measurement: how that
    /// showed.
    pub busy: Option<String>,
}

// === impl Proved ===

impl Proved {
    /// Every shape that is off, in words; empty when all is well.
    pub fn off(&self) -> Vec<String> {
        let off = self.proofs.iter().filter(|p| !p.off.is_empty());
        off.map(|p| format!("{}: {}", p.label, p.off.join("; "))).collect()
    }
}

//! What a switch says about itself: a value to be shown, stored or compared.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;
use testground_model::event::{Late, Lateness};
use testground_model::shape::LinkShape;

use super::counters::{Cause, Drops, Traffic};

/// Links, and classes, that one snapshot shows: packets wait while it is made.
pub const MOST: usize = 5000;

/// All counters at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// Nanoseconds since the switch was started.
    pub uptime_ns: u64,
    /// Interfaces, by number.
    pub ports: Vec<PortView>,
    /// Classes that packets have passed, with what is in force in them: at most [`MOST`], the busiest.
    pub classes: Vec<ClassView>,
    /// Classes that are not among these.
    pub classes_left_out: u64,
    /// Directed pairs that packets have passed: at most [`MOST`], the busiest.
    pub links: Vec<LinkView>,
    /// Pairs that are not among these.
    pub links_left_out: u64,
    /// What was carried and dropped in all, data networks only.
    pub data: Totals,
    /// The same on the control network.
    pub control: Totals,
    /// ARP and neighbour discovery questions answered.
    pub answered: u64,
    /// ARP announcements, group memberships and the like that concern the switch alone.
    pub absorbed: u64,
    /// Frames received that are not plain packets, by kind: `vlan`, `fragment`, `ip_options`, `not_ip`, `group`.
    pub kinds: BTreeMap<&'static str, u64>,
    /// How late packets that had to wait were released; none where the kernel carries them, which keeps no record.
    pub lateness: Option<LatenessView>,
    /// Packets that wait at this moment, pieces of super-packets each counted.
    pub waiting: u64,
    /// Memory of waiting packets, bytes.
    pub memory: MemoryView,
    /// Captured frames that the disk was too slow for.
    pub capture_dropped: u64,
    /// Recorded decisions that the disk was too slow for.
    pub record_dropped: u64,
    /// Why a capture or record could not be written, the first time that it could not.
    pub file_error: Option<String>,
}

/// An interface.
#[derive(Debug, Clone, Serialize)]
pub struct PortView {
    /// Its number.
    pub port: u32,
    /// Its name.
    pub name: String,
    /// The data network's name, or `control`.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// What came from it.
    pub sent: Traffic,
    /// What it was given.
    pub received: Traffic,
    /// What it sent or should have been given and was dropped, counted with the sender.
    pub drops: BTreeMap<String, u64>,
}

/// A class: packets that share a bandwidth and a queue.
#[derive(Debug, Clone, Serialize)]
pub struct ClassView {
    /// Whose class it is, such as `clients[0]/default rule 2` or `a[0]/default -> b[1]/default link 0`.
    pub name: String,
    /// The shape in force.
    pub shape: LinkShape,
    /// What passed.
    pub passed: Traffic,
    /// What was dropped in it.
    pub drops: BTreeMap<String, u64>,
    /// Nanoseconds until a packet that came now would be serialised.
    pub backlog_ns: u64,
}

/// A directed pair of ports.
#[derive(Debug, Clone, Serialize)]
pub struct LinkView {
    /// The sender's port.
    pub from: String,
    /// The receiver's port.
    pub to: String,
    /// What came from the sender.
    pub seen: u64,
    /// What the receiver was given.
    pub delivered: Traffic,
    /// What was dropped.
    pub drops: BTreeMap<String, u64>,
    /// Packets that were given twice.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that skipped the latency.
    pub reordered: u64,
}

/// What was carried and dropped.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Delivered.
    pub delivered: Traffic,
    /// Dropped, by cause.
    pub drops: BTreeMap<String, u64>,
}

/// Released minus due, of packets that had to wait.
#[derive(Debug, Clone, Serialize)]
pub struct LatenessView {
    /// How many.
    pub packets: u64,
    /// Microseconds: median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The worst.
    pub max_us: f64,
    /// The histogram: upper end of a step in microseconds, and packets in it; empty steps are left out.
    pub histogram: Vec<(f64, u64)>,
}

/// Memory of waiting packets.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct MemoryView {
    /// Now.
    pub used: usize,
    /// At most so far.
    pub most: usize,
    /// The bound.
    pub limit: usize,
}

// === impl Snapshot ===

impl Snapshot {
    /// The record for the end of a run.
    pub fn lateness(&self) -> Lateness {
        Lateness {
            packets: self.data.delivered.packets,
            late: self.lateness.as_ref().map(|late| Late {
                p50_us: late.p50_us,
                p99_us: late.p99_us,
                max_us: late.max_us,
            }),
            drops: self.data.drops.clone(),
            shortfall: self.shortfall(),
        }
    }

    /// Packets of data networks that were lost because the emulator, not a shape, failed them.
    pub fn shortfall(&self) -> u64 {
        let failed = super::counters::ALL_CAUSES.iter().filter(|c| c.is_shortfall());
        failed.filter_map(|c: &Cause| self.data.drops.get(c.as_str())).sum()
    }

    /// The link between two ports, by their names.
    pub fn link(&self, from: &str, to: &str) -> Option<&LinkView> {
        self.links.iter().find(|l| l.from == from && l.to == to)
    }
}

// === impl Totals ===

impl Totals {
    pub(crate) fn new(delivered: Traffic, drops: &Drops) -> Totals {
        Totals { delivered, drops: drops.by_name() }
    }
}

// === impl LatenessView ===

impl LatenessView {
    pub(crate) fn new(histogram: &Histogram<u64>) -> LatenessView {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        LatenessView {
            packets: histogram.len(),
            p50_us: micros(histogram.value_at_quantile(0.5)),
            p99_us: micros(histogram.value_at_quantile(0.99)),
            p999_us: micros(histogram.value_at_quantile(0.999)),
            max_us: micros(histogram.max()),
            // Steps of doubling width from 1 us on.
            histogram: histogram
                .iter_log(1000, 2.0)
                .filter(|step| step.count_since_last_iteration() > 0)
                .map(|step| (micros(step.value_iterated_to()), step.count_since_last_iteration()))
                .collect(),
        }
    }
}

//! What is counted: packets by what became of them.

use serde::Serialize;

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Cause {
    /// The link's loss.
    Loss,
    /// The queue in front of the bandwidth was full.
    Queue,
    /// CoDel dropped it at the head of its queue.
    Codel,
    /// The trace that its link followed was over before its turn came.
    TraceOver,
    /// The link's filter, silently.
    FilterDrop,
    /// The link's filter, and the sender was told.
    FilterReject,
    /// Its headers contradict its length.
    Malformed,
    /// Nobody on the network has its hardware address.
    NoReceiver,
    /// The control network's policy: only the gateway may be talked to.
    Policy,
    /// It is larger than its receiver's MTU.
    Mtu,
    /// The packets that wait have used up their memory.
    Memory,
    /// Its receiver was detached while it was on its way.
    ReceiverGone,
    /// Its receiver's interface is down.
    ReceiverDown,
    /// Its receiver's interface takes no more.
    ReceiverFull,
    /// The kernel refused it.
    Refused,
    /// Its sender sends too much to everybody at once.
    Storm,
    /// It was on its way to the switch, which was too slow to fetch it.
    SwitchFull,
}

/// How many causes there are.
pub const CAUSES: usize = 17;

/// Every cause, in the order of its number.
pub const ALL_CAUSES: [Cause; CAUSES] = [
    Cause::Loss,
    Cause::Queue,
    Cause::Codel,
    Cause::TraceOver,
    Cause::FilterDrop,
    Cause::FilterReject,
    Cause::Malformed,
    Cause::NoReceiver,
    Cause::Policy,
    Cause::Mtu,
    Cause::Memory,
    Cause::ReceiverGone,
    Cause::ReceiverDown,
    Cause::ReceiverFull,
    Cause::Refused,
    Cause::Storm,
    Cause::SwitchFull,
];

/// Drops by cause. Packets are segments as on the wire. Most links never drop any, and pay nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drops(Option<Box<[u64; CAUSES]>>);

/// Packets and bytes. Packets are segments as on the wire, bytes include the Ethernet header of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

// === impl Cause ===

impl Cause {
    /// The name it has in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Loss => "loss",
            Cause::Queue => "queue",
            Cause::Codel => "codel",
            Cause::TraceOver => "trace_over",
            Cause::FilterDrop => "filter_drop",
            Cause::FilterReject => "filter_reject",
            Cause::Malformed => "malformed",
            Cause::NoReceiver => "no_receiver",
            Cause::Policy => "policy",
            Cause::Mtu => "mtu",
            Cause::Memory => "memory",
            Cause::ReceiverGone => "receiver_gone",
            Cause::ReceiverDown => "receiver_down",
            Cause::ReceiverFull => "receiver_full",
            Cause::Refused => "refused",
            Cause::Storm => "storm",
            Cause::SwitchFull => "switch_full",
        }
    }

    /// Whether the emulator failed at its work, and did not do what a shape says.
    pub fn is_shortfall(self) -> bool {
        matches!(
            self,
            Cause::Memory | Cause::ReceiverFull | Cause::Refused | Cause::Storm | Cause::SwitchFull
        )
    }
}

// === impl Drops ===

impl Drops {
    /// Counts some packets.
    pub fn add(&mut self, cause: Cause, packets: u64) {
        self.0.get_or_insert_default()[cause as usize] += packets;
    }

    /// How many were dropped for a cause.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0.as_ref().map_or(0, |counts| counts[cause as usize])
    }

    /// How many were dropped.
    pub fn total(&self) -> u64 {
        self.0.iter().flat_map(|counts| counts.iter()).sum()
    }

    /// The causes that occurred.
    pub fn by_name(&self) -> std::collections::BTreeMap<String, u64> {
        let named = ALL_CAUSES.iter().map(|c| (c.as_str().to_owned(), self.of(*c)));
        named.filter(|(_, count)| *count > 0).collect()
    }
}

// === impl Traffic ===

impl Traffic {
    /// Counts some packets.
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

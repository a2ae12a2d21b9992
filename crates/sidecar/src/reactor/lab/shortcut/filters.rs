//! The filters of shortcuts as the kernel has them: what an interface sends is looked up by the last byte of its IP destination, in
//! a table for each of the two versions.

use std::net::IpAddr;

use testground_linux::tc::{
    Action, Filter, FoundFilter, Handle, Protocol, Qdisc, Target, TcChange, U32Bucket, U32Key, U32Target,
};

use crate::plan::PortId;
use crate::plane::switch::table::mac_of;

/// A way to one address of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) address: IpAddr,
    /// No other door of the sender has it; below [`DOORS`].
    pub(super) number: u16,
}

/// The two filters that a door can have, where both are there the first of them counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    /// To the switch.
    Blocked,
    /// To the receiver.
    Open,
}

/// How many doors a sender can have.
pub(super) const DOORS: u16 = 0x7ff;

/// Priorities: neighbour discovery, which the switch answers; everything, of an interface that was given up; the tables; and everything
/// else.
const DISCOVERY: u16 = 1;
const GIVEN_UP: u16 = 2;
const TABLES: u16 = 3;
const REST: u16 = 5;

/// What an interface that instances send by has from the start: a place for filters, tables without any door, and the way to the
/// switch.
pub(super) fn of_sender(index: u32, switch: u32) -> Vec<TcChange> {
    let mut all =
        vec![place(index), add(index, DISCOVERY, Protocol::Ipv6, u32(vec![ICMPV6], to(switch), None))];
    for family in [Family::V4, Family::V6] {
        let (priority, protocol, table) = (family.priority(), family.protocol(), family.table());
        let look_up = U32Target::Table { table, offset: family.last_bytes(), mask: 0xff };
        all.push(add(index, priority, protocol, Filter::U32Table { table, buckets: 256 }));
        all.push(add(index, priority, protocol, u32(vec![ANY], look_up, None)));
    }
    all.push(rest(index, switch));
    all
}

/// A place for filters of what arrives by an interface.
pub(super) fn place(index: u32) -> TcChange {
    let (parent, handle) = (Handle::INGRESS, Handle::INGRESS_QDISC);
    TcChange { index, action: Action::AddQdisc { parent, handle, qdisc: Qdisc::Ingress } }
}

/// Sends on what no other filter is for.
pub(super) fn rest(index: u32, target: u32) -> TcChange {
    add(index, REST, Protocol::All, u32(vec![ANY], to(target), None))
}

/// Sends on everything, whatever other filters are for.
pub(super) fn all(index: u32, target: u32) -> TcChange {
    add(index, GIVEN_UP, Protocol::All, u32(vec![ANY], to(target), None))
}

/// Sends on to `target` what is for a receiver at one of its addresses. Packets to the address by way of another instance are none of
/// those.
pub(super) fn set(index: u32, receiver: PortId, door: Door, leaf: Leaf, target: u32) -> TcChange {
    let mut keys = U32Key::hardware(mac_of(receiver)).to_vec();
    keys.extend(U32Key::destination(door.address.into()));
    let family = door.family();
    let filter = u32(keys, to(target), Some(door.bucket(leaf)));
    add(index, family.priority(), family.protocol(), filter)
}

/// Takes away what [`set`] made.
pub(super) fn unset(index: u32, door: Door, leaf: Leaf) -> TcChange {
    let (family, handle) = (door.family(), door.bucket(leaf).handle());
    let (priority, protocol) = (family.priority(), family.protocol());
    let parent = Handle::CLSACT_INGRESS;
    TcChange { index, action: Action::DeleteFilter { parent, priority, protocol, kind: "u32", handle } }
}

/// The number of the open door that a filter is.
pub(super) fn open_door(filter: &FoundFilter) -> Option<u16> {
    let in_table = [Family::V4, Family::V6].iter().any(|family| family.priority() == filter.priority);
    let place = (filter.handle & 0xfff) as u16;
    // The filter that leads to a table lies in the root's.
    let root = filter.handle >> 20 >= 0x800;
    (in_table && !root && !filter.is_table).then(|| place.checked_sub(Leaf::Open.first_place()))?
}

// === impl Door ===

impl Door {
    fn family(self) -> Family {
        if self.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn bucket(self, leaf: Leaf) -> U32Bucket {
        let last = match self.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        U32Bucket { table: self.family().table(), bucket: last, place: leaf.first_place() + self.number }
    }
}

// === impl Leaf ===

impl Leaf {
    /// Filters at lower places are tried first.
    fn first_place(self) -> u16 {
        match self {
            Self::Blocked => 1,
            Self::Open => 1 + DOORS,
        }
    }
}

/// A version of IP: one priority is for one of them.
#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

// === impl Family ===

impl Family {
    fn table(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }

    fn priority(self) -> u16 {
        TABLES + self.table() - 1
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::V4 => Protocol::Ipv4,
            Self::V6 => Protocol::Ipv6,
        }
    }

    /// Where the last four bytes of the destination are in the header (RFC 791, section 3.1; RFC 8200, section 3).
    fn last_bytes(self) -> u16 {
        match self {
            Self::V4 => 16,
            Self::V6 => 36,
        }
    }
}

fn u32(keys: Vec<U32Key>, target: U32Target, bucket: Option<U32Bucket>) -> Filter {
    Filter::U32 { keys, target, bucket }
}

fn to(index: u32) -> U32Target {
    U32Target::Is(Target::Redirect { index })
}

fn add(index: u32, priority: u16, protocol: Protocol, filter: Filter) -> TcChange {
    TcChange {
        index,
        action: Action::AddFilter { parent: Handle::CLSACT_INGRESS, priority, protocol, filter },
    }
}

/// Everything.
const ANY: U32Key = U32Key { value: 0, mask: 0, offset: 0 };
/// ICMPv6 behind no other header: the next header's number is the seventh byte (RFC 8200, section 3).
const ICMPV6: U32Key = U32Key { value: 58 << 8, mask: 0xff << 8, offset: 4 };

//! What is in force on an interface, as the kernel tells it, with its counters.

use netlink_packet_route::tc::TcHeader;

use super::attributes::{Walk, long, text, word};
use super::change::{TCA_KIND, TCA_OPTIONS};
use super::filter::{
    self, FIRST_ACTION, TCA_BPF_ACT, TCA_BPF_CLASSID, TCA_BPF_OPS, TCA_FLOWER_ACT, TCA_FLOWER_CLASSID,
    TCA_MATCHALL_ACT, TCA_U32_ACT, TCA_U32_CLASSID, TCA_U32_DIVISOR, Target,
};
use super::{BpfInstruction, Handle, Htb, HtbClass, Netem, Tbf};

/// A qdisc in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundQdisc {
    /// The interface.
    pub index: u32,
    /// Its handle.
    pub handle: Handle,
    /// What it hangs below.
    pub parent: Handle,
    /// The kernel's name for its kind.
    pub kind: String,
    /// Its settings, where they are of a kind that is known here.
    pub settings: Settings,
    /// Its counters.
    pub stats: Stats,
}

/// Settings of a qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// Of an HTB.
    Htb(Htb),
    /// Of a netem.
    Netem(Netem),
    /// Of a token bucket.
    Tbf(Tbf),
    /// Of a plain queue of packets or bytes.
    Fifo {
        /// How many wait at most.
        limit: u32,
    },
    /// Everything is dropped.
    Blackhole,
    /// Of another kind.
    Other,
}

/// A class in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundClass {
    /// The interface.
    pub index: u32,
    /// Its handle.
    pub handle: Handle,
    /// What it hangs below.
    pub parent: Handle,
    /// The qdisc that hangs below it; [`Handle::NONE`]: the kernel's own.
    pub leaf: Handle,
    /// The kernel's name for the kind of its qdisc.
    pub kind: String,
    /// Its rates, where it is an HTB's.
    pub htb: Option<HtbClass>,
    /// Its counters.
    pub stats: Stats,
}

/// A filter in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFilter {
    /// The interface.
    pub index: u32,
    /// The qdisc it belongs to.
    pub parent: Handle,
    /// Its priority.
    pub priority: u16,
    /// Its protocol, as an ethertype (0x0003: all).
    pub ethertype: u16,
    /// Its own number.
    pub handle: u32,
    /// The kernel's name for its kind.
    pub kind: String,
    /// The class that it sends to.
    pub class: Option<Handle>,
    /// The interface that it sends to instead.
    pub redirect: Option<Target>,
    /// Whether it is a table of u32 filters, or the root of them.
    pub is_table: bool,
    /// What its action was given, where it has one. The headers of a super-packet count once.
    pub acted_on: Stats,
    /// The instructions of a classic program; empty for other filters.
    pub program: Vec<BpfInstruction>,
    /// Its options, as the kernel tells them.
    pub options: Vec<u8>,
}

/// Counters since the thing was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that left it.
    pub bytes: u64,
    /// Packets that left it; a super-packet counts for its segments.
    pub packets: u64,
    /// Packets it dropped.
    pub drops: u64,
    /// Times a packet had to wait for its rate.
    pub overlimits: u64,
    /// Packets put back.
    pub requeues: u64,
    /// Packets that wait now.
    pub queued_packets: u32,
    /// Bytes that wait now.
    pub queued_bytes: u32,
}

/// A message of a dump, taken apart.
struct Parts<'a> {
    header: TcHeader,
    kind: String,
    options: &'a [u8],
    stats: Stats,
}

impl<'a> Parts<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let header = TcHeader::parse(body).ok()?;
        let mut parts = Self { header, kind: String::new(), options: &[], stats: Stats::default() };
        for (kind, value) in Walk(body.get(HEADER..)?) {
            match kind {
                TCA_KIND => parts.kind = text(value),
                TCA_OPTIONS => parts.options = value,
                TCA_STATS2 => parts.stats = stats(value),
                _ => {}
            }
        }
        Some(parts)
    }

    fn handles(&self) -> (u32, Handle, Handle) {
        let (handle, parent) = (u32::from(self.header.handle), u32::from(self.header.parent));
        (self.header.index as u32, Handle(handle), Handle(parent))
    }
}

pub(super) fn qdisc(body: &[u8]) -> Option<FoundQdisc> {
    let parts = Parts::of(body)?;
    let (index, handle, parent) = parts.handles();
    let settings = match parts.kind.as_str() {
        "htb" => Settings::Htb(Htb::parse(parts.options)),
        "netem" => Settings::Netem(Netem::parse(parts.options)),
        "tbf" => Settings::Tbf(Tbf::parse(parts.options)),
        "pfifo" | "bfifo" => Settings::Fifo { limit: word(parts.options, 0) },
        "blackhole" => Settings::Blackhole,
        _ => Settings::Other,
    };
    Some(FoundQdisc { index, handle, parent, kind: parts.kind, settings, stats: parts.stats })
}

pub(super) fn class(body: &[u8]) -> Option<FoundClass> {
    let parts = Parts::of(body)?;
    let (index, handle, parent) = parts.handles();
    let htb = if parts.kind == "htb" { HtbClass::parse(parts.options) } else { None };
    let leaf = Handle(parts.header.info);
    Some(FoundClass { index, handle, parent, leaf, htb, kind: parts.kind, stats: parts.stats })
}

pub(super) fn filter(body: &[u8]) -> Option<FoundFilter> {
    let parts = Parts::of(body)?;
    let (index, handle, parent) = parts.handles();
    let kinds = match parts.kind.as_str() {
        "u32" => Some((TCA_U32_CLASSID, TCA_U32_ACT)),
        "flower" => Some((TCA_FLOWER_CLASSID, TCA_FLOWER_ACT)),
        "matchall" => Some((TCA_FLOWER_CLASSID, TCA_MATCHALL_ACT)),
        "bpf" => Some((TCA_BPF_CLASSID, TCA_BPF_ACT)),
        _ => None,
    };
    let find = |wanted: u16| Walk(parts.options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    Some(FoundFilter {
        index,
        parent,
        priority: (parts.header.info >> 16) as u16,
        ethertype: u16::from_be(parts.header.info as u16),
        handle: handle.0,
        class: kinds.and_then(|(class, _)| find(class)).map(|value| Handle(word(value, 0))),
        redirect: kinds.and_then(|(_, action)| find(action)).and_then(Target::of_actions),
        acted_on: kinds.and_then(|(_, action)| find(action)).map(action_stats).unwrap_or_default(),
        is_table: parts.kind == "u32" && find(TCA_U32_DIVISOR).is_some(),
        program: match parts.kind.as_str() {
            "bpf" => find(TCA_BPF_OPS).map(filter::instructions).unwrap_or_default(),
            _ => Vec::new(),
        },
        kind: parts.kind,
        options: parts.options.to_vec(),
    })
}

/// The counters of the first action of several.
fn action_stats(actions: &[u8]) -> Stats {
    let find =
        |attributes, wanted| Walk(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    find(actions, FIRST_ACTION).and_then(|first| find(first, TCA_ACT_STATS)).map(stats).unwrap_or_default()
}

fn stats(value: &[u8]) -> Stats {
    let mut stats = Stats::default();
    let mut packets_64 = None;
    for (kind, value) in Walk(value) {
        match kind {
            TCA_STATS_BASIC => {
                stats.bytes = long(value);
                stats.packets = word(value, 2).into();
            }
            TCA_STATS_QUEUE => {
                stats.queued_packets = word(value, 0);
                stats.queued_bytes = word(value, 1);
                stats.drops = word(value, 2).into();
                stats.requeues = word(value, 3).into();
                stats.overlimits = word(value, 4).into();
            }
            TCA_STATS_PKT64 => packets_64 = Some(long(value)),
            _ => {}
        }
    }
    stats.packets = packets_64.unwrap_or(stats.packets);
    stats
}

/// Of `struct tcmsg`.
const HEADER: usize = 20;
const TCA_STATS2: u16 = 7;
// linux/pkt_cls.h
const TCA_ACT_STATS: u16 = 4;
// linux/gen_stats.h
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_PKT64: u16 = 8;

//! What the fabric remembers: nodes, directed pairs, classes, the paths between them, and packets that wait.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use testground_model::shape::LinkShape;

use super::super::config::{Framing, NetworkKind};
use super::super::counters::{Cause, Drops, Traffic};
use super::super::link::codel::Codel;
use super::super::link::server::{Limit, Rate, Server};
use super::super::link::{Effects, Flow, History, Piece};
use super::super::packet::VnetHeader;
use super::super::pool::Stored;
use crate::plan::{ClassId, PortId, Schedule};

/// A port as the fabric sees it: all but its descriptor.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: PortId,
    pub(super) name: String,
    pub(super) network: NetworkKind,
    pub(super) mac: [u8; 6],
    pub(super) addresses: Vec<IpAddr>,
    pub(super) framing: Framing,
    pub(super) mtu: u32,
    pub(super) gateway: bool,
    pub(super) allow_peers: bool,
    /// It takes packets.
    pub(super) up: bool,
    pub(super) sent: Traffic,
    pub(super) received: Traffic,
    pub(super) drops: Drops,
    /// By receiver and destination address; what is in force for a packet.
    pub(super) paths: HashMap<(u32, IpAddr), Rc<Path>>,
    pub(super) copies: CopyBudget,
}

/// How many copies of group-addressed packets a port may still cause.
#[derive(Debug, Default)]
pub(super) struct CopyBudget {
    left: u64,
    since: u64,
    started: bool,
}

/// What is in force for packets from one port to another at one address.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) to: u32,
    pub(super) pair: Rc<RefCell<Pair>>,
    pub(super) class: Rc<RefCell<Class>>,
    /// The pair's under this class.
    pub(super) history: Rc<RefCell<History>>,
    /// The latest departure, in nanoseconds, that later packets don't precede.
    pub(super) order: Cell<u64>,
    /// The class's version that `order` is about.
    pub(super) version: u64,
    /// The plan that this was resolved under.
    pub(super) generation: u64,
}

/// A directed pair of ports.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) flow: Flow,
    /// By class; those of classes that no path leads through any more go when there are many.
    histories: Vec<(ClassId, Rc<RefCell<History>>)>,
    pub(super) delivered: Traffic,
    pub(super) drops: Drops,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) reordered: u64,
}

/// Packets that share a bandwidth and a queue.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) id: ClassId,
    pub(super) shape: Arc<LinkShape>,
    pub(super) schedule: Option<Arc<Schedule>>,
    pub(super) effects: Rc<Effects>,
    /// Counts the shapes that the class has had.
    pub(super) version: u64,
    /// The last plan that named it.
    pub(super) generation: u64,
    pub(super) server: Server,
    pub(super) codel: Codel<Held>,
    pub(super) passed: Traffic,
    pub(super) drops: Drops,
}

/// A packet, or a row of segments, that waits.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) path: Rc<Path>,
    pub(super) vnet: VnetHeader,
    pub(super) head: Box<[u8]>,
    pub(super) body: Rc<Stored>,
    /// What of `body` follows `head`.
    pub(super) range: Range<usize>,
    pub(super) from: u32,
    pub(super) bytes: u32,
    /// Which segments; while it waits for CoDel, `at` is the time on the way behind the queue.
    pub(super) piece: Piece,
    /// Its place in the link's sequence.
    pub(super) index: u64,
}

/// What happens at a moment.
#[derive(Debug)]
pub(super) enum Departure {
    /// A packet leaves.
    Packet(Held),
    /// A class with CoDel serves its head.
    Serve(Rc<RefCell<Class>>),
}

/// Copies of group-addressed packets that a port may cause in a second, and at once.
const COPIES_PER_SECOND: u64 = 100_000;
const COPIES_AT_ONCE: u64 = 20_000;

// === impl Pair ===

impl Pair {
    /// Two ports between which nothing has passed.
    pub(super) fn new(from: u32, to: u32, flow: Flow) -> Pair {
        Pair {
            from,
            to,
            flow,
            histories: Vec::new(),
            delivered: Traffic::default(),
            drops: Drops::default(),
            duplicated: 0,
            corrupted: 0,
            reordered: 0,
        }
    }

    /// What is remembered under this class.
    pub(super) fn history(&mut self, class: ClassId) -> Rc<RefCell<History>> {
        if let Some((_, known)) = self.histories.iter().find(|(id, _)| *id == class) {
            return Rc::clone(known);
        }
        if self.histories.len() >= HISTORIES {
            self.histories.retain(|(_, history)| Rc::strong_count(history) > 1);
        }
        let new = Rc::default();
        self.histories.push((class, Rc::clone(&new)));
        new
    }
}

/// So many classes of a pair are remembered although no path leads through them.
const HISTORIES: usize = 8;

// === impl CopyBudget ===

impl CopyBudget {
    /// Whether one more copy may be made.
    pub(super) fn take(&mut self, now: u64) -> bool {
        if !self.started {
            *self = CopyBudget { left: COPIES_AT_ONCE, since: now, started: true };
        }
        let earned =
            u128::from(now.saturating_sub(self.since)) * u128::from(COPIES_PER_SECOND) / 1_000_000_000;
        if earned > 0 {
            self.left = (u128::from(self.left) + earned).min(u128::from(COPIES_AT_ONCE)) as u64;
            self.since = now;
        }
        let has = self.left > 0;
        self.left -= u64::from(has);
        has
    }
}

// === impl Class ===

impl Class {
    /// Whether a packet finds room in CoDel's queue.
    pub(super) fn has_room(&self, rate: &Rate, now: u64, bytes: u32) -> bool {
        let waiting = self.codel.bytes();
        if waiting == 0 {
            return true;
        }
        match rate.limit {
            Limit::Packets(limit) => self.codel.len() < limit as usize,
            Limit::Bytes(limit) => waiting + u64::from(bytes) <= limit,
            Limit::Time(limit) => self
                .server
                .drained_at(rate, now, waiting)
                .is_some_and(|turn| turn.saturating_sub(now) <= limit),
        }
    }

    /// Nanoseconds until a packet that came now would be serialised.
    pub(super) fn backlog(&self, now: u64) -> u64 {
        let waiting = self.codel.bytes();
        let drained = match &self.effects.rate {
            Some(rate) if waiting > 0 => self.server.drained_at(rate, now, waiting),
            _ => None,
        };
        drained.unwrap_or(self.server.free_at()).saturating_sub(now)
    }
}

// === impl Pair ===

impl Pair {
    pub(super) fn dropped(&mut self, cause: Cause, packets: u64) {
        self.drops.add(cause, packets);
    }
}

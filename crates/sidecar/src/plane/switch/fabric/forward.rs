//! A frame that comes in: understood, answered, or sent on its way.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use super::super::config::NetworkKind;
use super::super::counters::{Cause, Drops, Traffic};
use super::super::link::chance::Stream;
use super::super::link::codel::{Codel, Waiting};
use super::super::link::opportunity::Opportunities;
use super::super::link::server::Server;
use super::super::link::{Effects, Flow, Piece, State, Step};
use super::super::packet::reply::{self, Resolution};
use super::super::packet::{Layout, Network, Segments, VnetHeader};
use super::super::record::Fate;
use super::source::{Body, Source};
use super::state::{Class, Departure, Held, Pair, Path};
use super::{Emission, Emit, Fabric, PATHS};
use crate::plan::{ClassId, Decision};

/// Bytes that a place in the queue of departures costs, with the headers of a cut packet, rounded up.
const PLACE: usize = 256;

/// A storm to more ports than this is counted as one: looking at each is what it must not cost.
const STORM_LINKS: usize = 64;

// === impl Fabric ===

impl Fabric {
    /// Takes the first `length` bytes of the scratch buffer as a frame that a port sent at `now`. `vnet` is `None` when
    /// its offload header made no sense.
    pub fn ingress(
        &mut self,
        from: u32,
        length: usize,
        vnet: Option<VnetHeader>,
        now: u64,
        emit: &mut Emit<'_>,
    ) {
        let Some(network) = self.node(from).map(|n| n.network) else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        match understand(&scratch[..length], vnet) {
            Some((layout, segments, vnet)) => {
                let mut source =
                    Source { scratch: &mut scratch, length, layout, segments, vnet, from, stored: None };
                self.count(&source);
                self.switch(network, &mut source, now, emit);
            }
            None => {
                if let Some(node) = self.node_mut(from) {
                    node.sent.add(1, length as u64);
                }
                self.dropped(from, network, None, Cause::Malformed, 1);
            }
        }
        self.scratch = scratch;
    }

    fn count(&mut self, source: &Source<'_>) {
        let (layout, segments) = (&source.layout, &source.segments);
        self.tallies.vlan += u64::from(layout.tags > 0);
        self.tallies.group += u64::from(layout.is_group_addressed());
        match &layout.content {
            Network::Ip(ip) => {
                self.tallies.fragment += u64::from(ip.fragment);
                self.tallies.options += u64::from(ip.options);
            }
            Network::Arp => {}
            Network::Other(_) => self.tallies.not_ip += 1,
        }
        if let Some(node) = self.node_mut(source.from) {
            node.sent.add(segments.count.into(), segments.size_of(0, segments.count));
        }
    }

    fn switch(&mut self, network: NetworkKind, source: &mut Source<'_>, now: u64, emit: &mut Emit<'_>) {
        if let Some(resolution) = reply::resolution(source.bytes(), &source.layout) {
            return self.resolve(network, source, resolution, emit);
        }
        if reply::is_membership_report(&source.layout) {
            self.tallies.absorbed += 1;
            return;
        }
        if source.layout.is_group_addressed() {
            return self.spread(network, source, now, emit);
        }
        match self.table.at(network, source.layout.to) {
            // What a host sends to itself never gets here but by its own fault.
            Some(to) if to != source.from => self.pass(network, to, source, now, emit),
            _ => self.dropped(source.from, network, None, Cause::NoReceiver, source.segments.count),
        }
    }

    /// ARP and neighbour discovery: answered at once, never shaped, never passed on.
    fn resolve(
        &mut self,
        network: NetworkKind,
        source: &Source<'_>,
        resolution: Resolution,
        emit: &mut Emit<'_>,
    ) {
        let Resolution::Question(question) = resolution else {
            self.tallies.absorbed += 1;
            return;
        };
        let claimed = if question.probe { question.target } else { question.asker };
        self.table.claim(network, source.from, claimed);
        let owner = self.table.owner(network, question.target).filter(|owner| *owner != source.from);
        let allowed = owner.filter(|owner| self.may_talk(network, source.from, *owner));
        let Some(mac) = allowed.and_then(|owner| self.node(owner)).map(|n| n.mac) else {
            self.tallies.absorbed += 1;
            return;
        };
        if let Some(frame) = reply::answer(source.bytes(), &source.layout, &question, mac) {
            self.tallies.answered += 1;
            let vnet = VnetHeader::default();
            // An answer that can't be given is asked for again.
            let _ = emit(Emission { to: source.from, vnet, head: &[], body: &frame });
        }
    }

    /// Group-addressed frames: a copy for each port of the network, each on its own way.
    fn spread(&mut self, network: NetworkKind, source: &mut Source<'_>, now: u64, emit: &mut Emit<'_>) {
        for i in 0..self.table.members(network).len() {
            let to = self.table.members(network)[i];
            if to == source.from || !self.may_talk(network, source.from, to) {
                continue;
            }
            if !self.node_mut(source.from).is_some_and(|node| node.copies.take(now)) {
                return self.spread_no_more(network, source, i, now);
            }
            self.pass(network, to, source, now, emit);
        }
    }

    /// A port has sent as many copies as it may: those for the ports from this place on are dropped.
    fn spread_no_more(&mut self, network: NetworkKind, source: &Source<'_>, at: usize, now: u64) {
        let from = source.from;
        let others = self.table.members(network)[at..].iter().copied();
        let others: Vec<u32> = others.filter(|to| *to != from && self.may_talk(network, from, *to)).collect();
        if network == NetworkKind::Control || others.len() > STORM_LINKS {
            return self.dropped(from, network, None, Cause::Storm, others.len() as u32);
        }
        for to in others {
            let address = self.address_for(to, &source.layout);
            let Some(path) = self.path(from, to, address) else { continue };
            let count = source.segments.count;
            let index = {
                let flow = &mut path.pair.borrow_mut().flow;
                flow.skip(count.into());
                flow.seen() - u64::from(count)
            };
            self.note(&path, index, count, now, Fate::Dropped { cause: Cause::Storm, copy: false });
            self.dropped(from, network, Some(&path), Cause::Storm, count);
        }
    }

    /// Whether two ports of one network may talk at all.
    fn may_talk(&self, network: NetworkKind, from: u32, to: u32) -> bool {
        network != NetworkKind::Control
            || match (self.node(from), self.node(to)) {
                (Some(a), Some(b)) => a.gateway || b.gateway || a.allow_peers && b.allow_peers,
                _ => false,
            }
    }

    fn pass(
        &mut self,
        network: NetworkKind,
        to: u32,
        source: &mut Source<'_>,
        now: u64,
        emit: &mut Emit<'_>,
    ) {
        let (from, segments) = (source.from, source.segments);
        let largest =
            segments.full.max(segments.last) as usize - source.layout.network.min(segments.last as usize);
        if self.node(to).is_some_and(|n| largest > n.mtu as usize) {
            return self.dropped(from, network, None, Cause::Mtu, segments.count);
        }
        if network == NetworkKind::Control {
            if !self.may_talk(network, from, to) {
                return self.dropped(from, network, None, Cause::Policy, segments.count);
            }
            let bytes = segments.size_of(0, segments.count);
            let sent = self.hand_over(to, &source.vnet, &[], source.bytes(), emit);
            return match sent {
                Ok(()) => self.delivered(to, network, segments.count, bytes),
                Err(cause) => self.dropped(from, network, None, cause, segments.count),
            };
        }
        let address = self.address_for(to, &source.layout);
        let Some(path) = self.path(from, to, address) else { return };
        self.shape(network, &path, source, now, emit);
    }

    /// Sends a frame through its link's pipeline.
    fn shape(
        &mut self,
        network: NetworkKind,
        path: &Rc<Path>,
        source: &mut Source<'_>,
        now: u64,
        emit: &mut Emit<'_>,
    ) {
        let mut steps = std::mem::take(&mut self.steps);
        steps.clear();
        let index = path.pair.borrow().flow.seen();
        {
            let Class { effects, server, .. } = &mut *path.class.borrow_mut();
            let mut order = path.order.get();
            let flow = &mut path.pair.borrow_mut().flow;
            let history = &mut *path.history.borrow_mut();
            let state = State { server, flow, history, order: &mut order };
            effects.transit(state, &source.segments, now, &mut steps);
            path.order.set(order);
        }
        for step in &steps {
            // Each second arrival counts, whatever becomes of it: what was sent and these are what arrived or was dropped.
            let copies = match step {
                Step::Drop { count, copy: true, .. } => *count,
                Step::Depart(piece) | Step::Wait(piece) if piece.copy => piece.count,
                _ => 0,
            };
            path.pair.borrow_mut().duplicated += u64::from(copies);
            match step {
                Step::Drop { first, count, cause, copy } => {
                    let fate = Fate::Dropped { cause: *cause, copy: *copy };
                    self.note(path, index + u64::from(*first), *count, now, fate);
                    self.dropped(source.from, network, Some(path), *cause, *count);
                    if *cause == Cause::FilterReject
                        && let Some(frame) = reply::rejection(source.bytes(), &source.layout)
                    {
                        let vnet = VnetHeader::default();
                        // As with any ICMP error, one that gets lost is not repeated.
                        let _ = emit(Emission { to: source.from, vnet, head: &[], body: &frame });
                    }
                }
                Step::Depart(piece) => self.depart(network, path, source, piece, index, now, emit),
                Step::Wait(piece) => self.wait(network, path, source, piece, index, now),
            }
        }
        self.steps = steps;
    }

    #[expect(clippy::too_many_arguments, reason = "the packet, its link and its moment")]
    fn depart(
        &mut self,
        network: NetworkKind,
        path: &Rc<Path>,
        source: &mut Source<'_>,
        piece: &Piece,
        index: u64,
        now: u64,
        emit: &mut Emit<'_>,
    ) {
        let index = index + u64::from(piece.first);
        if self.decisions.is_some() {
            let fate = Fate::Departs { at: piece.at, copy: piece.copy, flipped: piece.flip.is_some() };
            self.note(path, index, piece.count, now, fate);
        }
        if piece.at > now {
            match self.hold(path, source, piece, index) {
                Ok(held) => self.departures.push(piece.at, Departure::Packet(held)),
                Err(cause) => self.dropped(source.from, network, Some(path), cause, piece.count),
            }
            return;
        }
        let bytes = source.segments.size_of(piece.first, piece.count);
        let sent = source.cut(piece, &self.pool).and_then(|cut| {
            let body = match &cut.body {
                Body::Frame(range) => &source.bytes()[range.clone()],
                Body::Own(own) => own,
            };
            self.hand_over(path.to, &cut.vnet, &cut.head, body, emit)
        });
        match sent {
            Ok(()) => self.arrived(path, piece.count, bytes),
            Err(cause) => self.dropped(source.from, network, Some(path), cause, piece.count),
        }
        self.mark(path, piece);
    }

    /// CoDel decides when its turn comes.
    fn wait(
        &mut self,
        network: NetworkKind,
        path: &Rc<Path>,
        source: &mut Source<'_>,
        piece: &Piece,
        index: u64,
        now: u64,
    ) {
        let bytes = source.segments.size(piece.first);
        let index = index + u64::from(piece.first);
        let turn = {
            let class = path.class.borrow();
            match &class.effects.rate {
                Some(rate) if !class.has_room(rate, now, bytes) => Err(Cause::Queue),
                Some(rate) => class.server.turn(rate, now).ok_or(Cause::TraceOver),
                None => Ok(now),
            }
        };
        match turn.and_then(|turn| Ok((turn, self.hold(path, source, piece, index)?))) {
            Ok((turn, held)) => {
                let mut class = path.class.borrow_mut();
                if class.codel.is_empty() {
                    self.departures.push(turn, Departure::Serve(Rc::clone(&path.class)));
                }
                class.codel.push(Waiting { item: held, bytes, since: now });
            }
            Err(cause) => {
                self.note(path, index, 1, now, Fate::Dropped { cause, copy: piece.copy });
                self.dropped(source.from, network, Some(path), cause, 1);
            }
        }
    }

    fn hold(
        &mut self,
        path: &Rc<Path>,
        source: &mut Source<'_>,
        piece: &Piece,
        index: u64,
    ) -> Result<Held, Cause> {
        // Copies of one frame share its bytes, but each takes a place in the queue of departures.
        if self.departures.len() >= self.pool.limit() / PLACE {
            return Err(Cause::Memory);
        }
        let cut = source.cut(piece, &self.pool)?;
        let (body, range) = match cut.body {
            Body::Own(own) => {
                let range = 0..own.len();
                (own, range)
            }
            Body::Frame(range) => (source.share(&self.pool)?, range),
        };
        self.mark(path, piece);
        Ok(Held {
            path: Rc::clone(path),
            vnet: cut.vnet,
            head: cut.head,
            body,
            range,
            from: source.from,
            bytes: source.segments.size_of(piece.first, piece.count) as u32,
            piece: *piece,
            index,
        })
    }

    fn mark(&mut self, path: &Path, piece: &Piece) {
        let mut pair = path.pair.borrow_mut();
        let count = u64::from(piece.count);
        pair.corrupted += count * u64::from(piece.flip.is_some());
        pair.reordered += count * u64::from(piece.reordered);
    }

    /// The address by which a frame's shape is found: its destination, or the receiver's own where it has none.
    fn address_for(&self, to: u32, layout: &Layout) -> IpAddr {
        let destination = layout.ip().map(|ip| ip.destination);
        if let Some(address) = destination.filter(|_| !layout.is_group_addressed()) {
            return address;
        }
        let addresses = self.node(to).map_or(&[][..], |n| &n.addresses);
        let same_family = |a: &&IpAddr| destination.is_none_or(|d| d.is_ipv4() == a.is_ipv4());
        let found = addresses.iter().find(same_family).or(addresses.first());
        found.copied().unwrap_or(match destination {
            Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        })
    }

    /// What is in force from one port to another at an address.
    fn path(&mut self, from: u32, to: u32, address: IpAddr) -> Option<Rc<Path>> {
        let sender = self.node(from)?;
        let known = sender.paths.get(&(to, address));
        if let Some(path) = known.filter(|p| p.generation == self.generation) {
            return Some(Rc::clone(path));
        }
        let known = known.cloned();
        let decision = self.plan.resolve(sender.id, address);
        let class = self.class(&decision);
        let pair = self.pair(from, to)?;
        let version = class.borrow().version;
        // A new shape is a new way: its packets may overtake those that are still on the old one.
        let same = known.filter(|p| Rc::ptr_eq(&p.class, &class) && p.version == version);
        let order = Cell::new(same.map_or(0, |p| p.order.get()));
        let history = pair.borrow_mut().history(decision.class);
        let path = Rc::new(Path { to, pair, class, history, order, version, generation: self.generation });
        let paths = &mut self.node_mut(from)?.paths;
        if paths.len() >= PATHS {
            paths.clear();
        }
        paths.insert((to, address), Rc::clone(&path));
        Some(path)
    }

    fn class(&mut self, decision: &Decision) -> Rc<RefCell<Class>> {
        let generation = self.generation;
        if let Some(known) = self.classes.get(&decision.class).cloned() {
            let mut class = known.borrow_mut();
            let is_same = *class.shape == *decision.shape && class.schedule == decision.schedule;
            if class.generation != generation && !is_same {
                class.effects = self.effects(decision);
                class.shape = decision.shape.clone();
                class.schedule = decision.schedule.clone();
                class.version += 1;
            }
            class.generation = generation;
            drop(class);
            return known;
        }
        let class = Rc::new(RefCell::new(Class {
            id: decision.class,
            effects: self.effects(decision),
            shape: decision.shape.clone(),
            schedule: decision.schedule.clone(),
            version: 0,
            generation,
            server: Server::default(),
            codel: Codel::default(),
            passed: Traffic::default(),
            drops: Drops::default(),
        }));
        self.classes.insert(decision.class, Rc::clone(&class));
        class
    }

    fn effects(&mut self, decision: &Decision) -> Rc<Effects> {
        let (shape, zero) = (&decision.shape, self.zero);
        let new = || {
            Rc::new(match &decision.schedule {
                Some(s) => Effects::following(shape, Opportunities::new(Arc::clone(s), zero)),
                None => Effects::new(shape),
            })
        };
        match decision.class {
            ClassId::Link { .. } | ClassId::Overlay { .. } => {
                Rc::clone(self.effects.entry(Arc::as_ptr(shape)).or_insert_with(new))
            }
            ClassId::Unshaped | ClassId::Default(_) | ClassId::Rule(..) => new(),
        }
    }

    pub(super) fn pair(&mut self, from: u32, to: u32) -> Option<Rc<RefCell<Pair>>> {
        if let Some(pair) = self.pairs.get(&(from, to)) {
            return Some(Rc::clone(pair));
        }
        let stream = Stream::new(self.seed, &self.node(from)?.name, &self.node(to)?.name);
        let pair = Rc::new(RefCell::new(Pair::new(from, to, Flow::new(stream))));
        self.pairs.insert((from, to), Rc::clone(&pair));
        Some(pair)
    }
}

fn understand(frame: &[u8], vnet: Option<VnetHeader>) -> Option<(Layout, Segments, VnetHeader)> {
    let vnet = vnet?;
    let layout = Layout::parse(frame).ok()?;
    let segments = Segments::of(frame, &layout, &vnet).ok()?;
    Some((layout, segments, vnet))
}

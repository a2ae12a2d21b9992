//! What leaves: packets whose moment has come, and the counting of what arrived and what did not.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::config::{Framing, NetworkKind};
use super::super::counters::Cause;
use super::super::link::Piece;
use super::super::packet::{self, Layout, Segments, VnetHeader, checksum};
use super::super::record::Fate;
use super::state::{Class, Departure, Held, Path};
use super::{Emission, Emit, Fabric};

// === impl Fabric ===

impl Fabric {
    /// Releases the next packet whose moment has come. Returns whether there was one.
    pub fn release(&mut self, now: u64, emit: &mut Emit<'_>) -> bool {
        match self.departures.pop(now) {
            Some((due, Departure::Packet(held))) => {
                if self.node(held.path.to).is_some() {
                    // Up to a minute; later is counted as a minute.
                    self.lateness.saturating_record((now - due).max(1));
                }
                self.send(&held, emit);
                true
            }
            Some((turn, Departure::Serve(class))) => {
                self.serve(&class, turn);
                true
            }
            None => false,
        }
    }

    fn send(&mut self, held: &Held, emit: &mut Emit<'_>) {
        let body = &held.body[held.range.clone()];
        match self.hand_over(held.path.to, &held.vnet, &held.head, body, emit) {
            Ok(()) => self.arrived(&held.path, held.piece.count, held.bytes.into()),
            // Both are gone: nobody is left to be told.
            Err(Cause::ReceiverGone) if self.node(held.from).is_none() => {}
            Err(cause) => {
                let network = self.node(held.from).map_or(NetworkKind::Data(0), |n| n.network);
                self.dropped(held.from, network, Some(&held.path), cause, held.piece.count);
            }
        }
    }

    /// A class with CoDel: the head of its queue is serialised, and the next turn is when that is done.
    fn serve(&mut self, shared: &Rc<RefCell<Class>>, turn: u64) {
        let (mut dropped, mut never) = (Vec::new(), Vec::new());
        let mut class = shared.borrow_mut();
        let next = class.codel.pop(turn, &mut |waiting| dropped.push(waiting));
        if let Some(waiting) = next {
            let Class { effects, server, codel, .. } = &mut *class;
            let finish = match &effects.rate {
                // An opportunity carries what came before it, and this one may be used in part already.
                Some(rate) if !rate.is_even() => server.serialise(rate, waiting.since, waiting.bytes),
                Some(rate) => server.serialise(rate, turn, waiting.bytes),
                None => Some(turn),
            };
            match finish {
                Some(finish) => {
                    let mut held = waiting.item;
                    let mut order = held.path.order.get();
                    held.piece.at = effects.departure(finish, &held.piece, held.piece.at, &mut order);
                    held.path.order.set(order);
                    self.note_departure(&held, turn);
                    self.departures.push(held.piece.at, Departure::Packet(held));
                }
                None => never.push(waiting),
            }
            if let Some(since) = codel.oldest() {
                let next = effects.rate.as_ref().map_or(Some(turn), |rate| server.turn(rate, since));
                match next {
                    Some(next) => self.departures.push(next, Departure::Serve(Rc::clone(shared))),
                    None => never.extend(codel.take_all()),
                }
            }
        }
        drop(class);
        let dropped = dropped.into_iter().map(|waiting| (waiting, Cause::Codel));
        for (waiting, cause) in dropped.chain(never.into_iter().map(|waiting| (waiting, Cause::TraceOver))) {
            let held = waiting.item;
            let network = self.node(held.from).map_or(NetworkKind::Data(0), |n| n.network);
            let fate = Fate::Dropped { cause, copy: held.piece.copy };
            self.note(&held.path, held.index, 1, turn, fate);
            self.dropped(held.from, network, Some(&held.path), cause, 1);
        }
    }

    fn note_departure(&mut self, held: &Held, now: u64) {
        if self.decisions.is_some() {
            let Piece { at, copy, flip, .. } = held.piece;
            self.note(&held.path, held.index, 1, now, Fate::Departs { at, copy, flipped: flip.is_some() });
        }
    }

    /// Gives a frame to a port. A port without offloads gets what was left to a device done: cut, and summed up.
    pub(super) fn hand_over(
        &self,
        to: u32,
        vnet: &VnetHeader,
        head: &[u8],
        body: &[u8],
        emit: &mut Emit<'_>,
    ) -> Result<(), Cause> {
        let node = self.node(to).ok_or(Cause::ReceiverGone)?;
        if !node.up {
            return Err(Cause::ReceiverDown);
        }
        let plain = vnet.gso.is_none() && vnet.partial_checksum.is_none();
        if node.framing == Framing::VirtioNet || plain {
            return emit(Emission { to, vnet: *vnet, head, body });
        }
        let mut frame = [head, body].concat();
        let mut emit = |mut frame: Vec<u8>, partial: Option<(u16, u16)>| {
            if let Some((start, offset)) = partial {
                checksum::fill_in(&mut frame, start.into(), offset.into());
            }
            emit(Emission { to, vnet: VnetHeader::default(), head: &[], body: &frame })
        };
        let Some(gso) = vnet.gso else { return emit(std::mem::take(&mut frame), vnet.partial_checksum) };
        let layout = Layout::parse(&frame).map_err(|_| Cause::Malformed)?;
        let segments = Segments::of(&frame, &layout, vnet).map_err(|_| Cause::Malformed)?;
        for i in 0..segments.count {
            let (vnet, head) =
                packet::take_run(&frame, &layout, gso, &segments, i, 1).map_err(|_| Cause::Malformed)?;
            emit([&head, &frame[segments.payload(i, 1)]].concat(), vnet.partial_checksum)?;
        }
        Ok(())
    }

    pub(super) fn arrived(&mut self, path: &Path, packets: u32, bytes: u64) {
        path.pair.borrow_mut().delivered.add(packets.into(), bytes);
        path.class.borrow_mut().passed.add(packets.into(), bytes);
        if let Some(network) = self.node(path.to).map(|n| n.network) {
            self.delivered(path.to, network, packets, bytes);
        }
    }

    pub(super) fn delivered(&mut self, to: u32, network: NetworkKind, packets: u32, bytes: u64) {
        self.tally(network).0.add(packets.into(), bytes);
        if let Some(node) = self.node_mut(to) {
            node.received.add(packets.into(), bytes);
        }
    }

    pub(super) fn dropped(
        &mut self,
        from: u32,
        network: NetworkKind,
        path: Option<&Path>,
        cause: Cause,
        packets: u32,
    ) {
        let packets = u64::from(packets);
        self.tally(network).1.add(cause, packets);
        if let Some(node) = self.node_mut(from) {
            node.drops.add(cause, packets);
        }
        if let Some(path) = path {
            path.pair.borrow_mut().dropped(cause, packets);
            path.class.borrow_mut().drops.add(cause, packets);
        }
    }

    pub(super) fn note(&mut self, path: &Path, index: u64, count: u32, now: u64, fate: Fate) {
        if let Some(mut decisions) = self.decisions.take() {
            let pair = path.pair.borrow();
            if let (Some(from), Some(to)) = (self.node(pair.from), self.node(pair.to)) {
                decisions.note(now, &from.name, &to.name, index, count, fate);
            }
            self.decisions = Some(decisions);
        }
    }
}

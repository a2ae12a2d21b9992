//! What happens to a packet on its way from one port to another: a pipeline of effects over its segments.
//!
//! A plain value: the packet is a count of segments and their sizes, time is an argument, and chance comes from the
//! link's own [`chance::Stream`]. Filter, loss, duplicate, corrupt, bandwidth with its queue, latency and jitter,
//! reorder act in this order; `docs/network.md` defines each.

pub mod chance;
pub mod codel;
pub mod delay;
pub mod effects;
pub mod opportunity;
pub mod server;

use testground_model::shape::Filter;

use super::counters::Cause;
use super::packet::Segments;
use chance::{Effect, Memory, Stream, unit};
pub use effects::{Effects, LossModel, Odds};
use server::{Rate, Server};

/// A row of segments is cut so that no piece takes longer than this to serialise, nanoseconds: the first of it is late
/// by at most so much.
pub const PIECE: u64 = 1_000_000;

/// What a directed link remembers between packets.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    stream: Stream,
    /// Packets that came so far, segments each counted: the place in all sequences of chance.
    seen: u64,
}

/// What a shape remembers of a directed link between packets: where two shapes take turns, each has its own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    in_bad_state: bool,
    waited_since_reorder: u32,
    loss: Memory,
    duplicate: Memory,
    corrupt: Memory,
    jitter: Memory,
    reorder: Memory,
}

/// What packets change on their way.
#[derive(Debug)]
pub struct State<'a> {
    /// The class's.
    pub server: &'a mut Server,
    /// The directed pair's.
    pub flow: &'a mut Flow,
    /// The pair's under this shape.
    pub history: &'a mut History,
    /// The link's latest departure, nanoseconds.
    pub order: &'a mut u64,
}

/// What becomes of a row of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// They leave together.
    Depart(Piece),
    /// They wait for CoDel; `at` of the piece is the time on the way behind the queue.
    Wait(Piece),
    /// They are lost.
    Drop {
        /// The first of them.
        first: u32,
        /// How many.
        count: u32,
        /// Why.
        cause: Cause,
        /// Whether they are the second arrival of segments that were decided on before.
        copy: bool,
    },
}

/// A row of segments with one fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// When they leave, nanoseconds.
    pub at: u64,
    /// Whether they are the second arrival of segments that arrived before.
    pub copy: bool,
    /// Whether they skip the latency.
    pub reordered: bool,
    /// The random number that chooses the bit to be flipped.
    pub flip: Option<u64>,
}

/// The draws for one segment: all are made whatever happens to it, so that effects don't shift each other.
struct Draws {
    lost: bool,
    duplicated: bool,
    flip: Option<u64>,
    delay: u64,
    skips: bool,
}

// === impl Flow ===

impl Flow {
    /// A link on which nothing has passed.
    pub fn new(stream: Stream) -> Flow {
        Flow { stream, seen: 0 }
    }

    /// Packets that came so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Counts packets that went another way.
    pub fn skip(&mut self, packets: u64) {
        self.seen += packets;
    }

    fn draw_copy(&self, effects: &Effects, index: u64, original: &Draws) -> Draws {
        let stream = &self.stream;
        let hit = |odds: &Option<Odds>, effect| {
            odds.as_ref().is_some_and(|odds| odds.hit_copy(stream, effect, index))
        };
        Draws {
            lost: false,
            duplicated: false,
            flip: hit(&effects.corrupt, Effect::Corrupt)
                .then(|| stream.draw_for_copy(Effect::CorruptBit, index)),
            delay: match effects.jitter {
                Some(_) => effects.delay.at(unit(stream.draw_for_copy(Effect::Jitter, index))),
                None => original.delay,
            },
            skips: hit(&effects.reorder, Effect::Reorder),
        }
    }
}

// === impl History ===

impl History {
    fn draw(&mut self, stream: &Stream, effects: &Effects, index: u64) -> Draws {
        let lost = match &effects.loss {
            LossModel::Never => false,
            LossModel::Random(odds) => odds.hit(stream, Effect::Loss, index, &mut self.loss),
            LossModel::GilbertElliott { to_bad, to_good, bad, good } => {
                let turn = unit(stream.draw(Effect::LossState, index));
                self.in_bad_state = if self.in_bad_state { turn >= *to_good } else { turn < *to_bad };
                let share = if self.in_bad_state { *bad } else { *good };
                unit(stream.draw(Effect::Loss, index)) < share
            }
        };
        let hit = |odds: &Option<Odds>, effect, memory: &mut Memory| {
            odds.as_ref().is_some_and(|odds| odds.hit(stream, effect, index, memory))
        };
        let corrupted = hit(&effects.corrupt, Effect::Corrupt, &mut self.corrupt);
        Draws {
            lost,
            duplicated: hit(&effects.duplicate, Effect::Duplicate, &mut self.duplicate),
            flip: corrupted.then(|| stream.draw(Effect::CorruptBit, index)),
            delay: match &effects.jitter {
                Some(jitter) => {
                    let fresh = unit(stream.draw(Effect::Jitter, index));
                    effects.delay.at(jitter.next(&mut self.jitter, fresh))
                }
                None => effects.delay.latency(),
            },
            skips: hit(&effects.reorder, Effect::Reorder, &mut self.reorder),
        }
    }

    /// netem's rule: a packet is a candidate when at least `gap - 1` have waited since the last one that skipped.
    fn skips(&mut self, effects: &Effects, drawn: bool) -> bool {
        let skips = drawn && self.waited_since_reorder >= effects.reorder_gap.saturating_sub(1);
        self.waited_since_reorder = if skips { 0 } else { self.waited_since_reorder.saturating_add(1) };
        skips
    }
}

// === impl Effects ===

impl Effects {
    /// When something leaves whose last bit was serialised at `finish` and that is `delay` on the way. `order` is the
    /// latest departure of the link so far, which later ones don't precede unless they may.
    pub fn departure(&self, finish: u64, piece: &Piece, delay: u64, order: &mut u64) -> u64 {
        if piece.reordered {
            return finish;
        }
        let at = finish.saturating_add(delay);
        if self.may_reorder {
            return at;
        }
        *order = at.max(*order);
        *order
    }

    /// Sends a packet through the pipeline.
    ///
    /// Steps are appended to `out`, in the order of segments, a copy behind its original.
    pub fn transit(&self, state: State<'_>, segments: &Segments, now: u64, out: &mut Vec<Step>) {
        let State { server, flow, history, order } = state;
        let base = flow.seen;
        flow.seen += u64::from(segments.count);
        let all = |cause| Step::Drop { first: 0, count: segments.count, cause, copy: false };
        match self.filter {
            Filter::Accept => {}
            Filter::Drop => return out.push(all(Cause::FilterDrop)),
            Filter::Reject => return out.push(all(Cause::FilterReject)),
        }
        let mut pass = Pass { effects: self, server, order, now, out, piece_begins: now };
        if !self.is_by_chance() && self.rate.is_none() {
            let piece = Piece { count: segments.count, ..Piece::one(0) };
            return pass.leave(piece, now, now, self.delay.latency());
        }
        for i in 0..segments.count {
            let index = base + u64::from(i);
            let draws =
                if self.is_by_chance() { history.draw(&flow.stream, self, index) } else { self.certain() };
            if draws.lost {
                pass.drop(&Piece::one(i), Cause::Loss);
                continue;
            }
            let reordered = self.reorder.is_some() && history.skips(self, draws.skips);
            let piece = Piece { reordered, flip: draws.flip, ..Piece::one(i) };
            pass.serialise(piece, segments.size(i), draws.delay);
            if draws.duplicated {
                let copy = flow.draw_copy(self, index, &draws);
                let reordered = self.reorder.is_some() && history.skips(self, copy.skips);
                let piece = Piece { reordered, flip: copy.flip, copy: true, ..Piece::one(i) };
                pass.serialise(piece, segments.size(i), copy.delay);
            }
        }
    }

    fn certain(&self) -> Draws {
        Draws { lost: false, duplicated: false, flip: None, delay: self.delay.latency(), skips: false }
    }
}

// === impl Piece ===

impl Piece {
    /// One segment that leaves at 0, with nothing special about it.
    pub fn one(first: u32) -> Piece {
        Piece { first, count: 1, at: 0, copy: false, reordered: false, flip: None }
    }

    /// Whether the segment that `next` is may leave as one with these.
    fn joins(&self, next: &Piece) -> bool {
        self.first + self.count == next.first
            && !(self.copy || next.copy || self.reordered || next.reordered)
            && self.flip.is_none()
            && next.flip.is_none()
    }
}

/// One packet on its way through the pipeline.
struct Pass<'a> {
    effects: &'a Effects,
    server: &'a mut Server,
    order: &'a mut u64,
    now: u64,
    out: &'a mut Vec<Step>,
    /// When the serialisation of the last piece in `out` began.
    piece_begins: u64,
}

// === impl Pass ===

impl Pass<'_> {
    fn serialise(&mut self, piece: Piece, bytes: u32, delay: u64) {
        if self.effects.codel {
            return self.out.push(Step::Wait(Piece { at: delay, ..piece }));
        }
        let Some(rate) = &self.effects.rate else { return self.leave(piece, self.now, self.now, delay) };
        let begins = self.server.free_at().max(self.now);
        match self.server.accept(rate, self.now, bytes) {
            Ok(finish) => self.leave(piece, begins, finish, delay),
            Err(cause) => self.drop(&piece, cause),
        }
    }

    fn leave(&mut self, piece: Piece, begins: u64, finish: u64, delay: u64) {
        let at = self.effects.departure(finish, &piece, delay, self.order);
        if let Some(Step::Depart(last)) = self.out.last_mut()
            && last.joins(&piece)
        {
            let is_even = self.effects.rate.as_ref().is_none_or(Rate::is_even);
            let one_delay = self.effects.jitter.is_none() && is_even && finish - self.piece_begins <= PIECE;
            if last.at == at || one_delay {
                last.count += piece.count;
                last.at = at;
                return;
            }
        }
        self.piece_begins = begins;
        self.out.push(Step::Depart(Piece { at, ..piece }));
    }

    fn drop(&mut self, piece: &Piece, why: Cause) {
        if let Some(Step::Drop { first, count, cause, copy: false }) = self.out.last_mut()
            && !piece.copy
            && *cause == why
            && *first + *count == piece.first
        {
            *count += 1;
            return;
        }
        self.out.push(Step::Drop { first: piece.first, count: 1, cause: why, copy: piece.copy });
    }
}

//! What is sent to prove a shape, and when: pure.
//!
//! All shapes are tried side by side. Each has a stream of single packets (delay, and loss where it is asked for), then,
//! where it has a bandwidth or follows a trace, a burst that keeps it busy. What would take too long is left out and said.

use std::sync::Arc;
use std::time::Duration;

use testground_model::shape::{Filter, LinkShape, Loss, Queue, QueueLimit};

use crate::plan::Declared;
use crate::show::{rate, seconds};

use super::stretch::{LEAD, Stretch};

/// Bytes of a frame around a UDP payload: Ethernet, IPv4 and UDP headers.
pub(super) const HEADERS: u64 = 14 + 20 + 8;

/// The payload of a single packet.
pub(super) const SINGLE: u16 = 64;

/// The payload of the packets of the fastest bursts.
const LARGEST: u16 = 60_000;

/// The MTU of a port that carries them.
pub(crate) const MTU: u32 = LARGEST as u32 + 28;

/// One shape's part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    pub(crate) declared: Declared,
    /// How many single packets.
    pub(super) singles: u32,
    /// Time between two of them.
    pub(super) gap: Duration,
    /// Every so many of them are answered, for the round trip.
    pub(super) answer_every: u32,
    pub(super) burst: Option<Burst>,
    /// How long after the last packet was sent all must be there.
    pub(super) wait: Duration,
}

/// Packets that come faster than the bandwidth lets them out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Burst {
    pub(super) packets: u32,
    pub(super) payload: u16,
    pub(super) gap: Duration,
    /// The shape of a link of its own: what the trial's has beside its latency, bandwidth and queue would change when
    /// packets arrive, or how many. `None`: it has nothing.
    pub(super) apart: Option<Arc<LinkShape>>,
    /// What that link follows in the place of a bandwidth.
    pub(super) stretch: Option<Stretch>,
}

/// A packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// When, from the start.
    pub(super) at: Duration,
    /// Which trial.
    pub(super) trial: u16,
    /// Which of the far side's addresses.
    pub(super) to: u16,
    /// Its number among those of its kind.
    pub(super) seq: u32,
    pub(super) kind: Kind,
    /// Bytes of its payload.
    pub(super) payload: u16,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// To make the kernel find the way; not counted.
    Warm,
    /// A single packet.
    Single,
    /// A single packet that is answered.
    Answered,
    /// One of a burst.
    Burst,
    /// The answer.
    Answer,
}

/// What is tried side by side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    pub(crate) trials: Vec<Trial>,
    /// By time.
    pub(super) probes: Vec<Probe>,
    /// When everything must have arrived.
    pub(super) end: Duration,
    /// The trials whose bursts follow a trace, and when those are sent.
    traces: Vec<(u16, Duration)>,
}

/// More shapes than this are proved in several rounds: the kernel remembers about a thousand neighbours.
pub(crate) const ROUND: usize = 400;
/// The far side's address for a trial's burst, where that has a link of its own, is so many behind the trial's.
pub(crate) const APART: u16 = 512;
/// Before the first single packet, for the neighbours' addresses and the switch's first look at each pair; for one shape,
/// and more for each further one.
const WARM_UP: Duration = Duration::from_millis(20);
const WARM_UP_EACH: Duration = Duration::from_micros(100);
/// How long single packets are sent; for one shape, and more for each further one.
const STREAM: Duration = Duration::from_millis(200);
const STREAM_EACH: Duration = Duration::from_micros(500);
/// Single packets of all shapes of a round together, and of one shape without and with loss.
const SINGLES: u32 = 5_000;
const FEWEST: u32 = 11;
const USUAL: u32 = 41;
const WITH_LOSS: u32 = 1_000;
/// A burst takes about this long on its link.
const BURST: Duration = Duration::from_millis(25);
const BURST_PACKETS: (u64, u64) = (12, 200);
/// Bursts faster than this are not sent side by side: together they would be the switch's load, not the link's.
const AT_ONCE: u64 = 1_000_000_000;
/// From one trace's burst to the next one's.
const TRACE_TURN: Duration = Duration::from_millis(2);
/// What takes longer is not proved.
pub(super) const TOO_LONG: Duration = Duration::from_secs(4);
/// No plane is asked to prove more than this.
const TOO_FAST: u64 = 20_000_000_000;

/// Plans the proof of these shapes: the rounds, and what can't be proved, in words.
pub(crate) fn rounds(declared: &[Declared]) -> (Vec<Round>, Vec<String>) {
    let mut unproved = Vec::new();
    let mut rounds = Vec::new();
    for chunk in declared.chunks(ROUND) {
        let share = SINGLES / chunk.len() as u32;
        let stream = STREAM + STREAM_EACH * (chunk.len() as u32 - 1);
        let trials = chunk.iter().filter_map(|d| match Trial::new(d, share, stream) {
            Ok((trial, notes)) => {
                unproved.extend(notes);
                Some(trial)
            }
            Err(why) => {
                unproved.push(why);
                None
            }
        });
        let trials: Vec<Trial> = trials.collect();
        if !trials.is_empty() {
            rounds.push(Round::new(trials));
        }
    }
    (rounds, unproved)
}

// === impl Round ===

impl Round {
    pub(crate) fn new(trials: Vec<Trial>) -> Round {
        let (mut probes, mut traces) = (Vec::new(), Vec::new());
        let mut end = Duration::ZERO;
        let warm_up = WARM_UP + WARM_UP_EACH * trials.len() as u32;
        let mut bursts_from = warm_up + STREAM;
        let mut bursts_at_once = 0;
        for (index, trial) in (0u16..).zip(&trials) {
            let mut send_to =
                |to, at, seq, kind, payload| probes.push(Probe { at, trial: index, to, seq, kind, payload });
            let burst_to = if trial.apart().is_some() { index + APART } else { index };
            for to in [index, burst_to] {
                send_to(to, WARM_UP_EACH * u32::from(index), 0, Kind::Warm, SINGLE);
            }
            // Trials take turns, so that they don't all send at the same moment.
            let turn = trial.gap * u32::from(index) / trials.len() as u32;
            let mut last = Duration::ZERO;
            for seq in 0..trial.singles {
                let kind = if seq % trial.answer_every == 0 { Kind::Answered } else { Kind::Single };
                last = warm_up + turn + trial.gap * seq;
                send_to(index, last, seq, kind, SINGLE);
            }
            if let Some(burst) = &trial.burst {
                let bandwidth = burst.bandwidth(trial);
                if bursts_at_once > 0 && bursts_at_once + bandwidth > AT_ONCE {
                    bursts_from += BURST * 2;
                    bursts_at_once = 0;
                }
                bursts_at_once += bandwidth;
                // A slow link has to be through with its singles first.
                let from = bursts_from.max(last + trial.gap);
                if burst.stretch.is_some() {
                    traces.push((index, from));
                    // All its packets come at once.
                    bursts_from += TRACE_TURN;
                }
                for seq in 0..burst.packets {
                    last = from + burst.gap * seq;
                    send_to(burst_to, last, seq, Kind::Burst, burst.payload);
                }
            }
            end = end.max(last + trial.wait);
        }
        probes.sort_by_key(|p| p.at);
        Round { trials, probes, end, traces }
    }

    /// Whether a packet that was sent so late has missed the trace that it was meant for.
    pub(super) fn missed(&self, probe: &Probe, late: Duration) -> bool {
        let follows = || self.traces.iter().any(|(trial, _)| *trial == probe.trial);
        probe.kind == Kind::Burst && late >= LEAD / 2 && follows()
    }

    /// The trials whose bursts follow a trace: the number, the stretch, and when the burst is sent.
    pub(crate) fn traces(&self) -> impl Iterator<Item = (u16, &Stretch, Duration)> {
        self.traces.iter().filter_map(|(number, at)| {
            let burst = self.trials.get(usize::from(*number))?.burst.as_ref()?;
            Some((*number, burst.stretch.as_ref()?, *at))
        })
    }
}

// === impl Trial ===

impl Trial {
    /// A link without any effect, measured beside the others: how long the machine takes at that moment.
    pub(crate) fn yardstick() -> Trial {
        let unshaped = Arc::new(LinkShape::default());
        let there = Arc::clone(&unshaped);
        let declared = Declared { label: String::new(), there, back: unshaped, follows: None };
        let wait = Duration::from_millis(30);
        Trial { declared, singles: USUAL, gap: STREAM / USUAL, answer_every: 1, burst: None, wait }
    }

    /// The trial of a shape with at most so many single packets, and what of it can't be proved; an error when nothing
    /// of it can.
    fn new(declared: &Declared, share: u32, stream: Duration) -> Result<(Trial, Vec<String>), String> {
        let (there, back) = (&declared.there, &declared.back);
        let label = &declared.label;
        let slowest = longest(there) + longest(back) + serial(there, SINGLE) + serial(back, SINGLE);
        if slowest > TOO_LONG {
            let (slowest, most) = (seconds(slowest), seconds(TOO_LONG));
            return Err(format!(
                "the shape of {label} is too slow to prove: a round trip takes {slowest}, at most {most} is waited for"
            ));
        }
        let lossy = loses(there);
        let wanted = if lossy { WITH_LOSS } else { USUAL };
        let mut singles = wanted.min(share).max(FEWEST);
        // Neither direction may be more than half full.
        let busy = 2 * serial(there, SINGLE).max(serial(back, SINGLE));
        if !busy.is_zero() {
            singles = singles.min((stream.as_nanos() / busy.as_nanos()) as u32).max(FEWEST);
        }
        let gap = (stream / singles).max(busy);
        // Few are enough for a median, and each is a packet more.
        let answers = USUAL.min(share / 2).max(5).min(singles);
        let answer_every = singles.div_ceil(answers);

        let mut notes = Vec::new();
        let mut burst = None;
        if let Some(bandwidth) = there.bandwidth.filter(|_| there.filter == Filter::Accept) {
            match Burst::new(bandwidth, there) {
                Ok(planned) => burst = Some(planned),
                Err(why) => notes.push(format!("the rate of {label} is not proved: {why}")),
            }
        }
        if let Some(trace) = declared.follows.as_ref().filter(|_| there.filter == Filter::Accept) {
            match Stretch::choose(trace) {
                Ok(stretch) => burst = Some(Burst::following(stretch, there)),
                Err(why) => notes.push(format!("the trace of {label} is not proved: {why}")),
            }
        }
        let queued = burst.as_ref().map_or(Duration::ZERO, |b| match &b.stretch {
            Some(stretch) => (LEAD + stretch.length()) * 2,
            None => serial(there, b.payload) * b.packets,
        });
        let wait = slowest + queued / 2 + Duration::from_millis(30);
        Ok((Trial { declared: declared.clone(), singles, gap, answer_every, burst, wait }, notes))
    }

    /// The shape of the link that the burst has for itself, if it has one.
    pub(crate) fn apart(&self) -> Option<&Arc<LinkShape>> {
        self.burst.as_ref()?.apart.as_ref()
    }
}

// === impl Burst ===

impl Burst {
    fn new(bandwidth: u64, shape: &LinkShape) -> Result<Burst, String> {
        if bandwidth > TOO_FAST {
            let (asked, most) = (rate(bandwidth as f64), rate(TOO_FAST as f64));
            return Err(format!("{asked} is too fast, at most {most} is measured"));
        }
        let (fewest, most) = BURST_PACKETS;
        let bytes = (u128::from(bandwidth) * BURST.as_nanos() / 8_000_000_000) as u64;
        // Frames as large as they must be for the burst to have enough of them, but not too many.
        let frame = if bytes / 1514 > most { bytes / most } else { (bytes / fewest).min(1514) };
        let payload = frame.saturating_sub(HEADERS).clamp(u64::from(SINGLE), u64::from(LARGEST)) as u16;
        let packets = (bytes / (u64::from(payload) + HEADERS)).clamp(fewest, most) as u32;
        let each = serial(shape, payload);
        if each * packets > TOO_LONG {
            let (takes, most) = (seconds(each * packets), seconds(TOO_LONG));
            return Err(format!("{packets} packets take {takes}, at most {most} is waited for"));
        }
        // A quarter faster than they are let out: the link is never idle, and even a short queue hardly overflows.
        let bare = LinkShape {
            latency: shape.latency,
            bandwidth: shape.bandwidth,
            // The rate is to be seen, which a queue of a packet or two would leave a part of unused.
            queue: Queue { limit: QueueLimit::Auto, ..shape.queue },
            reorder_gap: shape.reorder_gap,
            ..LinkShape::default()
        };
        let apart = (bare != *shape).then(|| Arc::new(bare));
        Ok(Burst { packets, payload, gap: each * 4 / 5, apart, stretch: None })
    }

    /// All packets of a stretch at once, on a link that follows it and has nothing else but the latency.
    fn following(stretch: Stretch, shape: &LinkShape) -> Burst {
        Burst {
            packets: stretch.packets(),
            payload: stretch.payload(),
            gap: Duration::ZERO,
            apart: Some(Arc::new(LinkShape { latency: shape.latency, ..LinkShape::default() })),
            stretch: Some(stretch),
        }
    }

    /// Bits per second that leave the link while the burst lasts.
    fn bandwidth(&self, trial: &Trial) -> u64 {
        let stretch = self.stretch.as_ref().map(|s| s.replayed().rate as u64);
        stretch.or(trial.declared.there.bandwidth).unwrap_or(0)
    }
}

/// The time on the wire of a packet with this payload.
pub(super) fn serial(shape: &LinkShape, payload: u16) -> Duration {
    let bits = (u64::from(payload) + HEADERS) * 8;
    let nanos = shape.bandwidth.map_or(0, |b| u128::from(bits) * 1_000_000_000 / u128::from(b.max(1)));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// About the longest latency that jitter makes.
fn longest(shape: &LinkShape) -> Duration {
    // The 99.9th percentile of a Pareto jitter is 9 spreads.
    shape.latency + shape.jitter.spread * 9
}

fn loses(shape: &LinkShape) -> bool {
    let loss = match shape.loss {
        Loss::Random(chance) => !chance.is_never(),
        Loss::GilbertElliott { .. } => true,
    };
    loss || !shape.corrupt.is_never()
}

#[cfg(test)]
mod tests {
    use testground_model::shape::Chance;

    use super::*;
    use crate::plan::Schedule;

    fn declared(shape: LinkShape) -> Declared {
        let shape = Arc::new(shape);
        Declared { label: "a -> b".to_owned(), there: Arc::clone(&shape), back: shape, follows: None }
    }

    fn following(millis: &[u64]) -> Declared {
        let trace = Schedule::new(millis, true, Duration::from_secs(9), Duration::from_millis(50)).unwrap();
        Declared { follows: Some(Arc::new(trace)), ..declared(late(20)) }
    }

    fn late(ms: u64) -> LinkShape {
        LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
    }

    fn narrow(bandwidth: u64) -> LinkShape {
        LinkShape { bandwidth: Some(bandwidth), ..LinkShape::default() }
    }

    #[test]
    fn a_rate_is_seen_however_short_the_queue_is() {
        let queue = Queue { limit: QueueLimit::Packets(1), ..Queue::default() };
        let shape = LinkShape { bandwidth: Some(1_000_000), queue, ..LinkShape::default() };
        let (rounds, _) = rounds(&[declared(shape.clone())]);
        let apart = rounds[0].trials[0].apart().expect("a link for the burst alone");
        assert_eq!(**apart, LinkShape { queue: Queue::default(), ..shape });
    }

    #[test]
    fn an_ordinary_shape_takes_a_third_of_a_second_and_its_round_trip() {
        let (rounds, unproved) = rounds(&[declared(late(50))]);
        assert_eq!((rounds.len(), unproved.len()), (1, 0));
        let end = rounds[0].end;
        assert!(end > Duration::from_millis(320) && end <= Duration::from_millis(400), "{end:?}");
        assert!(rounds[0].probes.iter().filter(|p| p.kind == Kind::Answered).count() >= 20);
    }

    #[test]
    fn four_hundred_shapes_are_one_round_that_the_switch_can_carry() {
        let all: Vec<_> = (0..400).map(|n| declared(late(n / 4))).collect();
        let (rounds, _) = rounds(&all);
        assert_eq!(rounds.len(), 1);
        let probes = &rounds[0].probes;
        assert!(probes.is_sorted_by_key(|p| p.at));
        let per_trial = probes.iter().filter(|p| p.trial == 7 && p.kind != Kind::Warm).count();
        assert!((11..=60).contains(&per_trial), "{per_trial}");
        let at_once = |ms: u64| probes.iter().filter(|p| p.at.as_millis() as u64 == ms).count();
        assert!((0..600).all(|ms| at_once(ms) < 40), "they take turns");
        assert!(rounds[0].end < Duration::from_millis(800));
    }

    #[test]
    fn loss_gets_many_packets_unless_the_bandwidth_is_small() {
        let lossy = LinkShape { loss: Loss::Random(Chance::percent(1.0)), ..LinkShape::default() };
        assert_eq!(rounds(&[declared(lossy.clone())]).0[0].trials[0].singles, 1000);
        let slow = LinkShape { bandwidth: Some(100_000), ..lossy };
        let trial = rounds(&[declared(slow)]).0[0].trials[0].clone();
        assert_eq!(trial.singles, 11);
        assert!(serial(&trial.declared.there, SINGLE) * 2 <= trial.gap);
    }

    #[test]
    fn a_burst_keeps_the_link_busy_for_about_as_long_at_any_rate() {
        for bandwidth in [1_000_000u64, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000] {
            let shape = narrow(bandwidth);
            let burst = Burst::new(bandwidth, &shape).unwrap();
            let takes = serial(&shape, burst.payload) * burst.packets;
            assert!(
                takes >= Duration::from_millis(9) && takes < Duration::from_millis(60),
                "{bandwidth}: {takes:?}"
            );
            assert!(burst.gap < serial(&shape, burst.payload));
        }
    }

    #[test]
    fn a_burst_has_a_link_of_its_own_where_other_effects_would_change_its_arrivals() {
        let plain = LinkShape { bandwidth: Some(10_000_000), ..late(5) };
        let duplicating = LinkShape { duplicate: Chance::percent(20.0), ..plain };
        let (rounds, _) = rounds(&[declared(plain.clone()), declared(duplicating)]);
        let [first, second] = &rounds[0].trials[..] else { panic!() };
        assert_eq!((first.apart(), second.apart().map(|s| &**s)), (None, Some(&plain)));
        let sent_to = |trial, kind| {
            let probes = rounds[0].probes.iter().filter(move |p| p.trial == trial && p.kind == kind);
            probes.map(|p| p.to).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(sent_to(0, Kind::Burst), [0].into());
        assert_eq!(sent_to(1, Kind::Burst), [1 + APART].into());
        assert_eq!(sent_to(1, Kind::Answered), [1].into());
        assert_eq!(sent_to(1, Kind::Warm), [1, 1 + APART].into());
    }

    #[test]
    fn the_packets_of_a_trace_are_sent_before_its_first_opportunity() {
        let every: Vec<u64> = (1..=100).map(|n| n * 10).collect();
        let (rounds, unproved) = rounds(&[following(&every), following(&[9000]), declared(late(1))]);
        assert_eq!(
            unproved,
            ["the trace of a -> b is not proved: 6 opportunities take 45s, at most 4s is waited for"]
        );
        let traces: Vec<_> = rounds[0].traces().collect();
        let [(0, stretch, at)] = traces[..] else { panic!("{traces:?}") };
        let burst: Vec<&Probe> = rounds[0].probes.iter().filter(|p| p.kind == Kind::Burst).collect();
        assert!(burst.iter().all(|p| p.at == at && p.to == APART && p.payload == 1472));
        assert_eq!(burst.len() as u32, stretch.packets());
        let first = stretch.schedule(at).unwrap().at(1).unwrap();
        assert_eq!(Duration::from_nanos(first), at + LEAD);
        assert!(rounds[0].end >= at + LEAD + stretch.length() + Duration::from_millis(40));
    }

    #[test]
    fn what_takes_too_long_is_said() {
        let (rounds_, unproved) =
            rounds(&[declared(late(3_000)), declared(narrow(1_000)), declared(late(1))]);
        assert_eq!(rounds_[0].trials.len(), 2);
        assert!(unproved[0].contains("a -> b is too slow to prove"), "{unproved:?}");
        assert!(unproved[1].contains("rate of a -> b is not proved"), "{unproved:?}");
        let (_, unproved) = rounds(&[declared(narrow(40_000_000_000))]);
        assert!(unproved[0].contains("too fast"), "{unproved:?}");
    }

    #[test]
    fn fast_bursts_come_one_after_the_other() {
        let all: Vec<_> = (0..3).map(|n| declared(narrow(900_000_000 + n))).collect();
        let (rounds, _) = rounds(&all);
        let first = |trial| {
            rounds[0].probes.iter().find(|p| p.trial == trial && p.kind == Kind::Burst).map(|p| p.at).unwrap()
        };
        assert!(first(1) >= first(0) + BURST && first(2) >= first(1) + BURST);
    }
}

//! Any shape and any arrivals: every segment meets exactly one fate, and order is kept where it has to be.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use testground_model::shape::{
    Chance, Discipline, Distribution, Filter, Jitter, LinkShape, Loss, Queue, QueueLimit,
};
use testground_sidecar::plane::switch::link::chance::Stream;
use testground_sidecar::plane::switch::link::server::Server;
use testground_sidecar::plane::switch::link::{Effects, Flow, History, State, Step};
use testground_sidecar::plane::switch::packet::Segments;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(shape) = shape(&mut input) else { return };
    let effects = Effects::new(&shape);
    let (mut server, mut flow) = (Server::default(), Flow::new(Stream::new(1, "a", "b")));
    let mut history = History::default();
    let (mut order, mut now, mut last, mut steps) = (0, 0u64, 0, Vec::new());
    while !input.is_empty() {
        let Ok((wait, count, full, part)) = input.arbitrary::<(u32, u8, u16, u16)>() else { return };
        now += u64::from(wait);
        let full = u32::from(full).max(60);
        let segments =
            Segments { count: u32::from(count).max(1), full, last: u32::from(part) % full + 1, header: 54 };
        steps.clear();
        let state = State { server: &mut server, flow: &mut flow, history: &mut history, order: &mut order };
        effects.transit(state, &segments, now, &mut steps);
        let (mut next, mut originals) = (0, 0);
        for step in &steps {
            match step {
                Step::Drop { first, count, copy: false, .. } => {
                    (next, originals) = advance(next, originals, *first, *count)
                }
                Step::Wait(piece) | Step::Depart(piece) if !piece.copy => {
                    (next, originals) = advance(next, originals, piece.first, piece.count);
                }
                Step::Drop { .. } | Step::Wait(_) | Step::Depart(_) => {}
            }
            if let Step::Depart(piece) = step {
                assert!(piece.at >= now, "leaves before it came");
                if !piece.reordered && !shape.jitter.may_reorder {
                    assert!(piece.at >= last, "overtakes");
                    last = piece.at;
                }
            }
        }
        // A copy that the queue has no room for is a drop of its own, so that there may be more fates than segments.
        assert!(originals >= segments.count, "{originals} of {}", segments.count);
    }
});

fn advance(next: u32, originals: u32, first: u32, count: u32) -> (u32, u32) {
    assert!(first <= next, "segments {next}..{first} have no fate");
    (next.max(first + count), originals + count)
}

fn shape(input: &mut Unstructured<'_>) -> Result<LinkShape> {
    let mut chance = || -> Result<Chance> {
        Ok(Chance {
            percent: input.int_in_range(0..=100)?.into(),
            correlation: input.int_in_range(0..=100)?.into(),
        })
    };
    let (loss, corrupt, reorder, duplicate) = (chance()?, chance()?, chance()?, chance()?);
    let percent = |input: &mut Unstructured<'_>| input.int_in_range(0..=100u8).map(f64::from);
    Ok(LinkShape {
        filter: *input.choose(&[Filter::Accept, Filter::Accept, Filter::Accept, Filter::Drop])?,
        latency: Duration::from_micros(input.arbitrary::<u32>()?.into()),
        jitter: Jitter {
            spread: Duration::from_micros(input.arbitrary::<u32>()?.into()),
            distribution: *input.choose(&[
                Distribution::Uniform,
                Distribution::Normal,
                Distribution::Pareto,
            ])?,
            correlation: percent(input)?,
            may_reorder: input.arbitrary()?,
        },
        bandwidth: input.arbitrary()?,
        queue: Queue {
            limit: match input.int_in_range(0..=3)? {
                0 => QueueLimit::Auto,
                1 => QueueLimit::Packets(input.arbitrary()?),
                2 => QueueLimit::Bytes(input.arbitrary()?),
                _ => QueueLimit::Time(Duration::from_micros(input.arbitrary::<u32>()?.into())),
            },
            discipline: *input.choose(&[Discipline::TailDrop, Discipline::Codel])?,
        },
        loss: match input.arbitrary()? {
            true => Loss::Random(loss),
            false => Loss::GilbertElliott {
                p: percent(input)?,
                r: percent(input)?,
                bad: percent(input)?,
                good: percent(input)?,
            },
        },
        corrupt,
        reorder,
        reorder_gap: input.arbitrary()?,
        duplicate,
    })
}

//! Links that follow a trace, against what mahimahi would do with the same packets, on virtual time.

mod switch_virtual;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use switch_virtual::{MILLI, World, numbered};
use testground_model::shape::{Discipline, LinkShape, Loss, Queue, QueueLimit};
use testground_model::topology::Endpoint;
use testground_sidecar::plan::{Overlay, Schedule};

/// Packets of each comparison.
const N: u64 = 20_000;

/// A packet as the test knows it.
#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    at: u64,
    /// On the wire.
    bytes: u32,
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What the link of mahimahi's `mm-link` does: at each opportunity it moves 1,504 bytes of what came before, and a packet
/// leaves with the opportunity that moves its last byte; a packet's bytes are those of IP and four more.
/// With a limit, a packet that finds so many others (the one in transit not counted) is dropped.
fn mahimahi(trace: &[u64], repeat: bool, sent: &[Sent], limit: Option<usize>) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut queue: VecDeque<Sent> = VecDeque::new();
    let mut transit: Option<(Sent, u32)> = None;
    let (mut next, mut base) = (0, 0);
    let mut finished = false;
    let mut run = |upto: u64, queue: &mut VecDeque<Sent>, transit: &mut Option<(Sent, u32)>| {
        while !finished && base + trace[next] * MILLI <= upto {
            let now = base + trace[next] * MILLI;
            next = (next + 1) % trace.len();
            if next == 0 {
                base += trace[trace.len() - 1] * MILLI;
                finished = !repeat;
            }
            let mut room = 1504;
            while room > 0 {
                let Some((packet, rest)) =
                    transit.take().or_else(|| queue.pop_front().map(|p| (p, p.bytes - 14 + 4)))
                else {
                    break;
                };
                let moved = rest.min(room);
                room -= moved;
                match rest - moved {
                    0 => left.push((packet.number, now)),
                    rest => *transit = Some((packet, rest)),
                }
            }
            // Nothing is left to happen.
            if upto == u64::MAX && queue.is_empty() && transit.is_none() {
                return;
            }
        }
    };
    for packet in sent {
        run(packet.at, &mut queue, &mut transit);
        if limit.is_none_or(|limit| queue.len() + usize::from(transit.is_some()) < limit) {
            queue.push_back(*packet);
        }
    }
    run(u64::MAX, &mut queue, &mut transit);
    left
}

/// A cellular link: bursts, rows of equal milliseconds, silences.
fn cellular(numbers: &mut Numbers, count: usize) -> Vec<u64> {
    let (mut trace, mut at) = (Vec::new(), numbers.below(3));
    while trace.len() < count {
        for _ in 0..=numbers.below(6) {
            trace.push(at);
        }
        at += if numbers.below(50) == 0 { numbers.below(400) } else { 1 + numbers.below(3) };
    }
    trace.push(at + 1);
    trace
}

/// Packets of all sizes, in bursts and one by one, now and then exactly on a millisecond.
fn traffic(numbers: &mut Numbers, count: u64) -> Vec<Sent> {
    let mut at = 0;
    (0..count)
        .map(|number| {
            at += match numbers.below(8) {
                0..5 => 0,
                5 => MILLI - at % MILLI,
                6 => numbers.below(MILLI),
                _ => numbers.below(12 * MILLI),
            };
            let bytes = if numbers.below(3) == 0 { 1514 } else { 60 + numbers.below(1455) as u32 };
            Sent { number, at, bytes }
        })
        .collect()
}

/// A world whose host 0 sends to host 1 by this trace.
fn following(trace: &[u64], repeat: bool, shape: LinkShape) -> World {
    let mut world = World::new(2);
    let window = Schedule::window(&shape);
    let schedule = Schedule::new(trace, repeat, Duration::ZERO, window).unwrap();
    world.plan.overlay(vec![Overlay {
        id: 0,
        from: Endpoint::All,
        to: Endpoint::All,
        both_ways: true,
        network: "default".to_owned(),
        shape: Arc::new(shape),
        schedule: Some(Arc::new(schedule)),
    }]);
    world.install();
    world
}

fn send_all(world: &mut World, sent: &[Sent]) {
    for packet in sent {
        world.advance(packet.at);
        world.send(0, &numbered(0, 1, packet.number, packet.bytes as usize));
    }
    world.settle();
}

/// Holds what arrived against what should have, and shows where they part.
fn same(found: &[(u64, u64)], expected: &[(u64, u64)], what: &str) {
    let part = (0..found.len().max(expected.len())).find(|i| found.get(*i) != expected.get(*i));
    if let Some(i) = part {
        panic!("{what}: arrival {i} is {:?} and should be {:?}", found.get(i), expected.get(i));
    }
}

fn unlimited() -> LinkShape {
    let queue = Queue { limit: QueueLimit::Packets(u32::MAX), ..Queue::default() };
    LinkShape { queue, ..LinkShape::default() }
}

#[test]
fn every_packet_leaves_when_mahimahi_would_let_it() {
    for seed in [1, 2, 3] {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ seed);
        // Less than the packets need, about as much, and more.
        for opportunities in [50, 500, 5_000] {
            let trace = cellular(&mut numbers, opportunities);
            let sent = traffic(&mut numbers, N);
            let mut world = following(&trace, true, unlimited());
            send_all(&mut world, &sent);
            let expected = mahimahi(&trace, true, &sent, None);
            assert_eq!(expected.len() as u64, N);
            same(&world.numbers(), &expected, &format!("seed {seed}, {opportunities} opportunities"));
        }
    }
}

#[test]
fn an_opportunity_that_nobody_waits_for_is_lost() {
    let mut world = following(&[1, 2, 3, 4, 100], true, unlimited());
    // Four opportunities pass by; these three need two.
    world.advance(10 * MILLI);
    for number in 0..3 {
        world.send(0, &numbered(0, 1, number, 764));
    }
    world.settle();
    let moments: Vec<u64> = world.arrivals.iter().map(|a| a.at / MILLI).collect();
    assert_eq!(moments, [100, 101, 101], "754 bytes each: one and a half in the first opportunity");
}

#[test]
fn a_packet_that_comes_with_an_opportunity_waits_for_the_next() {
    let mut world = following(&[5, 10], true, unlimited());
    for (number, at) in [(0, 5 * MILLI), (1, 10 * MILLI - 1), (2, 10 * MILLI)] {
        world.advance(at);
        world.send(0, &numbered(0, 1, number, 1514));
    }
    world.settle();
    assert_eq!(world.numbers(), [(0, 10 * MILLI), (1, 15 * MILLI), (2, 20 * MILLI)]);
}

#[test]
fn a_trace_that_is_over_carries_nothing_more() {
    let mut numbers = Numbers(77);
    let trace = cellular(&mut numbers, 8_000);
    let sent = traffic(&mut numbers, N);
    for discipline in [Discipline::TailDrop, Discipline::Codel] {
        let shape = LinkShape { queue: Queue { discipline, ..unlimited().queue }, ..LinkShape::default() };
        let mut world = following(&trace, false, shape);
        send_all(&mut world, &sent);
        let arrived = world.arrivals.len() as u64;
        assert!(arrived > 1_000 && arrived < N, "{arrived}");
        let drops = world.drops("trace_over") + world.drops("codel");
        assert_eq!((arrived + drops, world.drops("trace_over") > 0), (N, true), "{discipline:?}");
        assert!(world.arrivals.iter().all(|a| a.at <= trace[trace.len() - 1] * MILLI));
        if discipline == Discipline::TailDrop {
            same(&world.numbers(), &mahimahi(&trace, false, &sent, None), "once");
        }
    }
}

#[test]
fn the_queue_in_front_of_a_trace_has_its_limit() {
    let mut numbers = Numbers(5);
    let trace = cellular(&mut numbers, 300);
    let sent = traffic(&mut numbers, N);
    let queue = Queue { limit: QueueLimit::Packets(20), ..Queue::default() };
    let mut world = following(&trace, true, LinkShape { queue, ..LinkShape::default() });
    send_all(&mut world, &sent);
    same(&world.numbers(), &mahimahi(&trace, true, &sent, Some(20)), "20 packets");
    assert!(world.drops("queue") > 0 && world.drops("queue") + world.arrivals.len() as u64 == N);

    // 100 packets of 1,514 bytes at once, and an opportunity each 10 ms.
    let burst: Vec<Sent> = (0..100).map(|number| Sent { number, at: 1, bytes: 1514 }).collect();
    for (limit, accepted) in [
        (QueueLimit::Bytes(15 * 1514), 15),
        // The 6th one's turn is at 60 ms.
        (QueueLimit::Time(Duration::from_millis(55)), 5),
        // The smallest automatic one.
        (QueueLimit::Auto, 64),
    ] {
        for discipline in [Discipline::TailDrop, Discipline::Codel] {
            let queue = Queue { limit, discipline };
            let mut world = following(&[10], true, LinkShape { queue, ..LinkShape::default() });
            send_all(&mut world, &burst);
            assert_eq!(100 - world.drops("queue"), accepted, "{limit:?} {discipline:?}");
        }
    }
}

#[test]
fn codel_serves_by_opportunities_and_drops_only_what_waited_too_long() {
    let mut numbers = Numbers(9);
    let queue = Queue { discipline: Discipline::Codel, ..unlimited().queue };
    let codel = LinkShape { queue, ..LinkShape::default() };
    // Twice as much room as is needed, in every millisecond.
    let trace: Vec<u64> = (1..=100).flat_map(|ms| [ms; 4]).collect();
    let sparse: Vec<Sent> = (0..N)
        .map(|number| Sent { number, at: number * MILLI / 2 + numbers.below(MILLI / 2), bytes: 1514 })
        .collect();
    let mut world = following(&trace, true, codel.clone());
    send_all(&mut world, &sparse);
    same(&world.numbers(), &mahimahi(&trace, true, &sparse, None), "sparse");

    let busy = traffic(&mut numbers, N);
    let trace = cellular(&mut numbers, 300);
    let mut world = following(&trace, true, codel);
    send_all(&mut world, &busy);
    assert!(world.drops("codel") > 100, "{}", world.drops("codel"));
    assert_eq!(world.arrivals.len() as u64 + world.drops("codel"), N);
    // What CoDel drops takes nothing of an opportunity.
    let through: Vec<Sent> = world.numbers().iter().map(|(number, _)| busy[*number as usize]).collect();
    same(&world.numbers(), &mahimahi(&trace, true, &through, None), "busy");
}

#[test]
fn the_other_effects_stay_what_they_are_and_a_run_can_be_repeated() {
    let mut numbers = Numbers(21);
    let trace = cellular(&mut numbers, 5_000);
    let sent = traffic(&mut numbers, N);
    let loss = Loss::Random(testground_model::shape::Chance::percent(10.0));
    let shape = LinkShape { latency: Duration::from_millis(30), loss, ..unlimited() };
    let run = || {
        let mut world = following(&trace, true, shape.clone());
        send_all(&mut world, &sent);
        world.numbers()
    };
    let arrived = run();
    same(&run(), &arrived, "again");
    let lost = N - arrived.len() as u64;
    assert!((lost as f64 - N as f64 * 0.1).abs() < switch_virtual::five_sigma(N as f64, 0.1), "{lost}");
    // Lost packets took nothing of an opportunity, and the latency comes behind.
    let through: Vec<Sent> = arrived.iter().map(|(number, _)| sent[*number as usize]).collect();
    let expected: Vec<(u64, u64)> = mahimahi(&trace, true, &through, None)
        .into_iter()
        .map(|(number, at)| (number, at + 30 * MILLI))
        .collect();
    same(&arrived, &expected, "with loss and latency");
}

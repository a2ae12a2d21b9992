//! Every effect of a link over at least 10,000 packets on virtual time, with bounds that follow from its definition.
//!
//! Seeds are fixed, so that each test gives the same answer for ever. Bounds on counts are five standard deviations;
//! bounds on distributions are those of Kolmogorov and Smirnov at a level of 0.001 (1.95 / sqrt n).

mod switch_virtual;

use std::time::Duration;

use switch_virtual::{MILLI, SECOND, World, addresses, five_sigma, numbered, numbered6};
use testground_model::shape::{
    Chance, Discipline, Distribution, Filter, Jitter, LinkShape, Loss, Queue, QueueLimit,
};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::Plan;

const N: u64 = 20_000;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Delays of `N` packets that are further apart than they can deviate.
fn delays(shape: LinkShape) -> Vec<f64> {
    let mut world = World::shaped(2, shape);
    let sent = world.stream(N, 10 * SECOND);
    let numbers = world.numbers();
    assert_eq!(numbers.len() as u64, N);
    numbers.iter().map(|(n, at)| (at - sent[*n as usize]) as f64 / MILLI as f64).collect()
}

/// The largest distance between the share of values below and what it should be.
fn kolmogorov(values: &[f64], share_below: impl Fn(f64) -> f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let distance = |(i, x): (usize, &f64)| {
        let expected = share_below(*x);
        (expected - i as f64 / n).abs().max((expected - (i + 1) as f64 / n).abs())
    };
    sorted.iter().enumerate().map(distance).fold(0.0, f64::max)
}

fn lag_one_correlation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    values.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / variance
}

/// Which of the packets sent arrived.
fn arrived(world: &World) -> Vec<bool> {
    let mut arrived = vec![false; N as usize];
    for (number, _) in world.numbers() {
        arrived[number as usize] = true;
    }
    arrived
}

#[test]
fn latency_is_exact_for_ipv4_and_ipv6() {
    let mut world = World::shaped(2, LinkShape { latency: millis(25), ..LinkShape::default() });
    for i in 0..N {
        world.advance(i * 777_777);
        let frame = if i % 2 == 0 { numbered(0, 1, i, 500) } else { numbered6(0, 1, i, 500) };
        world.send(0, &frame);
    }
    world.settle();
    let expected: Vec<_> = (0..N).map(|i| (i, i * 777_777 + 25 * MILLI)).collect();
    assert_eq!(world.numbers(), expected);
}

#[test]
fn uniform_jitter_is_uniform() {
    let jitter = Jitter { spread: millis(10), ..Jitter::default() };
    let delays = delays(LinkShape { latency: millis(50), jitter, ..LinkShape::default() });
    assert!(delays.iter().all(|d| (40.0..=60.0).contains(d)));
    assert!(kolmogorov(&delays, |x| (x - 40.0) / 20.0) < 1.95 / (N as f64).sqrt());
    assert!(lag_one_correlation(&delays).abs() < 5.0 / (N as f64).sqrt());
}

#[test]
fn normal_jitter_is_normal() {
    let jitter = Jitter { spread: millis(10), distribution: Distribution::Normal, ..Jitter::default() };
    let delays = delays(LinkShape { latency: millis(100), jitter, ..LinkShape::default() });
    // The normal distribution function by Abramowitz and Stegun 26.2.17, exact to 7.5e-8: another way than the switch's.
    let normal = |x: f64| {
        let z = ((x - 100.0) / 10.0).abs();
        let t = 1.0 / (1.0 + 0.231_641_9 * z);
        let c = [0.319_381_53, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
        let sum = c.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
        let upper = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum;
        if x > 100.0 { 1.0 - upper } else { upper }
    };
    assert!(kolmogorov(&delays, normal) < 1.95 / (N as f64).sqrt());
}

#[test]
fn pareto_jitter_has_its_tail() {
    let jitter = Jitter { spread: millis(10), distribution: Distribution::Pareto, ..Jitter::default() };
    let delays = delays(LinkShape { latency: millis(50), jitter, ..LinkShape::default() });
    assert!(delays.iter().all(|d| *d >= 50.0));
    let below = |x: f64| 1.0 - (1.0 + (x - 50.0) / 10.0).powi(-3);
    assert!(kolmogorov(&delays, below) < 1.95 / (N as f64).sqrt());
}

#[test]
fn correlated_jitter_keeps_its_distribution() {
    for distribution in [Distribution::Uniform, Distribution::Normal] {
        let jitter = Jitter { spread: millis(10), distribution, correlation: 50.0, may_reorder: false };
        let delays = delays(LinkShape { latency: millis(100), jitter, ..LinkShape::default() });
        let mean = delays.iter().sum::<f64>() / N as f64;
        let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / N as f64;
        let expected = if distribution == Distribution::Uniform { 100.0 / 3.0 } else { 100.0 };
        // Correlated by c, n values are worth n (1 - c) / (1 + c) of independent ones: a third.
        let worth = N as f64 / 3.0;
        assert!((mean - 100.0).abs() < 5.0 * (expected / worth).sqrt(), "{distribution:?}: mean {mean}");
        assert!(
            (variance / expected - 1.0).abs() < 5.0 * (2.0 / worth).sqrt(),
            "{distribution:?}: {variance}"
        );
        // Making a draw uniform changes its correlation by up to 0.03; five deviations of 1 / sqrt n on top.
        let correlation = lag_one_correlation(&delays);
        assert!(
            (correlation - 0.5).abs() < 0.03 + 5.0 / (N as f64).sqrt(),
            "{distribution:?}: {correlation}"
        );
    }
}

#[test]
fn jitter_keeps_the_order_unless_it_may_not() {
    for may_reorder in [false, true] {
        let jitter = Jitter { spread: millis(2), may_reorder, ..Jitter::default() };
        let mut world = World::shaped(2, LinkShape { latency: millis(10), jitter, ..LinkShape::default() });
        // 20,000 packets a second, as in the prototype's measurement of netem's rule.
        world.stream(N, 50_000);
        let numbers = world.numbers();
        let overtaken = numbers.windows(2).filter(|w| w[1].0 < w[0].0).count();
        assert_eq!(numbers.len() as u64, N);
        if may_reorder {
            assert!(overtaken as u64 > N / 4, "{overtaken}");
        } else {
            assert_eq!(overtaken, 0);
            assert!(numbers.iter().all(|(n, at)| (8 * MILLI..=12 * MILLI).contains(&(at - n * 50_000))));
        }
    }
}

#[test]
fn independent_loss_is_the_share_asked_for_and_has_no_memory() {
    for percent in [0.1, 1.0, 10.0, 50.0] {
        let shape = LinkShape { loss: Loss::Random(Chance::percent(percent)), ..LinkShape::default() };
        let mut world = World::shaped(2, shape);
        world.stream(N, MILLI);
        let (p, n) = (percent / 100.0, N as f64);
        let lost = N - world.arrivals.len() as u64;
        assert!((lost as f64 - n * p).abs() < five_sigma(n, p), "{percent} %: {lost}");
        assert_eq!(world.drops("loss"), lost);
        let arrived = arrived(&world);
        let pairs = arrived.windows(2).filter(|w| !w[0] && !w[1]).count() as f64;
        assert!(
            (pairs - n * p * p).abs() < five_sigma(n, p * p).max(5.0) * 1.5,
            "{percent} %: {pairs} pairs"
        );
    }
}

#[test]
fn correlated_loss_is_the_share_asked_for_and_comes_in_bursts() {
    for (percent, correlation) in [(1.0, 25.0), (5.0, 50.0), (20.0, 90.0)] {
        let shape = LinkShape { loss: Loss::Random(Chance { percent, correlation }), ..LinkShape::default() };
        let mut world = World::shaped(2, shape);
        world.stream(N, MILLI);
        let (p, n, c) = (percent / 100.0, N as f64, correlation / 100.0);
        let lost = (N - world.arrivals.len() as u64) as f64;
        let worth = n * (1.0 - c) / (1.0 + c);
        assert!(
            (lost / n - p).abs() < five_sigma(worth, p) / worth,
            "{percent} % by {correlation} %: {lost}"
        );
        let arrived = arrived(&world);
        let again = arrived.windows(2).filter(|w| !w[0] && !w[1]).count() as f64 / lost;
        assert!(again > 1.5 * p, "after a loss the next is lost with {again}, not {p}");
    }
}

#[test]
fn gilbert_elliott_loss_has_the_bursts_of_its_chain() {
    let (p, r, bad, good) = (1.0, 20.0, 80.0, 0.5);
    let shape = LinkShape { loss: Loss::GilbertElliott { p, r, bad, good }, ..LinkShape::default() };
    let mut world = World::shaped(2, shape);
    world.stream(N, MILLI);
    let in_bad = p / (p + r);
    let share = in_bad * bad / 100.0 + (1.0 - in_bad) * good / 100.0;
    let lost = (N - world.arrivals.len() as u64) as f64;
    // The chain forgets by 1 - p - r = 0.79 a packet, so that its states are worth (1 - 0.79) / (1 + 0.79) of N.
    let worth = N as f64 * 0.21 / 1.79;
    assert!((lost / N as f64 - share).abs() < five_sigma(worth, share) / worth, "{lost}");

    // With certain loss in the bad state and none in the good one, bursts are geometric with mean 1 / r.
    let simple = Loss::GilbertElliott { p: 2.0, r: 25.0, bad: 100.0, good: 0.0 };
    let mut world = World::shaped(2, LinkShape { loss: simple, ..LinkShape::default() });
    world.stream(N, MILLI);
    let arrived = arrived(&world);
    let bursts = arrived.windows(2).filter(|w| w[0] && !w[1]).count() as f64;
    let lost = arrived.iter().filter(|a| !**a).count() as f64;
    let sigma = (0.75f64 / (0.25 * 0.25) / bursts).sqrt();
    assert!((lost / bursts - 4.0).abs() < 5.0 * sigma, "mean burst {}", lost / bursts);
}

#[test]
fn shapes_that_take_turns_on_a_link_have_chains_of_their_own() {
    let chain =
        |p, r, bad| LinkShape { loss: Loss::GilbertElliott { p, r, bad, good: 0.0 }, ..LinkShape::default() };
    // The one turns bad at once, where it loses nothing; the other never does.
    let shapes = [(addresses(1)[0], chain(100.0, 0.0, 0.0)), (addresses(1)[1], chain(0.0, 0.0, 100.0))];
    let links = shapes.map(|(address, shape)| Link {
        from: Endpoint::All,
        to: Endpoint::Subnet(address.into()),
        both_ways: false,
        network: "default".to_owned(),
        shape,
    });
    let mut world = World::new(2);
    let mut plan = Plan::new(links.to_vec());
    world.plan.members().for_each(|member| plan.attach(member.clone()));
    world.plan = plan;
    world.install();
    for i in 0..100 {
        world.send(0, &numbered(0, 1, i, 100));
        world.send(0, &numbered6(0, 1, i, 100));
    }
    assert_eq!((world.arrivals.len(), world.drops("loss")), (200, 0));
}

#[test]
fn what_was_sent_and_duplicated_is_what_arrived_or_was_dropped() {
    let shape = |discipline| LinkShape {
        duplicate: Chance::percent(20.0),
        bandwidth: Some(8_000_000),
        queue: Queue { limit: QueueLimit::Packets(10), discipline },
        ..LinkShape::default()
    };
    for discipline in [Discipline::TailDrop, Discipline::Codel] {
        let mut world = World::shaped(2, shape(discipline));
        world.stream(N, MILLI / 2);
        let link = &world.fabric.snapshot(world.now).links[0];
        let dropped: u64 = link.drops.values().sum();
        assert!(dropped > N / 3, "{link:?}");
        assert_eq!(link.seen + link.duplicated, link.delivered.packets + dropped, "{link:?}");
        assert!((link.duplicated as f64 - N as f64 * 0.2).abs() < five_sigma(N as f64, 0.2), "{link:?}");
    }
}

#[test]
fn duplicates_come_right_behind_and_take_their_turn_on_the_wire() {
    let shape = LinkShape {
        duplicate: Chance::percent(5.0),
        bandwidth: Some(8_000_000),
        latency: millis(3),
        ..LinkShape::default()
    };
    let mut world = World::shaped(2, shape);
    world.stream(N, 5 * MILLI);
    let numbers = world.numbers();
    let doubled = numbers.len() as f64 - N as f64;
    assert!((doubled - N as f64 * 0.05).abs() < five_sigma(N as f64, 0.05), "{doubled}");
    // A thousand bytes at 8 Mbit/s are a millisecond.
    for pair in numbers.windows(2).filter(|w| w[0].0 == w[1].0) {
        assert_eq!(pair[1].1 - pair[0].1, MILLI);
    }
    let seen: std::collections::BTreeSet<u64> = numbers.iter().map(|n| n.0).collect();
    assert_eq!(seen.len() as u64, N);
    assert_eq!(world.fabric.snapshot(world.now).links[0].duplicated, doubled as u64);
}

#[test]
fn corruption_flips_one_bit_and_the_checksum_tells() {
    let mut world = World::shaped(2, LinkShape { corrupt: Chance::percent(10.0), ..LinkShape::default() });
    world.stream(N, MILLI);
    let mut places = vec![0u32; 1000];
    let mut flipped = 0;
    for (i, arrival) in world.arrivals.iter().enumerate() {
        let sent = numbered(0, 1, i as u64, 1000);
        let bits: u32 = sent.iter().zip(&arrival.frame).map(|(a, b)| (a ^ b).count_ones()).sum();
        if bits > 0 {
            assert_eq!(bits, 1, "packet {i}");
            flipped += 1;
            places[sent.iter().zip(&arrival.frame).position(|(a, b)| a != b).unwrap()] += 1;
        }
    }
    assert!((f64::from(flipped) - N as f64 * 0.1).abs() < five_sigma(N as f64, 0.1), "{flipped}");
    // Never in the Ethernet header; as likely in the first half of the rest as in the second.
    assert_eq!(places[..14].iter().sum::<u32>(), 0);
    let first = places[14..507].iter().sum::<u32>();
    assert!((f64::from(first) - f64::from(flipped) / 2.0).abs() < five_sigma(f64::from(flipped), 0.5));
}

#[test]
fn reordered_packets_skip_the_latency() {
    let shape = LinkShape { latency: millis(50), reorder: Chance::percent(25.0), ..LinkShape::default() };
    let mut world = World::shaped(2, shape);
    let sent = world.stream(N, MILLI);
    let numbers = world.numbers();
    let skipped = numbers.iter().filter(|(n, at)| *at == sent[*n as usize]).count() as f64;
    assert!((skipped - N as f64 * 0.25).abs() < five_sigma(N as f64, 0.25), "{skipped}");
    let rest = numbers.iter().filter(|(n, at)| *at == sent[*n as usize] + 50 * MILLI).count();
    assert_eq!(rest as f64 + skipped, N as f64);
}

#[test]
fn with_a_gap_every_gap_th_packet_skips_as_in_netem() {
    let shape = LinkShape {
        latency: millis(50),
        reorder: Chance::percent(100.0),
        reorder_gap: 5,
        ..LinkShape::default()
    };
    let mut world = World::shaped(2, shape);
    let sent = world.stream(N, MILLI);
    let mut skipped: Vec<u64> =
        world.numbers().iter().filter(|(n, at)| *at == sent[*n as usize]).map(|n| n.0).collect();
    skipped.sort_unstable();
    // tc-netem(8): with a gap of 5 the 5th, 10th, 15th … go at once.
    let expected: Vec<u64> = (0..N).filter(|n| n % 5 == 4).collect();
    assert_eq!(skipped, expected);
}

#[test]
fn bandwidth_is_exact_to_the_nanosecond() {
    for bits in [1_000_000, 3_333_333, 10_000_000, 1_000_000_000, 7_000_000_000u64] {
        let queue = Queue { limit: QueueLimit::Time(Duration::from_secs(3600)), ..Queue::default() };
        let mut world = World::shaped(2, LinkShape { bandwidth: Some(bits), queue, ..LinkShape::default() });
        for i in 0..N {
            world.send(0, &numbered(0, 1, i, 1000));
        }
        world.settle();
        for (n, at) in world.numbers() {
            let ideal = u128::from(n + 1) * 8000 * u128::from(SECOND) / u128::from(bits);
            assert_eq!(u128::from(at), ideal, "packet {n} at {bits} bit/s");
        }
    }
}

#[test]
fn a_full_queue_drops_the_packet_that_comes() {
    let shape = |limit| LinkShape {
        bandwidth: Some(8_000_000),
        queue: Queue { limit, discipline: Discipline::TailDrop },
        ..LinkShape::default()
    };
    // A thousand bytes take a millisecond; all come at once. A queue that is limited in time takes one more than that
    // time is long: the last one waits for exactly so long.
    let cases = [
        (QueueLimit::Packets(37), 37),
        (QueueLimit::Bytes(37_500), 37),
        (QueueLimit::Time(millis(37)), 38),
        (QueueLimit::Auto, 96),
    ];
    for (limit, expected) in cases {
        let mut world = World::shaped(2, shape(limit));
        for i in 0..N {
            world.send(0, &numbered(0, 1, i, 1000));
        }
        world.settle();
        assert_eq!(world.arrivals.len(), expected, "{limit:?}");
        assert_eq!(world.drops("queue"), N - expected as u64);
        // And as many fit again as have left.
        world.send(0, &numbered(0, 1, 0, 1000));
        assert_eq!(world.drops("queue"), N - expected as u64);
    }
}

#[test]
fn codel_keeps_the_delay_near_its_target_where_a_tail_drop_fills_the_queue() {
    let run = |discipline| {
        let queue = Queue { limit: QueueLimit::Time(millis(400)), discipline };
        let shape = LinkShape { bandwidth: Some(8_000_000), queue, ..LinkShape::default() };
        let mut world = World::shaped(2, shape);
        // 5 % more than the link carries: a thousand bytes each 0.95 ms.
        let sent = world.stream(N, 950_000);
        let delays: Vec<u64> = world.numbers().iter().map(|(n, at)| at - sent[*n as usize]).collect();
        (delays, world.drops("queue"), world.drops("codel"))
    };
    let (tail, queued, _) = run(Discipline::TailDrop);
    assert!(queued > 0 && tail[tail.len() / 2] > 390 * MILLI);
    let (codel, queued, dropped) = run(Discipline::Codel);
    assert!(queued == 0 && dropped > 0, "{queued} {dropped}");
    let mut late: Vec<u64> = codel[codel.len() / 2..].to_vec();
    late.sort_unstable();
    // Half of the time the queue is below some tens of milliseconds, though the sender never gives way.
    assert!(late[late.len() / 2] < 60 * MILLI, "{}", late[late.len() / 2]);
    // The link is never idle: what it carried is its bandwidth.
    assert_eq!(codel.len() as u64 + dropped, N);
}

#[test]
fn codel_drops_by_its_control_law() {
    let queue = Queue { limit: QueueLimit::Packets(1_000_000), discipline: Discipline::Codel };
    let shape = LinkShape { bandwidth: Some(8_000_000), queue, ..LinkShape::default() };
    let mut world = World::shaped(2, shape);
    for i in 0..3000 {
        world.send(0, &numbered(0, 1, i, 1000));
    }
    world.settle();
    let arrived: Vec<u64> = world.numbers().iter().map(|n| n.0).collect();
    let dropped: Vec<u64> = (0..3000).filter(|n| arrived.binary_search(n).is_err()).collect();
    // Packet n's turn comes at (n - drops before it) ms. The first turn with 5 ms of waiting is at 5 ms; an interval of
    // 100 ms later the first packet is dropped, the next ones after 100 / sqrt(1), 100 / sqrt(2), … ms.
    let mut due = 105.0;
    for (i, n) in dropped.iter().take(20).enumerate() {
        let turn = *n as f64 - i as f64;
        assert!((turn - f64::from(due as f32).ceil()).abs() <= 1.0, "drop {i} at {turn} ms, due at {due}");
        due += 100.0 / ((i + 1) as f64).sqrt();
    }
    assert!(dropped.len() > 20);
}

#[test]
fn codel_leaves_a_queue_below_its_target_alone() {
    let queue = Queue { discipline: Discipline::Codel, ..Queue::default() };
    let shape = LinkShape { bandwidth: Some(8_000_000), queue, latency: millis(10), ..LinkShape::default() };
    let mut world = World::shaped(2, shape);
    let sent = world.stream(N, MILLI);
    assert_eq!((world.drops("codel"), world.arrivals.len() as u64), (0, N));
    assert!(world.numbers().iter().all(|(n, at)| at - sent[*n as usize] == 11 * MILLI));
}

#[test]
fn a_cut_link_lets_nothing_through() {
    for (filter, cause) in [(Filter::Drop, "filter_drop"), (Filter::Reject, "filter_reject")] {
        let mut world = World::shaped(2, LinkShape { filter, ..LinkShape::default() });
        world.stream(N, MILLI);
        assert_eq!(world.drops(cause), N);
        assert_eq!(world.arrivals.iter().filter(|a| a.to == 1).count(), 0);
        let told = world.arrivals.iter().filter(|a| a.to == 0).count() as u64;
        assert_eq!(told, if filter == Filter::Reject { N } else { 0 });
    }
}

//! The whole switch on virtual time: super-packets, replay, classes, the control network, and frames for many.

mod switch_virtual;

use std::net::IpAddr;
use std::time::Duration;

use etherparse::PacketBuilder;
use switch_virtual::{
    Arrival, MILLI, SECOND, World, addresses, five_sigma, member, number, numbered, numbered6, spec, v4, v6,
};
use testground_model::name::InstanceName;
use testground_model::shape::{Chance, Discipline, Filter, Jitter, LinkShape, Loss, Queue, QueueLimit};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{PortId, Wishes};
use testground_sidecar::plane::switch::config::{Framing, NetworkKind, SwitchConfig, SwitchError};
use testground_sidecar::plane::switch::packet::vnet::GsoKind;
use testground_sidecar::plane::switch::packet::{Gso, Layout, Segments, VnetHeader, checksum, take_run};
use testground_sidecar::plane::switch::table::{link_local, mac_of};

const SIZE: usize = 1448;

/// A TCP super-packet from host 0 to host 1 whose payload begins at `offset` of a stream in which every segment's
/// worth of bytes begins with its number.
fn tcp_super(offset: u64, segments: u64) -> (Vec<u8>, VnetHeader) {
    let mut payload = vec![0u8; segments as usize * SIZE];
    for (i, chunk) in (offset..).zip(payload.chunks_mut(SIZE)) {
        chunk[..8].copy_from_slice(&i.to_be_bytes());
    }
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac_of(PortId(0)), mac_of(PortId(1)))
        .ipv4(v4(0).octets(), v4(1).octets(), 64)
        .tcp(40_000, 443, (offset as u32).wrapping_mul(SIZE as u32), 1000)
        .options_raw(&[1; 12])
        .unwrap()
        .write(&mut frame, &payload)
        .unwrap();
    let gso = Gso { kind: GsoKind::Tcp4, ecn: false, size: SIZE as u16, header: 66 };
    (frame, VnetHeader { partial_checksum: Some((34, 16)), data_valid: false, gso: Some(gso) })
}

/// The numbers of the segments that a frame stands for.
fn segment_numbers(arrival: &Arrival) -> Vec<u64> {
    arrival.frame[66..].chunks(SIZE).map(|chunk| u64::from_be_bytes(chunk[..8].try_into().unwrap())).collect()
}

fn lossy() -> LinkShape {
    LinkShape {
        loss: Loss::Random(Chance { percent: 10.0, correlation: 30.0 }),
        duplicate: Chance::percent(3.0),
        corrupt: Chance::percent(4.0),
        latency: Duration::from_millis(20),
        jitter: Jitter { spread: Duration::from_millis(4), ..Jitter::default() },
        reorder: Chance::percent(5.0),
        ..LinkShape::default()
    }
}

#[test]
fn loss_takes_single_segments_out_of_super_packets() {
    let loss = Loss::Random(Chance::percent(2.0));
    let mut world = World::shaped(2, LinkShape { loss, ..LinkShape::default() });
    let total = 45 * 500;
    for i in 0..500 {
        let (frame, vnet) = tcp_super(i * 45, 45);
        world.send_offloaded(0, &frame, vnet);
    }
    let arrived: Vec<u64> = world.arrivals.iter().flat_map(segment_numbers).collect();
    assert!(arrived.windows(2).all(|w| w[0] < w[1]), "in order, each once");
    let lost = total as f64 - arrived.len() as f64;
    assert!((lost - total as f64 * 0.02).abs() < five_sigma(total as f64, 0.02), "{lost}");
    // What survives travels on as super-packets: one more frame for each lost segment, and hardly more.
    assert!((world.arrivals.len() as f64) < 500.0 + lost + 1.0);
    // The same segments, one by one, meet the same fate.
    let mut single = World::shaped(2, LinkShape { loss, ..LinkShape::default() });
    for i in 0..total {
        let (frame, vnet) = tcp_super(i, 1);
        single.send_offloaded(0, &frame, vnet);
    }
    let singly: Vec<u64> = single.arrivals.iter().flat_map(segment_numbers).collect();
    assert_eq!(singly, arrived);
}

#[test]
fn corruption_cuts_a_segment_out_and_fills_its_checksum_in_first() {
    let mut world = World::shaped(2, LinkShape { corrupt: Chance::percent(5.0), ..LinkShape::default() });
    for i in 0..300 {
        let (frame, vnet) = tcp_super(i * 45, 45);
        world.send_offloaded(0, &frame, vnet);
    }
    let (mut corrupted, mut segments) = (0u64, 0u64);
    for arrival in &world.arrivals {
        match arrival.vnet.partial_checksum {
            Some(_) => segments += segment_numbers(arrival).len() as u64,
            None => {
                // Whole, and wrong in one bit: in the IP header, or in what TCP's checksum is about.
                corrupted += 1;
                segments += 1;
                assert_eq!(arrival.vnet, VnetHeader::default());
                let header = checksum::sum(&arrival.frame[14..34]);
                let l4 = (arrival.frame.len() - 34) as u32;
                let ends: [IpAddr; 2] = [v4(0).into(), v4(1).into()];
                let pseudo = checksum::pseudo_header(ends[0], ends[1], 6, l4);
                let transport = checksum::add(pseudo, checksum::sum(&arrival.frame[34..]));
                assert!((header == 0xffff) != (transport == 0xffff), "one of both is wrong");
            }
        }
    }
    assert_eq!(segments, 300 * 45);
    assert!((corrupted as f64 - 675.0).abs() < five_sigma(13_500.0, 0.05), "{corrupted}");
}

#[test]
fn bandwidth_cuts_super_packets_into_pieces_of_a_millisecond() {
    for (bits, most) in [(10_000_000, 1), (100_000_000, 8), (1_000_000_000, 45)] {
        let queue = Queue { limit: QueueLimit::Time(Duration::from_secs(60)), ..Queue::default() };
        let mut world = World::shaped(2, LinkShape { bandwidth: Some(bits), queue, ..LinkShape::default() });
        for i in 0..300 {
            let (frame, vnet) = tcp_super(i * 45, 45);
            world.send_offloaded(0, &frame, vnet);
        }
        world.settle();
        let sizes: Vec<usize> = world.arrivals.iter().map(|a| segment_numbers(a).len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 45 * 300);
        assert_eq!(sizes.iter().max(), Some(&most), "{bits}");
        // Each piece leaves when its last bit does, headers of each segment counted.
        let mut segments = 0u64;
        for arrival in &world.arrivals {
            segments += segment_numbers(arrival).len() as u64;
            assert_eq!(arrival.at, segments * 1514 * 8 * SECOND / bits);
        }
    }
}

#[test]
fn udp_super_packets_over_ipv6_are_cut_too() {
    let mut world = World::shaped(2, LinkShape { bandwidth: Some(1_000_000), ..LinkShape::default() });
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac_of(PortId(0)), mac_of(PortId(1)))
        .ipv6(v6(0).octets(), v6(1).octets(), 64)
        .udp(1, 2)
        .write(&mut frame, &[9; 2500])
        .unwrap();
    let gso = Gso { kind: GsoKind::Udp, ecn: false, size: 1000, header: 62 };
    world.send_offloaded(
        0,
        &frame,
        VnetHeader { partial_checksum: Some((54, 6)), data_valid: false, gso: Some(gso) },
    );
    world.settle();
    let sizes: Vec<usize> = world.arrivals.iter().map(|a| a.frame.len()).collect();
    assert_eq!(sizes, [1062, 1062, 562]);
    assert!(world.arrivals.iter().all(|a| a.vnet.gso.is_none()));
}

#[test]
fn a_port_without_offloads_gets_whole_segments_with_whole_checksums() {
    let mut world = World::new(1);
    let bare = testground_sidecar::plane::switch::PortSpec {
        framing: Framing::Bare,
        ..spec(1, NetworkKind::Data(0))
    };
    world.fabric.attach(&bare).unwrap();
    let (frame, vnet) = tcp_super(0, 3);
    world.send_offloaded(0, &frame, vnet);
    let layout = Layout::parse(&frame).unwrap();
    let segments = Segments::of(&frame, &layout, &vnet).unwrap();
    for (i, arrival) in (0u32..).zip(&world.arrivals) {
        let (vnet, head) = take_run(&frame, &layout, vnet.gso.unwrap(), &segments, i, 1).unwrap();
        let mut expected = [&head, &frame[segments.payload(i, 1)]].concat();
        checksum::fill_in(&mut expected, 34, 16);
        assert_eq!((vnet.gso, arrival.vnet, &arrival.frame), (None, VnetHeader::default(), &expected));
    }
    assert_eq!(world.arrivals.len(), 3);
}

/// What happened to each packet from host 0 to host 1: arrivals with their delays and bytes, in order.
fn fates(world: &World, sent: &[u64]) -> Vec<(u64, u64, Vec<u8>)> {
    let mine = world.arrivals.iter().filter(|a| a.to == 1 && a.frame[29] == v4(0).octets()[3]);
    mine.map(|a| {
        let n = number(&a.frame);
        // A flipped bit may have made the number another one.
        let delay = sent.get(n as usize).map_or(0, |sent| a.at.wrapping_sub(*sent));
        (n, delay, a.frame.clone())
    })
    .collect()
}

#[test]
fn the_same_packets_meet_the_same_fate_whatever_happens_elsewhere() {
    let run = |others: bool| {
        let mut world = World::shaped(4, lossy());
        let mut sent = Vec::new();
        for i in 0..10_000u64 {
            world.advance(i * 10 * MILLI);
            if others {
                // Other links are busy, and hosts ask for addresses, in another rhythm.
                for k in 0..i % 4 {
                    world.send(2, &numbered(2, 3, k, 300));
                    world.send(1, &numbered(1, 0, k, 200));
                    world.send(2, &numbered(2, 1, k, 1000));
                }
                if i % 7 == 0 {
                    world.install();
                }
            }
            sent.push(world.now);
            world.send(0, &numbered(0, 1, i, 1000));
        }
        world.settle();
        fates(&world, &sent)
    };
    let (alone, among) = (run(false), run(true));
    assert!(alone.len() > 9000);
    assert_eq!(alone, among);
}

#[test]
fn an_effect_does_not_shift_another() {
    let lost = |shape: LinkShape| {
        let mut world = World::shaped(2, shape);
        let sent = world.stream(10_000, 30 * MILLI);
        drop(sent);
        let mut lost: Vec<u64> = (0..10_000).collect();
        // Corruption may hide a number; so it is left out here and looked at below.
        for (n, _) in world.numbers() {
            if let Ok(at) = lost.binary_search(&n) {
                lost.remove(at);
            }
        }
        lost
    };
    let loss = LinkShape { loss: Loss::Random(Chance::percent(5.0)), ..LinkShape::default() };
    let all = LinkShape { corrupt: Chance::default(), loss: loss.loss, ..lossy() };
    let limited = LinkShape { bandwidth: Some(1_000_000_000), ..all };
    let alone = lost(loss);
    assert!(alone.len() > 400);
    assert_eq!(alone, lost(limited));

    let corrupted = |shape: LinkShape| {
        let mut world = World::shaped(2, shape);
        world.stream(10_000, 30 * MILLI);
        let damaged = world.arrivals.iter().filter(|a| {
            let n = number(&a.frame);
            a.frame != numbered(0, 1, n, 1000)
        });
        damaged.map(|a| a.frame.clone()).collect::<Vec<_>>()
    };
    let corrupt = LinkShape { corrupt: Chance::percent(4.0), ..LinkShape::default() };
    let slow = LinkShape { corrupt: corrupt.corrupt, ..LinkShape::default() };
    let slow = LinkShape { latency: Duration::from_millis(3), bandwidth: Some(50_000_000), ..slow };
    assert_eq!(corrupted(corrupt), corrupted(slow));
}

#[test]
fn names_and_seed_make_the_fate() {
    let run = |seed| {
        let mut world = World::with(3, SwitchConfig { seed, ..SwitchConfig::default() });
        world.shape(LinkShape { loss: Loss::Random(Chance::percent(30.0)), ..LinkShape::default() });
        for i in 0..2000 {
            world.send(0, &numbered(0, 1, i, 100));
            world.send(0, &numbered(0, 2, i, 100));
            world.send(1, &numbered(1, 0, i, 100));
        }
        let to = |host| world.arrivals.iter().filter(|a| a.to == host).map(|a| number(&a.frame)).collect();
        [to(0), to(1), to(2)].map(|v: Vec<u64>| v)
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one, run(1));
    assert!(one[0] != one[1] && one[1] != one[2] && one[0] != two[0]);
}

#[test]
fn a_default_is_one_bandwidth_for_all_and_a_link_is_one_for_each_pair() {
    let slow = LinkShape { bandwidth: Some(8_000_000), ..LinkShape::default() };
    let mut world = World::new(3);
    world.plan.wish(PortId(0), Wishes { default: slow.clone(), rules: Vec::new() });
    world.install();
    for i in 0..20 {
        world.send(0, &numbered(0, 1 + (i % 2) as u32, i, 1000));
    }
    world.settle();
    assert_eq!(world.arrivals.last().unwrap().at, 20 * MILLI);

    let mut world = World::shaped(3, slow);
    for i in 0..20 {
        world.send(0, &numbered(0, 1 + (i % 2) as u32, i, 1000));
    }
    world.settle();
    assert_eq!(world.arrivals.last().unwrap().at, 10 * MILLI);
}

#[test]
fn rules_by_subnet_are_in_force_for_their_addresses_only() {
    let mut world = World::new(3);
    let slow = LinkShape { latency: Duration::from_millis(70), ..LinkShape::default() };
    let rules = vec![(ipnet::IpNet::from(IpAddr::from(v4(2))), slow)];
    world.plan.wish(PortId(0), Wishes { default: LinkShape::default(), rules });
    world.install();
    for host in [1, 2] {
        world.send(0, &numbered(0, host, 0, 100));
        world.send(0, &numbered6(0, host, 0, 100));
    }
    world.settle();
    let late: Vec<_> = world.arrivals.iter().filter(|a| a.at > 0).map(|a| (a.to, a.at)).collect();
    assert_eq!(late, [(2, 70 * MILLI)]);
}

#[test]
fn packets_that_wait_keep_their_departure_when_the_plan_changes() {
    let slow =
        LinkShape { bandwidth: Some(8_000_000), latency: Duration::from_millis(100), ..LinkShape::default() };
    let mut world = World::shaped(2, slow.clone());
    for i in 0..10 {
        world.send(0, &numbered(0, 1, i, 1000));
    }
    world.advance(5 * MILLI);
    // The same class at twice the rate: what waits leaves as it would have, what comes queues behind it.
    world.shape(LinkShape { bandwidth: Some(16_000_000), ..slow });
    world.send(0, &numbered(0, 1, 10, 1000));
    world.settle();
    let expected: Vec<_> = (0..10).map(|i| (i, (i + 1) * MILLI + 100 * MILLI)).collect();
    assert_eq!(world.numbers()[..10], expected);
    assert_eq!(world.numbers()[10], (10, 10 * MILLI + MILLI / 2 + 100 * MILLI));
    // A cut link lets what is on its way arrive, and nothing else.
    world.send(0, &numbered(0, 1, 11, 1000));
    world.shape(LinkShape { filter: Filter::Drop, ..LinkShape::default() });
    world.send(0, &numbered(0, 1, 12, 1000));
    world.settle();
    assert_eq!(world.numbers().last().unwrap().0, 11);
}

#[test]
fn a_healed_link_does_not_make_packets_wait_for_those_on_the_old_way() {
    let mut world =
        World::shaped(2, LinkShape { latency: Duration::from_secs(3600), ..LinkShape::default() });
    world.send(0, &numbered(0, 1, 0, 100));
    world.shape(LinkShape { latency: Duration::from_millis(1), ..LinkShape::default() });
    world.send(0, &numbered(0, 1, 1, 100));
    world.settle();
    assert_eq!(world.numbers(), [(1, MILLI), (0, 3600 * SECOND)]);
}

#[test]
fn waiting_packets_are_bounded_in_memory_and_given_back() {
    let config = SwitchConfig { memory: 1 << 20, ..SwitchConfig::default() };
    let mut world = World::with(3, config);
    world.shape(LinkShape { latency: Duration::from_secs(1), ..LinkShape::default() });
    for i in 0..10_000 {
        world.send(0, &numbered(0, 1, i, 1000));
    }
    let flood_dropped = world.drops("memory");
    assert!(flood_dropped > 9000);
    // Another sender still has its share.
    for i in 0..50 {
        world.send(2, &numbered(2, 1, i, 1000));
    }
    assert_eq!(world.drops("memory"), flood_dropped);
    let view = world.fabric.snapshot(0).memory;
    assert!(view.used <= 1 << 20 && view.most == view.used, "{view:?}");
    world.settle();
    assert_eq!(world.fabric.snapshot(0).memory.used, 0);
    assert_eq!(world.arrivals.len() as u64, 10_050 - flood_dropped);
}

#[test]
fn a_snapshot_of_very_many_links_shows_the_busiest() {
    let mut world = World::new(90);
    for from in 0..90 {
        for to in (0..90).filter(|to| *to != from) {
            world.send(from, &numbered(from, to, 0, 100));
        }
    }
    world.send(3, &numbered(3, 77, 0, 100));
    let snapshot = world.fabric.snapshot(0);
    assert_eq!(snapshot.links.len() as u64 + snapshot.links_left_out, 90 * 89);
    assert!(snapshot.links_left_out > 0);
    assert_eq!(snapshot.link("h[3]/default", "h[77]/default").unwrap().seen, 2);
}

#[test]
fn addresses_are_answered_at_once_and_owners_are_not_told_of_themselves() {
    let mut world = World::shaped(2, LinkShape { latency: Duration::from_secs(1), ..LinkShape::default() });
    let arp = |operation: u8, asker: [u8; 4], target: [u8; 4]| {
        let head: [&[u8]; 3] = [&[0xff; 6], &mac_of(PortId(0)), &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]];
        [&head.concat()[..], &mac_of(PortId(0)), &asker, &[0; 6], &target].concat()
    };
    let (me, other) = (v4(0).octets(), v4(1).octets());
    world.send(0, &arp(1, me, other));
    assert_eq!(world.arrivals.len(), 1);
    assert_eq!((world.arrivals[0].to, world.arrivals[0].at), (0, 0));
    assert_eq!(world.arrivals[0].frame[22..28], mac_of(PortId(1)));
    // Unknown address, announcement, probe for one's own address, a reply: nothing to say.
    for frame in [arp(1, me, [16, 9, 9, 9]), arp(1, me, me), arp(1, [0; 4], me), arp(2, other, me)] {
        world.send(0, &frame);
    }
    assert_eq!(world.arrivals.len(), 1);
    // A probe for somebody else's is answered: the address is taken.
    world.send(0, &arp(1, [0; 4], other));
    assert_eq!(world.arrivals.len(), 2);
    let snapshot = world.fabric.snapshot(0);
    assert_eq!((snapshot.answered, snapshot.absorbed), (2, 4));
}

#[test]
fn neighbours_are_found_by_their_link_local_addresses_too() {
    let mut world = World::new(2);
    let solicit = |from: u32, source: [u8; 16], target: [u8; 16]| {
        let mut message = vec![0u8; 4];
        message.extend_from_slice(&target);
        message.extend_from_slice(&[1, 1]);
        message.extend_from_slice(&mac_of(PortId(from)));
        let mut frame = Vec::new();
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        group[13..].copy_from_slice(&target[13..]);
        PacketBuilder::ethernet2(
            mac_of(PortId(from)),
            [0x33, 0x33, 0xff, target[13], target[14], target[15]],
        )
        .ipv6(source, group, 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &message[4..])
        .unwrap();
        frame
    };
    let IpAddr::V6(derived) = link_local(mac_of(PortId(1))) else { panic!() };
    let chosen: std::net::Ipv6Addr = "fe80::1234:5678:9abc:def0".parse().unwrap();
    for target in [v6(1).octets(), derived.octets()] {
        world.arrivals.clear();
        world.send(0, &solicit(0, v6(0).octets(), target));
        assert_eq!(world.arrivals.len(), 1);
        let answer = etherparse::PacketHeaders::from_ethernet_slice(&world.arrivals[0].frame).unwrap();
        let Some(etherparse::TransportHeader::Icmpv6(icmp)) = &answer.transport else { panic!() };
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = &answer.net else { panic!() };
        assert_eq!((ip.hop_limit, ip.source, ip.destination), (255, target, v6(0).octets()));
        let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, answer.payload.slice()).unwrap();
        assert_eq!(sum, icmp.checksum);
        assert!(world.arrivals[0].frame.ends_with(&mac_of(PortId(1))));
    }
    // One that a host chose for itself is known once the host has probed for it.
    world.arrivals.clear();
    world.send(0, &solicit(0, v6(0).octets(), chosen.octets()));
    assert!(world.arrivals.is_empty());
    world.send(1, &solicit(1, [0; 16], chosen.octets()));
    world.send(0, &solicit(0, v6(0).octets(), chosen.octets()));
    assert_eq!(world.arrivals.len(), 1);
}

#[test]
fn frames_for_all_travel_each_on_its_own_link() {
    let mut world = World::new(4);
    let link = |to, latency| Link {
        from: Endpoint::Instance(InstanceName::new("h", 0)),
        to: Endpoint::Instance(InstanceName::new("h", to)),
        both_ways: false,
        network: "default".to_owned(),
        shape: LinkShape { latency: Duration::from_millis(latency), ..LinkShape::default() },
    };
    let mut plan = testground_sidecar::plan::Plan::new(vec![link(1, 10), link(2, 20), link(3, 30)]);
    (0..4).for_each(|i| plan.attach(member(i)));
    world.plan = plan;
    world.install();
    let mut frame = numbered(0, 1, 0, 200);
    frame[..6].fill(0xff);
    frame[30..34].fill(0xff);
    world.send(0, &frame);
    world.settle();
    let got: Vec<_> = world.arrivals.iter().map(|a| (a.to, a.at / MILLI)).collect();
    assert_eq!(got, [(1, 10), (2, 20), (3, 30)]);
    // Too many of them end in a storm, which is counted.
    world.arrivals.clear();
    for _ in 0..20_000 {
        world.send(0, &frame);
    }
    assert!(world.drops("storm") > 30_000, "{}", world.drops("storm"));
    world.settle();
    let links = world.fabric.snapshot(world.now).links;
    assert_eq!(links.len(), 3);
    for link in links {
        let dropped: u64 = link.drops.values().sum();
        assert_eq!((link.seen, link.delivered.packets + dropped), (20_001, 20_001), "{link:?}");
    }
}

#[test]
fn the_control_network_lets_ports_talk_to_the_gateway_and_to_willing_peers() {
    let mut world = World::with(0, SwitchConfig::default());
    for i in 0..3 {
        let mut spec = spec(i, NetworkKind::Control);
        spec.gateway = i == 0;
        world.fabric.attach(&spec).unwrap();
    }
    let second =
        testground_sidecar::plane::switch::PortSpec { gateway: true, ..spec(9, NetworkKind::Control) };
    assert!(matches!(world.fabric.attach(&second), Err(SwitchError::GatewayTaken { .. })));
    let talk = |world: &mut World, from, to| {
        world.arrivals.clear();
        world.send(from, &numbered(from, to, 0, 100));
        world.arrivals.len()
    };
    let ways = [(1, 0), (0, 1), (2, 0), (1, 2), (2, 1)];
    assert_eq!(ways.map(|(a, b)| talk(&mut world, a, b)), [1, 1, 1, 0, 0]);
    world.fabric.allow_peers(PortId(1), true).unwrap();
    assert_eq!(talk(&mut world, 1, 2), 0);
    world.fabric.allow_peers(PortId(2), true).unwrap();
    assert_eq!((talk(&mut world, 1, 2), talk(&mut world, 2, 1)), (1, 1));
    let snapshot = world.fabric.snapshot(0);
    assert_eq!(snapshot.control.drops["policy"], 3);
    assert_eq!((snapshot.data.delivered.packets, snapshot.links.len()), (0, 0));
}

#[test]
fn frames_that_no_port_may_have_are_counted() {
    let mut world = World::new(3);
    world.send(0, &numbered(0, 77, 0, 100));
    world.send(0, &numbered(0, 0, 0, 100));
    assert_eq!(world.drops("no_receiver"), 2);
    world.send(0, &numbered(0, 1, 0, 1600));
    assert_eq!(world.drops("mtu"), 1);
    world.send(0, &numbered(0, 1, 0, 1514));
    assert_eq!(world.arrivals.len(), 1);
    world.send(0, &numbered(0, 1, 0, 100)[..40]);
    assert_eq!(world.drops("malformed"), 1);
    // One on its way to a port that goes.
    world.shape(LinkShape { latency: Duration::from_millis(5), ..LinkShape::default() });
    world.send(0, &numbered(0, 2, 0, 100));
    world.fabric.detach(PortId(2)).unwrap();
    world.settle();
    assert_eq!(world.drops("receiver_gone"), 1);
    assert!(matches!(world.fabric.detach(PortId(2)), Err(SwitchError::NoSuchPort(PortId(2)))));
}

#[test]
fn what_can_not_be_attached_is_refused_by_name() {
    let mut world = World::new(2);
    let data = NetworkKind::Data(0);
    assert!(matches!(world.fabric.attach(&spec(1, data)), Err(SwitchError::PortTaken(PortId(1)))));
    let error = world.fabric.attach(&spec(5, NetworkKind::Data(3))).unwrap_err();
    assert!(matches!(error, SwitchError::NoSuchNetwork { index: 3, count: 1, .. }), "{error}");
    let mut thief = spec(6, data);
    thief.addresses = addresses(1);
    let error = world.fabric.attach(&thief).unwrap_err();
    assert_eq!(error.to_string(), "port `h[6]/default` can't have 16.0.0.3: `h[1]/default` has it");
    let mut tiny = spec(7, data);
    tiny.mtu = 60;
    assert!(matches!(world.fabric.attach(&tiny), Err(SwitchError::BadMtu { mtu: 60, .. })));
    // What was refused left nothing behind.
    world.fabric.attach(&spec(6, data)).unwrap();
    world.fabric.readdress(PortId(6), addresses(60)).unwrap();
    assert!(world.fabric.readdress(PortId(6), addresses(1)).is_err());
}

#[test]
fn every_decision_is_recorded() {
    let mut world = World::shaped(2, lossy());
    world.fabric.record();
    world.stream(2000, MILLI);
    let (lines, count) = world.fabric.take_decisions().unwrap();
    let lines: Vec<serde_json::Value> = lines
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(lines.len() as u64, count);
    let lost = lines.iter().filter(|l| l["fate"] == "loss").count() as u64;
    assert_eq!(lost, world.drops("loss"));
    let departs: Vec<_> = lines.iter().filter(|l| l["fate"] == "departs").collect();
    assert_eq!(departs.len(), world.arrivals.len());
    let mut due: Vec<u64> = departs.iter().map(|l| l["due"].as_u64().unwrap()).collect();
    due.sort_unstable();
    assert_eq!(due, world.arrivals.iter().map(|a| a.at).collect::<Vec<_>>());
    assert!(lines.iter().all(|l| l["from"] == "h[0]/default" && l["to"] == "h[1]/default"));
}

#[test]
fn codel_and_its_limit_work_on_super_packets() {
    let queue = Queue { limit: QueueLimit::Packets(100), discipline: Discipline::Codel };
    let shape = LinkShape { bandwidth: Some(12_112_000), queue, ..LinkShape::default() };
    let mut world = World::shaped(2, shape);
    for i in 0..10 {
        let (frame, vnet) = tcp_super(i * 45, 45);
        world.send_offloaded(0, &frame, vnet);
    }
    assert_eq!(world.drops("queue"), 350);
    world.settle();
    assert_eq!(world.arrivals.len() as u64 + world.drops("codel"), 100);
    // 1,514 bytes take a millisecond.
    assert!(world.arrivals.windows(2).all(|w| w[1].at - w[0].at == MILLI));
    assert_eq!(world.fabric.snapshot(0).memory.used, 0);
}

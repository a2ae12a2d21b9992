//! Packets that nothing is to be done to pass by the switch, and only those: what sockets, `ip` and the counters say.

mod lab_support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab_support::{Inside, PATIENCE, appear, default_network, instance, link, run};
use testground_model::run::Plane;
use testground_model::shape::{Chance, Filter, LinkShape, Loss};
use testground_model::topology::Endpoint;
use testground_sidecar::plan::Overlay;
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};
use testground_sidecar::show::LinkRow;

const NEAR: &str = "a[0]/default";
const FAR: &str = "a[1]/default";

/// Runs a test where there are shortcuts.
fn with_shortcuts<F: Future<Output = ()>>(test: &'static str, body: fn() -> F) {
    if lab_support::plane() == Plane::Switch {
        lab_support::only(test, PortKind::Auto, move |_| body());
    }
}

fn late(ms: u64) -> LinkShape {
    LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
}

/// A shape for what one instance of the group sends to another.
fn overlay(from: u32, to: u32, shape: LinkShape) -> Overlay {
    let end = |index| Endpoint::Instance(instance("a", index));
    Overlay {
        id: 0,
        from: end(from),
        to: end(to),
        both_ways: false,
        network: "default".to_owned(),
        shape: Arc::new(shape),
        schedule: None,
    }
}

async fn lab(count: u32) -> (LabNetwork, Vec<Inside>) {
    let lab = LabNetwork::start(&run(&[("a", count)], vec![default_network()]), PortKind::Auto).unwrap();
    let mut pods = Vec::new();
    for index in 0..count {
        pods.push(appear(&lab, "a", index).await);
    }
    (lab, pods)
}

/// A socket of an instance.
fn socket(pod: &Inside, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = pod.0.enter(move || UdpSocket::bind(SocketAddr::new(address, 7000))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[expect(clippy::disallowed_methods, reason = "packets and changes are to be spread over time")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until something is so, for a long time.
fn until(so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() && begun.elapsed() < PATIENCE {
        pause(Duration::from_millis(10));
    }
}

fn row(lab: &LabNetwork, from: &str, to: &str) -> Option<LinkRow> {
    lab.show().unwrap().links.into_iter().find(|l| l.from == from && l.to == to)
}

/// What the switch itself has passed on from one interface to the other.
fn by_the_switch(lab: &LabNetwork, from: &str, to: &str) -> u64 {
    let links = lab.switch().snapshot().unwrap().links;
    links.iter().find(|l| l.from == from && l.to == to).map_or(0, |l| l.delivered.packets)
}

#[test]
fn what_is_unshaped_passes_by_the_switch_and_is_counted_to_the_packet() {
    with_shortcuts("what_is_unshaped_passes_by_the_switch_and_is_counted_to_the_packet", || async {
        let (lab, pods) = lab(2).await;
        assert_eq!(lab.carrier(), "tap and veth");
        for (near, far, headers) in [("16.0.0.2", "16.0.0.3", 42), ("fd16::2", "fd16::3", 62)] {
            let before = row(&lab, NEAR, FAR).map(|l| l.delivered).unwrap_or_default();
            let (from, to) = (socket(&pods[0], near), socket(&pods[1], far));
            let target = to.local_addr().unwrap();
            for number in 0..500u32 {
                from.send_to(&[number.to_be_bytes(), [0; 4]].concat(), target).unwrap();
                let mut got = [0; 16];
                assert_eq!(to.recv(&mut got).unwrap(), 8);
                assert_eq!(got[..4], number.to_be_bytes());
            }
            let after = row(&lab, NEAR, FAR).unwrap();
            assert_eq!(after.delivered.packets - before.packets, 500, "{after:?}");
            assert_eq!(after.delivered.bytes - before.bytes, 500 * (8 + headers), "{after:?}");
            assert_eq!((after.sent, after.drops.len()), (after.delivered.packets, 0));
        }
        assert_eq!(by_the_switch(&lab, NEAR, FAR), 0);
        let shown = lab.show().unwrap();
        assert_eq!(shown.delivered.packets, 1000, "{shown:?}");
        let interface = |name: &str| shown.interfaces.iter().find(|i| i.name == name).unwrap();
        assert_eq!(interface(FAR).received.packets, 1000 + answers(&lab, FAR));
        let class = shown.classes.iter().find(|c| c.name == "unshaped").unwrap();
        assert_eq!(class.passed.packets, 1000);
    });
}

/// What the switch itself gave an interface: answers of its own are not counted, packets of others are.
fn answers(lab: &LabNetwork, name: &str) -> u64 {
    let ports = lab.switch().snapshot().unwrap().ports;
    ports.iter().find(|p| p.name == name).map_or(0, |p| p.received.packets)
}

#[test]
fn a_shape_holds_for_every_packet_from_the_moment_it_is_in_force() {
    with_shortcuts("a_shape_holds_for_every_packet_from_the_moment_it_is_in_force", || async {
        let (lab, pods) = lab(2).await;
        let (from, to) = (socket(&pods[0], "16.0.0.2"), socket(&pods[1], "16.0.0.3"));
        let (target, zero) = (to.local_addr().unwrap(), Instant::now());
        let stop = AtomicBool::new(false);
        // When each packet was sent and received, and between which moments the shape was in force for certain.
        let (sent, received, shaped) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut sent = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    sent.push(zero.elapsed());
                    from.send_to(&(sent.len() as u32 - 1).to_be_bytes(), target).unwrap();
                    pause(Duration::from_micros(200));
                }
                sent
            });
            let receiver = scope.spawn(|| {
                let mut received = Vec::new();
                let mut number = [0; 4];
                while to.recv(&mut number).is_ok() {
                    match u32::from_be_bytes(number) {
                        u32::MAX => break,
                        number => received.push((number as usize, zero.elapsed())),
                    }
                }
                received
            });
            let mut shaped = Vec::new();
            for round in 0..20 {
                pause(Duration::from_millis(15));
                lab.change(vec![overlay(0, 1, late(30 + round))], Vec::new()).unwrap();
                let from = zero.elapsed();
                pause(Duration::from_millis(15));
                shaped.push((from, zero.elapsed(), Duration::from_millis(30 + round)));
                lab.change(Vec::new(), Vec::new()).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            let sent = sender.join().unwrap();
            until(|| row(&lab, NEAR, FAR).is_some_and(|row| row.delivered.packets == sent.len() as u64));
            from.send_to(&u32::MAX.to_be_bytes(), target).unwrap();
            (sent, receiver.join().unwrap(), shaped)
        });
        let mut held = 0;
        for (number, at) in &received {
            // A packet sent between the two moments met the shape; one sent while it was being put in force may have.
            let sent = sent[*number];
            let met = shaped.iter().find(|(from, until, _)| *from < sent && sent < *until);
            if let Some((_, _, latency)) = met {
                held += 1;
                assert!(*at - sent >= *latency, "packet {number} came after {:?}", *at - sent);
            }
        }
        assert!(held > 20, "{held} of {} packets met a shape", received.len());
        assert_eq!(received.len(), sent.len(), "none is lost by the change");
        // And none is forgotten, on whichever way it went.
        let passed = row(&lab, NEAR, FAR).unwrap();
        assert_eq!(passed.delivered.packets, sent.len() as u64 + 1, "{passed:?}");
        let slow = by_the_switch(&lab, NEAR, FAR);
        assert!(slow >= held as u64 && slow < passed.delivered.packets, "{slow} of {passed:?}");
    });
}

#[test]
fn packets_that_passed_by_count_for_the_fate_of_later_ones() {
    with_shortcuts("packets_that_passed_by_count_for_the_fate_of_later_ones", || async {
        let mut fates = Vec::new();
        for ports in [PortKind::Auto, PortKind::Watched] {
            let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
            let pods = [appear(&lab, "a", 0).await, appear(&lab, "a", 1).await];
            let (from, to) = (socket(&pods[0], "16.0.0.2"), socket(&pods[1], "16.0.0.3"));
            let target = to.local_addr().unwrap();
            let mut arrived = Vec::new();
            for round in 0..3u8 {
                let shape = LinkShape { loss: Loss::Random(Chance::percent(50.0)), ..LinkShape::default() };
                let lossy = if round == 1 { vec![overlay(0, 1, shape)] } else { Vec::new() };
                lab.change(lossy, Vec::new()).unwrap();
                for number in 0..60u8 {
                    from.send_to(&[round, number], target).unwrap();
                    pause(Duration::from_micros(50));
                }
            }
            let passed = || row(&lab, NEAR, FAR).map_or((0, 0), |row| (row.sent, row.delivered.packets));
            until(|| passed().0 == 180);
            let mut got = [0; 2];
            while arrived.len() < passed().1 as usize && to.recv(&mut got).is_ok() {
                arrived.push(got);
            }
            let count = |round| arrived.iter().filter(|got| got[0] == round).count();
            assert_eq!((count(0), count(2)), (60, 60));
            assert!((10..50).contains(&count(1)), "{}", count(1));
            let slow = by_the_switch(&lab, NEAR, FAR);
            assert_eq!(slow < 100, ports == PortKind::Auto, "{slow}");
            arrived.sort_unstable();
            fates.push((arrived, row(&lab, NEAR, FAR).unwrap().sent));
        }
        assert_eq!(fates[0], fates[1]);
    });
}

#[test]
fn a_cut_holds_and_others_are_not_touched_by_it() {
    with_shortcuts("a_cut_holds_and_others_are_not_touched_by_it", || async {
        let (lab, pods) = lab(3).await;
        assert!(pods[0].reaches("16.0.0.3") && pods[0].reaches("fd16::3"));
        let cut = |filter| overlay(0, 1, LinkShape { filter, ..LinkShape::default() });
        lab.change(vec![cut(Filter::Drop)], Vec::new()).unwrap();
        assert!(pods[0].misses("16.0.0.3") && pods[0].misses("fd16::3"));
        assert!(pods[0].reaches("16.0.0.4") && pods[2].reaches("16.0.0.3"));
        lab.change(vec![cut(Filter::Reject)], Vec::new()).unwrap();
        let from = socket(&pods[0], "16.0.0.2");
        from.connect("16.0.0.3:7000").unwrap();
        from.send(b"refused").unwrap();
        let error = from.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
        lab.change(Vec::new(), Vec::new()).unwrap();
        assert!(pods[0].reaches("16.0.0.3") && pods[0].reaches("fd16::3"));
        let passed = by_the_switch(&lab, NEAR, "a[2]/default");
        assert_eq!(passed, 0, "others went on without the switch");
    });
}

#[test]
fn receivers_whose_addresses_end_alike_are_told_apart() {
    with_shortcuts("receivers_whose_addresses_end_alike_are_told_apart", || async {
        let (lab, pods) = lab(3).await;
        let alike = r#"{"network":"default","enable":true,"IPv4":"16.0.7.3/16","IPv6":"fd16::7:3/64"}"#;
        let alike = testground_sidecar::request::Request::read(alike.as_bytes()).unwrap();
        lab.apply(&instance("a", 2), alike).await.unwrap();
        let third = "a[2]/default";
        let passed = |to: &str| row(&lab, NEAR, to).map_or(0, |row| row.delivered.packets);
        let before = (passed(FAR), passed(third));
        for (near, far, other) in [("16.0.0.2", "16.0.0.3", "16.0.7.3"), ("fd16::2", "fd16::3", "fd16::7:3")]
        {
            let (from, to, third) = (socket(&pods[0], near), socket(&pods[1], far), socket(&pods[2], other));
            for (receiver, count) in [(&to, 3), (&third, 5)] {
                for _ in 0..count {
                    from.send_to(b"for one", receiver.local_addr().unwrap()).unwrap();
                    receiver.recv(&mut [0; 8]).unwrap();
                }
            }
        }
        assert_eq!((passed(FAR) - before.0, passed(third) - before.1), (6, 10));
        let by_switch = [FAR, third].map(|to| by_the_switch(&lab, NEAR, to));
        assert_eq!(by_switch, [0, 0]);
        let cut = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        lab.change(vec![overlay(0, 2, cut)], Vec::new()).unwrap();
        for (near, other) in [("16.0.0.3", "16.0.7.3"), ("fd16::3", "fd16::7:3")] {
            assert!(pods[0].reaches(near) && pods[0].misses(other));
        }
        lab.change(Vec::new(), Vec::new()).unwrap();
        assert!(pods[0].reaches("16.0.7.3") && pods[0].reaches("fd16::7:3"));
    });
}

#[test]
fn a_packet_by_way_of_another_instance_goes_there() {
    with_shortcuts("a_packet_by_way_of_another_instance_goes_there", || async {
        let (lab, pods) = lab(3).await;
        pods[0].stdout("ip route add 16.0.0.4/32 via 16.0.0.3 dev data");
        let from = socket(&pods[0], "16.0.0.2");
        for _ in 0..20 {
            from.send_to(b"by another", "16.0.0.4:7000").unwrap();
        }
        let seen = || row(&lab, NEAR, FAR).map_or(0, |l| l.delivered.packets);
        until(|| seen() == 20);
        assert_eq!((seen(), row(&lab, NEAR, "a[2]/default").map_or(0, |l| l.sent)), (20, 0));
        let arrived = pods[1].json("ip -j -s link show dev data");
        assert!(arrived[0]["stats64"]["rx"]["packets"].as_u64().unwrap() >= 20, "{arrived}");
    });
}

#[test]
fn neighbours_are_found_whichever_direction_is_shaped() {
    with_shortcuts("neighbours_are_found_whichever_direction_is_shaped", || async {
        let (lab, pods) = lab(2).await;
        lab.change(vec![overlay(1, 0, late(5))], Vec::new()).unwrap();
        for address in ["16.0.0.3", "fd16::3"] {
            assert!(pods[0].reaches(address));
            let mac = pods[1].json("ip -j link show dev data")[0]["address"].as_str().unwrap().to_owned();
            // Asks the neighbour itself, not everybody.
            pods[0].stdout(&format!("ip neigh replace {address} lladdr {mac} dev data nud probe"));
            let state =
                || pods[0].json(&format!("ip -j neigh show {address} dev data"))[0]["state"].to_string();
            until(|| state().contains("REACHABLE"));
            assert!(state().contains("REACHABLE"), "{address}: {}", state());
        }
    });
}

#[test]
fn there_are_none_where_they_are_of_no_use() {
    with_shortcuts("there_are_none_where_they_are_of_no_use", || async {
        let carrier = |count, shaped: bool, ports| {
            let mut run = run(&[("a", count)], vec![default_network()]);
            run.links = if shaped { vec![link("a", "a", true, late(1))] } else { vec![] };
            LabNetwork::start(&run, ports).unwrap().carrier()
        };
        assert_eq!(carrier(64, false, PortKind::Auto), "tap and veth");
        assert_eq!(carrier(65, false, PortKind::Auto), "tap");
        assert_eq!(carrier(2, true, PortKind::Auto), "tap");
        assert_eq!(carrier(2, false, PortKind::Watched), "tap");
    });
}

#[test]
fn what_a_receiver_does_not_get_is_told_by_link_on_whichever_way_it_went() {
    with_shortcuts("what_a_receiver_does_not_get_is_told_by_link_on_whichever_way_it_went", || async {
        // By its own hands, and by asking for it; shaped, and not.
        for (asks, shaped) in [(false, true), (true, true), (false, false), (true, false)] {
            let (lab, pods) = lab(2).await;
            let changes = if shaped { vec![overlay(0, 1, late(5))] } else { Vec::new() };
            lab.change(changes, Vec::new()).unwrap();
            let (from, to) = (socket(&pods[0], "16.0.0.2"), socket(&pods[1], "16.0.0.3"));
            from.send_to(b"0", "16.0.0.3:7000").unwrap();
            to.recv(&mut [0; 8]).unwrap();
            for number in 0..300 {
                if number == 100 && asks {
                    let off = br#"{"network":"default","enable":false}"#;
                    let off = testground_sidecar::request::Request::read(off).unwrap();
                    lab.apply(&instance("a", 1), off).await.unwrap();
                } else if number == 100 {
                    pods[1].stdout("ip link set data down");
                }
                from.send_to(b"1", "16.0.0.3:7000").unwrap();
                pause(Duration::from_micros(200));
            }
            let row = || row(&lab, NEAR, FAR).unwrap();
            until(|| row().delivered.packets + row().drops.values().sum::<u64>() >= 301);
            let row = row();
            to.set_nonblocking(true).unwrap();
            let got = 1 + std::iter::from_fn(|| to.recv(&mut [0; 8]).ok()).count() as u64;
            let dropped: u64 = row.drops.values().sum();
            assert_eq!(
                (row.sent, row.delivered.packets, dropped),
                (301, got, 301 - got),
                "{asks} {shaped}: {row:?}"
            );
            assert!((2..=101).contains(&got), "{asks} {shaped}: {got}");
        }
    });
}

#[test]
fn what_a_receiver_that_is_down_does_not_get_is_no_delivery() {
    with_shortcuts("what_a_receiver_that_is_down_does_not_get_is_no_delivery", || async {
        let (lab, pods) = lab(2).await;
        assert!(pods[0].reaches("16.0.0.3"));
        let before = lab.show().unwrap().delivered.packets;
        pods[1].stdout("ip link set data down");
        let from = socket(&pods[0], "16.0.0.2");
        for _ in 0..50 {
            from.send_to(b"nobody is in", "16.0.0.3:7000").unwrap();
        }
        let down = || lab.show().unwrap().drops.get("receiver_down").copied().unwrap_or_default();
        until(|| down() >= 50);
        assert_eq!((down(), lab.show().unwrap().delivered.packets), (50, before));
        let lost = row(&lab, NEAR, FAR).unwrap();
        assert_eq!((lost.sent - lost.delivered.packets, lost.drops["receiver_down"]), (50, 50), "{lost:?}");
    });
}

//! Frames that an instance should not send, through a whole switch: each is counted, none crashes, stalls or leaks, and who sends
//! properly goes on as if nothing had been. What `fuzz/` does without end is done here for a few thousand frames.

mod switch_virtual;

use std::time::Duration;

use proptest::prelude::*;
use switch_virtual::{MILLI, World, numbered, numbered6};
use testground_model::shape::{Chance, Discipline, LinkShape, Loss, Queue};
use testground_sidecar::plan::PortId;
use testground_sidecar::plane::switch::packet::VnetHeader;
use testground_sidecar::plane::switch::table::mac_of;

/// Every effect at once.
fn everything(discipline: Discipline) -> LinkShape {
    let some = Chance { percent: 10.0, correlation: 20.0 };
    LinkShape {
        latency: Duration::from_millis(3),
        bandwidth: Some(50_000_000),
        queue: Queue { discipline, ..Queue::default() },
        loss: Loss::Random(some),
        corrupt: some,
        duplicate: some,
        reorder: some,
        ..LinkShape::default()
    }
}

/// Puts the frame into the switch with this offload header, as its kernel would hand it over.
fn send(world: &mut World, frame: &[u8], vnet: [u8; 10]) {
    world.fabric.scratch()[..frame.len()].copy_from_slice(frame);
    let now = world.now;
    world.fabric.ingress(0, frame.len(), VnetHeader::decode(&vnet), now, &mut |_| Ok(()));
}

/// What the switch has counted of what port 0 sent: frames, those dropped, and those that took no link.
fn counted(world: &World) -> (u64, u64) {
    let snapshot = world.fabric.snapshot(world.now);
    let port = &snapshot.ports[0];
    (port.sent.packets, port.drops.values().sum())
}

/// A frame of the kinds that are seen on a wire and are not plain packets: the part behind the addresses.
fn odd() -> Vec<(&'static str, Vec<u8>)> {
    let ipv4 = |options: &[u8], fragment: u16, payload: usize| {
        let header = 20 + options.len();
        let mut ip = vec![0x40 | (header / 4) as u8, 0];
        ip.extend_from_slice(&((header + payload) as u16).to_be_bytes());
        ip.extend_from_slice(&[0, 1]);
        ip.extend_from_slice(&fragment.to_be_bytes());
        ip.extend_from_slice(&[64, 17, 0, 0, 16, 0, 0, 2, 16, 0, 0, 3]);
        ip.extend_from_slice(options);
        ip.resize(header + payload, 7);
        [&[8, 0], &ip[..]].concat()
    };
    let tagged = |tags: usize| [&[0x81, 0, 0, 7].repeat(tags)[..], &ipv4(&[], 0, 30)].concat();
    vec![
        ("options", ipv4(&[1; 40], 0, 30)),
        ("first fragment", ipv4(&[], 0x2000, 64)),
        ("later fragment", ipv4(&[], 0x2008, 64)),
        ("jumbo", ipv4(&[], 0, 8_900)),
        ("one tag", tagged(1)),
        ("four tags", tagged(4)),
        ("nine tags", tagged(9)),
        ("not IP", [&[0x88, 0xcc][..], &[5; 60]].concat()),
        ("an 802.3 length", [&[0, 60][..], &[5; 60]].concat()),
    ]
}

#[test]
fn every_truncated_and_every_odd_frame_is_counted_once() {
    let addresses = [mac_of(PortId(1)), mac_of(PortId(0))].concat();
    let mut frames: Vec<(String, Vec<u8>)> =
        odd().into_iter().map(|(name, rest)| (name.to_owned(), [&addresses[..], &rest].concat())).collect();
    frames.push(("IPv4".to_owned(), numbered(0, 1, 0, 100)));
    frames.push(("IPv6".to_owned(), numbered6(0, 1, 0, 100)));
    for (name, frame) in frames {
        let mut world = World::new(2);
        for length in 0..=frame.len().min(200) {
            send(&mut world, &frame[..length], [0; 10]);
        }
        send(&mut world, &frame, [0; 10]);
        let (sent, dropped) = counted(&world);
        let snapshot = world.fabric.snapshot(world.now);
        let delivered = snapshot.data.delivered.packets;
        assert_eq!(sent, frame.len().min(200) as u64 + 2, "{name}");
        assert_eq!(delivered + dropped, sent, "{name}: {:?}", snapshot.ports[0].drops);
        assert!(snapshot.data.drops["malformed"] >= 14, "{name}: less than an Ethernet header is no frame");
        match name.as_str() {
            "jumbo" => assert!(snapshot.data.drops["mtu"] > 0),
            "one tag" | "four tags" => assert!(snapshot.kinds["vlan"] > 0),
            "first fragment" | "later fragment" => assert!(snapshot.kinds["fragment"] > 0),
            "options" => assert!(snapshot.kinds["ip_options"] > 0),
            "not IP" => assert!(snapshot.kinds["not_ip"] > 0),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damage_leaves_nothing_behind(
        damage in prop::collection::vec(
            (any::<[u8; 10]>(), any::<prop::sample::Index>(), prop::collection::vec((12usize..100, any::<u8>()), 0..6), 0u64..3_000_000),
            1..120,
        ),
        codel: bool,
    ) {
        let discipline = if codel { Discipline::Codel } else { Discipline::TailDrop };
        let mut world = World::shaped(3, everything(discipline));
        for (i, (vnet, cut, bytes, wait)) in damage.iter().enumerate() {
            world.advance(world.now + wait);
            let mut frame = if i % 2 == 0 { numbered(0, 1, 0, 1400) } else { numbered6(0, 1, 0, 1400) };
            for (at, value) in bytes {
                frame[*at] = *value;
            }
            let length = if i % 3 == 0 { cut.index(frame.len()) } else { frame.len() };
            // Each other one without an offload header, so that not all of them end there.
            send(&mut world, &frame[..length], if i % 4 < 2 { *vnet } else { [0; 10] });
        }
        world.settle();
        let snapshot = world.fabric.snapshot(world.now);
        prop_assert_eq!((snapshot.memory.used, snapshot.waiting), (0, 0));
        // Somebody else's packets meet the fate that they always meet.
        let fate = |world: &mut World| {
            world.arrivals.clear();
            let begin = world.now;
            for number in 0..50 {
                world.advance(begin + number * MILLI);
                world.send(2, &numbered(2, 1, number, 500));
            }
            world.settle();
            world.arrivals.iter().map(|a| (a.frame.clone(), a.at - begin)).collect::<Vec<_>>()
        };
        let mut undisturbed = World::shaped(3, everything(discipline));
        prop_assert_eq!(fate(&mut world), fate(&mut undisturbed));
    }
}

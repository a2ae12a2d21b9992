//! One interface on the kernel's plane, asked of `tc` and `ip` and by traffic: on this machine's kernel, whose netem may be
//! missing, and in a guest's that has it (`planes.rs`).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lab_support::cable::{Cable, cut, narrow, output, wanted};
use lab_support::{PATIENCE, first_in_line, once};
use testground_linux::route::{Change, RouteSocket};
use testground_linux::tc::TcSocket;
use testground_linux::udp::UdpSocket;
use testground_model::shape::{Filter, LinkShape};
use testground_sidecar::plane::kernel::{Abilities, ClassKey, Interface, KernelError, Others, unsupported};

mod lab_support;

#[test]
fn what_is_wanted_is_what_tc_shows_and_the_same_again_is_nothing() {
    once("what_is_wanted_is_what_tc_shows_and_the_same_again_is_nothing", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        assert_eq!(interface.apply(&wanted(LinkShape::default(), &[])).unwrap(), 0, "nothing is nothing");
        let first = wanted(narrow(50), &[("10.0.0.3/32", narrow(10)), ("10.0.0.4/31", cut(Filter::Drop))]);
        assert!(interface.apply(&first).unwrap() > 0);
        assert_eq!(interface.apply(&first).unwrap(), 0);

        let qdiscs: serde_json::Value = serde_json::from_str(&output("tc -j -s qdisc show dev a")).unwrap();
        let mut kinds: Vec<&str> =
            qdiscs.as_array().unwrap().iter().map(|q| q["kind"].as_str().unwrap()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["blackhole", "htb", "pfifo", "pfifo", "tbf"]);
        assert_eq!((qdiscs[0]["handle"].as_str(), qdiscs[0]["root"].as_bool()), (Some("7467:"), Some(true)));
        let classes = output("tc class show dev a");
        for rate in ["50Mbit", "10Mbit"] {
            assert!(classes.contains(&format!(" rate {rate} ceil {rate} ")), "{classes}");
        }
        let filters: serde_json::Value =
            serde_json::from_str(&output("tc -j filter show dev a parent 7468:")).unwrap();
        assert!(filters.to_string().contains("\"kind\":\"bpf\""), "{filters}");

        for last in [2, 3, 3, 4, 5, 5, 5] {
            cable.send(last).unwrap();
        }
        let counted = interface.counters().unwrap().classes;
        let of = |key| {
            let (_, stats) = counted.get(&key).unwrap_or_else(|| panic!("{key:?} in {counted:?}"));
            (stats.packets, stats.drops)
        };
        assert_eq!(of(ClassKey::Default), (1, 0));
        assert_eq!(of(ClassKey::Rule(0)), (2, 0));
        assert_eq!(of(ClassKey::Rule(1)), (0, 4));

        // A changed rule touches its class only.
        let changed = wanted(narrow(50), &[("10.0.0.3/32", narrow(20)), ("10.0.0.4/31", cut(Filter::Drop))]);
        assert_eq!(interface.apply(&changed).unwrap(), 2, "the class, and the length of its queue");
        assert_eq!(interface.counters().unwrap().classes[&ClassKey::Rule(0)].1.packets, 2);

        // Without the rule its host is in the default class; what passed the rule's is not forgotten.
        interface.apply(&wanted(narrow(50), &[("10.0.0.4/31", cut(Filter::Drop))])).unwrap();
        cable.send(3).unwrap();
        let counted = interface.counters().unwrap().classes;
        assert_eq!(counted[&ClassKey::Default].1.packets, 2, "{counted:?}");
        assert!(!output("tc class show dev a").contains("20Mbit"));

        interface.clear().unwrap();
        assert!(!output("tc qdisc show dev a").contains("7467:"), "{}", output("tc qdisc show dev a"));
    });
}

#[test]
fn a_sidecar_that_starts_again_adopts_what_is_in_force() {
    once("a_sidecar_that_starts_again_adopts_what_is_in_force", || {
        let cable = Cable::new();
        let mut first = cable.adopt(Others::Leave).unwrap();
        let rules =
            |n: u64| wanted(narrow(n), &[("10.0.0.3/32", narrow(10)), ("10.0.0.4/32", cut(Filter::Reject))]);
        // Several changes, so that classes are not where a fresh start would put them.
        first.apply(&wanted(LinkShape::default(), &[("10.0.0.9/32", narrow(1))])).unwrap();
        first.apply(&rules(50)).unwrap();
        let before = (
            output("tc qdisc show dev a"),
            output("tc class show dev a"),
            output("tc filter show dev a parent 7468:"),
        );
        drop(first);
        let mut second = cable.adopt(Others::Leave).unwrap();
        assert_eq!(second.apply(&rules(50)).unwrap(), 0, "all of it is there");
        let after = (
            output("tc qdisc show dev a"),
            output("tc class show dev a"),
            output("tc filter show dev a parent 7468:"),
        );
        assert_eq!(before, after);
        assert_eq!(second.apply(&rules(60)).unwrap(), 2);
    });
}

#[test]
fn rejected_destinations_are_refused_at_once_and_dropped_ones_are_not() {
    once("rejected_destinations_are_refused_at_once_and_dropped_ones_are_not", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let rules = [
            ("10.0.0.4/30", cut(Filter::Reject)),
            ("10.0.0.6/32", narrow(10)),
            ("10.0.0.9/32", cut(Filter::Drop)),
        ];
        interface.apply(&wanted(LinkShape::default(), &rules)).unwrap();
        let refused = |last| cable.send(last).err().map(|e| e.raw_os_error().unwrap());
        assert_eq!(
            [4, 5, 6, 7, 8, 9].map(refused),
            [Some(13), Some(13), None, Some(13), None, None],
            "EACCES"
        );
        let routes = output("ip route show");
        assert!(routes.contains("prohibit 10.0.0.4/30 ") && routes.contains("10.0.0.6 dev a "), "{routes}");
        interface.apply(&wanted(cut(Filter::Reject), &[("10.0.0.6/32", narrow(10))])).unwrap();
        assert_eq!([2, 6, 9].map(refused), [Some(13), None, Some(13)]);
        interface.apply(&wanted(LinkShape::default(), &[])).unwrap();
        assert_eq!([2, 4, 6, 9].map(refused), [None; 4]);
        assert!(!output("ip route show").contains("prohibit"));
    });
}

#[test]
fn another_program_s_queue_is_left_alone_and_named_or_replaced_when_told() {
    once("another_program_s_queue_is_left_alone_and_named_or_replaced_when_told", || {
        let cable = Cable::new();
        output("tc qdisc add dev a root handle 5: pfifo limit 7");
        let refused = cable.adopt(Others::Leave).unwrap_err().to_string();
        assert!(refused.contains("pfifo 5:") && refused.contains("tc qdisc del dev a root"), "{refused}");
        assert!(output("tc qdisc show dev a").contains("pfifo 5:"));
        let mut interface = cable.adopt(Others::Replace).unwrap();
        interface.apply(&wanted(narrow(10), &[])).unwrap();
        assert!(!output("tc qdisc show dev a").contains("pfifo 5:"));
    });
}

#[test]
fn a_link_that_is_cut_and_healed_keeps_its_counts() {
    once("a_link_that_is_cut_and_healed_keeps_its_counts", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let to_three = |shape| wanted(LinkShape::default(), &[("10.0.0.3/32", shape)]);
        for shape in [narrow(10), cut(Filter::Drop), narrow(10)] {
            interface.apply(&to_three(shape)).unwrap();
            cable.send(3).expect("whether it is dropped is not told");
        }
        let (_, stats) = interface.counters().unwrap().classes[&ClassKey::Rule(0)].clone();
        assert_eq!((stats.packets, stats.drops), (2, 1));
        let mut again = cable.adopt(Others::Leave).unwrap();
        assert_eq!(again.apply(&to_three(narrow(10))).unwrap(), 0);
        assert!(again.apply(&to_three(cut(Filter::Drop))).unwrap() > 0);
        cable.send(3).unwrap();
        assert_eq!(again.counters().unwrap().classes[&ClassKey::Rule(0)].1.drops, 1);
    });
}

#[test]
fn four_thousand_rules_are_one_interface_s_and_all_of_them_hold() {
    once("four_thousand_rules_are_one_interface_s_and_all_of_them_hold", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let host = |n: u32| format!("10.1.{}.{}/32", n / 128, n % 128 * 2);
        let rules: Vec<(String, LinkShape)> =
            (0..4096).map(|n| (host(n), narrow(u64::from(n % 7) + 1))).collect();
        let rules: Vec<(&str, LinkShape)> =
            rules.iter().map(|(net, shape)| (net.as_str(), shape.clone())).collect();
        let many = wanted(LinkShape::default(), &rules);
        interface.apply(&many).unwrap();
        assert_eq!(interface.apply(&many).unwrap(), 0);
        let mut again = cable.adopt(Others::Leave).unwrap();
        assert_eq!(again.apply(&many).unwrap(), 0, "read back whole");
        let socket = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
        let (index, mut route) = (cable.index, RouteSocket::open().unwrap());
        for n in [0u32, 1, 2047, 4095] {
            let net: IpNet = host(n).parse().unwrap();
            route
                .apply(&[Change::SetNeighbour { index, address: net.addr(), mac: [2, 0, 0, 0, 0, 2] }])
                .unwrap();
            socket.send_to(&[0; 100], (net.addr(), 9).into()).unwrap();
            let counted = interface.counters().unwrap().classes;
            assert_eq!(counted[&ClassKey::Rule(n)].1.packets, 1, "{net}");
        }
    });
}

#[test]
fn an_interface_that_vanishes_or_is_renamed_is_told_by_name() {
    once("an_interface_that_vanishes_or_is_renamed_is_told_by_name", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        interface.apply(&wanted(narrow(10), &[])).unwrap();
        output("ip link set dev a down");
        output("ip link set dev a name other");
        interface.apply(&wanted(narrow(20), &[])).expect("it is known by its number");
        assert!(output("tc class show dev other").contains("20Mbit"));
        output("ip link del dev other");
        let gone = interface.apply(&wanted(narrow(30), &[])).unwrap_err();
        assert!(matches!(gone, KernelError::Vanished { .. }), "{gone}");
        assert_eq!(gone.to_string(), "interface a has vanished");
        assert!(matches!(interface.counters(), Err(KernelError::Vanished { .. })));
        assert!(matches!(cable.adopt(Others::Leave), Err(KernelError::Vanished { .. }) | Ok(_)));
    });
}

#[test]
fn what_the_kernel_refuses_is_undone() {
    once("what_the_kernel_refuses_is_undone", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let before = wanted(narrow(50), &[("10.0.0.3/32", narrow(10))]);
        interface.apply(&before).unwrap();
        let shown = || {
            (
                output("tc qdisc show dev a"),
                output("tc class show dev a"),
                output("tc filter show dev a parent 7468:"),
            )
        };
        let there = shown();
        // Somebody else's class stands where the next one is to be.
        output("tc class add dev a parent 7468: classid 7468:3 htb rate 1mbit");
        let next = wanted(narrow(40), &[("10.0.0.3/32", narrow(20)), ("10.0.0.4/32", narrow(30))]);
        let refused = interface.apply(&next).unwrap_err();
        assert!(matches!(refused, KernelError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains("add class 7468:3"), "{refused}");
        assert_eq!(shown(), there, "as it was; what nobody knows of is gone");
        assert_eq!(interface.apply(&before).unwrap(), 0);
        interface.apply(&next).unwrap();
        assert!(output("tc class show dev a").contains("30Mbit"));
    });
}

#[test]
fn answers_that_the_kernel_drops_undo_the_change_and_the_next_one_goes_slowly() {
    once("answers_that_the_kernel_drops_undo_the_change_and_the_next_one_goes_slowly", || {
        let cable = Cable::new();
        let (tc, route) = (TcSocket::open().unwrap(), RouteSocket::open().unwrap());
        let socket = tc.as_fd().try_clone_to_owned().unwrap();
        let mut interface = Interface::adopt("a", cable.index, tc, route, Others::Leave).unwrap();
        let before = wanted(narrow(50), &[("10.0.0.3/32", narrow(10))]);
        interface.apply(&before).unwrap();
        let queues = || (output("tc qdisc show dev a"), output("tc class show dev a"));
        let there = queues();
        // Room for some three answers.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1).unwrap();
        let hosts: Vec<String> = (0..100).map(|n| format!("10.0.1.{n}/32")).collect();
        let rules: Vec<(&str, LinkShape)> = hosts.iter().map(|host| (host.as_str(), narrow(7))).collect();
        let many = wanted(narrow(40), &rules);
        let refused = interface.apply(&many).unwrap_err();
        assert!(matches!(refused, KernelError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains("ENOBUFS"), "{refused}");
        assert_eq!(queues(), there);
        assert_eq!(interface.apply(&before).unwrap(), 0);
        assert!(interface.apply(&many).unwrap() > 200);
        assert_eq!(output("tc class show dev a").matches("rate 7Mbit").count(), 100);
    });
}

#[test]
fn a_class_that_somebody_else_has_a_use_for_is_busy_and_all_stays_as_it_was() {
    once("a_class_that_somebody_else_has_a_use_for_is_busy_and_all_stays_as_it_was", || {
        let cable = Cable::new();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let before = wanted(narrow(50), &[("10.0.0.3/32", narrow(10))]);
        interface.apply(&before).unwrap();
        let second =
            "tc filter add dev a parent 7468: prio 9 protocol ip u32 match ip dst 10.9.9.9/32 flowid 7468:2";
        output(second);
        let queues = || (output("tc qdisc show dev a"), output("tc class show dev a"));
        let there = queues();
        let busy = interface.apply(&wanted(narrow(50), &[])).unwrap_err();
        assert!(busy.to_string().contains("delete class 7468:2"), "{busy}");
        assert!(std::error::Error::source(&busy).is_some_and(|source| source.to_string().contains("7468:2")));
        assert_eq!(queues(), there);
        assert_eq!(interface.apply(&before).unwrap(), 0);
        cable.send(3).unwrap();
        assert_eq!(interface.counters().unwrap().classes[&ClassKey::Rule(0)].1.packets, 1);
    });
}

#[test]
fn a_kernel_without_netem_is_told_by_the_module_that_is_missing() {
    once("a_kernel_without_netem_is_told_by_the_module_that_is_missing", || {
        let abilities = Abilities::probe().unwrap();
        assert_eq!(abilities.shortfall(false), Vec::<String>::new());
        let late = LinkShape { latency: Duration::from_millis(10), ..LinkShape::default() };
        output("ip link add probe type veth peer name probed");
        let netem = std::process::Command::new("tc")
            .args("qdisc add dev probe root netem delay 1ms".split(' '))
            .output();
        let has_netem = netem.unwrap().status.success();
        let why = unsupported(&late, &abilities);
        assert_eq!(why.is_none(), has_netem, "{why:?}");
        if let Some(why) = why {
            assert!(why.contains("modprobe sch_netem"), "{why}");
            assert_eq!(abilities.shortfall(true).len(), 1 + 1, "netem, and its rate");
        }
        assert_eq!(unsupported(&narrow(10), &abilities), None);
    });
}

/// The rates of HTB by itself (5 Gbit/s is for the benches): what arrives in a second of a stream of datagrams, as the receiver counts.
#[test]
fn classes_without_netem_hold_their_rates() {
    first_in_line("classes_without_netem_hold_their_rates", || {
        let cable = Arc::new(Cable::new());
        let mut interface = cable.adopt(Others::Leave).unwrap();
        for mbit in [1, 10, 100] {
            interface.apply(&wanted(narrow(mbit), &[])).unwrap();
            let asked = mbit as f64;
            let (begun, mut measured) = (std::time::Instant::now(), Vec::new());
            // On a machine that is busy with something else a sender is late and has less, or the class is, and has more for a
            // moment, from what it saved up. A wrong rate is wrong every time.
            loop {
                measured.push(rate(&cable) / 1e6);
                if measured.last().is_some_and(|found| (asked * 0.90..asked * 1.03).contains(found)) {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{measured:.2?} Mbit/s instead of {asked}");
            }
        }
    });
}

/// Bits a second that reach the other end, after what the burst lets through at once.
fn rate(cable: &Cable) -> f64 {
    let far = cable.there.enter(|| UdpSocket::bind("10.0.0.2:9".parse().unwrap())).unwrap().unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&far, 8 << 20).ok();
    let near = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
    let (begun, mut arrivals) = (std::time::Instant::now(), Vec::new());
    let mut buffer = [0; 2000];
    while begun.elapsed() < Duration::from_millis(300) {
        for _ in 0..8 {
            let _ = near.send_to(&[0; 1458], "10.0.0.2:9".parse().unwrap());
        }
        while let Ok(Some(datagram)) = far.receive(&mut buffer) {
            arrivals.push(datagram.arrival.unwrap());
        }
    }
    // The second half: the burst is used up.
    let (first, last) = (arrivals[arrivals.len() / 2], arrivals[arrivals.len() - 1]);
    (arrivals.len() - arrivals.len() / 2 - 1) as f64 * 1500.0 * 8.0 / (last - first).as_secs_f64()
}

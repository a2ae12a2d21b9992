//! Qdiscs, classes and filters in force: what this kernel carries out, seen by `tc -j -s` and by traffic. The kernel has netem or
//! not; both are cases.

mod common;

use std::time::Duration;

use common::{Who, in_lab, output};
use serde_json::Value;
use testground_linux::Errno;
use testground_linux::netns::Netns;
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tc::{
    self, Ability, Action, BpfInstruction, Filter, Handle, Htb, HtbClass, Loss, Netem, Protocol, Qdisc,
    Settings, Share, Slot, Target, TcChange, TcSocket, U32Bucket, U32Key, U32Target,
};
use testground_linux::udp::UdpSocket;

const BOTH: [Who; 2] = [Who::Me, Who::NobodyWithoutTun];
const TREE: Handle = Handle::new(1, 0);

/// What `tc -j` says.
fn show(arguments: &str) -> Value {
    let arguments: Vec<&str> = ["-j", "-s", "-d"].into_iter().chain(arguments.split_whitespace()).collect();
    let text = output("tc", &arguments);
    if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
}

fn class(minor: u16) -> Handle {
    Handle::new(1, minor)
}

/// Interface `a` of this namespace, 10.0.0.1, joined to 10.0.0.2 (and all of 10.0.0.0/8) in another one.
struct Cable {
    a: u32,
    there: Netns,
    tc: TcSocket,
}

impl Cable {
    fn new() -> Self {
        let there = Netns::create().unwrap();
        let (mut near, mut far) = (RouteSocket::open().unwrap(), RouteSocket::open_in(&there).unwrap());
        let other = VethEnd { netns: Some(&there), mac: Some([2, 0, 0, 0, 0, 2]), ..VethEnd::new("b") };
        near.apply(&[Change::CreateVeth {
            one: VethEnd { mac: Some([2, 0, 0, 0, 0, 1]), ..VethEnd::new("a") },
            other,
        }])
        .unwrap();
        let a = near.link("a").unwrap().unwrap().index;
        let b = far.link("b").unwrap().unwrap().index;
        let net = |text: &str| text.parse().unwrap();
        let quiet = |index| {
            Change::Link(LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) })
        };
        near.apply(&[quiet(a), Change::AddAddress { index: a, address: net("10.0.0.1/8") }]).unwrap();
        far.apply(&[quiet(b), quiet(1), Change::AddAddress { index: b, address: net("10.0.0.2/8") }])
            .unwrap();
        // Nobody has to ask for an address, so no packet passes that the test did not send.
        let here = Change::SetNeighbour { index: b, address: [10, 0, 0, 1].into(), mac: [2, 0, 0, 0, 0, 1] };
        far.apply(&[here]).unwrap();
        for last in 2..10u8 {
            let address = [10, 0, 0, last].into();
            near.apply(&[Change::SetNeighbour { index: a, address, mac: [2, 0, 0, 0, 0, 2] }]).unwrap();
        }
        near.await_running(a, Duration::from_secs(120)).unwrap();
        far.await_running(b, Duration::from_secs(120)).unwrap();
        Self { a, there, tc: TcSocket::open().unwrap() }
    }

    fn apply(&mut self, actions: Vec<Action>) {
        let index = self.a;
        let changes: Vec<TcChange> = actions.into_iter().map(|action| TcChange { index, action }).collect();
        self.tc.apply(&changes).unwrap();
    }

    /// One datagram to an address that nobody needs to have.
    fn send(&self, last: u8) {
        let socket = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
        socket.send_to(&[0; 100], format!("10.0.0.{last}:9").parse().unwrap()).unwrap();
    }

    /// Packets that have left each class so far, by its minor number.
    fn passed(&mut self, minor: u16) -> u64 {
        let found = self.tc.classes(self.a).unwrap();
        let class = found.iter().find(|found| found.handle == class(minor)).expect("a class of that number");
        class.stats.packets
    }
}

fn tree(default_class: u32) -> Action {
    let qdisc = Qdisc::Htb(Htb { default_class, ..Htb::default() });
    Action::AddQdisc { parent: Handle::ROOT, handle: TREE, qdisc }
}

fn leaf(minor: u16, rate: u64) -> Action {
    Action::AddClass { parent: TREE, handle: class(minor), class: HtbClass::of_rate(rate) }
}

fn to(minor: u16) -> U32Target {
    U32Target::Is(Target::Class(class(minor)))
}

/// Whether an ability is there, as `tc` itself finds: it is not the code under test.
fn has(kind: &str, tc: &str) -> bool {
    let script =
        format!("ip link add x type veth peer name y && tc qdisc add dev x root handle 1: htb && tc {tc}");
    let status = std::process::Command::new("unshare").args(["-Urn", "sh", "-c", &script]).output().unwrap();
    let works = status.status.success();
    if !works {
        eprintln!("this kernel has no {kind}");
    }
    works
}

#[test]
fn abilities_are_those_that_tc_finds() {
    let commands = [
        (Ability::Htb, "class add dev x parent 1: classid 1:1 htb rate 1mbit"),
        (Ability::Netem, "qdisc replace dev x root netem delay 1ms"),
        (Ability::NetemRate, "qdisc replace dev x root netem rate 1mbit"),
        (Ability::Clsact, "qdisc add dev x clsact"),
        (
            Ability::U32,
            "filter add dev x parent 1: protocol ip prio 1 u32 match ip dst 10.0.0.0/8 flowid 1:1",
        ),
        (
            Ability::Flower,
            "filter add dev x parent 1: protocol ip prio 1 flower dst_ip 10.0.0.0/8 classid 1:1",
        ),
        (Ability::Bpf, "filter add dev x parent 1: prio 1 bpf bytecode '1,6 0 0 0' flowid 1:1"),
        (Ability::MatchAll, "filter add dev x parent 1: prio 1 matchall classid 1:1"),
        (
            Ability::Mirred,
            "filter add dev x parent 1: prio 1 u32 match u32 0 0 action mirred egress redirect dev y",
        ),
    ];
    in_lab("abilities_are_those_that_tc_finds", &BOTH, |_| {
        let found = tc::abilities().unwrap();
        for (ability, command) in commands {
            let state =
                found.iter().find(|state| state.ability == ability).unwrap_or_else(|| panic!("{ability:?}"));
            assert_eq!(state.refusal.is_none(), has(&format!("{ability:?}"), command), "{state}");
            if state.refusal.is_some() {
                let said = state.to_string();
                assert!(said.contains("modprobe ") && said.contains("kernel module"), "{said}");
            }
        }
        assert!(found.iter().any(|state| state.ability == Ability::Ifb));
        assert_eq!(common::ip("link").as_array().unwrap().len(), 1, "nothing is left behind");
    });
}

#[test]
fn classes_and_filters_are_as_tc_shows_them_and_sort_packets() {
    in_lab("classes_and_filters_are_as_tc_shows_them_and_sort_packets", &BOTH, |_| {
        let mut cable = Cable::new();
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        let rates = [(0x10u16, 1_250_000u64), (0x11, 125_000_000), (0x12, 5_000_000_000), (0xff, 125_000)];
        let mut actions = vec![tree(0xff)];
        actions.extend(rates.iter().map(|(minor, rate)| leaf(*minor, *rate)));
        let u32_filter = |keys, target, bucket| Filter::U32 { keys, target, bucket };
        let add = |priority, protocol, filter| Action::AddFilter { parent: TREE, priority, protocol, filter };
        // One straight filter, and two hosts through a table.
        actions.extend([
            add(1, Protocol::Ipv4, u32_filter(U32Key::destination(net("10.0.0.2/32")), to(0x10), None)),
            add(2, Protocol::Ipv4, Filter::U32Table { table: 2, buckets: 256 }),
            add(
                2,
                Protocol::Ipv4,
                u32_filter(
                    U32Key::destination(net("10.0.0.3/32")),
                    to(0x11),
                    Some(U32Bucket { table: 2, bucket: 3, place: 0 }),
                ),
            ),
            add(
                2,
                Protocol::Ipv4,
                u32_filter(
                    U32Key::destination(net("10.0.0.4/32")),
                    to(0x12),
                    Some(U32Bucket { table: 2, bucket: 4, place: 0 }),
                ),
            ),
            add(
                2,
                Protocol::Ipv4,
                u32_filter(
                    U32Key::destination(net("10.0.0.0/24")),
                    U32Target::Table { table: 2, offset: 16, mask: 0xff },
                    Some(U32Bucket { table: 0x800, bucket: 0, place: 0 }),
                ),
            ),
        ]);
        cable.apply(actions);

        // tc has no JSON for classes.
        let shown = output("tc", &["class", "show", "dev", "a"]);
        for (minor, words) in [(0x10, "10Mbit"), (0x11, "1Gbit"), (0x12, "40Gbit"), (0xff, "1Mbit")] {
            let line = shown.lines().find(|line| line.contains(&format!(" 1:{minor:x} "))).expect("a class");
            assert!(line.contains(&format!(" rate {words} ceil {words} ")), "{line}");
        }
        let found = cable.tc.classes(cable.a).unwrap();
        assert_eq!(found.len(), rates.len());
        for (minor, rate) in rates {
            let found = found.iter().find(|found| found.handle == class(minor)).unwrap();
            assert_eq!(found.htb, Some(HtbClass::of_rate(rate)), "{minor:x}");
        }
        for (last, minor) in [(2, 0x10), (3, 0x11), (4, 0x12), (5, 0xff)] {
            let before = cable.passed(minor);
            cable.send(last);
            assert_eq!(cable.passed(minor), before + 1, "to 10.0.0.{last}");
        }
        let filters = cable.tc.filters(cable.a, TREE).unwrap();
        let classes: Vec<Handle> = filters.iter().filter_map(|filter| filter.class).collect();
        assert_eq!(classes.len(), 3, "{filters:#?}");
        assert!(filters.iter().any(|filter| filter.is_table && filter.handle == 0x0020_0000));
        let listed = show("filter show dev a");
        let flows = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|filter| filter["options"]["flowid"].is_string())
            .count();
        assert_eq!(flows, 3, "{listed:#}");

        // A class changes without another's counters being touched, and a filter goes by its own number.
        let kept = cable.passed(0x10);
        let changed = HtbClass { overhead: 24, ..HtbClass::of_rate(2_000_000) };
        cable.apply(vec![Action::ChangeClass { parent: TREE, handle: class(0x11), class: changed }]);
        let found = cable.tc.classes(cable.a).unwrap();
        assert_eq!(found.iter().find(|found| found.handle == class(0x11)).unwrap().htb, Some(changed));
        assert_eq!(cable.passed(0x10), kept);
        let direct = filters.iter().find(|filter| filter.class == Some(class(0x10))).unwrap();
        cable.apply(vec![Action::DeleteFilter {
            parent: TREE,
            priority: direct.priority,
            protocol: Protocol::Ipv4,
            kind: "u32",
            handle: direct.handle,
        }]);
        // Now the table is asked, which has no such host: the default.
        let before = cable.passed(0xff);
        cable.send(2);
        assert_eq!((cable.passed(0xff), cable.passed(0x10)), (before + 1, kept));

        // A place that was chosen goes before those that the kernel chose.
        let place = U32Bucket { table: 2, bucket: 3, place: 5 };
        let host = U32Key::destination(net("10.0.0.3/32"));
        cable.apply(vec![add(2, Protocol::Ipv4, u32_filter(host, to(0x12), Some(place)))]);
        let listed = show("filter show dev a");
        let numbers = listed.as_array().unwrap().iter().map(|filter| filter["options"]["fh"].as_str());
        assert!(numbers.into_iter().any(|number| number == Some("2:3:5")), "{listed:#}");
        let before = (cable.passed(0x11), cable.passed(0x12));
        cable.send(3);
        assert_eq!((cable.passed(0x11), cable.passed(0x12)), (before.0, before.1 + 1));
        cable.apply(vec![Action::DeleteFilter {
            parent: TREE,
            priority: 2,
            protocol: Protocol::Ipv4,
            kind: "u32",
            handle: place.handle(),
        }]);
        cable.send(3);
        assert_eq!((cable.passed(0x11), cable.passed(0x12)), (before.0 + 1, before.1 + 1));

        let index = cable.a;
        let refused = |cable: &mut Cable, action| cable.tc.apply(&[TcChange { index, action }]).unwrap_err();
        assert_eq!(refused(&mut cable, tree(0)).errno(), Some(Errno::EXIST));
        let busy = refused(&mut cable, Action::DeleteClass { handle: class(0x12) });
        assert_eq!(busy.errno(), Some(Errno::BUSY), "filters point to it: {busy}");
        let unknown =
            refused(&mut cable, Action::ChangeClass { parent: TREE, handle: class(9), class: changed });
        assert!(unknown.to_string().starts_with("failed to change class 1:9 of interface"), "{unknown}");
        cable.apply(vec![Action::DeletePriority { parent: TREE, priority: 2, protocol: Protocol::Ipv4 }]);
        assert_eq!(cable.tc.filters(cable.a, TREE).unwrap().iter().filter(|f| f.class.is_some()).count(), 0);
        cable.apply(vec![Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE }]);
        assert_eq!(cable.tc.classes(cable.a).unwrap(), []);
    });
}

#[test]
fn a_program_sorts_packets_and_arrivals_pass_an_ifb() {
    in_lab("a_program_sorts_packets_and_arrivals_pass_an_ifb", &BOTH, |_| {
        let mut cable = Cable::new();
        // Classic: load the last byte of the destination; 7 means class 1:10, anything else no match.
        let step =
            |code, jump_true, jump_false, operand| BpfInstruction { code, jump_true, jump_false, operand };
        let program = vec![
            step(0x30, 0, 0, 14 + 19), // ldb [14 + 19], from the Ethernet header on
            step(0x15, 0, 1, 7),       // jeq 7
            step(0x06, 0, 0, class(0x10).0),
            step(0x06, 0, 0, 0),
        ];
        let filter = Filter::Bpf { program, target: Target::Class(class(0xff)) };
        cable.apply(vec![
            tree(0xff),
            leaf(0x10, 1_000_000),
            leaf(0xff, 1_000_000),
            Action::AddFilter { parent: TREE, priority: 1, protocol: Protocol::Ipv4, filter },
        ]);
        cable.send(7);
        cable.send(8);
        cable.send(9);
        assert_eq!((cable.passed(0x10), cable.passed(0xff)), (1, 2));

        let mut route = RouteSocket::open().unwrap();
        route.apply(&[Change::CreateIfb { name: "in" }]).unwrap();
        let ifb = route.link("in").unwrap().unwrap().index;
        route.apply(&[Change::Link(LinkChange { up: Some(true), ..LinkChange::new(ifb) })]).unwrap();
        route.await_running(ifb, Duration::from_secs(120)).unwrap();
        let everything = vec![U32Key { value: 0, mask: 0, offset: 0 }];
        let redirect = U32Target::Is(Target::Redirect { index: ifb });
        cable.apply(vec![
            Action::AddQdisc { parent: Handle::INGRESS, handle: Handle::INGRESS_QDISC, qdisc: Qdisc::Clsact },
            Action::AddFilter {
                parent: Handle::CLSACT_INGRESS,
                priority: 1,
                protocol: Protocol::All,
                filter: Filter::U32 { keys: everything, target: redirect, bucket: None },
            },
        ]);
        let limit = Qdisc::Pfifo { limit: 55 };
        let action = Action::AddQdisc { parent: Handle::ROOT, handle: Handle::new(5, 0), qdisc: limit };
        cable.tc.apply(&[TcChange { index: ifb, action }]).unwrap();
        let receiver = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
        let to = receiver.local_address().unwrap();
        cable
            .there
            .enter(|| UdpSocket::bind("10.0.0.2:0".parse().unwrap()).unwrap().send_to(b"in", to).unwrap())
            .unwrap();
        assert!(common::await_readable(&receiver), "it came through");
        let found = cable.tc.qdiscs(ifb).unwrap();
        let fifo = found.iter().find(|qdisc| qdisc.kind == "pfifo").unwrap();
        assert_eq!(
            (fifo.handle, fifo.parent, &fifo.settings),
            (Handle::new(5, 0), Handle::ROOT, &Settings::Fifo { limit: 55 })
        );
        assert!(fifo.stats.packets >= 1, "by way of the ifb: {fifo:?}");
        // Packets may pass between two looks, so tc's lies between two of ours.
        let shown = show("qdisc show dev in")[0]["packets"].as_u64().unwrap();
        let later =
            cable.tc.qdiscs(ifb).unwrap().iter().find(|qdisc| qdisc.kind == "pfifo").unwrap().stats.packets;
        assert!(
            (fifo.stats.packets..=later).contains(&shown),
            "{shown} is not in {}..={later}",
            fifo.stats.packets
        );
    });
}

#[test]
fn a_program_sends_what_leaves_one_interface_into_another_one() {
    in_lab("a_program_sends_what_leaves_one_interface_into_another_one", &BOTH, |_| {
        let mut cable = Cable::new();
        let mut route = RouteSocket::open().unwrap();
        route.apply(&[Change::CreateIfb { name: "in" }]).unwrap();
        let index = route.link("in").unwrap().unwrap().index;
        route.apply(&[Change::Link(LinkChange { up: Some(true), ..LinkChange::new(index) })]).unwrap();
        let clsact = || Action::AddQdisc {
            parent: Handle::INGRESS,
            handle: Handle::INGRESS_QDISC,
            qdisc: Qdisc::Clsact,
        };
        let filter =
            |parent, filter| Action::AddFilter { parent, priority: 1, protocol: Protocol::All, filter };
        let program = vec![BpfInstruction { code: 0x06, jump_true: 0, jump_false: 0, operand: u32::MAX }];
        let deliver = Target::Deliver { index };
        cable.apply(vec![
            clsact(),
            filter(Handle::CLSACT_EGRESS, Filter::Bpf { program: program.clone(), target: deliver }),
        ]);
        let counted = Filter::Bpf { program, target: Target::Class(class(1)) };
        let there = [clsact(), filter(Handle::CLSACT_INGRESS, counted)];
        cable.tc.apply(&there.map(|action| TcChange { index, action })).unwrap();
        cable.send(7);
        let arrived = |tc: &mut TcSocket| {
            let found = tc.qdiscs(index).unwrap();
            found.iter().find(|qdisc| qdisc.kind == "clsact").unwrap().stats.packets
        };
        assert_eq!(arrived(&mut cable.tc), 1);
        let found = cable.tc.filters(cable.a, Handle::CLSACT_EGRESS).unwrap();
        let told: Vec<_> = found.iter().filter_map(|filter| filter.redirect).collect();
        assert_eq!(told, [deliver], "{found:?}");
    });
}

#[test]
fn netem_is_as_tc_shows_it_or_missing_by_name() {
    in_lab("netem_is_as_tc_shows_it_or_missing_by_name", &BOTH, |_| {
        let mut cable = Cable::new();
        let handle = Handle::new(0x10, 0);
        let netem = |netem: &Netem| Action::ReplaceQdisc {
            parent: Handle::ROOT,
            handle,
            qdisc: Qdisc::Netem(netem.clone()),
        };
        let wanted = Netem { limit: 77, delay: 20_000_000, ..Netem::default() };
        if !has("netem", "qdisc replace dev x root netem delay 1ms") {
            let error = cable.tc.apply(&[TcChange { index: cable.a, action: netem(&wanted) }]).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
            assert!(error.to_string().starts_with("failed to replace qdisc netem 10: below root"), "{error}");
            return;
        }
        let share = Share::new;
        let settings = [
            wanted.clone(),
            Netem {
                jitter: 3_000_000,
                delay_correlation: share(0.25),
                loss: Loss::Random { share: share(0.01), correlation: share(0.02) },
                duplicate: share(0.03),
                duplicate_correlation: share(0.04),
                corrupt: share(0.05),
                corrupt_correlation: share(0.06),
                reorder: share(0.07),
                reorder_correlation: share(0.08),
                gap: 5,
                rate: 1_250_000,
                packet_overhead: 14,
                ..wanted.clone()
            },
            Netem {
                loss: Loss::Gilbert {
                    to_bad: share(0.1),
                    to_good: share(0.2),
                    bad_loss: share(0.3),
                    good_loss: share(0.4),
                },
                ecn: true,
                delay: 1_000_000_007,
                rate: 5_000_000_000,
                ..wanted.clone()
            },
            Netem {
                loss: Loss::FourState {
                    p13: share(0.1),
                    p31: share(0.2),
                    p32: share(0.3),
                    p23: share(0.4),
                    p14: share(0.5),
                },
                slot: Some(Slot {
                    min_delay: 1_000_000,
                    max_delay: 2_000_000,
                    max_packets: 3,
                    max_bytes: 4000,
                }),
                ..wanted.clone()
            },
            // Everything off again: a change tells all, so nothing of the former stays.
            wanted.clone(),
        ];
        for wanted in settings {
            cable.apply(vec![netem(&wanted)]);
            let found = cable.tc.qdiscs(cable.a).unwrap();
            let found = found.iter().find(|qdisc| qdisc.handle == handle).expect("it is there");
            let Settings::Netem(found) = &found.settings else { panic!("{found:?}") };
            assert!(
                wanted.is_done_by(found),
                "asked {wanted:#?}\nfound {found:#?}\n{}",
                output("tc", &["qdisc"])
            );
            let shown = &show("qdisc show dev a")[0]["options"];
            assert_eq!(shown["limit"], 77);
            let delay = shown["delay"]["delay"].as_f64().unwrap();
            assert!((delay - wanted.delay as f64 / 1e9).abs() < 1e-6, "{shown}");
        }

        // And it delays: 20 ms at the least, by the kernel's own clock; 5 packets are lost out of 5 when all are.
        let receiver = cable.there.enter(|| UdpSocket::bind("10.0.0.2:0".parse().unwrap())).unwrap().unwrap();
        let sender = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
        let sent = Duration::from_nanos(testground_linux::poll::realtime_nanos());
        sender.send_to(b"late", receiver.local_address().unwrap()).unwrap();
        assert!(common::await_readable(&receiver));
        let arrived = receiver.receive(&mut [0; 8]).unwrap().unwrap().arrival.unwrap();
        assert!(arrived - sent >= Duration::from_millis(20), "{:?}", arrived - sent);
        let all = Loss::Random { share: Share::ALL, correlation: Share::NONE };
        cable.apply(vec![netem(&Netem { loss: all, ..wanted })]);
        for _ in 0..5 {
            cable.send(2);
        }
        let found = cable.tc.qdiscs(cable.a).unwrap();
        let stats = found.iter().find(|qdisc| qdisc.handle == handle).unwrap().stats;
        assert!(stats.drops >= 5, "{stats:?}");
    });
}

/// The same tests in a guest whose kernel has netem and flower: User Mode Linux, a whole kernel as a program (`tests/uml`).
#[test]
fn the_same_in_a_guest_whose_kernel_has_netem() {
    let name = "the_same_in_a_guest_whose_kernel_has_netem";
    let tests = [
        "abilities_are_those_that_tc_finds",
        "classes_and_filters_are_as_tc_shows_them_and_sort_packets",
        "a_program_sorts_packets_and_arrivals_pass_an_ifb",
        "netem_is_as_tc_shows_it_or_missing_by_name",
    ];
    let modules = "sch_netem sch_htb sch_ingress cls_u32 cls_flower cls_bpf cls_matchall act_mirred ifb veth";
    // Modules that are built in are no module: what counts is what the tests find.
    let prelude = format!("for module in {modules}; do modprobe -q $module; done; exec");
    let Some(errors) = common::in_guest(name, &prelude, &tests) else { return };
    for missing in ["Netem", "NetemRate", "Flower", "MatchAll", "netem"] {
        assert!(!errors.contains(&format!("no {missing}\n")), "the guest should have it: {errors}");
    }
}

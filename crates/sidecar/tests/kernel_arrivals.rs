//! What strangers send to an interface on the kernel's plane, asked of `tc`, `ip`, `ping` and iperf3: HTB's rates on this
//! machine's kernel, and all of a shape in a guest's that has netem.

use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab_support::cable::{Cable, ME, narrow, of_plan_by, output, plan};
use lab_support::{PATIENCE, first_in_line, once};
use serde_json::Value;
use testground_linux::netns::Netns;
use testground_linux::route::{Change, Route, RouteKind, RouteSocket};
use testground_model::shape::{Chance, Filter, LinkShape, Loss};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::Wishes;
use testground_sidecar::plane::kernel::{
    Abilities, ClassKey, Interface, KernelError, Others, Pacing, Wanted, unsupported,
};

mod lab_support;

/// The other end's address of which nobody knows.
const STRANGER: &str = "192.0.2.1";

/// A cable whose other end has two addresses: a known one, 10.0.0.2, and a stranger's.
fn cable() -> Cable {
    let cable = Cable::new();
    let mut far = RouteSocket::open_in(&cable.there).unwrap();
    let index = far.link("b").unwrap().unwrap().index;
    let stranger = |length: u8| IpNet::new(STRANGER.parse().unwrap(), length).unwrap();
    far.apply(&[Change::AddAddress { index, address: stranger(32) }]).unwrap();
    let mut near = RouteSocket::open().unwrap();
    let through = RouteKind::Unicast { device: Some(cable.index), gateway: None, onlink: false };
    let known = Change::SetNeighbour {
        index: cable.index,
        address: STRANGER.parse().unwrap(),
        mac: [2, 0, 0, 0, 0, 2],
    };
    near.apply(&[Change::AddRoute(Route::new(stranger(24).trunc(), through)), known]).unwrap();
    cable
}

fn from(net: &str, shape: LinkShape) -> Link {
    let from = Endpoint::Subnet(net.parse().unwrap());
    Link { from, to: Endpoint::Group("a".to_owned()), both_ways: false, network: "default".to_owned(), shape }
}

fn pacing() -> Pacing {
    Abilities::probe().unwrap().pacing()
}

/// What these links want, and a default of the instance's own.
fn wanted(links: Vec<Link>) -> Wanted {
    let mut plan = plan(links);
    plan.wish(ME, Wishes { default: narrow(900), rules: Vec::new() });
    of_plan_by(&plan, pacing())
}

fn json(line: &str) -> Value {
    serde_json::from_str(&output(line)).unwrap()
}

fn device(cable: &Cable) -> String {
    format!("tg-in{}", cable.index)
}

/// A word without what is different from one moment to the next.
fn uncounted(word: &str) -> &str {
    if word.parse::<u64>().is_ok() && word.len() < 4 { "N" } else { word }
}

/// Everything of the kernel's that could have changed, but for small numbers: the kernel counts packets and actions.
fn everything() -> [String; 4] {
    ["qdisc show", "class show dev a", "filter show dev a ingress", "filter show dev a parent 7468:"]
        .map(|what| output(&format!("tc {what}")).split(' ').map(uncounted).collect::<Vec<_>>().join(" "))
}

/// A server of iperf3 in this namespace, which ends with the value.
struct Server(Child);

impl Server {
    fn start() -> Server {
        let child = Command::new("iperf3").arg("-s").stdout(Stdio::null()).spawn().unwrap();
        while !output("ss -Hltn").contains(":5201") {
            std::thread::yield_now();
        }
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mbit/s on the wire of a TCP stream from an address of the other end.
fn mbit(there: &Netns, source: &str) -> f64 {
    let arguments = format!("-J -c 10.0.0.1 -B {source} -t 1.5 -O 0.5");
    let output = there.enter(|| Command::new("iperf3").args(arguments.split(' ')).output()).unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let goodput = report["end"]["sum_received"]["bits_per_second"].as_f64();
    goodput.unwrap_or_else(|| panic!("{report:#}")) / 1448.0 * 1514.0 / 1e6
}

/// Measures again until the value is as it should be: a machine that is busy with something else makes one late, or has it save
/// up for a moment, and a wrong shape is wrong every time.
fn comes_to(measure: impl Fn() -> f64, wanted: Range<f64>) {
    let (begun, mut seen) = (Instant::now(), Vec::new());
    while !seen.last().is_some_and(|value| wanted.contains(value)) {
        assert!(begun.elapsed() < PATIENCE, "{seen:.2?} instead of {wanted:?}");
        seen.push(measure());
    }
}

#[test]
fn a_stranger_s_rate_is_held_by_the_receiver_and_nobody_else_s() {
    first_in_line("a_stranger_s_rate_is_held_by_the_receiver_and_nobody_else_s", || {
        let cable = cable();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let _server = Server::start();
        for rate in [10, 40] {
            interface.apply(&wanted(vec![from("192.0.2.0/24", narrow(rate))])).unwrap();
            let asked = rate as f64;
            comes_to(|| mbit(&cable.there, STRANGER), asked * 0.9..asked * 1.05);
        }
        // Nobody asked for a shape.
        comes_to(|| mbit(&cable.there, "10.0.0.2"), 60.0..f64::MAX);

        let device = device(&cable);
        let qdiscs = json(&format!("tc -j -s qdisc show dev {device}"));
        let kinds: Vec<&str> =
            qdiscs.as_array().unwrap().iter().map(|q| q["kind"].as_str().unwrap()).collect();
        let leaf = if pacing() == Pacing::Netem { "netem" } else { "pfifo" };
        assert_eq!(kinds, ["tbf", leaf, "htb"]);
        let classes = output(&format!("tc -s class show dev {device} parent 7468:"));
        let counted = interface.counters().unwrap().incoming[&ClassKey::Link(0, Some(ME))].1;
        assert!(counted.packets > 1000 && classes.contains("rate 40Mbit"), "{counted:?} {classes}");
        let filters = output("tc -s filter show dev a ingress");
        assert!(filters.contains(&format!("Egress Redirect to device {device}")), "{filters}");
    });
}

#[test]
fn a_stranger_is_late_and_loses_as_asked_where_the_kernel_has_netem() {
    first_in_line("a_stranger_is_late_and_loses_as_asked_where_the_kernel_has_netem", || {
        let late = LinkShape { latency: Duration::from_millis(30), ..LinkShape::default() };
        if pacing() == Pacing::Htb {
            let why = unsupported(&late, &Abilities::probe().unwrap()).unwrap();
            return assert!(why.contains("modprobe sch_netem"), "{why}");
        }
        let cable = cable();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let ping = |source: &str, count: u32| {
            let arguments = format!("-n -q -i 0.004 -c {count} -W 1 -I {source} 10.0.0.1");
            let output = cable.there.enter(|| Command::new("ping").args(arguments.split(' ')).output());
            let said = String::from_utf8(output.unwrap().unwrap().stdout).unwrap();
            let number = |before: &str, after: char| {
                let rest = said.split_once(before).unwrap_or_else(|| panic!("{said}")).1;
                rest.split(after).next().unwrap().trim().parse::<f64>().unwrap_or_else(|_| panic!("{said}"))
            };
            (number("received,", '%'), number("mdev = ", '/'))
        };
        // Only the way there is a stranger's: answers are not late.
        interface.apply(&wanted(vec![from("192.0.2.1/32", late)])).unwrap();
        comes_to(|| ping(STRANGER, 50).1, 30.0..30.9);
        comes_to(|| ping("10.0.0.2", 20).1, 0.0..1.0);
        let lossy = LinkShape { loss: Loss::Random(Chance::percent(20.0)), ..LinkShape::default() };
        interface.apply(&wanted(vec![from("192.0.2.1/32", lossy)])).unwrap();
        let (lost, _) = ping(STRANGER, 1000);
        // Four standard deviations.
        assert!((lost - 20.0).abs() < 5.1, "{lost} %");
        assert_eq!(ping("10.0.0.2", 100).0, 0.0);
        let dropped = interface.counters().unwrap().incoming[&ClassKey::Link(0, None)].1.drops;
        assert_eq!(dropped as f64 / 10.0, lost);
    });
}

#[test]
fn the_detour_is_changed_with_one_message_adopted_and_gone_without_a_trace() {
    once("the_detour_is_changed_with_one_message_adopted_and_gone_without_a_trace", || {
        let cable = cable();
        let untouched = (everything(), output("ip -o link"));
        let mut first = cable.adopt(Others::Leave).unwrap();
        let cut = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        let two = |rate| wanted(vec![from("192.0.2.0/24", narrow(rate)), from("2001:db8::/32", cut.clone())]);
        assert!(first.apply(&two(10)).unwrap() > 0);
        assert_eq!(first.apply(&two(10)).unwrap(), 0);
        assert!(first.apply(&two(20)).unwrap() <= 2, "the class, and the length of its queue");
        drop(first);
        let there = everything();
        let mut second = cable.adopt(Others::Leave).unwrap();
        assert_eq!(second.apply(&two(20)).unwrap(), 0, "all of it is there");
        assert_eq!(everything(), there);

        // Somebody has taken the way into it: it is made again, and nothing else.
        output("tc qdisc del dev a clsact");
        let mut third = cable.adopt(Others::Leave).unwrap();
        assert_eq!(third.apply(&two(20)).unwrap(), 2, "a place, and the filter");
        assert_eq!(everything(), there);

        assert!(third.apply(&wanted(vec![])).unwrap() > 0);
        assert!(!output("ip -o link").contains("tg-in") && !output("tc qdisc show").contains("clsact"));
        assert_eq!(third.apply(&wanted(vec![])).unwrap(), 0);
        third.apply(&two(5)).unwrap();
        third.clear().unwrap();
        // Interfaces are numbered on, and the kernel says how often it was asked.
        assert_eq!(everything()[1..], untouched.0[1..]);
        assert_eq!(output("ip -o link").lines().count(), untouched.1.lines().count());
    });
}

#[test]
fn filters_of_others_are_left_alone_and_named_or_replaced_when_told() {
    once("filters_of_others_are_left_alone_and_named_or_replaced_when_told", || {
        let shaped = || wanted(vec![from("192.0.2.0/24", narrow(10))]);
        let others = [
            ("ingress", "parent ffff:", "ingress ffff:", "tc qdisc del dev a ingress"),
            ("clsact", "ingress", "clsact ffff:", "tc qdisc del dev a clsact"),
        ];
        let cable = cable();
        for (kind, place, named, remedy) in others {
            output(&format!("tc qdisc add dev a {kind}"));
            output(&format!(
                "tc filter add dev a {place} prio 3 protocol ip u32 match ip src 1.2.3.4/32 flowid 1:7"
            ));
            let there = (everything(), output("ip -o link"));
            let mut interface = cable.adopt(Others::Leave).unwrap();
            let refused = interface.apply(&shaped()).unwrap_err().to_string();
            assert!(refused.contains(named) && refused.contains(remedy), "{refused}");
            assert_eq!((everything(), output("ip -o link")), there, "nothing half done");
            interface.apply(&wanted(vec![])).expect("what leaves is not theirs");
            let mut interface = cable.adopt(Others::Replace).unwrap();
            interface.apply(&shaped()).unwrap();
            assert!(!output("tc filter show dev a ingress").contains("1:7"));
            interface.clear().unwrap();
            assert!(!output("tc qdisc show").contains("ffff:"));
        }
        // What they do with what leaves is no obstacle, and stays.
        output("tc qdisc add dev a clsact");
        output("tc filter add dev a egress prio 3 protocol ip u32 match ip dst 1.2.3.4/32 flowid 1:7");
        let mut interface = cable.adopt(Others::Leave).unwrap();
        interface.apply(&shaped()).unwrap();
        interface.clear().unwrap();
        assert!(output("tc filter show dev a egress").contains("1:7"));
        assert_eq!(output("tc filter show dev a ingress"), "");
    });
}

#[test]
fn when_the_kernel_refuses_either_direction_both_are_as_before() {
    once("when_the_kernel_refuses_either_direction_both_are_as_before", || {
        let cable = cable();
        let mut interface = cable.adopt(Others::Leave).unwrap();
        let of = |own: u64, strange: u64| {
            let mut plan = plan(vec![from("192.0.2.0/24", narrow(strange))]);
            plan.wish(
                ME,
                Wishes {
                    default: narrow(own),
                    rules: vec![("10.0.0.9/32".parse().unwrap(), narrow(own + 1))],
                },
            );
            of_plan_by(&plan, pacing())
        };
        interface.apply(&of(50, 10)).unwrap();
        let refused = |interface: &mut Interface, class: &str, device: &str| {
            let (there, queues) = (everything(), output(&format!("tc class show dev {device}")));
            output(&format!("tc class add dev {device} parent 7468: classid 7468:{class} htb rate 1mbit"));
            let mut more = plan(vec![from("192.0.2.0/24", narrow(20)), from("198.51.100.0/24", narrow(5))]);
            let rules = ["10.0.0.9/32", "10.0.0.10/32"].map(|net| (net.parse().unwrap(), narrow(7)));
            more.wish(ME, Wishes { default: narrow(40), rules: rules.into() });
            let error = interface.apply(&of_plan_by(&more, pacing())).unwrap_err();
            assert!(matches!(error, KernelError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(&format!("add class 7468:{class}")), "{error}");
            assert_eq!(everything(), there);
            assert_eq!(output(&format!("tc class show dev {device}")), queues);
            assert_eq!(interface.apply(&of(50, 10)).unwrap(), 0);
        };
        let ifb = device(&cable);
        // Somebody else's class stands where the next one is to be.
        refused(&mut interface, "2", &ifb);
        refused(&mut interface, "3", "a");

        output(&format!("ip link del {ifb}"));
        let gone = interface.apply(&of(50, 11)).unwrap_err();
        assert!(matches!(&gone, KernelError::Vanished { interface } if *interface == ifb), "{gone}");
        // Whoever starts again finds a filter that leads nowhere, and mends it.
        let mut again = cable.adopt(Others::Leave).unwrap();
        again.apply(&of(50, 11)).unwrap();
        assert!(output("tc filter show dev a ingress").contains(&format!("Redirect to device {ifb}")));
    });
}

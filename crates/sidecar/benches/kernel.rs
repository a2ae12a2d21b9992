//! What the kernel's plane costs: a first shape with many rules, a changed shape on 200 interfaces, and throughput with 1 to 1,000
//! rules. One JSON line a figure. Run as `cargo bench -p testground-sidecar --bench kernel`, as root or in `unshare -Urn`. On a
//! kernel without netem shapes are bandwidths alone; the line says so.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use testground_linux::netns::{Netns, tour};
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tc::TcSocket;
use testground_model::name::InstanceName;
use testground_model::shape::LinkShape;
use testground_sidecar::plan::{Member, Plan, PortId, Wishes};
use testground_sidecar::plane::kernel::{Abilities, Interface, Others, Pacing, Wanted};

const ME: PortId = PortId(0);

fn main() {
    tour(|tour| {
        tour.create().expect("a namespace");
        measure();
    })
    .expect("a thread");
}

fn measure() {
    let pacing = Abilities::probe().expect("abilities").pacing();
    let report = |bench: String, value: f64, unit: &str| {
        let kind = if pacing == Pacing::Netem { "htb+netem" } else { "htb" };
        println!("{{\"bench\":\"{bench}\",\"value\":{value:.3},\"unit\":\"{unit}\",\"with\":\"{kind}\"}}");
    };
    for rules in [100u32, 1000, 4096] {
        let (mut interface, _there) = cable("a");
        let wanted = wanted(rules, 10, pacing);
        let begun = Instant::now();
        interface.apply(&wanted).expect("a shape");
        report(format!("first shape, {rules} rules"), ms(begun), "ms");
        let begun = Instant::now();
        let messages = interface.apply(&wanted).expect("a shape");
        assert_eq!(messages, 0, "the same again is nothing");
        report(format!("the same again, {rules} rules"), ms(begun), "ms");
        RouteSocket::open()
            .expect("a socket")
            .apply(&[Change::DeleteLink { index: index_of("a") }])
            .expect("gone");
    }

    let mut many: Vec<(Interface, Netns)> = (0..200).map(|n| cable(&format!("i{n}"))).collect();
    for (interface, _) in &mut many {
        interface.apply(&wanted(10, 10, pacing)).expect("a shape");
    }
    let begun = Instant::now();
    for (interface, _) in &mut many {
        let messages = interface.apply(&wanted(10, 20, pacing)).expect("a shape");
        assert!(messages > 0);
    }
    report("changed shape, 200 interfaces of 10 rules".to_owned(), ms(begun), "ms");
    drop(many);

    let (mut interface, there) = cable("a");
    report("tcp, no shape".to_owned(), throughput(&there), "Gbit/s");
    for rules in [1u32, 100, 1000, 4096] {
        // Nobody's rule: packets to the receiver look past all of them.
        interface.apply(&wanted(rules, 10, pacing)).expect("a shape");
        report(format!("tcp past {rules} rules, cut into packets"), throughput(&there), "Gbit/s");
    }
    for mbit in [1000, 5000] {
        let mut plan = plan();
        plan.wish(ME, Wishes { default: narrow(mbit), rules: Vec::new() });
        interface.apply(&of_plan(&plan, pacing)).expect("a shape");
        report(format!("tcp at {mbit} Mbit/s (95.64 % is payload)"), throughput(&there), "Gbit/s");
    }
}

fn ms(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn index_of(name: &str) -> u32 {
    RouteSocket::open().expect("a socket").link(name).expect("an answer").expect("an interface").index
}

/// An interface of 10.0.0.1/8, whose other end is 10.0.0.2 in another namespace.
fn cable(name: &str) -> (Interface, Netns) {
    let there = Netns::create().expect("a namespace");
    let (mut near, mut far) =
        (RouteSocket::open().expect("a socket"), RouteSocket::open_in(&there).expect("a socket"));
    let other = VethEnd { netns: Some(&there), ..VethEnd::new("b") };
    near.apply(&[Change::CreateVeth { one: VethEnd::new(name), other }]).expect("a veth pair");
    let index = index_of(name);
    let b = far.link("b").expect("an answer").expect("an interface").index;
    let up = |index| Change::Link(LinkChange { up: Some(true), ..LinkChange::new(index) });
    let net = |text: &str| text.parse().expect("a network");
    near.apply(&[up(index), up(1)]).expect("up");
    far.apply(&[up(b), up(1), Change::AddAddress { index: b, address: net("10.0.0.2/8") }]).expect("up");
    if name == "a" {
        near.apply(&[Change::AddAddress { index, address: net("10.0.0.1/8") }]).expect("an address");
    }
    near.await_running(index, Duration::from_secs(10)).expect("a carrier");
    let sockets = (TcSocket::open().expect("a socket"), RouteSocket::open().expect("a socket"));
    (Interface::adopt(name, index, sockets.0, sockets.1, Others::Leave).expect("an interface"), there)
}

fn narrow(mbit: u64) -> LinkShape {
    LinkShape { bandwidth: Some(mbit * 1_000_000), ..LinkShape::default() }
}

fn plan() -> Plan {
    let mut plan = Plan::new(Vec::new());
    plan.attach(Member {
        port: ME,
        instance: InstanceName::new("a", 0),
        network: "default".to_owned(),
        regions: Vec::new(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))],
    });
    plan
}

fn of_plan(plan: &Plan, pacing: Pacing) -> Wanted {
    let subnets: [IpNet; 1] = ["10.0.0.0/8".parse().expect("a network")];
    Wanted::of(plan, ME, &subnets, 1500, pacing)
}

/// A rule for each of so many hosts; the first has another rate than the others.
fn wanted(rules: u32, first: u64, pacing: Pacing) -> Wanted {
    let host = |n: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + 2 * n)));
    let shape = |n: u32| narrow(if n == 0 { first } else { 10 });
    let mut plan = plan();
    plan.wish(
        ME,
        Wishes { default: LinkShape::default(), rules: (0..rules).map(|n| (host(n), shape(n))).collect() },
    );
    of_plan(&plan, pacing)
}

/// What a TCP connection carries in a second, after half a second of its own.
fn throughput(there: &Netns) -> f64 {
    let listener = there.enter(|| TcpListener::bind("10.0.0.2:0")).expect("a thread").expect("a listener");
    let address = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let (end, buffer) = (Instant::now() + Duration::from_millis(1600), vec![0; 1 << 17]);
            while Instant::now() < end && stream.write_all(&buffer).is_ok() {}
        });
        let (mut stream, _) = listener.accept().expect("a connection");
        let (mut buffer, begun, mut bytes) = (vec![0; 1 << 18], Instant::now(), 0u64);
        while begun.elapsed() < Duration::from_millis(1500) {
            match stream.read(&mut buffer) {
                Ok(read) if begun.elapsed() > Duration::from_millis(500) => bytes += read as u64,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        bytes as f64 * 8.0 / 1e9
    })
}

//! What a lab's network costs: making network namespaces with two persistent TAPs each, entering them, and taking them down.
//! One JSON line a figure. Run as `cargo bench -p testground-linux --bench lab`; needs an openable /dev/net/tun.

use std::time::{Duration, Instant};

use testground_linux::netns::{Netns, tour};
use testground_linux::process::{IdMap, Namespaces, SpawnExec, spawn_exec};
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tap::{Tap, TapOptions};
use testground_linux::{mount, process};

const STAGE: &str = "TESTGROUND_LINUX_BENCH";

fn main() {
    if std::env::var_os(STAGE).is_none() {
        let mut spawn = SpawnExec::new("/proc/self/exe");
        spawn.env = std::env::vars_os().chain([(STAGE.into(), "1".into())]).collect();
        spawn.id_map = Some(IdMap::choose().map);
        let status = spawn_exec(Namespaces::LAB, spawn).expect("a lab").wait().expect("its end");
        std::process::exit(status.shell_code());
    }
    mount::make_private("/".as_ref()).expect("private mounts");
    mount::proc("/proc".as_ref()).expect("a /proc");
    process::set_nofile_limit(None, u64::MAX).expect("descriptors");
    for count in [100, 1000] {
        taps(count, true, Order::NamespacesFirst);
    }
    taps(1000, true, Order::DescriptorsFirst);
    taps(100, false, Order::NamespacesFirst);
    veths(1000);
}

fn report(bench: &str, value: f64, unit: &str, peer: &str) {
    println!("{{\"bench\":\"{bench}\",\"value\":{value:.3},\"unit\":\"{unit}\",\"peer\":\"{peer}\"}}");
}

/// What is let go first. The kernel takes a namespace down once both are gone.
#[derive(Clone, Copy)]
enum Order {
    NamespacesFirst,
    DescriptorsFirst,
}

/// Two TAPs an instance, as an instance has a control and a data interface, with an address and a neighbour each.
fn taps(count: u32, persist: bool, order: Order) {
    let options = TapOptions { persist, ..TapOptions::default() };
    let peer = match (persist, order) {
        (true, Order::NamespacesFirst) => "persistent TAPs, namespaces let go first",
        (true, Order::DescriptorsFirst) => "persistent TAPs, descriptors closed first",
        (false, _) => "plain TAPs",
    };
    let start = Instant::now();
    let made: Vec<(Netns, Vec<Tap>)> = tour(|tour| {
        (0..count)
            .map(|number| {
                let netns = tour.create().expect("a namespace");
                let taps: Vec<Tap> = ["control", "data"]
                    .iter()
                    .map(|name| Tap::open(name, &options).expect("a TAP"))
                    .collect();
                let mut socket = RouteSocket::open().expect("a socket");
                let mut changes = Vec::new();
                for (at, tap) in taps.iter().enumerate() {
                    let index = tap.index();
                    let [_, _, high, low] = number.to_be_bytes();
                    let address = format!("10.{at}.{high}.{low}/16").parse().expect("an address");
                    let up = LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) };
                    changes.extend([Change::Link(up), Change::AddAddress { index, address }]);
                }
                socket.apply(&changes).expect("addresses");
                (netns, taps)
            })
            .collect()
    })
    .expect("a thread");
    report(&format!("attach_{count}_namespaces"), start.elapsed().as_secs_f64(), "s", peer);
    let start = Instant::now();
    tour(|tour| made.iter().for_each(|(netns, _)| tour.enter(netns).expect("entered"))).expect("a thread");
    report(&format!("visit_{count}_namespaces"), start.elapsed().as_secs_f64() * 1e3, "ms", peer);
    let start = Instant::now();
    let (namespaces, taps): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    match order {
        Order::NamespacesFirst => {
            drop(namespaces);
            drop(taps);
        }
        Order::DescriptorsFirst => {
            drop(taps);
            drop(namespaces);
        }
    }
    report(&format!("teardown_{count}_namespaces"), start.elapsed().as_secs_f64(), "s", peer);
}

/// Pairs of interfaces, two an instance, in batches.
fn veths(count: u32) {
    let mut socket = RouteSocket::open().expect("a socket");
    let names: Vec<(String, String)> = (0..count).map(|n| (format!("a{n}"), format!("b{n}"))).collect();
    let changes: Vec<Change<'_>> = names
        .iter()
        .map(|(a, b)| Change::CreateVeth { one: VethEnd::new(a), other: VethEnd::new(b) })
        .collect();
    let start = Instant::now();
    socket.apply(&changes).expect("veth pairs");
    let took = start.elapsed();
    report(&format!("create_{count}_veth_pairs"), took.as_secs_f64(), "s", "one socket, batches");
    assert!(took < Duration::from_secs(600), "something hangs");
}

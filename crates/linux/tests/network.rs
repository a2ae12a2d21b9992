//! Interfaces, addresses, routes and neighbours: asked for over netlink, checked with `ip` and with traffic.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{Who, in_lab, ip};
use serde_json::Value;
use testground_linux::Errno;
use testground_linux::netns::{Netns, tour};
use testground_linux::route::{Change, LinkChange, Route, RouteKind, RouteSocket, VethEnd};

const BOTH: [Who; 2] = [Who::Me, Who::NobodyWithoutTun];

fn up(index: u32) -> Change<'static> {
    Change::Link(LinkChange { up: Some(true), ..LinkChange::new(index) })
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// The one object of a list that has this value under this key.
fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    list.as_array()
        .unwrap()
        .iter()
        .find(|item| item[key].as_str() == Some(value))
        .unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

#[test]
fn a_veth_pair_joins_two_namespaces() {
    in_lab("a_veth_pair_joins_two_namespaces", &BOTH, |_| {
        let here = Netns::current().unwrap();
        let there = Netns::create().unwrap();
        assert_ne!(here, there);
        let mut near = RouteSocket::open().unwrap();
        let mut far = RouteSocket::open_in(&there).unwrap();
        let one = VethEnd { mac: Some([2, 0, 0, 0, 0, 1]), mtu: Some(9000), ..VethEnd::new("near") };
        let other = VethEnd { txqueuelen: Some(77), netns: Some(&there), ..VethEnd::new("far") };
        near.apply(&[Change::CreateVeth { one, other }]).unwrap();
        let (a, b) = (near.link("near").unwrap().unwrap(), far.link("far").unwrap().unwrap());
        assert_eq!((a.kind.as_deref(), a.mtu, a.mac), (Some("veth"), 9000, Some([2, 0, 0, 0, 0, 1])));
        assert_eq!((a.peer, b.peer, b.txqueuelen), (Some(b.index), Some(a.index), 77));
        assert!(!a.up);

        for (socket, index, v4, v6) in [
            (&mut near, a.index, "10.1.0.1/24", "fd00::1/64"),
            (&mut far, b.index, "10.1.0.2/24", "fd00::2/64"),
        ] {
            let quiet = LinkChange { link_local: Some(false), ..LinkChange::new(index) };
            socket
                .apply(&[
                    Change::Link(quiet),
                    Change::AddAddress { index, address: net(v4) },
                    Change::AddAddress { index, address: net(v6) },
                    up(index),
                ])
                .unwrap();
        }
        near.await_running(a.index, Duration::from_secs(120)).unwrap();
        far.await_running(b.index, Duration::from_secs(120)).unwrap();
        let shown = ip("addr show near");
        let shown = &shown[0];
        assert_eq!(shown["address"], "02:00:00:00:00:01");
        let addresses = &shown["addr_info"];
        assert_eq!(addresses.as_array().unwrap().len(), 2, "no link-local address: {addresses:#}");
        assert_eq!(find(addresses, "local", "10.1.0.1")["broadcast"], "10.1.0.255");
        let v6 = find(addresses, "local", "fd00::1");
        assert_eq!((&v6["nodad"], &v6["tentative"]), (&Value::Bool(true), &Value::Null));
        assert_eq!(near.addresses(Some(a.index)).unwrap().len(), 2);

        // Traffic, each way and in both families, with the kernel's word on when and for whom.
        for (from, to) in [("10.1.0.2", "10.1.0.1"), ("fd00::2", "fd00::1")] {
            let bind = |address: &str| {
                testground_linux::udp::UdpSocket::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap()
            };
            let receiver = bind(to);
            let sender = there.enter(|| bind(from)).unwrap();
            sender.send_to(b"over", receiver.local_address().unwrap()).unwrap();
            assert!(common::await_readable(&receiver), "{from} to {to}");
            let datagram = receiver.receive(&mut [0; 16]).unwrap().unwrap();
            assert_eq!(datagram.destination, Some(to.parse::<IpAddr>().unwrap()));
            assert_eq!(datagram.source, sender.local_address().unwrap());
            assert!(datagram.arrival.unwrap() > Duration::from_secs(1));
        }

        near.apply(&[
            Change::Link(LinkChange { up: Some(false), ..LinkChange::new(a.index) }),
            Change::Link(LinkChange {
                name: Some("renamed"),
                mtu: Some(1280),
                mac: Some([2, 9, 9, 9, 9, 9]),
                txqueuelen: Some(5),
                ..LinkChange::new(a.index)
            }),
        ])
        .unwrap();
        let shown = ip("link show renamed");
        assert_eq!(shown[0]["mtu"], 1280);
        assert_eq!(shown[0]["address"], "02:09:09:09:09:09");
        assert_eq!(shown[0]["txqlen"], 5);
        assert_eq!(shown[0]["flags"].as_array().unwrap().iter().filter(|flag| *flag == "UP").count(), 0);
        near.flush_addresses(a.index).unwrap();
        assert_eq!(near.addresses(Some(a.index)).unwrap(), []);

        near.apply(&[Change::DeleteLink { index: a.index }]).unwrap();
        assert_eq!(near.link("renamed").unwrap(), None);
        assert_eq!(near.link_by_index(a.index).unwrap(), None);
        assert_eq!(far.link("far").unwrap(), None, "the other end went along");
    });
}

#[test]
fn every_kind_of_route_is_as_ip_shows_it() {
    in_lab("every_kind_of_route_is_as_ip_shows_it", &BOTH, |_| {
        let mut socket = RouteSocket::open().unwrap();
        socket
            .apply(&[up(1), Change::CreateVeth { one: VethEnd::new("a"), other: VethEnd::new("b") }])
            .unwrap();
        let index = socket.link("a").unwrap().unwrap().index;
        let other = socket.link("b").unwrap().unwrap().index;
        socket
            .apply(&[
                up(index),
                up(other),
                Change::AddAddress { index, address: net("10.0.0.1/16") },
                Change::AddAddress { index, address: net("fd00::1/64") },
            ])
            .unwrap();
        let routes = [
            Route::on(net("10.7.0.0/16"), index),
            Route::via(net("0.0.0.0/0"), "10.0.0.254".parse().unwrap(), index),
            Route {
                metric: Some(7),
                mtu: Some(1300),
                ..Route::via(net("10.8.0.0/16"), "10.0.0.9".parse().unwrap(), index)
            },
            Route::new(net("10.9.0.0/16"), RouteKind::Blackhole),
            Route::new(net("10.10.0.0/16"), RouteKind::Prohibit),
            Route::new(net("10.11.0.0/16"), RouteKind::Unreachable),
            Route { table: 1000, ..Route::on(net("10.12.0.0/16"), index) },
            Route { source: Some("10.0.0.1".parse().unwrap()), ..Route::on(net("10.13.0.0/16"), index) },
            Route {
                kind: RouteKind::Unicast {
                    device: Some(index),
                    gateway: Some("192.0.2.1".parse().unwrap()),
                    onlink: true,
                },
                ..Route::on(net("10.14.0.0/16"), index)
            },
            Route::new(net("172.16.0.0/12"), RouteKind::Local { device: 1 }),
            Route::on(net("fd07::/32"), index),
            Route::via(net("::/0"), "fd00::9".parse().unwrap(), index),
            Route::new(net("fd08::/32"), RouteKind::Blackhole),
            Route::new(net("fd09::/32"), RouteKind::Local { device: 1 }),
        ];
        let changes: Vec<Change<'_>> = routes.iter().cloned().map(Change::AddRoute).collect();
        socket.apply(&changes).unwrap();

        // The kernel lists what was asked for; IPv6 adds its default metric and shows loopback for what leads nowhere.
        let listed = socket.routes().unwrap();
        for route in &routes {
            let found = listed.iter().any(|known| {
                let metric = if route.destination.addr().is_ipv6() { known.metric } else { route.metric };
                let mut wanted = Route { metric, ..route.clone() };
                if let (RouteKind::Local { .. }, true) = (route.kind, known.source.is_some()) {
                    wanted.source = known.source;
                }
                *known == wanted
            });
            assert!(found, "{route} is missing in {listed:#?}");
        }
        let v4 = ip("route show table all");
        assert_eq!(find(&v4, "dst", "10.9.0.0/16")["type"], "blackhole");
        assert_eq!(find(&v4, "dst", "10.10.0.0/16")["type"], "prohibit");
        assert_eq!(find(&v4, "dst", "10.11.0.0/16")["type"], "unreachable");
        assert_eq!(find(&v4, "dst", "default")["gateway"], "10.0.0.254");
        assert_eq!(find(&v4, "dst", "10.7.0.0/16")["scope"], "link");
        assert_eq!(find(&v4, "dst", "10.8.0.0/16")["metric"], 7);
        assert_eq!(find(&v4, "dst", "10.12.0.0/16")["table"], "1000");
        assert_eq!(find(&v4, "dst", "172.16.0.0/12")["type"], "local");
        assert!(find(&v4, "dst", "10.14.0.0/16")["flags"].as_array().unwrap().contains(&"onlink".into()));
        // A network on loopback makes each of its addresses this host's own.
        testground_linux::udp::UdpSocket::bind("172.20.3.4:0".parse().unwrap()).unwrap();

        let replaced = Route { metric: Some(7), ..Route::on(net("10.8.0.0/16"), index) };
        socket.apply(&[Change::ReplaceRoute(replaced.clone())]).unwrap();
        let now = ip("route show 10.8.0.0/16");
        assert_eq!((now.as_array().unwrap().len(), &now[0]["gateway"]), (1, &Value::Null));
        let error = socket.apply(&[Change::AddRoute(replaced.clone())]).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EXIST));
        assert!(error.to_string().starts_with("failed to add route 10.8.0.0/16 by interface"), "{error}");
        let removals: Vec<Change<'_>> = routes.iter().cloned().map(Change::RemoveRoute).collect();
        let results = socket.apply_each(&removals);
        for (route, result) in routes.iter().zip(results) {
            let replaced = route.destination == replaced.destination;
            assert_eq!(result.is_ok(), !replaced, "{route}: {result:?}");
        }
        assert_eq!(ip("route show 10.9.0.0/16").as_array().unwrap().len(), 0);
    });
}

#[test]
fn neighbours_bridges_and_devices_are_as_ip_shows_them() {
    in_lab("neighbours_bridges_and_devices_are_as_ip_shows_them", &BOTH, |_| {
        let mut socket = RouteSocket::open().unwrap();
        socket
            .apply(&[
                Change::CreateBridge { name: "br" },
                Change::CreateIfb { name: "in" },
                Change::CreateVeth { one: VethEnd::new("a"), other: VethEnd::new("b") },
            ])
            .unwrap();
        let index = |socket: &mut RouteSocket, name: &str| socket.link(name).unwrap().unwrap().index;
        let (bridge, a) = (index(&mut socket, "br"), index(&mut socket, "a"));
        socket
            .apply(&[Change::Link(LinkChange { bridge: Some(bridge), ..LinkChange::new(a) }), up(a)])
            .unwrap();
        let shown = ip("link");
        assert_eq!(find(&shown, "ifname", "a")["master"], "br");
        let kind = |name: &str| find(&shown, "ifname", name)["linkinfo"]["info_kind"].clone();
        assert_eq!((kind("br"), kind("in"), kind("a")), ("bridge".into(), "ifb".into(), "veth".into()));
        assert_eq!(find(&shown, "ifname", "br")["linkinfo"]["info_data"]["mcast_snooping"], 0);
        assert_eq!(socket.link("a").unwrap().unwrap().bridge, Some(bridge));
        let mac = [2, 0x74, 0, 0, 0, 9];
        socket.apply(&[Change::LearnNothing { index: a }, Change::Forward { index: a, mac }]).unwrap();
        let port = find(&ip("link"), "ifname", "a")["linkinfo"]["info_slave_data"].clone();
        assert_eq!((&port["learning"], &port["flood"]), (&false.into(), &true.into()));
        let table: Value =
            serde_json::from_str(&common::output("bridge", &["-j", "fdb", "show", "dev", "a"])).unwrap();
        let entry = find(&table, "mac", "02:74:00:00:00:09");
        assert_eq!((&entry["state"], &entry["flags"]), (&"static".into(), &serde_json::json!(["sticky"])));

        let address: IpAddr = "10.0.0.7".parse().unwrap();
        let v6: IpAddr = "fd00::7".parse().unwrap();
        for mac in [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]] {
            socket
                .apply(&[
                    Change::SetNeighbour { index: a, address, mac },
                    Change::SetNeighbour { index: a, address: v6, mac },
                ])
                .unwrap();
        }
        let shown = ip("neigh show dev a");
        for text in ["10.0.0.7", "fd00::7"] {
            let shown = find(&shown, "dst", text);
            assert_eq!(
                (&shown["lladdr"], &shown["state"][0]),
                (&"02:00:00:00:00:08".into(), &"PERMANENT".into())
            );
        }
        let known = socket.neighbours(Some(a)).unwrap();
        assert!(
            known.iter().all(|known| known.permanent && known.mac == Some([2, 0, 0, 0, 0, 8]))
                && known.len() == 2
        );
        socket.apply(&[Change::RemoveNeighbour { index: a, address }]).unwrap();
        assert_eq!(socket.neighbours(Some(a)).unwrap().len(), 1);
        let error = socket.apply(&[Change::RemoveNeighbour { index: a, address }]).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    });
}

#[test]
fn refusals_say_what_was_refused_and_others_in_the_batch_are_made() {
    in_lab("refusals_say_what_was_refused_and_others_in_the_batch_are_made", &BOTH, |_| {
        let mut socket = RouteSocket::open().unwrap();
        let results = socket.apply_each(&[
            Change::CreateBridge { name: "one" },
            Change::CreateBridge { name: "one" },
            Change::DeleteLink { index: 4_000 },
            Change::CreateBridge { name: "a-name-that-is-too-long" },
            Change::AddAddress { index: 1, address: net("10.0.0.1/8") },
            Change::CreateBridge { name: "two" },
        ]);
        let errors: Vec<Option<Errno>> =
            results.iter().map(|result| result.as_ref().err().and_then(|error| error.errno())).collect();
        let range = errors[3];
        assert_eq!(errors, [None, Some(Errno::EXIST), Some(Errno::NODEV), range, None, None]);
        assert!(range.is_some_and(|errno| errno == Errno::RANGE || errno == Errno::INVAL), "{range:?}");
        let said = results[1].as_ref().unwrap_err().to_string();
        assert!(said.starts_with("failed to create bridge one"), "{said}");
        assert!(socket.link("two").unwrap().is_some());

        // Far more than fits into one message, or into one answer of a dump.
        let addresses: Vec<ipnet::IpNet> =
            (0..3000u32).map(|n| net(&format!("10.{}.{}.1/32", 100 + n / 250, n % 250))).collect();
        let changes: Vec<Change<'_>> =
            addresses.iter().map(|address| Change::AddAddress { index: 1, address: *address }).collect();
        socket.apply(&changes).unwrap();
        let listed = socket.addresses(Some(1)).unwrap();
        assert_eq!(listed.len(), 3001);
        socket.flush_addresses(1).unwrap();
        assert_eq!(ip("addr show lo")[0]["addr_info"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn a_tour_visits_many_namespaces_and_leaves_the_caller_at_home() {
    in_lab("a_tour_visits_many_namespaces_and_leaves_the_caller_at_home", &BOTH, |_| {
        let home = Netns::current().unwrap();
        let made: Vec<Netns> = tour(|tour| (0..20).map(|_| tour.create().unwrap()).collect()).unwrap();
        let mut inodes: Vec<u64> = made.iter().map(Netns::inode).chain([home.inode()]).collect();
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 21);
        let seen: Vec<u64> = tour(|tour| {
            made.iter()
                .map(|netns| {
                    tour.enter(netns).unwrap();
                    Netns::current().unwrap().inode()
                })
                .collect()
        })
        .unwrap();
        assert_eq!(seen, made.iter().map(Netns::inode).collect::<Vec<_>>());
        assert_eq!(Netns::current().unwrap(), home);
        let panic = std::panic::catch_unwind(|| made[0].enter(|| panic!("inside")));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
        let stray = Netns::from_fd(std::fs::File::open("/proc/self/ns/uts").unwrap().into()).unwrap();
        assert!(stray.enter(|| ()).is_err());
        let pid = rustix::process::getpid();
        assert_eq!(Netns::of_pid(pid).unwrap(), home);
    });
}

//! The lab's reactor, asked of the kernel: what `ip` and `ping` say inside of the namespaces it makes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab_support::{PATIENCE, appear, default_network, everywhere, instance, link, network, run};
use testground_model::event::NetworkRequests;
use testground_model::run::{Plane, ProofSettings};
use testground_model::shape::{Chance, Filter, Jitter, LinkShape};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{Later, Schedule};
use testground_sidecar::proof::Proved;
use testground_sidecar::reactor::lab::{LabError, LabNetwork, PortKind};
use testground_sidecar::request::{Request, RequestError};
use testground_sidecar::show::LinkRow;

mod lab_support;

fn request(json: &str) -> Request {
    Request::read(json.as_bytes()).unwrap()
}

fn late(ms: u64) -> LinkShape {
    LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
}

#[test]
fn a_pod_has_its_interfaces_addresses_and_routes() {
    everywhere("a_pod_has_its_interfaces_addresses_and_routes", |ports| async move {
        let networks = vec![default_network(), network("storage", "10.1.0.0/24", None, 9000)];
        let lab = LabNetwork::start(&run(&[("a", 2)], networks), ports).unwrap();
        assert_eq!(lab.ports(), if ports == PortKind::Auto { PortKind::Tap } else { ports });
        assert_eq!(lab.gateway().await.unwrap(), Ipv4Addr::new(192, 18, 0, 1));
        let one = appear(&lab, "a", 0).await;
        let two = appear(&lab, "a", 1).await;

        assert_eq!(one.addresses("control"), ["192.18.0.2/32"]);
        assert_eq!(one.addresses("data"), ["16.0.0.2/16", "fd16::2/64"]);
        assert_eq!(two.addresses("storage"), ["10.1.0.3/24"]);
        assert_eq!(one.routes(), ["10.1.0.0/24 storage", "16.0.0.0/16 data", "192.18.0.1 control"]);
        let links = one.json("ip -j link");
        let field = |name: &str, field: &str| {
            let found = links.as_array().unwrap().iter().find(|l| l["ifname"] == name).unwrap();
            found[field].to_string()
        };
        assert_eq!((field("data", "mtu"), field("storage", "mtu")), ("1500".to_owned(), "9000".to_owned()));
        assert!(field("lo", "flags").contains("UP") && field("storage", "flags").contains("UP"));
        let tentative = one.stdout("ip -6 address show dev data tentative");
        assert!(!tentative.contains("fd16::2"), "usable at once: {tentative}");

        assert!(one.reaches("16.0.0.3") && one.reaches("fd16::3") && one.reaches("10.1.0.3"));
        assert!(two.run("ping -n -c 1 -W 1 -M do -s 8972 10.1.0.2").status.success(), "jumbo frames");
        assert!(one.reaches("192.18.0.1"));
        assert!(one.misses("192.18.0.3"), "the control network is not for talking to each other");

        let addresses = lab.addresses(&instance("a", 1)).unwrap();
        assert_eq!((addresses.hostname.as_str(), addresses.control), ("a-1", Ipv4Addr::new(192, 18, 0, 3)));
        assert_eq!(addresses.data[1], ("storage".to_owned(), Ipv4Addr::new(10, 1, 0, 3), None));
        assert_eq!(lab.instance_at(IpAddr::V4(addresses.control)), Some(&instance("a", 1)));
        assert!(matches!(lab.appear(&instance("a", 1)).await, Err(LabError::AppearedTwice(_))));
        assert!(matches!(lab.appear(&instance("z", 0)).await, Err(LabError::UnknownInstance(_))));
    });
}

#[test]
fn services_of_the_lab_are_reached_and_know_who_asks() {
    everywhere("services_of_the_lab_are_reached_and_know_who_asks", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 1)], vec![default_network()]), ports).unwrap();
        let gateway = lab.gateway().await.unwrap();
        let listener = std::net::TcpListener::bind((gateway, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let pod = appear(&lab, "a", 0).await;
        let stream = pod.0.enter(move || std::net::TcpStream::connect(address)).unwrap();
        stream.expect("the gateway answers");
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(lab.instance_at(peer.ip()), Some(&instance("a", 0)));
    });
}

#[test]
fn an_address_changes_and_is_free_for_others_then() {
    everywhere("an_address_changes_and_is_free_for_others_then", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        let one = appear(&lab, "a", 0).await;
        let two = appear(&lab, "a", 1).await;
        let to = |v4: &str| {
            request(&format!(r#"{{"network":"default","enable":true,"IPv4":"{v4}","IPv6":"fd16::77/64"}}"#))
        };
        lab.apply(&instance("a", 0), to("16.0.9.9/24")).await.unwrap();
        assert_eq!(
            one.addresses("data"),
            ["16.0.9.9/16", "fd16::77/64"],
            "the network's prefix length counts"
        );
        assert!(two.reaches("16.0.9.9") && two.reaches("fd16::77") && one.reaches("16.0.0.3"));
        assert!(two.misses("16.0.0.2"));

        let refused = lab.apply(&instance("a", 1), to("16.0.9.9/16")).await.unwrap_err();
        assert_eq!(refused.to_string(), "`IPv4`: 16.0.9.9 on network `default` is taken by a[0]");
        let refused = lab.apply(&instance("a", 1), to("16.0.0.2/16")).await.unwrap_err();
        assert_eq!(refused.to_string(), "`IPv6`: fd16::77 on network `default` is taken by a[0]");
        assert_eq!(two.addresses("data"), ["16.0.0.3/16", "fd16::3/64"], "all or nothing");
        let given_up = request(r#"{"network":"default","enable":true,"IPv4":"16.0.0.2/16"}"#);
        lab.apply(&instance("a", 1), given_up).await.unwrap();
        assert!(one.reaches("16.0.0.2"));
        assert!(lab.plan().owner("default", "16.0.0.3".parse().unwrap()).is_none());
    });
}

#[test]
fn a_network_goes_down_and_comes_back() {
    everywhere("a_network_goes_down_and_comes_back", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        lab.gateway().await.unwrap();
        let one = appear(&lab, "a", 0).await;
        let two = appear(&lab, "a", 1).await;
        let off = request(r#"{"network":"default","enable":false}"#);
        lab.apply(&instance("a", 0), off.clone()).await.unwrap();
        assert!(two.misses("16.0.0.2") && two.misses("fd16::2"));
        assert!(one.reaches("192.18.0.1"), "services are still there");
        lab.apply(&instance("a", 0), off).await.unwrap();
        let on = request(r#"{"network":"default","enable":true,"IPv4":"16.0.5.5/16"}"#);
        lab.apply(&instance("a", 0), on).await.unwrap();
        assert_eq!(one.addresses("data"), ["16.0.5.5/16", "fd16::2/64"]);
        assert!(two.reaches("16.0.5.5") && two.reaches("fd16::2") && one.reaches("16.0.0.3"));
    });
}

#[test]
fn the_routing_policy_opens_and_closes_the_control_network() {
    everywhere("the_routing_policy_opens_and_closes_the_control_network", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        lab.gateway().await.unwrap();
        let one = appear(&lab, "a", 0).await;
        let _two = appear(&lab, "a", 1).await;
        let policy =
            |p: &str| request(&format!(r#"{{"network":"default","enable":true,"routing_policy":"{p}"}}"#));
        let closed = ["16.0.0.0/16 data", "192.18.0.1 control"];
        for index in 0..2 {
            lab.apply(&instance("a", index), policy("allow_all")).await.unwrap();
        }
        let open = ["16.0.0.0/16 data", "192.18.0.0/16 control", "192.18.0.1 control"];
        assert_eq!(one.routes()[..3], open);
        assert_eq!(one.routes()[3], "default via 192.18.0.1 control");
        assert!(one.reaches("192.18.0.3"));
        lab.apply(&instance("a", 0), policy("deny_all")).await.unwrap();
        assert_eq!(one.routes(), closed);
        assert!(one.misses("192.18.0.3") && one.reaches("192.18.0.1"));
    });
}

#[test]
fn shapes_and_rules_are_in_force_when_the_answer_is_there() {
    everywhere("shapes_and_rules_are_in_force_when_the_answer_is_there", |ports| async move {
        let mut run = run(&[("a", 2), ("b", 1)], vec![default_network()]);
        run.links = vec![link("a", "b", true, late(10))];
        let lab = LabNetwork::start(&run, ports).unwrap();
        let one = appear(&lab, "a", 0).await;
        let _other = appear(&lab, "a", 1).await;
        let _b = appear(&lab, "b", 0).await;
        let took = |ms: f64, address| {
            // Never shorter than asked for; longer while the machine is busy with something else, but not for ever as long as
            // the next shape here.
            let begun = Instant::now();
            loop {
                let measured = one.round_trip(address, 5);
                assert!(measured >= ms, "{measured} ms to {address} instead of {ms}");
                if measured < ms + 100.0 {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "{measured} ms to {address} instead of {ms}");
            }
        };
        took(20.0, "16.0.0.4");
        took(0.0, "16.0.0.3");
        let shaped = request(
            r#"{"network":"default","enable":true,"default":{"latency":150000000},
                "rules":[{"subnet":"16.0.0.3/32","latency":300000000},{"subnet":"fd16::3/128","filter":1}]}"#,
        );
        lab.apply(&instance("a", 0), shaped).await.unwrap();
        took(160.0, "16.0.0.4");
        took(300.0, "16.0.0.3");
        assert!(one.misses("fd16::3"));
        lab.apply(&instance("a", 0), request(r#"{"network":"default","enable":true}"#)).await.unwrap();
        took(20.0, "16.0.0.4");
        assert!(one.reaches("fd16::3"));

        let view = lab.show().unwrap();
        let there = |l: &&LinkRow| l.from == "a[0]/default" && l.to == "b[0]/default";
        assert!(view.links.iter().find(there).is_some_and(|l| l.sent >= 10), "{:#?}", view.links);
        assert!(view.table().contains("a <-> b"), "{}", view.table());
    });
}

#[test]
fn what_the_kernel_refuses_leaves_all_as_it_was() {
    everywhere("what_the_kernel_refuses_leaves_all_as_it_was", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        let one = appear(&lab, "a", 0).await;
        let two = appear(&lab, "a", 1).await;
        // Somebody with power over the namespace has taken the address away: it can't be removed any more.
        one.stdout("ip address del 16.0.0.2/16 dev data");
        let before = lab.plan();
        let wanted =
            r#"{"network":"default","enable":true,"IPv4":"16.0.7.7/16","default":{"latency":5000000}}"#;
        let refused = lab.apply(&instance("a", 0), request(wanted)).await.unwrap_err();
        assert!(matches!(refused, RequestError::Refused(_)), "{refused}");
        assert!(refused.to_string().contains("16.0.0.2/16"), "{refused}");
        assert_eq!(one.addresses("data"), ["16.0.0.2/16", "fd16::2/64"], "what was asked for is taken back");
        assert!(two.reaches("16.0.0.2"));
        let port = lab.ports_of(&instance("a", 0)).unwrap()[1];
        assert_eq!(
            lab.plan().resolve(port, "16.0.0.3".parse().unwrap()),
            before.resolve(port, "16.0.0.3".parse().unwrap())
        );
        lab.apply(&instance("a", 1), request(wanted)).await.expect("nobody holds the address");
    });
}

#[test]
fn requests_for_what_is_not_there_are_refused_by_name() {
    everywhere("requests_for_what_is_not_there_are_refused_by_name", |ports| async move {
        let lab =
            LabNetwork::start(&run(&[("a", 2)], vec![network("default", "16.0.0.0/16", None, 1500)]), ports);
        let lab = lab.unwrap();
        let ask =
            async |json: &str| lab.apply(&instance("a", 0), request(json)).await.unwrap_err().to_string();
        assert!(ask(r#"{"network":"default"}"#).await.contains("a[0] has no network"));
        let _one = appear(&lab, "a", 0).await;
        assert_eq!(
            ask(r#"{"network":"defualt"}"#).await,
            "unknown network `defualt` (is `default` meant?); known: default"
        );
        assert!(ask(r#"{"network":"control"}"#).await.starts_with("unknown network `control`; known"));
        assert!(ask(r#"{"network":"default","IPv4":"17.0.0.9/16"}"#).await.contains("17.0.0.9 is outside"));
        assert!(ask(r#"{"network":"default","IPv4":"16.0.0.1/16"}"#).await.contains("own address"));
        assert!(ask(r#"{"network":"default","IPv4":"16.0.0.3/16"}"#).await.contains("taken by a[1]"));
        assert!(ask(r#"{"network":"default","IPv6":"fd16::9/64"}"#).await.contains("has no IPv6 subnet"));
    });
}

#[test]
fn an_instance_that_disappears_can_appear_again() {
    everywhere("an_instance_that_disappears_can_appear_again", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        let first = appear(&lab, "a", 0).await;
        let two = appear(&lab, "a", 1).await;
        let moved = r#"{"network":"default","enable":true,"IPv4":"16.0.9.9/16","default":{"filter":2}}"#;
        lab.apply(&instance("a", 0), request(moved)).await.unwrap();
        lab.disappear(&instance("a", 0)).await.unwrap();
        drop(first);
        assert!(two.misses("16.0.9.9"));
        assert!(matches!(lab.disappear(&instance("a", 0)).await, Err(LabError::Absent(_))));
        let again = appear(&lab, "a", 0).await;
        assert_eq!(again.addresses("data")[0], "16.0.0.2/16");
        assert!(again.reaches("16.0.0.3"), "and nothing is left of what it asked for");
    });
}

/// Measures until the machine has time for it.
async fn prove(lab: &LabNetwork, settings: &ProofSettings, changes: &[Later]) -> Proved {
    let begun = Instant::now();
    let proved = loop {
        let proved = lab.prove(settings, changes.to_vec()).await.unwrap();
        if proved.busy.is_none() || begun.elapsed() > PATIENCE {
            break proved;
        }
    };
    assert!(proved.busy.is_none(), "the machine is too busy to measure: {proved:#?}");
    // What it sent is no part of what is told of the run.
    let dropped = lab.snapshot().unwrap().data.drops;
    assert!(!dropped.contains_key("loss") && !dropped.contains_key("filter_drop"), "{dropped:?}");
    proved
}

#[test]
fn what_other_effects_do_to_arrivals_is_not_held_against_a_rate() {
    everywhere("what_other_effects_do_to_arrivals_is_not_held_against_a_rate", |ports| async move {
        let mut run = run(&[("a", 1), ("b", 1), ("c", 1)], vec![default_network()]);
        let narrow = LinkShape { bandwidth: Some(10_000_000), ..late(30) };
        // Alone, either would have a burst of 25 ms look a fifth slower, or more.
        let jitter = Jitter { spread: Duration::from_millis(20), ..Jitter::default() };
        let trembling = LinkShape { jitter, ..narrow.clone() };
        let twice = LinkShape { duplicate: Chance::percent(40.0), ..narrow };
        let guest = lab_support::plane() == Plane::Kernel;
        run.links = vec![link("a", "b", true, trembling)];
        // The guest's kernel has no duplication beside another shape, and says so.
        if !guest {
            run.links.push(link("b", "c", true, twice));
        }
        let rate_percent = if guest { 20.0 } else { 5.0 };
        let settings = ProofSettings { rate_percent, ..run.settings.proof };
        let lab = LabNetwork::start(&run, ports).unwrap();
        let proved = prove(&lab, &settings, &[]).await;
        assert_eq!(proved.off(), Vec::<String>::new(), "{:#?}", proved.proofs);
        assert!(proved.proofs.len() == run.links.len() && proved.proofs.iter().all(|p| p.rate.is_some()));
        assert!(proved.proofs[0].delay_p99.unwrap() > Duration::from_millis(36), "{:#?}", proved.proofs[0]);
    });
}

#[test]
fn declared_shapes_are_measured_and_what_is_wrong_is_told() {
    everywhere("declared_shapes_are_measured_and_what_is_wrong_is_told", |ports| async move {
        let mut run = run(&[("a", 1), ("b", 1), ("c", 1)], vec![default_network()]);
        let narrow = LinkShape { bandwidth: Some(10_000_000), ..late(20) };
        let cut = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
        let slow = late(10_000);
        run.links = vec![
            link("a", "b", true, narrow.clone()),
            link("a", "c", false, late(5)),
            link("c", "a", false, late(7)),
            link("b", "c", true, cut),
            link("c", "d", true, slow),
        ];
        // The guest of the kernel's plane has one processor: it may be late to send, and the link idles then. That this plane
        // holds its rates is shown by `planes.rs`.
        let guest = lab_support::plane() == Plane::Kernel;
        let rate_percent = if guest { 20.0 } else { run.settings.proof.rate_percent };
        let settings = ProofSettings { rate_percent, ..run.settings.proof };
        let later = |at, link, follows| Later { at: Duration::from_secs(at), link, follows };
        // Three opportunities at once each 20 ms: 1.8 Mbit/s.
        let trace: Vec<u64> = (1..=300u64).map(|n| n.div_ceil(3) * 20).collect();
        let trace = Schedule::new(&trace, true, Duration::from_secs(20), Duration::from_millis(50));
        let changes = vec![
            later(10, link("a", "c", true, late(30)), None),
            later(20, link("a", "c", true, late(5)), trace.map(Arc::new)),
        ];
        let lab = LabNetwork::start(&run, ports).unwrap();
        let proved = prove(&lab, &settings, &changes).await;
        assert!(proved.unproved[0].contains("too slow to prove"), "{:?}", proved.unproved);
        let unproved =
            if guest { &["the trace of at 20s a <-> c: the kernel follows none"] } else { &[] as &[&str] };
        assert_eq!(&proved.unproved[1..], unproved);
        let labels: Vec<&str> = proved.proofs.iter().map(|p| p.label.as_str()).collect();
        assert_eq!(labels, ["a <-> b", "a -> c", "c -> a", "b <-> c", "at 10s a <-> c", "at 20s a <-> c"]);
        assert_eq!(proved.off(), Vec::<String>::new(), "{:#?}", proved.proofs);
        let [ab, ac, ca, bc, later, traced] = &proved.proofs[..] else { panic!() };
        if !guest {
            let (asked, rate) = (traced.replayed.unwrap(), traced.rate.unwrap());
            assert!((1.7e6..1.9e6).contains(&asked.rate), "{traced:?}");
            assert!((rate / asked.rate - 1.0).abs() < 0.05, "{traced:?}");
            assert!(
                traced.delay_p50.unwrap() < Duration::from_millis(9),
                "its latency is measured beside: {traced:?}"
            );
        }
        assert!(later.round_trip_p50.unwrap() >= Duration::from_millis(60));
        assert_eq!(ab.asked, narrow);
        assert!(ab.delay_p50.unwrap() >= Duration::from_millis(20));
        assert!(ab.round_trip_p50.unwrap() >= Duration::from_millis(40));
        assert!(
            ac.round_trip_p50.unwrap() >= Duration::from_millis(12)
                && ca.round_trip_p50.unwrap() >= Duration::from_millis(12)
        );
        assert_eq!((bc.loss_percent, bc.delay_p50), (100.0, None));
        let rate = ab.rate.unwrap();
        let slack = if guest { 2e6 } else { 5e5 };
        assert!((rate - 1e7).abs() < slack, "{rate}");
        let _inside = appear(&lab, "a", 0).await;
        for asked in [r#"{"latency":5000000}"#, r#"{"latency":6000000}"#, r#"{}"#] {
            let asked = format!(r#"{{"network":"default","enable":true,"default":{asked}}}"#);
            lab.apply(&instance("a", 0), request(&asked)).await.unwrap();
        }
        assert_eq!(lab.requests(), NetworkRequests { made: 3, shaped: 2, proved: 1 });
        // No plane delivers in no time at all: with such a tolerance every shape is off, and said to be.
        let strict = ProofSettings { delay: Duration::ZERO, ..settings };
        let off = lab.prove(&strict, Vec::new()).await.unwrap().off();
        assert!(off[0].starts_with("a <-> b: the median delay is"), "{off:?}");
        assert!(off.len() == 3, "a cut link lets nothing through at any tolerance: {off:?}");
        let left = lab.plan();
        assert!(left.in_force().iter().all(|e| e.network == "default") && left.members().count() == 3);
    });
}

/// On the kernel's plane wherever it runs: what comes from an address outside of the networks is shaped where it arrives.
#[test]
fn a_link_from_outside_is_shaped_where_it_arrives() {
    everywhere("a_link_from_outside_is_shaped_where_it_arrives", |ports| async move {
        let mut run = run(&[("a", 1), ("b", 1)], vec![default_network()]);
        run.settings.plane = Plane::Kernel;
        let narrow = LinkShape { bandwidth: Some(8_000_000), ..LinkShape::default() };
        let from = Endpoint::Subnet("192.0.2.0/24".parse().unwrap());
        run.links = vec![Link { from, ..link("a", "a", false, narrow) }];
        let lab = LabNetwork::start(&run, ports).unwrap();
        let (one, two) = (appear(&lab, "a", 0).await, appear(&lab, "b", 0).await);
        assert!(one.stdout("tc qdisc show").contains("dev tg-in"), "{}", one.stdout("tc qdisc show"));
        assert!(!two.stdout("ip -o link").contains("tg-in"), "nothing is declared for it");
        two.stdout("ip addr add 192.0.2.9/32 dev data");
        two.run("ping -n -c 3 -i 0.05 -W 1 -I 192.0.2.9 16.0.0.2");
        let shown = lab.show().unwrap();
        let class =
            shown.classes.iter().find(|class| class.name.starts_with("192.0.2.0/24 -> a[0]/default link 0"));
        let class = class.unwrap_or_else(|| panic!("{:?}", shown.classes));
        assert_eq!((class.passed.packets, class.shape.bandwidth), (3, Some(8_000_000)));
    });
}

//! The faults of netlink as the real kernel has them: buffers that overflow, lists that change while they are read, answers
//! that are longer than the room for them. Each is an error by name or a clean second attempt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Netlink, NetlinkError, Request};
use crate::netns::tour;
use crate::route::{Change, RouteSocket, VethEnd};

/// Runs a test in a network namespace of its own.
fn apart(test: &str, body: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|v| v != "all"), "{test}: needs root");
        return eprintln!("SKIPPED {test}: it needs a network namespace, and so root");
    }
    tour(|tour| {
        tour.create().unwrap();
        body();
    })
    .unwrap();
}

/// As little room for answers as the kernel allows: some three acknowledgements.
fn cramped() -> Netlink {
    let netlink = Netlink::open().unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&netlink.socket, 1).unwrap();
    netlink
}

fn list_links() -> Request {
    Request { what: "list the links".to_owned(), kind: RTM_GETLINK, flags: 0, body: vec![0; 16] }
}

/// Changes nothing about loopback, and is answered.
fn nothing(number: u32) -> Request {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&1i32.to_ne_bytes());
    Request { what: format!("change nothing, {number}"), kind: RTM_NEWLINK, flags: 0, body }
}

fn veth(socket: &mut RouteSocket, number: u32) -> Result<(), NetlinkError> {
    let (one, other) = (format!("one{number}"), format!("other{number}"));
    socket.apply(&[Change::CreateVeth { one: VethEnd::new(&one), other: VethEnd::new(&other) }])
}

/// The index of each link of a dump, in order.
fn indexes(found: &[(u16, Vec<u8>)]) -> Vec<i32> {
    let mut indexes: Vec<i32> =
        found.iter().map(|(_, body)| i32::from_ne_bytes(body[4..8].try_into().unwrap())).collect();
    indexes.sort_unstable();
    indexes
}

#[test]
fn answers_that_do_not_fit_are_told_and_from_then_on_each_is_waited_for() {
    apart("answers_that_do_not_fit_are_told_and_from_then_on_each_is_waited_for", || {
        let mut netlink = cramped();
        let requests: Vec<Request> = (0..64).map(nothing).collect();
        let first = netlink.execute(&requests);
        let lost: Vec<&NetlinkError> = first.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(!lost.is_empty(), "64 answers fit");
        assert!(lost.iter().all(|error| matches!(error, NetlinkError::Overrun { .. })), "{lost:?}");
        assert!(lost[0].to_string().contains("change nothing, ") && lost[0].to_string().contains("ENOBUFS"));
        // What is left in the socket belongs to nobody.
        assert!(netlink.execute(&requests).iter().all(Result::is_ok));
        assert_eq!(indexes(&netlink.dump(&list_links()).unwrap()), [1]);
    });
}

#[test]
fn a_list_is_whole_however_little_room_there_is() {
    apart("a_list_is_whole_however_little_room_there_is", || {
        let mut route = RouteSocket::open().unwrap();
        (0..150).for_each(|number| veth(&mut route, number).unwrap());
        let all = indexes(&Netlink::open().unwrap().dump(&list_links()).unwrap());
        assert_eq!(all.len(), 301);
        let mut netlink = cramped();
        assert_eq!(indexes(&netlink.dump(&list_links()).unwrap()), all);
        // Room for less than one piece of it.
        netlink.buffer = Vec::with_capacity(100);
        let error = netlink.dump(&list_links()).unwrap_err();
        assert!(
            matches!(error, NetlinkError::Malformed { .. }) && error.to_string().contains("list the links"),
            "{error}"
        );
        netlink.buffer = Vec::with_capacity(super::ROOM);
        assert_eq!(indexes(&netlink.dump(&list_links()).unwrap()), all);
    });
}

#[test]
fn a_list_that_changes_while_it_is_read_is_never_taken_for_whole() {
    apart("a_list_that_changes_while_it_is_read_is_never_taken_for_whole", || {
        let mut route = RouteSocket::open().unwrap();
        (0..150).for_each(|number| veth(&mut route, number).unwrap());
        let mut netlink = Netlink::open().unwrap();
        let stable = indexes(&netlink.dump(&list_links()).unwrap());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let over = &over;
            let mut other = RouteSocket::open().unwrap();
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    veth(&mut other, 1000).unwrap();
                    let link = other.link("one1000").unwrap().unwrap();
                    other.apply(&[Change::DeleteLink { index: link.index }]).unwrap();
                }
            });
            let (begun, mut interrupted, mut whole) = (Instant::now(), 0, 0);
            // Both happen within milliseconds; a busy machine has as long as it needs.
            while (interrupted == 0 || whole == 0) && begun.elapsed() < Duration::from_secs(60) {
                match netlink.try_dump(&list_links()).unwrap() {
                    None => interrupted += 1,
                    Some(found) => {
                        whole += 1;
                        let found = indexes(&found);
                        assert!(stable.iter().all(|index| found.binary_search(index).is_ok()), "{found:?}");
                    }
                }
            }
            match netlink.dump(&list_links()) {
                Ok(found) => assert!(found.len() >= stable.len()),
                Err(error) => assert!(matches!(error, NetlinkError::Interrupted { .. }), "{error}"),
            }
            over.store(true, Ordering::Relaxed);
            assert!(interrupted > 0 && whole > 0, "{interrupted} interrupted, {whole} whole");
        });
    });
}

#[test]
fn events_that_overflow_are_looked_up() {
    apart("events_that_overflow_are_looked_up", || {
        let mut netlink = cramped();
        let mut other = RouteSocket::open().unwrap();
        let mut looks = 0;
        let found = netlink.await_event(RTNLGRP_LINK, Duration::from_secs(60), |netlink| {
            // More events than there is room for, between two looks.
            (0..20).for_each(|number| veth(&mut other, 100 * looks + number).unwrap());
            looks += 1;
            let count = netlink.dump(&list_links())?.len();
            Ok((looks == 3).then_some(count))
        });
        assert_eq!(found.unwrap(), Some(1 + 3 * 40));
        assert_eq!(netlink.dump(&list_links()).unwrap().len(), 121, "no event is left in the way");
    });
}

// linux/rtnetlink.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTNLGRP_LINK: u32 = 1;

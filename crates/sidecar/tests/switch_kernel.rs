//! The switch between hosts of the kernel: what `ping`, sockets and the kernel's own counters say.

#[macro_use]
mod switch_lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use switch_lab::{Carrier, Lab, PATIENCE, comes_true};
use testground_linux::packet_socket::{PacketSocket, PacketSocketOptions};
use testground_model::shape::{Chance, Filter, Jitter, LinkShape, Loss};
use testground_sidecar::plane::switch::link::chance::Stream;
use testground_sidecar::plane::switch::link::server::Server;
use testground_sidecar::plane::switch::link::{Effects, Flow, History, State, Step};
use testground_sidecar::plane::switch::packet::Segments;
use testground_sidecar::plane::switch::table::mac_of;
use testground_sidecar::plane::switch::{Switch, SwitchConfig, SwitchError};

#[test]
fn hosts_reach_each_other_over_every_carrier() {
    need!("hosts_reach_each_other_over_every_carrier", "ping");
    for carrier in [Carrier::Tap, Carrier::BareTap, Carrier::PacketSocket] {
        let lab = Lab::new(3, carrier);
        for to in [lab.hosts[1].v4.to_string(), lab.hosts[2].v6.to_string()] {
            let text = lab.hosts[0].stdout("ping", &format!("-c 3 -i 0.01 -w 100 {to}"));
            // With a deadline `ping` waits for the answers, and sends more while they are late; without one it gives up after two
            // round trips.
            assert!(received(&text) >= 3, "{carrier:?}: {text}");
        }
        let snapshot = lab.switch.snapshot().unwrap();
        assert!(snapshot.answered >= 4, "both sides of both pings asked: {}", snapshot.answered);
        assert_eq!(snapshot.data.drops.get("no_receiver"), None, "{carrier:?}");
        let link = snapshot.link("h[0]/default", "h[1]/default").unwrap();
        assert!(link.delivered.packets >= 3, "{carrier:?}: {link:?}");
        lab.switch.shutdown();
    }
}

#[test]
fn a_round_trip_takes_what_was_asked_for_from_the_first_packet_on() {
    need!("a_round_trip_takes_what_was_asked_for_from_the_first_packet_on", "ping");
    let mut lab = Lab::new(2, Carrier::Tap);
    lab.shape(LinkShape { latency: Duration::from_millis(20), ..LinkShape::default() });
    for to in [lab.hosts[1].v4.to_string(), lab.hosts[1].v6.to_string()] {
        let text = lab.hosts[0].stdout("ping", &format!("-c 20 -i 0.01 -w 100 {to}"));
        let times: Vec<f64> =
            text.lines().filter_map(|l| l.split("time=").nth(1)?.split(' ').next()?.parse().ok()).collect();
        assert!(times.len() >= 20, "{text}");
        assert!(times.iter().all(|t| *t >= 40.0), "{text}");
        if lab.late() {
            eprintln!("the switch was late; real time says nothing");
            continue;
        }
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted[10] < 41.0, "median {}: {text}", sorted[10]);
        // The first one asks for the hardware address, and pays nothing for it.
        assert!(times[0] < 45.0, "{text}");
    }
}

#[test]
fn the_kernel_loses_the_packets_that_the_seed_says() {
    need!("the_kernel_loses_the_packets_that_the_seed_says",);
    let mut lab = Lab::new(2, Carrier::Tap);
    let loss = Loss::Random(Chance { percent: 20.0, correlation: 25.0 });
    lab.shape(LinkShape { loss, ..LinkShape::default() });
    let (sender, receiver) = sockets(&lab, 0, 1);
    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    for i in 0..2000u32 {
        sender.send(&i.to_be_bytes()).unwrap();
        // In step, so that no queue of the kernel's overflows; what is lost is waited for at the end only.
        if i % 100 == 99 {
            while let Ok(4) = receiver.recv(&mut buffer) {
                arrived.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
            }
        }
    }
    // The same on virtual time.
    let stream = Stream::new(42, &lab.hosts[0].name, &lab.hosts[1].name);
    let effects = Effects::new(&LinkShape { loss, ..LinkShape::default() });
    let (mut flow, mut history, mut steps) = (Flow::new(stream), History::default(), Vec::new());
    for _ in 0..2000 {
        let (server, order) = (&mut Server::default(), &mut 0);
        let state = State { server, flow: &mut flow, history: &mut history, order };
        effects.transit(state, &Segments::plain(60), 0, &mut steps);
    }
    let departs = |step: &Step| matches!(step, Step::Depart(_));
    let expected: Vec<u32> = (0..).zip(&steps).filter(|(_, s)| departs(s)).map(|(i, _)| i).collect();
    // The last ones may take longer than the receiver waits for one, on a machine that is busy with something else; one more
    // than there should be would have come by then.
    let begun = Instant::now();
    loop {
        match receiver.recv(&mut buffer) {
            Ok(_) => arrived.push(u32::from_be_bytes(buffer[..4].try_into().unwrap())),
            Err(_) if arrived.len() >= expected.len() || begun.elapsed() > PATIENCE => break,
            Err(_) => (),
        }
    }
    // The receiving kernel may take packets in on either of two processors.
    arrived.sort_unstable();
    assert_eq!(arrived, expected);
}

#[test]
fn a_rejecting_link_tells_the_sender_and_a_dropping_one_does_not() {
    need!("a_rejecting_link_tells_the_sender_and_a_dropping_one_does_not",);
    let mut lab = Lab::new(2, Carrier::Tap);
    lab.shape(LinkShape { filter: Filter::Reject, ..LinkShape::default() });
    for to in lab.hosts[1].addresses() {
        let begun = Instant::now();
        let tcp = lab.hosts[0].inside(|| TcpStream::connect_timeout(&(to, 80).into(), PATIENCE));
        assert_eq!(tcp.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        let from = lab.hosts[0].addresses()[usize::from(to.is_ipv6())];
        let udp = lab.hosts[0].inside(|| UdpSocket::bind((from, 0)).unwrap());
        udp.connect((to, 80)).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        udp.send(b"?").unwrap();
        // ICMP "administratively prohibited" is "no route to host" to an IPv4 socket, "permission denied" to IPv6.
        let error = udp.recv(&mut [0; 8]).unwrap_err().kind();
        assert!(matches!(error, ErrorKind::HostUnreachable | ErrorKind::PermissionDenied), "{to}: {error:?}");
        assert!(begun.elapsed() < PATIENCE, "errors come at once, not by a time-out");
    }
    lab.shape(LinkShape { filter: Filter::Drop, ..LinkShape::default() });
    let to = (lab.hosts[1].v4, 80).into();
    let silent = lab.hosts[0].inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(200)));
    assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut);
    let drops = || lab.switch.snapshot().unwrap().data.drops;
    assert!(comes_true(|| drops().get("filter_drop").is_some_and(|n| *n >= 1)), "{:?}", drops());
    assert!(drops()["filter_reject"] >= 4, "{:?}", drops());
}

#[test]
fn the_kernel_counts_corrupted_datagrams_as_checksum_errors() {
    need!("the_kernel_counts_corrupted_datagrams_as_checksum_errors", "nstat");
    let mut lab = Lab::new(2, Carrier::Tap);
    lab.shape(LinkShape { corrupt: Chance::percent(100.0), ..LinkShape::default() });
    let (sender, receiver) = sockets(&lab, 0, 1);
    for _ in 0..200 {
        // Large, so that few flips are in the IP header, which is another counter.
        sender.send(&[7; 1400]).unwrap();
    }
    assert!(receiver.recv(&mut [0; 2000]).is_err(), "nothing whole arrives");
    let wrong = || lab.hosts[1].counter("UdpInCsumErrors") + lab.hosts[1].counter("UdpInErrors");
    assert!(comes_true(|| wrong() > 150), "{}", wrong());
}

#[test]
fn tcp_fills_a_slow_link_without_losing_segments() {
    need!("tcp_fills_a_slow_link_without_losing_segments", "nstat");
    // The queue holds 156 KB: what a sender overfills it with is lost, and nothing else.
    let data = vec![7; 1 << 20];
    let mut seen = (0, 0);
    let fits = comes_true(|| {
        let mut lab = Lab::new(2, Carrier::Tap);
        let latency = Duration::from_millis(5);
        lab.shape(LinkShape { bandwidth: Some(50_000_000), latency, ..LinkShape::default() });
        let begun = Instant::now();
        assert!(transfer(&lab, lab.hosts[1].v4.into(), &data) == data);
        let bits = data.len() as f64 * 8.0 / begun.elapsed().as_secs_f64();
        // Never faster than the wire, whatever the machine does.
        assert!(bits < 50_000_000.0 * 1448.0 / 1514.0, "{bits}");
        let snapshot = lab.switch.snapshot().unwrap();
        let queued = snapshot.data.drops.get("queue").copied().unwrap_or(0);
        let again = lab.hosts[0].counter("TcpRetransSegs");
        seen = (again, queued);
        // A machine that is busy for longer than TCP's patience has it send again what is on its way.
        again <= queued + 1
    });
    assert!(fits, "{} sent again, though {} were dropped", seen.0, seen.1);
}

#[test]
fn tcp_survives_every_effect_at_once_over_every_carrier() {
    need!("tcp_survives_every_effect_at_once_over_every_carrier",);
    for carrier in [Carrier::Tap, Carrier::BareTap, Carrier::PacketSocket] {
        let mut lab = Lab::new(2, carrier);
        let some = Chance::percent(1.0);
        lab.shape(LinkShape {
            latency: Duration::from_millis(2),
            jitter: Jitter { spread: Duration::from_millis(1), ..Jitter::default() },
            bandwidth: Some(200_000_000),
            loss: Loss::Random(some),
            corrupt: some,
            duplicate: some,
            reorder: some,
            ..LinkShape::default()
        });
        for address in lab.hosts[1].addresses() {
            let sent: Vec<u8> =
                (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let received = transfer(&lab, address, &sent);
            assert!(received == sent, "{carrier:?} {address}: {} bytes", received.len());
        }
        let snapshot = lab.switch.snapshot().unwrap();
        let link = snapshot.link("h[0]/default", "h[1]/default").unwrap();
        assert!(link.drops["loss"] > 0 && link.corrupted > 0 && link.duplicated > 0, "{link:?}");
        assert_eq!(snapshot.data.drops.get("refused"), None, "{carrier:?}");
        assert_eq!(snapshot.data.drops.get("malformed"), None, "{carrier:?}");
    }
}

#[test]
fn tshark_reads_a_capture_of_two_interfaces() {
    need!("tshark_reads_a_capture_of_two_interfaces", "ping", "tshark");
    let mut lab = Lab::new(3, Carrier::Tap);
    lab.shape(LinkShape { latency: Duration::from_millis(10), ..LinkShape::default() });
    let file = tempfile::NamedTempFile::new().unwrap();
    let ports = [lab.hosts[0].port, lab.hosts[1].port];
    lab.switch.capture(&ports, file.reopen().unwrap()).unwrap();
    let again = lab.switch.capture(&ports[..1], file.reopen().unwrap());
    assert!(matches!(again, Err(SwitchError::CaptureTaken(_))));
    lab.hosts[0].stdout("ping", &format!("-c 3 -i 0.05 -w 100 {}", lab.hosts[1].v4));
    lab.switch.shutdown();
    let read = |arguments: &str| {
        let mut command = std::process::Command::new("tshark");
        command.arg("-r").arg(file.path()).args(arguments.split_whitespace());
        let output = command.env("HOME", "/tmp").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let fields = "-Y icmp -T fields -e frame.interface_name -e icmp.type -e frame.time_epoch \
                  -e frame.packet_flags_direction -e ip.checksum.status -e icmp.checksum.status \
                  -o ip.check_checksum:TRUE";
    let lines: Vec<Vec<String>> =
        read(fields).lines().map(|l| l.split('\t').map(str::to_owned).collect()).collect();
    assert!(lines.len() >= 12, "each of three requests and answers leaves one port and enters the other");
    let column = |i: usize| lines.iter().map(|l| l[i].as_str()).collect::<Vec<_>>();
    assert!(column(0).iter().filter(|n| **n == "h[0]/default").count() >= 6, "{lines:?}");
    assert!(column(4).iter().chain(&column(5)).all(|status| *status == "1"), "checksums: {lines:?}");
    let seconds = |line: &[String]| {
        let (whole, nanos) = line[2].split_once('.').unwrap();
        assert_eq!(nanos.len(), 9, "nanoseconds");
        whole.parse::<u64>().unwrap() * 1_000_000_000 + nanos.parse::<u64>().unwrap()
    };
    // The first request leaves host 0 and comes to host 1 ten milliseconds later, by the capture's own stamps.
    assert_eq!((lines[0][0].as_str(), lines[1][0].as_str()), ("h[0]/default", "h[1]/default"));
    assert!(seconds(&lines[1]) - seconds(&lines[0]) >= 10_000_000);
}

#[test]
fn a_full_disk_is_said_and_stops_no_packet() {
    need!("a_full_disk_is_said_and_stops_no_packet", "ping");
    let lab = Lab::new(2, Carrier::Tap);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    lab.switch.capture(&[lab.hosts[0].port], full).unwrap();
    // Longer than frames wait for company before they are written.
    let text = lab.hosts[0].stdout("ping", &format!("-c 5 -i 0.1 -w 100 {}", lab.hosts[1].v4));
    assert!(received(&text) >= 5, "{text}");
    let error = || lab.switch.snapshot().unwrap().file_error;
    assert!(comes_true(|| error().is_some_and(|e| e.contains("No space"))), "{:?}", error());
}

#[test]
fn frames_without_sense_are_counted_and_harm_nobody() {
    need!("frames_without_sense_are_counted_and_harm_nobody", "ping");
    let lab = Lab::new(3, Carrier::Tap);
    let host = &lab.hosts[0];
    let index = host.stdout("ip", "-o link show data");
    let index: u32 = index.split(':').next().unwrap().trim().parse().unwrap();
    let socket = host.inside(|| PacketSocket::open(index, &PacketSocketOptions::default()).unwrap());
    let mac = [mac_of(lab.hosts[1].port), mac_of(host.port)].concat();
    let with = |rest: &[u8]| [&mac, rest].concat();
    let frames: Vec<Vec<u8>> = vec![
        with(&[8, 0]),
        with(&[8, 0, 0x45, 0, 0, 10, 0, 0]),
        with(&[8, 0, 0x4f, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 16, 0, 0, 2, 16, 0, 0, 3, 1, 1]),
        with(&[&[8, 0, 0x45, 0, 0xff, 0xff][..], &[0; 40]].concat()),
        with(&[&[0x86, 0xdd, 0x60, 0, 0, 0, 0xff, 0xff, 0, 64][..], &[0; 60]].concat()),
        with(
            &[&[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0][..], &[0; 40]].concat(),
        ),
        with(&[8, 6, 0, 1]),
        // Sensible ones of rarer kinds: not IP, a VLAN tag, a later fragment with options.
        with(&[&[0x88, 0xb5][..], &[0; 50]].concat()),
        with(&[&[0x81, 0, 0, 7, 0x88, 0xb5][..], &[0; 50]].concat()),
        with(
            &[
                &[8, 0, 0x46, 0, 0, 44, 0, 0, 0, 9, 64, 17, 0, 0, 16, 0, 0, 2, 16, 0, 0, 3, 1, 1, 1, 0][..],
                &[0; 20],
            ]
            .concat(),
        ),
    ];
    for frame in &frames {
        let bytes = [&[0u8; 10][..], frame].concat();
        rustix::io::write(&socket, &bytes).unwrap();
    }
    // The same link is as good as ever behind them.
    let text = host.stdout("ping", &format!("-c 3 -i 0.01 -w 100 {}", lab.hosts[1].v4));
    assert!(received(&text) >= 3, "{text}");
    let snapshot = lab.switch.snapshot().unwrap();
    assert_eq!(snapshot.data.drops["malformed"], 7, "{:?}", snapshot.data.drops);
    assert_eq!((snapshot.kinds["not_ip"], snapshot.kinds["vlan"]), (2, 1), "{:?}", snapshot.kinds);
    // The kernel itself sends hop-by-hop options, in its reports of multicast groups.
    assert!(snapshot.kinds["fragment"] == 1 && snapshot.kinds["ip_options"] >= 1, "{:?}", snapshot.kinds);
    assert_eq!(snapshot.memory.used, 0);
}

#[test]
fn interfaces_that_go_take_nothing_with_them() {
    need!("interfaces_that_go_take_nothing_with_them", "ping");
    let mut lab = Lab::new(3, Carrier::Tap);
    lab.hosts[1].ip("link set data down");
    let down = lab.hosts[0].run("ping", &format!("-c 2 -i 0.01 -W 0.2 {}", lab.hosts[1].v4));
    assert!(!down.status.success());
    let drops = || lab.switch.snapshot().unwrap().data.drops;
    assert!(comes_true(|| drops().get("receiver_down").is_some_and(|n| *n >= 1)), "{:?}", drops());
    lab.hosts[1].ip("link set data up");
    lab.hosts[0].stdout("ping", &format!("-c 2 -i 0.01 -w 100 {}", lab.hosts[1].v4));
    // Deleted from within, as an instance that is root may.
    lab.hosts[1].ip("link delete data");
    let gone = lab.hosts[1].port;
    lab.hosts[0].stdout("ping", &format!("-c 2 -i 0.01 -w 100 {}", lab.hosts[2].v4));
    lab.switch.detach(gone).unwrap();
    assert!(matches!(lab.switch.detach(gone), Err(SwitchError::NoSuchPort(_))));
    // A new instance in the old one's place.
    lab.hosts.remove(1);
    lab.add(7, Carrier::Tap);
    lab.hosts[0].stdout("ping", &format!("-c 2 -i 0.01 -w 100 {}", lab.hosts[2].v4));
}

#[test]
fn a_switch_that_panics_says_so_to_whoever_asks() {
    let switch = Switch::start(SwitchConfig::default()).unwrap();
    let mut died = switch.died();
    switch.panic("for a test").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let why = runtime.block_on(async { died.wait_for(Option::is_some).await.unwrap().clone() });
    assert_eq!(why.as_deref(), Some("panic: for a test"));
    let error = switch.snapshot().unwrap_err();
    assert!(error.to_string().contains("for a test"), "{error}");
    switch.shutdown();
    // One that was told to stop did not die.
    let switch = Switch::start(SwitchConfig::default()).unwrap();
    let died = switch.died();
    switch.shutdown();
    assert_eq!(*died.borrow(), None);
}

/// How many answers `ping` had.
fn received(text: &str) -> u32 {
    let count = text.split(" received").next().and_then(|before| before.rsplit(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// Connected UDP sockets on two hosts; receiving gives up after 100 ms.
fn sockets(lab: &Lab, from: usize, to: usize) -> (UdpSocket, UdpSocket) {
    let (host, to) = (&lab.hosts[from], &lab.hosts[to]);
    // Known from the start: what waits for an address is overtaken by what is sent when it has come.
    let mac: Vec<String> = mac_of(to.port).iter().map(|byte| format!("{byte:02x}")).collect();
    host.ip(&format!("neigh replace {} lladdr {} nud permanent dev {}", to.v4, mac.join(":"), host.device));
    let receiver = to.inside(|| UdpSocket::bind((to.v4, 6000)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let sender = host.inside(|| UdpSocket::bind((host.v4, 0)).unwrap());
    sender.connect((to.v4, 6000)).unwrap();
    (sender, receiver)
}

/// Sends bytes from host 0 to host 1 over TCP and returns what arrives.
fn transfer(lab: &Lab, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let listener = lab.hosts[1].inside(|| TcpListener::bind((to, 7000)).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = lab.hosts[0].inside(|| TcpStream::connect((to, 7000)).unwrap());
            stream.write_all(data).unwrap();
        });
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    })
}

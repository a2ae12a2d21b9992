//! One suite of measured cases over both planes, with each plane's bounds in one table: what a shape does to a stream of datagrams
//! from one instance to another.
//!
//! The switch is measured on this machine, the kernel's plane in a guest whose kernel has netem (User Mode Linux), at up to
//! 100 Mbit/s and 2,000 packets a second. A machine that is busy makes packets late, never early: a case may be measured
//! several times.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lab_support::{appear, default_network, instance, link, network, plane, run};
use testground_linux::poll::realtime_nanos;
use testground_linux::udp::UdpSocket;
use testground_model::run::Plane;
use testground_model::shape::{Chance, Distribution, Filter, Jitter, LinkShape, Loss, Queue, QueueLimit};
use testground_model::topology::Endpoint;
use testground_sidecar::plan::Overlay;
use testground_sidecar::plane::kernel::{Abilities, unsupported};
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};

mod lab_support;

/// A shape, what is sent over it, and what is to come of it.
struct Case {
    name: &'static str,
    shape: LinkShape,
    stream: Stream,
    /// What is measured, and what it should be.
    of: fn(&Sample) -> f64,
    expected: f64,
    /// How far off a plane may be: the switch, the kernel.
    within: (f64, f64),
    /// Whether the kernel's plane can do it.
    kernel: bool,
}

/// So many packets of so many bytes on the wire, one after each such time.
#[derive(Clone, Copy)]
struct Stream {
    packets: u32,
    size: usize,
    every: Duration,
}

/// What arrived: number of the packet, and how long it took.
#[derive(Default)]
struct Sample {
    sent: u32,
    size: usize,
    /// In the order of arrival: number, milliseconds on the way, and when, in seconds.
    arrivals: Vec<(u32, f64, f64)>,
}

const MTU: u32 = 9000;
const HEADERS: usize = 14 + 20 + 8;

fn ms(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1000.0)
}

fn late(latency: f64) -> LinkShape {
    LinkShape { latency: ms(latency), ..LinkShape::default() }
}

fn trembling(distribution: Distribution, may_reorder: bool) -> LinkShape {
    let jitter = Jitter { spread: ms(5.0), distribution, may_reorder, ..Jitter::default() };
    LinkShape { jitter, ..late(40.0) }
}

fn lossy(loss: Loss) -> LinkShape {
    LinkShape { loss, ..LinkShape::default() }
}

fn narrow(bandwidth: u64) -> LinkShape {
    LinkShape { bandwidth: Some(bandwidth), ..LinkShape::default() }
}

/// Four standard deviations of a share of so many independent packets, in percent.
fn chance(percent: f64, packets: u32) -> f64 {
    4.0 * (percent * (100.0 - percent) / f64::from(packets)).sqrt()
}

/// The table. Delays are in milliseconds, shares in percent, rates in Mbit/s.
fn cases() -> Vec<Case> {
    let few = Stream { packets: 100, size: 200, every: ms(4.0) };
    let many = Stream { packets: 2000, size: 106, every: ms(0.6) };
    let random = |percent, correlation| lossy(Loss::Random(Chance { percent, correlation }));
    let bursts = lossy(Loss::GilbertElliott { p: 5.0, r: 25.0, bad: 100.0, good: 0.0 });
    let case = |name, shape, stream, of, expected, within| Case {
        name,
        shape,
        stream,
        of,
        expected,
        within,
        kernel: true,
    };
    let ten = chance(10.0, 2000);
    let queue = |limit| Queue { limit, ..Queue::default() };
    let full = |packets| Stream { packets, size: 1514, every: ms(0.5) };
    vec![
        case("no shape: delay", LinkShape::default(), few, Sample::delay, 0.0, (1.0, 1.0)),
        case("latency 20 ms", late(20.0), few, Sample::delay, 20.0, (0.6, 0.6)),
        case("latency 200 ms", late(200.0), few, Sample::delay, 200.0, (6.0, 6.0)),
        case("latency 200 ms: the first packet", late(200.0), few, Sample::first, 200.0, (6.0, 6.0)),
        case("1 Mbit/s", narrow(1_000_000), full(40), Sample::rate, 1.0, (0.03, 0.03)),
        case(
            "10 Mbit/s",
            narrow(10_000_000),
            Stream { every: ms(0.6), ..full(400) },
            Sample::rate,
            10.0,
            (0.3, 0.3),
        ),
        case(
            "100 Mbit/s in large packets",
            narrow(100_000_000),
            Stream { packets: 700, size: 9000, every: ms(0.6) },
            Sample::rate,
            100.0,
            (3.0, 3.0),
        ),
        case(
            "10 Mbit/s and 20 ms: own time on the wire",
            LinkShape { latency: ms(20.0), ..narrow(10_000_000) },
            Stream { packets: 100, size: 1514, every: ms(4.0) },
            Sample::delay,
            21.21,
            (0.6, 0.6),
        ),
        case("loss 10 %", random(10.0, 0.0), many, Sample::lost, 10.0, (ten, ten)),
        case(
            "loss 10 %, correlated 50 %",
            random(10.0, 50.0),
            many,
            Sample::lost,
            10.0,
            (2.0 * ten, 2.0 * ten),
        ),
        case("loss in bursts: share", bursts.clone(), many, Sample::lost, 16.67, (12.0, 12.0)),
        case("loss in bursts: their mean length", bursts, many, Sample::burst, 4.0, (1.6, 1.6)),
        case(
            "duplicate 10 %",
            LinkShape { duplicate: Chance::percent(10.0), ..LinkShape::default() },
            many,
            Sample::twice,
            10.0,
            (ten, ten),
        ),
        // netem flips bits of the Ethernet header as well, and those of the sender's address hurt nobody.
        case(
            "corrupt 10 %",
            LinkShape { corrupt: Chance::percent(10.0), ..LinkShape::default() },
            many,
            Sample::lost,
            10.0,
            (ten, ten + 1.0),
        ),
        case(
            "uniform jitter: deviation",
            trembling(Distribution::Uniform, false),
            Stream { packets: 300, every: ms(4.0), ..few },
            Sample::deviation,
            2.6,
            (0.8, 0.8),
        ),
        case(
            "uniform jitter: order",
            trembling(Distribution::Uniform, false),
            many,
            Sample::disorder,
            0.0,
            (0.0, 0.0),
        ),
        case(
            "uniform jitter, reordering: deviation",
            trembling(Distribution::Uniform, true),
            many,
            Sample::deviation,
            2.887,
            (0.2, 0.2),
        ),
        case(
            "normal jitter, reordering: deviation",
            trembling(Distribution::Normal, true),
            many,
            Sample::deviation,
            5.0,
            (0.4, 0.4),
        ),
        case(
            "Pareto jitter, reordering: median",
            trembling(Distribution::Pareto, true),
            many,
            Sample::delay,
            41.3,
            (0.6, 0.6),
        ),
        case(
            "reorder 25 % of 20 ms",
            LinkShape { reorder: Chance::percent(25.0), ..late(20.0) },
            many,
            Sample::early,
            25.0,
            (chance(25.0, 2000), chance(25.0, 2000)),
        ),
        case(
            "a queue of 10 packets at 1 Mbit/s",
            LinkShape { queue: queue(QueueLimit::Packets(10)), ..narrow(1_000_000) },
            Stream { packets: 40, size: 1514, every: Duration::ZERO },
            Sample::arrived,
            10.0,
            (1.0, 1.0),
        ),
        Case {
            kernel: false,
            ..case(
                "a queue of 15,140 bytes at 1 Mbit/s",
                LinkShape { queue: queue(QueueLimit::Bytes(15_140)), ..narrow(1_000_000) },
                Stream { packets: 40, size: 1514, every: Duration::ZERO },
                Sample::arrived,
                10.0,
                (1.0, 0.0),
            )
        },
        case(
            "drop",
            LinkShape { filter: Filter::Drop, ..LinkShape::default() },
            few,
            Sample::arrived,
            0.0,
            (0.0, 0.0),
        ),
        case(
            "reject",
            LinkShape { filter: Filter::Reject, ..LinkShape::default() },
            few,
            Sample::arrived,
            0.0,
            (0.0, 0.0),
        ),
    ]
}

/// How often a case is measured at the least before it counts as wrong, and for how long.
const ATTEMPTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn every_case_is_what_was_asked_for() {
    lab_support::first_in_line("every_case_is_what_was_asked_for", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure_all());
    });
}

async fn measure_all() {
    let mut run = run(&[("a", 1), ("b", 1)], vec![network("default", "16.0.0.0/16", Some("fd16::/64"), MTU)]);
    run.settings.plane = plane();
    let lab = LabNetwork::start(&run, PortKind::Auto).unwrap();
    assert_eq!(lab.plane(), plane());
    let (a, b) = (appear(&lab, "a", 0).await, appear(&lab, "b", 0).await);
    let kernel = lab.plane() == Plane::Kernel;
    let abilities = Abilities::probe().unwrap();
    let mut off = Vec::new();
    for case in cases() {
        let shape = Arc::new(case.shape.clone());
        let refused = unsupported(&shape, &abilities);
        if kernel && refused.is_some() {
            eprintln!("{}: {}", case.name, refused.unwrap_or_default());
            continue;
        }
        assert!(!kernel || case.kernel, "{}: refused by name", case.name);
        put(&lab, &shape);
        if kernel {
            agrees_with_tc(&a, &shape, case.name);
        }
        let within = if kernel { case.within.1 } else { case.within.0 };
        let mut measured = Vec::new();
        let begun = Instant::now();
        let mut fits = false;
        while !fits && (measured.len() < ATTEMPTS || begun.elapsed() < PATIENCE) {
            let sample = a.0.enter(sender).unwrap();
            let receiver = b.0.enter(receiver).unwrap();
            let found = (case.of)(&send(&sample, &receiver, case.stream, &case.shape));
            measured.push(found);
            fits = (found - case.expected).abs() <= within + 1e-9;
        }
        eprintln!("{}: asked {}, measured {measured:.2?}", case.name, case.expected);
        if !fits {
            off.push(format!("{}: {measured:.2?} instead of {} ± {within:.2}", case.name, case.expected));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}

/// Puts a shape on the way from `a` to `b`.
fn put(lab: &LabNetwork, shape: &Arc<LinkShape>) {
    let group = |name: &str| Endpoint::Group(name.to_owned());
    let overlay = Overlay {
        id: 0,
        from: group("a"),
        to: group("b"),
        both_ways: false,
        network: "default".to_owned(),
        shape: Arc::clone(shape),
        schedule: None,
    };
    lab.change(vec![overlay], vec![]).unwrap();
}

/// What `tc` says of the only netem on the sender's interface.
fn agrees_with_tc(inside: &lab_support::Inside, shape: &LinkShape, name: &str) {
    let qdiscs = inside.json("tc -j -s qdisc show dev data");
    let netem = qdiscs.as_array().unwrap().iter().find(|qdisc| qdisc["kind"] == "netem");
    let options = netem.map(|netem| netem["options"].clone()).unwrap_or_default();
    let number = |pointer: &str| options.pointer(pointer).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let close = |found: f64, asked: f64| (found - asked).abs() <= 1e-6 + asked * 1e-3;
    if shape.filter == Filter::Accept {
        assert!(close(number("/delay/delay"), shape.latency.as_secs_f64()), "{name}: {options}");
        if let Some(bandwidth) = shape.bandwidth {
            assert!(close(number("/rate/rate"), bandwidth as f64 / 8.0), "{name}: {options}");
        }
        if let Loss::Random(Chance { percent, correlation: 0.0 }) = shape.loss {
            assert!(close(number("/loss-random/loss"), percent / 100.0), "{name}: {options}");
        }
        assert!(close(number("/duplicate/duplicate"), shape.duplicate.percent / 100.0), "{name}: {options}");
        assert!(close(number("/corrupt/corrupt"), shape.corrupt.percent / 100.0), "{name}: {options}");
    }
    if shape.filter == Filter::Reject {
        let routes = inside.json("ip -j route");
        let prohibits =
            routes.as_array().unwrap().iter().any(|r| r["type"] == "prohibit" && r["dst"] == "16.0.0.3");
        assert!(prohibits, "{name}: {routes}");
    }
}

fn sender() -> UdpSocket {
    UdpSocket::bind("16.0.0.2:0".parse().unwrap()).unwrap()
}

fn receiver() -> UdpSocket {
    let socket = UdpSocket::bind("16.0.0.3:4000".parse().unwrap()).unwrap();
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20);
    socket
}

fn send(near: &UdpSocket, far: &UdpSocket, stream: Stream, shape: &LinkShape) -> Sample {
    let to: SocketAddr = (IpAddr::from([16, 0, 0, 3]), 4000).into();
    let (mut sample, mut packet) =
        (Sample { size: stream.size, ..Sample::default() }, vec![0; stream.size - HEADERS]);
    let begun = Instant::now();
    for number in 0..stream.packets {
        let due = begun + stream.every * number;
        while Instant::now() < due {
            drain(far, &mut sample);
            pause(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(1)));
        }
        packet[..4].copy_from_slice(&number.to_be_bytes());
        packet[4..12].copy_from_slice(&realtime_nanos().to_be_bytes());
        // A rejecting link says so.
        let _ = near.send_to(&packet, to);
        sample.sent += 1;
    }
    let bits = f64::from(stream.packets) * stream.size as f64 * 8.0;
    let on_wire = shape.bandwidth.map_or(0.0, |bandwidth| bits / bandwidth as f64);
    let end = Instant::now()
        + shape.latency
        + shape.jitter.spread * 10
        + Duration::from_secs_f64(on_wire)
        + ms(100.0);
    while Instant::now() < end {
        drain(far, &mut sample);
        pause(Duration::from_millis(2));
    }
    sample
}

#[allow(clippy::disallowed_methods, reason = "packets are sent at moments")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn drain(far: &UdpSocket, sample: &mut Sample) {
    let mut buffer = [0; MTU as usize];
    while let Ok(Some(datagram)) = far.receive(&mut buffer) {
        let arrival = datagram.arrival.unwrap();
        let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
        let sent = Duration::from_nanos(u64::from_be_bytes(buffer[4..12].try_into().unwrap()));
        sample.arrivals.push((
            number,
            (arrival.saturating_sub(sent)).as_secs_f64() * 1e3,
            arrival.as_secs_f64(),
        ));
    }
}

// === impl Sample ===

impl Sample {
    fn delays(&self) -> Vec<f64> {
        let mut delays: Vec<f64> = self.arrivals.iter().map(|(_, took, _)| *took).collect();
        delays.sort_by(f64::total_cmp);
        delays
    }

    /// The median delay.
    fn delay(&self) -> f64 {
        let delays = self.delays();
        delays.get(delays.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The delay of the very first packet.
    fn first(&self) -> f64 {
        self.arrivals.iter().find(|(number, ..)| *number == 0).map_or(f64::NAN, |(_, took, _)| *took)
    }

    /// The standard deviation of the delays, without the slowest and the fastest hundredth.
    fn deviation(&self) -> f64 {
        let delays = self.delays();
        let kept = &delays[delays.len() / 200..delays.len() - delays.len() / 200];
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        (kept.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / kept.len() as f64).sqrt()
    }

    /// What arrived a second, from the first arrival to the last.
    fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.arrivals.first(), self.arrivals.last()) else {
            return f64::NAN;
        };
        ((self.arrivals.len() - 1) * self.size * 8) as f64 / (last.2 - first.2) / 1e6
    }

    fn share(&self, part: usize) -> f64 {
        part as f64 * 100.0 / f64::from(self.sent)
    }

    fn distinct(&self) -> std::collections::BTreeSet<u32> {
        self.arrivals.iter().map(|(number, ..)| *number).collect()
    }

    fn lost(&self) -> f64 {
        self.share(self.sent as usize - self.distinct().len())
    }

    fn twice(&self) -> f64 {
        self.share(self.arrivals.len() - self.distinct().len())
    }

    fn arrived(&self) -> f64 {
        self.arrivals.len() as f64
    }

    /// What took less than half as long as the median.
    fn early(&self) -> f64 {
        let limit = self.delay() / 2.0;
        self.share(self.arrivals.iter().filter(|(_, took, _)| *took < limit).count())
    }

    /// What arrived behind a later packet.
    fn disorder(&self) -> f64 {
        self.share(self.arrivals.windows(2).filter(|pair| pair[1].0 < pair[0].0).count())
    }

    /// The mean length of a row of lost packets.
    fn burst(&self) -> f64 {
        let there = self.distinct();
        let lost: Vec<u32> = (0..self.sent).filter(|number| !there.contains(number)).collect();
        let rows = lost.iter().filter(|number| **number == 0 || there.contains(&(*number - 1))).count();
        lost.len() as f64 / rows.max(1) as f64
    }
}

/// A stream of TCP over a narrow link: what is handed over in super-packets is cut before it is paced.
#[test]
fn a_tcp_stream_fills_a_narrow_link_and_no_more() {
    lab_support::first_in_line("a_tcp_stream_fills_a_narrow_link_and_no_more", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = run(&[("a", 1), ("b", 1)], vec![default_network()]);
            run.links = vec![link("a", "b", true, LinkShape { latency: ms(5.0), ..narrow(10_000_000) })];
            let lab = LabNetwork::start(&run, PortKind::Auto).unwrap();
            let (a, b) = (appear(&lab, "a", 0).await, appear(&lab, "b", 0).await);
            let listener = b.0.enter(|| std::net::TcpListener::bind("16.0.0.3:0")).unwrap().unwrap();
            let address = listener.local_addr().unwrap();
            let stream = || {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let mut stream =
                            a.0.enter(|| std::net::TcpStream::connect(address)).unwrap().unwrap();
                        let end = Instant::now() + Duration::from_millis(2500);
                        while Instant::now() < end
                            && std::io::Write::write_all(&mut stream, &[0; 16384]).is_ok()
                        {
                        }
                    });
                    let (mut stream, _) = listener.accept().unwrap();
                    let (mut bytes, mut first, mut buffer) = (0, None, vec![0; 1 << 16]);
                    let mut last = Instant::now();
                    loop {
                        match std::io::Read::read(&mut stream, &mut buffer).unwrap() {
                            0 => break,
                            // The first second is TCP's own.
                            n => {
                                last = Instant::now();
                                let from = *first.get_or_insert(last);
                                bytes += if last - from > Duration::from_secs(1) { n } else { 0 };
                            }
                        }
                    }
                    bytes as f64 * 8.0 / (last - first.unwrap() - Duration::from_secs(1)).as_secs_f64() / 1e6
                })
            };
            // 1448 of 1514 bytes are payload.
            let (begun, fits) = (Instant::now(), 8.5..9.564 * 1.03);
            let mut goodput = stream();
            while !fits.contains(&goodput) && begun.elapsed() < PATIENCE {
                goodput = stream();
            }
            assert!(fits.contains(&goodput), "{goodput} Mbit/s");
            let view = lab.show().unwrap();
            let there =
                view.links.iter().find(|l| l.from == "a[0]/default" && l.to == "b[0]/default").unwrap();
            assert!(
                there.delivered.packets >= there.delivered.bytes / 1600,
                "in packets, not super-packets: {there:?}"
            );
        });
    });
}

#[test]
fn a_rejected_connection_is_refused_at_once() {
    lab_support::once("a_rejected_connection_is_refused_at_once", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = run(&[("a", 1), ("b", 1)], vec![default_network()]);
            run.links =
                vec![link("a", "b", false, LinkShape { filter: Filter::Reject, ..LinkShape::default() })];
            let lab = LabNetwork::start(&run, PortKind::Auto).unwrap();
            let (a, _b) = (appear(&lab, "a", 0).await, appear(&lab, "b", 0).await);
            let address = "16.0.0.3:9".parse().unwrap();
            let tried =
                a.0.enter(move || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)));
            let expected = match lab.plane() {
                Plane::Kernel => std::io::ErrorKind::PermissionDenied,
                _ => std::io::ErrorKind::ConnectionRefused,
            };
            assert_eq!(tried.unwrap().unwrap_err().kind(), expected);
        });
    });
}

#[test]
fn an_instance_is_told_what_the_kernel_plane_can_t_do() {
    lab_support::once("an_instance_is_told_what_the_kernel_plane_can_t_do", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = run(&[("a", 1)], vec![default_network()]);
            run.settings.plane = Plane::Kernel;
            let lab = LabNetwork::start(&run, PortKind::Auto).unwrap();
            let _a = appear(&lab, "a", 0).await;
            let json = r#"{"network":"default","enable":true,"default":{"loss":5,"duplicate":5}}"#;
            let request = testground_sidecar::request::Request::read(json.as_bytes()).unwrap();
            let refused = lab.apply(&instance("a", 0), request).await.unwrap_err().to_string();
            assert!(refused.contains("loss and duplication can't be had together"), "{refused}");
        });
    });
}

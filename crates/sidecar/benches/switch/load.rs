//! Loads, and how they are measured.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testground_linux::netns::{Netns, tour};
use testground_linux::poll::monotonic_nanos;
use testground_linux::tap::{Tap, TapOptions};
use testground_model::name::InstanceName;
use testground_sidecar::plan::{Member, Plan, PortId};
use testground_sidecar::plane::switch::fabric::Fabric;
use testground_sidecar::plane::switch::packet::VnetHeader;
use testground_sidecar::plane::switch::table::mac_of;
use testground_sidecar::plane::switch::{Framing, NetworkKind, PortSpec, SwitchConfig};

use crate::switch_lab::{Carrier, Host, Lab};

/// A measured value.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    bench: String,
    value: f64,
    unit: &'static str,
    peer: &'static str,
}

impl Figure {
    pub(crate) fn new(bench: &str, value: f64, unit: &'static str, peer: &'static str) -> Figure {
        Figure { bench: bench.to_owned(), value, unit, peer }
    }

    pub(crate) fn print(&self) {
        let Figure { bench, value, unit, peer } = self;
        let value = (value * 1000.0).round() / 1000.0;
        println!("{}", serde_json::json!({ "bench": bench, "value": value, "unit": unit, "peer": peer }));
    }
}

/// Prints the median of each figure over its runs.
pub(crate) fn print_medians(runs: Vec<Vec<Figure>>) {
    let mut by_name: BTreeMap<(String, &str), Vec<Figure>> = BTreeMap::new();
    for figure in runs.into_iter().flatten() {
        by_name.entry((figure.bench.clone(), figure.peer)).or_default().push(figure);
    }
    for figures in by_name.into_values() {
        let values: Vec<f64> = figures.iter().map(|f| f.value).collect();
        Figure { value: quantile(&values, 0.5), ..figures[0].clone() }.print();
    }
}

pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (share * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Lets TCP have as much in flight as a fast link with a latency needs. Where there is no latency this only fills
/// queues with more than the processor's cache holds.
pub(crate) fn raise_buffers(hosts: &[Host]) {
    pin_congestion_control(hosts);
    for host in hosts {
        host.inside(|| {
            std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 1048576 67108864").unwrap();
            std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 1048576 67108864").unwrap();
        });
    }
}

/// To the one that every namespace allows and that keeps a queue full.
pub(crate) fn pin_congestion_control(hosts: &[Host]) {
    for host in hosts {
        host.inside(|| std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap());
    }
}

pub(crate) fn all_unshaped(peer: &'static str, a: &Host, b: &Host) -> Vec<Figure> {
    let (goodput, _) = goodput(a, b, 3);
    let flood = flood(a, b, Duration::from_secs(2));
    let pings = pings(a, b);
    vec![
        Figure::new("tcp", goodput / 1e9, "Gbit/s", peer),
        Figure::new("flood_64_bytes", flood, "packets/s", peer),
        Figure::new("ping_p50", quantile(&pings, 0.5), "us", peer),
        Figure::new("ping_p99", quantile(&pings, 0.99), "us", peer),
    ]
}

/// Bits per second of payload that arrive over one TCP connection, and segments sent again; the first second is
/// left out.
pub(crate) fn goodput(a: &Host, b: &Host, seconds: u32) -> (f64, f64) {
    let _server = b.iperf_server();
    let report = a.iperf(b.v4.into(), &format!("-t {seconds} -O 1"));
    let end = &report["end"];
    let bits = end["sum_received"]["bits_per_second"].as_f64().unwrap();
    (bits, end["sum_sent"]["retransmits"].as_f64().unwrap_or(0.0))
}

/// Datagrams of 64 bytes on the wire that arrive per second when as many as possible are sent.
pub(crate) fn flood(a: &Host, b: &Host, time: Duration) -> f64 {
    let receiver = b.inside(|| UdpSocket::bind((b.v4, 9000)).unwrap());
    let sender = a.inside(|| UdpSocket::bind((a.v4, 0)).unwrap());
    sender.connect((b.v4, 9000)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..64 {
                    // A full queue is part of a flood.
                    let _ = sender.send(&[0; 22]);
                }
            }
        });
        let (mut count, mut buffer) = (0u64, [0; 64]);
        let begun = Instant::now();
        while begun.elapsed() < time {
            count += u64::from(receiver.recv(&mut buffer).is_ok());
        }
        stop.store(true, Ordering::Relaxed);
        count as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Round trips in microseconds, as `ping` sees them.
fn pings(a: &Host, b: &Host) -> Vec<f64> {
    let text = a.stdout("ping", &format!("-c 1000 -i 0.002 {}", b.v4));
    let time = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(time).map(|ms| ms * 1000.0).collect()
}

/// Microseconds from a program's send to another's receive, both on one clock.
pub(crate) fn one_way(a: &Host, b: &Host, per_second: u64, seconds: u64) -> Vec<f64> {
    let receiver = b.inside(|| UdpSocket::bind((b.v4, 9001)).unwrap());
    let sender = a.inside(|| UdpSocket::bind((a.v4, 0)).unwrap());
    sender.connect((b.v4, 9001)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let count = per_second * seconds;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            testground_linux::poll::set_timer_slack(std::num::NonZeroU64::MIN).unwrap();
            let begun = Instant::now();
            for i in 0..count {
                let due = Duration::from_nanos(i * 1_000_000_000 / per_second);
                if let Some(wait) = due.checked_sub(begun.elapsed()) {
                    std::thread::park_timeout(wait);
                }
                let _ = sender.send(&monotonic_nanos().to_le_bytes());
            }
        });
        let (mut delays, mut stamp) = (Vec::new(), [0; 8]);
        while receiver.recv(&mut stamp).is_ok() {
            delays.push((monotonic_nanos() - u64::from_le_bytes(stamp)) as f64 / 1000.0);
        }
        delays
    })
}

/// Bytes of memory of this process.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Makes many namespaces, each with a TAP on a switch; the time is that of TAPs and attachment, without addresses.
pub(crate) fn many(config: SwitchConfig, count: u32) -> (Lab, Duration) {
    let mut lab = Lab::with(config, 0, Carrier::Tap);
    let namespaces: Vec<Netns> = (0..count).map(|_| Netns::create().unwrap()).collect();
    let begun = Instant::now();
    tour(|tour| {
        for (i, netns) in (0u32..).zip(namespaces) {
            tour.enter(&netns).unwrap();
            let tap = Tap::open("data", &TapOptions::default()).unwrap();
            let host = Host {
                netns,
                port: PortId(i),
                name: format!("h[{i}]/default"),
                v4: (0x1000_0002 + i).into(),
                v6: [0xfd16, 0, 0, 0, 0, 0, 0, i as u16 + 2].into(),
                device: "data".to_owned(),
            };
            lab.switch.attach(host.spec(tap.into_fd(), Carrier::Tap)).unwrap();
            lab.plan.attach(Member {
                port: host.port,
                instance: InstanceName::new("h", i),
                network: "default".to_owned(),
                regions: Vec::new(),
                addresses: host.addresses(),
            });
            lab.hosts.push(host);
        }
    })
    .unwrap();
    let time = begun.elapsed();
    for host in &lab.hosts {
        let mac: Vec<String> = mac_of(host.port).iter().map(|b| format!("{b:02x}")).collect();
        let batch = format!(
            "link set data address {}\nlink set data up\naddress add {}/8 dev data\n",
            mac.join(":"),
            host.v4
        );
        host.inside(|| {
            use std::io::Write;
            let mut ip =
                Command::new("ip").args(["-batch", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
            ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
            assert!(ip.wait().unwrap().success());
        });
    }
    (lab, time)
}

pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    time: Duration,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.received as f64 / self.time.as_secs_f64()
    }
}

/// Every host sends to the next one.
pub(crate) fn all_active(hosts: &[Host], per_second: u64, time: Duration) -> Outcome {
    let sockets: Vec<UdpSocket> = tour(|tour| {
        let open = |host: &Host| {
            tour.enter(&host.netns).unwrap();
            let socket = UdpSocket::bind((host.v4, 9002)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        hosts.iter().map(open).collect()
    })
    .unwrap();
    let mut outcome = Outcome { sent: 0, received: 0, time };
    let mut buffer = [0; 64];
    let drain = |outcome: &mut Outcome, buffer: &mut [u8]| {
        for socket in &sockets {
            while socket.recv(buffer).is_ok() {
                outcome.received += 1;
            }
        }
    };
    let begun = Instant::now();
    let interval = Duration::from_nanos(1_000_000_000 / per_second / hosts.len() as u64);
    let mut next = 0u32;
    while begun.elapsed() < time {
        let due = (begun.elapsed().as_nanos() / interval.as_nanos().max(1)) as u32;
        while next < due {
            let from = next as usize % sockets.len();
            let to: IpAddr = hosts[(from + 1) % hosts.len()].v4.into();
            match sockets[from].send_to(&[0; 22], (to, 9002)) {
                Ok(_) => outcome.sent += 1,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
            next += 1;
            if next.is_multiple_of(1000) {
                drain(&mut outcome, &mut buffer);
            }
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_millis(200) {
        drain(&mut outcome, &mut buffer);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    outcome
}

/// Bytes that a used link costs, with a shape of its own and with none, in a fabric without descriptors.
pub(crate) fn memory_per_link() -> Vec<(String, f64)> {
    use testground_model::shape::LinkShape;
    use testground_model::topology::{Endpoint, Link};
    let shaped =
        LinkShape { latency: Duration::from_millis(50), bandwidth: Some(10_000_000), ..LinkShape::default() };
    let shapes = [("memory_per_unshaped_link", None), ("memory_per_shaped_link", Some(shaped))];
    let measure = |shape: Option<LinkShape>| {
        let count = 300u32;
        let link = |shape| Link {
            from: Endpoint::All,
            to: Endpoint::All,
            both_ways: false,
            network: "default".to_owned(),
            shape,
        };
        let mut plan = Plan::new(shape.map(link).into_iter().collect());
        let mut fabric = Fabric::new(SwitchConfig::default());
        for i in 0..count {
            let address: IpAddr = std::net::Ipv4Addr::from(0x1000_0002 + i).into();
            attach_without_descriptor(&mut fabric, i, address);
            plan.attach(Member {
                port: PortId(i),
                instance: InstanceName::new("h", i),
                network: "default".to_owned(),
                regions: Vec::new(),
                addresses: vec![address],
            });
        }
        fabric.install(std::sync::Arc::new(plan), 0);
        let before = resident();
        let mut now = 0;
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let frame = datagram(from, to);
                fabric.scratch()[..frame.len()].copy_from_slice(&frame);
                fabric.ingress(from, frame.len(), Some(VnetHeader::default()), now, &mut |_| Ok(()));
                now += 100_000_000;
                while fabric.release(now, &mut |_| Ok(())) {}
            }
        }
        let used = resident() - before;
        // What was freed would be used again by the next measurement, and not be seen.
        std::mem::forget(fabric);
        used as f64 / f64::from(count * (count - 1))
    };
    shapes.into_iter().map(|(name, shape)| (name.to_owned(), measure(shape))).collect()
}

/// Adds a port that nothing is read from.
pub(crate) fn attach_without_descriptor(fabric: &mut Fabric, i: u32, address: IpAddr) {
    let fd = std::fs::File::open("/dev/null").unwrap().into();
    let spec = PortSpec {
        port: PortId(i),
        name: format!("h[{i}]/default"),
        network: NetworkKind::Data(0),
        mac: mac_of(PortId(i)),
        addresses: vec![address],
        fd,
        framing: Framing::VirtioNet,
        mtu: 1500,
        gateway: false,
        allow_peers: false,
    };
    fabric.attach(&spec).unwrap();
}

/// A UDP datagram of 64 bytes between two hosts.
pub(crate) fn datagram(from: u32, to: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&mac_of(PortId(to)));
    frame.extend_from_slice(&mac_of(PortId(from)));
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend_from_slice(&(0x1000_0002 + from).to_be_bytes());
    frame.extend_from_slice(&(0x1000_0002 + to).to_be_bytes());
    frame.extend_from_slice(&[0x23, 0x28, 0x23, 0x28, 0, 30, 0, 0]);
    frame.resize(64, 0);
    frame
}

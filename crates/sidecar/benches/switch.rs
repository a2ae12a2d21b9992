//! The switch against a veth pair of the same machine, in the same run. One JSON line a figure.
//!
//! `cargo bench -p testground-sidecar --bench switch [-- FILTER...]`, as root. Filters: `unshaped`, `rate` (rates in
//! Mbit/s may follow), `delayed`, `lateness`, `ports`, `memory`, `inside`, `rules` (the kernel's plane beside it).

#[path = "../tests/lab_support/mod.rs"]
mod lab_support;
#[path = "../tests/switch_lab/mod.rs"]
mod switch_lab;

#[path = "switch/inside.rs"]
mod inside;
#[path = "switch/load.rs"]
mod load;
#[path = "switch/peer.rs"]
mod peer;
#[path = "switch/rules.rs"]
mod rules;

use std::time::{Duration, Instant};

use load::Figure;
use switch_lab::{Carrier, Lab};
use testground_model::shape::LinkShape;
use testground_sidecar::plane::switch::SwitchConfig;

/// What of a stream's bytes on the wire is payload: 1,448 of 1,514, with time stamps.
const IDEAL: f64 = 1448.0 / 1514.0;

fn main() {
    if let Some(reason) = switch_lab::missing(&["ip", "iperf3", "ping", "tc"]) {
        eprintln!("SKIPPED bench switch: {reason}");
        return;
    }
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| f == name);
    let benches: [(&str, fn()); 8] = [
        ("unshaped", unshaped),
        ("rate", rate),
        ("delayed", delayed),
        ("lateness", lateness),
        ("ports", ports),
        ("memory", memory),
        ("inside", inside),
        ("rules", rules::rules),
    ];
    for (name, bench) in benches {
        if wanted(name) {
            bench();
        }
    }
}

/// TCP, a flood of 64-byte frames, and round trips, over both; the turns alternate, so that both see the same machine. `lab`
/// is what the instances of a run of two have, `lab of 64` the first and the last of 64; the others are the ports by themselves.
fn unshaped() {
    let mut figures = Vec::new();
    for _ in 0..5 {
        let (a, b) = peer::veth(None);
        figures.push(load::all_unshaped("veth", &a, &b));
        for (peer, count) in [("lab", 2), ("lab of 64", 64)] {
            let lab = peer::lab(count);
            load::pin_congestion_control(&lab.hosts);
            figures.push(load::all_unshaped(peer, &lab.hosts[0], &lab.hosts[1]));
        }
        for (peer, carrier) in [("switch/tap", Carrier::Tap), ("switch/af_packet", Carrier::PacketSocket)] {
            let lab = Lab::new(2, carrier);
            load::pin_congestion_control(&lab.hosts);
            figures.push(load::all_unshaped(peer, &lab.hosts[0], &lab.hosts[1]));
        }
    }
    load::print_medians(figures);
}

/// TCP goodput in percent of the bandwidth asked for; the ideal is 95.64.
fn rate() {
    let only: Vec<f64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    for (bits, seconds) in [(1e6, 20), (1e7, 10), (1e8, 8), (1e9, 5), (5e9, 5)] {
        if !only.is_empty() && !only.contains(&(bits / 1e6)) {
            continue;
        }
        let mut figures = Vec::new();
        for _ in 0..3 {
            let mut lab = Lab::new(2, Carrier::Tap);
            load::raise_buffers(&lab.hosts);
            lab.shape(LinkShape { bandwidth: Some(bits as u64), ..LinkShape::default() });
            let (a, b) = (&lab.hosts[0], &lab.hosts[1]);
            let (goodput, resent) = load::goodput(a, b, seconds);
            let name = format!("goodput_at_{}_mbit", bits / 1e6);
            let share = goodput / bits / IDEAL * 100.0;
            figures.push(vec![
                Figure::new(&name, share, "percent of ideal", "switch/tap"),
                Figure::new(&format!("{name}_retransmits"), resent, "segments", "switch/tap"),
            ]);
            let (a, b) = peer::veth(Some(bits as u64));
            let (goodput, resent) = load::goodput(&a, &b, seconds);
            figures.push(vec![
                Figure::new(&name, goodput / bits / IDEAL * 100.0, "percent of ideal", "veth+htb"),
                Figure::new(&format!("{name}_retransmits"), resent, "segments", "veth+htb"),
            ]);
        }
        load::print_medians(figures);
    }
}

/// TCP over a link with a latency and nothing else.
fn delayed() {
    let mut figures = Vec::new();
    for _ in 0..5 {
        for micros in [200, 1000] {
            let mut lab = Lab::new(2, Carrier::Tap);
            load::raise_buffers(&lab.hosts);
            lab.shape(LinkShape { latency: Duration::from_micros(micros), ..LinkShape::default() });
            let (goodput, _) = load::goodput(&lab.hosts[0], &lab.hosts[1], 3);
            let name = format!("tcp_at_{micros}_us_one_way");
            figures.push(vec![Figure::new(&name, goodput / 1e9, "Gbit/s", "switch/tap")]);
            drop(lab);
            let lab = peer::lab(2);
            load::raise_buffers(&lab.hosts);
            lab.shape(&LinkShape { latency: Duration::from_micros(micros), ..LinkShape::default() });
            let (goodput, _) = load::goodput(&lab.hosts[0], &lab.hosts[1], 3);
            figures.push(vec![Figure::new(&name, goodput / 1e9, "Gbit/s", "lab")]);
        }
    }
    load::print_medians(figures);
}

/// How late packets leave the switch, and how late they are in the receiver's hands; 5 ms of latency.
fn lateness() {
    let mut figures = Vec::new();
    for _ in 0..5 {
        for per_second in [100, 1000, 10_000] {
            let mut lab = Lab::new(2, Carrier::Tap);
            let latency = Duration::from_millis(5);
            lab.shape(LinkShape { latency, ..LinkShape::default() });
            let delays = load::one_way(&lab.hosts[0], &lab.hosts[1], per_second, 2);
            let late: Vec<f64> = delays.iter().map(|d| d - 5000.0).collect();
            let inside = lab.switch.snapshot().unwrap().lateness.unwrap();
            let name = format!("delay_error_at_{per_second}_per_s");
            figures.push(vec![
                Figure::new(&format!("{name}_inside_p50"), inside.p50_us, "us", "switch/tap"),
                Figure::new(&format!("{name}_inside_p99"), inside.p99_us, "us", "switch/tap"),
                Figure::new(
                    &format!("{name}_end_to_end_p50"),
                    load::quantile(&late, 0.5),
                    "us",
                    "switch/tap",
                ),
                Figure::new(
                    &format!("{name}_end_to_end_p99"),
                    load::quantile(&late, 0.99),
                    "us",
                    "switch/tap",
                ),
            ]);
            let running = peer::lab(2);
            running.shape(&LinkShape { latency, ..LinkShape::default() });
            let delays = load::one_way(&running.hosts[0], &running.hosts[1], per_second, 2);
            let late: Vec<f64> = delays.iter().map(|d| d - 5000.0).collect();
            figures.push(vec![
                Figure::new(&format!("{name}_end_to_end_p50"), load::quantile(&late, 0.5), "us", "lab"),
                Figure::new(&format!("{name}_end_to_end_p99"), load::quantile(&late, 0.99), "us", "lab"),
            ]);
            let (a, b) = peer::veth(None);
            let delays = load::one_way(&a, &b, per_second, 2);
            figures.push(vec![
                Figure::new(&format!("{name}_end_to_end_p50"), load::quantile(&delays, 0.5), "us", "veth"),
                Figure::new(&format!("{name}_end_to_end_p99"), load::quantile(&delays, 0.99), "us", "veth"),
            ]);
        }
    }
    load::print_medians(figures);
}

/// A thousand ports: attached, then all active at once.
fn ports() {
    let before = load::resident();
    let config = SwitchConfig { seed: 1, ..SwitchConfig::default() };
    let (mut lab, attach) = load::many(config, 1000);
    Figure::new("attach_1000_ports", attach.as_secs_f64(), "s", "switch/tap").print();
    let after = load::resident();
    Figure::new("memory_per_port", (after - before) as f64 / 1000.0, "bytes", "switch/tap").print();
    lab.shape(LinkShape { latency: Duration::from_millis(10), ..LinkShape::default() });
    for per_port in [10, 50] {
        let outcome = load::all_active(&lab.hosts, per_port, Duration::from_secs(4));
        let snapshot = lab.switch.snapshot().unwrap();
        let name = format!("1000_ports_at_{per_port}_per_s_each");
        let share = outcome.received as f64 / outcome.sent as f64 * 100.0;
        Figure::new(&format!("{name}_delivered"), share, "percent", "switch/tap").print();
        Figure::new(&format!("{name}_rate"), outcome.rate(), "packets/s", "switch/tap").print();
        let late = snapshot.lateness.unwrap();
        Figure::new(&format!("{name}_inside_p50"), late.p50_us, "us", "switch/tap").print();
        Figure::new(&format!("{name}_inside_p99"), late.p99_us, "us", "switch/tap").print();
    }
    let begun = Instant::now();
    drop(lab);
    Figure::new("teardown_1000_ports", begun.elapsed().as_secs_f64(), "s", "switch/tap").print();
}

/// What a link costs that has been used.
fn memory() {
    for (name, per_link) in load::memory_per_link() {
        Figure::new(&name, per_link, "bytes", "switch").print();
    }
}

/// What a packet costs between the read and the write: the switch without descriptors.
fn inside() {
    load::print_medians((0..5).map(|_| inside::all()).collect());
}

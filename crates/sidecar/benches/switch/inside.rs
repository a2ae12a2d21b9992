//! The fabric by itself: nanoseconds of processor time of a packet between its read and its write, without a system
//! call.

use std::net::IpAddr;
use std::time::Duration;

use testground_model::name::InstanceName;
use testground_model::shape::{Chance, Jitter, LinkShape, Loss};
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{Member, Plan, PortId};
use testground_sidecar::plane::switch::SwitchConfig;
use testground_sidecar::plane::switch::fabric::Fabric;
use testground_sidecar::plane::switch::packet::vnet::GsoKind;
use testground_sidecar::plane::switch::packet::{Gso, VnetHeader};

use crate::load::{Figure, attach_without_descriptor, datagram};

pub(crate) fn all() -> Vec<Figure> {
    let latency = LinkShape { latency: Duration::from_millis(20), ..LinkShape::default() };
    let rate = LinkShape { bandwidth: Some(1_000_000_000), ..latency };
    let fast = LinkShape { bandwidth: Some(20_000_000_000), ..latency };
    let every = LinkShape {
        jitter: Jitter { spread: Duration::from_millis(3), ..Jitter::default() },
        loss: Loss::Random(Chance { percent: 1.0, correlation: 25.0 }),
        corrupt: Chance::percent(0.1),
        reorder: Chance::percent(0.1),
        duplicate: Chance::percent(0.1),
        ..fast
    };
    let small = datagram(0, 1);
    let (large, gso) = super_packet();
    let plain = VnetHeader::default();
    let cases: [(&str, &LinkShape, &[u8], VnetHeader); 8] = [
        ("inside_64_bytes_unshaped", &LinkShape::default(), &small, plain),
        ("inside_64_bytes_latency", &latency, &small, plain),
        ("inside_64_bytes_bandwidth", &rate, &small, plain),
        ("inside_64_bytes_every_effect", &every, &small, plain),
        ("inside_64_kib_unshaped", &LinkShape::default(), &large, gso),
        ("inside_64_kib_latency", &latency, &large, gso),
        ("inside_64_kib_bandwidth", &fast, &large, gso),
        ("inside_64_kib_every_effect", &every, &large, gso),
    ];
    cases.iter().map(|(name, shape, frame, vnet)| one(name, shape, frame, *vnet)).collect()
}

fn one(name: &str, shape: &LinkShape, frame: &[u8], vnet: VnetHeader) -> Figure {
    let mut plan = Plan::new(vec![Link {
        from: Endpoint::All,
        to: Endpoint::All,
        both_ways: false,
        network: "default".to_owned(),
        shape: shape.clone(),
    }]);
    let mut fabric = Fabric::new(SwitchConfig::default());
    for i in 0..2 {
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
    let count = 200_000u64;
    let mut out = 0;
    let begun = cpu_time();
    for i in 0..count {
        // As many wait as a link with a latency holds at this rate: 20 ms of it.
        let now = i * 30_000;
        while fabric.release(now, &mut |e| {
            out += e.body.len();
            Ok(())
        }) {}
        // The kernel writes it all; here the headers are enough, but where a frame takes its buffer with it.
        let written = if vnet.gso.is_some() { 128 } else { frame.len() };
        fabric.scratch()[..written].copy_from_slice(&frame[..written]);
        fabric.ingress(0, frame.len(), Some(vnet), now, &mut |e| {
            out += e.body.len();
            Ok(())
        });
    }
    let nanos = (cpu_time() - begun) / count as f64;
    assert!(out > 0);
    Figure::new(name, nanos, "ns", "switch")
}

/// Nanoseconds that this thread has run.
fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// A TCP super-packet of 45 segments.
fn super_packet() -> (Vec<u8>, VnetHeader) {
    let payload = 45 * 1448;
    let mut frame = datagram(0, 1);
    frame.resize(66 + payload, 7);
    frame[16..18].copy_from_slice(&((52 + payload) as u16).to_be_bytes());
    frame[23] = 6;
    frame[46] = 8 << 4;
    let gso = Gso { kind: GsoKind::Tcp4, ecn: false, size: 1448, header: 66 };
    (frame, VnetHeader { partial_checksum: Some((34, 16)), data_valid: false, gso: Some(gso) })
}

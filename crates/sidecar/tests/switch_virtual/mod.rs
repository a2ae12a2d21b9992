//! A switch on virtual time: hosts are numbers, packets are numbered, and nothing waits.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use etherparse::PacketBuilder;
use testground_model::name::InstanceName;
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{Member, Plan, PortId};
use testground_sidecar::plane::switch::config::{Framing, NetworkKind, PortSpec, SwitchConfig};
use testground_sidecar::plane::switch::fabric::Fabric;
use testground_sidecar::plane::switch::packet::VnetHeader;
use testground_sidecar::plane::switch::table::mac_of;

pub const MILLI: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// A switch, its plan, and what came out.
pub struct World {
    pub fabric: Fabric,
    pub plan: Plan,
    pub now: u64,
    pub arrivals: Vec<Arrival>,
}

/// A frame that a port was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    pub to: u32,
    pub at: u64,
    pub vnet: VnetHeader,
    pub frame: Vec<u8>,
}

impl World {
    /// Hosts `h[0]`, `h[1]`, … on data network 0, without any shape.
    pub fn new(hosts: u32) -> World {
        World::with(hosts, SwitchConfig { seed: 7, ..SwitchConfig::default() })
    }

    pub fn with(hosts: u32, config: SwitchConfig) -> World {
        let fabric = Fabric::new(config);
        let mut world = World { fabric, plan: Plan::default(), now: 0, arrivals: Vec::new() };
        for i in 0..hosts {
            world.fabric.attach(&spec(i, NetworkKind::Data(0))).unwrap();
            world.plan.attach(member(i));
        }
        world.install();
        world
    }

    /// With one shape between all hosts.
    pub fn shaped(hosts: u32, shape: LinkShape) -> World {
        let mut world = World::new(hosts);
        world.shape(shape);
        world
    }

    pub fn shape(&mut self, shape: LinkShape) {
        let all = Link {
            from: Endpoint::All,
            to: Endpoint::All,
            both_ways: false,
            network: "default".to_owned(),
            shape,
        };
        let mut plan = Plan::new(vec![all]);
        for member in self.plan.members() {
            plan.attach(member.clone());
        }
        self.plan = plan;
        self.install();
    }

    pub fn install(&mut self) {
        self.fabric.install(Arc::new(self.plan.clone()), self.now);
    }

    /// A frame comes from a port now.
    pub fn send(&mut self, from: u32, frame: &[u8]) {
        self.send_offloaded(from, frame, VnetHeader::default());
    }

    pub fn send_offloaded(&mut self, from: u32, frame: &[u8], vnet: VnetHeader) {
        self.fabric.scratch()[..frame.len()].copy_from_slice(frame);
        let (now, arrivals) = (self.now, &mut self.arrivals);
        self.fabric.ingress(from, frame.len(), Some(vnet), now, &mut |e| {
            let frame = [e.head, e.body].concat();
            arrivals.push(Arrival { to: e.to, at: now, vnet: e.vnet, frame });
            Ok(())
        });
    }

    /// Time passes, and what is due leaves at its moment.
    pub fn advance(&mut self, to: u64) {
        while let Some(due) = self.fabric.next_due().filter(|due| *due <= to) {
            self.now = self.now.max(due);
            let (now, arrivals) = (self.now, &mut self.arrivals);
            self.fabric.release(now, &mut |e| {
                let frame = [e.head, e.body].concat();
                arrivals.push(Arrival { to: e.to, at: now, vnet: e.vnet, frame });
                Ok(())
            });
        }
        self.now = to;
    }

    /// Until nothing waits.
    pub fn settle(&mut self) {
        while let Some(due) = self.fabric.next_due() {
            self.advance(due);
        }
    }

    /// Numbered packets from host 0 to host 1, one each `interval`; returns when each was sent.
    pub fn stream(&mut self, count: u64, interval: u64) -> Vec<u64> {
        let begin = self.now;
        let mut sent = Vec::new();
        for i in 0..count {
            self.advance(begin + i * interval);
            sent.push(self.now);
            self.send(0, &numbered(0, 1, i, 1000));
        }
        self.settle();
        sent
    }

    /// Number and moment of each numbered packet that arrived, in the order of arrival.
    pub fn numbers(&self) -> Vec<(u64, u64)> {
        self.arrivals.iter().map(|a| (number(&a.frame), a.at)).collect()
    }

    pub fn drops(&self, cause: &str) -> u64 {
        self.fabric.snapshot(self.now).data.drops.get(cause).copied().unwrap_or(0)
    }
}

pub fn v4(host: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x1000_0002 + host)
}

pub fn v6(host: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd16, 0, 0, 0, 0, 0, 0, host as u16 + 2)
}

pub fn addresses(host: u32) -> Vec<IpAddr> {
    vec![v4(host).into(), v6(host).into()]
}

pub fn spec(i: u32, network: NetworkKind) -> PortSpec {
    PortSpec {
        port: PortId(i),
        name: format!("h[{i}]/default"),
        network,
        mac: mac_of(PortId(i)),
        addresses: addresses(i),
        fd: File::open("/dev/null").unwrap().into(),
        framing: Framing::VirtioNet,
        mtu: 1500,
        gateway: false,
        allow_peers: false,
    }
}

pub fn member(i: u32) -> Member {
    Member {
        port: PortId(i),
        instance: InstanceName::new("h", i),
        network: "default".to_owned(),
        regions: Vec::new(),
        addresses: addresses(i),
    }
}

/// A UDP datagram over IPv4 with a number in it, so many bytes on the wire.
pub fn numbered(from: u32, to: u32, number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes - 42];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac_of(PortId(from)), mac_of(PortId(to)))
        .ipv4(v4(from).octets(), v4(to).octets(), 64)
        .udp(5000, 6000)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

/// The same over IPv6.
pub fn numbered6(from: u32, to: u32, number: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes - 62];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac_of(PortId(from)), mac_of(PortId(to)))
        .ipv6(v6(from).octets(), v6(to).octets(), 64)
        .udp(5000, 6000)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

pub fn number(frame: &[u8]) -> u64 {
    let at = if frame[12..14] == [0x86, 0xdd] { 62 } else { 42 };
    u64::from_be_bytes(frame[at..at + 8].try_into().unwrap())
}

/// Five standard deviations of a count of independent events.
pub fn five_sigma(n: f64, p: f64) -> f64 {
    5.0 * (n * p * (1.0 - p)).sqrt()
}

//! One interface in a namespace of the test's own, joined to another namespace, and what is wanted of it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use testground_linux::netns::Netns;
use testground_linux::route::{Change, LinkChange, RouteSocket, VethEnd};
use testground_linux::tc::TcSocket;
use testground_linux::udp::UdpSocket;
use testground_model::name::InstanceName;
use testground_model::shape::{Filter, LinkShape};
use testground_model::topology::Link;
use testground_sidecar::plan::{Member, Plan, PortId, Wishes};
use testground_sidecar::plane::kernel::{Interface, KernelError, Others, Pacing, Wanted};

use super::PATIENCE;

pub const ME: PortId = PortId(0);

/// An interface `a` of this namespace, 10.0.0.1/8, whose other end is in another one.
pub struct Cable {
    pub index: u32,
    pub there: Netns,
}

impl Cable {
    pub fn new() -> Cable {
        let there = Netns::create().unwrap();
        let (mut near, mut far) = (RouteSocket::open().unwrap(), RouteSocket::open_in(&there).unwrap());
        let mac = |last| Some([2, 0, 0, 0, 0, last]);
        let other = VethEnd { netns: Some(&there), mac: mac(2), ..VethEnd::new("b") };
        near.apply(&[Change::CreateVeth { one: VethEnd { mac: mac(1), ..VethEnd::new("a") }, other }])
            .unwrap();
        let a = near.link("a").unwrap().unwrap().index;
        let b = far.link("b").unwrap().unwrap().index;
        let up = |index| {
            Change::Link(LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) })
        };
        let net = |text: &str| text.parse().unwrap();
        near.apply(&[up(a), up(1), Change::AddAddress { index: a, address: net("10.0.0.1/8") }]).unwrap();
        far.apply(&[up(b), up(1), Change::AddAddress { index: b, address: net("10.0.0.2/8") }]).unwrap();
        // Nobody has to ask for a neighbour, so that only what a test sends is counted.
        let known = |last: u8| Change::SetNeighbour {
            index: a,
            address: [10, 0, 0, last].into(),
            mac: [2, 0, 0, 0, 0, 2],
        };
        near.apply(&(2..20).map(known).collect::<Vec<_>>()).unwrap();
        near.await_running(a, PATIENCE).unwrap();
        far.await_running(b, PATIENCE).unwrap();
        Cable { index: a, there }
    }

    pub fn adopt(&self, others: Others) -> Result<Interface, KernelError> {
        let (tc, route) = (TcSocket::open().unwrap(), RouteSocket::open().unwrap());
        Interface::adopt("a", self.index, tc, route, others)
    }

    pub fn send(&self, last: u8) -> std::io::Result<()> {
        let socket = UdpSocket::bind("10.0.0.1:0".parse().unwrap()).unwrap();
        let to = format!("10.0.0.{last}:9").parse().unwrap();
        socket.send_to(&[0; 100], to).map_err(|e| std::io::Error::from_raw_os_error(e.errno().raw_os_error()))
    }
}

/// Nobody but `a`, with these links.
pub fn plan(links: Vec<Link>) -> Plan {
    let mut plan = Plan::new(links);
    plan.attach(Member {
        port: ME,
        instance: InstanceName::new("a", 0),
        network: "default".to_owned(),
        regions: Vec::new(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))],
    });
    plan
}

/// What a rule for each of these hosts wants, and a default.
pub fn wanted(default: LinkShape, rules: &[(&str, LinkShape)]) -> Wanted {
    let mut plan = plan(Vec::new());
    let rules = rules.iter().map(|(net, shape)| (net.parse().unwrap(), shape.clone())).collect();
    plan.wish(ME, Wishes { default, rules });
    of_plan(&plan)
}

pub fn of_plan(plan: &Plan) -> Wanted {
    of_plan_by(plan, Pacing::Htb)
}

pub fn of_plan_by(plan: &Plan, pacing: Pacing) -> Wanted {
    let subnets: [IpNet; 1] = ["10.0.0.0/8".parse().unwrap()];
    Wanted::of(plan, ME, &subnets, 1500, pacing)
}

pub fn narrow(mbit: u64) -> LinkShape {
    LinkShape { bandwidth: Some(mbit * 1_000_000), ..LinkShape::default() }
}

pub fn cut(filter: Filter) -> LinkShape {
    LinkShape { filter, ..LinkShape::default() }
}

pub fn output(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

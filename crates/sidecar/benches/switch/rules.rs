//! What so many rules of one sender cost on either plane, in the same run: TCP, and a flood of 64-byte frames, to a receiver that
//! none of the rules is about, unshaped and with a shape of its own. The shape is a latency where the kernel has netem, else a
//! bandwidth that is never reached.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use testground_linux::route::RouteSocket;
use testground_linux::tc::TcSocket;
use testground_model::name::InstanceName;
use testground_model::shape::LinkShape;
use testground_sidecar::plan::{Member, Plan, PortId, Wishes};
use testground_sidecar::plane::kernel::{Abilities, Interface, Others, Pacing, Wanted};

use crate::load::{self, Figure};
use crate::peer;
use crate::switch_lab::{Carrier, Host, Lab};

/// A rule for each of so many addresses that nobody has, and perhaps one for the receiver.
fn wishes(count: u32, receiver: Ipv4Addr, own: Option<&LinkShape>) -> Wishes {
    let nobody = |n: u32| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + 2 * n)));
    let narrow = LinkShape { bandwidth: Some(10_000_000), ..LinkShape::default() };
    let rules = (0..count).map(|n| (nobody(n), narrow.clone()));
    let own = own.map(|shape| (IpNet::from(IpAddr::V4(receiver)), shape.clone()));
    Wishes { default: LinkShape::default(), rules: rules.chain(own).collect() }
}

pub(crate) fn rules() {
    let pacing = Abilities::probe().unwrap().pacing();
    let own = match pacing {
        Pacing::Netem => LinkShape { latency: Duration::from_millis(1), ..LinkShape::default() },
        Pacing::Htb => LinkShape { bandwidth: Some(100_000_000_000), ..LinkShape::default() },
    };
    let mut figures = Vec::new();
    for _ in 0..3 {
        for count in [1, 100, 1000] {
            for (shape, words) in [(None, "receiver unshaped"), (Some(&own), "receiver shaped")] {
                let mut measure = |plane: &'static str, a: &Host, b: &Host| {
                    let (goodput, _) = load::goodput(a, b, 2);
                    let flood = load::flood(a, b, Duration::from_secs(1));
                    let name = |what: &str| format!("{what}, {count} rules, {words}");
                    figures.push(vec![
                        Figure::new(&name("tcp"), goodput / 1e9, "Gbit/s", plane),
                        Figure::new(&name("flood_64_bytes"), flood, "packets/s", plane),
                    ]);
                };
                let (a, b) = peer::veth(None);
                let mut plan = Plan::new(Vec::new());
                plan.attach(Member {
                    port: a.port,
                    instance: InstanceName::new("h", 0),
                    network: "default".to_owned(),
                    regions: Vec::new(),
                    addresses: vec![IpAddr::V4(a.v4)],
                });
                plan.wish(a.port, wishes(count, b.v4, shape));
                let (tc, mut route) =
                    (TcSocket::open_in(&a.netns).unwrap(), RouteSocket::open_in(&a.netns).unwrap());
                let index = route.link("data").unwrap().unwrap().index;
                let mut interface = Interface::adopt("data", index, tc, route, Others::Leave).unwrap();
                let subnets = ["10.99.0.0/24".parse().unwrap()];
                interface.apply(&Wanted::of(&plan, a.port, &subnets, 1500, pacing)).unwrap();
                measure(if pacing == Pacing::Netem { "kernel/netem" } else { "kernel/htb" }, &a, &b);

                let mut lab = Lab::new(2, Carrier::Tap);
                load::pin_congestion_control(&lab.hosts);
                lab.plan.wish(PortId(0), wishes(count, lab.hosts[1].v4, shape));
                lab.switch.install(Arc::new(lab.plan.clone())).unwrap();
                measure("switch/tap", &lab.hosts[0], &lab.hosts[1]);
            }
        }
    }
    load::print_medians(figures);
}

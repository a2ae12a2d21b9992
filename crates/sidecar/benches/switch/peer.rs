//! What the switch is compared with: two namespaces joined by a veth pair, shaped by HTB or not at all; and the same two as
//! instances of a lab.

use testground_linux::netns::Netns;
use testground_model::shape::LinkShape;
use testground_sidecar::plan::PortId;
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};

use crate::lab_support;
use crate::load::{pin_congestion_control, raise_buffers};
use crate::switch_lab::Host;

/// Two of a run's instances, with links that are unshaped at first.
pub(crate) struct RunningLab {
    pub(crate) hosts: Vec<Host>,
    network: LabNetwork,
}

impl RunningLab {
    /// Puts a shape on all links.
    pub(crate) fn shape(&self, shape: &LinkShape) {
        let link = |from, to| lab_support::link(from, to, false, shape.clone());
        let overlay =
            |(id, link): (u32, testground_model::topology::Link)| testground_sidecar::plan::Overlay {
                id,
                from: link.from,
                to: link.to,
                both_ways: false,
                network: link.network,
                shape: std::sync::Arc::new(link.shape),
                schedule: None,
            };
        self.network.change(vec![overlay((0, link("h", "h")))], Vec::new()).unwrap();
    }
}

/// The lab of a run without any declared link. The hosts are the first of so many instances, and the last.
pub(crate) fn lab(count: u32) -> RunningLab {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = lab_support::run(&[("h", count)], vec![lab_support::default_network()]);
    let network = LabNetwork::start(&run, PortKind::Auto).unwrap();
    let host = |i: u32| {
        let inside = runtime.block_on(lab_support::appear(&network, "h", i));
        Host {
            netns: inside.0,
            port: PortId(i),
            name: format!("h[{i}]"),
            v4: [16, 0, 0, i as u8 + 2].into(),
            v6: [0xfd16, 0, 0, 0, 0, 0, 0, i as u16 + 2].into(),
            device: "data".to_owned(),
        }
    };
    let mut hosts: Vec<Host> = (0..count).map(host).collect();
    hosts.drain(1..hosts.len() - 1);
    RunningLab { hosts, network }
}

/// Two hosts on a veth pair, each sending at most so many bits per second.
pub(crate) fn veth(bits: Option<u64>) -> (Host, Host) {
    let host = |i: u8| Host {
        netns: Netns::create().unwrap(),
        port: PortId(i.into()),
        name: format!("veth {i}"),
        v4: [10, 99, 0, i + 1].into(),
        v6: [0xfd99, 0, 0, 0, 0, 0, 0, u16::from(i) + 1].into(),
        device: "data".to_owned(),
    };
    let (a, b) = (host(0), host(1));
    a.ip("link add data type veth peer name peer");
    // The peer moves by a descriptor's number in the `ip` process's own parent.
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&b.netns));
    a.ip(&format!("link set peer name data netns /proc/{}/fd/{fd}", std::process::id()));
    for host in [&a, &b] {
        host.ip(&format!("address add {}/24 dev data", host.v4));
        host.ip(&format!("address add {}/64 dev data nodad", host.v6));
        host.ip("link set lo up");
        host.ip("link set data up");
        if let Some(bits) = bits {
            host.stdout("tc", "qdisc add dev data root handle 1: htb default 1");
            let rate = format!("class add dev data parent 1: classid 1:1 htb rate {bits}bit burst 64k");
            host.stdout("tc", &rate);
        }
    }
    let hosts = [a, b];
    match bits {
        Some(_) => raise_buffers(&hosts),
        None => pin_congestion_control(&hosts),
    }
    let [a, b] = hosts;
    (a, b)
}

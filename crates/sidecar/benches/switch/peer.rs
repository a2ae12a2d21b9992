//! What the switch is compared with: two namespaces joined by a veth pair, shaped by HTB or not at all.

use testground_linux::netns::Netns;
use testground_sidecar::plan::PortId;

use crate::load::{pin_congestion_control, raise_buffers};
use crate::switch_lab::Host;

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

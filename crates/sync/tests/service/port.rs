//! Ports of loopback for servers that tests start. The black-box suite of `testground` has this file too.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// A TCP port that is nobody else's for as long as this is held: no other test takes it, in this process or in another one, and
/// it is none of those that the kernel gives away by itself.
pub(crate) struct Port {
    pub(crate) number: u16,
    /// An abstract name, which one process can have at a time.
    _held: UnixListener,
}

impl Port {
    pub(crate) fn free() -> Port {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let given_away = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
        let free = (10_000..given_away).find_map(|number| {
            let name = SocketAddr::from_abstract_name(format!("testground-test-port-{number}")).ok()?;
            let held = UnixListener::bind_addr(&name).ok()?;
            TcpListener::bind(("127.0.0.1", number)).is_ok().then_some(Port { number, _held: held })
        });
        free.expect("a port between 10,000 and those of net.ipv4.ip_local_port_range")
    }
}

//! A connection into an instance's network, made from within: whoever listens on its loopback is reached too.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use testground_linux::netns::Netns;
use testground_model::diagnostic::nearest;
use testground_model::name::InstanceName;

use super::super::dial::plain;

/// Connects to a port of an instance; with false, only looks whether somebody listens.
pub(super) type Reach =
    Arc<dyn Fn(&InstanceName, u16, bool) -> Result<Option<OwnedFd>, Unreached> + Send + Sync>;

/// Why there is no connection, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreached {
    /// Nobody listens there now.
    NobodyListens(String),
    /// The run has no such instance.
    Unknown(String),
}

/// How long an instance may take to accept: its backlog may be full.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most names in an error.
const SHOWN: usize = 10;

/// Connects to a port within a network namespace.
pub(super) fn reach(
    instance: &InstanceName,
    namespace: &OwnedFd,
    port: u16,
    connect: bool,
) -> Result<Option<OwnedFd>, Unreached> {
    let lost =
        |e: &dyn std::fmt::Display| Unreached::NobodyListens(format!("{instance} can't be entered: {e}"));
    let netns = namespace.try_clone().map_err(|e| lost(&e))?;
    let netns = Netns::from_fd(netns).map_err(|e| lost(&e))?;
    let inside = netns.enter(|| {
        let listeners = listeners();
        let mut why = None;
        for address in candidates(&listeners, port) {
            if !connect {
                return Ok(None);
            }
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(Some(OwnedFd::from(stream))),
                Err(e) => {
                    why =
                        Some(format!("{instance} does not take the connection to {address}: {}", plain(&e)));
                }
            }
        }
        Err(Unreached::NobodyListens(why.unwrap_or_else(|| nobody(instance, port, &listeners))))
    });
    inside.map_err(|e| lost(&e))?
}

/// The run has no such instance; which ones it has.
pub(super) fn unknown<'a>(wrong: &InstanceName, all: impl Iterator<Item = &'a InstanceName>) -> String {
    let names: Vec<String> = all.map(ToString::to_string).collect();
    let known = match names.len() {
        0..=SHOWN => names.join(", "),
        count => format!("{}, ... ({count} instances)", names[..SHOWN].join(", ")),
    };
    let mut text = format!("the run has no instance {wrong}; there are {known}");
    if let Some(near) = nearest(&wrong.to_string(), names.iter().map(String::as_str)) {
        text.push_str(&format!("; did you mean {near}?"));
    }
    text
}

fn nobody(instance: &InstanceName, port: u16, listeners: &[SocketAddr]) -> String {
    let ports: BTreeSet<u16> = listeners.iter().map(SocketAddr::port).collect();
    let ports: Vec<String> = ports.iter().take(SHOWN).map(ToString::to_string).collect();
    match ports.as_slice() {
        [] => format!("nobody listens on port {port} of {instance}, nor on any other"),
        _ => format!("nobody listens on port {port} of {instance}; somebody does on {}", ports.join(", ")),
    }
}

/// Where a connection to the port can go: loopback first, as `kubectl port-forward` does, then whatever else is
/// listened on.
fn candidates(listeners: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut add = |ip: IpAddr| {
        let address = SocketAddr::new(ip, port);
        if !found.contains(&address) {
            found.push(address);
        }
    };
    let here: Vec<IpAddr> = listeners.iter().filter(|a| a.port() == port).map(SocketAddr::ip).collect();
    let all = |ip: &IpAddr| ip.is_unspecified();
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    if here.iter().any(|ip| *ip == v4 || all(ip)) {
        add(v4);
    }
    if here.iter().any(|ip| *ip == v6 || all(ip) && ip.is_ipv6()) {
        add(v6);
    }
    here.into_iter().filter(|ip| !all(ip)).for_each(add);
    found
}

/// Every listening TCP socket of the calling thread's network namespace (proc_net(5): state 0A).
fn listeners() -> Vec<SocketAddr> {
    let table = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let (v4, v6) = (table("tcp"), table("tcp6"));
    v4.lines().chain(v6.lines()).filter_map(listener).collect()
}

/// `sl  local_address rem_address   st ...`, addresses as words of 32 bits in the machine's order.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut fields = line.split_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i * 8)?);
            }
            // A listener of both kinds may be bound to an IPv4 address in IPv6's form.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernels_table_is_read_as_the_kernel_means_it() {
        for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let bound = listener.local_addr().unwrap();
            assert!(listeners().contains(&bound), "{bound} of {:?}", listeners());
            let candidates = candidates(&listeners(), bound.port());
            let reached = candidates.iter().any(|a| TcpStream::connect(a).is_ok());
            assert!(reached, "{bound}: {candidates:?}");
        }
        let connected = "  0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000";
        assert_eq!(listener(connected), None);
    }

    #[test]
    fn addresses_other_than_loopback_are_reached_too() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let all =
            [at("16.0.0.2:80"), at("0.0.0.0:81"), at("[::]:82"), at("192.18.0.2:80"), at("127.0.0.1:80")];
        let found = |port| candidates(&all, port).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(80), ["127.0.0.1:80", "16.0.0.2:80", "192.18.0.2:80"]);
        assert_eq!(found(81), ["127.0.0.1:81"]);
        assert_eq!(found(82), ["127.0.0.1:82", "[::1]:82"]);
        assert!(found(83).is_empty());
    }

    #[test]
    fn whatever_is_not_there_is_said_with_what_is() {
        let g = |index| InstanceName::new("server", index);
        let text = unknown(&InstanceName::new("servr", 0), [g(0), g(1)].iter());
        assert_eq!(
            text,
            "the run has no instance servr[0]; there are server[0], server[1]; did you mean server[0]?"
        );
        let listeners = ["16.0.0.2:80".parse().unwrap(), "[::1]:80".parse().unwrap()];
        assert_eq!(
            nobody(&g(0), 81, &listeners),
            "nobody listens on port 81 of server[0]; somebody does on 80"
        );
    }
}

//! Hosts outside of a lab that its instances may reach: `host:port` as a composition has it, and the name that
//! instances know it by. Who connects, and how, is not known here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The name under which instances find the machine that the lab runs on.
pub const MACHINE: &str = "host.testground";

/// A host and a port outside of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, 1 to 65535.
    pub port: u16,
}

/// Text that is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host with a port (1 to 65535), such as \"db.example:5432\"")]
pub struct BadEndpoint(String);

// === impl Endpoint ===

impl Endpoint {
    /// Reads `host:port`: a name, an IPv4 address, or an IPv6 address in brackets.
    ///
    /// # Errors
    /// It is written differently.
    pub fn parse(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse::<u16>().ok().filter(|&p| p > 0).ok_or_else(bad)?;
        if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| bad())?;
            return Ok(Endpoint { host: address.to_string(), port });
        }
        let is_name = (1..=253).contains(&host.len())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !host.starts_with('.');
        is_name.then(|| Endpoint { host: host.to_owned(), port }).ok_or_else(bad)
    }

    /// Whether it is the machine that the lab runs on.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The name under which instances find it: its own, [`MACHINE`] for a loopback address, and for any other address
    /// its digits with dashes between and `.testground` behind, since an address can't be a name.
    pub fn name(&self) -> String {
        if self.is_loopback() {
            return MACHINE.to_owned();
        }
        match self.host.parse::<IpAddr>() {
            Ok(address) => format!("{}.testground", address.to_string().replace([':', '.'], "-")),
            Err(_) => self.host.to_ascii_lowercase(),
        }
    }

    /// The address that it is written as, where that is an IPv4 address which others than this machine can have.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        let address: Ipv4Addr = self.host.parse().ok()?;
        let usable = !address.is_loopback()
            && !address.is_unspecified()
            && !address.is_multicast()
            && !address.is_broadcast()
            && !address.is_link_local();
        usable.then_some(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;

    fn try_from(text: String) -> Result<Endpoint, BadEndpoint> {
        Endpoint::parse(&text)
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them_and_named_so_that_a_hosts_file_can_have_them() {
        for (text, shown, name) in [
            ("db.example:5432", "db.example:5432", "db.example"),
            ("DB.Example:1", "DB.Example:1", "db.example"),
            ("localhost:80", "localhost:80", MACHINE),
            ("127.0.0.9:80", "127.0.0.9:80", MACHINE),
            ("[::1]:80", "[::1]:80", MACHINE),
            ("10.0.0.5:80", "10.0.0.5:80", "10-0-0-5.testground"),
            ("[2001:db8:0::1]:80", "[2001:db8::1]:80", "2001-db8--1.testground"),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.name().as_str()), (shown, name), "{text}");
            assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }
        for text in [
            "", "db", "db:", "db:0", "db:65536", "db:http", ":80", "::1:80", "[::1]", "a b:1", ".a:1",
            "[x]:1",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_addresses_of_others_stay_as_they_are() {
        let kept = |text: &str| Endpoint::parse(text).unwrap().ipv4().is_some();
        assert!(kept("10.0.0.5:80"));
        for text in
            ["127.0.0.1:80", "0.0.0.0:80", "224.0.0.1:80", "169.254.0.1:80", "255.255.255.255:80", "db:80"]
        {
            assert!(!kept(text), "{text}");
        }
    }
}

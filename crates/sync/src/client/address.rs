//! Where a service is.

use std::fmt;
use std::str::FromStr;

/// The port of the original, and of every SDK.
pub const DEFAULT_PORT: u16 = 5050;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Text that is no address of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a sync service: {what}; expected HOST, HOST:PORT or ws://HOST:PORT")]
pub struct BadAddress {
    text: String,
    what: &'static str,
}

// === impl Address ===

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bad = |what| BadAddress { text: text.to_owned(), what };
        let rest = match text.split_once("://") {
            Some(("ws" | "http", rest)) => rest,
            Some(("wss" | "https", _)) => return Err(bad("the service speaks no TLS")),
            Some(_) => return Err(bad("unknown scheme")),
            None => text,
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
            let (host, rest) = v6.split_once(']').ok_or_else(|| bad("a bracket is not closed"))?;
            (host, rest.strip_prefix(':'))
        } else if authority.matches(':').count() > 1 {
            // A bare IPv6 address.
            (authority, None)
        } else {
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
        };
        if host.is_empty() {
            return Err(bad("no host"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| bad("the port is no number from 0 to 65535"))?,
        };
        Ok(Address { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("localhost", "localhost:5050"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("ws://h:1/any/path", "h:1"),
            ("http://h", "h:5050"),
            ("[::1]:7", "[::1]:7"),
            ("::1", "[::1]:5050"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected, "{text}");
        }
        for text in ["", ":5050", "wss://h", "ftp://h", "h:port", "h:65536", "[::1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}

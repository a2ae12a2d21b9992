//! Networks, links between parts of a run, and what changes on them over time.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::shape::LinkShape;

/// A data network that instances are attached to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The name that SDKs use in their requests; the first one is `default`.
    pub name: String,
    /// The IPv4 subnet; its first address is the network's own and given to nobody.
    pub subnet: Ipv4Net,
    /// The IPv6 subnet, where the network is dual stack.
    pub subnet6: Option<Ipv6Net>,
    /// Largest packet that passes without fragmentation, bytes (68 to 65,535; at least 1,280 with IPv6).
    pub mtu: u32,
}

/// A shape between two sets of instances, in force from the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Where packets come from.
    pub from: Endpoint,
    /// Where they go.
    pub to: Endpoint,
    /// Whether the same shape holds on the way back too.
    pub both_ways: bool,
    /// The data network it is about.
    pub network: String,
    /// What happens to the packets.
    pub shape: LinkShape,
}

/// A set of instances, or of addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Every instance.
    All,
    /// The instances of a group.
    Group(String),
    /// One instance of a group.
    Instance(crate::name::InstanceName),
    /// The instances in a region.
    Region(String),
    /// Whoever has an address in it.
    Subnet(ipnet::IpNet),
}

/// A change that is declared for a moment of the run's clock (0 is when the instances are let go).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Duration,
    /// Which links.
    pub from: Endpoint,
    /// Which links.
    pub to: Endpoint,
    /// Whether the way back is meant too.
    pub both_ways: bool,
    /// The data network it is about.
    pub network: String,
    /// What happens to them.
    pub action: Action,
    /// What was declared for these links just before, all of them alike: where a ramp starts, and what a trace leaves as
    /// it is. `None` where it was not worked out.
    #[serde(default)]
    pub base: Option<LinkShape>,
}

/// What a change does to its links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing passes any more.
    Partition,
    /// What was in force before the first change is in force again.
    Heal,
    /// This shape replaces the one in force.
    Shape(LinkShape),
    /// The numbers of the shape move in straight lines to these within the time.
    Ramp {
        /// The shape at the end.
        to: LinkShape,
        /// How long it takes.
        over: Duration,
    },
    /// Down and up again, this many times.
    Flap {
        /// How long the links are down.
        down: Duration,
        /// How long they are up between.
        up: Duration,
        /// How often.
        times: u32,
    },
    /// Bandwidth follows a list of delivery opportunities (mahimahi: one 1,500-byte packet at each millisecond listed).
    Trace {
        /// Milliseconds since the start of the trace, never falling; the last one is the trace's length.
        opportunities: Vec<u64>,
        /// Whether it starts again when it ends.
        repeat: bool,
    },
}

/// The name of the network that every instance is attached to at the start.
pub const DEFAULT_NETWORK: &str = "default";

/// The control network, which no data network may overlap: the original's.
pub const CONTROL_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 18, 0, 0), 16);

/// The range for the control network's IPv6 addresses, a unique local one (RFC 4193).
pub const CONTROL_SUBNET6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd54, 0x4743, 0, 0, 0, 0, 0, 0), 32);

/// The largest packet of a network that says nothing: Ethernet's.
pub const DEFAULT_MTU: u32 = 1500;

/// The subnet of the n-th data network that names none: the original's 16.0.0.0/16 to 31.255.0.0/16.
pub const fn default_subnet(n: u16) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(16 + (n / 256 % 16) as u8, (n % 256) as u8, 0, 0), 16)
}

/// The IPv6 subnet of the n-th data network that names none: a unique local one (RFC 4193).
pub const fn default_subnet6(n: u16) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd54, 0x474e, n, 0, 0, 0, 0, 0), 64)
}

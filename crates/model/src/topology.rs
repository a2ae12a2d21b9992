//! Networks, links between parts of a run, and what changes on them over time.

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

//! What a plan holds, listed: the distinct declared shapes for the proof, and everything in force for a reader.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link};

use super::{Destination, Plan, PortId, Schedule, receives, sends};
use crate::show::seconds;

/// A declared shape with the one on the way back, once for all links that have both.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Where it is in force, in words: the first such link, and how many more there are.
    pub label: String,
    /// The shape.
    pub there: Arc<LinkShape>,
    /// The shape of packets that come back; without effect where nothing is declared.
    pub back: Arc<LinkShape>,
    /// The trace that packets follow in the place of a bandwidth.
    pub follows: Option<Arc<Schedule>>,
}

/// A shape that the timeline declares for a later moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Later {
    /// When, on the run's clock.
    pub at: Duration,
    /// The links, with the shape that they will have; without the bandwidth where that follows a trace.
    pub link: Link,
    /// The trace that the bandwidth follows.
    pub follows: Option<Arc<Schedule>>,
}

/// Who put a shape in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The timeline.
    Change,
    /// An instance, for a subnet.
    Rule,
    /// An instance, for everything else it sends.
    Default,
    /// The composition.
    Link,
}

/// A shape that is in force somewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InForce {
    /// Who put it there.
    pub layer: Layer,
    /// The data network.
    pub network: String,
    /// Whose packets, in the composition's words.
    pub from: String,
    /// Where to, in the composition's words.
    pub to: String,
    /// Whether the way back is meant too.
    pub both_ways: bool,
    /// The shape.
    pub shape: LinkShape,
    /// The trace that it follows in the place of a bandwidth, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Plan {
    /// Every distinct pair of a declared shape and the shape on the way back, in the order of the links and then of the
    /// timeline. A link that goes both ways counts once, unless another link gives its way back a shape of its own, and so do
    /// two links there and back with one shape. What comes back is what two of the instances that the link is in force for would
    /// see at this moment, or where a link changes the shape of the change.
    pub fn distinct_shapes<'a>(&'a self, later: &'a [Later]) -> Vec<Declared> {
        let mut networks: Vec<&str> = self.links.iter().map(|(link, _)| link.network.as_str()).collect();
        networks.extend(later.iter().map(|later| later.link.network.as_str()));
        let several = networks.iter().any(|name| *name != networks[0]);
        let mut found: Vec<(Declared, Named<'_>)> = Vec::new();
        let mut note = |at, link: &'a Link, there: Arc<LinkShape>, back: Option<Arc<LinkShape>>, follows| {
            let back = back.unwrap_or_else(|| Arc::clone(&self.transparent));
            let declared = Declared { label: String::new(), there, back, follows };
            let both_ways = link.both_ways && declared.back == declared.there;
            match found.iter_mut().find(|(d, _)| d.is_same(&declared)) {
                Some((_, named)) if named.is_turned(at, link) => named.both_ways = true,
                Some((_, named)) => named.more += 1,
                None => {
                    let named =
                        Named { at, link, both_ways, network: several.then_some(&link.network), more: 0 };
                    found.push((declared, named));
                }
            }
        };
        for (link, shape) in self.links.iter() {
            let back = self.way_back(link, Some(shape));
            note(None, link, Arc::clone(shape), back, None);
        }
        for Later { at, link, follows } in later {
            let shape = Arc::new(link.shape.clone());
            let is_its_own_way_back =
                link.both_ways || contains(&link.from, &link.to) && contains(&link.to, &link.from);
            let back = if is_its_own_way_back { Some(Arc::clone(&shape)) } else { self.way_back(link, None) };
            note(Some(*at), link, shape, back, follows.clone());
        }
        found.into_iter().map(|(d, named)| Declared { label: named.to_string(), ..d }).collect()
    }

    /// Everything that is in force, by layer from the highest; instances by port.
    pub fn in_force(&self) -> Vec<InForce> {
        let changes = self.overlays.iter().rev().map(|o| InForce {
            layer: Layer::Change,
            network: o.network.clone(),
            from: words(&o.from),
            to: words(&o.to),
            both_ways: o.both_ways,
            shape: (*o.shape).clone(),
            trace: o.schedule.as_ref().map(|s| s.to_string()),
        });
        let mut senders: Vec<_> = self.wishes.iter().collect();
        senders.sort_by_key(|(port, _)| **port);
        let own = senders.into_iter().filter_map(|(port, wanted)| Some((self.member(*port)?, wanted)));
        let own = own.flat_map(|(member, wanted)| {
            let entry = |layer, to: String, shape: &LinkShape| InForce {
                layer,
                network: member.network.clone(),
                from: member.instance.to_string(),
                to,
                both_ways: false,
                shape: shape.clone(),
                trace: None,
            };
            let rules =
                wanted.rules.iter().map(move |(net, shape)| entry(Layer::Rule, net.to_string(), shape));
            let default =
                wanted.default_counts.then(|| entry(Layer::Default, "all".to_owned(), &wanted.default));
            rules.chain(default)
        });
        let links = self.links.iter().rev().map(|(link, shape)| InForce {
            layer: Layer::Link,
            network: link.network.clone(),
            from: words(&link.from),
            to: words(&link.to),
            both_ways: link.both_ways,
            shape: (**shape).clone(),
            trace: None,
        });
        changes.chain(own).chain(links).collect()
    }

    /// The shape of whatever comes back over a link: what is in force between two instances that it is in force for, if there are any
    /// where that is its own shape as well; without such two that of the last link that surely covers all of its pairs turned around.
    ///
    /// `own` is its shape where another link may be in force in its place.
    fn way_back(&self, link: &Link, own: Option<&Arc<LinkShape>>) -> Option<Arc<LinkShape>> {
        let mut found = None;
        let mut pairs = self.pairs(&link.from, &link.to, &link.network);
        if link.both_ways {
            pairs.extend(self.pairs(&link.to, &link.from, &link.network));
        }
        for (from, address, to, back) in pairs {
            if own.is_some_and(|own| !Arc::ptr_eq(&self.resolve(from, address).shape, own)) {
                continue;
            }
            let shape = self.resolve(to, back).shape;
            if !link.both_ways || own.is_none_or(|own| Arc::ptr_eq(&shape, own)) {
                return Some(shape);
            }
            found.get_or_insert(shape);
        }
        found.or_else(|| self.declared_back(link))
    }

    /// Instances between two endpoints, at most [`MOST_PAIRS`] of them: the sender, an address of the receiver, the receiver, and an
    /// address of the sender.
    fn pairs(&self, from: &Endpoint, to: &Endpoint, network: &str) -> Vec<(PortId, IpAddr, PortId, IpAddr)> {
        let on = || self.members().filter(|member| member.network == network);
        let receivers: Vec<_> = on()
            .flat_map(|member| member.addresses.iter().map(move |address| (member, *address)))
            .filter(|(member, address)| receives(to, Some(member), Destination::Host(*address)))
            .collect();
        let between = on().filter(|member| sends(from, member)).flat_map(|sender| {
            let others = receivers.iter().filter(|(receiver, _)| receiver.port != sender.port);
            others.filter_map(|(receiver, address)| {
                let back = sender.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4())?;
                Some((sender.port, *address, receiver.port, *back))
            })
        });
        between.take(MOST_PAIRS).collect()
    }

    fn declared_back(&self, link: &Link) -> Option<Arc<LinkShape>> {
        let back = |other: &Link| {
            other.network == link.network
                && (contains(&other.from, &link.to) && contains(&other.to, &link.from)
                    || other.both_ways && contains(&other.to, &link.to) && contains(&other.from, &link.from))
        };
        self.links.iter().rev().find(|(other, _)| back(other)).map(|(_, shape)| Arc::clone(shape))
    }
}

/// Whether every instance and address of one endpoint is surely in another, whoever is attached.
pub(crate) fn contains(outer: &Endpoint, inner: &Endpoint) -> bool {
    match (outer, inner) {
        (Endpoint::All, _) => true,
        (Endpoint::Group(group), Endpoint::Instance(instance)) => instance.group == *group,
        (Endpoint::Subnet(outer), Endpoint::Subnet(inner)) => outer.contains(inner),
        _ => outer == inner,
    }
}

/// An endpoint in the composition's words.
pub fn words(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::All => "all".to_owned(),
        Endpoint::Group(name) | Endpoint::Region(name) => name.clone(),
        Endpoint::Instance(instance) => instance.to_string(),
        Endpoint::Subnet(net) => net.to_string(),
    }
}

// === impl Declared ===

impl Declared {
    fn is_same(&self, other: &Declared) -> bool {
        let same_trace = match (&self.follows, &other.follows) {
            (Some(one), Some(two)) => one.is_same_trace(two),
            (one, two) => one.is_none() && two.is_none(),
        };
        same_trace && self.there == other.there && self.back == other.back
    }
}

/// The first link that has a shape, and how many more have it.
struct Named<'a> {
    /// When it has, if not from the start.
    at: Option<Duration>,
    link: &'a Link,
    both_ways: bool,
    /// Where there are several.
    network: Option<&'a str>,
    more: u32,
}

/// So many pairs of instances are looked at for one that a link is in force for.
const MOST_PAIRS: usize = 2_000;

// === impl Named ===

impl Named<'_> {
    /// Whether a link is this one the other way round.
    fn is_turned(&self, at: Option<Duration>, link: &Link) -> bool {
        !self.both_ways
            && self.at == at
            && (&self.link.from, &self.link.to, &self.link.network) == (&link.to, &link.from, &link.network)
            && link.from != link.to
    }
}

impl fmt::Display for Named<'_> {
    /// `at 10s east <-> west and 1 more`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "at {} ", seconds(at))?;
        }
        let arrow = if self.both_ways { "<->" } else { "->" };
        write!(f, "{} {arrow} {}", words(&self.link.from), words(&self.link.to))?;
        if let Some(network) = self.network {
            write!(f, " on {network}")?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Change => "change",
            Layer::Rule => "rule",
            Layer::Default => "default",
            Layer::Link => "link",
        })
    }
}

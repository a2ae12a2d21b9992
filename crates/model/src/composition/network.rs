//! Reads the tables of a composition that say how the network is: networks, regions, links and the timeline.
//!
//! Selectors stay texts with their parts here; whether what they name exists is asked in `resolve`.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::shape::{self, ShapeSpec};
use crate::name::InstanceName;
use crate::reader::{At, Item, Mistakes, TableReader};
use crate::units;

/// `[[networks]]`.
#[derive(Debug, Clone)]
pub struct NetworkSpec {
    /// Its name.
    pub name: At<String>,
    /// The IPv4 subnet.
    pub subnet: Option<At<Ipv4Net>>,
    /// The IPv6 subnet; `Some(None)` switches IPv6 off.
    pub subnet6: Option<At<Option<Ipv6Net>>>,
    /// Largest packet, bytes.
    pub mtu: Option<At<u32>>,
}

/// `[regions]`.
#[derive(Debug, Clone)]
pub struct RegionsSpec {
    /// Where the table is.
    pub at: At<()>,
    /// The name of a built-in table, or a CSV file.
    pub latency_matrix: Option<At<String>>,
    /// The data network that it is about.
    pub network: Option<At<String>>,
    /// What else holds between regions: everything but a latency.
    pub shape: ShapeSpec,
}

/// How many of a group's instances are in a region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RegionShare {
    /// So many.
    Count(u32),
    /// A share, percent.
    Percent(f64),
    /// Whoever is left.
    Rest,
    /// Something that could not be read.
    Unreadable,
}

/// `[[links]]`.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    /// Where packets come from.
    pub from: At<SelectorSpec>,
    /// Where they go.
    pub to: At<SelectorSpec>,
    /// Whether the way back is meant too.
    pub both: bool,
    /// The data network.
    pub network: Option<At<String>>,
    /// What happens to packets.
    pub shape: ShapeSpec,
}

/// A selector, before anybody looked whether what it names exists.
#[derive(Debug, Clone, PartialEq)]
pub enum SelectorSpec {
    /// `*`.
    All,
    /// `region:NAME`.
    Region(String),
    /// A CIDR, or an address alone.
    Subnet(IpNet),
    /// `GROUP[INDEX]`, or a group whose id looks like that.
    Instance(InstanceName),
    /// A group.
    Group(String),
}

/// `[[timeline]]`.
#[derive(Debug, Clone)]
pub struct ChangeSpec {
    /// When, on the run's clock.
    pub at: At<Duration>,
    /// Which links.
    pub from: At<SelectorSpec>,
    /// Which links.
    pub to: At<SelectorSpec>,
    /// Whether the way back is meant too.
    pub both: bool,
    /// The data network.
    pub network: Option<At<String>>,
    /// What happens.
    pub deed: Deed,
}

/// What a change does.
#[derive(Debug, Clone, PartialEq)]
pub enum Deed {
    /// Nothing passes.
    Partition,
    /// Earlier changes are taken back.
    Heal,
    /// Settings change at once.
    Set(ShapeSpec),
    /// Numbers move in straight lines.
    Ramp {
        /// Where to.
        to: ShapeSpec,
        /// For how long.
        over: At<Duration>,
    },
    /// Down and up again.
    Flap {
        /// How long down.
        down: At<Duration>,
        /// How long up between.
        up: At<Duration>,
        /// How often.
        times: u32,
    },
    /// Bandwidth follows a file.
    Trace {
        /// The file in mahimahi's form.
        file: At<String>,
        /// Whether it starts again at its end.
        repeat: bool,
    },
}

/// What every instance's first interface is called; see `sidecar`'s reactor.
const CONTROL: &str = "control";

/// The longest moment of a timeline.
const MAX_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn networks(root: &TableReader<'_>, mistakes: &Mistakes) -> Vec<NetworkSpec> {
    let read = |t: &TableReader<'_>| {
        let name = t.required("name", t.string("name"));
        if let Some(name) =
            name.as_ref().filter(|n| !crate::manifest::is_name(&n.value) || n.value.contains(['/', ':']))
        {
            mistakes.push(name.place.error(format!(
                "{:?} can't be the name of a network: 1 to 200 characters, no `/`, `:` or control character",
                name.value
            )));
        }
        if let Some(name) = name.as_ref().filter(|n| n.value == CONTROL) {
            mistakes.push(name.place.error(format!(
                "{CONTROL:?} can't be the name of a network: it is that of the interface by which instances reach the lab's services"
            )));
        }
        let subnet = t
            .item("subnet")
            .and_then(|item| cidr::<Ipv4Net>(&item, "an IPv4 subnet such as \"16.0.0.0/16\""));
        let subnet6 = t.item("subnet6").and_then(|item| match item.as_bool() {
            Some(false) => Some(item.at(None)),
            Some(true) => item.wrong_type("an IPv6 subnet such as \"fd10::/64\", or false,"),
            None => {
                let net = cidr::<Ipv6Net>(&item, "an IPv6 subnet such as \"fd10::/64\", or false,")?;
                Some(item.at(Some(net.value)))
            }
        });
        let mtu = t.count("mtu", 68, 65_535);
        Some(NetworkSpec { name: name?, subnet, subnet6, mtu })
    };
    let networks: Vec<NetworkSpec> = root.tables("networks", read).into_iter().flatten().collect();
    for (i, network) in networks.iter().enumerate() {
        if networks[..i].iter().any(|n| n.name.value == network.name.value) {
            let message = format!("network names not unique; found duplicate: {}", network.name.value);
            mistakes.push(network.name.place.error(message));
        }
    }
    networks
}

pub(super) fn regions(root: &TableReader<'_>, mistakes: &Mistakes) -> Option<RegionsSpec> {
    root.table("regions", |t| {
        let latency_matrix = t.string("latency_matrix");
        let network = t.string("network");
        let mut shape = shape::read(t, mistakes);
        if let Some(latency) = shape.latency.take() {
            mistakes.push(latency.place.error("the latency between regions comes from latency_matrix"));
        }
        RegionsSpec { at: At { value: (), place: t.place().clone() }, latency_matrix, network, shape }
    })
}

pub(super) fn links(root: &TableReader<'_>, mistakes: &Mistakes) -> Vec<LinkSpec> {
    let read = |t: &TableReader<'_>| {
        let (from, to, both, network) = ends(t, false);
        let shape = shape::read(t, mistakes);
        // A setting that could not be read is a mistake of its own.
        if t.has_only(&["from", "to", "both", "network"]) {
            mistakes.push(t.place().warning("this link has no setting, so it leaves every packet as it is"));
        }
        Some(LinkSpec { from: from?, to: to?, both, network, shape })
    };
    root.tables("links", read).into_iter().flatten().collect()
}

pub(super) fn timeline(root: &TableReader<'_>, mistakes: &Mistakes) -> Vec<ChangeSpec> {
    let read = |t: &TableReader<'_>| {
        let at = t.item("at").and_then(|item| shape::duration(&item, Duration::ZERO, MAX_TIME));
        let at = t.required("at", at);
        let known = ["partition", "heal", "set", "ramp", "flap", "trace"].map(|word| (word, word));
        let action = t.item("action").and_then(|item| match item.as_str() {
            // What a `set` leads to is called so in the record and elsewhere.
            Some("shape") => {
                let words = "partition, heal, set, ramp, flap, trace";
                let mistake = format!("\"shape\" is unknown here; one of {words} is expected");
                item.report(item.place().error(mistake).suggest("set"));
                None
            }
            _ => shape::one_of(&item, &known),
        });
        let Some(action) = t.required("action", action) else {
            // Which keys there may be depends on the action: without it nothing more can be said.
            t.entries();
            return None;
        };
        let (from, to, both, network) = ends(t, matches!(action.value, "partition" | "heal" | "flap"));
        let span = |key: &'static str, least: Duration| {
            let span = t.item(key).and_then(|item| shape::duration(&item, least, MAX_TIME));
            t.required(key, span)
        };
        let tick = Duration::from_millis(1);
        let deed = match action.value {
            "partition" => Some(Deed::Partition),
            "heal" => Some(Deed::Heal),
            "set" => Some(Deed::Set(settings(t, mistakes))),
            "ramp" => {
                let (to, over) = (settings(t, mistakes), span("over", tick));
                over.map(|over| Deed::Ramp { to, over })
            }
            "flap" => {
                let (down, up) = (span("down", tick), span("up", tick));
                let times = t.count("times", 1, 1_000_000).map_or(1, |n| n.value);
                down.zip(up).map(|(down, up)| Deed::Flap { down, up, times })
            }
            _ => {
                let file = t.required("file", t.string("file"));
                let repeat = t.boolean("repeat").is_none_or(|b| b.value);
                file.map(|file| Deed::Trace { file, repeat })
            }
        };
        for (keys, of) in [
            (&["over"][..], "ramp"),
            (&["down", "up", "times"], "flap"),
            (&["file", "repeat"], "trace"),
            (&shape::KEYS, "set and ramp"),
        ] {
            for &key in keys {
                t.refuse(key, || format!("{} takes no `{key}`, which belongs to {of}", action.value));
            }
        }
        Some(ChangeSpec { at: at?, from: from?, to: to?, both, network, deed: deed? })
    };
    root.tables("timeline", read).into_iter().flatten().collect()
}

/// What a share of a group is.
const SHARES: &str = "a number of instances, a share such as \"40%\", or \"rest\"";

/// `region = "eu"`, or `regions = { eu = "40%", us = 3, asia = "rest" }`.
pub(super) fn region_shares(t: &TableReader<'_>, mistakes: &Mistakes) -> Vec<(At<String>, At<RegionShare>)> {
    let all = t.string("region");
    let share = |item: &Item<'_>| match item.as_str() {
        Some("rest") => Some(RegionShare::Rest),
        Some(text) => match units::percent(text) {
            Ok(percent) => Some(RegionShare::Percent(percent)),
            Err(e) if text.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                item.error(e.to_string());
                None
            }
            Err(_) => {
                let mistake =
                    item.place().error(format!("{text:?} is no share of a group: {SHARES} is expected"));
                item.report(mistake.suggest_nearest(text, ["rest"]));
                None
            }
        },
        None if item.as_integer().is_some() => {
            item.count(1, super::MAX_INSTANCES).map(|n| RegionShare::Count(n.value))
        }
        None => item.wrong_type(SHARES),
    };
    let shares = t.table("regions", |t| {
        let read = |(name, item): (At<String>, Item<'_>)| {
            let share = share(&item).unwrap_or(RegionShare::Unreadable);
            (name, item.at(share))
        };
        if t.has_only(&[]) {
            mistakes.push(t.place().warning("it names no region, so that nobody is in one"));
        }
        t.entries().into_iter().map(read).collect::<Vec<_>>()
    });
    match (all, shares) {
        (Some(region), Some(_)) => {
            mistakes
                .push(region.place.error("region and regions can't be given together: one of them says it"));
            Vec::new()
        }
        (Some(region), None) => {
            let share = region.with(RegionShare::Rest);
            vec![(region, share)]
        }
        (None, shares) => shares.unwrap_or_default(),
    }
}

type Ends = (Option<At<SelectorSpec>>, Option<At<SelectorSpec>>, bool, Option<At<String>>);

/// The keys that say which links are meant.
fn ends(t: &TableReader<'_>, both_by_default: bool) -> Ends {
    let from = t.required("from", t.string("from"));
    let to = t.required("to", t.string("to"));
    let both = t.boolean("both").map_or(both_by_default, |b| b.value);
    let read = |text: At<String>| text.with(selector(&text.value));
    (from.map(read), to.map(read), both, t.string("network"))
}

fn settings(t: &TableReader<'_>, mistakes: &Mistakes) -> ShapeSpec {
    let settings = shape::read(t, mistakes);
    if t.has_only(&["at", "action", "from", "to", "both", "network", "over"]) {
        mistakes.push(
            t.place()
                .error("it changes nothing: a setting of a link's shape is expected, such as loss = \"5%\""),
        );
    }
    settings
}

/// What a selector says; every text says something, and whether it exists is asked later.
fn selector(text: &str) -> SelectorSpec {
    if text == "*" {
        return SelectorSpec::All;
    }
    if let Some(region) = text.strip_prefix("region:") {
        return SelectorSpec::Region(region.to_owned());
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return SelectorSpec::Subnet(net);
    }
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return SelectorSpec::Subnet(IpNet::from(address));
    }
    match InstanceName::parse(text) {
        Some(instance) if text.ends_with(']') => SelectorSpec::Instance(instance),
        _ => SelectorSpec::Group(text.to_owned()),
    }
}

fn cidr<T: std::str::FromStr + Copy>(item: &Item<'_>, expected: &str) -> Option<At<T>> {
    let Some(text) = item.as_str() else { return item.wrong_type(expected) };
    match text.parse::<T>() {
        Ok(net) => Some(item.at(net)),
        Err(_) => {
            item.error(format!("{text:?} is no subnet: {expected} is expected"));
            None
        }
    }
}

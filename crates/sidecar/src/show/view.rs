//! A running network as `testground network show` has it: data for JSON, and tables for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testground_model::shape::LinkShape;

use super::{describe, seconds};
use crate::plan::{InForce, Plan};
use crate::plane::switch::counters::Traffic;
use crate::plane::switch::snapshot::Snapshot;

/// A run's network at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// What carries packets to and from the switch: `tap` or `packet-socket`; `veth` where the kernel carries them.
    pub ports: String,
    /// Seconds since the network was started.
    pub uptime: f64,
    /// What was declared and asked for, from the highest layer.
    pub in_force: Vec<InForce>,
    /// Interfaces of instances, the control network's among them.
    pub interfaces: Vec<InterfaceRow>,
    /// Directed pairs of interfaces that packets have passed, data networks only.
    pub links: Vec<LinkRow>,
    /// Classes that packets have passed, each with a bandwidth and a queue of its own.
    pub classes: Vec<ClassRow>,
    /// Delivered on data networks.
    pub delivered: Count,
    /// Dropped on data networks, by cause.
    pub drops: BTreeMap<String, u64>,
    /// How late packets that had to wait were released; none where nobody knows, since the kernel carries them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<LatenessRow>,
    /// Packets that wait now.
    pub waiting: u64,
}

/// Packets, and their bytes with Ethernet headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Count {
    /// Packets, as on the wire.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterfaceRow {
    /// Instance and network.
    pub name: String,
    /// The network.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// What it sent.
    pub sent: Count,
    /// What it was given.
    pub received: Count,
    /// What it sent and was dropped, by cause.
    pub drops: BTreeMap<String, u64>,
}

/// A directed pair of interfaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The sender's interface.
    pub from: String,
    /// The receiver's.
    pub to: String,
    /// Packets sent.
    pub sent: u64,
    /// What arrived.
    pub delivered: Count,
    /// What did not, by cause.
    pub drops: BTreeMap<String, u64>,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that skipped the latency.
    pub reordered: u64,
}

/// A class of packets that share a bandwidth and a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// Whose, and from which layer.
    pub name: String,
    /// The shape in force.
    pub shape: LinkShape,
    /// What passed.
    pub passed: Count,
    /// What was dropped in it, by cause.
    pub drops: BTreeMap<String, u64>,
    /// How long a packet that came now would wait, milliseconds.
    pub backlog_ms: f64,
}

/// Released minus due, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatenessRow {
    /// Packets that had to wait.
    pub packets: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The worst.
    pub max_us: f64,
}

/// Rows of a table for people; the data has all of them.
const ROWS: usize = 40;

// === impl View ===

impl View {
    /// The network from its two sources: what must be in force, and what the switch has seen.
    pub fn new(ports: &str, plan: &Plan, snapshot: &Snapshot) -> View {
        let interfaces = snapshot.ports.iter().map(|p| InterfaceRow {
            name: p.name.clone(),
            network: p.network.clone(),
            addresses: p.addresses.clone(),
            sent: p.sent.into(),
            received: p.received.into(),
            drops: p.drops.clone(),
        });
        let links = snapshot.links.iter().map(|l| LinkRow {
            from: l.from.clone(),
            to: l.to.clone(),
            sent: l.seen,
            delivered: l.delivered.into(),
            drops: l.drops.clone(),
            duplicated: l.duplicated,
            corrupted: l.corrupted,
            reordered: l.reordered,
        });
        let classes = snapshot.classes.iter().map(|c| ClassRow {
            name: c.name.clone(),
            shape: c.shape.clone(),
            passed: c.passed.into(),
            drops: c.drops.clone(),
            backlog_ms: c.backlog_ns as f64 / 1e6,
        });
        View {
            ports: ports.to_owned(),
            uptime: snapshot.uptime_ns as f64 / 1e9,
            in_force: plan.in_force(),
            interfaces: interfaces.collect(),
            links: links.collect(),
            classes: classes.collect(),
            delivered: snapshot.data.delivered.into(),
            drops: snapshot.data.drops.clone(),
            lateness: snapshot.lateness.as_ref().map(|late| LatenessRow {
                packets: late.packets,
                p50_us: late.p50_us,
                p99_us: late.p99_us,
                p999_us: late.p999_us,
                max_us: late.max_us,
            }),
            waiting: snapshot.waiting,
        }
    }

    /// The same as tables, each of at most 40 rows: what is in force, the busiest links, and a summary.
    pub fn table(&self) -> String {
        let mut text = String::from("In force\n");
        let rows = self.in_force.iter().map(|e| {
            let arrow = if e.both_ways { "<->" } else { "->" };
            let links = format!("{} {arrow} {}", e.from, e.to);
            let shape = match &e.trace {
                Some(trace) if e.shape.is_transparent() => trace.clone(),
                Some(trace) => format!("{}, {trace}", describe(&e.shape)),
                None => describe(&e.shape),
            };
            [e.layer.to_string(), e.network.clone(), links, shape]
        });
        grid(
            &mut text,
            ["LAYER", "NETWORK", "LINKS", "SHAPE"],
            &rows.collect::<Vec<_>>(),
            "nothing: packets pass at once",
        );

        text.push_str("\nBusiest links\n");
        let mut links: Vec<&LinkRow> = self.links.iter().collect();
        links.sort_by_key(|l| std::cmp::Reverse(l.sent));
        let rows = links.into_iter().map(|l| {
            let odd = [("duplicated", l.duplicated), ("corrupted", l.corrupted), ("reordered", l.reordered)];
            let odd = odd.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}"));
            let notes: Vec<String> = odd.chain(causes(&l.drops)).collect();
            let delivered = format!("{} / {}", l.delivered.packets, bytes(l.delivered.bytes));
            [format!("{} -> {}", l.from, l.to), l.sent.to_string(), delivered, notes.join(", ")]
        });
        grid(
            &mut text,
            ["LINK", "SENT", "DELIVERED", "OF THEM, AND DROPPED"],
            &rows.collect::<Vec<_>>(),
            "no packet yet",
        );

        let drops: Vec<String> = causes(&self.drops).collect();
        let drops = if drops.is_empty() { "none".to_owned() } else { drops.join(", ") };
        let late = match self.lateness {
            Some(LatenessRow { packets, p50_us, p99_us, max_us, .. }) => format!(
                "Lateness of {packets} delayed packets: median {p50_us:.1} us, 99 % {p99_us:.1} us, worst {max_us:.1} us."
            ),
            None => "Lateness: unknown on this plane, the kernel keeps no record of it.".to_owned(),
        };
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "\nUp {} over {}: {} packets ({}) delivered, {} waiting. Dropped: {drops}.\n{late}\n",
            seconds(Duration::from_secs_f64(self.uptime.max(0.0))),
            self.ports,
            self.delivered.packets,
            bytes(self.delivered.bytes),
            self.waiting,
        );
        text
    }
}

// === impl Count ===

impl From<Traffic> for Count {
    fn from(traffic: Traffic) -> Count {
        Count { packets: traffic.packets, bytes: traffic.bytes }
    }
}

fn causes(drops: &BTreeMap<String, u64>) -> impl Iterator<Item = String> + '_ {
    drops.iter().map(|(cause, n)| format!("{n} {}", cause.replace('_', " ")))
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// Left-aligned columns; the last one as long as it is.
fn grid<const N: usize>(text: &mut String, head: [&str; N], rows: &[[String; N]], none: &str) {
    if rows.is_empty() {
        *text += &format!("  {none}\n");
        return;
    }
    let more = rows.len().saturating_sub(ROWS);
    let head = head.map(str::to_owned);
    let shown: Vec<&[String; N]> = std::iter::once(&head).chain(rows.iter().take(ROWS)).collect();
    let widths: Vec<usize> =
        (0..N).map(|i| shown.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in shown {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        *text += &format!("  {}\n", line.trim_end());
    }
    if more > 0 {
        *text += &format!("  and {more} more (--json has all)\n");
    }
}

#[cfg(test)]
mod tests {
    use testground_model::topology::{Endpoint, Link};

    use super::*;

    fn view() -> View {
        let shape = LinkShape { latency: Duration::from_millis(50), ..LinkShape::default() };
        let network = "default".to_owned();
        let plan = Plan::new(vec![Link {
            from: Endpoint::Group("a".to_owned()),
            to: Endpoint::All,
            both_ways: true,
            network,
            shape,
        }]);
        let link = |n: u64| LinkRow {
            from: format!("a[{n}]/default"),
            to: "b[0]/default".to_owned(),
            sent: n,
            delivered: Count { packets: n / 2, bytes: n * 50 },
            drops: BTreeMap::from([("filter_drop".to_owned(), n / 2)]),
            duplicated: 0,
            corrupted: 1,
            reordered: 0,
        };
        View {
            ports: "tap".to_owned(),
            uptime: 12.5,
            in_force: plan.in_force(),
            interfaces: vec![],
            links: (0..50).map(|n| link(n * 100)).collect(),
            classes: vec![],
            delivered: Count { packets: 7, bytes: 20_000 },
            drops: BTreeMap::from([("loss".to_owned(), 3)]),
            lateness: Some(LatenessRow {
                packets: 5,
                p50_us: 0.25,
                p99_us: 30.0,
                p999_us: 40.0,
                max_us: 41.0,
            }),
            waiting: 2,
        }
    }

    #[test]
    fn the_table_says_what_is_in_force_and_where_packets_went() {
        let text = view().table();
        assert!(
            text.contains("  LAYER  NETWORK  LINKS      SHAPE\n  link   default  a <-> all  latency 50ms\n"),
            "{text}"
        );
        let first = text.lines().skip_while(|l| !l.contains("DELIVERED")).nth(1).unwrap();
        assert_eq!(
            first,
            "  a[4900]/default -> b[0]/default  4900  2450 / 245 kB  1 corrupted, 2450 filter drop"
        );
        assert!(text.contains("and 10 more"));
        assert!(
            text.contains("Up 12.5s over tap: 7 packets (20 kB) delivered, 2 waiting. Dropped: 3 loss."),
            "{text}"
        );
        assert!(text.contains("median 0.2 us") || text.contains("median 0.3 us"), "{text}");
    }

    #[test]
    fn lateness_that_nobody_knows_is_no_number() {
        let view = View { lateness: None, ..view() };
        let text = view.table();
        assert!(text.contains("\nLateness: unknown on this plane"), "{text}");
        let json = serde_json::to_value(&view).unwrap();
        assert!(json.get("lateness").is_none(), "{json}");
        assert_eq!(serde_json::from_value::<View>(json).unwrap(), view);
    }

    #[test]
    fn it_can_be_sent_as_json() {
        let view = view();
        let json = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<View>(&json).unwrap(), view);
    }
}

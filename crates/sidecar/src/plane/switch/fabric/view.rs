//! The fabric's counters as a [`Snapshot`].

use std::collections::BTreeMap;

use super::super::config::NetworkKind;
use super::super::counters::{Drops, Traffic};
use super::super::snapshot::{
    ClassView, LatenessView, LinkView, MOST, MemoryView, PortView, Snapshot, Totals,
};
use super::Fabric;
use super::state::{Class, Pair};
use crate::plan::{ClassId, PortId};

// === impl Fabric ===

impl Fabric {
    /// All counters at this moment.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let t = &self.tallies;
        let kinds = [
            ("vlan", t.vlan),
            ("fragment", t.fragment),
            ("ip_options", t.options),
            ("not_ip", t.not_ip),
            ("group", t.group),
        ];
        let mut classes: Vec<_> = self.classes.values().collect();
        let classes_left_out = keep_busiest(&mut classes, |class| class.borrow().passed.packets);
        let mut classes: Vec<_> = classes.into_iter().map(|c| self.class_view(&c.borrow(), now)).collect();
        classes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut links: Vec<_> = self.pairs.values().collect();
        let links_left_out = keep_busiest(&mut links, |pair| pair.borrow().flow.seen());
        let mut links: Vec<_> = links.into_iter().map(|p| self.link_view(&p.borrow())).collect();
        links.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        let totals = |(delivered, drops): &(Traffic, Drops)| Totals::new(*delivered, drops);
        Snapshot {
            uptime_ns: now,
            ports: self.port_views(),
            classes,
            classes_left_out,
            links,
            links_left_out,
            data: totals(&t.data),
            control: totals(&t.control),
            answered: t.answered,
            absorbed: t.absorbed,
            kinds: kinds.into_iter().filter(|(_, n)| *n > 0).collect::<BTreeMap<_, _>>(),
            lateness: Some(LatenessView::new(&self.lateness)),
            waiting: self.departures.len() as u64,
            memory: MemoryView { used: self.pool.used(), most: self.pool.most(), limit: self.pool.limit() },
            capture_dropped: 0,
            record_dropped: 0,
            file_error: None,
        }
    }

    fn port_views(&self) -> Vec<PortView> {
        let view = |node: &super::state::Node| PortView {
            port: node.id.0,
            name: node.name.clone(),
            network: match node.network {
                NetworkKind::Data(index) => self.networks[index as usize].clone(),
                NetworkKind::Control => "control".to_owned(),
            },
            addresses: node.addresses.clone(),
            sent: node.sent,
            received: node.received,
            drops: node.drops.by_name(),
        };
        self.nodes.iter().flatten().map(view).collect()
    }

    fn class_view(&self, class: &Class, now: u64) -> ClassView {
        let port = |port: PortId| match self.slots.get(&port).and_then(|slot| self.name(*slot)) {
            Some((name, _)) => name.to_owned(),
            None => "elsewhere".to_owned(),
        };
        ClassView {
            name: match class.id {
                ClassId::Unshaped => "unshaped".to_owned(),
                ClassId::Default(from) => format!("{} default", port(from)),
                ClassId::Rule(from, index) => format!("{} rule {index}", port(from)),
                ClassId::Link { from, to, link } => format!("{} -> {} link {link}", port(from), port(to)),
                ClassId::Overlay { from, to, change } => {
                    format!("{} -> {} change {change}", port(from), port(to))
                }
            },
            shape: (*class.shape).clone(),
            passed: class.passed,
            drops: class.drops.by_name(),
            backlog_ns: class.backlog(now),
        }
    }

    fn link_view(&self, pair: &Pair) -> LinkView {
        let name = |slot| self.name(slot).map_or_else(String::new, |(name, _)| name.to_owned());
        LinkView {
            from: name(pair.from),
            to: name(pair.to),
            seen: pair.flow.seen(),
            delivered: pair.delivered,
            drops: pair.drops.by_name(),
            duplicated: pair.duplicated,
            corrupted: pair.corrupted,
            reordered: pair.reordered,
        }
    }
}

/// Cuts a list down to what a snapshot shows, and says how many were cut off.
fn keep_busiest<T>(list: &mut Vec<T>, busy: impl Fn(&T) -> u64) -> u64 {
    let left_out = list.len().saturating_sub(MOST);
    if left_out > 0 {
        list.select_nth_unstable_by_key(MOST, |item| std::cmp::Reverse(busy(item)));
        list.truncate(MOST);
    }
    left_out as u64
}

//! What everybody waits for, told from the state of the sync service in the words of the run.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use testground_model::event::{BarrierWait, InstanceWait};
use testground_model::name::InstanceName;
use testground_sync::engine::Snapshot;

use super::ledger::Ledger;

/// Who has which address on the control network.
pub(super) type Addresses = HashMap<IpAddr, InstanceName>;

/// Instances that wait at a barrier.
pub(super) fn waiting(snapshot: &Snapshot, addresses: &Addresses) -> HashSet<InstanceName> {
    let everybody = snapshot.barriers.iter().flat_map(|b| &b.waiting);
    everybody.filter_map(|w| addresses.get(&w.who.address?.ip()).cloned()).collect()
}

/// Every barrier at which somebody waits; one for each target.
pub(super) fn barriers(snapshot: &Snapshot, addresses: &Addresses, ledger: &Ledger) -> Vec<BarrierWait> {
    let name = |ip: Option<IpAddr>| match ip.and_then(|ip| addresses.get(&ip)) {
        Some(instance) => instance.to_string(),
        None => ip.map_or_else(|| "the lab".to_owned(), |ip| ip.to_string()),
    };
    let mut told = Vec::new();
    for barrier in &snapshot.barriers {
        let mut targets: Vec<u64> = barrier.waiting.iter().map(|w| w.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let signalled: HashSet<String> =
            barrier.signalled.iter().map(|(who, _)| name(who.address.map(|a| a.ip()))).collect();
        for target in targets {
            let mut waiting: Vec<String> = barrier
                .waiting
                .iter()
                .filter(|w| w.target == target)
                .map(|w| name(w.who.address.map(|a| a.ip())))
                .collect();
            waiting.sort();
            waiting.dedup();
            // Who signalled is known only where instances signal for themselves.
            let missing = if signalled.is_empty() {
                Vec::new()
            } else {
                ledger.living().map(|(_, n)| n.to_string()).filter(|n| !signalled.contains(n)).collect()
            };
            let state = short(&barrier.state).to_owned();
            told.push(BarrierWait { state, count: barrier.count, target, waiting, missing });
        }
    }
    told
}

/// What each living instance waits for.
pub(super) fn by_instance(snapshot: &Snapshot, addresses: &Addresses, ledger: &Ledger) -> Vec<InstanceWait> {
    let barriers = barriers(snapshot, addresses, ledger);
    let wait = |(number, instance): (u32, &InstanceName)| {
        let name = instance.to_string();
        let mine = barriers.iter().filter(|b| b.waiting.contains(&name));
        InstanceWait {
            instance: instance.clone(),
            // The list of all who wait there would be told once for each of them.
            barriers: mine.map(|b| BarrierWait { waiting: vec![name.clone()], ..b.clone() }).collect(),
            last_word: ledger.last_word(number),
        }
    };
    ledger.living().map(wait).collect()
}

/// A state's or topic's name without the prefix that tells runs apart.
pub(super) fn short(key: &str) -> &str {
    key.split_once(":states:").or_else(|| key.split_once(":topics:")).map_or(key, |(_, name)| name)
}

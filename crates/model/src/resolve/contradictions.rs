//! Entries of a timeline that can't be meant together: two at once on the same links, changes of links that are
//! partitioned, and heals of nothing.
//!
//! What is compared are pairs of instances, so that an address is whoever begins with it. Addresses that nobody begins
//! with are compared as subnets.

use std::time::Duration;

use super::Resolver;
use super::scope::{Pair, Scope};
use super::timeline::Entry;
use crate::composition::Deed;
use crate::units::show_duration as show;

/// What holds for links because of earlier entries.
enum State<'e> {
    /// Nothing; the entry by whose end that is so, if any ever changed them.
    Untouched(Option<&'e Entry<'e>>),
    /// Something that a heal takes back.
    Changed,
}

impl Resolver<'_> {
    /// Refuses an entry that can't be meant together with one before it.
    pub(super) fn check_contradictions(&self, scope: &Scope, earlier: &[Entry<'_>], entry: &Entry<'_>) {
        let at = &entry.spec.at;
        let mut at_once = false;
        for other in earlier {
            let (start, end) = (other.spec.at.value, other.end());
            if start != at.value && end <= at.value {
                continue;
            }
            let Some(which) = which(scope, other, entry) else { continue };
            at_once = true;
            let (word, line) = (other.word(), other.line());
            self.error(at.place.error(if start == at.value {
                format!(
                    "at {} the same links{which} are changed by the {word} of line {line} too: only one of them can be in force",
                    show(start)
                )
            } else {
                format!(
                    "at {} the {word} of line {line} (from {} to {}) still changes the same links{which}",
                    show(at.value),
                    show(start),
                    show(end)
                )
            }));
        }
        if at_once {
            return;
        }
        match entry.spec.deed {
            Deed::Heal => self.check_heal(scope, earlier, entry),
            Deed::Partition => {}
            _ => {
                if let Some((cut, which)) = cut(scope, earlier, entry) {
                    self.error(at.place.error(format!(
                        "these links{which} are partitioned since {} (line {}): heal them first",
                        show(cut.spec.at.value),
                        cut.line()
                    )));
                }
            }
        }
    }

    fn check_heal(&self, scope: &Scope, earlier: &[Entry<'_>], entry: &Entry<'_>) {
        let mut ended: Option<&Entry<'_>> = None;
        let by_pair = entry.pairs.iter().map(|pair| state(earlier, entry, |other| other.covers(*pair)));
        let by_address = entry.by_address.then(|| state(earlier, entry, |o| same_addresses(scope, o, entry)));
        // One is enough, and there may be many.
        for state in by_pair.chain(by_address) {
            match state {
                State::Changed => return,
                State::Untouched(by) => ended = ended.or(by),
            }
        }
        let why = match ended {
            None => "no earlier entry changes these links".to_owned(),
            Some(heal) if matches!(heal.spec.deed, Deed::Heal) => {
                format!("these links are healed since {} (line {})", show(heal.spec.at.value), heal.line())
            }
            Some(other) => {
                let over = other.over().unwrap_or(Duration::ZERO);
                format!("the {} of line {} is over at {}", other.word(), other.line(), show(over))
            }
        };
        self.error(entry.spec.at.place.error(format!("there is nothing to heal: {why}")));
    }
}

/// What holds when an entry begins for links that some earlier ones cover.
fn state<'e>(earlier: &'e [Entry<'e>], entry: &Entry<'_>, covers: impl Fn(&Entry<'_>) -> bool) -> State<'e> {
    let mut ended = None;
    for other in earlier.iter().rev().filter(|other| other.network == entry.network && covers(other)) {
        match (&other.spec.deed, other.over()) {
            (Deed::Heal, _) => return State::Untouched(ended.or(Some(other))),
            (_, Some(over)) if over <= entry.spec.at.value => ended = ended.or(Some(other)),
            _ => return State::Changed,
        }
    }
    State::Untouched(ended)
}

/// The partition that an entry finds on one of its links, and which link that is.
fn cut<'e>(scope: &Scope, earlier: &'e [Entry<'e>], entry: &Entry<'_>) -> Option<(&'e Entry<'e>, String)> {
    let cuts: Vec<&Entry<'_>> = earlier
        .iter()
        .rev()
        .filter(|other| other.network == entry.network)
        .filter(|other| matches!(other.spec.deed, Deed::Partition | Deed::Heal))
        .collect();
    if !cuts.iter().any(|other| matches!(other.spec.deed, Deed::Partition)) {
        return None;
    }
    let is_cut = |other: &&Entry<'_>| matches!(other.spec.deed, Deed::Partition);
    for &pair in &entry.pairs {
        let last = cuts.iter().copied().find(|other| other.covers(pair)).filter(is_cut);
        if let Some(cut) = last {
            return Some((cut, by_name(scope, cut, entry, pair)));
        }
    }
    let last = cuts.into_iter().find(|other| same_addresses(scope, other, entry)).filter(is_cut)?;
    Some((last, String::new()))
}

/// Whether two entries change a link, and which one, where that isn't seen from their selectors: empty otherwise.
fn which(scope: &Scope, one: &Entry<'_>, other: &Entry<'_>) -> Option<String> {
    match one.common(other) {
        Some(pair) => Some(by_name(scope, one, other, pair)),
        None => same_addresses(scope, one, other).then(String::new),
    }
}

fn by_name(scope: &Scope, one: &Entry<'_>, other: &Entry<'_>, pair: Pair) -> String {
    if one.by_address || other.by_address { format!(" ({})", scope.show(pair)) } else { String::new() }
}

/// Whether two entries by address name the same ones, whoever may have them by then.
fn same_addresses(scope: &Scope, one: &Entry<'_>, other: &Entry<'_>) -> bool {
    one.by_address
        && other.by_address
        && one.network == other.network
        && (one.pairs.is_empty() || other.pairs.is_empty())
        && one.is_covered(scope, &other.from, &other.to, other.spec.both) != Some(false)
}

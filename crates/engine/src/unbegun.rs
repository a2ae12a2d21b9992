//! Declared changes of the network that a run ended before: the plan was not tried under them, whatever its outcome.
//!
//! A plain reducer of events. What a change does is worked out by the sidecar.

use std::time::Duration;

use testground_model::event::EventKind;
use testground_model::run::Run;
use testground_sidecar::timeline::Timeline;

/// Changes that are named one by one.
const MOST_NAMED: usize = 5;

/// The declared changes of a run that have not begun.
#[derive(Debug)]
pub(crate) struct Unbegun {
    /// When each is to begin, and what it does then, by time.
    changes: Vec<(Duration, String)>,
    /// Whether the run's clock has started.
    released: bool,
    /// Seconds on the run's clock up to which all changes have begun.
    reached: Option<f64>,
}

// === impl Unbegun ===

impl Unbegun {
    /// All changes of a run.
    pub(crate) fn new(run: &Run) -> Unbegun {
        let changes = Timeline::new(&run.timeline, &run.links).beginnings();
        Unbegun { changes, released: false, reached: None }
    }

    /// Takes an event into account.
    pub(crate) fn on_event(&mut self, event: &EventKind) {
        match event {
            EventKind::InstancesReleased => self.released = true,
            EventKind::NetworkChanged { at, .. } => {
                self.reached = Some(self.reached.map_or(*at, |reached| reached.max(*at)));
            }
            _ => {}
        }
    }

    /// A sentence at the run's end; `None` where every change began, and where no instance ever ran.
    pub(crate) fn in_words(&self) -> Option<String> {
        let missed: Vec<&(Duration, String)> = self
            .changes
            .iter()
            .filter(|(at, _)| self.reached.is_none_or(|reached| at.as_secs_f64() > reached))
            .collect();
        if missed.is_empty() || !self.released {
            return None;
        }
        let named = |(at, change): &&(Duration, String)| {
            format!("{change} (at {})", testground_model::units::show_duration(*at))
        };
        let mut list: Vec<String> = missed.iter().take(MOST_NAMED).map(named).collect();
        if missed.len() > MOST_NAMED {
            list.push(format!("and {} more", missed.len() - MOST_NAMED));
        }
        let all = self.changes.len();
        let which = match (missed.len(), all) {
            (1, 1) => "its only change".to_owned(),
            (n, all) if n == all => format!("all of its {all} changes"),
            (n, all) => format!("{n} of its {all} changes"),
        };
        Some(format!("the run ended before {which} of the network: {}", list.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unbegun(times: &[u64]) -> Unbegun {
        let changes = times.iter().map(|&s| (Duration::from_secs(s), format!("change {s}"))).collect();
        Unbegun { changes, released: false, reached: None }
    }

    #[test]
    fn what_never_began_is_named() {
        let mut changes = unbegun(&[1, 2, 1200]);
        assert_eq!(changes.in_words(), None, "nobody ran");
        changes.on_event(&EventKind::InstancesReleased);
        let all = "the run ended before all of its 3 changes of the network: change 1 (at 1s); change 2 (at 2s); change 1200 (at 20m)";
        assert_eq!(changes.in_words().as_deref(), Some(all));
        for at in [2.0, 1.0] {
            changes.on_event(&EventKind::NetworkChanged { change: "c".into(), at });
        }
        let one = "the run ended before 1 of its 3 changes of the network: change 1200 (at 20m)";
        assert_eq!(changes.in_words().as_deref(), Some(one));
        changes.on_event(&EventKind::NetworkChanged { change: "c".into(), at: 1200.0 });
        assert_eq!(changes.in_words(), None);
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut changes = unbegun(&[1, 2, 3, 4, 5, 6, 7]);
        changes.on_event(&EventKind::InstancesReleased);
        let said = changes.in_words().unwrap();
        assert!(said.ends_with("change 5 (at 5s); and 2 more"), "{said}");
    }
}

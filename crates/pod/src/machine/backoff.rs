//! The back-off of restarts (R25-R27) and of pulls (R28).

use std::time::Duration;

use crate::version::{Features, Gate};

use super::types::{Text, Time};

/// A run longer than this from the last restart to the end starts the curve again (R26; the KEP's 300 s is not what a
/// kubelet does).
const RESET: Duration = Duration::from_secs(600);

/// First delay and cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Curve {
    pub(super) first: Duration,
    pub(super) cap: Duration,
}

/// The delays of one container, one curve for each of its images: another image is another hash.
#[derive(Clone, Debug, Default)]
pub(super) struct BackOff(Vec<(Text, Entry)>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Time,
}

// === impl Curve ===

impl Curve {
    pub(super) const PULL: Self = Self { first: Duration::from_secs(10), cap: Duration::from_secs(300) };

    /// The curve of restarts. `node` is the node's own cap, 1 to 300 s; it beats the gate.
    pub(super) fn of(features: &Features, node: Option<Duration>) -> Self {
        match node {
            Some(cap) if features.on(Gate::KubeletCrashLoopBackOffMax) => {
                let cap = cap.clamp(Duration::from_secs(1), Duration::from_secs(300));
                Self { first: cap.min(Duration::from_secs(10)), cap }
            }
            _ if features.on(Gate::ReduceDefaultCrashLoopBackOffDecay) => {
                Self { first: Duration::from_secs(1), cap: Duration::from_secs(60) }
            }
            _ => Self { first: Duration::from_secs(10), cap: Duration::from_secs(300) },
        }
    }
}

// === impl BackOff ===

impl BackOff {
    /// The delay still in force at `now` after an end at `ended`, and when it is over.
    pub(super) fn pending(&self, image: &str, ended: Time, now: Time) -> Option<(Duration, Time)> {
        let entry = self.entry(image).filter(|entry| !entry.expired(ended))?;
        let until = ended + entry.delay;
        (now < until).then_some((entry.delay, until))
    }

    /// The delay in force since the last restart or pull itself, rather than since an end.
    pub(super) fn pending_since_update(&self, image: &str, now: Time) -> Option<(Duration, Time)> {
        let entry = self.entry(image)?;
        let until = entry.updated + entry.delay;
        (now < until).then_some((entry.delay, until))
    }

    /// Notes a restart at `now` after an end at `ended`: the next one waits longer.
    pub(super) fn next(&mut self, image: &Text, curve: Curve, ended: Time, now: Time) {
        match self.0.iter_mut().find(|(known, _)| known == image) {
            Some((_, entry)) if entry.expired(ended) => *entry = Entry { delay: curve.first, updated: now },
            Some((_, entry)) => {
                *entry = Entry { delay: entry.delay.saturating_mul(2).min(curve.cap), updated: now };
            }
            None => self.0.push((image.clone(), Entry { delay: curve.first, updated: now })),
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn entry(&self, image: &str) -> Option<&Entry> {
        self.0.iter().find(|(known, _)| &**known == image).map(|(_, entry)| entry)
    }
}

// === impl Entry ===

impl Entry {
    fn expired(&self, ended: Time) -> bool {
        ended.checked_sub(self.updated).is_some_and(|run| run > RESET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::KubernetesVersion;

    const fn s(value: u64) -> Time {
        Duration::from_secs(value)
    }

    fn delays(curve: Curve, run: u64, count: usize) -> Vec<u64> {
        let (mut off, mut now, image) = (BackOff::default(), s(0), Text::from("a:1"));
        (0..count)
            .map(|_| {
                let ended = now + s(run);
                let until = off.pending(&image, ended, ended).map_or(ended, |(_, until)| until);
                off.next(&image, curve, ended, until);
                now = until;
                (until - ended).as_secs()
            })
            .collect()
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_rest_double_to_the_cap() {
        let curve = Curve::of(&Features::default(), None);
        assert_eq!(delays(curve, 1, 9), [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn only_a_run_of_more_than_ten_minutes_starts_the_curve_again() {
        let curve = Curve::of(&Features::default(), None);
        assert_eq!(delays(curve, 400, 3), [0, 10, 20]);
        assert_eq!(delays(curve, 600, 3), [0, 10, 20]);
        assert_eq!(delays(curve, 601, 3), [0, 0, 0]);
    }

    #[test]
    fn a_node_cap_beats_the_gate_and_below_ten_seconds_is_the_first_delay() {
        let features =
            Features::of(KubernetesVersion::NEWEST).set(Gate::ReduceDefaultCrashLoopBackOffDecay, true);
        assert_eq!(delays(Curve::of(&features, None), 1, 9), [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(delays(Curve::of(&features, Some(s(4))), 1, 4), [0, 4, 4, 4]);
        assert_eq!(delays(Curve::of(&features, Some(s(30))), 1, 5), [0, 10, 20, 30, 30]);
    }

    #[test]
    fn another_image_has_a_curve_of_its_own() {
        let (mut off, curve) = (BackOff::default(), Curve::of(&Features::default(), None));
        off.next(&"a:1".into(), curve, s(0), s(0));
        assert!(off.pending("a:1", s(1), s(1)).is_some());
        assert!(off.pending("a:2", s(1), s(1)).is_none());
    }
}

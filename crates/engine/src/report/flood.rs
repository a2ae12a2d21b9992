//! What keeps a flood of output from drowning a terminal: a measure of lines for each instance and for all together.
//!
//! The clock is the events' own. What is left out is counted, and said in one line now and then; nothing is lost, for
//! the files have it all.

use std::collections::BTreeMap;

use testground_model::name::InstanceName;

/// Lines of one instance that are shown at once, and how many a second after that.
const INSTANCE: Measure = Measure { burst: 200.0, per_second: 50.0 };
/// The same for all together.
const ALL: Measure = Measure { burst: 1000.0, per_second: 300.0 };
/// An instance that flooded is shown again when it was quiet for this long, nanoseconds.
const QUIET: u64 = 1_000_000_000;
/// What was left out is said this often, nanoseconds.
const NOTE_EVERY: u64 = 5_000_000_000;

/// Decides which lines are shown.
#[derive(Debug)]
pub(super) struct Flood {
    all: Bucket,
    instances: BTreeMap<InstanceName, Stream>,
    /// When the oldest line that nobody was told about was left out.
    since: Option<u64>,
}

/// What was left out since the last note.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// How many lines.
    pub(super) lines: u64,
    /// Of how many instances.
    pub(super) instances: u64,
    /// Who had most of them.
    pub(super) most: InstanceName,
}

#[derive(Debug)]
struct Measure {
    burst: f64,
    per_second: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: u64,
}

#[derive(Debug)]
struct Stream {
    bucket: Bucket,
    flooding: bool,
    left_out: u64,
    last: u64,
}

// === impl Flood ===

impl Flood {
    pub(super) fn new() -> Flood {
        Flood { all: Bucket { tokens: ALL.burst, at: 0 }, instances: BTreeMap::new(), since: None }
    }

    /// Whether a line of this instance is shown.
    pub(super) fn admits(&mut self, instance: &InstanceName, now: u64) -> bool {
        if !self.instances.contains_key(instance) {
            let bucket = Bucket { tokens: INSTANCE.burst, at: now };
            let stream = Stream { bucket, flooding: false, left_out: 0, last: now };
            self.instances.insert(instance.clone(), stream);
        }
        let Some(stream) = self.instances.get_mut(instance) else { return true };
        if stream.flooding && now.saturating_sub(stream.last) >= QUIET {
            stream.flooding = false;
        }
        stream.last = now;
        if !stream.flooding {
            stream.flooding = !(stream.bucket.take(&INSTANCE, now) && self.all.take(&ALL, now));
        }
        if stream.flooding {
            stream.left_out += 1;
            self.since = self.since.or(Some(now));
        }
        !stream.flooding
    }

    /// What is to be said by now: every few seconds of a flood, or at once when it is `over`.
    pub(super) fn note(&mut self, now: u64, over: bool) -> Option<LeftOut> {
        let due = self.since.is_some_and(|since| over || now.saturating_sub(since) >= NOTE_EVERY);
        if !due {
            return None;
        }
        self.since = None;
        let mut note: Option<(LeftOut, u64)> = None;
        for (name, stream) in self.instances.iter_mut().filter(|(_, s)| s.left_out > 0) {
            let own = std::mem::take(&mut stream.left_out);
            let (sum, most) =
                note.get_or_insert_with(|| (LeftOut { lines: 0, instances: 0, most: name.clone() }, own));
            sum.lines += own;
            sum.instances += 1;
            if own > *most {
                (sum.most, *most) = (name.clone(), own);
            }
        }
        note.map(|(sum, _)| sum)
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, measure: &Measure, now: u64) -> bool {
        let gained = now.saturating_sub(self.at) as f64 / 1e9 * measure.per_second;
        self.tokens = (self.tokens + gained).min(measure.burst);
        self.at = self.at.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_flood_is_cut_short_and_counted_and_others_are_still_heard() {
        let (mut flood, loud, calm) =
            (Flood::new(), InstanceName::new("loud", 0), InstanceName::new("calm", 0));
        let lines = 1_000_000_u64;
        let (mut shown, mut noted, mut notes) = (0, 0, 0);
        for i in 0..lines {
            // A million lines in a minute.
            let now = i * 60 * SECOND / lines;
            shown += u64::from(flood.admits(&loud, now));
            if let Some(note) = flood.note(now, false) {
                notes += 1;
                noted += note.lines;
            }
            if i % 100_000 == 0 {
                assert!(flood.admits(&calm, now), "at {now}");
            }
        }
        let last = flood.note(60 * SECOND, true).unwrap();
        assert_eq!(last.most, loud);
        assert_eq!(shown + noted + last.lines, lines, "every line is shown or counted");
        assert!(shown < 300 && notes <= 12, "{shown} lines and {notes} notes");
        assert_eq!(flood.note(60 * SECOND, true), None);
        assert!(flood.admits(&loud, 62 * SECOND), "it is heard again when it was quiet");
    }

    #[test]
    fn many_instances_together_are_a_flood_too_and_make_one_note() {
        let mut flood = Flood::new();
        let names: Vec<_> = (0..1000).map(|i| InstanceName::new("g", i)).collect();
        let shown = names.iter().flat_map(|n| [n; 5]).filter(|n| flood.admits(n, SECOND)).count();
        assert_eq!(shown, ALL.burst as usize);
        let note = flood.note(SECOND, true).unwrap();
        assert_eq!((note.lines, note.instances), (4000, 800));
    }

    #[test]
    fn a_calm_run_is_shown_whole() {
        let mut flood = Flood::new();
        let name = InstanceName::new("g", 0);
        assert!((0..10_000).all(|i| flood.admits(&name, i * SECOND / 40)));
        assert_eq!(flood.note(u64::MAX, true), None);
    }
}

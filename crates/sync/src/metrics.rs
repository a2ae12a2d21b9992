//! What a service counts, and how it is written down (OpenMetrics 1.0).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of a service.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) published_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) delivery: Histogram,
    operations: [AtomicU64; 5],
}

/// What is asked for, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OperationKind {
    Signal,
    Publish,
    Barrier,
    Subscribe,
    Cancel,
}

/// Durations in buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Upper ends of the buckets, microseconds.
const BOUNDS_US: [u64; 10] = [50, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 1_000_000, 10_000_000];

// === impl Metrics ===

impl Metrics {
    pub(crate) fn count(&self, kind: OperationKind) {
        self.operations[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything, with these gauges.
    pub(crate) fn render(&self, gauges: &[(&str, u64)]) -> String {
        let mut out = String::new();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (opened, closed) = (load(&self.opened), load(&self.closed));
        let mut gauge = |name: &str, value: u64| {
            let _ = write!(out, "# TYPE testground_sync_{name} gauge\ntestground_sync_{name} {value}\n");
        };
        gauge("connections", opened.saturating_sub(closed));
        for (name, value) in gauges {
            gauge(name, *value);
        }
        out.push_str("# TYPE testground_sync_operations counter\n");
        let kinds = ["signal", "publish", "barrier", "subscribe", "cancel"];
        for (kind, count) in kinds.iter().zip(&self.operations) {
            let _ = writeln!(out, "testground_sync_operations_total{{kind=\"{kind}\"}} {}", load(count));
        }
        for (name, counter) in [
            ("connections_opened", &self.opened),
            ("connections_cut_off", &self.cut_off),
            ("requests_refused", &self.refused),
            ("published_bytes", &self.published_bytes),
            ("received_bytes", &self.received_bytes),
            ("sent_bytes", &self.sent_bytes),
        ] {
            let _ = write!(
                out,
                "# TYPE testground_sync_{name} counter\ntestground_sync_{name}_total {}\n",
                load(counter)
            );
        }
        self.delivery.render(&mut out, "testground_sync_delivery_seconds");
        out.push_str("# EOF\n");
        out
    }
}

// === impl Histogram ===

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn render(&self, out: &mut String, name: &str) {
        let _ = write!(out, "# TYPE {name} histogram\n# UNIT {name} seconds\n");
        let mut total = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_US) {
            total += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {total}", bound as f64 / 1e6);
        }
        total += self.buckets[BOUNDS_US.len()].load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}");
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = write!(out, "{name}_sum {sum}\n{name}_count {total}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_the_document_ends() {
        let metrics = Metrics::default();
        metrics.count(OperationKind::Barrier);
        metrics.delivery.record(Duration::from_micros(50));
        metrics.delivery.record(Duration::from_micros(51));
        metrics.delivery.record(Duration::from_secs(60));
        let text = metrics.render(&[("topics", 3)]);
        assert!(text.contains("testground_sync_topics 3\n"), "{text}");
        assert!(text.contains("testground_sync_operations_total{kind=\"barrier\"} 1\n"), "{text}");
        assert!(text.contains("delivery_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(text.contains("delivery_seconds_bucket{le=\"0.0001\"} 2\n"), "{text}");
        assert!(text.contains("delivery_seconds_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.contains("delivery_seconds_count 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}

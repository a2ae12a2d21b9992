//! Shapes and the state of a run's network for a reader: words, a table, and the same as data.

use std::time::Duration;

use testground_model::shape::{Chance, Discipline, Distribution, Filter, LinkShape, Loss, QueueLimit};

pub use view::{ClassRow, Count, InterfaceRow, LatenessRow, LinkRow, View};

mod view;

/// A shape in words, such as `latency 50ms ±5ms, loss 1%`; `no effect` where there is none.
pub fn describe(shape: &LinkShape) -> String {
    match shape.filter {
        Filter::Accept => {}
        Filter::Reject => return "reject".to_owned(),
        Filter::Drop => return "drop".to_owned(),
    }
    let mut parts = Vec::new();
    let jitter = shape.jitter;
    if !shape.latency.is_zero() || !jitter.spread.is_zero() {
        let mut text = format!("latency {}", seconds(shape.latency));
        if !jitter.spread.is_zero() {
            text += &format!(" ±{}", seconds(jitter.spread));
            text += match jitter.distribution {
                Distribution::Uniform => "",
                Distribution::Normal => " normal",
                Distribution::Pareto => " pareto",
            };
            text += &correlated(jitter.correlation);
            if jitter.may_reorder {
                text += " reordering";
            }
        }
        parts.push(text);
    }
    if let Some(bandwidth) = shape.bandwidth {
        let mut text = format!("bandwidth {}", rate(bandwidth as f64));
        match shape.queue.limit {
            QueueLimit::Auto => {}
            QueueLimit::Packets(n) => text += &format!(" queue {n} packets"),
            QueueLimit::Bytes(n) => text += &format!(" queue {n} bytes"),
            QueueLimit::Time(t) => text += &format!(" queue {}", seconds(t)),
        }
        if shape.queue.discipline == Discipline::Codel {
            text += " codel";
        }
        parts.push(text);
    }
    match shape.loss {
        Loss::Random(chance) => parts.extend(chances("loss", chance)),
        Loss::GilbertElliott { p, r, bad, good } => {
            parts.push(format!("loss gilbert-elliott p {p}% r {r}% bad {bad}% good {good}%"));
        }
    }
    parts.extend(chances("corrupt", shape.corrupt));
    parts.extend(chances("reorder", shape.reorder).map(|text| match shape.reorder_gap {
        0 | 1 => text,
        gap => format!("{text} gap {gap}"),
    }));
    parts.extend(chances("duplicate", shape.duplicate));
    if parts.is_empty() { "no effect".to_owned() } else { parts.join(", ") }
}

/// A time in the largest unit that leaves it readable: `1.5s`, `20ms`, `250us`, `80ns`.
pub fn seconds(time: Duration) -> String {
    let nanos = time.as_nanos();
    let (unit, name) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    format!("{}{name}", rounded(nanos as f64 / unit as f64))
}

/// Bits per second in the largest unit that leaves it readable: `10 Mbit/s`.
pub fn rate(bits: f64) -> String {
    // What is rounded to a thousand of a unit is one of the next.
    let (unit, name) = match bits + 0.0005 {
        b if b >= 1e9 - 500.0 => (1e9, "Gbit/s"),
        b if b >= 1e6 - 0.5 => (1e6, "Mbit/s"),
        b if b >= 1e3 => (1e3, "kbit/s"),
        _ => (1.0, "bit/s"),
    };
    format!("{} {name}", rounded(bits / unit))
}

fn chances(name: &str, chance: Chance) -> Option<String> {
    (!chance.is_never())
        .then(|| format!("{name} {}%{}", rounded(chance.percent), correlated(chance.correlation)))
}

fn correlated(percent: f64) -> String {
    if percent > 0.0 { format!(" correlated {}%", rounded(percent)) } else { String::new() }
}

/// At most three decimals, and none that say nothing.
fn rounded(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use testground_model::shape::{Jitter, Queue};

    use super::*;

    #[test]
    fn shapes_read_like_a_sentence() {
        assert_eq!(describe(&LinkShape::default()), "no effect");
        let mut shape = LinkShape {
            latency: Duration::from_millis(50),
            jitter: Jitter { spread: Duration::from_micros(1500), ..Jitter::default() },
            bandwidth: Some(10_000_000),
            loss: Loss::Random(Chance { percent: 1.5, correlation: 25.0 }),
            reorder: Chance::percent(5.0),
            reorder_gap: 4,
            ..LinkShape::default()
        };
        assert_eq!(
            describe(&shape),
            "latency 50ms ±1.5ms, bandwidth 10 Mbit/s, loss 1.5% correlated 25%, reorder 5% gap 4"
        );
        shape.queue =
            Queue { limit: QueueLimit::Time(Duration::from_millis(20)), discipline: Discipline::Codel };
        assert!(describe(&shape).contains("bandwidth 10 Mbit/s queue 20ms codel"));
        shape.filter = Filter::Reject;
        assert_eq!(describe(&shape), "reject");
    }

    #[test]
    fn numbers_come_in_units_that_people_read() {
        let times =
            [(80, "80ns"), (250_000, "250us"), (20_000_000, "20ms"), (1_500_000_000, "1.5s"), (0, "0s")];
        for (nanos, text) in times {
            assert_eq!(seconds(Duration::from_nanos(nanos)), text);
        }
        for (bits, text) in
            [(999.0, "999 bit/s"), (1e4, "10 kbit/s"), (1.5e6, "1.5 Mbit/s"), (1e9, "1 Gbit/s")]
        {
            assert_eq!(rate(bits), text);
        }
    }
}

//! What the page's script reads: instances, happenings and plots, as one compact JSON value.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testground_model::measure::{Kind as MeasureKind, Row};
use testground_model::name::InstanceName;
use testground_model::outcome::InstanceEnd;

use super::super::measured::is_main;
use super::super::record::End;
use super::{Kind, Page};

/// Buckets in all plots together.
const MOST_BUCKETS: usize = 60_000;
/// Plots.
const MOST_PLOTS: usize = 120;

/// The data of a page, safe inside of a script element.
pub(super) fn data(page: &Page) -> String {
    let value = json!({
        "span": page.record.elapsed(page.last_ts),
        "instances": instances(page),
        "happenings": happenings(page),
        "plots": plots(page),
    });
    // `</script>` or `<!--` in a text would end the element or begin another.
    let text = value.to_string().replace('<', "\\u003c");
    text.chars().map(|c| if super::turns(c) { '\u{fffd}' } else { c }).collect()
}

/// `[group, index, status, words, started, ended, last word, last lines]`, in the order of the groups.
fn instances(page: &Page) -> Vec<Value> {
    let mut ends: BTreeMap<&InstanceName, &End> = BTreeMap::new();
    for end in &page.record.ends {
        ends.insert(&end.instance, end);
    }
    let mut names: Vec<&InstanceName> = page.instances.keys().collect();
    if let Some(finished) = &page.record.finished {
        let place: BTreeMap<&str, usize> =
            finished.groups.iter().enumerate().map(|(i, (id, _))| (id.as_str(), i)).collect();
        names.sort_by_key(|n| (place.get(n.group.as_str()).copied().unwrap_or(usize::MAX), *n));
    }
    let instance = |name: &InstanceName| {
        let life = &page.instances[name];
        let end = ends.get(name).map(|e| &e.end);
        let status = match end {
            Some(InstanceEnd::Succeeded) => "ok",
            Some(InstanceEnd::Stopped) => "stopped",
            Some(_) => "failed",
            None => "unknown",
        };
        let words =
            end.map_or_else(|| "has no end in the record".to_owned(), |e| super::short(&e.to_string()));
        json!([
            name.group,
            name.index,
            status,
            words,
            life.started.map(ms),
            life.ended.map(ms),
            life.last_word,
            life.lines
        ])
    };
    names.into_iter().map(instance).collect()
}

/// `[seconds, kind, text, instance]`.
fn happenings(page: &Page) -> Vec<Value> {
    let one = |h: &super::Happening| {
        json!([ms(h.at), h.kind.word(), h.text, h.who.as_ref().map(ToString::to_string)])
    };
    page.happenings.iter().map(one).collect()
}

/// One for each measurement, with a series for each group: `[seconds, least, mean, greatest, count]` a bucket.
fn plots(page: &Page) -> Vec<Value> {
    let Some(measured) = &page.record.measured else { return Vec::new() };
    let began = page.record.began as i64;
    let mut plots: Vec<(String, &Row, Vec<Value>)> = Vec::new();
    let mut left = MOST_BUCKETS;
    let mains = measured.rows.iter().filter(|r| is_main(r));
    let others = measured.rows.iter().filter(|r| !is_main(r) && r.series.is_main());
    for row in mains.chain(others) {
        if row.over_time.is_empty() || row.over_time.len() > left {
            continue;
        }
        let label = row.series.label();
        let same = plots.iter().position(|(l, first, _)| *l == label && first.series.kind == row.series.kind);
        if same.is_none() && plots.len() >= MOST_PLOTS {
            continue;
        }
        left -= row.over_time.len();
        let points: Vec<Value> = row
            .over_time
            .iter()
            .map(|b| {
                let at = (b.at.saturating_sub(began)) as f64 / 1e9;
                json!([ms(at), digits(b.min), digits(b.mean), digits(b.max), b.count])
            })
            .collect();
        let series = json!({ "group": row.series.group, "points": points });
        match same {
            Some(i) => plots[i].2.push(series),
            None => plots.push((label, row, vec![series])),
        }
    }
    plots
        .into_iter()
        .map(|(label, row, series)| {
            let diagnostic = row.series.kind == MeasureKind::Diagnostic;
            json!({ "label": label, "diagnostic": diagnostic, "series": series })
        })
        .collect()
}

/// Seconds to the millisecond.
fn ms(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// A number with five digits that count.
fn digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    format!("{value:.4e}").parse().unwrap_or(value)
}

// === impl Kind ===

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::Network => "network",
            Kind::Stage => "stage",
            Kind::Message => "message",
            Kind::End => "end",
            Kind::Failure => "failure",
            Kind::Warning => "warning",
        }
    }
}

//! All measurements of a run, added up line by line.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::line::{Line, field_name};
use super::sdk::{Sheet, TYPES};
use super::series::Series;
use super::{GROUP_TAG, INSTANCE_TAG, RUN_TAG, Source};

/// Most series that are added up one by one; the values of others are only counted.
pub const MAX_SERIES: usize = 4096;
/// Most keys of lines whose series are remembered.
const MAX_KEYS: usize = 1 << 16;
/// Most values of a sparkline.
const SPARK: usize = 24;
/// The measurement in which the Go SDK counts its own events.
const LIFECYCLE: &str = "events";

/// What was measured in a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Points in the record.
    pub points: u64,
    /// Points that were refused when they were sent, or that make no sense in a file.
    pub refused: u64,
    /// The first of them, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_refused: Option<String>,
    /// Numbers that belong to more series than are added up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beyond: u64,
    /// How many series there are.
    pub series: u64,
    /// Series, the plan's results first: all of them in the file of the summary, the first ones in the event.
    pub rows: Vec<Row>,
}

/// One series: a field of a measurement, in one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    #[serde(flatten)]
    pub series: SeriesName,
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The standard deviation.
    pub deviation: f64,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The greatest.
    pub max: f64,
    /// Whether the quantiles are exact; else they are within [`super::QUANTILE_ERROR`].
    pub exact: bool,
    /// Means over time, from the first value to the last; none where nothing was measured.
    pub spark: Vec<Option<f64>>,
    /// Values over time; only in the file of the summary, not in the event.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over_time: Vec<Bucket>,
}

/// What identifies a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeriesName {
    /// Where it comes from.
    pub kind: Kind,
    /// The measurement, without what SDKs put around its name.
    pub name: String,
    /// Tags of its own, `k=v k=v`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tags: String,
    /// The type that an SDK gave it, such as `point`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub metric: String,
    /// The field.
    pub field: String,
    /// The group; `-` where nobody knows.
    pub group: String,
}

/// Where a measurement comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The plan measured it, with an SDK.
    Result,
    /// The plan sent it, in words of its own.
    Own,
    /// A runtime says it of itself.
    Diagnostic,
}

/// Values of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// When it begins, nanoseconds since 1970.
    pub at: i64,
    /// How many.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The greatest.
    pub max: f64,
}

/// Adds up the lines of a record.
pub struct Summarizer {
    results: String,
    diagnostics: String,
    points: u64,
    beyond: u64,
    numbers: HashMap<SeriesName, usize>,
    series: Vec<Series>,
    /// Series by a line's key as it was written: nearly every line has a key that was seen before.
    known: HashMap<Box<str>, Fields>,
}

/// The series of the fields of one key; none where there are too many.
type Fields = Vec<(Box<str>, Option<usize>)>;

// === impl Summarizer ===

impl Summarizer {
    /// For the record of this run.
    pub fn new(source: &Source) -> Summarizer {
        Summarizer {
            results: Sheet::Results.prefix(source),
            diagnostics: Sheet::Diagnostics.prefix(source),
            points: 0,
            beyond: 0,
            numbers: HashMap::new(),
            series: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// Adds a line; one without a time counts as measured at `now`.
    pub fn add(&mut self, line: &Line<'_>, now: i64) {
        self.points += 1;
        let time = line.time.unwrap_or(now);
        if !self.known.contains_key(line.key) {
            if self.known.len() >= MAX_KEYS {
                self.known.clear();
            }
            self.known.insert(line.key.into(), Fields::new());
        }
        if is_lifecycle(line.key) {
            return;
        }
        for (place, (field, value)) in line.fields().enumerate() {
            let Some(number) = value.number() else { continue };
            let fields = self.known.get(line.key);
            // Fields mostly come in the same order, so that the first look is a hit.
            let remembered = fields.and_then(|fields| {
                let first = fields.get(place).filter(|(name, _)| **name == *field);
                first.or_else(|| fields.iter().find(|(name, _)| **name == *field)).map(|(_, number)| *number)
            });
            let series = remembered.unwrap_or_else(|| self.learn(line, field));
            match series {
                Some(n) => self.series[n].add(time, number),
                None => self.beyond += 1,
            }
        }
    }

    /// The series of a field that this key hadn't before.
    fn learn(&mut self, line: &Line<'_>, field: &str) -> Option<usize> {
        let name = self.name(line, field);
        let number = match self.numbers.get(&name) {
            Some(n) => Some(*n),
            None if self.series.len() >= MAX_SERIES => None,
            None => {
                self.series.push(Series::new());
                self.numbers.insert(name, self.series.len() - 1);
                Some(self.series.len() - 1)
            }
        };
        if let Some(fields) = self.known.get_mut(line.key) {
            fields.push((field.into(), number));
        }
        number
    }

    /// The series that a field of a line belongs to.
    pub fn name(&self, line: &Line<'_>, field: &str) -> SeriesName {
        let measurement = line.measurement();
        let (kind, rest) = if let Some(rest) = measurement.strip_prefix(self.results.as_str()) {
            (Kind::Result, rest)
        } else if let Some(rest) = measurement.strip_prefix(self.diagnostics.as_str()) {
            (Kind::Diagnostic, rest)
        } else {
            (Kind::Own, &*measurement)
        };
        let typed = rest.rsplit_once('.').filter(|(_, t)| kind != Kind::Own && TYPES.contains(t));
        let (name, metric) = typed.unwrap_or((rest, ""));
        let mut group = None;
        let mut tags = Vec::new();
        for (key, value) in line.tags() {
            match &*key {
                GROUP_TAG => group = Some(value.into_owned()),
                INSTANCE_TAG | RUN_TAG => {}
                _ => tags.push(format!("{key}={value}")),
            }
        }
        tags.sort_unstable();
        SeriesName {
            kind,
            name: name.to_owned(),
            tags: tags.join(" "),
            metric: metric.to_owned(),
            field: field_name(field).into_owned(),
            group: group.unwrap_or_else(|| "-".to_owned()),
        }
    }

    /// The sums: series that say most first, then by name.
    pub fn finish(self) -> Measured {
        let mut rows: Vec<Row> =
            self.numbers.into_iter().map(|(name, n)| row(name, &self.series[n])).collect();
        rows.sort_by(|a, b| {
            let rank = |r: &Row| (r.series.kind, !r.series.is_main());
            rank(a).cmp(&rank(b)).then_with(|| a.series.cmp(&b.series))
        });
        Measured {
            points: self.points,
            beyond: self.beyond,
            series: rows.len() as u64,
            rows,
            ..Measured::default()
        }
    }
}

fn row(name: SeriesName, series: &Series) -> Row {
    let over_time: Vec<Bucket> = series
        .over_time
        .buckets()
        .map(|(at, c)| Bucket { at, count: c.count, min: c.min, mean: c.mean(), max: c.max })
        .collect();
    let [p50, p99] = series.quantiles([0.5, 0.99]);
    Row {
        series: name,
        count: series.count,
        mean: series.mean(),
        deviation: series.deviation(),
        min: series.min,
        p50,
        p99,
        max: series.max,
        exact: series.is_exact(),
        spark: spark(&over_time),
        over_time,
    }
}

/// At most [`SPARK`] means over the time from the first bucket to the last.
fn spark(buckets: &[Bucket]) -> Vec<Option<f64>> {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return Vec::new() };
    let span = i128::from(last.at) - i128::from(first.at);
    let cells = buckets.len().min(SPARK);
    let mut sums = vec![(0u64, 0f64); cells];
    for bucket in buckets {
        let share = (i128::from(bucket.at) - i128::from(first.at)) as f64 / (span.max(1)) as f64;
        let (count, mean) = &mut sums[((share * cells as f64) as usize).min(cells - 1)];
        *count += bucket.count;
        *mean += (bucket.mean - *mean) * (bucket.count as f64 / *count as f64);
    }
    sums.into_iter().map(|(count, mean)| (count > 0 && mean.is_finite()).then_some(mean)).collect()
}

fn is_lifecycle(key: &str) -> bool {
    key.strip_prefix(LIFECYCLE).is_some_and(|rest| rest.starts_with(',') && rest.contains(",event_type="))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

// === impl SeriesName ===

impl SeriesName {
    /// Whether it is what one looks at first of its measurement: the value itself, and of what an SDK has summed up the
    /// mean.
    pub fn is_main(&self) -> bool {
        match self.metric.as_str() {
            "" => true,
            "counter" => self.field == "count",
            "ewma" => self.field == "rate",
            "histogram" | "timer" | "meter" => self.field == "mean",
            _ => self.field == "value",
        }
    }

    /// The series without its group, as it is shown: name, tags, and the field where it isn't `value`.
    pub fn label(&self) -> String {
        let mut label = self.name.clone();
        for more in [self.tags.as_str(), if self.field == "value" { "" } else { &self.field }] {
            if !more.is_empty() {
                label.push(' ');
                label.push_str(more);
            }
        }
        label
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Precision, parse};
    use super::*;

    fn source() -> Source {
        Source { plan: "p".into(), case: "c".into(), run: "r".into() }
    }

    fn summed(lines: &[String]) -> Measured {
        let mut sum = Summarizer::new(&source());
        for line in lines {
            sum.add(&parse(line.as_bytes(), Precision::Nanoseconds).unwrap(), 0);
        }
        sum.finish()
    }

    #[test]
    fn series_are_told_apart_by_tags_field_and_group() {
        let mut lines = Vec::new();
        for i in 0..10 {
            let (group, index) = (if i < 5 { "a" } else { "b" }, i % 5);
            lines.push(format!(
                "results.p-c.rtt.point,run=r,group_id={group},instance={index},protocol=tcp value={i} {i}000000"
            ));
        }
        lines.push("diagnostics.p-c.heap.gauge,group_id=a value=1 1".into());
        lines.push("mine,group_id=a text=\"x\",n=3i,flag=t 1".into());
        lines.push("events,event_type=start_event,run=r count=1i 1".into());
        let measured = summed(&lines);
        assert_eq!(measured.points, 13);
        let shown: Vec<_> = measured
            .rows
            .iter()
            .map(|r| (r.series.label(), r.series.group.as_str(), r.count, r.mean))
            .collect();
        assert_eq!(
            shown,
            [
                ("rtt protocol=tcp".to_owned(), "a", 5, 2.0),
                ("rtt protocol=tcp".to_owned(), "b", 5, 7.0),
                ("mine n".to_owned(), "a", 1, 3.0),
                ("heap".to_owned(), "a", 1, 1.0),
            ]
        );
        let first = &measured.rows[0];
        assert_eq!((first.p50, first.p99, first.min, first.max), (2.0, 4.0, 0.0, 4.0));
        assert_eq!((first.spark.first(), first.spark.last()), (Some(&Some(0.0)), Some(&Some(4.0))));
        let text = serde_json::to_string(&measured).unwrap();
        assert_eq!(serde_json::from_str::<Measured>(&text).unwrap(), measured);
    }

    #[test]
    fn a_tag_that_never_repeats_is_bounded_and_counted() {
        let lines: Vec<String> = (0..MAX_SERIES + 100).map(|i| format!("x,id={i} v=1 1")).collect();
        let measured = summed(&lines);
        assert_eq!((measured.rows.len(), measured.beyond), (MAX_SERIES, 100));
    }
}

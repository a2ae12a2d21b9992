//! The files in which SDKs keep what they measure, `results.out` and `diagnostics.out`, as lines of the record.
//!
//! Each of their lines is `{"ts":<ns>,"type":"point","name":"x,tag=v","measures":{"value":1}}`. The same points go to
//! InfluxDB under the names made here, so that both are one series.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::line::{self, Value};
use super::{GROUP_TAG, INSTANCE_TAG, RUN_TAG, Source};
use crate::name::InstanceName;

/// Longest line of such a file that is read, bytes.
pub const MAX_LINE: usize = 1 << 20;

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sheet {
    /// What the plan measures.
    Results,
    /// What a runtime says of itself.
    Diagnostics,
}

/// Why a line of such a file is no point.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is no JSON of that form.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// It has no name.
    #[error("a point without a name")]
    NoName,
    /// It has nothing in it.
    #[error("a point without numbers")]
    NoMeasures,
}

/// The types of measurement that SDKs know.
pub const TYPES: [&str; 7] = ["point", "counter", "ewma", "gauge", "histogram", "meter", "timer"];

#[derive(Deserialize)]
struct Metric {
    ts: i64,
    #[serde(rename = "type")]
    kind: String,
    name: String,
    measures: BTreeMap<String, serde_json::Value>,
}

/// Appends the point in `json` to `out` as a line of the record, with its newline.
///
/// # Errors
/// When it is no point; then nothing is appended.
pub fn to_line(
    json: &[u8],
    sheet: Sheet,
    source: &Source,
    instance: &InstanceName,
    out: &mut String,
) -> Result<(), Fault> {
    let metric: Metric = serde_json::from_slice(json)?;
    let mut parts = metric.name.split(',');
    let name = parts.next().filter(|n| !n.is_empty()).ok_or(Fault::NoName)?;
    let index = instance.index.to_string();
    let mut tags = vec![(GROUP_TAG, instance.group.as_str()), (INSTANCE_TAG, &index), (RUN_TAG, &source.run)];
    for part in parts {
        // As the SDK does it: what is no key=value is passed over.
        if let Some((key, value)) = part.split_once('=').filter(|(_, v)| !v.contains('=')) {
            tags.retain(|(known, _)| *known != key);
            tags.push((key, value));
        }
    }
    let whole = metric.kind == "counter";
    let number = |value: &serde_json::Value| match value.as_i64() {
        Some(n) if whole => Some(Value::Integer(n)),
        _ => value.as_f64().map(Value::Float),
    };
    let fields: Vec<(&str, Value<'_>)> =
        metric.measures.iter().filter_map(|(k, v)| Some((k.as_str(), number(v)?))).collect();
    if fields.is_empty() {
        return Err(Fault::NoMeasures);
    }
    let measurement = format!("{}{name}.{}", sheet.prefix(source), metric.kind);
    line::write(out, &measurement, &tags, fields, metric.ts);
    Ok(())
}

// === impl Sheet ===

impl Sheet {
    /// Both.
    pub const ALL: [Sheet; 2] = [Sheet::Results, Sheet::Diagnostics];

    /// The file's name in an instance's outputs.
    pub fn file(self) -> &'static str {
        match self {
            Sheet::Results => "results.out",
            Sheet::Diagnostics => "diagnostics.out",
        }
    }

    /// What the names of its measurements begin with in InfluxDB.
    pub fn prefix(self, source: &Source) -> String {
        let word = match self {
            Sheet::Results => "results",
            Sheet::Diagnostics => "diagnostics",
        };
        format!("{word}.{}-{}.", source.plan, source.case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source { plan: "p".into(), case: "c".into(), run: "r".into() }
    }

    fn convert(json: &str) -> Result<String, Fault> {
        let mut out = String::new();
        to_line(json.as_bytes(), Sheet::Results, &source(), &InstanceName::new("g", 3), &mut out)
            .map(|()| out)
    }

    #[test]
    fn a_point_of_the_go_sdk_becomes_the_line_that_it_sends() {
        let json =
            r#"{"ts":17,"type":"point","name":"rtt,protocol=tcp,odd,a=b=c","measures":{"value":40.5}}"#;
        assert_eq!(
            convert(json).unwrap(),
            "results.p-c.rtt.point,group_id=g,instance=3,run=r,protocol=tcp value=40.5 17\n"
        );
        let json = r#"{"ts":1,"type":"counter","name":"n","measures":{"count":5}}"#;
        assert_eq!(convert(json).unwrap(), "results.p-c.n.counter,group_id=g,instance=3,run=r count=5i 1\n");
        let json = r#"{"ts":1,"type":"timer","name":"t","measures":{"p99":1e9,"mean":2}}"#;
        let line = convert(json).unwrap();
        assert!(line.ends_with(" mean=2.0,p99=1000000000.0 1\n"), "{line}");
        assert!(line::parse(line.trim_end().as_bytes(), line::Precision::Nanoseconds).is_ok());
    }

    #[test]
    fn other_lines_are_refused() {
        assert!(matches!(convert("x"), Err(Fault::Form(_))));
        let json = r#"{"ts":1,"type":"point","name":"","measures":{"value":1}}"#;
        assert!(matches!(convert(json), Err(Fault::NoName)));
        let json = r#"{"ts":1,"type":"point","name":"x","measures":{"value":"1"}}"#;
        assert!(matches!(convert(json), Err(Fault::NoMeasures)));
    }
}

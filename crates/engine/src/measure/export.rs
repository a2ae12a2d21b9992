//! All points of a run in one file, for other tools: CSV, JSON lines or line protocol.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use testground_model::measure::line::{Line, Value, field_name};
use testground_model::measure::{GROUP_TAG, INSTANCE_TAG, Source};

use super::record::{self, Faults};

/// How points are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A row for each field: `time,group,instance,measurement,tags,field,value`.
    Csv,
    /// An object for each point.
    JsonLines,
    /// As InfluxDB reads it.
    LineProtocol,
}

// === impl Format ===

impl Format {
    /// The format that a file's name asks for by its ending.
    ///
    /// # Errors
    /// Says which endings there are.
    pub fn of(path: &Path) -> Result<Format, String> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => Ok(Format::Csv),
            Some("jsonl") => Ok(Format::JsonLines),
            Some("lp") => Ok(Format::LineProtocol),
            _ => Err(format!(
                "{}: the ending says how measurements are written: .csv, .jsonl or .lp (line protocol)",
                path.display()
            )),
        }
    }
}

/// Writes every point of the record in `outputs` to a file; what was no point.
///
/// # Errors
/// When the record can't be read or the file can't be written.
pub fn export(outputs: &Path, source: &Source, format: Format, path: &Path) -> io::Result<Faults> {
    let mut out = BufWriter::with_capacity(256 << 10, File::create(path)?);
    let faults = write(outputs, source, format, &mut out)?;
    out.flush()?;
    Ok(faults)
}

/// Writes every point of the record in `outputs`.
///
/// # Errors
/// When the record can't be read or what is written isn't taken.
pub fn write(outputs: &Path, source: &Source, format: Format, out: &mut dyn Write) -> io::Result<Faults> {
    if format == Format::Csv {
        writeln!(out, "time,group,instance,measurement,tags,field,value")?;
    }
    record::each(outputs, source, &mut |line| match format {
        Format::LineProtocol => {
            writeln!(out, "{} {} {}", line.key, line.fields, line.time.unwrap_or_default())
        }
        Format::JsonLines => {
            serde_json::to_writer(&mut *out, &object(line))?;
            out.write_all(b"\n")
        }
        Format::Csv => rows(line, out),
    })
}

fn object(line: &Line<'_>) -> Json {
    let tags: Map<String, Json> = line.tags().map(|(k, v)| (k.into_owned(), Json::from(v))).collect();
    let value = |value: Value<'_>| match value {
        Value::Float(x) => json!(x),
        Value::Integer(n) => json!(n),
        Value::Boolean(b) => json!(b),
        Value::Text(text) => json!(text),
    };
    let fields: Map<String, Json> =
        line.fields().map(|(k, v)| (field_name(k).into_owned(), value(v))).collect();
    json!({ "time": line.time, "measurement": line.measurement(), "tags": tags, "fields": fields })
}

fn rows(line: &Line<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (mut group, mut instance, mut tags) = (String::new(), String::new(), Vec::new());
    for (key, value) in line.tags() {
        match &*key {
            GROUP_TAG => group = value.into_owned(),
            INSTANCE_TAG => instance = value.into_owned(),
            _ => tags.push(format!("{key}={value}")),
        }
    }
    let head = format!(
        "{},{},{},{},{}",
        line.time.unwrap_or_default(),
        quoted(&group),
        quoted(&instance),
        quoted(&line.measurement()),
        quoted(&tags.join(" "))
    );
    for (field, value) in line.fields() {
        let value = match value {
            Value::Float(x) => x.to_string(),
            Value::Integer(n) => n.to_string(),
            Value::Boolean(b) => b.to_string(),
            Value::Text(text) => quoted(&text),
        };
        writeln!(out, "{head},{},{value}", quoted(&field_name(field)))?;
    }
    Ok(())
}

/// A field of CSV (RFC 4180); what a spreadsheet would take for a formula is made text.
fn quoted(field: &str) -> String {
    let formula = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{formula}{}\"", field.replace('"', "\"\""))
    } else {
        format!("{formula}{field}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_every_field() {
        let t = tempfile::tempdir().unwrap();
        let text = "m\\ x,group_id=g,instance=2,k=v a=1.5,b=2i,c=t,d=\"say \\\"x\\\", =y\" 7\n";
        std::fs::write(t.path().join(super::super::RECORD_FILE), text).unwrap();
        let source = Source { plan: "p".into(), case: "c".into(), run: "r".into() };
        let written = |format| {
            let mut out = Vec::new();
            write(t.path(), &source, format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Format::LineProtocol), text);
        assert_eq!(
            written(Format::JsonLines),
            "{\"time\":7,\"measurement\":\"m x\",\"tags\":{\"group_id\":\"g\",\"instance\":\"2\",\"k\":\"v\"},\"fields\":\
             {\"a\":1.5,\"b\":2,\"c\":true,\"d\":\"say \\\"x\\\", =y\"}}\n"
        );
        assert_eq!(
            written(Format::Csv),
            "time,group,instance,measurement,tags,field,value\n7,g,2,m x,k=v,a,1.5\n7,g,2,m x,k=v,b,2\n\
             7,g,2,m x,k=v,c,true\n7,g,2,m x,k=v,d,\"say \"\"x\"\", =y\"\n"
        );
        assert_eq!(quoted("=1+1"), "'=1+1");
        assert!(Format::of(Path::new("a.txt")).unwrap_err().contains(".csv, .jsonl or .lp"));
    }
}

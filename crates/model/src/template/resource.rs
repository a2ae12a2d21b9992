//! TOML in and out of templates: what `load_resource` reads and `toml` writes.
//!
//! Written as the original's encoder writes it (BurntSushi/toml 0.4): plain keys before tables, both sorted, sub-tables
//! indented by two spaces a level.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use gotmpl::Value;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostics, Source};

/// The values of a map, by key.
type Map = BTreeMap<Arc<str>, Value>;

/// Reads a resource. Dates are refused by name: templates have no value for them.
pub(super) fn read(path: &str, text: &str) -> Result<Value, String> {
    let source = Source::new(path, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut mistakes = Diagnostics::new();
        for error in errors {
            let at = source.place(error.span().unwrap_or(0..0), "");
            mistakes.push(at.error(format!("TOML: {}", error.message().trim())));
        }
        let first = mistakes.iter().next().map(ToString::to_string).unwrap_or_default();
        return Err(format!("load_resource {path} failed: {first}"));
    }
    map(table.get_ref()).map_err(|what| format!("load_resource {path} failed: {what}"))
}

fn map(table: &DeTable<'_>) -> Result<Value, String> {
    let entries = table.iter().map(|(k, v)| Ok((k.get_ref().as_ref().into(), value(v.get_ref())?)));
    entries.collect::<Result<Map, String>>().map(|map| Value::Map(Arc::new(map)))
}

fn value(value_: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value_ {
        DeValue::String(text) => Value::String(text.as_ref().into()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Int(number),
            Err(_) => return Err(format!("{number} is out of range: 64 bits hold no such number")),
        },
        DeValue::Float(number) => {
            Value::Float(number.as_str().parse().map_err(|_| format!("{number} is out of range"))?)
        }
        DeValue::Datetime(date) => {
            return Err(format!("{date} is a date, which templates can't use; write it as text"));
        }
        DeValue::Array(items) => {
            let items = items.iter().map(|item| value(item.get_ref()));
            Value::List(items.collect::<Result<Vec<Value>, String>>()?.into())
        }
        DeValue::Table(table) => map(table)?,
    })
}

/// Writes a map.
pub(super) fn write(map: &Map) -> Result<String, String> {
    let mut writer = Writer { text: String::new() };
    writer.entries(&[], map)?;
    Ok(writer.text)
}

struct Writer {
    text: String,
}

impl Writer {
    fn entries(&mut self, path: &[&str], map: &Map) -> Result<(), String> {
        let is_sub = |value: &Value| match value {
            Value::Map(_) => true,
            Value::List(items) => !items.is_empty() && items.iter().all(|item| matches!(item, Value::Map(_))),
            _ => false,
        };
        for (key, value) in map.iter().filter(|(_, value)| !is_sub(value) && !matches!(value, Value::Nil)) {
            self.indent(path.len());
            let _ = write!(self.text, "{} = ", key_text(key));
            self.value(value)?;
            self.text.push('\n');
        }
        for (key, value) in map.iter().filter(|(_, value)| is_sub(value)) {
            let mut path = path.to_vec();
            path.push(key);
            let name: Vec<String> = path.iter().map(|key| key_text(key)).collect();
            match value {
                Value::Map(map) => {
                    if path.len() == 1 {
                        self.new_line();
                    }
                    self.indent(path.len() - 1);
                    let _ = writeln!(self.text, "[{}]", name.join("."));
                    self.entries(&path, map)?;
                }
                Value::List(items) => {
                    for item in items.iter() {
                        let Value::Map(map) = item else { continue };
                        self.new_line();
                        self.indent(path.len() - 1);
                        let _ = writeln!(self.text, "[[{}]]", name.join("."));
                        self.entries(&path, map)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Bool(value) => {
                let _ = write!(self.text, "{value}");
            }
            Value::Int(number) => {
                let _ = write!(self.text, "{number}");
            }
            Value::Uint(number) => {
                let _ = write!(self.text, "{number}");
            }
            Value::Float(number) if number.is_nan() => self.text.push_str("nan"),
            Value::Float(number) if number.is_infinite() => {
                self.text.push_str(if *number > 0.0 { "inf" } else { "-inf" });
            }
            Value::Float(number) => {
                let text = number.to_string();
                self.text.push_str(&text);
                if !text.contains('.') {
                    self.text.push_str(".0");
                }
            }
            Value::String(text) => self.text.push_str(&quoted(text)),
            Value::List(items) => {
                self.text.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        self.text.push_str(", ");
                    }
                    self.value(item)?;
                }
                self.text.push(']');
            }
            Value::Map(map) => {
                self.text.push('{');
                for (i, (key, value)) in map.iter().filter(|(_, v)| !matches!(v, Value::Nil)).enumerate() {
                    if i > 0 {
                        self.text.push_str(", ");
                    }
                    let _ = write!(self.text, "{} = ", key_text(key));
                    self.value(value)?;
                }
                self.text.push('}');
            }
            other => return Err(format!("toml can't write {}", other.type_name())),
        }
        Ok(())
    }

    fn indent(&mut self, levels: usize) {
        self.text.push_str(&"  ".repeat(levels));
    }

    /// An empty line, unless nothing was written yet.
    fn new_line(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }
}

fn key_text(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\t' => quoted.push_str("\\t"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c < ' ' || c == '\u{7f}' => {
                let _ = write!(quoted, "\\u{:04x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

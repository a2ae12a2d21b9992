//! A builder's settings, read from the table of a composition; a value of a wrong kind is named.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use testground_model::run::toml_value::Value;

use super::BuildError;

/// The settings of one build, for a builder that knows some keys.
pub(super) struct Settings<'a> {
    builder: &'static str,
    table: &'a BTreeMap<String, Value>,
}

impl<'a> Settings<'a> {
    /// The table of a builder. Keys that it doesn't know are no concern here: resolving the composition has named
    /// those that are mistakes, and the rest are settings of the original that mean nothing to these builders.
    pub(super) fn new(builder: &'static str, table: &'a BTreeMap<String, Value>) -> Settings<'a> {
        Settings { builder, table }
    }

    /// Text, `None` where it is missing or empty.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, BuildError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|t| !t.is_empty())),
            Some(other) => Err(self.wrong(key, &format!("text is expected, {} is given", kind(other)))),
        }
    }

    /// `true` or `false`, `false` where it is missing.
    pub(super) fn flag(&self, key: &str) -> Result<bool, BuildError> {
        Ok(self.choice(key)?.unwrap_or(false))
    }

    /// `true` or `false`, `None` where it is missing.
    pub(super) fn choice(&self, key: &str) -> Result<Option<bool>, BuildError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => {
                Err(self.wrong(key, &format!("true or false is expected, {} is given", kind(other))))
            }
        }
    }

    /// A directory of the plan, relative to it; the plan's own where it is missing.
    pub(super) fn folder(&self, key: &str) -> Result<PathBuf, BuildError> {
        let text = self.text(key)?.unwrap_or_default();
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(text).components().all(|part| plain(&part)) {
            return Err(
                self.wrong(key, &format!("a directory of the plan is expected, {text:?} lies outside"))
            );
        }
        // Without `.`: two ways to write a directory are one build.
        Ok(Path::new(text).components().filter(|part| matches!(part, Component::Normal(_))).collect())
    }

    /// A list of texts; one text alone stands for itself. `None` where it is missing or empty.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Texts<'a>>, BuildError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Texts::One(text.as_str())).filter(|_| !text.is_empty())),
            Some(Value::Array(items)) => {
                let texts: Option<Vec<&str>> = items
                    .iter()
                    .map(|i| if let Value::String(text) = i { Some(text.as_str()) } else { None })
                    .collect();
                let texts = texts.ok_or_else(|| self.wrong(key, "every item of the list must be text"))?;
                Ok(Some(Texts::Many(texts)).filter(|_| !items.is_empty()))
            }
            Some(other) => {
                Err(self
                    .wrong(key, &format!("text or a list of texts is expected, {} is given", kind(other))))
            }
        }
    }

    /// The mistake of one setting.
    pub(super) fn wrong(&self, key: &str, problem: &str) -> BuildError {
        BuildError::Setting { builder: self.builder, key: key.to_owned(), problem: problem.to_owned() }
    }
}

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Texts<'a> {
    /// Just one.
    One(&'a str),
    /// A list, never empty.
    Many(Vec<&'a str>),
}

impl Texts<'_> {
    /// All of them.
    pub(super) fn owned(&self) -> Vec<String> {
        match self {
            Texts::One(text) => vec![(*text).to_owned()],
            Texts::Many(texts) => texts.iter().map(|t| (*t).to_owned()).collect(),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "a boolean",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

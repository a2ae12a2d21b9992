//! Reads TOML into typed values and collects every mistake with its place.
//!
//! A [`TableReader`] learns the names of a table by being asked for them; whatever it was not asked for is unknown.
//! What the keys mean belongs in `manifest` and `composition`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Diagnostic, Diagnostics, Place, Source, names};
use crate::run::toml_value::Value;

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

/// Where mistakes go while a text is read.
pub(crate) struct Mistakes(RefCell<Diagnostics>);

/// A table that is being read.
pub(crate) struct TableReader<'a> {
    source: &'a Source,
    mistakes: &'a Mistakes,
    table: &'a DeTable<'a>,
    place: Place,
    /// The keys that were asked for.
    known: RefCell<Vec<&'a str>>,
    /// The keys that were refused by name.
    refused: RefCell<Vec<&'a str>>,
    /// Whether the user chooses the keys, so that none is unknown.
    free: Cell<bool>,
}

/// A value that is being read.
#[derive(Clone)]
pub(crate) struct Item<'a> {
    source: &'a Source,
    mistakes: &'a Mistakes,
    value: &'a DeValue<'a>,
    place: Place,
    key: Place,
}

/// Parses a text and hands its top table to `read`. Syntax errors are all reported, and nothing else then.
pub(crate) fn read_document<T>(
    source: &Source,
    read: impl FnOnce(&TableReader<'_>, &Mistakes) -> T,
) -> (Option<T>, Diagnostics) {
    let mistakes = Mistakes::new();
    let (table, errors) = DeTable::parse_recoverable(source.text());
    if !errors.is_empty() {
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            mistakes.push(source.place(span, "").error(format!("TOML: {}", error.message().trim())));
        }
        return (None, mistakes.into_inner());
    }
    let place = source.start();
    let root = TableReader::new(source, &mistakes, table.get_ref(), place);
    let value = read(&root, &mistakes);
    root.finish();
    drop(root);
    (Some(value), mistakes.into_inner())
}

// === impl At ===

impl<T> At<T> {
    /// The same place with another value.
    pub(crate) fn with<U>(&self, value: U) -> At<U> {
        At { value, place: self.place.clone() }
    }
}

// === impl Mistakes ===

impl Mistakes {
    pub(crate) fn new() -> Mistakes {
        Mistakes(RefCell::default())
    }

    pub(crate) fn push(&self, mistake: Diagnostic) {
        self.0.borrow_mut().push(mistake);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.0.borrow().has_errors()
    }

    pub(crate) fn into_inner(self) -> Diagnostics {
        self.0.into_inner()
    }
}

// === impl TableReader ===

impl<'a> TableReader<'a> {
    fn new(source: &'a Source, mistakes: &'a Mistakes, table: &'a DeTable<'a>, place: Place) -> Self {
        let (known, refused) = (RefCell::default(), RefCell::default());
        TableReader { source, mistakes, table, place, known, refused, free: Cell::new(false) }
    }

    /// Where the table is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The value of a key, of any type.
    pub(crate) fn item(&self, key: &'a str) -> Option<Item<'a>> {
        self.known.borrow_mut().push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(k, v)| self.entry(k, v))
    }

    /// All entries by place, for tables whose keys the user chooses.
    pub(crate) fn entries(&self) -> Vec<(At<String>, Item<'a>)> {
        self.free.set(true);
        let mut all: Vec<_> = self
            .table
            .iter()
            .map(|(k, v)| {
                let item = self.entry(k, v);
                (At { value: k.get_ref().to_string(), place: item.key.clone() }, item)
            })
            .collect();
        all.sort_by_key(|(key, _)| key.place.span().start);
        all
    }

    /// A key that real files carry and that has no effect: a warning says why.
    pub(crate) fn dead(&self, key: &'a str, why: &str) {
        if let Some(item) = self.item(key) {
            self.mistakes.push(item.key.warning(format!("`{key}` has no effect: {why}")));
        }
    }

    /// A key of other tables of this kind: where it is there and was not asked for, `why` says why it can't be.
    pub(crate) fn refuse(&self, key: &'a str, why: impl FnOnce() -> String) {
        if self.known.borrow().contains(&key) {
            return;
        }
        if let Some((k, v)) = self.table.iter().find(|(k, _)| k.get_ref() == key) {
            self.refused.borrow_mut().push(key);
            self.mistakes.push(self.entry(k, v).key.error(why()));
        }
    }

    /// A key that must be there.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.has(key) {
            let of = if self.place.path().is_empty() {
                String::new()
            } else {
                format!(" of {}", self.place.path())
            };
            self.mistakes.push(self.place.error(format!("`{key}`{of} is missing")));
        }
        value
    }

    /// Whether the key is there, whatever its value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(k, _)| k.get_ref() == key)
    }

    /// Whether no key but these is there.
    pub(crate) fn has_only(&self, keys: &[&str]) -> bool {
        self.table.iter().all(|(k, _)| keys.contains(&k.get_ref().as_ref()))
    }

    pub(crate) fn string(&self, key: &'a str) -> Option<At<String>> {
        self.item(key)?.string()
    }

    pub(crate) fn boolean(&self, key: &'a str) -> Option<At<bool>> {
        self.item(key)?.boolean()
    }

    pub(crate) fn count(&self, key: &'a str, least: u32, most: u32) -> Option<At<u32>> {
        self.item(key)?.count(least, most)
    }

    pub(crate) fn strings(&self, key: &'a str) -> Option<At<Vec<At<String>>>> {
        self.item(key)?.strings()
    }

    /// A table under a key: `read` is called when it is there.
    pub(crate) fn table<T>(&self, key: &'a str, read: impl FnOnce(&TableReader<'a>) -> T) -> Option<T> {
        self.item(key)?.table(read)
    }

    /// An array of tables under a key.
    pub(crate) fn tables<T>(&self, key: &'a str, read: impl FnMut(&TableReader<'a>) -> T) -> Vec<T> {
        self.item(key).map(|item| item.tables(read)).unwrap_or_default()
    }

    /// A table of free values: settings of a builder or runner.
    pub(crate) fn values(&self, key: &'a str) -> BTreeMap<String, At<Value>> {
        let read = |t: &TableReader<'a>| {
            t.entries().into_iter().filter_map(|(k, item)| Some((k.value, item.free()?))).collect()
        };
        self.table(key, read).unwrap_or_default()
    }

    /// Reports what was not asked for.
    fn finish(&self) {
        if self.free.get() {
            return;
        }
        let known = self.known.borrow();
        for (key, value) in self.table {
            let refused = self.refused.borrow();
            if known.contains(&key.get_ref().as_ref()) || refused.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let wrong = key.get_ref();
            let of = if self.place.path().is_empty() {
                String::new()
            } else {
                format!(" in {}", self.place.path())
            };
            let expected = names(known.iter().copied());
            let mistake = self
                .entry(key, value)
                .key
                .error(format!("unknown key `{wrong}`{of}; known are {expected}"))
                .suggest_nearest(wrong, known.iter().copied());
            self.mistakes.push(mistake);
        }
    }

    fn entry(&self, key: &Spanned<toml::de::DeString<'a>>, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        let path = join(self.place.path(), key.get_ref());
        let key = self.source.place(key.span(), path.clone());
        Item {
            source: self.source,
            mistakes: self.mistakes,
            value: value.get_ref(),
            place: self.source.place(value.span(), path).under(&key),
            key,
        }
    }
}

// === impl Item ===

impl<'a> Item<'a> {
    /// Where the value is.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Reports a mistake.
    pub(crate) fn report(&self, mistake: Diagnostic) {
        self.mistakes.push(mistake);
    }

    /// Reports a mistake at the value.
    pub(crate) fn error(&self, message: impl Into<String>) {
        self.mistakes.push(self.place.error(message));
    }

    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// Reports that something else was expected.
    pub(crate) fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        self.error(format!("{expected} is expected, {} is given", self.kind()));
        None
    }

    pub(crate) fn string(&self) -> Option<At<String>> {
        match self.value {
            DeValue::String(text) => Some(self.at(text.to_string())),
            _ => self.wrong_type("text (in quotes)"),
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// The number, if it is one.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match self.value {
            DeValue::Integer(_) => self.as_integer().map(|i| i as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        }
    }

    /// The integer, if it is one that 64 bits hold.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    pub(crate) fn boolean(&self) -> Option<At<bool>> {
        match self.value {
            DeValue::Boolean(value) => Some(self.at(*value)),
            _ => self.wrong_type("true or false"),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn count(&self, least: u32, most: u32) -> Option<At<u32>> {
        let DeValue::Integer(number) = self.value else { return self.wrong_type("a whole number") };
        match self.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n)) {
            Some(n) => Some(self.at(n)),
            None => {
                self.error(format!("{number} is out of range: {least} to {most} is allowed"));
                None
            }
        }
    }

    /// A list of texts.
    pub(crate) fn strings(&self) -> Option<At<Vec<At<String>>>> {
        let items = self.array("a list of texts")?;
        Some(self.at(items.iter().filter_map(Item::string).collect()))
    }

    /// The items of a list.
    pub(crate) fn array(&self, expected: &str) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(items) = self.value else { return self.wrong_type(expected) };
        let item = |(i, v): (usize, &'a Spanned<DeValue<'a>>)| {
            let place = self.source.place(v.span(), format!("{}[{i}]", self.place.path()));
            Item {
                source: self.source,
                mistakes: self.mistakes,
                value: v.get_ref(),
                key: place.clone(),
                place,
            }
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A table, checked for unknown keys when `read` is done with it.
    pub(crate) fn table<T>(&self, read: impl FnOnce(&TableReader<'a>) -> T) -> Option<T> {
        let DeValue::Table(table) = self.value else { return self.wrong_type("a table") };
        let reader = TableReader::new(self.source, self.mistakes, table, self.place.clone());
        let value = read(&reader);
        reader.finish();
        Some(value)
    }

    /// A table that is also meant for people: keys that were not asked for are warnings, and those in `passed_over`
    /// nothing at all.
    pub(crate) fn described<T>(
        &self,
        passed_over: &[&'static str],
        read: impl FnOnce(&TableReader<'a>) -> T,
    ) -> Option<T> {
        let DeValue::Table(table) = self.value else { return self.wrong_type("a table") };
        let reader = TableReader::new(self.source, self.mistakes, table, self.place.clone());
        let value = read(&reader);
        let known = reader.known.borrow();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) && !passed_over.contains(&name) {
                let at = reader.entry(key, value).key;
                let warning =
                    at.warning(format!("`{name}` has no effect; known are {}", names(known.iter().copied())));
                self.report(warning.suggest_nearest(name, known.iter().copied()));
            }
        }
        Some(value)
    }

    /// The tables of a list.
    pub(crate) fn tables<T>(&self, mut read: impl FnMut(&TableReader<'a>) -> T) -> Vec<T> {
        let expected = format!("a list of tables ([[{}]])", self.place.path());
        let items = self.array(&expected).unwrap_or_default();
        items.iter().filter_map(|item| item.table(&mut read)).collect()
    }

    /// Any value but a date.
    pub(crate) fn free(&self) -> Option<At<Value>> {
        Some(self.at(self.free_value()?))
    }

    /// A value with this one's place.
    pub(crate) fn at<T>(&self, value: T) -> At<T> {
        At { value, place: self.place.clone() }
    }

    fn free_value(&self) -> Option<Value> {
        Some(match self.value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Float(number) => Value::Float(number.as_str().parse().ok()?),
            DeValue::Integer(number) => match self.as_integer() {
                Some(n) => Value::Integer(n),
                None => {
                    self.error(format!("{number} is out of range: 64 bits hold no such number"));
                    return None;
                }
            },
            DeValue::Datetime(_) => return self.wrong_type("a text, number, boolean, list or table"),
            DeValue::Array(_) => {
                Value::Array(self.array("a list")?.iter().filter_map(Item::free_value).collect())
            }
            DeValue::Table(_) => {
                let read = |t: &TableReader<'a>| {
                    let entries = t.entries().into_iter();
                    entries.filter_map(|(k, item)| Some((k.value, item.free_value()?))).collect()
                };
                Value::Table(self.table(read)?)
            }
        })
    }
}

/// The path of a key in a table; keys that are not plain are quoted.
fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

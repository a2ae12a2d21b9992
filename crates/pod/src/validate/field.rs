//! Errors of fields as the API server phrases them, and the paths of fields.

use std::fmt;

use crate::load::nearest;

/// A refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field: `spec.containers[0].name`.
    pub path: String,
    /// What is wrong: `Duplicate value: "a"`.
    pub message: String,
    /// What was most likely meant; not part of the API server's words.
    pub help: Option<String>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Errors as they are found, each once.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

/// The path of a field.
#[derive(Clone, Debug)]
pub(super) struct At(String);

// === impl Errors ===

impl Errors {
    pub(super) fn into_list(self) -> Vec<FieldError> {
        self.0
    }

    fn push(&mut self, at: &At, message: String) {
        self.0.push(FieldError { path: at.0.clone(), message, help: None });
    }

    pub(super) fn required(&mut self, at: &At, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.push(at, format!("Required value{colon}{detail}"));
    }

    /// A refused text, or anything else that is printed in quotes.
    pub(super) fn invalid(&mut self, at: &At, value: impl fmt::Display, detail: &str) {
        self.push(at, format!("Invalid value: {:?}: {detail}", value.to_string()));
    }

    /// A refused number, or anything else that is printed as it is.
    pub(super) fn invalid_raw(&mut self, at: &At, value: impl fmt::Display, detail: &str) {
        self.push(at, format!("Invalid value: {value}: {detail}"));
    }

    pub(super) fn duplicate(&mut self, at: &At, value: &str) {
        self.push(at, format!("Duplicate value: {value:?}"));
    }

    pub(super) fn not_found(&mut self, at: &At, value: &str) {
        self.push(at, format!("Not found: {value:?}"));
    }

    pub(super) fn forbidden(&mut self, at: &At, detail: &str) {
        self.push(at, format!("Forbidden: {detail}"));
    }

    pub(super) fn too_long(&mut self, at: &At, most: usize) {
        self.push(at, format!("Too long: may not be more than {most} bytes"));
    }

    pub(super) fn unsupported(&mut self, at: &At, value: &str, supported: &[&str]) {
        let list: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        self.push(at, format!("Unsupported value: {value:?}: supported values: {}", list.join(", ")));
        let meant = nearest(value, supported.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        if let Some(error) = self.0.last_mut() {
            error.help = meant;
        }
    }

    /// One of a fixed set of words, if set at all.
    pub(super) fn one_of(&mut self, at: &At, value: Option<&str>, supported: &[&str]) {
        if let Some(value) = value.filter(|v| !v.is_empty() && !supported.contains(v)) {
            self.unsupported(at, value, supported);
        }
    }

    pub(super) fn not_negative(&mut self, at: &At, value: Option<impl Into<i64>>) {
        if let Some(n) = value.map(Into::into).filter(|n| *n < 0) {
            self.invalid_raw(at, n, "must be greater than or equal to 0");
        }
    }

    /// A text against a rule that names what is wrong with it.
    pub(super) fn text(&mut self, at: &At, value: &str, rule: fn(&str) -> Vec<String>) {
        for detail in rule(value) {
            self.invalid(at, value, &detail);
        }
    }
}

// === impl At ===

impl At {
    pub(super) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    pub(super) fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

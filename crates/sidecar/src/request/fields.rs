//! The fields of a JSON object taken one by one, each with its range, and what is left over named.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};
use testground_model::shape::{Chance, Filter};

use super::RequestError;

/// What is left of an object, and where it is in the message.
pub(super) struct Fields<'w> {
    path: String,
    left: Map<String, Value>,
    /// Names that were asked for: candidates for what an unknown one may mean.
    known: Vec<&'static str>,
    pub(super) warnings: &'w mut Vec<String>,
}

// === impl Fields ===

impl<'w> Fields<'w> {
    /// The fields of an object at a path (empty for the message itself).
    pub(super) fn new(path: &str, value: Value, warnings: &'w mut Vec<String>) -> Result<Self, RequestError> {
        match value {
            Value::Object(left) => Ok(Fields { path: path.to_owned(), left, known: Vec::new(), warnings }),
            other if path.is_empty() => {
                Err(RequestError::Unreadable(format!("it must be a JSON object, not {}", short(&other))))
            }
            other => Err(RequestError::Field {
                field: path.to_owned(),
                value: short(&other),
                allowed: "it must be an object".to_owned(),
            }),
        }
    }

    /// Takes a field whose key is this one in any case; `null` is like nothing.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        let found = self.left.keys().find(|k| k.eq_ignore_ascii_case(key)).cloned()?;
        self.left.remove(&found).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, RequestError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.refuse(key, &short(&other), "it must be a text")),
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Result<bool, RequestError> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.refuse(key, &short(&other), "it must be true or false")),
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Result<Vec<Value>, RequestError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.refuse(key, &short(&other), "it must be a list")),
        }
    }

    /// An address of either family, with or without a prefix length, which has no meaning but must be one.
    pub(super) fn address<A>(&mut self, key: &'static str) -> Result<Option<A>, RequestError>
    where
        A: FromStr + Into<IpAddr>,
    {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if text.is_empty() {
            return Ok(None);
        }
        let (address, prefix) = text.split_once('/').unwrap_or((&text, "0"));
        let parsed = address.parse::<A>().ok().map(Into::into);
        let prefix = prefix.parse::<u8>().ok();
        let fits = matches!((parsed, prefix), (Some(a), Some(p)) if IpNet::new(a, p).is_ok());
        match address.parse() {
            Ok(address) if fits => Ok(Some(address)),
            _ => Err(self.refuse(
                key,
                &format!("{text:?}"),
                &format!("it must be an {key} address in CIDR form"),
            )),
        }
    }

    /// A subnet; host bits are cleared.
    pub(super) fn subnet(&mut self, key: &'static str) -> Result<IpNet, RequestError> {
        let text = self.text(key)?;
        match text.as_deref().map(str::parse::<IpNet>) {
            Some(Ok(net)) => Ok(net.trunc()),
            _ => {
                let value = text.map_or("missing".to_owned(), |t| format!("{t:?}"));
                Err(self.refuse(key, &value, "it must be a subnet in CIDR form, such as 16.0.0.0/24"))
            }
        }
    }

    /// A whole number up to `most`.
    pub(super) fn whole(&mut self, key: &'static str, most: u64) -> Result<Option<u64>, RequestError> {
        let Some(value) = self.number(key)? else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // JavaScript has no other numbers than these, and writes large ones with an exponent.
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..u64::MAX as f64).contains(&float)).then_some(float as u64)
        });
        match whole.filter(|w| *w <= most) {
            Some(whole) => Ok(Some(whole)),
            None => Err(self.refuse(key, &short(&value), &format!("it must be a whole number, 0 to {most}"))),
        }
    }

    /// Bits per second; 0 is unlimited. The types of the JavaScript SDK have a spelling of their own.
    pub(super) fn bandwidth(&mut self) -> Result<Option<u64>, RequestError> {
        let bandwidth = self.whole("bandwidth", u64::MAX)?;
        let misspelt = self.whole("bandwith", u64::MAX)?;
        self.known.pop();
        Ok(bandwidth.or(misspelt).filter(|b| *b > 0))
    }

    /// Nanoseconds.
    pub(super) fn duration(&mut self, key: &'static str, most: Duration) -> Result<Duration, RequestError> {
        let Some(value) = self.number(key)? else { return Ok(Duration::ZERO) };
        let nanos = value.as_u64().or_else(|| {
            let float = value.as_f64()?.round();
            (0.0..1e18).contains(&float).then_some(float as u64)
        });
        match nanos.map(Duration::from_nanos).filter(|d| *d <= most) {
            Some(duration) => Ok(duration),
            None => {
                let allowed = "it must be a time in nanoseconds, 0 to 3600000000000 (one hour)";
                Err(self.refuse(key, &short(&value), allowed))
            }
        }
    }

    /// A percentage and its correlation.
    pub(super) fn chance(
        &mut self,
        percent: &'static str,
        correlation: &'static str,
    ) -> Result<Chance, RequestError> {
        Ok(Chance { percent: self.percent(percent)?, correlation: self.percent(correlation)? })
    }

    pub(super) fn filter(&mut self, key: &'static str) -> Result<Filter, RequestError> {
        let Some(value) = self.number(key)? else { return Ok(Filter::Accept) };
        match value.as_u64() {
            Some(0) => Ok(Filter::Accept),
            Some(1) => Ok(Filter::Reject),
            Some(2) => Ok(Filter::Drop),
            _ => Err(self.refuse(key, &short(&value), "it must be 0 (accept), 1 (reject) or 2 (drop)")),
        }
    }

    pub(super) fn warn(&mut self, key: &str, what: &str) {
        self.warnings.push(format!("`{}` {what}", self.name(key)));
    }

    pub(super) fn refuse(&self, key: &str, value: &str, allowed: &str) -> RequestError {
        RequestError::Field { field: self.name(key), value: value.to_string(), allowed: allowed.to_owned() }
    }

    /// Names what nobody asked for.
    pub(super) fn finish(mut self) {
        for key in std::mem::take(&mut self.left).keys() {
            let nearest = self
                .known
                .iter()
                .map(|k| (strsim::damerau_levenshtein(key, k), *k))
                .filter(|(distance, k)| *distance <= k.len() / 3)
                .min();
            let hint = nearest.map(|(_, k)| format!(" (is `{k}` meant?)")).unwrap_or_default();
            self.warn(key, &format!("is not known and has no effect{hint}"));
        }
    }

    /// A number; unlike elsewhere `null` is a mistake, for it is what JavaScript makes of NaN.
    fn number(&mut self, key: &'static str) -> Result<Option<Value>, RequestError> {
        self.known.push(key);
        let Some(found) = self.left.keys().find(|k| k.eq_ignore_ascii_case(key)).cloned() else {
            return Ok(None);
        };
        match self.left.remove(&found) {
            Some(value @ Value::Number(_)) => Ok(Some(value)),
            Some(other) => {
                let what = match key {
                    "latency" | "jitter" => "it must be a time in nanoseconds, a number",
                    _ => "it must be a number",
                };
                Err(self.refuse(key, &short(&other), what))
            }
            None => Ok(None),
        }
    }

    fn percent(&mut self, key: &'static str) -> Result<f64, RequestError> {
        let Some(value) = self.number(key)? else { return Ok(0.0) };
        match value.as_f64().filter(|p| (0.0..=100.0).contains(p)) {
            Some(percent) => Ok(percent),
            None => Err(self.refuse(key, &short(&value), "it must be a percentage, 0 to 100")),
        }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value as it was written, cut where it is long.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

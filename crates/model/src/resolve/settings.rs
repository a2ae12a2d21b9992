//! The settings of a run: the command line over `[global.run_config]` over the manifest's table for the runner over
//! the defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Resolver;
use crate::catalogue::{FOREIGN_RUN_SETTINGS, Runner};
use crate::diagnostic::names;
use crate::outside::{self, Endpoint};
use crate::reader::At;
use crate::run::toml_value::Value;
use crate::run::{ProofSettings, Settings};
use crate::units;

/// The settings that runs have.
const KNOWN: [&str; 15] = [
    "additional_hosts",
    "grace",
    "influxdb_endpoint",
    "keep_going",
    "max_message",
    "max_output",
    "min_success",
    "plane",
    "proof",
    "seed",
    "stall",
    "start_rate",
    "sync_service",
    "timeout",
    "record_decisions",
];

/// The shortest and the longest run.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a seed is.
const SEED: &str = "a whole number, 0 to 9223372036854775807, is expected";

/// The timeout of a run as an argument of the command line, with the limits and the words of a composition.
pub fn timeout(text: &str) -> Result<Duration, String> {
    time(&Value::String(text.to_owned()), MIN_TIMEOUT, MAX_TIMEOUT)
}

/// The seed of a run as an argument of the command line, with the limits and the words of a composition.
pub fn seed(text: &str) -> Result<u64, String> {
    let seed = text.parse::<u64>().ok().filter(|seed| i64::try_from(*seed).is_ok());
    seed.ok_or_else(|| SEED.to_owned())
}

impl Resolver<'_> {
    /// The settings of every run of the composition.
    pub(super) fn settings(&self, runner: Option<&Runner>) -> Settings {
        let mut table: BTreeMap<&str, &At<Value>> = BTreeMap::new();
        let manifest = runner.and_then(|r| self.manifest.runners.get(r.name)).map(|t| &t.value);
        for config in [manifest, Some(&self.composition.global.run_config)].into_iter().flatten() {
            table.extend(config.iter().map(|(key, value)| (key.as_str(), value)));
        }
        let default = Settings::default();
        let mut settings = Settings { seed: self.overrides.fallback_seed, ..default };
        for (key, at) in table {
            self.setting(&mut settings, key, at, runner);
        }
        if let Some(seed) = self.overrides.seed {
            settings.seed = seed;
        }
        if let Some(timeout) = self.overrides.timeout {
            settings.timeout = timeout;
        }
        settings.keep_going |= self.overrides.keep_going;
        settings.proof.late_fails |= self.overrides.late_fails;
        settings.plane = self.overrides.plane.unwrap_or(settings.plane);
        settings
    }

    fn setting(&self, settings: &mut Settings, key: &str, at: &At<Value>, runner: Option<&Runner>) {
        let ms = Duration::from_millis;
        match key {
            "timeout" => self.put(at, &mut settings.timeout, |v| time(v, MIN_TIMEOUT, MAX_TIMEOUT)),
            "grace" => {
                self.put(at, &mut settings.grace, |v| time(v, Duration::ZERO, Duration::from_secs(600)));
            }
            "stall" => self.put(at, &mut settings.stall, |v| time(v, ms(100), MAX_TIMEOUT)),
            "max_output" => self.put(at, &mut settings.max_output, |v| bytes(v, 1 << 10, 1 << 44)),
            "max_message" => self.put(at, &mut settings.max_message, |v| bytes(v, 1 << 10, 1 << 30)),
            "keep_going" => self.put(at, &mut settings.keep_going, boolean),
            "plane" => self.put(at, &mut settings.plane, |v| match v {
                Value::String(text) => text.parse(),
                _ => Err("\"switch\", \"kernel\" or \"auto\" is expected".to_owned()),
            }),
            "record_decisions" => self.put(at, &mut settings.record_decisions, boolean),
            "seed" => self.put(at, &mut settings.seed, |v| match v {
                Value::Integer(n) if *n >= 0 => Ok(*n as u64),
                _ => Err(SEED.to_owned()),
            }),
            "min_success" => self.put(at, &mut settings.min_success, percent),
            "start_rate" => self.put(at, &mut settings.start_rate, |v| match number(v) {
                Some(n) if (0.001..=1e6).contains(&n) => Ok(Some(n)),
                _ => Err("instances per second, 0.001 to 1000000, are expected".to_owned()),
            }),
            "influxdb_endpoint" => self.put(at, &mut settings.influxdb_endpoint, endpoint),
            "additional_hosts" => self.put(at, &mut settings.additional_hosts, hosts),
            "sync_service" => self.put(at, &mut settings.sync_service, |v| service(v).map(Some)),
            "proof" => self.proof(&mut settings.proof, at),
            _ if FOREIGN_RUN_SETTINGS.contains(&key) => {
                if !matches!(key, "enabled" | "disabled") {
                    let name = runner.map_or("of this composition", |r| r.name);
                    let warning = format!("`{key}` has no effect: runner {name} does not read it");
                    self.error(at.place.of_key().warning(warning));
                }
            }
            _ => {
                let message = format!("runs have no setting `{key}`; known are {}", names(KNOWN));
                self.error(at.place.of_key().error(message).suggest_nearest(key, KNOWN));
            }
        }
    }

    fn proof(&self, proof: &mut ProofSettings, at: &At<Value>) {
        let known = ["enabled", "delay", "rate", "mark_only", "late_fails"];
        let table = match &at.value {
            Value::Bool(enabled) => {
                proof.enabled = *enabled;
                return;
            }
            Value::Table(table) => table,
            _ => {
                let message = format!("true, false or a table with {} is expected", known.join(", "));
                self.error(at.place.error(message));
                return;
            }
        };
        for (key, value) in table {
            let at = at.with(value.clone());
            let at = &at;
            match key.as_str() {
                "enabled" => self.put(at, &mut proof.enabled, boolean),
                "delay" => {
                    self.put(at, &mut proof.delay, |v| time(v, Duration::ZERO, Duration::from_secs(60)));
                }
                "rate" => self.put(at, &mut proof.rate_percent, percent),
                "mark_only" => self.put(at, &mut proof.mark_only, boolean),
                "late_fails" => self.put(at, &mut proof.late_fails, boolean),
                _ => {
                    let message = format!("proof has no setting `{key}`; known are {}", names(known));
                    self.error(at.place.error(message).suggest_nearest(key, known));
                }
            }
        }
    }

    /// Puts a setting in its place, or reports why it doesn't fit.
    fn put<T>(&self, at: &At<Value>, to: &mut T, read: impl FnOnce(&Value) -> Result<T, String>) {
        match read(&at.value) {
            Ok(value) => *to = value,
            Err(why) => self.error(at.place.error(why)),
        }
    }
}

/// A duration as text with its unit, or a number of seconds.
fn time(value: &Value, least: Duration, most: Duration) -> Result<Duration, String> {
    let read = match (value, number(value)) {
        (Value::String(text), _) => units::duration(text).map_err(|e| e.to_string())?,
        (_, Some(seconds)) => Duration::try_from_secs_f64(seconds).map_err(|_| {
            format!("{seconds} is no duration: a number of seconds, or text such as \"5m\", is expected")
        })?,
        _ => return Err("a duration such as \"5m\", or a number of seconds, is expected".to_owned()),
    };
    if (least..=most).contains(&read) {
        return Ok(read);
    }
    let show = units::show_duration;
    Err(format!("{} is out of range: {} to {} is allowed", show(read), show(least), show(most)))
}

/// A size as text with its unit, or a number of bytes.
fn bytes(value: &Value, least: u64, most: u64) -> Result<u64, String> {
    let read = match value {
        Value::String(text) => units::size(text).map_err(|e| e.to_string())?,
        Value::Integer(n) if *n >= 0 => *n as u64,
        _ => return Err("a size such as \"64MiB\", or a number of bytes, is expected".to_owned()),
    };
    if (least..=most).contains(&read) {
        return Ok(read);
    }
    let show = units::show_size;
    Err(format!("{} is out of range: {} to {} is allowed", show(read), show(least), show(most)))
}

fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(b) => Ok(*b),
        _ => Err("true or false is expected".to_owned()),
    }
}

fn percent(value: &Value) -> Result<f64, String> {
    match value {
        Value::String(text) => units::percent(text).map_err(|e| e.to_string()),
        _ => Err("a percentage such as \"5%\" is expected".to_owned()),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(f) => Some(*f),
        _ => None,
    }
}

/// The address of an InfluxDB, without a path.
fn endpoint(value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::String(text) => text.trim_end_matches('/'),
        _ => "",
    };
    let rest = text.strip_prefix("http://").ok_or_else(|| match text.strip_prefix("https://") {
        Some(_) => "https is not spoken: an address such as \"http://localhost:8086\" is expected".to_owned(),
        None => "the address of an InfluxDB, such as \"http://localhost:8086\", is expected".to_owned(),
    })?;
    hosts(&Value::Array(vec![Value::String(rest.to_owned())]))?;
    Ok(Some(text.to_owned()))
}

/// `host:port` of a sync service.
fn service(value: &Value) -> Result<Endpoint, String> {
    match value {
        Value::String(text) => Endpoint::parse(text).map_err(|e| e.to_string()),
        _ => Err("the address of a sync service, such as \"sync.example:5050\", is expected".to_owned()),
    }
}

/// Most entries of `additional_hosts`: each is a listener, and every instance has a route to each.
const MAX_HOSTS: usize = 100;

/// `host:port`, each: a name or an address, IPv6 in brackets.
fn hosts(value: &Value) -> Result<Vec<Endpoint>, String> {
    let expected =
        || "a list of hosts with their ports, such as [\"db.example:5432\"], is expected".to_owned();
    let Value::Array(items) = value else { return Err(expected()) };
    if items.len() > MAX_HOSTS {
        return Err(format!("{} hosts are too many; at most {MAX_HOSTS} are allowed", items.len()));
    }
    let mut hosts: Vec<Endpoint> = Vec::with_capacity(items.len());
    for item in items {
        let Value::String(text) = item else { return Err(expected()) };
        let host = Endpoint::parse(text).map_err(|e| e.to_string())?;
        if host.name() == outside::MACHINE && !host.is_loopback() {
            return Err(format!("{text:?}: the machine itself is written \"127.0.0.1:{}\"", host.port));
        }
        if let Some(other) = hosts.iter().find(|h| (h.name(), h.port) == (host.name(), host.port)) {
            let (name, port) = (host.name(), host.port);
            return Err(format!("{other} and {host} would both be {name}:{port} for instances"));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

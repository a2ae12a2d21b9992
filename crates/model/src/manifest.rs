//! `manifest.toml`: what a plan says about itself.
//!
//! What a composition makes of it belongs in `resolve`.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostics, Place, Source, names, nearest};
use crate::reader::{At, Item, Mistakes, TableReader, read_document};
use crate::run::toml_value::Value;

/// A plan's manifest as it was written, with its mistakes.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The plan's name as it was written.
    pub name: At<String>,
    /// Supported builders, each with the default build configuration.
    pub builders: BTreeMap<String, At<BTreeMap<String, At<Value>>>>,
    /// Supported runners, each with the default run configuration.
    pub runners: BTreeMap<String, At<BTreeMap<String, At<Value>>>>,
    /// The test cases, in order; at least one.
    pub testcases: Vec<TestCase>,
    /// Directories outside of the plan that its build needs, by builder (with `_` for `:`).
    pub extra_sources: BTreeMap<String, Vec<At<String>>>,
    mistakes: Diagnostics,
}

/// A test case of a plan.
#[derive(Debug, Clone)]
pub struct TestCase {
    /// Its name.
    pub name: At<String>,
    /// The fewest instances; 0 without an `instances` table.
    pub min: u32,
    /// The most instances; `None` without an `instances` table, or without `max` in it.
    pub max: Option<u32>,
    /// How many instances `run PATH` starts, where the manifest says so.
    pub default: Option<u32>,
    /// Its parameters by name.
    pub params: BTreeMap<String, At<Parameter>>,
}

/// A declared test parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameter {
    /// Its type in the plan's own words.
    pub kind: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its unit.
    pub unit: Option<String>,
    /// The value without another: text as it is, everything else as JSON.
    pub default: Option<String>,
    /// What it may be, for people, each like the default: the values of a list, and the least and the most.
    pub values: Vec<String>,
    /// The least.
    pub min: Option<String>,
    /// The most.
    pub max: Option<String>,
}

// === impl Manifest ===

impl Manifest {
    /// Reads a manifest. `Err` when it is so wrong that there is nothing to look at; other mistakes stay in the value
    /// until [`Manifest::check`] or `resolve` reports them.
    pub fn parse(file: &str, text: &str) -> Result<Manifest, Diagnostics> {
        let source = Source::new(file, text);
        let (parts, mistakes) = read_document(&source, read);
        match parts.flatten() {
            Some(parts) if !parts.testcases.is_empty() => Ok(Manifest { mistakes, ..parts }),
            _ => Err(mistakes.check::<()>(None).unwrap_err()),
        }
    }

    /// Its warnings when there is no error, all mistakes otherwise.
    pub fn check(&self) -> Result<Diagnostics, Diagnostics> {
        self.mistakes.clone().check(Some(())).map(|checked| checked.warnings)
    }

    /// The mistakes so far, for `resolve` to add to.
    pub(crate) fn mistakes(&self) -> Diagnostics {
        self.mistakes.clone()
    }

    /// The plan's name as instances and folders see it: with `/` made `-`.
    pub fn plan(&self) -> String {
        self.name.value.replace('/', "-")
    }

    /// The test case of that name.
    pub fn testcase(&self, name: &str) -> Option<&TestCase> {
        self.testcases.iter().find(|case| case.name.value == name)
    }

    /// The mistake of naming a test case that isn't there.
    pub(crate) fn no_such_case(&self, at: &Place, name: &str) -> crate::diagnostic::Diagnostic {
        let known = || self.testcases.iter().map(|case| case.name.value.as_str());
        let message =
            format!("test case {name} not found in plan {}; there are {}", self.name.value, names(known()));
        at.error(message).suggest_nearest(name, known())
    }
}

// === impl Parameter ===

impl Parameter {
    /// What an instance reads when nobody sets the parameter: SDKs were always given `null` for a missing default.
    pub fn effective_default(&self) -> &str {
        self.default.as_deref().unwrap_or("null")
    }
}

fn read(root: &TableReader<'_>, mistakes: &Mistakes) -> Option<Manifest> {
    let name = root.required("name", root.string("name"));
    root.dead("defaults", "name the builder and the runner in the composition, or on the command line");
    root.dead(
        "global",
        "a manifest has no such table; settings of builds belong in [builders], or in the composition",
    );
    let supported = |key| {
        let read = |t: &TableReader<'_>| {
            t.entries()
                .into_iter()
                .filter_map(|(key, item)| {
                    let free = |t: &TableReader<'_>| {
                        t.entries().into_iter().filter_map(|(k, v)| Some((k.value, v.free()?))).collect()
                    };
                    let settings: BTreeMap<String, At<Value>> = item.table(free)?;
                    Some((key.value, At { value: settings, place: key.place }))
                })
                .collect::<BTreeMap<_, _>>()
        };
        root.table(key, read).unwrap_or_default()
    };
    let builders = supported("builders");
    let runners = supported("runners");
    for table in builders.values().chain(runners.values()) {
        if let Some(enabled) = table.value.get("enabled") {
            mistakes.push(
                enabled
                    .place
                    .warning("`enabled` has no effect: a builder or runner is supported when it is named"),
            );
        }
    }
    if builders.is_empty() {
        mistakes.push(
            root.place()
                .error("plan supports no builders; review the manifest ([builders.\"exec:go\"] names one)"),
        );
    }
    if runners.is_empty() {
        mistakes.push(
            root.place()
                .error("plan supports no runners; review the manifest ([runners.\"local:exec\"] names one)"),
        );
    }
    let testcases: Vec<TestCase> =
        root.tables("testcases", |t| read_case(t, mistakes)).into_iter().flatten().collect();
    if testcases.is_empty() {
        mistakes
            .push(root.place().error("a plan needs a test case; [[testcases]] with a `name` declares one"));
    }
    for (i, case) in testcases.iter().enumerate() {
        if testcases[..i].iter().any(|earlier| earlier.name.value == case.name.value) {
            let message = format!("test case names not unique; found duplicate: {}", case.name.value);
            mistakes.push(case.name.place.error(message));
        }
    }
    let sources = |t: &TableReader<'_>| {
        let list = |(key, item): (At<String>, Item<'_>)| Some((key.value, item.strings()?.value));
        t.entries().into_iter().filter_map(list).collect()
    };
    let extra_sources = root.table("extra_sources", sources).unwrap_or_default();
    if let Some(name) = name.as_ref().filter(|n| !is_name(&n.value)) {
        mistakes.push(name.place.error(format!("{:?} is no name of a plan: {NAME_RULE}", name.value)));
    }
    Some(Manifest { name: name?, builders, runners, testcases, extra_sources, mistakes: Diagnostics::new() })
}

fn read_case(t: &TableReader<'_>, mistakes: &Mistakes) -> Option<TestCase> {
    let name = t.required("name", t.string("name"));
    let bounds = t.table("instances", |t| {
        // Any number may stand here, also more than a run can have: manifests say 100000 and mean "many".
        let most = u32::MAX;
        let min = t.count("min", 0, most);
        let max = t.count("max", 0, most);
        let default = t.count("default", 0, most).filter(|n| n.value > 0);
        if let (Some(min), Some(max)) = (&min, &max)
            && min.value > max.value
        {
            mistakes.push(min.place.error(format!("min ({}) is above max ({})", min.value, max.value)));
        }
        (min.map_or(0, |m| m.value), max.map(|m| m.value), default.map(|d| d.value))
    });
    let params = t.table("params", |t| {
        let read = |(key, item): (At<String>, Item<'_>)| {
            let free = |t: &TableReader<'_>, key| t.item(key).and_then(|d| d.free()).map(|d| d.value);
            let text = |t: &TableReader<'_>, key| free(t, key).map(|value| as_parameter(&value));
            let parameter = item.described(&[], |t| Parameter {
                kind: t.string("type").map(|s| s.value),
                description: t.string("desc").or_else(|| t.string("description")).map(|s| s.value),
                unit: t.string("unit").map(|s| s.value),
                default: text(t, "default"),
                values: match free(t, "values") {
                    Some(Value::Array(values)) => values.iter().map(as_parameter).collect(),
                    one => one.iter().map(as_parameter).collect(),
                },
                min: text(t, "min"),
                max: text(t, "max"),
            })?;
            Some((key.value, At { value: parameter, place: key.place }))
        };
        t.entries().into_iter().filter_map(read).collect()
    });
    if let Some(name) = name.as_ref().filter(|n| !is_name(&n.value)) {
        mistakes.push(name.place.error(format!("{:?} is no name of a test case: {NAME_RULE}", name.value)));
    }
    let (min, max, default) = bounds.unwrap_or((0, None, None));
    Some(TestCase { name: name?, min, max, default, params: params.unwrap_or_default() })
}

/// What plans, cases, groups and runs may be called.
pub(crate) const NAME_RULE: &str = "1 to 200 characters, none of them a control character";

/// Whether a text fits [`NAME_RULE`].
pub(crate) fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// A value as a test parameter: text as it is, everything else as JSON, numbers in Go's spelling.
pub(crate) fn as_parameter(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => json(other),
    }
}

fn json(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => go_float(*f),
        Value::String(s) => serde_json::Value::from(s.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Value::Table(entries) => {
            let entry =
                |(k, v): (&String, &Value)| format!("{}:{}", serde_json::Value::from(k.as_str()), json(v));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","))
        }
    }
}

/// How Go's encoding/json writes a float: like ES6, with an exponent only when very small or very large.
fn go_float(f: f64) -> String {
    let size = f.abs();
    if size != 0.0 && size.is_finite() && !(1e-6..1e21).contains(&size) {
        let text = format!("{f:e}");
        return if text.contains("e-") { text } else { text.replace('e', "e+") };
    }
    f.to_string()
}

/// The nearest of a manifest's names, for messages about builders and runners.
pub(crate) fn nearest_key<'a, T>(wrong: &str, map: &'a BTreeMap<String, T>) -> Option<&'a str> {
    nearest(wrong, map.keys().map(String::as_str))
}

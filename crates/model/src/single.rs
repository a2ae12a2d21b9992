//! `run single` and `build single`: a composition with one group `single`, put together from flags.
//!
//! Mistakes point into the flags as they were typed, one a line.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::catalogue::{BUILDERS, RUNNERS};
use crate::composition::{
    BuildSpec, Composition, DependencySpec, Global, GroupSpec, Instances, MAX_INSTANCES, ResourcesSpec,
    RunParts, check_param,
};
use crate::diagnostic::{Diagnostics, Severity, Source};
use crate::manifest::Manifest;
use crate::reader::At;
use crate::run::toml_value::Value;

/// The flags of `run single` and `build single`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Single {
    /// `--plan`.
    pub plan: String,
    /// `--testcase`; builds do without.
    pub testcase: Option<String>,
    /// `--builder`.
    pub builder: String,
    /// `--runner`; builds do without.
    pub runner: Option<String>,
    /// `--instances`.
    pub instances: u32,
    /// `--test-param k=v`, each.
    pub test_params: Vec<String>,
    /// `--build-cfg k=v`, each.
    pub build_cfg: Vec<String>,
    /// `--run-cfg k=v`, each.
    pub run_cfg: Vec<String>,
    /// `--dep module=target@version`, each; the target may be empty.
    pub dependencies: Vec<String>,
    /// `--use-build`.
    pub use_build: Option<String>,
    /// `--disable-metrics`.
    pub disable_metrics: bool,
}

/// The id of the one group.
pub const GROUP: &str = "single";

/// The name that mistakes in flags are reported under.
const COMMAND_LINE: &str = "command line";

// === impl Single ===

impl Single {
    /// What `run PATH` runs of a plan without a composition: its first test case, with as many instances as the
    /// manifest's `instances` names (`default`, else `min`, at least 1), the first runner and the first builder of the
    /// plan that can be used.
    pub fn first_case(manifest: &Manifest) -> Result<Single, Diagnostics> {
        let at = manifest.name.place.source().start();
        let ready = RUNNERS.iter().filter(|r| r.ready);
        let mut found = None;
        for runner in ready.filter(|r| manifest.runners.contains_key(r.name)) {
            let fits = |name: &&str| runner.builders.contains(name) && manifest.builders.contains_key(*name);
            found = BUILDERS
                .iter()
                .filter(|b| b.ready)
                .map(|b| b.name)
                .find(fits)
                .map(|builder| (runner.name, builder));
            if found.is_some() {
                break;
            }
        }
        let (Some((runner, builder)), Some(case)) = (found, manifest.testcases.first()) else {
            let of = |names: Vec<&str>| names.join(", ");
            let message = format!(
                "plan {} has no composition, and no builder and runner that can be used: it supports builders {} and runners {}",
                manifest.name.value,
                of(manifest.builders.keys().map(String::as_str).collect()),
                of(manifest.runners.keys().map(String::as_str).collect())
            );
            let mut mistakes = Diagnostics::new();
            mistakes.push(at.error(message));
            return Err(mistakes);
        };
        Ok(Single {
            plan: manifest.name.value.clone(),
            testcase: Some(case.name.value.clone()),
            builder: builder.to_owned(),
            runner: Some(runner.to_owned()),
            instances: case.default.unwrap_or(case.min).max(1),
            ..Single::default()
        })
    }

    /// The composition that the flags stand for; mistakes in them are reported by `resolve`, or by
    /// [`Composition::check`].
    pub fn composition(&self) -> Composition {
        Flags::new(self).composition(self)
    }
}

/// The flags as a text that mistakes can point into.
struct Flags {
    source: Source,
    spans: Vec<(&'static str, Range<usize>)>,
    mistakes: Diagnostics,
}

// === impl Flags ===

impl Flags {
    fn new(single: &Single) -> Flags {
        let mut text = String::new();
        let mut spans = Vec::new();
        let mut add = |flag: &'static str, value: &str| {
            text.push_str(&format!("--{flag} "));
            spans.push((flag, text.len()..text.len() + value.len()));
            text.push_str(value);
            text.push('\n');
        };
        add("plan", &single.plan);
        add("builder", &single.builder);
        add("instances", &single.instances.to_string());
        let one =
            [("testcase", &single.testcase), ("runner", &single.runner), ("use-build", &single.use_build)];
        for (flag, value) in one {
            if let Some(value) = value {
                add(flag, value);
            }
        }
        let many = [
            ("test-param", &single.test_params),
            ("build-cfg", &single.build_cfg),
            ("run-cfg", &single.run_cfg),
            ("dep", &single.dependencies),
        ];
        for (flag, values) in many {
            values.iter().for_each(|value| add(flag, value));
        }
        Flags { source: Source::new(COMMAND_LINE, text), spans, mistakes: Diagnostics::new() }
    }

    fn composition(mut self, single: &Single) -> Composition {
        let instances = self.values("instances").remove(0);
        if !(1..=MAX_INSTANCES).contains(&single.instances) {
            let message = format!("{} is out of range: 1 to {MAX_INSTANCES} is allowed", single.instances);
            self.mistakes.push(instances.place.error(message));
        }
        let test_params = self.params();
        let run_config = self.settings("run-cfg");
        let build = BuildSpec {
            config: self.settings("build-cfg"),
            selectors: None,
            dependencies: self.dependencies(),
        };
        let artifact = self.values("use-build").pop();
        let one = |flag| self.values(flag).pop();
        let plan =
            one("plan").unwrap_or_else(|| At { value: single.plan.clone(), place: instances.place.clone() });
        let global = Global {
            case: one("testcase"),
            runner: one("runner"),
            builder: None,
            total_instances: None,
            concurrent_builds: None,
            disable_metrics: single.disable_metrics,
            build: BuildSpec::default(),
            run_config,
            run: RunParts::default(),
            plan,
        };
        let group = GroupSpec {
            id: At { value: GROUP.to_owned(), place: instances.place.clone() },
            builder: one("builder"),
            build,
            resources: ResourcesSpec::default(),
            instances: Some(Instances::Count(instances.with(single.instances))),
            run: RunParts { artifact, test_params, profiles: BTreeMap::new() },
            regions: Vec::new(),
            pod: None,
        };
        Composition::from_parts(self.source, global, vec![group], self.mistakes)
    }

    /// The values of a flag, each with its place.
    fn values(&self, flag: &str) -> Vec<At<String>> {
        let of = self.spans.iter().filter(|(name, _)| *name == flag);
        of.map(|(name, span)| At {
            value: self.source.text()[span.clone()].to_owned(),
            place: self.source.place(span.clone(), format!("--{name}")),
        })
        .collect()
    }

    /// The `k=v` of a flag; the last one of equal names counts.
    fn pairs(&mut self, flag: &str) -> Vec<(String, At<String>)> {
        let mut pairs = Vec::new();
        for text in self.values(flag) {
            match text.value.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    pairs.push((key.to_owned(), text.with(value.to_owned())));
                }
                _ => self
                    .mistakes
                    .push(text.place.error(format!("{:?} is no setting: key=value is expected", text.value))),
            }
        }
        pairs
    }

    fn params(&mut self) -> BTreeMap<String, At<String>> {
        let mut params = BTreeMap::new();
        for (name, value) in self.pairs("test-param") {
            let found = check_param([&value.place; 2], &name, &value.value);
            if !found.iter().any(|d| d.severity == Severity::Error) {
                params.insert(name, value);
            }
            found.into_iter().for_each(|d| self.mistakes.push(d));
        }
        params
    }

    fn settings(&mut self, flag: &str) -> BTreeMap<String, At<Value>> {
        let typed = |(key, value): (String, At<String>)| (key, value.with(typed_value(&value.value)));
        self.pairs(flag).into_iter().map(typed).collect()
    }

    fn dependencies(&mut self) -> Vec<DependencySpec> {
        let mut dependencies = Vec::new();
        for (module, text) in self.pairs("dep") {
            match text.value.split_once('@') {
                Some((target, version)) if !version.contains('@') && !version.is_empty() => {
                    dependencies.push(DependencySpec {
                        module: text.with(module),
                        target: Some(target.to_owned()).filter(|t| !t.is_empty()),
                        version: version.to_owned(),
                    });
                }
                _ => {
                    let message = format!(
                        "{:?} is no dependency: module=target@version is expected (the target may be empty)",
                        text.value
                    );
                    self.mistakes.push(text.place.error(message));
                }
            }
        }
        dependencies
    }
}

/// The type of a `k=v` flag's value as scripts rely on it: an integer, a float, a boolean, a text in quotes, a text.
pub fn typed_value(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>() {
        return Value::Integer(integer);
    }
    let is_number = text.bytes().any(|b| b.is_ascii_digit());
    if let (true, Ok(float)) = (is_number, text.parse::<f64>()) {
        return Value::Float(float);
    }
    // strconv.ParseBool; its numbers are integers by now.
    match text {
        "t" | "T" | "true" | "TRUE" | "True" => return Value::Bool(true),
        "f" | "F" | "false" | "FALSE" | "False" => return Value::Bool(false),
        _ => {}
    }
    Value::String(unquote(text).unwrap_or_else(|| text.to_owned()))
}

/// Takes Go's quotes off: `"…"` with escapes, `` `…` `` raw, `'c'` one character. `None` when there are none.
pub(crate) fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next()?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    match quote {
        '`' => (!inner.contains('`')).then(|| inner.replace('\r', "")),
        '"' | '\'' => {
            let text = unescape(inner, quote)?;
            (quote == '"' || text.chars().count() == 1).then_some(text)
        }
        _ => None,
    }
}

/// The escapes of a Go string literal. Bytes that are no UTF-8 are replaced.
fn unescape(inner: &str, quote: char) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == quote || c == '\n' {
            return None;
        }
        if c != '\\' {
            bytes.extend(c.to_string().bytes());
            continue;
        }
        let character = |c: char, bytes: &mut Vec<u8>| bytes.extend(c.to_string().bytes());
        match chars.next()? {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            c @ ('\'' | '"') if c == quote => bytes.push(c as u8),
            'x' => bytes.push(digits(&mut chars, None, 2, 16)? as u8),
            'u' => character(char::from_u32(digits(&mut chars, None, 4, 16)?)?, &mut bytes),
            'U' => character(char::from_u32(digits(&mut chars, None, 8, 16)?)?, &mut bytes),
            c @ '0'..='7' => bytes.push(u8::try_from(digits(&mut chars, Some(c), 2, 8)?).ok()?),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn digits(chars: &mut std::str::Chars<'_>, first: Option<char>, count: usize, radix: u32) -> Option<u32> {
    let text: String = first.into_iter().chain(chars.by_ref().take(count)).collect();
    let complete = text.chars().count() == count + usize::from(first.is_some());
    if complete && text.chars().all(|c| c.is_digit(radix)) {
        u32::from_str_radix(&text, radix).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::composition::Files;
    use crate::resolve::{Overrides, resolve};

    const MANIFEST: &str = "name = \"p\"\n[builders.\"docker:go\"]\n[builders.\"exec:go\"]\nexec_pkg = \"./m\"\n[builders.\"exec:generic\"]\n[runners.\"local:docker\"]\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"c\"\ninstances = { min = 1, max = 9, default = 4 }\n";

    fn flags() -> Single {
        let text = |s: &str| Some(s.to_owned());
        Single {
            plan: "p".into(),
            testcase: text("c"),
            builder: "exec:go".into(),
            runner: text("local:exec"),
            instances: 2,
            ..Single::default()
        }
    }

    fn shown(single: &Single) -> Result<crate::run::Run, String> {
        let manifest = Manifest::parse("manifest.toml", MANIFEST).unwrap();
        let resolved = resolve(&manifest, &single.composition(), &Files::new(), &Overrides::default());
        resolved.map(|mut c| c.value.remove(0)).map_err(|e| e.render())
    }

    #[test]
    fn values_of_flags_are_typed_as_before() {
        let text = |s: &str| Value::String(s.to_owned());
        for (typed, value) in [
            ("5", Value::Integer(5)),
            ("-5", Value::Integer(-5)),
            ("0.5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("true", Value::Bool(true)),
            ("F", Value::Bool(false)),
            ("yes", text("yes")),
            ("nan", text("nan")),
            ("\"5\"", text("5")),
            ("\"a\\tb\\u00e4\\x41\"", text("a\tbäA")),
            ("`a\\n`", text("a\\n")),
            ("'x'", text("x")),
            ("'xy'", text("'xy'")),
            ("\"open", text("\"open")),
            ("\"\\q\"", text("\"\\q\"")),
            ("", text("")),
        ] {
            assert_eq!(typed_value(typed), value, "{typed}");
        }
    }

    #[test]
    fn flags_become_one_group() {
        let single = Single {
            test_params: vec!["a=1".into(), "b=x=y".into(), "a=2".into()],
            build_cfg: vec!["exec_pkg=./other".into(), "fresh_gomod=true".into()],
            run_cfg: vec!["timeout=7".into(), "grace=\"3s\"".into()],
            dependencies: vec!["m=@v1".into(), "n=fork@v2".into()],
            use_build: Some("/artifact".into()),
            ..flags()
        };
        let run = shown(&single).unwrap();
        let group = &run.groups[0];
        assert_eq!((group.id.as_str(), group.instances, run.instance_count()), ("single", 2, 2));
        assert_eq!((group.params["a"].as_str(), group.params["b"].as_str()), ("2", "x=y"));
        assert_eq!(group.build.config["exec_pkg"], Value::String("./other".into()));
        assert_eq!(group.build.config["fresh_gomod"], Value::Bool(true));
        assert_eq!(group.build.dependencies["m"].target, None);
        assert_eq!(group.build.dependencies["n"].target.as_deref(), Some("fork"));
        assert_eq!(group.build.artifact.as_deref(), Some("/artifact"));
        assert_eq!((run.settings.timeout.as_secs(), run.settings.grace.as_secs()), (7, 3));
    }

    #[test]
    fn mistakes_point_into_the_flags() {
        for (single, says) in [
            (Single { test_params: vec!["a".into()], ..flags() }, "--test-param a"),
            (Single { test_params: vec!["a=x|y".into()], ..flags() }, "holds `|`"),
            (Single { dependencies: vec!["m=v1".into()], ..flags() }, "module=target@version"),
            (Single { dependencies: vec!["m=a@b@c".into()], ..flags() }, "module=target@version"),
            (Single { run_cfg: vec!["timout=1".into()], ..flags() }, "did you mean `timeout`?"),
            (Single { build_cfg: vec!["exec_pgk=1".into()], ..flags() }, "did you mean `exec_pkg`?"),
            (Single { testcase: Some("d".into()), ..flags() }, "test case d not found in plan p"),
            (
                Single { instances: 10, ..flags() },
                "total instance count (10) outside of allowable range [1, 9]",
            ),
            (Single { instances: 0, ..flags() }, "0 is out of range"),
            (Single { builder: "exec:goo".into(), ..flags() }, "did you mean `exec:go`?"),
        ] {
            let found = shown(&single).unwrap_err();
            assert!(found.contains(says) && found.contains("command line:"), "{found}");
            assert!(found.contains("1 error"), "{found}");
        }
    }

    #[test]
    fn the_first_case_runs_with_what_can_be_used() {
        let manifest = Manifest::parse("manifest.toml", MANIFEST).unwrap();
        let first = Single::first_case(&manifest).unwrap();
        assert_eq!((first.testcase.as_deref(), first.instances), (Some("c"), 4));
        assert_eq!((first.builder.as_str(), first.runner.as_deref()), ("exec:generic", Some("local:exec")));
        let docker = MANIFEST.replace("[runners.\"local:exec\"]", "");
        let refused = Single::first_case(&Manifest::parse("m", &docker).unwrap()).unwrap_err().render();
        assert!(refused.contains("no builder and runner that can be used"), "{refused}");
    }
}

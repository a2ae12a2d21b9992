//! A plan to resolve compositions against, and short ways to do so.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use testground_model::composition::{Composition, Files};
use testground_model::diagnostic::{Diagnostic, Diagnostics, Severity};
use testground_model::manifest::Manifest;
use testground_model::resolve::{Overrides, resolve};
use testground_model::run::Run;

pub(crate) const MANIFEST: &str = r#"
name = "network/ping"

[builders."exec:go"]
module_path = "example.org/ping"

[builders."exec:generic"]
program = "plan.sh"

[runners."local:exec"]
timeout = "3m"
grace = 1

[[testcases]]
name = "ping-pong"
instances = { min = 2, max = 20, default = 2 }

  [testcases.params]
  count = { type = "int", desc = "pings", unit = "pings", default = 5 }
  secure = { type = "bool", desc = "encrypt", default = false }
  label = { type = "string", desc = "a label", default = "plain" }
  peers = { type = "json", desc = "peers", default = ["a", "b"] }

[[testcases]]
name = "any"
"#;

/// The head of a composition: two groups, `a` with 2 instances and `b` with 3.
pub(crate) const HEAD: &str = r#"
[global]
plan = "network/ping"
case = "any"
builder = "exec:generic"
runner = "local:exec"

[[groups]]
id = "a"
instances = { count = 2 }

[[groups]]
id = "b"
instances = { count = 3 }
"#;

pub(crate) fn manifest() -> Manifest {
    Manifest::parse("manifest.toml", MANIFEST).unwrap()
}

pub(crate) fn attempt(text: &str, files: &Files) -> Result<(Vec<Run>, Diagnostics), Diagnostics> {
    let composition = Composition::parse("c.toml", text)?;
    let checked = resolve(&manifest(), &composition, files, &Overrides::default())?;
    Ok((checked.value, checked.warnings))
}

/// The runs of a text without an error.
pub(crate) fn runs(text: &str) -> Vec<Run> {
    attempt(text, &Files::new()).unwrap_or_else(|e| panic!("{e}")).0
}

/// The only run of [`HEAD`] and what follows.
pub(crate) fn run(tail: &str) -> Run {
    let mut runs = runs(&format!("{HEAD}{tail}"));
    assert_eq!(runs.len(), 1);
    runs.remove(0)
}

/// The errors of a text, as `line:column: message`.
pub(crate) fn errors(text: &str) -> Vec<String> {
    let found = attempt(text, &Files::new()).err().unwrap_or_default();
    let show = |d: &Diagnostic| format!("{}:{}: {}", d.line, d.column, d.message);
    found.iter().filter(|d| d.severity == Severity::Error).map(show).collect()
}

/// The only error of [`HEAD`] and what follows: its line counted after the head, its column, its message.
pub(crate) fn error(tail: &str) -> (usize, usize, String) {
    let found = attempt(&format!("{HEAD}{tail}"), &Files::new()).expect_err("an error is expected");
    let found: Vec<&Diagnostic> = found.iter().filter(|d| d.severity == Severity::Error).collect();
    let [only] = found[..] else { panic!("{found:#?}") };
    let message = match &only.suggestion {
        Some(name) => format!("{} [{name}]", only.message),
        None => only.message.clone(),
    };
    (only.line - HEAD.lines().count(), only.column, message)
}

/// The warnings of [`HEAD`] and what follows.
pub(crate) fn warnings(tail: &str) -> Vec<String> {
    let (_, found) = attempt(&format!("{HEAD}{tail}"), &Files::new()).unwrap_or_else(|e| panic!("{e}"));
    found.iter().map(|d| d.message.clone()).collect()
}

//! `testground describe`: what a plan says about itself.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use testground_engine::home::{Home, find_plan};
use testground_engine::text::read_text;
use testground_model::manifest::{Manifest, Parameter, TestCase};
use testground_model::outcome::ExitCode;

use super::dynamic;

/// Describe a plan: its builders and runners, its test cases, their parameters and compositions.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plan: a directory, or a name in $TESTGROUND_HOME/plans.
    #[arg(short, long, required_unless_present = "path", conflicts_with = "path", add = dynamic::plans())]
    plan: Option<String>,
    /// The same without the flag.
    #[arg(add = dynamic::plans())]
    path: Option<String>,
}

/// Prints the description; warnings of the manifest go to standard error.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let typed = args.plan.as_ref().or(args.path.as_ref()).context("no plan is named")?;
    let home = Home::open(|name| std::env::var_os(name))?;
    let plan = find_plan(&home, typed, &std::env::current_dir()?, None)?;
    let text =
        read_text(&plan.manifest).with_context(|| format!("{} can't be read", plan.manifest.display()))?;
    let manifest =
        Manifest::parse(&plan.manifest.display().to_string(), &text).map_err(|e| anyhow!("{e}"))?;
    let warnings = manifest.check().map_err(|e| anyhow!("{e}"))?;
    eprint!("{warnings}");
    print!("{}", description(&manifest, &plan.dir, &compositions(&plan.dir)));
    Ok(ExitCode::Success)
}

fn description(manifest: &Manifest, dir: &Path, compositions: &[String]) -> String {
    let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut out = String::new();
    let _ = writeln!(out, "plan          {}", manifest.name.value);
    let _ = writeln!(out, "directory     {}", dir.display());
    let _ = writeln!(out, "builders      {}", list(manifest.builders.keys().map(String::as_str).collect()));
    let _ = writeln!(out, "runners       {}", list(manifest.runners.keys().map(String::as_str).collect()));
    let _ = writeln!(out, "compositions  {}", list(compositions.iter().map(String::as_str).collect()));
    for case in &manifest.testcases {
        describe_case(&mut out, case);
    }
    out
}

fn describe_case(out: &mut String, case: &TestCase) {
    let _ = writeln!(out, "\ncase {}", case.name.value);
    let mut instances = match case.max {
        Some(max) => format!("{} to {max}", case.min.max(1)),
        None => format!("{} or more", case.min.max(1)),
    };
    if let Some(default) = case.default {
        let _ = write!(instances, ", {default} unless told otherwise");
    }
    let _ = writeln!(out, "  instances   {instances}");
    for (name, parameter) in &case.params {
        let parameter = &parameter.value;
        let mut about: Vec<String> = Vec::new();
        about.extend(parameter.kind.clone());
        about.extend(parameter.unit.as_deref().map(|unit| unit.trim().to_owned()));
        about.extend(parameter.description.clone());
        about.extend(allowed(parameter));
        let _ = write!(out, "  {name} = {}", parameter.effective_default());
        let about = if about.is_empty() { String::new() } else { format!("   ({})", about.join("; ")) };
        let _ = writeln!(out, "{about}");
    }
}

/// What the manifest says that a parameter may be.
fn allowed(parameter: &Parameter) -> Vec<String> {
    let range = match (&parameter.min, &parameter.max) {
        (Some(min), Some(max)) => Some(format!("{min} to {max}")),
        (Some(min), None) => Some(format!("{min} or more")),
        (None, Some(max)) => Some(format!("{max} at most")),
        (None, None) => None,
    };
    let values = &parameter.values;
    range.into_iter().chain((!values.is_empty()).then(|| format!("one of {}", values.join(", ")))).collect()
}

/// Files of the plan that look like compositions: TOML with groups in it.
fn compositions(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for sub in ["", "compositions", "_compositions"] {
        for entry in std::fs::read_dir(dir.join(sub)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".toml") || name == "manifest.toml" || !entry.path().is_file() {
                continue;
            }
            let text = read_text(&entry.path()).unwrap_or_default();
            if text.lines().any(|line| line.trim_start().starts_with("[[groups]]")) {
                found.push(Path::new(sub).join(name).display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_names_all_that_can_be_chosen() {
        let text = r#"
name = "net/ping"
[builders."exec:go"]
[runners."local:exec"]
[[testcases]]
name = "ping"
instances = { min = 2, max = 9, default = 3 }
[testcases.params]
size = { type = "int", unit = "bytes", desc = "of a ping", default = 64, min = 1, max = 1500 }
codec = { type = "enum", values = ["json", "cbor"], default = "json" }
rate = { min = 0.5 }
most = { max = "1h" }
bare = {}
"#;
        let manifest = Manifest::parse("manifest.toml", text).expect("a manifest");
        let words = description(&manifest, Path::new("/plans/ping"), &["composition.toml".to_owned()]);
        let expected = "\
plan          net/ping
directory     /plans/ping
builders      exec:go
runners       local:exec
compositions  composition.toml

case ping
  instances   2 to 9, 3 unless told otherwise
  bare = null
  codec = json   (enum; one of json, cbor)
  most = null   (1h at most)
  rate = null   (0.5 or more)
  size = 64   (int; bytes; of a ping; 1 to 1500)
";
        assert_eq!(words, expected);
    }
}

//! Which SDK a group is written with, and what follows for the groups beside it.
//!
//! The SDKs of the languages start differently, so that some mixes wait for ever. What is known of a group is what its
//! sources say: go.mod, Cargo.toml or package.json name the SDK. This is for warnings only; nothing depends on it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use testground_model::run::{Build, Group, Run, toml_value::Value};

use super::source::{Take, Tree};

/// The longest message that sdk-go reads, in bytes.
pub const SDK_GO_MESSAGE: u64 = 32_768;
/// The state that every instance of sdk-go and of the Rust SDK signals at its start.
const INITIALIZED: &str = "initialized_global";
/// Longer files are no sources.
const LONGEST_SOURCE: u64 = 1 << 20;

/// A published SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// `github.com/testground/sdk-go`.
    Go,
    /// The crate `testground`.
    Rust,
    /// The npm package `@testground/sdk`.
    JavaScript,
}

/// The SDK that a build's sources name.
pub fn of(build: &Build, plan: &Path) -> Option<Sdk> {
    let folder = folder(build, plan);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    match build.builder.as_str() {
        "exec:go" => {
            let file = setting(build, "modfile").unwrap_or("go.mod");
            read(file).contains("github.com/testground/sdk-go").then_some(Sdk::Go)
        }
        "exec:rust" => read("Cargo.toml").lines().any(names_the_crate).then_some(Sdk::Rust),
        "exec:node" => read("package.json").contains("\"@testground/sdk\"").then_some(Sdk::JavaScript),
        _ => None,
    }
}

/// What is to be said of a run's mix of SDKs before it starts.
pub fn warnings(run: &Run, plan: &Path) -> Vec<String> {
    let groups: Vec<(&Group, Option<Sdk>)> =
        run.groups.iter().filter(|g| g.pod.is_none()).map(|g| (g, of(&g.build, plan))).collect();
    let of_sdk =
        |wanted| groups.iter().find(|(_, sdk)| *sdk == Some(wanted)).map(|(group, _)| group.id.as_str());
    let mut warnings = Vec::new();
    if let Some(rust) = of_sdk(Sdk::Rust) {
        let silent = groups.iter().filter(|(group, sdk)| {
            !matches!(sdk, Some(Sdk::Go | Sdk::Rust)) && !mentions(&folder(&group.build, plan), INITIALIZED)
        });
        let silent: Vec<&str> = silent.map(|(group, _)| group.id.as_str()).collect();
        if !silent.is_empty() {
            warnings.push(format!(
                "the Rust SDK of group {rust} waits at its start until every instance of the run has signalled \
                 `{INITIALIZED}`, and nothing in the sources of group {} does: unless it is signalled, the run stalls \
                 (docs/sdks.md)",
                silent.join(", ")
            ));
        }
    }
    if let (Some(go), true) = (of_sdk(Sdk::Go), run.settings.max_message > SDK_GO_MESSAGE) {
        warnings.push(format!(
            "max_message is {} bytes, and sdk-go of group {go} reads at most {SDK_GO_MESSAGE}: a longer message that \
             reaches it ends its connection",
            run.settings.max_message
        ));
    }
    warnings
}

fn setting<'b>(build: &'b Build, key: &str) -> Option<&'b str> {
    match build.config.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn folder(build: &Build, plan: &Path) -> PathBuf {
    plan.join(setting(build, "path").unwrap_or_default())
}

/// Whether a line of Cargo.toml is about the crate `testground`, under whatever name.
fn names_the_crate(line: &str) -> bool {
    let line: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
    let is_key = line.strip_prefix("testground").is_some_and(|rest| rest.starts_with(['=', '.']));
    is_key || line.ends_with("dependencies.testground]") || line.contains("package=\"testground\"")
}

/// Whether any source below a directory has these words.
fn mentions(dir: &Path, words: &str) -> bool {
    let Ok(tree) = Tree::list(dir, &Take::Sources) else { return false };
    let holds = |path: PathBuf| {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST_SOURCE).read_to_end(&mut text));
        read.is_ok() && text.windows(words.len()).any(|window| window == words.as_bytes())
    };
    tree.files().any(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_is_found_however_it_is_written() {
        for line in [
            "testground = \"0.4.0\"",
            "testground.version = \"0.4\"",
            "[dependencies.testground]",
            "  [ target.x.dependencies.testground ] # why",
            "tg = { package = \"testground\", version = \"0.4\" }",
        ] {
            assert!(names_the_crate(line), "{line}");
        }
        for line in ["testground-helpers = \"1\"", "# testground = \"1\"", "name = \"testground\""] {
            assert!(!names_the_crate(line), "{line}");
        }
    }
}

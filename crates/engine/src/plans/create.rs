//! New plans, each of which runs at once.
//!
//! Templates are text files beside this one, in which `{{name}}` and the like stand for what differs. Files that say
//! which versions of libraries are taken come from the example plans, whose tests keep them true.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{PlansError, free_place};

/// The language of a new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Go, with its SDK.
    Go,
    /// JavaScript for Node, with its SDK.
    Js,
    /// Rust, with its SDK.
    Rust,
    /// A shell script, with the command line for coordination.
    Shell,
}

/// A file of a template.
struct Template {
    name: &'static str,
    text: &'static str,
    executable: bool,
}

const fn file(name: &'static str, text: &'static str) -> Template {
    Template { name, text, executable: false }
}

/// What every plan has.
const COMMON: &[Template] = &[
    file("manifest.toml", include_str!("templates/manifest.toml")),
    file("composition.toml", include_str!("templates/composition.toml")),
    file("README.md", include_str!("templates/README.md")),
    file(".testgroundignore", include_str!("templates/ignore.txt")),
];

const GO: &[Template] = &[
    file("main.go", include_str!("templates/main.go.txt")),
    file("go.mod", include_str!("../../../../plans/ping-go/go.mod")),
    file("go.sum", include_str!("../../../../plans/ping-go/go.sum")),
];

const JS: &[Template] = &[
    file("main.js", include_str!("templates/main.js")),
    file("package.json", include_str!("../../../../plans/ping-js/package.json")),
    file("package-lock.json", include_str!("../../../../plans/ping-js/package-lock.json")),
];

const RUST: &[Template] = &[
    file("src/main.rs", include_str!("templates/main.rs.txt")),
    file("Cargo.toml", include_str!("../../../../plans/ping-rust/Cargo.toml")),
    file("Cargo.lock", include_str!("../../../../plans/ping-rust/Cargo.lock")),
];

const SHELL: &[Template] =
    &[Template { name: "plan.sh", text: include_str!("templates/plan.sh"), executable: true }];

/// What the example plans call themselves in the files above. A new plan's package is simply `plan`: not every plan's
/// name is one for a package.
const PACKAGES: [&str; 2] = ["\"ping-js\"", "\"ping-rust\""];
/// The module of the plan that the go.mod above is from.
const GO_MODULE: &str = "github.com/testground/testground/plans/ping-go";

// === impl Target ===

impl Target {
    fn files(self) -> impl Iterator<Item = &'static Template> {
        let own = match self {
            Target::Go => GO,
            Target::Js => JS,
            Target::Rust => RUST,
            Target::Shell => SHELL,
        };
        COMMON.iter().chain(own)
    }

    fn builder(self) -> &'static str {
        match self {
            Target::Go => "exec:go",
            Target::Js => "exec:node",
            Target::Rust => "exec:rust",
            Target::Shell => "exec:generic",
        }
    }

    /// Settings of the builder, whole lines.
    fn settings(self) -> &'static str {
        if self == Target::Shell { "program = \"plan.sh\"\n" } else { "" }
    }

    /// What the README says of the program's source.
    fn source(self) -> &'static str {
        match self {
            Target::Go => "`main.go`: one instance, with the SDK for Go (`github.com/testground/sdk-go`)",
            Target::Js => "`main.js`: one instance, with the SDK for JavaScript (`@testground/sdk`)",
            Target::Rust => "`src/main.rs`: one instance, with the SDK for Rust (`testground`)",
            Target::Shell => "`plan.sh`: one instance, without any SDK",
        }
    }
}

/// Makes a plan; gives its directory. `root` is where plans are, `module` the module's path of a Go plan.
///
/// # Errors
/// When the name or the module is none, something of that name is there, or it can't be written; then nothing is left.
pub fn create(root: &Path, name: &str, target: Target, module: &str) -> Result<PathBuf, PlansError> {
    let is_module = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '/');
    if module.is_empty() || !module.chars().all(is_module) || module.starts_with(['/', '-']) {
        return Err(PlansError::Module(module.to_owned()));
    }
    let path = free_place(root, name)?;
    let failed = |doing, path: &Path, source| PlansError::Io { doing, path: path.to_owned(), source };
    // Beside its place and hidden: a plan is there as a whole or not at all.
    let half = tempfile::Builder::new().prefix(".create-").tempdir_in(root);
    let half = half.map_err(|e| failed("make a directory in", root, e))?;
    let dir = half.path().join("plan");
    fs::create_dir(&dir).map_err(|e| failed("make", &dir, e))?;
    for template in target.files() {
        let place = dir.join(template.name);
        let text = filled(template.text, target, name, module);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(|e| failed("make", parent, e))?;
        }
        fs::write(&place, text).map_err(|e| failed("write", &place, e))?;
        if template.executable {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&place, mode).map_err(|e| failed("change", &place, e))?;
        }
    }
    fs::rename(&dir, &path).map_err(|e| failed("make", &path, e))?;
    Ok(path)
}

fn filled(text: &str, target: Target, name: &str, module: &str) -> String {
    let text = text
        .replace("{{name}}", name)
        .replace("{{builder}}", target.builder())
        .replace("{{settings}}", target.settings())
        .replace("{{source}}", target.source())
        .replace(GO_MODULE, module);
    PACKAGES.iter().fold(text, |text, package| text.replace(package, "\"plan\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use testground_model::composition::Composition;
    use testground_model::manifest::Manifest;

    #[test]
    fn every_template_is_filled_in_and_its_files_are_read_without_a_warning() {
        let t = tempfile::tempdir().expect("a directory");
        let all = [
            (Target::Go, "net/ping-1"),
            (Target::Js, "js"),
            (Target::Rust, "rust"),
            (Target::Shell, "shell"),
        ];
        for (target, name) in all {
            let dir = create(t.path(), name, target, "example.org/x").expect("created");
            let read = |file: &str| fs::read_to_string(dir.join(file)).expect("a file");
            for Template { name: file, .. } in target.files() {
                let text = read(file);
                assert!(!text.contains("{{") && !text.contains("\"ping-"), "{target:?} {file}");
            }
            let manifest = Manifest::parse("manifest.toml", &read("manifest.toml")).expect("a manifest");
            assert_eq!(manifest.name.value, name);
            assert!(manifest.check().expect("no mistake").is_empty(), "{target:?}");
            let composition = Composition::parse("c", &read("composition.toml")).expect("a composition");
            assert_eq!(composition.global.plan.value, name);
            assert!(matches!(create(t.path(), name, target, "x"), Err(PlansError::Exists { .. })));
        }
        assert!(
            fs::read_to_string(t.path().join("net/ping-1/go.mod"))
                .expect("a file")
                .starts_with("module example.org/x\n")
        );
        for module in ["", "a b", "/x", "-x", "x\ny"] {
            assert!(
                matches!(create(t.path(), "m", Target::Go, module), Err(PlansError::Module(_))),
                "{module:?}"
            );
        }
        assert_eq!(fs::read_dir(t.path()).expect("a directory").count(), 4, "nothing half made is left");
    }
}

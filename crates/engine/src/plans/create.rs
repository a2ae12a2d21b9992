//! New plans, each of which runs at once.
//!
//! A template is a directory of text files beside this one; `{{name}}` and `{{module}}` stand for what was typed. Files
//! that say which versions of libraries are taken come from the example plans, whose tests keep them true.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{PlansError, free_place};

/// The language of a new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Go, with its SDK.
    Go,
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

const SHELL: &[Template] = &[
    file("manifest.toml", include_str!("templates/shell/manifest.toml")),
    file("composition.toml", include_str!("templates/shell/composition.toml")),
    Template { name: "plan.sh", text: include_str!("templates/shell/plan.sh"), executable: true },
    file("README.md", include_str!("templates/shell/README.md")),
    file(".testgroundignore", include_str!("templates/testgroundignore")),
];

const GO: &[Template] = &[
    file("manifest.toml", include_str!("templates/go/manifest.toml")),
    file("composition.toml", include_str!("templates/go/composition.toml")),
    file("main.go", include_str!("templates/go/main.go.txt")),
    file("go.mod", include_str!("../../../../plans/ping-go/go.mod")),
    file("go.sum", include_str!("../../../../plans/ping-go/go.sum")),
    file("README.md", include_str!("templates/go/README.md")),
    file(".testgroundignore", include_str!("templates/testgroundignore")),
];

/// The module of the plan that the go.mod above is from.
const GO_MODULE: &str = "github.com/testground/testground/plans/ping-go";

// === impl Target ===

impl Target {
    fn files(self) -> &'static [Template] {
        match self {
            Target::Go => GO,
            Target::Shell => SHELL,
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
        let text = filled(template.text, name, module);
        fs::write(&place, text).map_err(|e| failed("write", &place, e))?;
        if template.executable {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&place, mode).map_err(|e| failed("change", &place, e))?;
        }
    }
    fs::rename(&dir, &path).map_err(|e| failed("make", &path, e))?;
    Ok(path)
}

fn filled(text: &str, name: &str, module: &str) -> String {
    text.replace("{{name}}", name).replace("{{module}}", module).replace(GO_MODULE, module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use testground_model::composition::Composition;
    use testground_model::manifest::Manifest;

    #[test]
    fn every_template_is_filled_in_and_its_files_are_read_without_a_warning() {
        let t = tempfile::tempdir().expect("a directory");
        for (target, name) in [(Target::Go, "net/ping-1"), (Target::Shell, "shell")] {
            let dir = create(t.path(), name, target, "example.org/x").expect("created");
            let read = |file: &str| fs::read_to_string(dir.join(file)).expect("a file");
            for entry in fs::read_dir(&dir).expect("a directory") {
                let entry = entry.expect("an entry").file_name().into_string().expect("a name");
                assert!(!read(&entry).contains("{{"), "{target:?} {entry}");
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
        assert_eq!(fs::read_dir(t.path()).expect("a directory").count(), 2, "nothing half made is left");
    }
}

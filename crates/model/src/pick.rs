//! What `run PATH` runs: the plan's only composition, `default.toml` or `composition.toml`, else its first test case.
//!
//! Only names are looked at here; directories are listed by the caller.

/// What was picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// This composition, a path relative to the plan.
    Composition(String),
    /// The manifest's first test case. `passed_over` are compositions that were not taken, since none of several is
    /// called `default` or `composition`.
    FirstCase {
        /// Their paths relative to the plan.
        passed_over: Vec<String>,
    },
}

/// Directories of a plan that compositions lie in, besides the plan's own.
pub const COMPOSITION_DIRS: [&str; 2] = ["compositions", "_compositions"];

/// TOML files that plans carry for other tools.
const OTHERS: [&str; 13] = [
    "manifest.toml",
    "Cargo.toml",
    "clippy.toml",
    "rustfmt.toml",
    "rust-toolchain.toml",
    "deny.toml",
    "cross.toml",
    "pyproject.toml",
    "netlify.toml",
    "bunfig.toml",
    "deno.toml",
    "fly.toml",
    "typos.toml",
];

/// Picks from the names of a plan's files, relative to the plan, with `/` between parts.
pub fn pick<'a>(files: impl IntoIterator<Item = &'a str>) -> Pick {
    let mut compositions: Vec<&str> = files.into_iter().filter(|file| is_composition(file)).collect();
    compositions.sort_unstable();
    compositions.dedup();
    if let [only] = compositions[..] {
        return Pick::Composition(only.to_owned());
    }
    let called = |name: &str| compositions.iter().find(|file| stem(file) == name).map(|f| (*f).to_owned());
    // Every new plan has a `composition.toml`: a second file beside it must not make it count for nothing.
    match called("default").or_else(|| called("composition")) {
        Some(default) => Pick::Composition(default),
        None => Pick::FirstCase { passed_over: compositions.into_iter().map(str::to_owned).collect() },
    }
}

/// Whether a file of a plan is a composition, by its name: `*.toml` in the plan's own directory or in one of
/// [`COMPOSITION_DIRS`], unless it belongs to a known tool or is hidden.
pub fn is_composition(file: &str) -> bool {
    let (dir, name) = file.rsplit_once('/').unwrap_or(("", file));
    let in_place = dir.is_empty() || COMPOSITION_DIRS.contains(&dir);
    let other = dir.is_empty() && OTHERS.iter().any(|o| o.eq_ignore_ascii_case(name));
    in_place && name.len() > 5 && name.ends_with(".toml") && !name.starts_with('.') && !other
}

fn stem(file: &str) -> &str {
    let name = file.rsplit_once('/').map_or(file, |(_, name)| name);
    name.strip_suffix(".toml").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_composition_is_picked_and_else_the_one_of_a_usual_name() {
        let only =
            ["manifest.toml", "Cargo.toml", "main.go", "_compositions/two.toml", ".env.toml", "data/x.toml"];
        assert_eq!(pick(only), Pick::Composition("_compositions/two.toml".into()));
        assert_eq!(
            pick(["b.toml", "compositions/default.toml"]),
            Pick::Composition("compositions/default.toml".into())
        );
        assert_eq!(pick(["b.toml", "composition.toml"]), Pick::Composition("composition.toml".into()));
        assert_eq!(pick(["composition.toml", "default.toml"]), Pick::Composition("default.toml".into()));
    }

    #[test]
    fn without_one_the_first_case_is_picked() {
        assert_eq!(pick(["manifest.toml", "plan.sh"]), Pick::FirstCase { passed_over: vec![] });
        let passed_over = vec!["a.toml".to_owned(), "b.toml".to_owned()];
        assert_eq!(pick(["b.toml", "a.toml"]), Pick::FirstCase { passed_over });
    }
}

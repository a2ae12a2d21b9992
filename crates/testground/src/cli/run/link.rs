//! `--link-sdk`: a Go SDK of one's own in the place of the published one.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use testground_engine::home::Home;
use testground_model::run::{Dependency, Group};

/// The module that is replaced.
const SDK: &str = "github.com/testground/sdk-go";

/// Replaces the SDK of every group that exec:go builds.
pub(in crate::cli) fn link_sdk<'g>(
    typed: &Path,
    home: &Home,
    groups: impl Iterator<Item = &'g mut Group>,
) -> anyhow::Result<()> {
    let dir = find(typed, home)?;
    let mut linked = false;
    for group in groups {
        if group.build.artifact.is_none() && group.build.builder == "exec:go" {
            let target = Some(dir.display().to_string());
            group.build.dependencies.insert(SDK.to_owned(), Dependency { target, version: String::new() });
            linked = true;
        }
    }
    if !linked {
        bail!(
            "--link-sdk {}: no group is built by exec:go, so there is nothing to link it to",
            typed.display()
        );
    }
    Ok(())
}

/// The directory as it was typed, relative to the working directory; else one of that name in the home.
fn find(typed: &Path, home: &Home) -> anyhow::Result<PathBuf> {
    let named = home.sdks().join(typed);
    let candidates = if typed.is_absolute() { vec![typed.to_owned()] } else { vec![typed.to_owned(), named] };
    let Some(dir) = candidates.iter().find(|dir| dir.is_dir()) else {
        let looked: Vec<String> = candidates.iter().map(|dir| dir.display().to_string()).collect();
        bail!("--link-sdk {}: there is no such directory; looked at {}", typed.display(), looked.join(", "));
    };
    let dir = std::fs::canonicalize(dir).with_context(|| format!("failed to find {}", dir.display()))?;
    let module = std::fs::read_to_string(dir.join("go.mod")).unwrap_or_default();
    if !module.lines().any(|line| line.split_whitespace().eq(["module", SDK])) {
        bail!("--link-sdk {}: {} has no go.mod of the module {SDK}", typed.display(), dir.display());
    }
    Ok(dir)
}

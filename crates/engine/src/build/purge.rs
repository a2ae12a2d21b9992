//! Removing what a builder keeps of a plan, so that its next build starts from nothing.

use std::path::Path;
use std::time::Duration;

use super::rust::Workshop;
use super::{BUILDERS, BuildError, cache, io_error, unknown};
use crate::home::Home;

/// How long another build is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// Artifacts.
    pub artifacts: usize,
    /// The bytes of all that is gone.
    pub bytes: u64,
}

/// Removes the artifacts that `builder` made of a plan (its directory, canonical), and for `exec:rust` also the compiled
/// crates, which all plans of the home share. The tools' own caches (Go's, npm's, cargo's registry) are the user's and stay.
///
/// # Errors
/// An unknown builder; or when something can't be removed, or is being built.
pub async fn purge(home: &Home, builder: &str, plan: &Path) -> Result<Purged, BuildError> {
    if !BUILDERS.contains(&builder) {
        return Err(unknown(builder));
    }
    let (artifacts, mut bytes) = cache::purge(&home.work(), builder, plan)?;
    if builder == "exec:rust" {
        let workshop = Workshop::at(&home.work(), plan);
        for dir in [&workshop.copy, &workshop.target] {
            if !dir.exists() {
                continue;
            }
            let _alone = cache::lock(&workshop.lock, PATIENCE).await?;
            bytes += cache::size(dir);
            std::fs::remove_dir_all(dir).map_err(|e| io_error("remove", dir, e))?;
        }
    }
    Ok(Purged { artifacts, bytes })
}

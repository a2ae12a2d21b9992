//! Files that a run leaves where its user wants them: everything that was measured, and the report.

use std::path::{Path, PathBuf};

use testground_engine::measure::export::Format;
use testground_model::measure::Source;
use testground_model::name::RunId;

use super::super::{metrics, report};
use super::Common;

/// What is wanted of every run.
pub(super) struct Extra<'a> {
    metrics: Option<(&'a Path, Format)>,
    report: Option<&'a Path>,
    several: bool,
}

// === impl Extra ===

impl<'a> Extra<'a> {
    /// Looks at what was typed, before anything is run.
    pub(super) fn of(common: &'a Common, several: bool) -> anyhow::Result<Extra<'a>> {
        let format = |path: &'a Path| Format::of(path).map(|f| (path, f)).map_err(anyhow::Error::msg);
        let metrics = common.metrics.as_deref().map(format).transpose()?;
        Ok(Extra { metrics, report: common.report.as_deref(), several })
    }

    /// Writes the files of a run that has ended: which they are.
    pub(super) fn write(
        &self,
        outputs: &Path,
        source: &Source,
        run: &str,
        id: &RunId,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        if let Some((path, format)) = self.metrics {
            let path = self.name(path, run, id);
            metrics::write(outputs, source, format, &path)?;
            written.push(path);
        }
        if let Some(path) = self.report {
            let path = self.name(path, run, id);
            report::write(outputs, source, &path)?;
            written.push(path);
        }
        Ok(written)
    }

    /// The file as it was typed for one run; for several, `<stem>-<run>-<id>` with its ending.
    fn name(&self, typed: &Path, run: &str, id: &RunId) -> PathBuf {
        if !self.several {
            return typed.to_owned();
        }
        let stem = typed.file_stem().unwrap_or_default().to_string_lossy();
        let ending = typed.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        typed.with_file_name(format!("{stem}-{run}-{id}{ending}"))
    }
}

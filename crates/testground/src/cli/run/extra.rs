//! Files that a run leaves where its user wants them: everything that was measured, and the report.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use testground_engine::measure::export::Format;
use testground_model::measure::Source;
use testground_model::name::RunId;

use super::super::{metrics, places, report};
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
        let place = |flag: &str, path: &Path| {
            places::writable(path).with_context(|| format!("{flag} {}", path.display()))
        };
        if let Some((path, _)) = metrics {
            place("--metrics", path)?;
        }
        if let Some(path) = common.report.as_deref() {
            if path == Path::new("-") {
                bail!(
                    "--report -: the page of a run goes to a file; `testground report RUN -o -` writes it to standard output"
                );
            }
            report::check_name(path)?;
            place("--report", path)?;
        }
        if common.collect || common.collect_file.is_some() {
            let typed = common.collect_file.as_deref();
            let archive = archive_name(typed, "run", &RunId::new(0, [0; 8]), several);
            places::replaceable(&archive).with_context(|| match typed {
                Some(file) => format!("--collect-file {}", file.display()),
                None => "--collect".to_owned(),
            })?;
        }
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

/// As the original names it: `<file or id>.tgz`, and for several runs `<file or "multiple">-<run>-<id>.tgz`.
pub(super) fn archive_name(typed: Option<&Path>, run: &str, id: &RunId, several: bool) -> PathBuf {
    let stem = match (typed, several) {
        (Some(file), false) => file.display().to_string(),
        (None, false) => id.to_string(),
        (typed, true) => {
            let stem = typed.map_or_else(|| "multiple".to_owned(), |f| f.display().to_string());
            format!("{stem}-{run}-{id}")
        }
    };
    PathBuf::from(format!("{}.tgz", stem.strip_suffix(".tgz").unwrap_or(&stem)))
}

//! `testground report`: a run as one HTML file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use testground_engine::measure;
use testground_engine::report::Page;
use testground_model::measure::Source;
use testground_model::outcome::ExitCode;

use super::dynamic;
use super::metrics::{Kept, find};

/// Write a run as one HTML file that needs no network: outcome and causes, instances, links, measurements, timeline.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(add = dynamic::runs())]
    run: String,
    /// Where to; `report.html` in the run's folder by default, `-` for standard output.
    #[arg(short = 'o', long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Open it in a browser (with xdg-open).
    #[arg(long)]
    open: bool,
}

/// Writes the page.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) {
        check_name(path)?;
    }
    let Kept { outputs, source } = find(&args.run)?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let page = page(&outputs, &source)?;
        std::io::stdout().write_all(page.as_bytes()).context("failed to write the report")?;
        return Ok(ExitCode::Success);
    }
    let path = args.output.clone().unwrap_or_else(|| outputs.join("report.html"));
    write(&outputs, &source, &path)?;
    println!("created file: {}", path.display());
    if args.open {
        let opened = Command::new("xdg-open")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        opened.with_context(|| format!("failed to start xdg-open; the report is {}", path.display()))?;
    }
    Ok(ExitCode::Success)
}

/// A page is HTML, whatever its file is called: a name that says something else is refused. One without an ending may be.
///
/// # Errors
/// Says which endings there are.
pub(super) fn check_name(path: &Path) -> anyhow::Result<()> {
    match path.extension().map(|ending| ending.to_string_lossy().to_lowercase()) {
        Some(ending) if !matches!(ending.as_str(), "html" | "htm") => {
            bail!("{}: a report is HTML, not .{ending}: its ending is .html, .htm or none", path.display())
        }
        _ => Ok(()),
    }
}

/// Writes the page of a run to a file.
pub(super) fn write(outputs: &Path, source: &Source, path: &Path) -> anyhow::Result<()> {
    let page = page(outputs, source)?;
    std::fs::write(path, page)
        .with_context(|| format!("failed to write the report to {}", path.display()))?;
    Ok(())
}

fn page(outputs: &Path, source: &Source) -> anyhow::Result<String> {
    let page =
        Page::read(outputs).with_context(|| format!("failed to read the record of run {}", source.run))?;
    let measured = measure::summary(outputs, source)
        .with_context(|| format!("failed to read the measurements of run {}", source.run))?;
    Ok(page.finish(Some(measured)))
}

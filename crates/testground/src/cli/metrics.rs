//! `testground metrics`: what the instances of a run measured.

use std::path::{Path, PathBuf};

use anyhow::Context;
use testground_engine::home::Home;
use testground_engine::measure::export::{self, Format};
use testground_engine::measure::{self, record::Faults};
use testground_engine::report::{table, whole_table};
use testground_engine::runs;
use testground_model::measure::Source;
use testground_model::outcome::ExitCode;

use super::dynamic;

/// Show what a run's instances measured, or write every point to a file.
///
/// Without -o: a table of count, mean, p50, p99 and the values over time, by group. Of more than 512 values p50 and p99 are
/// within 0.5 % of the true ones.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(add = dynamic::runs())]
    run: String,
    /// Write every point to this file: .csv (a row for each field), .jsonl, or .lp (InfluxDB's line protocol).
    #[arg(short = 'o', long, value_name = "FILE.csv|.jsonl|.lp")]
    output: Option<PathBuf>,
    /// Show every series, diagnostics of runtimes too.
    #[arg(long, conflicts_with = "output")]
    all: bool,
    /// The summary as JSON.
    #[arg(long, conflicts_with_all = ["output", "all"])]
    json: bool,
}

/// A run that left something.
pub(super) struct Kept {
    pub(super) outputs: PathBuf,
    pub(super) source: Source,
}

/// Shows or writes.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.output {
        let format = Format::of(path).map_err(anyhow::Error::msg)?;
        let kept = find(&args.run)?;
        write(&kept.outputs, &kept.source, format, path)?;
        println!("created file: {}", path.display());
        return Ok(ExitCode::Success);
    }
    let kept = find(&args.run)?;
    let measured = measure::summary(&kept.outputs, &kept.source)
        .with_context(|| format!("failed to read the measurements of run {}", kept.source.run))?;
    if args.json {
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(ExitCode::Success);
    }
    if measured.points == 0 && measured.refused == 0 {
        println!("run {} measured nothing", kept.source.run);
        return Ok(ExitCode::Success);
    }
    let show = if args.all { whole_table } else { table };
    print!("{}", show(&measured, 80, &kept.source.run));
    Ok(ExitCode::Success)
}

/// Writes every point to a file, and says what was no point.
pub(super) fn write(outputs: &Path, source: &Source, format: Format, path: &Path) -> anyhow::Result<()> {
    let Faults { count, first } = export::export(outputs, source, format, path)
        .with_context(|| format!("failed to write measurements to {}", path.display()))?;
    if count > 0 {
        eprintln!("warning: {count} points were refused; the first: {}", first.unwrap_or_default());
    }
    Ok(())
}

/// Finds a run and what its measurements are called.
pub(super) fn find(typed: &str) -> anyhow::Result<Kept> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let outputs = runs::find(&home, typed)?.dir;
    let source = measure::source(&outputs)
        .with_context(|| format!("failed to read the record of run {typed} in {}", outputs.display()))?;
    Ok(Kept { outputs, source })
}

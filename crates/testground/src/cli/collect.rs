//! `testground collect`: the outputs of a run as one archive.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use testground_engine::home::Home;
use testground_engine::{collect, runs};
use testground_model::outcome::ExitCode;

use super::dynamic;

/// Pack the outputs of a run into an archive: <run id>/<group>/<index>/<file>.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(add = dynamic::runs())]
    run: String,
    /// The archive; <run id>.tgz in this directory without it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Kept for scripts: a run is found whatever its runner is.
    #[arg(short, long, hide = true)]
    runner: Option<String>,
}

/// Exits with 3 when there is no archive.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let kept = runs::find(&home, &args.run)?;
    if runs::is_going(&kept.dir) {
        eprintln!("warning: run {} is still going: the archive has what there is by now", kept.id);
    }
    let archive = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.tgz", kept.id)));
    if let Err(e) = collect::collect(&kept.dir, &kept.id, &archive, &AtomicBool::new(false)) {
        eprintln!("error: failed to collect outputs: {e}");
        return Ok(ExitCode::Collect);
    }
    println!("created file: {}", archive.display());
    Ok(ExitCode::Success)
}

//! `testground version`.

use testground_model::outcome::ExitCode;

/// Print the version, and the commit that this program was built from.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// The first two lines are those of the original.
pub(crate) fn run(_: &Args) -> anyhow::Result<ExitCode> {
    println!("Testground");
    println!("Git commit: {}", env!("TESTGROUND_COMMIT"));
    println!("Version: {}", env!("CARGO_PKG_VERSION"));
    Ok(ExitCode::Success)
}

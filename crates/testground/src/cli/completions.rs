//! `testground completions`: what a shell needs to complete the command line.
//!
//! The script calls this program back on each Tab, so that it knows plans and runs, and needs no renewal when the program
//! is replaced by a newer one.

use anyhow::{Context, anyhow};
use clap_complete::env::Shells;
use testground_model::outcome::ExitCode;

/// The variable by which the script says which shell asks.
pub(super) const VARIABLE: &str = "TESTGROUND_COMPLETE";

/// Print the completions of a shell: put `source <(testground completions bash)` into its start-up file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

/// Prints the script.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell).ok_or_else(|| anyhow!("unknown shell: {}", args.shell))?;
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "testground", "testground", "testground", &mut script)
        .context("failed to make the script")?;
    use std::io::Write as _;
    std::io::stdout().lock().write_all(&script).context("failed to write the script")?;
    Ok(ExitCode::Success)
}

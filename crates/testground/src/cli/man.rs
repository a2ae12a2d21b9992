//! `testground man`: the manual, as pages for man(1).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use testground_model::outcome::ExitCode;

/// Write the manual: a page for each command into a directory, or the first page to standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory, such as ~/.local/share/man/man1; it is made when it is missing.
    dir: Option<PathBuf>,
}

/// Writes the pages.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = super::Cli::command().version(env!("CARGO_PKG_VERSION"));
    command.build();
    match &args.dir {
        None => std::io::stdout().lock().write_all(&page(&command)?).context("failed to write the page")?,
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
            let pages = write(&command, dir)?;
            println!("wrote {pages} pages to {}", dir.display());
        }
    }
    Ok(ExitCode::Success)
}

/// A command's page and those of its subcommands; how many there are.
fn write(command: &Command, dir: &Path) -> anyhow::Result<usize> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command)?).with_context(|| format!("failed to write {}", path.display()))?;
    let mut pages = 1;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        pages += write(sub, dir)?;
    }
    Ok(pages)
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone()).render(&mut text).context("failed to make the page")?;
    Ok(text)
}

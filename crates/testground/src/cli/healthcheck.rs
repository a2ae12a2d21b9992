//! `testground healthcheck`: what this machine lacks for a runner, and what mends it.

use anyhow::bail;
use testground_engine::healthcheck::{self, Surroundings};
use testground_engine::lab::limits;
use testground_engine::{build, home};
use testground_model::catalogue;
use testground_model::outcome::ExitCode;

/// Check what a runner needs of this machine, and mend what can be mended.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runner.
    #[arg(long, default_value = "local:exec")]
    runner: String,
    /// Mend what can be: make the home, and remove what dead runs left.
    #[arg(long)]
    fix: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Exits with 1 when a check failed and wasn't mended, or when mending failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.runner.as_str() {
        "local:exec" => {}
        other if catalogue::runner(other).is_some() => bail!("there is no health check for {other} yet"),
        other => {
            let known: Vec<&str> = catalogue::RUNNERS.iter().map(|r| r.name).collect();
            bail!("unknown runner: {other}; known are {}", known.join(", "));
        }
    }
    let home = home::locate(|name| std::env::var_os(name));
    let builds = home.iter().map(|home| build::sweeper(home));
    let sweepers = builds.chain([limits::sweeper()]).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let surroundings = Surroundings { home, path, sweepers };
    let report = healthcheck::local_exec(&surroundings, args.fix);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("finished checking runner {}\n{report}", args.runner);
    }
    Ok(if report.is_well() { ExitCode::Success } else { ExitCode::Failed })
}

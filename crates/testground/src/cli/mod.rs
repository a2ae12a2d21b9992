//! The command line: one match over the subcommands, one file each.
//!
//! What was typed is here; what it means is worked out in the subcommand's file, and nothing below reads flags.

mod build;
mod collect;
mod compare;
mod completions;
mod describe;
mod dynamic;
mod exec;
mod forward;
mod healthcheck;
mod logs;
mod man;
mod metrics;
mod network;
mod places;
mod plan;
mod pod;
mod report;
mod run;
mod runs;
mod sidecar;
mod spelling;
mod sync;
mod sync_service;
mod version;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::CompleteEnv;
use testground_model::outcome::ExitCode;
use testground_model::units;

/// Test distributed systems: real programs, their sidecars, and a network whose every link you choose.
#[derive(Debug, Parser)]
#[command(name = "testground", disable_version_flag = true, after_help = exit_codes())]
struct Cli {
    /// Say more of what happens inside (`LOG_LEVEL` has precedence).
    #[arg(short = 'v', long = "verbose", visible_alias = "vv", global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Plan(plan::Args),
    Runs(runs::Args),
    Logs(logs::Args),
    Collect(collect::Args),
    Build(build::Args),
    Exec(exec::Args),
    Forward(forward::Args),
    Network(network::Args),
    Describe(describe::Args),
    Healthcheck(healthcheck::Args),
    Metrics(metrics::Args),
    Compare(compare::Args),
    Report(report::Args),
    Pod(pod::Args),
    Sidecar(sidecar::Args),
    Sync(sync::Args),
    SyncService(sync_service::Args),
    Completions(completions::Args),
    Man(man::Args),
    Version(version::Args),
}

/// Runs the program.
pub(crate) fn main() -> ProcessExit {
    // On a Tab the shell asks, and gets candidates in place of a run.
    CompleteEnv::with_factory(Cli::command).var(completions::VARIABLE).bin("testground").complete();
    let command = Cli::command();
    let typed: Vec<OsString> = spelling::long_flags(&command, std::env::args_os());
    let shadowed = spelling::shadowed_path(&typed);
    let matches = match command.try_get_matches_from(typed) {
        Ok(matches) => matches,
        Err(e) => {
            let _ = e.print();
            if e.use_stderr()
                && let Some(note) = &shadowed
            {
                eprintln!("\n{note}");
            }
            let code = if e.use_stderr() { ExitCode::Configuration } else { ExitCode::Success };
            return ProcessExit::from(code as u8);
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ProcessExit::from(ExitCode::Configuration as u8);
        }
    };
    log_to_stderr(cli.verbose);
    let done = match cli.command {
        Command::Run(args) => run::run(*args, cli.verbose),
        Command::Plan(args) => plan::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Logs(args) => logs::run(&args),
        Command::Collect(args) => collect::run(&args),
        Command::Build(args) => build::run(args, cli.verbose),
        Command::Exec(args) => return with_code(exec::run(args)),
        Command::Forward(args) => forward::run(&args),
        Command::Network(args) => network::run(args),
        Command::Describe(args) => describe::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Metrics(args) => metrics::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Pod(args) => return with_code(pod::run(args)),
        Command::Sidecar(args) => sidecar::run(&args),
        Command::Sync(args) => sync::run(&args),
        Command::SyncService(args) => sync_service::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Version(args) => version::run(&args),
    };
    match done {
        Ok(code) => ProcessExit::from(code as u8),
        Err(e) => fail(&e),
    }
}

/// For commands with exit codes of their own.
fn with_code(done: anyhow::Result<u8>) -> ProcessExit {
    done.map_or_else(|e| fail(&e), ProcessExit::from)
}

/// The one place where an error becomes words and an exit code.
fn fail(error: &anyhow::Error) -> ProcessExit {
    eprintln!("error: {error:#}");
    ProcessExit::from(ExitCode::Configuration as u8)
}

fn log_to_stderr(verbose: bool) {
    let level =
        std::env::var("LOG_LEVEL").unwrap_or_else(|_| if verbose { "debug" } else { "warn" }.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = log.with_ansi(colours).try_init();
}

/// A duration as an argument.
fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|e| e.to_string())
}

fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in ExitCode::TABLE {
        text.push_str(&format!("  {:>3}  {meaning}\n", code as u8));
    }
    text
}

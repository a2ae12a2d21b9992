//! `testground run`: a plan's directory, a composition or a single group.
//!
//! What was typed is in this file; what it means is worked out in `prepare`, and carried out in `watch`, round by round
//! (`rounds`).

mod capture;
mod extra;
pub(in crate::cli) mod link;
pub(in crate::cli) mod prepare;
mod rounds;
mod signals;
pub(in crate::cli) mod watch;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use testground_model::outcome::ExitCode;
use testground_model::resolve;
use testground_model::run::Plane;

use super::dynamic;

/// Run a plan: its directory, a composition, or a single group.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    /// A plan's directory (its only composition, the one called `default` or `composition`, else its first test case),
    /// or a composition file. A name means a plan in the home.
    #[arg(required = true, add = dynamic::plans_and_paths())]
    path: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Run what a composition file describes.
    #[command(visible_alias = "c")]
    Composition(CompositionArgs),
    /// Run one group of a plan's instances.
    #[command(visible_alias = "s")]
    Single(SingleArgs),
}

/// What every kind of run takes.
#[derive(Debug, Clone, Default, clap::Args)]
struct Common {
    /// All chance of the run comes from this number; without it one is drawn, and shown.
    #[arg(long, value_parser = resolve::seed)]
    seed: Option<u64>,
    /// How long the run may take from when the instances are let go, such as 90s or 5m.
    #[arg(long, value_parser = resolve::timeout)]
    timeout: Option<Duration>,
    /// Run on when an instance ends badly, and when all wait.
    #[arg(long)]
    keep_going: bool,
    /// A success on an emulator that was late is a failure: one packet in a hundred left later than the run's
    /// `proof.delay` tolerates (1 ms unless it says otherwise). Without this the outcome only says so.
    #[arg(long)]
    late_fails: bool,
    /// Write every event as one line of JSON to this file, or to standard output for `-`.
    #[arg(long, value_name = "FILE|-")]
    events: Option<PathBuf>,
    /// Write the run as a JUnit file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write everything that the instances measured to this file: .csv, .jsonl or .lp (line protocol).
    #[arg(long, value_name = "FILE.csv|.jsonl|.lp")]
    metrics: Option<PathBuf>,
    /// Write the run as one HTML file.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Show what would be run, with every default filled in, and start nothing.
    #[arg(long)]
    dry_run: bool,
    /// Keep the lab of a run that failed, for a look with `testground exec`, until Ctrl-C.
    #[arg(long)]
    hold: bool,
    /// Capture the packets of a group, of one instance of it, or of `all`, as pcapng in their outputs; may be given several
    /// times.
    #[arg(long, value_name = "GROUP|GROUP[INDEX]|all")]
    capture: Vec<String>,
    /// Record every decision of the links for `testground network trace`.
    #[arg(long)]
    record: bool,
    /// Who moves the packets: the switch (every effect, replay, captures), the kernel (HTB and netem), or auto: the kernel
    /// where it can do all that the run asks for.
    #[arg(long, value_name = "switch|kernel|auto")]
    plane: Option<Plane>,
    /// Which of the composition's runs, separated by commas; all of them by default, sorted by name.
    #[arg(long, value_delimiter = ',')]
    run_ids: Vec<String>,
    /// Run everything so many times; without a seed of its own each round draws another one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Run again until a run fails, at most --repeat times.
    #[arg(long)]
    until_fail: bool,
    /// Instances don't send metrics.
    #[arg(long)]
    disable_metrics: bool,
    /// Write a line per run to this CSV file: run_id,task_id,outcome,error.
    #[arg(short = 'O', long, value_name = "FILE")]
    result_file: Option<PathBuf>,
    /// Use this Go SDK in the place of the published one: a directory, or a name below $TESTGROUND_HOME/sdks.
    #[arg(long, value_name = "DIR|NAME")]
    link_sdk: Option<PathBuf>,
    /// Pack the outputs of each run into a .tgz when it has ended.
    #[arg(long)]
    collect: bool,
    /// Name of that archive, without its suffix.
    #[arg(short = 'o', long, value_name = "FILE")]
    collect_file: Option<PathBuf>,
    /// Runs are always waited for; taken for scripts' sake.
    #[arg(long, hide = true)]
    wait: bool,
    /// Kept for scripts: what the run is about.
    #[arg(long, hide = true)]
    metadata_repo: Option<String>,
    /// Kept for scripts: what the run is about.
    #[arg(long, hide = true)]
    metadata_branch: Option<String>,
    /// Kept for scripts: what the run is about.
    #[arg(long, hide = true)]
    metadata_commit: Option<String>,
}

#[derive(Debug, clap::Args)]
struct CompositionArgs {
    /// The composition file.
    #[arg(short = 'f', long)]
    file: PathBuf,
    /// Build again what the composition names as built already.
    #[arg(short = 'i', long)]
    ignore_artifacts: bool,
    /// Build first, and write the artifacts into the composition file; the rest of it stays as it is.
    #[arg(short = 'w', long)]
    write_artifacts: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct SingleArgs {
    /// The plan: a directory, or a name below $TESTGROUND_HOME/plans.
    #[arg(short = 'p', long, add = dynamic::plans_and_paths())]
    plan: String,
    /// The test case.
    #[arg(short = 't', long)]
    testcase: String,
    /// The builder, such as exec:go.
    #[arg(short = 'b', long)]
    builder: String,
    /// The runner: local:exec.
    #[arg(short = 'r', long)]
    runner: String,
    /// How many instances.
    #[arg(short = 'i', long)]
    instances: u32,
    /// A setting of the builder, key=value.
    #[arg(long, value_name = "K=V")]
    build_cfg: Vec<String>,
    /// A setting of the runner, key=value.
    #[arg(long, value_name = "K=V")]
    run_cfg: Vec<String>,
    /// A test parameter, key=value.
    #[arg(long, visible_alias = "tp", value_name = "K=V")]
    test_param: Vec<String>,
    /// Another version of a dependency, module=target@version.
    #[arg(short = 'd', long, value_name = "MODULE=TARGET@VERSION")]
    dep: Vec<String>,
    /// An artifact that exists already.
    #[arg(long, visible_alias = "ub", value_name = "ARTIFACT")]
    use_build: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What is to be run.
#[derive(Debug)]
enum What {
    Path(PathBuf),
    Composition { file: PathBuf, ignore_artifacts: bool, write_artifacts: bool },
    Single(Box<SingleArgs>),
}

/// Runs what was typed, one run after the other; the code of the first that failed.
pub(crate) fn run(args: Args, verbose: bool) -> anyhow::Result<ExitCode> {
    let (what, common) = match (args.kind, args.path) {
        (Some(Kind::Composition(c)), _) => {
            let CompositionArgs { file, ignore_artifacts, write_artifacts, common } = c;
            (What::Composition { file, ignore_artifacts, write_artifacts }, common)
        }
        (Some(Kind::Single(mut s)), _) => {
            let common = std::mem::take(&mut s.common);
            (What::Single(Box::new(s)), common)
        }
        (None, Some(path)) => (What::Path(path), args.common),
        (None, None) => anyhow::bail!("what to run is missing: a plan's directory or a composition"),
    };
    let prepared = match prepare::prepare(&what, &common)? {
        Ok(prepared) => prepared,
        // Mistakes in files have been shown, each with its place.
        Err(prepare::Mistaken) => return Ok(ExitCode::Configuration),
    };
    if common.dry_run {
        prepare::show(&prepared);
        return Ok(ExitCode::Success);
    }
    if let Some(code) = prepared.write_artifacts(&common, verbose)? {
        return Ok(code);
    }
    watch::all(&prepared, &common, verbose)
}

//! `testground build`: artifacts without a run, and removing what builders keep.
//!
//! What was typed is in this file, and what becomes of it in `groups`; how things are built belongs to the engine.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use clap::Subcommand;
use testground_engine::build::{self, Site};
use testground_engine::home::{self, Home};
use testground_engine::report::{Look, Terminal};
use testground_engine::text::read_text;
use testground_model::artifacts::write_artifacts;
use testground_model::composition::Composition;
use testground_model::diagnostic::Checked;
use testground_model::event::Event;
use testground_model::manifest::Manifest;
use testground_model::outcome::{ExitCode, RunOutcome};
use testground_model::resolve::{Overrides, resolve_builds};
use testground_model::run::Group;
use testground_model::single::Single;
use testground_model::units;
use tokio::signal::unix::{SignalKind, signal};

use super::run::prepare::{self, Mistaken};
use super::run::{link, watch};

/// How long a build may take unless it is said: as long as a run's.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Build a plan without running it, or remove what was built.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Build every group of a composition.
    #[command(visible_alias = "c")]
    Composition(CompositionArgs),
    /// Build a plan with one builder.
    #[command(visible_alias = "s")]
    Single(SingleArgs),
    /// Remove the artifacts that a builder has made of a plan.
    #[command(visible_alias = "p")]
    Purge(PurgeArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Use this Go SDK in the place of the published one: a directory, or a name below $TESTGROUND_HOME/sdks.
    #[arg(long, value_name = "DIR|NAME")]
    link_sdk: Option<PathBuf>,
    /// How long each build may take, such as 90s or 20m; 10 minutes by default.
    #[arg(long, value_parser = testground_model::resolve::timeout)]
    timeout: Option<Duration>,
    /// Builds are always waited for; taken for scripts' sake.
    #[arg(long, hide = true)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
struct CompositionArgs {
    /// The composition file.
    #[arg(short = 'f', long)]
    file: PathBuf,
    /// Write the artifacts into the composition file, so that it runs without building; the rest of it stays as it is.
    #[arg(short = 'w', long)]
    write_artifacts: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct SingleArgs {
    /// The builder, such as exec:go.
    #[arg(short = 'b', long)]
    builder: String,
    /// The plan: a directory, or a name below $TESTGROUND_HOME/plans.
    #[arg(short = 'p', long)]
    plan: String,
    /// A setting of the builder, key=value.
    #[arg(long, value_name = "K=V")]
    build_cfg: Vec<String>,
    /// Another version of a dependency, module=target@version.
    #[arg(short = 'd', long, value_name = "MODULE=TARGET@VERSION")]
    dep: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct PurgeArgs {
    /// The builder, such as exec:go.
    #[arg(short = 'b', long)]
    builder: String,
    /// The plan: a directory, or a name below $TESTGROUND_HOME/plans.
    #[arg(short = 'p', long)]
    plan: String,
}

/// Builds, or removes what was built.
pub(crate) fn run(args: Args, verbose: bool) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let here = std::env::current_dir().context("failed to find the working directory")?;
    let (read, common, write_to) = match args.kind {
        Kind::Purge(purge) => return remove(&purge, &home, &here),
        Kind::Composition(c) => {
            let read = prepare::composition_file(&c.file, &home, &here)?;
            (read, c.common, c.write_artifacts.then_some(c.file))
        }
        Kind::Single(s) => {
            let single = Single {
                plan: s.plan,
                builder: s.builder,
                instances: 1,
                build_cfg: s.build_cfg,
                dependencies: s.dep,
                ..Single::default()
            };
            (prepare::single_group(&single, &home, &here)?, s.common, None)
        }
    };
    let (plan, manifest, composition, _) = match read {
        Ok(read) => read,
        Err(mistakes) => {
            let Mistaken = prepare::tell(&mistakes);
            return Ok(ExitCode::Configuration);
        }
    };
    let wanted = Wanted {
        plan: &plan.dir,
        manifest: &manifest,
        composition: &composition,
        link_sdk: common.link_sdk.as_deref(),
        ignore_artifacts: true,
        timeout: common.timeout.unwrap_or(TIMEOUT),
    };
    groups(&wanted, write_to.as_deref(), &home, verbose)
}

/// What is to be built.
pub(super) struct Wanted<'a> {
    pub(super) plan: &'a Path,
    pub(super) manifest: &'a Manifest,
    pub(super) composition: &'a Composition,
    pub(super) link_sdk: Option<&'a Path>,
    pub(super) ignore_artifacts: bool,
    pub(super) timeout: Duration,
}

/// Builds all groups of a composition, and writes the artifacts into the file that it came from.
pub(super) fn groups(
    wanted: &Wanted<'_>,
    write_to: Option<&Path>,
    home: &Home,
    verbose: bool,
) -> anyhow::Result<ExitCode> {
    let overrides = Overrides { ignore_artifacts: wanted.ignore_artifacts, ..Overrides::default() };
    let builds = match resolve_builds(wanted.manifest, wanted.composition, &overrides) {
        Ok(Checked { value, warnings }) => {
            eprint!("{}", warnings.render());
            value
        }
        Err(mistakes) => {
            let Mistaken = prepare::tell(&mistakes);
            return Ok(ExitCode::Configuration);
        }
    };
    let mut groups: Vec<Group> = builds.into_iter().map(|(id, build)| Group::to_build(id, build)).collect();
    if let Some(sdk) = wanted.link_sdk {
        link::link_sdk(sdk, home, groups.iter_mut())?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    build::check_tools(&groups, &path).map_err(|e| anyhow!("{e}"))?;
    let id = watch::new_id();
    let site = Site {
        plan: wanted.plan.to_owned(),
        home: home.clone(),
        logs: home.work().join("logs").join(id.to_string()),
        path,
        timeout: wanted.timeout,
    };
    let mut terminal =
        Terminal::new(Box::new(std::io::stdout()), Look::detect(|name| std::env::var_os(name), verbose));
    terminal.note(now(), &format!("build is queued with ID: {id}"));
    let concurrent = prepare::concurrent_builds(wanted.composition);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let listen = |kind| signal(kind).context("failed to listen to signals");
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let tell = |kind| terminal.on_event(&Event { ts: now(), run: id.clone(), kind });
        // What is dropped ends its tools and removes what they left.
        anyhow::Ok(tokio::select! {
            built = build::build_all(&groups, &site, concurrent, tell) => Some(built),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        })
    })?;
    let artifacts = match outcome {
        None => {
            terminal.note(now(), "build is interrupted");
            terminal.finish();
            return Ok(RunOutcome::Interrupted.exit_code());
        }
        Some(Err(failed)) => {
            terminal.finish();
            eprintln!("error: {failed}");
            return Ok(RunOutcome::BuildFailed { cause: String::new() }.exit_code());
        }
        Some(Ok(artifacts)) => artifacts,
    };
    let made: Vec<(&str, String)> = groups
        .iter()
        .zip(&artifacts)
        .filter_map(|(group, made)| Some((group.id.as_str(), made.as_ref()?.program.display().to_string())))
        .collect();
    // Of use to whoever looks for a failure only.
    let _ = std::fs::remove_dir_all(&site.logs);
    if let Some(file) = write_to {
        write(file, &made)?;
        terminal.note(now(), &format!("wrote {} into {}", counted(made.len()), file.display()));
    }
    terminal.finish();
    Ok(ExitCode::Success)
}

/// Puts the artifacts into a composition. A file that is there is never left half written.
fn write(file: &Path, made: &[(&str, String)]) -> anyhow::Result<()> {
    let text = read_text(file).with_context(|| format!("failed to read {}", file.display()))?;
    let written = write_artifacts(&text, made).with_context(|| format!("{}", file.display()))?;
    // Through a link, the file that it leads to; and with the rights that it has.
    let real = std::fs::canonicalize(file).with_context(|| format!("failed to find {}", file.display()))?;
    let failed = || format!("failed to write {}", real.display());
    let folder = real.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    std::io::Write::write_all(&mut new, written.as_bytes()).with_context(failed)?;
    let rights = std::fs::metadata(&real).with_context(failed)?.permissions();
    std::fs::set_permissions(new.path(), rights).with_context(failed)?;
    new.persist(&real).with_context(failed)?;
    Ok(())
}

fn remove(args: &PurgeArgs, home: &Home, here: &Path) -> anyhow::Result<ExitCode> {
    let plan = home::find_plan(home, &args.plan, here, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let purged = runtime.block_on(build::purge(home, &args.builder, &plan.dir))?;
    println!("removed {}, {}", counted(purged.artifacts), units::show_size(purged.bytes));
    Ok(ExitCode::Success)
}

fn counted(artifacts: usize) -> String {
    format!("{artifacts} artifact{}", if artifacts == 1 { "" } else { "s" })
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

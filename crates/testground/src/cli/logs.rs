//! `testground logs`: what the instances of a run wrote, merged by time.

use std::io::{BufWriter, IsTerminal};

use anyhow::{Context, anyhow, bail};
use testground_engine::home::Home;
use testground_engine::runs::{self, LogError, Logs, RunInfo, Wanted};
use testground_model::diagnostic::nearest;
use testground_model::event::Stream;
use testground_model::name::InstanceName;
use testground_model::outcome::ExitCode;

use super::dynamic;

/// Show what the instances of a run wrote, merged by time; also of a run that still goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(required_unless_present = "task", add = dynamic::runs())]
    run: Option<String>,
    /// Only this group, or this instance: GROUP[INDEX].
    #[arg(value_name = "GROUP[INDEX]")]
    instances: Option<String>,
    /// Go on until the run is over.
    #[arg(short, long)]
    follow: bool,
    /// Only lines whose text fits this regular expression.
    #[arg(long, value_name = "RE")]
    grep: Option<String>,
    /// Only what was written to standard output.
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only what was written to standard error.
    #[arg(long)]
    stderr: bool,
    /// The run, as scripts for the original name it.
    #[arg(short, long, hide = true, conflicts_with = "run")]
    task: Option<String>,
}

/// Shows them. Without instances and streams, also what happened to the run itself.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let typed = args.run.as_ref().or(args.task.as_ref()).context("no run is named")?;
    let home = Home::open(|name| std::env::var_os(name))?;
    let kept = runs::find(&home, typed)?;
    let (group, index) = match args.instances.as_deref() {
        Some(typed) => selected(typed, &RunInfo::read(&kept.dir)?)?,
        None => (None, None),
    };
    let fits: Box<dyn Fn(&str) -> bool> = match &args.grep {
        Some(pattern) => {
            let pattern = regex::Regex::new(pattern).map_err(|e| anyhow!("--grep: {e}"))?;
            Box::new(move |text| pattern.is_match(text))
        }
        None => Box::new(|_| true),
    };
    let stream = match (args.stdout, args.stderr) {
        (true, _) => Some(Stream::Stdout),
        (_, true) => Some(Stream::Stderr),
        _ => None,
    };
    let out = std::io::stdout();
    let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb");
    let colour = out.is_terminal() && !dumb && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut logs = Logs::open(&kept.dir, Wanted { group, index, stream, fits }, colour)?;
    match logs.write(&mut BufWriter::new(out.lock()), args.follow) {
        Ok(()) => {}
        // Whoever reads has seen enough.
        Err(LogError::Write(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::Success);
        }
        Err(e) => return Err(e.into()),
    }
    if let Some((path, e)) = logs.unreadable() {
        eprintln!("warning: lines are missing: {} can't be read: {e}", path.display());
    }
    if !logs.is_over() {
        if runs::is_going(&kept.dir) {
            eprintln!("run {} is still going; -f follows it", kept.id);
        } else {
            eprintln!("run {} has no end: whoever carried it out was killed", kept.id);
        }
    }
    Ok(ExitCode::Success)
}

/// A group of the run, and an index in it.
///
/// # Errors
/// When the run has no such group or instance, said with those that it has.
pub(super) fn selected(typed: &str, info: &RunInfo) -> anyhow::Result<(Option<String>, Option<u32>)> {
    let name = InstanceName::parse(typed)
        .with_context(|| format!("{typed:?} is no instance: it is written GROUP or GROUP[INDEX]"))?;
    let index = typed.ends_with(']').then_some(name.index);
    // A run without a run.json knows its groups only when it has ended.
    if !info.groups.is_empty() {
        let Some(group) = info.groups.iter().find(|g| g.id == name.group) else {
            let groups: Vec<&str> = info.groups.iter().map(|g| g.id.as_str()).collect();
            let near = nearest(&name.group, groups.iter().copied());
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            bail!(
                "run {} has no group {:?}; its groups are {}{near}",
                info.id,
                name.group,
                groups.join(", ")
            );
        };
        if index.is_some_and(|i| i >= group.instances) {
            let last = group.instances.saturating_sub(1);
            bail!("run {} has no instance {typed}: those of {} are [0] to [{last}]", info.id, group.id);
        }
    }
    Ok((Some(name.group), index))
}

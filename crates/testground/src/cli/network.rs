//! `testground network`: what is in force in a running lab, and what was decided about packets in a recorded run.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use testground_engine::home::Home;
use testground_engine::lab::{Call, Reply, call};
use testground_engine::runs::{self, RunInfo};
use testground_model::name::InstanceName;
use testground_model::outcome::ExitCode;
use testground_sidecar::show::View;

use super::dynamic;
use super::logs::selected;

/// Look at the network of a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Links in force, counters, drops by cause and lateness of a run that goes on.
    Show {
        /// The run: its id, how it begins, or `last`.
        #[arg(add = dynamic::runs())]
        run: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Every decision about packets of a run that was started with --record, one JSON object a line.
    Trace {
        /// The run: its id, how it begins, or `last`.
        #[arg(add = dynamic::runs())]
        run: String,
        /// Only packets from this group or instance, such as g or g[0], or from one network of it: g[0]/default.
        #[arg(long, value_name = "GROUP[INDEX]")]
        from: Option<String>,
        /// Only packets to this group or instance.
        #[arg(long, value_name = "GROUP[INDEX]")]
        to: Option<String>,
        /// Only what was dropped.
        #[arg(long)]
        drops: bool,
    },
}

/// Shows it.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Show { run, json } => show(&run, json),
        What::Trace { run, from, to, drops } => trace(&run, from.as_deref(), to.as_deref(), drops),
    }
}

fn show(run: &str, json: bool) -> anyhow::Result<ExitCode> {
    let lab = super::runs::lab(run)?;
    let (reply, picture) = call(lab.init, &Call::Network, &[]).map_err(|e| anyhow!(e))?;
    let picture = match (reply, picture) {
        (Reply::Network, Some(picture)) => std::fs::File::from(picture),
        (Reply::Refused(why), _) => bail!(why),
        _ => bail!("the lab answered something else"),
    };
    let view: View =
        serde_json::from_reader(BufReader::new(picture)).context("failed to read the network")?;
    if json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!("{}", view.table());
    }
    Ok(ExitCode::Success)
}

fn trace(run: &str, from: Option<&str>, to: Option<&str>, drops: bool) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let found = runs::find(&home, run)?;
    let file = found.dir.join("links.jsonl");
    let lines = match std::fs::File::open(&file) {
        Ok(lines) => lines,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("run {} recorded no decisions; `testground run --record` does", found.id)
        }
        Err(e) => return Err(e).with_context(|| file.display().to_string()),
    };
    let info = RunInfo::read(&found.dir)
        .with_context(|| format!("what is known of the run in {} can't be read", found.dir.display()))?;
    let end = |flag: &str, typed: Option<&str>| {
        let end = typed.map(|typed| End::of(typed, &info).with_context(|| format!("{flag} {typed}")));
        end.transpose()
    };
    let (from, to) = (end("--from", from)?, end("--to", to)?);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in BufReader::new(lines).lines() {
        let line = line.with_context(|| format!("failed to read {}", file.display()))?;
        let all = from.is_none() && to.is_none() && !drops;
        let wanted = all || fits(&line, from.as_ref(), to.as_ref(), drops);
        if wanted && writeln!(out, "{line}").is_err() {
            // Whoever reads has seen enough.
            return Ok(ExitCode::Success);
        }
    }
    let _ = out.flush();
    Ok(ExitCode::Success)
}

/// One end of the packets that are wanted: a group or an instance of it, on one network or all.
#[derive(Debug)]
struct End {
    group: String,
    index: Option<u32>,
    network: Option<String>,
}

// === impl End ===

impl End {
    /// Reads `GROUP`, `GROUP[INDEX]`, or either with `/NETWORK`.
    fn of(typed: &str, info: &RunInfo) -> anyhow::Result<End> {
        let (name, network) = match typed.split_once('/') {
            Some((name, network)) => (name, Some(network.to_owned())),
            None => (typed, None),
        };
        let (group, index) = selected(name, info)?;
        Ok(End { group: group.unwrap_or_default(), index, network })
    }

    /// Whether this is an end of a link: they are called `instance/network`.
    fn is(&self, name: &str) -> bool {
        let (instance, network) = name.split_once('/').unwrap_or((name, ""));
        InstanceName::parse(instance).is_some_and(|i| {
            i.group == self.group
                && self.index.is_none_or(|index| index == i.index)
                && self.network.as_ref().is_none_or(|wanted| wanted == network)
        })
    }
}

fn fits(line: &str, from: Option<&End>, to: Option<&End>, drops: bool) -> bool {
    let Ok(decision) = serde_json::from_str::<serde_json::Value>(line) else { return false };
    let is = |key: &str, wanted: Option<&End>| {
        let name = decision.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        wanted.is_none_or(|end| end.is(name))
    };
    let dropped = decision.get("fate").and_then(|v| v.as_str()) != Some("departs");
    is("from", from) && is("to", to) && (!drops || dropped)
}

//! `testground network`: what is in force in a running lab, and what was decided about packets in a recorded run.

use std::io::{BufRead, BufReader, Write};

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use testground_engine::home::Home;
use testground_engine::lab::{Call, Reply, call};
use testground_engine::runs;
use testground_model::outcome::ExitCode;
use testground_sidecar::show::View;

use super::dynamic;

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
        /// Only packets from this instance, such as g[0].
        #[arg(long)]
        from: Option<String>,
        /// Only packets to this instance.
        #[arg(long)]
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
            anyhow::bail!("run {} recorded no decisions; `testground run --record` does", found.id)
        }
        Err(e) => return Err(e).with_context(|| file.display().to_string()),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in BufReader::new(lines).lines() {
        let line = line.with_context(|| format!("failed to read {}", file.display()))?;
        let wanted = from.is_none() && to.is_none() && !drops || fits(&line, from, to, drops);
        if wanted && writeln!(out, "{line}").is_err() {
            // Whoever reads has seen enough.
            return Ok(ExitCode::Success);
        }
    }
    let _ = out.flush();
    Ok(ExitCode::Success)
}

/// Names of links are `instance/network`.
fn fits(line: &str, from: Option<&str>, to: Option<&str>, drops: bool) -> bool {
    let Ok(decision) = serde_json::from_str::<serde_json::Value>(line) else { return false };
    let is = |key: &str, wanted: Option<&str>| {
        let name = decision.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        wanted.is_none_or(|w| name == w || name.rsplit_once('/').is_some_and(|(instance, _)| instance == w))
    };
    let dropped = decision.get("fate").and_then(|v| v.as_str()) != Some("departs");
    is("from", from) && is("to", to) && (!drops || dropped)
}

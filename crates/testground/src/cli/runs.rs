//! `testground runs`: the runs that left something on disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;
use testground_engine::home::Home;
use testground_engine::lab::find::{self, Found, NoLab};
use testground_engine::runs::{self, Kept, RemoveError, RunInfo, Spare, State};
use testground_model::name::RunId;
use testground_model::outcome::{ExitCode, RunOutcome};
use testground_model::units;

use super::dynamic;

/// Look at runs, and remove what they left.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All runs that left something, the latest last.
    #[command(visible_alias = "ls")]
    List {
        /// Only runs of this plan.
        #[arg(short, long)]
        plan: Option<String>,
        /// Only the latest so many.
        #[arg(short = 'n', long, value_name = "N")]
        latest: Option<usize>,
        /// As JSON: a list of objects.
        #[arg(long)]
        json: bool,
    },
    /// What is known of one run.
    Show {
        /// The run: its id, how it begins, or `last`.
        #[arg(default_value = "last", add = dynamic::runs())]
        run: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove all that runs left.
    Rm {
        /// The runs: their ids, how they begin, or `last`.
        #[arg(required = true, add = dynamic::runs())]
        runs: Vec<String>,
        /// Don't ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Remove old runs. What fits any of the conditions goes; a run that is still going stays.
    #[command(group = clap::ArgGroup::new("conditions").required(true).multiple(true))]
    Prune {
        /// Those that began longer ago than this, such as 12h or 7d.
        #[arg(long, value_name = "AGE", value_parser = age, group = "conditions")]
        older_than: Option<Duration>,
        /// All but the latest N.
        #[arg(long, value_name = "N", group = "conditions")]
        keep: Option<usize>,
        /// The oldest, until the others take no more than this together, such as 10GiB.
        #[arg(long, value_name = "SIZE", value_parser = size, group = "conditions")]
        keep_size: Option<u64>,
        /// Only runs of this plan go, and count.
        #[arg(short, long)]
        plan: Option<String>,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Don't ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// A run, as `--json` shows it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    info: &'a RunInfo,
    state: State,
    outputs: String,
}

/// Does what was asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    match args.what {
        What::List { plan, latest, json } => list(&home, plan.as_deref(), latest, json),
        What::Show { run, json } => show(&home, &run, json),
        What::Rm { runs, yes } => remove_named(&home, &runs, yes),
        What::Prune { older_than, keep, keep_size, plan, dry_run, yes } => {
            let spare = Spare { younger: older_than, latest: keep, bytes: keep_size };
            prune(&home, &spare, plan.as_deref(), dry_run, yes)
        }
    }
}

fn list(home: &Home, plan: Option<&str>, latest: Option<usize>, json: bool) -> anyhow::Result<ExitCode> {
    let mut all = known(home, plan);
    all.drain(..all.len().saturating_sub(latest.unwrap_or(usize::MAX)));
    if json {
        let shown: Vec<Shown<'_>> = all.iter().map(|(kept, info)| as_shown(kept, info)).collect();
        say(&(serde_json::to_string_pretty(&shown)? + "\n"));
    } else if all.is_empty() {
        eprintln!("no run has left anything in {}", home.outputs().display());
    } else {
        say(&table(&all));
    }
    Ok(ExitCode::Success)
}

/// The lab of a run that goes on.
///
/// # Errors
/// When no running lab is meant; of a run of this home, in which state it is.
pub(super) fn lab(typed: &str) -> anyhow::Result<Found> {
    // Labs are there without a home too.
    let home = Home::open(|name| std::env::var_os(name)).ok();
    match find::lab(home.as_ref(), typed) {
        Ok(found) => Ok(found),
        Err(NoLab::Unknown(why)) => bail!(why),
        Err(NoLab::NotNow { run, running }) => {
            let mut why = without_lab(&run);
            if !running.is_empty() {
                let running: Vec<&str> = running.iter().map(RunId::as_str).collect();
                why.push_str(&format!("; these are running: {}", running.join(", ")));
            }
            bail!(why)
        }
    }
}

/// Why a run has no lab.
fn without_lab(run: &Kept) -> String {
    let (id, dir) = (&run.id, &run.dir);
    let Ok(info) = RunInfo::read(dir) else {
        return format!("run {id} has no lab, and what is known of it in {} can't be read", dir.display());
    };
    let left = format!("what it left: `testground logs {id}`, `testground runs show {id}`");
    match info.state(dir) {
        State::Going if runs::had_lab(dir) => format!("run {id} is going, but its lab has ended already"),
        State::Going => format!("run {id} is going, but has no lab yet: it comes when all is built"),
        state => format!("run {id} is over ({}), and its lab is gone; {left}", outcome(&info, state)),
    }
}

/// The runs that can be read, oldest first; of the others it is said why not.
fn known(home: &Home, plan: Option<&str>) -> Vec<(Kept, RunInfo)> {
    let mut known = Vec::new();
    for kept in runs::all(home) {
        match RunInfo::read(&kept.dir) {
            Ok(info) => known.push((kept, info)),
            Err(e) => eprintln!("warning: {} can't be read: {e}", kept.dir.display()),
        }
    }
    // As folders and instances see it.
    let plan = plan.map(|plan| plan.replace('/', "-"));
    known.retain(|(_, info)| plan.as_ref().is_none_or(|plan| info.plan == *plan));
    known
}

fn as_shown<'a>(kept: &Kept, info: &'a RunInfo) -> Shown<'a> {
    Shown { info, state: info.state(&kept.dir), outputs: kept.dir.display().to_string() }
}

fn table(all: &[(Kept, RunInfo)]) -> String {
    let heads = ["id", "began", "plan", "case", "outcome", "instances", "took", "size"].map(str::to_owned);
    let mut rows = vec![heads];
    for (kept, info) in all {
        let ok: u32 = info.groups.iter().map(|g| g.ok).sum();
        let (instances, took, size) = match &info.ended {
            Some(ended) => (format!("{ok}/{}", info.instances), took(ended.seconds), bytes(ended.size)),
            None => (info.instances.to_string(), "-".to_owned(), "-".to_owned()),
        };
        let outcome = outcome(info, info.state(&kept.dir));
        rows.push([
            info.id.to_string(),
            local(&info.began),
            tame(&info.plan),
            tame(&info.case),
            outcome,
            instances,
            took,
            size,
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// One word for how a run ended, or where it is.
fn outcome(info: &RunInfo, state: State) -> String {
    match (&info.ended, state) {
        (Some(ended), _) => ended.outcome.title().to_owned(),
        (None, State::Going) => "going".to_owned(),
        (None, _) => "killed".to_owned(),
    }
}

fn show(home: &Home, typed: &str, json: bool) -> anyhow::Result<ExitCode> {
    let kept = runs::find(home, typed)?;
    let info = RunInfo::read(&kept.dir)
        .with_context(|| format!("what is known of the run in {} can't be read", kept.dir.display()))?;
    if json {
        say(&(serde_json::to_string_pretty(&as_shown(&kept, &info))? + "\n"));
    } else {
        say(&description(&kept, &info));
    }
    Ok(ExitCode::Success)
}

fn description(kept: &Kept, info: &RunInfo) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<10}{}", text.trim_end());
    };
    line("run", info.id.as_str());
    line("plan", &format!("{}, case {}", tame(&info.plan), tame(&info.case)));
    if !matches!(info.run.as_str(), "" | "default") {
        line("of", &format!("run {} of the composition", tame(&info.run)));
    }
    line("runner", &info.runner);
    line("began", &local(&info.began));
    let state = info.state(&kept.dir);
    line("outcome", &outcome(info, state));
    if let Some(ended) = &info.ended {
        // An interruption is its own cause.
        let cause =
            ended.outcome.cause().filter(|_| ended.outcome != RunOutcome::Interrupted).unwrap_or_default();
        for (i, cause) in cause.lines().enumerate() {
            line(if i == 0 { "cause" } else { "" }, &tame(cause));
        }
        if let Some(late) = ended.emulator_late.map(|late| late.to_string()).filter(|late| late != cause) {
            line("but", &late);
        }
        line("exit code", &ended.exit_code.to_string());
        line("took", &took(ended.seconds));
    }
    for (i, group) in info.groups.iter().enumerate() {
        let name = if i == 0 { "groups" } else { "" };
        let count = match &info.ended {
            Some(_) => format!("{} of {} ok", group.ok, group.instances),
            None => group.instances.to_string(),
        };
        line(name, &format!("{}: {count}", tame(&group.id)));
    }
    line("seed", &info.seed.to_string());
    if let Some(ended) = &info.ended {
        line("size", &bytes(ended.size));
    }
    line("outputs", &kept.dir.display().to_string());
    if state == State::Lost {
        line("", "whoever carried the run out was killed before it could say how it ended");
    }
    out
}

fn remove_named(home: &Home, typed: &[String], yes: bool) -> anyhow::Result<ExitCode> {
    let mut chosen = BTreeMap::new();
    for typed in typed {
        let kept = runs::find(home, typed)?;
        chosen.insert(kept.id.clone(), kept);
    }
    let chosen: Vec<Kept> = chosen.into_values().collect();
    if let Some(going) = chosen.iter().find(|kept| runs::is_going(&kept.dir)) {
        return Err(RemoveError::Going(going.id.clone()).into());
    }
    remove_all(&chosen, yes)
}

fn prune(
    home: &Home,
    spare: &Spare,
    plan: Option<&str>,
    dry_run: bool,
    yes: bool,
) -> anyhow::Result<ExitCode> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stale = runs::stale(&known(home, plan), spare, now.as_secs() as i64);
    if stale.is_empty() {
        println!("nothing to remove");
        return Ok(ExitCode::Success);
    }
    if dry_run {
        let words: String = stale.iter().map(|kept| format!("would remove {}\n", words_of(kept))).collect();
        say(&words);
        return Ok(ExitCode::Success);
    }
    remove_all(&stale, yes)
}

/// Asks, unless it was said not to, and removes. A run that can't be removed doesn't keep the others.
fn remove_all(chosen: &[Kept], yes: bool) -> anyhow::Result<ExitCode> {
    if !yes {
        for kept in chosen {
            eprintln!("  {}", words_of(kept));
        }
        let what = if chosen.len() == 1 { "this run".to_owned() } else { format!("{} runs", chosen.len()) };
        if !agreed(&format!("remove all that {what} left?"))? {
            eprintln!("nothing was removed");
            return Ok(ExitCode::Failed);
        }
    }
    let mut code = ExitCode::Success;
    for kept in chosen {
        match runs::remove(kept) {
            Ok(()) => println!("removed {}", kept.id),
            Err(e) => {
                eprintln!("error: {e}");
                code = ExitCode::Failed;
            }
        }
    }
    Ok(code)
}

/// Asks on the terminal; where there is none, nobody can agree.
///
/// # Errors
/// When standard input is no terminal.
pub(super) fn agreed(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("{question} There is nobody to ask: standard input is no terminal (--yes agrees)");
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("failed to read the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn words_of(kept: &Kept) -> String {
    match RunInfo::read(&kept.dir) {
        Ok(info) => {
            let size = info.ended.as_ref().map_or_else(String::new, |e| format!(", {}", bytes(e.size)));
            format!("{} of {}: {}{size}", kept.id, tame(&info.plan), local(&info.began))
        }
        Err(_) => kept.id.to_string(),
    }
}

/// Whoever reads may have gone.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Without control characters.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).collect()
}

/// To the second.
fn local(began: &str) -> String {
    began.get(..19).unwrap_or(began).replace('T', " ") + "Z"
}

fn took(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Go's form, and days and weeks.
fn age(text: &str) -> Result<Duration, String> {
    let days = |unit: char, seconds: u64| {
        let n: u64 = text.strip_suffix(unit)?.parse().ok()?;
        n.checked_mul(seconds).map(Duration::from_secs)
    };
    match days('d', 86_400).or_else(|| days('w', 7 * 86_400)) {
        Some(age) => Ok(age),
        None => units::duration(text).map_err(|e| format!("{e}; whole days are written 7d, weeks 2w")),
    }
}

fn size(text: &str) -> Result<u64, String> {
    units::size(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_durations_days_or_weeks() {
        let hours = |n: u64| Ok(Duration::from_secs(n * 3600));
        assert_eq!((age("12h"), age("7d"), age("2w")), (hours(12), hours(168), hours(336)));
        for wrong in ["", "7", "d", "-1d", "1.5d", "99999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            (bytes(0), bytes(1536), bytes(200 << 20)),
            ("0 B".into(), "1.5 KiB".into(), "200 MiB".into())
        );
        assert_eq!((took(0.934), took(95.4), took(600.0)), ("0.93 s".into(), "95 s".into(), "10 min".into()));
        assert_eq!(local("2026-11-28T14:33:39.123456Z"), "2026-11-28 14:33:39Z");
    }
}

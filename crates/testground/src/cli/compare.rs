//! `testground compare`: two runs' measurements side by side.

use anyhow::{Context, bail};
use serde_json::json;
use testground_engine::measure::compare::{Compared, SIGNIFICANT, Values, compare, read};
use testground_engine::report::{comparison, regressions};
use testground_model::measure::{Kind, SeriesName};
use testground_model::outcome::ExitCode;

use super::dynamic;
use super::metrics::{Kept, find};

/// Compare two runs' measurements, with a test of whether they differ.
///
/// Each series (measurement, tags, field, group) of the first run stands beside the same one of the second. The test is that
/// of Mann and Whitney: whether values of one run tend to be greater, whatever their distribution. Its probabilities are
/// corrected for the number of series compared (Holm), so that among many series without a difference one is called
/// different in 5 % of comparisons at most. The size of a difference is the change of the median, and in how many of a hundred
/// pairs the second run's value is the greater (50: no difference). Series with fewer than 4 values in a run are shown and not
/// tested; of more than 100,000 values an even choice is ranked.
///
/// The test takes values for independent of each other. Those of one instance seldom are, so that a small probability says
/// that these two runs differ, and several runs of each say whether their plans do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first run (what is compared with): its id, how it begins, or `last`.
    #[arg(add = dynamic::runs())]
    a: String,
    /// The second run.
    #[arg(add = dynamic::runs())]
    b: String,
    /// As JSON: one object with all series.
    #[arg(long)]
    json: bool,
    /// Compare every series, diagnostics of runtimes too.
    #[arg(long)]
    all: bool,
    /// Exit with 1 when the second run's median is significantly worse by more than so many percent.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_on_regression: Option<f64>,
    /// For measurements whose name has this text in it, a greater value is the better one (can be given several times).
    #[arg(long, value_name = "TEXT")]
    higher_is_better: Vec<String>,
}

/// Compares and says; 1 for a regression where that was asked for.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (a, b) = (find(&args.a)?, find(&args.b)?);
    let wanted = |name: &SeriesName| args.all || (name.kind != Kind::Diagnostic && name.is_main());
    let values = |kept: &Kept| -> anyhow::Result<Values> {
        read(&kept.outputs, &kept.source, wanted)
            .with_context(|| format!("failed to read the measurements of run {}", kept.source.run))
    };
    let (values_a, values_b) = (values(&a)?, values(&b)?);
    for (kept, values) in [(&a, &values_a), (&b, &values_b)] {
        if values.is_empty() {
            bail!("run {} measured nothing that could be compared", kept.source.run);
        }
    }
    let compared = compare(&values_a, &values_b);
    let worse: Vec<&Compared> = match args.fail_on_regression {
        Some(limit) => {
            let higher =
                |c: &Compared| args.higher_is_better.iter().any(|t| c.series.label().contains(t.as_str()));
            compared.iter().filter(|c| c.is_worse(limit, higher(c))).collect()
        }
        None => Vec::new(),
    };
    if args.json {
        let names: Vec<_> = worse.iter().map(|c| &c.series).collect();
        let value = json!({
            "a": a.source.run, "b": b.source.run, "test": "mann-whitney", "correction": "holm",
            "significant_below": SIGNIFICANT, "series": compared, "regressions": names,
        });
        println!("{value}");
    } else {
        print!("{}", comparison(&a.source.run, &b.source.run, &compared));
        if let Some(limit) = args.fail_on_regression {
            print!("{}", regressions(&worse, limit));
        }
    }
    Ok(if worse.is_empty() { ExitCode::Success } else { ExitCode::Failed })
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>().map_err(|e| e.to_string())?;
    if (0.0..1e6).contains(&number) { Ok(number) } else { Err("0 or more percent are expected".to_owned()) }
}

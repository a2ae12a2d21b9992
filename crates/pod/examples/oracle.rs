//! Holds what the oracle recorded on a kubelet against the machine.
//!
//! ```text
//! cargo run -p testground-pod --example oracle -- differences FOLDER [ID...]
//! cargo run -p testground-pod --example oracle -- show FOLDER ID [--seed N]
//! ```
//!
//! FOLDER has `traces/ID.json` and `manifests/ID.yaml`, as `oracle run --out FOLDER` writes them;
//! `crates/pod/tests/conformance/kubelet-1.34` is one. The comparison is that of `tests/traces.rs`. `differences` ends with 1
//! if there is one that nothing explains.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use testground_pod::machine::Timing;

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use oracle::Recorded;
use oracle::compare::{Want, all_differences, excuse, side_by_side};

/// How many kubelets are tried: what is chance on a real one comes from a seed here.
const SEEDS: u64 = 48;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says of each trace in what the machine differs from it.
    Differences {
        /// Where `traces` and `manifests` are.
        folder: PathBuf,
        /// Only these traces.
        ids: Vec<String>,
    },
    /// Shows one trace and what the machine makes of it, side by side.
    Show {
        /// Where `traces` and `manifests` are.
        folder: PathBuf,
        /// Which trace.
        id: String,
        /// The seed of `kubelet` timing; without it the timing is `ideal`.
        #[arg(long)]
        seed: Option<u64>,
    },
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Show { folder, id, seed } => {
            ensure!(known(&folder)?.contains(&id), "there is no trace {id} in {}", folder.display());
            let recorded = Recorded::read_from(&folder, &id);
            let timing = seed.map_or(Timing::Ideal, |seed| Timing::Kubelet { seed });
            println!("{}", side_by_side(&recorded, &recorded.simulate(timing)));
            Ok(ExitCode::SUCCESS)
        }
        Command::Differences { folder, ids } => {
            let all = known(&folder)?;
            for id in &ids {
                ensure!(all.contains(id), "there is no trace {id} in {}", folder.display());
            }
            let wanted = if ids.is_empty() { all } else { ids };
            let unexplained = wanted.iter().filter(|id| !agrees(&folder, id)).count();
            println!("{} traces, {unexplained} with differences that nothing explains", wanted.len());
            Ok(ExitCode::from(u8::from(unexplained > 0)))
        }
    }
}

/// The recorded traces, in order.
fn known(folder: &Path) -> Result<Vec<String>> {
    let traces = folder.join("traces");
    let files = std::fs::read_dir(&traces).with_context(|| format!("{} can't be read", traces.display()))?;
    let mut ids = Vec::new();
    for file in files {
        let name = file?.file_name().to_string_lossy().into_owned();
        ids.extend(name.strip_suffix(".json").map(str::to_owned));
    }
    ids.sort();
    Ok(ids)
}

/// Prints what differs, and says whether all of it is explained.
fn agrees(folder: &Path, id: &str) -> bool {
    let recorded = Recorded::read_from(folder, id);
    if recorded.trace.last.is_empty() {
        println!("{id}: the API server refused the manifest; see the validation tests");
        return true;
    }
    let (seed, kubelet) = best_seed(&recorded);
    let ideal = all_differences(&recorded, &recorded.simulate(Timing::Ideal), Want::Ideal);
    let mut explained = true;
    println!("{id}: {}", if kubelet.is_empty() && ideal.is_empty() { "agrees" } else { "differs" });
    let timings =
        [(format!("kubelet, seed {seed}"), Want::Kubelet, kubelet), ("ideal".to_owned(), Want::Ideal, ideal)];
    for (timing, want, differences) in timings {
        for difference in differences {
            let why = excuse(id, want, &difference);
            explained &= why.is_some();
            println!(
                "    ({timing}) {difference}{}",
                why.map(|why| format!(" -- {why}")).unwrap_or_default()
            );
        }
    }
    explained
}

/// The seed that fits best, and what still differs under it.
fn best_seed(recorded: &Recorded) -> (u64, Vec<String>) {
    let open = |differences: &[String]| {
        differences.iter().filter(|d| excuse(&recorded.id, Want::Kubelet, d).is_none()).count()
    };
    let mut best = (0, Vec::new());
    for seed in 0..SEEDS {
        let differences =
            all_differences(recorded, &recorded.simulate(Timing::Kubelet { seed }), Want::Kubelet);
        if seed == 0 || (open(&differences), differences.len()) < (open(&best.1), best.1.len()) {
            best = (seed, differences);
        }
        if best.1.is_empty() {
            break;
        }
    }
    best
}

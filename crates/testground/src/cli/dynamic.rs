//! What a shell completes that only this machine knows: ids of runs, names of plans.

use std::ffi::OsStr;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use testground_engine::home::{self, Home};
use testground_engine::plans;
use testground_engine::runs::{self, RunInfo};

/// Runs that are offered.
const MOST: usize = 50;

/// Ids of runs, the latest first, and `last`.
pub(super) fn runs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_str().unwrap_or_default();
        let Some(home) = existing_home() else { return Vec::new() };
        let words = |kept: &runs::Kept| match RunInfo::read(&kept.dir) {
            Ok(info) => format!("{}:{} {}", info.plan, info.case, info.began),
            Err(_) => String::new(),
        };
        let all = runs::all(&home);
        let latest = all.iter().rev().filter(|kept| kept.id.as_str().starts_with(typed)).take(MOST);
        let offered =
            latest.map(|kept| CompletionCandidate::new(kept.id.as_str()).help(Some(words(kept).into())));
        let last = (!all.is_empty() && "last".starts_with(typed)).then(|| CompletionCandidate::new("last"));
        last.into_iter().chain(offered).collect()
    })
}

/// Names of the plans in the home.
pub(super) fn plans() -> ArgValueCompleter {
    ArgValueCompleter::new(known_plans)
}

/// Names of the plans in the home, and paths.
pub(super) fn plans_and_paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let mut offered = PathCompleter::any().complete(typed);
        offered.extend(known_plans(typed));
        offered
    })
}

fn known_plans(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_str().unwrap_or_default();
    let Some(home) = existing_home() else { return Vec::new() };
    let known = plans::list(&home.plans());
    known.into_iter().filter(|name| name.starts_with(typed)).map(CompletionCandidate::new).collect()
}

/// Where there is no home, completing makes none.
fn existing_home() -> Option<Home> {
    let root = home::locate(|name| std::env::var_os(name)).ok().filter(|root| root.is_dir())?;
    Home::at(&root).ok()
}

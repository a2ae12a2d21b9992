//! Labs that run on this machine: found among its processes, so that there is no list of them that could be wrong.

use std::fs;

use testground_model::name::RunId;

use crate::home::Home;
use crate::runs::{self, FindError, Kept, choose};

/// A lab that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The run.
    pub id: RunId,
    /// Lab init's process id.
    pub init: u32,
}

/// Every lab whose processes this user can see, oldest run first.
pub fn running() -> Vec<Found> {
    let mut found: Vec<Found> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let init: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some(Found { id: lab_of(&fs::read(format!("/proc/{init}/cmdline")).ok()?)?, init })
        })
        .collect();
    // Instances' inits are forks of lab init and carry its command line: of each run the eldest is the one.
    found.sort_by(|a, b| (&a.id, started(a.init)).cmp(&(&b.id, started(b.init))));
    found.dedup_by(|later, first| later.id == first.id);
    found
}

/// The run that a command line belongs to.
fn lab_of(cmdline: &[u8]) -> Option<RunId> {
    let mut args = cmdline.split(|&b| b == 0);
    args.next()?;
    if args.next()? != super::ROLE_INIT.as_bytes() {
        return None;
    }
    RunId::parse(std::str::from_utf8(args.next()?).ok()?)
}

/// When a process started, in clock ticks since boot (field 22 of proc_pid_stat(5)), then its id.
fn started(pid: u32) -> (u64, u32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)?.parse().ok());
    (ticks.unwrap_or(u64::MAX), pid)
}

/// Why there is no lab to talk to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLab {
    /// A run of this home is meant, and it has no lab now.
    #[error("run {} has no lab", run.id)]
    NotNow {
        /// The run.
        run: Kept,
        /// Runs of this home that have one, oldest first.
        running: Vec<RunId>,
    },
    /// What was typed is no run of this home.
    #[error("{0}")]
    Unknown(String),
}

/// The lab that is meant: of a run of this home by its id, by how the id begins, or by `last`, which is the same run here
/// as on disk; of a run of another home by its whole id only, lest somebody ends up in a stranger's run.
///
/// # Errors
/// [`NoLab`], said with the runs of this home that do have a lab.
pub fn lab(home: Option<&Home>, typed: &str) -> Result<Found, NoLab> {
    choose_lab(&running(), home.map(runs::all).unwrap_or_default(), typed)
}

fn choose_lab(running: &[Found], kept: Vec<Kept>, typed: &str) -> Result<Found, NoLab> {
    let at = |id: &RunId| running.iter().find(|lab| lab.id == *id).cloned();
    if let Some(found) = running.iter().find(|lab| lab.id.as_str() == typed) {
        return Ok(found.clone());
    }
    let ids: Vec<RunId> = kept.iter().map(|kept| kept.id.clone()).collect();
    let ours: Vec<RunId> = ids.iter().filter(|id| at(id).is_some()).cloned().collect();
    // Of several runs that begin so, one that goes on is meant.
    let first = if matches!(typed, "last" | "latest") { &ids } else { &ours };
    let chosen = match choose(first, typed) {
        Ok(chosen) => Ok(first[chosen].clone()),
        Err(FindError::Unknown { .. }) => choose(&ids, typed).map(|chosen| ids[chosen].clone()),
        Err(several) => Err(several),
    };
    match chosen {
        Ok(id) => at(&id).ok_or_else(|| {
            let dir = kept.into_iter().find(|kept| kept.id == id).map(|kept| kept.dir).unwrap_or_default();
            NoLab::NotNow { run: Kept { id, dir }, running: ours }
        }),
        Err(FindError::Unknown { nearest, .. }) => Err(NoLab::Unknown(not_running(typed, &nearest, &ours))),
        Err(several) => Err(NoLab::Unknown(several.to_string())),
    }
}

fn not_running(typed: &str, nearest: &[RunId], ours: &[RunId]) -> String {
    match (nearest, ours) {
        ([], []) => format!("run {typed} is not running: no run of this home is"),
        ([], _) => format!("run {typed} is not running; these are: {}", names(ours)),
        _ => format!("run {typed} is not running (did you mean {}?)", names(nearest)),
    }
}

fn names(ids: &[RunId]) -> String {
    ids.iter().map(RunId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_meant_among_those_of_this_home_and_a_stranger_s_by_its_whole_id_only() {
        let id = |second: u32| RunId::new(second, [0; 8]);
        let kept = |seconds: &[u32]| -> Vec<Kept> {
            seconds.iter().map(|&s| Kept { id: id(s), dir: format!("/o/{s}").into() }).collect()
        };
        let running = |seconds: &[u32]| -> Vec<Found> {
            seconds.iter().map(|&s| Found { id: id(s), init: s }).collect()
        };
        // 1 and 2 are ours, and 1 goes on; 3 is a stranger's.
        let lab = |typed: &str| choose_lab(&running(&[1, 3]), kept(&[1, 2]), typed);
        assert_eq!(lab(id(3).as_str()).map(|lab| lab.init), Ok(3));
        assert_eq!(lab(id(1).as_str()).map(|lab| lab.init), Ok(1));
        // Both of ours begin so.
        assert_eq!(lab("0000").map(|lab| lab.init), Ok(1));
        let over = NoLab::NotNow { run: kept(&[2]).remove(0), running: vec![id(1)] };
        assert_eq!((lab("last"), lab(id(2).as_str())), (Err(over.clone()), Err(over)));
        let unknown = lab(&id(3).as_str()[..10]).expect_err("a stranger's").to_string();
        assert!(unknown.ends_with(&format!("these are: {}", id(1))), "{unknown}");
        let none = choose_lab(&running(&[3]), kept(&[]), "last").expect_err("none").to_string();
        assert_eq!(none, "run last is not running: no run of this home is");
    }

    #[test]
    fn a_lab_is_known_by_its_command_line() {
        let id = "9m4e2mr0ui3e8a215n4g";
        let line = format!("testground\0lab-init\0{id}\0/usr/bin/testground\0");
        assert_eq!(lab_of(line.as_bytes()).map(|i| i.to_string()), Some(id.to_owned()));
        for other in ["", "testground\0run\0", "testground\0lab-init\0notanid\0", "vi\0lab-init"] {
            assert_eq!(lab_of(other.as_bytes()), None, "{other}");
        }
    }
}

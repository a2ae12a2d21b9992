//! Labs that run on this machine: found among its processes, so that there is no list of them that could be wrong.

use std::fs;

use testground_model::name::RunId;

use crate::runs::{FindError, choose};

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

/// The lab of the run that is meant: by its id, by how the id begins when only one does so, or `last` for the run that
/// was begun last.
///
/// # Errors
/// None, or several: said with those that run.
pub fn by_prefix(typed: &str) -> Result<Found, String> {
    let all = running();
    if all.is_empty() {
        return Err(format!("run {typed} is not running: no run is"));
    }
    let ids: Vec<RunId> = all.iter().map(|found| found.id.clone()).collect();
    match choose(&ids, typed) {
        Ok(chosen) => Ok(all[chosen].clone()),
        Err(several @ FindError::Several { .. }) => Err(several.to_string()),
        Err(FindError::Unknown { nearest, .. }) if !nearest.is_empty() => {
            Err(format!("run {typed} is not running (did you mean {}?)", names(&nearest)))
        }
        Err(_) => Err(format!("run {typed} is not running; these are: {}", names(&ids))),
    }
}

fn names(ids: &[RunId]) -> String {
    ids.iter().map(RunId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

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

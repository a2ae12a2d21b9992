//! How user and group ids map into a new user namespace (user_namespaces(7)).

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::process::Pid;

/// A range of ids inside a namespace, and where it lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How ids map into a new user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMap {
    /// Every id is itself; needs root (CAP_SETUID and CAP_SETGID).
    Identity,
    /// This process's user and group are 0 inside, and there are no others. Anyone may do it.
    Single,
    /// This process's user and group are 0 inside, and the ranges that /etc/subuid and /etc/subgid grant follow from 1.
    Granted {
        /// Of users.
        users: Vec<IdRange>,
        /// Of groups.
        groups: Vec<IdRange>,
    },
}

/// The map that fits the user of this process, and why a better one was not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenIdMap {
    /// The map.
    pub map: IdMap,
    /// What the user may want to know: why there is a single id only.
    pub note: Option<String>,
}

/// Why ids could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    /// A file under /proc could not be written or read.
    #[error("failed to access {path}")]
    File {
        /// Which.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// One of the two tools that write granted ranges failed.
    #[error("failed to run {tool}: {message}")]
    Tool {
        /// `newuidmap` or `newgidmap`.
        tool: &'static str,
        /// What it said.
        message: String,
    },
}

impl IdMap {
    /// The identity for root; what is granted in /etc/subuid and /etc/subgid where `newuidmap` and `newgidmap` are
    /// installed; a single id otherwise.
    pub fn choose() -> ChosenIdMap {
        let (user, _) = super::ids();
        if user == 0 && may_map_any() {
            return ChosenIdMap { map: Self::Identity, note: None };
        }
        match granted(user) {
            Ok(map) => ChosenIdMap { map, note: None },
            Err(reason) => ChosenIdMap {
                map: Self::Single,
                note: Some(format!("every process of the lab has one user id: {reason}")),
            },
        }
    }

    /// Writes the maps of a process that has just got a user namespace.
    ///
    /// # Errors
    /// `EPERM` when the map is more than this process may grant.
    pub fn apply(&self, pid: Pid) -> Result<(), IdMapError> {
        let pid = pid.as_raw_nonzero();
        let (user, group) = super::ids();
        match self {
            Self::Identity => {
                for file in ["uid_map", "gid_map"] {
                    // What this namespace itself has, which is less than everything inside a container.
                    let own = format!("/proc/self/{file}");
                    let text =
                        fs::read_to_string(&own).map_err(|source| IdMapError::File { path: own, source })?;
                    write(format!("/proc/{pid}/{file}"), &identity_of(&text))?;
                }
                Ok(())
            }
            Self::Single => {
                write(format!("/proc/{pid}/setgroups"), "deny")?;
                write(format!("/proc/{pid}/uid_map"), &format!("0 {user} 1"))?;
                write(format!("/proc/{pid}/gid_map"), &format!("0 {group} 1"))
            }
            Self::Granted { users, groups } => {
                run_tool("newuidmap", pid.get(), user, users)?;
                run_tool("newgidmap", pid.get(), group, groups)
            }
        }
    }
}

fn write(path: String, text: &str) -> Result<(), IdMapError> {
    fs::write(&path, text).map_err(|source| IdMapError::File { path, source })
}

/// A map of every id that `own` (the text of a `uid_map`) knows to itself.
fn identity_of(own: &str) -> String {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (inside, _, count) = (fields.next()?, fields.next()?, fields.next()?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

/// Whether this process may write a map of ids that are not its own.
fn may_map_any() -> bool {
    use rustix::thread::CapabilitySet;
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID))
}

fn run_tool(tool: &'static str, pid: i32, own: u32, ranges: &[IdRange]) -> Result<(), IdMapError> {
    let mut command = Command::new(tool);
    command.arg(pid.to_string()).args(["0", &own.to_string(), "1"]);
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|error| IdMapError::Tool { tool, message: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(IdMapError::Tool { tool, message })
}

/// The map granted to a user, or why there is none.
fn granted(user: u32) -> Result<IdMap, String> {
    for tool in ["newuidmap", "newgidmap"] {
        if !["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(tool).exists())
        {
            return Err(format!("{tool} is not installed (package uidmap)"));
        }
    }
    let name = user_name(user);
    let ranges = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let ranges = parse_granted(&text, &name, user);
        if ranges.is_empty() {
            return Err(format!(
                "{path} grants nothing to {name} (usermod --add-subuids 100000-165535 {name})"
            ));
        }
        Ok(ranges)
    };
    Ok(IdMap::Granted { users: ranges("/etc/subuid")?, groups: ranges("/etc/subgid")? })
}

/// The name of a user from /etc/passwd, or its number.
fn user_name(user: u32) -> String {
    let number = user.to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&number.as_str()))
        .map_or(number.clone(), |fields| fields[0].to_owned())
}

/// The ranges of subuid(5) text that belong to a user, one after the other from 1 inside.
fn parse_granted(text: &str, name: &str, user: u32) -> Vec<IdRange> {
    let number = user.to_string();
    let mut inside = 1u32;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [owner, first, count] = fields[..] else { continue };
        if owner != name && owner != number {
            continue;
        }
        let (Ok(outside), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        let Some(next) = inside.checked_add(count) else { break };
        if count > 0 {
            ranges.push(IdRange { inside, outside, count });
            inside = next;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_covers_what_this_namespace_has() {
        assert_eq!(identity_of("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity_of("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }

    #[test]
    fn granted_ranges_follow_each_other_from_one() {
        let text = "root:1:5\nanna:100000:65536\n# no\nbob:1:1\n1000:300000:10\nanna:x:1\nanna:7:0\n";
        assert_eq!(
            parse_granted(text, "anna", 1000),
            [
                IdRange { inside: 1, outside: 100_000, count: 65_536 },
                IdRange { inside: 65_537, outside: 300_000, count: 10 },
            ]
        );
        assert_eq!(parse_granted(text, "carl", 1001), []);
    }
}

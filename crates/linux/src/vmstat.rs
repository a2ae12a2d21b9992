//! Whether the kernel has killed something for want of memory: the ground of the word "probable" in an outcome.

use std::fs;
use std::io;
use std::path::Path;

/// How many processes the whole machine has lost to the out-of-memory killer since boot (`oom_kill` of /proc/vmstat).
///
/// # Errors
/// When /proc/vmstat can't be read, or has no such line (before Linux 4.13).
pub fn oom_kills() -> io::Result<u64> {
    let path = "/proc/vmstat";
    counter(&fs::read_to_string(path)?, "oom_kill").ok_or_else(|| missing(path))
}

/// How many processes of a cgroup the out-of-memory killer has ended: `oom_kill` of version 2's `memory.events` or of
/// version 1's `memory.oom_control`, whichever the directory has.
///
/// # Errors
/// When the directory has neither, or not with that line.
pub fn cgroup_oom_kills(cgroup: &Path) -> io::Result<u64> {
    let path = cgroup.join("memory.events");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::read_to_string(cgroup.join("memory.oom_control"))
        }
        read => read,
    }?;
    counter(&text, "oom_kill").ok_or_else(|| missing(&cgroup.display().to_string()))
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no line oom_kill"))
}

/// The number behind a name that stands at the start of a line.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_taken_for_its_prefix() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(counter(text, "oom_kill"), Some(3));
        assert_eq!(counter("oom_kill_disable 1\n", "oom_kill"), None);
    }

    #[test]
    fn this_kernel_counts() {
        let text = fs::read_to_string("/proc/vmstat").unwrap();
        if !text.contains("\noom_kill ") {
            eprintln!("SKIPPED this_kernel_counts: /proc/vmstat has no oom_kill");
            assert!(std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|value| value != "all"));
            return;
        }
        let before = oom_kills().unwrap();
        assert!(oom_kills().unwrap() >= before);
    }

    #[test]
    fn a_cgroup_of_either_version() {
        let cgroup = tempfile::tempdir().unwrap();
        assert!(cgroup_oom_kills(cgroup.path()).is_err());
        fs::write(cgroup.path().join("memory.oom_control"), "oom_kill_disable 0\noom_kill 2\n").unwrap();
        assert_eq!(cgroup_oom_kills(cgroup.path()).unwrap(), 2);
        fs::write(cgroup.path().join("memory.events"), "low 0\noom 1\noom_kill 5\n").unwrap();
        assert_eq!(cgroup_oom_kills(cgroup.path()).unwrap(), 5);
    }
}

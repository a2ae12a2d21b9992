//! Figures of the machine that are read, not tried.

use std::fs;
use std::path::Path;

use crate::process;

/// What the machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, such as `6.1.0-18-amd64`.
    pub kernel: String,
    /// The version of its control groups.
    pub cgroups: Cgroups,
    /// Memory in bytes.
    pub memory_total: u64,
    /// What of it programs can still get, in bytes.
    pub memory_available: u64,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Its limits.
    pub limits: Limits,
}

/// Which version of control groups is mounted at /sys/fs/cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// One tree.
    V2,
    /// A tree for each controller.
    V1,
    /// Version 1, with a tree of version 2 beside it that has no controllers.
    Hybrid,
    /// None.
    Absent,
}

/// Limits that many instances run into. `u64::MAX` stands for no limit, 0 for a limit that the kernel does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors of a process: what is in force.
    pub nofile: u64,
    /// Open descriptors of a process: what it may be raised to.
    pub nofile_hard: u64,
    /// Processes and threads of this user.
    pub processes: u64,
    /// The largest process id, machine-wide.
    pub pid_max: u64,
    /// Threads, machine-wide.
    pub threads_max: u64,
    /// inotify instances of this user.
    pub inotify_instances: u64,
    /// User namespaces of this user.
    pub user_namespaces: u64,
    /// Network namespaces of this user.
    pub net_namespaces: u64,
    /// Neighbours that the kernel keeps, machine-wide in the first network namespace.
    pub neighbours: u64,
}

impl Facts {
    /// Reads them.
    pub fn read() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            cgroups: cgroups(Path::new("/sys/fs/cgroup")),
            memory_total: kilobytes(&memory, "MemTotal:"),
            memory_available: kilobytes(&memory, "MemAvailable:"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            limits: Limits::read(),
        }
    }

    /// The kernel's version as two numbers, such as 6 and 1.
    pub fn kernel_version(&self) -> (u32, u32) {
        let mut numbers =
            self.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

impl Limits {
    fn read() -> Self {
        let (nofile, nofile_hard) = process::nofile_limit();
        let nproc = rustix::process::getrlimit(rustix::process::Resource::Nproc);
        Self {
            nofile,
            nofile_hard,
            processes: nproc.current.unwrap_or(u64::MAX),
            pid_max: number("/proc/sys/kernel/pid_max"),
            threads_max: number("/proc/sys/kernel/threads-max"),
            inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
            user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            net_namespaces: number("/proc/sys/user/max_net_namespaces"),
            neighbours: number("/proc/sys/net/ipv4/neigh/default/gc_thresh3"),
        }
    }

    /// What is too low for this many instances: each with the command that raises it.
    ///
    /// Reckoned with two interfaces, six descriptors and ten processes or threads an instance, and some hundred of each
    /// for the lab itself.
    pub fn too_low_for(&self, instances: u64) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut check = |what: &str, have: u64, need: u64, remedy: String| {
            if have != 0 && have < need {
                found.push((format!("{what}: {have}, and {instances} instances need about {need}"), remedy));
            }
        };
        let descriptors = instances.saturating_mul(6).saturating_add(256);
        check(
            "open descriptors of a process",
            self.nofile_hard,
            descriptors,
            format!(
                "ulimit -Hn {descriptors} as root, or a line `* hard nofile {descriptors}` in /etc/security/limits.conf"
            ),
        );
        let tasks = instances.saturating_mul(10).saturating_add(500);
        check("processes of this user", self.processes, tasks, format!("ulimit -u {tasks}"));
        let mut sysctl = |what: &str, name: &str, have: u64, need: u64| {
            check(what, have, need, format!("sysctl -w {name}={need}"));
        };
        sysctl("process ids", "kernel.pid_max", self.pid_max, tasks);
        sysctl("threads of the machine", "kernel.threads-max", self.threads_max, tasks);
        sysctl(
            "network namespaces of this user",
            "user.max_net_namespaces",
            self.net_namespaces,
            instances.saturating_add(8),
        );
        found
    }
}

fn cgroups(root: &Path) -> Cgroups {
    if root.join("cgroup.controllers").exists() {
        Cgroups::V2
    } else if root.join("unified/cgroup.controllers").exists() {
        Cgroups::Hybrid
    } else if root.join("memory").exists() || root.join("cpu").exists() {
        Cgroups::V1
    } else {
        Cgroups::Absent
    }
}

fn number(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Limits = Limits {
        nofile: 1 << 20,
        nofile_hard: 1 << 20,
        processes: u64::MAX,
        pid_max: 1 << 22,
        threads_max: 1 << 20,
        inotify_instances: 128,
        user_namespaces: 1 << 16,
        net_namespaces: 1 << 16,
        neighbours: 1024,
    };

    #[test]
    fn what_is_too_low_has_its_figure_and_its_command() {
        assert_eq!(PLENTY.too_low_for(1000), []);
        let low = Limits { nofile_hard: 1024, net_namespaces: 100, threads_max: 0, ..PLENTY };
        let found = low.too_low_for(1000);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].0.contains("1024, and 1000 instances need about 6256"), "{found:?}");
        assert_eq!(found[1].1, "sysctl -w user.max_net_namespaces=1008");
        assert_eq!(low.too_low_for(50), []);
    }

    #[test]
    fn cgroup_versions_are_told_by_their_files() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::Absent);
        fs::create_dir(root.path().join("memory")).unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::V1);
        fs::create_dir(root.path().join("unified")).unwrap();
        fs::write(root.path().join("unified/cgroup.controllers"), "").unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::Hybrid);
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        assert_eq!(cgroups(root.path()), Cgroups::V2);
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let facts = Facts::read();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.kernel, release.trim());
        assert!(facts.kernel_version() > (4, 0), "{}", facts.kernel);
        assert!(facts.memory_total > facts.memory_available && facts.memory_available > 0);
    }
}

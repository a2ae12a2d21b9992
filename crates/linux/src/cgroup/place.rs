//! Where on this machine a run's cgroups can be: which hierarchies there are, and below which directory of each.
//!
//! Version 1: below the cgroup that this process is in, so that its own limits go on to hold. Version 2: cgroups with processes
//! may not share out controllers to their children, so it is the highest one above this process that this user may change.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation};

use super::{Controller, Lack, lock, open};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// None: version 2. Else its controllers.
    pub(super) v1: Option<Vec<String>>,
    /// Where it is mounted.
    pub(super) at: PathBuf,
    /// Which directory of it is mounted there.
    pub(super) root: PathBuf,
}

/// Makes a directory of this name in each hierarchy that the wanted controllers need, and locks it.
pub(super) fn make(name: &str, wanted: &[Controller]) -> (Vec<OwnedFd>, Vec<Lack>) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (hierarchies, own) = (hierarchies(&read("/proc/self/mountinfo")), read("/proc/self/cgroup"));
    let (mut made, mut lacks) = (Vec::new(), Vec::new());
    let (first, second): (Vec<_>, Vec<_>) =
        wanted.iter().copied().partition(|controller| v1_of(&hierarchies, *controller).is_some());
    let mut done: Vec<&Hierarchy> = Vec::new();
    for controller in first {
        let Some(hierarchy) = v1_of(&hierarchies, controller) else { continue };
        // Controllers of one hierarchy share the directory.
        if done.contains(&hierarchy) {
            continue;
        }
        done.push(hierarchy);
        let base = own_directory(hierarchy, &own);
        match create(&base, name) {
            Ok(dir) => made.push(dir),
            Err(error) => {
                let shared = wanted.iter().filter(|other| v1_of(&hierarchies, **other) == Some(hierarchy));
                let reason = format!("no cgroup can be made in {}: {error}", base.display());
                lacks.extend(
                    shared.map(|controller| Lack { controller: *controller, reason: reason.clone() }),
                );
            }
        }
    }
    if !second.is_empty() {
        match hierarchies.iter().find(|hierarchy| hierarchy.v1.is_none()) {
            Some(hierarchy) => {
                let (dir, missing) = in_version_2(hierarchy, &own_directory(hierarchy, &own), name, &second);
                made.extend(dir);
                lacks.extend(missing);
            }
            None => lacks.extend(second.iter().map(|controller| Lack {
                controller: *controller,
                reason: format!("no hierarchy of cgroups with the controller {controller} is mounted"),
            })),
        }
    }
    (made, lacks)
}

/// Version 2: the highest directory from which all that is wanted can be shared out, else the one with the most of it.
fn in_version_2(
    hierarchy: &Hierarchy,
    own: &Path,
    name: &str,
    wanted: &[Controller],
) -> (Option<OwnedFd>, Vec<Lack>) {
    let mut best: Option<(PathBuf, Vec<Lack>)> = None;
    let mut above: Vec<&Path> = own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.at)).collect();
    above.reverse();
    for base in above {
        let lacks: Vec<Lack> = wanted
            .iter()
            .filter_map(|controller| {
                let reason = share_out(base, *controller).err()?;
                Some(Lack { controller: *controller, reason })
            })
            .collect();
        let fewer = best.as_ref().is_none_or(|(_, before)| lacks.len() < before.len());
        let none = lacks.is_empty();
        // Where nothing works, the place nearest to this process says best why.
        if fewer || lacks.len() == wanted.len() && best.as_ref().is_some_and(|(_, b)| b.len() == wanted.len())
        {
            best = Some((base.to_owned(), lacks));
        }
        if none {
            break;
        }
    }
    let Some((base, mut lacks)) = best else { return (None, Vec::new()) };
    let usable: Vec<Controller> =
        wanted.iter().copied().filter(|c| lacks.iter().all(|lack| lack.controller != *c)).collect();
    if usable.is_empty() {
        return (None, lacks);
    }
    let made = create(&base, name).and_then(|dir| {
        let enable: Vec<String> = usable.iter().map(|controller| format!("+{controller}")).collect();
        fs::write(base.join(name).join("cgroup.subtree_control"), enable.join(" "))?;
        Ok(dir)
    });
    match made {
        Ok(dir) => (Some(dir), lacks),
        Err(error) => {
            let _ = fs::remove_dir(base.join(name));
            let reason = format!("no cgroup can be made in {}: {error}", base.display());
            lacks.extend(
                usable.iter().map(|controller| Lack { controller: *controller, reason: reason.clone() }),
            );
            (None, lacks)
        }
    }
}

/// Sees to it that children of a directory have a controller.
fn share_out(base: &Path, controller: Controller) -> Result<(), String> {
    let shown = base.display();
    let words = |file: &str| fs::read_to_string(base.join(file)).unwrap_or_default();
    let has = |text: &str| text.split_whitespace().any(|word| word == controller.name());
    for path in [base.to_owned(), base.join("cgroup.procs")] {
        rustix::fs::access(&path, Access::WRITE_OK)
            .map_err(|error| format!("{} is not this user's to change: {error}", path.display()))?;
    }
    if !has(&words("cgroup.controllers")) {
        return Err(format!("{shown} was not given the controller {controller} (cgroup.controllers)"));
    }
    if has(&words("cgroup.subtree_control")) {
        return Ok(());
    }
    fs::write(base.join("cgroup.subtree_control"), format!("+{controller}")).map_err(|error| {
        let busy = error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error());
        let why = if busy { "; it has processes of its own, which version 2 does not allow" } else { "" };
        format!("{shown} can't share out the controller {controller} (cgroup.subtree_control): {error}{why}")
    })
}

/// Makes the directory, unless it is there already, opens it and takes the lock that says that its run lives.
fn create(base: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = base.join(name);
    // A sweep may find it between the making and the locking, and remove it.
    for _ in 0..8 {
        fs::create_dir(&path).or_else(super::exists)?;
        let Ok(dir) = open(&path) else { continue };
        lock(dir.as_fd(), FlockOperation::LockShared)?;
        let (opened, there) = (rustix::fs::fstat(&dir)?, fs::metadata(&path));
        if there.is_ok_and(|there| there.ino() == opened.st_ino) {
            return Ok(dir);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "somebody keeps removing it"))
}

fn v1_of(hierarchies: &[Hierarchy], controller: Controller) -> Option<&Hierarchy> {
    let has = |hierarchy: &&Hierarchy| {
        hierarchy.v1.as_ref().is_some_and(|names| names.iter().any(|name| name == controller.name()))
    };
    hierarchies.iter().find(has)
}

/// The directory of the cgroup that this process is in, by the text of /proc/self/cgroup; the mount point where that cgroup
/// can't be seen.
fn own_directory(hierarchy: &Hierarchy, own: &str) -> PathBuf {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let ours = match &hierarchy.v1 {
            None => controllers.is_empty(),
            Some(names) => controllers.split(',').any(|name| names.iter().any(|own| own == name)),
        };
        ours.then_some(path)
    });
    let below = path.and_then(|path| Path::new(path).strip_prefix(&hierarchy.root).ok());
    let below = below.filter(|below| !below.as_os_str().is_empty());
    let dir = below.map_or_else(|| hierarchy.at.clone(), |below| hierarchy.at.join(below));
    if dir.is_dir() { dir } else { hierarchy.at.clone() }
}

/// The hierarchies of cgroups in the text of a mountinfo file (proc_pid_mountinfo(5)).
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let (mut mount, mut file_system) = (mount.split(' ').skip(3), file_system.split(' '));
        let (Some(root), Some(at)) = (mount.next(), mount.next()) else { continue };
        let v1 = match file_system.next() {
            Some("cgroup2") => None,
            Some("cgroup") => {
                Some(file_system.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect())
            }
            _ => continue,
        };
        let plain = |text: &str| PathBuf::from(text.replace("\\040", " "));
        let found = Hierarchy { v1, at: plain(at), root: plain(root) };
        // The same hierarchy may be mounted in several places.
        if all.iter().all(|other| other.v1 != found.v1) {
            all.push(found);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 /docker/abc /mnt/again rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hierarchies_of_both_versions_are_read() {
        let all = hierarchies(MOUNTINFO);
        let at: Vec<&str> = all.iter().filter_map(|h| h.at.to_str()).collect();
        assert_eq!(at, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]);
        assert_eq!(v1_of(&all, Controller::Memory), Some(&all[1]));
        assert_eq!(v1_of(&all, Controller::Cpu), Some(&all[0]));
        assert_eq!(all[2].v1, None);
        assert_eq!(all[1].root, Path::new("/docker/abc"));
    }

    #[test]
    fn the_own_cgroup_is_found_below_what_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("own")).unwrap();
        let hierarchy = |v1: Option<&str>| Hierarchy {
            v1: v1.map(|name| vec!["rw".to_owned(), name.to_owned()]),
            at: dir.path().to_owned(),
            root: "/docker/abc".into(),
        };
        let text = "5:memory:/docker/abc/own\n2:cpu,cpuacct:/docker/abc\n0::/elsewhere\n";
        assert_eq!(own_directory(&hierarchy(Some("memory")), text), dir.path().join("own"));
        assert_eq!(own_directory(&hierarchy(Some("cpu")), text), dir.path());
        assert_eq!(own_directory(&hierarchy(None), text), dir.path(), "it can't be seen");
        let gone = "5:memory:/docker/abc/gone\n";
        assert_eq!(own_directory(&hierarchy(Some("memory")), gone), dir.path());
    }

    #[test]
    fn a_machine_without_any_says_so() {
        assert_eq!(hierarchies(""), []);
        let lacks = share_out(Path::new("/nonexistent"), Controller::Cpu).unwrap_err();
        assert!(lacks.contains("/nonexistent"), "{lacks}");
    }
}

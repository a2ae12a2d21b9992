//! What the file system looks like from inside: the lab's root, and what each instance sees differently.
//!
//! The lab's root is a tmpfs with the machine's top-level folders bound into it, so that the lab can have folders of its
//! own that vanish with its mount namespace: nothing of a run is left on the machine, however the run ends.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use testground_linux::mount::{self, MountError};

use super::protocol::paths;

/// Devices that programs may expect, all of them harmless.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Why a process can't have its view of the files.
#[derive(Debug, thiserror::Error)]
pub(super) enum ViewError {
    /// A mount was refused.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A file or folder could not be made or opened.
    #[error("failed to {0}: {1}")]
    File(String, io::Error),
}

/// Gives the lab its root. To be called once, by a process alone in new mount and PID namespaces.
pub(super) fn enter_lab_root(executable: &Path) -> Result<(), ViewError> {
    mount::make_private(Path::new("/"))?;
    // Opened before anything is covered: a descriptor leads to what is below a mount.
    let top = Held::all_of(Path::new("/"))?;
    // The new root is built on a folder that is not bound into it: a recursive bind would take the new root along.
    let base = Path::new("/sys");
    mount::tmpfs(base, None, 0o755)?;
    for held in top.iter().filter(|held| held.name != "sys") {
        held.show_at(&base.join(&held.name))?;
    }
    fs::create_dir(base.join("sys")).map_err(|e| ViewError::File("make /sys".to_owned(), e))?;
    // The lab's own interfaces, while the machine's /sys is still there to vouch for it (the kernel shows a fresh one only
    // where one can be seen already); where a container's settings forbid it an empty folder does.
    let _ = mount::sysfs(&base.join("sys"));
    mount::pivot_root(base)?;
    drop(top);
    mount::proc(Path::new("/proc"))?;
    furnish(executable).map_err(|e| ViewError::File("furnish the lab".to_owned(), e))
}

/// A file, folder or link of the machine, by descriptor.
struct Held {
    name: OsString,
    kind: fs::FileType,
    fd: OwnedFd,
    path: PathBuf,
}

// === impl Held ===

impl Held {
    fn all_of(folder: &Path) -> Result<Vec<Held>, ViewError> {
        let tell = |e| ViewError::File(format!("read {}", folder.display()), e);
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).map_err(tell)? {
            let entry = entry.map_err(tell)?;
            all.push(Held::open(entry.path())?);
        }
        Ok(all)
    }

    fn open(path: PathBuf) -> Result<Held, ViewError> {
        let tell = |e: io::Error| ViewError::File(format!("open {}", path.display()), e);
        let kind = fs::symlink_metadata(&path).map_err(tell)?.file_type();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| tell(e.into()))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Held { name, kind, fd, path })
    }

    /// Makes it visible at a path that does not exist yet, with all that is mounted below it.
    fn show_at(&self, target: &Path) -> Result<(), ViewError> {
        let tell = |e: io::Error| ViewError::File(format!("make {}", target.display()), e);
        if self.kind.is_symlink() {
            return symlink(fs::read_link(&self.path).map_err(tell)?, target).map_err(tell);
        }
        if self.kind.is_dir() {
            fs::create_dir(target).map_err(tell)?;
        } else {
            fs::File::create(target).map_err(tell)?;
        }
        let source = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(mount::bind(Path::new(&source), target, true)?)
    }
}

/// The lab's own folder: the executable, temporary directories, name files.
fn furnish(executable: &Path) -> io::Result<()> {
    for dir in [paths::LAB, paths::BIN, paths::TMP] {
        fs::create_dir(dir)?;
    }
    symlink(executable, Path::new(paths::BIN).join("testground"))?;
    fs::write(paths::HOSTS, "127.0.0.1 localhost\n::1 localhost\n")?;
    fs::write(paths::NSSWITCH, nsswitch(fs::read_to_string("/etc/nsswitch.conf").ok().as_deref()))?;
    for file in [paths::HOSTS, paths::NSSWITCH] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The machine's own file with one line changed: hosts are looked up in the file first.
fn nsswitch(machine: Option<&str>) -> String {
    let kept = machine.unwrap_or("passwd: files\ngroup: files\n").lines();
    let mut text: String =
        kept.filter(|l| !l.trim_start().starts_with("hosts:")).flat_map(|l| [l, "\n"]).collect();
    text.push_str("hosts: files dns\n");
    text
}

/// Gives an instance its view: its own processes, devices and names, and nothing of the machine that it could turn.
/// To be called by its init, alone in new mount and PID namespaces, inside its network namespace.
pub(super) fn enter_instance_view() -> Result<(), ViewError> {
    mount::make_private(Path::new("/"))?;
    mount::proc(Path::new("/proc"))?;
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"] {
        lock(Path::new(path))?;
    }
    // A fresh sysfs shows the instance's own interfaces; where none may be mounted nothing is better than the machine's.
    match mount::sysfs(Path::new("/sys")) {
        Ok(()) => mount::remount_read_only(Path::new("/sys"))?,
        Err(_) => mount::tmpfs(Path::new("/sys"), Some(4096), 0o555)?,
    }
    devices()?;
    for (ours, theirs) in [(paths::HOSTS, "/etc/hosts"), (paths::NSSWITCH, "/etc/nsswitch.conf")] {
        if Path::new(theirs).exists() {
            mount::bind(Path::new(ours), Path::new(theirs), false)?;
        }
    }
    Ok(())
}

/// Read-only, where it exists.
fn lock(path: &Path) -> Result<(), ViewError> {
    if path.exists() {
        mount::bind(path, path, true)?;
        mount::remount_read_only(path)?;
    }
    Ok(())
}

fn devices() -> Result<(), ViewError> {
    let dev = Path::new("/dev");
    let machine = DEVICES.iter().map(|name| dev.join(name)).filter(|path| path.exists());
    let held: Vec<Held> = machine.map(Held::open).collect::<Result<_, _>>()?;
    mount::tmpfs(dev, Some(64 << 20), 0o755)?;
    for device in &held {
        device.show_at(&dev.join(&device.name))?;
    }
    let tell = |e| ViewError::File("furnish /dev".to_owned(), e);
    fs::create_dir(dev.join("shm")).map_err(tell)?;
    fs::set_permissions(dev.join("shm"), fs::Permissions::from_mode(0o1777)).map_err(tell)?;
    fs::create_dir(dev.join("pts")).map_err(tell)?;
    if mount::devpts(&dev.join("pts")).is_ok() {
        symlink("pts/ptmx", dev.join("ptmx")).map_err(tell)?;
    }
    let streams = [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")];
    for (name, number) in streams {
        symlink(format!("/proc/self/fd{number}"), dev.join(name)).map_err(tell)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::nsswitch;

    #[test]
    fn names_are_looked_up_in_the_file_first_and_the_rest_is_kept() {
        let machine = "passwd: files systemd\nhosts: mdns4 dns files\nnetworks: files\n";
        assert_eq!(nsswitch(Some(machine)), "passwd: files systemd\nnetworks: files\nhosts: files dns\n");
        assert!(nsswitch(None).ends_with("hosts: files dns\n"));
    }
}

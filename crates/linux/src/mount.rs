//! Mounts inside a mount namespace of one's own (mount(2), mount_namespaces(7)). Which tree an instance sees belongs to the
//! lab.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Why a mount was not made, changed or taken away.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {path}")]
pub struct MountError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl MountError {
    /// The kernel's error number.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

impl From<MountError> for io::Error {
    fn from(error: MountError) -> Self {
        Self::new(error.source.kind(), format!("{error}: {}", error.source))
    }
}

fn refused<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> MountError + 'a {
    move |errno| MountError { what, path: path.to_owned(), source: errno.into() }
}

/// Stops mounts below `path` (usually `/`) from showing in other mount namespaces, and theirs here.
///
/// # Errors
/// `EINVAL` when it is no mount point.
pub fn make_private(path: &Path) -> Result<(), MountError> {
    change(path, MountPropagationFlags::PRIVATE)
}

/// Like [`make_private`], but what is mounted outside still shows here.
///
/// # Errors
/// `EINVAL` when it is no mount point.
pub fn make_receiving(path: &Path) -> Result<(), MountError> {
    change(path, MountPropagationFlags::DOWNSTREAM)
}

fn change(path: &Path, flags: MountPropagationFlags) -> Result<(), MountError> {
    rustix::mount::mount_change(path, flags | MountPropagationFlags::REC)
        .map_err(refused("change the propagation of mounts below", path))
}

/// Makes a file or a directory visible at another path too; the target must exist. Recursive: with what is mounted below it
/// (in a user namespace that is needed where the kernel keeps mounts together: `EINVAL` otherwise).
///
/// # Errors
/// `ENOENT`, `EINVAL`, `EPERM`.
pub fn bind(source: &Path, target: &Path, recursive: bool) -> Result<(), MountError> {
    if recursive {
        rustix::mount::mount_bind_recursive(source, target)
    } else {
        rustix::mount::mount_bind(source, target)
    }
    .map_err(refused("bind a mount to", target))
}

/// Makes a bind mount read-only, keeping the other restrictions that it has: those it inherited into a user namespace may
/// not be lifted (`EPERM`), so they are read first.
///
/// # Errors
/// `EINVAL` when it is no mount point.
pub fn remount_read_only(target: &Path) -> Result<(), MountError> {
    let restrictions = restrictions(target)?;
    rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | restrictions, c"")
        .map_err(refused("make read-only", target))
}

/// Mounts the processes of this PID namespace.
///
/// # Errors
/// `EPERM` where parts of the machine's own /proc are covered by other mounts (in a container).
pub fn proc(target: &Path) -> Result<(), MountError> {
    filesystem("proc", target, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

/// Mounts a file system in memory.
///
/// `size` is in bytes, none for half of the memory; `mode` are the permission bits of its root.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the mount namespace.
pub fn tmpfs(target: &Path, size: Option<u64>, mode: u32) -> Result<(), MountError> {
    let mut data = format!("mode={mode:o}");
    if let Some(size) = size {
        data.push_str(&format!(",size={size}"));
    }
    filesystem("tmpfs", target, MountFlags::NOSUID | MountFlags::NODEV, &data)
}

/// Mounts the kernel's devices and their settings, of this network namespace.
///
/// # Errors
/// `EPERM` when this user namespace does not own the network namespace.
pub fn sysfs(target: &Path) -> Result<(), MountError> {
    filesystem("sysfs", target, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

/// Mounts new, empty pseudo terminals.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the mount namespace.
pub fn devpts(target: &Path) -> Result<(), MountError> {
    filesystem(
        "devpts",
        target,
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )
}

/// Mounts the POSIX message queues of this IPC namespace.
///
/// # Errors
/// `ENODEV` in a kernel without them.
pub fn mqueue(target: &Path) -> Result<(), MountError> {
    filesystem("mqueue", target, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

/// Mounts control groups, version 2.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN over the cgroup namespace, `EBUSY` under version 1.
pub fn cgroup2(target: &Path) -> Result<(), MountError> {
    filesystem("cgroup2", target, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")
}

/// Moves a mount to another path.
///
/// # Errors
/// `EINVAL` when it is no mount point, or its parent is shared with other namespaces.
pub fn move_to(source: &Path, target: &Path) -> Result<(), MountError> {
    rustix::mount::mount_move(source, target).map_err(refused("move a mount to", target))
}

/// Takes a mount away at once, with all below it; who still uses it keeps it until they are done.
///
/// # Errors
/// `EINVAL` when it is no mount point, or one that came in from another user namespace.
pub fn detach(target: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(target, UnmountFlags::DETACH).map_err(refused("unmount", target))
}

/// Makes `new_root` (a mount point) this process's root and takes the old one away.
///
/// # Errors
/// `EINVAL` when it is no mount point, or its parent is shared with other namespaces.
pub fn pivot_root(new_root: &Path) -> Result<(), MountError> {
    rustix::process::chdir(new_root).map_err(refused("enter", new_root))?;
    // Both the same: the old root comes to lie on top of the new one (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(c".", c".").map_err(refused("make the root", new_root))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)
        .map_err(refused("leave the old root for", new_root))?;
    rustix::process::chdir(c"/").map_err(refused("enter", new_root))
}

fn filesystem(kind: &'static str, target: &Path, flags: MountFlags, data: &str) -> Result<(), MountError> {
    let what = match kind {
        "proc" => "mount proc at",
        "tmpfs" => "mount tmpfs at",
        "sysfs" => "mount sysfs at",
        "devpts" => "mount devpts at",
        "mqueue" => "mount mqueue at",
        _ => "mount cgroup2 at",
    };
    let data = CString::new(data).expect("options hold no NUL byte");
    rustix::mount::mount(kind, target, kind, flags, &*data).map_err(refused(what, target))
}

/// The restrictions that the mount at a path has (statvfs(3)), as flags for a remount.
fn restrictions(target: &Path) -> Result<MountFlags, MountError> {
    use rustix::fs::StatVfsMountFlags as Has;
    let has = rustix::fs::statvfs(target).map_err(refused("look at the mount", target))?.f_flag;
    let mut flags = MountFlags::empty();
    for (bit, flag) in [
        (Has::NOSUID, MountFlags::NOSUID),
        (Has::NODEV, MountFlags::NODEV),
        (Has::NOEXEC, MountFlags::NOEXEC),
        (Has::NOATIME, MountFlags::NOATIME),
        (Has::NODIRATIME, MountFlags::NODIRATIME),
        (Has::RELATIME, MountFlags::RELATIME),
    ] {
        if has.contains(bit) {
            flags |= flag;
        }
    }
    Ok(flags)
}

//! The kernel's side: namespaces, processes, cgroups, netlink, TAP devices, mounts. The only crate with unsafe code.
//!
//! Each module wraps what the kernel offers and says what it refused, with the kernel's error number as the source. What
//! is done with it (which lab, which links, which packets) belongs to the crates above.

pub mod caps;
pub mod cgroup;
pub mod fdpass;
pub mod mount;
mod netlink;
pub mod netns;
pub mod packet_socket;
pub mod poll;
pub mod probe;
pub mod process;
pub mod route;
pub mod tap;
pub mod tc;
pub mod udp;
pub mod vmstat;

pub use rustix::io::Errno;

/// The error of the system call that this thread made last.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

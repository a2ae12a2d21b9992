//! The kernel's side: namespaces, processes, netlink, TAP devices, mounts. The only crate with unsafe code.

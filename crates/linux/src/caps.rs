//! Capabilities: what "root" in an instance may still do, and what this process may do itself (capabilities(7)).

use rustix::io::Errno;
pub use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

/// What a container of Docker keeps by default; without power over the network, mounts or the kernel's settings.
pub const CONTAINER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Why capabilities could not be read or given up.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct CapsError {
    what: &'static str,
    source: Errno,
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> CapsError {
    move |source| CapsError { what, source }
}

/// What the calling thread may do now.
///
/// # Errors
/// None in practice.
pub fn effective() -> Result<CapabilitySet, CapsError> {
    Ok(rustix::thread::capabilities(None).map_err(refused("read capabilities"))?.effective)
}

/// What no program executed from here can ever get back: the bounding set, of the capabilities that this kernel knows.
///
/// # Errors
/// None in practice.
pub fn bounding() -> Result<CapabilitySet, CapsError> {
    let mut set = CapabilitySet::empty();
    for capability in known()? {
        if rustix::thread::capability_is_in_bounding_set(capability)
            .map_err(refused("read the bounding set"))?
        {
            set |= capability;
        }
    }
    Ok(set)
}

/// Gives up everything but `keep`, for the calling thread and for whatever it executes: the bounding, permitted,
/// effective and inheritable sets shrink to what of `keep` was there before, and the ambient set becomes empty, as
/// Docker's is. With `ambient` the ambient set becomes the same, so that programs of a user other than root keep them too.
/// Can't be taken back.
///
/// # Errors
/// `EPERM` without CAP_SETPCAP, when the bounding set must shrink.
pub fn keep_only(keep: CapabilitySet, ambient: bool) -> Result<(), CapsError> {
    let now = rustix::thread::capabilities(None).map_err(refused("read capabilities"))?;
    let kept = now.permitted & keep;
    rustix::thread::clear_ambient_capability_set().map_err(refused("empty the ambient set"))?;
    for capability in known()? {
        let bound = rustix::thread::capability_is_in_bounding_set(capability)
            .map_err(refused("read the bounding set"))?;
        if bound && !keep.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)
                .map_err(refused("remove a capability from the bounding set"))?;
        }
    }
    let inheritable = if ambient { kept } else { CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
        .map_err(refused("give up capabilities"))?;
    if ambient {
        for capability in kept {
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .map_err(refused("add a capability to the ambient set"))?;
        }
    }
    Ok(())
}

/// Gives up everything but [`CONTAINER`].
///
/// # Errors
/// As [`keep_only`].
pub fn drop_to_container_default() -> Result<(), CapsError> {
    keep_only(CONTAINER, false)
}

/// Forbids that any program executed from here gains privileges by its set-user-id bit or file capabilities.
///
/// # Errors
/// None in practice.
pub fn no_new_privileges() -> Result<(), CapsError> {
    rustix::thread::set_no_new_privs(true).map_err(refused("forbid new privileges"))
}

/// Each capability that this kernel knows, one by one: `prctl` answers EINVAL past the last.
fn known() -> Result<Vec<CapabilitySet>, CapsError> {
    let mut known = Vec::new();
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(_) => known.push(capability),
            Err(Errno::INVAL) => break,
            Err(source) => return Err(CapsError { what: "read the bounding set", source }),
        }
    }
    Ok(known)
}

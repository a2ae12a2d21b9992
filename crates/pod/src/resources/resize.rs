//! In-place resize: what a pod counts for while its containers change size.

use super::ResourceList;

/// What counts while a resize is under way: the largest of what is wanted, what the kubelet has granted and what the
/// containers really have, each summed over the pod first. What can't be granted doesn't count.
pub fn resized(
    wanted: &ResourceList,
    allocated: Option<&ResourceList>,
    actual: Option<&ResourceList>,
    infeasible: bool,
) -> ResourceList {
    let wanted = (!infeasible).then_some(wanted);
    let mut most = ResourceList::new();
    for (name, amount) in [wanted, allocated, actual].into_iter().flatten().flatten() {
        most.entry(name.clone()).and_modify(|q| *q = (*q).max(*amount)).or_insert(*amount);
    }
    most
}

//! The memory and processor time that a composition gives to each instance of a group, put in force by cgroups.
//!
//! The client makes them, outside of the lab; instances' inits enter them, by descriptors, since no hierarchy can be seen in
//! the lab. What a machine can't do is said as a warning: the run goes on without it.

use std::path::PathBuf;
use std::time::Duration;

use testground_linux::cgroup::{self, CgroupError, Controller, Lack, Limits, Room};
use testground_model::name::{InstanceName, RunId};
use testground_model::run::{Group, Run};

use crate::healthcheck::Sweeper;

/// How long processes on their way out are waited for before their cgroups are given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What an instance's cgroup is called in its run's.
pub(super) fn leaf(instance: &InstanceName) -> String {
    format!("instance-{}-{}", instance.group, instance.index)
}

/// Whether an instance of this group has a cgroup.
pub(super) fn limited(group: &Group) -> bool {
    group.resources.memory.is_some() || group.resources.cpu_millis.is_some()
}

/// Makes the cgroups of a run, if it has limits, and says what can't be put in force. What dead runs left goes first.
pub(crate) fn make(id: &RunId, run: &Run) -> (Option<Room>, Vec<String>) {
    for left in cgroup::find() {
        let _ = cgroup::remove(&left);
    }
    let wanted: Vec<Controller> = Controller::ALL
        .into_iter()
        .filter(|controller| groups_with(run, *controller).next().is_some())
        .collect();
    if wanted.is_empty() {
        return (None, Vec::new());
    }
    let (mut room, lacks) = Room::make(id.as_str(), &wanted);
    let mut warnings: Vec<String> = lacks.iter().map(|lack| warning(run, lack)).collect();
    if let Some(Err(error)) = room.as_ref().map(|room| furnish(room, run)) {
        warnings.push(format!("no limits of resources are in force: {}", super::init::text(error)));
        if let Some(room) = room.take() {
            let _ = room.remove(Duration::ZERO);
        }
    }
    (room, warnings)
}

fn furnish(room: &Room, run: &Run) -> Result<(), CgroupError> {
    for group in run.groups.iter().filter(|group| limited(group)) {
        let limits = Limits { memory: group.resources.memory, cpu_millis: group.resources.cpu_millis };
        for index in 0..group.instances {
            room.add(&leaf(&InstanceName::new(group.id.clone(), index)), &limits)?;
        }
    }
    Ok(())
}

fn warning(run: &Run, lack: &Lack) -> String {
    let groups: Vec<&str> = groups_with(run, lack.controller).map(|group| group.id.as_str()).collect();
    format!("resources.{} of {} is not in force: {}", lack.controller, groups.join(", "), lack.reason)
}

fn groups_with(run: &Run, controller: Controller) -> impl Iterator<Item = &Group> {
    run.groups.iter().filter(move |group| match controller {
        Controller::Memory => group.resources.memory.is_some(),
        Controller::Cpu => group.resources.cpu_millis.is_some(),
    })
}

/// Whether this machine and user can limit what: tried in cgroups that are removed at once. For each the place, or why not.
pub(crate) fn survey() -> Vec<(Controller, Result<PathBuf, String>)> {
    let id = format!("check-{}", std::process::id());
    let limits = Limits { memory: Some(64 << 20), cpu_millis: Some(500) };
    let ask = |controller: Controller| {
        let (room, lacks) = Room::make(&id, &[controller]);
        let Some(room) = room else {
            return Err(lacks.into_iter().map(|lack| lack.reason).collect::<Vec<_>>().join("; "));
        };
        let at = room.paths().first().and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default();
        let set = room.add("instance", &limits);
        let removed = room.remove(PATIENCE);
        set.and(removed).map(|()| at).map_err(super::init::text)
    };
    Controller::ALL.into_iter().map(|controller| (controller, ask(controller))).collect()
}

/// Cgroups of runs whose client and lab were both killed.
pub fn sweeper() -> Sweeper {
    Sweeper {
        name: "cgroups",
        find: Box::new(|| Ok(cgroup::find().iter().map(|path| path.display().to_string()).collect())),
        remove: Box::new(|path| cgroup::remove(path.as_ref()).map_err(super::init::text)),
    }
}

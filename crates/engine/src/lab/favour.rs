//! The switch before everything else on the machine's cores.
//!
//! Inside its user namespace the lab can't raise a priority. Its client, when it is root, can: it finds the switch's
//! thread from outside. Where that is not allowed the switch competes like everybody, and reports how late it was.

use std::fs;

use rustix::process::{Pid, setpriority_process};

/// The strongest claim to a core short of the real-time classes, whose throttling would stop a busy switch (sched(7)).
const NICE: i32 = -20;

/// Lets the switch of the lab with this init (its process id as the machine sees it) go first. True when it does now.
pub(super) fn favour_switch(init: u32) -> bool {
    let Some(supervisor) = supervisor_of(init) else { return false };
    // A thread's priority counts within its session's share of the cores only (sched(7), autogroups): the supervisor's
    // session, in which nobody else is, has to go first too. A kernel without autogroups has no such file, and needs none.
    let _ = fs::write(format!("/proc/{supervisor}/autogroup"), NICE.to_string());
    let thread = switch_of(supervisor).and_then(Pid::from_raw);
    thread.is_some_and(|thread| setpriority_process(Some(thread), NICE).is_ok())
}

fn supervisor_of(init: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|&b| b == 0).nth(1) == Some(super::ROLE_SUPERVISOR.as_bytes())
    })
}

fn switch_of(supervisor: u32) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{supervisor}/task")).ok()?;
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).find(|task: &i32| {
        let name = fs::read_to_string(format!("/proc/{supervisor}/task/{task}/comm"));
        name.is_ok_and(|name| name.trim_end() == "switch")
    })
}

//! The small init of an instance: process 1 of its PID namespace, and the waiter of a command that enters one.
//!
//! It sets up the instance's view, starts the program, passes signals on, collects orphans, and says how the program
//! really ended (a bare process 1 can't be ended by its own SIGTERM and would report `abort()` as a segfault). When it
//! exits the kernel ends whatever the program left running.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};
use testground_linux::Errno;
use testground_linux::caps;
use testground_linux::cgroup::Room;
use testground_linux::process::{
    self, ExitStatus, Namespaces, ProcessError, Reaped, Session, SignalFd, SpawnExec,
};

use super::super::protocol::{InstanceSpec, ProgramEnd};
use super::super::rootfs;

/// Descriptors of a program. `stdin` is `/dev/null` where there is none.
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Runs as an instance's init and returns when its program has ended. `ends` takes the end, marked with `number`.
pub(super) fn run(
    number: u32,
    spec: &InstanceSpec,
    netns: &OwnedFd,
    streams: Streams,
    ends: &OwnedFd,
    room: Option<&Room>,
) {
    let end = match enter_cgroup(spec, room).and_then(|()| set_up(spec, netns)) {
        Ok(()) => start_and_wait(spec, streams),
        Err(e) => ProgramEnd::NotStarted(e),
    };
    tell(ends, number, &end);
}

/// Runs as the waiter of a command inside the instance whose init is `target`.
pub(super) fn run_inside(
    number: u32,
    spec: &InstanceSpec,
    target: &OwnedFd,
    streams: Streams,
    ends: &OwnedFd,
    room: Option<&Room>,
) {
    // While the lab's /proc is there: the instance's does not know this process.
    let limited = enter_cgroup(spec, room);
    let all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK;
    let entered = move_into_thread_name_spaces(target.as_fd(), all);
    let entered = entered.map_err(|e| format!("failed to enter the instance: {e}"));
    let end = match limited.and(entered).and_then(|()| drop_power()) {
        Ok(()) => start_and_wait(spec, streams),
        Err(e) => ProgramEnd::NotStarted(e),
    };
    tell(ends, number, &end);
}

/// The limits of its group hold from here on: for this process, and for all that it starts.
fn enter_cgroup(spec: &InstanceSpec, room: Option<&Room>) -> Result<(), String> {
    match (room, &spec.cgroup) {
        (Some(room), Some(name)) => room.enter(name).map_err(super::text),
        _ => Ok(()),
    }
}

fn set_up(spec: &InstanceSpec, netns: &OwnedFd) -> Result<(), String> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| format!("failed to enter the network namespace: {e}"))?;
    process::set_hostname(&spec.hostname).map_err(|e| format!("failed to set the host name: {e}"))?;
    rootfs::enter_instance_view().map_err(super::text)?;
    drop_power()
}

/// An instance has no power over the lab, whoever it runs as: no network or mount it could change.
fn drop_power() -> Result<(), String> {
    caps::keep_only(caps::CONTAINER, false).map_err(super::text)
}

fn start_and_wait(spec: &InstanceSpec, streams: Streams) -> ProgramEnd {
    let signals = match SignalFd::new(&SIGNALS) {
        Ok(signals) => signals,
        Err(e) => return ProgramEnd::NotStarted(super::text(e)),
    };
    let stdin = match streams.stdin.map_or_else(null, Ok) {
        Ok(stdin) => stdin,
        Err(e) => return ProgramEnd::NotStarted(format!("failed to open /dev/null: {e}")),
    };
    let mut spawn = SpawnExec::new(&spec.program).fd(stdin, 0).fd(streams.stdout, 1).fd(streams.stderr, 2);
    spawn.argv = spec.argv.iter().map(Into::into).collect();
    spawn.env = spec.env.iter().map(|(k, v)| (k.into(), v.into())).collect();
    spawn.cwd = Some(spec.cwd.clone());
    spawn.session = Session::NewGroup;
    match process::spawn_exec(Namespaces::NONE, spawn) {
        Ok(child) => wait_for(child.pid(), &signals),
        Err(e) => ProgramEnd::NotStarted(not_started(spec, &e)),
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

fn not_started(spec: &InstanceSpec, error: &ProcessError) -> String {
    let program = spec.program.display();
    match error {
        ProcessError::Exec { source: Errno::NOENT, .. } if spec.program.exists() => {
            format!(
                "{program}: its interpreter (the first line of a script, or the dynamic loader) does not exist"
            )
        }
        ProcessError::Exec { source, .. } => format!("{program}: {}", io::Error::from(*source)),
        _ => super::text(error),
    }
}

/// Reaps everything that ends here until `program` has, passing signals on to it meanwhile.
fn wait_for(program: Pid, signals: &SignalFd) -> ProgramEnd {
    loop {
        while let Ok(Reaped::Ended(pid, status)) = process::reap() {
            if pid == program {
                return match status {
                    ExitStatus::Exited(code) => ProgramEnd::Exited(code),
                    ExitStatus::Signaled { signal, core } => ProgramEnd::Signaled { signal, core },
                };
            }
        }
        // Interrupted or not: the loop looks at everything again.
        let _ = poll(&mut [PollFd::new(signals, PollFlags::IN)], None);
        while let Ok(Some((number, _))) = signals.read() {
            if let Some(signal) = Signal::from_named_raw(number).filter(|s| *s != Signal::CHILD) {
                let _ = kill_process(program, signal);
            }
        }
    }
}

/// What an init listens to: the death of children, and whatever is passed on.
const SIGNALS: [Signal; 10] = [
    Signal::CHILD,
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
    Signal::TSTP,
];

fn tell(ends: &OwnedFd, number: u32, end: &ProgramEnd) {
    let line = serde_json::to_string(&(number, end)).unwrap_or_default() + "\n";
    // Below PIPE_BUF a write is atomic: the ends of a thousand instances share one pipe.
    let cut = if line.len() > 4096 { fallback(number) } else { line };
    if let Ok(ends) = ends.try_clone() {
        let _ = std::fs::File::from(ends).write_all(cut.as_bytes());
    }
}

fn fallback(number: u32) -> String {
    let end = ProgramEnd::NotStarted("the reason is too long to tell".to_owned());
    serde_json::to_string(&(number, &end)).unwrap_or_default() + "\n"
}

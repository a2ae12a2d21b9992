//! Process 1 of the lab: holds the leash, spawns, reaps, and with its end everything of the run ends.
//!
//! Single-threaded and small, because every instance's init is a fork of it. It decides nothing: the supervisor orders,
//! and when the client's end of the leash closes, by whatever death, this process exits and the kernel clears up.

mod instance;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use testground_linux::cgroup::Room;
use testground_linux::fdpass::{Channel, Listener};
use testground_linux::process::{self, Child, Namespaces, Reaped, SignalFd};

use self::instance::Streams;
use super::protocol::{InstanceSpec, MAX_MESSAGE, Notice, Order, ProgramEnd, Tidings, paths};
use super::{limits, rootfs};

/// Descriptors that this process is started with.
pub(super) const LEASH: i32 = 3;
pub(super) const CLIENT: i32 = 4;
pub(super) const DIAL: i32 = 5;
/// The first of the run's cgroups, if it has any; the others follow.
pub(super) const CGROUPS: i32 = 6;

/// Runs the lab until its leash or its supervisor is gone.
pub(super) fn play(id: &str, executable: &Path) -> Result<(), String> {
    let (leash, client) = (process::inherited(LEASH), process::inherited(CLIENT));
    let (leash, client) = (leash.map_err(text)?, client.map_err(text)?);
    let dial = process::inherited(DIAL).map_err(text)?;
    let room = Room::from_fds(id, (CGROUPS..).map_while(|number| process::inherited(number).ok()).collect());
    match Init::start(leash, &client, dial, executable, room) {
        Ok(init) => {
            drop(client);
            init.serve();
            Ok(())
        }
        Err(cause) => {
            let broken = Notice::Broken { cause: cause.clone() };
            let line = serde_json::to_string(&broken).unwrap_or_default() + "\n";
            let _ = File::from(client).write_all(line.as_bytes());
            Err(cause)
        }
    }
}

pub(super) fn text(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

struct Init {
    leash: OwnedFd,
    signals: SignalFd,
    channel: Channel,
    /// What could not be said yet because the supervisor does not listen.
    outbox: VecDeque<Vec<u8>>,
    /// Where inits of instances say how their programs ended: reading and writing end.
    ends: (File, OwnedFd),
    unread: Vec<u8>,
    /// For the order that comes next.
    letter: Vec<u8>,
    supervisor: Pid,
    /// Inits and waiters by process id.
    running: HashMap<Pid, Running>,
    /// The same, by number.
    pids: HashMap<u32, Pid>,
    /// The run's cgroups, which this process stays outside of.
    room: Option<Room>,
    /// The cgroups of instances by number.
    cgroups: HashMap<u32, String>,
}

/// How long the end of all processes is waited for, before their cgroups are left to a sweep.
const DEATH: Duration = Duration::from_secs(10);

struct Running {
    number: u32,
    child: Child,
}

// === impl Init ===

impl Init {
    fn start(
        leash: OwnedFd,
        client: &OwnedFd,
        dial: OwnedFd,
        executable: &Path,
        room: Option<Room>,
    ) -> Result<Init, String> {
        rootfs::enter_lab_root(executable).map_err(text)?;
        let signals =
            SignalFd::new(&[Signal::CHILD, Signal::INT, Signal::TERM, Signal::HUP]).map_err(text)?;
        let (channel, theirs) = Channel::pair().map_err(text)?;
        channel.set_nonblocking(true).map_err(text)?;
        let folder = File::open(paths::LAB).map_err(text)?;
        let knock = Listener::bind(folder.as_fd(), paths::SOCKET).map_err(text)?.into_fd();
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string())?;
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).map_err(|e| e.to_string())?;
        let supervisor = super::supervisor::spawn(client, theirs.as_fd(), knock.as_fd(), dial)
            .map_err(|e| format!("supervisor: {e}"))?;
        Ok(Init {
            leash,
            signals,
            channel,
            outbox: VecDeque::new(),
            ends: (File::from(reader), writer),
            unread: Vec::new(),
            letter: vec![0; MAX_MESSAGE],
            supervisor,
            running: HashMap::new(),
            pids: HashMap::new(),
            room,
            cgroups: HashMap::new(),
        })
    }

    /// Returns when the lab is over.
    fn serve(mut self) {
        self.listen();
        self.remove_cgroups();
    }

    fn listen(&mut self) {
        loop {
            let wish = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut fds = [
                PollFd::new(&self.leash, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&self.ends.0, PollFlags::IN),
                PollFd::from_borrowed_fd(self.channel.as_fd(), wish),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let [leash, signals, ends, channel] = fds.map(|fd| fd.revents());
            if !leash.is_empty() {
                return;
            }
            if !ends.is_empty() {
                self.read_ends();
            }
            if !signals.is_empty() && self.on_signals() {
                return;
            }
            if channel.intersects(PollFlags::IN) {
                self.on_orders();
            }
            if channel.intersects(PollFlags::HUP | PollFlags::ERR) && !channel.intersects(PollFlags::IN) {
                return;
            }
            self.flush();
        }
    }

    /// Reaps; true when the supervisor has ended, and with it the lab.
    fn on_signals(&mut self) -> bool {
        let mut over = false;
        // An interrupt from a terminal is the client's to understand: here it is read and forgotten. SIGTERM is what a run
        // with cgroups hears when its client dies: it has them to remove.
        while let Ok(Some((number, _))) = self.signals.read() {
            over |= self.room.is_some() && number == Signal::TERM.as_raw();
        }
        while let Ok(Reaped::Ended(pid, _)) = process::reap() {
            over |= pid == self.supervisor;
            // Whatever it said on its way out comes first.
            self.read_ends();
            if let Some(running) = self.running.remove(&pid)
                && self.pids.remove(&running.number).is_some()
            {
                self.say_kills(running.number);
                self.say(&Tidings::Ended { number: running.number, end: ProgramEnd::InitKilled });
            }
        }
        over
    }

    fn read_ends(&mut self) {
        let mut buffer = [0u8; 16 << 10];
        while let Ok(n @ 1..) = self.ends.0.read(&mut buffer) {
            self.unread.extend_from_slice(&buffer[..n]);
        }
        while let Some(end) = self.unread.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let Ok((number, end)) = serde_json::from_slice::<(u32, ProgramEnd)>(&line) else { continue };
            if self.pids.remove(&number).is_some() {
                self.say_kills(number);
                self.say(&Tidings::Ended { number, end });
            }
        }
    }

    fn on_orders(&mut self) {
        loop {
            let received = match self.channel.receive(&mut self.letter) {
                Ok(Some(received)) => received,
                // The supervisor's end is closed (its SIGCHLD follows), or there is nothing more for now.
                Ok(None) | Err(_) => return,
            };
            if let Ok(order) = serde_json::from_slice::<Order>(&self.letter[..received.length]) {
                self.obey(order, received.fds);
            }
        }
    }

    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) {
        match order {
            Order::Spawn { number, spec } => {
                let mut fds = fds.into_iter();
                let (Some(netns), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
                    return self.not_started(number, "descriptors are missing");
                };
                let streams = Streams { stdin: None, stdout, stderr };
                self.fork_init(number, &spec, &netns, streams);
            }
            Order::Exec { number, target, spec } => {
                let mut fds = fds.into_iter();
                let (Some(netns), Some(stdin), Some(stdout), Some(stderr)) =
                    (fds.next(), fds.next(), fds.next(), fds.next())
                else {
                    return self.not_started(number, "descriptors are missing");
                };
                let streams = Streams { stdin: Some(stdin), stdout, stderr };
                let alive = self.pids.get(&target).and_then(|pid| self.running.get(pid));
                match alive.map(|r| r.child.as_fd().try_clone_to_owned()) {
                    Some(Ok(target)) => self.fork_waiter(number, &spec, &target, streams),
                    _ => self.fork_init(number, &spec, &netns, streams),
                }
            }
            Order::Signal { number, signal } => {
                if let (Some(&pid), Some(signal)) = (self.pids.get(&number), Signal::from_named_raw(signal)) {
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }

    fn fork_init(&mut self, number: u32, spec: &InstanceSpec, netns: &OwnedFd, streams: Streams) {
        let (ends, room) = (&self.ends.1, self.room.as_ref());
        let namespaces = Namespaces::CONTAINER;
        let mut streams = Some(streams);
        let forked = process::fork_child(namespaces, || {
            if let Some(streams) = streams.take() {
                instance::run(number, spec, netns, streams, ends, room);
            }
            0
        });
        self.cgroups.extend(spec.cgroup.clone().map(|cgroup| (number, cgroup)));
        self.forked(number, forked);
    }

    fn fork_waiter(&mut self, number: u32, spec: &InstanceSpec, target: &OwnedFd, streams: Streams) {
        let (ends, room) = (&self.ends.1, self.room.as_ref());
        let mut streams = Some(streams);
        // A process enters a PID namespace with its next child only: the waiter stays outside and forks the program.
        let forked = process::fork_child(Namespaces::NONE, || {
            if let Some(streams) = streams.take() {
                instance::run_inside(number, spec, target, streams, ends, room);
            }
            0
        });
        self.forked(number, forked);
    }

    fn forked(&mut self, number: u32, forked: Result<Child, process::ProcessError>) {
        match forked {
            Ok(child) => {
                self.say(&Tidings::Started { number, pid: child.pid().as_raw_nonzero().get() });
                let pid = child.pid();
                self.pids.insert(number, pid);
                self.running.insert(pid, Running { number, child });
            }
            Err(e) => self.not_started(number, &text(e)),
        }
    }

    fn not_started(&mut self, number: u32, why: &str) {
        self.say(&Tidings::Ended { number, end: ProgramEnd::NotStarted(why.to_owned()) });
    }

    /// Tells of an instance that has ended what the kernel did to it for want of memory.
    fn say_kills(&mut self, number: u32) {
        let (Some(room), Some(cgroup)) = (&self.room, self.cgroups.remove(&number)) else { return };
        let kills = room.oom_kills(&cgroup);
        if kills > 0 {
            self.say(&Tidings::OutOfMemory { number, kills });
        }
    }

    /// The kernel would end everybody with this process, but a cgroup can be removed only when its last process is gone.
    fn remove_cgroups(&mut self) {
        let Some(room) = self.room.take() else { return };
        let _ = process::signal_all_others(Signal::KILL);
        let deadline = Instant::now() + DEATH;
        while !matches!(process::reap(), Ok(Reaped::NoChildren)) && Instant::now() < deadline {
            while let Ok(Some(_)) = self.signals.read() {}
            let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(&pause));
        }
        let _ = room.remove(limits::PATIENCE);
    }

    fn say(&mut self, tidings: &Tidings) {
        if let Ok(bytes) = serde_json::to_vec(tidings) {
            self.outbox.push_back(bytes);
        }
    }

    fn flush(&mut self) {
        while let Some(message) = self.outbox.front() {
            match self.channel.send(message, &[]) {
                Ok(()) => {
                    self.outbox.pop_front();
                }
                Err(_) => return,
            }
        }
    }
}

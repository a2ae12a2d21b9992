//! A local run's lab: a process tree in namespaces of its own, so that its end, however it comes, removes it.
//!
//! This file is the client's end: it starts lab init, holds the leash and talks to the supervisor. What runs inside is
//! in `init` (process 1) and `supervisor`; both are this executable again, see [`role`].

mod dial;
pub mod environment;
mod favour;
pub mod find;
mod init;
pub mod limits;
mod output;
pub mod protocol;
mod rootfs;
pub mod speech;
mod supervisor;

pub(crate) use dial::plain;
pub use supervisor::knock::{Reply, Request as Call, call};

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use testground_linux::cgroup::Room;
use testground_linux::fdpass::Channel;
use testground_linux::process::{self, Child, ExitStatus, IdMap, Namespaces, Session, SpawnExec};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use self::protocol::{Command, Notice, Setup};

/// First argument of the processes of a lab; nobody types it.
const ROLE_INIT: &str = "lab-init";
const ROLE_SUPERVISOR: &str = "lab-supervisor";

/// A part that this executable plays inside a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Process 1.
    Init {
        /// The run's id.
        id: String,
        /// Where the executable is.
        executable: PathBuf,
    },
    /// Network, sync service, instances.
    Supervisor,
}

/// The part this process has to play, if it was started by a lab.
pub fn role() -> Option<Role> {
    let mut args = std::env::args_os().skip(1);
    let role = args.next()?;
    if role == ROLE_SUPERVISOR {
        return Some(Role::Supervisor);
    }
    // The run's id is there for whoever looks at a list of processes.
    let (id, executable) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let id = id.to_string_lossy().into_owned();
    (role == ROLE_INIT).then(|| Role::Init { id, executable: executable.into() })
}

/// Why a lab did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something the client does failed.
    #[error("failed to {0}: {1}")]
    Client(&'static str, io::Error),
    /// Its first process could not be started.
    #[error("{0}")]
    Init(String),
}

/// Why a lab is gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(String);

/// A lab, as its client holds it. Dropping it ends it.
#[derive(Debug)]
pub struct Lab {
    init: Child,
    /// Its other end is held by init: when this one closes, the lab ends.
    leash: Option<OwnedFd>,
    notices: Lines<BufReader<OwnedReadHalf>>,
    commands: OwnedWriteHalf,
    /// The run's cgroups. Init removes them too, should this process not come to it.
    room: Option<Room>,
}

// === impl Role ===

impl Role {
    /// Plays the part to its end.
    pub fn play(&self) -> ExitCode {
        let done = match self {
            Role::Init { id, executable } => init::play(id, executable),
            Role::Supervisor => supervisor::play(),
        };
        // Whatever went wrong was told to the client, over its stream.
        if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

// === impl Lab ===

impl Lab {
    /// Starts a lab and tells it what to run. To be called on the main thread: the lab's life is tied to the thread.
    pub async fn start(mut setup: Setup, room: Option<Room>) -> Result<Lab, StartError> {
        let tell = |what| move |e: io::Error| StartError::Client(what, e);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(tell("make a socket pair"))?;
        let (leash_read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| StartError::Client("make a pipe", e.into()))?;
        let (dial, dialled) =
            Channel::pair().map_err(|e| StartError::Client("make a socket pair", io::Error::other(e)))?;
        dial::serve(dial.into_fd()).map_err(tell("start a thread"))?;
        let executable = std::env::current_exe().map_err(tell("find this executable"))?;
        let mut spawn = SpawnExec::new("/proc/self/exe")
            .args([ROLE_INIT.into(), setup.id.as_str().into(), executable.into_os_string()])
            .fd(leash_read, init::LEASH)
            .fd(theirs, init::CLIENT)
            .fd(dialled.into_fd(), init::DIAL);
        spawn.argv[0] = "testground".into();
        spawn.env = std::env::vars_os().collect();
        spawn.id_map = Some(IdMap::choose().map);
        // Whoever has cgroups to remove may not be killed at once with this process; see `init`.
        spawn.pdeathsig = Some(if room.is_some() { Signal::TERM } else { Signal::KILL });
        let cgroups = room.as_ref().map_or(Ok(Vec::new()), Room::fds).map_err(tell("hand over cgroups"))?;
        for (number, cgroup) in (init::CGROUPS..).zip(cgroups) {
            spawn = spawn.fd(cgroup, number);
        }
        setup.cgroups = room.is_some();
        spawn.session = Session::New;
        let init = match process::spawn_exec(Namespaces::LAB, spawn) {
            Ok(init) => init,
            Err(e) => {
                let _ = room.map(|room| room.remove(Duration::ZERO));
                return Err(StartError::Init(init::text(e)));
            }
        };
        ours.set_nonblocking(true).map_err(tell("talk to the lab"))?;
        let stream = UnixStream::from_std(ours).map_err(tell("talk to the lab"))?;
        let (read, commands) = stream.into_split();
        let notices = BufReader::new(read).lines();
        let mut lab = Lab { init, leash: Some(leash), notices, commands, room };
        setup.lab_pid = lab.pid();
        let mut line =
            serde_json::to_vec(&setup).map_err(|e| StartError::Client("describe the run", e.into()))?;
        line.push(b'\n');
        // A lab that broke at once has said why: the reader finds it.
        let _ = lab.commands.write_all(&line).await;
        Ok(lab)
    }

    /// Lab init's process id, as the machine sees it.
    pub fn pid(&self) -> u32 {
        self.init.pid().as_raw_nonzero().get() as u32
    }

    /// The next thing the lab says.
    pub async fn next(&mut self) -> Result<Notice, Lost> {
        match self.notices.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line)
                .map_err(|e| Lost(format!("the lab said what nobody understands: {e}: {line:.200}"))),
            Ok(None) => Err(self.autopsy()),
            Err(e) => Err(Lost(format!("failed to listen to the lab: {e}"))),
        }
    }

    /// Gives the lab's switch the first claim to a core, where this user may do that.
    pub fn favour_switch(&self) {
        if !favour::favour_switch(self.pid()) {
            tracing::debug!("the switch competes for cores like everybody else");
        }
    }

    /// Tells the lab something; when it can't be told any more, [`Lab::next`] knows why.
    pub async fn send(&mut self, command: &Command) {
        let mut line = serde_json::to_vec(command).unwrap_or_default();
        line.push(b'\n');
        let _ = self.commands.write_all(&line).await;
    }

    /// Ends a lab that has nothing left to do, and waits until it is gone.
    pub async fn finish(&mut self) {
        self.send(&Command::Finish).await;
        let gone = async { while let Ok(Some(_)) = self.notices.next_line().await {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), gone).await;
        self.kill();
    }

    /// Ends everything in the lab at once.
    pub fn kill(&mut self) {
        self.leash = None;
        let _ = self.init.signal(Signal::KILL);
        let _ = self.init.wait();
        self.remove_cgroups();
    }

    /// With process 1 of the lab everything in it is gone.
    fn remove_cgroups(&mut self) {
        if let Some(Err(error)) = self.room.take().map(|room| room.remove(limits::PATIENCE)) {
            tracing::warn!("{}", init::text(error));
        }
    }

    /// How the lab's first process ended.
    fn autopsy(&mut self) -> Lost {
        // The stream closes a moment before the process is gone; there is nothing else to do meanwhile.
        let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&self.init, PollFlags::IN)], Some(&patience));
        self.leash = None;
        let _ = self.init.signal(Signal::KILL);
        let ended = self.init.wait();
        self.remove_cgroups();
        Lost(match ended {
            Ok(ExitStatus::Signaled { signal, .. }) => {
                format!("lab init was ended by {}", testground_model::outcome::signal_name(signal))
            }
            Ok(ExitStatus::Exited(_)) => "the lab's supervisor ended".to_owned(),
            Err(e) => format!("the lab is gone: {e}"),
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.leash.is_some() {
            self.kill();
        }
    }
}

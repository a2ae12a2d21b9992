//! Other clients at the lab's door: a command inside an instance, a look at the network, a connection into an instance.
//!
//! The door is a path socket in the lab's own folder, reached from outside through `/proc/<lab init>/root`, so that no
//! file of it is left anywhere. Each caller has a thread of its own: callers are few and wait long.

use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use testground_linux::fdpass::{Channel, Listener, Received};
use testground_model::name::InstanceName;
use tokio::sync::mpsc;

use super::super::protocol::{MAX_MESSAGE, ProgramEnd, paths};
use super::reach::{Reach, Unreached};

/// What a caller wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A command inside an instance. Descriptors: stdin, stdout, stderr.
    Exec {
        /// Where.
        instance: InstanceName,
        /// The command and its arguments.
        argv: Vec<String>,
    },
    /// The network as it is now.
    Network,
    /// A connection to a port of an instance, from within its network.
    Reach {
        /// Where.
        instance: InstanceName,
        /// The port.
        port: u16,
        /// False: only say whether somebody listens.
        connect: bool,
    },
}

/// What a caller gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The command ended.
    Ended(ProgramEnd),
    /// The network comes as a descriptor, JSON.
    Network,
    /// Somebody listens there; the connection, where one was asked for, comes as a descriptor.
    Reached,
    /// Nobody listens there, or nobody takes the connection: now, which may change.
    NobodyListens(String),
    /// It can't be had.
    Refused(String),
}

/// What comes in at the door.
pub(super) enum Knock {
    Visit(Visit),
    /// The caller has gone before its command ended.
    Left {
        number: u32,
    },
}

/// A command on its way into an instance.
pub(super) struct Visit {
    pub(super) instance: InstanceName,
    pub(super) argv: Vec<String>,
    pub(super) streams: Vec<OwnedFd>,
    pub(super) caller: Caller,
}

/// Where the end of a command is told.
pub(super) struct Caller {
    end: std::sync::mpsc::SyncSender<ProgramEnd>,
    /// The number its command has got; 0 before that.
    number: Arc<AtomicU32>,
}

/// How often it is looked whether a caller is still there.
const LOOK: Duration = Duration::from_millis(200);

/// Tells the network as JSON.
pub(super) type Show = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What callers can have without the dispatcher. Cheap to clone.
#[derive(Clone)]
pub(super) struct House {
    pub(super) show: Show,
    pub(super) reach: Reach,
}

// === impl Caller ===

impl Caller {
    /// Its command is known by this number.
    pub(super) fn number(&self, number: u32) {
        self.number.store(number, Ordering::Relaxed);
    }

    pub(super) fn ended(self, end: &ProgramEnd) {
        let _ = self.end.try_send(end.clone());
    }
}

/// Opens the door. Threads end with the process.
pub(super) fn open(listener: Listener, house: House) -> io::Result<mpsc::Receiver<Knock>> {
    let (visits, incoming) = mpsc::channel(16);
    std::thread::Builder::new().name("door".to_owned()).spawn(move || {
        while let Ok(caller) = listener.accept() {
            let (visits, house) = (visits.clone(), house.clone());
            let _ = std::thread::Builder::new().name("caller".to_owned()).spawn(move || {
                let _ = serve(&caller, &visits, &house);
            });
        }
    })?;
    Ok(incoming)
}

fn serve(caller: &Channel, visits: &mpsc::Sender<Knock>, house: &House) -> Option<()> {
    let mut letter = vec![0; MAX_MESSAGE];
    let Received { length, fds } = caller.receive(&mut letter).ok()??;
    let mut answer: Option<OwnedFd> = None;
    let reply = match serde_json::from_slice::<Request>(&letter[..length]) {
        Ok(Request::Network) => {
            // Larger than a message may be: it goes as a file in memory.
            let file = rustix::fs::memfd_create("network", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
            let mut file = std::fs::File::from(file);
            serde_json::to_writer(&mut file, &(house.show)()).ok()?;
            file.rewind().ok()?;
            answer = Some(file.into());
            Reply::Network
        }
        Ok(Request::Reach { instance, port, connect }) => match (house.reach)(&instance, port, connect) {
            Ok(socket) => {
                answer = socket;
                Reply::Reached
            }
            Err(Unreached::NobodyListens(why)) => Reply::NobodyListens(why),
            Err(Unreached::Unknown(why)) => Reply::Refused(why),
        },
        Ok(Request::Exec { instance, argv }) if fds.len() == 3 && !argv.is_empty() => {
            let (end, ended) = std::sync::mpsc::sync_channel(1);
            let number = Arc::new(AtomicU32::new(0));
            let visitor = Caller { end, number: Arc::clone(&number) };
            let visit = Visit { instance, argv, streams: fds, caller: visitor };
            visits.blocking_send(Knock::Visit(visit)).ok()?;
            loop {
                match ended.recv_timeout(LOOK) {
                    Ok(end) => break Reply::Ended(end),
                    Err(RecvTimeoutError::Disconnected) => {
                        break Reply::Refused("the lab is ending".to_owned());
                    }
                    Err(RecvTimeoutError::Timeout) if has_left(caller) => {
                        let number = number.load(Ordering::Relaxed);
                        visits.blocking_send(Knock::Left { number }).ok()?;
                        return None;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        }
        Ok(Request::Exec { .. }) => Reply::Refused("a command and three descriptors are needed".to_owned()),
        Err(e) => Reply::Refused(format!("not understood: {e}")),
    };
    let fds: Vec<_> = answer.iter().map(AsFd::as_fd).collect();
    caller.send(&serde_json::to_vec(&reply).ok()?, &fds).ok()
}

fn has_left(caller: &Channel) -> bool {
    let mut fds = [PollFd::new(caller, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Knocks at the door of a lab: from outside, by the process id of its init. What comes with the reply is the network,
/// JSON, or the connection, where that was asked for.
///
/// # Errors
/// The lab is gone or can't be reached, in words.
pub fn call(
    init: u32,
    request: &Request,
    streams: &[BorrowedFd<'_>],
) -> Result<(Reply, Option<OwnedFd>), String> {
    let folder = format!("/proc/{init}/root{}", paths::LAB);
    let folder =
        std::fs::File::open(&folder).map_err(|e| format!("failed to reach the lab: {folder}: {e}"))?;
    let door = Channel::connect(folder.as_fd(), paths::SOCKET);
    let channel = door.map_err(|e| format!("failed to reach the lab: {e}"))?;
    let bytes = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    channel.send(&bytes, streams).map_err(|e| format!("failed to ask the lab: {e}"))?;
    let mut letter = vec![0; MAX_MESSAGE];
    match channel.receive(&mut letter) {
        Ok(Some(mut received)) => {
            let reply = serde_json::from_slice(&letter[..received.length]);
            Ok((reply.map_err(|e| format!("not understood: {e}"))?, received.fds.pop()))
        }
        Ok(None) => Err("the lab ended".to_owned()),
        Err(e) => Err(format!("failed to hear the lab: {e}")),
    }
}

/// Finds a program as a shell would, in the instance's own `PATH`.
pub(super) fn which(name: &str, env: &[(String, String)]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env.iter().find(|(k, _)| k == "PATH").map_or("", |(_, v)| v);
    let found = path.split(':').map(|dir| PathBuf::from(dir).join(name)).find(|p| p.is_file());
    found.ok_or_else(|| format!("{name}: not found in the instance's PATH ({path})"))
}

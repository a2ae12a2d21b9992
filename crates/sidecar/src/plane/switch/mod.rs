//! The user-space switch: forwards between TAPs and does to each packet what its link's shape says.
//!
//! A packet's way: [`pump`] (descriptors and the clock: the only I/O) -> [`port`] (a descriptor and its framing) ->
//! [`packet`] (parse, cut, mend) -> [`table`] (who is where; answers ARP and neighbour discovery) -> [`link`] (the
//! effects) -> [`queue`] (departures) -> [`pump`]. [`fabric`] joins the layers between the two ends of the pump and
//! reads no clock itself, so that a whole switch can be driven on virtual time.
//!
//! What must be in force belongs in [`crate::plan`]; making interfaces and addresses belongs to whoever attaches.

pub mod capture;
pub mod config;
pub mod counters;
pub mod fabric;
pub mod link;
pub mod packet;
pub mod pool;
pub mod port;
mod pump;
pub mod queue;
pub mod record;
mod sink;
pub mod snapshot;
pub mod table;

use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use testground_linux::poll::{EventFd, PollError};
use tokio::sync::watch;

use crate::plan::{Plan, PortId};

use port::Port;

pub use config::{Framing, NetworkKind, PortSpec, SwitchConfig, SwitchError};
pub use snapshot::Snapshot;

/// A running switch. Dropping it stops it.
///
/// Every call waits for the pump's answer, which takes well under a millisecond; a switch
/// that died answers with [`SwitchError::Died`] at once.
#[derive(Debug)]
pub struct Switch {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    death: watch::Receiver<Option<Arc<str>>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) type Reply<T> = SyncSender<T>;

/// What the pump is told to do.
pub(crate) enum Command {
    Attach(Box<PortSpec>, Reply<Result<(), SwitchError>>),
    Readdress(PortId, Vec<IpAddr>, Reply<Result<(), SwitchError>>),
    SetUp(PortId, bool, Reply<Result<(), SwitchError>>),
    AllowPeers(PortId, bool, Reply<Result<(), SwitchError>>),
    Detach(PortId, Reply<Result<Option<Port>, SwitchError>>),
    Install(Arc<Plan>, Vec<(PortId, PortId, u64)>, Reply<()>),
    Begin(Instant, Reply<()>),
    Forget(Reply<()>),
    Snapshot(Reply<Box<Snapshot>>),
    Capture(Vec<PortId>, File, Reply<Result<(), SwitchError>>),
    Record(File, Reply<Result<(), SwitchError>>),
    Panic(String),
    Shutdown,
}

// === impl Switch ===

impl Switch {
    /// Starts the pump's thread; no port is attached and nothing is shaped yet.
    pub fn start(config: SwitchConfig) -> Result<Switch, SwitchError> {
        let refused = |e: PollError| SwitchError::Start(e.errno());
        let wake = Arc::new(EventFd::new().map_err(refused)?);
        let epoll = pump::waiting_for(&wake).map_err(refused)?;
        let (commands, inbox) = mpsc::channel();
        let (dead, death) = watch::channel(None);
        let bell = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || pump::run_until_death(config, inbox, bell, epoll, &dead))
            .map_err(|e| SwitchError::Thread(e.kind()))?;
        Ok(Switch { commands, wake, death, thread: Some(thread) })
    }

    /// Takes over an interface's descriptor. Packets flow when this returns.
    pub fn attach(&self, spec: PortSpec) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Attach(Box::new(spec), reply))?
    }

    /// Gives a port these addresses, in the place of all it had.
    pub fn readdress(&self, port: PortId, addresses: Vec<IpAddr>) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Readdress(port, addresses, reply))?
    }

    /// Says whether a port's interface takes packets, where its descriptor would not say so.
    pub fn set_up(&self, port: PortId, up: bool) -> Result<(), SwitchError> {
        self.ask(|reply| Command::SetUp(port, up, reply))?
    }

    /// Says whether a control port may talk to other control ports that may too, and not only to the gateway.
    pub fn allow_peers(&self, port: PortId, allow: bool) -> Result<(), SwitchError> {
        self.ask(|reply| Command::AllowPeers(port, allow, reply))?
    }

    /// Closes a port's descriptor; packets on their way to it are dropped and counted.
    pub fn detach(&self, port: PortId) -> Result<(), SwitchError> {
        // Closing may wait for the kernel, which the switch has no time for.
        self.ask(|reply| Command::Detach(port, reply))?.map(drop)
    }

    /// Puts a plan in force for every packet that comes after this returned. Packets that wait keep their departure, and a
    /// class that is still there keeps its backlog.
    pub fn install(&self, plan: Arc<Plan>) -> Result<(), SwitchError> {
        self.install_past(plan, Vec::new())
    }

    /// The same, where so many packets from one port to another have not come by here since the last time: they count, so that
    /// those which come now have the number that they would have had.
    pub fn install_past(
        &self,
        plan: Arc<Plan>,
        passed: Vec<(PortId, PortId, u64)>,
    ) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Install(plan, passed, reply))
    }

    /// Says when the run's clock began. A [`crate::plan::Schedule`] is reckoned from it, in plans that are installed after
    /// this returned.
    pub fn begin(&self, zero: Instant) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Begin(zero, reply))
    }

    /// Counts anew from here, as if nothing had passed: all counters but those of ports and links, and the record of lateness.
    pub fn forget(&self) -> Result<(), SwitchError> {
        self.ask(Command::Forget)
    }

    /// What the switch has done so far: counters, drops by cause, lateness, memory.
    pub fn snapshot(&self) -> Result<Snapshot, SwitchError> {
        self.ask(Command::Snapshot).map(|s| *s)
    }

    /// Writes everything these ports send and receive from now on to a file, as pcapng with one interface block a
    /// port and nanosecond time stamps. A port can be captured once; the file is complete after [`Switch::shutdown`].
    pub fn capture(&self, ports: &[PortId], file: File) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Capture(ports.to_vec(), file, reply))?
    }

    /// Writes every decision on a data network from now on to a file, one JSON object a line.
    pub fn record(&self, file: File) -> Result<(), SwitchError> {
        self.ask(|reply| Command::Record(file, reply))?
    }

    /// Becomes `Some(why)` when the switch's thread ended without being told to.
    pub fn died(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.death.clone()
    }

    /// Makes the switch's thread panic with this message: so that a run's end by such a panic can be tried out.
    pub fn panic(&self, message: &str) -> Result<(), SwitchError> {
        self.tell(Command::Panic(message.to_owned()))
    }

    /// Stops the switch, closes all descriptors and completes all files.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A switch that died has nothing left to be told, and its message is in `died`.
            let _ = self.tell(Command::Shutdown);
            let _ = thread.join();
        }
    }

    fn tell(&self, command: Command) -> Result<(), SwitchError> {
        self.commands.send(command).map_err(|_| self.gone())?;
        self.wake.ring();
        Ok(())
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SwitchError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(command(reply))?;
        answer.recv_timeout(ANSWER).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => SwitchError::Silent(ANSWER),
            mpsc::RecvTimeoutError::Disconnected => self.gone(),
        })
    }

    fn gone(&self) -> SwitchError {
        let message = self.death.borrow().clone();
        SwitchError::Died(message.unwrap_or_else(|| "its thread has ended".into()))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long an answer may take before the switch counts as stuck.
const ANSWER: Duration = Duration::from_secs(10);

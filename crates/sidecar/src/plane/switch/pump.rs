//! The only I/O of the switch: one thread that waits for frames, commands and moments, and moves bytes.
//!
//! It sleeps until shortly before the next packet is due and spins the rest of the way: a sleeping thread wakes up tens
//! of microseconds late. Where packets leave more often than that, it would never sleep, and does not spin.

mod files;

use std::any::Any;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use testground_linux::poll::{self, Epoll, EventFd, Events, Interest, PollError};
use tokio::sync::watch;

use super::Command;
use super::capture::Direction;
use super::config::{PortSpec, SwitchConfig, SwitchError};
use super::counters::Cause;
use super::fabric::{Emission, Fabric};
use super::port::{Port, Read, close_all};
use super::snapshot::Snapshot;
use crate::plan::PortId;
use files::Files;

/// How long before a moment the pump stops sleeping, nanoseconds.
const SPIN: u64 = 60_000;
/// A window, and how many departures in it make packets too close for spinning.
const WINDOW: u64 = 1_000_000;
const DENSE: u32 = (WINDOW / SPIN) as u32;
/// Frames, and bytes, read from one port before others get their turn: a packet that waits in its interface's queue is
/// not stamped yet.
const READS: usize = 32;
const BYTES: usize = 192 << 10;
/// Departures before arrivals get their turn.
const RELEASES: usize = 256;
const EVENTS: usize = 256;
/// The number of the command descriptor among the slots.
const COMMANDS: u64 = u64::MAX - 1;
/// How long captured frames may wait for company, nanoseconds.
const FLUSH: u64 = 100_000_000;

/// The state of the thread.
pub(super) struct Pump {
    fabric: Fabric,
    ports: Vec<Option<Port>>,
    files: Files,
    epoll: Epoll,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    started: Instant,
    density: Density,
}

/// How close to each other packets leave.
#[derive(Default)]
struct Density {
    window_began: u64,
    departures: u32,
    is_dense: bool,
}

/// Runs a pump until it is told to stop, or panics; then `dead` holds the message.
pub(super) fn run_until_death(
    config: SwitchConfig,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    epoll: Epoll,
    dead: &watch::Sender<Option<Arc<str>>>,
) {
    let mut pump = Pump {
        fabric: Fabric::new(config),
        ports: Vec::new(),
        files: Files::new(),
        epoll,
        inbox,
        wake,
        started: Instant::now(),
        density: Density::default(),
    };
    let end = catch_unwind(AssertUnwindSafe(|| pump.run()));
    let why = match end {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(format!("panic: {}", panic_message(&*panic))),
    };
    if let Some(why) = why {
        tracing::error!(%why, "the switch died");
        dead.send_replace(Some(why.into()));
    }
    // The channel is closed only now, so that whoever finds it closed can ask why.
    drop(pump);
}

/// What the pump waits on: commands for now.
pub(super) fn waiting_for(wake: &EventFd) -> Result<Epoll, PollError> {
    let epoll = Epoll::new()?;
    epoll.add(wake, COMMANDS, Interest::READ)?;
    Ok(epoll)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a message",
    }
}

// === impl Pump ===

impl Pump {
    fn run(&mut self) -> Result<(), PollError> {
        if let Err(error) = poll::set_timer_slack(NonZeroU64::MIN) {
            tracing::warn!(%error, "timer slack stays at its default; packets may be 50 us late");
        }
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.release();
            let now = self.now();
            self.epoll.wait(&mut events, self.patience(now))?;
            for event in events.iter() {
                match event.token() {
                    COMMANDS => {
                        if !self.obey() {
                            return Ok(());
                        }
                    }
                    slot => self.read(slot as u32),
                }
            }
            let now = self.now();
            self.files.flush_if_old(&mut self.fabric, now);
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn release(&mut self) {
        let Pump { fabric, ports, files, started, density, .. } = self;
        for _ in 0..RELEASES {
            let now = started.elapsed().as_nanos() as u64;
            if !fabric.release(now, &mut |emission| write(ports, files, now, &emission)) {
                break;
            }
            density.note(now);
        }
    }

    /// How long to sleep when nothing comes; `None` is for ever.
    fn patience(&self, now: u64) -> Option<Duration> {
        let due = self.fabric.next_due().map(|due| {
            let left = due.saturating_sub(now);
            if self.density.is_dense(now) { left } else { left.saturating_sub(SPIN) }
        });
        let flush = self.files.has_unwritten().then_some(FLUSH);
        due.into_iter().chain(flush).min().map(Duration::from_nanos)
    }

    fn read(&mut self, slot: u32) {
        let (mut frames, mut bytes) = (0, 0);
        while frames < READS && bytes < BYTES {
            let Pump { fabric, ports, files, started, .. } = self;
            let Some(Some(port)) = ports.get(slot as usize) else { return };
            match port.read(fabric.scratch()) {
                Read::Frame(length, vnet) => {
                    (frames, bytes) = (frames + 1, bytes + length);
                    let now = started.elapsed().as_nanos() as u64;
                    if files.is_captured(slot) {
                        let frame = &fabric.scratch()[..length];
                        files.capture(
                            slot,
                            now,
                            Direction::Outbound,
                            &vnet.unwrap_or_default(),
                            [frame, &[]],
                        );
                    }
                    fabric.ingress(slot, length, vnet, now, &mut |emission| {
                        write(ports, files, now, &emission)
                    });
                }
                Read::Empty | Read::Down => return,
                Read::Gone(error) => {
                    // Its port stays until it is detached; a descriptor that is always ready would keep us busy.
                    tracing::debug!(slot, %error, "an interface is gone");
                    let _ = self.epoll.remove(port.fd());
                    return;
                }
            }
            if self.fabric.next_due().is_some_and(|due| due <= self.now()) {
                self.release();
            }
        }
    }

    /// Carries out what was ordered. Returns whether to go on.
    fn obey(&mut self) -> bool {
        // Before looking, so that no order is missed.
        self.wake.silence();
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return false,
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Answers that nobody waits for any more are dropped.
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Attach(spec, reply) => drop(reply.send(self.attach(*spec))),
            Command::Readdress(port, addresses, reply) => {
                drop(reply.send(self.fabric.readdress(port, addresses)));
            }
            Command::SetUp(port, up, reply) => drop(reply.send(self.fabric.set_up(port, up))),
            Command::AllowPeers(port, allow, reply) => drop(reply.send(self.fabric.allow_peers(port, allow))),
            Command::Detach(port, reply) => drop(reply.send(self.detach(port))),
            Command::Install(plan, passed, reply) => {
                let now = self.now();
                for (from, to, packets) in passed {
                    self.fabric.passed_by(from, to, packets);
                }
                self.fabric.install(plan, now);
                let _ = reply.send(());
            }
            Command::Begin(zero, reply) => {
                let zero = zero.saturating_duration_since(self.started);
                self.fabric.begin(zero.as_nanos() as u64);
                let _ = reply.send(());
            }
            Command::Forget(reply) => {
                self.fabric.forget();
                let _ = reply.send(());
            }
            Command::Snapshot(reply) => drop(reply.send(Box::new(self.snapshot()))),
            Command::Capture(ports, file, reply) => {
                drop(reply.send(self.files.start_capture(&self.fabric, &ports, file)));
            }
            Command::Record(file, reply) => drop(reply.send(self.files.start_record(&mut self.fabric, file))),
            Command::Panic(message) => panic!("{message}"),
            Command::Shutdown => {}
        }
    }

    fn attach(&mut self, spec: PortSpec) -> Result<(), SwitchError> {
        let slot = self.fabric.attach(&spec)?;
        let unusable = |source| SwitchError::Descriptor { name: spec.name.clone(), source };
        let added = Port::new(spec.fd, spec.framing).and_then(|port| {
            self.epoll.add(port.fd(), slot.into(), Interest::READ).map_err(|e| e.errno())?;
            Ok(port)
        });
        self.ports.resize_with(slot as usize + 1, || None);
        match added {
            Ok(port) => {
                self.ports[slot as usize] = Some(port);
                Ok(())
            }
            Err(error) => {
                self.fabric.detach(spec.port)?;
                Err(unusable(error))
            }
        }
    }

    /// The port is for whoever asked to close.
    fn detach(&mut self, port: PortId) -> Result<Option<Port>, SwitchError> {
        let slot = self.fabric.detach(port)?;
        let port = self.ports[slot as usize].take();
        if let Some(port) = &port {
            // One that is gone was taken out before.
            let _ = self.epoll.remove(port.fd());
        }
        Ok(port)
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.fabric.snapshot(self.now());
        (snapshot.capture_dropped, snapshot.record_dropped) = self.files.dropped();
        snapshot.file_error = self.files.error();
        snapshot
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.files.flush(&mut self.fabric);
        close_all(self.ports.drain(..).flatten().collect());
    }
}

fn write(ports: &[Option<Port>], files: &mut Files, now: u64, emission: &Emission<'_>) -> Result<(), Cause> {
    let Some(Some(port)) = ports.get(emission.to as usize) else { return Err(Cause::ReceiverGone) };
    port.write(&emission.vnet, emission.head, emission.body)?;
    if files.is_captured(emission.to) {
        let parts = [emission.head, emission.body];
        files.capture(emission.to, now, Direction::Inbound, &emission.vnet, parts);
    }
    Ok(())
}

// === impl Density ===

impl Density {
    fn note(&mut self, now: u64) {
        if now - self.window_began > WINDOW {
            self.is_dense = self.departures >= DENSE && now - self.window_began < 2 * WINDOW;
            (self.window_began, self.departures) = (now, 0);
        }
        self.departures += 1;
    }

    fn is_dense(&self, now: u64) -> bool {
        (self.is_dense || self.departures >= DENSE) && now - self.window_began < 2 * WINDOW
    }
}

//! The supervisor: the lab's network, its services and its instances' streams, in one process beside init.
//!
//! This file wires the parts; what they do together is in `dispatch`.

mod client;
mod dispatch;
mod influx;
mod init;
pub(crate) mod knock;
mod ledger;
mod network;
mod outside;
mod reach;
mod service;
mod stall;
mod unit;
mod waits;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::process::Pid;
use testground_linux::fdpass::Listener;
use testground_linux::process::{self, Namespaces, Session, SpawnExec};
use testground_sync::SyncEvent;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::DropGuard;

use self::client::Client;
use self::dispatch::{Dispatcher, Ears};
use self::network::{Ground, Networks};
use self::outside::Outside;
use self::service::{Closed, Meeting};
use super::dial::Dialer;
use super::environment::INFLUX_PORT;
use super::protocol::{Command, Notice, Setup};

/// Descriptors that this process is started with.
const CLIENT: i32 = 3;
const INIT: i32 = 4;
const DOOR: i32 = 5;
const DIAL: i32 = 6;

/// How long the client may take to hear the last words. One that is gone is known at once.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(30);

/// Starts the supervisor: called by lab init.
pub(super) fn spawn(
    client: &OwnedFd,
    init: BorrowedFd<'_>,
    door: BorrowedFd<'_>,
    dial: OwnedFd,
) -> Result<Pid, String> {
    let clone = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| e.to_string());
    let mut spawn = SpawnExec::new("/proc/self/exe")
        .args([super::ROLE_SUPERVISOR])
        .fd(clone(client.as_fd())?, CLIENT)
        .fd(clone(init)?, INIT)
        .fd(clone(door)?, DOOR)
        .fd(dial, DIAL);
    spawn.argv[0] = "testground".into();
    spawn.env = std::env::vars_os().collect();
    // The kernel shares the cores between sessions first (sched(7), autogroups): the switch isn't to share one with instances.
    spawn.session = Session::New;
    process::spawn_exec(Namespaces::NONE, spawn).map(|child| child.pid()).map_err(super::init::text)
}

/// Runs as the supervisor until the client is satisfied or gone.
pub(super) fn play() -> Result<(), String> {
    let take = |number| process::inherited(number).map_err(super::init::text);
    let (client, init, door, dial) = (take(CLIENT)?, take(INIT)?, take(DOOR)?, take(DIAL)?);
    // Six descriptors an instance: whatever the machine allows is needed for large runs.
    let _ = process::set_nofile_limit(None, u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| format!("failed to start: {e}"))?;
    let done = runtime.block_on(async move {
        let stream = std::os::unix::net::UnixStream::from(client);
        stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(|e| e.to_string())?;
        let client::Met { setup, commands, client, writer } = client::meet(stream).await?;
        let (init, tidings) = init::meet(init).map_err(|e| e.to_string())?;
        let dialer = Dialer::start(dial).map_err(|e| format!("failed to start a thread: {e}"))?;
        let talk =
            Talk { commands, client: client.clone(), init, tidings, door: Listener::from_fd(door), dialer };
        let result = supervise(setup, talk).await;
        if let Err(cause) = &result {
            client.send(Notice::Broken { cause: cause.clone() }).await;
        }
        drop(client);
        let _ = tokio::time::timeout(FAREWELL, writer).await;
        result
    });
    runtime.shutdown_background();
    done
}

/// Everybody that the supervisor talks to.
struct Talk {
    commands: mpsc::Receiver<Command>,
    client: Client,
    init: init::Init,
    tidings: mpsc::Receiver<super::protocol::Tidings>,
    door: Listener,
    dialer: Dialer,
}

/// What there is when the network is up.
struct Up {
    networks: Networks,
    network: network::Notices,
    outside: Outside,
    meeting: Meeting,
    sync: mpsc::Receiver<SyncEvent>,
    /// Ways out end with it.
    ways: DropGuard,
}

async fn supervise(setup: Setup, talk: Talk) -> Result<(), String> {
    let Talk { mut commands, client, init, tidings, door, dialer } = talk;
    let prepare = prepare(&setup, &client, dialer);
    let Some(up) = unless_stopped(prepare, &client, &mut commands).await? else { return Ok(()) };
    let Up { networks, network, outside, meeting, sync, ways: _ways } = up;
    let listener = TcpListener::bind((networks.gateway(), INFLUX_PORT)).await;
    let listener = listener.map_err(|e| format!("measurements: {e}"))?;
    let instances: Vec<_> = setup
        .run
        .instances()
        .filter_map(|i| networks.lab().addresses(&i).map(|found| (found.control.into(), i)))
        .collect();
    let measurements =
        influx::Measurements::new(setup.outputs.clone(), instances.into_iter(), client.clone());
    // It talks to the client too: the client is rid of it when this set is dropped, at the end of the run.
    let mut services = JoinSet::new();
    services.spawn(measurements.serve(listener));
    networks.write_hosts(&setup).map_err(|e| format!("failed to write the hosts file: {e}"))?;
    if unless_stopped(networks.prove(&setup, &client), &client, &mut commands).await?.is_none() {
        return Ok(());
    }
    client.send(Notice::Ready).await;
    let house = knock::House { show: Arc::new(networks.show()), reach: networks.reach() };
    let visits = knock::open(door, house).map_err(|e| format!("failed to open the door: {e}"))?;
    let (heard, hearing) = mpsc::channel(4096);
    let ears = Ears { commands, tidings, sync, network, visits };
    Dispatcher::new(setup, client, init, networks, meeting, outside, heard).serve(ears, hearing).await;
    Ok(())
}

/// Does a part of the preparation; none when the client had enough before it was done. A run that is stopped meanwhile has
/// nothing that must be ended in order.
async fn unless_stopped<T>(
    part: impl Future<Output = Result<T, String>>,
    client: &Client,
    commands: &mut mpsc::Receiver<Command>,
) -> Result<Option<T>, String> {
    tokio::pin!(part);
    loop {
        tokio::select! {
            done = &mut part => return done.map(Some),
            command = commands.recv() => match command {
                Some(Command::Stop) => {
                    client.send(Notice::AllEnded).await;
                    return Ok(None);
                }
                Some(Command::Explain) => client.send(Notice::Waits(Vec::new())).await,
                Some(_) => {}
                None => return Ok(None),
            },
        }
    }
}

/// The lab's own end of the control network with all that listens there first: the sidecar is a client of the service.
async fn prepare(setup: &Setup, client: &Client, dialer: Dialer) -> Result<Up, String> {
    let ground = Ground::lay(setup, client).await?;
    let (outside, ways) = Outside::new(dialer, client.clone(), ground.addresses());
    for host in &setup.run.settings.additional_hosts {
        outside.open((ground.outside(host), host.port), host.clone()).await?;
    }
    let (closed, sync) = Closed::choose(setup, &outside);
    let (meeting, access) = closed.open(ground.gateway()).await?;
    let (networks, network) = ground.build(setup, client, access).await?;
    Ok(Up { networks, network, outside, meeting, sync, ways })
}

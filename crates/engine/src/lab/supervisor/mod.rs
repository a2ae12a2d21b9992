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
mod stall;
mod unit;
mod waits;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::process::Pid;
use testground_linux::fdpass::Listener;
use testground_linux::process::{self, Namespaces, SpawnExec};
use testground_sync::engine::Limits;
use testground_sync::server::{Options, Service};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::client::Client;
use self::dispatch::{Dispatcher, Ears};
use self::network::Networks;
use super::environment::{INFLUX_PORT, SYNC_PORT};
use super::protocol::{Command, Notice, Setup};

/// Descriptors that this process is started with.
const CLIENT: i32 = 3;
const INIT: i32 = 4;
const DOOR: i32 = 5;

/// Starts the supervisor: called by lab init.
pub(super) fn spawn(client: &OwnedFd, init: BorrowedFd<'_>, door: BorrowedFd<'_>) -> Result<Pid, String> {
    let clone = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| e.to_string());
    let mut spawn = SpawnExec::new("/proc/self/exe")
        .args([super::ROLE_SUPERVISOR])
        .fd(clone(client.as_fd())?, CLIENT)
        .fd(clone(init)?, INIT)
        .fd(clone(door)?, DOOR);
    spawn.argv[0] = "testground".into();
    spawn.env = std::env::vars_os().collect();
    process::spawn_exec(Namespaces::NONE, spawn).map(|child| child.pid()).map_err(super::init::text)
}

/// Runs as the supervisor until the client is satisfied or gone.
pub(super) fn play() -> Result<(), String> {
    let take = |number| process::inherited(number).map_err(super::init::text);
    let (client, init, door) = (take(CLIENT)?, take(INIT)?, take(DOOR)?);
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
        let result = supervise(setup, commands, client.clone(), init, tidings, Listener::from_fd(door)).await;
        if let Err(cause) = &result {
            client.send(Notice::Broken { cause: cause.clone() }).await;
        }
        drop(client);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), writer).await;
        result
    });
    runtime.shutdown_background();
    done
}

async fn supervise(
    setup: Setup,
    mut commands: mpsc::Receiver<Command>,
    client: Client,
    init: init::Init,
    tidings: mpsc::Receiver<super::protocol::Tidings>,
    door: Listener,
) -> Result<(), String> {
    let (watched, sync_events) = mpsc::channel(1 << 16);
    let limits = Limits { message_bytes: setup.run.settings.max_message as usize, ..Limits::default() };
    let service = Service::in_memory(Options { limits, ..Options::default() }, Some(watched));
    let sync = service.handle();
    let prepare = Networks::prepare(&setup, &client, sync.clone());
    let Some((networks, network)) = unless_stopped(prepare, &client, &mut commands).await? else {
        return Ok(());
    };
    let gateway = networks.gateway();
    let listener = TcpListener::bind((gateway, SYNC_PORT)).await.map_err(|e| format!("sync service: {e}"))?;
    tokio::spawn(service.serve(listener, std::future::pending()));
    let listener =
        TcpListener::bind((gateway, INFLUX_PORT)).await.map_err(|e| format!("measurements: {e}"))?;
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
    let show = networks.show();
    let visits = knock::open(door, Arc::new(show)).map_err(|e| format!("failed to open the door: {e}"))?;
    let (heard, hearing) = mpsc::channel(4096);
    let ears = Ears { commands, tidings, sync: sync_events, network, visits };
    Dispatcher::new(setup, client, init, networks, sync, heard).serve(ears, hearing).await;
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

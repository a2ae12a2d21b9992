//! A port of this machine that leads into an instance of a running lab.
//!
//! Connections are made inside, in the instance's network, and handed out at the lab's door; bytes go through here.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use testground_model::name::InstanceName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::lab::find::Found;
use crate::lab::{Call, Reply, call, plain};
use crate::relay::{relay, reset};

/// Connections at the same time; others wait in the kernel until one ends.
const MAX_CONNECTIONS: usize = 4096;

/// A forward that listens.
#[derive(Debug)]
pub struct Forward {
    lab: Found,
    /// Comes when the lab is gone.
    end: oneshot::Receiver<()>,
    instance: InstanceName,
    port: u16,
    listener: TcpListener,
}

/// Why there is no forward.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// This machine's port can't be had.
    #[error("can't listen on {at}: {why}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why not.
        why: String,
    },
    /// The lab says no, or is gone.
    #[error("{0}")]
    Lab(String),
}

// === impl Forward ===

impl Forward {
    /// Listens at `at` (port 0 is any free one) for connections to a port of an instance. When nobody listens there yet
    /// that is said in the second value, and nothing else.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn open(
        lab: Found,
        instance: InstanceName,
        port: u16,
        at: SocketAddr,
    ) -> Result<(Forward, Option<String>), ForwardError> {
        let gone =
            |e: &dyn std::fmt::Display| ForwardError::Lab(format!("run {} is not running: {e}", lab.id));
        let end = end_of(lab.init).map_err(|e| gone(&e))?;
        let asked = Call::Reach { instance: instance.clone(), port, connect: false };
        let warning = match knock(lab.init, asked).await.map_err(ForwardError::Lab)? {
            (Reply::Reached, _) => None,
            (Reply::NobodyListens(why), _) => Some(why),
            (Reply::Refused(why), _) => return Err(ForwardError::Lab(why)),
            _ => return Err(ForwardError::Lab("the lab answered something else".to_owned())),
        };
        let listener = TcpListener::bind(at).await;
        let listener = listener.map_err(|e| ForwardError::Listen { at, why: plain(&e) })?;
        Ok((Forward { lab, end, instance, port, listener }, warning))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// None in practice.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Forwards until the run is over. What goes wrong with connections is told, the same thing once in a row.
    pub async fn serve(self, tell: impl Fn(&str) + Send + Sync + 'static) {
        let Forward { lab, end, instance, port, listener } = self;
        let (tell, last) = (Arc::new(tell), Arc::new(Mutex::new(String::new())));
        let accept = async {
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let Ok((near, _)) = listener.accept().await else {
                    // Out of descriptors, most likely: somebody will close one.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let asked = Call::Reach { instance: instance.clone(), port, connect: true };
                let (tell, last, init) = (Arc::clone(&tell), Arc::clone(&last), lab.init);
                tokio::spawn(async move {
                    match connected(init, asked).await {
                        Ok(far) => {
                            last.lock().unwrap_or_else(PoisonError::into_inner).clear();
                            relay(near, far, &AtomicU64::new(0)).await;
                        }
                        Err(why) => {
                            reset(&near);
                            drop(near);
                            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                            if *last != why {
                                tell(&why);
                                *last = why;
                            }
                        }
                    }
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accept => {}
            _ = end => {}
        }
    }
}

/// When a process has ended. The thread that waits for it ends then, or with this process.
fn end_of(process: u32) -> std::io::Result<oneshot::Receiver<()>> {
    let pid = Pid::from_raw(process as i32).ok_or(Errno::SRCH)?;
    let life = pidfd_open(pid, PidfdFlags::empty())?;
    let (ended, end) = oneshot::channel();
    let wait = move || {
        while poll(&mut [PollFd::new(&life, PollFlags::IN)], None) == Err(Errno::INTR) {}
        // Whoever has stopped waiting knows enough.
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("end of lab".to_owned()).spawn(wait)?;
    Ok(end)
}

async fn connected(init: u32, asked: Call) -> Result<TcpStream, String> {
    match knock(init, asked).await? {
        (Reply::Reached, Some(fd)) => {
            let stream = std::net::TcpStream::from(fd);
            stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).map_err(|e| plain(&e))
        }
        (Reply::NobodyListens(why) | Reply::Refused(why), _) => Err(why),
        _ => Err("the lab answered something else".to_owned()),
    }
}

async fn knock(init: u32, asked: Call) -> Result<(Reply, Option<OwnedFd>), String> {
    let knocked = tokio::task::spawn_blocking(move || call(init, &asked, &[])).await;
    knocked.unwrap_or_else(|e| Err(e.to_string()))
}

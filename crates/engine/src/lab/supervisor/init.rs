//! The supervisor's way to lab init: orders with descriptors one way, tidings the other, a thread for each.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use testground_linux::fdpass::{Channel, ChannelError};
use tokio::sync::mpsc;

use super::super::protocol::{Order, ProgramEnd, Tidings};

/// The sending half.
#[derive(Debug, Clone)]
pub(super) struct Init {
    orders: Sender<(Order, Vec<OwnedFd>)>,
}

/// Takes the channel over. The threads end with the process.
pub(super) fn meet(fd: OwnedFd) -> io::Result<(Init, mpsc::Receiver<Tidings>)> {
    let (hearing, saying) = (Channel::from_fd(fd.try_clone()?), Channel::from_fd(fd));
    let (tidings, incoming) = mpsc::channel(1024);
    // As many orders as there are instances: their number is bounded by the run.
    let (orders, outgoing) = channel();
    let undelivered = tidings.clone();
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("hear init").spawn(move || hear(&hearing, &tidings))?;
    thread("tell init").spawn(move || say(&saying, &outgoing, &undelivered))?;
    Ok((Init { orders }, incoming))
}

// === impl Init ===

impl Init {
    /// Sends an order; the descriptors are closed here once they are on their way.
    pub(super) fn order(&self, order: Order, fds: Vec<OwnedFd>) {
        let _ = self.orders.send((order, fds));
    }
}

fn hear(channel: &Channel, tidings: &mpsc::Sender<Tidings>) {
    let mut letter = vec![0; 8192];
    while let Ok(Some(received)) = channel.receive(&mut letter) {
        let Ok(heard) = serde_json::from_slice(&letter[..received.length]) else { continue };
        if tidings.blocking_send(heard).is_err() {
            return;
        }
    }
}

fn say(channel: &Channel, outgoing: &Receiver<(Order, Vec<OwnedFd>)>, tidings: &mpsc::Sender<Tidings>) {
    while let Ok((order, fds)) = outgoing.recv() {
        let Ok(bytes) = serde_json::to_vec(&order) else { continue };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if let Err(e) = channel.send(&bytes, &borrowed) {
            let _ = tidings.blocking_send(undelivered(&order, &e));
        }
    }
}

/// An order that did not reach init has started nothing.
fn undelivered(order: &Order, error: &ChannelError) -> Tidings {
    let (Order::Spawn { number, .. } | Order::Exec { number, .. } | Order::Signal { number, .. }) = order;
    Tidings::Ended {
        number: *number,
        end: ProgramEnd::NotStarted(format!("lab init can't be told: {error}")),
    }
}

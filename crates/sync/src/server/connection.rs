//! One WebSocket: frames in, answers and deliveries out.
//!
//! Nothing is kept while it waits: what it reads goes through a buffer of the thread, and what it writes goes to the
//! socket at once. Only bytes that the socket does not take stay, and while some do nothing more is read or fetched
//! for this peer; that is the bound of what a slow peer costs.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Closing, Options};
use crate::engine::{BarrierEnd, Delivery, Who};
use crate::frame::{self, Inbox, Incoming, code};
use crate::hub::{Farewell, Guest, Hub};
use crate::wire::{self, BadRequest, ErrorForm};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Deliveries are fetched until there are about this many bytes to write.
const WRITE_BYTES: usize = 64 << 10;

/// A peer's last words have this long to leave.
const FAREWELL: Duration = Duration::from_secs(5);

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Connection {
    guest: Guest,
    stream: TcpStream,
    inbox: Inbox,
    /// What the socket did not take.
    unsent: Vec<u8>,
    form: ErrorForm,
}

/// How a connection ended.
enum End {
    /// The peer closed it, or it broke.
    Gone(String),
    /// This side closes it.
    Close(Farewell),
    /// The peer does not read.
    Stuck,
}

/// Serves a connection to its end.
pub(super) async fn run(
    hub: Arc<Hub>,
    stream: TcpStream,
    address: SocketAddr,
    early: Vec<u8>,
    options: &Options,
    stop: &CancellationToken,
) {
    let guest = hub.join(Who::at(address));
    let mut closing = Closing::open(&hub, guest.peer, address);
    let inbox = Inbox::of_client(hub.limits.message_bytes);
    let mut connection = Connection { guest, stream, inbox, unsent: Vec::new(), form: ErrorForm::Text };
    let end = connection.serve(early, options, stop).await;
    closing.reason = match &end {
        End::Gone(reason) => reason.clone(),
        End::Close(farewell) => farewell.reason.clone(),
        End::Stuck => format!("it has not read for {:?}", options.stall),
    };
    if !matches!(end, End::Gone(_)) {
        Box::pin(connection.farewell(end, options)).await;
    }
}

// === impl Connection ===

impl Connection {
    async fn serve(&mut self, mut early: Vec<u8>, options: &Options, stop: &CancellationToken) -> End {
        if !early.is_empty()
            && let Err(end) = self.turn(&mut early)
        {
            return end;
        }
        drop(early);
        let mailbox = self.guest.mailbox.clone();
        let hub = self.guest.hub().clone();
        loop {
            if !self.unsent.is_empty()
                && let Err(end) = Box::pin(self.drain(options.stall, stop)).await
            {
                return end;
            }
            if !hub.has_room() {
                Box::pin(hub.room()).await;
            }
            tokio::select! {
                biased;
                () = mailbox.notify.notified() => {
                    if let Some(farewell) = mailbox.kick.get() {
                        return End::Close(farewell.clone());
                    }
                    if let Err(end) = self.turn(&mut []) {
                        return end;
                    }
                }
                ready = self.stream.readable() => {
                    if let Err(end) = ready.map_err(|e| gone(&e)).and_then(|()| self.read()) {
                        return end;
                    }
                }
                () = stop.cancelled() => {
                    let reason = "the service stops".to_owned();
                    return End::Close(Farewell { code: code::GOING_AWAY, reason });
                }
            }
        }
    }

    /// Takes what the socket has, once.
    fn read(&mut self) -> Result<(), End> {
        READ.with_borrow_mut(|buffer| match self.stream.try_read(buffer) {
            Ok(0) => Err(End::Gone("the peer closed the connection without a close frame".to_owned())),
            Ok(count) => {
                self.guest.hub().metrics.received_bytes.fetch_add(count as u64, Ordering::Relaxed);
                self.turn(&mut buffer[..count])
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(gone(&e)),
        })
    }

    /// Carries out what came in, fetches what there is for the peer, and writes as much as the socket takes.
    fn turn(&mut self, data: &mut [u8]) -> Result<(), End> {
        WRITE.with_borrow_mut(|out| {
            out.clear();
            let end = self.take_in(data, out);
            if end.is_ok() {
                self.fetch(out);
            }
            self.write(out).and(end)
        })
    }

    fn take_in(&mut self, data: &mut [u8], out: &mut Vec<u8>) -> Result<(), End> {
        let mut end = Ok(());
        let (guest, form) = (&self.guest, &mut self.form);
        let mut handle = |incoming: Incoming<'_>| {
            if end.is_err() {
                return;
            }
            end = match incoming {
                Incoming::Message { binary, payload } => {
                    *form = if binary { ErrorForm::Json } else { ErrorForm::Text };
                    match wire::parse(payload) {
                        Ok(request) => guest.hub().request(guest.peer, &request, *form, out),
                        Err(bad) => guest.hub().refuse(guest.peer, &bad, *form, out),
                    }
                    .map_err(End::Close)
                }
                Incoming::Oversized { binary, head, tail, size } => {
                    *form = if binary { ErrorForm::Json } else { ErrorForm::Text };
                    let bad = oversized(head, tail, size, guest.hub().limits.message_bytes);
                    guest.hub().refuse(guest.peer, &bad, *form, out).map_err(End::Close)
                }
                Incoming::Ping(payload) => {
                    frame::write_pong(out, payload);
                    Ok(())
                }
                Incoming::Close { .. } => {
                    frame::write_close(out, code::NORMAL, "");
                    Err(End::Gone("closed by the peer".to_owned()))
                }
            };
        };
        if let Err(violation) = self.inbox.feed(data, &mut handle) {
            let reason = violation.reason.to_owned();
            return end.and(Err(End::Close(Farewell { code: violation.code, reason })));
        }
        end
    }

    /// Fetches deliveries as far as there is room.
    fn fetch(&mut self, out: &mut Vec<u8>) {
        let form = self.form;
        while out.len() < WRITE_BYTES {
            let budget = WRITE_BYTES - out.len();
            let more = self.guest.hub().pull(self.guest.peer, budget, &mut |delivery| {
                frame::write_text(out, |out| write_delivery(out, &delivery, form));
            });
            if !more {
                return;
            }
        }
        // There may be more: come again when this is written.
        self.guest.mailbox.notify.notify_one();
    }

    /// Writes as much as the socket takes, and keeps the rest.
    fn write(&mut self, out: &[u8]) -> Result<(), End> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(out);
            return Ok(());
        }
        let mut written = 0;
        while written < out.len() {
            match self.stream.try_write(&out[written..]) {
                Ok(count) => written += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(&out[written..]);
                    break;
                }
                Err(e) => return Err(gone(&e)),
            }
        }
        self.guest.hub().metrics.sent_bytes.fetch_add(written as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the socket has taken all. A peer that takes nothing for `stall` is stuck.
    async fn drain(&mut self, stall: Duration, stop: &CancellationToken) -> Result<(), End> {
        let mut written = 0;
        while written < self.unsent.len() {
            tokio::select! {
                ready = tokio::time::timeout(stall, self.stream.writable()) => match ready {
                    Ok(ready) => ready.map_err(|e| gone(&e))?,
                    Err(_) => {
                        self.unsent.drain(..written);
                        return Err(End::Stuck);
                    }
                },
                () = kicked(&self.guest) => {
                    self.unsent.drain(..written);
                    let farewell = self.guest.mailbox.kick.get().cloned();
                    return Err(farewell.map_or(End::Stuck, End::Close));
                }
                () = stop.cancelled() => {
                    self.unsent.drain(..written);
                    let reason = "the service stops".to_owned();
                    return Err(End::Close(Farewell { code: code::GOING_AWAY, reason }));
                }
            }
            match self.stream.try_write(&self.unsent[written..]) {
                Ok(count) => written += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(gone(&e)),
            }
        }
        self.guest.hub().metrics.sent_bytes.fetch_add(written as u64, Ordering::Relaxed);
        self.unsent = Vec::new();
        // Deliveries may have come meanwhile.
        self.guest.mailbox.notify.notify_one();
        Ok(())
    }

    /// Says why the connection ends, if the peer still listens.
    async fn farewell(mut self, end: End, options: &Options) {
        let hub = self.guest.hub().clone();
        let mut out = std::mem::take(&mut self.unsent);
        let farewell = match end {
            End::Close(farewell) => farewell,
            End::Stuck | End::Gone(_) => {
                hub.metrics.cut_off.fetch_add(1, Ordering::Relaxed);
                let reason =
                    format!("cut off: nothing was read from this connection for {:?}", options.stall);
                for id in hub.subscriptions_of(self.guest.peer) {
                    frame::write_text(&mut out, |out| wire::write_error(out, &id, &reason, self.form, None));
                }
                Farewell { code: code::TRY_AGAIN, reason }
            }
        };
        frame::write_close(&mut out, farewell.code, &farewell.reason);
        // From here on the peer holds nothing any more; only its socket is still open.
        let Connection { guest, mut stream, .. } = self;
        drop(guest);
        let sending = async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            stream.write_all(&out).await?;
            stream.shutdown().await?;
            // Bytes that nobody reads would turn the close into a reset, which may overtake the last words.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // Whoever does not read its last words in time goes without.
        let _ = tokio::time::timeout(FAREWELL, sending).await;
    }
}

async fn kicked(guest: &Guest) {
    while guest.mailbox.kick.get().is_none() {
        guest.mailbox.notify.notified().await;
    }
}

fn write_delivery(out: &mut Vec<u8>, delivery: &Delivery<'_>, form: ErrorForm) {
    match *delivery {
        Delivery::Numbered { id, kind, seq } => wire::write_numbered(out, id, kind, seq),
        Delivery::Released { id } => wire::write_released(out, id),
        Delivery::Item { id, seq, value } => wire::write_item(out, id, value, seq),
        Delivery::Failed { id, error } => wire::write_error(out, id, error, form, None),
        Delivery::Ended { id, end, explanation } => {
            let how = match end {
                BarrierEnd::TimedOut => "barrier timed out",
                BarrierEnd::Cancelled => "barrier cancelled",
            };
            let error = format!("{how}: {explanation}");
            wire::write_error(out, id, &error, form, Some(explanation));
        }
    }
}

fn oversized(head: &[u8], tail: &[u8], size: u64, limit: usize) -> BadRequest {
    wire::parse_cut(
        head,
        tail,
        format!("limit message_bytes: a message of {size} bytes; {limit} are allowed"),
    )
}

fn gone(e: &io::Error) -> End {
    End::Gone(format!("the connection broke: {e}"))
}

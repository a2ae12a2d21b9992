//! The task behind a client: holds the connection, and what is to be asked again when it is lost.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Address, ClientError, ClientOptions, Item};
use crate::frame::{self, Inbox, Incoming, code};
use crate::wire::Response;

/// What the client wants of its link.
#[derive(Debug)]
pub(super) enum Command {
    /// A request with one answer.
    Ask { id: u64, ask: Ask, reply: oneshot::Sender<Result<u64, ClientError>> },
    /// A request with many.
    Subscribe {
        id: u64,
        topic: String,
        after: u64,
        items: mpsc::Sender<Result<Item, ClientError>>,
        paused: Arc<AtomicBool>,
    },
    /// The reader of a paused subscription has caught up.
    Resume { id: u64 },
    /// Nobody waits for this request any more.
    Forget { id: u64 },
}

/// A request with one answer.
#[derive(Debug)]
pub(super) enum Ask {
    Signal { state: String, key: String },
    Publish { topic: String, payload: Box<RawValue>, key: String },
    Barrier { state: String, target: u64, deadline: Option<Instant> },
}

#[derive(Debug)]
enum Open {
    Ask {
        ask: Ask,
        reply: oneshot::Sender<Result<u64, ClientError>>,
    },
    Subscription {
        topic: String,
        /// The last item that was handed on.
        after: u64,
        /// The number of the last item on this connection, for services that don't say it.
        counted: u64,
        items: mpsc::Sender<Result<Item, ClientError>>,
        paused: Arc<AtomicBool>,
    },
}

struct Link {
    address: Address,
    options: ClientOptions,
    open: BTreeMap<u64, Open>,
    commands: mpsc::Receiver<Command>,
    masks: RandomState,
    masked: u64,
}

/// A connection after its handshake.
struct Wire {
    stream: TcpStream,
    inbox: Inbox,
    out: Vec<u8>,
    early: Vec<u8>,
}

/// How a connection ended.
enum Lost {
    /// Try again.
    Broken(String),
    /// The service closed it for good.
    Closed(String),
    /// The client is gone.
    Unused,
}

/// Runs until the client is dropped or the service is out of reach for too long.
pub(super) async fn run(
    address: Address,
    options: ClientOptions,
    commands: mpsc::Receiver<Command>,
    up: oneshot::Sender<Result<(), ClientError>>,
) {
    let mut link =
        Link { address, options, open: BTreeMap::new(), commands, masks: RandomState::new(), masked: 0 };
    let mut up = Some(up);
    loop {
        let mut wire = match link.connect().await {
            Ok(wire) => wire,
            Err(error) => {
                match up.take() {
                    // The caller was dropped while it waited: nothing to tell it.
                    Some(up) => drop(up.send(Err(error))),
                    None => link.fail_all(&error),
                }
                return;
            }
        };
        if let Some(up) = up.take()
            && up.send(Ok(())).is_err()
        {
            return;
        }
        match link.serve(&mut wire).await {
            Lost::Broken(why) => tracing::debug!(address = %link.address, "connection lost: {why}"),
            Lost::Closed(why) => return link.fail_all(&ClientError::Closed(why)),
            Lost::Unused => {
                let start = wire.out.len();
                frame::write_close(&mut wire.out, code::NORMAL, "");
                link.mask(&mut wire.out, start);
                // Nobody is left to hear of a failure.
                let _ = tokio::time::timeout(Duration::from_secs(1), wire.stream.write_all(&wire.out)).await;
                return;
            }
        }
    }
}

// === impl Link ===

impl Link {
    /// Connects, again and again until `give_up` has passed.
    async fn connect(&mut self) -> Result<Wire, ClientError> {
        let start = Instant::now();
        let end = start + self.options.give_up;
        let mut pause = Duration::from_millis(10);
        loop {
            let last = match tokio::time::timeout_at(end, self.dial()).await {
                Ok(Ok(wire)) => return Ok(wire),
                Ok(Err(e)) => e.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() + pause >= end {
                let address = self.address.to_string();
                return Err(ClientError::Unreachable { address, after: self.options.give_up, last });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn dial(&self) -> io::Result<Wire> {
        let mut stream = TcpStream::connect((self.address.host.as_str(), self.address.port)).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-key: dGVzdGdyb3VuZCBzeW5jIQ==\r\nsec-websocket-version: 13\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let bytes = loop {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
            match response.parse(&head).map_err(|e| invalid(format!("no HTTP response: {e}")))? {
                httparse::Status::Partial if head.len() > 16 << 10 => {
                    return Err(invalid("the response's head is too long".to_owned()));
                }
                httparse::Status::Partial => {}
                httparse::Status::Complete(bytes) if response.code == Some(101) => break bytes,
                httparse::Status::Complete(_) => {
                    let code = response.code.unwrap_or_default();
                    return Err(invalid(format!("no WebSocket: status {code}")));
                }
            }
        };
        let early = head.split_off(bytes);
        Ok(Wire { stream, inbox: Inbox::of_server(self.options.message_bytes), out: Vec::new(), early })
    }

    async fn serve(&mut self, wire: &mut Wire) -> Lost {
        let ids: Vec<u64> = self.open.keys().copied().collect();
        for id in ids {
            if let Some(Open::Subscription { counted, paused, .. }) = self.open.get_mut(&id) {
                *counted = 0;
                if paused.load(Ordering::Acquire) {
                    continue;
                }
            }
            self.write_request(id, &mut wire.out);
        }
        let early = std::mem::take(&mut wire.early);
        if !early.is_empty()
            && let Err(lost) = self.receive(wire, early)
        {
            return lost;
        }
        let mut heard = Instant::now();
        let mut asked = false;
        let mut buffer = vec![0; 16 << 10];
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command, wire),
                    None => return Lost::Unused,
                },
                ready = wire.stream.readable() => {
                    let read = ready.and_then(|()| wire.stream.try_read(&mut buffer));
                    match read {
                        Ok(0) => return Lost::Broken("closed without a close frame".to_owned()),
                        Ok(count) => {
                            (heard, asked) = (Instant::now(), false);
                            if let Err(lost) = self.receive(wire, buffer[..count].to_vec()) {
                                return lost;
                            }
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Lost::Broken(e.to_string()),
                    }
                }
                ready = wire.stream.writable(), if !wire.out.is_empty() => {
                    match ready.and_then(|()| wire.stream.try_write(&wire.out)) {
                        Ok(count) => drop(wire.out.drain(..count)),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Lost::Broken(e.to_string()),
                    }
                }
                () = tokio::time::sleep_until(heard + self.options.silence / 2), if !asked => {
                    asked = true;
                    let start = wire.out.len();
                    frame::write_ping(&mut wire.out);
                    self.mask(&mut wire.out, start);
                }
                () = tokio::time::sleep_until(heard + self.options.silence), if asked => {
                    return Lost::Broken(format!("silent for {:?}", self.options.silence));
                }
            }
        }
    }

    fn obey(&mut self, command: Command, wire: &mut Wire) {
        let id = match command {
            Command::Ask { id, ask, reply } => {
                self.open.insert(id, Open::Ask { ask, reply });
                id
            }
            Command::Subscribe { id, topic, after, items, paused } => {
                self.open.insert(id, Open::Subscription { topic, after, counted: 0, items, paused });
                id
            }
            Command::Resume { id } => {
                let Some(Open::Subscription { paused, counted, .. }) = self.open.get_mut(&id) else { return };
                if !paused.swap(false, Ordering::AcqRel) {
                    return;
                }
                *counted = 0;
                id
            }
            Command::Forget { id } => {
                let Some(open) = self.open.remove(&id) else { return };
                let is_paused =
                    matches!(&open, Open::Subscription { paused, .. } if paused.load(Ordering::Acquire));
                if !is_paused {
                    self.write_cancel(id, &mut wire.out);
                }
                return;
            }
        };
        self.write_request(id, &mut wire.out);
    }

    fn receive(&mut self, wire: &mut Wire, mut data: Vec<u8>) -> Result<(), Lost> {
        let mut inbox = std::mem::take(&mut wire.inbox);
        let mut lost = None;
        let fed = inbox.feed(&mut data, &mut |incoming| match incoming {
            Incoming::Message { payload, .. } => match serde_json::from_slice(payload) {
                Ok(response) => self.answer(response, &mut wire.out),
                Err(e) => drop(lost.get_or_insert_with(|| Lost::Broken(format!("no response: {e}")))),
            },
            Incoming::Oversized { size, .. } => {
                lost.get_or_insert_with(|| Lost::Closed(format!("a message of {size} bytes is too big")));
            }
            Incoming::Ping(payload) => {
                let start = wire.out.len();
                frame::write_pong(&mut wire.out, payload);
                self.mask(&mut wire.out, start);
            }
            Incoming::Close { code: code::POLICY, reason } => {
                lost.get_or_insert_with(|| Lost::Closed(reason.to_owned()));
            }
            Incoming::Close { code, reason } => {
                lost.get_or_insert_with(|| Lost::Broken(format!("closed: {code} {reason}")));
            }
        });
        wire.inbox = inbox;
        if let Some(lost) = lost {
            return Err(lost);
        }
        fed.map_err(|violation| Lost::Broken(violation.to_string()))
    }

    fn answer(&mut self, response: Response, out: &mut Vec<u8>) {
        let Ok(id) = response.id.parse::<u64>() else { return };
        match self.open.get_mut(&id) {
            None => {}
            Some(Open::Ask { .. }) => {
                let Some(Open::Ask { reply, .. }) = self.open.remove(&id) else { return };
                // Whoever asked may be gone.
                let _ = reply.send(number(response));
            }
            Some(Open::Subscription { after, counted, items, paused, .. }) => {
                if !response.error.is_empty() {
                    // A full channel ends with its sender, and the reader sees that it ended.
                    let _ = items.try_send(Err(ClientError::Refused(response.error)));
                    self.open.remove(&id);
                    return;
                }
                *counted += 1;
                let seq = response.seq.unwrap_or(*counted);
                // Items that were under way when the subscription was paused come again later.
                if paused.load(Ordering::Acquire) || seq != *after + 1 {
                    return;
                }
                let numbered = response.seq.is_some();
                match items.try_send(Ok(Item { seq, json: response.subscribe })) {
                    Ok(()) => *after = seq,
                    Err(mpsc::error::TrySendError::Full(_)) if !numbered => {
                        // This service can't go on behind an item. The reader sees the end after what is buffered.
                        self.open.remove(&id);
                        self.write_cancel(id, out);
                    }
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        paused.store(true, Ordering::Release);
                        self.write_cancel(id, out);
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        self.open.remove(&id);
                        self.write_cancel(id, out);
                    }
                }
            }
        }
    }

    fn write_request(&mut self, id: u64, out: &mut Vec<u8>) {
        let Some(open) = self.open.get(&id) else { return };
        let mut request = json!({"id": id.to_string(), "is_cancel": false});
        if let Some(name) = &self.options.name {
            request["from"] = json!(name);
        }
        match open {
            Open::Ask { ask: Ask::Signal { state, key }, .. } => {
                request["signal_entry"] = json!({"state": state, "key": key});
            }
            Open::Ask { ask: Ask::Publish { topic, payload, key }, .. } => {
                // Text, so that the payload arrives as it was given.
                let (topic, key) = (json!(topic), json!(key));
                let from = request.get("from").map_or(String::new(), |from| format!(r#""from":{from},"#));
                let text = format!(
                    r#"{{"id":"{id}","is_cancel":false,{from}"publish":{{"topic":{topic},"payload":{payload},"key":{key}}}}}"#
                );
                return self.write(&text, out);
            }
            Open::Ask { ask: Ask::Barrier { state, target, deadline }, .. } => {
                request["barrier"] = json!({"state": state, "target": target, "explain": true});
                if let Some(deadline) = deadline {
                    let left = deadline.saturating_duration_since(Instant::now());
                    request["barrier"]["timeout_ms"] = json!(left.as_millis() as u64);
                }
            }
            Open::Subscription { topic, after, .. } => {
                request["subscribe"] = json!({"topic": topic, "after": after});
            }
        }
        self.write(&request.to_string(), out);
    }

    fn write_cancel(&mut self, id: u64, out: &mut Vec<u8>) {
        self.write(&format!(r#"{{"id":"{id}","is_cancel":true}}"#), out);
    }

    fn write(&mut self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        frame::write_text(out, |out| out.extend_from_slice(text.as_bytes()));
        self.mask(out, start);
    }

    /// Masks with bytes that whoever chooses the payload can't foresee (RFC 6455, section 10.3).
    fn mask(&mut self, out: &mut Vec<u8>, start: usize) {
        self.masked += 1;
        let [a, b, c, d, ..] = self.masks.hash_one(self.masked).to_ne_bytes();
        frame::mask_last(out, start, [a, b, c, d]);
    }

    fn fail_all(&mut self, error: &ClientError) {
        for (_, open) in std::mem::take(&mut self.open) {
            // Whoever asked may be gone.
            match open {
                Open::Ask { reply, .. } => drop(reply.send(Err(error.clone()))),
                Open::Subscription { items, .. } => drop(items.try_send(Err(error.clone()))),
            }
        }
    }
}

fn number(response: Response) -> Result<u64, ClientError> {
    match response {
        Response { error, barrier: Some(explanation), .. } if !error.is_empty() => {
            Err(ClientError::NotOpened { error, explanation: Box::new(explanation) })
        }
        Response { error, .. } if !error.is_empty() => Err(ClientError::Refused(error)),
        Response { publish: Some(seq), .. } | Response { signal_entry: Some(seq), .. } => Ok(seq.seq),
        _ => Ok(0),
    }
}

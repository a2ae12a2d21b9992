//! The supervisor's way to the client: JSON lines over the inherited stream.

use testground_model::event::EventKind;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::super::protocol::{Command, Notice, Setup};
use crate::run::unix_nanos;

/// The sending half. Cheap to clone; holds its caller up when the client does not read.
#[derive(Debug, Clone)]
pub(super) struct Client {
    notices: mpsc::Sender<Notice>,
}

/// A client that was met.
pub(super) struct Met {
    pub(super) setup: Setup,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) client: Client,
    /// Ends when every [`Client`] is dropped and all is said.
    pub(super) writer: tokio::task::JoinHandle<()>,
}

/// Takes the stream apart: the first line, the rest of the commands, and the way back.
pub(super) async fn meet(stream: UnixStream) -> Result<Met, String> {
    let (read, write) = stream.into_split();
    let (notices, outgoing) = mpsc::channel(4096);
    let writer = tokio::spawn(write_notices(write, outgoing));
    let client = Client { notices };
    let mut lines = BufReader::new(read);
    let mut first = String::new();
    lines.read_line(&mut first).await.map_err(|e| format!("failed to hear the client: {e}"))?;
    let setup = serde_json::from_str(&first).map_err(|e| format!("failed to understand the client: {e}"))?;
    let (commands, incoming) = mpsc::channel(16);
    tokio::spawn(read_commands(lines, commands));
    Ok(Met { setup, commands: incoming, client, writer })
}

/// Ends, and with it the channel, when the client is gone.
async fn read_commands(read: BufReader<OwnedReadHalf>, commands: mpsc::Sender<Command>) {
    let mut lines = read.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(command) = serde_json::from_str(&line) else { continue };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

async fn write_notices(write: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Notice>) {
    let mut write = BufWriter::with_capacity(64 << 10, write);
    let mut line = Vec::new();
    while let Some(notice) = outgoing.recv().await {
        line.clear();
        if serde_json::to_writer(&mut line, &notice).is_err() {
            continue;
        }
        line.push(b'\n');
        if write.write_all(&line).await.is_err() {
            return;
        }
        // Many notices at once go out together.
        if outgoing.is_empty() && write.flush().await.is_err() {
            return;
        }
    }
}

// === impl Client ===

impl Client {
    pub(super) async fn event(&self, kind: EventKind) {
        self.send(Notice::Event { ts: unix_nanos(), kind: Box::new(kind) }).await;
    }

    /// A client that is gone hears nothing, and ends the lab by that.
    pub(super) async fn send(&self, notice: Notice) {
        let _ = self.notices.send(notice).await;
    }
}

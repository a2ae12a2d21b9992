//! Signals and publishes on their way to Redis, a batch at a time.
//!
//! A batch has a number and is sent until it is answered. Redis keeps the number and the answers of a service's last
//! batch, so that one whose answer was lost is not carried out twice: neither when the connection broke, nor when
//! Redis was killed and came back with what it had written down.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;

use super::{Backlog, Request, address, connect};
use crate::engine::{Numbered, REQUEST_KEY_MEMORY, run_of};
use crate::hub::Hub;
use crate::observe::SyncEvent;

/// Most requests in a batch: Redis answers nobody else while it works on one.
const BATCH: usize = 512;

pub(super) struct Writer {
    hub: Weak<Hub>,
    client: redis::Client,
    record: String,
    script: redis::Script,
    connection: Option<MultiplexedConnection>,
    backlog: Arc<Backlog>,
    give_up: Duration,
    number: u64,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        hub: Weak<Hub>,
        client: redis::Client,
        service: &str,
        backlog: Arc<Backlog>,
        give_up: Duration,
    ) -> Writer {
        Writer {
            hub,
            client,
            record: format!("sync#service:{service}"),
            script: redis::Script::new(include_str!("apply.lua")),
            connection: None,
            backlog,
            give_up,
            number: 0,
        }
    }

    /// Runs until the hub is gone.
    pub(super) async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        while requests.recv_many(&mut batch, BATCH).await > 0 {
            let answers = self.apply(&batch).await;
            let Some(hub) = self.hub.upgrade() else { return };
            hub.answered(
                batch.iter().zip(answers).map(|(request, answer)| Answered { request, result: answer }),
            );
            self.backlog.length.fetch_sub(batch.len(), Ordering::Relaxed);
            self.backlog.shrunk.notify_waiters();
            batch.clear();
        }
    }

    /// Has the batch carried out once. Gives up, for all of it, when Redis is out of reach for too long.
    async fn apply(&mut self, batch: &[Request]) -> Vec<Result<u64, String>> {
        self.number += 1;
        let start = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            match self.attempt(batch).await {
                Ok(answers) if answers.len() == batch.len() => {
                    return answers.into_iter().map(answer).collect();
                }
                Ok(answers) => {
                    let what =
                        format!("the store gave {} answers to {} requests", answers.len(), batch.len());
                    return batch.iter().map(|_| Err(what.clone())).collect();
                }
                Err(e) => {
                    self.connection = None;
                    tracing::warn!(redis = address(&self.client), "a batch is sent again: {e}");
                    if start.elapsed() >= self.give_up || self.hub.strong_count() == 0 {
                        let what = format!("the store at {} is out of reach: {e}", address(&self.client));
                        return batch.iter().map(|_| Err(what.clone())).collect();
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn attempt(&mut self, batch: &[Request]) -> redis::RedisResult<Vec<Value>> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect(&self.client).await?),
        };
        let Some(hub) = self.hub.upgrade() else { return Ok(Vec::new()) };
        let limits = hub.limits;
        let mut call = self.script.key(&self.record);
        call.arg(self.number).arg(limits.topics_per_run).arg(limits.states_per_run).arg(limits.bytes_per_run);
        call.arg(REQUEST_KEY_MEMORY.as_secs());
        for request in batch {
            let kind = match request.kind {
                Numbered::Signal => "s",
                Numbered::Publish => "p",
            };
            call.arg(kind).arg(run_of(&request.key)).arg(&*request.key).arg(&*request.value);
            call.arg(request.bytes).arg(&*request.request_key).arg(&*request.who);
        }
        call.invoke_async(connection).await
    }
}

/// A request and what became of it.
pub(crate) struct Answered<'a> {
    request: &'a Request,
    result: Result<u64, String>,
}

// === impl Answered ===

impl Answered<'_> {
    pub(crate) fn peer(&self) -> crate::engine::PeerId {
        self.request.peer
    }

    pub(crate) fn id(&self) -> &str {
        &self.request.id
    }

    pub(crate) fn kind(&self) -> Numbered {
        self.request.kind
    }

    /// What an observer hears of it.
    pub(crate) fn event(&self, seq: u64) -> SyncEvent {
        let (peer, key) = (self.request.peer, self.request.key.to_string());
        match self.request.kind {
            Numbered::Signal => SyncEvent::Signalled { peer, state: key, seq },
            Numbered::Publish => {
                SyncEvent::Published { peer, topic: key, seq, payload: self.request.value.to_string() }
            }
        }
    }

    pub(crate) fn result(&self) -> Result<u64, &str> {
        self.result.as_ref().copied().map_err(String::as_str)
    }
}

fn answer(value: Value) -> Result<u64, String> {
    match value {
        Value::Int(seq) => u64::try_from(seq).map_err(|_| format!("the store gave the number {seq}")),
        Value::BulkString(words) => Err(String::from_utf8_lossy(&words).into_owned()),
        other => Err(format!("the store gave {other:?}")),
    }
}

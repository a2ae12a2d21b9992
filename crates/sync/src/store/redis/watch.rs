//! What the peers of this service wait for, kept up to date from Redis.
//!
//! A key is first subscribed to and then read, so that nothing falls between. Changes carry their number; whatever
//! does not follow on what is known is read again.

use std::collections::{HashMap, HashSet};
use std::sync::Weak;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use tokio::sync::mpsc;

use super::{Watch, address, connect, data_key};
use crate::engine::Kind;
use crate::hub::Hub;
use crate::wire;

/// How long this service's word that somebody waits for a key is good.
const HOLD: Duration = Duration::from_secs(120);

/// How often that is said again, and what nobody waits for is let go.
const RENEW: Duration = Duration::from_secs(5);

/// How soon other services know who waits here.
const SAY: Duration = Duration::from_millis(250);

/// Items read at once.
const PAGE: usize = 512;

/// Keys that are taken up at once.
const BATCH: usize = 512;

pub(super) struct Watcher {
    hub: Weak<Hub>,
    client: redis::Client,
    service: String,
    /// By the key of the data.
    watched: HashMap<String, Watched>,
    /// Those of them whose waiters may be others than Redis has.
    stirred: HashSet<String>,
}

struct Watched {
    kind: Kind,
    key: Box<str>,
    /// When the service last said that it holds the key.
    held: Instant,
    /// Who waits for it here, as Redis has it.
    said: String,
}

struct Link {
    commands: MultiplexedConnection,
    sink: PubSubSink,
    stream: PubSubStream,
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(hub: Weak<Hub>, client: redis::Client, service: String) -> Watcher {
        Watcher { hub, client, service, watched: HashMap::new(), stirred: HashSet::new() }
    }

    /// Runs until the hub is gone.
    pub(super) async fn run(mut self, mut watches: mpsc::UnboundedReceiver<Watch>) {
        let mut pause = Duration::from_millis(5);
        while self.hub.strong_count() > 0 {
            let error = match self.link().await {
                Ok(mut link) => match self.serve(&mut link, &mut watches).await {
                    Ok(()) => return,
                    Err(e) => {
                        pause = Duration::from_millis(5);
                        e
                    }
                },
                Err(e) => e,
            };
            tracing::warn!(redis = address(&self.client), "what is waited for is read again: {error}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn link(&self) -> redis::RedisResult<Link> {
        let commands = connect(&self.client).await?;
        let pubsub = tokio::time::timeout(Duration::from_secs(5), self.client.get_async_pubsub());
        let (sink, stream) = pubsub.await.unwrap_or_else(|_| Err(timed_out()))?.split();
        Ok(Link { commands, sink, stream })
    }

    async fn serve(
        &mut self,
        link: &mut Link,
        watches: &mut mpsc::UnboundedReceiver<Watch>,
    ) -> redis::RedisResult<()> {
        let keys: Vec<String> = self.watched.keys().cloned().collect();
        // What was said may be lost with the connection.
        self.watched.values_mut().for_each(|watched| watched.said.clear());
        for keys in keys.chunks(BATCH) {
            self.take_up(link, keys).await?;
        }
        let mut renew = tokio::time::interval(RENEW);
        let mut say = tokio::time::interval(SAY);
        say.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                count = watches.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    let mut keys = Vec::new();
                    for watch in batch.drain(..) {
                        let data = data_key(watch.kind, &watch.key);
                        if watch.kind == Kind::State {
                            self.stirred.insert(data.clone());
                        }
                        if !self.watched.contains_key(&data) {
                            let (kind, key, held) = (watch.kind, watch.key, Instant::now());
                            let watched = Watched { kind, key, held, said: String::new() };
                            self.watched.insert(data.clone(), watched);
                            keys.push(data);
                        }
                    }
                    if !keys.is_empty() {
                        self.take_up(link, &keys).await?;
                    }
                }
                message = link.stream.next() => {
                    let Some(message) = message else { return Err(lost()) };
                    let channel = message.get_channel_name().strip_prefix("sync#").unwrap_or_default().to_owned();
                    self.changed(link, &channel, message.get_payload_bytes()).await?;
                }
                _ = say.tick(), if !self.stirred.is_empty() => self.say_who_waits(link).await?,
                _ = renew.tick() => self.renew(link).await?,
            }
        }
    }

    /// Subscribes to the keys' changes, says that they are held, and reads them.
    async fn take_up(&mut self, link: &mut Link, keys: &[String]) -> redis::RedisResult<()> {
        let channels: Vec<String> = keys.iter().map(|key| format!("sync#{key}")).collect();
        link.sink.subscribe(channels).await?;
        self.hold(link, keys).await?;
        for key in keys {
            self.read(link, key).await?;
        }
        Ok(())
    }

    async fn hold(&mut self, link: &mut Link, keys: &[String]) -> redis::RedisResult<()> {
        const HELD: &str = "
            local time = redis.call('TIME')
            local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            for _, key in ipairs(KEYS) do
              redis.call('ZADD', key .. '#held', now + tonumber(ARGV[2]), ARGV[1])
              redis.call('PEXPIRE', key .. '#held', 2 * tonumber(ARGV[2]))
              redis.call('PEXPIRE', key .. '#waiting', 2 * tonumber(ARGV[2]))
            end";
        let script = redis::Script::new(HELD);
        let mut call = script.prepare_invoke();
        call.arg(&self.service).arg(HOLD.as_millis() as u64);
        for key in keys {
            call.key(key);
            if let Some(watched) = self.watched.get_mut(key) {
                watched.held = Instant::now();
            }
        }
        call.invoke_async(&mut link.commands).await
    }

    /// Tells other services who waits here, for their explanations.
    async fn say_who_waits(&mut self, link: &mut Link) -> redis::RedisResult<()> {
        let Some(hub) = self.hub.upgrade() else { return Ok(()) };
        let mut pipe = redis::pipe();
        for data in std::mem::take(&mut self.stirred) {
            let Some(watched) = self.watched.get_mut(&data) else { continue };
            let names = hub.with(|engine| engine.waiting_for(&watched.key));
            let names = serde_json::to_string(&names).unwrap_or_default();
            if names != watched.said {
                let key = format!("{data}#waiting");
                pipe.hset(&key, &self.service, &names).ignore();
                pipe.pexpire(&key, 2 * HOLD.as_millis() as i64).ignore();
                watched.said = names;
            }
        }
        drop(hub);
        if pipe.is_empty() { Ok(()) } else { pipe.query_async(&mut link.commands).await }
    }

    async fn read(&self, link: &mut Link, data: &str) -> redis::RedisResult<()> {
        let Some(watched) = self.watched.get(data) else { return Ok(()) };
        match watched.kind {
            Kind::State => {
                let count: Option<u64> = redis::cmd("GET").arg(data).query_async(&mut link.commands).await?;
                if let Some(hub) = self.hub.upgrade() {
                    hub.learn_count(&watched.key, count.unwrap_or(0));
                }
                Ok(())
            }
            Kind::Topic => self.read_items(link, data, &watched.key).await,
        }
    }

    async fn read_items(&self, link: &mut Link, data: &str, topic: &str) -> redis::RedisResult<()> {
        loop {
            let Some(hub) = self.hub.upgrade() else { return Ok(()) };
            let next = hub.with(|engine| engine.length(topic)) + 1;
            let page: Vec<(String, HashMap<String, String>)> = redis::cmd("XRANGE")
                .arg(data)
                .arg(format!("{next}-0"))
                .arg("+")
                .arg("COUNT")
                .arg(PAGE)
                .query_async(&mut link.commands)
                .await?;
            let full = page.len() == PAGE;
            let items = page.into_iter().filter_map(|(_, mut fields)| fields.remove("p"));
            let items: Vec<Box<[u8]>> = items.map(|item| wire::quote(&item).into()).collect();
            if !items.is_empty() {
                hub.learn_items(topic, next, items);
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// A key has changed: a count, or `number:item`.
    async fn changed(&self, link: &mut Link, data: &str, payload: &[u8]) -> redis::RedisResult<()> {
        let Some(watched) = self.watched.get(data) else { return Ok(()) };
        let Some(hub) = self.hub.upgrade() else { return Ok(()) };
        let payload = String::from_utf8_lossy(payload);
        match watched.kind {
            Kind::State => {
                if let Ok(count) = payload.parse() {
                    hub.learn_count(&watched.key, count);
                }
            }
            Kind::Topic => {
                let change = payload.split_once(':').and_then(|(seq, item)| Some((seq.parse().ok()?, item)));
                let Some((seq, item)) = change else { return Ok(()) };
                let next = hub.learn_items(&watched.key, seq, vec![wire::quote(item).into()]);
                if next <= seq {
                    drop(hub);
                    self.read_items(link, data, &watched.key).await?;
                }
            }
        }
        Ok(())
    }

    /// Lets go of what nobody waits for, and says again what is held.
    async fn renew(&mut self, link: &mut Link) -> redis::RedisResult<()> {
        let Some(hub) = self.hub.upgrade() else { return Ok(()) };
        let idle = |watched: &Watched| hub.with(|engine| engine.forget(watched.kind, &watched.key));
        let gone: Vec<String> =
            self.watched.iter().filter(|(_, w)| idle(w)).map(|(data, _)| data.clone()).collect();
        drop(hub);
        for keys in gone.chunks(BATCH) {
            let channels: Vec<String> = keys.iter().map(|key| format!("sync#{key}")).collect();
            link.sink.unsubscribe(channels).await?;
            let mut pipe = redis::pipe();
            for key in keys {
                pipe.zrem(format!("{key}#held"), &self.service).ignore();
                pipe.hdel(format!("{key}#waiting"), &self.service).ignore();
                self.watched.remove(key);
            }
            pipe.query_async::<()>(&mut link.commands).await?;
        }
        // Whoever has stopped waiting did not say so.
        let states = self.watched.iter().filter(|(_, watched)| watched.kind == Kind::State);
        self.stirred.extend(states.map(|(data, _)| data.clone()));
        let due = |w: &Watched| w.held.elapsed() > HOLD / 4;
        let held: Vec<String> =
            self.watched.iter().filter(|(_, w)| due(w)).map(|(data, _)| data.clone()).collect();
        for keys in held.chunks(BATCH) {
            self.hold(link, keys).await?;
        }
        // A connection that is gone without a word is found out here.
        link.sink.ping::<redis::Value>().await?;
        Ok(())
    }
}

fn lost() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

fn timed_out() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

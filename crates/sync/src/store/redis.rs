//! Counts and items in Redis (7 or later), shared by any number of services.
//!
//! | key | |
//! |---|---|
//! | `<state>#count` | string: the entries so far |
//! | `<state>#who` | hash: who signalled, and how often |
//! | `<topic>#items` | stream: item n has the id `n-0` and the field `p` |
//! | `<state>#count#waiting` | hash: who waits for it at each service, and for how many: JSON |
//! | `<key>#held` | sorted set: services with somebody waiting for it, by the time their word is good until |
//! | `run:<run>:#run` | hash: `claimed`, `finished` (milliseconds since 1970), `states`, `topics`, `bytes` |
//! | `run:<run>:#keys` | set: the run's counts and items |
//! | `run:<run>:#requests:<span>` | hash: request keys seen in a span of time, with their numbers |
//! | `sync#runs` | set: runs with keys |
//! | `sync#service:<id>` | string: a service's last batch, with its answers |
//!
//! Changes are told on the channel `sync#<key>`. All that changes more than one key is a script, so that it happens
//! whole or not at all, also in the append-only file.

mod sweep;
mod watch;
mod write;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, mpsc};

use crate::engine::{Kind, Numbered, PeerId, Removed, Sweep, Told};
use crate::hub::Hub;

pub use sweep::{GcReport, collect};
pub(crate) use write::Answered;

/// The way to Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    requests: mpsc::UnboundedSender<Request>,
    watches: mpsc::UnboundedSender<Watch>,
    backlog: Arc<Backlog>,
    client: redis::Client,
    /// What this service calls itself among others over the same Redis.
    service: String,
}

/// What the tasks behind a store need; they start when the hub exists.
pub(crate) struct Tasks {
    requests: mpsc::UnboundedReceiver<Request>,
    watches: mpsc::UnboundedReceiver<Watch>,
    backlog: Arc<Backlog>,
    client: redis::Client,
    service: String,
    give_up: Duration,
}

/// Redis is out of reach, or not as it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The address is none.
    #[error("{url:?} is no address of a Redis: {what}; expected redis://HOST:PORT/DB")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// It does not answer, or refuses.
    #[error("the Redis at {url}: {what}")]
    Unusable {
        /// Where.
        url: String,
        /// What went wrong.
        what: String,
    },
}

/// A signal or a publish on its way.
#[derive(Debug)]
struct Request {
    peer: PeerId,
    id: Box<str>,
    kind: Numbered,
    key: Box<str>,
    /// The item, JSON; empty for a signal.
    value: Box<str>,
    /// Bytes that count against the run's limit.
    bytes: usize,
    request_key: Box<str>,
    who: Box<str>,
}

/// Somebody waits for this key.
#[derive(Debug)]
struct Watch {
    kind: Kind,
    key: Box<str>,
}

/// Requests that Redis has not answered.
#[derive(Debug, Default)]
struct Backlog {
    length: AtomicUsize,
    shrunk: Notify,
}

/// States that are asked about in one script: Redis answers nobody else meanwhile.
const TOLD_AT_ONCE: usize = 64;

/// With so many requests under way nothing more is read from connections.
const MAX_BACKLOG: usize = 1 << 16;

// === impl Redis ===

impl Redis {
    /// Looks at the Redis and gives back the way to it.
    ///
    /// # Errors
    /// The address is none, or Redis can't be used.
    pub(crate) async fn open(url: &str, give_up: Duration) -> Result<(Redis, Tasks), StoreError> {
        let client = client(url)?;
        let mut connection = connect(&client).await.map_err(|e| unusable(&client, &e))?;
        let pong: String =
            redis::cmd("PING").query_async(&mut connection).await.map_err(|e| unusable(&client, &e))?;
        debug_assert_eq!(pong, "PONG");
        warn_of_durability(&client, &mut connection).await;
        let (requests, requested) = mpsc::unbounded_channel();
        let (watches, watched) = mpsc::unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        let service = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let tasks = Tasks {
            requests: requested,
            watches: watched,
            backlog: backlog.clone(),
            client: client.clone(),
            service: service.clone(),
            give_up,
        };
        Ok((Redis { requests, watches, backlog, client, service }, tasks))
    }

    pub(crate) fn signal(&self, peer: PeerId, id: &str, who: String, state: &str, request_key: Option<&str>) {
        self.send(Request {
            peer,
            id: id.into(),
            kind: Numbered::Signal,
            key: state.into(),
            value: Box::default(),
            bytes: 0,
            request_key: request_key.unwrap_or_default().into(),
            who: who.into(),
        });
    }

    pub(crate) fn publish(
        &self,
        peer: PeerId,
        id: &str,
        topic: &str,
        (payload, bytes): (&str, usize),
        request_key: Option<&str>,
    ) {
        self.send(Request {
            peer,
            id: id.into(),
            kind: Numbered::Publish,
            key: topic.into(),
            value: payload.into(),
            bytes,
            request_key: request_key.unwrap_or_default().into(),
            who: Box::default(),
        });
    }

    /// Somebody waits for this key.
    pub(crate) fn watch(&self, kind: Kind, key: &str) {
        // The tasks outlive all who could ask, short of the process's end.
        let _ = self.watches.send(Watch { kind, key: key.into() });
    }

    /// Whether there are not too many requests under way.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.length.load(Ordering::Relaxed) < MAX_BACKLOG
    }

    /// Waits until that is so.
    pub(crate) async fn room(&self) {
        loop {
            let shrunk = self.backlog.shrunk.notified();
            if self.has_room() {
                return;
            }
            shrunk.await;
        }
    }

    /// Marks a run as claimed, or as finished.
    pub(crate) async fn mark(&self, run: &str, finished: bool) -> Result<(), StoreError> {
        let mut connection = connect(&self.client).await.map_err(|e| unusable(&self.client, &e))?;
        mark(&mut connection, run, finished).await.map_err(|e| unusable(&self.client, &e))
    }

    /// Removes all keys that may go.
    pub(crate) async fn sweep(&self, sweep: &Sweep) -> Result<Vec<Removed>, StoreError> {
        let mut connection = connect(&self.client).await.map_err(|e| unusable(&self.client, &e))?;
        sweep::sweep_all(&mut connection, sweep).await.map_err(|e| unusable(&self.client, &e))
    }

    /// Who has to do with these states, over all services; nothing when Redis can't say.
    pub(crate) async fn told(&self, states: &[String]) -> Vec<(String, Told)> {
        const TOLD: &str = "
            local time = redis.call('TIME')
            local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
            local answer = {}
            for _, state in ipairs(KEYS) do
              answer[#answer + 1] = redis.call('HGETALL', state .. '#who')
              local waiting = {}
              for _, service in ipairs(redis.call('ZRANGEBYSCORE', state .. '#count#held', now, '+inf')) do
                local names = redis.call('HGET', state .. '#count#waiting', service)
                if service ~= ARGV[1] and names then waiting[#waiting + 1] = names end
              end
              answer[#answer + 1] = waiting
            end
            return answer";
        let mut told = Vec::new();
        if states.is_empty() {
            return told;
        }
        let Ok(mut connection) = connect(&self.client).await else { return told };
        let script = redis::Script::new(TOLD);
        for states in states.chunks(TOLD_AT_ONCE) {
            let mut call = script.prepare_invoke();
            for state in states {
                call.key(state);
            }
            call.arg(&self.service);
            let answer: redis::RedisResult<Vec<Vec<String>>> = call.invoke_async(&mut connection).await;
            let Ok(answer) = answer else { return told };
            for (state, pair) in states.iter().zip(answer.chunks_exact(2)) {
                let count = |pair: &[String]| Some((pair.first()?.clone(), pair.get(1)?.parse().ok()?));
                let signalled = pair[0].chunks_exact(2).filter_map(count).collect();
                let lists = pair[1].iter().filter_map(|names| serde_json::from_str(names).ok());
                let waiting = lists.flat_map(|list: Vec<(String, u64)>| list).collect();
                told.push((state.clone(), Told { signalled, waiting }));
            }
        }
        told
    }

    fn send(&self, request: Request) {
        self.backlog.length.fetch_add(1, Ordering::Relaxed);
        // The tasks outlive all who could ask, short of the process's end.
        let _ = self.requests.send(request);
    }
}

// === impl Tasks ===

impl Tasks {
    /// Starts them; they end with the hub.
    pub(crate) fn start(self, hub: &Arc<Hub>) {
        let service = self.service;
        let weak: Weak<Hub> = Arc::downgrade(hub);
        let writer =
            write::Writer::new(weak.clone(), self.client.clone(), &service, self.backlog, self.give_up);
        tokio::spawn(writer.run(self.requests));
        tokio::spawn(watch::Watcher::new(weak, self.client, service).run(self.watches));
    }
}

/// Marks a run as claimed, or as finished.
async fn mark(connection: &mut MultiplexedConnection, run: &str, finished: bool) -> redis::RedisResult<()> {
    const MARK: &str = "
        local time = redis.call('TIME')
        local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
        local meta = 'run:' .. ARGV[1] .. ':#run'
        if ARGV[2] == '1' then
          if redis.call('EXISTS', meta) == 1 then redis.call('HSETNX', meta, 'finished', now) end
        else
          redis.call('HSET', meta, 'claimed', now)
          redis.call('HDEL', meta, 'finished')
          redis.call('SADD', 'sync#runs', ARGV[1])
        end";
    let script = redis::Script::new(MARK);
    script.arg(run).arg(if finished { "1" } else { "0" }).invoke_async(connection).await
}

fn client(url: &str) -> Result<redis::Client, StoreError> {
    redis::Client::open(url).map_err(|e| StoreError::Address { url: url.to_owned(), what: e.to_string() })
}

async fn connect(client: &redis::Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn unusable(client: &redis::Client, error: &redis::RedisError) -> StoreError {
    StoreError::Unusable { url: address(client), what: error.to_string() }
}

fn address(client: &redis::Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// An acknowledged write survives the death of Redis only with `appendonly yes` and `appendfsync always`.
async fn warn_of_durability(client: &redis::Client, connection: &mut MultiplexedConnection) {
    let mut setting = async |name: &str| -> String {
        let answer = redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        answer.map(|(_, value): (String, String)| value).unwrap_or_default()
    };
    let (on, when) = (setting("appendonly").await, setting("appendfsync").await);
    if on != "yes" || when != "always" {
        tracing::warn!(
            redis = address(client),
            appendonly = on,
            appendfsync = when,
            "acknowledged signals and items can be lost when Redis dies: set appendonly yes, appendfsync always"
        );
    }
}

/// The key of a count or of items.
fn data_key(kind: Kind, key: &str) -> String {
    match kind {
        Kind::State => format!("{key}#count"),
        Kind::Topic => format!("{key}#items"),
    }
}

//! Garbage collection in Redis: by run, in batches.

use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};

use super::{StoreError, client, connect, unusable};
use crate::engine::{Kind, Removed, Sweep};

/// What a collection removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GcReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// The keys.
    pub removed: Vec<Removed>,
}

/// Collects all garbage in the Redis at `url`.
///
/// # Errors
/// The address is none, or Redis can't be used.
pub async fn collect(url: &str, sweep: &Sweep) -> Result<GcReport, StoreError> {
    let client = client(url)?;
    let mut connection = connect(&client).await.map_err(|e| unusable(&client, &e))?;
    let removed = sweep_all(&mut connection, sweep).await.map_err(|e| unusable(&client, &e))?;
    Ok(GcReport { dry_run: sweep.dry_run, removed })
}

/// Goes through all runs, a batch of keys at a time.
pub(crate) async fn sweep_all(
    connection: &mut MultiplexedConnection,
    sweep: &Sweep,
) -> redis::RedisResult<Vec<Removed>> {
    let script = redis::Script::new(include_str!("sweep.lua"));
    let runs: Vec<String> = redis::cmd("SMEMBERS").arg("sync#runs").query_async(connection).await?;
    let mut removed = Vec::new();
    for run in runs {
        let mut cursor = "0".to_owned();
        loop {
            let mut call = script.arg(&run);
            call.arg(sweep.grace.as_millis() as u64).arg(sweep.unclaimed.as_millis() as u64);
            call.arg(sweep.batch).arg(u8::from(sweep.dry_run)).arg(&cursor);
            let answer: Vec<String> = call.invoke_async(connection).await?;
            let mut answer = answer.into_iter();
            cursor = answer.next().unwrap_or_else(|| "0".to_owned());
            removed.extend(answer.filter_map(|data| {
                let (key, kind) = match data.rsplit_once('#')? {
                    (key, "count") => (key, Kind::State),
                    (key, "items") => (key, Kind::Topic),
                    _ => return None,
                };
                Some(Removed { run: run.clone(), key: key.to_owned(), kind })
            }));
            if cursor == "0" {
                break;
            }
        }
    }
    Ok(removed)
}

//! Runs and their garbage by way of a service, and what it reports of them: over HTTP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Address, ClientError};
use crate::engine::{Snapshot, Sweep};
use crate::store::GcReport;

/// How long a collection may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has the service at `address` collect garbage now.
///
/// # Errors
/// It can't be reached, or refuses.
pub async fn collect(address: &Address, sweep: &Sweep) -> Result<GcReport, ClientError> {
    let path = format!(
        "/v1/gc?grace_ms={}&unclaimed_ms={}&dry_run={}",
        sweep.grace.as_millis(),
        sweep.unclaimed.as_millis(),
        sweep.dry_run
    );
    let body = call("POST", address, &path).await?;
    serde_json::from_str(&body).map_err(|e| ClientError::Refused(format!("unreadable answer: {e}")))
}

/// Every state and topic of a run, as the service at `address` sees them.
///
/// # Errors
/// It can't be reached, or refuses.
pub async fn report(address: &Address, run: &str) -> Result<Snapshot, ClientError> {
    check(run)?;
    let body = call("GET", address, &format!("/v1/barriers?run={run}")).await?;
    serde_json::from_str(&body).map_err(|e| ClientError::Refused(format!("unreadable answer: {e}")))
}

/// Tells the service at `address` that a run is looked after: its keys stay.
///
/// # Errors
/// It can't be reached, or refuses.
pub async fn claim(address: &Address, run: &str) -> Result<(), ClientError> {
    check(run)?;
    call("POST", address, &format!("/v1/runs/{run}/claim")).await.map(|_| ())
}

/// Tells the service at `address` that a run is over: its keys go after the grace time.
///
/// # Errors
/// It can't be reached, or refuses.
pub async fn finish(address: &Address, run: &str) -> Result<(), ClientError> {
    check(run)?;
    call("POST", address, &format!("/v1/runs/{run}/finish")).await.map(|_| ())
}

/// A run's id stands in a path as it is.
fn check(run: &str) -> Result<(), ClientError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match !run.is_empty() && run.bytes().all(plain) {
        true => Ok(()),
        false => Err(ClientError::Refused(format!("{run:?} is no run: letters, digits, - _ . are allowed"))),
    }
}

async fn call(method: &str, address: &Address, path: &str) -> Result<String, ClientError> {
    let unreachable = |after: Duration, last: String| ClientError::Unreachable {
        address: address.to_string(),
        after,
        last,
    };
    let answer = match tokio::time::timeout(PATIENCE, ask(method, address, path)).await {
        Ok(answer) => answer.map_err(|e| unreachable(Duration::ZERO, e.to_string()))?,
        Err(_) => return Err(unreachable(PATIENCE, "no answer".to_owned())),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") if head.starts_with("HTTP/") => {}
        // What listens there is something else, or a service of another make.
        Some("404" | "405" | "426") | None => {
            let first = head.lines().next().unwrap_or_default();
            return Err(ClientError::Refused(format!("{address} does not know {path}: {first:.100}")));
        }
        Some(_) => return Err(ClientError::Refused(body.to_owned())),
    }
    Ok(body.to_owned())
}

/// HTTP/1.0: the answer ends with the connection.
async fn ask(method: &str, address: &Address, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

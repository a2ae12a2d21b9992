//! Asks a service to collect garbage, over HTTP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Address, ClientError};
use crate::engine::Sweep;
use crate::store::GcReport;

/// How long a collection may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has the service at `address` collect garbage now.
///
/// # Errors
/// It can't be reached, or refuses.
pub async fn collect(address: &Address, sweep: &Sweep) -> Result<GcReport, ClientError> {
    let unreachable = |e: &dyn std::fmt::Display| ClientError::Unreachable {
        address: address.to_string(),
        after: PATIENCE,
        last: e.to_string(),
    };
    let answer = match tokio::time::timeout(PATIENCE, ask(address, sweep)).await {
        Ok(answer) => answer.map_err(|e| unreachable(&e))?,
        Err(_) => return Err(unreachable(&"no answer")),
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if !answer.starts_with("HTTP/1.0 200") && !answer.starts_with("HTTP/1.1 200") {
        return Err(ClientError::Refused(body.to_owned()));
    }
    serde_json::from_str(body).map_err(|e| ClientError::Refused(format!("unreadable answer: {e}")))
}

/// HTTP/1.0: the answer ends with the connection.
async fn ask(address: &Address, sweep: &Sweep) -> io::Result<String> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let request = format!(
        "POST /v1/gc?grace_ms={}&unclaimed_ms={}&dry_run={} HTTP/1.0\r\nhost: {address}\r\n\r\n",
        sweep.grace.as_millis(),
        sweep.unclaimed.as_millis(),
        sweep.dry_run
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

//! Handing a run's measurements on to a real InfluxDB, from outside of the lab.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testground_model::measure::Source;

use super::record;

/// The database, as the original names it.
const DATABASE: &str = "testground";
/// Points of a request.
const BATCH_LINES: usize = 5000;
/// Bytes of a request, about.
const BATCH_BYTES: usize = 1 << 20;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all may take: a run's end doesn't wait for ever.
const ALL: Duration = Duration::from_secs(120);

/// Why measurements did not get there, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// It can't be reached, or went away.
    #[error(
        "measurements were not forwarded to {url} ({sent} points were, before): {why}; the run's record has all of them"
    )]
    Broken {
        /// Where.
        url: String,
        /// How many points got there.
        sent: u64,
        /// Why.
        why: String,
    },
    /// It doesn't want some of them.
    #[error("{url} refused {refused} of {} points; the first answer: {why}", sent + refused)]
    Refused {
        /// Where.
        url: String,
        /// How many points were in requests that it took.
        sent: u64,
        /// How many were in requests that it did not take whole.
        refused: u64,
        /// What it said.
        why: String,
    },
    /// The record can't be read.
    #[error("failed to read the measurements to be forwarded: {0}")]
    Record(io::Error),
}

struct Peer<'a> {
    url: String,
    stop: &'a AtomicBool,
    agent: ureq::Agent,
    until: Instant,
    batch: String,
    lines: u64,
    sent: u64,
    refused: u64,
    said: Option<String>,
}

/// Sends every point of the record in `outputs` to the InfluxDB at `url` (`http://host:port`), and makes its database
/// `testground` first. Blocks, until `stop` is set or two minutes have passed.
///
/// # Errors
/// When it can't be reached or refuses points; nothing is lost in the run's own record.
pub fn forward(outputs: &Path, source: &Source, url: &str, stop: &AtomicBool) -> Result<u64, ForwardError> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .proxy(None)
        .build();
    let mut peer = Peer {
        url: url.to_owned(),
        stop,
        agent: config.into(),
        until: Instant::now() + ALL,
        batch: String::new(),
        lines: 0,
        sent: 0,
        refused: 0,
        said: None,
    };
    let broken =
        |peer: &Peer<'_>, why: String| ForwardError::Broken { url: peer.url.clone(), sent: peer.sent, why };
    if let Err(why) = peer.make_database() {
        return Err(broken(&peer, why));
    }
    let mut failed = None;
    let read = record::each(outputs, source, &mut |line| {
        use std::fmt::Write;
        let _ = writeln!(peer.batch, "{} {} {}", line.key, line.fields, line.time.unwrap_or_default());
        peer.lines += 1;
        if peer.lines < BATCH_LINES as u64 && peer.batch.len() < BATCH_BYTES {
            return Ok(());
        }
        peer.send().map_err(|why| {
            failed = Some(why);
            io::Error::other("stopped")
        })
    });
    match (failed, read) {
        (Some(why), _) => return Err(broken(&peer, why)),
        (None, Err(e)) => return Err(ForwardError::Record(e)),
        (None, Ok(_)) => {}
    }
    if let Err(why) = peer.send() {
        return Err(broken(&peer, why));
    }
    match peer.said {
        Some(why) => {
            Err(ForwardError::Refused { url: peer.url, sent: peer.sent, refused: peer.refused, why })
        }
        None => Ok(peer.sent),
    }
}

// === impl Peer ===

impl Peer<'_> {
    fn make_database(&self) -> Result<(), String> {
        let answer = self
            .agent
            .post(format!("{}/query", self.url))
            .send_form([("q", format!("CREATE DATABASE {DATABASE}"))]);
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(mut answer) => Err(said(&mut answer)),
            Err(e) => Err(e.to_string()),
        }
    }

    fn send(&mut self) -> Result<(), String> {
        if self.lines == 0 {
            return Ok(());
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        if Instant::now() > self.until {
            return Err(format!("it took longer than {} s", ALL.as_secs()));
        }
        let batch = std::mem::take(&mut self.batch);
        let lines = std::mem::take(&mut self.lines);
        let answer =
            self.agent.post(format!("{}/write?db={DATABASE}&precision=ns", self.url)).send(batch.as_bytes());
        let mut answer = answer.map_err(|e| e.to_string())?;
        match answer.status().as_u16() {
            200..300 => self.sent += lines,
            400 => {
                self.refused += lines;
                let words = said(&mut answer);
                self.said.get_or_insert(words);
            }
            _ => return Err(said(&mut answer)),
        }
        Ok(())
    }
}

fn said(answer: &mut ureq::http::Response<ureq::Body>) -> String {
    let status = answer.status();
    let text = answer.body_mut().with_config().limit(64 << 10).read_to_string().unwrap_or_default();
    let words: String = text.trim().chars().take(300).collect();
    format!("it answered {status}: {words}")
}

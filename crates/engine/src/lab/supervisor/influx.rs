//! Where instances send their measurements: what InfluxDB 1.8 answers to those who write, at the lab's gateway.
//!
//! Points go to the run's record as they come in, each with the tags that say whose it is and with its time in
//! nanoseconds; what is no point is refused in InfluxDB's words and counted. Nothing is read back here: what was
//! measured is summed up by `measure`.

mod query;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use testground_model::event::EventKind;
use testground_model::measure::line::Precision;
use testground_model::name::InstanceName;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::query::{Parameters, query};
use super::super::protocol::Notice;
use super::client::Client;
use crate::measure::intake::{Batch, Owner, Sink};

/// The version that clients see: the one whose answers these are.
const VERSION: &str = "1.8.10";
/// So much of a batch is taken before its lines are written, bytes; zipped it may become a thousand times as much.
const PIECE: usize = 16 << 10;
/// Largest form that a query comes in, bytes.
const MAX_FORM: usize = 64 << 10;

/// What the service knows of the run.
pub(super) struct Measurements {
    sink: Mutex<Sink>,
    instances: HashMap<IpAddr, InstanceName>,
    client: Client,
}

// === impl Measurements ===

impl Measurements {
    /// Takes measurements of these instances, known by their addresses, into files in `outputs`.
    pub(super) fn new(
        outputs: PathBuf,
        instances: impl Iterator<Item = (IpAddr, InstanceName)>,
        client: Client,
    ) -> Measurements {
        Measurements { sink: Mutex::new(Sink::new(outputs)), instances: instances.collect(), client }
    }

    /// Answers until it is dropped; connections end with it.
    pub(super) async fn serve(self, listener: TcpListener) {
        let service = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, from)) = accepted else {
                // Out of descriptors, most likely: somebody will close one.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let service = Arc::clone(&service);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let service = Arc::clone(&service);
                    async move { Ok::<_, Infallible>(service.answer(request, from.ip()).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, from: IpAddr) -> Response<Full<Bytes>> {
        let parameters = Parameters::read(request.uri().query().unwrap_or_default());
        let path = request.uri().path().to_owned();
        match (path.as_str(), request.method()) {
            ("/write", &Method::POST) => self.write(request, &parameters, "db", from).await,
            // The same for clients of InfluxDB 2, which 1.8 answers too.
            ("/api/v2/write", &Method::POST) => self.write(request, &parameters, "bucket", from).await,
            ("/write" | "/api/v2/write", _) => {
                let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                response
            }
            ("/query", method) => {
                let form = if method == Method::POST { form(request).await } else { Parameters::default() };
                match parameters.get("q").or_else(|| form.get("q")) {
                    Some(text) => match query(text) {
                        Ok(results) => json(StatusCode::OK, &results),
                        Err(why) => refused(StatusCode::BAD_REQUEST, &why),
                    },
                    None => refused(StatusCode::BAD_REQUEST, "missing required parameter \"q\""),
                }
            }
            ("/ping", _) if parameters.get("verbose").is_some_and(|v| !matches!(v, "" | "0" | "false")) => {
                json(StatusCode::OK, &serde_json::json!({ "version": VERSION }))
            }
            ("/ping" | "/status", _) => respond(StatusCode::NO_CONTENT, Bytes::new()),
            ("/health", _) => json(
                StatusCode::OK,
                &serde_json::json!({
                    "name": "influxdb", "message": "ready for queries and writes", "status": "pass",
                    "checks": [], "version": VERSION
                }),
            ),
            (other, _) => refused(
                StatusCode::NOT_FOUND,
                &format!(
                    "{other} is not answered here: Testground takes /write, /query and /ping of InfluxDB 1.8"
                ),
            ),
        }
    }

    /// Takes a batch as it arrives, so that a large one takes no more memory than a small one.
    async fn write(
        &self,
        request: Request<Incoming>,
        parameters: &Parameters,
        database: &str,
        from: IpAddr,
    ) -> Response<Full<Bytes>> {
        if parameters.get(database).is_none_or(str::is_empty) {
            return refused(StatusCode::BAD_REQUEST, "database is required");
        }
        let precision = match Precision::parse(parameters.get("precision").unwrap_or_default()) {
            Ok(precision) => precision,
            Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
        };
        let zipped = match request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip") => true,
            Some(other) => {
                let other = String::from_utf8_lossy(other);
                return refused(
                    StatusCode::BAD_REQUEST,
                    &format!("content encoding {other} is not taken: gzip and none are"),
                );
            }
        };
        let instance = self.instances.get(&from);
        let mut batch = Batch::new(precision, zipped, Owner::of(instance));
        let mut body = request.into_body();
        let mut broken = None;
        while let Some(frame) = body.frame().await {
            let bytes = match frame {
                Ok(frame) => frame.into_data().unwrap_or_default(),
                Err(e) => {
                    broken = Some(e.to_string());
                    break;
                }
            };
            for piece in bytes.chunks(PIECE) {
                broken = batch.push(piece).err();
                if let Err(e) = self.keep(&mut batch) {
                    return self.lost(&e, instance).await;
                }
                if broken.is_some() {
                    break;
                }
            }
            if broken.is_some() {
                break;
            }
        }
        if broken.is_none() {
            broken = batch.finish().err();
        }
        if let Err(e) = self.keep(&mut batch) {
            return self.lost(&e, instance).await;
        }
        if let Some(why) = broken {
            batch.refuse(&why);
        }
        let Some(words) = batch.refusal() else { return respond(StatusCode::NO_CONTENT, Bytes::new()) };
        if self.refuse(&batch, instance) {
            let who = instance.map_or_else(|| "somebody".to_owned(), ToString::to_string);
            self.warn(format!(
                "a measurement of {who} was refused: {}",
                words.lines().next().unwrap_or_default()
            ))
            .await;
        }
        let words = if batch.points() > 0 { format!("partial write: {words} dropped=0") } else { words };
        refused(StatusCode::BAD_REQUEST, &words)
    }

    /// The record can't be written: the sender hears it, and the run's record says so once.
    async fn lost(&self, error: &std::io::Error, instance: Option<&InstanceName>) -> Response<Full<Bytes>> {
        if self.is_first_loss() {
            let who = instance.map_or_else(|| "somebody".to_owned(), ToString::to_string);
            self.warn(format!("measurements are lost, first of {who}: {error}")).await;
        }
        refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
    }

    async fn warn(&self, message: String) {
        let kind = Box::new(EventKind::Warning { message });
        self.client.send(Notice::Event { ts: crate::run::unix_nanos(), kind }).await;
    }

    fn keep(&self, batch: &mut Batch) -> std::io::Result<()> {
        self.sink().take(batch)
    }

    fn refuse(&self, batch: &Batch, instance: Option<&InstanceName>) -> bool {
        self.sink().refuse(batch, instance)
    }

    fn is_first_loss(&self) -> bool {
        self.sink().lost()
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn form(request: Request<Incoming>) -> Parameters {
    let limited = http_body_util::Limited::new(request.into_body(), MAX_FORM);
    let bytes = limited.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Parameters::read(&String::from_utf8_lossy(&bytes))
}

fn refused(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": why }))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = respond(status, Bytes::from(format!("{value}\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("x-influxdb-version", HeaderValue::from_static(VERSION));
    headers.insert("x-influxdb-build", HeaderValue::from_static("testground"));
    response
}

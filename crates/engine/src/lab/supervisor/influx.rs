//! Where instances send their measurements: InfluxDB's `write`, kept as it comes in a file of the run.
//!
//! Only what the SDKs' clients use is answered: `POST /write`, `GET /ping`, and `/query` with an empty result.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Largest batch that is taken, bytes.
const MAX_BATCH: usize = 32 << 20;

/// Takes measurements into the file at `path` (made with the first of them) until the process ends.
pub(super) async fn serve(listener: TcpListener, path: PathBuf) {
    let file = Arc::new(Mutex::new(Sink { path, file: None }));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: somebody will close one.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let file = Arc::clone(&file);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&file)));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Sink {
    path: PathBuf,
    file: Option<File>,
}

// === impl Sink ===

impl Sink {
    fn append(&mut self, batch: &[u8]) -> std::io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open(&self.path)?);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(batch)?;
        if batch.last().is_some_and(|&b| b != b'\n') {
            file.write_all(b"\n")?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

async fn answer(
    request: Request<Incoming>,
    sink: Arc<Mutex<Sink>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::POST, "/write") => match Limited::new(request.into_body(), MAX_BATCH).collect().await {
            Ok(batch) => {
                let kept = sink.lock().unwrap_or_else(PoisonError::into_inner).append(&batch.to_bytes());
                match kept {
                    Ok(()) => (StatusCode::NO_CONTENT, String::new()),
                    Err(e) => (StatusCode::INSUFFICIENT_STORAGE, error(&e.to_string())),
                }
            }
            Err(e) => (StatusCode::PAYLOAD_TOO_LARGE, error(&e.to_string())),
        },
        (_, "/ping") => (StatusCode::NO_CONTENT, String::new()),
        (_, "/query") => (StatusCode::OK, "{\"results\":[{\"statement_id\":0}]}".to_owned()),
        (_, other) => (StatusCode::NOT_FOUND, error(&format!("{other} is not answered here"))),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("x-influxdb-version", hyper::header::HeaderValue::from_static("1.8.10"));
    Ok(response)
}

fn error(message: &str) -> String {
    serde_json::json!({ "error": message }).to_string()
}

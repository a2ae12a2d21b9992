//! Plain HTTP beside the WebSocket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Greeted;
use super::upgrade::Rewound;
use crate::hub::Hub;

/// Connections that were found to speak HTTP.
struct Requests(mpsc::Receiver<Greeted>);

/// Serves the connections that arrive until `stop`.
pub(super) async fn serve(hub: Arc<Hub>, requests: mpsc::Receiver<Greeted>, stop: CancellationToken) {
    let app = routes(hub).into_make_service();
    let server = axum::serve(Requests(requests), app);
    // It only fails when its listener does, and this one is a channel.
    let _ = server.with_graceful_shutdown(stop.cancelled_owned()).await;
}

fn routes(hub: Arc<Hub>) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/metrics", get(metrics)).with_state(hub)
}

async fn metrics(State(hub): State<Arc<Hub>>) -> impl IntoResponse {
    let gauges = hub.with(|engine| engine.gauges());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], hub.metrics.render(&gauges))
}

// === impl Requests ===

impl Listener for Requests {
    type Io = Rewound;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Rewound, SocketAddr) {
        match self.0.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}

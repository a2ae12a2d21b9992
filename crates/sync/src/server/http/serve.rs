//! The connections that were found to speak HTTP, handed to axum.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{App, routes};
use crate::SyncHandle;
use crate::hub::Hub;
use crate::server::upgrade::Rewound;
use crate::server::{Collect, Greeted};

/// Connections by way of a channel.
struct Requests(mpsc::Receiver<Greeted>);

/// Where a connection comes from.
#[derive(Clone)]
struct Peer(SocketAddr);

/// Serves the connections that arrive until `stop`.
pub(in crate::server) async fn serve(
    hub: Arc<Hub>,
    collect: Collect,
    requests: mpsc::Receiver<Greeted>,
    stop: CancellationToken,
) {
    let app = App { handle: SyncHandle::new(hub.clone()), hub, collect };
    let service =
        routes(app).layer(axum::middleware::from_fn(name_peer)).into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(Requests(requests), service);
    // It only fails when its listener does, and this one is a channel.
    let _ = server.with_graceful_shutdown(stop.cancelled_owned()).await;
}

/// Hands the address on in the form that handlers ask for.
async fn name_peer(
    axum::extract::ConnectInfo(Peer(address)): axum::extract::ConnectInfo<Peer>,
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    request.extensions_mut().insert(axum::extract::ConnectInfo(address));
    next.run(request).await
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
        Err(io::Error::new(io::ErrorKind::Unsupported, "connections come from another listener"))
    }
}

// === impl Peer ===

impl Connected<IncomingStream<'_, Requests>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Requests>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

//! Plain HTTP beside the WebSocket: the same four requests for whoever has only `curl`, and what operators ask.
//!
//! | | |
//! |---|---|
//! | `POST /v1/signal?state=S` | `{"seq":1}` |
//! | `POST /v1/publish?topic=T`, the item as body | `{"seq":1}` |
//! | `GET /v1/barrier?state=S&target=N[&timeout_ms=M]` | answers when it opens |
//! | `GET /v1/subscribe?topic=T[&after=N][&wait_ms=M]` | a list, as soon as there is an item; or server-sent events |
//! | `GET /v1/barriers[?run=R]` | every state and topic, who signalled, who waits |
//! | `POST /v1/runs/R/claim`, `POST /v1/runs/R/finish` | for garbage collection |
//! | `POST /v1/gc[?grace_ms=M][&unclaimed_ms=M][&dry_run=true]` | collects at once |

mod answer;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

use super::Collect;
use crate::SyncHandle;
use crate::engine::{Sweep, Who};
use crate::hub::Hub;
use crate::store::GcReport;

use answer::{Problem, events, list};
pub(super) use serve::serve;

/// What every handler needs.
#[derive(Clone)]
struct App {
    handle: SyncHandle,
    hub: Arc<Hub>,
    collect: Collect,
}

/// Who asks: the connection's address, and the name in `?from=`.
struct Asker(Who);

/// Most items in a list.
const MAX_LIST: usize = 1000;

/// How long a list is waited for unless the request says otherwise.
const LIST_WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignalQuery {
    state: String,
    key: Option<String>,
    #[serde(rename = "from")]
    _from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishQuery {
    topic: String,
    key: Option<String>,
    #[serde(rename = "from")]
    _from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BarrierQuery {
    state: String,
    target: u64,
    timeout_ms: Option<u64>,
    #[serde(rename = "from")]
    _from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeQuery {
    topic: String,
    after: Option<u64>,
    wait_ms: Option<u64>,
    #[serde(rename = "from")]
    _from: Option<String>,
}

#[derive(Deserialize)]
struct FromQuery {
    from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BarriersQuery {
    run: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GcQuery {
    grace_ms: Option<u64>,
    unclaimed_ms: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

/// Serves what operators ask, and nothing else.
pub(super) async fn serve_metrics(
    hub: Arc<Hub>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let app = App { handle: SyncHandle::new(hub.clone()), hub, collect: Collect::default() };
    let routes =
        Router::new().route("/healthz", get(async || "ok\n")).route("/metrics", get(metrics)).with_state(app);
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
}

fn routes(app: App) -> Router {
    let body_limit = DefaultBodyLimit::max(app.hub.limits.message_bytes);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/v1/signal", post(signal))
        .route("/v1/publish", post(publish))
        .route("/v1/barrier", get(barrier))
        .route("/v1/barriers", get(barriers))
        .route("/v1/subscribe", get(subscribe))
        .route("/v1/runs/{run}/claim", post(claim))
        .route("/v1/runs/{run}/finish", post(finish))
        .route("/v1/gc", post(gc))
        .fallback(nothing)
        .layer(body_limit)
        .with_state(app)
}

async fn nothing(uri: Uri) -> Problem {
    let what = format!(
        "nothing at {}; there are /v1/signal, /v1/publish, /v1/barrier, /v1/subscribe, /v1/barriers, /v1/gc, \
         /v1/runs/RUN/claim, /v1/runs/RUN/finish, /healthz, /metrics, and a WebSocket at any path",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, what)
}

async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let gauges = app.hub.with(|engine| engine.gauges());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.hub.metrics.render(&gauges))
}

async fn signal(
    State(app): State<App>,
    Asker(who): Asker,
    query: Result<Query<SignalQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let seq = app.handle.signal_as(who, &query.state, query.key.as_deref()).await?;
    Ok(axum::Json(json!({"seq": seq})).into_response())
}

async fn publish(
    State(app): State<App>,
    Asker(who): Asker,
    query: Result<Query<PublishQuery>, axum::extract::rejection::QueryRejection>,
    body: Result<String, axum::extract::rejection::StringRejection>,
) -> Result<Response, Problem> {
    let (Query(query), body) = (query?, body?);
    let payload: &RawValue = serde_json::from_str(&body)
        .map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {e}")))?;
    let seq = app.handle.publish_as(who, &query.topic, payload.get(), query.key.as_deref()).await?;
    Ok(axum::Json(json!({"seq": seq})).into_response())
}

async fn barrier(
    State(app): State<App>,
    Asker(who): Asker,
    query: Result<Query<BarrierQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let timeout = query.timeout_ms.map(Duration::from_millis);
    app.handle.barrier_as(who, &query.state, query.target, timeout).await?;
    let explanation = app.hub.explain(&query.state, query.target).await;
    Ok(axum::Json(explanation).into_response())
}

async fn subscribe(
    State(app): State<App>,
    Asker(who): Asker,
    headers: HeaderMap,
    query: Result<Query<SubscribeQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let last = header("last-event-id").and_then(|id| id.parse().ok());
    let after = last.or(query.after).unwrap_or(0);
    let items = app.handle.subscribe_as(who, &query.topic, after)?;
    if header("accept").is_some_and(|accept| accept.contains("text/event-stream")) {
        return Ok(events(items));
    }
    let wait = query.wait_ms.map_or(LIST_WAIT, Duration::from_millis);
    list(items, after, wait).await
}

async fn barriers(
    State(app): State<App>,
    query: Result<Query<BarriersQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    Ok(axum::Json(app.hub.report(query.run.as_deref()).await).into_response())
}

async fn claim(State(app): State<App>, Path(run): Path<String>) -> Result<Response, Problem> {
    app.handle.claim(&run).await?;
    Ok(axum::Json(json!({"run": run, "claimed": true})).into_response())
}

async fn finish(State(app): State<App>, Path(run): Path<String>) -> Result<Response, Problem> {
    app.handle.finish_run(&run).await?;
    Ok(axum::Json(json!({"run": run, "finished": true})).into_response())
}

async fn gc(
    State(app): State<App>,
    query: Result<Query<GcQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let sweep = Sweep {
        grace: query.grace_ms.map_or(app.collect.grace, Duration::from_millis),
        unclaimed: query.unclaimed_ms.map_or(app.collect.unclaimed, Duration::from_millis),
        batch: super::SWEEP_BATCH,
        dry_run: query.dry_run,
    };
    let removed = app.handle.sweep(&sweep).await?;
    Ok(axum::Json(GcReport { dry_run: query.dry_run, removed }).into_response())
}

// === impl Asker ===

impl FromRequestParts<App> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Asker, Problem> {
        let address: ConnectInfo<SocketAddr> = ConnectInfo::from_request_parts(parts, app)
            .await
            .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        let Query(FromQuery { from }) = Query::from_request_parts(parts, app).await?;
        Ok(Asker(Who { address: Some(address.0), name: from }))
    }
}

//! What goes back over HTTP: items as a list or as server-sent events, and problems.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{QueryRejection, StringRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::MAX_LIST;
use crate::engine::{Explanation, Refusal};
use crate::handle::{HandleError, Item, Subscription};
use crate::store::StoreError;

/// Why a request was not done: a status and `{"error":…}`, with a barrier's explanation where there is one.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    what: String,
    barrier: Option<Box<Explanation>>,
}

/// Items, each as it was published: a value in between would lose digits and spaces.
#[derive(Serialize)]
struct List {
    items: Vec<Listed>,
    /// Where to go on.
    after: u64,
}

#[derive(Serialize)]
struct Listed {
    seq: u64,
    item: Box<RawValue>,
}

/// All items there are, or those that come first within `wait`.
pub(super) async fn list(mut items: Subscription, after: u64, wait: Duration) -> Result<Response, Problem> {
    let mut found = Vec::new();
    if let Ok(first) = tokio::time::timeout(wait, items.next()).await {
        found.push(first?);
    }
    while found.len() < MAX_LIST
        && let Some(item) = items.ready()
    {
        found.push(item);
    }
    let next = found.last().map_or(after, |item| item.seq);
    let items = found.into_iter().map(|item| Listed { seq: item.seq, item: raw(item.json) }).collect();
    Ok(axum::Json(List { items, after: next }).into_response())
}

/// Every item as an event, as they come.
pub(super) fn events(items: Subscription) -> Response {
    let events = stream::unfold(items, |mut items| async move {
        let event = match items.next().await {
            Ok(item) => event(&item),
            Err(_) => return None,
        };
        Some((Ok::<_, Infallible>(event), items))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

/// The item on lines of its own: JSON may be spread over several.
fn event(item: &Item) -> String {
    let mut out = format!("id: {}\n", item.seq);
    for line in item.json.split(['\n', '\r']) {
        out.push_str("data: ");
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
    out
}

/// JSON as it was published; what is none stands as a string.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

// === impl Problem ===

impl Problem {
    pub(super) fn new(status: StatusCode, what: String) -> Problem {
        Problem { status, what, barrier: None }
    }
}

impl From<HandleError> for Problem {
    fn from(error: HandleError) -> Problem {
        let what = error.to_string();
        let (status, barrier) = match error {
            HandleError::Refused(Refusal::Limit { name: "message_bytes", .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, None)
            }
            HandleError::Refused(Refusal::Limit { .. }) => (StatusCode::TOO_MANY_REQUESTS, None),
            HandleError::Refused(_) => (StatusCode::BAD_REQUEST, None),
            HandleError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, None),
            HandleError::TimedOut(explanation) => (StatusCode::REQUEST_TIMEOUT, Some(explanation)),
            HandleError::Cancelled(explanation) => (StatusCode::CONFLICT, Some(explanation)),
            HandleError::Ended(_) => (StatusCode::GONE, None),
        };
        Problem { status, what, barrier }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<StringRejection> for Problem {
    fn from(rejection: StringRejection) -> Problem {
        Problem::new(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({"error": self.what});
        if let Some(explanation) = self.barrier {
            body["barrier"] = json!(explanation);
        }
        (self.status, axum::Json(body)).into_response()
    }
}

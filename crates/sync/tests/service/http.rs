//! The requests of whoever has only `curl`, over plain sockets.

use std::time::Duration;

use serde_json::{Value, json};
use testground_sync::client::{self, Address};
use testground_sync::engine::Sweep;
use testground_sync::server::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{LocalService, PATIENCE};

/// The status and the body.
async fn ask(service: &LocalService, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let length = body.len();
    let request = format!("{request} HTTP/1.0\r\n{headers}content-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.expect("the service does not answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn json(service: &LocalService, request: &str, body: &str) -> (u16, Value) {
    let (status, body) = ask(service, request, "", body).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{request}: {e}: {body}")))
}

#[tokio::test]
async fn the_four_requests_work_without_a_websocket() {
    let service = LocalService::in_memory(Options::default()).await;
    assert_eq!(json(&service, "POST /v1/signal?state=s&key=k", "").await, (200, json!({"seq": 1})));
    assert_eq!(json(&service, "POST /v1/signal?state=s&key=k", "").await, (200, json!({"seq": 1})));
    assert_eq!(json(&service, "POST /v1/publish?topic=t", "{\"n\":\n1.0}").await, (200, json!({"seq": 1})));
    let (status, barrier) = json(&service, "GET /v1/barrier?state=s&target=1", "").await;
    assert_eq!((status, &barrier["count"]), (200, &json!(1)));
    let (status, late) = json(&service, "GET /v1/barrier?state=s&target=2&timeout_ms=1&from=me", "").await;
    assert_eq!((status, &late["barrier"]["target"]), (408, &json!(2)));
    assert!(late["error"].as_str().unwrap().starts_with("barrier timed out: 1 of 2"), "{late}");
    let (status, list) = ask(&service, "GET /v1/subscribe?topic=t", "", "").await;
    assert_eq!(
        (status, list.as_str()),
        (200, "{\"items\":[{\"seq\":1,\"item\":{\"n\":\n1.0}}],\"after\":1}")
    );
    let empty = json(&service, "GET /v1/subscribe?topic=t&after=1&wait_ms=1", "").await;
    assert_eq!(empty, (200, json!({"items": [], "after": 1})));
    assert_eq!(service.handle.snapshot().peers, 0);
}

#[tokio::test]
async fn a_long_poll_ends_with_what_it_waits_for() {
    let service = LocalService::in_memory(Options::default()).await;
    let waiting = json(&service, "GET /v1/barrier?state=s&target=1", "");
    let listening = json(&service, "GET /v1/subscribe?topic=t", "");
    let answering = async {
        while service.handle.snapshot().peers < 2 {
            tokio::task::yield_now().await;
        }
        service.handle.signal("test", "s").await.unwrap();
        service.handle.publish("test", "t", "7").await.unwrap();
    };
    let (barrier, list, ()) = tokio::join!(waiting, listening, answering);
    assert_eq!((barrier.0, &barrier.1["count"]), (200, &json!(1)));
    assert_eq!(list.1["items"], json!([{"seq": 1, "item": 7}]));
}

#[tokio::test]
async fn items_come_as_server_sent_events() {
    let service = LocalService::in_memory(Options::default()).await;
    for item in ["1", "[2,\n3]"] {
        service.handle.publish("test", "t", item).await.unwrap();
    }
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request =
        "GET /v1/subscribe?topic=t HTTP/1.0\r\naccept: text/event-stream\r\nlast-event-id: 1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"3]\n\n") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("no event");
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.to_lowercase().contains("content-type: text/event-stream"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nid: 2\ndata: [2,\ndata: 3]\n\n"), "{answer}");
    drop(stream);
    while service.handle.snapshot().peers > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn mistakes_are_named() {
    let service = LocalService::in_memory(Options::default()).await;
    for (request, body, status, words) in [
        ("POST /v1/signal", "", 400, "missing field `state`"),
        ("POST /v1/signal?stat=s", "", 400, "unknown field `stat`"),
        ("GET /v1/barrier?state=s&target=-1", "", 400, "target"),
        ("POST /v1/publish?topic=t", "{", 400, "the body is no JSON"),
        ("POST /v1/publish?topic=t", "1 2", 400, "the body is no JSON"),
        ("GET /v2", "", 404, "nothing at /v2; there are /v1/signal"),
    ] {
        let (code, answer) = json(&service, request, body).await;
        assert_eq!(code, status, "{request}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{request}: {answer}");
    }
    let long = format!("\"{}\"", "x".repeat(32_700));
    let (code, answer) = json(&service, "POST /v1/publish?topic=t", &long).await;
    assert_eq!(code, 413, "{answer}");
}

#[tokio::test]
async fn runs_are_claimed_finished_and_collected() {
    let service = LocalService::in_memory(Options::default()).await;
    service.handle.signal("test", "run:r1:states:s").await.unwrap();
    let address = Address { host: service.address.ip().to_string(), port: service.address.port() };
    let sweep = Sweep { grace: Duration::ZERO, unclaimed: Duration::from_secs(60), batch: 8, dry_run: false };
    client::finish(&address, "r1").await.unwrap();
    client::claim(&address, "r1").await.unwrap();
    assert_eq!(client::collect(&address, &sweep).await.unwrap().removed, []);
    client::finish(&address, "r1").await.unwrap();
    let report = client::collect(&address, &sweep).await.unwrap();
    assert_eq!(report.removed.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["run:r1:states:s"]);
    assert!(client::finish(&address, "no/run").await.is_err());
    let (status, metrics) = ask(&service, "GET /metrics", "", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("testground_sync_operations_total{kind=\"signal\"} 1\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(ask(&service, "GET /healthz", "", "").await, (200, "ok\n".to_owned()));
}

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::SyncHandle;
use crate::server::{Options, Service};

/// A service in memory on a free port, which ends with the guard.
pub(crate) async fn service(options: Options) -> (Address, SyncHandle, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let service = Service::in_memory(options, None);
    let handle = service.handle();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move { service.serve(listener, stopped).await.unwrap() });
    (address, handle, stop.drop_guard())
}

async fn client(address: &Address, name: &str) -> Client {
    let options = ClientOptions { name: Some(name.to_owned()), ..ClientOptions::default() };
    Client::connect(address.clone(), options).await.unwrap()
}

#[tokio::test]
async fn clients_meet_at_a_barrier_and_read_each_others_items() {
    let (address, handle, _stop) = service(Options::default()).await;
    let (a, b) = (client(&address, "a").await, client(&address, "b").await);
    assert_eq!(a.signal("run:r:states:ready").await.unwrap(), 1);
    let waiting = tokio::spawn({
        let a = a.clone();
        async move { a.barrier("run:r:states:ready", 2, None).await }
    });
    assert_eq!(a.publish("run:r:topics:peers", r#"{"n": 1}"#).await.unwrap(), 1);
    let mut items = b.subscribe("run:r:topics:peers", 0).await.unwrap();
    assert_eq!(items.next().await.unwrap(), Item { seq: 1, json: r#"{"n": 1}"#.to_owned() });
    assert_eq!(b.signal("run:r:states:ready").await.unwrap(), 2);
    waiting.await.unwrap().unwrap();
    assert_eq!(b.publish("run:r:topics:peers", "\"\\u0001\"").await.unwrap(), 2);
    assert_eq!(items.next().await.unwrap(), Item { seq: 2, json: "\"\\u0001\"".to_owned() });
    let snapshot = handle.snapshot();
    assert_eq!(snapshot.barriers[0].count, 2);
    assert_eq!(snapshot.barriers[0].signalled.len(), 2);
    assert_eq!(snapshot.topics[0].length, 2);
}

#[tokio::test]
async fn a_barrier_that_does_not_open_says_who_is_missing() {
    let (address, _handle, _stop) = service(Options::default()).await;
    let a = client(&address, "alice").await;
    a.signal("s").await.unwrap();
    let error = a.barrier("s", 2, Some(Duration::from_millis(20))).await.unwrap_err();
    let ClientError::NotOpened { error, explanation } = error else { panic!("{error}") };
    assert!(error.starts_with("barrier timed out: 1 of 2 at \"s\"; signalled by alice ("), "{error}");
    assert_eq!((explanation.count, explanation.target), (1, 2));
}

#[tokio::test]
async fn a_slow_reader_is_paused_and_misses_nothing() {
    let (address, handle, _stop) = service(Options::default()).await;
    let a = client(&address, "a").await;
    let mut items = a.subscribe("t", 0).await.unwrap();
    let count = 5 * BUFFERED_ITEMS as u64;
    for n in 0..count {
        handle.publish("p", "t", &n.to_string()).await.unwrap();
    }
    // The link has met the full buffer when it answers something that was asked after it.
    a.signal("s").await.unwrap();
    for n in 0..count {
        let item = items.next().await.unwrap();
        assert_eq!((item.seq, item.json), (n + 1, n.to_string()));
    }
}

#[tokio::test]
async fn a_dropped_wait_is_no_longer_waited_for() {
    let (address, handle, _stop) = service(Options::default()).await;
    let a = client(&address, "a").await;
    let wait = tokio::spawn({
        let a = a.clone();
        async move { a.barrier("s", 1, None).await }
    });
    while handle.snapshot().barriers.iter().all(|b| b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
    wait.abort();
    while handle.snapshot().barriers.iter().any(|b| !b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.signal("s").await.unwrap(), 1);
}

#[tokio::test]
async fn a_failed_peer_hears_why() {
    let (address, handle, _stop) = service(Options::default()).await;
    let a = client(&address, "a").await;
    let wait = tokio::spawn({
        let a = a.clone();
        async move { a.barrier("s", 1, None).await }
    });
    while handle.snapshot().barriers.iter().all(|b| b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.fail_peer("127.0.0.1".parse().unwrap(), "instance a[0] exited with 3"), 1);
    let error = wait.await.unwrap().unwrap_err();
    assert_eq!(error, ClientError::Closed("instance a[0] exited with 3".to_owned()));
    while handle.snapshot().barriers.iter().any(|b| !b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
}

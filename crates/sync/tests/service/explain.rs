//! Barriers explain themselves: who signalled and who waits, with both stores, and over all services of one Redis.

use std::time::Duration;

use testground_sync::client::ClientError;
use testground_sync::engine::Explanation;

use crate::support::{LocalService, RedisServer, client};

const STATE: &str = "run:r:plan:p:case:c:states:ready";

/// What a barrier of `target` says when its time is up.
async fn explained(service: &LocalService, name: &str, target: u64) -> Explanation {
    let waiter = client(service.address, name).await;
    match waiter.barrier(STATE, target, Some(Duration::from_millis(300))).await {
        Err(ClientError::NotOpened { explanation, error }) => {
            assert!(error.starts_with("barrier timed out"), "{error}");
            *explanation
        }
        other => panic!("{other:?} instead of an explanation"),
    }
}

/// Names without the addresses behind them.
fn names(list: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = list.iter().map(|name| name.split(' ').next().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_memory_store_says_who_signalled_and_who_waits() {
    let service = LocalService::in_memory(Default::default()).await;
    let (a, b) = (client(service.address, "a").await, client(service.address, "b").await);
    for signaller in [&a, &b, &b] {
        signaller.signal(STATE).await.unwrap();
    }
    let found = explained(&service, "c", 5).await;
    assert_eq!((found.count, found.target), (3, 5));
    assert_eq!((names(&found.signalled), names(&found.waiting)), (vec!["a", "b"], vec!["c"]));
}

#[tokio::test]
async fn services_over_one_redis_know_of_each_others_signallers_and_waiters() {
    let test = "services_over_one_redis_know_of_each_others_signallers_and_waiters";
    let Some(redis) = RedisServer::start(test) else { return };
    let (one, other) = (LocalService::over(&redis.url()).await, LocalService::over(&redis.url()).await);
    let (a, b) = (client(one.address, "a").await, client(other.address, "b").await);
    a.signal(STATE).await.unwrap();
    b.signal(STATE).await.unwrap();
    // Two wait at the other service, one of them since the other did.
    let mut waits = Vec::new();
    for name in ["w1", "w2"] {
        let waiter = client(other.address, name).await;
        let (state, target) = (STATE, 4);
        waits.push(tokio::spawn(async move { waiter.barrier(state, target, None).await }));
        wait_until(&redis, name).await;
    }
    let found = explained(&one, "c", 5).await;
    assert_eq!((found.count, found.target), (2, 5));
    assert_eq!((names(&found.signalled), names(&found.waiting)), (vec!["a", "b"], vec!["c", "w1", "w2"]));

    // A cancelled barrier knows as much.
    let cancelled = tokio::spawn({
        let c = client(one.address, "c").await;
        async move { c.barrier(STATE, 9, None).await }
    });
    wait_until(&redis, "c").await;
    one.handle.cancel_barriers(STATE, "enough").await;
    let Err(ClientError::NotOpened { explanation, error }) = cancelled.await.unwrap() else {
        panic!("the barrier is not cancelled")
    };
    assert!(error.starts_with("barrier cancelled"), "{error}");
    assert_eq!(names(&explanation.signalled), ["a", "b"]);

    // Those at the other service wait on, and what is kept about them goes with the run.
    a.signal(STATE).await.unwrap();
    a.signal(STATE).await.unwrap();
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
}

/// Waits until Redis has the name among those who wait.
async fn wait_until(redis: &RedisServer, name: &str) {
    let mut connection = redis.connection().await;
    let key = format!("{STATE}#count#waiting");
    for _ in 0..2000 {
        let lists: Vec<String> = redis::cmd("HVALS").arg(&key).query_async(&mut connection).await.unwrap();
        if lists.iter().any(|list| list.contains(&format!("\"{name} ("))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("Redis never heard that {name} waits");
}

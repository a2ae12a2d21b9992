//! Keys live while their run does, seen in Redis itself.

use std::time::Duration;

use testground_sync::engine::{Kind, Sweep};

use crate::support::{LocalService, RedisServer, client};

const AT_ONCE: Sweep =
    Sweep { grace: Duration::ZERO, unclaimed: Duration::from_secs(86_400), batch: 16, dry_run: false };

#[tokio::test]
async fn a_finished_runs_keys_go_and_a_running_runs_stay() {
    let Some(redis) = RedisServer::start("a_finished_runs_keys_go_and_a_running_runs_stay") else { return };
    let service = LocalService::over(&redis.url()).await;
    let a = client(service.address, "a").await;
    for run in ["over", "on"] {
        for n in 0..40 {
            a.signal(&format!("run:{run}:plan:p:case:c:states:s{n}")).await.unwrap();
            a.publish(&format!("run:{run}:plan:p:case:c:topics:t{n}"), "1").await.unwrap();
        }
    }
    service.handle.claim("on").await.unwrap();
    service.handle.finish_run("over").await.unwrap();

    // Within its grace time nothing goes.
    let later = Sweep { grace: Duration::from_secs(600), ..AT_ONCE };
    assert_eq!(service.handle.sweep(&later).await.unwrap(), []);
    // A dry run says what would go, and leaves it.
    let dry = testground_sync::collect(&redis.url(), &Sweep { dry_run: true, ..AT_ONCE }).await.unwrap();
    assert_eq!(dry.removed.len(), 80);
    let before = redis.keys().await;
    assert_eq!(before.iter().filter(|k| k.starts_with("run:over:plan")).count(), 120, "{before:?}");

    let removed = service.handle.sweep(&AT_ONCE).await.unwrap();
    assert_eq!(removed.len(), 80);
    assert!(removed.iter().all(|r| r.run == "over" && r.key.starts_with("run:over:plan:p:case:c:")));
    assert_eq!(removed.iter().filter(|r| r.kind == Kind::State).count(), 40);
    let after = redis.keys().await;
    assert!(after.iter().all(|k| !k.starts_with("run:over:")), "{after:?}");
    let kept =
        |keys: &[String]| keys.iter().filter(|k| k.starts_with("run:on:")).cloned().collect::<Vec<_>>();
    assert_eq!(kept(&after), kept(&before));
    assert_eq!(a.signal("run:on:plan:p:case:c:states:s0").await.unwrap(), 2);
}

#[tokio::test]
async fn what_somebody_waits_for_stays() {
    let Some(redis) = RedisServer::start("what_somebody_waits_for_stays") else { return };
    // One service has the waiters, the other one sweeps.
    let (service, other) = (LocalService::over(&redis.url()).await, LocalService::over(&redis.url()).await);
    let a = client(service.address, "a").await;
    a.signal("run:r:states:awaited").await.unwrap();
    a.publish("run:r:topics:read", "1").await.unwrap();
    a.signal("run:r:states:forgotten").await.unwrap();
    let wait = tokio::spawn({
        let a = a.clone();
        async move { a.barrier("run:r:states:awaited", 2, None).await }
    });
    let mut items = a.subscribe("run:r:topics:read", 0).await.unwrap();
    items.next().await.unwrap();
    let held = "run:r:states:awaited#count#held".to_owned();
    while !redis.keys().await.contains(&held) {
        tokio::task::yield_now().await;
    }
    other.handle.finish_run("r").await.unwrap();
    let removed = other.handle.sweep(&AT_ONCE).await.unwrap();
    assert_eq!(removed.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["run:r:states:forgotten"]);
    assert_eq!(a.signal("run:r:states:awaited").await.unwrap(), 2);
    wait.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_that_nobody_claims_goes_after_its_time() {
    let Some(redis) = RedisServer::start("a_run_that_nobody_claims_goes_after_its_time") else { return };
    let service = LocalService::over(&redis.url()).await;
    service.handle.signal("a", "run:lost:states:s").await.unwrap();
    service.handle.signal("a", "no-run-in-this-name").await.unwrap();
    assert_eq!(service.handle.sweep(&AT_ONCE).await.unwrap(), []);
    let now = Sweep { unclaimed: Duration::ZERO, ..AT_ONCE };
    let mut removed = service.handle.sweep(&now).await.unwrap();
    removed.sort();
    assert_eq!(
        removed.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(),
        ["no-run-in-this-name", "run:lost:states:s"]
    );
    let left = redis.keys().await;
    assert!(left.iter().all(|k| k.starts_with("sync#service:")), "{left:?}");
}

#[tokio::test]
async fn the_memory_store_collects_by_the_same_rules() {
    let service = LocalService::in_memory(Default::default()).await;
    let a = client(service.address, "a").await;
    a.signal("run:r:states:awaited").await.unwrap();
    a.signal("run:r:states:forgotten").await.unwrap();
    a.signal("run:on:states:s").await.unwrap();
    let wait = tokio::spawn({
        let a = a.clone();
        async move { a.barrier("run:r:states:awaited", 2, None).await }
    });
    while service.handle.snapshot().barriers.iter().all(|b| b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
    service.handle.finish_run("r").await.unwrap();
    let dry = service.handle.sweep(&Sweep { dry_run: true, ..AT_ONCE }).await.unwrap();
    let removed = service.handle.sweep(&AT_ONCE).await.unwrap();
    assert_eq!(dry, removed);
    assert_eq!(removed.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["run:r:states:forgotten"]);
    assert_eq!(a.signal("run:r:states:awaited").await.unwrap(), 2);
    wait.await.unwrap().unwrap();
    assert_eq!(service.handle.sweep(&AT_ONCE).await.unwrap().len(), 1);
    assert_eq!(a.signal("run:on:states:s").await.unwrap(), 2);
}

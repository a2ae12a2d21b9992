//! What instances publish, answered: requests over a real sync service, and the timeline on the run's clock.

use std::time::Duration;

use lab_support::{PATIENCE, appear, default_network, everywhere, instance, link, run, within};
use testground_model::event::EventKind;
use testground_model::name::RunId;
use testground_model::shape::LinkShape;
use testground_model::topology::{Action, Change, Endpoint};
use testground_sidecar::reactor::lab::LabNetwork;
use testground_sidecar::reactor::lab::serve::{Keys, Notice, Serving};
use testground_sidecar::timeline::Timeline;
use testground_sync::SyncHandle;
use testground_sync::server::{Options, Service};

mod lab_support;

fn keys() -> Keys {
    Keys::new(&RunId::parse("9m4e2mr0ui3e8a215n4g").unwrap(), "plan", "case")
}

fn sync() -> (Service, SyncHandle) {
    let service = Service::in_memory(Options::default(), None);
    let handle = service.handle();
    (service, handle)
}

async fn publish(sync: &SyncHandle, hostname: &str, json: &str) {
    sync.publish("test", &keys().topic(&format!("network:{hostname}")), json).await.unwrap();
}

async fn wait(sync: &SyncHandle, state: &str, target: u64) {
    let key = keys().state(state);
    let open = sync.barrier("test", &key, target, None);
    tokio::time::timeout(PATIENCE, open).await.expect(state).unwrap();
}

#[test]
fn keys_are_those_of_the_sdks() {
    let keys = keys();
    assert_eq!(keys.state("ready"), "run:9m4e2mr0ui3e8a215n4g:plan:plan:case:case:states:ready");
    assert_eq!(keys.topic("network:a-0"), "run:9m4e2mr0ui3e8a215n4g:plan:plan:case:case:topics:network:a-0");
}

#[test]
fn requests_are_answered_in_order_and_the_instances_are_let_go() {
    everywhere("requests_are_answered_in_order_and_the_instances_are_let_go", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        let one = appear(&lab, "a", 0).await;
        let _two = appear(&lab, "a", 1).await;
        let (_service, sync) = sync();
        let (serving, mut notices) =
            Serving::start(lab.clone(), sync.clone().into(), keys(), Timeline::new(&[], &[])).await.unwrap();
        serving.release().await.unwrap();
        wait(&sync, "network-initialized", 2).await;

        for n in 1..=20 {
            let address = format!("16.0.1.{n}/16");
            let json = format!(
                r#"{{"network":"default","IPv4":"{address}","enable":true,"callback_state":"done-{n}","x":1}}"#
            );
            publish(&sync, "a-0", &json).await;
        }
        wait(&sync, "done-20", 1).await;
        assert_eq!(one.addresses("data")[0], "16.0.1.20/16");
        let mut seen = Vec::new();
        while let Ok(notice) = notices.try_recv() {
            match notice {
                Notice::Event(EventKind::NetworkConfigured { instance: who, network, callback }) => {
                    assert_eq!((who, network.as_str()), (instance("a", 0), "default"));
                    seen.push(callback);
                }
                Notice::Event(EventKind::Warning { message }) => {
                    assert!(message.contains("a[0]") && message.contains("`x` is not known"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, (1..=20).map(|n| format!("done-{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn a_refused_request_is_told_and_its_barrier_stays_shut() {
    everywhere("a_refused_request_is_told_and_its_barrier_stays_shut", |ports| async move {
        let lab = LabNetwork::start(&run(&[("a", 2)], vec![default_network()]), ports).unwrap();
        let _one = appear(&lab, "a", 0).await;
        let _two = appear(&lab, "a", 1).await;
        let (_service, sync) = sync();
        let (_serving, mut notices) =
            Serving::start(lab.clone(), sync.clone().into(), keys(), Timeline::new(&[], &[])).await.unwrap();
        publish(&sync, "a-1", r#"{"network":"defualt","enable":true,"callback_state":"s"}"#).await;
        publish(&sync, "a-1", r#"{"network":"default","enable":true,"callback_state":"s"}"#).await;
        let Some(Notice::Refused { instance: who, error }) = notices.recv().await else { panic!() };
        assert_eq!(who, instance("a", 1));
        assert_eq!(error.to_string(), "unknown network `defualt` (is `default` meant?); known: default");
        publish(&sync, "a-0", r#"{"network":"default","enable":true,"callback_state":"t"}"#).await;
        wait(&sync, "t", 1).await;
        // One entry of this test's own opens a barrier for one, and not for two.
        assert_eq!(sync.signal("test", &keys().state("s")).await.unwrap(), 1, "nobody was answered before");
    });
}

#[test]
fn a_partition_and_its_heal_happen_on_the_runs_clock() {
    everywhere("a_partition_and_its_heal_happen_on_the_runs_clock", |ports| async move {
        let mut run = run(&[("a", 1), ("b", 1)], vec![default_network()]);
        let late = LinkShape { latency: Duration::from_millis(1), ..LinkShape::default() };
        run.links = vec![link("a", "b", true, late)];
        let group = |name: &str| Endpoint::Group(name.to_owned());
        let change = |ms: u64, action| Change {
            at: Duration::from_millis(ms),
            from: group("a"),
            to: group("b"),
            both_ways: true,
            network: "default".to_owned(),
            action,
            base: None,
        };
        let changes = [change(0, Action::Partition), change(300, Action::Heal)];
        let lab = LabNetwork::start(&run, ports).unwrap();
        let one = appear(&lab, "a", 0).await;
        let _b = appear(&lab, "b", 0).await;
        let (_service, sync) = sync();
        let timeline = Timeline::new(&changes, &run.links);
        let (serving, mut notices) =
            Serving::start(lab.clone(), sync.clone().into(), keys(), timeline).await.unwrap();
        assert!(one.reaches("16.0.0.3"));
        let zero = serving.release().await.unwrap();
        let (cut, at) = within(async || notices.recv().await, changed).await;
        assert_eq!((cut.as_str(), at), ("partition a <-> b", 0.0));
        let first = one.run("ping -n -c 1 -W 0.1 16.0.0.3");
        if zero.elapsed() < Duration::from_millis(290) {
            assert!(!first.status.success(), "cut from the run's first moment");
        }
        let (heal, at) = within(async || notices.recv().await, changed).await;
        assert_eq!((heal.as_str(), at), ("heal a <-> b", 0.3));
        assert!(zero.elapsed() >= Duration::from_millis(300));
        assert!(one.round_trip("16.0.0.3", 2) >= 2.0, "what was declared holds again");
    });
}

fn changed(notice: Notice) -> Option<(String, f64)> {
    match notice {
        Notice::Event(EventKind::NetworkChanged { change, at }) => Some((change, at)),
        _ => None,
    }
}

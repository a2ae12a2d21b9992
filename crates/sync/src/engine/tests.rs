use std::time::{Duration, Instant};

use super::*;

fn texts(engine: &mut Engine, peer: PeerId, budget: usize) -> (Vec<String>, bool) {
    let mut texts = Vec::new();
    let pulled = engine.pull(peer, budget, &mut |delivery| {
        texts.push(match delivery {
            Delivery::Item { id, value, .. } => format!("{id}:{}", String::from_utf8_lossy(value)),
            Delivery::Released { id } => format!("{id} released"),
            Delivery::Ended { id, end, .. } => format!("{id} {end:?}"),
            Delivery::Numbered { id, seq, .. } => format!("{id}={seq}"),
            Delivery::Failed { id, error } => format!("{id} failed: {error}"),
        });
    });
    (texts, pulled.more)
}

fn terms(target: u64, deadline: Option<Instant>, explain: bool) -> BarrierTerms {
    BarrierTerms { target, deadline, explain }
}

#[test]
fn a_peer_is_woken_once_until_it_has_pulled() {
    let mut engine = Engine::new(Limits::default());
    let now = Instant::now();
    let peer = engine.connect(Who::local("p"));
    engine.subscribe(now, peer, "1", "t", 0, false).unwrap();
    for _ in 0..3 {
        engine.publish(now, "t", b"1", None).unwrap();
    }
    assert_eq!(engine.woken().collect::<Vec<_>>(), [peer]);
    engine.publish(now, "t", b"2", None).unwrap();
    assert_eq!(engine.woken().count(), 0);
    assert_eq!(texts(&mut engine, peer, 1 << 16).0, ["1:1", "1:1", "1:1", "1:2"]);
    engine.publish(now, "t", b"3", None).unwrap();
    assert_eq!(engine.woken().collect::<Vec<_>>(), [peer]);
}

#[test]
fn a_budget_is_shared_by_a_peers_subscriptions() {
    let mut engine = Engine::new(Limits::default());
    let now = Instant::now();
    let peer = engine.connect(Who::local("p"));
    for topic in ["a", "b"] {
        for n in 0..3 {
            engine.publish(now, topic, n.to_string().as_bytes(), None).unwrap();
        }
        engine.subscribe(now, peer, topic, topic, 0, false).unwrap();
    }
    // An item counts as its bytes and a frame's: a budget for one of them at a time takes turns.
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (texts, _) = texts(&mut engine, peer, 1);
        seen.extend(texts);
    }
    assert_eq!(seen, ["a:0", "b:0", "a:1", "b:1", "a:2", "b:2"]);
    assert!(!texts(&mut engine, peer, 1).1);
}

#[test]
fn deadlines_end_waits_and_only_those_who_understand_are_told() {
    let mut engine = Engine::new(Limits::default());
    let now = Instant::now();
    let later = now + Duration::from_secs(5);
    let (sdk, ours) = (engine.connect(Who::local("sdk")), engine.connect(Who::local("ours")));
    engine.barrier(now, sdk, "1", "s", terms(1, Some(later), false)).unwrap();
    engine.barrier(now, ours, "1", "s", terms(1, Some(later), true)).unwrap();
    engine.barrier(now, ours, "2", "s", terms(1, None, true)).unwrap();
    assert_eq!(engine.next_deadline(), Some(later));
    assert_eq!(engine.expire(now), []);
    assert_eq!(engine.expire(later), [sdk]);
    assert_eq!(texts(&mut engine, ours, 1000).0, ["1 TimedOut"]);
    assert_eq!(engine.next_deadline(), None);
    engine.signal(later, sdk, "s", None).unwrap();
    assert_eq!(texts(&mut engine, ours, 1000).0, ["2 released"]);
    assert_eq!(texts(&mut engine, sdk, 1000).0, Vec::<String>::new());
}

#[test]
fn a_peer_that_goes_takes_its_waits_along_and_leaves_its_signals() {
    let mut engine = Engine::new(Limits::default());
    let now = Instant::now();
    let (a, b) = (engine.connect(Who::local("a")), engine.connect(Who::local("b")));
    engine.signal(now, a, "s", None).unwrap();
    engine.barrier(now, a, "1", "s", terms(2, None, false)).unwrap();
    engine.subscribe(now, a, "2", "t", 0, false).unwrap();
    engine.subscribe(now, b, "2", "t", 0, false).unwrap();
    engine.disconnect(a);
    engine.publish(now, "t", b"1", None).unwrap();
    assert_eq!(engine.woken().collect::<Vec<_>>(), [b]);
    let report = engine.snapshot(now);
    assert_eq!((report.barriers[0].count, report.barriers[0].waiting.len()), (1, 0));
    assert_eq!(report.topics[0].subscribers, 1);
    assert_eq!(report.barriers[0].signalled, [(Who::local("a"), 1)]);
}

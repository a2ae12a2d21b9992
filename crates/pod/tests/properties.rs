//! What holds for every pod under whatever happens to it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use testground_pod::machine::{
    Action, ContainerId, ContainerKind, Event, Exit, HookKind, Instance, Machine, ProbeKind, ProbeOutcome,
    PullError, Settings, Text, Timing,
};
use testground_pod::simulate::script::Script;
use testground_pod::simulate::simulate;
use testground_pod::simulate::timeline::{Lane, Point, SpanKind, Timeline};
use testground_pod::version::{Features, Gate, KubernetesVersion};

// === pods ===

fn probe() -> impl Strategy<Value = Value> {
    (0..4i64, 1..4i64, 1..3i64, 1..3i64).prop_map(|(delay, period, failure, success)| {
        json!({"exec": {"command": ["true"]}, "initialDelaySeconds": delay, "periodSeconds": period,
               "failureThreshold": failure, "successThreshold": success})
    })
}

fn handler() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"exec": {"command": ["true"]}})),
        (0..8i64).prop_map(|seconds| json!({"sleep": {"seconds": seconds}})),
        Just(json!({"httpGet": {"port": 80}})),
    ]
}

fn container(kind: ContainerKind) -> impl Strategy<Value = Value> {
    let maybe = proptest::option::weighted::<BoxedStrategy<Value>>;
    let hooks = (maybe(0.2, handler().boxed()), maybe(0.3, handler().boxed()));
    let probes = (maybe(0.2, probe().boxed()), maybe(0.2, probe().boxed()), maybe(0.2, probe().boxed()));
    let policy =
        proptest::option::weighted(0.2, prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]);
    let rule = proptest::option::weighted(0.15, (any::<bool>(), 0..4i32));
    (hooks, probes, policy, rule).prop_map(move |((post, pre), (startup, live, ready), policy, rule)| {
        let mut container = json!({"image": "a:1"});
        if kind != ContainerKind::Init {
            for (name, probe) in
                [("startupProbe", startup), ("livenessProbe", live), ("readinessProbe", ready)]
            {
                if let Some(mut probe) = probe {
                    if name != "readinessProbe" {
                        probe["successThreshold"] = json!(1);
                    }
                    container[name] = probe;
                }
            }
            let mut lifecycle = json!({});
            if let Some(post) = post {
                lifecycle["postStart"] = post;
            }
            if let Some(pre) = pre {
                lifecycle["preStop"] = pre;
            }
            container["lifecycle"] = lifecycle;
        }
        match kind {
            ContainerKind::Sidecar => container["restartPolicy"] = json!("Always"),
            ContainerKind::Init | ContainerKind::App => {
                // `Always` on an init would make it a sidecar.
                let policy = policy.filter(|p| kind == ContainerKind::App || *p != "Always");
                if let Some(policy) = policy {
                    container["restartPolicy"] = json!(policy);
                    if let Some((all, code)) = rule {
                        let action = if all { "RestartAllContainers" } else { "Restart" };
                        let codes = json!({"operator": "In", "values": [code]});
                        container["restartPolicyRules"] = json!([{"action": action, "exitCodes": codes}]);
                    }
                }
            }
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let kind = prop_oneof![Just(ContainerKind::Init), Just(ContainerKind::Sidecar)];
    let inits = proptest::collection::vec(kind.prop_flat_map(container), 0..4);
    let apps = proptest::collection::vec(container(ContainerKind::App), 1..4);
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let deadline = proptest::option::weighted(0.1, 1..60i64);
    (inits, apps, policy, 0..20i64, deadline).prop_map(|(mut inits, mut apps, policy, grace, deadline)| {
        for (n, init) in inits.iter_mut().enumerate() {
            init["name"] = json!(format!("i{n}"));
        }
        for (n, app) in apps.iter_mut().enumerate() {
            app["name"] = json!(format!("a{n}"));
        }
        let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace,
                              "initContainers": inits, "containers": apps});
        if let Some(deadline) = deadline {
            spec["activeDeadlineSeconds"] = json!(deadline);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let timing = prop_oneof![Just(Timing::Ideal), any::<u64>().prop_map(|seed| Timing::Kubelet { seed })];
    (timing, 29..38u8, any::<bool>()).prop_map(|(timing, minor, revive)| Settings {
        features: Features::of(KubernetesVersion::new(minor).expect("modelled"))
            .set(Gate::SidecarsRestartableDuringPodTermination, revive),
        timing,
        max_restart_period: None,
    })
}

// === scripts ===

/// A behaviour in whole seconds, so that nothing of the grace period is lost by cutting to whole seconds.
fn behaviour() -> impl Strategy<Value = Value> {
    let run = (proptest::option::weighted(0.8, 0..40u32), 0..4i32).prop_map(|(lasts, exit)| match lasts {
        Some(lasts) => json!({"for": lasts, "exit": exit}),
        None => json!({}),
    });
    let hook = (0..12u32, proptest::bool::weighted(0.2), proptest::bool::weighted(0.1))
        .prop_map(|(takes, fails, stops)| json!({"takes": takes, "fails": fails, "stops": stops}));
    let answers = proptest::collection::vec(prop_oneof![3 => Just("success"), 1 => Just("failure")], 0..4)
        .prop_map(|answers| json!({"answers": answers}));
    (
        proptest::collection::vec(run, 0..3),
        (0..30u32, 0..4i32, proptest::bool::weighted(0.2)),
        (hook.clone(), hook),
        (answers.clone(), answers.clone(), answers),
    )
        .prop_map(|(runs, (after, exit, ignored), (post, mut pre), (startup, live, ready))| {
            pre["hangs"] = json!(ignored && exit == 1);
            json!({"runs": runs, "stop": {"after": after, "exit": exit, "ignored": ignored},
                   "postStart": post, "preStop": pre, "startup": startup, "liveness": live, "readiness": ready})
        })
}

/// What befalls the pod; the third number tells which thing.
fn script() -> impl Strategy<Value = Drawn> {
    (
        proptest::collection::vec(behaviour(), 7),
        proptest::collection::vec((0..200u32, 0..7u32, 0..5u32), 0..5),
        proptest::option::weighted(0.7, (0..200u32, proptest::option::of(0..30i64))),
    )
}

type Drawn = (Vec<Value>, Vec<(u32, u32, u32)>, Option<(u32, Option<i64>)>);

fn script_for(pod: &Pod, (behaviours, befall, delete): &Drawn, engine: bool) -> Script {
    let spec = pod.spec.as_ref().expect("a spec");
    let names: Vec<&str> =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.name.as_str()).collect();
    let containers: BTreeMap<&str, &Value> = names.iter().copied().zip(behaviours).collect();
    let mut events: Vec<Value> = Vec::new();
    for (at, which, what) in befall {
        let name = names[*which as usize % names.len()];
        match what {
            0 => events.push(json!({"at": at, "image": {"container": name, "to": format!("a:{at}")}})),
            1 | 2 => events.push(json!({"at": at, "kill": {"container": name}})),
            3 if engine => events.push(json!({"at": at, "sandbox": "lost"})),
            _ if engine => {
                events.push(json!({"at": at, "engine": "stopped"}));
                events.push(json!({"at": at + 7, "engine": "started"}));
            }
            _ => {}
        }
    }
    if let Some((at, grace)) = delete {
        events.push(json!({"at": at, "delete": {"grace": grace}}));
    }
    let script = json!({"until": 900, "containers": containers, "events": events});
    serde_json::from_value(script).expect("a script")
}

// === what holds ===

/// A few cases in everyday tests; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_pod_that_is_stopped_ends_within_its_grace_and_two_seconds(
        pod in pod(), drawn in script(), settings in settings()
    ) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        for stop in timeline.stops.iter().filter(|stop| !stop.open) {
            // The runtime of `kubelet` timing takes some milliseconds for each call, and what is waited for in fractions of
            // a second is cut to whole ones (R49): up to two seconds.
            let slack = if settings.timing == Timing::Ideal { 0.0 } else { 2.5 };
            let allowed = (stop.grace.max(0) as f64) + 2.0 + slack;
            let took = (stop.to - stop.from).as_secs_f64();
            prop_assert!(took <= allowed + 0.001, "{} took {took}, grace {}", stop.why, stop.grace);
        }
        for stop in timeline.stops.iter().filter(|stop| stop.open) {
            prop_assert!((stop.to - stop.from).as_secs_f64() <= stop.grace.max(0) as f64 + 4.5, "never ends");
        }
    }

    #[test]
    fn a_sidecar_outlives_the_apps(pod in pod(), drawn in script(), settings in settings()) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        for stop in &timeline.stops {
            let over = stop.from + Duration::from_secs(stop.grace.max(0).unsigned_abs());
            for lane in timeline.lanes.iter().filter(|lane| lane.kind == ContainerKind::Sidecar) {
                for point in &lane.points {
                    let in_stop = point.at >= stop.from && point.at < stop.to && point.at + Duration::from_secs(2) < over;
                    if !in_stop || !matches!(point.is(), Point::Signal { .. }) || told_by_hook(lane, point.at) {
                        continue;
                    }
                    let apps = timeline.lanes.iter().filter(|lane| lane.kind == ContainerKind::App);
                    let alive: Vec<_> = apps.filter(|app| runs_at(app, point.at)).map(|app| &app.name).collect();
                    prop_assert!(alive.is_empty(), "{} is told to stop at {:?} while {alive:?} run", lane.name, point.at);
                }
            }
        }
    }

    #[test]
    fn restart_counts_never_fall(pod in pod(), drawn in script(), settings in settings()) {
        // A new sandbox starts inits and sidecars with a count of 0 (R61): no sandbox is lost here.
        let timeline = simulate(&pod, &script_for(&pod, &drawn, false), &settings).expect("simulates");
        for lane in &timeline.lanes {
            let counts: Vec<u32> = lane.statuses.iter().map(|status| status.is().restart_count).collect();
            prop_assert!(counts.is_sorted(), "{}: {counts:?}", lane.name);
        }
    }

    #[test]
    fn whatever_befalls_a_pod_its_lanes_make_sense(pod in pod(), drawn in script(), settings in settings()) {
        let timeline = simulate(&pod, &script_for(&pod, &drawn, true), &settings).expect("simulates");
        prop_assert!(lanes_make_sense(&timeline).is_ok(), "{:?}", lanes_make_sense(&timeline));
        // It can be written and read.
        let text = serde_json::to_string(&timeline).expect("JSON");
        let read: Timeline = serde_json::from_str(&text).expect("a timeline");
        prop_assert_eq!(read.lanes.len(), timeline.lanes.len());
    }

    #[test]
    fn random_events_never_panic_and_actions_never_contradict(
        pod in pod(),
        settings in settings(),
        events in proptest::collection::vec((0..15_000u64, 0..24u8, 0..8u16, 0..6u32, -1..4i32), 0..200),
    ) {
        let mut machine = Machine::new(&pod, &settings).expect("a machine");
        let mut judge = Judge::default();
        let mut now = Duration::ZERO;
        for (millis, what, id, attempt, number) in events {
            now += Duration::from_millis(millis);
            // What was due before comes first: the world answers it, or does not.
            machine.tick(now);
            judge.hear(&mut machine, now, number % 2 == 0)?;
            let event = random_event(what, ContainerId(id), attempt, number);
            machine.on(now, event);
            judge.hear(&mut machine, now, number % 3 == 0)?;
            machine.tick(now);
            judge.hear(&mut machine, now, false)?;
            prop_assert!(machine.next_deadline().is_none_or(|due| due > now), "{:?} at {now:?}", machine.next_deadline());
        }
    }
}

/// Any event at all, about lives that may or may not be there.
fn random_event(what: u8, id: ContainerId, attempt: u32, number: i32) -> Event {
    let instance = Instance { container: id, attempt };
    match what {
        0 => Event::SandboxCreated,
        1 => Event::SandboxFailed,
        2 => Event::SandboxStopped,
        3 => Event::Pulled(id),
        4 => Event::PullFailed(id, PullError::ErrImagePull, Text::from("no")),
        5 => Event::Created(instance),
        6 => Event::Started(instance),
        7 => Event::StartFailed(instance, Text::from("no")),
        8 | 9 => Event::Exited(instance, Exit::code(number)),
        10 => Event::StopFailed(instance),
        11 => Event::Unknown(instance),
        12 => Event::HookDone { instance, hook: HookKind::PostStart, ok: number > 0 },
        13 => Event::HookDone { instance, hook: HookKind::PreStop, ok: number > 0 },
        14 => Event::Probed { instance, probe: ProbeKind::Startup, outcome: ProbeOutcome::Success },
        15 => Event::Probed { instance, probe: ProbeKind::Liveness, outcome: ProbeOutcome::Failure },
        16 => Event::Delete { grace: Some(i64::from(number) * i64::from(i32::MAX)) },
        17 => Event::ImageChanged(id, Text::from(format!("a:{number}"))),
        18 => Event::Evict { message: Text::from("full"), grace: i64::from(number) },
        19 => Event::SandboxLost,
        20 => Event::EngineStopped,
        21 => Event::EngineStarted,
        22 => Event::NodeLost,
        _ => Event::NodeBack,
    }
}

/// Holds the machine's actions against each other.
#[derive(Default)]
struct Judge {
    created: BTreeMap<(u16, u32), bool>,
    forgotten: bool,
    gone: bool,
}

impl Judge {
    /// Hears all actions, and answers them if asked to.
    fn hear(&mut self, machine: &mut Machine, now: Duration, answer: bool) -> Result<(), TestCaseError> {
        for _ in 0..2_000 {
            let Some(action) = machine.next_action() else { return Ok(()) };
            let reply = self.judge(machine, &action)?;
            if let Some(reply) = reply.filter(|_| answer) {
                machine.on(now, reply);
            }
        }
        Err(TestCaseError::fail("the machine wants more and more at one moment"))
    }

    fn judge(&mut self, machine: &Machine, action: &Action) -> Result<Option<Event>, TestCaseError> {
        prop_assert!(
            !self.forgotten || matches!(action, Action::Gone | Action::Report(_)),
            "{action:?} after the end"
        );
        Ok(match action {
            Action::CreateSandbox { .. } => Some(Event::SandboxCreated),
            Action::StopSandbox => Some(Event::SandboxStopped),
            Action::Pull(id, _) => Some(Event::Pulled(*id)),
            Action::Create { instance, .. } => {
                let key = (instance.container.0, instance.attempt);
                prop_assert!(self.created.insert(key, false).is_none(), "{key:?} is created twice");
                prop_assert!(
                    machine.running(instance.container).is_none(),
                    "{key:?} is created beside a running one"
                );
                Some(Event::Created(*instance))
            }
            Action::Start(instance) => {
                let started = self.created.get_mut(&(instance.container.0, instance.attempt));
                prop_assert_eq!(
                    started.as_deref(),
                    Some(&false),
                    "{:?} is started twice, or not created",
                    instance
                );
                started.into_iter().for_each(|started| *started = true);
                Some(Event::Started(*instance))
            }
            Action::Signal(instance, _) | Action::RunHook(instance, _) | Action::Probe(instance, _) => {
                let key = (instance.container.0, instance.attempt);
                prop_assert_eq!(self.created.get(&key), Some(&true), "{:?} for one never started", action);
                match action {
                    Action::Signal(instance, signal) if signal.is_kill() => {
                        Some(Event::Exited(*instance, Exit::killed()))
                    }
                    Action::RunHook(instance, hook) => {
                        Some(Event::HookDone { instance: *instance, hook: *hook, ok: true })
                    }
                    Action::Probe(instance, probe) => {
                        let outcome = ProbeOutcome::Success;
                        Some(Event::Probed { instance: *instance, probe: *probe, outcome })
                    }
                    _ => None,
                }
            }
            Action::Gone => {
                prop_assert!(!self.gone, "gone twice");
                self.gone = true;
                None
            }
            Action::Forget => {
                prop_assert!(!self.forgotten, "forgotten twice");
                self.forgotten = true;
                None
            }
            _ => None,
        })
    }
}

fn runs_at(lane: &Lane, at: Duration) -> bool {
    lane.spans.iter().any(|span| span.what == SpanKind::Running && span.from < at && at < span.to)
}

/// A hook of the container itself that stops it.
fn told_by_hook(lane: &Lane, at: Duration) -> bool {
    lane.spans.iter().any(|span| matches!(span.what, SpanKind::Hook { .. }) && span.to == at)
        || lane
            .points
            .iter()
            .any(|p| p.at == at && matches!(p.is(), Point::Signal { signal, .. } if signal.is_kill()))
}

/// Lives follow one another: each starts after the one before has ended, and ends once.
fn lanes_make_sense(timeline: &Timeline) -> Result<(), String> {
    for lane in &timeline.lanes {
        let mut alive: Option<u32> = None;
        for point in &lane.points {
            match point.is() {
                Point::Start { attempt, .. } => {
                    if alive.is_some() {
                        return Err(format!("{} starts twice at {:?}", lane.name, point.at));
                    }
                    alive = Some(*attempt);
                }
                Point::Exit { attempt, .. } => {
                    if alive != Some(*attempt) {
                        return Err(format!("{} ends without a start at {:?}", lane.name, point.at));
                    }
                    alive = None;
                }
                Point::Signal { attempt, .. } if alive != Some(*attempt) => {
                    return Err(format!(
                        "{} is sent a signal while it does not run at {:?}",
                        lane.name, point.at
                    ));
                }
                _ => {}
            }
        }
        for span in &lane.spans {
            if span.from > span.to && !matches!(span.what, SpanKind::BackOff { .. }) {
                return Err(format!("{} has a span that ends before it begins: {span:?}", lane.name));
            }
        }
    }
    Ok(())
}

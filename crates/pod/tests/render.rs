//! Pictures of timelines: well-formed, self-contained, and with everything that happened.

use std::time::Duration;

use proptest::prelude::*;
use testground_pod::{
    load,
    machine::{Settings, Timing},
    render,
    simulate::{
        self,
        script::Script,
        timeline::{Point, SpanKind, Timeline},
    },
    version::Features,
};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-7d9f}
spec:
  terminationGracePeriodSeconds: 20
  initContainers:
  - {name: setup, image: setup:1}
  - name: envoy
    image: envoy:1
    restartPolicy: Always
    startupProbe: {httpGet: {port: 9901}, periodSeconds: 1, failureThreshold: 30}
    lifecycle: {preStop: {exec: {command: [drain]}}}
  - {name: fluent-bit, image: fluent-bit:1, restartPolicy: Always}
  containers:
  - name: web
    image: web:1
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 2}
    lifecycle: {postStart: {exec: {command: [warm]}}, preStop: {sleep: {seconds: 5}}}
  - {name: worker, image: worker:1}
";

const SCRIPT: &str = "
until: 3m
containers:
  setup: {runs: [{for: 2}]}
  envoy: {startup: {succeedsAfter: 2}, preStop: {takes: 3}, stop: {after: 2, exit: 0}}
  fluent-bit: {stop: {ignored: true}}
  web: {postStart: {takes: 2}, stop: {after: 6, exit: 0}, readiness: {failsAfter: 50}}
  worker: {runs: [{for: 6, exit: 1}, {for: 8, oom: true}, {}], stop: {after: 1}}
events:
- {at: 60, delete: {}}
";

fn timeline(timing: Timing) -> Timeline {
    let features = Features::default();
    let manifest = load::read(POD, &features);
    let pod = manifest.workloads().next().unwrap().pod();
    let script: Script = load::value(SCRIPT).unwrap();
    simulate::simulate(&pod, &script, &Settings { features, timing, ..Settings::default() }).unwrap()
}

/// Checks that a text is well-formed XML, as far as these pictures use it, and returns its elements and its words.
fn parse(xml: &str) -> (Vec<String>, Vec<String>) {
    let (mut open, mut elements, mut words): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "a bare > in {text:?}");
        for entity in text.match_indices('&') {
            let end = text[entity.0..].find(';').unwrap_or_else(|| panic!("a bare & in {text:?}"));
            let name = &text[entity.0 + 1..entity.0 + end];
            assert!(["amp", "lt", "gt", "quot"].contains(&name), "&{name};");
        }
        if !text.trim().is_empty() {
            words.push(text.trim().to_owned());
        }
        let end = rest[start..].find('>').expect("a tag ends") + start;
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed out of order");
        } else {
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            elements.push(tag.to_owned());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, Vec::<String>::new(), "left open");
    (elements, words)
}

#[test]
fn the_picture_is_well_formed_and_needs_nothing_from_outside() {
    for timing in [Timing::Ideal, Timing::Kubelet { seed: 3 }] {
        let svg = render::svg::picture(&timeline(timing));
        let (elements, _) = parse(&svg);
        assert!(elements[0].starts_with("svg xmlns=\"http://www.w3.org/2000/svg\""));
        for outside in ["href", "src=", "<script", "@import", "url(http"] {
            assert!(!svg.contains(outside), "{outside}");
        }
    }
}

#[test]
fn everything_that_happened_is_in_the_picture() {
    let timeline = timeline(Timing::Ideal);
    let svg = render::svg::picture(&timeline);
    let (elements, words) = parse(&svg);
    let drawn = |class: &str| elements.iter().filter(|e| e.contains(&format!("class=\"{class}\""))).count();
    let points = || timeline.lanes.iter().flat_map(|l| &l.points);
    let spans = || timeline.lanes.iter().flat_map(|l| &l.spans);
    let running = spans().filter(|s| s.what == SpanKind::Running).count();
    assert_eq!(drawn("run"), running + 1, "and one in the legend");
    let stopping = spans().filter(|s| matches!(s.what, SpanKind::Stopping { .. })).count();
    assert_eq!(drawn("stopping"), stopping + 1);
    let exits = points().filter(|p| matches!(p.is(), Point::Exit { .. })).count();
    assert_eq!(drawn("exit-ok") + drawn("exit-x"), exits);
    let signals = points().filter(|p| matches!(p.is(), Point::Signal { .. })).count();
    assert_eq!(drawn("signal arrow") + drawn("signal kill arrow"), signals);
    for word in [
        "web-7d9f",
        "setup",
        "envoy",
        "fluent-bit",
        "web",
        "worker",
        "init",
        "sidecar",
        "app",
        "Pending",
        "Running",
        "delete",
        "TERM",
        "KILL",
        "preStop",
        "postStart",
        "startup",
        "readiness",
        "grace is over",
        "back-off 10 s",
        "exit 0, 2 s",
        "exit 1, 12 s",
        "exit 137 OOMKilled, 20 s",
        "22 of 20 s used after: delete; 10 s of it for web",
        "↻2",
        "web 10 s",
    ] {
        assert!(words.iter().any(|w| w == word), "{word:?} is not in {words:#?}");
    }
}

#[test]
fn everything_stays_within_the_picture() {
    let svg = render::svg::draw(&timeline(Timing::Ideal), 900.0);
    let (elements, _) = parse(&svg);
    for element in &elements {
        for part in element.split(' ') {
            let Some((name, value)) = part.split_once("=\"") else { continue };
            if ["x", "x1", "x2", "cx"].contains(&name) {
                let x: f64 = value.trim_end_matches(['"', '/']).parse().unwrap();
                assert!((0.0..=900.0).contains(&x), "{element}");
            }
        }
    }
}

#[test]
fn hostile_names_do_no_harm() {
    let mut timeline = timeline(Timing::Ideal);
    timeline.pod = "</title><script>alert(1)</script>&\u{1}\u{ffff}".to_owned();
    timeline.stops[0].why = "\"><img src=x>".to_owned();
    let svg = render::svg::picture(&timeline);
    parse(&svg);
    let html = render::html::page(&timeline);
    for text in [&svg, &html] {
        assert!(!text.contains("<script") && !text.contains("<img"));
        assert!(!text.contains('\u{1}') && !text.contains('\u{ffff}'));
    }
}

#[test]
fn the_page_holds_the_picture_and_the_tables() {
    let html = render::html::page(&timeline(Timing::Kubelet { seed: 1 }));
    for part in [
        "<!doctype html>",
        "<svg ",
        "kubectl get pods",
        "kubectl get events",
        "<td>Killing</td>",
        "CrashLoopBackOff",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<svg ").count(), 2, "to fit, and in detail");
    assert!(!html.contains("<script") && !html.contains("http://") || html.matches("http://").count() == 2);
}

#[test]
fn the_text_tells_the_story_in_order() {
    let text = render::text::page(&timeline(Timing::Ideal));
    let mut from = 0;
    for line in [
        "web-7d9f  Kubernetes 1.37, ideal timing: Failed after 82 s, because the pod is deleted",
        "4/4    Running                0          Running",
        "CrashLoopBackOff",
        "2s  setup  exited 0 Completed",
        "4s  envoy  startup probe: success",
        "4s  web  postStart hook",
        "12s  worker  exited 1 Error",
        "20s  worker  exited 137 OOMKilled",
        "60s  SCRIPT  delete",
        "65s  web  SIGTERM",
        "71s  fluent-bit  SIGTERM",
        "80s  fluent-bit  SIGKILL",
        "82s  envoy  exited 0 Completed",
    ] {
        let at = text[from..].find(line);
        from += at.unwrap_or_else(|| panic!("{line:?} does not follow in\n{text}"));
    }
}

#[test]
fn an_empty_timeline_is_a_picture_too() {
    let mut timeline = timeline(Timing::Ideal);
    timeline.end = Duration::ZERO;
    timeline.lanes.clear();
    timeline.phases.clear();
    timeline.kubectl.clear();
    timeline.stops.clear();
    timeline.script.clear();
    parse(&render::svg::picture(&timeline));
    render::text::page(&timeline);
    render::html::page(&timeline);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a script does, its pictures are well-formed.
    #[test]
    fn any_story_can_be_drawn(
        lives in proptest::collection::vec((0_u32..200, 0_i32..3), 0..4),
        stop in 0_u32..40,
        delete in 0_u32..400,
        grace in 0_i64..60,
        seed in any::<u64>(),
        width in 100.0_f64..5000.0,
    ) {
        let runs: Vec<_> = lives.iter().map(|(last, exit)| format!("{{for: {last}, exit: {exit}}}")).collect();
        let script = format!(
            "until: 600\ncontainers:\n  worker: {{runs: [{}], stop: {{after: {stop}}}}}\n  setup: {{runs: [{{for: 1}}]}}\nevents:\n- {{at: {delete}, delete: {{grace: {grace}}}}}\n",
            runs.join(", ")
        );
        let script: Script = load::value(&script).unwrap();
        let features = Features::default();
        let pod = load::read(POD, &features).workloads().next().unwrap().pod();
        let settings = Settings { features, timing: Timing::Kubelet { seed }, ..Settings::default() };
        let timeline = simulate::simulate(&pod, &script, &settings).unwrap();
        parse(&render::svg::draw(&timeline, width));
        render::text::page(&timeline);
    }
}

//! Constructed streams of events, and what each reader makes of them. The texts are in `golden/`; run with
//! `TESTGROUND_UPDATE_GOLDEN=1` to write them anew, and read the difference.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use testground_model::event::{
    BarrierWait, Event, EventKind, InstanceWait, Late, Lateness, NetworkRequests, Proof, Replayed, Report,
    Stream,
};
use testground_model::measure::line::{Precision, parse};
use testground_model::measure::{Measured, Source, Summarizer};
use testground_model::name::{InstanceName, RunId};
use testground_model::outcome::{EmulatorLate, GroupTally, InstanceEnd, RunOutcome};
use testground_model::shape::{Chance, Jitter, LinkShape, Loss};

use super::{EventLog, Junit, Look, Terminal};

/// What was written, for the test to read while the reader owns its end.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Story {
    at: u64,
    events: Vec<Event>,
}

impl Story {
    fn new() -> Story {
        Story { at: 1_795_244_400_000_000_000, events: Vec::new() }
    }

    fn then(&mut self, after_ms: u64, kind: EventKind) -> &mut Story {
        self.at += after_ms * 1_000_000;
        let run = RunId::new(0x6b01_2345, [1, 2, 3, 4, 5, 6, 7, 8]);
        self.events.push(Event { ts: self.at, run, kind });
        self
    }

    fn beginning(&mut self, instances: u32) -> &mut Story {
        let queued = EventKind::RunQueued {
            plan: "quickstart".into(),
            case: "measure".into(),
            instances,
            outputs: "/home/u/testground/data/outputs/local_exec/quickstart/dc0i8p81".into(),
            seed: 42,
            command: ["run", "quick start", "--seed", "7"].map(str::to_owned).to_vec(),
        };
        let groups = vec!["clients".to_owned(), "servers".to_owned()];
        self.then(0, queued)
            .then(1, EventKind::BuildStarted { groups: groups.clone(), builder: "exec:go".into() })
            .then(
                9,
                EventKind::BuildFinished { groups, artifact: "/a/plan".into(), cached: true, seconds: 0.009 },
            )
            .then(30, EventKind::LabStarted { pid: 4000, ports: "tap".into() })
            .then(1, EventKind::NetworkProgress { attached: 1, total: instances })
            .then(1, EventKind::NetworkProgress { attached: instances, total: instances })
    }

    fn finish(&mut self, outcome: RunOutcome, groups: &[(&str, u32, u32)]) -> &mut Story {
        let groups =
            groups.iter().map(|&(id, ok, total)| (id.to_owned(), GroupTally { ok, total })).collect();
        self.then(1, EventKind::RunFinished { outcome, groups, seconds: 1.017, emulator_late: None })
    }

    /// The same events, but that the emulator was late.
    fn on_a_late_emulator(mut self) -> Story {
        for event in &mut self.events {
            if let EventKind::RunFinished { emulator_late, .. } = &mut event.kind {
                let late = Some(Late { p99_us: 4210.0, ..Late::default() });
                let record = Lateness { late, packets: 800, ..Lateness::default() };
                *emulator_late = EmulatorLate::find(&record, Duration::from_millis(1));
            }
        }
        self
    }

    /// The terminal's page, without colours at 80 columns.
    fn shown(&self) -> String {
        let page = Page::default();
        let look = Look { progress: false, colour: false, width: 80, verbose: false };
        let mut terminal = Terminal::new(Box::new(page.clone()), look);
        self.events.iter().for_each(|e| terminal.on_event(e));
        page.text()
    }
}

fn proof(label: &str, asked: LinkShape) -> EventKind {
    EventKind::ShapeProved(Proof {
        label: label.into(),
        delay_p50: Some(asked.latency + Duration::from_micros(34)),
        delay_p99: Some(asked.latency + Duration::from_micros(310)),
        round_trip_p50: Some(asked.latency * 2 + Duration::from_micros(70)),
        back: Some(asked.latency),
        rate: asked.bandwidth.map(|b| b as f64 * 0.9966),
        loss_percent: 0.8123,
        probes: 400,
        replayed: None,
        off: Vec::new(),
        asked,
    })
}

/// A link whose bandwidth follows a trace from the tenth second on.
fn traced() -> EventKind {
    let late = LinkShape { latency: Duration::from_millis(40), ..LinkShape::default() };
    let EventKind::ShapeProved(mut proof) = proof("at 10s clients -> servers", late) else { unreachable!() };
    let (from, length) = (Duration::from_millis(2300), Duration::from_millis(981));
    proof.replayed = Some(Replayed { from, length, rate: 5_870_000.0 });
    proof.rate = Some(5_868_000.0);
    EventKind::ShapeProved(proof)
}

fn ended(group: &str, index: u32, end: InstanceEnd, last_lines: &[&str]) -> EventKind {
    let last_lines = last_lines.iter().map(|l| (*l).to_owned()).collect();
    EventKind::InstanceEnded { instance: InstanceName::new(group, index), end, seconds: 0.873, last_lines }
}

fn said(group: &str, index: u32, report: Report) -> EventKind {
    EventKind::Reported { instance: InstanceName::new(group, index), report }
}

fn printed(group: &str, index: u32, line: &str) -> EventKind {
    let instance = InstanceName::new(group, index);
    EventKind::Output { instance, stream: Stream::Stdout, line: line.into() }
}

/// A run that goes well, with an instance that speaks the protocol and one that doesn't.
fn success() -> Story {
    let mut story = Story::new();
    let slow = LinkShape {
        latency: Duration::from_millis(25),
        bandwidth: Some(10_000_000),
        loss: Loss::Random(Chance::percent(1.0)),
        ..LinkShape::default()
    };
    let odd = LinkShape {
        latency: Duration::from_micros(2500),
        jitter: Jitter { spread: Duration::from_millis(1), ..Jitter::default() },
        duplicate: Chance::percent(0.5),
        loss: Loss::GilbertElliott { p: 1.0, r: 25.0, bad: 100.0, good: 0.0 },
        ..LinkShape::default()
    };
    story
        .beginning(2)
        .then(50, proof("clients <-> servers", slow))
        .then(50, proof("clients -> clients", odd))
        .then(50, traced())
        .then(1, EventKind::InstancesReleased)
        .then(1, EventKind::InstanceStarted { instance: InstanceName::new("clients", 0), pid: 4711 })
        .then(1, EventKind::InstanceStarted { instance: InstanceName::new("servers", 0), pid: 4712 })
        .then(1, said("clients", 0, Report::Start))
        .then(2, said("clients", 0, Report::Message { message: "round trip 50.1 ms\x1b[2J".into() }))
        .then(2, printed("servers", 0, "listening"))
        .then(700, said("clients", 0, Report::Success))
        .then(1, ended("clients", 0, InstanceEnd::Succeeded, &[]))
        .then(1, ended("servers", 0, InstanceEnd::Succeeded, &[]))
        .then(
            1,
            EventKind::EmulatorReport(Lateness {
                packets: 12_345,
                late: Some(Late { p50_us: 8.4, p99_us: 41.0, max_us: 312.0 }),
                drops: BTreeMap::from([("loss".to_owned(), 12), ("queue".to_owned(), 0)]),
                shortfall: 0,
            }),
        )
        .then(1, EventKind::NetworkRequests(NetworkRequests { made: 7, shaped: 5, proved: 2 }))
        .then(1, EventKind::Measured(measured()))
        .finish(RunOutcome::Success, &[("clients", 1, 1), ("servers", 1, 1)]);
    story
}

/// What a program with an SDK measures, in two groups, and what a script sends by itself.
fn measured() -> Measured {
    let source = Source { plan: "quickstart".into(), case: "measure".into(), run: "r".into() };
    let mut sum = Summarizer::new(&source);
    let mut add = |text: String| sum.add(&parse(text.as_bytes(), Precision::Seconds).unwrap(), 0);
    for i in 0..600 {
        let group = if i % 3 == 0 { "servers" } else { "clients" };
        let value = 40.0 + f64::from(i % 50) / 10.0 + f64::from(i) / 100.0;
        let name = "results.quickstart-measure.round_trip_ms.point";
        add(format!("{name},group_id={group},protocol=tcp value={value} {i}"));
        add(format!("{name},group_id=clients,protocol=udp value={} {i}", 40.0));
    }
    add("memory,group_id=clients used=123456789i,free=0.000012 5".to_owned());
    add("diagnostics.quickstart-measure.heap.gauge,group_id=clients value=1 5".to_owned());
    let measured = sum.finish();
    Measured {
        refused: 2,
        first_refused: Some("clients[0]: unable to parse 'x': missing fields".into()),
        ..measured
    }
}

/// A run in which one instance fails, and everybody else waits for it.
fn failure() -> Story {
    let mut story = Story::new();
    let waiting = |count| BarrierWait {
        state: "ready".into(),
        count,
        target: 12,
        waiting: (0..11).map(|i| format!("clients[{i}]")).collect(),
        missing: vec!["servers[0]".into()],
    };
    let lines = [
        "first\tline",
        r#"{"ts":1,"event":{"start_event":{"runenv":{}}}}"#,
        r#"{"ts":2,"event":{"message_event":{"message":"meeting the others"}}}"#,
        "panic: no route to host",
    ];
    let cause = "servers[0] exited with code 3: panic: no route to host while the others were waiting for it at \
                 barrier ready";
    story
        .beginning(12)
        .then(1, EventKind::InstancesReleased)
        .then(1, EventKind::Warning { message: "the clock of this machine went back by 2 s".into() })
        .then(100, EventKind::Stalled { seconds: 5.0, barriers: vec![waiting(11)] })
        .then(1, ended("servers", 0, InstanceEnd::ExitCode { code: 3 }, &lines))
        .then(1, said("clients", 3, Report::Failure { error: "peer is gone".into() }))
        .then(1, ended("clients", 3, InstanceEnd::ReportedFailure { error: "peer is gone".into() }, &[]))
        .then(1, ended("clients", 4, InstanceEnd::Signal { signal: 11, core: true }, &[]))
        .then(1, ended("clients", 5, InstanceEnd::Stopped, &[]))
        .then(1, EventKind::Waits { waits: Vec::new() })
        .finish(RunOutcome::Failure { cause: cause.into() }, &[("clients", 0, 11), ("servers", 0, 1)]);
    story
}

/// A run whose time is over while some wait and some work.
fn timeout() -> Story {
    let mut story = Story::new();
    let barrier = BarrierWait {
        state: "ready".into(),
        count: 2,
        target: 5,
        waiting: vec!["clients[0]".into(), "clients[1]".into()],
        missing: vec!["clients[2]".into()],
    };
    let wait = |index, barriers: &[BarrierWait], word: Option<&str>| InstanceWait {
        instance: InstanceName::new("clients", index),
        barriers: barriers.to_vec(),
        last_word: word.map(str::to_owned),
    };
    let waits = vec![
        wait(0, std::slice::from_ref(&barrier), Some("hello")),
        wait(1, &[barrier], None),
        wait(2, &[], Some("computing")),
        wait(3, &[], None),
    ];
    let cause = "the run took longer than 10 s";
    story
        .beginning(4)
        .then(1, EventKind::InstancesReleased)
        .then(9000, EventKind::Waits { waits })
        .finish(RunOutcome::TimedOut { cause: cause.into() }, &[("clients", 0, 4)]);
    story
}

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/report/golden").join(name);
    if std::env::var_os("TESTGROUND_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} (TESTGROUND_UPDATE_GOLDEN=1 writes it anew)");
    let too_wide = text.lines().find(|l| l.chars().count() > 80 && !l.contains('\t') && !l.contains("<< "));
    assert!(too_wide.is_none() || name.ends_with("xml"), "{too_wide:?}");
}

#[test]
fn a_good_run_reads_well() {
    golden("success.txt", &success().shown());
}

#[test]
fn a_failed_run_shows_its_cause() {
    golden("failure.txt", &failure().shown());
}

#[test]
fn a_run_out_of_time_says_what_everybody_waits_for() {
    golden("timeout.txt", &timeout().shown());
}

#[test]
fn a_failed_build_shows_its_tool() {
    let mut story = Story::new();
    let cause =
        "failed to build clients with exec:go: `go build` exited with code 1\n  | ./main.go:3: undefined: x";
    story.beginning(2).finish(RunOutcome::BuildFailed { cause: cause.into() }, &[("clients", 0, 2)]);
    golden("build.txt", &story.shown());
}

#[test]
fn scripts_find_their_words() {
    let text = success().shown();
    let line =
        |words: &str| text.lines().find(|l| l.contains(words)).unwrap_or_else(|| panic!("{words}: {text}"));
    let id = RunId::new(0x6b01_2345, [1, 2, 3, 4, 5, 6, 7, 8]);
    // awk '{ print $10 }', awk '{ print $9 }' and cut -d '"' -f 8 of the original's tests.
    assert_eq!(line("run is queued with ID").split_whitespace().nth(9), Some(id.as_str()));
    assert_eq!(line("finished run with ID").split_whitespace().nth(8), Some(id.as_str()));
    let artifact = line("generated build artifact");
    assert_eq!((artifact.split('"').nth(3), artifact.split('"').nth(7)), (Some("clients"), Some("/a/plan")));
    assert!(line("run finished").ends_with("run finished with outcome = success (clients:1/1, servers:1/1)"));
    assert!(failure().shown().ends_with(&format!("run \"{id}\" failed\n")));
    let mut interrupted = Story::new();
    interrupted.beginning(1).finish(RunOutcome::Interrupted, &[("clients", 0, 1)]);
    let text = interrupted.shown();
    assert!(text.contains("run finished with outcome = canceled"), "{text}");
    assert!(text.contains("\n  interrupted after "), "{text}");
    assert!(text.ends_with(&format!("run \"{id}\" was interrupted\n")), "{text}");
}

#[test]
fn a_late_emulator_is_a_part_of_the_outcome_wherever_it_is_told() {
    let late = "emulator late: 1 packet in 100 left 4.2 ms or more after its time (1.0 ms is tolerated)";
    let story = success().on_a_late_emulator();
    let text = story.shown();
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(joined.contains(&format!("success (clients:1/1, servers:1/1), {late}")), "{text}");
    assert!(joined.ends_with(&format!("success: 2 instances in 1.02 s ({late})")), "{text}");
    let xml = junit(&story);
    assert!(
        xml.contains("skipped=\"1\"") && xml.contains(&format!("<skipped message=\"{late}\"/>")),
        "{xml}"
    );
    assert!(xml.contains("errors=\"0\""), "{xml}");

    let story = failure().on_a_late_emulator();
    let joined = story.shown().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(joined.matches(late).count(), 2, "in the log and at the end");

    // As its cause it is told once.
    let mut story = Story::new();
    let outcome = RunOutcome::Failure { cause: late.to_owned() };
    story.beginning(1).finish(outcome, &[("clients", 1, 1)]);
    let story = story.on_a_late_emulator();
    assert_eq!(junit(&story).matches(late).count(), 1);
}

#[test]
fn a_flood_is_collapsed_and_failures_still_show() {
    let mut story = Story::new();
    story.beginning(2);
    for i in 0..100_000 {
        story.then(u64::from(i % 100 == 0), printed("clients", 0, "x"));
    }
    story.then(1, ended("clients", 0, InstanceEnd::ExitCode { code: 9 }, &[]));
    story.finish(RunOutcome::Failure { cause: "clients[0] exited with code 9".into() }, &[("clients", 0, 1)]);
    let text = story.shown();
    assert!(text.lines().count() < 400, "{}", text.lines().count());
    let note = "… 99,800 more lines of clients[0]: see /home/u/testground/data/outputs/local_exec/quickstart/dc0i8p81/clients/0/stdout.log";
    assert!(
        text.contains(note),
        "{}",
        text.lines().filter(|l| l.contains('…')).collect::<Vec<_>>().join("\n")
    );
    assert!(text.contains("ERROR << clients[000] (000000) >> exited with code 9"), "{text}");
}

#[test]
fn events_are_lines_that_read_back_and_are_bounded() {
    let story = failure();
    let page = Page::default();
    let mut log = EventLog::new(Box::new(page.clone()), 1 << 20);
    story.events.iter().for_each(|e| log.on_event(e));
    log.finish().unwrap();
    let read: Vec<Event> = page.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(read, story.events);

    let mut story = Story::new();
    story.beginning(1);
    for _ in 0..100 {
        story.then(1, printed("clients", 0, "123456789"));
    }
    story.finish(RunOutcome::Success, &[("clients", 1, 1)]);
    let page = Page::default();
    let mut log = EventLog::new(Box::new(page.clone()), 100);
    story.events.iter().for_each(|e| log.on_event(e));
    log.finish().unwrap();
    let text = page.text();
    assert_eq!(text.matches("123456789").count(), 10);
    assert!(text.contains("90 lines of clients[0] are left out"), "{text}");
}

#[test]
fn a_log_that_cannot_be_written_says_so_at_its_end() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut log = EventLog::new(Box::new(full), 1 << 20);
    success().events.iter().for_each(|e| log.on_event(e));
    assert_eq!(log.finish().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn junit_has_a_suite_for_each_group_and_escapes_what_xml_cannot_say() {
    let mut story = failure();
    let last = story.events.pop().unwrap();
    let odd = InstanceEnd::ReportedFailure { error: "a < b & \"c\" \x00\u{ffff}".into() };
    story.then(1, ended("clients", 6, odd, &["]]> </system-err>", "bell \x07"]));
    story.events.push(last);
    golden("junit.xml", &junit(&story));
}

fn junit(story: &Story) -> String {
    let t = tempfile::tempdir().unwrap();
    let file = t.path().join("junit.xml");
    let mut junit = Junit::new(&file);
    story.events.iter().for_each(|e| junit.on_event(e));
    junit.write().unwrap();
    std::fs::read_to_string(&file).unwrap()
}

fn html(story: &Story) -> String {
    let mut page = super::page::Page::default();
    story.events.iter().for_each(|e| page.on_event(e));
    page.finish(None)
}

#[test]
fn a_page_has_the_terminals_numbers() {
    let story = success();
    let (page, text) = (html(&story), story.shown());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let row = words(text.lines().skip_while(|l| !l.contains("round_trip_ms protocol=tcp")).nth(1).unwrap());
    for figure in &row[1..5] {
        assert!(page.contains(&format!("<td class=\"n\">{figure}</td>")), "{figure}");
    }
    for line in text.lines().filter(|l| l.starts_with("    measured")) {
        let rate = line.split_whitespace().rev().nth(2).unwrap();
        assert!(page.contains(rate), "{rate}");
    }
    assert!(page.contains("released late by 8 us (p50), 41 us (p99), 312 us (worst)"));
}

#[test]
fn lateness_that_nobody_knows_is_told_as_unknown_and_never_as_nothing() {
    let mut story = success();
    for event in &mut story.events {
        if let EventKind::EmulatorReport(record) = &mut event.kind {
            record.late = None;
            let line = serde_json::to_string(&event).unwrap();
            assert!(line.contains("\"packets\":12345") && !line.contains("late_"), "{line}");
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), *event);
        }
    }
    let unknown = "12,345 packets; how late they were released is unknown on this plane; dropped: 12 loss";
    let text = story.shown().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(unknown) && !text.contains("released late by"), "{text}");
    let page = html(&story);
    assert!(page.contains(unknown) && page.contains("keeps no record of how long"), "{page}");
    assert!(!page.contains("Lateness is how long"), "{page}");
}

#[test]
fn what_a_plan_says_is_never_markup() {
    let evil = "</script><img src=x onerror=alert(1)>\u{202e}<!--";
    let mut story = Story::new();
    story
        .beginning(1)
        .then(1, EventKind::InstanceStarted { instance: InstanceName::new(evil, 0), pid: 1 })
        .then(1, said(evil, 0, Report::Message { message: evil.into() }))
        .then(1, EventKind::Warning { message: evil.into() })
        .then(1, EventKind::NetworkChanged { change: evil.into(), at: 1.0 })
        .then(1, ended(evil, 0, InstanceEnd::ReportedFailure { error: evil.into() }, &[evil]))
        .finish(RunOutcome::Failure { cause: evil.into() }, &[(evil, 0, 1)]);
    let page = html(&story);
    // The page's own two scripts, and nothing that a plan wrote.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    for never in ["<img", "<!--", "\u{202e}"] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;"));
}

//! Measurements: a million points into the record, the record's summary, and the report of a thousand instances.
//!
//! Prints one line of JSON a figure. The peer of the first is a bare copy of the same bytes into a file.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use testground_engine::measure::intake::{Batch, Owner, Sink};
use testground_engine::measure::{self};
use testground_engine::report::Page;
use testground_model::event::{Event, EventKind};
use testground_model::measure::Source;
use testground_model::measure::line::Precision;
use testground_model::name::{InstanceName, RunId};
use testground_model::outcome::{GroupTally, InstanceEnd, RunOutcome};

const POINTS: u64 = 1_000_000;
const INSTANCES: u32 = 1000;
const BATCH: usize = 5000;

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = Source { plan: "p".into(), case: "c".into(), run: RunId::new(1, [1; 8]).to_string() };
    let batches = batches();
    let bytes: usize = batches.iter().map(|(_, b)| b.len()).sum();

    let began = Instant::now();
    let mut copy = fs::File::create(dir.path().join("copy")).expect("a file");
    batches.iter().for_each(|(_, b)| copy.write_all(b.as_bytes()).expect("space"));
    figure("copy_points_per_second", POINTS as f64 / began.elapsed().as_secs_f64());

    let before = resident();
    let began = Instant::now();
    let mut sink = Sink::new(dir.path().to_owned());
    for (instance, text) in &batches {
        let mut batch = Batch::new(Precision::Nanoseconds, false, Owner::of(Some(instance)));
        for piece in text.as_bytes().chunks(64 << 10) {
            batch.push(piece).expect("line protocol");
            sink.take(&mut batch).expect("space");
        }
        batch.finish().expect("an end");
        sink.take(&mut batch).expect("space");
        assert_eq!(batch.refusal(), None);
    }
    figure("record_points_per_second", POINTS as f64 / began.elapsed().as_secs_f64());
    figure("record_memory_mib", (resident() - before).max(0.0));
    figure("record_bytes_per_point", bytes as f64 / POINTS as f64);
    drop(batches);

    let before = resident();
    let began = Instant::now();
    let measured = measure::summarise(dir.path(), &source).expect("a record").expect("points");
    figure("summary_points_per_second", POINTS as f64 / began.elapsed().as_secs_f64());
    figure("summary_memory_mib", (resident() - before).max(0.0));
    assert_eq!(measured.points, POINTS);

    events(dir.path(), &measure::for_event(&measured));
    let began = Instant::now();
    let page = Page::read(dir.path()).expect("a record");
    let page = page.finish(Some(measure::summary(dir.path(), &source).expect("a summary")));
    figure("report_seconds", began.elapsed().as_secs_f64());
    figure("report_mb", page.len() as f64 / 1e6);
}

/// Batches as an SDK or a script sends them: three measurements with tags.
fn batches() -> Vec<(InstanceName, String)> {
    let mut batches = Vec::new();
    let mut n = 0u64;
    while n < POINTS {
        let mut text = String::with_capacity(BATCH * 90);
        let instance = InstanceName::new("nodes", (batches.len() as u32) % INSTANCES);
        for _ in 0..BATCH {
            let (kind, time) = (n % 3, 1_700_000_000_000_000_000 + n * 1_000);
            let value = 20.0 + (n % 997) as f64 / 100.0;
            let _ = writeln!(
                text,
                "results.p-c.latency.point,group_id=nodes,run=x,protocol=p{kind} value={value} {time}"
            );
            n += 1;
        }
        batches.push((instance, text));
    }
    batches
}

/// A record of a run with a thousand instances that report stages, of which a few fail.
fn events(dir: &Path, measured: &testground_model::measure::Measured) {
    use testground_model::event::{Report, Stream};
    let mut text = String::new();
    let mut ts = 1_700_000_000_000_000_000;
    let mut tell = |kind: EventKind| {
        ts += 100_000;
        let event = Event { ts, run: RunId::new(1, [1; 8]), kind };
        let _ = writeln!(text, "{}", serde_json::to_string(&event).expect("JSON"));
    };
    tell(EventKind::RunQueued {
        plan: "p".into(),
        case: "c".into(),
        instances: INSTANCES,
        outputs: "o".into(),
        seed: 1,
        command: Vec::new(),
    });
    let names = || (0..INSTANCES).map(|i| InstanceName::new("nodes", i));
    for instance in names() {
        tell(EventKind::InstanceStarted { instance, pid: 1 });
    }
    for round in 0..20 {
        for instance in names() {
            let line = format!("{instance} does what it has to do in round {round}, as every other one");
            tell(EventKind::Output { instance: instance.clone(), stream: Stream::Stdout, line });
            tell(EventKind::Reported {
                instance,
                report: Report::Message { message: format!("round {round}") },
            });
        }
    }
    for instance in names() {
        let failed = instance.index % 100 == 3;
        let end = if failed { InstanceEnd::ExitCode { code: 3 } } else { InstanceEnd::Succeeded };
        tell(EventKind::InstanceEnded {
            instance,
            end,
            seconds: 1.0,
            last_lines: vec!["a last line".into(); 20],
        });
    }
    tell(EventKind::Measured(measured.clone()));
    let groups = vec![("nodes".to_owned(), GroupTally { ok: 990, total: INSTANCES })];
    tell(EventKind::RunFinished {
        outcome: RunOutcome::Failure { cause: "nodes[3]".into() },
        groups,
        seconds: 9.0,
        emulator_late: None,
    });
    fs::write(dir.join("run.jsonl"), text).expect("space");
}

/// Most memory that this process ever had, MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn figure(name: &str, value: f64) {
    println!("{{\"bench\":\"measure\",\"figure\":\"{name}\",\"value\":{value:.3}}}");
}

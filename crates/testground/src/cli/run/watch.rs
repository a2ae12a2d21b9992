//! Carrying runs out and showing them: one after the other, with everything that reads their events.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use testground_engine::home::Home;
use testground_engine::lab::protocol::Capture;
use testground_engine::report::{EventLog, Junit, Look, Terminal};
use testground_engine::run::{Request, execute};
use testground_model::event::Event;
use testground_model::name::{InstanceName, RunId};
use testground_model::outcome::{ExitCode, RunOutcome};
use testground_model::run::Run;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Common;
use super::prepare::Prepared;

/// Runs everything; the exit code of the first run that failed.
pub(super) fn all(prepared: Prepared, common: &Common, verbose: bool) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let capture = captures(&common.capture)?;
    let mut results = ResultFile::create(common.result_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The lab's life is tied to the thread that starts it: this one.
    runtime.block_on(async {
        let mut interrupts = interrupts()?;
        let mut code = ExitCode::Success;
        let count = prepared.runs.len();
        for run in prepared.runs {
            let id = new_id();
            let mut readers = Readers::open(common, &run, &home, &id, verbose)?;
            let name = run.id.clone();
            let request = Request {
                id: id.clone(),
                run,
                plan_dir: prepared.plan_dir.clone(),
                path: std::env::var_os("PATH").unwrap_or_default(),
                concurrent_builds: prepared.concurrent_builds,
                hold: common.hold,
                capture: capture.clone(),
                record: common.record,
            };
            let (runner, plan) = (request.run.runner.clone(), request.run.plan.clone());
            let outcome =
                execute(request, &home, &mut interrupts, &mut |event| readers.on_event(event)).await;
            readers.finish()?;
            results.add(&name, &id, &outcome)?;
            if code == ExitCode::Success {
                code = outcome.exit_code();
            }
            if common.collect || common.collect_file.is_some() {
                let archive = archive_name(common.collect_file.as_deref(), &name, &id, count);
                let outputs = home.outputs_dir(&runner, &plan, &id);
                testground_engine::collect::collect(&outputs, &id, &archive)
                    .with_context(|| format!("failed to collect outputs into {}", archive.display()))?;
                println!("created file: {}", archive.display());
            }
            if outcome == RunOutcome::Interrupted {
                break;
            }
        }
        Ok(code)
    })
}

/// Everybody who reads the events of a run.
struct Readers {
    terminal: Terminal,
    record: EventLog,
    events: Option<EventLog>,
    junit: Option<Junit>,
}

// === impl Readers ===

impl Readers {
    fn open(common: &Common, run: &Run, home: &Home, id: &RunId, verbose: bool) -> anyhow::Result<Readers> {
        let limit = run.settings.max_output;
        let outputs = home.outputs_dir(&run.runner, &run.plan, id);
        std::fs::create_dir_all(&outputs).with_context(|| format!("failed to make {}", outputs.display()))?;
        let record = EventLog::create(&outputs.join("run.jsonl"), limit)
            .with_context(|| format!("failed to make the run's record in {}", outputs.display()))?;
        let events = match &common.events {
            Some(path) => {
                let log = EventLog::create(path, limit);
                Some(log.with_context(|| format!("failed to write events to {}", path.display()))?)
            }
            None => None,
        };
        // Events on standard output leave no room for a picture beside them.
        let picture: Box<dyn std::io::Write + Send> = if common.events.as_deref() == Some(Path::new("-")) {
            Box::new(std::io::stderr())
        } else {
            Box::new(std::io::stdout())
        };
        let look = Look::detect(|name| std::env::var_os(name), verbose);
        let junit = common.junit.as_deref().map(Junit::new);
        Ok(Readers { terminal: Terminal::new(picture, look), record, events, junit })
    }

    fn on_event(&mut self, event: &Event) {
        self.record.on_event(event);
        if let Some(events) = &mut self.events {
            events.on_event(event);
        }
        if let Some(junit) = &mut self.junit {
            junit.on_event(event);
        }
        self.terminal.on_event(event);
    }

    fn finish(self) -> anyhow::Result<()> {
        if let Err(e) = self.record.finish() {
            eprintln!("warning: the run's record is not whole: {e}");
        }
        if let Some(events) = self.events {
            events.finish().context("failed to write events")?;
        }
        if let Some(junit) = self.junit {
            junit.finish().context("failed to write the JUnit file")?;
        }
        Ok(())
    }
}

/// One value for each SIGINT, SIGTERM or SIGHUP.
fn interrupts() -> anyhow::Result<mpsc::UnboundedReceiver<()>> {
    let (told, interrupts) = mpsc::unbounded_channel();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("failed to listen to signals")?;
        let told = told.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && told.send(()).is_ok() {} });
    }
    Ok(interrupts)
}

fn new_id() -> RunId {
    let mut chance = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty());
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    RunId::new(seconds as u32, chance)
}

fn captures(typed: &[String]) -> anyhow::Result<Capture> {
    if typed.iter().any(|t| t == "all") {
        return Ok(Capture::All);
    }
    let parse = |t: &String| {
        InstanceName::parse(t).with_context(|| format!("--capture {t}: it is written GROUP[INDEX], or all"))
    };
    let names: Vec<InstanceName> = typed.iter().map(parse).collect::<anyhow::Result<_>>()?;
    Ok(if names.is_empty() { Capture::Nobody } else { Capture::Some(names) })
}

/// As the original names it: `<file or id>.tgz`, and for several runs `<file or "multiple">-<run>-<id>.tgz`.
fn archive_name(typed: Option<&Path>, run: &str, id: &RunId, runs: usize) -> PathBuf {
    let stem = match (typed, runs) {
        (Some(file), 1) => file.display().to_string(),
        (None, 1) => id.to_string(),
        (typed, _) => {
            let stem = typed.map_or_else(|| "multiple".to_owned(), |f| f.display().to_string());
            format!("{stem}-{run}-{id}")
        }
    };
    PathBuf::from(format!("{}.tgz", stem.strip_suffix(".tgz").unwrap_or(&stem)))
}

/// A line of CSV for each run.
struct ResultFile(Option<std::fs::File>);

// === impl ResultFile ===

impl ResultFile {
    fn create(path: Option<&Path>) -> anyhow::Result<ResultFile> {
        let Some(path) = path else { return Ok(ResultFile(None)) };
        let mut file =
            std::fs::File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
        std::io::Write::write_all(&mut file, b"run_id,task_id,outcome,error\n")?;
        Ok(ResultFile(Some(file)))
    }

    fn add(&mut self, run: &str, id: &RunId, outcome: &RunOutcome) -> anyhow::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let error = outcome.cause().unwrap_or_default();
        let line = format!("{},{id},{},{}\n", quoted(run), outcome.word(), quoted(error));
        std::io::Write::write_all(file, line.as_bytes()).context("failed to write the result file")
    }
}

/// A field of CSV (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

//! Carrying runs out and showing them: one after the other, with everything that reads their events.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use testground_engine::collect::{CollectError, collect};
use testground_engine::home::Home;
use testground_engine::report::{EventLog, Junit, Look, Terminal};
use testground_engine::run::{Request, execute};
use testground_engine::runs::Keeper;
use testground_model::event::{Event, EventKind};
use testground_model::measure::Source;
use testground_model::name::RunId;
use testground_model::outcome::{EmulatorLate, ExitCode, RunOutcome};
use testground_model::run::Run;

use super::Common;
use super::extra::{Extra, archive_name};
use super::prepare::Prepared;
use super::rounds::Rounds;
use super::signals::Signals;

/// Runs everything, round by round; the exit code of the first run that failed.
pub(super) fn all(prepared: &Prepared, common: &Common, verbose: bool) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    let command: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut rounds = Rounds::new(common.repeat, common.until_fail);
    let several = prepared.runs.len() > 1 || rounds.are_several();
    let extra = Extra::of(common, several)?;
    let mut files = Files::create(common, &prepared.runs)?;
    let mut picture = Picture { to_stderr: common.events.as_deref() == Some(Path::new("-")) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // The lab's life is tied to the thread that starts it: this one.
    let code = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut code = ExitCode::Success;
        while let Some(title) = rounds.next() {
            picture.say(&title);
            for run in &prepared.runs {
                let mut run = run.clone();
                run.settings.seed = rounds.seed(run.settings.seed, prepared.drawn_seed);
                let (name, seed) = (run.id.clone(), run.settings.seed);
                if !signals.run_may_begin() {
                    return Ok(ExitCode::Interrupted);
                }
                let id = new_id();
                let outputs = home.outputs_dir(&run.runner, &run.plan, &id);
                let source = Source { plan: run.plan.clone(), case: run.case.clone(), run: id.to_string() };
                let mut readers = Readers::open(&home, &run, &id, &picture, verbose)?;
                files.begin(&rounds.name(&name));
                let capture = prepared.capture.in_run(&run);
                let request = Request {
                    id: id.clone(),
                    run,
                    command: command.clone(),
                    plan_dir: prepared.plan_dir.clone(),
                    path: std::env::var_os("PATH").unwrap_or_default(),
                    concurrent_builds: prepared.concurrent_builds,
                    hold: common.hold,
                    capture,
                    record: common.record,
                };
                let mut on_event = |event: &Event| {
                    files.on_event(event);
                    readers.on_event(event);
                };
                let outcome = execute(request, &home, &mut signals.for_run, &mut on_event).await;
                signals.run_is_over();
                readers.finish();
                files.add(&name, &id, &outcome)?;
                rounds.add(&name, &id, seed, &outcome);
                code = first(code, outcome.exit_code());
                match extra.write(&outputs, &source, &name, &id) {
                    Ok(written) => {
                        written.iter().for_each(|f| picture.say(&format!("created file: {}", f.display())));
                    }
                    Err(e) => {
                        eprintln!("error: {e:#}");
                        code = first(code, ExitCode::Collect);
                    }
                }
                if (common.collect || common.collect_file.is_some()) && !signals.came_after_run() {
                    let stop = signals.collecting_begins();
                    let archive = archive_name(common.collect_file.as_deref(), &name, &id, several);
                    match collect(&outputs, &id, &archive, stop) {
                        Ok(()) => picture.say(&format!("created file: {}", archive.display())),
                        Err(CollectError::Stopped) => {}
                        Err(e) => {
                            eprintln!("error: failed to collect outputs: {e}");
                            code = first(code, ExitCode::Collect);
                        }
                    }
                }
                if outcome == RunOutcome::Interrupted {
                    return Ok::<_, anyhow::Error>(code);
                }
                // The run's own outcome is in its record.
                if signals.came_after_run() {
                    return Ok(ExitCode::Interrupted);
                }
            }
        }
        Ok(code)
    })?;
    picture.say(&rounds.summary());
    files.finish()?;
    Ok(code)
}

/// What went wrong first is what the caller learns.
fn first(before: ExitCode, now: ExitCode) -> ExitCode {
    if before == ExitCode::Success { now } else { before }
}

/// Where people look: events on standard output leave no room for a picture beside them.
struct Picture {
    to_stderr: bool,
}

// === impl Picture ===

impl Picture {
    fn open(&self) -> Box<dyn std::io::Write + Send> {
        if self.to_stderr { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout()) }
    }

    /// A line, or nothing for an empty one. Whoever doesn't read any more is no reason to stop.
    fn say(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = self.open().write_all(format!("{text}\n").as_bytes());
        }
    }
}

/// What is written once, however many runs there are.
struct Files {
    events: Option<EventLog>,
    junit: Option<Junit>,
    results: ResultFile,
    /// What the outcome of the last run is to be read with.
    late: Option<EmulatorLate>,
}

// === impl Files ===

impl Files {
    fn create(common: &Common, runs: &[Run]) -> anyhow::Result<Files> {
        let limit = runs.iter().map(|run| run.settings.max_output).max().unwrap_or_default();
        let events = match &common.events {
            Some(path) => {
                let log = EventLog::create(path, limit);
                Some(log.with_context(|| format!("failed to write events to {}", path.display()))?)
            }
            None => None,
        };
        let junit = common.junit.as_deref().map(Junit::new);
        if let Some(junit) = &junit {
            // Empty for now: whoever can't write it should know before the run, not after.
            write_junit(junit)?;
        }
        let results = ResultFile::create(common.result_file.as_deref())?;
        Ok(Files { events, junit, results, late: None })
    }

    /// Another run, with the name that tells it from the others.
    fn begin(&mut self, name: &str) {
        if let Some(junit) = &mut self.junit {
            junit.begin(name);
        }
    }

    fn on_event(&mut self, event: &Event) {
        if let Some(events) = &mut self.events {
            events.on_event(event);
        }
        if let Some(junit) = &mut self.junit {
            junit.on_event(event);
        }
        if let EventKind::RunFinished { emulator_late, .. } = &event.kind {
            self.late = *emulator_late;
        }
    }

    /// After each run, so that files are there however many follow; the JUnit file, which is written as a whole, at
    /// fewer and fewer of them.
    fn add(&mut self, run: &str, id: &RunId, outcome: &RunOutcome) -> anyhow::Result<()> {
        if let Some(junit) = self.junit.as_ref().filter(|junit| junit.runs().is_power_of_two()) {
            write_junit(junit)?;
        }
        self.results.add(run, id, outcome, self.late)
    }

    fn finish(self) -> anyhow::Result<()> {
        if let Some(junit) = &self.junit {
            write_junit(junit)?;
        }
        self.events.map_or(Ok(()), EventLog::finish).context("failed to write events")
    }
}

fn write_junit(junit: &Junit) -> anyhow::Result<()> {
    junit.write().with_context(|| format!("failed to write the JUnit file {}", junit.path().display()))
}

/// Those who read the events of one run.
struct Readers {
    terminal: Terminal,
    record: Keeper,
}

// === impl Readers ===

impl Readers {
    fn open(home: &Home, run: &Run, id: &RunId, picture: &Picture, verbose: bool) -> anyhow::Result<Readers> {
        let record = Keeper::open(home, run, id).with_context(|| {
            let outputs = home.outputs_dir(&run.runner, &run.plan, id);
            format!("failed to begin the run's record in {}", outputs.display())
        })?;
        let look = Look::detect(|name| std::env::var_os(name), verbose);
        Ok(Readers { terminal: Terminal::new(picture.open(), look), record })
    }

    fn on_event(&mut self, event: &Event) {
        self.record.on_event(event);
        self.terminal.on_event(event);
    }

    fn finish(self) {
        if let Err(e) = self.record.finish() {
            eprintln!("warning: the run's record is not whole: {e}");
        }
    }
}

/// Ids sort by the time they were made: the second's fraction, in 2^-24 of it, comes before chance.
pub(in crate::cli) fn new_id() -> RunId {
    let mut chance = [0u8; 8];
    let _ = rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = (u64::from(now.subsec_nanos()) << 24) / 1_000_000_000;
    chance[..3].copy_from_slice(&(fraction as u32).to_be_bytes()[1..]);
    RunId::new(now.as_secs() as u32, chance)
}

/// A line of CSV for each run.
struct ResultFile(Option<std::fs::File>);

// === impl ResultFile ===

impl ResultFile {
    fn create(path: Option<&Path>) -> anyhow::Result<ResultFile> {
        let Some(path) = path else { return Ok(ResultFile(None)) };
        let mut file =
            std::fs::File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
        file.write_all(b"run_id,task_id,outcome,error\n")?;
        Ok(ResultFile(Some(file)))
    }

    /// A success has no error, but perhaps something that it is to be read with.
    fn add(
        &mut self,
        run: &str,
        id: &RunId,
        outcome: &RunOutcome,
        late: Option<EmulatorLate>,
    ) -> anyhow::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let late = || late.map_or_else(String::new, |late| late.to_string());
        let error = outcome.cause().map_or_else(late, str::to_owned);
        let line = format!("{},{id},{},{}\n", quoted(run), outcome.word(), quoted(&error));
        file.write_all(line.as_bytes()).context("failed to write the result file")
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

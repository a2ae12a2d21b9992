//! One run, from a resolved composition to its outcome: build, bring the lab up, watch, end, report.
//!
//! This file is the order of things. What happens inside the lab belongs in `lab`, what it means in `verdict`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use testground_model::event::{Event, EventKind};
use testground_model::measure::Source;
use testground_model::name::RunId;
use testground_model::outcome::RunOutcome;
use testground_model::run::{Group, Run};
use tokio::sync::mpsc;

use crate::build::{self, Artifact, Site};
use crate::claim::Claim;
use crate::home::Home;
use crate::lab::protocol::{Capture, Command, Notice, Program, Setup};
use crate::lab::{Lab, limits};
use crate::measure;
use crate::unbegun::Unbegun;
use crate::verdict::{Decision, Verdict};

/// How long the lab has to say what everybody waits for, behind all that it says otherwise, and to end beyond the grace: a
/// machine that is busy with something else needs a while, one that has lost its lab is told so elsewhere.
const ANSWER: Duration = Duration::from_secs(10);
const STOPPED: Duration = Duration::from_secs(30);

/// What is to be run, and how it is to be watched.
#[derive(Debug)]
pub struct Request {
    /// The run's id.
    pub id: RunId,
    /// The run.
    pub run: Run,
    /// What was typed behind the program's name, for the record.
    pub command: Vec<String>,
    /// Where the plan's sources are.
    pub plan_dir: PathBuf,
    /// Where tools of builders are looked for, in the form of `PATH`.
    pub path: OsString,
    /// Most builds side by side.
    pub concurrent_builds: usize,
    /// A failed run's lab stays until somebody interrupts.
    pub hold: bool,
    /// Whose packets are captured.
    pub capture: Capture,
    /// Whether every decision of the links is recorded.
    pub record: bool,
}

/// Carries a run out. Every event goes to `on_event`; each value on `interrupts` is one Ctrl-C: the first ends the run
/// in order, the second at once.
pub async fn execute(
    request: Request,
    home: &Home,
    interrupts: &mut mpsc::UnboundedReceiver<()>,
    on_event: &mut dyn FnMut(&Event),
) -> RunOutcome {
    let started = Instant::now();
    let run = &request.run;
    let (verdict, unbegun) = (Verdict::new(run), Unbegun::new(run));
    let mut record = Record { id: request.id.clone(), on_event, verdict, unbegun };
    let outputs = home.outputs_dir(&run.runner, &run.plan, &request.id);
    record.tell(EventKind::RunQueued {
        plan: run.plan.clone(),
        case: run.case.clone(),
        instances: run.instance_count(),
        outputs: outputs.display().to_string(),
        seed: run.settings.seed,
        command: request.command.clone(),
    });
    let outcome = with_claim(&request, home, outputs, interrupts, &mut record).await;
    sum_up(&request, &home.outputs_dir(&run.runner, &run.plan, &request.id), interrupts, &mut record).await;
    if let Some(message) = record.unbegun.in_words() {
        record.tell(EventKind::Warning { message });
    }
    let groups = record.verdict.groups().to_vec();
    let seconds = started.elapsed().as_secs_f64();
    let emulator_late = record.verdict.emulator_late();
    record.tell(EventKind::RunFinished { outcome: outcome.clone(), groups, seconds, emulator_late });
    outcome
}

/// Adds up what was measured, and hands it on where somebody wants it. No failure here changes the outcome.
async fn sum_up(
    request: &Request,
    outputs: &Path,
    interrupts: &mut mpsc::UnboundedReceiver<()>,
    record: &mut Record<'_>,
) {
    let run = &request.run;
    let source = Source { plan: run.plan.clone(), case: run.case.clone(), run: request.id.to_string() };
    let (outputs, endpoint) = (outputs.to_owned(), run.settings.influxdb_endpoint.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let work = move || {
        if !outputs.is_dir() {
            return (Ok(None), None);
        }
        let measured = measure::summarise(&outputs, &source);
        let sent = endpoint
            .filter(|_| measured.as_ref().is_ok_and(Option::is_some))
            .and_then(|url| measure::forward::forward(&outputs, &source, &url, &stopped).err());
        (measured, sent)
    };
    let mut work = tokio::task::spawn_blocking(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            // Whoever is in a hurry doesn't wait for a server elsewhere; sums take a moment only.
            Some(()) = interrupts.recv() => stop.store(true, Ordering::Relaxed),
        }
    };
    let Ok((measured, unsent)) = done else { return };
    match measured {
        Ok(None) => {}
        Ok(Some(measured)) => {
            record.tell(EventKind::Measured(measure::for_event(&measured)));
        }
        Err(e) => {
            record.tell(EventKind::Warning { message: format!("measurements are not summed up: {e}") });
        }
    }
    if let Some(unsent) = unsent {
        record.tell(EventKind::Warning { message: unsent.to_string() });
    }
}

/// The stream of events, and what they add up to.
struct Record<'a> {
    id: RunId,
    on_event: &'a mut dyn FnMut(&Event),
    verdict: Verdict,
    unbegun: Unbegun,
}

/// Carries the run out; a sync service outside of the lab is told of its beginning, and of its end however it comes.
async fn with_claim(
    request: &Request,
    home: &Home,
    outputs: PathBuf,
    interrupts: &mut mpsc::UnboundedReceiver<()>,
    record: &mut Record<'_>,
) -> RunOutcome {
    let Some(service) = &request.run.settings.sync_service else {
        return carry_out(request, home, outputs, interrupts, record).await;
    };
    let claim = tokio::select! {
        claim = Claim::take(service, &request.id) => match claim {
            Ok(claim) => claim,
            Err(cause) => return RunOutcome::Failure { cause },
        },
        _ = interrupts.recv() => return RunOutcome::Interrupted,
    };
    let outcome = carry_out(request, home, outputs, interrupts, record).await;
    let released = tokio::select! {
        released = claim.release() => released,
        // Somebody is in a hurry.
        Some(()) = interrupts.recv() => Err("interrupted".to_owned()),
    };
    if let Err(why) = released {
        let message = format!("the run was not marked as finished, so that its keys stay longer: {why}");
        record.tell(EventKind::Warning { message });
    }
    outcome
}

async fn carry_out(
    request: &Request,
    home: &Home,
    outputs: PathBuf,
    interrupts: &mut mpsc::UnboundedReceiver<()>,
    record: &mut Record<'_>,
) -> RunOutcome {
    let programs = tokio::select! {
        built = build_all(request, home, &outputs, record) => match built {
            Ok(programs) => programs,
            Err(cause) => return RunOutcome::BuildFailed { cause },
        },
        _ = interrupts.recv() => return RunOutcome::Interrupted,
    };
    if let Err(e) = std::fs::create_dir_all(&outputs) {
        return RunOutcome::Failure { cause: format!("failed to make {}: {e}", outputs.display()) };
    }
    let setup = Setup {
        id: request.id.clone(),
        run: request.run.clone(),
        outputs,
        programs,
        start_time: rfc3339_now(),
        capture: request.capture.clone(),
        record: request.record || request.run.settings.record_decisions,
        cgroups: false,
        lab_pid: 0,
    };
    let (room, not_in_force) = limits::make(&request.id, &request.run);
    for message in not_in_force {
        record.tell(EventKind::Warning { message });
    }
    let lab = match Lab::start(setup, room).await {
        Ok(lab) => lab,
        Err(e) => return RunOutcome::LabLost { cause: format!("the lab did not come up: {e}") },
    };
    Watch::new(request, lab).until_over(interrupts, record).await
}

async fn build_all(
    request: &Request,
    home: &Home,
    outputs: &Path,
    record: &mut Record<'_>,
) -> Result<BTreeMap<String, Program>, String> {
    let groups = &request.run.groups;
    build::check_tools(groups, &request.path).map_err(|e| chain(&e))?;
    let site = Site {
        plan: request.plan_dir.clone(),
        home: home.clone(),
        logs: outputs.join("build"),
        path: request.path.clone(),
        timeout: request.run.settings.timeout,
    };
    let built = build::build_all(groups, &site, request.concurrent_builds, |event| {
        record.tell(event);
    });
    let artifacts = built.await.map_err(|e| chain(&e))?;
    let program = |(group, artifact): (&Group, Option<Artifact>)| {
        let a = artifact?;
        Some((
            group.id.clone(),
            Program { path: a.program, args: a.args, plan_dir: request.plan_dir.clone() },
        ))
    };
    Ok(groups.iter().zip(artifacts).filter_map(program).collect())
}

/// An error with all its causes, on one line where they are.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A lab that is up, and how far its run is.
struct Watch<'a> {
    request: &'a Request,
    lab: Lab,
    phase: Phase,
    /// When the phase is over, whatever happens.
    deadline: Option<tokio::time::Instant>,
    /// The outcome that was decided before the end.
    decided: Option<RunOutcome>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The network comes up and is proved.
    Preparing,
    /// Instances run.
    Running,
    /// It is decided that the run ends; the lab is asked what everybody waits for.
    Explaining,
    /// It failed, and its lab stays for a look.
    Held,
    /// Instances are asked to end.
    Stopping,
}

// === impl Watch ===

impl<'a> Watch<'a> {
    fn new(request: &'a Request, lab: Lab) -> Watch<'a> {
        // Preparation is bounded too: a thousand instances need seconds, not minutes.
        let limit = request.run.settings.timeout.max(Duration::from_secs(60));
        let deadline = Some(tokio::time::Instant::now() + limit);
        Watch { request, lab, phase: Phase::Preparing, deadline, decided: None }
    }

    async fn until_over(
        mut self,
        interrupts: &mut mpsc::UnboundedReceiver<()>,
        record: &mut Record<'_>,
    ) -> RunOutcome {
        let mut interrupted = false;
        loop {
            let deadline = self.deadline;
            let late = async move {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                notice = self.lab.next() => match notice {
                    Ok(notice) => {
                        if let Some(outcome) = self.on_notice(notice, record).await {
                            return outcome;
                        }
                    }
                    Err(lost) => return RunOutcome::LabLost { cause: lost.to_string() },
                },
                Some(()) = interrupts.recv() => {
                    if interrupted {
                        self.lab.kill();
                        return RunOutcome::Interrupted;
                    }
                    interrupted = true;
                    // A held lab has its outcome; everything else is interrupted now.
                    self.decided.get_or_insert(RunOutcome::Interrupted);
                    self.stop().await;
                }
                () = late => if let Some(outcome) = self.on_deadline(record).await {
                    return outcome;
                },
            }
        }
    }

    /// Takes what the lab says; `Some` is the end.
    async fn on_notice(&mut self, notice: Notice, record: &mut Record<'_>) -> Option<RunOutcome> {
        match notice {
            Notice::Event { ts, kind } => {
                if matches!(*kind, EventKind::LabStarted { .. }) {
                    self.lab.favour_switch();
                }
                if record.tell_at(ts, *kind) == Decision::End && self.decided.is_none() {
                    self.end(record.verdict.outcome()).await;
                }
            }
            Notice::Ready if self.phase == Phase::Preparing => {
                self.phase = Phase::Running;
                self.deadline = Some(tokio::time::Instant::now() + self.request.run.settings.timeout);
                self.lab.send(&Command::Release).await;
            }
            Notice::Ready => {}
            Notice::Waits(waits) => {
                if !waits.is_empty() {
                    record.tell(EventKind::Waits { waits });
                }
                self.after_explaining(record).await;
            }
            Notice::AllEnded if self.phase == Phase::Held => {}
            Notice::AllEnded => {
                let outcome = self.decided.take().unwrap_or_else(|| record.verdict.outcome());
                let held = self.request.hold && self.phase != Phase::Stopping;
                if held && outcome != RunOutcome::Success {
                    self.decided = Some(outcome);
                    self.hold(record);
                    return None;
                }
                self.lab.finish().await;
                return Some(outcome);
            }
            Notice::Broken { cause } => return Some(RunOutcome::LabLost { cause }),
        }
        None
    }

    async fn on_deadline(&mut self, record: &mut Record<'_>) -> Option<RunOutcome> {
        match self.phase {
            Phase::Preparing => {
                self.lab.kill();
                Some(RunOutcome::LabLost { cause: "the network was not up in time".to_owned() })
            }
            Phase::Running => {
                let limit = self.request.run.settings.timeout;
                let cause = format!("run canceled after reaching the task timeout of {limit:?}");
                self.end(RunOutcome::TimedOut { cause }).await;
                None
            }
            Phase::Explaining => {
                self.after_explaining(record).await;
                None
            }
            Phase::Held => None,
            Phase::Stopping => {
                self.lab.kill();
                let decided = self.decided.take();
                Some(
                    decided
                        .unwrap_or(RunOutcome::LabLost { cause: "the lab did not stop in time".to_owned() }),
                )
            }
        }
    }

    /// The run is decided; ask for the evidence first.
    async fn end(&mut self, outcome: RunOutcome) {
        self.decided = Some(outcome);
        self.phase = Phase::Explaining;
        self.deadline = Some(tokio::time::Instant::now() + ANSWER);
        self.lab.send(&Command::Explain).await;
    }

    async fn after_explaining(&mut self, record: &mut Record<'_>) {
        if self.phase != Phase::Explaining {
            return;
        }
        if self.request.hold {
            self.hold(record);
        } else {
            self.stop().await;
        }
    }

    fn hold(&mut self, record: &mut Record<'_>) {
        record.tell(EventKind::LabHeld);
        self.phase = Phase::Held;
        self.deadline = None;
    }

    async fn stop(&mut self) {
        self.phase = Phase::Stopping;
        let grace = self.request.run.settings.grace;
        self.deadline = Some(tokio::time::Instant::now() + grace + STOPPED);
        self.lab.send(&Command::Stop).await;
    }
}

// === impl Record ===

impl Record<'_> {
    fn tell(&mut self, kind: EventKind) -> Decision {
        self.tell_at(unix_nanos(), kind)
    }

    fn tell_at(&mut self, ts: u64, kind: EventKind) -> Decision {
        let decision = self.verdict.on_event(&kind);
        self.unbegun.on_event(&kind);
        (self.on_event)(&Event { ts, run: self.id.clone(), kind });
        decision
    }
}

/// Nanoseconds since 1970.
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

fn rfc3339_now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

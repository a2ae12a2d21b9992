//! SIGINT, SIGTERM and SIGHUP while runs are carried out: what each of them does now, and what is said about it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Listens for as long as it lives.
#[derive(Debug)]
pub(super) struct Signals {
    /// One value for each signal that came while a run went on.
    pub(super) for_run: mpsc::UnboundedReceiver<()>,
    heard: Arc<Mutex<Heard>>,
    stop_collecting: Arc<AtomicBool>,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A run.
    Run,
    /// A run is over, and its report and measurements are written.
    Files,
    /// A run is over, and its outputs are packed.
    Collecting,
}

/// What was heard so far.
#[derive(Debug)]
struct Heard {
    stage: Stage,
    /// Whether a signal came in this run.
    in_run: bool,
    /// Whether one came after it: nothing more is begun then.
    after_run: bool,
}

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The run is told.
    Run,
    /// Nothing is begun after what goes on.
    NoMore,
    /// Collecting stops.
    StopCollecting,
}

// === impl Signals ===

impl Signals {
    /// Begins to listen, in the runtime that this is called in.
    pub(super) fn listen() -> anyhow::Result<Signals> {
        let (told, for_run) = mpsc::unbounded_channel();
        let heard = Arc::new(Mutex::new(Heard::new()));
        let stop_collecting = Arc::new(AtomicBool::new(false));
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind).context("failed to listen to signals")?;
            let (told, heard, stop) = (told.clone(), Arc::clone(&heard), Arc::clone(&stop_collecting));
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    let (effect, said) = locked(&heard).hear();
                    if let Some(said) = said {
                        eprintln!("interrupted: {said}");
                    }
                    match effect {
                        Effect::Run if told.send(()).is_err() => return,
                        Effect::Run | Effect::NoMore => {}
                        Effect::StopCollecting => stop.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
        Ok(Signals { for_run, heard, stop_collecting })
    }

    /// A run begins, unless a signal came after the one before it: whether it may.
    pub(super) fn run_may_begin(&self) -> bool {
        let mut heard = locked(&self.heard);
        if !heard.after_run {
            *heard = Heard::new();
        }
        !heard.after_run
    }

    /// The run is over, and files are written.
    pub(super) fn run_is_over(&mut self) {
        let mut heard = locked(&self.heard);
        heard.stage = Stage::Files;
        // Those came too late for the run.
        while self.for_run.try_recv().is_ok() {
            heard.after_run = true;
        }
    }

    /// Collecting begins; what becomes true when it is to stop.
    pub(super) fn collecting_begins(&self) -> &AtomicBool {
        locked(&self.heard).stage = Stage::Collecting;
        &self.stop_collecting
    }

    /// Whether a signal came after the run.
    pub(super) fn came_after_run(&self) -> bool {
        locked(&self.heard).after_run
    }
}

fn locked(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Heard ===

impl Heard {
    fn new() -> Heard {
        Heard { stage: Stage::Run, in_run: false, after_run: false }
    }

    /// What another signal does, and what is said about it.
    fn hear(&mut self) -> (Effect, Option<&'static str>) {
        let before = self.in_run || self.after_run;
        match self.stage {
            Stage::Run => {
                self.in_run = true;
                // Instances have their grace now, in which nothing would be seen.
                let said = "the run ends in order; once more ends it at once";
                (Effect::Run, (!before).then_some(said))
            }
            Stage::Files => {
                let said = "the run is over; its files are still written, then nothing more is begun";
                let first = !std::mem::replace(&mut self.after_run, true);
                (Effect::NoMore, first.then_some(said))
            }
            Stage::Collecting => {
                self.after_run = true;
                if before {
                    return (
                        Effect::StopCollecting,
                        Some("collecting stops; the outputs stay where they are"),
                    );
                }
                let said = "the run is over, and its outputs are being collected; once more stops that, and leaves no archive";
                (Effect::NoMore, Some(said))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_says_what_goes_on_and_the_second_stops_it() {
        let mut heard = Heard::new();
        let (effect, said) = heard.hear();
        assert_eq!((effect, said), (Effect::Run, Some("the run ends in order; once more ends it at once")));
        assert_eq!(heard.hear(), (Effect::Run, None));
        heard.stage = Stage::Collecting;
        assert_eq!(heard.hear().0, Effect::StopCollecting, "somebody was told that once more ends it");

        let mut heard = Heard { stage: Stage::Collecting, ..Heard::new() };
        let (effect, said) = heard.hear();
        assert!(effect == Effect::NoMore && said.is_some_and(|s| s.contains("being collected")), "{said:?}");
        assert_eq!(heard.hear().0, Effect::StopCollecting);

        let mut heard = Heard { stage: Stage::Files, ..Heard::new() };
        assert!(heard.hear().1.is_some_and(|s| s.contains("files are still written")));
        assert_eq!(heard.hear(), (Effect::NoMore, None));
        assert!(heard.after_run);
    }
}

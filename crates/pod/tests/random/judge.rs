//! Any event at any time: the machine does not panic, and its actions never contradict each other.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use testground_pod::machine::{
    Action, ContainerId, Event, Exit, HookKind, Instance, Machine, ProbeKind, ProbeOutcome, PullError,
    Settings, Text,
};

/// One event: milliseconds since the one before, which, of which container, of which life, and a number for the rest.
pub(crate) type Befalls = (u64, u8, u16, u32, i32);

/// Tells a machine these events, and holds what it wants against what it wanted before.
///
/// # Errors
/// What contradicts what.
pub(crate) fn listen(pod: &Pod, settings: &Settings, events: &[Befalls]) -> Result<(), String> {
    let mut machine = Machine::new(pod, settings).map_err(|error| error.to_string())?;
    let mut judge = Judge::default();
    let mut now = Duration::ZERO;
    for (millis, what, id, attempt, number) in events {
        now += Duration::from_millis(*millis);
        // What was due before comes first: the world answers it, or does not.
        machine.tick(now);
        judge.hear(&mut machine, now, number % 2 == 0)?;
        let event = random_event(*what, ContainerId(*id), *attempt, *number);
        machine.on(now, event);
        judge.hear(&mut machine, now, number % 3 == 0)?;
        machine.tick(now);
        judge.hear(&mut machine, now, false)?;
        if let Some(due) = machine.next_deadline().filter(|due| *due <= now) {
            return Err(format!("is due at {due:?}, and it is {now:?}"));
        }
    }
    Ok(())
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
    pub(crate) fn hear(&mut self, machine: &mut Machine, now: Duration, answer: bool) -> Result<(), String> {
        for _ in 0..2_000 {
            let Some(action) = machine.next_action() else { return Ok(()) };
            let reply = self.judge(machine, &action)?;
            if let Some(reply) = reply.filter(|_| answer) {
                machine.on(now, reply);
            }
        }
        Err("the machine wants more and more at one moment".to_owned())
    }

    fn judge(&mut self, machine: &Machine, action: &Action) -> Result<Option<Event>, String> {
        if self.forgotten && !matches!(action, Action::Gone | Action::Report(_)) {
            return Err(format!("{action:?} after the end"));
        }
        Ok(match action {
            Action::CreateSandbox { .. } => Some(Event::SandboxCreated),
            Action::StopSandbox => Some(Event::SandboxStopped),
            Action::Pull(id, _) => Some(Event::Pulled(*id)),
            Action::Create { instance, .. } => {
                let key = (instance.container.0, instance.attempt);
                if self.created.insert(key, false).is_some() {
                    return Err(format!("{key:?} is created twice"));
                }
                if machine.running(instance.container).is_some() {
                    return Err(format!("{key:?} is created beside a running one"));
                }
                Some(Event::Created(*instance))
            }
            Action::Start(instance) => {
                match self.created.get_mut(&(instance.container.0, instance.attempt)) {
                    Some(started) if !*started => *started = true,
                    _ => return Err(format!("{instance:?} is started twice, or not created")),
                }
                Some(Event::Started(*instance))
            }
            Action::Signal(instance, _) | Action::RunHook(instance, _) | Action::Probe(instance, _) => {
                let key = (instance.container.0, instance.attempt);
                if self.created.get(&key) != Some(&true) {
                    return Err(format!("{action:?} for one never started"));
                }
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
                if std::mem::replace(&mut self.gone, true) {
                    return Err("gone twice".to_owned());
                }
                None
            }
            Action::Forget => {
                if std::mem::replace(&mut self.forgotten, true) {
                    return Err("forgotten twice".to_owned());
                }
                None
            }
            _ => None,
        })
    }
}

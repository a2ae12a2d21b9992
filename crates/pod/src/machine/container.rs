//! What the machine knows of one container: the runtime's records, as they are and as they were last seen.

use super::backoff::BackOff;
use super::probe::Prober;
use super::stop::Stop;
use super::types::{Exit, Text, Time};

/// One life in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Life {
    pub(super) attempt: u32,
    pub(super) restarts: u32,
    pub(super) image: Text,
    pub(super) sandbox: u32,
    pub(super) state: LifeState,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LifeState {
    Created,
    Running {
        since: Time,
    },
    Exited {
        finished: Time,
        exit: Exit,
        failed_start: bool,
    },
    /// The runtime lost sight of it.
    Unknown,
}

/// The newest life and the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lives {
    pub(super) latest: Option<Life>,
    pub(super) previous: Option<Life>,
}

/// Why a container waits: kept from one try to the next (the kubelet's reason cache).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// One container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    /// The image that the spec has now.
    pub(super) image: Text,
    /// The runtime's truth.
    pub(super) real: Lives,
    /// What the engine last saw of it.
    pub(super) seen: Lives,
    /// The number of the next life.
    pub(super) attempts: u32,
    /// Where `restartCount` goes on after all records were removed (R63).
    pub(super) restarts_from: Option<u32>,
    /// When the last life ended whose record was removed then.
    pub(super) ended_before: Option<Time>,
    pub(super) back_off: BackOff,
    pub(super) pull_back_off: BackOff,
    pub(super) waiting: Option<Waiting>,
    pub(super) stop: Option<Box<Stop>>,
    pub(super) probers: Vec<Prober>,
    /// Whether the status shows all that happened to it so far, if that is looked at as it really is.
    pub(super) shown: bool,
}

// === impl Container ===

impl Container {
    pub(super) fn new(image: &Text) -> Self {
        Self {
            image: image.clone(),
            real: Lives::default(),
            seen: Lives::default(),
            attempts: 0,
            restarts_from: None,
            ended_before: None,
            back_off: BackOff::default(),
            pull_back_off: BackOff::default(),
            waiting: None,
            stop: None,
            probers: Vec::new(),
            shown: false,
        }
    }

    /// Whether its process is there now.
    pub(super) fn runs(&self) -> bool {
        self.real.latest.as_ref().is_some_and(Life::runs)
    }
}

// === impl Lives ===

impl Lives {
    /// When the newest life that is over ended.
    pub(super) fn ended(&self) -> Option<Time> {
        [&self.latest, &self.previous].into_iter().flatten().find_map(|life| match life.state {
            LifeState::Exited { finished, .. } => Some(finished),
            _ => None,
        })
    }

    pub(super) fn push(&mut self, life: Life) {
        self.previous = self.latest.replace(life);
    }

    /// The newest life if it is this attempt.
    pub(super) fn attempt_mut(&mut self, attempt: u32) -> Option<&mut Life> {
        self.latest.as_mut().filter(|life| life.attempt == attempt)
    }
}

// === impl Life ===

impl Life {
    pub(super) fn runs(&self) -> bool {
        matches!(self.state, LifeState::Running { .. })
    }

    /// How it ended, if it did.
    pub(super) fn exit(&self) -> Option<Exit> {
        match self.state {
            LifeState::Exited { exit, .. } => Some(exit),
            _ => None,
        }
    }
}

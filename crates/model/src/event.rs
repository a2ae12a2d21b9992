//! The record of a run: whatever happens is one value of [`EventKind`] in one stream.
//!
//! Terminal, files, report and outcome are readers of it. Nothing is formatted here.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::Measured;
use crate::name::{InstanceName, RunId};
use crate::outcome::{EmulatorLate, GroupTally, InstanceEnd, RunOutcome};
use crate::shape::LinkShape;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since 1970.
    pub ts: u64,
    /// The run.
    pub run: RunId,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "events are handled one at a time, never kept in bulk")]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// The run has an id and a place for its outputs.
    RunQueued {
        /// The plan.
        plan: String,
        /// The case.
        case: String,
        /// How many instances.
        instances: u32,
        /// Where outputs go.
        outputs: String,
        /// The seed in force.
        seed: u64,
        /// What was typed behind the program's name, word by word; empty where nobody knows.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        command: Vec<String>,
    },
    /// An artifact is being made.
    BuildStarted {
        /// The groups it is for.
        groups: Vec<String>,
        /// The builder.
        builder: String,
    },
    /// An artifact is there.
    BuildFinished {
        /// The groups it is for.
        groups: Vec<String>,
        /// The artifact.
        artifact: String,
        /// Whether an earlier build of the same source was taken.
        cached: bool,
        /// How long it took, seconds.
        seconds: f64,
    },
    /// The lab is up: its process, and what carries packets in it.
    LabStarted {
        /// Lab init as the machine sees it.
        pid: u32,
        /// `tap` or `packet-socket` to the switch, or `veth` on the kernel's plane.
        ports: String,
    },
    /// So many instances are attached to the network by now.
    NetworkProgress {
        /// Attached.
        attached: u32,
        /// Of.
        total: u32,
    },
    /// A distinct shape was measured on its plane.
    ShapeProved(Proof),
    /// All shapes are measured and the instances are let go.
    InstancesReleased,
    /// The program of an instance was started.
    InstanceStarted {
        /// Which.
        instance: InstanceName,
        /// Its init's process, as the lab sees it.
        pid: u32,
    },
    /// An instance wrote a line that is no event of the protocol, or a message.
    Output {
        /// Which.
        instance: InstanceName,
        /// From where.
        stream: Stream,
        /// The line, bytes that are no UTF-8 replaced, cut at 4 KiB.
        line: String,
    },
    /// An instance said something in the event protocol, on stdout or over sync; counted once.
    Reported {
        /// Which.
        instance: InstanceName,
        /// What.
        report: Report,
    },
    /// The instance's network is set up, or changed as it asked.
    NetworkConfigured {
        /// Which.
        instance: InstanceName,
        /// The network's name.
        network: String,
        /// The state that was signalled.
        callback: String,
    },
    /// A declared change took place.
    NetworkChanged {
        /// In words.
        change: String,
        /// Seconds on the run's clock.
        at: f64,
    },
    /// An instance is no more.
    InstanceEnded {
        /// Which.
        instance: InstanceName,
        /// How.
        end: InstanceEnd,
        /// How long it ran, seconds.
        seconds: f64,
        /// The last lines of its stderr (of stdout when that is empty).
        last_lines: Vec<String>,
    },
    /// An instance's output could not be kept: the record has a gap.
    OutputLost {
        /// Whose.
        instance: InstanceName,
        /// Why.
        error: String,
    },
    /// Everybody waits and nothing changes.
    Stalled {
        /// For how long, seconds.
        seconds: f64,
        /// What for.
        barriers: Vec<BarrierWait>,
    },
    /// The run failed and its lab stays for a look, until somebody interrupts.
    LabHeld,
    /// What each living instance waited for when the run was ended by its timeout or by a failure.
    Waits {
        /// One for each living instance.
        waits: Vec<InstanceWait>,
    },
    /// Something that a reader should know, and that does not end the run.
    Warning {
        /// What.
        message: String,
    },
    /// What the switch says of itself at the end.
    EmulatorReport(Lateness),
    /// What instances asked of their network while the run went on, added up.
    NetworkRequests(NetworkRequests),
    /// What the instances measured, added up.
    Measured(Measured),
    /// The run is over.
    RunFinished {
        /// How.
        outcome: RunOutcome,
        /// By group, in the composition's order.
        groups: Vec<(String, GroupTally)>,
        /// From command to end, seconds.
        seconds: f64,
        /// What the outcome is to be read with, where the emulator did not do what the run tolerates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        emulator_late: Option<EmulatorLate>,
    },
}

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an instance says about itself in the event protocol of the SDKs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "report")]
pub enum Report {
    /// It began.
    Start,
    /// A message.
    Message {
        /// The text.
        message: String,
    },
    /// It succeeded.
    Success,
    /// It failed.
    Failure {
        /// Why.
        error: String,
    },
    /// It crashed.
    Crash {
        /// Why.
        error: String,
        /// Where.
        stacktrace: String,
    },
    /// A stage began.
    StageStart {
        /// Its name.
        name: String,
    },
    /// A stage ended.
    StageEnd {
        /// Its name.
        name: String,
    },
}

/// A barrier and who has to do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarrierWait {
    /// The state's name, without the run's prefix.
    pub state: String,
    /// Signals so far.
    pub count: u64,
    /// Signals wanted.
    pub target: u64,
    /// Who waits.
    pub waiting: Vec<String>,
    /// Living instances that have not signalled, where that is known.
    pub missing: Vec<String>,
}

/// What a living instance waits for, as far as it can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceWait {
    /// Which.
    pub instance: InstanceName,
    /// The barriers it waits at.
    pub barriers: Vec<BarrierWait>,
    /// The last stage or message it reported.
    pub last_word: Option<String>,
}

/// A shape asked for beside what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Where the shape is in force, in the composition's words, such as `east -> west`.
    pub label: String,
    /// What was asked for.
    pub asked: LinkShape,
    /// One-way delays of single packets, median.
    pub delay_p50: Option<Duration>,
    /// The same, 99th percentile.
    pub delay_p99: Option<Duration>,
    /// Round trip there and back over the declared shapes of both directions, median.
    pub round_trip_p50: Option<Duration>,
    /// The latency that was asked for on the way back of that round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Duration>,
    /// Bits per second on the wire.
    pub rate: Option<f64>,
    /// Share of probes that were lost, percent.
    pub loss_percent: f64,
    /// How many probes were sent.
    pub probes: u32,
    /// What was replayed of the trace that the bandwidth follows, whose rate is beside [`Proof::rate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replayed>,
    /// What is out of tolerance, in words; empty when all is well.
    pub off: Vec<String>,
}

/// The requests of instances for their network: what they ask for is known too late to be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkRequests {
    /// How many were carried out.
    pub made: u64,
    /// How many of them asked for a shape that does anything.
    pub shaped: u64,
    /// How many of those asked for shapes only that are equal to one that was proved before the run.
    pub proved: u64,
}

/// A stretch of a bandwidth trace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    /// Its first opportunity, since the trace's start.
    pub from: Duration,
    /// From there to its last one.
    pub length: Duration,
    /// Bits per second on the wire that it lets through.
    pub rate: f64,
}

// === impl NetworkRequests ===

impl fmt::Display for NetworkRequests {
    /// A sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |n: u64| if n == 1 { "once".to_owned() } else { format!("{n} times") };
        write!(f, "instances asked for their network {} while the run went on", times(self.made))?;
        match (self.shaped, self.proved, self.shaped.saturating_sub(self.proved)) {
            (0, ..) => write!(f, ", never with a shape"),
            (shaped, proved, 0) => {
                write!(f, ", {} with a shape: all {proved} equal to one that was proved", times(shaped))
            }
            (shaped, proved, rest) => write!(
                f,
                ", {} with a shape: {proved} equal to one that was proved, {rest} not measured",
                times(shaped)
            ),
        }
    }
}

/// Released minus due, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Late {
    /// Median.
    #[serde(rename = "late_p50_us")]
    pub p50_us: f64,
    /// 99th percentile.
    #[serde(rename = "late_p99_us")]
    pub p99_us: f64,
    /// The worst.
    #[serde(rename = "late_max_us")]
    pub max_us: f64,
}

/// The emulator's own record: how late packets were released, and why packets were dropped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// Packets carried.
    pub packets: u64,
    /// How late they were; none, and no such fields in JSON, where nobody knows: the kernel carried them, which keeps no record.
    #[serde(flatten)]
    pub late: Option<Late>,
    /// Packets dropped, by cause.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Those of them that no shape, sender or receiver is to blame for: the emulator did not manage.
    #[serde(default)]
    pub shortfall: u64,
}

//! A run with nothing left to decide: every default filled in, every name looked up, every mistake found.
//!
//! `resolve` makes these values; the engine carries them out.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::InstanceName;
use crate::outside::Endpoint;
use crate::topology::{Change, Link, Network};

/// One run of a composition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The run's id in its composition (`default` where the composition has no `[[runs]]`).
    pub id: String,
    /// The plan's name, with `/` made `-`.
    pub plan: String,
    /// The test case.
    pub case: String,
    /// The runner's name, such as `local:exec`.
    pub runner: String,
    /// The groups, in the order of the composition.
    pub groups: Vec<Group>,
    /// The data networks; the first is `default`.
    pub networks: Vec<Network>,
    /// Declared links; of two that meet on a pair of instances the later one counts.
    pub links: Vec<Link>,
    /// What changes on them, by time.
    pub timeline: Vec<Change>,
    /// Regions by name, each with the instances that are in it.
    pub regions: BTreeMap<String, Vec<InstanceName>>,
    /// Instances must not send metrics.
    pub disable_metrics: bool,
    /// Settings of the run.
    pub settings: Settings,
}

/// A group with everything its instances need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its id in the run.
    pub id: String,
    /// How many instances, at least 1.
    pub instances: u32,
    /// How its artifact is made.
    pub build: Build,
    /// Test parameters: what the instance reads in `TEST_INSTANCE_PARAMS`. No value holds `|`.
    pub params: BTreeMap<String, String>,
    /// Profiles to capture: kind to value.
    pub profiles: BTreeMap<String, String>,
    /// Memory in bytes and CPU in thousandths of a core, where the composition limits them.
    pub resources: Resources,
    /// The Pod manifest instead of an artifact, a path relative to the composition.
    pub pod: Option<String>,
}

impl Group {
    /// A group of which only the artifact is wanted.
    pub fn to_build(id: String, build: Build) -> Group {
        Group {
            id,
            instances: 1,
            build,
            params: BTreeMap::new(),
            profiles: BTreeMap::new(),
            resources: Resources::default(),
            pod: None,
        }
    }
}

/// How an artifact is made. Two groups with equal values share one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// The builder's name, such as `exec:go`.
    pub builder: String,
    /// Its settings: group over global over manifest.
    pub config: BTreeMap<String, toml_value::Value>,
    /// Build tags.
    pub selectors: Vec<String>,
    /// Replaced dependencies, by module.
    pub dependencies: BTreeMap<String, Dependency>,
    /// An artifact that exists already: nothing is built.
    pub artifact: Option<String>,
}

/// What a module is replaced by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Another module or directory in its place.
    pub target: Option<String>,
    /// The version.
    pub version: String,
}

/// Limits of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
}

/// Settings of a run: the composition's `[global.run_config]`, then the manifest's table for the runner, then these
/// defaults; the command line over all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// All chance of the run comes from here.
    pub seed: u64,
    /// How long the run may take, from when the instances are let go. Default 10 minutes.
    pub timeout: Duration,
    /// Run on when an instance fails, and when all wait.
    pub keep_going: bool,
    /// How long every living instance may wait at barriers with nothing changing before the run ends. Default 5 s.
    pub stall: Duration,
    /// Time between the request to end and the kill. Default 2 s.
    pub grace: Duration,
    /// Most bytes of stdout, and of stderr, that are kept on disk for each instance. Default 64 MiB.
    pub max_output: u64,
    /// What the proof of the shapes may be off before the run is refused.
    pub proof: ProofSettings,
    /// Percent of each group's instances that have to succeed. Default 100.
    #[serde(default = "all")]
    pub min_success: f64,
    /// Instances started per second; `None` starts them all at once.
    #[serde(default)]
    pub start_rate: Option<f64>,
    /// Hosts outside of the lab that instances may reach.
    #[serde(default)]
    pub additional_hosts: Vec<Endpoint>,
    /// The sync service that the run uses; `None` is the lab's own.
    #[serde(default)]
    pub sync_service: Option<Endpoint>,
    /// A real InfluxDB that gets the measurements too, when the run has ended: `http://host:port`.
    #[serde(default)]
    pub influxdb_endpoint: Option<String>,
    /// The longest message of the sync service in bytes. Default 32,768: what sdk-go reads.
    #[serde(default = "sdk_go_message")]
    pub max_message: u64,
    /// The switch writes down what it decided for each packet.
    #[serde(default)]
    pub record_decisions: bool,
    /// Who moves the packets of the data networks. Default: the switch.
    #[serde(default)]
    pub plane: Plane,
}

/// Who moves the packets of the data networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plane {
    /// The sidecar's own switch: every effect, replay by seed, captures.
    #[default]
    Switch,
    /// The kernel: veth pairs and bridges, shaped by HTB and netem.
    Kernel,
    /// The kernel where it can do all that the run asks for, else the switch.
    Auto,
}

/// When a measured shape counts as the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProofSettings {
    /// Measure at all.
    pub enabled: bool,
    /// Absolute tolerance of the median delay. Default 1 ms.
    pub delay: Duration,
    /// Relative tolerance of the rate, in percent. Default 5.
    pub rate_percent: f64,
    /// Go on, and mark the report, when a shape is off.
    pub mark_only: bool,
    /// A success on an emulator that was later than `delay` is a failure.
    #[serde(default)]
    pub late_fails: bool,
}

/// The values of a builder's or runner's settings: TOML without dates.
pub mod toml_value {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    /// One value.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Value {
        /// `true` or `false`.
        Bool(bool),
        /// A whole number.
        Integer(i64),
        /// Any other number.
        Float(f64),
        /// Text.
        String(String),
        /// A list.
        Array(Vec<Value>),
        /// A table.
        Table(BTreeMap<String, Value>),
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 0,
            timeout: Duration::from_secs(600),
            keep_going: false,
            stall: Duration::from_secs(5),
            grace: Duration::from_secs(2),
            max_output: 64 << 20,
            proof: ProofSettings::default(),
            min_success: all(),
            start_rate: None,
            additional_hosts: Vec::new(),
            influxdb_endpoint: None,
            sync_service: None,
            max_message: sdk_go_message(),
            record_decisions: false,
            plane: Plane::default(),
        }
    }
}

fn all() -> f64 {
    100.0
}

fn sdk_go_message() -> u64 {
    32_768
}

// === impl Plane ===

impl Plane {
    /// All of them.
    pub const ALL: [Plane; 3] = [Plane::Switch, Plane::Kernel, Plane::Auto];

    /// Its name in compositions and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Plane::Switch => "switch",
            Plane::Kernel => "kernel",
            Plane::Auto => "auto",
        }
    }
}

impl std::str::FromStr for Plane {
    type Err = String;

    fn from_str(text: &str) -> Result<Plane, String> {
        Plane::ALL
            .into_iter()
            .find(|plane| plane.name() == text)
            .ok_or_else(|| format!("{text:?} is no plane: switch, kernel or auto is expected"))
    }
}

// === impl ProofSettings ===

impl Default for ProofSettings {
    fn default() -> Self {
        ProofSettings {
            enabled: true,
            delay: Duration::from_millis(1),
            rate_percent: 5.0,
            mark_only: false,
            late_fails: false,
        }
    }
}

// === impl Run ===

impl Run {
    /// All instances, group by group.
    pub fn instances(&self) -> impl Iterator<Item = InstanceName> + '_ {
        self.groups.iter().flat_map(|g| (0..g.instances).map(|i| InstanceName::new(g.id.clone(), i)))
    }

    /// How many instances there are.
    pub fn instance_count(&self) -> u32 {
        self.groups.iter().map(|g| g.instances).sum()
    }
}

//! The shape of a link: what happens to a packet on its way from one instance to another.
//!
//! Only the meaning is here. How a TOML file spells a shape belongs in `composition`, how an SDK spells it belongs
//! in the sidecar's `request`, and the arithmetic that carries it out belongs in the planes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a directed link does to each packet.
///
/// The default is a link without any effect. Effects act in the order of the fields' documentation in
/// `docs/network.md`: filter, loss, duplicate, corrupt, bandwidth (with its queue), latency and jitter, reorder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkShape {
    /// Whether packets pass at all.
    pub filter: Filter,
    /// Time on the way, after serialisation. At most one hour.
    pub latency: Duration,
    /// Spread of the latency; how it is spread, and whether packets may overtake each other.
    pub jitter: Jitter,
    /// Bits per second on the wire, headers of the Ethernet frame included; `None` is unlimited.
    pub bandwidth: Option<u64>,
    /// The queue in front of the bandwidth.
    pub queue: Queue,
    /// Which packets never arrive.
    pub loss: Loss,
    /// Share of packets that get one flipped bit.
    pub corrupt: Chance,
    /// Share of packets that skip the latency (netem's `reorder`): they depart at once, past those that wait.
    pub reorder: Chance,
    /// With `reorder`: only every `gap`-th packet is a candidate; 0 and 1 make every packet one.
    pub reorder_gap: u32,
    /// Share of packets that arrive twice.
    pub duplicate: Chance,
}

/// A probability with memory: `percent` in 0..=100, `correlation` in 0..=100 percent with the decision before.
///
/// The correlated draw is netem's, `x = (1 - c) * fresh + c * last`, seen through its own long-run distribution, so that
/// the share asked for is the share that happens (`docs/network.md`).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Chance {
    /// Probability in percent, 0 to 100.
    pub percent: f64,
    /// Correlation with the previous draw in percent, 0 to 100.
    pub correlation: f64,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Each packet by itself, or correlated with the one before.
    Random(Chance),
    /// A two-state Markov chain (Gilbert-Elliott): all values in percent, 0 to 100.
    GilbertElliott {
        /// Probability of going from the good state to the bad one, tested before each packet.
        p: f64,
        /// Probability of going from the bad state to the good one.
        r: f64,
        /// Loss in the bad state (netem's `1-h`).
        bad: f64,
        /// Loss in the good state (netem's `1-k`).
        good: f64,
    },
}

/// Whether packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// They do.
    #[default]
    Accept,
    /// They don't, and the sender is told: TCP by a reset, everything else by an ICMP error.
    Reject,
    /// They don't, silently.
    Drop,
}

/// Spread of the latency.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Jitter {
    /// For `Uniform` the half width, for `Normal` the standard deviation, for `Pareto` the scale above the latency.
    pub spread: Duration,
    /// How the deviation is drawn.
    pub distribution: Distribution,
    /// Correlation with the previous draw in percent, 0 to 100.
    pub correlation: f64,
    /// Whether a packet may overtake the one before because its draw was shorter. Off unless asked for.
    pub may_reorder: bool,
}

/// How a deviation of the latency is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Every value in `latency ± spread` alike.
    #[default]
    Uniform,
    /// A bell curve around `latency` with standard deviation `spread`.
    Normal,
    /// A heavy tail above `latency`.
    Pareto,
}

/// The queue in front of a bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// How much may wait.
    pub limit: QueueLimit,
    /// What happens to packets that wait.
    pub discipline: Discipline,
}

/// How much may wait in front of a bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueLimit {
    /// What never drops below the link's bandwidth-delay product (`docs/network.md` has the formula).
    #[default]
    Auto,
    /// This many packets (segments of a super-packet each count).
    Packets(u32),
    /// This many bytes.
    Bytes(u64),
    /// What the bandwidth carries in this time.
    Time(Duration),
}

/// What happens to packets that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discipline {
    /// A packet that finds the queue full is dropped.
    #[default]
    TailDrop,
    /// CoDel (RFC 8289): packets that waited too long for too long are dropped at the head.
    Codel,
}

// === impl Loss ===

impl Default for Loss {
    fn default() -> Self {
        Loss::Random(Chance::default())
    }
}

// === impl Chance ===

impl Chance {
    /// An independent probability.
    pub const fn percent(percent: f64) -> Self {
        Chance { percent, correlation: 0.0 }
    }

    /// Whether this can never happen.
    pub fn is_never(&self) -> bool {
        self.percent <= 0.0
    }
}

// === impl LinkShape ===

impl Default for LinkShape {
    fn default() -> Self {
        LinkShape {
            filter: Filter::Accept,
            latency: Duration::ZERO,
            jitter: Jitter::default(),
            bandwidth: None,
            queue: Queue::default(),
            loss: Loss::default(),
            corrupt: Chance::default(),
            reorder: Chance::default(),
            reorder_gap: 0,
            duplicate: Chance::default(),
        }
    }
}

impl LinkShape {
    /// The longest latency a link can have.
    pub const MAX_LATENCY: Duration = Duration::from_secs(3600);

    /// Whether this shape leaves every packet as it is.
    pub fn is_transparent(&self) -> bool {
        *self == LinkShape { queue: self.queue, reorder_gap: self.reorder_gap, ..LinkShape::default() }
    }
}

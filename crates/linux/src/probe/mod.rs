//! What this machine offers to a lab, found by trying it in a throw-away process; and, where something is missing, why and
//! what mends it. Printing it belongs to `healthcheck`; what of it a run needs belongs to the runner. What the kernel knows of
//! shaping is asked of `tc`.

mod attempt;
mod facts;

pub use attempt::lab;
pub use facts::{Cgroups, Facts, Limits};

/// Something a lab can make use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// A user namespace of one's own, with power over what is made in it. Every lab needs it.
    UserNamespace,
    /// Network, PID, mount, IPC and UTS namespaces inside it. Every lab needs them.
    Namespaces,
    /// A new `/proc` inside. Every lab needs it.
    MountProc,
    /// File systems in memory inside. Every lab needs them.
    MountTmpfs,
    /// TAP devices, the switch's usual way to an instance.
    Tap,
    /// TAP devices that take large segments: without them TCP is about ten times slower.
    TapOffload,
    /// Packet sockets with a virtio-net header, the switch's way without TAP devices.
    PacketSocket,
    /// Pairs of interfaces, for the kernel plane and for packet sockets.
    Veth,
    /// Bridges, for the kernel plane.
    Bridge,
    /// IFB devices, for shaping what arrives, on the kernel plane.
    Ifb,
    /// HTB, which the kernel plane is made of.
    Htb,
    /// TBF, with which it cuts super-packets.
    Tbf,
    /// Programs for its filters.
    Bpf,
    /// Delay, loss and all else that its HTB has not.
    Netem,
    /// Duplication beside other shapes of one interface.
    Duplication,
    /// The place for filters of what arrives.
    Clsact,
    /// Sending what arrives to another interface.
    Redirection,
}

impl Feature {
    /// All of them, those first on which others depend.
    pub const ALL: [Self; 17] = [
        Self::UserNamespace,
        Self::Namespaces,
        Self::MountProc,
        Self::MountTmpfs,
        Self::Tap,
        Self::TapOffload,
        Self::PacketSocket,
        Self::Veth,
        Self::Bridge,
        Self::Ifb,
        Self::Htb,
        Self::Tbf,
        Self::Bpf,
        Self::Netem,
        Self::Duplication,
        Self::Clsact,
        Self::Redirection,
    ];

    /// A few words for a list.
    pub fn title(self) -> &'static str {
        match self {
            Self::UserNamespace => "user namespace",
            Self::Namespaces => "network, PID, mount, IPC and UTS namespaces",
            Self::MountProc => "mounting /proc",
            Self::MountTmpfs => "mounting tmpfs",
            Self::Tap => "TAP devices",
            Self::TapOffload => "TAP offloads (TSO, USO)",
            Self::PacketSocket => "packet sockets",
            Self::Veth => "veth pairs",
            Self::Bridge => "bridges",
            Self::Ifb => "IFB devices",
            Self::Htb => "HTB, classes with rates",
            Self::Tbf => "TBF, which cuts super-packets",
            Self::Bpf => "cls_bpf, programs for filters",
            Self::Netem => "netem, with rates of its own",
            Self::Duplication => "a duplicating netem beside another one",
            Self::Clsact => "clsact, a place for filters of what arrives",
            Self::Redirection => "mirred, which redirects what arrives",
        }
    }
}

/// What was found about a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub feature: Feature,
    /// Whether it is there.
    pub state: State,
}

/// Whether something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was tried and worked.
    Works {
        /// What is worth knowing about it.
        detail: Option<String>,
    },
    /// It was tried and refused.
    Missing {
        /// What the kernel said, and what that means here.
        reason: String,
        /// The command that mends it, where there is one.
        remedy: Option<String>,
    },
    /// It could not be tried, because something it depends on is missing.
    Untried {
        /// What that is.
        needs: Feature,
    },
}

impl State {
    /// Whether it was tried and worked.
    pub fn works(&self) -> bool {
        matches!(self, Self::Works { .. })
    }
}

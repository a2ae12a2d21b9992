//! One interface of the kernel's: brought from what is in force on it to what is wanted, in both directions, and asked what
//! has passed.
//!
//! What leaves it has its queues on the interface itself ([`super::tree`]), what arrives takes a detour ([`super::arrivals`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use testground_linux::Errno;
use testground_linux::route::{LinkStats, RouteSocket};
use testground_linux::tc::{NetlinkError, Stats, TcSocket};
use testground_model::shape::LinkShape;

use super::arrivals::Arrivals;
use super::program::End;
use super::tree::{MOST_CLASSES, Sockets, Tree};
use super::wanted::{ClassKey, Wanted};

/// Why an interface can't be shaped.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Another program has put its own queue there.
    #[error(
        "interface {interface} has a queue of somebody else's ({kind} {handle}), which is left alone; \
         `tc qdisc del dev {interface} {place}` removes it"
    )]
    Foreign {
        /// The interface's name.
        interface: String,
        /// The kind of queue.
        kind: String,
        /// Its handle.
        handle: String,
        /// Where it hangs, as `tc` calls it.
        place: &'static str,
    },
    /// It is no longer there.
    #[error("interface {interface} has vanished")]
    Vanished {
        /// The name it had.
        interface: String,
    },
    /// More distinct shapes than an interface can have.
    #[error("interface {interface} would need {wanted} classes; {} is the most", MOST_CLASSES)]
    TooMany {
        /// The interface's name.
        interface: String,
        /// How many.
        wanted: usize,
    },
    /// What arrives can't be shaped by this kernel.
    #[error(
        "interface {interface}: {source}: what arrives can't be shaped without {what} (kernel module {module}: modprobe {module})"
    )]
    Missing {
        /// The interface's name.
        interface: String,
        /// What the kernel lacks.
        what: &'static str,
        /// What brings it.
        module: &'static str,
        /// The kernel's answer.
        source: Box<NetlinkError>,
    },
    /// The kernel refused a part; what was in force before is again.
    #[error("interface {interface}: {source}")]
    Refused {
        /// The interface's name.
        interface: String,
        /// What was refused.
        source: Box<NetlinkError>,
    },
    /// The kernel refused a part, and to put back what was in force before.
    #[error("interface {interface}: {source}; and what was in force before could not be put back: {back}")]
    Torn {
        /// The interface's name.
        interface: String,
        /// What was refused first.
        source: Box<NetlinkError>,
        /// What was refused then.
        back: Box<NetlinkError>,
    },
}

/// What becomes of a queue that another program has put on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Others {
    /// It stays, and shaping is refused.
    #[default]
    Leave,
    /// It is replaced.
    Replace,
}

/// What has passed an interface.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// The interface's own counters.
    pub link: LinkStats,
    /// By class, those that are gone too: its shape, what has left it, and what was dropped or waits in it.
    pub classes: BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>,
    /// The same for what strangers sent.
    pub incoming: BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>,
}

/// An interface with what is in force on it. It is reached through its namespace's sockets, from any thread.
#[derive(Debug)]
pub struct Interface {
    own: Tree,
    arrivals: Arrivals,
    wanted: Wanted,
    sockets: Sockets,
}

// === impl Interface ===

impl Interface {
    /// An interface of the namespace that the sockets were opened in. What an earlier sidecar left in force is read, and stays
    /// as far as it is wanted.
    ///
    /// # Errors
    /// The interface is not there, or has another program's queue that is to stay.
    pub fn adopt(
        name: &str,
        index: u32,
        tc: TcSocket,
        route: RouteSocket,
        others: Others,
    ) -> Result<Interface, KernelError> {
        let mut sockets = Sockets { tc, route };
        let own = Tree::adopt(name, index, End::Destination, others, &mut sockets)?;
        let arrivals = Arrivals::adopt(name, index, others, &mut sockets)?;
        Ok(Interface { own, arrivals, wanted: Wanted::default(), sockets })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.own.name
    }

    /// What is in force, as it was asked for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Puts what is wanted in force: all of it, or nothing. The answer is how many messages it took; none when it is in force.
    ///
    /// # Errors
    /// [`KernelError`]; what was in force before is again, but for [`KernelError::Torn`].
    pub fn apply(&mut self, wanted: &Wanted) -> Result<usize, KernelError> {
        let mut messages = self.arrivals.apply(wanted.incoming.as_deref(), &mut self.sockets)?;
        match self.own.apply(wanted, &mut self.sockets) {
            Ok(more) => messages += more,
            Err(error) => {
                let back = self.arrivals.apply(self.wanted.incoming.as_deref(), &mut self.sockets);
                return Err(match (error, back) {
                    (
                        KernelError::Refused { interface, source },
                        Err(KernelError::Refused { source: back, .. }),
                    ) => KernelError::Torn { interface, source, back },
                    (error, _) => error,
                });
            }
        }
        self.wanted = wanted.clone();
        Ok(messages)
    }

    /// What has passed so far.
    ///
    /// # Errors
    /// The interface is no longer there.
    pub fn counters(&mut self) -> Result<Counters, KernelError> {
        let Sockets { tc, route } = &mut self.sockets;
        let link = route.link_by_index(self.own.index).map_err(|e| refused(&self.own.name, e))?;
        let link = link.ok_or_else(|| KernelError::Vanished { interface: self.own.name.clone() })?.stats;
        Ok(Counters { link, classes: self.own.passed(tc)?, incoming: self.arrivals.passed(tc)? })
    }

    /// Takes all of it away again: the kernel's own queue is back, and this plane's routes are gone.
    ///
    /// # Errors
    /// The first refusal; what is left is tried all the same.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        let arrivals = self.arrivals.clear(&mut self.sockets);
        let own = self.own.clear(&mut self.sockets);
        self.wanted = Wanted::default();
        arrivals.and(own)
    }
}

pub(super) fn refused(interface: &str, source: NetlinkError) -> KernelError {
    let interface = interface.to_owned();
    match source.errno() {
        Some(Errno::NODEV) => KernelError::Vanished { interface },
        _ => KernelError::Refused { interface, source: Box::new(source) },
    }
}

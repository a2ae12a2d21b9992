//! Queues of interfaces: qdiscs, classes and filters over netlink (tc(8)), as the kernel plane builds shapes of them.
//!
//! The messages are written here, because the crates for route messages know neither HTB nor netem; what `tc` sends for the
//! same things is kept beside the tests. Which class a rule gets belongs to the plane.

mod attributes;
mod change;
mod dump;
mod filter;
#[cfg(test)]
mod golden;
mod htb;
mod netem;
mod probe;
mod psched;
mod tbf;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

pub use self::change::{Action, Qdisc, TcChange};
pub use self::dump::{FoundClass, FoundFilter, FoundQdisc, Settings, Stats};
pub use self::filter::{BpfInstruction, Filter, Target, U32Bucket, U32Key, U32Target};
pub use self::htb::{Htb, HtbClass};
pub use self::netem::{Loss, Netem, Share, Slot};
pub(crate) use self::probe::abilities_here;
pub use self::probe::{Ability, AbilityState, abilities};
pub use self::tbf::Tbf;
pub use crate::netlink::NetlinkError;
use crate::netlink::{Dump, Netlink, Request};
use crate::netns::Netns;

/// The number of a qdisc or class: major and minor, 16 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u32);

impl Handle {
    /// None, or whichever there is.
    pub const NONE: Self = Self(0);
    /// The place of an interface's own qdisc.
    pub const ROOT: Self = Self(0xffff_ffff);
    /// The place of `ingress` and `clsact`.
    pub const INGRESS: Self = Self(0xffff_fff1);
    /// The handle that `ingress` and `clsact` have.
    pub const INGRESS_QDISC: Self = Self(0xffff_0000);
    /// Under `clsact`: the filters of what arrives.
    pub const CLSACT_INGRESS: Self = Self(0xffff_fff2);
    /// Under `clsact`: the filters of what leaves.
    pub const CLSACT_EGRESS: Self = Self(0xffff_fff3);

    /// From its two parts. A qdisc's minor is 0.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// The qdisc's part.
    pub const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The class's part.
    pub const fn minor(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ROOT => f.write_str("root"),
            Self::INGRESS => f.write_str("ingress"),
            Self::NONE => f.write_str("none"),
            Self(_) if self.minor() == 0 => write!(f, "{:x}:", self.major()),
            Self(_) => write!(f, "{:x}:{:x}", self.major(), self.minor()),
        }
    }
}

/// The packets that a filter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// All of them, ARP too.
    All,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
}

impl Protocol {
    /// Its number in an Ethernet header (3 stands for all; linux/if_ether.h).
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::All => 0x0003,
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Arp => 0x0806,
        }
    }
}

/// A conversation about the queues of one network namespace: that in which it was opened.
#[derive(Debug)]
pub struct TcSocket {
    netlink: Netlink,
}

impl TcSocket {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// Opens one in another network namespace.
    ///
    /// # Errors
    /// When it can't be entered.
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        netns.enter(Self::open)?
    }

    /// Makes changes in order, many in one system call, and returns the first failure. Changes after it may have been made.
    ///
    /// # Errors
    /// The first refusal, with what was refused.
    pub fn apply(&mut self, changes: &[TcChange]) -> Result<(), NetlinkError> {
        let requests: Vec<Request> = changes.iter().map(TcChange::request).collect();
        self.netlink.execute_all(&requests)
    }

    /// Makes changes in order, whatever becomes of those before, and returns the result of each.
    pub fn apply_each(&mut self, changes: &[TcChange]) -> Vec<Result<(), NetlinkError>> {
        let requests: Vec<Request> = changes.iter().map(TcChange::request).collect();
        self.netlink.execute(&requests)
    }

    /// The qdiscs of an interface, those that the kernel made by itself too.
    ///
    /// # Errors
    /// [`NetlinkError::Interrupted`] when they change all the time.
    pub fn qdiscs(&mut self, index: u32) -> Result<Vec<FoundQdisc>, NetlinkError> {
        let what = format!("list the qdiscs of interface {index}");
        let header = (Handle::NONE, Handle::NONE, 0);
        let mut found = parse(self.dump(&what, RTM_GETQDISC, index, header)?, &what, dump::qdisc)?;
        // Kernels without strict checking ignore the index in the request.
        found.retain(|qdisc| qdisc.index == index);
        Ok(found)
    }

    /// The classes of an interface.
    ///
    /// # Errors
    /// As for [`TcSocket::qdiscs`].
    pub fn classes(&mut self, index: u32) -> Result<Vec<FoundClass>, NetlinkError> {
        self.classes_of(index, Handle::NONE)
    }

    /// The classes of one qdisc of an interface. Kernels (6.1 is one) may leave those of inner qdiscs out of a list of all.
    ///
    /// # Errors
    /// As for [`TcSocket::qdiscs`].
    pub fn classes_of(&mut self, index: u32, qdisc: Handle) -> Result<Vec<FoundClass>, NetlinkError> {
        let what = format!("list the classes of interface {index}");
        let header = (Handle::NONE, qdisc, 0);
        parse(self.dump(&what, RTM_GETTCLASS, index, header)?, &what, dump::class)
    }

    /// The filters of a qdisc.
    ///
    /// # Errors
    /// As for [`TcSocket::qdiscs`]; `EINVAL` when there is no such qdisc.
    pub fn filters(&mut self, index: u32, parent: Handle) -> Result<Vec<FoundFilter>, NetlinkError> {
        let what = format!("list the filters of {parent} of interface {index}");
        let found = self.dump(&what, RTM_GETTFILTER, index, (Handle::NONE, parent, 0))?;
        parse(found, &what, dump::filter)
    }

    fn dump(
        &mut self,
        what: &str,
        kind: u16,
        index: u32,
        header: (Handle, Handle, u32),
    ) -> Result<Dump, NetlinkError> {
        let body = change::header_bytes(index, header);
        self.netlink.dump(&Request { what: what.to_owned(), kind, flags: 0, body })
    }
}

impl AsFd for TcSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

fn parse<T>(messages: Dump, what: &str, read: fn(&[u8]) -> Option<T>) -> Result<Vec<T>, NetlinkError> {
    messages
        .iter()
        .map(|(_, body)| {
            read(body).ok_or_else(|| NetlinkError::Malformed {
                what: what.to_owned(),
                reason: format!("a message of {} bytes is too short", body.len()),
            })
        })
        .collect()
}

// linux/rtnetlink.h
const RTM_GETQDISC: u16 = 38;
const RTM_GETTCLASS: u16 = 42;
const RTM_GETTFILTER: u16 = 46;

//! One change to the queues of an interface: in words for errors, and as a message for the kernel.

use std::fmt;

use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::tc::TcHeader;

use super::attributes::Attributes;
use super::filter::Filter;
use super::htb::{Htb, HtbClass};
use super::netem::Netem;
use super::tbf::Tbf;
use super::{Handle, Protocol};
use crate::netlink::Request;

/// A queueing discipline to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qdisc {
    /// A tree of classes with rates.
    Htb(Htb),
    /// Delay, loss and the like.
    Netem(Netem),
    /// A token bucket, which cuts what is longer than it holds.
    Tbf(Tbf),
    /// A plain queue.
    Pfifo {
        /// How many packets wait at most.
        limit: u32,
    },
    /// No queue: every packet is dropped, and whoever sent it is told nothing. Every kernel with queues has it.
    Blackhole,
    /// No queue, but a place for filters of what arrives and of what leaves.
    Clsact,
    /// No queue, but a place for filters of what arrives.
    Ingress,
}

/// One change to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcChange {
    /// The interface.
    pub index: u32,
    /// What is done.
    pub action: Action,
}

/// What is done to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes a qdisc; `EEXIST` when the place is taken.
    AddQdisc {
        /// The class or place it hangs below.
        parent: Handle,
        /// Its handle; [`Handle::NONE`]: the kernel chooses one.
        handle: Handle,
        /// What it is.
        qdisc: Qdisc,
    },
    /// Makes a qdisc, in place of the one there.
    ReplaceQdisc {
        /// The class or place it hangs below.
        parent: Handle,
        /// Its handle.
        handle: Handle,
        /// What it is.
        qdisc: Qdisc,
    },
    /// Changes the settings of a qdisc, all of them, without losing what waits in it.
    ChangeQdisc {
        /// The class or place it hangs below.
        parent: Handle,
        /// Its handle.
        handle: Handle,
        /// Its new settings, of the same kind.
        qdisc: Qdisc,
    },
    /// Removes a qdisc, with all below it.
    DeleteQdisc {
        /// The class or place it hangs below.
        parent: Handle,
        /// Its handle; [`Handle::NONE`]: whichever is there.
        handle: Handle,
    },
    /// Makes a class of an HTB.
    AddClass {
        /// The qdisc, or the class it borrows from.
        parent: Handle,
        /// Its handle.
        handle: Handle,
        /// Its rates.
        class: HtbClass,
    },
    /// Changes a class of an HTB.
    ChangeClass {
        /// The qdisc, or the class it borrows from.
        parent: Handle,
        /// Its handle.
        handle: Handle,
        /// Its new rates.
        class: HtbClass,
    },
    /// Removes a class; `EBUSY` while filters send to it.
    DeleteClass {
        /// Its handle.
        handle: Handle,
    },
    /// Makes a filter.
    AddFilter {
        /// The qdisc whose packets it sees.
        parent: Handle,
        /// The lower the earlier; 1 or more.
        priority: u16,
        /// The packets it sees. One priority is of one protocol and one kind of filter.
        protocol: Protocol,
        /// What it is.
        filter: Filter,
    },
    /// Removes one filter.
    DeleteFilter {
        /// The qdisc.
        parent: Handle,
        /// Its priority.
        priority: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The kernel's name for its kind.
        kind: &'static str,
        /// Its own number, as listed.
        handle: u32,
    },
    /// Removes every filter of a priority.
    DeletePriority {
        /// The qdisc.
        parent: Handle,
        /// The priority.
        priority: u16,
        /// Its protocol.
        protocol: Protocol,
    },
}

impl Qdisc {
    /// The kernel's name for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Htb(_) => "htb",
            Self::Netem(_) => "netem",
            Self::Tbf(_) => "tbf",
            Self::Pfifo { .. } => "pfifo",
            Self::Blackhole => "blackhole",
            Self::Clsact => "clsact",
            Self::Ingress => "ingress",
        }
    }

    fn options(&self, replacing: bool) -> Attributes {
        match self {
            Self::Htb(htb) => htb.options(),
            Self::Netem(netem) => netem.options(replacing),
            Self::Tbf(tbf) => tbf.options(),
            Self::Pfifo { limit } => Attributes::starting_with(&[*limit]),
            Self::Blackhole | Self::Clsact | Self::Ingress => Attributes::default(),
        }
    }
}

impl TcChange {
    pub(super) fn request(&self) -> Request {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let (kind, flags, header, attributes) = match &self.action {
            Action::AddQdisc { parent, handle, qdisc } => {
                (RTM_NEWQDISC, create, (*handle, *parent, 0), Some((qdisc.kind(), qdisc.options(false))))
            }
            Action::ReplaceQdisc { parent, handle, qdisc } => (
                RTM_NEWQDISC,
                NLM_F_CREATE | NLM_F_REPLACE,
                (*handle, *parent, 0),
                Some((qdisc.kind(), qdisc.options(true))),
            ),
            Action::ChangeQdisc { parent, handle, qdisc } => {
                (RTM_NEWQDISC, 0, (*handle, *parent, 0), Some((qdisc.kind(), qdisc.options(true))))
            }
            Action::DeleteQdisc { parent, handle } => (RTM_DELQDISC, 0, (*handle, *parent, 0), None),
            Action::AddClass { parent, handle, class } => {
                (RTM_NEWTCLASS, create, (*handle, *parent, 0), Some(("htb", class.options())))
            }
            Action::ChangeClass { parent, handle, class } => {
                (RTM_NEWTCLASS, 0, (*handle, *parent, 0), Some(("htb", class.options())))
            }
            Action::DeleteClass { handle } => (RTM_DELTCLASS, 0, (*handle, Handle::NONE, 0), None),
            Action::AddFilter { parent, priority, protocol, filter } => (
                RTM_NEWTFILTER,
                create,
                (Handle(filter.handle()), *parent, info(*priority, *protocol)),
                Some((filter.kind(), filter.options())),
            ),
            Action::DeleteFilter { parent, priority, protocol, kind, handle } => {
                let header = (Handle(*handle), *parent, info(*priority, *protocol));
                return self.finish(RTM_DELTFILTER, 0, header, Attributes::default().text(TCA_KIND, kind));
            }
            Action::DeletePriority { parent, priority, protocol } => {
                (RTM_DELTFILTER, 0, (Handle::NONE, *parent, info(*priority, *protocol)), None)
            }
        };
        let mut body = Attributes::default();
        if let Some((name, options)) = attributes {
            body.text(TCA_KIND, name);
            // Those that have no settings are sent without, as tc does.
            if !options.as_bytes().is_empty() {
                body.bytes(TCA_OPTIONS, options.as_bytes());
            }
        }
        self.finish(kind, flags, header, &body)
    }

    fn finish(
        &self,
        kind: u16,
        flags: u16,
        header: (Handle, Handle, u32),
        attributes: &Attributes,
    ) -> Request {
        let mut body = header_bytes(self.index, header);
        body.extend(attributes.as_bytes());
        Request { what: self.to_string(), kind, flags, body }
    }
}

/// `struct tcmsg`: the interface, then handle, parent and what else the kind of message says.
pub(super) fn header_bytes(index: u32, (handle, parent, info): (Handle, Handle, u32)) -> Vec<u8> {
    let header = TcHeader {
        family: AddressFamily::Unspec,
        index: index as i32,
        handle: handle.0.into(),
        parent: parent.0.into(),
        info,
    };
    let mut bytes = vec![0; header.buffer_len()];
    header.emit(&mut bytes);
    bytes
}

/// A filter's priority and its protocol, which is in network order.
pub(super) fn info(priority: u16, protocol: Protocol) -> u32 {
    u32::from(priority) << 16 | u32::from(protocol.ethertype().to_be())
}

impl fmt::Display for TcChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.index;
        match &self.action {
            Action::AddQdisc { parent, handle, qdisc } => {
                write!(f, "add qdisc {} {handle} below {parent} of interface {index}", qdisc.kind())
            }
            Action::ReplaceQdisc { parent, handle, qdisc } => {
                write!(f, "replace qdisc {} {handle} below {parent} of interface {index}", qdisc.kind())
            }
            Action::ChangeQdisc { parent, handle, qdisc } => {
                write!(f, "change qdisc {} {handle} below {parent} of interface {index}", qdisc.kind())
            }
            Action::DeleteQdisc { parent, .. } => {
                write!(f, "delete the qdisc below {parent} of interface {index}")
            }
            Action::AddClass { parent, handle, .. } => {
                write!(f, "add class {handle} below {parent} of interface {index}")
            }
            Action::ChangeClass { handle, .. } => write!(f, "change class {handle} of interface {index}"),
            Action::DeleteClass { handle } => write!(f, "delete class {handle} of interface {index}"),
            Action::AddFilter { parent, priority, filter, .. } => {
                write!(
                    f,
                    "add filter {} of priority {priority} to {parent} of interface {index}",
                    filter.kind()
                )
            }
            Action::DeleteFilter { parent, priority, kind, handle, .. } => {
                write!(
                    f,
                    "delete filter {kind} {handle:x} of priority {priority} of {parent} of interface {index}"
                )
            }
            Action::DeletePriority { parent, priority, .. } => {
                write!(f, "delete the filters of priority {priority} of {parent} of interface {index}")
            }
        }
    }
}

// linux/rtnetlink.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTCLASS: u16 = 40;
const RTM_DELTCLASS: u16 = 41;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;

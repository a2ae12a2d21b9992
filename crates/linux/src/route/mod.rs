//! Interfaces, addresses, routes and neighbours over rtnetlink (rtnetlink(7)).
//!
//! What is asked for is a [`Change`]; many go in one system call. Which interfaces and routes an instance gets belongs to the
//! sidecar. Shaping belongs to `tc`.

mod address;
mod change;
mod link;
mod neighbour;
mod table;

use std::time::Duration;

use netlink_packet_core::Emitable;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::io::Errno;

pub use self::address::Address;
pub use self::change::{Change, VethEnd};
pub use self::link::{Link, LinkChange, LinkStats};
pub use self::neighbour::Neighbour;
pub use self::table::{Route, RouteKind};
pub use crate::netlink::NetlinkError;
use crate::netlink::{Netlink, Request};
use crate::netns::Netns;

/// A hardware address.
pub type Mac = [u8; 6];

/// A conversation about one network namespace: that in which it was opened. It may be used from anywhere then.
#[derive(Debug)]
pub struct RouteSocket {
    netlink: Netlink,
}

impl RouteSocket {
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
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
        let requests: Vec<Request> = changes.iter().map(Change::request).collect();
        self.netlink.execute_all(&requests)
    }

    /// Makes changes in order, whatever becomes of those before, and returns the result of each.
    pub fn apply_each(&mut self, changes: &[Change<'_>]) -> Vec<Result<(), NetlinkError>> {
        let requests: Vec<Request> = changes.iter().map(Change::request).collect();
        self.netlink.execute(&requests)
    }

    /// Every interface.
    ///
    /// # Errors
    /// [`NetlinkError::Interrupted`] when interfaces come and go all the time.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let what = "list interfaces".to_owned();
        let request =
            Request { what: what.clone(), kind: RTM_GETLINK, flags: 0, body: emit(&LinkMessage::default()) };
        let found = self.netlink.dump(&request)?;
        found.iter().map(|(_, body)| Link::parse(body).map_err(|e| malformed(&what, e))).collect()
    }

    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// As for [`RouteSocket::link_by_index`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(format!("look at interface {name}"), &message)
    }

    /// The interface of this index, if there is one.
    ///
    /// # Errors
    /// None in practice.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(format!("look at interface {index}"), &message)
    }

    /// Waits until an interface that was set up can carry packets. The kernel connects its queue a moment after the carrier
    /// is there, by a worker of its own; what is sent before is lost without a word.
    ///
    /// # Errors
    /// [`NetlinkError::TimedOut`] after `limit`, [`NetlinkError::Refused`] with `ENODEV` when it is gone.
    pub fn await_running(&mut self, index: u32, limit: Duration) -> Result<Link, NetlinkError> {
        let what = || format!("wait until interface {index} can carry packets");
        let mut message = LinkMessage::default();
        message.header.index = index;
        let request = Request { what: what(), kind: RTM_GETLINK, flags: 0, body: emit(&message) };
        let found = self.netlink.await_event(RTNLGRP_LINK, limit, |netlink| {
            let link = Link::parse(&netlink.query(&request)?).map_err(|e| malformed(&request.what, e))?;
            let connected = link.running && link.qdisc.as_deref() != Some("noop");
            Ok(connected.then_some(link))
        })?;
        found.ok_or_else(|| NetlinkError::TimedOut { what: what(), seconds: limit.as_secs() })
    }

    /// The addresses of an interface, or of all.
    ///
    /// # Errors
    /// As for [`RouteSocket::links`].
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<Address>, NetlinkError> {
        let what = "list addresses".to_owned();
        let request =
            Request { what: what.clone(), kind: RTM_GETADDR, flags: 0, body: address::dump_body(index) };
        let mut found = Vec::new();
        for (_, body) in self.netlink.dump(&request)? {
            let address = Address::parse(&body).map_err(|e| malformed(&what, e))?;
            // Kernels without strict checking ignore the index in the request.
            found.extend(address.filter(|address| index.is_none_or(|index| address.index == index)));
        }
        Ok(found)
    }

    /// Takes every address from an interface, those that the kernel gave it too.
    ///
    /// # Errors
    /// The first refusal.
    pub fn flush_addresses(&mut self, index: u32) -> Result<(), NetlinkError> {
        let addresses = self.addresses(Some(index))?;
        let changes: Vec<Change<'_>> = addresses
            .iter()
            .map(|address| Change::RemoveAddress { index, address: address.network })
            .collect();
        for result in self.apply_each(&changes) {
            match result {
                // Secondary addresses of IPv4 go with their primary one.
                Err(error) if error.errno() == Some(Errno::ADDRNOTAVAIL) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The routes of both families, in every table.
    ///
    /// # Errors
    /// As for [`RouteSocket::links`].
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let what = "list routes".to_owned();
        let mut found = Vec::new();
        for body in table::dump_bodies() {
            let request = Request { what: what.clone(), kind: RTM_GETROUTE, flags: 0, body };
            for (_, body) in self.netlink.dump(&request)? {
                found.extend(Route::parse(&body).map_err(|e| malformed(&what, e))?);
            }
        }
        Ok(found)
    }

    /// The known neighbours of an interface, or of all.
    ///
    /// # Errors
    /// As for [`RouteSocket::links`].
    pub fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>, NetlinkError> {
        let what = "list neighbours".to_owned();
        let request =
            Request { what: what.clone(), kind: RTM_GETNEIGH, flags: 0, body: neighbour::dump_body() };
        let mut found = Vec::new();
        for (_, body) in self.netlink.dump(&request)? {
            let neighbour = Neighbour::parse(&body).map_err(|e| malformed(&what, e))?;
            found.extend(neighbour.filter(|known| index.is_none_or(|index| known.index == index)));
        }
        Ok(found)
    }

    fn one_link(&mut self, what: String, message: &LinkMessage) -> Result<Option<Link>, NetlinkError> {
        let request = Request { what: what.clone(), kind: RTM_GETLINK, flags: 0, body: emit(message) };
        match self.netlink.query(&request) {
            Ok(body) => Link::parse(&body).map(Some).map_err(|e| malformed(&what, e)),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The bytes of a message.
fn emit(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn malformed(what: &str, reason: netlink_packet_core::DecodeError) -> NetlinkError {
    NetlinkError::Malformed { what: what.to_owned(), reason: reason.to_string() }
}

// linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

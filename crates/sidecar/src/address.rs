//! Which addresses instances get: IPv4 and IPv6 from a network's subnet. Hardware addresses follow from the port
//! ([`crate::plane::switch::table::mac_of`]).
//!
//! Pure. The addresses of a run are the same every time: they follow the order of the composition's groups, not the
//! order in which instances come up.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use testground_model::address;
use thiserror::Error;

use crate::plan::PortId;

/// The name of the network on which instances reach the lab's services. No data network can have it.
pub const CONTROL_NETWORK: &str = "control";

/// The control network's subnet, and the lab's own address in it (that of the original's Docker network).
pub const CONTROL_GATEWAY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(192, 18, 0, 1), 16);

/// The addresses of a subnet, and who has them.
///
/// An address is known by its distance from the start of the subnet. Distance 0 is the subnet's name, 1 the network's
/// own (the gateway's), and the last address of an IPv4 subnet is its broadcast address (RFC 919): none of them is
/// given away.
#[derive(Debug, Clone)]
pub struct Pool {
    network: String,
    subnet: IpNet,
    holders: HashMap<u128, PortId>,
    /// How many candidates have been looked at.
    next: u128,
}

/// Why an address can't be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Every address of the subnet is taken.
    #[error("network `{network}`: all {size} addresses of {subnet} are taken")]
    Exhausted {
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// How many instances it has room for.
        size: u128,
    },
    /// It lies elsewhere.
    #[error("{address} is outside of network `{network}` ({subnet})")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// It is nobody's to take.
    #[error("{address} is {what} of network `{network}` ({subnet})")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// What it is instead.
        what: &'static str,
        /// The network's name.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// Somebody else has it.
    #[error("{address} on network `{network}` is taken")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Who has it.
        holder: PortId,
    },
}

// === impl Pool ===

impl Pool {
    /// The pool of a network's subnet, with nothing given away.
    pub fn new(network: impl Into<String>, subnet: IpNet) -> Pool {
        Pool { network: network.into(), subnet: subnet.trunc(), holders: HashMap::new(), next: 0 }
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The network's own address: the first one.
    pub fn own(&self) -> IpAddr {
        self.address(1)
    }

    /// Gives the next free address to a port, in the order of [`address::candidate`].
    pub fn take(&mut self, port: PortId) -> Result<IpAddr, AddressError> {
        while let Some(offset) = address::candidate(self.next, self.limit()) {
            self.next += 1;
            if let Entry::Vacant(free) = self.holders.entry(offset) {
                free.insert(port);
                return Ok(self.address(offset));
            }
        }
        let free = (2..self.limit()).find(|offset| !self.holders.contains_key(offset));
        match free {
            Some(offset) => {
                self.holders.insert(offset, port);
                Ok(self.address(offset))
            }
            None => Err(AddressError::Exhausted {
                network: self.network.clone(),
                subnet: self.subnet,
                size: self.limit().saturating_sub(2),
            }),
        }
    }

    /// Gives an address to a port, which may have it already.
    pub fn claim(&mut self, address: IpAddr, port: PortId) -> Result<(), AddressError> {
        let offset = self.check(address, port)?;
        self.holders.insert(offset, port);
        Ok(())
    }

    /// Whether a port may have an address; its distance from the start of the subnet.
    pub fn check(&self, address: IpAddr, port: PortId) -> Result<u128, AddressError> {
        let network = self.network.clone();
        if !self.subnet.contains(&address) {
            return Err(AddressError::Outside { address, network, subnet: self.subnet });
        }
        let offset = number(address) - number(self.subnet.network());
        let what = match offset {
            0 => Some("the name"),
            1 => Some("the own address"),
            _ if offset >= self.limit() => Some("the broadcast address"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(AddressError::Reserved { address, what, network, subnet: self.subnet });
        }
        match self.holders.get(&offset) {
            Some(holder) if *holder != port => Err(AddressError::Taken { address, network, holder: *holder }),
            _ => Ok(offset),
        }
    }

    /// Takes an address back from a port; nothing happens if the port doesn't have it.
    pub fn release(&mut self, address: IpAddr, port: PortId) {
        if self.subnet.contains(&address) {
            let offset = number(address) - number(self.subnet.network());
            if self.holders.get(&offset) == Some(&port) {
                self.holders.remove(&offset);
            }
        }
    }

    /// The first distance that can't be given away any more.
    fn limit(&self) -> u128 {
        address::limit(self.subnet)
    }

    fn address(&self, offset: u128) -> IpAddr {
        address::at(self.subnet, offset)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::new("default", subnet.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_addresses_are_those_that_docker_would_give() {
        let mut pool = pool("16.0.0.0/16");
        let first: Vec<String> = (0..3).map(|p| pool.take(PortId(p)).unwrap().to_string()).collect();
        assert_eq!(first, ["16.0.0.2", "16.0.0.3", "16.0.0.4"]);
        assert_eq!(pool.own(), ip("16.0.0.1"));
    }

    #[test]
    fn what_plans_choose_for_themselves_stays_free_for_them() {
        let mut pool = pool("16.0.0.0/16");
        let given: HashSet<IpAddr> = (0..1000).map(|p| pool.take(PortId(p)).unwrap()).collect();
        assert_eq!(given.len(), 1000);
        for seq in 1..=1000u32 {
            let [_, _, c, d] = seq.to_be_bytes();
            let chosen = IpAddr::V4(Ipv4Addr::new(16, 0, c + 1, d));
            assert!(!given.contains(&chosen), "{chosen}");
        }
    }

    #[test]
    fn every_address_of_a_subnet_is_given_once_and_then_none() {
        for (subnet, room) in
            [("10.0.0.0/30", 1), ("10.0.0.0/24", 253), ("10.0.0.0/20", 4093), ("fd00::/118", 1022)]
        {
            let mut pool = pool(subnet);
            let given: HashSet<IpAddr> = (0..room).map(|p| pool.take(PortId(p)).unwrap()).collect();
            assert_eq!(given.len(), room as usize, "{subnet}");
            assert!(given.iter().all(|a| pool.subnet().contains(a)));
            let error = pool.take(PortId(room)).unwrap_err();
            assert!(error.to_string().contains(&format!("all {room} addresses")), "{error}");
            let back = *given.iter().next().unwrap();
            let holder = (0..room).map(PortId).find(|p| pool.check(back, *p).is_ok()).unwrap();
            pool.release(back, holder);
            assert_eq!(pool.take(PortId(room)), Ok(back), "what was given back is given again");
        }
        assert!(pool("10.0.0.0/31").take(PortId(0)).is_err());
        assert!(pool("10.0.0.0/32").take(PortId(0)).is_err());
        assert_eq!(pool("fd00::/8").take(PortId(0)), Ok(ip("fd00::2")));
    }

    #[test]
    fn what_nobody_may_have_is_refused_by_name() {
        let mut pool = pool("16.0.0.0/16");
        let one = PortId(1);
        let refused = |pool: &Pool, address| pool.check(ip(address), one).unwrap_err().to_string();
        assert_eq!(refused(&pool, "16.1.0.2"), "16.1.0.2 is outside of network `default` (16.0.0.0/16)");
        assert_eq!(refused(&pool, "fd00::1"), "fd00::1 is outside of network `default` (16.0.0.0/16)");
        assert_eq!(refused(&pool, "16.0.0.0"), "16.0.0.0 is the name of network `default` (16.0.0.0/16)");
        assert_eq!(
            refused(&pool, "16.0.0.1"),
            "16.0.0.1 is the own address of network `default` (16.0.0.0/16)"
        );
        assert!(refused(&pool, "16.0.255.255").contains("broadcast"));
        pool.claim(ip("16.0.1.1"), PortId(0)).unwrap();
        assert_eq!(refused(&pool, "16.0.1.1"), "16.0.1.1 on network `default` is taken");
        pool.claim(ip("16.0.1.1"), PortId(0)).expect("whoever has it may ask for it again");
        pool.release(ip("16.0.1.1"), one);
        assert!(pool.check(ip("16.0.1.1"), one).is_err(), "only the holder can give it back");
        pool.release(ip("16.0.1.1"), PortId(0));
        pool.claim(ip("16.0.1.1"), one).unwrap();
    }
}

//! Who is where: on each network, the port behind a hardware or an IP address.
//!
//! Nothing is learned from traffic but IPv6 link-local addresses, which hosts choose for themselves; what was attached
//! is the truth, so that nothing is ever flooded and no host can take another's packets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::config::NetworkKind;
use crate::plan::PortId;

/// Link-local addresses that a port may claim beside the one made from its hardware address.
const CLAIMS: usize = 4;

/// Ports by address, for each network. A port is known by its slot in the switch.
#[derive(Debug, Clone, Default)]
pub struct Table {
    networks: HashMap<NetworkKind, Directory>,
}

#[derive(Debug, Clone, Default)]
struct Directory {
    by_mac: HashMap<[u8; 6], u32>,
    by_address: HashMap<IpAddr, u32>,
    claims: HashMap<u32, Vec<IpAddr>>,
    /// In the order of attachment: whoever gets what is for all.
    members: Vec<u32>,
}

/// The hardware address of a port: locally administered, and the port's number in it.
pub fn mac_of(port: PortId) -> [u8; 6] {
    let [a, b, c, d] = port.0.to_be_bytes();
    [0x02, 0x74, a, b, c, d]
}

/// The link-local address that a host makes from its hardware address (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> IpAddr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f))
}

/// Who else has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The hardware address.
    Mac(u32),
    /// An IP address.
    Address(IpAddr, u32),
}

// === impl Table ===

impl Table {
    /// Adds a port, or says who else has one of its addresses; then nothing is changed.
    pub fn attach(
        &mut self,
        network: NetworkKind,
        slot: u32,
        mac: [u8; 6],
        addresses: &[IpAddr],
    ) -> Result<(), Taken> {
        let directory = self.networks.entry(network).or_default();
        if let Some(owner) = directory.by_mac.get(&mac) {
            return Err(Taken::Mac(*owner));
        }
        directory.check(slot, addresses)?;
        directory.by_mac.insert(mac, slot);
        directory.members.push(slot);
        for address in addresses.iter().copied().chain([link_local(mac)]) {
            directory.by_address.insert(address, slot);
        }
        Ok(())
    }

    /// Gives a port these addresses in the place of all it had, or says who else has one.
    pub fn readdress(
        &mut self,
        network: NetworkKind,
        slot: u32,
        mac: [u8; 6],
        addresses: &[IpAddr],
    ) -> Result<(), Taken> {
        let directory = self.networks.entry(network).or_default();
        directory.check(slot, addresses)?;
        directory.by_address.retain(|_, owner| *owner != slot);
        directory.claims.remove(&slot);
        for address in addresses.iter().copied().chain([link_local(mac)]) {
            directory.by_address.insert(address, slot);
        }
        Ok(())
    }

    /// Forgets a port.
    pub fn detach(&mut self, network: NetworkKind, slot: u32) {
        if let Some(directory) = self.networks.get_mut(&network) {
            directory.by_mac.retain(|_, owner| *owner != slot);
            directory.by_address.retain(|_, owner| *owner != slot);
            directory.members.retain(|member| *member != slot);
            directory.claims.remove(&slot);
        }
    }

    /// Notes that a port uses a link-local address, unless another has it or the port has claimed several already.
    pub fn claim(&mut self, network: NetworkKind, slot: u32, address: IpAddr) {
        let IpAddr::V6(v6) = address else { return };
        let Some(directory) = self.networks.get_mut(&network) else { return };
        if !v6.is_unicast_link_local() || directory.by_address.contains_key(&address) {
            return;
        }
        let claims = directory.claims.entry(slot).or_default();
        if claims.len() == CLAIMS {
            directory.by_address.remove(&claims.remove(0));
        }
        claims.push(address);
        directory.by_address.insert(address, slot);
    }

    /// The port with this hardware address.
    pub fn at(&self, network: NetworkKind, mac: [u8; 6]) -> Option<u32> {
        self.networks.get(&network)?.by_mac.get(&mac).copied()
    }

    /// The port with this IP address.
    pub fn owner(&self, network: NetworkKind, address: IpAddr) -> Option<u32> {
        self.networks.get(&network)?.by_address.get(&address).copied()
    }

    /// All ports of a network.
    pub fn members(&self, network: NetworkKind) -> &[u32] {
        self.networks.get(&network).map_or(&[], |d| &d.members)
    }
}

// === impl Directory ===

impl Directory {
    fn check(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), Taken> {
        for address in addresses {
            match self.by_address.get(address) {
                Some(owner) if *owner != slot => return Err(Taken::Address(*address, *owner)),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: NetworkKind = NetworkKind::Data(0);

    #[test]
    fn a_port_is_found_by_all_its_addresses_on_its_network_only() {
        let mut table = Table::default();
        let v4: IpAddr = "16.0.0.2".parse().unwrap();
        let v6: IpAddr = "fd00::2".parse().unwrap();
        table.attach(NET, 3, mac_of(PortId(9)), &[v4, v6]).unwrap();
        assert_eq!(table.at(NET, mac_of(PortId(9))), Some(3));
        assert_eq!(table.owner(NET, v6), Some(3));
        assert_eq!(table.owner(NET, "fe80::74:ff:fe00:9".parse().unwrap()), Some(3));
        assert_eq!(table.owner(NetworkKind::Control, v4), None);
        assert_eq!(table.attach(NET, 4, mac_of(PortId(10)), &[v4]), Err(Taken::Address(v4, 3)));
        assert_eq!(table.at(NET, mac_of(PortId(10))), None);
        let moved: IpAddr = "16.0.0.7".parse().unwrap();
        table.readdress(NET, 3, mac_of(PortId(9)), &[moved]).unwrap();
        assert_eq!((table.owner(NET, v4), table.owner(NET, moved)), (None, Some(3)));
        table.detach(NET, 3);
        assert_eq!((table.owner(NET, moved), table.members(NET).len()), (None, 0));
    }

    #[test]
    fn claims_are_bounded_and_take_nothing_from_others() {
        let mut table = Table::default();
        table.attach(NET, 0, mac_of(PortId(0)), &[]).unwrap();
        table.attach(NET, 1, mac_of(PortId(1)), &[]).unwrap();
        table.claim(NET, 1, link_local(mac_of(PortId(0))));
        assert_eq!(table.owner(NET, link_local(mac_of(PortId(0)))), Some(0));
        for i in 1..100u16 {
            table.claim(NET, 1, IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, i)));
        }
        let owned = table.networks[&NET].by_address.values().filter(|s| **s == 1).count();
        assert_eq!(owned, 1 + CLAIMS);
        table.claim(NET, 1, "fd00::1".parse().unwrap());
        assert_eq!(table.owner(NET, "fd00::1".parse().unwrap()), None);
    }
}

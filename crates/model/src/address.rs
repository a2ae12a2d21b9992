//! Which address of a subnet the n-th instance of a run begins with. Pure arithmetic: who has an address by now is
//! kept by whoever gives them out.

use std::net::IpAddr;

use ipnet::IpNet;

/// The first distance from a subnet's start that nobody can have any more: an IPv4 subnet's last address is its broadcast
/// address (RFC 919).
pub fn limit(subnet: IpNet) -> u128 {
    let bits = subnet.max_prefix_len() - subnet.prefix_len();
    // No network needs more than 2^64 addresses, and a shift by 128 would overflow.
    let size = 1u128 << bits.min(64);
    match subnet {
        IpNet::V4(_) => size - 1,
        IpNet::V6(_) => size,
    }
}

/// The distance from a subnet's start that is given to whoever comes `k`-th (from 0), among those below `limit`; `None`
/// when there is none left.
///
/// The second of the subnet and on up to the 255th, as Docker would, then from the middle of the subnet's first 65,536
/// on, then the others. The gap is for plans that choose addresses of their own from what instance number they have,
/// which all published examples do from `.1.1` on: they would meet addresses of instances that have not moved yet.
pub fn candidate(k: u128, limit: u128) -> Option<u128> {
    const WINDOW: u128 = 65_536;
    let window = WINDOW.min(limit.next_power_of_two());
    let near = limit.min(256);
    let middle = (window / 2).max(near);
    let end = limit.min(window);
    let mut k = k;
    for (from, to) in [(2, near), (middle, end), (near, middle.min(end)), (end, limit)] {
        let room = to.max(from) - from;
        if k < room {
            return Some(from + k);
        }
        k -= room;
    }
    None
}

/// The address at a distance from a subnet's start.
pub fn at(subnet: IpNet, offset: u128) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(start) => IpAddr::V4(u32::from(start).wrapping_add(offset as u32).into()),
        IpAddr::V6(start) => IpAddr::V6(u128::from(start).wrapping_add(offset).into()),
    }
}

/// The address that the `k`-th instance of a run (from 0) begins with; `None` where the subnet has no room for it.
pub fn initial(subnet: IpNet, k: u32) -> Option<IpAddr> {
    Some(at(subnet, candidate(u128::from(k), limit(subnet))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_begin_behind_the_network_s_own_address() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let first = |net: IpNet, k: u32| initial(net, k).map(|a| a.to_string());
        assert_eq!(first(net("16.0.0.0/16"), 0).as_deref(), Some("16.0.0.2"));
        assert_eq!(first(net("16.0.0.0/16"), 253).as_deref(), Some("16.0.0.255"));
        assert_eq!(first(net("16.0.0.0/16"), 254).as_deref(), Some("16.0.128.0"));
        assert_eq!(first(net("fd00::/64"), 1).as_deref(), Some("fd00::3"));
        assert_eq!(first(net("10.0.0.0/30"), 0).as_deref(), Some("10.0.0.2"));
        assert_eq!(first(net("10.0.0.0/30"), 1), None);
    }
}

//! What each instance of a run will be given: names, ports and addresses. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use testground_model::event::NetworkRequests;
use testground_model::name::InstanceName;
use testground_model::outside::Endpoint;
use testground_model::run::Run;
use testground_model::topology::Network;

use super::{LabError, Shared, Slot};
use crate::address::{CONTROL_GATEWAY, CONTROL_NETWORK, Pool};
use crate::plan::{Member, Plan, PortId};

/// The name of the interface on the control network.
const CONTROL_INTERFACE: &str = "control";
/// The name of the interface on the first data network.
const DATA_INTERFACE: &str = "data";
/// The MTU of the control network.
pub(super) const CONTROL_MTU: u32 = 1500;

/// An interface of an instance, as it is at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) port: PortId,
    /// Its name in the namespace.
    pub(super) name: String,
    /// IPv4, then IPv6 where the network has it; with the network's prefix length.
    pub(super) addresses: Vec<IpNet>,
    pub(super) mtu: u32,
}

// === impl Interface ===

impl Interface {
    pub(super) fn ipv4(&self) -> Ipv4Addr {
        match self.addresses.first().map(IpNet::addr) {
            Some(IpAddr::V4(v4)) => v4,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    pub(super) fn ipv6(&self) -> Option<IpAddr> {
        self.addresses.get(1).map(IpNet::addr)
    }
}

// === impl Shared ===

impl Shared {
    /// The run's networks and links, and nobody on them.
    pub(super) fn new(run: &Run) -> Result<Shared, LabError> {
        for network in &run.networks {
            if [CONTROL_NETWORK, crate::proof::NETWORK].contains(&network.name.as_str()) {
                return Err(LabError::ReservedName(network.name.clone()));
            }
        }
        let pools = run.networks.iter().map(|n| {
            let pool = |subnet| Pool::new(&n.name, subnet);
            (pool(IpNet::V4(n.subnet)), n.subnet6.map(|subnet| pool(IpNet::V6(subnet))))
        });
        Ok(Shared {
            plan: Plan::new(run.links.clone()),
            pools: pools.collect(),
            next_port: 0,
            proved: Vec::new(),
            requests: NetworkRequests::default(),
        })
    }

    /// Everything that the instances of the run will be given, in the order of its groups, entered into the plan.
    pub(super) fn slots(&mut self, run: &Run) -> Result<HashMap<InstanceName, Arc<Slot>>, LabError> {
        let subnet = IpNet::V4(CONTROL_GATEWAY).trunc();
        let mut control = Pool::new(CONTROL_NETWORK, subnet);
        for (_, address) in outside(run).iter().filter(|(_, address)| subnet.contains(&IpAddr::V4(*address)))
        {
            control.claim(IpAddr::V4(*address), GATEWAY_PORT)?;
        }
        let mut regions: HashMap<&InstanceName, Vec<String>> = HashMap::new();
        for (region, members) in &run.regions {
            for member in members {
                regions.entry(member).or_default().push(region.clone());
            }
        }
        let names = interface_names(&run.networks);
        let mut slots = HashMap::new();
        for instance in run.instances() {
            let regions = regions.get(&instance).cloned().unwrap_or_default();
            let port = self.port();
            let addresses = vec![with_prefix(control.take(port)?, IpNet::V4(CONTROL_GATEWAY))];
            let name = CONTROL_INTERFACE.to_owned();
            let control = Interface { port, name, addresses, mtu: CONTROL_MTU };
            let mut data = Vec::with_capacity(run.networks.len());
            for (index, network) in run.networks.iter().enumerate() {
                data.push(self.data_interface(index, network, &names[index], &instance, &regions)?);
            }
            let hostname = instance.hostname();
            let slot =
                Slot { name: instance.clone(), hostname, regions, control, data, pod: Mutex::new(None) };
            slots.insert(instance, Arc::new(slot));
        }
        Ok(slots)
    }

    /// The next number for a port.
    pub(super) fn port(&mut self) -> PortId {
        self.next_port += 1;
        PortId(self.next_port - 1)
    }

    fn data_interface(
        &mut self,
        index: usize,
        network: &Network,
        name: &str,
        instance: &InstanceName,
        regions: &[String],
    ) -> Result<Interface, LabError> {
        let port = self.port();
        let (v4, v6) = &mut self.pools[index];
        let mut addresses = vec![with_prefix(v4.take(port)?, v4.subnet())];
        if let Some(v6) = v6 {
            addresses.push(with_prefix(v6.take(port)?, v6.subnet()));
        }
        self.plan.attach(Member {
            port,
            instance: instance.clone(),
            network: network.name.clone(),
            regions: regions.to_vec(),
            addresses: addresses.iter().map(IpNet::addr).collect(),
        });
        Ok(Interface { port, name: name.to_owned(), addresses, mtu: network.mtu })
    }
}

/// What holds the addresses of hosts outside: the gateway, whose port has its number later.
const GATEWAY_PORT: PortId = PortId(u32::MAX);

/// The addresses under which instances reach hosts outside of the lab, by the names of those, in the order of the run.
/// All of them are the gateway's. A host that is written as an IPv4 address has that one, unless it lies in a network
/// of the run; the others have the control network's last addresses, where no instance is before there are 65,000.
pub(super) fn outside(run: &Run) -> Vec<(String, Ipv4Addr)> {
    let broadcast = u32::from(CONTROL_GATEWAY.broadcast());
    let networks = || run.networks.iter().map(|n| n.subnet).chain([CONTROL_GATEWAY]);
    let own = |host: &Endpoint| host.ipv4().filter(|a| !networks().any(|subnet| subnet.contains(a)));
    let mut hosts: Vec<(String, Ipv4Addr)> = Vec::new();
    for host in &run.settings.additional_hosts {
        let name = host.name();
        if hosts.iter().all(|(known, _)| *known != name) {
            let last = Ipv4Addr::from(broadcast - 1 - hosts.len() as u32);
            hosts.push((name, own(host).unwrap_or(last)));
        }
    }
    hosts
}

/// An address with the prefix length of its subnet.
pub(super) fn with_prefix(address: IpAddr, subnet: IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
}

/// What interfaces are called: `data` for the first network, the network's own name for others, or `dataN` where that
/// can't be an interface's name (1 to 15 bytes, see `dev_valid_name` in net/core/dev.c) or is taken.
fn interface_names(networks: &[Network]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(networks.len());
    for (index, network) in networks.iter().enumerate() {
        let own = &network.name;
        let valid = (1..=15).contains(&own.len())
            && own.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let reserved = ["lo", CONTROL_INTERFACE, DATA_INTERFACE, "all", "default"].contains(&own.as_str())
            || own.strip_prefix(DATA_INTERFACE).is_some_and(|rest| rest.parse::<u32>().is_ok());
        names.push(match index {
            0 => DATA_INTERFACE.to_owned(),
            _ if valid && !reserved && !names.contains(own) => own.clone(),
            _ => format!("{DATA_INTERFACE}{index}"),
        });
    }
    names
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use testground_model::run::{Build, Group, Resources, Settings};

    use super::*;

    /// A run of groups with so many instances each, on these networks.
    pub(in crate::reactor) fn run(groups: &[(&str, u32)], networks: Vec<Network>) -> Run {
        let groups = groups.iter().map(|(id, instances)| Group {
            id: (*id).to_owned(),
            instances: *instances,
            build: Build {
                builder: "exec:generic".to_owned(),
                config: BTreeMap::new(),
                selectors: vec![],
                dependencies: BTreeMap::new(),
                artifact: None,
            },
            params: BTreeMap::new(),
            profiles: BTreeMap::new(),
            resources: Resources::default(),
            pod: None,
        });
        Run {
            id: "default".to_owned(),
            plan: "plan".to_owned(),
            case: "case".to_owned(),
            runner: "local:exec".to_owned(),
            groups: groups.collect(),
            networks,
            links: vec![],
            timeline: vec![],
            regions: BTreeMap::new(),
            disable_metrics: true,
            settings: Settings::default(),
        }
    }

    /// A dual-stack network.
    pub(in crate::reactor) fn network(name: &str, subnet: &str, subnet6: Option<&str>) -> Network {
        Network {
            name: name.to_owned(),
            subnet: subnet.parse().unwrap(),
            subnet6: subnet6.map(|s| s.parse().unwrap()),
            mtu: 1500,
        }
    }

    #[test]
    fn instances_are_numbered_in_the_order_of_the_groups() {
        let run = run(
            &[("b", 2), ("a", 1)],
            vec![
                network("default", "16.0.0.0/16", Some("fd00::/64")),
                network("storage", "10.1.0.0/24", None),
            ],
        );
        let mut shared = Shared::new(&run).unwrap();
        let slots = shared.slots(&run).unwrap();
        let slot = |group, index| &slots[&InstanceName::new(group, index)];
        let text = |i: &Interface| {
            format!(
                "{} {} {}",
                i.port.0,
                i.name,
                i.addresses.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(" ")
            )
        };
        assert_eq!(text(&slot("b", 0).control), "0 control 192.18.0.2/16");
        assert_eq!(text(&slot("b", 0).data[0]), "1 data 16.0.0.2/16 fd00::2/64");
        assert_eq!(text(&slot("b", 0).data[1]), "2 storage 10.1.0.2/24");
        assert_eq!(text(&slot("b", 1).data[0]), "4 data 16.0.0.3/16 fd00::3/64");
        assert_eq!(text(&slot("a", 0).control), "6 control 192.18.0.4/16");
        assert_eq!(shared.plan.members().count(), 6);
        assert_eq!(shared.plan.owner("storage", "10.1.0.4".parse().unwrap()), Some(PortId(8)));
    }

    #[test]
    fn hosts_outside_have_addresses_that_no_instance_has() {
        let mut run = run(&[("a", 2)], vec![network("default", "16.0.0.0/16", None)]);
        let hosts =
            ["db.example:1", "10.0.0.5:1", "db.example:2", "localhost:1", "16.0.0.9:1", "192.18.0.2:1"];
        run.settings.additional_hosts = hosts.map(|h| Endpoint::parse(h).unwrap()).into();
        let found: Vec<String> =
            outside(&run).iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(
            found,
            [
                "db.example 192.18.255.254",
                "10-0-0-5.testground 10.0.0.5",
                "host.testground 192.18.255.252",
                "16-0-0-9.testground 192.18.255.251",
                "192-18-0-2.testground 192.18.255.250",
            ]
        );
        let mut shared = Shared::new(&run).unwrap();
        let slots = shared.slots(&run).unwrap();
        let first = &slots[&InstanceName::new("a", 0)];
        assert_eq!(first.control.ipv4(), Ipv4Addr::new(192, 18, 0, 2));
    }

    #[test]
    fn a_subnet_that_is_too_small_is_said_before_anything_starts() {
        let run = run(&[("a", 5)], vec![network("default", "16.0.0.0/29", None)]);
        let mut shared = Shared::new(&run).unwrap();
        assert!(shared.slots(&run).is_ok());
        let run = tests::run(&[("a", 6)], run.networks);
        let error = Shared::new(&run).unwrap().slots(&run).unwrap_err();
        assert_eq!(error.to_string(), "network `default`: all 5 addresses of 16.0.0.0/29 are taken");
    }

    #[test]
    fn the_labs_own_names_are_reserved() {
        let run = run(&[("a", 1)], vec![network("control", "16.0.0.0/16", None)]);
        assert!(matches!(Shared::new(&run), Err(LabError::ReservedName(name)) if name == "control"));
    }

    #[test]
    fn interfaces_have_names_that_the_kernel_takes() {
        let names = ["default", "storage", "a name with blanks", "storage", "lo", "data", "data1", "x/y"];
        let networks: Vec<Network> = names.iter().map(|n| network(n, "10.0.0.0/8", None)).collect();
        assert_eq!(
            interface_names(&networks),
            ["data", "storage", "data2", "data3", "data4", "data5", "data6", "data7"]
        );
    }
}

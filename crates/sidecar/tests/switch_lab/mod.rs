//! Hosts in network namespaces of their own, each on a port of a switch: what the kernel says about the switch.
//!
//! Shared by the tests that need a kernel and by the benches.
#![allow(dead_code, unreachable_pub, reason = "each test and bench uses its part")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::sync::Arc;

use testground_linux::netns::Netns;
use testground_linux::packet_socket::{PacketSocket, PacketSocketOptions};
use testground_linux::tap::{Tap, TapOptions};
use testground_model::name::InstanceName;
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link};
use testground_sidecar::plan::{Member, Plan, PortId};
use testground_sidecar::plane::switch::table::mac_of;
use testground_sidecar::plane::switch::{Framing, NetworkKind, PortSpec, Switch, SwitchConfig};

/// What carries packets between a namespace and the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Tap,
    /// A TAP without offloads: frames without a header.
    BareTap,
    /// One end of a veth pair, the other read by a packet socket.
    PacketSocket,
}

/// A host on the switch.
pub struct Host {
    pub netns: Netns,
    pub port: PortId,
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub device: String,
}

/// A switch with hosts on data network 0: host `i` is `h[i]/default`, 16.0.x.y and fd16::x:y.
pub struct Lab {
    pub switch: Switch,
    pub hosts: Vec<Host>,
    pub plan: Plan,
}

/// Why a test can't run here: it needs root, and these programs.
pub fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root for network namespaces".to_owned());
    }
    let absent = programs.iter().find(|p| {
        let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"];
        !dirs.iter().any(|dir| std::path::Path::new(dir).join(p).exists())
    });
    absent.map(|program| format!("needs `{program}`"))
}

/// Says why a test does not run; fails where nothing may be skipped.
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var("TESTGROUND_TEST_REQUIRE").as_deref() != Ok("all"),
        "{test} can't be skipped here: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
}

/// Leaves a test that can't run here.
#[macro_export]
macro_rules! need {
    ($test:literal, $($program:literal),*) => {
        if let Some(reason) = switch_lab::missing(&["ip" $(, $program)*]) {
            return switch_lab::skip($test, &reason);
        }
    };
}

impl Lab {
    pub fn new(count: u32, carrier: Carrier) -> Lab {
        Lab::with(SwitchConfig { seed: 42, ..SwitchConfig::default() }, count, carrier)
    }

    pub fn with(config: SwitchConfig, count: u32, carrier: Carrier) -> Lab {
        let switch = Switch::start(config).unwrap();
        let mut lab = Lab { switch, hosts: Vec::new(), plan: Plan::default() };
        for i in 0..count {
            lab.add(i, carrier);
        }
        lab
    }

    pub fn add(&mut self, i: u32, carrier: Carrier) {
        let netns = Netns::create().unwrap();
        let (fd, device) = open(&netns, carrier, mac_of(PortId(i)));
        let host = Host {
            netns,
            port: PortId(i),
            name: format!("h[{i}]/default"),
            v4: Ipv4Addr::from(0x1000_0002 + i),
            v6: Ipv6Addr::new(0xfd16, 0, 0, 0, 0, 0, (i >> 16) as u16, i as u16 + 2),
            device,
        };
        let (v4, v6, device) = (host.v4, host.v6, host.device.clone());
        host.ip(&format!("address add {v4}/8 dev {device}"));
        host.ip(&format!("address add {v6}/64 dev {device} nodad"));
        host.ip("link set lo up");
        host.ip(&format!("link set {device} up"));
        self.switch.attach(host.spec(fd, carrier)).unwrap();
        self.plan.attach(Member {
            port: host.port,
            instance: InstanceName::new("h", i),
            network: "default".to_owned(),
            regions: Vec::new(),
            addresses: host.addresses(),
        });
        self.hosts.push(host);
    }

    /// Puts a shape in force between all hosts, in both directions, and warms nothing up: there is nothing to warm up.
    pub fn shape(&mut self, shape: LinkShape) {
        self.links(vec![Link {
            from: Endpoint::All,
            to: Endpoint::All,
            both_ways: false,
            network: "default".to_owned(),
            shape,
        }]);
    }

    pub fn links(&mut self, links: Vec<Link>) {
        let mut plan = Plan::new(links);
        for member in self.plan.members() {
            plan.attach(member.clone());
        }
        self.plan = plan.clone();
        self.switch.install(Arc::new(plan)).unwrap();
    }

    /// Packets of a shape released later than a millisecond: with one of these, a sample in real time says nothing.
    pub fn late(&self) -> bool {
        self.switch.snapshot().unwrap().lateness.unwrap().p99_us > 1000.0
    }
}

/// How long anything may take on a machine that is busy with something else. It costs time where something is broken only.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Asks again and again until it is so, for as long as [`PATIENCE`] lasts; whether it was.
#[allow(clippy::disallowed_methods, reason = "nothing tells when a packet has been dealt with")]
pub fn comes_true(mut ask: impl FnMut() -> bool) -> bool {
    let begun = std::time::Instant::now();
    while !ask() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    true
}

impl Host {
    pub fn addresses(&self) -> Vec<IpAddr> {
        vec![self.v4.into(), self.v6.into()]
    }

    pub fn spec(&self, fd: OwnedFd, carrier: Carrier) -> PortSpec {
        PortSpec {
            port: self.port,
            name: self.name.clone(),
            network: NetworkKind::Data(0),
            mac: mac_of(self.port),
            addresses: self.addresses(),
            fd,
            framing: match carrier {
                Carrier::BareTap => Framing::Bare,
                _ => Framing::VirtioNet,
            },
            mtu: 1500,
            gateway: false,
            allow_peers: false,
        }
    }

    pub fn ip(&self, arguments: &str) {
        let output = self.run("ip", arguments);
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a program in the namespace.
    pub fn run(&self, program: &str, arguments: &str) -> Output {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        self.netns.enter(move || command.output()).unwrap().unwrap()
    }

    /// Its standard output, of a program that succeeded.
    pub fn stdout(&self, program: &str, arguments: &str) -> String {
        let output = self.run(program, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {text}{errors}");
        text
    }

    /// Starts a program in the namespace.
    pub fn spawn(&self, program: &str, arguments: &str) -> Running {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Running(self.netns.enter(move || command.spawn()).unwrap().unwrap())
    }

    /// Runs a closure in the namespace.
    pub fn inside<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(closure).unwrap()
    }

    /// A counter of the kernel, as `nstat` names it.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self.stdout("nstat", &format!("-asz {name}"));
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// An `iperf3` server for one test, listening when this returns.
    pub fn iperf_server(&self) -> Running {
        use std::io::{BufRead, BufReader};
        let mut server = self.spawn("iperf3", "-s -1 --forceflush");
        let out = server.0.stdout.take().unwrap();
        let mut lines = BufReader::new(out).lines();
        let listens = lines.by_ref().any(|l| l.is_ok_and(|l| l.contains("Server listening")));
        assert!(listens, "iperf3 does not listen");
        // It has to be read on, or it blocks.
        std::thread::spawn(move || lines.for_each(drop));
        server
    }

    /// What an `iperf3` client reports.
    pub fn iperf(&self, to: IpAddr, arguments: &str) -> serde_json::Value {
        let text = self.stdout("iperf3", &format!("-J -c {to} {arguments}"));
        serde_json::from_str(&text).unwrap()
    }
}

/// A process that ends with the test.
pub struct Running(pub std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes an interface in a namespace; it is down and has the address.
pub fn open(netns: &Netns, carrier: Carrier, mac: [u8; 6]) -> (OwnedFd, String) {
    let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    let mac = mac.join(":");
    let run = move |arguments: String| {
        let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    netns
        .enter(move || match carrier {
            Carrier::Tap | Carrier::BareTap => {
                let offload = carrier == Carrier::Tap;
                let options = TapOptions { vnet_header: offload, offload, ..TapOptions::default() };
                let tap = Tap::open("data", &options).unwrap();
                run(format!("link set data address {mac}"));
                (tap.into_fd(), "data".to_owned())
            }
            Carrier::PacketSocket => {
                run(format!("link add data address {mac} type veth peer name port"));
                run("link set port up".to_owned());
                let output = Command::new("ip").args(["-o", "link", "show", "port"]).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let index = text.split(':').next().unwrap().trim().parse().unwrap();
                let socket = PacketSocket::open(index, &PacketSocketOptions::default()).unwrap();
                (socket.into_fd(), "data".to_owned())
            }
        })
        .unwrap()
}

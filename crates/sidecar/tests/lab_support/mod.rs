//! A lab's network in a namespace of the test's own: with TAPs and shortcuts, with TAPs alone and with packet sockets, as
//! whoever runs the tests and, where that is root, as an ordinary user in a user namespace too.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod cable;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use testground_linux::netns::{Netns, tour};
use testground_model::name::InstanceName;
use testground_model::run::{Build, Group, Plane, Resources, Run, Settings};
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link, Network};
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};

/// Set for a test binary that has been started by itself: the kind of port that it is to use.
pub const INSIDE: &str = "TESTGROUND_TEST_LAB_PORTS";
/// Who carries the data networks; the switch where it is not set.
pub const PLANE: &str = "TESTGROUND_TEST_LAB_PLANE";
const KINDS: [PortKind; 3] = [PortKind::Auto, PortKind::Tap, PortKind::PacketSocket];
/// How long anything may take on a machine that is busy with something else. It costs time where something is broken only.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Nobody: an ordinary user that every machine has.
const NOBODY: &str = "65534";

/// Runs a test with every kind of port, and as both kinds of users.
pub fn everywhere<F: Future<Output = ()>>(test: &str, body: fn(PortKind) -> F) {
    for kind in KINDS {
        // On the kernel's plane there is nothing to cut short.
        if plane() == Plane::Switch || kind != PortKind::Auto {
            only(test, kind, body);
        }
    }
}

/// Runs a test with one kind of port, as both kinds of users.
pub fn only<F: Future<Output = ()>>(test: &str, kind: PortKind, body: impl FnOnce(PortKind) -> F + Send) {
    if let Ok(ports) = std::env::var(INSIDE) {
        if ports == kind.to_string() {
            in_a_namespace(move || body(kind));
        }
        return;
    }
    let root = rustix::process::geteuid().is_root();
    if root {
        eprintln!("{test}: {kind}, root");
        in_a_namespace(move || body(kind));
    }
    as_ordinary_user(test, kind, root);
}

/// Runs a test once, in a namespace of its own: as root, or else as an ordinary user in a user namespace.
pub fn once(test: &str, body: impl FnOnce() + Send) {
    if std::env::var(INSIDE).is_ok() || rustix::process::geteuid().is_root() {
        return tour(|tour| {
            tour.create().unwrap();
            body();
        })
        .unwrap();
    }
    as_ordinary_user(test, PortKind::PacketSocket, false);
}

/// Runs a test that measures, once and as [`once`] does; where root runs it, before whatever else this machine is busy with
/// (sched(7), real-time classes), for a wait of three milliseconds is what is measured.
pub fn first_in_line(test: &str, body: impl FnOnce() + Send) {
    let first = |then: &str| {
        let mut command = Command::new("chrt");
        command.args(["--fifo", "1"]).args(then.split_whitespace());
        command
    };
    let root = rustix::process::geteuid().is_root();
    let may = || first("true").output().is_ok_and(|output| output.status.success());
    if std::env::var(INSIDE).is_err() && root && may() {
        return again(first(""), test, PortKind::Tap);
    }
    once(test, body);
}

/// Who carries the data networks in this process.
pub fn plane() -> Plane {
    std::env::var(PLANE).map_or(Plane::Switch, |name| name.parse().unwrap())
}

/// Runs a future on a thread in a network namespace of its own: the lab's.
fn in_a_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    tour(|tour| {
        tour.create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
    })
    .unwrap();
}

/// Runs the same test again in a user namespace, whose owner is not root outside.
fn as_ordinary_user(test: &str, kind: PortKind, root: bool) {
    let exe = std::env::current_exe().unwrap();
    let mut command = if root {
        // With a node of its own: the machine's may be closed to ordinary users, and stays as it is.
        let open = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", open, "sh", "setpriv"]);
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "unshare"]);
        command
    } else {
        Command::new("unshare")
    };
    command.args(["--user", "--net", "--map-root-user"]);
    let mut probe = Command::new(command.get_program());
    probe.args(command.get_args()).arg("test").arg("-x").arg(&exe);
    match probe.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(test, &format!("no user namespace for an ordinary user: {output:?}")),
        Err(e) => return skip(test, &format!("needs setpriv and unshare: {e}")),
    }
    if kind != PortKind::PacketSocket && !root && testground_linux::tap::open_device().is_err() {
        return skip(test, "needs /dev/net/tun");
    }
    eprintln!("{test}: {kind}, ordinary user");
    again(command, test, kind);
}

/// Runs the same test again, behind a command that starts another.
fn again(mut command: Command, test: &str, kind: PortKind) {
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = command.env(INSIDE, kind.to_string()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{command:?}:\n{out}\n{err}");
    // What was measured.
    eprint!("{err}");
}

/// Says why a test does not run; fails where nothing may be skipped.
pub fn skip(test: &str, reason: &str) {
    assert!(
        std::env::var("TESTGROUND_TEST_REQUIRE").as_deref() != Ok("all"),
        "{test} can't be skipped here: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
}

/// A run of groups with so many instances each.
pub fn run(groups: &[(&str, u32)], networks: Vec<Network>) -> Run {
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
        settings: Settings { seed: 7, plane: plane(), ..Settings::default() },
    }
}

/// The usual network, dual stack.
pub fn default_network() -> Network {
    network("default", "16.0.0.0/16", Some("fd16::/64"), 1500)
}

pub fn network(name: &str, subnet: &str, subnet6: Option<&str>, mtu: u32) -> Network {
    Network {
        name: name.to_owned(),
        subnet: subnet.parse().unwrap(),
        subnet6: subnet6.map(|s| s.parse().unwrap()),
        mtu,
    }
}

pub fn link(from: &str, to: &str, both_ways: bool, shape: LinkShape) -> Link {
    let group = |name: &str| Endpoint::Group(name.to_owned());
    Link { from: group(from), to: group(to), both_ways, network: "default".to_owned(), shape }
}

pub fn instance(group: &str, index: u32) -> InstanceName {
    InstanceName::new(group, index)
}

/// An instance's namespace, to look at it from inside.
pub struct Inside(pub Netns);

/// Lets an instance appear.
pub async fn appear(lab: &LabNetwork, group: &str, index: u32) -> Inside {
    let fd: OwnedFd = lab.appear(&instance(group, index)).await.unwrap();
    Inside(Netns::from_fd(fd).unwrap())
}

impl Inside {
    /// Runs a program in the namespace.
    pub fn run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        self.0.enter(move || command.output()).unwrap().unwrap()
    }

    /// Its standard output; it has to succeed.
    pub fn stdout(&self, line: &str) -> String {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.stdout(line)).unwrap()
    }

    /// Whether an address answers a ping. A host that has asked for a neighbour in vain before asks again only after a
    /// second, and has the ping wait for so long.
    pub fn reaches(&self, address: &str) -> bool {
        let begun = Instant::now();
        loop {
            let answered = self.run(&format!("ping -n -c 1 -W 5 {address}")).status.success();
            if answered || begun.elapsed() > PATIENCE {
                return answered;
            }
        }
    }

    /// Whether an address answers no ping within a second.
    pub fn misses(&self, address: &str) -> bool {
        !self.run(&format!("ping -n -c 1 -W 1 {address}")).status.success()
    }

    /// The smallest of so many round trips, milliseconds.
    pub fn round_trip(&self, address: &str, count: u32) -> f64 {
        let text = self.stdout(&format!("ping -n -c {count} -i 0.02 -W 30 {address}"));
        let summary = text.lines().find(|l| l.contains("min/avg/max")).unwrap_or_else(|| panic!("{text}"));
        summary.split(['=', '/']).nth(4).unwrap().trim().parse().unwrap()
    }

    /// The addresses of an interface, as `ip -j address` has them.
    pub fn addresses(&self, device: &str) -> Vec<String> {
        let found = self.json(&format!("ip -j address show dev {device}"));
        let list = found[0]["addr_info"].as_array().unwrap().iter();
        let list = list.filter(|a| a["scope"] != "link");
        list.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect()
    }

    /// The routes that `ip route` shows.
    pub fn routes(&self) -> Vec<String> {
        let found = self.json("ip -j route");
        let routes = found.as_array().unwrap().iter().map(|r| {
            let via = r["gateway"].as_str().map(|g| format!(" via {g}")).unwrap_or_default();
            format!("{}{via} {}", r["dst"].as_str().unwrap(), r["dev"].as_str().unwrap())
        });
        let mut routes: Vec<String> = routes.collect();
        routes.sort();
        routes
    }
}

/// The first of some messages that is wanted; fails when none comes for a long time.
pub async fn within<T, U>(mut next: impl AsyncFnMut() -> Option<T>, wanted: impl Fn(T) -> Option<U>) -> U {
    loop {
        let message = tokio::time::timeout(PATIENCE, next()).await;
        let message = message.expect("a message in time").expect("somebody is there to send one");
        if let Some(found) = wanted(message) {
            return found;
        }
    }
}

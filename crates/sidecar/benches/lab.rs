//! How long a lab's network takes: instances attached, their requests carried out, their shapes proved. One JSON line a
//! figure; all of it in network namespaces of the bench's own. `cargo bench -p testground-sidecar --bench lab [COUNT...]`

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use testground_linux::netns::tour;
use testground_model::name::InstanceName;
use testground_model::run::{Build, Group, Resources, Run, Settings};
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link, Network};
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};
use testground_sidecar::request::Request;

fn main() {
    let counts: Vec<u32> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let counts = if counts.is_empty() { vec![2, 50, 200, 1000] } else { counts };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED lab: needs root, or `unshare --user --map-root-user --net`");
        return;
    }
    // An instance holds three descriptors with TAPs.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    for ports in [PortKind::Tap, PortKind::PacketSocket] {
        for count in &counts {
            in_a_namespace(|| attach(*count, ports));
        }
    }
    for shapes in [1, 20, 380] {
        in_a_namespace(|| prove(shapes));
    }
}

fn in_a_namespace<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send) {
    tour(|tour| {
        tour.create().expect("a network namespace");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(body());
    })
    .expect("a thread");
}

async fn attach(count: u32, ports: PortKind) {
    let peer = format!("{count} instances, {ports}");
    let started = Instant::now();
    let lab = LabNetwork::start(&run(count, vec![]), ports).expect("a network");
    lab.gateway().await.expect("a gateway");
    let pods = each(count, async |instance| lab.appear(&instance).await.expect("a pod")).await;
    figure("lab_attach", started.elapsed(), &peer);

    let request = |n: u32| {
        let [_, _, c, d] = (n + 1).to_be_bytes();
        let address = Ipv4Addr::new(16, 0, c + 1, d);
        let json = format!(
            r#"{{"network":"default","enable":true,"IPv4":"{address}/16","default":{{"latency":1000000}}}}"#
        );
        Request::read(json.as_bytes()).expect("a request")
    };
    let started = Instant::now();
    each(count, async |instance| lab.apply(&instance, request(instance.index)).await.expect("applied")).await;
    figure("lab_configure_all", started.elapsed(), &peer);
    let started = Instant::now();
    drop((pods, lab));
    figure("lab_drop", started.elapsed(), &peer);
}

async fn prove(shapes: u32) {
    let links = (0..shapes).map(|n| Link {
        from: Endpoint::Instance(InstanceName::new("a", n)),
        to: Endpoint::Instance(InstanceName::new("a", n + 1)),
        both_ways: false,
        network: "default".to_owned(),
        shape: LinkShape {
            latency: Duration::from_micros(20_000 + 200 * u64::from(n)),
            ..LinkShape::default()
        },
    });
    let run = run(2, links.collect());
    let lab = LabNetwork::start(&run, PortKind::Auto).expect("a network");
    let started = Instant::now();
    let proved = lab.prove(&run.settings.proof, Vec::new()).await.expect("a proof");
    let late = format!(
        "late p99 {} us, clean {}, off {}",
        proved.lateness.late.map_or(0.0, |late| late.p99_us),
        proved.busy.is_none(),
        proved.off().len()
    );
    figure("lab_prove", started.elapsed(), &format!("{shapes} shapes of 20 to 96 ms, {late}"));
}

async fn each<T>(count: u32, job: impl AsyncFn(InstanceName) -> T) -> Vec<T> {
    let jobs = (0..count).map(|index| job(InstanceName::new("a", index)));
    futures_util::future::join_all(jobs).await
}

fn figure(bench: &str, took: Duration, peer: &str) {
    let value = took.as_secs_f64();
    println!("{}", serde_json::json!({ "bench": bench, "value": value, "unit": "s", "peer": peer }));
}

fn run(instances: u32, links: Vec<Link>) -> Run {
    let group = Group {
        id: "a".to_owned(),
        instances,
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
    };
    Run {
        id: "default".to_owned(),
        plan: "plan".to_owned(),
        case: "case".to_owned(),
        runner: "local:exec".to_owned(),
        groups: vec![group],
        networks: vec![Network {
            name: "default".to_owned(),
            subnet: "16.0.0.0/16".parse().expect("a subnet"),
            subnet6: Some("fd16::/64".parse().expect("a subnet")),
            mtu: 1500,
        }],
        links,
        timeline: vec![],
        regions: BTreeMap::new(),
        disable_metrics: true,
        settings: Settings::default(),
    }
}

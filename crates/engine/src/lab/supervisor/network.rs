//! The lab's network as the supervisor sees it: brought up for every instance, proved, and driven while the run goes on.
//!
//! What it is made of is the sidecar's; here it is only put in the order of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use testground_model::event::{EventKind, Lateness, NetworkRequests};
use testground_model::name::InstanceName;
use testground_model::outside::Endpoint;
use testground_model::run::Plane;
use testground_sidecar::reactor::lab::serve::{Keys, Notice, Serving};
use testground_sidecar::reactor::lab::{LabNetwork, PortKind};
use testground_sidecar::timeline::Timeline;
use testground_sync::Access;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::environment::SERVICES;
use super::super::protocol::{Capture, Setup, paths};
use super::client::Client;
use super::reach::{self, Reach, Unreached};
use super::waits::Addresses;

/// Every instance's network, and the lab's own end of the control network.
pub(super) struct Networks {
    lab: LabNetwork,
    gateway: Ipv4Addr,
    namespaces: Arc<BTreeMap<InstanceName, OwnedFd>>,
    serving: Serving,
    /// For callers at the door, as long as there is a network.
    shown: Arc<Mutex<Option<LabNetwork>>>,
    /// Files of captures and recordings are open.
    watched: bool,
    /// Where decisions are noted once the instances are let go: what the proof sends is none of theirs.
    record: Mutex<Option<std::fs::File>>,
}

/// What the network has to say while the run goes on.
pub(super) type Notices = mpsc::UnboundedReceiver<Notice>;

/// Instances that get their network at the same time.
const AT_ONCE: usize = 64;

/// The lab's own end of the control network, and no instance on it yet.
pub(super) struct Ground {
    lab: LabNetwork,
    gateway: Ipv4Addr,
}

// === impl Ground ===

impl Ground {
    /// Starts the network and makes the lab's end.
    pub(super) async fn lay(setup: &Setup, client: &Client) -> Result<Ground, String> {
        let watched = setup.record || setup.capture != Capture::Nobody;
        let ports = if watched { PortKind::Watched } else { PortKind::Auto };
        let lab = LabNetwork::start(&setup.run, ports).map_err(text)?;
        client.event(EventKind::LabStarted { pid: setup.lab_pid, ports: lab.carrier() }).await;
        if let Some(why) = lab.why_switch() {
            let message = format!("the switch carries the packets, since the kernel plane can't: {why}");
            client.event(EventKind::Warning { message }).await;
        }
        let gateway = lab.gateway().await.map_err(text)?;
        Ok(Ground { lab, gateway })
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Who will have which address on the control network.
    pub(super) fn addresses(&self) -> Addresses {
        let found = |i: &InstanceName| Some((self.lab.addresses(i)?.control.into(), i.clone()));
        self.lab.instances().filter_map(found).collect()
    }

    /// Where instances reach a host outside.
    pub(super) fn outside(&self, host: &Endpoint) -> Ipv4Addr {
        let name = host.name();
        let found = self.lab.outside().iter().find(|(known, _)| *known == name);
        found.map_or(self.gateway, |(_, address)| *address)
    }

    /// Brings the network up for every instance, telling how far it is.
    pub(super) async fn build(
        self,
        setup: &Setup,
        client: &Client,
        sync: Access,
    ) -> Result<(Networks, Notices), String> {
        let Ground { lab, gateway } = self;
        let namespaces = Arc::new(appear(&lab, setup, client).await?);
        let watched = watch(&lab, setup)?;
        let record = setup.record.then(|| create(&setup.outputs, "links.jsonl")).transpose()?;
        let keys = Keys::new(&setup.id, &setup.run.plan, &setup.run.case);
        let timeline = Timeline::new(&setup.run.timeline, &setup.run.links);
        let (serving, notices) = Serving::start(lab.clone(), sync, keys, timeline).await.map_err(text)?;
        let shown = Arc::new(Mutex::new(Some(lab.clone())));
        let record = Mutex::new(record);
        Ok((Networks { lab, gateway, namespaces, serving, shown, watched, record }, notices))
    }
}

// === impl Networks ===

impl Networks {
    /// Lets the instances go: their network is theirs, and the run's clock starts.
    pub(super) async fn release(&self) -> Result<(), String> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(file) = record {
            self.lab.switch().record(file).map_err(text)?;
        }
        self.serving.release().await?;
        // So that the end of a run by such a fault can be tried out.
        if std::env::var_os("TESTGROUND_FAULT").is_some_and(|fault| fault == "switch-panic") {
            self.lab.switch().panic("TESTGROUND_FAULT asked for it").map_err(text)?;
        }
        Ok(())
    }

    pub(super) fn lab(&self) -> &LabNetwork {
        &self.lab
    }

    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// An instance's network namespace, once more for whoever enters it.
    pub(super) fn namespace(&self, instance: &InstanceName) -> Option<OwnedFd> {
        self.namespaces.get(instance)?.try_clone().ok()
    }

    /// Measures every distinct declared shape on the plane that carries it, and tells what came out.
    ///
    /// Where the switch itself was late, time and again, nothing is proved either way: that is told as a warning, and
    /// the shapes' own findings are not held against them.
    pub(super) async fn prove(&self, setup: &Setup, client: &Client) -> Result<(), String> {
        let later = Timeline::new(&setup.run.timeline, &setup.run.links).shapes();
        let proved = self.lab.prove(&setup.run.settings.proof, later).await.map_err(text)?;
        if let Some(why) = &proved.busy {
            let mut message = format!("this machine was too busy to prove the shapes: {why}");
            for off in proved.off() {
                let _ = write!(message, "; {off}");
            }
            client.event(EventKind::Warning { message }).await;
        }
        for why in proved.unproved {
            client.event(EventKind::Warning { message: format!("not proved: {why}") }).await;
        }
        for mut proof in proved.proofs {
            if proved.busy.is_some() {
                proof.off.clear();
            }
            client.event(EventKind::ShapeProved(proof)).await;
        }
        Ok(())
    }

    /// Writes the file that every instance sees as `/etc/hosts`.
    pub(super) fn write_hosts(&self, setup: &Setup) -> std::io::Result<()> {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
        let _ = writeln!(text, "{} {}", self.gateway, SERVICES.join(" "));
        for (name, address) in self.lab.outside() {
            let _ = writeln!(text, "{address} {name}");
        }
        for instance in setup.run.instances() {
            let Some(found) = self.lab.addresses(&instance) else { continue };
            // The first data network is where others reach it by its name.
            let Some((_, v4, v6)) = found.data.first() else { continue };
            let _ = writeln!(text, "{v4} {}", found.hostname);
            if let Some(v6) = v6 {
                let _ = writeln!(text, "{v6} {}", found.hostname);
            }
        }
        std::fs::write(paths::HOSTS, text)
    }

    /// The emulator's own record of the run.
    pub(super) fn lateness(&self) -> Option<Lateness> {
        self.lab.snapshot().ok().map(|s| s.lateness())
    }

    /// What instances have asked for, if anything.
    pub(super) fn requests(&self) -> Option<NetworkRequests> {
        Some(self.lab.requests()).filter(|requests| requests.made > 0)
    }

    /// Tells the network as it is at the moment of asking.
    pub(super) fn show(&self) -> impl Fn() -> serde_json::Value + Send + Sync + use<> {
        let shown = Arc::clone(&self.shown);
        move || {
            let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(lab) = shown.as_ref() else {
                return serde_json::json!({ "error": "the lab is ending" });
            };
            match lab.show() {
                Ok(view) => serde_json::to_value(view).unwrap_or_default(),
                Err(e) => serde_json::json!({ "error": text(e) }),
            }
        }
    }

    /// Connects to a port of an instance, from within its network.
    pub(super) fn reach(&self) -> Reach {
        let namespaces = Arc::clone(&self.namespaces);
        Arc::new(move |instance, port, connect| match namespaces.get(instance) {
            Some(namespace) => reach::reach(instance, namespace, port, connect),
            None => Err(Unreached::Unknown(reach::unknown(instance, namespaces.keys()))),
        })
    }

    /// Completes the files of captures and recordings, and closes packet sockets: one after the other takes the kernel 14 ms for each.
    /// Everything else ends with the lab, and faster.
    pub(super) async fn finish(self) {
        if !self.watched && self.lab.ports() != PortKind::PacketSocket {
            return;
        }
        drop(self.serving);
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !self.lab.shutdown().await {
            tracing::warn!("captures and recordings may not be complete");
        }
    }

    /// Comes true when the switch has died of itself: why.
    pub(super) fn death(&self) -> impl Future<Output = String> + use<> {
        let mut died = self.lab.switch().died();
        async move {
            match died.wait_for(Option::is_some).await {
                Ok(why) => format!("the switch panicked: {}", why.as_deref().unwrap_or("nobody knows why")),
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Opens captures, in the outputs. Whether anything is written while packets flow.
fn watch(lab: &LabNetwork, setup: &Setup) -> Result<bool, String> {
    if lab.plane() == Plane::Kernel && (setup.record || setup.capture != Capture::Nobody) {
        return Err(
            "the kernel plane can't capture packets or record decisions: `--plane switch` can".to_owned()
        );
    }
    let captured: Vec<InstanceName> = match &setup.capture {
        Capture::Nobody => Vec::new(),
        Capture::Some(names) => names.clone(),
        Capture::All => setup.run.instances().collect(),
    };
    for instance in &captured {
        let ports = lab
            .ports_of(instance)
            .ok_or_else(|| format!("--capture {instance}: the run has no such instance"))?;
        let folder = crate::home::instance_dir(&setup.outputs, instance);
        let file = create(&folder, "packets.pcapng")?;
        lab.switch().capture(&ports, file).map_err(text)?;
    }
    Ok(setup.record || !captured.is_empty())
}

fn create(folder: &std::path::Path, name: &str) -> Result<std::fs::File, String> {
    let path = folder.join(name);
    let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::File::create(&path));
    made.map_err(|e| format!("failed to make {}: {e}", path.display()))
}

/// Gives every instance its network, many at a time.
async fn appear(
    lab: &LabNetwork,
    setup: &Setup,
    client: &Client,
) -> Result<BTreeMap<InstanceName, OwnedFd>, String> {
    let total = setup.run.instance_count();
    let mut waiting = setup.run.instances();
    let mut tasks = JoinSet::new();
    let mut namespaces = BTreeMap::new();
    loop {
        while tasks.len() < AT_ONCE
            && let Some(instance) = waiting.next()
        {
            let lab = lab.clone();
            tasks.spawn(async move { (lab.appear(&instance).await, instance) });
        }
        let Some(done) = tasks.join_next().await else { return Ok(namespaces) };
        let (namespace, instance) = done.map_err(|e| format!("the network of an instance: {e}"))?;
        let namespace = namespace.map_err(|e| format!("the network of {instance}: {}", text(e)))?;
        namespaces.insert(instance, namespace);
        let attached = namespaces.len() as u32;
        if attached == total || attached.is_multiple_of(50) {
            client.event(EventKind::NetworkProgress { attached, total }).await;
        }
    }
}

/// An error with its causes.
fn text(error: impl std::error::Error) -> String {
    super::super::init::text(error)
}

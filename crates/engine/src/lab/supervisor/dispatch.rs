//! The one loop that owns the view of a run inside the lab: every event of the outside comes in here, every order goes
//! out from here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use testground_linux::vmstat;
use testground_model::event::{EventKind, Report, Stream};
use testground_model::name::InstanceName;
use testground_model::outcome::signal_name;
use testground_model::units::show_size;
use testground_sidecar::reactor::lab::serve::Notice as NetworkNotice;
use testground_sync::SyncEvent;
use testground_sync::engine::PeerId;
use tokio::sync::mpsc;

use super::super::environment::{self, Facts};
use super::super::limits;
use super::super::protocol::{Command, InstanceSpec, Notice, Order, ProgramEnd, Setup, Tidings, paths};
use super::super::speech;
use super::client::Client;
use super::init::Init;
use super::knock::{Caller, Knock, Visit};
use super::ledger::{Ledger, Source};
use super::network::{Networks, Notices};
use super::outside::Outside;
use super::service::Meeting;
use super::stall::Stall;
use super::unit::{self, Heard};
use super::waits;

/// How often it is asked whether a run stands still.
const TICK: Duration = Duration::from_millis(250);

/// Where the dispatcher hears from.
pub(super) struct Ears {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) tidings: mpsc::Receiver<Tidings>,
    pub(super) sync: mpsc::Receiver<SyncEvent>,
    pub(super) network: Notices,
    pub(super) visits: mpsc::Receiver<Knock>,
}

/// What the dispatcher knows and commands.
pub(super) struct Dispatcher {
    setup: Setup,
    client: Client,
    init: Init,
    networks: Networks,
    sync: Meeting,
    sync_version: u64,
    outside: Outside,
    ledger: Ledger,
    addresses: waits::Addresses,
    /// Connections of the sync service: whose they are.
    peers: HashMap<PeerId, InstanceName>,
    /// Commands inside instances by the number that init knows them by.
    visitors: HashMap<u32, Caller>,
    next_visitor: u32,
    stall: Stall,
    heard: mpsc::Sender<Heard>,
    released: bool,
    /// Instances that are still to be started, and when the next one is.
    unstarted: VecDeque<(u32, InstanceName)>,
    next_start: tokio::time::Instant,
    stopping: Option<Instant>,
    killed: bool,
    told_end: bool,
    inherited: BTreeMap<String, String>,
}

/// Numbers of commands are above those of instances.
const FIRST_VISITOR: u32 = 1 << 24;

// === impl Dispatcher ===

impl Dispatcher {
    pub(super) fn new(
        setup: Setup,
        client: Client,
        init: Init,
        networks: Networks,
        sync: Meeting,
        outside: Outside,
        heard: mpsc::Sender<Heard>,
    ) -> Dispatcher {
        let mut ledger = Ledger::default();
        let mut addresses = waits::Addresses::new();
        for instance in setup.run.instances() {
            if let Some(found) = networks.lab().addresses(&instance) {
                addresses.insert(found.control.into(), instance.clone());
            }
            ledger.add(instance);
        }
        let stall = Stall::new(setup.run.settings.stall, Instant::now());
        Dispatcher {
            setup,
            client,
            init,
            networks,
            sync_version: sync.version(),
            sync,
            outside,
            ledger,
            addresses,
            peers: HashMap::new(),
            visitors: HashMap::new(),
            next_visitor: FIRST_VISITOR,
            stall,
            heard,
            released: false,
            unstarted: VecDeque::new(),
            next_start: tokio::time::Instant::now(),
            stopping: None,
            killed: false,
            told_end: false,
            inherited: std::env::vars().collect(),
        }
    }

    /// Runs until the client has nothing left to say, or is gone.
    pub(super) async fn serve(mut self, ears: Ears, heard: mpsc::Receiver<Heard>) {
        self.listen(ears, heard).await;
        self.networks.finish().await;
    }

    async fn listen(&mut self, mut ears: Ears, mut heard: mpsc::Receiver<Heard>) {
        let death = self.networks.death();
        tokio::pin!(death);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (next_start, waiting) = (self.next_start, !self.unstarted.is_empty());
            tokio::select! {
                biased;
                command = ears.commands.recv() => match command {
                    Some(Command::Finish) | None => return,
                    Some(command) => self.on_command(command).await,
                },
                Some(tidings) = ears.tidings.recv() => self.on_tidings(tidings).await,
                Some(event) = ears.sync.recv() => self.on_sync(event).await,
                Some(notice) = ears.network.recv() => self.on_network(notice).await,
                cause = &mut death => {
                    self.client.send(Notice::Broken { cause }).await;
                    return;
                }
                Some(heard) = heard.recv() => self.on_heard(heard).await,
                Some(knock) = ears.visits.recv() => match knock {
                    Knock::Visit(visit) => self.on_visit(visit),
                    Knock::Left { number } => {
                        self.visitors.remove(&number);
                        self.init.order(Order::Signal { number, signal: 1 }, Vec::new());
                    }
                },
                () = tokio::time::sleep_until(next_start), if waiting => self.start_due().await,
                _ = tick.tick() => self.on_tick().await,
            }
            self.maybe_over().await;
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Release if !self.released && self.stopping.is_none() => self.release().await,
            Command::Release | Command::Finish => {}
            Command::Explain => {
                let snapshot = if self.released { self.sync.snapshot().await } else { None };
                let waits = snapshot.map(|s| waits::by_instance(&s, &self.addresses, &self.ledger));
                let waits = waits.unwrap_or_default();
                self.client.send(Notice::Waits(waits)).await;
            }
            Command::Stop => self.stop().await,
        }
    }

    /// Starts every instance.
    async fn release(&mut self) {
        self.released = true;
        self.client.event(EventKind::InstancesReleased).await;
        self.unstarted = (0..).zip(self.setup.run.instances()).collect();
        self.next_start = tokio::time::Instant::now();
        self.start_due().await;
        if let Err(cause) = self.networks.release().await {
            self.client.send(Notice::Broken { cause }).await;
        }
        self.stall.stir(Instant::now());
    }

    /// Starts whoever's time has come: everybody at once, or one after the other where a rate is set.
    async fn start_due(&mut self) {
        let now = tokio::time::Instant::now();
        let between = self.setup.run.settings.start_rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        while self.next_start <= now
            && let Some((number, instance)) = self.unstarted.pop_front()
        {
            if let Err(e) = self.start(number, &instance) {
                self.not_started(number, e).await;
            }
            self.next_start += between.unwrap_or_default();
        }
        self.stall.stir(Instant::now());
    }

    fn start(&mut self, number: u32, instance: &InstanceName) -> Result<(), String> {
        let netns = self.networks.namespace(instance).ok_or("it has no network")?;
        let folder = self.folder(instance);
        let temp = PathBuf::from(paths::TMP).join(&instance.group).join(instance.index.to_string());
        for dir in [&folder, &temp] {
            std::fs::create_dir_all(dir).map_err(|e| format!("failed to make {}: {e}", dir.display()))?;
        }
        let spec = self.spec(instance, None)?;
        let pipe =
            || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"));
        let ((out_read, out_write), (err_read, err_write)) = (pipe()?, pipe()?);
        let limit = self.setup.run.settings.max_output;
        for (stream, from, file) in
            [(Stream::Stdout, out_read, "stdout.log"), (Stream::Stderr, err_read, "stderr.log")]
        {
            let (path, heard) = (folder.join(file), self.heard.clone());
            tokio::spawn(async move { unit::follow(number, stream, from, &path, limit, heard).await });
        }
        self.ledger.started(number, Instant::now(), vmstat::oom_kills().unwrap_or(0));
        self.init.order(Order::Spawn { number, spec }, vec![netns, out_write, err_write]);
        Ok(())
    }

    /// What an instance executes: its program, or a command in its place.
    fn spec(&self, instance: &InstanceName, command: Option<Vec<String>>) -> Result<InstanceSpec, String> {
        let group =
            self.setup.run.groups.iter().find(|g| g.id == instance.group).ok_or("its group is unknown")?;
        let program = self.setup.programs.get(&group.id).ok_or("its group has no program")?;
        let hostname = instance.hostname();
        let (folder, temp) =
            (self.folder(instance), format!("{}/{}/{}", paths::TMP, instance.group, instance.index));
        let subnet = self.setup.run.networks.first().map_or_else(String::new, |n| n.subnet.to_string());
        let env = environment::environment(&Facts {
            setup: &self.setup,
            group,
            name: instance,
            hostname: &hostname,
            outputs: &folder.display().to_string(),
            temp: &temp,
            program,
            subnet,
            inherited: &self.inherited,
        });
        let (program, argv) = match command {
            None => {
                let mut argv = vec![program.path.display().to_string()];
                argv.extend(program.args.iter().cloned());
                (program.path.clone(), argv)
            }
            Some(argv) => (super::knock::which(argv.first().map_or("", String::as_str), &env)?, argv),
        };
        let cgroup = (self.setup.cgroups && limits::limited(group)).then(|| limits::leaf(instance));
        Ok(InstanceSpec { hostname, program, argv, env, cwd: folder, cgroup })
    }

    fn folder(&self, instance: &InstanceName) -> PathBuf {
        self.setup.outputs.join(&instance.group).join(instance.index.to_string())
    }

    async fn not_started(&mut self, number: u32, why: String) {
        let now = Instant::now();
        // Streams that were never opened, or whose writers are gone, close by themselves or are closed here.
        let ended = self.ledger.ended(number, ProgramEnd::NotStarted(why), 0, now);
        let out = self.ledger.stream_closed(number, 0, [], now);
        let err = self.ledger.stream_closed(number, 1, [], now);
        for event in [ended, out, err].into_iter().flatten() {
            self.client.event(event).await;
        }
    }

    async fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Instant::now());
        if self.told_end {
            // A held lab, whose instances have ended long ago.
            self.client.send(Notice::AllEnded).await;
            return;
        }
        if !self.released {
            // Nobody was started: nobody has to be waited for.
            let living: Vec<u32> = self.ledger.living().map(|(n, _)| n).collect();
            for number in living {
                self.ledger.stopping(number);
                self.not_running(number).await;
            }
            return;
        }
        for (number, _) in std::mem::take(&mut self.unstarted) {
            self.ledger.stopping(number);
            self.not_running(number).await;
        }
        self.signal_all(15);
    }

    async fn not_running(&mut self, number: u32) {
        let now = Instant::now();
        self.ledger.stream_closed(number, 0, [], now);
        self.ledger.stream_closed(number, 1, [], now);
        if let Some(event) = self.ledger.ended(number, ProgramEnd::InitKilled, 0, now) {
            self.client.event(event).await;
        }
    }

    fn signal_all(&mut self, signal: i32) {
        let living: Vec<u32> = self.ledger.living().map(|(n, _)| n).collect();
        for number in living {
            self.ledger.stopping(number);
            self.init.order(Order::Signal { number, signal }, Vec::new());
        }
    }

    async fn on_tidings(&mut self, tidings: Tidings) {
        match tidings {
            Tidings::Started { number, pid } => {
                if let Some(instance) = self.ledger.name(number).cloned() {
                    self.client.event(EventKind::InstanceStarted { instance, pid: pid as u32 }).await;
                }
            }
            Tidings::OutOfMemory { number, kills } => self.over_limit(number, kills).await,
            Tidings::Ended { number, end } => {
                if number >= FIRST_VISITOR {
                    if let Some(caller) = self.visitors.remove(&number) {
                        caller.ended(&end);
                    }
                    return;
                }
                self.stall.stir(Instant::now());
                let oom_kills = vmstat::oom_kills().unwrap_or(0);
                if let Some(event) = self.ledger.ended(number, end, oom_kills, Instant::now()) {
                    self.client.event(event).await;
                }
            }
        }
    }

    /// Processes of an instance were killed for its limit. Whether the program was among them is seen by its end.
    async fn over_limit(&mut self, number: u32, kills: u64) {
        let Some(instance) = self.ledger.name(number).cloned() else { return };
        let group = self.setup.run.groups.iter().find(|group| group.id == instance.group);
        let Some(limit) = group.and_then(|group| group.resources.memory) else { return };
        self.ledger.over_limit(number, limit);
        let processes = if kills == 1 { "a process".to_owned() } else { format!("{kills} processes") };
        let message = format!(
            "{instance} reached its limit of memory, {}: the kernel killed {processes} of it",
            show_size(limit)
        );
        self.client.event(EventKind::Warning { message }).await;
    }

    async fn on_heard(&mut self, heard: Heard) {
        self.stall.stir(Instant::now());
        match heard {
            Heard::Report { number, report } => self.on_report(number, Source::Stdout, report).await,
            Heard::Line { number, stream, line } => {
                let Some(instance) = self.ledger.name(number).cloned() else { return };
                self.client.event(EventKind::Output { instance, stream, line }).await;
            }
            Heard::Unknown { number, event } => {
                let Some(instance) = self.ledger.name(number) else { return };
                let message = format!("{instance} reported an event of an unknown kind: {event:.200}");
                self.client.event(EventKind::Warning { message }).await;
            }
            Heard::Closed { number, stream, kept, hushed, tail } => {
                let Some(instance) = self.ledger.name(number).cloned() else { return };
                let (index, file) = match stream {
                    Stream::Stdout => (0, "stdout.log"),
                    Stream::Stderr => (1, "stderr.log"),
                };
                let path = self.folder(&instance).join(file);
                if hushed > 0 {
                    let message = format!("{instance} wrote {hushed} more lines: {}", path.display());
                    self.client.event(EventKind::Warning { message }).await;
                }
                let lost = kept.written - kept.kept;
                if let Some(error) = kept.error {
                    let error = format!("{}: {error}; {lost} bytes are lost", path.display());
                    self.client.event(EventKind::OutputLost { instance, error }).await;
                } else if lost > 0 {
                    let message = format!(
                        "{instance} wrote {} bytes; the first {} are kept (max_output): {}",
                        kept.written,
                        kept.kept,
                        path.display()
                    );
                    self.client.event(EventKind::Warning { message }).await;
                }
                if let Some(event) = self.ledger.stream_closed(number, index, tail, Instant::now()) {
                    self.client.event(event).await;
                }
            }
        }
    }

    async fn on_report(&mut self, number: u32, source: Source, report: Report) {
        if let Some(event) = self.ledger.reported(number, source, report, Instant::now()) {
            self.client.event(event).await;
        }
    }

    async fn on_sync(&mut self, event: SyncEvent) {
        match event {
            SyncEvent::Opened { peer, address } => {
                if let Some(instance) = self.owner(address) {
                    self.peers.insert(peer, instance);
                }
            }
            SyncEvent::Closed { peer, .. } => {
                self.peers.remove(&peer);
            }
            SyncEvent::Published { peer, topic, payload, .. } if topic.ends_with(":run_events") => {
                let Some(number) = self.peers.get(&peer).and_then(|i| self.ledger.number(i)) else { return };
                let said = serde_json::from_str(&payload).ok().as_ref().and_then(speech::report);
                if let Some(report) = said {
                    self.on_report(number, Source::Sync, report).await;
                }
            }
            _ => {}
        }
    }

    fn owner(&self, address: SocketAddr) -> Option<InstanceName> {
        self.addresses.get(&address.ip()).cloned()
    }

    async fn on_network(&mut self, notice: NetworkNotice) {
        self.stall.stir(Instant::now());
        match notice {
            NetworkNotice::Event(event) => self.client.event(event).await,
            NetworkNotice::Refused { instance, error } => {
                let Some(number) = self.ledger.number(&instance) else { return };
                let cause = super::super::init::text(error);
                self.ledger.refused(number, cause.clone());
                self.sync.fail_peer(self.control_address(&instance), &cause);
                self.init.order(Order::Signal { number, signal: 9 }, Vec::new());
            }
            NetworkNotice::Broken { cause } => self.client.send(Notice::Broken { cause }).await,
        }
    }

    fn control_address(&self, instance: &InstanceName) -> std::net::IpAddr {
        let found = self.networks.lab().addresses(instance);
        found.map_or(std::net::IpAddr::from([0, 0, 0, 0]), |a| a.control.into())
    }

    fn on_visit(&mut self, visit: Visit) {
        let number = self.next_visitor;
        let prepared = match self.ledger.number(&visit.instance) {
            None => Err(format!("the run has no instance {}", visit.instance)),
            Some(target) => self.spec(&visit.instance, Some(visit.argv)).and_then(|spec| {
                let netns = self.networks.namespace(&visit.instance).ok_or("it has no network")?;
                Ok((Order::Exec { number, target, spec }, netns))
            }),
        };
        match prepared {
            Ok((order, netns)) => {
                self.next_visitor += 1;
                visit.caller.number(number);
                self.visitors.insert(number, visit.caller);
                self.init.order(order, std::iter::once(netns).chain(visit.streams).collect());
            }
            Err(why) => visit.caller.ended(&ProgramEnd::NotStarted(why)),
        }
    }

    async fn on_tick(&mut self) {
        let now = Instant::now();
        let version = self.sync.version();
        if std::mem::replace(&mut self.sync_version, version) != version {
            self.stall.stir(now);
        }
        if let Some(since) = self.stopping
            && now.saturating_duration_since(since) >= self.setup.run.settings.grace
            && !self.killed
        {
            self.killed = true;
            self.signal_all(9);
        }
        if !self.released || self.stopping.is_some() {
            return;
        }
        self.urge(now).await;
        if !self.stall.is_due(now) {
            return;
        }
        self.stall.ask_again(now + self.sync.patience());
        let Some(snapshot) = self.sync.snapshot().await else { return };
        let waiting = waits::waiting(&snapshot, &self.addresses);
        let ledger = &self.ledger;
        if ledger.living_count() > 0 && ledger.living().all(|(_, name)| waiting.contains(name)) {
            let still = self.stall.told(now);
            let barriers = waits::barriers(&snapshot, &self.addresses, ledger);
            self.client.event(EventKind::Stalled { seconds: still.as_secs_f64(), barriers }).await;
        }
    }

    /// Ends instances that have failed by their own word and go on: a run would wait for them until its time is over.
    async fn urge(&mut self, now: Instant) {
        let grace = self.setup.run.settings.grace;
        for (number, signal) in self.ledger.lingering(now, grace) {
            let Some(instance) = self.ledger.name(number) else { continue };
            let message = format!("{instance} has failed, and goes on: it is sent {}", signal_name(signal));
            self.client.event(EventKind::Warning { message }).await;
            self.init.order(Order::Signal { number, signal }, Vec::new());
        }
    }

    async fn maybe_over(&mut self) {
        if self.told_end || self.ledger.living_count() > 0 {
            return;
        }
        self.told_end = true;
        if self.sync.missed_events() > 0 {
            let message = format!("{} events of the sync service were not seen", self.sync.missed_events());
            self.client.event(EventKind::Warning { message }).await;
        }
        for message in self.outside.untold() {
            self.client.event(EventKind::Warning { message }).await;
        }
        if let Some(lateness) = self.networks.lateness() {
            self.client.event(EventKind::EmulatorReport(lateness)).await;
        }
        if let Some(requests) = self.networks.requests() {
            self.client.event(EventKind::NetworkRequests(requests)).await;
        }
        self.client.send(Notice::AllEnded).await;
    }
}

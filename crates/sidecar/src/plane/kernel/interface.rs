//! One interface of the kernel's: brought from what is in force on it to what is wanted, and asked what has passed.
//!
//! Everything is checked before anything is changed; when the kernel refuses a part, what was in force before is put back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use testground_linux::Errno;
use testground_linux::route::{Change, LinkStats, Route, RouteKind, RouteSocket};
use testground_linux::tc::{Action, Handle, NetlinkError, Stats, TcChange, TcSocket};
use testground_model::shape::LinkShape;

use super::TREE;
use super::program::{Minor, compile, look_up};
use super::state::{Root, State, Target, WHOLE, leaf_handle};
use super::wanted::{ClassKey, Wanted, Way};

/// Why an interface can't be shaped.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Another program has put its own queue there.
    #[error(
        "interface {interface} has a queue of somebody else's ({kind} {handle}), which is left alone; \
         `tc qdisc del dev {interface} root` removes it"
    )]
    Foreign {
        /// The interface's name.
        interface: String,
        /// The kind of queue.
        kind: String,
        /// Its handle.
        handle: String,
    },
    /// It is no longer there.
    #[error("interface {interface} has vanished")]
    Vanished {
        /// The name it had.
        interface: String,
    },
    /// More distinct shapes than an interface can have.
    #[error("interface {interface} would need {wanted} classes; {} is the most", MOST_CLASSES)]
    TooMany {
        /// The interface's name.
        interface: String,
        /// How many.
        wanted: usize,
    },
    /// The kernel refused a part; what was in force before is again.
    #[error("interface {interface}: {source}")]
    Refused {
        /// The interface's name.
        interface: String,
        /// What was refused.
        source: Box<NetlinkError>,
    },
    /// The kernel refused a part, and to put back what was in force before.
    #[error("interface {interface}: {source}; and what was in force before could not be put back: {back}")]
    Torn {
        /// The interface's name.
        interface: String,
        /// What was refused first.
        source: Box<NetlinkError>,
        /// What was refused then.
        back: Box<NetlinkError>,
    },
}

/// What becomes of a queue that another program has put on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Others {
    /// It stays, and shaping is refused.
    #[default]
    Leave,
    /// It is replaced.
    Replace,
}

/// What has passed an interface.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// The interface's own counters.
    pub link: LinkStats,
    /// By class, those that are gone too: its shape, what has left it, and what was dropped or waits in it.
    pub classes: BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>,
}

/// An interface with what is in force on it. It is reached through its namespace's sockets, from any thread.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    tc: TcSocket,
    route: RouteSocket,
    others: Others,
    state: State,
    /// Where each class has its place.
    places: BTreeMap<ClassKey, Minor>,
    wanted: Wanted,
    /// Classes that are no longer wanted, by their places while they are there.
    retired: BTreeMap<Minor, (ClassKey, Arc<LinkShape>)>,
    /// What has passed classes that are gone.
    past: BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>,
}

/// Numbers of classes, and of the qdiscs below them.
const MOST_CLASSES: usize = 0x3fff;
/// The metric of this plane's routes, by which they are known.
const METRIC: u32 = 0x7467;
/// The routing table for everything.
const MAIN_TABLE: u32 = 254;

// === impl Interface ===

impl Interface {
    /// An interface of the namespace that the sockets were opened in. What an earlier sidecar left in force is read, and stays
    /// as far as it is wanted.
    ///
    /// # Errors
    /// The interface is not there, or has another program's queue that is to stay.
    pub fn adopt(
        name: &str,
        index: u32,
        mut tc: TcSocket,
        route: RouteSocket,
        others: Others,
    ) -> Result<Interface, KernelError> {
        let state = State::read(&mut tc, index).map_err(|source| refused(name, source))?;
        let interface = Interface {
            name: name.to_owned(),
            index,
            tc,
            route,
            others,
            state,
            places: BTreeMap::new(),
            wanted: Wanted::default(),
            retired: BTreeMap::new(),
            past: BTreeMap::new(),
        };
        interface.check_root()?;
        Ok(interface)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is in force, as it was asked for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Puts what is wanted in force: all of it, or nothing. The answer is how many messages it took; none when it is in force.
    ///
    /// # Errors
    /// [`KernelError`]; what was in force before is again, but for [`KernelError::Torn`].
    pub fn apply(&mut self, wanted: &Wanted) -> Result<usize, KernelError> {
        self.check_root()?;
        let places = self.places_for(wanted)?;
        let target = target(wanted, &places);
        let there: BTreeSet<IpNet> = self.wanted.routes.keys().chain(wanted.routes.keys()).copied().collect();
        let routes = if there.is_empty() { Vec::new() } else { self.route_steps(wanted)? };
        let mut leaving = BTreeMap::new();
        if self.state.classes.keys().any(|minor| !target.classes.contains_key(minor)) {
            leaving = self.statistics()?;
            for (minor, stats) in &leaving {
                if let Some(found) = self.state.classes.get_mut(minor) {
                    found.queued = stats.queued_packets;
                }
            }
        }
        let steps = self.state.steps(&target);
        // A tree that shapes nothing need not be made.
        let idle = target.classes.is_empty() && target.programs.is_empty() && self.state.root == Root::None;
        if routes.is_empty() && (steps.len() == 0 || idle) {
            (self.wanted, self.places) = (wanted.clone(), places);
            return Ok(0);
        }
        if let Err(source) = self.carry_out(&steps.phases(), &routes) {
            return Err(self.put_back(source));
        }
        self.state = self.state.after(&target, &steps);
        self.remember(&places, &leaving);
        (self.wanted, self.places) = (wanted.clone(), places);
        Ok(steps.len() + routes.len())
    }

    /// What has passed so far.
    ///
    /// # Errors
    /// The interface is no longer there.
    pub fn counters(&mut self) -> Result<Counters, KernelError> {
        let link = self.route.link_by_index(self.index).map_err(|e| refused(&self.name, e))?;
        let link = link.ok_or_else(|| KernelError::Vanished { interface: self.name.clone() })?.stats;
        let mut counters = Counters { link, classes: self.past.clone() };
        if self.state.classes.is_empty() {
            return Ok(counters);
        }
        let found = self.statistics()?;
        let there = self.places.iter().filter_map(|(key, minor)| {
            Some((*minor, (*key, Arc::clone(&self.wanted.classes.get(key)?.shape))))
        });
        for (minor, (key, shape)) in there.chain(self.retired.clone()) {
            if let Some(stats) = found.get(&minor) {
                add(&mut counters.classes, key, &shape, stats);
            }
        }
        Ok(counters)
    }

    /// What has passed each class so far.
    fn statistics(&mut self) -> Result<BTreeMap<Minor, Stats>, KernelError> {
        let classes = self.tc.classes_of(self.index, TREE).map_err(|e| refused(&self.name, e))?;
        let leaves = self.tc.qdiscs(self.index).map_err(|e| refused(&self.name, e))?;
        // A class does not know what was dropped below it.
        let drops: BTreeMap<Handle, u64> =
            leaves.iter().map(|leaf| (leaf.handle, leaf.stats.drops)).collect();
        let ours = classes.iter().filter(|class| class.handle.major() == TREE.major());
        let stats = ours.map(|class| {
            let minor = class.handle.minor();
            let drops = drops.get(&leaf_handle(minor)).copied().unwrap_or(0);
            (minor, Stats { drops, ..class.stats })
        });
        Ok(stats.collect())
    }

    /// Keeps what has passed classes that are gone now, and whose those are that only wait for their last packet.
    fn remember(&mut self, places: &BTreeMap<ClassKey, Minor>, leaving: &BTreeMap<Minor, Stats>) {
        let before = self.places.iter().filter(|(key, minor)| places.get(key) != Some(minor));
        for (key, minor) in before {
            if let Some(class) = self.wanted.classes.get(key) {
                self.retired.insert(*minor, (*key, Arc::clone(&class.shape)));
            }
        }
        let there = &self.state.classes;
        let (waiting, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.retired).into_iter().partition(|(minor, _)| there.contains_key(minor));
        self.retired = waiting;
        for (minor, (key, shape)) in gone {
            if let Some(stats) = leaving.get(&minor) {
                add(&mut self.past, key, &shape, stats);
            }
        }
    }

    /// Takes all of it away again: the kernel's own queue is back, and this plane's routes are gone.
    ///
    /// # Errors
    /// The first refusal; what is left is tried all the same.
    pub fn clear(&mut self) -> Result<(), KernelError> {
        let routes = self.route_steps(&Wanted::default())?;
        let mut first = self.route.apply_each(&routes).into_iter().find_map(Result::err);
        if matches!(self.state.root, Root::Ours(_)) {
            let action = Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE };
            let done = self.tc.apply(&[TcChange { index: self.index, action }]);
            first = first.or(done.err());
        }
        self.state = State::default();
        self.places.clear();
        self.wanted = Wanted::default();
        first.map_or(Ok(()), |source| Err(refused(&self.name, source)))
    }

    fn check_root(&self) -> Result<(), KernelError> {
        match &self.state.root {
            Root::Foreign { kind, handle } if self.others == Others::Leave => Err(KernelError::Foreign {
                interface: self.name.clone(),
                kind: kind.clone(),
                handle: handle.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// A place for each class: the one that it has, else the one in which the kernel puts its packets, else a free one. A class
    /// with another kind of queue than before has another place, for the kernel does not change kinds.
    fn places_for(&self, wanted: &Wanted) -> Result<BTreeMap<ClassKey, Minor>, KernelError> {
        let mut places = BTreeMap::new();
        let mut taken: BTreeSet<Minor> = BTreeSet::new();
        let fits = |minor: &Minor, key: &ClassKey| {
            let there = self.state.classes.get(minor).and_then(|found| found.leaf.as_ref());
            there.zip(wanted.classes.get(key)).is_none_or(|(there, class)| there.is_like(&class.leaf))
        };
        for key in wanted.classes.keys() {
            if let Some(minor) = self.places.get(key).filter(|minor| fits(minor, key)) {
                places.insert(*key, *minor);
                taken.insert(*minor);
            }
        }
        // Nothing is known yet of what an earlier sidecar left.
        let adopting = self.places.is_empty() && !self.state.classes.is_empty();
        if adopting {
            let programs: Vec<_> = self.state.programs.values().flatten().cloned().collect();
            for (prefix, key) in &wanted.table {
                let Some(key) = key.filter(|key| !places.contains_key(key)) else { continue };
                let found = look_up(&programs, prefix.network());
                if let Some(minor) = found
                    .filter(|m| self.state.classes.contains_key(m) && !taken.contains(m) && fits(m, &key))
                {
                    places.insert(key, minor);
                    taken.insert(minor);
                }
            }
        }
        let total = wanted.classes.len() + self.state.classes.len();
        let too_many = || KernelError::TooMany { interface: self.name.clone(), wanted: total };
        let mut free = (1..=MOST_CLASSES as Minor)
            .filter(|minor| !taken.contains(minor) && !self.state.classes.contains_key(minor));
        for key in wanted.classes.keys().filter(|key| !places.contains_key(key)).collect::<Vec<_>>() {
            places.insert(*key, free.next().ok_or_else(too_many)?);
        }
        Ok(places)
    }

    /// The routes of this plane that are to be made, and those that are to go.
    fn route_steps(&mut self, wanted: &Wanted) -> Result<Vec<Change<'static>>, KernelError> {
        let found = self.route.routes().map_err(|e| refused(&self.name, e))?;
        let ours =
            found.into_iter().filter(|route| route.table == MAIN_TABLE && route.metric == Some(METRIC));
        // Other interfaces of the namespace have such routes too.
        let known: BTreeSet<IpNet> = self.wanted.routes.keys().chain(wanted.routes.keys()).copied().collect();
        let there: BTreeMap<IpNet, Way> = ours
            .filter_map(|route| match route.kind {
                RouteKind::Prohibit => Some((route.destination, Way::Prohibited)),
                RouteKind::Unicast { device: Some(device), .. } if device == self.index => {
                    Some((route.destination, Way::Through))
                }
                _ => None,
            })
            .filter(|(net, _)| known.contains(net))
            .collect();
        let route = |net: IpNet, way: Way| {
            let kind = match way {
                Way::Prohibited => RouteKind::Prohibit,
                Way::Through => RouteKind::Unicast { device: Some(self.index), gateway: None, onlink: false },
            };
            Route { metric: Some(METRIC), ..Route::new(net, kind) }
        };
        // What is let through first, so that nothing is refused on the way that neither the old nor the new says.
        let mut making: Vec<_> =
            wanted.routes.iter().filter(|(net, way)| there.get(net) != Some(way)).collect();
        making.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        let replaced = making.iter().filter_map(|(net, _)| Some((**net, *there.get(*net)?)));
        let gone =
            there.iter().filter(|(net, _)| !wanted.routes.contains_key(net)).map(|(net, way)| (*net, *way));
        let mut going: Vec<(IpNet, Way)> = replaced.chain(gone).collect();
        going.sort_by_key(|(net, _)| net.prefix_len());
        let mut steps: Vec<Change<'static>> =
            going.into_iter().map(|(net, way)| Change::RemoveRoute(route(net, way))).collect();
        steps.extend(making.into_iter().map(|(net, way)| Change::AddRoute(route(*net, *way))));
        Ok(steps)
    }

    fn carry_out(&mut self, phases: &[&[Action]; 4], routes: &[Change<'static>]) -> Result<(), NetlinkError> {
        let index = self.index;
        for (number, actions) in phases.iter().enumerate() {
            if number == 1 && !routes.is_empty() {
                self.route.apply(routes)?;
            }
            if actions.is_empty() {
                continue;
            }
            let changes: Vec<TcChange> =
                actions.iter().map(|action| TcChange { index, action: action.clone() }).collect();
            self.tc.apply(&changes)?;
        }
        Ok(())
    }

    /// Brings back what was in force before, from whatever there is now.
    fn put_back(&mut self, source: NetlinkError) -> KernelError {
        let interface = self.name.clone();
        if source.errno() == Some(Errno::NODEV) {
            return KernelError::Vanished { interface };
        }
        match self.try_back() {
            Ok(()) => KernelError::Refused { interface, source: Box::new(source) },
            Err(back) if back.errno() == Some(Errno::NODEV) => KernelError::Vanished { interface },
            Err(back) => KernelError::Torn { interface, source: Box::new(source), back: Box::new(back) },
        }
    }

    fn try_back(&mut self) -> Result<(), NetlinkError> {
        let before = self.wanted.clone();
        let routes = match self.route_steps(&before) {
            Ok(routes) => routes,
            Err(KernelError::Refused { source, .. }) => return Err(*source),
            Err(_) => Vec::new(),
        };
        let had_none = self.state.root == Root::None;
        let target = target(&before, &self.places);
        let mut now = State::read(&mut self.tc, self.index)?;
        if had_none {
            // Nothing was there: the kernel's own queue comes back.
            if matches!(now.root, Root::Ours(_)) {
                let action = Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE };
                self.tc.apply(&[TcChange { index: self.index, action }])?;
            }
            self.route.apply(&routes)?;
            self.state = State::default();
            return Ok(());
        }
        now.count_waiting(&mut self.tc, self.index)?;
        let steps = now.steps(&target);
        self.carry_out(&steps.phases(), &routes)?;
        self.state = now.after(&target, &steps);
        Ok(())
    }
}

fn add(
    to: &mut BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>,
    key: ClassKey,
    shape: &Arc<LinkShape>,
    stats: &Stats,
) {
    let (_, sum) = to.entry(key).or_insert_with(|| (Arc::clone(shape), Stats::default()));
    sum.bytes += stats.bytes;
    sum.packets += stats.packets;
    sum.drops += stats.drops;
    sum.overlimits += stats.overlimits;
    sum.requeues += stats.requeues;
    sum.queued_packets += stats.queued_packets;
    sum.queued_bytes += stats.queued_bytes;
}

fn target(wanted: &Wanted, places: &BTreeMap<ClassKey, Minor>) -> Target {
    let place = |key: &ClassKey| places.get(key).copied().unwrap_or(0);
    let table: Vec<(IpNet, Minor)> =
        wanted.table.iter().map(|(net, key)| (*net, key.as_ref().map_or(0, place))).collect();
    Target {
        longest: wanted.longest.unwrap_or(WHOLE),
        classes: wanted
            .classes
            .iter()
            .map(|(key, class)| (place(key), (class.htb, class.leaf.clone())))
            .collect(),
        programs: compile(&table),
    }
}

fn refused(interface: &str, source: NetlinkError) -> KernelError {
    let interface = interface.to_owned();
    match source.errno() {
        Some(Errno::NODEV) => KernelError::Vanished { interface },
        _ => KernelError::Refused { interface, source: Box::new(source) },
    }
}

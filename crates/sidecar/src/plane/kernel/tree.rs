//! The queues of one device, brought from what is in force to what is wanted, with the routes that refuse.
//!
//! Everything is checked before anything is changed; when the kernel refuses a part, what was in force before is put back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use testground_linux::Errno;
use testground_linux::route::{Change, Route, RouteKind, RouteSocket};
use testground_linux::tc::{Action, Handle, NetlinkError, Stats, TcChange, TcSocket};
use testground_model::shape::LinkShape;

use super::TREE;
use super::interface::{KernelError, Others, refused};
use super::program::{End, Minor, compile, look_up};
use super::state::{Root, State, Target, WHOLE, leaf_handle};
use super::wanted::{ClassKey, Wanted, Way};

/// The conversations about one network namespace.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) tc: TcSocket,
    pub(super) route: RouteSocket,
}

/// What has passed each class: its shape, what has left it, and what was dropped or waits in it.
pub(super) type Passed = BTreeMap<ClassKey, (Arc<LinkShape>, Stats)>;

/// A device with what is in force on it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) name: String,
    pub(super) index: u32,
    /// Which end of a packet the programs look at.
    end: End,
    others: Others,
    state: State,
    /// Where each class has its place.
    places: BTreeMap<ClassKey, Minor>,
    wanted: Wanted,
    /// Classes that are no longer wanted, by their places while they are there.
    retired: BTreeMap<Minor, (ClassKey, Arc<LinkShape>)>,
    /// What has passed classes that are gone.
    past: Passed,
}

/// Numbers of classes, and of the qdiscs below them.
pub(super) const MOST_CLASSES: usize = 0x3fff;
/// The metric of this plane's routes, by which they are known.
const METRIC: u32 = 0x7467;
/// The routing table for everything.
const MAIN_TABLE: u32 = 254;

// === impl Tree ===

impl Tree {
    /// A device of the sockets' namespace. What an earlier sidecar left in force is read, and stays as far as it is wanted.
    pub(super) fn adopt(
        name: &str,
        index: u32,
        end: End,
        others: Others,
        sockets: &mut Sockets,
    ) -> Result<Tree, KernelError> {
        let state = State::read(&mut sockets.tc, index).map_err(|source| refused(name, source))?;
        let tree = Tree {
            name: name.to_owned(),
            index,
            end,
            others,
            state,
            places: BTreeMap::new(),
            wanted: Wanted::default(),
            retired: BTreeMap::new(),
            past: BTreeMap::new(),
        };
        tree.check_root()?;
        Ok(tree)
    }

    /// What is in force, as it was asked for.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether there is a class, or an address that programs know, wanted or still in use.
    pub(super) fn is_idle(&self) -> bool {
        self.state.classes.is_empty() && self.state.programs.is_empty()
    }

    /// Puts what is wanted in force: all of it, or nothing. The answer is how many messages it took; none when it is in force.
    pub(super) fn apply(&mut self, wanted: &Wanted, sockets: &mut Sockets) -> Result<usize, KernelError> {
        self.check_root()?;
        let places = self.places_for(wanted)?;
        let target = target(wanted, &places, self.end);
        let routes = self.route_steps(wanted, &mut sockets.route)?;
        let mut leaving = BTreeMap::new();
        if self.state.classes.keys().any(|minor| !target.classes.contains_key(minor)) {
            leaving = self.statistics(&mut sockets.tc)?;
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
        if let Err(source) = self.carry_out(&steps.phases(), &routes, sockets) {
            return Err(self.put_back(source, sockets));
        }
        self.state = self.state.after(&target, &steps);
        self.remember(&places, &leaving);
        (self.wanted, self.places) = (wanted.clone(), places);
        Ok(steps.len() + routes.len())
    }

    /// What has passed each class so far, those that are gone too.
    pub(super) fn passed(&mut self, tc: &mut TcSocket) -> Result<Passed, KernelError> {
        let mut passed = self.past.clone();
        if self.state.classes.is_empty() {
            return Ok(passed);
        }
        let found = self.statistics(tc)?;
        let there = self.places.iter().filter_map(|(key, minor)| {
            Some((*minor, (*key, Arc::clone(&self.wanted.classes.get(key)?.shape))))
        });
        for (minor, (key, shape)) in there.chain(self.retired.clone()) {
            if let Some(stats) = found.get(&minor) {
                add(&mut passed, key, &shape, stats);
            }
        }
        Ok(passed)
    }

    /// What has passed each class so far.
    fn statistics(&self, tc: &mut TcSocket) -> Result<BTreeMap<Minor, Stats>, KernelError> {
        let classes = tc.classes_of(self.index, TREE).map_err(|e| refused(&self.name, e))?;
        let leaves = tc.qdiscs(self.index).map_err(|e| refused(&self.name, e))?;
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

    /// Takes all of it away again: the kernel's own queue is back, and this plane's routes are gone. Goes on after a refusal, and
    /// tells the first.
    pub(super) fn clear(&mut self, sockets: &mut Sockets) -> Result<(), KernelError> {
        let routes = self.route_steps(&Wanted::default(), &mut sockets.route)?;
        let mut first = sockets.route.apply_each(&routes).into_iter().find_map(Result::err);
        if matches!(self.state.root, Root::Ours(_)) {
            let action = Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE };
            let done = sockets.tc.apply(&[TcChange { index: self.index, action }]);
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
                place: "root",
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
                let found = look_up(&programs, prefix.network(), self.end);
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
    fn route_steps(
        &self,
        wanted: &Wanted,
        route: &mut RouteSocket,
    ) -> Result<Vec<Change<'static>>, KernelError> {
        let known: BTreeSet<IpNet> = self.wanted.routes.keys().chain(wanted.routes.keys()).copied().collect();
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let found = route.routes().map_err(|e| refused(&self.name, e))?;
        let ours =
            found.into_iter().filter(|route| route.table == MAIN_TABLE && route.metric == Some(METRIC));
        // Other interfaces of the namespace have such routes too.
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

    fn carry_out(
        &self,
        phases: &[&[Action]; 4],
        routes: &[Change<'static>],
        sockets: &mut Sockets,
    ) -> Result<(), NetlinkError> {
        let index = self.index;
        for (number, actions) in phases.iter().enumerate() {
            if number == 1 && !routes.is_empty() {
                sockets.route.apply(routes)?;
            }
            if actions.is_empty() {
                continue;
            }
            let changes: Vec<TcChange> =
                actions.iter().map(|action| TcChange { index, action: action.clone() }).collect();
            sockets.tc.apply(&changes)?;
        }
        Ok(())
    }

    /// Brings back what was in force before, from whatever there is now.
    fn put_back(&mut self, source: NetlinkError, sockets: &mut Sockets) -> KernelError {
        let interface = self.name.clone();
        if source.errno() == Some(Errno::NODEV) {
            return KernelError::Vanished { interface };
        }
        match self.try_back(sockets) {
            Ok(()) => KernelError::Refused { interface, source: Box::new(source) },
            Err(back) if back.errno() == Some(Errno::NODEV) => KernelError::Vanished { interface },
            Err(back) => KernelError::Torn { interface, source: Box::new(source), back: Box::new(back) },
        }
    }

    fn try_back(&mut self, sockets: &mut Sockets) -> Result<(), NetlinkError> {
        let before = self.wanted.clone();
        let routes = match self.route_steps(&before, &mut sockets.route) {
            Ok(routes) => routes,
            Err(KernelError::Refused { source, .. }) => return Err(*source),
            Err(_) => Vec::new(),
        };
        let had_none = self.state.root == Root::None;
        let target = target(&before, &self.places, self.end);
        let mut now = State::read(&mut sockets.tc, self.index)?;
        if had_none {
            // Nothing was there: the kernel's own queue comes back.
            if matches!(now.root, Root::Ours(_)) {
                let action = Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE };
                sockets.tc.apply(&[TcChange { index: self.index, action }])?;
            }
            sockets.route.apply(&routes)?;
            self.state = State::default();
            return Ok(());
        }
        now.count_waiting(&mut sockets.tc, self.index)?;
        let steps = now.steps(&target);
        self.carry_out(&steps.phases(), &routes, sockets)?;
        self.state = now.after(&target, &steps);
        Ok(())
    }
}

/// Adds what passed to what had passed before.
pub(super) fn add(to: &mut Passed, key: ClassKey, shape: &Arc<LinkShape>, stats: &Stats) {
    let (_, sum) = to.entry(key).or_insert_with(|| (Arc::clone(shape), Stats::default()));
    sum.bytes += stats.bytes;
    sum.packets += stats.packets;
    sum.drops += stats.drops;
    sum.overlimits += stats.overlimits;
    sum.requeues += stats.requeues;
    sum.queued_packets += stats.queued_packets;
    sum.queued_bytes += stats.queued_bytes;
}

fn target(wanted: &Wanted, places: &BTreeMap<ClassKey, Minor>, end: End) -> Target {
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
        programs: compile(&table, end),
    }
}

//! What is in force on an interface, what is to be, and the steps between: pure but for [`State::read`].
//!
//! Nothing passes unshaped while the steps are taken: classes are there before packets are put into them, a new set of
//! programs is whole before the old one goes, and a class that is no longer wanted stays until its last packet has left.

use std::collections::{BTreeMap, BTreeSet};

use testground_linux::tc::{
    Action, Filter, FoundClass, FoundQdisc, Handle, Htb, HtbClass, NetlinkError, Protocol, Qdisc, Settings,
    Target as TcTarget, Tbf, TcSocket,
};

use super::carry::Leaf;
use super::program::{Minor, Program};
use super::{ROOT, TREE};

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) root: Root,
    pub(super) classes: BTreeMap<Minor, Found>,
    /// The programs by the priority of their filters: the lowest that knows an address decides.
    pub(super) programs: BTreeMap<u16, Vec<Program>>,
}

/// The qdisc at the root of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Root {
    /// The kernel's own, or a tree of ours that was not finished.
    #[default]
    None,
    /// Ours; the longest packet that passes whole.
    Ours(u32),
    /// Somebody else's.
    Foreign { kind: String, handle: Handle },
}

/// A class in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) htb: HtbClass,
    /// None: one that this plane does not make.
    pub(super) leaf: Option<Leaf>,
    /// Packets that wait in it.
    pub(super) queued: u32,
}

/// What is to be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) longest: u32,
    pub(super) classes: BTreeMap<Minor, (HtbClass, Leaf)>,
    pub(super) programs: Vec<Program>,
}

/// The way from what is in force to what is to be; each part is whole before the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Steps {
    /// The tree, and classes that are new or change.
    pub(super) make: Vec<Action>,
    /// The new programs, behind those that decide.
    pub(super) map: Vec<Action>,
    /// Takes away those that decided.
    pub(super) unmap: Vec<Action>,
    /// What nothing needs any more.
    pub(super) clear: Vec<Action>,
    /// Classes that are no longer wanted, and stay because packets wait in them.
    pub(super) retired: BTreeSet<Minor>,
}

/// A packet that is never too long.
pub(super) const WHOLE: u32 = 1 << 24;
/// The rate of the bucket that cuts: no packet waits for it.
const FAST: u64 = 1_000_000_000_000;
/// Packets that pass unshaped wait at most so many, while another CPU sends.
const DIRECT: u32 = 1000;
/// The highest priority of a set of programs before they start at 1 again.
const LAST_PRIORITY: u16 = 0xf000;

/// The only class of the bucket, below which the tree hangs.
const INSIDE: Handle = Handle::new(ROOT.major(), 1);

/// The handle of the qdisc below a class.
pub(super) const fn leaf_handle(minor: Minor) -> Handle {
    Handle::new(0x8000 + minor, 0)
}

pub(super) const fn class_handle(minor: Minor) -> Handle {
    Handle::new(TREE.major(), minor)
}

// === impl Steps ===

impl Steps {
    /// How many messages they are.
    pub(super) fn len(&self) -> usize {
        self.phases().iter().map(|phase| phase.len()).sum()
    }

    pub(super) fn phases(&self) -> [&[Action]; 4] {
        [&self.make, &self.map, &self.unmap, &self.clear]
    }
}

// === impl State ===

impl State {
    /// The steps that lead to a target.
    pub(super) fn steps(&self, target: &Target) -> Steps {
        let mut steps = Steps::default();
        self.root_steps(target, &mut steps);
        for (minor, (htb, leaf)) in &target.classes {
            let found = self.classes.get(minor).filter(|_| matches!(self.root, Root::Ours(_)));
            class_steps(*minor, found, htb, leaf, &mut steps.make);
        }
        self.program_steps(&target.programs, &mut steps);
        for (minor, found) in &self.classes {
            if target.classes.contains_key(minor) || !matches!(self.root, Root::Ours(_)) {
                continue;
            }
            if found.queued > 0 {
                steps.retired.insert(*minor);
            } else {
                steps.clear.push(Action::DeleteClass { handle: class_handle(*minor) });
            }
        }
        steps
    }

    /// What is in force when the steps have been taken.
    pub(super) fn after(&self, target: &Target, steps: &Steps) -> State {
        let mut programs = BTreeMap::new();
        if !target.programs.is_empty() {
            let priority = if steps.map.is_empty() { self.programs.keys().next().copied() } else { None };
            programs.insert(priority.unwrap_or_else(|| self.next_priority()), target.programs.clone());
        }
        let mut classes: BTreeMap<Minor, Found> = target
            .classes
            .iter()
            .map(|(minor, (htb, leaf))| (*minor, Found { htb: *htb, leaf: Some(leaf.clone()), queued: 0 }))
            .collect();
        classes.extend(
            steps.retired.iter().filter_map(|minor| Some((*minor, self.classes.get(minor)?.clone()))),
        );
        State { root: Root::Ours(target.longest), classes, programs }
    }

    fn root_steps(&self, target: &Target, steps: &mut Steps) {
        let limit = target.longest;
        let bucket = Qdisc::Tbf(Tbf { rate: FAST, burst: target.longest, limit });
        let (parent, handle) = (Handle::ROOT, ROOT);
        match self.root {
            Root::Ours(longest) if longest == target.longest => {}
            // Cut before a class needs it, and no longer only when none does.
            Root::Ours(longest) => {
                let change = Action::ChangeQdisc { parent, handle, qdisc: bucket };
                if target.longest < longest { steps.make.push(change) } else { steps.clear.push(change) }
            }
            Root::None | Root::Foreign { .. } => {
                let tree = Qdisc::Htb(Htb { direct_queue: Some(DIRECT), ..Htb::default() });
                steps.make.extend([
                    Action::ReplaceQdisc { parent, handle, qdisc: bucket },
                    Action::ReplaceQdisc { parent: INSIDE, handle: TREE, qdisc: tree },
                ]);
            }
        }
    }

    fn program_steps(&self, wanted: &[Program], steps: &mut Steps) {
        let found = if matches!(self.root, Root::Ours(_)) { self.programs.clone() } else { BTreeMap::new() };
        let same = |programs: &Vec<Program>| {
            programs.len() == wanted.len() && wanted.iter().all(|program| programs.contains(program))
        };
        // The first set may be one that was not finished: only when it is alone does it say everything.
        let mut kept =
            found.iter().next().filter(|(_, programs)| same(programs)).map(|(priority, _)| *priority);
        if kept.is_none() && !wanted.is_empty() {
            let priority = self.next_priority();
            steps.map.extend(wanted.iter().map(|program| Action::AddFilter {
                parent: TREE,
                priority,
                protocol: Protocol::All,
                filter: Filter::Bpf { program: program.clone(), target: TcTarget::Class(TREE) },
            }));
            kept = Some(priority);
        }
        let old = found.keys().filter(|priority| Some(**priority) != kept);
        steps.unmap.extend(old.map(|priority| Action::DeletePriority {
            parent: TREE,
            priority: *priority,
            protocol: Protocol::All,
        }));
    }

    /// Behind all that are there, so that a set of programs counts only when it is whole.
    fn next_priority(&self) -> u16 {
        match self.programs.keys().next_back() {
            Some(last) if *last < LAST_PRIORITY => last + 1,
            // Packets that the unfinished set does not know yet are known to the one behind it.
            Some(_) => (1..).find(|priority| !self.programs.contains_key(priority)).unwrap_or(1),
            None => 1,
        }
    }

    /// What the kernel says is in force on an interface.
    pub(super) fn read(tc: &mut TcSocket, index: u32) -> Result<State, NetlinkError> {
        let qdiscs = tc.qdiscs(index)?;
        let mut state = State { root: root_of(&qdiscs), ..State::default() };
        if !matches!(state.root, Root::Ours(_)) {
            return Ok(state);
        }
        let below: BTreeMap<Handle, &FoundQdisc> = qdiscs.iter().map(|qdisc| (qdisc.parent, qdisc)).collect();
        for class in tc.classes_of(index, TREE)? {
            if let Some((minor, found)) = found_class(&class, below.get(&class.handle).copied()) {
                state.classes.insert(minor, found);
            }
        }
        for filter in tc.filters(index, TREE)? {
            let programs = state.programs.entry(filter.priority).or_default();
            if !filter.program.is_empty() {
                programs.push(filter.program);
            }
        }
        Ok(state)
    }

    /// Asks the kernel how many packets wait in the classes.
    pub(super) fn count_waiting(&mut self, tc: &mut TcSocket, index: u32) -> Result<(), NetlinkError> {
        for class in tc.classes_of(index, TREE)? {
            if let Some(found) = self.classes.get_mut(&class.handle.minor()) {
                found.queued = class.stats.queued_packets;
            }
        }
        Ok(())
    }
}

fn class_steps(minor: Minor, found: Option<&Found>, htb: &HtbClass, leaf: &Leaf, make: &mut Vec<Action>) {
    let (parent, handle) = (TREE, class_handle(minor));
    let below = |qdisc| Action::ReplaceQdisc { parent: handle, handle: leaf_handle(minor), qdisc };
    let Some(found) = found else {
        make.extend([Action::AddClass { parent, handle, class: *htb }, below(leaf.qdisc())]);
        return;
    };
    if found.htb != *htb {
        make.push(Action::ChangeClass { parent, handle, class: *htb });
    }
    match (&found.leaf, leaf) {
        (Some(Leaf::Netem(there)), Leaf::Netem(wanted)) if wanted.is_done_by(there) => {}
        (Some(Leaf::Fifo(there)), Leaf::Fifo(wanted)) if there == wanted => {}
        (Some(Leaf::Hole), Leaf::Hole) => {}
        // What waits in it stays.
        (Some(Leaf::Netem(_)), Leaf::Netem(_)) | (Some(Leaf::Fifo(_)), Leaf::Fifo(_)) => {
            make.push(Action::ChangeQdisc {
                parent: handle,
                handle: leaf_handle(minor),
                qdisc: leaf.qdisc(),
            });
        }
        _ => make.push(below(leaf.qdisc())),
    }
}

fn root_of(qdiscs: &[FoundQdisc]) -> Root {
    let Some(root) = qdiscs.iter().find(|qdisc| qdisc.parent == Handle::ROOT) else { return Root::None };
    // What the kernel makes by itself has no number.
    if root.handle.major() == 0 {
        return Root::None;
    }
    match &root.settings {
        Settings::Tbf(bucket) if root.handle == ROOT => {
            let tree = qdiscs.iter().any(|qdisc| qdisc.handle == TREE && qdisc.kind == "htb");
            if tree { Root::Ours(bucket.limit) } else { Root::None }
        }
        _ => Root::Foreign { kind: root.kind.clone(), handle: root.handle },
    }
}

fn found_class(class: &FoundClass, below: Option<&FoundQdisc>) -> Option<(Minor, Found)> {
    let htb = class.htb.filter(|_| class.handle.major() == TREE.major())?;
    let minor = class.handle.minor();
    let leaf =
        below.filter(|qdisc| qdisc.handle == leaf_handle(minor)).and_then(|qdisc| match &qdisc.settings {
            Settings::Netem(netem) => Some(Leaf::Netem(Box::new(netem.clone()))),
            Settings::Fifo { limit } => Some(Leaf::Fifo(*limit)),
            Settings::Blackhole => Some(Leaf::Hole),
            _ => None,
        });
    Some((minor, Found { htb, leaf, queued: class.stats.queued_packets }))
}

// === impl Leaf ===

impl Leaf {
    fn qdisc(&self) -> Qdisc {
        match self {
            Leaf::Netem(netem) => Qdisc::Netem((**netem).clone()),
            Leaf::Fifo(limit) => Qdisc::Pfifo { limit: *limit },
            Leaf::Hole => Qdisc::Blackhole,
        }
    }

    /// Whether the kernel can make this one of the other: it changes settings, but no kind.
    pub(super) fn is_like(&self, other: &Leaf) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testground_linux::tc::Netem;

    use super::super::program::{End, compile};
    use super::*;

    fn leaf(delay: u64) -> Leaf {
        Leaf::Netem(Box::new(Netem { delay, ..Netem::default() }))
    }

    /// Classes by their numbers, each with a delay, and a program that knows so many hosts.
    fn target(longest: u32, classes: &[(Minor, u64)], hosts: &[u8]) -> Target {
        let table: Vec<_> = hosts.iter().map(|h| (format!("16.0.0.{h}/32").parse().unwrap(), 1)).collect();
        Target {
            longest,
            classes: classes.iter().map(|(m, delay)| (*m, (HtbClass::of_rate(1000), leaf(*delay)))).collect(),
            programs: compile(&table, End::Destination),
        }
    }

    fn reached(from: &State, target: &Target) -> State {
        let steps = from.steps(target);
        from.after(target, &steps)
    }

    #[test]
    fn the_same_again_is_nothing_and_a_change_is_one_message() {
        let first = target(WHOLE, &[(1, 5), (2, 6)], &[3, 4]);
        let state = reached(&State::default(), &first);
        assert_eq!(state.steps(&first), Steps::default());
        let changed = target(WHOLE, &[(1, 5), (2, 7)], &[3, 4]);
        let steps = state.steps(&changed);
        assert_eq!(steps.len(), 1);
        assert!(
            matches!(&steps.make[..], [Action::ChangeQdisc { parent, .. }] if *parent == class_handle(2)),
            "{steps:?}"
        );
        assert_eq!(reached(&state, &changed).steps(&changed), Steps::default());
    }

    #[test]
    fn new_programs_stand_behind_the_old_ones_until_those_go() {
        let state = reached(&State::default(), &target(WHOLE, &[(1, 5)], &[3]));
        let steps = state.steps(&target(WHOLE, &[(1, 5), (2, 5)], &[3, 9]));
        assert_eq!((steps.make.len(), steps.map.len(), steps.unmap.len()), (2, 1, 1));
        assert!(matches!(steps.map[0], Action::AddFilter { priority: 2, .. }));
        assert!(matches!(steps.unmap[0], Action::DeletePriority { priority: 1, .. }));
        // A set that was being put in when the sidecar ended: the old one is only taken away when the new one is whole.
        let mut broken = state.clone();
        broken.programs.insert(2, Vec::new());
        let steps = broken.steps(&target(WHOLE, &[(1, 5)], &[9]));
        assert!(matches!(steps.map[0], Action::AddFilter { priority: 3, .. }));
        assert_eq!(steps.unmap.len(), 2);
        let mut late = state;
        let programs = late.programs.remove(&1).unwrap();
        late.programs.insert(LAST_PRIORITY, programs);
        let steps = late.steps(&target(WHOLE, &[(1, 5)], &[9]));
        assert!(
            matches!(steps.map[0], Action::AddFilter { priority: 1, .. }),
            "in front, where it is filled up"
        );
    }

    #[test]
    fn a_class_stays_until_its_last_packet_has_left() {
        let mut state = reached(&State::default(), &target(WHOLE, &[(1, 5), (2, 5)], &[3]));
        let without = target(WHOLE, &[(1, 5)], &[3]);
        state.classes.get_mut(&2).unwrap().queued = 4;
        let steps = state.steps(&without);
        assert_eq!((steps.len(), steps.retired.iter().copied().collect::<Vec<_>>()), (0, vec![2]));
        let mut later = state.after(&without, &steps);
        assert!(later.classes.contains_key(&2));
        later.classes.get_mut(&2).unwrap().queued = 0;
        assert_eq!(later.steps(&without).clear, [Action::DeleteClass { handle: class_handle(2) }]);
    }

    #[test]
    fn packets_are_cut_before_a_class_needs_it_and_as_long_as_one_does() {
        let whole = target(WHOLE, &[(1, 5)], &[3]);
        let cut = target(1518, &[(1, 5)], &[3]);
        let state = reached(&State::default(), &whole);
        assert_eq!((state.steps(&cut).make.len(), state.steps(&cut).len()), (1, 1));
        let state = reached(&state, &cut);
        assert_eq!((state.steps(&whole).clear.len(), state.steps(&whole).len()), (1, 1));
    }

    #[test]
    fn an_unfinished_tree_is_made_anew() {
        let qdisc = |kind: &str, handle, parent, settings| FoundQdisc {
            index: 2,
            handle,
            parent,
            kind: kind.to_owned(),
            settings,
            stats: testground_linux::tc::Stats::default(),
        };
        let bucket = Settings::Tbf(Tbf { rate: FAST, burst: 0, limit: 1518 });
        let root = qdisc("tbf", ROOT, Handle::ROOT, bucket.clone());
        let tree = qdisc("htb", TREE, INSIDE, Settings::Htb(Htb::default()));
        assert_eq!(root_of(std::slice::from_ref(&root)), Root::None);
        assert_eq!(root_of(&[root, tree]), Root::Ours(1518));
        assert_eq!(root_of(&[qdisc("noqueue", Handle::NONE, Handle::ROOT, Settings::Other)]), Root::None);
        let foreign = qdisc("tbf", Handle::new(1, 0), Handle::ROOT, bucket);
        assert_eq!(root_of(&[foreign]), Root::Foreign { kind: "tbf".to_owned(), handle: Handle::new(1, 0) });
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let classes = prop::collection::btree_map(1u16..9, 1u64..4, 0..6);
        let hosts = prop::collection::btree_set(1u8..20, 0..6);
        (prop::bool::ANY, classes, hosts).prop_map(|(cut, classes, hosts)| {
            let classes: Vec<_> = classes.into_iter().collect();
            target(if cut { 1518 } else { WHOLE }, &classes, &hosts.into_iter().collect::<Vec<_>>())
        })
    }

    proptest! {
        /// Whatever was in force: what is wanted is reached, in one go, and then nothing is left to do.
        #[test]
        fn every_target_is_reached(targets in prop::collection::vec((any_target(), 0u32..2), 1..8)) {
            let mut state = State::default();
            for (target, queued) in targets {
                for found in state.classes.values_mut() {
                    found.queued = queued;
                }
                let steps = state.steps(&target);
                let classes: BTreeSet<Minor> = target.classes.keys().copied().collect();
                for action in &steps.clear {
                    if let Action::DeleteClass { handle } = action {
                        prop_assert!(queued == 0 && !classes.contains(&handle.minor()));
                    }
                }
                state = state.after(&target, &steps);
                let again = state.steps(&target);
                prop_assert!(again.make.is_empty() && again.map.is_empty() && again.unmap.is_empty(), "{:?}", again);
                prop_assert!(classes.iter().all(|minor| state.classes.contains_key(minor)));
            }
        }
    }
}

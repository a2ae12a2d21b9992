//! What this kernel knows of shaping, asked by trying in a network namespace made for it.

use std::fmt;

use super::{
    Action, BpfInstruction, Filter, Handle, Htb, HtbClass, Loss, Netem, NetlinkError, Protocol, Qdisc, Share,
    Slot, Target, Tbf, TcChange, TcSocket, U32Key, U32Target,
};
use crate::Errno;
use crate::netns::{NetnsError, tour};
use crate::route::{Change, RouteSocket, VethEnd};

/// Something that shaping by the kernel makes use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ability {
    /// Pairs of interfaces.
    Veth,
    /// IFB devices, to shape what arrives.
    Ifb,
    /// Classes with rates.
    Htb,
    /// Rates of 2^32 bytes a second and more.
    HtbRate64,
    /// Cutting super-packets into their segments.
    Tbf,
    /// Delay and loss.
    Netem,
    /// Bursts of loss.
    NetemLossModel,
    /// Pacing by netem itself.
    NetemRate,
    /// Letting packets go in groups.
    NetemSlot,
    /// The same losses for the same seed (Linux 6.6 and newer).
    NetemSeed,
    /// A duplicating netem beside another one in the same tree (refused by Linux 6.16 and newer).
    NetemDuplicateInTree,
    /// The place for filters of what arrives.
    Clsact,
    /// Filters by bits.
    U32,
    /// Filters by addresses.
    Flower,
    /// Filters by a program.
    Bpf,
    /// Filters of everything.
    MatchAll,
    /// Sending a packet to another interface.
    Mirred,
}

/// Whether an ability is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbilityState {
    /// Which.
    pub ability: Ability,
    /// None: it works. Else what the kernel said.
    pub refusal: Option<String>,
    /// The kernel module that brings it, where it is missing.
    pub module: Option<&'static str>,
}

impl Ability {
    /// The kernel module that brings it; none where an update of the kernel is needed.
    pub fn module(self) -> Option<&'static str> {
        Some(match self {
            Self::Veth => "veth",
            Self::Ifb => "ifb",
            Self::Htb => "sch_htb",
            Self::Tbf => "sch_tbf",
            Self::Netem | Self::NetemLossModel | Self::NetemRate | Self::NetemSlot => "sch_netem",
            Self::Clsact => "sch_ingress",
            Self::U32 => "cls_u32",
            Self::Flower => "cls_flower",
            Self::Bpf => "cls_bpf",
            Self::MatchAll => "cls_matchall",
            Self::Mirred => "act_mirred",
            Self::HtbRate64 | Self::NetemSeed | Self::NetemDuplicateInTree => return None,
        })
    }
}

impl fmt::Display for AbilityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, self.module) {
            (None, _) => write!(f, "{:?} works", self.ability),
            (Some(refusal), Some(module)) => {
                write!(
                    f,
                    "{:?} is missing: {refusal} (kernel module {module}: modprobe {module})",
                    self.ability
                )
            }
            (Some(refusal), None) => write!(f, "{:?} is missing: {refusal}", self.ability),
        }
    }
}

/// What can't be tried without netem.
const NETEM_OPTIONS: [Ability; 5] = [
    Ability::NetemLossModel,
    Ability::NetemRate,
    Ability::NetemSlot,
    Ability::NetemDuplicateInTree,
    Ability::NetemSeed,
];

/// Tries each ability. Needs power over network namespaces; leaves nothing behind.
///
/// # Errors
/// When no namespace can be made to try in.
pub fn abilities() -> Result<Vec<AbilityState>, NetnsError> {
    tour(|tour| {
        tour.create()?;
        Ok(abilities_here())
    })?
}

/// Tries each ability in the calling thread's own network namespace, which has to be one to throw away.
pub(crate) fn abilities_here() -> Vec<AbilityState> {
    let mut found = Vec::new();
    let mut note = |ability: Ability, result: Result<(), String>| -> bool {
        let works = result.is_ok();
        let module = if works { None } else { ability.module() };
        found.push(AbilityState { ability, refusal: result.err(), module });
        works
    };
    let sockets = RouteSocket::open().and_then(|route| Ok((route, TcSocket::open()?)));
    let (mut route, mut tc) = match sockets {
        Ok(sockets) => sockets,
        Err(error) => {
            note(Ability::Veth, Err(words(&error)));
            return found;
        }
    };
    let pair = Change::CreateVeth { one: VethEnd::new("shaped"), other: VethEnd::new("peer") };
    note(Ability::Veth, route.apply(&[pair]).map_err(|error| words(&error)));
    note(Ability::Ifb, route.apply(&[Change::CreateIfb { name: "ifb" }]).map_err(|error| words(&error)));
    // Whatever there is to hang queues on: every namespace has loopback, as number 1.
    let index_of = |route: &mut RouteSocket, name| route.link(name).ok().flatten().map(|link| link.index);
    let index = index_of(&mut route, "shaped").unwrap_or(1);
    let elsewhere = index_of(&mut route, "ifb").or_else(|| index_of(&mut route, "peer")).unwrap_or(1);
    let mut attempt = |action: Action| tc.apply(&[TcChange { index, action }]).map_err(|error| words(&error));

    let tree = Handle::new(1, 0);
    let class = |minor| Handle::new(1, minor);
    let htb =
        attempt(Action::AddQdisc { parent: Handle::ROOT, handle: tree, qdisc: Qdisc::Htb(Htb::default()) });
    let no_tree = htb.clone().err();
    let add_class =
        |minor, rate| Action::AddClass { parent: tree, handle: class(minor), class: HtbClass::of_rate(rate) };
    let classes =
        htb.and_then(|()| attempt(add_class(1, 125_000))).and_then(|()| attempt(add_class(2, 125_000)));
    note(Ability::Htb, classes.clone());
    note(Ability::HtbRate64, classes.clone().and_then(|()| attempt(add_class(3, 5_000_000_000))));

    let bucket = Qdisc::Tbf(Tbf { rate: 5_000_000_000, burst: 2000, limit: 2000 });
    let place = if no_tree.is_some() { Handle::ROOT } else { class(2) };
    note(
        Ability::Tbf,
        attempt(Action::ReplaceQdisc { parent: place, handle: Handle::new(0x30, 0), qdisc: bucket }),
    );

    let below = |minor: u16, netem: Netem| match &no_tree {
        // Without a tree it is tried in its place.
        Some(_) => (Handle::ROOT, Handle::new(0x20, 0), netem),
        None => (class(minor), Handle::new(0x10 + minor, 0), netem),
    };
    let mut netem = |minor: u16, settings: Netem| {
        let (parent, handle, settings) = below(minor, settings);
        attempt(Action::ReplaceQdisc { parent, handle, qdisc: Qdisc::Netem(settings) })
    };
    let base = Netem { delay: 1_000_000, ..Netem::default() };
    if note(Ability::Netem, netem(1, base.clone())) {
        let share = Share::new(0.1);
        let model =
            Loss::Gilbert { to_bad: share, to_good: share, bad_loss: Share::ALL, good_loss: Share::NONE };
        note(Ability::NetemLossModel, netem(1, Netem { loss: model, ..base.clone() }));
        note(Ability::NetemRate, netem(1, Netem { rate: 125_000, ..base.clone() }));
        let slot = Slot { min_delay: 1_000_000, max_delay: 2_000_000, ..Slot::default() };
        note(Ability::NetemSlot, netem(1, Netem { slot: Some(slot), ..base.clone() }));
        let second = netem(2, Netem { duplicate: share, ..base.clone() });
        note(Ability::NetemDuplicateInTree, second);
        let seeded = netem(1, Netem { seed: Some(42), ..base });
        // An old kernel takes no notice of a seed, so it is asked for again.
        let kept = tc.qdiscs(index).is_ok_and(|found| {
            found.iter().any(
                |qdisc| matches!(&qdisc.settings, super::Settings::Netem(netem) if netem.seed == Some(42)),
            )
        });
        let seeded =
            seeded.and_then(|()| if kept { Ok(()) } else { Err("the kernel keeps no seed".to_owned()) });
        note(Ability::NetemSeed, seeded);
    } else {
        for option in NETEM_OPTIONS {
            note(option, Err("it is an option of netem, which is missing".to_owned()));
        }
    }

    let mut attempt = |action: Action| tc.apply(&[TcChange { index, action }]).map_err(|error| words(&error));
    let clsact = attempt(Action::AddQdisc {
        parent: Handle::INGRESS,
        handle: Handle::INGRESS_QDISC,
        qdisc: Qdisc::Clsact,
    });
    let place = if clsact.is_ok() { Handle::CLSACT_INGRESS } else { tree };
    note(Ability::Clsact, clsact);
    let to_class = Target::Class(class(1));
    let everywhere = "10.0.0.0/8".parse().expect("a network");
    let mut filter =
        |priority, protocol, filter| attempt(Action::AddFilter { parent: place, priority, protocol, filter });
    let keys = U32Key::destination(everywhere);
    let u32_filter = Filter::U32 { keys, target: U32Target::Is(to_class), bucket: None };
    note(Ability::U32, filter(1, Protocol::Ipv4, u32_filter));
    let flower = Filter::Flower { source: None, destination: Some(everywhere), target: to_class };
    note(Ability::Flower, filter(2, Protocol::Ipv4, flower));
    let answer = BpfInstruction { code: 6, jump_true: 0, jump_false: 0, operand: 0 };
    note(Ability::Bpf, filter(3, Protocol::All, Filter::Bpf { program: vec![answer], target: to_class }));
    let matchall = note(Ability::MatchAll, filter(4, Protocol::All, Filter::MatchAll { target: to_class }));
    let redirect = Target::Redirect { index: elsewhere };
    let mirred = if matchall {
        Filter::MatchAll { target: redirect }
    } else {
        let everything = vec![U32Key { value: 0, mask: 0, offset: 0 }];
        Filter::U32 { keys: everything, target: U32Target::Is(redirect), bucket: None }
    };
    note(Ability::Mirred, filter(5, Protocol::All, mirred));
    found
}

fn words(error: &NetlinkError) -> String {
    match error.errno() {
        // How a kernel answers for a qdisc, filter or device of a kind that it does not have.
        Some(Errno::NOENT | Errno::OPNOTSUPP) => format!("{error}: this kernel does not have it"),
        Some(errno) => format!("{error}: {errno}"),
        None => error.to_string(),
    }
}

//! What arrives at an interface from strangers: while any of it is to be shaped, all that arrives takes a detour over an IFB
//! device of the same namespace, whose queues are those of [`super::tree`], by source. What nobody wants shaped passes them
//! unshaped. Who is a stranger belongs to the plan.
//!
//! The detour begins when its queues are whole, and ends when the last packet has left them.

use testground_linux::Errno;
use testground_linux::route::{Change, LinkChange, RouteSocket};
use testground_linux::tc::{
    Action, BpfInstruction, Filter, Handle, NetlinkError, Protocol, Qdisc, Target, TcChange, TcSocket,
};

use super::interface::{KernelError, Others, refused};
use super::program::End;
use super::tree::{Passed, Sockets, Tree, add};
use super::wanted::Wanted;

/// The detour of one interface.
#[derive(Debug)]
pub(super) struct Arrivals {
    name: String,
    index: u32,
    others: Others,
    /// The IFB device with its queues; none: nothing is shaped.
    ifb: Option<Tree>,
    /// Whether what arrives goes there.
    redirected: bool,
    /// What has passed devices that are gone.
    past: Passed,
}

/// What is where filters of arrivals have their place.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Nothing.
    Free,
    /// A `clsact` that has no filter of anybody else for what arrives.
    Usable(Found),
    /// Somebody else's: a `clsact` with filters, or an `ingress`.
    Foreign { kind: String, handle: Handle },
}

/// The filter that redirects.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It leads to the device.
    Whole,
    /// It leads nowhere.
    Stale,
}

/// Of the filter that redirects: "tg".
const PRIORITY: u16 = 0x7467;

/// The device for an interface's arrivals.
fn device(index: u32) -> String {
    format!("tg-in{index}")
}

// === impl Arrivals ===

impl Arrivals {
    /// The detour as an earlier sidecar left it, as far as it is there.
    pub(super) fn adopt(
        name: &str,
        index: u32,
        others: Others,
        sockets: &mut Sockets,
    ) -> Result<Arrivals, KernelError> {
        let ifb = device(index);
        let mut arrivals = Arrivals {
            name: name.to_owned(),
            index,
            others,
            ifb: None,
            redirected: false,
            past: Passed::default(),
        };
        let Some(link) = sockets.route.link(&ifb).map_err(|e| refused(name, e))? else { return Ok(arrivals) };
        if !link.up {
            sockets.route.apply(&[up(link.index)]).map_err(|e| refused(name, e))?;
        }
        // Nobody else has a say on a device of this plane.
        arrivals.ifb = Some(Tree::adopt(&ifb, link.index, End::Source, Others::Replace, sockets)?);
        let place = arrivals.place(&mut sockets.tc).map_err(|e| refused(name, e))?;
        arrivals.redirected = place == Place::Usable(Found::Whole);
        Ok(arrivals)
    }

    /// Puts what is wanted in force, or takes the detour away; all of it, or nothing. The answer is how many messages it took.
    pub(super) fn apply(
        &mut self,
        wanted: Option<&Wanted>,
        sockets: &mut Sockets,
    ) -> Result<usize, KernelError> {
        let Some(wanted) = wanted else { return self.retire(sockets) };
        let mut steps = Vec::new();
        if !self.redirected {
            let place = self.place(&mut sockets.tc).map_err(|e| refused(&self.name, e))?;
            steps = self.towards_redirection(place)?;
        }
        let made = self.ifb.is_none();
        let mut messages = 0;
        if made {
            messages += self.make_device(sockets)?;
        }
        let Some(ifb) = &mut self.ifb else { return Ok(0) };
        let former = ifb.wanted().clone();
        match ifb.apply(wanted, sockets) {
            Ok(more) => messages += more,
            Err(error) => {
                if made {
                    self.remove_device(&mut sockets.route);
                }
                return Err(error);
            }
        }
        if self.redirected {
            return Ok(messages);
        }
        let target = Target::Redirect { index: ifb.index };
        steps.push(redirection(target));
        match self.send(&steps, &mut sockets.tc) {
            Ok(()) => {
                self.redirected = true;
                Ok(messages + steps.len())
            }
            Err(source) => {
                let error = self.missing_or_refused(source);
                // A place that was made for the filter alone goes with it; what else was taken away can't be had again.
                if matches!(steps.first(), Some(Action::AddQdisc { .. })) {
                    let _ = self.send(&[remove_place()], &mut sockets.tc);
                }
                match &mut self.ifb {
                    Some(ifb) if !made => drop(ifb.apply(&former, sockets)),
                    _ => self.remove_device(&mut sockets.route),
                }
                Err(error)
            }
        }
    }

    /// What has passed so far.
    pub(super) fn passed(&mut self, tc: &mut TcSocket) -> Result<Passed, KernelError> {
        let mut passed = self.past.clone();
        if let Some(ifb) = &mut self.ifb {
            for (key, (shape, stats)) in ifb.passed(tc)? {
                add(&mut passed, key, &shape, &stats);
            }
        }
        Ok(passed)
    }

    /// Takes the detour away at once, with whatever waits in it. Goes on after a refusal, and tells the first.
    pub(super) fn clear(&mut self, sockets: &mut Sockets) -> Result<(), KernelError> {
        if self.ifb.is_none() {
            return Ok(());
        }
        let place = self.end_redirection(&mut sockets.tc);
        self.remove_device(&mut sockets.route);
        place.map(|_| ()).map_err(|source| refused(&self.name, source))
    }

    /// Takes the queues away, and the detour as soon as they are empty.
    fn retire(&mut self, sockets: &mut Sockets) -> Result<usize, KernelError> {
        let Some(ifb) = &mut self.ifb else { return Ok(0) };
        let messages = ifb.apply(&Wanted::default(), sockets)?;
        if !ifb.is_idle() {
            return Ok(messages);
        }
        self.past = self.passed(&mut sockets.tc)?;
        let place = self.end_redirection(&mut sockets.tc).map_err(|e| refused(&self.name, e))?;
        self.remove_device(&mut sockets.route);
        Ok(messages + place + 1)
    }

    fn place(&self, tc: &mut TcSocket) -> Result<Place, NetlinkError> {
        let qdiscs = tc.qdiscs(self.index)?;
        let Some(there) = qdiscs.into_iter().find(|qdisc| qdisc.parent == Handle::INGRESS) else {
            return Ok(Place::Free);
        };
        let foreign = Place::Foreign { kind: there.kind.clone(), handle: there.handle };
        if there.kind != "clsact" {
            return Ok(foreign);
        }
        let filters = tc.filters(self.index, Handle::CLSACT_INGRESS)?;
        if filters.iter().any(|filter| filter.priority != PRIORITY) {
            return Ok(foreign);
        }
        let whole = self.ifb.as_ref().map(|ifb| Target::Redirect { index: ifb.index });
        let found = match filters.iter().any(|filter| filter.redirect.is_some() && filter.redirect == whole) {
            true => Found::Whole,
            false if filters.is_empty() => Found::Nothing,
            false => Found::Stale,
        };
        Ok(Place::Usable(found))
    }

    /// What has to be done before the filter is put in.
    fn towards_redirection(&self, place: Place) -> Result<Vec<Action>, KernelError> {
        let make =
            Action::AddQdisc { parent: Handle::INGRESS, handle: Handle::INGRESS_QDISC, qdisc: Qdisc::Clsact };
        Ok(match place {
            Place::Free => vec![make],
            Place::Usable(Found::Nothing) => Vec::new(),
            Place::Usable(Found::Whole | Found::Stale) => vec![remove_redirection()],
            Place::Foreign { .. } if self.others == Others::Replace => vec![remove_place(), make],
            Place::Foreign { kind, handle } => {
                let place = if kind == "clsact" { "clsact" } else { "ingress" };
                let (interface, handle) = (self.name.clone(), handle.to_string());
                return Err(KernelError::Foreign { interface, kind, handle, place });
            }
        })
    }

    fn make_device(&mut self, sockets: &mut Sockets) -> Result<usize, KernelError> {
        let name = device(self.index);
        let made = sockets.route.apply(&[Change::CreateIfb { name: &name }]);
        made.map_err(|source| self.missing_or_refused(source))?;
        let link = sockets.route.link(&name).map_err(|e| refused(&self.name, e))?;
        let link = link.ok_or_else(|| KernelError::Vanished { interface: name.clone() })?;
        let tree = sockets
            .route
            .apply(&[up(link.index)])
            .map_err(|source| refused(&self.name, source))
            .and_then(|()| Tree::adopt(&name, link.index, End::Source, Others::Replace, sockets));
        match tree {
            Ok(tree) => self.ifb = Some(tree),
            Err(error) => {
                let _ = sockets.route.apply(&[Change::DeleteLink { index: link.index }]);
                return Err(error);
            }
        }
        Ok(2)
    }

    /// Removes the filter, and its place where nobody else has a filter there; how many messages it took.
    fn end_redirection(&mut self, tc: &mut TcSocket) -> Result<usize, NetlinkError> {
        self.redirected = false;
        let Place::Usable(found) = self.place(tc)? else { return Ok(0) };
        let mut steps = Vec::new();
        if found != Found::Nothing {
            steps.push(remove_redirection());
        }
        if tc.filters(self.index, Handle::CLSACT_EGRESS)?.is_empty() {
            steps.push(remove_place());
        }
        self.send(&steps, tc)?;
        Ok(steps.len())
    }

    /// Whether it is gone is not asked: whoever removed it has done this work.
    fn remove_device(&mut self, route: &mut RouteSocket) {
        if let Some(ifb) = self.ifb.take() {
            let _ = route.apply(&[Change::DeleteLink { index: ifb.index }]);
        }
    }

    fn send(&self, actions: &[Action], tc: &mut TcSocket) -> Result<(), NetlinkError> {
        let index = self.index;
        actions.iter().try_for_each(|action| tc.apply(&[TcChange { index, action: action.clone() }]))
    }

    /// How a kernel answers that lacks what a detour is made of.
    fn missing_or_refused(&self, source: NetlinkError) -> KernelError {
        let text = source.to_string();
        let lacks = matches!(source.errno(), Some(Errno::NOENT | Errno::OPNOTSUPP));
        let what = match () {
            () if !lacks => None,
            () if text.contains("ifb") || text.contains(&device(self.index)) => Some(("IFB devices", "ifb")),
            () if text.contains("clsact") => Some(("clsact", "sch_ingress")),
            () if text.contains("action") => Some(("redirection", "act_mirred")),
            () => Some(("programs for filters", "cls_bpf")),
        };
        match what {
            Some((what, module)) => {
                let interface = self.name.clone();
                KernelError::Missing { interface, what, module, source: Box::new(source) }
            }
            None => refused(&self.name, source),
        }
    }
}

/// A device for nothing but packets of another interface: it has no address, and says nothing by itself.
fn up(index: u32) -> Change<'static> {
    Change::Link(LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::new(index) })
}

/// The filter by which all that arrives goes there.
fn redirection(target: Target) -> Action {
    // "return -1": a match.
    let everything = BpfInstruction { code: 0x06, jump_true: 0, jump_false: 0, operand: u32::MAX };
    Action::AddFilter {
        parent: Handle::CLSACT_INGRESS,
        priority: PRIORITY,
        protocol: Protocol::All,
        filter: Filter::Bpf { program: vec![everything], target },
    }
}

fn remove_redirection() -> Action {
    Action::DeletePriority { parent: Handle::CLSACT_INGRESS, priority: PRIORITY, protocol: Protocol::All }
}

fn remove_place() -> Action {
    Action::DeleteQdisc { parent: Handle::INGRESS, handle: Handle::INGRESS_QDISC }
}

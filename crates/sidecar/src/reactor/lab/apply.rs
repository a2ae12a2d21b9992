//! Carrying a request out: everything is checked first, then done in order, and taken back in reverse when the kernel or
//! the switch refuses a part.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use testground_linux::netns::Tour;

use super::interface::with_prefix;
use super::pod::{Pod, Step};
use super::{Inner, LabError, Shared, Slot};
use crate::address::AddressError;
use crate::plan::{Member, Plan, PortId, Wishes};
use crate::request::{Request, RequestError, Routing};

/// What a data interface is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) up: bool,
    pub(super) v4: IpNet,
    pub(super) v6: Option<IpNet>,
}

// === impl Inner ===

impl Inner {
    /// Does what an instance asks for: all of it, or nothing.
    pub(super) fn apply(&self, tour: &mut Tour, slot: &Slot, request: &Request) -> Result<(), RequestError> {
        let index = self.networks.iter().position(|n| n.name == request.network).ok_or_else(|| {
            RequestError::unknown_network(&request.network, self.networks.iter().map(|n| n.name.as_str()))
        })?;
        let mut pod = slot.pod();
        let pod = pod.as_mut().ok_or_else(|| refused(&LabError::Absent(slot.name.clone())))?;
        let port = slot.data[index].port;
        let before = pod.data[index].state.clone();
        let after = self.wanted(slot, index, &before, request)?;
        if let Some(wires) = &self.wires {
            wires.check(&request.wishes)?;
        }
        let routing = pod.routing;

        // Addresses are reserved before anything is touched: two instances may ask for the same one at once.
        self.claim(slot, index, &before, &after)?;
        let undo_claim = || self.shared().release(index, port, &after, &before);
        if let Err(error) = self.reach(tour, slot, pod, index, &after, request.routing) {
            undo_claim();
            return Err(refused(&error));
        }

        let member = self.member(slot, index, &after);
        let planned = self.replan(|plan| match after.up {
            true => {
                plan.attach(member);
                plan.wish(port, request.wishes.clone());
            }
            false => plan.detach(port),
        });
        // A plan is put in force without an answer. The answer to this command, which stands behind it, is also that.
        let open = request.routing == Routing::AllowAll;
        let in_force = self.switch.allow_peers(slot.control.port, open).map_err(LabError::from);
        if let Err(error) = planned.and(in_force) {
            undo_claim();
            if self.wires.is_some()
                && let Err(back) = self.reach(tour, slot, pod, index, &before, routing)
            {
                tracing::warn!("{}: an interface could not be set back: {back}", slot.name);
            }
            return Err(refused(&error));
        }
        let mut shared = self.shared();
        shared.release(index, port, &before, &after);
        shared.count(&request.wishes);
        Ok(())
    }

    /// Changes the plan and puts it in force.
    pub(super) fn replan(&self, change: impl FnOnce(&mut Plan)) -> Result<(), LabError> {
        let mut shared = self.shared();
        let before = shared.plan.clone();
        change(&mut shared.plan);
        // Under the lock, so that plans come into force in the order of their changes. The switch is only told.
        if let Some(wires) = &self.wires
            && let Err(error) = wires.install(&shared.plan, &before)
        {
            shared.plan = before;
            return Err(error.into());
        }
        let rewiring = match &self.shortcuts {
            Some(shortcuts) => match shortcuts.prepare(&shared.plan, &before) {
                Ok(rewiring) => Some((shortcuts, rewiring)),
                Err(error) => {
                    shared.plan = before;
                    return Err(error);
                }
            },
            None => None,
        };
        let plan = Arc::new(shared.plan.clone());
        match rewiring {
            Some((shortcuts, mut rewiring)) => {
                self.switch.install_past(plan, std::mem::take(&mut rewiring.passed))?;
                shortcuts.settle(rewiring)?;
            }
            None => self.switch.install(plan)?,
        }
        Ok(())
    }

    /// The state that a request leads to, if it makes sense for this network.
    fn wanted(
        &self,
        slot: &Slot,
        index: usize,
        before: &State,
        request: &Request,
    ) -> Result<State, RequestError> {
        let mut after = State { up: request.enable, ..before.clone() };
        let shared = self.shared();
        let (pool, pool6) = &shared.pools[index];
        let port = slot.data[index].port;
        let check = |field, pool: &crate::address::Pool, address| match pool.check(address, port) {
            Ok(_) => Ok(with_prefix(address, pool.subnet())),
            Err(error) => Err(self.unavailable(field, error)),
        };
        if let Some(v4) = request.ipv4 {
            after.v4 = check("IPv4", pool, IpAddr::V4(v4))?;
        }
        if let Some(v6) = request.ipv6 {
            let Some(pool6) = pool6 else {
                return Err(RequestError::NoIpv6 { address: v6, network: request.network.clone() });
            };
            after.v6 = Some(check("IPv6", pool6, IpAddr::V6(v6))?);
        }
        Ok(after)
    }

    fn claim(&self, slot: &Slot, index: usize, before: &State, after: &State) -> Result<(), RequestError> {
        let port = slot.data[index].port;
        let mut shared = self.shared();
        let (pool, pool6) = &mut shared.pools[index];
        pool.claim(after.v4.addr(), port).map_err(|e| self.unavailable("IPv4", e))?;
        if let (Some(v6), Some(pool6)) = (after.v6, pool6)
            && let Err(error) = pool6.claim(v6.addr(), port)
        {
            shared.release(index, port, after, before);
            return Err(self.unavailable("IPv6", error));
        }
        Ok(())
    }

    /// Brings the namespace and the switch's table from the state that is to the one that is wanted.
    fn reach(
        &self,
        tour: &mut Tour,
        slot: &Slot,
        pod: &mut Pod,
        index: usize,
        after: &State,
        routing: Routing,
    ) -> Result<(), LabError> {
        let before = pod.data[index].state.clone();
        let (was, link) = (pod.routing, pod.data[index].link);
        let there: Vec<Step> =
            steps(link, &before, after).into_iter().chain(routes(pod.control, was, routing)).collect();
        let back = || steps(link, after, &before).into_iter().chain(routes(pod.control, routing, was));
        let port = slot.data[index].port;
        // Before it is so, or after: what comes between is no delivery.
        let tell = |up| match self.shortcuts {
            Some(_) => self.switch.set_up(port, up),
            None => Ok(()),
        };
        if !after.up {
            tell(false)?;
        }
        if !there.is_empty()
            && let Err(error) = pod.visit(tour, &there)
        {
            pod.restore(tour, &back().collect::<Vec<_>>());
            tell(before.up)?;
            return Err(error);
        }
        if let Some(shortcuts) = &self.shortcuts
            && after.up
            && !before.up
            && let Err(error) = shortcuts.await_up(port)
        {
            pod.restore(tour, &back().collect::<Vec<_>>());
            return Err(error);
        }
        if before != *after
            && self.wires.is_none()
            && let Err(error) = self.switch.readdress(port, after.addresses())
        {
            pod.restore(tour, &back().collect::<Vec<_>>());
            tell(before.up)?;
            return Err(error.into());
        }
        if after.up && !before.up {
            tell(true)?;
        }
        pod.data[index].state = after.clone();
        pod.routing = routing;
        Ok(())
    }

    pub(super) fn member(&self, slot: &Slot, index: usize, state: &State) -> Member {
        Member {
            port: slot.data[index].port,
            instance: slot.name.clone(),
            network: self.networks[index].name.clone(),
            regions: slot.regions.clone(),
            addresses: state.addresses(),
        }
    }

    /// Takes back what an instance asked for, so that it can appear anew: addresses and plan as at the start.
    pub(super) fn forget(&self, slot: &Slot, pod: &Pod) -> Result<(), LabError> {
        for (index, data) in pod.data.iter().enumerate() {
            let port = slot.data[index].port;
            let first = State::first(&slot.data[index].addresses);
            let mut shared = self.shared();
            shared.release(index, port, &data.state, &first);
            let (pool, pool6) = &mut shared.pools[index];
            // Somebody else may have asked for it since: then the instance can't appear again.
            pool.claim(first.v4.addr(), port)?;
            if let (Some(v6), Some(pool6)) = (first.v6, pool6) {
                pool6.claim(v6.addr(), port)?;
            }
        }
        self.replan(|plan| {
            for (index, data) in slot.data.iter().enumerate() {
                plan.attach(self.member(slot, index, &State::first(&data.addresses)));
                plan.wish(data.port, Wishes::default());
            }
        })
    }

    fn unavailable(&self, field: &'static str, error: AddressError) -> RequestError {
        if let AddressError::Taken { address, network, holder } = &error
            && let Some(slot) = self.slots.values().find(|s| s.data.iter().any(|d| d.port == *holder))
        {
            let (address, network, holder) = (*address, network.clone(), slot.name.clone());
            return RequestError::Taken { field, address, network, holder };
        }
        RequestError::Address { field, error }
    }
}

// === impl Shared ===

impl Shared {
    /// Counts a request that was carried out.
    fn count(&mut self, wishes: &Wishes) {
        let asked = std::iter::once(&wishes.default).chain(wishes.rules.iter().map(|(_, shape)| shape));
        let mut asked = asked.filter(|shape| !shape.is_transparent()).peekable();
        self.requests.made += 1;
        if asked.peek().is_some() {
            self.requests.shaped += 1;
            self.requests.proved += u64::from(asked.all(|shape| self.proved.contains(shape)));
        }
    }

    /// Gives back the addresses of one state of an interface that another does not have.
    fn release(&mut self, index: usize, port: PortId, given_up: &State, kept: &State) {
        let (pool, pool6) = &mut self.pools[index];
        if given_up.v4.addr() != kept.v4.addr() {
            pool.release(given_up.v4.addr(), port);
        }
        if let (Some(v6), Some(pool6)) = (given_up.v6, pool6)
            && kept.v6.is_none_or(|kept| kept.addr() != v6.addr())
        {
            pool6.release(v6.addr(), port);
        }
    }
}

// === impl State ===

impl State {
    /// Up, with these addresses: IPv4, then perhaps IPv6.
    pub(super) fn first(addresses: &[IpNet]) -> State {
        State { up: true, v4: addresses[0], v6: addresses.get(1).copied() }
    }

    /// What others can reach.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let all = std::iter::once(self.v4).chain(self.v6);
        all.filter(|_| self.up).map(|net| net.addr()).collect()
    }
}

/// The steps from one state of an interface to another. The kernel takes IPv6 addresses away from an interface that goes
/// down, and keeps IPv4 ones with the route to their subnet.
pub(super) fn steps(link: u32, from: &State, to: &State) -> Vec<Step> {
    let mut steps = Vec::new();
    if from.up && !to.up {
        steps.push(Step::Down(link));
    }
    if from.v4 != to.v4 {
        steps.push(Step::RemoveAddress(link, from.v4));
        steps.push(Step::AddAddress(link, to.v4));
    }
    if from.up && to.up && from.v6 != to.v6 {
        steps.extend(from.v6.map(|old| Step::RemoveAddress(link, old)));
        steps.extend(to.v6.map(|new| Step::AddAddress(link, new)));
    }
    if !from.up && to.up {
        steps.push(Step::Up(link));
        steps.extend(to.v6.map(|new| Step::AddAddress(link, new)));
    }
    steps
}

/// The steps from one routing policy to another.
fn routes(control: u32, from: Routing, to: Routing) -> Vec<Step> {
    match (from, to) {
        (Routing::DenyAll, Routing::AllowAll) => vec![Step::Open(control)],
        (Routing::AllowAll, Routing::DenyAll) => vec![Step::Close(control)],
        _ => Vec::new(),
    }
}

fn refused(error: &LabError) -> RequestError {
    RequestError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(up: bool, v4: &str, v6: Option<&str>) -> State {
        State { up, v4: v4.parse().unwrap(), v6: v6.map(|v| v.parse().unwrap()) }
    }

    #[test]
    fn nothing_is_done_where_nothing_changes() {
        let one = state(true, "16.0.0.2/16", Some("fd00::2/64"));
        assert_eq!(steps(2, &one, &one), []);
        let down = state(false, "16.0.0.2/16", None);
        assert_eq!(steps(2, &down, &down), []);
    }

    #[test]
    fn an_address_is_replaced_and_ipv6_comes_back_with_the_interface() {
        let one = state(true, "16.0.0.2/16", Some("fd00::2/64"));
        let other = state(true, "16.0.1.1/16", Some("fd00::2/64"));
        assert_eq!(steps(2, &one, &other), [Step::RemoveAddress(2, one.v4), Step::AddAddress(2, other.v4)]);
        let down = State { up: false, ..other };
        assert_eq!(
            steps(2, &one, &down),
            [Step::Down(2), Step::RemoveAddress(2, one.v4), Step::AddAddress(2, other.v4)]
        );
        assert_eq!(steps(2, &down, &other), [Step::Up(2), Step::AddAddress(2, other.v6.unwrap())]);
        assert_eq!(down.addresses(), Vec::<IpAddr>::new());
    }
}

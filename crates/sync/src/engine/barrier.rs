//! Waits at barriers: how they begin, and the three ways in which they end.

use std::cmp::Reverse;
use std::time::Instant;

use super::slab::Key;
use super::value::{BarrierEnd, BarrierTerms, Entered, PeerId, Refusal};
use super::{Done, Engine, Pending, Waiter};

// === impl Engine ===

impl Engine {
    /// Waits until the state has `target` entries. The answer comes by [`Engine::pull`] unless it is open already.
    ///
    /// # Errors
    /// The id is in use, or a limit.
    pub fn barrier(
        &mut self,
        now: Instant,
        peer: PeerId,
        id: &str,
        state: &str,
        terms: BarrierTerms,
    ) -> Result<Entered, Refusal> {
        self.admit(peer, id)?;
        let key = self.state(now, state)?;
        let row = self.states.row_mut(key).expect("the state was just found");
        let count = row.count;
        self.version += 1;
        if count >= terms.target {
            return Ok(Entered::Open { count });
        }
        let waiter = self.waiters.insert(Waiter {
            peer,
            id: id.into(),
            state: key,
            target: terms.target,
            since: now,
            explain: terms.explain,
        });
        row.waiters.insert((terms.target, waiter));
        if let Some(deadline) = terms.deadline {
            self.deadlines.push(Reverse((deadline, waiter)));
        }
        let row = self.peers.row_mut(peer.0).ok_or(Refusal::Gone)?;
        row.requests.insert(id.into(), Pending::Barrier(waiter));
        Ok(Entered::Waiting { count })
    }

    /// Ends every wait at barriers over this state: peers that asked for explanations are told, the others are given
    /// back, so that their connections can be closed. They wait no more either way.
    pub fn cancel_barriers(&mut self, now: Instant, state: &str) -> Vec<PeerId> {
        let Some(row) = self.states.key(state).and_then(|key| self.states.row(key)) else {
            return Vec::new();
        };
        let waiters: Vec<Key> = row.waiters.iter().map(|(_, key)| *key).collect();
        waiters.into_iter().filter_map(|key| self.end_waiter(now, key, BarrierEnd::Cancelled)).collect()
    }

    /// When the next barrier gives up.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, key))) = self.deadlines.peek() {
            if self.waiters.row(*key).is_some() {
                return Some(*at);
            }
            self.deadlines.pop();
        }
        None
    }

    /// Ends the barriers whose time is up. Gives back peers that can't be told, as [`Engine::cancel_barriers`] does.
    pub fn expire(&mut self, now: Instant) -> Vec<PeerId> {
        let mut mute = Vec::new();
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some(Reverse((_, key))) = self.deadlines.pop() else { break };
            mute.extend(self.end_waiter(now, key, BarrierEnd::TimedOut));
        }
        mute
    }

    /// Releases every barrier that the state's count opens.
    pub(super) fn release(&mut self, now: Instant, state: Key) {
        let Some(row) = self.states.row_mut(state) else { return };
        let count = row.count;
        while let Some((target, key)) = row.waiters.first().copied()
            && target <= count
        {
            row.waiters.pop_first();
            let Some(waiter) = self.waiters.remove(key) else { continue };
            let Some(peer) = self.peers.row_mut(waiter.peer.0) else { continue };
            self.released += 1;
            peer.requests.remove(&waiter.id);
            peer.done.push_back((waiter.id, Done::Released));
            peer.wake(now, waiter.peer, &mut self.woken);
        }
    }

    /// Ends a wait. Gives back the peer when it can't be told.
    fn end_waiter(&mut self, now: Instant, key: Key, end: BarrierEnd) -> Option<PeerId> {
        let state = self.waiters.row(key)?.state;
        let explanation = self.explain_state(state, self.waiters.row(key)?.target)?;
        let waiter = self.remove_waiter(key)?;
        self.version += 1;
        let peer = self.peers.row_mut(waiter.peer.0)?;
        peer.requests.remove(&waiter.id);
        if !waiter.explain {
            return Some(waiter.peer);
        }
        peer.done.push_back((waiter.id, Done::Ended(end, Box::new(explanation))));
        peer.wake(now, waiter.peer, &mut self.woken);
        None
    }

    pub(super) fn remove_waiter(&mut self, key: Key) -> Option<Waiter> {
        let waiter = self.waiters.remove(key)?;
        if let Some(state) = self.states.row_mut(waiter.state) {
            state.waiters.remove(&(waiter.target, key));
        }
        Some(waiter)
    }
}

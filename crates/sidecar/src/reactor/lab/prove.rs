//! The proof on the lab's own switch: two ports of the same kind as the instances', each in a namespace of its own.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use rustix::net::sockopt;
use testground_linux::netns::Tour;
use testground_linux::route::{Change, LinkChange, Route, RouteKind, RouteSocket};
use testground_linux::tc::TcSocket;
use testground_linux::udp::UdpSocket;
use testground_model::event::{Late, Lateness, Proof};
use testground_model::name::InstanceName;
use testground_model::run::ProofSettings;
use testground_model::shape::LinkShape;
use testground_model::topology::{Endpoint, Link};

use super::pod::{UP_WITHIN, bring_up, index_of};
use super::{Inner, LabError};
use crate::plan::{Later, Member, Overlay, PortId};
use crate::plane::switch::snapshot::Snapshot;
use crate::plane::switch::table::mac_of;
use crate::plane::switch::{NetworkKind, PortSpec};
use crate::proof::measure::{Ends, UDP_PORT, far_address, measure, near_address};
use crate::proof::schedule::{APART, MTU, Round, Trial, rounds};
use crate::proof::stretch::Stretch;
use crate::proof::verdict::{has_time, judge};
use crate::proof::{ATTEMPTS, NETWORK, Proved};
use crate::show::seconds;

/// The probe interface's name in its namespace.
const PROBE: &str = "probe";
/// Room for a whole burst, bytes.
const BUFFER: usize = 4 << 20;
/// How late the sending thread may be: beyond it the machine has no time for a measurement.
const SENDER_LATE: Duration = Duration::from_millis(2);
/// How long it takes to put a round's links in force.
const SET_UP: Duration = Duration::from_millis(10);

/// The two ports of a proof; the plan has them too while they are there.
struct Bench {
    near: PortId,
    far: PortId,
    ends: Ends,
    /// What traces are reckoned from: the run's own clock begins when its instances are let go.
    zero: Instant,
}

// === impl Inner ===

impl Inner {
    /// Measures every distinct declared shape.
    pub(super) fn prove(
        &self,
        tour: &mut Tour,
        settings: &ProofSettings,
        later: &[Later],
    ) -> Result<Proved, LabError> {
        let mut declared = self.shared().plan.distinct_shapes(later);
        let mut refused = None;
        if self.wires.is_some() {
            // A run with such a link is refused before; whoever asks for the proof alone hears of it here.
            for shape in declared.iter_mut().filter(|d| d.follows.is_some()) {
                shape.follows = None;
                refused
                    .get_or_insert_with(|| format!("the trace of {}: the kernel follows none", shape.label));
            }
        }
        let (rounds, mut unproved) = rounds(&declared);
        unproved.extend(refused);
        let mut proved = Proved { unproved, ..Proved::default() };
        let most = rounds.iter().map(|r| r.trials.len()).max().unwrap_or(0);
        if most == 0 {
            return Ok(proved);
        }
        // One more address for the yardstick.
        let bench = self.bench(tour, most as u16 + 1)?;
        let mut result = Ok(());
        for round in &rounds {
            result = self.prove_round(&bench, round, settings, &mut proved);
            if result.is_err() {
                break;
            }
        }
        // Taken away whatever became of the measurement, whose failure is the one to tell.
        let cleared = self.clear(&bench);
        // What the run is told of the switch is about the run.
        let forgot = self.switch.forget();
        result.and(cleared)?;
        forgot?;
        if proved.busy.is_none() {
            let whole = |p: &&Proof| p.off.is_empty() && (p.asked.bandwidth.is_none() || p.rate.is_some());
            self.shared().proved = proved.proofs.iter().filter(whole).map(|p| p.asked.clone()).collect();
        }
        Ok(proved)
    }

    fn prove_round(
        &self,
        bench: &Bench,
        round: &Round,
        settings: &ProofSettings,
        proved: &mut Proved,
    ) -> Result<(), LabError> {
        let first = proved.proofs.len();
        let mut trials = round.trials.clone();
        // Which proof each of them belongs to.
        let mut places: Vec<usize> = (first..first + trials.len()).collect();
        for attempt in 1..=ATTEMPTS {
            trials.push(Trial::yardstick());
            let round = Round::new(trials);
            let started = Instant::now() + SET_UP;
            self.replan(|plan| {
                plan.undeclare(NETWORK);
                plan.declare(round.trials.iter().zip(0..).flat_map(|(t, n)| links(t, n)).collect());
                plan.overlay_more(traces(&round, started - bench.zero));
            })?;
            let before = self.switch.snapshot()?;
            let fail = |e: &dyn Error| LabError::machine("failed to measure a declared shape".to_owned(), e);
            let mut seen = measure(&bench.ends, &round, started).map_err(|e| fail(&e))?;
            let yardstick = seen.samples.pop().unwrap_or_default();
            let after = self.switch.snapshot()?;
            let mut lateness = between(&before, &after);
            if self.wires.is_some() {
                lateness.late = None;
            }
            let p99_us = |lateness: &Lateness| lateness.late.map_or(0.0, |late| late.p99_us);
            let late = p99_us(&lateness);
            let signs = [
                (late > settings.delay.as_secs_f64() * 1e6 / 2.0)
                    .then(|| format!("packets were released {late:.0} us late (p99)")),
                (after.shortfall() != before.shortfall())
                    .then(|| "the switch had no room for packets".to_owned()),
                (seen.late > SENDER_LATE)
                    .then(|| format!("packets were sent up to {} late", seconds(seen.late))),
                (seen.idle > settings.rate_percent / 2.0).then(|| {
                    format!(
                        "a link had nothing to carry for {:.0} % of its burst, which was sent too slowly",
                        seen.idle
                    )
                }),
                (!has_time(yardstick, settings))
                    .then(|| "packets of an unshaped link beside them took long".to_owned()),
            ];
            let busy = signs.into_iter().flatten().next();

            let mut off = (Vec::new(), Vec::new());
            for ((trial, sample), place) in round.trials.iter().zip(seen.samples).zip(places) {
                let proof = judge(trial, sample, settings);
                if !proof.off.is_empty() {
                    off.0.push(trial.clone());
                    off.1.push(place);
                }
                match proved.proofs.get_mut(place) {
                    Some(earlier) => *earlier = proof,
                    None => proved.proofs.push(proof),
                }
            }
            let all_well = off.0.is_empty();
            // A burst takes a few milliseconds, for which the machine may have been late without anybody's notice: what is off
            // is measured again in any case.
            if all_well || attempt == ATTEMPTS {
                proved.busy = proved.busy.take().or(busy.filter(|_| !all_well));
                if p99_us(&lateness) >= p99_us(&proved.lateness) {
                    proved.lateness = lateness;
                }
                break;
            }
            (trials, places) = off;
        }
        Ok(())
    }

    /// Makes the two ports, with an address for each trial on both sides.
    fn bench(&self, tour: &mut Tour, trials: u16) -> Result<Bench, LabError> {
        let zero = Instant::now();
        self.switch.begin(zero)?;
        let near = (0..trials).map(|n| IpAddr::V4(near_address(n))).collect();
        let far = (0..trials).chain(APART..APART + trials).map(|n| IpAddr::V4(far_address(n))).collect();
        let (near, near_end) = self.probe(tour, "near", 18, near)?;
        let far = self.probe(tour, "far", 19, far);
        let (far, far_end) = far.inspect_err(|_| {
            let _ = self.take_away(near);
        })?;
        Ok(Bench { near, far, ends: Ends { near: near_end, far: far_end }, zero })
    }

    /// One port in a namespace that takes all of 198.`half`.0.0/16 for its own (RFC 2544 has 198.18.0.0/15 for measuring).
    fn probe(
        &self,
        tour: &mut Tour,
        name: &str,
        half: u8,
        addresses: Vec<IpAddr>,
    ) -> Result<(PortId, UdpSocket), LabError> {
        let fail = |e: &dyn Error| LabError::machine("failed to make the ports of the proof".to_owned(), e);
        let port = self.shared().port();
        let netns = tour.create().map_err(|e| fail(&e))?;
        let index = self.networks.len();
        let plug = match &self.wires {
            Some(wires) => {
                wires.cable(port, index, &netns, PROBE, MTU).map_err(|e| fail(&*e))?;
                None
            }
            None => Some(self.wiring.plug(tour, &netns, PROBE, port).map_err(|e| fail(&*e))?),
        };
        let mut routes = RouteSocket::open().map_err(|e| fail(&e))?;
        let link = index_of(&mut routes, PROBE).map_err(|e| fail(&*e))?;
        let own = Ipv4Addr::new(198, half, 0, 1);
        let network = |prefix| IpNet::V4(Ipv4Net::new_assert(own, prefix));
        let mut changes = vec![Change::Link(LinkChange { up: Some(true), ..LinkChange::new(1) })];
        changes.extend(bring_up(link, port, MTU, &[network(15)]));
        changes.push(Change::AddRoute(Route::new(network(16), RouteKind::Local { device: 1 })));
        routes.apply(&changes).map_err(|e| fail(&e))?;
        let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), UDP_PORT));
        let socket = socket.map_err(|e| fail(&e))?;
        // Less is enough for most shapes, and without root there is less.
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER);
        }

        let shown = format!("{NETWORK}/{name}");
        let Some(plug) = plug else {
            if let Some(wires) = &self.wires {
                routes.await_running(link, UP_WITHIN).map_err(|e| fail(&e))?;
                let tc = TcSocket::open().map_err(|e| fail(&e))?;
                wires.attach(port, (PROBE, link), (shown, index, MTU), (tc, routes))?;
            }
            self.enter(port, half, addresses)?;
            return Ok((port, socket));
        };
        self.switch.attach(PortSpec {
            port,
            name: shown,
            network: NetworkKind::Data(index as u32),
            mac: mac_of(port),
            addresses: std::iter::once(IpAddr::V4(own)).chain(addresses.iter().copied()).collect(),
            fd: plug.fd,
            framing: plug.framing,
            mtu: MTU,
            gateway: false,
            allow_peers: false,
        })?;
        self.enter(port, half, addresses)?;
        Ok((port, socket))
    }

    /// Lets the plan know of a port of the proof.
    fn enter(&self, port: PortId, half: u8, addresses: Vec<IpAddr>) -> Result<(), LabError> {
        self.replan(|plan| {
            let instance = InstanceName::new(NETWORK, u32::from(half));
            let network = NETWORK.to_owned();
            plan.attach(Member { port, instance, network, regions: Vec::new(), addresses });
        })
    }

    /// Takes a port of the proof away.
    fn take_away(&self, port: PortId) -> Result<(), LabError> {
        match &self.wires {
            Some(wires) => wires
                .detach(port)
                .map_err(|e| LabError::machine("failed to remove the ports of the proof".to_owned(), &*e)),
            None => Ok(self.switch.detach(port)?),
        }
    }

    fn clear(&self, bench: &Bench) -> Result<(), LabError> {
        let planned = self.replan(|plan| {
            plan.undeclare(NETWORK);
            plan.detach(bench.near);
            plan.detach(bench.far);
        });
        let near = self.take_away(bench.near);
        let far = self.take_away(bench.far);
        planned.and(near).and(far)
    }
}

/// A trial's shape on the way to its receiver, that of the way back, and that of its burst where it has one of its own: the
/// destination alone tells which is meant.
fn links(trial: &Trial, number: u16) -> Vec<Link> {
    let link = |to: Ipv4Addr, shape: &LinkShape| Link {
        from: Endpoint::All,
        to: Endpoint::Subnet(IpNet::from(IpAddr::V4(to))),
        both_ways: false,
        network: NETWORK.to_owned(),
        shape: shape.clone(),
    };
    let declared = &trial.declared;
    let mut links =
        vec![link(far_address(number), &declared.there), link(near_address(number), &declared.back)];
    links.extend(trial.apart().map(|shape| link(far_address(number + APART), shape)));
    links
}

/// What the bursts that follow a trace meet, in a round that starts at this moment.
fn traces(round: &Round, started: Duration) -> Vec<Overlay> {
    let overlay = |(number, stretch, sent): (u16, &Stretch, Duration)| {
        let shape = Arc::clone(round.trials.get(usize::from(number))?.apart()?);
        Some(Overlay {
            id: u32::from(number),
            from: Endpoint::All,
            to: Endpoint::Subnet(IpNet::from(IpAddr::V4(far_address(number + APART)))),
            both_ways: false,
            network: NETWORK.to_owned(),
            shape,
            schedule: Some(Arc::new(stretch.schedule(started + sent)?)),
        })
    };
    round.traces().filter_map(overlay).collect()
}

/// What the switch says of itself for the time between two snapshots; the steps of its histogram are as exact as it gets.
fn between(before: &Snapshot, after: &Snapshot) -> Lateness {
    let histogram = |snapshot: &Snapshot| match &snapshot.lateness {
        Some(late) => late.histogram.clone(),
        None => Vec::new(),
    };
    let (first, last) = (histogram(before), histogram(after));
    let earlier = |upto: f64| {
        let step = first.iter().find(|(end, _)| *end == upto);
        step.map_or(0, |(_, packets)| *packets)
    };
    let steps: Vec<(f64, u64)> = last
        .iter()
        .map(|(upto, packets)| (*upto, packets.saturating_sub(earlier(*upto))))
        .filter(|(_, packets)| *packets > 0)
        .collect();
    let all: u64 = steps.iter().map(|(_, packets)| packets).sum();
    let quantile = |share: f64| {
        let rank = (all as f64 * share).ceil() as u64;
        let mut below = 0;
        let step = steps.iter().find(|(_, packets)| {
            below += packets;
            below >= rank
        });
        step.map_or(0.0, |(upto, _)| *upto)
    };
    let drops = after.data.drops.iter().filter_map(|(cause, packets)| {
        let more = packets.saturating_sub(before.data.drops.get(cause).copied().unwrap_or(0));
        (more > 0).then(|| (cause.clone(), more))
    });
    Lateness {
        packets: after.data.delivered.packets.saturating_sub(before.data.delivered.packets),
        late: Some(Late {
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            max_us: steps.last().map_or(0.0, |(upto, _)| *upto),
        }),
        drops: drops.collect(),
        shortfall: after.shortfall().saturating_sub(before.shortfall()),
    }
}

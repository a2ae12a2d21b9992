//! What this plane can't do, by name: asked before a run starts, and before a request is carried out.
//!
//! Everything that is not refused here is done, as exactly as `docs/planes.md` says.

use std::time::Duration;

use ipnet::IpNet;
use testground_linux::netns::NetnsError;
use testground_linux::tc::{Ability, AbilityState, abilities};
use testground_model::run::Run;
use testground_model::shape::{Discipline, LinkShape, Loss, QueueLimit};
use testground_model::topology::{Action, Endpoint};

use super::carry::Pacing;
use crate::plan::words;
use crate::timeline::Timeline;

/// What a kernel can do of what the plane makes use of.
#[derive(Debug, Clone, Default)]
pub struct Abilities {
    missing: Vec<AbilityState>,
}

/// What is wanted of a run beside its shapes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// Packets are to be captured.
    pub capture: bool,
    /// Decisions are to be recorded.
    pub record: bool,
    /// Chance is to repeat itself: somebody named a seed.
    pub replay: bool,
}

/// Without these there is no such plane.
const NEEDED: [Ability; 4] = [Ability::Veth, Ability::Htb, Ability::Tbf, Ability::Bpf];

/// Without these nothing can be shaped that arrives from strangers.
const FOR_ARRIVALS: [Ability; 3] = [Ability::Ifb, Ability::Clsact, Ability::Mirred];

/// Everything in a run that this plane can't do with these abilities (the default has all), with the reason; empty when it
/// can do all of it.
pub fn refusals(run: &Run, wishes: Wishes, abilities: &Abilities) -> Vec<String> {
    let mut found = Vec::new();
    let mut chance = false;
    let mut look = |whose: String, shape: &LinkShape| {
        chance |= has_chance(shape);
        found.extend(unsupported(shape, abilities).map(|why| format!("{whose}: {why}")));
    };
    for link in &run.links {
        look(ends(&link.from, &link.to, link.both_ways), &link.shape);
    }
    let declared = run.links.iter().map(|l| (&l.network, &l.from, &l.to, l.both_ways));
    let changed = run.timeline.iter().map(|c| (&c.network, &c.from, &c.to, c.both_ways));
    let from_strangers = declared
        .chain(changed)
        .find(|(network, from, to, both_ways)| is_from_strangers(run, network, from, to, *both_ways))
        .map(|(_, from, to, both_ways)| ends(from, to, both_ways));
    let timeline = Timeline::new(&run.timeline, &run.links);
    let mut traces = Vec::new();
    for change in &run.timeline {
        let whose =
            format!("timeline at {:?}, {}", change.at, ends(&change.from, &change.to, change.both_ways));
        // A ramp has something of both its ends while it lasts.
        let moments = match &change.action {
            Action::Ramp { over, .. } => vec![change.at, change.at + *over / 2, change.at + *over],
            Action::Flap { .. } | Action::Heal | Action::Partition => Vec::new(),
            Action::Trace { .. } => {
                traces.push(format!("{whose}: netem paces evenly, and can't follow a trace"));
                Vec::new()
            }
            _ => vec![change.at],
        };
        for moment in moments {
            let overlays = timeline.at(moment + Duration::from_nanos(1)).overlays;
            for overlay in overlays.iter().filter(|o| o.from == change.from && o.to == change.to) {
                look(whose.clone(), &overlay.shape);
            }
        }
    }
    found.append(&mut traces);
    let lacking = FOR_ARRIVALS.into_iter().find_map(|ability| abilities.lacks(ability));
    if let (Some(whose), Some(lacking)) = (from_strangers, lacking) {
        found.push(format!("{whose}: what arrives from there can't be shaped: {lacking}"));
    }
    if wishes.replay && chance {
        found.push(
            "a seed for shapes with chance (loss, jitter and the like): the kernel draws by itself, and can't repeat it"
                .to_owned(),
        );
    }
    if wishes.capture {
        found.push("--capture: packets don't pass the sidecar".to_owned());
    }
    if wishes.record || run.settings.record_decisions {
        found.push("--record: the kernel tells no decisions".to_owned());
    }
    if run.settings.proof.late_fails {
        found.push("--late-fails: nobody knows how late the kernel released a packet".to_owned());
    }
    let mut told = std::collections::HashSet::new();
    found.retain(|why| told.insert(why.clone()));
    found
}

/// Why a shape can't be carried out with these abilities, if it can't.
pub fn unsupported(shape: &LinkShape, abilities: &Abilities) -> Option<String> {
    if shape.filter != testground_model::shape::Filter::Accept {
        return None;
    }
    let delayed = !shape.latency.is_zero() || !shape.jitter.spread.is_zero();
    let trembles = !shape.jitter.spread.is_zero();
    let duplicates = !shape.duplicate.is_never();
    let reorders = !shape.reorder.is_never();
    let loses = match shape.loss {
        Loss::Random(chance) => !chance.is_never(),
        Loss::GilbertElliott { .. } => true,
    };
    if let Some(bandwidth) = shape.bandwidth {
        let why = match (shape.queue.discipline, shape.queue.limit) {
            (Discipline::Codel, _) => "netem has no CoDel",
            (_, QueueLimit::Bytes(_) | QueueLimit::Time(_)) => {
                "netem counts packets, so a queue of bytes or of a time can't be had"
            }
            (_, QueueLimit::Packets(_)) if delayed => {
                "netem counts packets on their way as well, so a queue of packets can't be had together with a latency"
            }
            _ if reorders => "netem's reordered packets skip the bandwidth as well",
            _ if trembles && shape.jitter.may_reorder => {
                "with a bandwidth netem never lets packets overtake each other"
            }
            _ if bandwidth < 800 && bandwidth % 8 != 0 => "netem has whole bytes a second",
            _ => "",
        };
        if !why.is_empty() {
            return Some(why.to_owned());
        }
    }
    let why = match () {
        () if trembles && shape.jitter.correlation > 0.0 => {
            "netem's jitter has no correlation that would show"
        }
        () if duplicates && loses => {
            "netem loses duplicates once more, so loss and duplication can't be had together"
        }
        () => "",
    };
    if !why.is_empty() {
        return Some(why.to_owned());
    }
    let only_paced = LinkShape { bandwidth: None, queue: shape.queue, ..shape.clone() }.is_transparent();
    let wanted = [
        (Ability::Netem, !only_paced),
        (Ability::NetemRate, !only_paced && (shape.bandwidth.is_some() || trembles)),
        (Ability::NetemLossModel, matches!(shape.loss, Loss::GilbertElliott { .. })),
        (Ability::NetemDuplicateInTree, duplicates),
    ];
    let lacking =
        wanted.into_iter().filter(|(_, wanted)| *wanted).find_map(|(ability, _)| abilities.lacks(ability));
    lacking.map(ToString::to_string)
}

/// Whether a link is also from addresses that are not in its network, so that only the receiver's side can shape it.
fn is_from_strangers(run: &Run, network: &str, from: &Endpoint, to: &Endpoint, both_ways: bool) -> bool {
    let networks = run.networks.iter().filter(|n| n.name == network);
    let known: Vec<IpNet> =
        networks.flat_map(|n| std::iter::once(IpNet::V4(n.subnet)).chain(n.subnet6.map(IpNet::V6))).collect();
    let strange = |end: &Endpoint| match end {
        Endpoint::Subnet(net) => !known.iter().any(|known| known.contains(net)),
        _ => false,
    };
    strange(from) || both_ways && strange(to)
}

fn has_chance(shape: &LinkShape) -> bool {
    let loses = match shape.loss {
        Loss::Random(chance) => !chance.is_never() && chance.percent < 100.0,
        Loss::GilbertElliott { .. } => true,
    };
    let chances = [shape.corrupt, shape.duplicate, shape.reorder];
    loses || !shape.jitter.spread.is_zero() || chances.iter().any(|chance| !chance.is_never())
}

fn ends(from: &Endpoint, to: &Endpoint, both_ways: bool) -> String {
    format!("{} {} {}", words(from), if both_ways { "<->" } else { "->" }, words(to))
}

// === impl Abilities ===

impl Abilities {
    /// Asks this kernel, in a network namespace made for it.
    ///
    /// # Errors
    /// When no namespace can be made.
    pub fn probe() -> Result<Abilities, NetnsError> {
        Ok(Abilities { missing: abilities()?.into_iter().filter(|state| state.refusal.is_some()).collect() })
    }

    /// What of it is missing, if it is.
    pub fn lacks(&self, ability: Ability) -> Option<&AbilityState> {
        self.missing.iter().find(|state| state.ability == ability)
    }

    /// Who paces on this kernel.
    pub fn pacing(&self) -> Pacing {
        if self.lacks(Ability::Netem).or(self.lacks(Ability::NetemRate)).is_some() {
            Pacing::Htb
        } else {
            Pacing::Netem
        }
    }

    /// What the plane can't be without, and what it is poor without, each with the module that brings it.
    pub fn shortfall(&self, netem_too: bool) -> Vec<String> {
        let netem = [Ability::Netem, Ability::NetemRate].into_iter().filter(|_| netem_too);
        let wanted = NEEDED.into_iter().chain(netem);
        wanted.filter_map(|ability| self.lacks(ability)).map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use testground_model::shape::{Chance, Distribution, Filter, Jitter, Queue};

    use super::*;

    fn why(shape: &LinkShape) -> String {
        unsupported(shape, &Abilities::default()).unwrap_or_default()
    }

    fn without(ability: Ability) -> Abilities {
        let refusal = Some("this kernel does not have it".to_owned());
        Abilities { missing: vec![AbilityState { ability, refusal, module: ability.module() }] }
    }

    #[test]
    fn what_netem_can_t_say_is_refused_by_name() {
        let base = LinkShape {
            latency: Duration::from_millis(20),
            bandwidth: Some(1_000_000),
            ..LinkShape::default()
        };
        assert_eq!(why(&base), "");
        let queue = |limit, discipline| LinkShape { queue: Queue { limit, discipline }, ..base.clone() };
        assert!(why(&queue(QueueLimit::Auto, Discipline::Codel)).contains("CoDel"));
        assert!(why(&queue(QueueLimit::Bytes(9000), Discipline::TailDrop)).contains("bytes"));
        let packets = queue(QueueLimit::Packets(9), Discipline::TailDrop);
        assert!(why(&packets).contains("on their way"));
        assert_eq!(why(&LinkShape { latency: Duration::ZERO, ..packets }), "");
        let jitter = Jitter { spread: Duration::from_millis(1), ..Jitter::default() };
        let trembling = LinkShape { jitter, ..base.clone() };
        assert_eq!(why(&trembling), "");
        let mut overtaking = trembling;
        overtaking.jitter.may_reorder = true;
        assert!(why(&overtaking).contains("overtake"));
        overtaking.bandwidth = None;
        assert_eq!(why(&overtaking), "");
        overtaking.jitter.correlation = 10.0;
        overtaking.jitter.distribution = Distribution::Pareto;
        assert!(why(&overtaking).contains("correlation"));
        let reordering = LinkShape { reorder: Chance::percent(5.0), ..base.clone() };
        assert!(why(&reordering).contains("skip the bandwidth"));
        assert_eq!(why(&LinkShape { bandwidth: None, ..reordering }), "");
        let twice = LinkShape { duplicate: Chance::percent(5.0), ..LinkShape::default() };
        assert_eq!(why(&twice), "");
        let lossy = LinkShape { loss: Loss::Random(Chance::percent(1.0)), ..twice };
        assert!(why(&lossy).contains("together"));
        assert_eq!(why(&LinkShape { filter: Filter::Drop, ..lossy }), "", "nothing else counts then");
    }

    #[test]
    fn what_the_kernel_lacks_is_named_with_its_module() {
        let late = LinkShape { latency: Duration::from_millis(20), ..LinkShape::default() };
        let said = unsupported(&late, &without(Ability::Netem)).unwrap();
        assert!(said.contains("Netem is missing") && said.contains("modprobe sch_netem"), "{said}");
        let narrow = LinkShape { bandwidth: Some(1_000_000), ..LinkShape::default() };
        assert_eq!(unsupported(&narrow, &without(Ability::Netem)), None, "HTB paces by itself");
        let twice = LinkShape { duplicate: Chance::percent(5.0), ..LinkShape::default() };
        assert!(unsupported(&twice, &without(Ability::NetemDuplicateInTree)).is_some());
        assert_eq!(without(Ability::Bpf).shortfall(false).len(), 1);
        assert_eq!(
            (without(Ability::Netem).shortfall(false).len(), without(Ability::Netem).shortfall(true).len()),
            (0, 1)
        );
    }
}

use testground_model::name::InstanceName;

use super::*;

fn s(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn group(name: &str) -> Endpoint {
    Endpoint::Group(name.to_owned())
}

fn late(latency: u64) -> LinkShape {
    LinkShape { latency: ms(latency), ..LinkShape::default() }
}

fn losing(percent: f64) -> LinkShape {
    LinkShape { loss: Loss::Random(Chance::percent(percent)), ..LinkShape::default() }
}

fn change(at: u64, from: &str, to: &str, action: Action) -> Change {
    let network = "default".to_owned();
    Change { at: s(at), from: group(from), to: group(to), both_ways: true, network, action, base: None }
}

fn ids(moment: &Moment) -> Vec<u32> {
    moment.overlays.iter().map(|o| o.id).collect()
}

#[test]
fn a_ramp_starts_where_its_links_were_when_that_is_told() {
    let base = LinkShape { latency: s(2), ..LinkShape::default() };
    let to = LinkShape { latency: s(4), ..LinkShape::default() };
    let told = Change { base: Some(base), ..change(0, "a", "b", Action::Ramp { to, over: s(10) }) };
    let moment = Timeline::new(&[told], &[]).at(s(5));
    assert_eq!(moment.overlays[0].shape.latency, s(3));
}

#[test]
fn a_partition_holds_until_its_heal() {
    let timeline =
        Timeline::new(&[change(20, "a", "b", Action::Heal), change(10, "a", "b", Action::Partition)], &[]);
    let before = timeline.at(s(0));
    assert_eq!((before.overlays.len(), before.next), (0, Some(s(10))));
    let during = timeline.at(s(10));
    assert_eq!(during.overlays[0].shape.filter, Filter::Drop);
    assert_eq!(during.next, Some(s(20)));
    assert_eq!(timeline.at(s(20)), Moment { overlays: vec![], lifts: vec![], next: None });
    assert_eq!(timeline.told(None, s(15)), [(s(10), "partition a <-> b".to_owned())]);
    assert_eq!(timeline.told(Some(s(15)), s(99)), [(s(20), "heal a <-> b".to_owned())]);
    assert_eq!(timeline.told(Some(s(10)), s(19)), []);
}

#[test]
fn a_partial_heal_is_a_lift_until_all_is_healed() {
    let instance = Endpoint::Instance(InstanceName::new("a", 1));
    let partial = Change { from: instance.clone(), ..change(2, "a", "b", Action::Heal) };
    let all = Change { from: Endpoint::All, to: Endpoint::All, ..change(3, "a", "b", Action::Heal) };
    let timeline = Timeline::new(&[change(1, "a", "b", Action::Partition), partial, all], &[]);
    let moment = timeline.at(s(2));
    assert_eq!(ids(&moment), [0]);
    assert_eq!((moment.lifts[0].id, &moment.lifts[0].from), (1, &instance));
    assert_eq!(timeline.at(s(3)), Moment { overlays: vec![], lifts: vec![], next: None });
}

#[test]
fn a_later_change_hides_an_earlier_one_that_it_covers_and_no_other() {
    let timeline = Timeline::new(
        &[
            change(1, "a", "b", Action::Shape(late(1))),
            change(1, "a", "c", Action::Shape(late(2))),
            change(2, "b", "a", Action::Shape(late(3))),
            Change { both_ways: false, ..change(3, "a", "c", Action::Shape(late(4))) },
        ],
        &[],
    );
    assert_eq!(ids(&timeline.at(s(1))), [0, 1]);
    assert_eq!(ids(&timeline.at(s(2))), [1, 2], "both ways is the same turned around");
    assert_eq!(ids(&timeline.at(s(3))), [1, 2, 3], "one way does not hide both");
}

#[test]
fn a_ramp_moves_straight_from_what_was_in_force_and_stays() {
    let links = [Link {
        from: group("a"),
        to: group("b"),
        both_ways: true,
        network: "default".to_owned(),
        shape: late(100),
    }];
    let target = LinkShape { bandwidth: Some(1_000_000), ..losing(5.0) };
    let timeline =
        Timeline::new(&[change(10, "a", "b", Action::Ramp { to: target.clone(), over: s(60) })], &links);
    let at = |t| timeline.at(t).overlays[0].shape.clone();
    assert_eq!(at(s(10)).latency, ms(100));
    assert_eq!(at(s(40)).latency, ms(50));
    assert_eq!(at(s(40)).loss, Loss::Random(Chance::percent(2.5)));
    assert_eq!(at(s(10)).bandwidth, Some(1_000_000));
    assert_eq!(*at(s(70)), target);
    assert_eq!(timeline.at(s(70)).next, None);

    let (mut now, mut steps) = (s(10), 0);
    while let Some(next) = timeline.at(now).next {
        assert!(next > now && next - now <= s(1));
        (now, steps) = (next, steps + 1);
    }
    assert_eq!((now, steps), (s(70), 100));
    assert_eq!(timeline.told(None, s(100)).len(), 2);
}

#[test]
fn a_ramp_starts_where_the_one_before_is_at_that_moment() {
    let timeline = Timeline::new(
        &[
            change(0, "a", "b", Action::Ramp { to: losing(10.0), over: s(10) }),
            change(4, "a", "b", Action::Partition),
            change(5, "a", "b", Action::Ramp { to: losing(0.0), over: s(5) }),
        ],
        &[],
    );
    let loss = |t| timeline.at(t).overlays[0].shape.loss;
    assert_eq!(loss(s(2)), Loss::Random(Chance::percent(2.0)));
    assert_eq!(loss(s(5)), Loss::Random(Chance::percent(5.0)));
    assert_eq!(loss(s(10)), Loss::Random(Chance::percent(0.0)));
}

#[test]
fn a_bandwidth_goes_away_at_the_end_of_a_ramp() {
    let narrow = LinkShape { bandwidth: Some(8_000_000), ..LinkShape::default() };
    let timeline = Timeline::new(
        &[
            change(0, "a", "b", Action::Shape(narrow)),
            change(1, "a", "b", Action::Ramp { to: LinkShape::default(), over: s(10) }),
        ],
        &[],
    );
    assert_eq!(timeline.at(s(10)).overlays[0].shape.bandwidth, Some(8_000_000));
    assert_eq!(timeline.at(s(11)).overlays[0].shape.bandwidth, None);
}

#[test]
fn a_flap_goes_down_and_up_and_leaves_what_is_below() {
    let flap = Action::Flap { down: s(1), up: s(3), times: 2 };
    let timeline =
        Timeline::new(&[change(5, "a", "b", Action::Shape(late(7))), change(10, "a", "b", flap)], &[]);
    let seen: Vec<bool> =
        (10..20).map(|t| timeline.at(s(t)).overlays.last().unwrap().shape.filter == Filter::Drop).collect();
    assert_eq!(seen, [true, false, false, false, true, false, false, false, false, false]);
    assert_eq!(timeline.at(s(11)).overlays[0].shape.latency, ms(7));
    assert_eq!(timeline.at(s(10)).next, Some(s(11)));
    assert_eq!(timeline.at(s(11)).next, Some(s(14)));
    assert_eq!(timeline.at(s(18)).next, None);
    let told: Vec<String> = timeline.told(Some(s(5)), s(50)).into_iter().map(|(_, t)| t).collect();
    assert_eq!(
        told,
        ["a <-> b down (1 of 2)", "a <-> b up (1 of 2)", "a <-> b down (2 of 2)", "a <-> b up (2 of 2)"]
    );
    assert_eq!(timeline.told(Some(s(11)), s(14)), [(s(14), "a <-> b down (2 of 2)".to_owned())]);
    assert_eq!(timeline.told(Some(s(14)), s(15)), [(s(15), "a <-> b up (2 of 2)".to_owned())]);
}

#[test]
fn an_endless_flap_is_told_without_listing_all_of_it() {
    let flap = Action::Flap { down: ms(1), up: ms(1), times: u32::MAX };
    let timeline = Timeline::new(&[change(0, "a", "b", flap)], &[]);
    assert_eq!(timeline.told(Some(s(4_000_000)), s(4_000_000) + ms(2)).len(), 2);
    let none = Action::Flap { down: s(0), up: s(0), times: 5 };
    assert_eq!(Timeline::new(&[change(0, "a", "b", none)], &[]).at(s(0)).next, None);
}

#[test]
fn a_trace_changes_the_bandwidth_and_nothing_else() {
    let opportunities = (1..=100).chain((102..=200).step_by(2)).collect();
    let timeline = Timeline::new(
        &[
            change(0, "a", "b", Action::Shape(late(30))),
            change(1, "a", "b", Action::Trace { opportunities, repeat: false }),
        ],
        &[],
    );
    let at = |t| timeline.at(t).overlays.last().unwrap().clone();
    let schedule = at(s(1)).schedule.unwrap();
    assert_eq!(at(s(1)).shape.latency, ms(30));
    assert_eq!(schedule.at(0), Some(1_001_000_000), "on the run's clock");
    assert_eq!(schedule.at(149), Some(1_200_000_000));
    assert_eq!(schedule.most(), 60, "within the round trip");
    assert_eq!(at(ms(1150)), at(s(1)), "it is one change all the time");
    assert_eq!(timeline.at(s(1)).next, Some(ms(1200)));
    assert_eq!(at(ms(1200)).schedule, None, "when it is over, what was before holds");
    assert_eq!(timeline.at(ms(1200)).next, None);
}

#[test]
fn the_shapes_to_come_are_those_that_changes_give_their_links() {
    let trace = Action::Trace { opportunities: vec![5, 10], repeat: true };
    let timeline = Timeline::new(
        &[
            change(1, "a", "b", Action::Shape(LinkShape { bandwidth: Some(1000), ..late(30) })),
            change(2, "a", "b", trace),
            change(3, "a", "b", Action::Partition),
            change(4, "a", "b", Action::Heal),
            change(5, "a", "b", Action::Ramp { to: losing(5.0), over: s(2) }),
            change(9, "a", "b", Action::Ramp { to: losing(6.0), over: ms(30) }),
        ],
        &[],
    );
    let shapes = timeline.shapes();
    let seen: Vec<_> = shapes.iter().map(|l| (l.at, l.link.shape.clone(), l.follows.is_some())).collect();
    let steady = LinkShape { bandwidth: Some(1000), ..late(30) };
    let cut = LinkShape { filter: Filter::Drop, ..LinkShape::default() };
    assert_eq!(
        seen,
        [
            (s(1), steady, false),
            (s(2), late(30), true),
            (s(3), cut, false),
            (s(5), losing(0.0), false),
            (s(6), losing(2.5), false),
            (s(7), losing(5.0), false),
            (s(9), losing(5.0), false),
            (s(9) + ms(30), losing(6.0), false),
        ]
    );
    for (at, shape, _) in &seen[3..] {
        assert_eq!(*timeline.at(*at).overlays.last().unwrap().shape, *shape, "what will be in force then");
    }
}

#[test]
fn a_trace_that_repeats_is_never_over() {
    let trace = Action::Trace { opportunities: vec![5, 10], repeat: true };
    let timeline = Timeline::new(&[change(1, "a", "b", trace)], &[]);
    assert_eq!(timeline.at(s(1)).next, None);
    assert!(timeline.at(s(1_000_000)).overlays[0].schedule.is_some());
}

#[test]
fn a_hidden_ramp_wakes_nobody() {
    let timeline = Timeline::new(
        &[
            change(0, "a", "b", Action::Ramp { to: losing(5.0), over: s(100) }),
            change(1, "a", "b", Action::Partition),
        ],
        &[],
    );
    assert_eq!(timeline.at(s(2)).next, None);
}

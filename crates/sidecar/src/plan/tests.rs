use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> LinkShape {
    LinkShape { latency: Duration::from_millis(ms), ..LinkShape::default() }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn group(name: &str) -> Endpoint {
    Endpoint::Group(name.to_owned())
}

fn link(from: Endpoint, to: Endpoint, both_ways: bool, shape: LinkShape) -> Link {
    Link { from, to, both_ways, network: "default".to_owned(), shape }
}

fn overlay(id: u32, from: Endpoint, to: Endpoint, both_ways: bool, shape: LinkShape) -> Overlay {
    let (network, shape) = ("default".to_owned(), Arc::new(shape));
    Overlay { id, from, to, both_ways, network, shape, schedule: None }
}

fn member(port: u32, group: &str, index: u32, region: &str, addresses: &[&str]) -> Member {
    Member {
        port: PortId(port),
        instance: InstanceName::new(group, index),
        network: "default".to_owned(),
        regions: vec![region.to_owned()],
        addresses: addresses.iter().map(|a| ip(a)).collect(),
    }
}

/// Ports 0 and 1 are `a[0]` and `a[1]` in `east`, port 2 is `b[0]` in `west`.
fn three(links: Vec<Link>) -> Plan {
    let mut plan = Plan::new(links);
    plan.attach(member(0, "a", 0, "east", &["16.0.0.2", "fd00::2"]));
    plan.attach(member(1, "a", 1, "east", &["16.0.0.3"]));
    plan.attach(member(2, "b", 0, "west", &["16.0.1.2"]));
    plan
}

fn latency(plan: &Plan, from: u32, to: &str) -> u64 {
    plan.resolve(PortId(from), ip(to)).shape.latency.as_millis() as u64
}

#[test]
fn each_layer_goes_before_the_ones_below() {
    let mut plan = three(vec![link(group("a"), group("b"), false, ms(1))]);
    assert_eq!(
        plan.resolve(PortId(0), ip("16.0.1.2")).class,
        ClassId::Link { from: PortId(0), to: PortId(2), link: 0 }
    );
    let mut wishes = Wishes { default: ms(2), rules: vec![] };
    plan.wish(PortId(0), wishes.clone());
    assert_eq!(plan.resolve(PortId(0), ip("16.0.1.2")).class, ClassId::Default(PortId(0)));
    wishes.rules.push((net("16.0.1.0/24"), ms(3)));
    plan.wish(PortId(0), wishes.clone());
    assert_eq!(plan.resolve(PortId(0), ip("16.0.1.2")).class, ClassId::Rule(PortId(0), 0));
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 2, "outside of the rule the default holds");
    plan.overlay(vec![overlay(7, group("a"), group("b"), false, ms(4))]);
    let decision = plan.resolve(PortId(0), ip("16.0.1.2"));
    assert_eq!(decision.class, ClassId::Overlay { from: PortId(0), to: PortId(2), change: 7 });
    assert_eq!(decision.shape.latency, Duration::from_millis(4));
    assert_eq!(plan.wishes(PortId(0)), Some(wishes));
}

#[test]
fn a_default_without_effect_leaves_the_declared_link_and_a_rule_without_effect_does_not() {
    let mut plan = three(vec![link(Endpoint::All, Endpoint::All, false, ms(5))]);
    plan.wish(PortId(0), Wishes::default());
    assert_eq!(latency(&plan, 0, "16.0.1.2"), 5);
    plan.wish(
        PortId(0),
        Wishes { rules: vec![(net("16.0.1.2/32"), LinkShape::default())], ..Wishes::default() },
    );
    assert_eq!(latency(&plan, 0, "16.0.1.2"), 0);
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 5);
}

#[test]
fn the_longest_prefix_counts_and_of_equal_ones_the_later() {
    let mut plan = three(vec![]);
    let rules = vec![(net("16.0.1.0/24"), ms(2)), (net("16.0.1.0/24"), ms(3)), (net("16.0.0.0/16"), ms(1))];
    plan.wish(PortId(0), Wishes { default: LinkShape::default(), rules });
    assert_eq!(latency(&plan, 0, "16.0.1.2"), 3);
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 1);
    assert_eq!(latency(&plan, 0, "fd00::9"), 0, "rules for IPv4 say nothing about IPv6");
}

#[test]
fn the_last_declared_link_counts_and_direction_is_kept() {
    let plan = three(vec![
        link(Endpoint::All, Endpoint::All, false, ms(1)),
        link(group("a"), group("b"), false, ms(2)),
        link(Endpoint::Instance(InstanceName::new("a", 1)), Endpoint::Region("west".to_owned()), true, ms(3)),
        link(Endpoint::Subnet(net("16.0.0.0/24")), Endpoint::Subnet(net("16.0.0.0/24")), false, ms(4)),
    ]);
    assert_eq!(latency(&plan, 0, "16.0.1.2"), 2);
    assert_eq!(latency(&plan, 2, "16.0.0.2"), 1, "one way is one way");
    assert_eq!(latency(&plan, 1, "16.0.1.2"), 3);
    assert_eq!(latency(&plan, 2, "16.0.0.3"), 3, "both ways is both ways");
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 4);
    assert_eq!(latency(&plan, 0, "16.0.0.200"), 4, "a subnet covers addresses that nobody has");
    assert_eq!(latency(&plan, 9, "16.0.0.3"), 0, "nobody is behind the port");
}

#[test]
fn a_link_is_about_its_own_network_only() {
    let mut plan =
        three(vec![Link { network: "other".to_owned(), ..link(Endpoint::All, Endpoint::All, true, ms(9)) }]);
    plan.attach(Member { network: "other".to_owned(), ..member(3, "a", 0, "east", &["16.0.0.2"]) });
    plan.attach(Member { network: "other".to_owned(), ..member(4, "b", 0, "west", &["16.0.0.3"]) });
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 0);
    assert_eq!(latency(&plan, 3, "16.0.0.3"), 9);
    assert_eq!(plan.owner("default", ip("16.0.0.3")), Some(PortId(1)));
    assert_eq!(plan.owner("other", ip("16.0.0.3")), Some(PortId(4)));
}

#[test]
fn a_lift_takes_back_earlier_changes_for_its_pairs_alone() {
    let mut plan = three(vec![link(Endpoint::All, Endpoint::All, true, ms(1))]);
    plan.overlay(vec![overlay(0, group("a"), group("b"), true, ms(50))]);
    let lift = |id| Lift {
        id,
        from: Endpoint::Instance(InstanceName::new("a", 1)),
        to: group("b"),
        both_ways: true,
        network: "default".to_owned(),
    };
    plan.lift(vec![lift(1)]);
    assert_eq!(latency(&plan, 0, "16.0.1.2"), 50);
    assert_eq!(latency(&plan, 1, "16.0.1.2"), 1);
    assert_eq!(latency(&plan, 2, "16.0.0.3"), 1);
    plan.overlay(vec![
        overlay(0, group("a"), group("b"), true, ms(50)),
        overlay(2, group("a"), group("b"), true, ms(60)),
    ]);
    assert_eq!(latency(&plan, 1, "16.0.1.2"), 60, "a later change is not lifted");
}

#[test]
fn whoever_leaves_is_forgotten_and_takes_nobody_elses_address() {
    let mut plan = three(vec![link(group("a"), group("a"), true, ms(1))]);
    let before = plan.clone();
    plan.attach(member(5, "a", 5, "east", &["16.0.0.3"]));
    plan.detach(PortId(1));
    assert_eq!(plan.owner("default", ip("16.0.0.3")), Some(PortId(5)));
    plan.detach(PortId(5));
    assert_eq!(plan.owner("default", ip("16.0.0.3")), None);
    assert_eq!(latency(&plan, 0, "16.0.0.3"), 0);
    assert_eq!(before.owner("default", ip("16.0.0.3")), Some(PortId(1)), "a clone stays as it was");
}

#[test]
fn distinct_shapes_pair_each_shape_with_its_way_back() {
    let region = |name: &str| Endpoint::Region(name.to_owned());
    let plan = Plan::new(vec![
        link(group("a"), group("b"), true, ms(1)),
        link(group("a"), group("c"), true, ms(1)),
        link(region("east"), region("west"), false, ms(2)),
        link(region("west"), region("east"), false, ms(3)),
        link(region("east"), region("east"), false, ms(4)),
        link(group("x"), group("y"), false, ms(5)),
        link(Endpoint::All, group("v"), false, ms(6)),
        link(group("v"), group("w"), false, ms(7)),
        link(Endpoint::Instance(InstanceName::new("w", 0)), group("v"), false, ms(8)),
        link(region("north"), region("south"), false, ms(9)),
        link(region("south"), region("north"), false, ms(9)),
        link(region("south"), region("east"), false, ms(9)),
        link(region("east"), region("south"), false, ms(9)),
    ]);
    let later = |at, link| Later { at: Duration::from_secs(at), link, follows: None };
    let changes = [
        later(10, link(group("a"), group("b"), true, ms(1))),
        later(10, link(region("east"), region("west"), false, ms(20))),
        later(20, link(region("east"), region("west"), true, ms(30))),
        later(30, link(group("a"), group("a"), false, ms(40))),
    ];
    let seen: Vec<(String, u128, u128)> = plan
        .distinct_shapes(&changes)
        .into_iter()
        .map(|d| (d.label, d.there.latency.as_millis(), d.back.latency.as_millis()))
        .collect();
    assert_eq!(
        seen,
        [
            ("a <-> b and 2 more".to_owned(), 1, 1),
            ("east -> west".to_owned(), 2, 3),
            ("west -> east".to_owned(), 3, 2),
            ("east -> east".to_owned(), 4, 4),
            ("x -> y".to_owned(), 5, 0),
            ("all -> v".to_owned(), 6, 0),
            ("v -> w".to_owned(), 7, 6),
            ("w[0] -> v".to_owned(), 8, 7),
            ("north <-> south and 2 more".to_owned(), 9, 9),
            ("at 10s east -> west".to_owned(), 20, 3),
            ("at 20s east <-> west".to_owned(), 30, 30),
            ("at 30s a -> a".to_owned(), 40, 40),
        ]
    );
}

#[test]
fn the_way_back_is_that_of_instances_which_the_link_is_in_force_for() {
    let region = |name: &str| Endpoint::Region(name.to_owned());
    let one = |index| Endpoint::Instance(InstanceName::new("n", index));
    let address = |last: u8| Endpoint::Subnet(IpNet::from(IpAddr::from([16, 0, 0, last])));
    let plan = |links| {
        let mut plan = Plan::new(links);
        for (index, place) in [(0, "eu"), (1, "eu"), (2, "jp")] {
            plan.attach(Member {
                port: PortId(index),
                instance: InstanceName::new("n", index),
                network: "default".to_owned(),
                regions: vec![place.to_owned()],
                addresses: vec![IpAddr::from([16, 0, 0, index as u8 + 2])],
            });
        }
        plan
    };
    let shown = |plan: &Plan, later: &[Later]| {
        let all = plan.distinct_shapes(later).into_iter();
        let one = |d: Declared| (d.label, d.there.latency.as_millis(), d.back.latency.as_millis());
        all.map(one).collect::<Vec<_>>()
    };
    let regions = plan(vec![
        link(region("eu"), region("jp"), false, ms(100)),
        link(region("jp"), region("eu"), false, ms(90)),
        link(one(0), region("jp"), false, ms(7)),
        link(one(2), address(3), false, ms(5)),
    ]);
    let later = Later { at: Duration::from_secs(1), link: link(one(0), one(2), false, ms(3)), follows: None };
    assert_eq!(
        shown(&regions, &[later]),
        [
            ("eu -> jp".to_owned(), 100, 5),
            ("jp -> eu".to_owned(), 90, 7),
            ("n[0] -> jp".to_owned(), 7, 90),
            ("n[2] -> 16.0.0.3/32".to_owned(), 5, 100),
            ("at 1s n[0] -> n[2]".to_owned(), 3, 90),
        ]
    );
    // In force both ways between some, and one way between others.
    let all = link(group("n"), group("n"), true, ms(1));
    let two = plan(vec![all.clone(), link(one(1), one(0), false, ms(50))]);
    let expected = [("n <-> n".to_owned(), 1, 1), ("n[1] -> n[0]".to_owned(), 50, 1)];
    assert_eq!(shown(&two, &[]), expected);
    // There is one network more: links say which is theirs.
    let wan = Link { network: "wan".to_owned(), ..link(group("n"), group("n"), false, ms(2)) };
    let labels: Vec<String> =
        shown(&plan(vec![all, wan]), &[]).into_iter().map(|(label, ..)| label).collect();
    assert_eq!(labels, ["n <-> n on default", "n -> n on wan"]);
}

#[test]
fn what_is_in_force_is_listed_from_the_highest_layer() {
    let mut plan = three(vec![link(group("a"), group("b"), true, ms(1))]);
    plan.wish(PortId(1), Wishes { default: ms(2), rules: vec![(net("16.0.1.0/24"), ms(3))] });
    plan.wish(PortId(0), Wishes::default());
    plan.overlay(vec![overlay(0, Endpoint::All, group("b"), false, ms(4))]);
    let seen: Vec<String> = plan
        .in_force()
        .into_iter()
        .map(|e| format!("{} {} {} {}", e.layer, e.from, e.to, e.shape.latency.as_millis()))
        .collect();
    assert_eq!(seen, ["change all b 4", "rule a[1] 16.0.1.0/24 3", "default a[1] all 2", "link a b 1"]);
}

fn some_endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        Just(Endpoint::All),
        "[ab]".prop_map(Endpoint::Group),
        ("[ab]", 0..2u32).prop_map(|(g, i)| Endpoint::Instance(InstanceName::new(g, i))),
        "east|west".prop_map(Endpoint::Region),
        some_net().prop_map(Endpoint::Subnet),
    ]
}

fn some_net() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that nets meet and nest.
    (0..4u32, prop_oneof![Just(8u8), Just(16), Just(24), Just(31), Just(32)])
        .prop_map(|(low, len)| IpNet::new(IpAddr::V4((0x1000_0000 | low << 7 | low).into()), len).unwrap())
}

proptest! {
    #[test]
    fn the_table_of_a_sender_says_what_resolve_says(
        links in prop::collection::vec((some_endpoint(), some_endpoint(), any::<bool>()), 0..6),
        changes in prop::collection::vec((some_endpoint(), some_endpoint(), any::<bool>()), 0..4),
        lifts in prop::collection::vec((some_endpoint(), some_endpoint(), 0..5u32), 0..3),
        rules in prop::collection::vec(some_net(), 0..5),
        default in 0..2u64,
    ) {
        let links = links.into_iter().zip(100..).map(|((f, t, b), n)| link(f, t, b, ms(n))).collect();
        let mut plan = three(links);
        plan.overlay(changes.into_iter().zip(0..).map(|((f, t, b), n)| overlay(n, f, t, b, ms(200 + u64::from(n)))).collect());
        plan.lift(lifts.into_iter().map(|(from, to, id)| Lift {
            id, from, to, both_ways: false, network: "default".to_owned(),
        }).collect());
        let rules = rules.into_iter().zip(300..).map(|(n, l)| (n, ms(l))).collect();
        plan.wish(PortId(0), Wishes { default: ms(default), rules });
        let table = plan.outgoing(PortId(0));
        for low in (0..0x400u32).chain([0x00ff_ffff, 0x0100_0000]) {
            let to = IpAddr::V4((0x1000_0000 | low).into());
            let found = table.iter().find(|(net, _)| net.contains(&to)).expect("a default route");
            prop_assert_eq!(&found.1, &plan.resolve(PortId(0), to), "{}", to);
        }
        for to in ["fd00::2", "fd00::3"] {
            let found = table.iter().find(|(net, _)| net.contains(&ip(to))).expect("a default route");
            prop_assert_eq!(&found.1, &plan.resolve(PortId(0), ip(to)));
        }
    }
}

#[test]
fn strangers_are_shaped_by_their_address_and_whoever_is_known_is_not() {
    let stranger = |text: &str| Endpoint::Subnet(net(text));
    let mut plan = three(vec![
        link(Endpoint::All, Endpoint::All, true, ms(1)),
        link(stranger("192.0.2.0/24"), group("a"), false, ms(2)),
        link(group("a"), stranger("198.51.100.0/24"), true, ms(3)),
        link(stranger("16.0.0.0/8"), group("a"), false, ms(4)),
        link(stranger("192.0.2.7/32"), Endpoint::Instance(InstanceName::new("a", 1)), false, ms(5)),
    ]);
    let known = [net("16.0.0.0/16")];
    let seen = |plan: &Plan, to: u32, from: &str| {
        let table = plan.incoming(PortId(to), &known);
        let found = table.iter().find(|(prefix, _)| prefix.contains(&ip(from)));
        found.map_or(0, |(_, decision)| decision.shape.latency.as_millis() as u64)
    };
    assert_eq!(
        ["192.0.2.7", "198.51.100.9", "16.0.0.3", "16.9.0.3", "8.8.8.8"].map(|from| seen(&plan, 0, from)),
        [2, 3, 0, 4, 0]
    );
    assert_eq!(["192.0.2.7", "192.0.2.8"].map(|from| seen(&plan, 1, from)), [5, 2]);
    assert_eq!(plan.incoming(PortId(2), &known), [], "no link of a stranger's leads there");
    assert_eq!(plan.incoming(PortId(9), &known), [], "nobody is there");
    let class = plan
        .incoming(PortId(0), &known)
        .iter()
        .find(|(prefix, _)| *prefix == net("192.0.2.0/24"))
        .unwrap()
        .1
        .class;
    assert_eq!(class, ClassId::Link { from: PortId(u32::MAX), to: PortId(0), link: 1 });

    plan.overlay(vec![overlay(0, stranger("192.0.2.0/25"), group("a"), false, ms(9))]);
    assert_eq!(["192.0.2.7", "192.0.2.200"].map(|from| seen(&plan, 0, from)), [9, 2]);
    let (from, to, network) = (stranger("192.0.2.0/24"), Endpoint::All, "default".to_owned());
    plan.lift(vec![Lift { id: 1, from, to, both_ways: true, network }]);
    assert_eq!(["192.0.2.7", "192.0.2.200"].map(|from| seen(&plan, 0, from)), [2, 2]);
    // Where all that is named is known, nothing takes a detour.
    let inside = three(vec![link(stranger("16.0.0.0/24"), group("a"), false, ms(4))]);
    assert_eq!(inside.incoming(PortId(0), &known), []);
}

#[test]
fn only_other_shapes_of_the_same_changes_are_a_matter_of_degree() {
    let mut one = three(vec![]);
    one.overlay(vec![overlay(0, group("a"), group("b"), false, ms(1))]);
    let with = |change: &dyn Fn(&mut Plan)| {
        let mut other = one.clone();
        change(&mut other);
        other.differs_in_degree_only(&one)
    };
    let to = |dest: &str, shape| vec![overlay(0, group("a"), group(dest), false, shape)];
    assert!(with(&|plan| plan.overlay(to("b", ms(2)))));
    assert!(!with(&|plan| plan.overlay(to("b", LinkShape::default()))), "it is lifted");
    assert!(!with(&|plan| plan.overlay(to("a", ms(2)))), "others are meant");
    assert!(!with(&|plan| plan.overlay(Vec::new())));
    assert!(!with(&|plan| plan.wish(PortId(1), Wishes::default())));
    assert!(!with(&|plan| plan.detach(PortId(1))));
    assert!(!with(&|plan| plan.declare(vec![link(group("a"), group("b"), false, ms(1))])));
}

//! Networks, links, regions and timelines, as compositions spell them.

mod common;

use std::time::Duration;

use common::{HEAD, attempt, error, run, warnings};
use testground_model::composition::{Composition, Files};
use testground_model::name::InstanceName;
use testground_model::resolve::{Overrides, resolve};
use testground_model::shape::{Chance, Discipline, Distribution, Filter, LinkShape, Loss, QueueLimit};
use testground_model::topology::{Action, Endpoint};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn group(name: &str) -> Endpoint {
    Endpoint::Group(name.to_owned())
}

#[test]
fn a_link_has_every_setting() {
    let run = run(r#"
[[links]]
from = "a"
to = "b[2]"
both = true
latency = "50ms"
jitter = "5ms"
jitter_distribution = "normal"
jitter_correlation = "25%"
jitter_reorder = true
bandwidth = "10Mbit/s"
queue = "64KiB"
queue_discipline = "codel"
loss = "1%"
loss_correlation = "10%"
corrupt = "0.1%"
corrupt_correlation = "1%"
reorder = "2%"
reorder_correlation = "3%"
reorder_gap = 5
duplicate = "4%"
duplicate_correlation = "5%"
filter = "accept"
"#);
    let link = &run.links[0];
    assert_eq!(
        (&link.from, &link.to, link.both_ways),
        (&group("a"), &Endpoint::Instance(InstanceName::new("b", 2)), true)
    );
    let shape = &link.shape;
    assert_eq!((shape.latency, shape.jitter.spread, shape.bandwidth), (MS(50), MS(5), Some(10_000_000)));
    assert_eq!(shape.jitter.distribution, Distribution::Normal);
    assert_eq!((shape.jitter.correlation, shape.jitter.may_reorder), (25.0, true));
    assert_eq!((shape.queue.limit, shape.queue.discipline), (QueueLimit::Bytes(65_536), Discipline::Codel));
    let chance = |percent, correlation| Chance { percent, correlation };
    assert_eq!(shape.loss, Loss::Random(chance(1.0, 10.0)));
    assert_eq!((shape.corrupt, shape.reorder, shape.reorder_gap), (chance(0.1, 1.0), chance(2.0, 3.0), 5));
    assert_eq!(shape.duplicate, chance(4.0, 5.0));
    assert_eq!(shape.filter, Filter::Accept);
}

#[test]
fn links_select_groups_instances_subnets_and_everybody() {
    let run = run(r#"
[[links]]
from = "*"
to = "16.0.0.0/24"
latency = "1ms"
[[links]]
from = "fd54:474e::/64"
to = "16.0.0.9"
gilbert_elliott = { p = "1%", r = "20%" }
queue = "20ms"
bandwidth = "1MiB/s"
"#);
    assert_eq!(run.links[0].from, Endpoint::All);
    assert_eq!(run.links[0].to, Endpoint::Subnet("16.0.0.0/24".parse().unwrap()));
    assert_eq!(run.links[1].to, Endpoint::Subnet("16.0.0.9/32".parse().unwrap()));
    assert_eq!(run.links[1].shape.loss, Loss::GilbertElliott { p: 1.0, r: 20.0, bad: 100.0, good: 0.0 });
    assert_eq!(run.links[1].shape.queue.limit, QueueLimit::Time(MS(20)));
}

#[test]
fn settings_outside_of_their_range_are_refused_with_what_is_allowed() {
    for (line, says) in [
        ("latency = \"-1ms\"", "negative"),
        ("latency = 50", "a duration such as \"50ms\" is expected, an integer is given"),
        ("latency = \"2h\"", "2h is out of range: 0s to 1h is allowed"),
        ("jitter_distribution = \"nomal\"", "one of uniform, normal, pareto is expected [normal]"),
        ("bandwidth = \"10Mbps\"", "`bps` means bits to some tools"),
        ("bandwidth = 1000", "a rate such as \"10Mbit/s\" is expected"),
        ("bandwidth = \"0bit/s\"", "1 bit/s to 1000 Tbit/s"),
        ("loss = 1.0", "1 could mean percent or a fraction: write \"1%\", or \"100%\""),
        ("loss = 5", "5 could mean percent or a fraction: write \"5%\""),
        ("loss = \"101%\"", "it is above 100"),
        ("loss_correlation = \"-1%\"", "it is negative"),
        ("queue = \"0 packets\"", "1 to 10000000 packets"),
        ("queue = \"10B\"", "1514B (one full frame) to 4GiB"),
        ("queue = \"full\"", "write packets, bytes or time"),
        ("queue_discipline = \"red\"", "one of tail-drop, codel is expected"),
        ("filter = \"block\"", "one of accept, reject, drop is expected"),
        ("reorder_gap = -1", "-1 is out of range: 0 to 1000000 is allowed"),
        ("gilbert_elliott = { p = \"1%\" }", "`r` of links[0].gilbert_elliott is missing"),
        ("latencey = \"5ms\"", "unknown key `latencey` in links[0]"),
        ("jitter_reorder = 1", "true or false is expected"),
    ] {
        let (at, _, message) = error(&format!("[[links]]\nfrom = \"a\"\nto = \"b\"\n{line}\n"));
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(at, 4, "{line}: {message}");
    }
    let (_, _, both) = error(
        "[[links]]\nfrom = \"a\"\nto = \"b\"\nloss = \"1%\"\ngilbert_elliott = { p = \"1%\", r = \"1%\" }\n",
    );
    assert!(both.contains("together"), "{both}");
}

#[test]
fn selectors_that_select_nothing_are_refused() {
    for (selector, says) in [
        ("aa", "\"aa\" selects nothing"),
        ("all", "or * is expected [*]"),
        ("b[3]", "group b has 3 instances, so b[3] is none of them: 0 to 2 is allowed"),
        ("c[0]", "\"c\" selects nothing"),
        ("region:eu", "no group is in region \"eu\"; there are none"),
        ("10.0.0.0/8", "10.0.0.0/8 lies outside of network default (16.0.0.0/16, fd54:474e::/64)"),
    ] {
        let (line, column, message) =
            error(&format!("[[links]]\nfrom = \"a\"\nto = \"{selector}\"\nlatency = \"1ms\"\n"));
        assert!(message.contains(says), "{selector}: {message}");
        assert_eq!((line, column), (3, 6));
    }
    let (_, _, message) =
        error("[[links]]\nfrom = \"a\"\nto = \"b\"\nnetwork = \"defualt\"\nlatency = \"1ms\"\n");
    assert_eq!(message, "unknown network \"defualt\"; known are default [default]");
}

#[test]
fn networks_have_defaults_that_keep_clear_of_each_other() {
    let run = run(r#"
[[networks]]
name = "backbone"
[[networks]]
name = "default"
mtu = 9000
[[networks]]
name = "far"
subnet = "17.0.0.0/8"
subnet6 = false
mtu = 576
"#
    .replace("17.0.0.0/8", "17.0.0.0/16")
    .as_str());
    let shown: Vec<String> = run
        .networks
        .iter()
        .map(|n| format!("{} {} {:?} {}", n.name, n.subnet, n.subnet6.map(|n| n.to_string()), n.mtu))
        .collect();
    assert_eq!(
        shown,
        [
            "default 16.0.0.0/16 Some(\"fd54:474e::/64\") 9000",
            "backbone 16.1.0.0/16 Some(\"fd54:474e:1::/64\") 1500",
            "far 17.0.0.0/16 None 576"
        ]
    );
}

#[test]
fn networks_that_can_not_be_are_refused() {
    for (line, says) in [
        ("subnet = \"192.18.4.0/24\"", "overlaps with the control network 192.18.0.0/16"),
        ("subnet6 = \"fd54:4743:1::/64\"", "overlaps with the control network"),
        ("subnet = \"10.0.0.1/24\"", "has bits set beyond its prefix [10.0.0.0/24]"),
        ("subnet = \"127.0.0.0/24\"", "loopback"),
        ("subnet = \"10.0.0.0/31\"", "at most /30"),
        ("subnet = \"ten\"", "is no subnet"),
        ("mtu = 67", "67 is out of range: 68 to 65535"),
        ("mtu = 1000", "at least 1280"),
        ("subnet6 = true", "or false,"),
    ] {
        let (at, _, message) = error(&format!("[[networks]]\nname = \"n\"\n{line}\n"));
        assert!(message.contains(says), "{line}: {message}");
        assert_eq!(at, 3, "{line}");
    }
    let (_, _, message) = error("[[networks]]\nname = \"n\"\nsubnet = \"10.0.0.0/30\"\n");
    assert_eq!(message, "network n has room for 1 instances, and the run has 5");
    let two = "[[networks]]\nname = \"default\"\nsubnet = \"10.0.0.0/8\"\n[[networks]]\nname = \"n\"\nsubnet = \"10.1.0.0/16\"\n";
    let (line, _, message) = error(two);
    assert_eq!((line, message.as_str()), (6, "10.1.0.0/16 overlaps with network default"));
    let (at, _, message) = error("[[networks]]\nname = \"control\"\n");
    assert!(at == 2 && message.contains("\"control\" can't be the name of a network"), "{at}: {message}");
    let (_, _, message) = error("[[networks]]\nname = \"n\"\n[[networks]]\nname = \"n\"\n");
    assert_eq!(message, "network names not unique; found duplicate: n");
}

const REGIONS: &str = r#"
[global]
plan = "network/ping"
case = "any"
builder = "exec:generic"
runner = "local:exec"
[regions]
latency_matrix = "m.csv"
jitter = "1ms"
[[groups]]
id = "a"
region = "eu"
instances = { count = 2 }
[[groups]]
id = "b"
instances = { count = 5 }
regions = { us = "40%", eu = 1, asia = "rest" }
"#;

fn matrix(text: &str) -> Files {
    Files::from([("m.csv".to_owned(), Ok(text.to_owned()))])
}

#[test]
fn regions_have_instances_and_links_by_the_matrix() {
    let composition = Composition::parse("c.toml", REGIONS).unwrap();
    let needed: Vec<String> = composition.needed_files().into_iter().map(|f| f.path.value).collect();
    assert_eq!(needed, ["m.csv"]);
    let files = matrix(",eu,us,asia\neu,,80,200\nus,90,,150\nasia,200,150,2\n");
    let (mut runs, _) = attempt(REGIONS, &files).unwrap_or_else(|e| panic!("{e}"));
    let run = runs.remove(0);
    let shown: Vec<String> = run
        .regions
        .iter()
        .map(|(region, all)| {
            format!("{region} {}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert_eq!(shown, ["asia b[3] b[4]", "eu a[0] a[1] b[2]", "us b[0] b[1]"]);
    let region = |name: &str| Endpoint::Region(name.to_owned());
    let latency = |from: &str, to: &str| {
        let link = run.links.iter().find(|l| l.from == region(from) && l.to == region(to));
        link.map(|l| (l.shape.latency, l.shape.jitter.spread))
    };
    assert_eq!(latency("eu", "us"), Some((MS(40), MS(1))));
    assert_eq!(latency("us", "eu"), Some((MS(45), MS(1))));
    assert_eq!(latency("asia", "asia"), Some((MS(1), MS(1))));
    assert_eq!(latency("eu", "eu"), None);
}

#[test]
fn a_matrix_that_does_not_fit_is_refused() {
    let refused = |files: &Files| attempt(REGIONS, files).unwrap_err().render();
    assert!(refused(&Files::new()).contains("c.toml:8:18"));
    let missing = Files::from([("m.csv".to_owned(), Err("no such file".to_owned()))]);
    assert!(refused(&missing).contains("can't read the latency matrix \"m.csv\": no such file"));
    assert!(refused(&missing).contains("; built in is azure"), "{}", refused(&missing));
    let hole = refused(&matrix(",eu,us,asia\neu,,80,\nus,90,,150\nasia,200,150,2\n"));
    assert!(hole.contains("is missing (the latency matrix of c.toml:8)"), "{hole}");
    let elsewhere = Composition::parse("sub/c.toml", REGIONS).unwrap();
    let found = resolve(&common::manifest(), &elsewhere, &matrix(",eu\neu,x\n"), &Overrides::default());
    let found = found.unwrap_err().render();
    assert!(found.contains("--> sub/m.csv:2:4") && found.contains("of sub/c.toml:8)"), "{found}");
    let unnamed = attempt(&REGIONS.replace("m.csv", ""), &Files::new()).unwrap_err().render();
    assert!(unnamed.contains("the name of a latency matrix's file is expected"), "{unnamed}");
    assert!(hole.contains("m.csv:2:8") && hole.contains("from eu to asia"), "{hole}");
    let unknown = refused(&matrix(",eu,us\neu,,80\nus,90,\n"));
    assert!(
        unknown.contains("region \"asia\" is not in the latency matrix m.csv; it has eu, us"),
        "{unknown}"
    );
    assert!(unknown.contains("c.toml:17:33"), "{unknown}");
}

#[test]
fn the_built_in_matrix_needs_no_file() {
    let text = REGIONS
        .replace("m.csv", "azure")
        .replace("eu", "westeurope")
        .replace("us", "eastus")
        .replace("asia", "japaneast");
    assert!(Composition::parse("c.toml", &text).unwrap().needed_files().is_empty());
    let (runs, _) = attempt(&text, &Files::new()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(runs[0].links.len(), 6);
    let typo = text.replace("eastus", "eastu");
    let shown = attempt(&typo, &Files::new()).unwrap_err().render();
    assert!(shown.contains("did you mean `eastus`?"), "{shown}");
    for region in testground_model::regions::built_in("azure").unwrap().names() {
        assert!(shown.contains(region), "{region}: {shown}");
    }
}

#[test]
fn a_share_of_a_group_may_not_be_nowhere() {
    for (regions, says) in [
        ("{ eu = \"40%\" }", "hold 1 of its 3 instances"),
        ("{ eu = 4 }", "hold more than its 3 instances"),
        ("{ eu = \"rest\", us = \"rest\" }", "say \"rest\" more than once"),
        ("{ eu = 0 }", "0 is out of range"),
        ("{ eu = \"some\" }", "a share such as \"40%\", or \"rest\" is expected"),
        ("{ eu = 1, us = \"remainder\" }", "or \"rest\" is expected"),
        ("{ eu = 1, us = \"res\" }", "is expected [rest]"),
        ("{ eu = \"140%\" }", "it is above 100"),
    ] {
        let text = format!("regions = {regions}\n");
        let (_, _, message) = error(&text);
        assert!(message.contains(says), "{regions}: {message}");
    }
    let (_, column, _) = error("regions = { eu = 1, us = \"80%\", asia = 1 }\n");
    assert_eq!(column, 26, "the caret is at the share with which there are too many");
}

const LINKS: &str = r#"
[[links]]
from = "a"
to = "b"
latency = "50ms"
bandwidth = "10Mbit/s"
[[links]]
from = "b"
to = "a"
latency = "20ms"
"#;

fn entry(text: &str) -> String {
    format!("[[timeline]]\n{}\n", text.replace("; ", "\n"))
}

#[test]
fn a_timeline_is_sorted_and_keeps_what_it_does_not_name() {
    let run = run(&format!(
        "{LINKS}{}{}{}{}",
        entry("at = \"30s\"; action = \"heal\"; from = \"a\"; to = \"b\""),
        entry("at = \"10s\"; action = \"partition\"; from = \"a\"; to = \"b\""),
        entry("at = \"40s\"; action = \"ramp\"; from = \"*\"; to = \"*\"; loss = \"5%\"; over = \"1m\""),
        entry(
            "at = \"2m\"; action = \"flap\"; from = \"a\"; to = \"b\"; down = \"1s\"; up = \"2s\"; times = 3"
        ),
    ));
    let times: Vec<u64> = run.timeline.iter().map(|c| c.at.as_secs()).collect();
    assert_eq!(times, [10, 30, 40, 40, 40, 40, 120]);
    assert!(run.timeline[0].both_ways && run.timeline[0].action == Action::Partition);
    assert_eq!(run.timeline[1].action, Action::Heal);
    // The two ways between a and b differ, and so do those within a group: each keeps its latency.
    let mut ramps: Vec<String> = run.timeline[2..6]
        .iter()
        .map(|change| {
            let Action::Ramp { to, over } = &change.action else { panic!("{change:?}") };
            assert_eq!((to.loss, over.as_secs()), (Loss::Random(Chance::percent(5.0)), 60));
            assert_eq!(change.base, Some(LinkShape { loss: Loss::default(), ..to.clone() }));
            format!("{:?} {:?} {:?} {:?}", change.from, change.to, to.latency, to.bandwidth)
        })
        .collect();
    ramps.sort();
    let wanted = [
        "Group(\"a\") Group(\"a\") 0ns None",
        "Group(\"a\") Group(\"b\") 50ms Some(10000000)",
        "Group(\"b\") Group(\"a\") 20ms None",
        "Group(\"b\") Group(\"b\") 0ns None",
    ];
    assert_eq!(ramps, wanted);
    assert_eq!(run.timeline[6].action, Action::Flap { down: MS(1000), up: MS(2000), times: 3 });
}

#[test]
fn later_entries_build_upon_earlier_ones() {
    let run = run(&format!(
        "{LINKS}{}{}{}{}",
        entry("at = \"1s\"; action = \"set\"; from = \"a\"; to = \"b\"; loss = \"1%\""),
        entry("at = \"2s\"; action = \"set\"; from = \"a\"; to = \"b\"; latency = \"5ms\""),
        entry("at = \"3s\"; action = \"heal\"; from = \"*\"; to = \"*\""),
        entry("at = \"4s\"; action = \"set\"; from = \"a\"; to = \"b\"; bandwidth = \"1Mbit/s\""),
    ));
    let shape = |i: usize| match &run.timeline[i].action {
        Action::Shape(shape) => shape.clone(),
        other => panic!("{other:?}"),
    };
    let base = LinkShape { latency: MS(50), bandwidth: Some(10_000_000), ..LinkShape::default() };
    let lossy = LinkShape { loss: Loss::Random(Chance::percent(1.0)), ..base };
    assert_eq!(shape(0), lossy);
    assert_eq!(shape(1), LinkShape { latency: MS(5), ..lossy });
    assert_eq!(shape(3), LinkShape { bandwidth: Some(1_000_000), ..base });
}

#[test]
fn a_timeline_that_contradicts_itself_is_refused() {
    let partition = entry("at = \"10s\"; action = \"partition\"; from = \"a\"; to = \"b\"");
    let ramp =
        entry("at = \"10s\"; action = \"ramp\"; from = \"a\"; to = \"b\"; loss = \"5%\"; over = \"10s\"");
    for (first, second, says) in [
        (
            &partition,
            "at = \"10s\"; action = \"heal\"; from = \"b\"; to = \"a\"",
            "at 10s the same links are changed by the partition of line",
        ),
        (
            &partition,
            "at = \"11s\"; action = \"set\"; from = \"a\"; to = \"b\"; loss = \"1%\"",
            "these links are partitioned since 10s",
        ),
        (
            &ramp,
            "at = \"15s\"; action = \"partition\"; from = \"*\"; to = \"b[1]\"",
            "still changes the same links",
        ),
        (&partition, "at = \"9s\"; action = \"heal\"; from = \"a\"; to = \"b\"", "nothing to heal"),
        (&String::new(), "at = \"1s\"; action = \"heal\"; from = \"a\"; to = \"b\"", "nothing to heal"),
        (
            &String::new(),
            "at = \"1s\"; action = \"ramp\"; from = \"b\"; to = \"a\"; over = \"1s\"; bandwidth = \"1Mbit/s\"",
            "no number to ramp from",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"ramp\"; from = \"b\"; to = \"a\"; over = \"1s\"; filter = \"drop\"",
            "filter can't be ramped",
        ),
        (&String::new(), "at = \"1s\"; action = \"set\"; from = \"b\"; to = \"a\"", "it changes nothing"),
        (
            &String::new(),
            "at = \"1s\"; action = \"cut\"; from = \"b\"; to = \"a\"",
            "\"cut\" is unknown here",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"shape\"; from = \"b\"; to = \"a\"",
            "\"shape\" is unknown here; one of partition, heal, set, ramp, flap, trace is expected [set]",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"flap\"; from = \"b\"; to = \"a\"; up = \"1s\"",
            "`down` of timeline[0] is missing",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"partition\"; from = \"b\"; to = \"a\"; over = \"1s\"",
            "partition takes no `over`, which belongs to ramp",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"set\"; from = \"b\"; to = \"a\"; loss = \"1%\"; file = \"t\"",
            "set takes no `file`, which belongs to trace",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"flap\"; from = \"b\"; to = \"a\"; up = \"1s\"; down = \"1s\"; loss = \"1%\"",
            "flap takes no `loss`, which belongs to set and ramp",
        ),
        (
            &partition,
            "at = \"11s\"; action = \"heal\"; from = \"b\"; to = \"a\"; both_ways = true",
            "known are at, action, from, to, both, network [both]",
        ),
        (
            &String::new(),
            "action = \"partition\"; from = \"b\"; to = \"a\"",
            "`at` of timeline[0] is missing",
        ),
        (
            &String::new(),
            "at = \"1s\"; action = \"trace\"; from = \"b\"; to = \"a\"; file = \"t\"",
            "the trace \"t\" was not read",
        ),
    ] {
        let (_, _, message) = error(&format!("{LINKS}{first}{}", entry(second)));
        assert!(message.contains(says), "{second}: {message}");
    }
}

#[test]
fn entries_that_do_not_meet_do_not_contradict() {
    let one = entry("at = \"10s\"; action = \"partition\"; from = \"a[0]\"; to = \"b\"");
    let other = entry("at = \"10s\"; action = \"partition\"; from = \"a[1]\"; to = \"b\"");
    assert_eq!(run(&format!("{LINKS}{one}{other}")).timeline.len(), 2);
}

#[test]
fn a_trace_is_read_from_the_file_that_was_supplied() {
    let text = format!(
        "{HEAD}{LINKS}{}",
        entry("at = \"1s\"; action = \"trace\"; from = \"a\"; to = \"b\"; file = \"t.up\"; repeat = false")
    );
    let needed = Composition::parse("c.toml", &text).unwrap().needed_files();
    assert_eq!(needed[0].path.value, "t.up");
    let files = |trace: &str| Files::from([("t.up".to_owned(), Ok(trace.to_owned()))]);
    let (runs, _) = attempt(&text, &files("1\n1\n8\n")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(runs[0].timeline[0].action, Action::Trace { opportunities: vec![1, 1, 8], repeat: false });
    let shown = attempt(&text, &files("1\n0\n")).unwrap_err().render();
    assert!(shown.contains("t.up:2:1") && shown.contains("back in time"), "{shown}");
}

#[test]
fn a_setting_that_can_t_be_read_is_the_only_mistake() {
    let only = |text: String| {
        let found = attempt(&format!("{HEAD}{text}"), &Files::new()).unwrap_err();
        assert_eq!(found.len(), 1, "{}", found.render());
    };
    for setting in ["latency = \"2h\"", "loss = 3", "latncy = \"1ms\"", "filter = \"no\""] {
        only(format!("[[links]]\nfrom = \"a\"\nto = \"b\"\n{setting}\n"));
        only(entry(&format!("at = \"1s\"; action = \"set\"; from = \"a\"; to = \"b\"; {setting}")));
        only(entry(&format!(
            "at = \"1s\"; action = \"ramp\"; over = \"1s\"; from = \"a\"; to = \"b\"; {setting}"
        )));
    }
}

#[test]
fn settings_without_an_effect_are_warned_of() {
    let link = |settings: &str| warnings(&format!("[[links]]\nfrom = \"a\"\nto = \"b\"\n{settings}\n"));
    let none = Vec::<String>::new();
    assert_eq!(link("latency = \"1ms\""), none);
    for (settings, says) in [
        ("queue = \"20ms\"", "queue has no effect without bandwidth"),
        ("queue_discipline = \"codel\"", "queue_discipline has no effect without bandwidth"),
        ("latency = \"1ms\"\nreorder_gap = 3", "reorder_gap has no effect without reorder"),
        ("reorder = \"1%\"", "reorder has no effect without latency"),
        ("", "no setting"),
        ("loss_correlation = \"25%\"", "loss_correlation has no effect without loss"),
        ("corrupt_correlation = \"25%\"", "without corrupt"),
        ("duplicate_correlation = \"25%\"", "without duplicate"),
        ("jitter_correlation = \"25%\"", "jitter_correlation has no effect without jitter"),
        ("jitter_distribution = \"normal\"", "jitter_distribution has no effect without jitter"),
        ("jitter_reorder = true", "jitter_reorder has no effect without jitter"),
        (
            "filter = \"drop\"\nlatency = \"5ms\"",
            "latency has no effect on a link whose filter lets nothing pass",
        ),
        ("gilbert_elliott = { p = \"0%\", r = \"0%\" }", "nothing is ever lost by it"),
        ("gilbert_elliott = { p = \"1%\", r = \"0%\" }", "the bad state is never left"),
    ] {
        let found = link(settings);
        assert!(found.len() == 1 && found[0].contains(says), "{settings}: {found:?}");
    }
    // What holds anyway, and what the timeline makes use of.
    assert_eq!(link("latency = \"1ms\"\njitter_reorder = false\nloss_correlation = \"0%\""), none);
    let set =
        |setting: &str| entry(&format!("at = \"1s\"; action = \"set\"; from = \"a\"; to = \"b\"; {setting}"));
    assert_eq!(link(&format!("queue = \"20ms\"\n{}", set("bandwidth = \"1Mbit/s\""))), none);
    assert!(warnings(&set("queue = \"20ms\""))[0].contains("queue has no effect without bandwidth"));
    assert_eq!(warnings(&format!("{LINKS}{}", set("queue = \"20ms\""))), none);
    assert!(warnings(&set("filter = \"drop\"; latency = \"5ms\""))[0].contains("lets nothing pass"));
}

#[test]
fn links_that_cover_nothing_are_warned_of_and_left_out() {
    let one = "[[groups]]\nid = \"c\"\ninstances = { count = 1 }\n";
    for (from, to) in [("a[0]", "a[0]"), ("c", "c"), ("c[0]", "c")] {
        let tail = format!("{one}[[links]]\nfrom = \"{from}\"\nto = \"{to}\"\nlatency = \"1ms\"\n");
        assert!(warnings(&tail)[0].contains("this link covers nothing"), "{from} {to}");
        assert!(run(&tail).links.is_empty());
        let cut = entry(&format!("at = \"1s\"; action = \"partition\"; from = \"{from}\"; to = \"{to}\""));
        let tail = format!("{one}{cut}");
        assert!(warnings(&tail)[0].contains("this changes nothing"), "{from} {to}");
        assert!(run(&tail).timeline.is_empty());
    }
    let tail = "[[links]]\nfrom = \"a\"\nto = \"a\"\nlatency = \"1ms\"\n";
    assert_eq!((warnings(tail), run(tail).links.len()), (Vec::new(), 1));
}

#[test]
fn regions_that_nobody_is_in_are_warned_of() {
    let files = matrix(",eu,us,asia\neu,,80,200\nus,90,,150\nasia,200,150,2\n");
    let told = |text: &str| {
        let (_, found) = attempt(text, &files).unwrap_or_else(|e| panic!("{e}"));
        found.iter().map(|d| d.message.clone()).collect::<Vec<String>>()
    };
    assert_eq!(told(REGIONS), Vec::<String>::new());
    let shares = "{ us = \"40%\", eu = 1, asia = \"rest\" }";
    let rest = told(&REGIONS.replace(shares, "{ us = 2, eu = 3, asia = \"rest\" }"));
    assert_eq!(rest, ["nobody is in region asia by this: the others take all 5 instances of group b"]);
    let few = told(&REGIONS.replace(shares, "{ us = \"1%\", asia = \"rest\" }"));
    assert!(few[0].contains("nobody is in region us"), "{few:?}");
    let outside = told(
        &REGIONS
            .replace(&format!("regions = {shares}\n"), "")
            .replace("region = \"eu\"", "regions = { eu = 1, us = 1 }"),
    );
    assert!(outside.len() == 1 && outside[0].contains("group b is in no region"), "{outside:?}");
    for wrong in ["{ us = \"remainder\" }", "{ us = 1 }", "{ us = 9 }", "{ mars = \"rest\" }"] {
        let found = attempt(&REGIONS.replace(shares, wrong), &files).unwrap_err();
        assert_eq!(found.len(), 1, "{}", found.render());
    }
    let empty = told(&REGIONS.replace(shares, "{}").replace("region = \"eu\"\n", ""));
    assert!(empty.iter().any(|m| m.contains("names no region")), "{empty:?}");
    assert!(
        empty.iter().any(|m| m.contains("this matrix shapes nothing: no group is in a region")),
        "{empty:?}"
    );
}

#[test]
fn memory_that_nobody_can_start_with_is_warned_of() {
    for (memory, shown) in [("1", "1B"), ("500m", "1B"), ("512Ki", "512KiB")] {
        let found = warnings(&format!(
            "[[groups]]\nid = \"c\"\ninstances = {{ count = 1 }}\nresources = {{ memory = \"{memory}\" }}\n"
        ));
        assert!(found.len() == 1 && found[0].contains(&format!("that is {shown}, with which")), "{found:?}");
    }
}

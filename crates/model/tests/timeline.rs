//! Timelines that can't be meant, and what they build upon, where entries name addresses.

mod common;

use std::time::Duration;

use common::{HEAD, attempt, error, run, warnings};
use testground_model::composition::Files;
use testground_model::shape::{Chance, LinkShape, Loss};
use testground_model::topology::Action;

/// Entries, each `at action from to` and its settings.
fn timeline(entries: &[&str]) -> String {
    let entry = |text: &&str| {
        let (head, settings) = text.split_once("; ").unwrap_or((text, ""));
        let words: Vec<&str> = head.split(' ').collect();
        let [at, action, from, to] = words[..] else { panic!("{text}") };
        let settings = settings.replace("; ", "\n");
        format!("[[timeline]]\nat = {at:?}\naction = {action:?}\nfrom = {from:?}\nto = {to:?}\n{settings}\n")
    };
    entries.iter().map(entry).collect()
}

#[test]
fn an_address_is_the_instance_that_begins_with_it() {
    // a[0] and a[1] have 16.0.0.2 and .3, b[0] to b[2] .4 to .6; the second entry begins at line 7 of the tail.
    for (first, second, says) in [
        (
            "2s partition a[1] b[1]",
            "2s set 16.0.0.3 b[1]; latency = \"5ms\"",
            "at 2s the same links (a[1] -> b[1]) are changed by the partition of line 16 too",
        ),
        (
            "2s set 16.0.0.3 b[1]; latency = \"5ms\"",
            "2s partition a[1] b[1]",
            "at 2s the same links (a[1] -> b[1]) are changed by the set of line 16 too",
        ),
        (
            "2s partition a[1] b[1]",
            "4s set 16.0.0.3 b[1]; latency = \"5ms\"",
            "these links (a[1] -> b[1]) are partitioned since 2s (line 16): heal them first",
        ),
        (
            "2s partition 16.0.0.3 b[1]",
            "4s set a[1] b[1]; latency = \"5ms\"",
            "these links (a[1] -> b[1]) are partitioned since 2s (line 16): heal them first",
        ),
        (
            "2s ramp fd54:474e::/64 16.0.0.6; over = \"4s\"; loss = \"1%\"",
            "3s partition a[1] b",
            "at 3s the ramp of line 16 (from 2s to 6s) still changes the same links (a[1] -> b[2])",
        ),
        // Nobody begins with these, and an instance may ask for them.
        (
            "2s partition 16.0.1.0/24 b",
            "3s set 16.0.1.7 b[0]; loss = \"1%\"",
            "these links are partitioned since 2s (line 16)",
        ),
    ] {
        let (_, _, message) = error(&timeline(&[first, second]));
        assert!(message.contains(says), "{first}, {second}: {message}");
    }
}

#[test]
fn addresses_of_others_do_not_contradict() {
    for entries in [
        ["2s partition a[1] b[1]", "2s set 16.0.0.2 b[1]; latency = \"5ms\""],
        ["2s set 16.0.0.3 16.0.0.4; latency = \"5ms\"", "2s partition a[1] b[1]"],
        ["2s partition a[0] 16.0.0.4; both = false", "3s set a[0] fd54:474e::4; latency = \"5ms\""],
        ["2s partition 16.0.1.0/24 b", "2s set 16.0.2.0/24 b; loss = \"1%\""],
        ["2s set 16.0.0.4 a; loss = \"1%\"", "3s set a[0] a[1]; loss = \"1%\""],
    ] {
        assert_eq!(run(&timeline(&entries)).timeline.len(), 2);
    }
}

#[test]
fn entries_build_upon_links_and_entries_by_address() {
    let link = "[[links]]\nfrom = \"16.0.0.0/24\"\nto = \"*\"\nlatency = \"9ms\"\n";
    for from in ["16.0.0.0/24", "16.0.0.0/25", "16.0.0.2", "a", "16.0.0.77"] {
        let run = run(&format!("{link}{}", timeline(&[&format!("1s set {from} *; loss = \"1%\"")])));
        let Action::Shape(shape) = &run.timeline[0].action else { panic!("{run}") };
        let wanted = LinkShape {
            latency: Duration::from_millis(9),
            loss: Loss::Random(Chance::percent(1.0)),
            ..LinkShape::default()
        };
        assert_eq!(*shape, wanted, "{from}");
    }
    let run = run(&timeline(&["1s set 16.0.0.2 b; loss = \"1%\"", "2s set a b; latency = \"5ms\""]));
    let losses: Vec<(String, f64)> = run.timeline[1..]
        .iter()
        .map(|change| match &change.action {
            Action::Shape(LinkShape { loss: Loss::Random(chance), .. }) => {
                (format!("{:?}", change.from), chance.percent)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(losses.len(), 2, "{losses:?}");
    assert!(losses.iter().all(|(from, loss)| (*loss == 1.0) == from.contains("index: 0")), "{losses:?}");
    let (_, _, message) =
        error(&timeline(&["1s set a 16.0.0.4; loss = \"1%\"", "2s set a b; latency = \"5ms\""]));
    assert!(message.contains("a -> b[0] has one shape for IPv4 and another for IPv6 by then"), "{message}");
    let (_, _, message) =
        error(&timeline(&["1s set 16.0.9.0/25 b; loss = \"1%\"", "2s set 16.0.9.0/24 b; latency = \"5ms\""]));
    assert!(message.contains("the set of line 16 covers a part of them"), "{message}");
}

#[test]
fn there_must_be_something_to_heal() {
    let flap = "1s flap a b; down = \"1s\"; up = \"1s\"; times = 2";
    for (entries, says) in [
        (
            &["1s partition a b", "2s heal * *", "3s heal a b"][..],
            "these links are healed since 2s (line 22)",
        ),
        (&["1s partition a b", "2s heal 16.0.0.0/24 *", "3s heal a[1] b"], "these links are healed since 2s"),
        (&[flap, "5s heal a b"], "the flap of line 16 is over at 5s"),
        (&["1s partition a[0] b", "2s heal a[1] b"], "no earlier entry changes these links"),
        (&["1s partition a b", "2s heal 16.0.0.9 b"], "no earlier entry changes these links"),
    ] {
        let (_, _, message) = error(&timeline(entries));
        assert!(message.contains("there is nothing to heal: ") && message.contains(says), "{message}");
    }
    for entries in [
        &["1s partition a b", "2s heal a[0] b", "3s heal a b"][..],
        &["1s set a b; loss = \"1%\"", "2s flap a b; down = \"1s\"; up = \"1s\"", "9s heal a b"],
        &["1s partition a b", "2s heal * *", "3s set a b; loss = \"1%\"", "4s heal 16.0.0.2 b"],
        &["1s partition 16.0.7.0/24 b", "2s heal 16.0.7.1 b"],
    ] {
        assert_eq!(run(&timeline(entries)).timeline.last().map(|c| &c.action), Some(&Action::Heal));
    }
}

#[test]
fn a_trace_that_is_over_is_nothing_to_heal() {
    let files = Files::from([("t".to_owned(), Ok("500\n1500\n".to_owned()))]);
    let refused = |heal: &str, repeat: bool| {
        let trace = format!("1s trace a b; file = \"t\"; repeat = {repeat}");
        let text = format!("{HEAD}{}", timeline(&[&trace, heal]));
        attempt(&text, &files).err().map(|e| e.render())
    };
    assert!(refused("2500ms heal a b", false).unwrap().contains("the trace of line 16 is over at 2500ms"));
    assert_eq!(refused("2s heal a b", false), None);
    assert_eq!(refused("2500ms heal a b", true), None);
}

#[test]
fn a_ramp_of_links_that_nothing_passes_is_refused() {
    let (_, _, message) = error(&timeline(&[
        "1s set a b; filter = \"drop\"",
        "2s ramp a b; over = \"1s\"; latency = \"40ms\"",
    ]));
    assert!(message.contains("nothing passes these links by then"), "{message}");
}

#[test]
fn a_change_beyond_the_timeout_is_warned_of() {
    let tail = |at: &str| {
        format!("{}[global.run_config]\ntimeout = \"5s\"\n", timeline(&[&format!("{at} partition a b")]))
    };
    assert_eq!(warnings(&tail("4999ms")), Vec::<String>::new());
    for at in ["5s", "20m"] {
        let wanted = "this never takes place: the run ends at its timeout of 5s at the latest";
        assert_eq!(warnings(&tail(at)), [wanted]);
    }
}

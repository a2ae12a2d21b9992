//! What a run leaves, and how it is reached later: runs, logs, collect, several rounds.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use testground_model::event::{Event, EventKind};

use crate::support::{Done, Session, composition, until};

fn json(done: &Done) -> Value {
    assert_eq!(done.code, Some(0), "{done:?}");
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

/// Runs the plan without anything else.
fn ran(session: &Session, code: i32) -> Done {
    let done = session.run(&[]);
    assert_eq!(done.code, Some(code), "{done:?}");
    done
}

fn id(done: &Done) -> String {
    done.events.first().expect("an event").run.to_string()
}

#[test]
fn runs_are_listed_shown_and_removed() {
    let session = Session::with_plan("exit $((TEST_INSTANCE_INDEX * 3))", &composition(1, ""));
    let empty = session.testground(&["runs", "list", "--json"]);
    assert_eq!(json(&empty), Value::Array(Vec::new()));
    let none = session.testground(&["runs", "show", "last"]);
    assert!(none.code == Some(2) && none.stderr.contains("no run has left anything"), "{none:?}");

    let good = id(&ran(&session, 0));
    // The first one is to end by itself, also when the second one fails before.
    let both = composition(2, "[global.run_config]\nkeep_going = true\n");
    session.write("plan/composition.toml", &both);
    let bad = id(&ran(&session, 1));
    let listed = json(&session.testground(&["runs", "list", "--json"]));
    let ids: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|r| r["id"].as_str()).collect();
    assert_eq!(ids, [good.as_str(), &bad], "oldest first");
    assert_eq!(
        (&listed[0]["ended"]["outcome"], &listed[0]["plan"], &listed[0]["state"]),
        (&"success".into(), &"plan".into(), &"ended".into())
    );
    assert!(listed[0]["ended"]["size"].as_u64().expect("a size") > 0, "{listed}");
    let shown = json(&session.testground(&["runs", "show", "last", "--json"]));
    assert_eq!((&shown["id"], &shown["ended"]["exit_code"]), (&bad.as_str().into(), &1.into()));
    assert!(
        shown["ended"]["cause"].as_str().expect("a cause").contains("g[1] exited with code 3"),
        "{shown}"
    );
    let words = session.testground(&["runs", "show", &bad]);
    for word in ["g: 1 of 2 ok", "exited with code 3", "seed", bad.as_str()] {
        assert!(words.stdout.contains(word), "{word}: {words:?}");
    }
    let table = session.testground(&["runs", "list"]).stdout;
    let last = table.lines().last().expect("a line");
    assert!(last.starts_with(&bad) && last.contains("failure") && last.contains("1/2"), "{table}");

    // The nearest id is named; several that fit are.
    let misspelt = bad.replacen(&bad[18..19], if &bad[18..19] == "0" { "1" } else { "0" }, 1);
    let near = session.testground(&["runs", "show", &misspelt]);
    assert!(near.code == Some(2) && near.stderr.contains(&bad), "{near:?}");

    // Nobody can agree: standard input is no terminal.
    let asked = session.testground(&["runs", "rm", &good]);
    assert!(asked.code == Some(2) && asked.stderr.contains("--yes"), "{asked:?}");
    let gone = session.testground(&["runs", "rm", "--yes", &good]);
    assert!(gone.code == Some(0) && gone.stdout.contains(&good), "{gone:?}");
    assert_eq!(json(&session.testground(&["runs", "list", "--json"])).as_array().expect("a list").len(), 1);
    let dry = session.testground(&["runs", "prune", "--keep", "0", "--dry-run"]);
    assert!(dry.stdout.contains(&bad), "{dry:?}");
    let young = session.testground(&["runs", "prune", "--older-than", "1d", "--yes"]);
    assert!(young.code == Some(0) && young.stdout.contains("nothing to remove"), "{young:?}");
    let pruned = session.testground(&["runs", "prune", "--keep", "0", "--yes"]);
    assert!(pruned.code == Some(0) && pruned.stdout.contains(&bad), "{pruned:?}");
    assert_eq!(json(&session.testground(&["runs", "list", "--json"])), Value::Array(Vec::new()));
}

#[test]
fn a_lab_is_meant_among_this_home_s_runs_and_without_one_the_run_s_state_is_said() {
    let stranger = Session::with_plan("echo up; until [ -e go ]; do sleep 0.05; done", &composition(1, ""));
    let mut strange = stranger.start(&[]);
    strange.instances_up(1);
    let strangers = strange.run_id();

    let session = Session::with_plan("exit 0", &composition(1, ""));
    let done = ran(&session, 0);
    let refused = |session: &Session, words: &[&str]| {
        for command in [&["network", "show", "last"][..], &["exec", "last", "g[0]", "--", "true"]] {
            let done = session.testground(command);
            assert!(words.iter().all(|word| done.stderr.contains(word)), "{words:?}: {done:?}");
            assert!(done.code == Some(2) && !done.stderr.contains(&strangers), "{done:?}");
        }
    };
    refused(&session, &[&id(&done), "is over (success)"]);
    let build = format!("until [ -e {}/built ]; do sleep 0.05; done", session.path().display());
    let manifest = session.path().join("plan/manifest.toml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let program = "program = \"./plan.sh\"";
    fs::write(&manifest, text.replace(program, &format!("{program}\nbuild = \"{build}\""))).expect("a file");
    let going = session.start(&[]);
    refused(&session, &[&going.run_id(), "is going, but has no lab yet"]);
    session.write("built", "");
    going.wait().assert_success();

    // By its whole id a stranger's lab is reached from anywhere.
    let unknown = session.testground(&["exec", &strangers[..19], "g[0]", "--", "true"]);
    assert!(unknown.code == Some(2) && !unknown.stderr.contains(&strangers), "{unknown:?}");
    let inside = session.testground(&["exec", &strangers, "g[0]", "--", "touch", "go"]);
    assert_eq!(inside.code, Some(0), "{inside:?}");
    strange.wait().assert_success();
}

#[test]
fn a_run_that_goes_on_is_known_as_such_followed_and_never_removed() {
    let session =
        Session::with_plan("echo up; until [ -e go ]; do sleep 0.05; done; echo over", &composition(1, ""));
    let mut going = session.start(&[]);
    going.instances_up(1);
    let id = going.run_id();
    let shown = json(&session.testground(&["runs", "show", "last", "--json"]));
    assert_eq!((&shown["state"], &shown["id"]), (&"going".into(), &id.as_str().into()));
    let kept = session.testground(&["runs", "rm", "--yes", &id]);
    assert!(kept.code == Some(2) && kept.stderr.contains("still going"), "{kept:?}");
    let kept = session.testground(&["runs", "prune", "--keep", "0", "--yes"]);
    assert!(kept.stdout.contains("nothing to remove"), "{kept:?}");
    let so_far = session.testground(&["logs", "last"]);
    assert!(so_far.stdout.contains(">> up") && so_far.stderr.contains("still going"), "{so_far:?}");
    // Every command that reaches into a lab takes the same forms.
    let network = session.testground(&["network", "show", &id[..19], "--json"]);
    assert!(network.code == Some(0), "{network:?}");
    let inside = session.testground(&["exec", "last", "g[0]", "--", "touch", "go"]);
    assert_eq!(inside.code, Some(0), "{inside:?}");
    let followed = session.testground(&["logs", &id, "-f"]);
    assert!(followed.code == Some(0), "{followed:?}");
    for word in [">> up", ">> over", "run finished with outcome = success (g:1/1)"] {
        assert!(followed.stdout.contains(word), "{word}: {followed:?}");
    }
    going.wait().assert_success();
    let over = session.testground(&["exec", &id, "g[0]", "--", "true"]);
    assert!(over.code == Some(2) && over.stderr.contains("is over (success)"), "{over:?}");

    // Whoever carried it out was killed: no end, and no run that goes on either.
    let mut going = session.start(&[]);
    going.instances_up(1);
    let id = going.run_id();
    going.signal(rustix::process::Signal::KILL);
    let _ = going.wait();
    until("the run is known to be lost", || {
        let shown = json(&session.testground(&["runs", "show", &id, "--json"]));
        (shown["state"] == "lost").then_some(())
    });
    let followed = session.testground(&["logs", &id, "-f"]);
    assert!(followed.stdout.contains(">> up") && followed.stderr.contains("was killed"), "{followed:?}");
    until("it can be removed", || {
        (session.testground(&["runs", "rm", "--yes", &id]).code == Some(0)).then_some(())
    });
}

#[test]
fn logs_have_every_line_of_a_flood_in_its_order() {
    let script =
        "echo before >&2; seq 1 20000; printf 'x%.0s' {1..5000}; echo; echo after >&2; printf unended";
    let session = Session::with_plan(script, &composition(2, ""));
    let done = ran(&session, 0);
    let told = done.lines().iter().filter(|l| l.parse::<u32>().is_ok()).count();
    assert!(told < 40_000, "the record is meant to leave some of it out");
    let said = |done: &Done| -> Vec<String> {
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout.lines().filter_map(|l| Some(l.split_once(" >> ")?.1.to_owned())).collect()
    };
    let one = said(&session.testground(&["logs", "last", "g[1]", "--stdout"]));
    let mut expected: Vec<String> = (1..=20_000).map(|n| n.to_string()).collect();
    expected.extend(["x".repeat(5000), "unended".to_owned()]);
    assert_eq!(one.len(), expected.len());
    assert!(one == expected, "the lines are others, or in another order");

    let errors = said(&session.testground(&["logs", "last", "g", "--stderr"]));
    assert_eq!(errors.iter().filter(|l| *l == "before").count(), 2, "{errors:?}");
    assert_eq!(errors.len(), 4, "{errors:?}");
    let grep = said(&session.testground(&["logs", "last", "--grep", "^1999[89]$"]));
    assert_eq!(grep.len(), 4, "{grep:?}");
    // Times never go back.
    let all = session.testground(&["logs", "last"]).stdout;
    let times: Vec<f64> = all
        .lines()
        .filter(|l| l.contains(" << "))
        .map(|l| l.split_once("s ").expect("a time").0.parse().expect("seconds"))
        .collect();
    assert!(times.len() > 40_000 && times.is_sorted());

    for (args, word) in [
        (&["logs", "last", "h"][..], "its groups are g"),
        (&["logs", "last", "g[2]"], "[0] to [1]"),
        (&["logs", "last", "g["], "GROUP[INDEX]"),
        (&["logs", "last", "--grep", "("], "--grep"),
        (&["logs", "nope"], "the latest are"),
    ] {
        let wrong = session.testground(args);
        assert!(wrong.code == Some(2) && wrong.stderr.contains(word), "{word}: {wrong:?}");
    }
}

#[test]
fn outputs_are_collected_in_the_layout_of_the_original() {
    let session = Session::with_plan("echo mine > $TEST_OUTPUTS_PATH/own.txt", &composition(2, ""));
    let id = id(&ran(&session, 0));
    let done = session.testground(&["collect", "--runner", "local:exec", "last"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), format!("created file: {id}.tgz\n").as_str()));
    let names = Command::new("tar").arg("-tzf").arg(session.path().join(format!("{id}.tgz"))).output();
    let names = String::from_utf8(names.expect("tar runs").stdout).expect("text");
    for name in ["g/0/own.txt", "g/1/own.txt", "g/1/stdout.log", "run.jsonl", "run.json"] {
        assert!(names.lines().any(|l| l == format!("{id}/{name}")), "{name}: {names}");
    }
    let named = session.testground(&["collect", &id[..19], "-o", "out.tar.gz"]);
    assert!(named.code == Some(0) && session.path().join("out.tar.gz").exists(), "{named:?}");
    let nowhere = session.testground(&["collect", "last", "-o", "no/such/place.tgz"]);
    assert_eq!(nowhere.code, Some(3), "{nowhere:?}");
    // The same within a run that takes the place away.
    let place = session.path().join("place");
    fs::create_dir(&place).expect("a directory");
    session.script("plan/plan.sh", &format!("[ $TEST_INSTANCE_INDEX = 1 ] || rmdir {}", place.display()));
    let gone = session.run(&["--collect-file", "place/all"]);
    assert!(gone.code == Some(3) && gone.stderr.contains("place/all.tgz"), "{gone:?}");
}

#[test]
fn collecting_says_so_when_interrupted_and_stops_at_the_second_time() {
    // It has no end: a terabyte of holes is read as zeros.
    let session = Session::with_plan("truncate -s 1T \"$TEST_OUTPUTS_PATH/holes\"", &composition(1, ""));
    fs::create_dir(session.path().join("there")).expect("a directory");
    let going = session.start(&["--collect-file", "there/all", "--repeat", "2"]);
    let files = format!("/proc/{}/fd", going.child.id());
    until("the outputs are being collected", || {
        let open = fs::read_dir(&files).expect("the client's files").flatten();
        open.flat_map(|fd| fs::read_link(fd.path())).any(|file| file.ends_with("holes")).then_some(())
    });
    going.signal(rustix::process::Signal::INT);
    let began = std::time::Instant::now();
    until("the first one was heard", || (began.elapsed().as_millis() > 300).then_some(()));
    going.signal(rustix::process::Signal::INT);
    let done = going.wait();
    assert_eq!(done.code, Some(130), "{done:?}");
    assert_eq!(done.outcome(), testground_model::outcome::RunOutcome::Success);
    assert_eq!(done.events.iter().filter(|e| matches!(e.kind, EventKind::RunQueued { .. })).count(), 1);
    assert!(done.stderr.starts_with("interrupted: the run is over, and its outputs are being"), "{done:?}");
    assert!(done.stderr.contains("interrupted: collecting stops"), "{done:?}");
    assert_eq!(fs::read_dir(session.path().join("there")).expect("a directory").count(), 0);
    let shown = json(&session.testground(&["runs", "show", "last", "--json"]));
    assert_eq!(shown["ended"]["outcome"], "success", "{shown:#}");
}

#[test]
fn rounds_end_at_the_first_failure_and_each_has_its_seed() {
    let session = Session::with_plan("exit $((RANDOM % 3 == 0))", &composition(1, ""));
    let done = session.run(&["--until-fail", "--repeat", "60", "--junit", "junit.xml", "-O", "results.csv"]);
    assert_eq!(done.code, Some(1), "{}", done.stdout);
    let outcomes: Vec<String> = fs::read_to_string(session.path().join("results.csv"))
        .expect("results")
        .lines()
        .skip(1)
        .map(|l| l.split(',').nth(2).expect("an outcome").to_owned())
        .collect();
    let rounds = outcomes.len();
    assert_eq!(outcomes.iter().filter(|o| *o == "failure").count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.last().map(String::as_str), Some("failure"));
    let seeds: Vec<u64> = done
        .events
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::RunQueued { seed, .. } => Some(*seed),
            _ => None,
        })
        .collect();
    assert_eq!(seeds.len(), rounds, "the events of all rounds are in the one file");
    assert_eq!(seeds.iter().collect::<BTreeSet<_>>().len(), rounds, "{seeds:?}");
    let told = format!("{} ok, 1 failed", rounds - 1);
    assert!(done.stdout.contains(&told), "{told}: {}", done.stdout);
    let again = format!("--seed {}", seeds.last().expect("a seed"));
    assert!(done.stdout.trim_end().ends_with(&again), "{again}: {}", done.stdout);
    let junit = fs::read_to_string(session.path().join("junit.xml")).expect("a JUnit file");
    assert_eq!(junit.matches("<testsuite ").count(), rounds, "{junit}");
}

#[test]
fn rounds_without_a_failure_are_all_run_with_a_seed_that_was_chosen() {
    let session = Session::with_plan("true", &composition(1, ""));
    let done = session.run(&["--repeat", "2", "--seed", "7"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.stdout.contains("round 2 of 2") && done.stdout.contains("2 ok, 0 failed"),
        "{}",
        done.stdout
    );
    let seven = |e: &&Event| matches!(e.kind, EventKind::RunQueued { seed: 7, .. });
    assert_eq!(done.events.iter().filter(seven).count(), 2);
    let wrong = session.testground(&["run", "--repeat", "0", "plan"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn runs_of_a_composition_are_chosen_by_id_and_all_are_reported() {
    let runs = "[[runs]]\nid = \"small\"\n[[runs.groups]]\nid = \"g\"\n[[runs]]\nid = \"large\"\n[[runs.groups]]\nid = \"g\"\ninstances = { count = 2 }";
    let session = Session::with_plan("true", &composition(1, runs).replace("total_instances = 1\n", ""));
    let wrong = session.testground(&["run", "--run-ids", "smal", "plan"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("did you mean `small`?"), "{wrong:?}");
    assert!(wrong.stderr.contains("--> command line:1:11 (--run-ids)"), "{wrong:?}");
    let done = session.run(&["-O", "results.csv", "--junit", "junit.xml"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let results = fs::read_to_string(session.path().join("results.csv")).expect("results");
    let ids: Vec<&str> = results.lines().map(|l| l.split(',').next().expect("a field")).collect();
    assert_eq!(ids, ["run_id", "large", "small"], "sorted by name");
    let junit = fs::read_to_string(session.path().join("junit.xml")).expect("a JUnit file");
    assert!(junit.contains("\"large g\"") && junit.contains("\"small g\""), "{junit}");
    let queued = done.events.iter().filter(|e| matches!(e.kind, EventKind::RunQueued { .. })).count();
    assert_eq!(queued, 2, "both runs are in the one file of events");
    let one =
        session.testground(&["run", "composition", "-f", "plan/composition.toml", "--run-ids", "small"]);
    assert!(one.stdout.contains("(g:1/1)") && !one.stdout.contains("(g:2/2)"), "{one:?}");
}

#[test]
fn files_that_cannot_be_written_are_told_before_the_run() {
    let session = Session::with_plan("true", &composition(1, ""));
    for flag in ["--junit", "--events", "--result-file", "--report", "--metrics", "-o"] {
        let ending = if flag == "--metrics" { ".csv" } else { "" };
        let file = format!("no/such/file{ending}");
        let done = session.testground(&["run", flag, &file, "plan"]);
        assert!(done.code == Some(2) && done.stderr.contains(&file), "{flag}: {done:?}");
    }
    let pdf = session.testground(&["run", "--report", "foo.pdf", "plan"]);
    assert!(pdf.code == Some(2) && pdf.stderr.contains("not .pdf: its ending is .html"), "{pdf:?}");
    let pdf = session.testground(&["report", "last", "-o", "foo.pdf"]);
    assert!(pdf.code == Some(2) && pdf.stderr.contains("not .pdf: its ending is .html"), "{pdf:?}");
    assert_eq!(json(&session.testground(&["runs", "list", "--json"])), Value::Array(Vec::new()));
}

#[test]
fn the_first_interrupt_says_what_a_second_one_does() {
    let session = Session::with_plan("echo up; sleep 60", &composition(1, ""));
    let mut going = session.start(&["--repeat", "2"]);
    going.instances_up(1);
    going.signal(rustix::process::Signal::INT);
    let done = going.wait();
    assert_eq!(done.code, Some(130), "{done:?}");
    assert!(done.stderr.contains("once more ends it at once"), "{done:?}");
    let list = session.testground(&["runs", "list"]);
    assert!(list.stdout.contains("  interrupted  "), "{list:?}");
    assert!(
        done.stdout.contains("and one interrupted") && !done.stdout.contains("round 2"),
        "{}",
        done.stdout
    );
}

//! How runs end, and what is said about it.

use testground_model::event::EventKind;
use testground_model::outcome::{InstanceEnd, RunOutcome};

use crate::support::{Session, composition};

/// One line of the event protocol.
const SUCCESS: &str =
    r#"echo '{"ts":1,"msg":"","group_id":"g","run_id":"r","event":{"success_event":{"group":"g"}}}'"#;
const START: &str =
    r#"echo '{"ts":1,"msg":"","group_id":"g","run_id":"r","event":{"start_event":{"runenv":{}}}}'"#;
const FAILURE: &str = r#"echo '{"ts":1,"msg":"","group_id":"g","run_id":"r","event":{"failure_event":{"group":"g","error":"no route"}}}'"#;

fn end_of(script: &str) -> (InstanceEnd, Option<i32>) {
    let session = Session::with_plan(script, &composition(1, ""));
    let done = session.run(&[]);
    (done.end("g", 0), done.code)
}

#[test]
fn an_instance_that_has_failed_and_goes_on_does_not_hold_the_run() {
    let script = format!("trap '' TERM; {FAILURE}; while :; do sleep 1; done");
    let session = Session::with_plan(&script, &composition(1, ""));
    let done = session.run(&[]);
    let failed = InstanceEnd::ReportedFailure { error: "no route".into() };
    assert_eq!((done.end("g", 0), done.code), (failed, Some(1)), "{done:?}");
    for signal in ["SIGTERM", "SIGKILL"] {
        let said = format!("g[0] has failed, and goes on: it is sent {signal}");
        assert!(done.stdout.contains(&said), "{said}: {done:?}");
    }
}

#[test]
fn every_end_has_its_own_word_and_exit_code() {
    assert_eq!(end_of("exit 0"), (InstanceEnd::Succeeded, Some(0)));
    assert_eq!(end_of(&format!("{START}; {SUCCESS}")), (InstanceEnd::Succeeded, Some(0)));
    assert_eq!(end_of("exit 3"), (InstanceEnd::ExitCode { code: 3 }, Some(1)));
    assert_eq!(end_of(&format!("{SUCCESS}; exit 3")), (InstanceEnd::ExitCode { code: 3 }, Some(1)));
    assert_eq!(end_of(START), (InstanceEnd::NoOutcome, Some(1)));
    assert_eq!(end_of(FAILURE), (InstanceEnd::ReportedFailure { error: "no route".into() }, Some(1)));
    assert_eq!(end_of("kill -SEGV $$"), (InstanceEnd::Signal { signal: 11, core: false }, Some(1)));
    assert_eq!(end_of("kill -TERM $$"), (InstanceEnd::Signal { signal: 15, core: false }, Some(1)));
    assert_eq!(end_of("kill -KILL $$"), (InstanceEnd::Signal { signal: 9, core: false }, Some(1)));
}

#[test]
fn a_program_that_can_t_be_started_says_why() {
    let session = Session::with_plan("", &composition(1, ""));
    session.write("plan/plan.sh", "#!/no/such/interpreter\n");
    let done = session.run(&[]);
    assert!(
        matches!(done.end("g", 0), InstanceEnd::NotStarted { error } if error.contains("interpreter")),
        "{done:?}"
    );
    assert_eq!(done.code, Some(1));
}

#[test]
fn one_bad_end_ends_the_run_at_once_and_the_message_names_it() {
    let script = "[ $TEST_INSTANCE_INDEX = 1 ] || exec sleep 600\necho the disk is gone >&2; exit 7";
    let session = Session::with_plan(script, &composition(3, ""));
    let done = session.run(&[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let cause = done.cause();
    for part in ["g[1]", "exited with code 7", "the disk is gone"] {
        assert!(cause.contains(part), "{part}: {cause}");
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    assert_eq!(done.end("g", 0), InstanceEnd::Stopped);
}

#[test]
fn with_keep_going_the_others_come_to_their_end() {
    let script = "[ $TEST_INSTANCE_INDEX = 1 ] && exit 7; sleep 0.5; echo whole";
    let session = Session::with_plan(script, &composition(3, ""));
    let done = session.run(&["--keep-going"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_eq!(done.lines(), ["whole", "whole"]);
    assert!(done.stdout.contains("(g:2/3)"), "{done:?}");
}

#[test]
fn when_everybody_waits_the_run_ends_and_says_for_what() {
    let script = "[ $TEST_INSTANCE_INDEX = 2 ] || testground sync signal ready >/dev/null; testground sync barrier ready 5";
    let config = "[global.run_config]\nstall = \"1s\"\n";
    let session = Session::with_plan(script, &format!("{config}{}", composition(3, "")));
    let done = session.run(&[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let cause = done.cause();
    for part in ["\"ready\"", "2 of 5", "g[0], g[1], g[2]", "not signalled by g[2]"] {
        assert!(cause.contains(part), "{part}: {cause}");
    }
}

#[test]
fn at_its_timeout_a_run_says_what_everybody_waits_for() {
    let script = "[ $TEST_INSTANCE_INDEX = 0 ] && exec sleep 600; testground sync barrier never 2";
    let session = Session::with_plan(script, &composition(2, ""));
    // On a machine that is busy with something else the second one may not have come to its barrier that soon.
    let waits = ["1500ms", "6s", "24s", "96s"].into_iter().find_map(|timeout| {
        let done = session.run(&["--timeout", timeout]);
        assert_eq!(done.code, Some(5), "{done:?}");
        assert!(matches!(done.outcome(), RunOutcome::TimedOut { .. }));
        assert!(done.stdout.contains("run canceled after reaching the task timeout"), "{done:?}");
        let waits = done.events.iter().find_map(|e| match &e.kind {
            EventKind::Waits { waits } => Some(waits.clone()),
            _ => None,
        });
        let waits = waits.expect("what they wait for");
        assert_eq!(waits.len(), 2);
        assert!(waits[0].barriers.is_empty());
        (!waits[1].barriers.is_empty()).then_some(waits)
    });
    assert_eq!(waits.expect("what the second one waits for")[1].barriers[0].state, "never");
}

#[test]
fn outcomes_count_once_however_often_they_are_heard() {
    let over_sync = r#"testground sync publish --raw run:$TEST_RUN:plan:plan:case:case:run_events '{"success_event":{"group":"g"}}' >/dev/null"#;
    let script = format!("{START}; {over_sync}; {SUCCESS}");
    let session = Session::with_plan(&script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    assert!(done.stdout.contains("(g:2/2)"), "{done:?}");
    let reports = done.events.iter().filter(|e| {
        matches!(&e.kind, EventKind::Reported { report: testground_model::event::Report::Success, .. })
    });
    assert_eq!(reports.count(), 2, "{done:?}");
}

#[test]
fn a_request_that_can_t_be_honoured_fails_the_run_by_name() {
    for (request, word) in [
        (r#"{"network":"nowhere","enable":true,"default":{},"callback_state":"c"}"#, "nowhere"),
        (r#"{"network":"default","enable":true,"IPv4":"300.0.0.1/16","callback_state":"c"}"#, "300.0.0.1"),
        (r#"{"network":"default","enable":true,"default":{"loss":-1},"callback_state":"c"}"#, "loss"),
    ] {
        let script = format!("testground sync network '{request}'");
        let session = Session::with_plan(&script, &composition(2, ""));
        let done = session.run(&[]);
        assert_eq!(done.code, Some(1), "{request}: {done:?}");
        let ends = [done.end("g", 0), done.end("g", 1)];
        let refused =
            ends.iter().any(|e| matches!(e, InstanceEnd::NetworkRefused { error } if error.contains(word)));
        assert!(refused, "{request}: {ends:?}");
        assert!(done.cause().contains(word), "{}", done.cause());
    }
}

#[test]
fn mistakes_in_files_are_all_told_with_their_places_and_nothing_starts() {
    let session = Session::with_plan("", "");
    session.write(
        "plan/composition.toml",
        "[global]\nplan = \"plan\"\ncase = \"case\"\nrunner = \"local:exce\"\nbuilder = \"exec:generic\"\n\
         [[groups]]\nid = \"g\"\ninstanses = { count = 1 }\n[[links]]\nfrom = \"g\"\nto = \"h\"\nlatency = \"5 parsecs\"\n",
    );
    let done = session.testground(&["run", "plan"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    for part in ["composition.toml:8", "instances", "local:exec", "composition.toml:12", "parsecs"] {
        assert!(done.stderr.contains(part) || done.stdout.contains(part), "{part}: {done:?}");
    }
    assert!(!session.path().join("home/data/outputs/local_exec").exists());
}

#[test]
fn plans_that_can_t_be_read_are_named() {
    let session = Session::with_plan("", &composition(1, ""));
    std::os::unix::fs::symlink("loop", session.path().join("loop")).unwrap();
    session.write("empty/readme", "nothing");
    for (plan, word) in
        [("nowhere", "nowhere"), ("loop", "loop"), ("empty", "manifest.toml"), ("plam", "plan")]
    {
        let done = session.testground(&["run", plan]);
        assert_eq!(done.code, Some(2), "{plan}: {done:?}");
        assert!(done.stderr.contains(word), "{plan}: {done:?}");
    }
}

#[test]
fn a_composition_may_spare_a_share_of_its_instances() {
    let spare = "[global.run_config]\nmin_success = \"60%\"\n";
    let lost_one = "[ $TEST_INSTANCE_INDEX = 1 ] && exit 7; sleep 0.3; echo whole";
    let session = Session::with_plan(lost_one, &format!("{spare}{}", composition(3, "")));
    let done = session.run(&[]);
    done.assert_success();
    assert!(done.stdout.contains("(g:2/3)"), "{done:?}");
    let session = Session::with_plan("exit 7", &format!("{spare}{}", composition(3, "")));
    assert_eq!(session.run(&[]).code, Some(1));
}

#[test]
fn instances_start_one_after_the_other_where_a_rate_is_set() {
    let rate = "[global.run_config]\nstart_rate = 4\n";
    let session = Session::with_plan("echo up", &format!("{rate}{}", composition(3, "")));
    let done = session.run(&[]);
    done.assert_success();
    let times = |fits: fn(&EventKind) -> bool| -> Vec<u64> {
        done.events.iter().filter(|e| fits(&e.kind)).map(|e| e.ts).collect()
    };
    let released = times(|e| matches!(e, EventKind::InstancesReleased))[0];
    let started = times(|e| matches!(e, EventKind::InstanceStarted { .. }));
    assert_eq!(started.len(), 3);
    // A busy machine starts one late, never early: each has its time from the beginning on, not from the one before.
    for (started, due) in started.iter().zip([0, 250_000_000, 500_000_000]) {
        assert!(started - released >= due, "{started:?} {released}");
    }
}

#[test]
fn a_composition_may_be_a_go_template() {
    let text = composition(2, "").replace("{ count = 2 }", "{ count = {{ atoi \"2\" }} }");
    let session = Session::with_plan("echo one", &text);
    let done = session.run(&[]);
    done.assert_success();
    assert_eq!(done.lines(), ["one", "one"]);
    let session = Session::with_plan("echo one", &text.replace("atoi", "no_such"));
    let done = session.testground(&["run", "plan"]);
    assert!(done.code == Some(2) && done.stderr.contains("no_such"), "{done:?}");
}

//! Builders and SDKs: `testground build`, artifacts, and the plans of the published SDKs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::house::{run, run_measuring, sources, with_go};
use crate::plans::content;
use crate::support::{Done, Session, composition, is_alive, signal_process, skip, until};

/// The artifact of a group, as scripts take it from the log: the eighth field between quotes.
fn artifact(done: &Done, group: &str) -> String {
    let marked = format!("\"group\": \"{group}\"");
    let line = done.stdout.lines().find(|l| l.contains("generated build artifact") && l.contains(&marked));
    let line = line.unwrap_or_else(|| panic!("no artifact of {group}: {done:?}"));
    line.split('"').nth(7).expect("eight fields").to_owned()
}

fn fails(done: &Done, code: i32, words: &str) {
    assert_eq!(done.code, Some(code), "{done:?}");
    assert!(done.stderr.contains(words) || done.stdout.contains(words), "{words}: {done:?}");
}

#[test]
fn a_build_tool_ends_with_the_client() {
    let session = Session::with_plan("true", &composition(1, ""));
    let file = session.path().join("plan/composition.toml");
    let mut text = fs::read_to_string(&file).expect("a composition");
    let pids = session.path().join("pids");
    // As a compiler with its own children: neither has a reason to look whether the client is there.
    let build = format!("sleep 600 & echo $! $$ > {}; wait", pids.display());
    text.push_str(&format!("[groups.build_config]\nbuild = \"{build}\"\n"));
    fs::write(&file, text).expect("a composition");
    let going = session.start(&[]);
    let started: Vec<i32> = until("the tool has started", || {
        let text = fs::read_to_string(&pids).ok().filter(|t| t.ends_with('\n'))?;
        Some(text.split_whitespace().map(|pid| pid.parse().expect("a process id")).collect())
    });
    assert!(started.len() == 2 && started.iter().all(|pid| is_alive(*pid)));
    signal_process(going.child.id() as i32, Signal::KILL);
    going.wait();
    until("the tool is gone", || started.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

#[test]
fn artifacts_are_built_written_used_and_purged() {
    let session = Session::with_plan("echo never", "");
    let text = r#"# why this is here
[global]
plan = "plan"
case = "case"
builder = "exec:generic"
runner = "local:exec"
{{ $word := .Env.WORD }}
[[groups]]
id = "a" # the first
instances = { count = 1 }
[groups.build_config]
program = "./made"
build = "echo built >> ../../../../../../count; printf '#!/bin/sh\necho {{ $word }}\n' > made; chmod +x made"

[[groups]]
id = "b"
instances = { count = 1 }
[groups.run]
artifact = "old" # replaced
test_params = { x = "y" }
"#;
    // Beside the plan: of exec:generic, all that lies in it is sources.
    let file = session.write("composition.toml", &text.replace("\\n", "\\\\n"));
    let typed = file.display().to_string();
    let env = [("WORD", "hello")];
    let built = session.testground_with_env(&["build", "composition", "-f", &typed, "-w", "--wait"], &env);
    assert_eq!(built.code, Some(0), "{built:?}");
    let made = artifact(&built, "a");
    assert!(Path::new(&made).is_file() && artifact(&built, "b").ends_with("plan/plan.sh"), "{built:?}");
    let written = fs::read_to_string(&file).expect("the composition");
    for kept in
        ["# why this is here", "{{ $word := .Env.WORD }}", "id = \"a\" # the first", "echo {{ $word }}"]
    {
        assert!(written.contains(kept), "{kept} is gone:\n{written}");
    }
    assert!(written.contains(&made) && written.contains("plan.sh\" # replaced"), "{written}");

    // The runs take what is named, until they are told not to.
    let count = session.path().join("count");
    let builds = || fs::read_to_string(&count).expect("a count").lines().count();
    assert_eq!(builds(), 1);
    fs::remove_dir_all(session.path().join("home/data/work/builds")).expect("the cache");
    let without = session.testground_with_env(&["run", "composition", "-f", &typed], &env);
    fails(&without, 4, "No such file");
    let again =
        session.testground_with_env(&["run", "composition", "-f", &typed, "--ignore-artifacts", "-w"], &env);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("hello") && again.stdout.contains("never") && builds() == 2, "{again:?}");
    let third = session.testground_with_env(&["run", "composition", "-f", &typed], &env);
    assert!(third.code == Some(0) && third.stdout.contains("hello") && builds() == 2, "{third:?}");

    // One artifact by name; its builder still has to be the plan's.
    let single = ["run", "single", "-p", "plan", "-t", "case", "-r", "local:exec", "-i", "1", "-b"];
    let used = session.testground(&[&single[..], &["exec:generic", "-ub", &made]].concat());
    assert!(used.code == Some(0) && used.stdout.contains("hello"), "{used:?}");
    fails(
        &session.testground(&[&single[..], &["exec:go", "-ub", &made]].concat()),
        2,
        "does not support builder",
    );

    // A purge leaves what others made.
    let purge = |builder: &str| session.testground(&["build", "purge", "-b", builder, "-p", "plan"]);
    assert!(purge("exec:go").stdout.contains("removed 0 artifacts"), "{:?}", purge("exec:go"));
    let purged = purge("exec:generic");
    assert!(purged.code == Some(0) && purged.stdout.contains("removed 1 artifact,"), "{purged:?}");
    assert!(!Path::new(&made).exists());
    fails(&purge("exec:gnric"), 2, "did you mean exec:generic?");

    // What has no place in the file is said, and the file stays as it is.
    let ranged = "{{ range $g := split \"x,y\" }}\n[[groups]]\nid = \"{{ $g }}\"\ninstances = { count = 1 }\n{{ end }}\n";
    let head = text.split("{{ $word").next().expect("a head");
    let file = session.write("plan/ranged.toml", &format!("{head}{ranged}"));
    let refused = session.testground(&["build", "composition", "-f", &file.display().to_string(), "-w"]);
    fails(&refused, 2, "a template makes it");
    assert_eq!(fs::read_to_string(&file).expect("a composition"), format!("{head}{ranged}"));
}

/// A plan that says what its SDK says, and two SDKs of that name, so that nothing has to be fetched.
#[test]
fn a_go_sdk_of_one_s_own_is_linked_in() {
    let session = Session::new();
    if !with_go(&session, "a_go_sdk_of_one_s_own_is_linked_in") {
        return;
    }
    let sdk = "github.com/testground/sdk-go";
    session.write(
        "plan/manifest.toml",
        &crate::support::SHELL_MANIFEST
            .replace("exec:generic", "exec:go")
            .replace("program = \"./plan.sh\"\n", ""),
    );
    session.write(
        "plan/go.mod",
        &format!(
            "module example.test/p\n\ngo 1.21\n\nrequire {sdk} v0.3.0\n\nreplace {sdk} => ./published\n"
        ),
    );
    session.write(
        "plan/main.go",
        &format!("package main\n\nimport sdk \"{sdk}\"\n\nfunc main() {{ println(sdk.Name) }}\n"),
    );
    for (dir, name) in [("plan/published", "published"), ("mine", "mine"), ("home/sdks/known", "known")] {
        session.write(&format!("{dir}/go.mod"), &format!("module {sdk}\n\ngo 1.21\n"));
        session.write(&format!("{dir}/sdk.go"), &format!("package sdk\n\nconst Name = \"{name}\"\n"));
    }
    let single = |more: &[&str]| {
        session.testground(&[&["build", "single", "-b", "exec:go", "-p", "plan"][..], more].concat())
    };
    let says = |done: &Done| {
        let output = Command::new(artifact(done, "single")).output().expect("the program");
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    };
    let absolute = session.path().join("mine").display().to_string();
    for (more, name) in [
        (&[][..], "published"),
        (&["--link-sdk", "mine"][..], "mine"),
        (&["--link-sdk", &absolute][..], "mine"),
        (&["--link-sdk", "known"][..], "known"),
        (&["--dep", "github.com/testground/sdk-go=../mine@v0"][..], "mine"),
    ] {
        assert_eq!(says(&single(more)), name, "{more:?}");
    }
    fails(&single(&["--link-sdk", "unknown"]), 2, "home/sdks/unknown");
    fails(&single(&["--link-sdk", "plan"]), 2, "has no go.mod of the module");
    session.write("mine/sdk.go", "package sdk\n\nconst Name = what\n");
    let broken = single(&["--link-sdk", "mine"]);
    fails(&broken, 4, "sdk.go:3");
}

/// Lets the session's cargo and npm use what this machine has: its home is the session's, and empty.
fn languages(test: &str) -> Option<Vec<(&'static str, String)>> {
    for tool in ["cargo", "node", "npm"] {
        if Command::new(tool).arg("--version").output().is_err() {
            skip(test, &format!("{tool} is not installed"));
            return None;
        }
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let set = |name: &str, below: &str| {
        let dir = std::env::var_os(name).map_or_else(|| home.join(below), PathBuf::from);
        dir.display().to_string()
    };
    Some(vec![
        ("CARGO_HOME", set("CARGO_HOME", ".cargo")),
        ("RUSTUP_HOME", set("RUSTUP_HOME", ".rustup")),
        ("npm_config_cache", set("npm_config_cache", ".npm")),
    ])
}

/// Lets the session's Rust plans be compiled where those of the last time were: the SDK has some two hundred dependencies.
fn compiled_once(session: &Session) {
    let kept = std::env::var_os("TESTGROUND_TEST_RUST")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("blackbox-rust"), PathBuf::from);
    let work = session.path().join("home/data/work");
    fs::create_dir_all(&work).expect("a home");
    // Somebody else's is of no use.
    let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if fs::create_dir_all(&kept).is_ok() && rustix::fs::access(&kept, writable).is_ok() {
        std::os::unix::fs::symlink(kept, work.join("rust")).expect("a link");
    }
}

/// A session with the example plans of all SDKs, as they lie: one of them consists of links to the others. What they are
/// built from is compiled once, in a home that all of them share.
#[test]
fn the_published_sdks_shape_and_measure_alone_and_together() {
    let test = "the_published_sdks_shape_and_measure_alone_and_together";
    let mut session = Session::new();
    let (Some(env), true) = (languages(test), with_go(&session, test)) else { return };
    session.env = env;
    compiled_once(&session);
    let copied = Command::new("cp")
        .args(["-r", "--", "ping-go", "ping-rust", "ping-js", "mixed"])
        .arg(session.path())
        .current_dir(sources().join("plans"))
        .status();
    assert!(copied.expect("cp").success());
    for plan in ["ping-js", "ping-rust", "mixed"] {
        let done = run_measuring(&session, plan);
        assert!(!done.stderr.contains("warning"), "{done:?}");
        let said = done.stdout.lines().filter(|l| l.contains("round trip")).count();
        assert!(said >= 12, "{plan}: each of three measures two peers twice: {done:?}");
        let again = session.testground(&["build", "composition", "-f", &format!("{plan}/composition.toml")]);
        assert!(again.code == Some(0) && !again.stdout.contains("\"cached\": false"), "{again:?}");
    }
    for made in ["ping-rust/target", "ping-js/node_modules"] {
        assert!(!session.path().join(made).exists(), "{made} is written into the plan");
    }

    // Without its signal the JavaScript plan would leave the Rust one waiting, and that is said before the run.
    let file = session.path().join("ping-js/main.js");
    let text = fs::read_to_string(&file).expect("the plan");
    fs::write(&file, text.replace("initialized_global", "something_else")).expect("the plan");
    let warned = session.testground(&["run", "--dry-run", "mixed"]);
    assert!(warned.stderr.contains("nothing in the sources of group js does"), "{warned:?}");
}

/// Each with what its template names, at the versions of the example plans: nothing more has to be fetched than for those.
#[test]
fn new_rust_and_javascript_plans_run_at_once() {
    let test = "new_rust_and_javascript_plans_run_at_once";
    let mut session = Session::new();
    let Some(env) = languages(test) else { return };
    session.env = env;
    compiled_once(&session);
    for target in ["rust", "js"] {
        let made = session.testground(&["plan", "create", target, "--language", target]);
        assert_eq!(made.code, Some(0), "{made:?}");
        let run = content(&session, target);
        assert!(run.stdout.contains("success (nodes:3/3)"), "{run:?}");
        assert!(run.stdout.contains("answered after") && !run.stderr.contains("warning"), "{run:?}");
    }
}

/// sdk-go ends a connection on a longer message than 32,768 bytes, so nothing longer gets to a subscriber.
#[test]
fn an_oversized_message_is_refused_at_its_publisher_unless_the_run_says_otherwise() {
    let script = "head -c 40000 /dev/zero | tr '\\0' x > item; sed -i 's/.*/\"&\"/' item\n\
                  testground sync publish big - < item 2> error && echo taken || cat error >&2";
    let session = Session::with_plan(script, &composition(1, ""));
    let done = run(&session, &["run", "plan"]);
    assert!(done.stdout.contains("message_bytes") && !done.lines().contains(&"taken".to_owned()), "{done:?}");
    let raised = session
        .write("plan/composition.toml", &composition(1, "[global.run_config]\nmax_message = \"64KiB\"\n"));
    let done = run(&session, &["run", "composition", "-f", &raised.display().to_string()]);
    assert!(done.lines().contains(&"taken".to_owned()), "{done:?}");
}

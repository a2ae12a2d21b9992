//! A plan's life: made, imported, described, listed, removed; and what a shell completes.

use std::fs;
use std::process::Command;

use crate::house::with_go;
use crate::support::{Done, Session, binary, composition, measured, skip};

/// Runs a new plan, which fails where an answer takes five times as long as the links do.
pub(crate) fn content(session: &Session, plan: &str) -> Done {
    measured(|| {
        let run = session.testground(&["run", plan]);
        assert!(run.code == Some(0) || run.stdout.contains("more than 200"), "{run:?}");
        if run.code == Some(0) { Ok(run) } else { Err(format!("{run:?}")) }
    })
}

#[test]
fn a_new_shell_plan_runs_at_once_by_its_name() {
    let session = Session::new();
    let made = session.testground(&["plan", "create", "--plan", "net/ping", "--target", "shell"]);
    assert!(made.code == Some(0) && made.stdout.contains("testground run net/ping"), "{made:?}");
    let run = content(&session, "net/ping");
    assert!(run.stdout.contains("answered after"), "{run:?}");
    assert!(run.stdout.contains("success (nodes:3/3)") && run.stdout.contains("40 ms"), "{run:?}");
    let described = session.testground(&["describe", "--plan", "net/ping"]);
    for word in ["exec:generic", "local:exec", "case ping", "2 to 50", "most_ms = 200", "composition.toml"] {
        assert!(described.stdout.contains(word), "{word}: {described:?}");
    }
    let again = session.testground(&["plan", "create", "net/ping"]);
    assert!(again.code == Some(2) && again.stderr.contains("exists already"), "{again:?}");
    for wrong in ["../x", "-x", ""] {
        let wrong = session.testground(&["plan", "create", &format!("--plan={wrong}")]);
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_new_go_plan_builds_and_runs_with_the_published_sdk() {
    let session = Session::new();
    if !with_go(&session, "a_new_go_plan_builds_and_runs_with_the_published_sdk") {
        return;
    }
    let made = session.testground(&[
        "plan",
        "create",
        "-p",
        "gopher",
        "--target=go",
        "--module",
        "example.org/gopher",
    ]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let gomod = fs::read_to_string(session.path().join("home/plans/gopher/go.mod")).expect("a go.mod");
    assert!(gomod.starts_with("module example.org/gopher\n"), "{gomod}");
    let run = content(&session, "gopher");
    assert!(run.stdout.contains("success (nodes:3/3)"), "{run:?}");
    assert!(run.stdout.contains("answered after"), "{run:?}");

    // Profiles reach the SDK as the original packs them.
    let composition = session.path().join("home/plans/gopher/composition.toml");
    let text = fs::read_to_string(&composition).expect("a composition");
    let count = "instances = { count = 3 }\n";
    fs::write(
        &composition,
        text.replace(count, &format!("{count}run.profiles = {{ cpu = \"\", heap = \"1s\" }}\n")),
    )
    .expect("a file");
    content(&session, "gopher");
    let shown = session.testground(&["runs", "show", "last", "--json"]).stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let outputs = std::path::PathBuf::from(shown["outputs"].as_str().expect("a path"));
    let profile = fs::metadata(outputs.join("nodes/2/cpu.prof")).expect("a profile");
    assert!(profile.len() > 0);
}

#[test]
fn plans_are_imported_listed_and_removed() {
    let session = Session::with_plan("true", &composition(1, ""));
    let linked = session.testground(&["plan", "import", "--from", "plan", "--name", "mine"]);
    assert!(linked.code == Some(0) && linked.stdout.contains("mine"), "{linked:?}");
    assert!(session.path().join("home/plans/mine").is_symlink());
    assert_eq!(session.testground(&["plan", "import", "--from", "plan", "--name", "mine"]).code, Some(0));
    let listed = session.testground(&["plan", "list"]);
    assert_eq!((listed.code, listed.stdout.as_str()), (Some(0), "mine\n"));
    let cases = session.testground(&["plan", "list", "--testcases"]);
    assert_eq!(cases.stdout, "mine case\n");
    let asked = session.testground(&["plan", "rm", "--plan", "mine"]);
    assert!(asked.code == Some(2) && asked.stderr.contains("--yes"), "{asked:?}");
    assert_eq!(session.testground(&["plan", "rm", "--plan", "mine", "--yes"]).code, Some(0));
    assert!(session.path().join("plan/manifest.toml").exists(), "only the link is gone");
    let unknown = session.testground(&["plan", "rm", "--plan", "mine", "--yes"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");

    // A repository with a plan in it, and one without.
    let git = |dir: &str, args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"];
        let done =
            Command::new("git").arg("-C").arg(session.path().join(dir)).args(identity).args(args).output();
        done.is_ok_and(|o| o.status.success())
    };
    if Command::new("git").arg("--version").output().is_err() {
        skip("plans_are_imported_listed_and_removed", "git is not installed");
        return;
    }
    session.write("empty/file", "");
    for dir in ["plan", "empty"] {
        assert!(
            git(dir, &["init", "-q"]) && git(dir, &["add", "."]) && git(dir, &["commit", "-qm", "x"]),
            "{dir}"
        );
    }
    let from = format!("file://{}", session.path().join("plan").display());
    let cloned = session.testground(&["plan", "import", "--from", &from]);
    assert!(cloned.code == Some(0) && session.path().join("home/plans/plan/plan.sh").exists(), "{cloned:?}");
    let none = session.testground(&["plan", "import", "--git", "--from", "empty"]);
    assert!(none.code == Some(2) && none.stderr.contains("manifest.toml"), "{none:?}");
    let gone = session.testground(&["plan", "import", "--git", "--from", "nowhere"]);
    assert!(gone.code == Some(2) && gone.stderr.contains("clone"), "{gone:?}");
    let left = fs::read_dir(session.path().join("home/plans")).expect("plans").count();
    assert_eq!(left, 1, "what failed leaves nothing");
}

#[test]
fn bash_completes_commands_plans_and_runs() {
    let session = Session::with_plan("true", &composition(1, ""));
    session.testground(&["plan", "import", "--from", "plan", "--name", "mine"]);
    let id = session.run(&[]).events.first().expect("an event").run.to_string();
    let dir = binary().parent().expect("a directory").display().to_string();
    // What bash does on a Tab, with its own machinery.
    let script = r#"
source <(testground completions bash) || exit 9
handler=$(complete -p testground) || exit 8
[[ $handler =~ -F\ ([^ ]+) ]] || exit 7
ask() { COMP_WORDS=(testground "$@"); COMP_CWORD=$#; COMP_TYPE=9; COMPREPLY=(); "${BASH_REMATCH[1]}" testground "${!#}" ""; printf '%s\n' "${COMPREPLY[@]}"; }
ask ru; echo --; ask runs show ""; echo --; ask describe --plan m; echo --; ask run m"#;
    let done = Command::new("bash")
        .args(["-c", script])
        .env("PATH", format!("{dir}:{}", std::env::var("PATH").unwrap_or_default()))
        .env("TESTGROUND_HOME", session.path().join("home"))
        .output()
        .expect("bash runs");
    let out = String::from_utf8_lossy(&done.stdout);
    let parts: Vec<Vec<&str>> = out.split("--\n").map(|p| p.split_whitespace().collect()).collect();
    assert!(done.status.success() && parts.len() == 4, "{done:?}");
    assert_eq!(parts[0], ["run", "runs"]);
    assert!(parts[1].contains(&"last") && parts[1].contains(&id.as_str()), "{parts:?}");
    assert_eq!(parts[2], ["mine"]);
    assert!(parts[3].contains(&"mine"), "{parts:?}");
    for shell in ["zsh", "fish"] {
        let script = session.testground(&["completions", shell]);
        assert!(script.code == Some(0) && script.stdout.contains("TESTGROUND_COMPLETE"), "{script:?}");
    }
    assert_eq!(session.testground(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let session = Session::new();
    let done = session.testground(&["man", "man1"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for page in ["testground.1", "testground-run.1", "testground-run-single.1", "testground-runs-prune.1"] {
        let text = fs::read_to_string(session.path().join("man1").join(page)).expect(page);
        assert!(text.contains(".TH testground") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let one = session.testground(&["man"]);
    assert!(one.stdout.contains("Exit codes"), "{one:?}");
}

//! `testground pod` as a user types it, read like a session: output, complaints and exit codes.
//!
//! The commands are those of the program; the example `pod` holds nothing else.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

struct Session {
    program: PathBuf,
    dir: TempDir,
}

/// A fresh directory, if the example has been built: `cargo test` builds it, `cargo test --test cli` alone may not.
fn session(test: &str) -> Option<Session> {
    let exe = std::env::current_exe().unwrap();
    let program = exe.parent().unwrap().parent().unwrap().join("examples").join("pod");
    if !program.exists() {
        let reason = "the example `pod` is not built: cargo build -p testground-pod --example pod";
        assert_ne!(std::env::var("TESTGROUND_TEST_REQUIRE").as_deref(), Ok("all"), "{test}: {reason}");
        eprintln!("SKIPPED {test}: {reason}");
        return None;
    }
    Some(Session { program, dir: TempDir::new().unwrap() })
}

impl Session {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(&self.program).args(args).current_dir(self.dir.path()).output().unwrap();
        shown(output)
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new(&self.program)
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        shown(child.wait_with_output().unwrap())
    }
}

fn shown(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const CHECKOUT: &str = include_str!("manifests/checkout.yaml");
const NATIVE: &str = include_str!("manifests/cloud-sql-job-native.yaml");

#[test]
fn exit_codes_tell_a_script_what_was_found() {
    let Some(s) = session("exit_codes_tell_a_script_what_was_found") else { return };
    s.write("good.yaml", NATIVE);
    s.write("warned.yaml", CHECKOUT);
    s.write("refused.yaml", &NATIVE.replace("image:", "imgae:"));
    assert_eq!(s.run(&["explain", "good.yaml", "--deny", "warnings"]).0, 0);
    assert_eq!(s.run(&["explain", "warned.yaml"]).0, 0);
    let (code, out, complaint) = s.run(&["explain", "warned.yaml", "good.yaml", "--deny", "warnings"]);
    assert_eq!((code, complaint.as_str()), (1, "error: 2 warnings (--deny warnings)\n"));
    assert!(out.contains("deployment/checkout") && out.contains("job/report"));
    let (code, out, complaint) = s.run(&["explain", "refused.yaml"]);
    assert_eq!((code, out.as_str()), (2, ""));
    let first = complaint.lines().next().unwrap();
    assert!(
        first.starts_with(
            "refused.yaml:12:9: error[unknown-field]: spec.template.spec.initContainers[0].imgae: "
        ),
        "{first}"
    );
    assert!(complaint.contains("    help: did you mean `image`?"), "{complaint}");
}

#[test]
fn files_without_pods_are_left_out_unless_there_is_nothing_else() {
    let Some(s) = session("files_without_pods_are_left_out_unless_there_is_nothing_else") else { return };
    s.write("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n");
    s.write("job.yaml", NATIVE);
    s.write("empty.yaml", "# nothing\n");
    let (code, out, _) = s.run(&["explain", "service.yaml", "job.yaml", "empty.yaml"]);
    assert_eq!(code, 0);
    assert!(out.contains("left out: Service/web") && out.contains("job/report"), "{out}");
    let (code, _, complaint) = s.run(&["explain", "service.yaml"]);
    assert_eq!(code, 2);
    assert!(complaint.ends_with("here: only Service/web\n"), "{complaint}");
    assert!(s.run(&["explain", "empty.yaml"]).2.ends_with("here: it is empty\n"));
    assert!(s.run(&["explain", "missing.yaml"]).2.contains("failed to read missing.yaml: No such file"));
}

#[test]
fn the_forms_of_output_are_what_they_say() {
    let Some(s) = session("the_forms_of_output_are_what_they_say") else { return };
    let (code, json, _) = s.run_with_input(&["explain", "-", "-o", "json"], CHECKOUT);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, &json[0]["file"], &json[0]["objects"][0]["qos"]),
        (0, &"<stdin>".into(), &"Burstable".into())
    );
    let (_, sarif, _) = s.run_with_input(&["explain", "-", "-o", "sarif"], CHECKOUT);
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"][0]["tool"]["driver"]["name"], "testground pod explain");
    for (form, begin) in
        [("svg", "<svg "), ("html", "<!doctype html>"), ("json", "{"), ("text", "report  Kubernetes")]
    {
        let (code, out, complaint) = s.run_with_input(&["simulate", "-", "-o", form], NATIVE);
        assert_eq!((code, complaint.as_str()), (0, ""));
        assert!(out.starts_with(begin), "{form}: {}", &out[..40]);
    }
}

#[test]
fn wrong_flags_say_what_is_right() {
    let Some(s) = session("wrong_flags_say_what_is_right") else { return };
    s.write("web.yaml", CHECKOUT);
    for (args, words) in [
        (&["--kubernetes-version", "1.28"] as &[&str], "choose 1.29 to 1.37"),
        (&["--feature-gates", "ContainerRestartRule=true"], "did you mean `ContainerRestartRules`?"),
        (&["--feature-gates", "X=true"], "they are ContainerRestartRules, "),
        (&["--stop", "checkuot=3"], "did you mean `checkout`?"),
        (&["--stop", "checkout=soon"], "`soon` is no time: write it as 25s"),
        (&["--node-memory", "0"], "write it as 16Gi"),
    ] {
        let (code, _, complaint) = s.run(&[&["explain", "web.yaml"], args].concat());
        assert_eq!(code, 2, "{args:?}");
        assert!(complaint.contains(words), "{args:?}: {complaint}");
    }
    let (code, _, complaint) = s.run(&["simulate", "web.yaml", "--script", "web.yaml"]);
    assert_eq!(code, 2);
    assert!(complaint.starts_with("web.yaml:1:1: error[unknown-field]: apiVersion: "), "{complaint}");
}

#[test]
fn times_that_are_given_change_the_schedule() {
    let Some(s) = session("times_that_are_given_change_the_schedule") else { return };
    let args = [
        "explain",
        "-",
        "--stop",
        "checkout=8s",
        "--stop",
        "istio-proxy=1m",
        "--pre-stop",
        "istio-proxy=1500ms",
    ];
    let (code, out, _) = s.run_with_input(&args, CHECKOUT);
    assert_eq!(code, 0);
    assert!(out.contains("with the given times, and at once where none is given"));
    let line = out.lines().rfind(|l| l.contains("istio-proxy  0 - 1.5")).unwrap();
    assert!(
        line.contains("SIGTERM at 28") && line.contains("SIGKILL") && line.ends_with("after checkout"),
        "{line}"
    );
}

#[test]
fn a_file_may_be_named_as_kubectl_has_it() {
    let Some(s) = session("a_file_may_be_named_as_kubectl_has_it") else { return };
    s.write("job.yaml", NATIVE);
    for command in ["explain", "simulate"] {
        let named = s.run(&[command, "-f", "job.yaml"]);
        assert_eq!((named.0, &named), (0, &s.run(&[command, "job.yaml"])));
    }
    let (code, _, complaint) = s.run(&["simulate", "job.yaml", "-f", "job.yaml"]);
    assert!(code == 2 && complaint.contains("cannot be used with"), "{complaint}");
    assert_eq!(s.run(&["explain"]).0, 2);
}

#[test]
fn what_is_made_to_hurt_is_refused_by_name() {
    let Some(s) = session("what_is_made_to_hurt_is_refused_by_name") else { return };
    let pod = |more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{more}  containers: [{{name: a, image: b}}]\n"
        )
    };
    let memory = |quantity: &str| {
        let resources = format!("image: b, resources: {{requests: {{memory: {quantity}}}}}");
        pod("").replace("image: b", &resources)
    };
    let bomb: String =
        ('b'..='l').fold("a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, letter| {
            let before = (letter as u8 - 1) as char;
            text + &format!("{letter}: &{letter} [{}]\n", vec![format!("*{before}"); 10].join(", "))
        });
    let many: String = (0..1001).map(|n| format!("  - {{name: c{n}, image: b}}\n")).collect();
    let many = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n{many}");
    for (text, words) in [
        (bomb, "more than 400000 values once its aliases are expanded"),
        ("a: &a\n  b: *a\n".to_owned(), "the alias refers to the value that it is part of"),
        (format!("a: {}\n", "[".repeat(5000)), "recursion limit exceeded"),
        ("# ten megabytes\n".repeat(700_000), "is larger than 4194304 bytes"),
        (many, "the pod has 1001 containers; more than 1000 are not modelled"),
        (memory("1e400"), "`1e400` is out of range"),
        (memory("-0"), "`-0` is minus zero: write 0"),
        (pod("  terminationGracePeriodSeconds: 99999999999999999999\n"), "but the field takes"),
        (pod("  terminationGracePeriodSeconds: 9223372036854775807\n"), "longer durations overflow"),
    ] {
        s.write("hurts.yaml", &text);
        for command in ["explain", "simulate"] {
            let (code, out, complaint) = s.run(&[command, "hurts.yaml"]);
            assert_eq!((code, out.as_str()), (2, ""), "{words}");
            assert!(complaint.contains(words), "{words}: {complaint}");
        }
    }
}

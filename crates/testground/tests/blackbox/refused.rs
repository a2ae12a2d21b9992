//! What is refused before anything starts: files that are none, and values out of their range.

use crate::support::{Session, composition};

#[test]
fn files_that_are_no_regular_files_are_refused_at_once() {
    let trace = |file: &str| {
        composition(
            2,
            &format!(
                "[[timeline]]\nat = \"0s\"\naction = \"trace\"\nfrom = \"g\"\nto = \"g\"\nfile = \"{file}\"\n"
            ),
        )
    };
    let session = Session::with_plan("exit 0", &trace("/dev/zero"));
    let fifo = std::process::Command::new("mkfifo").arg(session.path().join("plan/fifo")).status();
    assert!(fifo.is_ok_and(|made| made.success()));
    let refused = |args: &[&str], says: &str| {
        let done = session.testground(args);
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(done.stderr.contains(says), "{args:?}: {done:?}");
    };
    refused(
        &["run", "plan"],
        "can't read the trace \"/dev/zero\": /dev/zero: it is a device, and a regular file",
    );
    session.write("plan/composition.toml", &trace("fifo"));
    refused(&["run", "plan"], "can't read the trace \"fifo\": plan/fifo: it is a FIFO, and a regular file");
    session.write("plan/composition.toml", &trace("missing.trace"));
    refused(&["run", "plan"], "can't read the trace \"missing.trace\": plan/missing.trace: No such file");
    session.write("plan/composition.toml", &trace("t.trace"));
    session.write("plan/t.trace", "1\nx\n");
    refused(&["run", "plan"], "--> plan/t.trace:2:1");
    refused(&["run", "plan"], "(the trace of plan/composition.toml:15)");
    for file in ["/dev/zero", "plan/fifo"] {
        let done = session.testground(&["run", "composition", "-f", file]);
        assert!(done.code != Some(0) && done.stderr.contains("and a regular file is expected"), "{done:?}");
    }
    session
        .write("plan/composition.toml", &format!("{}{{{{ load_resource \"fifo\" }}}}", composition(1, "")));
    refused(&["run", "plan"], "it is a FIFO");
}

#[test]
fn the_command_line_has_the_limits_of_a_composition() {
    let session = Session::with_plan("exit 0", &composition(1, ""));
    for (flag, value, says) in [
        ("--timeout", "0s", "0s is out of range: 1ms to 720h is allowed"),
        ("--timeout", "800h", "800h is out of range: 1ms to 720h is allowed"),
        ("--seed", "9223372036854775808", "a whole number, 0 to 9223372036854775807, is expected"),
        ("--seed", "-1", "a whole number, 0 to 9223372036854775807, is expected"),
    ] {
        let done = session.testground(&["run", &format!("{flag}={value}"), "--dry-run", "plan"]);
        assert!(done.code == Some(2) && done.stderr.contains(says), "{flag} {value}: {done:?}");
        let setting = flag.trim_start_matches('-');
        let value = if setting == "seed" { value.to_owned() } else { format!("{value:?}") };
        let more = format!("[global.run_config]\n{setting} = {value}\n");
        session.write("plan/composition.toml", &composition(1, &more));
        let done = session.testground(&["run", "--dry-run", "plan"]);
        // TOML's own numbers end where seeds do.
        let says = if value.starts_with('9') { "9223372036854775808" } else { says };
        assert!(done.stderr.contains(says), "{done:?}");
        session.write("plan/composition.toml", &composition(1, ""));
    }
    for flag in ["--timeout=1ms", "--timeout=720h", "--seed=0", "--seed=9223372036854775807"] {
        let done = session.testground(&["run", flag, "--dry-run", "plan"]);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

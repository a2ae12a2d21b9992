//! Asks git which commit is being built, for `testground version`. Without git or a clone the answer is `dirty`, as in
//! builds of the original that nobody told.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=8", "HEAD"]).filter(|c| c.len() >= 8);
    println!("cargo::rustc-env=TESTGROUND_COMMIT={}", commit.as_deref().unwrap_or("dirty"));
    // Written by every commit and every change of branch, and by nothing else.
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]);
    println!("cargo::rerun-if-changed={}", log.as_deref().unwrap_or("build.rs"));
}

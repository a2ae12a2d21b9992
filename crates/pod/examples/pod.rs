//! `testground pod` alone, without the rest of the program: `cargo run --example pod -- explain FILE.yaml`.

use std::process::ExitCode;

use clap::Parser;

#[path = "../../testground/src/cli/pod.rs"]
mod pod;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: pod::Args,
}

fn main() -> ExitCode {
    match pod::run(Cli::parse().args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

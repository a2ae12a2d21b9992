//! `testground`: run many instances of a real program on a network whose every link you choose.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The lab's own processes are this executable again; they know nothing of the command line.
    if let Some(role) = testground_engine::lab::role() {
        return role.play();
    }
    cli::main()
}

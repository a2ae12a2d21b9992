//! `testground exec`: a command inside an instance of a running lab.

use std::os::fd::AsFd;

use anyhow::{Context, anyhow, bail};
use testground_engine::lab::protocol::ProgramEnd;
use testground_engine::lab::{Call, Reply, call};
use testground_model::name::InstanceName;

use super::{dynamic, runs};

/// Run a command inside an instance: its network, its files, its environment.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(add = dynamic::runs())]
    run: String,
    /// The instance: GROUP[INDEX], or GROUP for its first one.
    instance: String,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Exits with the command's own code, or 128 and the signal that ended it.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let instance = InstanceName::parse(&args.instance)
        .with_context(|| format!("{:?} is not an instance: it is written GROUP[INDEX]", args.instance))?;
    let lab = runs::lab(&args.run)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let asked = Call::Exec { instance, argv: args.command };
    match call(lab.init, &asked, &streams).map_err(|e| anyhow!(e))?.0 {
        Reply::Ended(ProgramEnd::Exited(code)) => Ok(code as u8),
        Reply::Ended(ProgramEnd::Signaled { signal, .. }) => Ok(128 + signal as u8),
        Reply::Ended(ProgramEnd::InitKilled) => Ok(137),
        Reply::Ended(ProgramEnd::NotStarted(why)) | Reply::Refused(why) => bail!(why),
        _ => bail!("the lab answered something else"),
    }
}

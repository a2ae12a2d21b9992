//! `testground sidecar`: the names of the original's runners, and what there is for each.

use anyhow::bail;
use testground_model::outcome::ExitCode;

/// Make the network of the instances of a runner on this host.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runner: docker, local:docker, k8s, cluster:k8s, mock or local:exec.
    #[arg(long)]
    runner: String,
}

/// Every name is understood; what is not there yet says so.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    const KNOWN: [&str; 6] = ["docker", "local:docker", "k8s", "cluster:k8s", "mock", "local:exec"];
    match args.runner.as_str() {
        "local:exec" => {
            bail!("the sidecar of local:exec lives inside each run's lab: `testground run` starts it")
        }
        "docker" | "local:docker" => bail!("the sidecar for local:docker is not there yet"),
        "k8s" | "cluster:k8s" => bail!("the sidecar for cluster:k8s is not there yet"),
        "mock" => bail!("the mock sidecar is not there yet"),
        other => bail!("sidecar runner {other} not found; known are {}", KNOWN.join(", ")),
    }
}

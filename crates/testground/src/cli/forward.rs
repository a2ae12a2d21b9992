//! `testground forward`: a port of this machine that leads into an instance of a running lab.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use testground_engine::forward::Forward;
use testground_model::name::InstanceName;
use testground_model::outcome::ExitCode;

/// Reach a TCP port of an instance from this machine: for pprof, a browser, a debugger.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run: its id, how it begins, or `last`.
    #[arg(add = super::dynamic::runs())]
    run: String,
    /// The instance and its port: GROUP[INDEX]:PORT, or GROUP:PORT for the group's first one.
    target: Target,
    /// The port to listen on; by default the same, 0 is any free one.
    local_port: Option<u16>,
    /// The address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
}

/// An instance and a port of it.
#[derive(Debug, Clone)]
struct Target {
    instance: InstanceName,
    port: u16,
}

/// Forwards until Ctrl-C, or until the run is over.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lab = super::runs::lab(&args.run)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let done = runtime.block_on(async {
        let Target { instance, port } = &args.target;
        let at = SocketAddr::new(args.bind, args.local_port.unwrap_or(*port));
        let id = lab.id.clone();
        let opened = Forward::open(lab, instance.clone(), *port, at).await;
        let (forward, warning) = opened.with_context(|| format!("no forward to {instance}:{port}"))?;
        if let Some(why) = warning {
            eprintln!("warning: {why}");
        }
        // The first line, for whoever waits until it is up.
        println!("forwarding {} to {instance}:{port} of run {id}; Ctrl-C ends it", forward.address()?);
        tokio::select! {
            () = forward.serve(|what| eprintln!("warning: {what}")) => println!("run {id} has ended"),
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(ExitCode::Success)
    });
    // A name that is being looked up, or a lab that is slow to answer, is not waited for.
    runtime.shutdown_background();
    done
}

// === impl Target ===

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let expected =
            || "an instance and its port are expected: GROUP[INDEX]:PORT, such as server[0]:6060".to_owned();
        let (name, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().ok().filter(|&p| p > 0);
        let port = port
            .ok_or_else(|| format!("{:?} is no port (1 to 65535)", text.rsplit(':').next().unwrap_or("")))?;
        Ok(Target { instance: InstanceName::parse(name).ok_or_else(expected)?, port })
    }
}

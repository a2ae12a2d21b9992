//! `testground sync`: signals, barriers and topics for plans without an SDK, and the sync service's garbage.
//!
//! What belongs to an instance (its run, the service's address, its hostname) comes from its environment, as it does
//! for the SDKs.

mod network;

use std::time::Duration;

use anyhow::{Context, bail};
use testground_model::outcome::ExitCode;
use testground_model::units;
use testground_sync::GcReport;
use testground_sync::client::{Address, Client, ClientError, ClientOptions, DEFAULT_PORT};
use testground_sync::engine::{Kind, Sweep};

use super::duration;

/// Coordinate with the other instances of a run, from a shell.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The sync service; by default SYNC_SERVICE_HOST and SYNC_SERVICE_PORT, else testground-sync-service:5050.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    service: Option<Address>,
    /// Names are whole keys, instead of names within the run of TEST_RUN, TEST_PLAN and TEST_CASE.
    #[arg(long, global = true)]
    raw: bool,
    /// How long to try to reach the service.
    #[arg(long, global = true, default_value = "30s", value_parser = duration)]
    give_up: Duration,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count one more entry into a state, and print how many there are.
    Signal {
        /// The state.
        state: String,
    },
    /// Wait until a state has so many entries.
    Barrier {
        /// The state.
        state: String,
        /// How many.
        target: u64,
        /// Fail after this long, and say who has signalled and who waits.
        #[arg(long, value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Signal a state, then wait until it has so many entries. Prints the number of the signal.
    #[command(name = "signal-and-wait")]
    SignalAndWait {
        /// The state.
        state: String,
        /// How many.
        target: u64,
        /// Fail after this long, and say who has signalled and who waits.
        #[arg(long, value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Append JSON to a topic, and print its number.
    Publish {
        /// The topic.
        topic: String,
        /// The JSON; `-` reads it from standard input.
        json: String,
    },
    /// Print a topic's items from its first, each on a line, as they come.
    Subscribe {
        /// The topic.
        topic: String,
        /// End after so many.
        #[arg(long)]
        count: Option<u64>,
        /// Begin behind this number.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Fail when they have not come after this long.
        #[arg(long, value_parser = duration)]
        timeout: Option<Duration>,
    },
    Network(Box<network::Args>),
    Gc(GcArgs),
}

/// Remove what finished and abandoned runs left in the sync service.
#[derive(Debug, clap::Args)]
struct GcArgs {
    /// The Redis to collect in, redis://HOST:PORT/DB; without it the service is asked to.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// How long the keys of a finished run stay.
    #[arg(long, default_value = "10m", value_parser = duration)]
    grace: Duration,
    /// How long the keys of a run stay that nobody claims or uses.
    #[arg(long, default_value = "24h", value_parser = duration)]
    unclaimed: Duration,
}

/// What an instance knows of itself.
struct Instance {
    service: Address,
    prefix: Option<String>,
    name: Option<String>,
    give_up: Duration,
}

/// Does one thing and ends. A barrier or items that don't come in time end it with 1.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let context = Instance::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.command {
            Command::Gc(gc) => collect(gc, &context.service).await,
            Command::Network(network) => network::run(network, &context).await,
            command => coordinate(command, &context).await,
        }
    })
}

async fn coordinate(command: &Command, context: &Instance) -> anyhow::Result<ExitCode> {
    let client = context.connect().await?;
    match command {
        Command::Signal { state } => println!("{}", client.signal(&context.state(state)?).await?),
        Command::Barrier { state, target, timeout } => {
            return wait(&client, &context.state(state)?, *target, *timeout).await;
        }
        Command::SignalAndWait { state, target, timeout } => {
            let state = context.state(state)?;
            println!("{}", client.signal(&state).await?);
            return wait(&client, &state, *target, *timeout).await;
        }
        Command::Publish { topic, json } => {
            let topic = context.topic(topic)?;
            let json = match json.as_str() {
                "-" => std::io::read_to_string(std::io::stdin()).context("standard input can't be read")?,
                json => json.to_owned(),
            };
            let published = client.publish(&topic, json.trim()).await;
            if let Err(ClientError::NotJson(what)) = &published {
                bail!("{json:?} is no JSON ({what}); text is written with its quotes: '\"text\"'");
            }
            println!("{}", published?);
        }
        Command::Subscribe { topic, count, after, timeout } => {
            let reading = read(&client, context.topic(topic)?, *after, *count);
            let Some(timeout) = timeout else { return reading.await.map(|()| ExitCode::Success) };
            return match tokio::time::timeout(*timeout, reading).await {
                Ok(read) => read.map(|()| ExitCode::Success),
                Err(_) => {
                    eprintln!("error: not all items came within {}", units::show_duration(*timeout));
                    Ok(ExitCode::Failed)
                }
            };
        }
        Command::Network(_) | Command::Gc(_) => bail!("not a request to the service"),
    }
    Ok(ExitCode::Success)
}

/// Waits at a barrier; one that does not open is a failure that says why.
async fn wait(
    client: &Client,
    state: &str,
    target: u64,
    timeout: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    match client.barrier(state, target, timeout).await {
        Ok(()) => Ok(ExitCode::Success),
        Err(ClientError::NotOpened { error, .. }) => {
            eprintln!("error: {error}");
            Ok(ExitCode::Failed)
        }
        Err(e) => Err(e.into()),
    }
}

async fn read(client: &Client, topic: String, after: u64, count: Option<u64>) -> anyhow::Result<()> {
    use std::io::Write;
    let mut items = client.subscribe(&topic, after).await?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let json = items.next().await?.json;
        // One item is one line: what was published over several is written anew.
        let line = match json.contains('\n') {
            true => serde_json::from_str::<serde_json::Value>(&json)?.to_string(),
            false => json,
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        left -= 1;
    }
    Ok(())
}

async fn collect(args: &GcArgs, service: &Address) -> anyhow::Result<ExitCode> {
    let sweep = Sweep { grace: args.grace, unclaimed: args.unclaimed, batch: 256, dry_run: args.dry_run };
    let report: GcReport = match &args.store {
        Some(url) => testground_sync::collect(url, &sweep).await?,
        None => testground_sync::client::collect(service, &sweep).await?,
    };
    for removed in &report.removed {
        let kind = match removed.kind {
            Kind::State => "state",
            Kind::Topic => "topic",
        };
        println!("{kind}\t{}\t{}", removed.run, removed.key);
    }
    let verb = if report.dry_run { "would be removed" } else { "removed" };
    eprintln!("{} keys {verb}", report.removed.len());
    Ok(ExitCode::Success)
}

// === impl Instance ===

impl Instance {
    fn new(args: &Args) -> anyhow::Result<Instance> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let service = match &args.service {
            Some(address) => address.clone(),
            None => {
                let host = var("SYNC_SERVICE_HOST").unwrap_or_else(|| "testground-sync-service".to_owned());
                let port = match var("SYNC_SERVICE_PORT") {
                    Some(port) => port.parse().with_context(|| format!("SYNC_SERVICE_PORT is {port:?}"))?,
                    None => DEFAULT_PORT,
                };
                Address { host, port }
            }
        };
        let run = (var("TEST_RUN"), var("TEST_PLAN"), var("TEST_CASE"));
        let prefix = match (args.raw, run) {
            (true, _) => Some(String::new()),
            (false, (Some(run), Some(plan), Some(case))) => {
                Some(format!("run:{run}:plan:{plan}:case:{case}:"))
            }
            (false, _) => None,
        };
        let instance = var("TEST_GROUP_ID").zip(var("TEST_INSTANCE_INDEX"));
        let name = instance.map(|(group, index)| format!("{group}[{index}]"));
        Ok(Instance { service, prefix, name, give_up: args.give_up })
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        let options =
            ClientOptions { name: self.name.clone(), give_up: self.give_up, ..ClientOptions::default() };
        Ok(Client::connect(self.service.clone(), options).await?)
    }

    fn state(&self, name: &str) -> anyhow::Result<String> {
        self.key("states", name)
    }

    fn topic(&self, name: &str) -> anyhow::Result<String> {
        self.key("topics", name)
    }

    fn key(&self, kind: &str, name: &str) -> anyhow::Result<String> {
        match self.prefix.as_deref() {
            Some("") => Ok(name.to_owned()),
            Some(prefix) => Ok(format!("{prefix}{kind}:{name}")),
            None => bail!(
                "this is no instance of a run: TEST_RUN, TEST_PLAN and TEST_CASE are not all set; with --raw a name \
                 is taken as a whole key"
            ),
        }
    }
}

//! `testground sync network`: an instance asks for another shape of its network, and waits until it is in force.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use testground_model::outcome::ExitCode;
use testground_model::units;

use super::{Instance, duration};

/// Ask for a shape of this instance's network, and wait until it is in force.
///
/// Either the whole request as JSON, as the SDKs write it, or flags.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The request, such as '{"network":"default","enable":true,"default":{"latency":100000000}}'; `-` reads it.
    #[arg(conflicts_with_all = ["latency", "jitter", "bandwidth", "loss", "corrupt", "reorder", "duplicate", "filter",
        "ipv4", "disable", "allow_all", "rule"])]
    json: Option<String>,
    /// The network.
    #[arg(long, default_value = "default")]
    network: String,
    /// Delay of what this instance sends, such as 100ms.
    #[arg(long, value_parser = duration)]
    latency: Option<Duration>,
    /// Variation of the delay.
    #[arg(long, value_parser = duration)]
    jitter: Option<Duration>,
    /// Bits a second, such as 10Mbit/s.
    #[arg(long, value_parser = rate)]
    bandwidth: Option<u64>,
    /// Percent of packets that are lost, such as 5%; the sign may be left out here and below.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    loss: Option<f64>,
    /// Percent of packets with a wrong bit.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    corrupt: Option<f64>,
    /// Percent of packets that overtake.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    reorder: Option<f64>,
    /// Percent of packets that come twice.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    duplicate: Option<f64>,
    /// What happens to packets.
    #[arg(long)]
    filter: Option<Filter>,
    /// Another address, such as 16.0.0.9/16.
    #[arg(long)]
    ipv4: Option<String>,
    /// Another shape towards a subnet, as JSON: '{"subnet":"16.0.0.3/32","filter":2}'. May be repeated.
    #[arg(long, value_name = "JSON")]
    rule: Vec<String>,
    /// Leave the network.
    #[arg(long)]
    disable: bool,
    /// Reach whatever the control network leads to, instead of the run's services alone.
    #[arg(long)]
    allow_all: bool,
    /// The state that is signalled when the shape is in force; by default one of this request's own.
    #[arg(long, value_name = "STATE")]
    callback: Option<String>,
    /// How many signals of it to wait for: 1 for a state of this request's own, else as many as there are instances.
    #[arg(long)]
    target: Option<u64>,
    /// Fail when it is not in force after this long.
    #[arg(long, value_parser = duration)]
    timeout: Option<Duration>,
    /// Don't wait.
    #[arg(long)]
    no_wait: bool,
}

/// What a packet filter does.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Filter {
    Accept = 0,
    Reject = 1,
    Drop = 2,
}

/// Publishes the request and waits for its callback.
pub(super) async fn run(args: &Args, instance: &Instance) -> anyhow::Result<ExitCode> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut request = args.request()?;
    let mut own = false;
    let callback = match request.get("callback_state").and_then(Value::as_str).filter(|s| !s.is_empty()) {
        Some(state) => state.to_owned(),
        None => {
            own = true;
            format!("network-configured-{hostname}-{:08x}", unlikely_twice())
        }
    };
    request.insert("callback_state".to_owned(), json!(callback));
    let asked = request.get("callback_target").and_then(Value::as_u64).filter(|target| *target > 0);
    let target = match args.target.or(asked) {
        Some(target) => target,
        None if own => 1,
        None => {
            let count = std::env::var("TEST_INSTANCE_COUNT").ok().and_then(|count| count.parse().ok());
            count.context("TEST_INSTANCE_COUNT is not set; give --target")?
        }
    };
    let topic = instance.topic(&format!("network:{hostname}"))?;
    let state = instance.state(&callback)?;
    let client = instance.connect().await?;
    client.publish(&topic, &Value::Object(request).to_string()).await?;
    if args.no_wait {
        return Ok(ExitCode::Success);
    }
    super::wait(&client, &state, target, args.timeout).await
}

/// With its sign, as compositions write it, or without, as the SDKs do.
fn percent(text: &str) -> Result<f64, String> {
    let signed = if text.trim_end().ends_with('%') { text.to_owned() } else { format!("{text}%") };
    units::percent(&signed).map_err(|_| "a percentage is expected: 0 to 100, such as 5% or 0.5".to_owned())
}

// === impl Args ===

impl Args {
    /// The request in the form of the SDKs: durations in nanoseconds, percentages as numbers.
    fn request(&self) -> anyhow::Result<Map<String, Value>> {
        if let Some(text) = &self.json {
            let text = match text.as_str() {
                "-" => std::io::read_to_string(std::io::stdin()).context("standard input can't be read")?,
                text => text.to_owned(),
            };
            let mut request: Map<String, Value> =
                serde_json::from_str(&text).context("the request is no JSON object")?;
            request.entry("network").or_insert(json!(self.network));
            // Left out it would mean to leave the network, which nobody means by leaving it out.
            request.entry("enable").or_insert(json!(true));
            if let Some(callback) = &self.callback {
                request.insert("callback_state".to_owned(), json!(callback));
            }
            return Ok(request);
        }
        let nanoseconds = |d: Option<Duration>| d.map_or(0, |d| d.as_nanos() as u64);
        let mut rules = Vec::new();
        for rule in &self.rule {
            let rule: Map<String, Value> =
                serde_json::from_str(rule).with_context(|| format!("the rule {rule:?} is no JSON object"))?;
            if !rule.contains_key("subnet") {
                bail!("a rule names its \"subnet\", such as \"16.0.0.3/32\"");
            }
            rules.push(rule);
        }
        let shape = json!({
            "latency": nanoseconds(self.latency),
            "jitter": nanoseconds(self.jitter),
            "bandwidth": self.bandwidth.unwrap_or(0),
            "filter": self.filter.map_or(0, |f| f as u8),
            "loss": self.loss.unwrap_or(0.0),
            "corrupt": self.corrupt.unwrap_or(0.0),
            "corrupt_corr": 0.0,
            "reorder": self.reorder.unwrap_or(0.0),
            "reorder_corr": 0.0,
            "duplicate": self.duplicate.unwrap_or(0.0),
            "duplicate_corr": 0.0,
        });
        let request = json!({
            "network": self.network,
            "IPv4": self.ipv4,
            "IPv6": null,
            "enable": !self.disable,
            "default": shape,
            "rules": rules,
            "callback_state": self.callback,
            "routing_policy": if self.allow_all { "allow_all" } else { "deny_all" },
        });
        match request {
            Value::Object(request) => Ok(request),
            _ => bail!("the request is no object"),
        }
    }
}

/// A number that two requests of one instance are unlikely to share.
fn unlikely_twice() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

fn rate(text: &str) -> Result<u64, String> {
    units::rate(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_has_its_sign_or_not() {
        assert_eq!((percent("5%"), percent("0.5"), percent("100 %")), (Ok(5.0), Ok(0.5), Ok(100.0)));
        for wrong in ["101%", "-1", "%", "five", "5%%", ""] {
            assert!(percent(wrong).expect_err(wrong).contains("0 to 100, such as 5%"), "{wrong}");
        }
    }
}

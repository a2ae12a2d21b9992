//! Helpers that people run beside their programs, recognized by image, name and command.
//!
//! Recognition is a guess and is used for warnings only: nothing that a pod does depends on it.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// What a container that helps another one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// Carries the network traffic of the other containers.
    Proxy(&'static str),
    /// Anything else that runs as long as the pod: logs, metrics, secrets, files.
    Agent(&'static str),
}

/// Parts of images (after the registry, before the tag) or names, and what they are.
const PROXIES: [(&str, &str); 17] = [
    ("proxyv2", "an Istio proxy"),
    ("istio-proxy", "an Istio proxy"),
    ("linkerd-proxy", "a Linkerd proxy"),
    ("linkerd2-proxy", "a Linkerd proxy"),
    ("cloud-sql-proxy", "a Cloud SQL proxy"),
    ("cloudsql-proxy", "a Cloud SQL proxy"),
    ("gce-proxy", "a Cloud SQL proxy"),
    ("alloydb-auth-proxy", "an AlloyDB proxy"),
    ("consul-dataplane", "a Consul proxy"),
    ("appmesh-envoy", "an App Mesh proxy"),
    ("kuma-dp", "a Kuma proxy"),
    ("envoy", "an Envoy proxy"),
    ("daprd", "a Dapr sidecar"),
    ("oauth2-proxy", "an OAuth2 proxy"),
    ("pgbouncer", "a connection pooler"),
    ("haproxy", "a proxy"),
    ("tailscale", "a VPN"),
];
const AGENTS: [(&str, &str); 16] = [
    ("vault-agent", "a Vault agent"),
    ("fluent-bit", "a log shipper"),
    ("fluentbit", "a log shipper"),
    ("fluentd", "a log shipper"),
    ("filebeat", "a log shipper"),
    ("promtail", "a log shipper"),
    ("logshipper", "a log shipper"),
    ("log-shipper", "a log shipper"),
    ("opentelemetry-collector", "a telemetry collector"),
    ("otel-collector", "a telemetry collector"),
    ("otelcol", "a telemetry collector"),
    ("datadog-agent", "a monitoring agent"),
    ("git-sync", "a file syncer"),
    ("config-reloader", "a config reloader"),
    ("-exporter", "a metrics exporter"),
    ("cloudwatch-agent", "a monitoring agent"),
];
/// Words that make a name that of a helper although its image says nothing.
const NAMES: [(&str, bool); 8] = [
    ("proxy", true),
    ("envoy", true),
    ("mesh", true),
    ("sidecar", false),
    ("shipper", false),
    ("agent", false),
    ("forwarder", false),
    ("collector", false),
];

/// What kind of helper a container is, as far as its looks tell.
pub fn helper(container: &Container) -> Option<Helper> {
    if ends_by_itself(container) {
        return None;
    }
    let image = repository(container.image.as_deref().unwrap_or_default());
    let by = |of: &str| {
        let proxy = PROXIES.iter().find(|(part, _)| of.contains(part)).map(|(_, what)| Helper::Proxy(what));
        proxy.or_else(|| {
            AGENTS.iter().find(|(part, _)| of.contains(part)).map(|(_, what)| Helper::Agent(what))
        })
    };
    let vault = image.ends_with("vault") && line(container).contains("agent");
    let vault = vault.then_some(Helper::Agent("a Vault agent"));
    by(&image).or(vault).or_else(|| by(&container.name)).or_else(|| {
        let words: Vec<&str> = container.name.split('-').collect();
        let (_, proxy) = NAMES.iter().find(|(word, _)| words.contains(word))?;
        Some(if *proxy {
            Helper::Proxy("by its name a proxy")
        } else {
            Helper::Agent("by its name a helper")
        })
    })
}

/// Whether this is an init that turns the pod's traffic over to a proxy.
pub fn redirects_traffic(container: &Container) -> bool {
    let text =
        format!("{} {} {}", container.name, container.image.as_deref().unwrap_or_default(), line(container));
    ["istio-init", "istio-iptables", "linkerd-init", "proxy-init", "appmesh-proxy-route-manager", "iptables"]
        .iter()
        .any(|word| text.contains(word))
}

/// Whether an init is likely to talk to something on the network, and by what it was recognized.
pub fn uses_network(container: &Container) -> Option<String> {
    if redirects_traffic(container) {
        return None;
    }
    let image = repository(container.image.as_deref().unwrap_or_default());
    let text = format!("{} {image} {}", container.name, line(container)).to_lowercase();
    let is_word_end = |b: u8| !b.is_ascii_alphanumeric();
    let found = NETWORK_WORDS.iter().find(|word| {
        text.match_indices(**word).any(|(i, _)| {
            let bytes = text.as_bytes();
            let before = i == 0 || is_word_end(bytes[i - 1]);
            let after = bytes.get(i + word.len()).is_none_or(|b| is_word_end(*b));
            before && after
        })
    })?;
    Some((*found).to_owned())
}

const NETWORK_WORDS: [&str; 32] = [
    "migrate",
    "migration",
    "migrations",
    "wait-for",
    "waitfor",
    "curl",
    "wget",
    "nc",
    "git",
    "clone",
    "psql",
    "mysql",
    "pg_isready",
    "redis-cli",
    "mongosh",
    "nslookup",
    "dig",
    "aws",
    "gsutil",
    "gcloud",
    "vault",
    "download",
    "fetch",
    "http",
    "https",
    "flyway",
    "liquibase",
    "rclone",
    "kubectl",
    "consul",
    "etcdctl",
    "grpcurl",
];

/// Why a container will not react to its stop signal, if its manifest tells.
///
/// In a shared process namespace no container has process 1, and a signal of its own may well have a handler.
pub fn ignores_stop(spec: &PodSpec, container: &Container) -> Option<String> {
    let own_signal = container.lifecycle.as_ref().is_some_and(|l| l.stop_signal.is_some());
    if spec.share_process_namespace == Some(true) || own_signal {
        return None;
    }
    deaf_to_sigterm(container)
}

/// Why the process of a container will not heed SIGTERM, if its command tells.
///
/// A process 1 without a handler of its own is not ended by a signal: the kernel leaves it out.
fn deaf_to_sigterm(container: &Container) -> Option<String> {
    let words: Vec<&str> = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten())
        .map(String::as_str)
        .collect();
    container.command.as_ref().filter(|c| !c.is_empty())?;
    let program = words.first()?.rsplit('/').next()?;
    if ["tail", "sleep", "cat"].contains(&program) {
        return Some(format!("`{program}` as process 1 has no handler for it"));
    }
    if !["sh", "bash", "ash", "dash"].contains(&program) {
        return None;
    }
    let script = words.iter().skip(1).skip_while(|w| w.starts_with('-') && !w.contains('c')).nth(1)?;
    if script.contains("trap ") || script.split([';', '\n', '&']).any(|s| s.trim_start().starts_with("exec "))
    {
        return None;
    }
    Some(format!("`{program} -c` as process 1 has no handler for it and does not pass it on"))
}

/// Whether a command ends or stops a helper: `quitquitquit`, `kill`, `nginx -s quit`.
pub fn stops_a_service(text: &str) -> Option<&'static str> {
    let words = [
        "quitquitquit",
        "/shutdown",
        "pkill",
        "killall",
        "-s quit",
        "-s stop",
        "pilot-agent request POST quit",
        "systemctl stop",
        "kill ",
    ];
    words.into_iter().find(|word| text.contains(word)).map(str::trim)
}

/// The command and its arguments in one line.
pub fn line(container: &Container) -> String {
    let words: Vec<_> = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten())
        .map(String::as_str)
        .collect();
    words.join(" ")
}

/// The container's command says that it does one thing and ends.
fn ends_by_itself(container: &Container) -> bool {
    let line = line(container);
    redirects_traffic(container)
        || line.contains("exit-after-auth")
        || line.contains("--one-time")
        || line.contains("-one-time")
        || line.contains("--validate")
}

fn repository(image: &str) -> String {
    let untagged = image.split('@').next().unwrap_or_default();
    let last = untagged.rsplit_once('/').map_or(untagged, |(_, last)| last);
    let last = last.split(':').next().unwrap_or_default();
    match untagged.rsplit_once('/') {
        // `fluent/fluent-bit`, `hashicorp/vault`: the last two parts tell more than the last.
        Some((before, _)) => format!("{}/{last}", before.rsplit('/').next().unwrap_or_default()),
        None => last.to_owned(),
    }
}

// === impl Helper ===

impl Helper {
    /// What it is, for a sentence: `an Istio proxy`.
    pub fn what(self) -> &'static str {
        match self {
            Self::Proxy(what) | Self::Agent(what) => what,
        }
    }

    /// Whether other containers reach the network through it.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::Proxy(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str, command: &[&str]) -> Container {
        let command = (!command.is_empty()).then(|| command.iter().map(|w| (*w).to_owned()).collect());
        Container { name: name.into(), image: Some(image.into()), command, ..Container::default() }
    }

    #[test]
    fn well_known_helpers_are_recognized_and_programs_are_not() {
        let is = |name: &str, image: &str, command: &[&str]| {
            helper(&container(name, image, command)).map(Helper::what)
        };
        assert_eq!(is("p", "docker.io/istio/proxyv2:1.27", &[]), Some("an Istio proxy"));
        assert_eq!(is("p", "gcr.io/cloud-sql-connectors/cloud-sql-proxy:2", &[]), Some("a Cloud SQL proxy"));
        assert_eq!(is("p", "hashicorp/vault:1", &["vault", "agent", "-config=x"]), Some("a Vault agent"));
        assert_eq!(is("p", "hashicorp/vault:1", &["vault", "agent", "-exit-after-auth"]), None);
        assert_eq!(is("istio-init", "docker.io/istio/proxyv2:1.27", &["istio-iptables"]), None);
        assert_eq!(is("logs", "fluent/fluent-bit:3", &[]), Some("a log shipper"));
        assert_eq!(is("http-proxy", "mine:1", &[]), Some("by its name a proxy"));
        assert_eq!(is("proxyfier", "mine:1", &[]), None);
        assert_eq!(is("web", "localhost:5000/team/web@sha256:00", &[]), None);
    }

    #[test]
    fn deaf_processes_are_told_by_their_command() {
        let deaf = |command: &[&str]| deaf_to_sigterm(&container("a", "i", command)).is_some();
        assert!(deaf(&["tail", "-F", "x"]));
        assert!(deaf(&["/bin/sh", "-c", "tail -F /log"]));
        assert!(deaf(&["bash", "-ec", "while true; do sleep 1; done"]));
        assert!(!deaf(&["sh", "-c", "trap 'exit 0' TERM; sleep 9 & wait"]));
        assert!(!deaf(&["sh", "-c", "setup; exec server"]));
        assert!(!deaf(&["server"]));
        assert!(!deaf(&[]));
    }

    #[test]
    fn inits_that_use_the_network_are_told_by_whole_words() {
        let uses = |name: &str, command: &[&str]| uses_network(&container(name, "i", command));
        assert_eq!(uses("db-migrate", &[]).as_deref(), Some("migrate"));
        assert_eq!(uses("x", &["sh", "-c", "until nc -z db 5432; do sleep 1; done"]).as_deref(), Some("nc"));
        assert_eq!(uses("sync", &["chown", "-R", "1000", "/data"]), None);
        assert_eq!(uses("istio-init", &["curl"]), None);
    }
}

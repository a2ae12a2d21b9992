//! What may go wrong until the pod is ready.

use k8s_openapi::{api::core::v1::Probe, apimachinery::pkg::util::intstr::IntOrString};

use super::{Entry, Found, Lint};
use crate::{
    explain::{
        known::{self, Helper},
        start::{handler, hook},
    },
    resources::Role,
};

pub(super) fn check(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    annotations(found);
    for (i, entry) in entries.iter().enumerate() {
        ports(entry, found);
        post_start(entry, found);
        match entry.role {
            Role::Init => never_ends(entry, found),
            Role::Sidecar => {
                no_startup_probe(entry, i + 1 < entries.len(), found);
                deadlock(entry, &entries[i + 1..], found);
                inits_before(entry, &entries[..i], found);
                readiness(entry, found);
            }
            Role::App => {}
        }
    }
    in_containers(entries, found);
}

fn never_ends(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let Some(helper) = known::helper(entry.container) else { return };
    // A name alone is too weak a sign for an init: `setup-proxy` may well end.
    if helper.what().starts_with("by its name") {
        return;
    }
    let name = entry.name();
    found.add(
        Lint::InitNeverEnds,
        &entry.path,
        format!("`{name}` ({}) is an init without `restartPolicy: Always`", helper.what()),
        "the pod waits for its end, and stays at Init for ever".into(),
        format!("add `restartPolicy: Always` to `{name}`, which makes it a sidecar"),
    );
}

fn no_startup_probe(entry: &Entry<'_>, followed: bool, found: &mut Found<'_, '_>) {
    if entry.container.startup_probe.is_some() || !followed {
        return;
    }
    let Some(helper) = known::helper(entry.container)
        .filter(|h| h.is_proxy() || has_ports(entry))
        .or_else(|| has_ports(entry).then_some(Helper::Agent("it has ports")))
    else {
        return;
    };
    // A postStart hook that waits is the older way to the same end.
    if hook(entry.container, |l| l.post_start.as_ref()).is_some() {
        return;
    }
    let name = entry.name();
    let probe = entry.container.readiness_probe.as_ref().or(entry.container.liveness_probe.as_ref());
    let same = probe.map(|_| " (what its readiness or liveness probe asks will do)").unwrap_or_default();
    found.add(
        Lint::NoStartupProbe,
        &entry.path,
        format!("the sidecar `{name}` ({}) has no startup probe", helper.what()),
        "the next container starts as soon as its process exists, before it can serve; readiness and liveness probes \
         gate nothing"
            .into(),
        format!("give `{name}` a startupProbe{same}, with periodSeconds: 1 for a quick start"),
    );
}

/// The startup probe asks at a port that only a later container has.
fn deadlock(entry: &Entry<'_>, later: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let Some(probe) = &entry.container.startup_probe else { return };
    let Some(IntOrString::Int(port)) = network_port(probe) else { return };
    let has = |e: &Entry<'_>| e.container.ports.iter().flatten().any(|p| p.container_port == port);
    if has(entry) {
        return;
    }
    let Some(other) = later.iter().find(|e| has(e)) else { return };
    let (name, other) = (entry.name(), other.name().to_owned());
    found.add(
        Lint::StartupDeadlock,
        &entry.field("startupProbe"),
        format!("the startup probe of `{name}` asks at port {port}, which is a port of `{other}`"),
        format!(
            "`{other}` starts only after the probe has succeeded, which it can't before: the pod never starts"
        ),
        format!("probe a port of `{name}` itself, or move what depends on `{other}` to its readiness probe"),
    );
}

fn inits_before(proxy: &Entry<'_>, before: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let Some(helper) = known::helper(proxy.container).filter(|h| h.is_proxy()) else { return };
    let redirected =
        before.iter().find(|e| known::redirects_traffic(e.container)).map(|e| e.name().to_owned());
    for init in before.iter().filter(|e| e.role == Role::Init) {
        let Some(word) = known::uses_network(init.container) else { continue };
        let (name, proxy) = (init.name(), proxy.name());
        let consequence = match &redirected {
            Some(by) => format!(
                "`{by}` has turned the traffic over to `{proxy}`, which does not run yet: `{name}` can't connect"
            ),
            None => format!(
                "`{proxy}` does not run while `{name}` does: what needs it fails, and is tried for ever"
            ),
        };
        found.add(
            Lint::InitBeforeProxy,
            &init.path,
            format!(
                "the init `{name}` seems to use the network (\"{word}\") and comes before `{proxy}` ({})",
                helper.what()
            ),
            consequence,
            format!("put `{proxy}` before `{name}` in `initContainers`, with a startup probe"),
        );
    }
}

fn readiness(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let name = entry.name();
    if entry.container.readiness_probe.is_some() {
        found.add(
            Lint::SidecarReadiness,
            &entry.field("readinessProbe"),
            format!("the sidecar `{name}` has a readiness probe"),
            "whenever it fails the whole pod is not Ready and gets no traffic from its Services".into(),
            "keep it if traffic needs the sidecar; otherwise drop it, or watch the sidecar by its metrics"
                .into(),
        );
    } else if known::helper(entry.container).is_some_and(Helper::is_proxy)
        && !found.subject.workload.kind().is_job()
    {
        found.add(
            Lint::NoReadinessProbe,
            &entry.path,
            format!("the proxy `{name}` has no readiness probe"),
            "it counts as ready as soon as it is started, and again right after each of its restarts".into(),
            format!("give `{name}` a readiness probe if the pod is useless without it"),
        );
    }
}

fn ports(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let c = entry.container;
    let probes = [
        ("startupProbe", &c.startup_probe),
        ("livenessProbe", &c.liveness_probe),
        ("readinessProbe", &c.readiness_probe),
    ];
    for (field, probe) in probes.into_iter().filter_map(|(f, p)| p.as_ref().map(|p| (f, p))) {
        let Some(IntOrString::String(port)) = network_port(probe) else { continue };
        let names: Vec<&str> = c.ports.iter().flatten().filter_map(|p| p.name.as_deref()).collect();
        if names.contains(&port.as_str()) {
            continue;
        }
        let help = match crate::load::nearest(&port, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => {
                format!("give `{}` a port of that name, or write the number", entry.name())
            }
            None => format!("its ports are {}", names.join(", ")),
        };
        found.add(
            Lint::UnknownPortName,
            &entry.field(field),
            format!("`{}` has no port named `{port}`", entry.name()),
            "the probe can't be made, and never succeeds; the API server accepts it all the same".into(),
            help,
        );
    }
}

fn post_start(entry: &Entry<'_>, found: &mut Found<'_, '_>) {
    let Some(hook) = hook(entry.container, |l| l.post_start.as_ref()) else { return };
    found.add(
        Lint::PostStartBlocks,
        &entry.field("lifecycle.postStart"),
        format!("`{}` has a postStart hook ({})", entry.name(), handler(hook)),
        "nothing else in the pod starts while it runs, and a deletion waits for its end before the grace period even \
         begins; if it fails the container is killed"
            .into(),
        "bound its time, and prefer a startup probe for waiting".into(),
    );
}

/// Helpers among the apps: everything starts and stops at once.
fn in_containers(entries: &[Entry<'_>], found: &mut Found<'_, '_>) {
    let apps: Vec<_> = entries.iter().filter(|e| e.role == Role::App).collect();
    let policy = found.subject.workload.spec().restart_policy.as_deref().unwrap_or("Always");
    if apps.len() < 2 || found.subject.workload.kind().is_job() || policy != "Always" {
        return;
    }
    for entry in apps {
        let Some(helper) = known::helper(entry.container).filter(|h| h.is_proxy()) else { continue };
        let name = entry.name();
        found.add(
            Lint::HelperInContainers,
            &entry.path,
            format!("`{name}` ({}) is one of `containers`", helper.what()),
            "the apps start without waiting for it, and at the end it gets SIGTERM at the same moment as they do: \
             requests at the beginning and while draining are lost"
                .into(),
            format!("move `{name}` to `initContainers` with `restartPolicy: Always` and a startup probe"),
        );
    }
}

fn annotations(found: &mut Found<'_, '_>) {
    const SUFFIX: &str = "proxy-enable-native-sidecar";
    const KNOWN: [&str; 2] = ["config.alpha.linkerd.io/", "config.beta.linkerd.io/"];
    let workload = found.subject.workload;
    let Some(metadata) = workload.pod_metadata() else { return };
    let wrong = metadata
        .annotations
        .iter()
        .flatten()
        .find(|(key, _)| key.strip_suffix(SUFFIX).is_some_and(|prefix| !KNOWN.contains(&prefix)));
    if let Some((key, _)) = wrong {
        let path = format!("{}.annotations[{key}]", workload.kind().metadata_path());
        found.at(
            Lint::NativeSidecarAnnotation,
            path,
            format!("no injector reads the annotation `{key}`"),
            "the proxy is added to `containers`, silently: a Job does not complete, and the order is not kept".into(),
            format!("write {}{SUFFIX}", KNOWN[1]),
        );
    }
}

fn has_ports(entry: &Entry<'_>) -> bool {
    entry.container.ports.as_ref().is_some_and(|p| !p.is_empty())
}

fn network_port(probe: &Probe) -> Option<IntOrString> {
    let http = probe.http_get.as_ref().map(|h| h.port.clone());
    let tcp = probe.tcp_socket.as_ref().map(|t| t.port.clone());
    http.or(tcp).or_else(|| probe.grpc.as_ref().map(|g| IntOrString::Int(g.port)))
}

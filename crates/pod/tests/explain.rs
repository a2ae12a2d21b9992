//! `pod explain`: the order of start and stop, every warning with its cause and without it, and the forms of output.

use std::collections::BTreeMap;

use serde_json::Value;
use testground_pod::{
    explain::{self, Explanation, Lint, NODE_MEMORY, Options, Report, Severity, Times, sarif, text},
    load,
    version::{Features, KubernetesVersion},
};

fn options() -> Options {
    Options { features: Features::default(), node_memory: NODE_MEMORY, times: BTreeMap::new() }
}

fn report_of(manifest: &str, options: &Options) -> Report {
    let read = load::read(manifest, &options.features);
    let report = explain::report("file.yaml", &read, options).unwrap();
    assert_eq!(report.mistakes, [], "{manifest}");
    report
}

fn explained(manifest: &str) -> Explanation {
    report_of(manifest, &options()).objects.remove(0)
}

fn lints(manifest: &str) -> Vec<Lint> {
    explained(manifest).warnings.iter().map(|w| w.lint).collect()
}

/// A pod from its `initContainers` and `containers`, in flow style, and more fields of its spec.
fn pod(inits: &str, apps: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  initContainers: [{inits}]\n  containers: [{apps}]\n  {more}\n"
    )
}

fn job(inits: &str, apps: &str, more: &str, of_job: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j}}\nspec:\n  {of_job}\n  template:\n    metadata: {{}}\n    spec:\n      initContainers: [{inits}]\n      containers: [{apps}]\n      {more}\n"
    )
}

const APP: &str = "{name: app, image: mine/app:1}";

/// A proxy as it should be.
const PROXY: &str = "{name: proxy, image: envoyproxy/envoy:1, restartPolicy: Always, startupProbe: {tcpSocket: {port: 9901}}, \
     readinessProbe: {tcpSocket: {port: 9901}}}";

/// The lint must be found in the first and not in the second manifest, at a line that holds the text.
#[track_caller]
fn only_in(lint: Lint, wrong: &str, line: &str, right: &str) {
    let found = explained(wrong);
    let warning = found.warnings.iter().find(|w| w.lint == lint);
    let warning = warning.unwrap_or_else(|| panic!("{} is not among {:?}", lint.id(), lints(wrong)));
    let there = wrong.lines().nth(warning.at.line as usize - 1).unwrap();
    assert!(there.contains(line), "{} points at {there:?}", lint.id());
    for sentence in [&warning.found, &warning.consequence, &warning.fix] {
        assert!(!sentence.is_empty() && !sentence.ends_with('.'), "{sentence:?}");
    }
    assert!(!lints(right).contains(&lint), "{} is found in the right one too", lint.id());
}

#[test]
fn helper_in_job() {
    let proxy = "{name: sql, image: gcr.io/cloud-sql-connectors/cloud-sql-proxy:2}";
    let sidecar = proxy.replace("}", ", restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}");
    let never = "restartPolicy: Never";
    only_in(
        Lint::HelperInJob,
        &job("", &format!("{APP}, {proxy}"), never, ""),
        "containers",
        &job(&sidecar, APP, never, ""),
    );
}

#[test]
fn helper_exit_code() {
    let two = format!("{APP}, {{name: logs, image: fluent/fluent-bit:3}}");
    only_in(
        Lint::HelperExitCode,
        &pod("", &two, "restartPolicy: Never"),
        "containers",
        &pod("", &two, "restartPolicy: Always"),
    );
}

#[test]
fn helper_in_containers() {
    let proxy = "{name: istio-proxy, image: istio/proxyv2:1}";
    only_in(
        Lint::HelperInContainers,
        &pod("", &format!("{APP}, {proxy}"), ""),
        "containers",
        &pod(PROXY, APP, ""),
    );
}

#[test]
fn injected_sidecar() {
    let with = |inject: &str| {
        job("", APP, "restartPolicy: Never", "").replace(
            "metadata: {}",
            &format!("metadata: {{annotations: {{sidecar.istio.io/inject: \"{inject}\"}}}}"),
        )
    };
    only_in(Lint::InjectedSidecar, &with("true"), "annotations", &with("false"));
}

#[test]
fn native_sidecar_annotation() {
    let with = |prefix: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    {prefix}/proxy-enable-native-sidecar: \"true\"\nspec: {{containers: [{APP}]}}\n"
        )
    };
    only_in(
        Lint::NativeSidecarAnnotation,
        &with("config.linkerd.io"),
        "proxy-enable",
        &with("config.beta.linkerd.io"),
    );
}

#[test]
fn init_never_ends() {
    let init = "{name: vault, image: hashicorp/vault:1, command: [vault, agent, -config=c]}";
    let once = init.replace("-config=c", "-exit-after-auth");
    only_in(Lint::InitNeverEnds, &pod(init, APP, ""), "initContainers", &pod(&once, APP, ""));
    assert!(!lints(&pod(PROXY, APP, "")).contains(&Lint::InitNeverEnds));
}

#[test]
fn sidecar_without_startup_probe() {
    let bare = "{name: proxy, image: envoyproxy/envoy:1, restartPolicy: Always}";
    only_in(Lint::NoStartupProbe, &pod(bare, APP, ""), "initContainers", &pod(PROXY, APP, ""));
    let waits = bare.replace("}", ", lifecycle: {postStart: {exec: {command: [wait]}}}}");
    assert!(!lints(&pod(&waits, APP, "")).contains(&Lint::NoStartupProbe));
    let shipper = "{name: logs, image: fluent/fluent-bit:3, restartPolicy: Always}";
    assert!(!lints(&pod(shipper, APP, "")).contains(&Lint::NoStartupProbe), "nobody waits for a log shipper");
}

#[test]
fn init_before_proxy() {
    let migrate = "{name: db-migrate, image: mine/migrate:1}";
    only_in(
        Lint::InitBeforeProxy,
        &pod(&format!("{migrate}, {PROXY}"), APP, ""),
        "initContainers",
        &pod(&format!("{PROXY}, {migrate}"), APP, ""),
    );
    let redirected = explained(&pod(&format!("{{name: istio-init, image: i}}, {migrate}, {PROXY}"), APP, ""));
    let warning = redirected.warnings.iter().find(|w| w.lint == Lint::InitBeforeProxy).unwrap();
    assert!(
        warning.consequence.contains("`istio-init` has turned the traffic over"),
        "{}",
        warning.consequence
    );
}

#[test]
fn startup_deadlock() {
    let with = |port: u16| {
        PROXY.replace(
            "startupProbe: {tcpSocket: {port: 9901}}",
            &format!("startupProbe: {{httpGet: {{port: {port}}}}}"),
        )
    };
    let app = "{name: app, image: i, ports: [{containerPort: 8080}]}";
    only_in(Lint::StartupDeadlock, &pod(&with(8080), app, ""), "initContainers", &pod(&with(15021), app, ""));
}

#[test]
fn unknown_port_name() {
    let with = |port: &str| {
        format!(
            "{{name: app, image: i, ports: [{{name: http, containerPort: 80}}], livenessProbe: {{httpGet: {{port: {port}}}}}}}"
        )
    };
    only_in(Lint::UnknownPortName, &pod("", &with("htpp"), ""), "containers", &pod("", &with("http"), ""));
    let warning = &explained(&pod("", &with("htpp"), "")).warnings[0];
    assert_eq!(warning.fix, "did you mean `http`?");
}

#[test]
fn post_start_blocks() {
    let app = APP.replace("}", ", lifecycle: {postStart: {exec: {command: [x]}}}}");
    only_in(Lint::PostStartBlocks, &pod("", &app, ""), "containers", &pod("", APP, ""));
}

#[test]
fn pre_stop_stops_sidecar() {
    let with = |command: &str| {
        PROXY.replace(
            "restartPolicy",
            &format!("lifecycle: {{preStop: {{exec: {{command: [sh, -c, '{command}']}}}}}}, restartPolicy"),
        )
    };
    only_in(
        Lint::PreStopStopsProxy,
        &pod(&with("curl -X POST localhost:15000/quitquitquit"), APP, ""),
        "initContainers",
        &pod(&with("curl -X POST localhost:15000/drain_listeners"), APP, ""),
    );
    let http = PROXY.replace(
        "restartPolicy",
        "lifecycle: {preStop: {httpGet: {path: /shutdown, port: 1}}}, restartPolicy",
    );
    assert!(lints(&pod(&http, APP, "")).contains(&Lint::PreStopStopsProxy));
}

#[test]
fn sidecar_pre_stop_sleep() {
    let sleeps = PROXY.replace("restartPolicy", "lifecycle: {preStop: {sleep: {seconds: 5}}}, restartPolicy");
    only_in(Lint::PreStopInSidecar, &pod(&sleeps, APP, ""), "initContainers", &pod(PROXY, APP, ""));
}

#[test]
fn grace_too_short() {
    let sleeps = APP.replace("}", ", lifecycle: {preStop: {sleep: {seconds: 22}}}}");
    let grace = |n: u32| format!("terminationGracePeriodSeconds: {n}");
    only_in(
        Lint::GraceTooShort,
        &pod(PROXY, &sleeps, &grace(30)),
        "terminationGrace",
        &pod(PROXY, &sleeps, &grace(40)),
    );
    only_in(
        Lint::GraceTooShort,
        &pod(PROXY, APP, &grace(3)),
        "terminationGrace",
        &pod(PROXY, APP, &grace(30)),
    );
    assert!(
        !lints(&pod("", APP, &grace(3))).contains(&Lint::GraceTooShort),
        "without sidecars 3 s may be enough"
    );
}

#[test]
fn grace_too_short_for_the_given_times_names_what_would_do() {
    let manifest = pod(PROXY, APP, "terminationGracePeriodSeconds: 30");
    let with = |app: f64| {
        let mut options = options();
        let time = |exit| Times { exit: Some(exit), pre_stop: None };
        options.times = [("app".into(), time(app)), ("proxy".into(), time(10.0))].into();
        report_of(&manifest, &options).objects.remove(0)
    };
    let late = with(25.0);
    let warning = late.warnings.iter().find(|w| w.lint == Lint::GraceTooShort).unwrap();
    assert!(warning.found.contains("`proxy` is killed: `app` takes 25 s of it"), "{}", warning.found);
    assert!(warning.fix.contains("at least 36,"), "{}", warning.fix);
    assert!(!with(15.0).warnings.iter().any(|w| w.lint == Lint::GraceTooShort));
}

#[test]
fn pre_stop_eats_grace() {
    let sleeps =
        |n: u32| APP.replace("}", &format!(", lifecycle: {{preStop: {{sleep: {{seconds: {n}}}}}}}}}"));
    only_in(Lint::PreStopEatsGrace, &pod("", &sleeps(29), ""), "containers", &pod("", &sleeps(10), ""));
    let exec = APP.replace("}", ", lifecycle: {preStop: {exec: {command: [sh, -c, sleep 28]}}}}");
    assert!(lints(&pod("", &exec, "")).contains(&Lint::PreStopEatsGrace));
}

#[test]
fn ignores_sigterm() {
    let tail = "{name: logs, image: alpine, restartPolicy: Always, command: [sh, -c, 'tail -F /l']}";
    only_in(
        Lint::DeafToSigterm,
        &pod(tail, APP, ""),
        "initContainers",
        &pod(&tail.replace("'tail", "'exec tini -- tail"), APP, ""),
    );
    let shared = pod(tail, APP, "shareProcessNamespace: true");
    assert!(!lints(&shared).contains(&Lint::DeafToSigterm));
    // The schedule knows it too: nothing but SIGKILL ends it.
    let step =
        explained(&pod(tail, APP, "")).stop_given.containers.into_iter().find(|s| s.name == "logs").unwrap();
    assert!(step.killed && step.exit_at == 30.0, "{step:?}");
}

#[test]
fn sidecar_quits_on_purpose() {
    let quits = "{name: app, image: i, command: [sh, -c, 'work; curl -XPOST localhost:9091/quitquitquit']}";
    only_in(Lint::QuitOnPurpose, &pod(PROXY, quits, ""), "containers", &pod(PROXY, APP, ""));
    assert!(!lints(&pod("", quits, "")).contains(&Lint::QuitOnPurpose));
}

#[test]
fn liveness_kill_blocks_pod() {
    let alive = |grace: &str| {
        PROXY.replace(
            "restartPolicy",
            &format!("livenessProbe: {{tcpSocket: {{port: 1}}{grace}}}, restartPolicy"),
        )
    };
    let long = "terminationGracePeriodSeconds: 120";
    only_in(
        Lint::LivenessBlocksRestart,
        &pod(&alive(""), APP, long),
        "initContainers",
        &pod(&alive(", terminationGracePeriodSeconds: 5"), APP, long),
    );
}

#[test]
fn flapping_sidecar_fails_job() {
    only_in(
        Lint::FlappingSidecar,
        &job(PROXY, APP, "restartPolicy: OnFailure", "backoffLimit: 2"),
        "restartPolicy: OnFailure",
        &job(PROXY, APP, "restartPolicy: Never", "backoffLimit: 2"),
    );
    let zero = explained(&job(PROXY, APP, "restartPolicy: OnFailure", "backoffLimit: 0"));
    let warning = zero.warnings.iter().find(|w| w.lint == Lint::FlappingSidecar).unwrap();
    assert!(warning.consequence.contains("first restart, even after exit 0"), "{}", warning.consequence);
}

#[test]
fn readiness_of_sidecars() {
    let bare = "{name: proxy, image: envoyproxy/envoy:1, restartPolicy: Always, startupProbe: {tcpSocket: {port: 1}}}";
    only_in(Lint::SidecarReadiness, &pod(PROXY, APP, ""), "initContainers", &pod(bare, APP, ""));
    only_in(Lint::NoReadinessProbe, &pod(bare, APP, ""), "initContainers", &pod(PROXY, APP, ""));
}

#[test]
fn sidecar_lowers_qos() {
    let app = "{name: app, image: i, resources: {limits: {cpu: 1, memory: 1Gi}}}";
    let proxy = |limits: &str| {
        PROXY.replace("restartPolicy", &format!("resources: {{limits: {limits}}}, restartPolicy"))
    };
    only_in(
        Lint::SidecarLowersQos,
        &pod(&proxy("{cpu: 1}"), app, ""),
        "initContainers",
        &pod(&proxy("{cpu: 1, memory: 64Mi}"), app, ""),
    );
}

#[test]
fn helper_killed_first() {
    let app = "{name: app, image: i, resources: {requests: {memory: 4Gi}}}";
    let logs = |memory: &str| {
        format!("{{name: logs, image: fluent/fluent-bit:3, resources: {{requests: {{memory: {memory}}}}}}}")
    };
    only_in(
        Lint::HelperKilledFirst,
        &pod("", &format!("{app}, {}", logs("32Mi")), ""),
        "containers",
        &pod("", &format!("{app}, {}", logs("4Gi")), ""),
    );
}

#[test]
fn memory_volume_unbounded() {
    let volume = |limit: &str| format!("volumes: [{{name: v, emptyDir: {{medium: Memory{limit}}}}}]");
    only_in(
        Lint::MemoryVolumeUnbounded,
        &pod("", APP, &volume("")),
        "volumes",
        &pod("", APP, &volume(", sizeLimit: 1Gi")),
    );
    let limited = APP.replace("}", ", resources: {limits: {memory: 1Gi}}}");
    assert!(!lints(&pod("", &limited, &volume(""))).contains(&Lint::MemoryVolumeUnbounded));
}

#[test]
fn pod_without_memory_limit() {
    let limited = "{name: a, image: i, resources: {limits: {memory: 1Gi}}}";
    only_in(
        Lint::PodWithoutMemoryLimit,
        &pod("", &format!("{limited}, {APP}"), ""),
        "containers",
        &pod("", limited, ""),
    );
}

#[test]
fn dropped_field() {
    let manifest = pod("", &APP.replace("}", ", restartPolicy: Never}"), "");
    let at = |minor| Options { features: Features::of(KubernetesVersion::new(minor).unwrap()), ..options() };
    let found = |minor| -> Vec<_> {
        report_of(&manifest, &at(minor)).objects[0].warnings.iter().map(|w| w.lint).collect()
    };
    assert_eq!(found(34), [Lint::DroppedField]);
    assert_eq!(found(35), []);
}

#[test]
fn every_lint_has_a_test_an_own_name_and_a_rule() {
    let tests = include_str!("explain.rs");
    let mut ids: Vec<_> = Lint::ALL.iter().map(|l| l.id()).collect();
    for lint in Lint::ALL {
        let mention = format!("Lint::{lint:?}");
        assert!(tests.matches(&mention).count() >= 1, "{mention} has no test");
        assert!(!lint.rules().is_empty() && lint.about().ends_with('.'));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Lint::ALL.len());
}

#[test]
fn a_well_made_pod_has_no_warnings() {
    let quiet = PROXY.replace(", readinessProbe: {tcpSocket: {port: 9901}}", "");
    let warnings = explained(&job(&quiet, APP, "restartPolicy: Never", "")).warnings;
    assert_eq!(warnings, []);
}

#[test]
fn the_start_names_what_gates_each_step() {
    let init = "{name: setup, image: i}";
    let proxy = PROXY.replace("{tcpSocket: {port: 9901}}, read", "{httpGet: {path: /ready, port: 9901}, periodSeconds: 2, failureThreshold: 60, initialDelaySeconds: 3}, read");
    let two = format!("{APP}, {{name: second, image: i}}");
    let steps = explained(&pod(&format!("{init}, {proxy}"), &two, "restartPolicy: Never")).start;
    let after: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.after.as_str())).collect();
    assert_eq!(
        after,
        [
            ("setup", "at once"),
            ("proxy", "`setup` has exited 0"),
            ("app", "`proxy` is started"),
            ("second", "`app` was started (its probes are not awaited)"),
        ]
    );
    assert_eq!(steps[0].on_failure, "the whole pod fails");
    assert!(
        steps[1].gate.ends_with("its startup probe succeeds: GET :9901/ready, every 2 s"),
        "{}",
        steps[1].gate
    );
    assert!(
        steps[1].on_failure.starts_with("60 failures in a row (123 s in all)"),
        "{}",
        steps[1].on_failure
    );
}

#[test]
fn times_for_unknown_containers_are_refused() {
    let read = load::read(&pod("", APP, ""), &Features::default());
    let mut options = options();
    options.times.insert("ap".into(), Times::default());
    let error = explain::report("f", &read, &options).unwrap_err().to_string();
    assert_eq!(error, "pod/p has no container `ap`; did you mean `app`?");
}

const SHOP: &str = include_str!("manifests/checkout.yaml");

#[test]
fn the_text_has_what_a_reader_looks_for() {
    let mut options = options();
    options.times.insert("checkout".into(), Times { exit: Some(8.0), pre_stop: None });
    let text = text::report(&report_of(SHOP, &options));
    for line in [
        "deployment/checkout  (file.yaml:1)  Kubernetes 1.37, restartPolicy Always, grace period 30 s",
        "  istio-proxy  sidecar  100m/2  128Mi/1Gi    969 (own 993)  4 200000/100000 1Gi",
        "  memory    request  640Mi    256Mi     640Mi      sidecars + apps",
        "   4  checkout     app      when: `istio-proxy` is started",
        "    checkout     0 - 20   SIGTERM at 20  28 ",
        "     `checkout` eats 67% of the grace period: 20 s for its preStop hook; the pod is gone after 28 s",
        "  warning[init-before-proxy]: the init `db-migrate` seems to use the network (\"migrate\") and comes before",
        "    --> file.yaml:21:9  spec.template.spec.initContainers[1]",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line:?} is not in\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 160 && l == l.trim_end()), "{text}");
}

#[test]
fn sarif_is_complete_and_points_at_lines() {
    let log = sarif::log(&[report_of(SHOP, &options())]);
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let rules: Vec<_> = run["tool"]["driver"]["rules"].as_array().unwrap().iter().map(|r| &r["id"]).collect();
    let results = run["results"].as_array().unwrap();
    assert!(results.len() >= 3);
    for result in results {
        assert!(rules.contains(&&result["ruleId"]), "{result}");
        let region = &result["locations"][0]["physicalLocation"]["region"];
        assert!(region["startLine"].as_u64().unwrap() > 1 && region["startColumn"].as_u64().unwrap() >= 1);
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
    }
}

#[test]
fn sarif_reports_mistakes_as_errors() {
    let read = load::read(&SHOP.replace("imagePullPolicy", "imagePullPolcy"), &Features::default());
    let report = explain::report("a b.yaml", &read, &options()).unwrap();
    assert_eq!(report.counts(), (1, 0));
    let log = sarif::log(&[report]);
    let result = &log["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&Value::from("unknown-field"), &Value::from("error")));
    assert_eq!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "a%20b.yaml");
}

#[test]
fn json_has_everything_that_text_has() {
    let json = serde_json::to_value(report_of(SHOP, &options())).unwrap();
    let object = &json["objects"][0];
    assert_eq!(object["qos"], "Burstable");
    assert_eq!(object["kubernetes"], "1.37");
    assert_eq!(object["containers"][2]["oom"]["value"], 969);
    assert_eq!(object["resources"]["requests"]["memory"], "640Mi");
    assert_eq!(object["start"][3]["after"], "`istio-proxy` is started");
    assert_eq!(object["stop_worst"]["end"], 32.0);
    assert_eq!(object["warnings"][0]["severity"], "warning");
    assert_eq!(object["warnings"][0]["line"], 21);
}

/// Real pods of different makes: what is said of each, by name.
#[test]
fn real_world_manifests_get_the_warnings_that_they_deserve() {
    for (file, expected) in [
        (
            include_str!("manifests/checkout.yaml"),
            &["init-before-proxy", "pre-stop-stops-sidecar", "sidecar-readiness-counts"] as &[&str],
        ),
        (
            include_str!("manifests/cloud-sql-job.yaml"),
            &["helper-in-job", "helper-killed-first", "pod-without-memory-limit"],
        ),
        (include_str!("manifests/cloud-sql-job-native.yaml"), &[]),
        (include_str!("manifests/vault-agent.yaml"), &["init-never-ends", "memory-volume-unbounded"]),
        (include_str!("manifests/log-shipper-job.yaml"), &["flapping-sidecar-fails-job", "ignores-sigterm"]),
    ] {
        let report = report_of(file, &options());
        let mut found: Vec<_> =
            report.objects.iter().flat_map(|o| &o.warnings).map(|w| w.lint.id()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{file}");
    }
}

#[test]
fn notes_are_no_warnings() {
    let report = report_of(&pod(PROXY, APP, ""), &options());
    assert!(report.objects[0].warnings.iter().all(|w| w.severity == Severity::Note));
    assert_eq!(report.counts(), (0, 0));
}

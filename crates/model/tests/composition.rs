//! Whole compositions, as people write them: what they resolve to.

use testground_model::composition::{Composition, Files};
use testground_model::manifest::Manifest;
use testground_model::resolve::{Overrides, resolve};
use testground_model::run::Run;

const MANIFEST: &str = r#"
name = "network/ping"

[defaults]
builder = "exec:go"
runner = "local:exec"

[builders."exec:go"]
enabled = true
module_path = "example.org/ping"

[builders."exec:generic"]
program = "plan.sh"

[runners."local:exec"]
enabled = true
timeout = "3m"
grace = 1

[[testcases]]
name = "ping-pong"
instances = { min = 2, max = 10, default = 2 }

  [testcases.params]
  count = { type = "int", desc = "pings", unit = "pings", default = 5 }
  secure = { type = "bool", desc = "encrypt", default = false }
  label = { type = "string", desc = "a label", default = "plain" }
  peers = { type = "json", desc = "peers", default = ["a", "b"] }

[[testcases]]
name = "any"
"#;

fn manifest() -> Manifest {
    Manifest::parse("manifest.toml", MANIFEST).unwrap()
}

fn resolved(text: &str) -> Vec<Run> {
    let composition = Composition::parse("c.toml", text).unwrap_or_else(|e| panic!("{e}"));
    resolve(&manifest(), &composition, &Files::new(), &Overrides::default())
        .unwrap_or_else(|e| panic!("{e}"))
        .value
}

#[test]
fn a_composition_of_the_original_resolves() {
    let runs = resolved(
        r#"
[metadata]
name = "ping"
author = "somebody"

[global]
plan = "network/ping"
case = "ping-pong"
total_instances = 4
builder = "exec:go"
runner = "local:exec"
disable_metrics = true

[global.build]
selectors = ["foo"]

[global.build_config]
exec_pkg = "./cmd"

[global.run.test_params]
label = "global"

[[groups]]
id = "servers"
instances = { count = 1 }
  [groups.resources]
  memory = "256Mi"
  cpu = "500m"
  [groups.build]
  dependencies = [{ module = "github.com/x/y", target = "github.com/fork/y", version = "v1.2.3" }]
  [groups.run]
  artifact = "/tmp/built"
  test_params = { count = 7, secure = true }

[[groups]]
id = "clients"
[groups.instances]
percentage = 0.75
"#,
    );
    let [run] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!(
        (run.id.as_str(), run.plan.as_str(), run.case.as_str()),
        ("default", "network-ping", "ping-pong")
    );
    assert_eq!(run.instance_count(), 4);
    assert!(run.disable_metrics);
    let [servers, clients] = &run.groups[..] else { panic!("{run:?}") };
    assert_eq!((servers.instances, clients.instances), (1, 3));
    assert_eq!(servers.resources.memory, Some(256 << 20));
    assert_eq!(servers.resources.cpu_millis, Some(500));
    assert_eq!(servers.build.artifact.as_deref(), Some("/tmp/built"));
    assert_eq!(servers.build.config.keys().collect::<Vec<_>>(), ["exec_pkg", "module_path"]);
    assert_eq!(servers.build.dependencies["github.com/x/y"].version, "v1.2.3");
    assert_eq!(servers.build.selectors, ["foo"]);
    assert_eq!(servers.params["count"], "7");
    assert_eq!(servers.params["secure"], "true");
    assert_eq!(servers.params["label"], "global");
    assert_eq!(servers.params["peers"], r#"["a","b"]"#);
    assert_eq!(clients.params["count"], "5");
    assert_eq!(run.settings.timeout.as_secs(), 180);
    assert_eq!(run.settings.grace.as_secs(), 1);
}

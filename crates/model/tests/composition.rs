//! Whole compositions, as people write them: what they resolve to, and every mistake with its place.

mod common;

use common::{HEAD, MANIFEST, attempt, error, errors, manifest, runs, warnings};
use testground_model::composition::{Composition, Files};
use testground_model::diagnostic::Severity;
use testground_model::manifest::Manifest;
use testground_model::resolve::{Overrides, resolve, resolve_builds};
use testground_model::run::toml_value::Value;

#[test]
fn a_composition_of_the_original_resolves() {
    let runs = runs(
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
concurrent_builds = 1

[global.build]
selectors = ["foo"]

[global.build_config]
exec_pkg = "./cmd"

[global.run_config]
grace = "3s"

[global.run.test_params]
label = "global"

[[groups]]
id = "servers"
instances = { count = 1 }
  [groups.resources]
  memory = "256Mi"
  cpu = "500m"
  [[groups.build.dependencies]]
  module = "github.com/x/y"
  target = "github.com/fork/y"
  version = "v1.2.3"
  [groups.run]
  artifact = "/tmp/built"
  test_params = { count = 7, secure = true }
  profiles = { cpu = "" }

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
    assert_eq!(servers.profiles["cpu"], "");
    assert_eq!(clients.params["count"], "5");
    assert_eq!(run.settings.timeout.as_secs(), 180, "from the manifest");
    assert_eq!(run.settings.grace.as_secs(), 3, "the composition's over the manifest's");
}

#[test]
fn precedence_of_parameters_is_run_group_run_group_global_manifest() {
    let all = [
        ("[global.run.test_params]\ncount = 1\n", "1"),
        ("[groups.run.test_params]\ncount = 2\n", "2"),
        ("test_params = { count = 3 }\n", "3"),
        ("test_params = { count = 4 }\n", "4"),
    ];
    for first in 0..=4usize {
        let part = |i: usize| if i < first { all[i].0 } else { "" };
        let text = format!(
            "[global]\nplan = \"network/ping\"\ncase = \"ping-pong\"\nbuilder = \"exec:generic\"\nrunner = \"local:exec\"\n{}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n{}[[runs]]\nid = \"r\"\n{}[[runs.groups]]\nid = \"x\"\ngroup_id = \"a\"\n{}",
            part(0),
            part(1),
            part(2),
            part(3)
        );
        let wanted = if first == 0 { "5" } else { all[first - 1].1 };
        let group = runs(&text).remove(0).groups.remove(0);
        assert_eq!((group.id.as_str(), group.params["count"].as_str()), ("x", wanted), "{text}");
    }
}

const MANY: &str = r#"
[global]
plan = "network/ping"
case = "any"
builder = "exec:generic"
runner = "local:exec"
[[groups]]
id = "a"
instances = { count = 2 }
[[groups]]
id = "b"
instances = { percentage = 0.5 }
[groups.resources]
cpu = 1
memory = "1Gi"
[[runs]]
id = "zeta"
total_instances = 4
[[runs.groups]]
id = "a"
[[runs.groups]]
id = "b"
[runs.groups.resources]
cpu = "250m"
[[runs]]
id = "alpha"
total_instances = 10
[[runs.groups]]
id = "first"
group_id = "a"
instances = { percentage = 0.3 }
[[runs.groups]]
id = "second"
group_id = "a"
instances = { count = 7 }
"#;

#[test]
fn several_runs_are_sorted_and_chosen_by_id() {
    let shown = |overrides: &Overrides| {
        let composition = Composition::parse("c.toml", MANY).unwrap();
        let found = resolve(&manifest(), &composition, &Files::new(), overrides);
        found.map(|c| c.value.iter().map(|r| r.id.clone()).collect::<Vec<_>>()).map_err(|e| e.render())
    };
    assert_eq!(shown(&Overrides::default()).unwrap(), ["alpha", "zeta"]);
    let ids = |ids: &[&str]| Overrides {
        run_ids: ids.iter().map(|s| (*s).to_owned()).collect(),
        ..Overrides::default()
    };
    assert_eq!(shown(&ids(&["zeta"])).unwrap(), ["zeta"]);
    let unknown = shown(&ids(&["alpa"])).unwrap_err();
    assert!(unknown.contains("\"alpa\"") && unknown.contains("did you mean `alpha`?"), "{unknown}");
}

/// The traps of the original: a percentage over a base count, and counts that are partly inherited.
#[test]
fn counts_of_a_run_are_its_own_and_then_the_groups() {
    let runs = runs(MANY);
    let counts = |i: usize| runs[i].groups.iter().map(|g| (g.id.as_str(), g.instances)).collect::<Vec<_>>();
    assert_eq!(counts(0), [("first", 3), ("second", 7)]);
    assert_eq!(counts(1), [("a", 2), ("b", 2)]);
    let resources = runs[1].groups[1].resources;
    assert_eq!((resources.memory, resources.cpu_millis), (Some(1 << 30), Some(250)), "field by field");
}

#[test]
fn mistakes_of_the_original_keep_their_words_and_have_a_place() {
    let head = "[global]\nplan = \"network/ping\"\ncase = \"any\"\nbuilder = \"exec:generic\"\nrunner = \"local:exec\"\n";
    let group = |rest: &str| format!("{head}[[groups]]\nid = \"a\"\ninstances = {{ count = 2 }}\n{rest}");
    for (text, wanted) in [
        (
            group("[[groups]]\nid = \"a\"\ninstances = { count = 2 }\n"),
            "10:6: group ids not unique; found duplicate: a",
        ),
        (
            group("").replace("builder = \"exec:generic\"\n", ""),
            "6:6: group a is missing a builder; name one there or in [global]",
        ),
        (
            group("[[runs]]\nid = \"r\"\n[[runs]]\nid = \"r\"\n"),
            "12:6: runs ids not unique; found duplicate: r",
        ),
        (
            group("[[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\n[[runs.groups]]\nid = \"a\"\n"),
            "14:6: group ids not unique; found duplicate: r:a",
        ),
        (
            group("[[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"x\"\ngroup_id = \"aa\"\n"),
            "13:12: run r:x references non-existent group aa; there are a",
        ),
        (
            group("").replace("count = 2", "percentage = 0.5"),
            "8:28: groups count percentage requires a total_instance configuration: total_instances of [global] is missing",
        ),
        (
            group("[[runs]]\nid = \"r\"\ntotal_instances = 3\n"),
            "11:19: total instances mismatch: computed: 2 != configured: 3",
        ),
        (
            group("").replace("\"any\"", "\"ping-pong\"").replace("count = 2", "count = 21"),
            "8:23: total instance count (21) outside of allowable range [2, 20] for test case ping-pong",
        ),
        (
            group("").replace("\"any\"", "\"ping-pnog\""),
            "3:8: test case ping-pnog not found in plan network/ping; there are ping-pong, any",
        ),
        (
            group("").replace("exec:generic", "exec:rust"),
            "4:11: plan does not support builder 'exec:rust'; supported: exec:generic, exec:go",
        ),
        (
            group("").replace("exec:generic", "docker:go"),
            "4:11: builder docker:go is not there yet; there are exec:generic, exec:go, exec:rust, exec:node",
        ),
        (
            group("").replace("exec:generic", "exec:og"),
            "4:11: unknown builder: exec:og; known are exec:generic, exec:go, exec:rust, exec:node, docker:go, docker:generic, docker:node",
        ),
        (
            group("").replace("local:exec", "local:docker"),
            "5:10: runner local:docker is not there yet; there is local:exec",
        ),
        (
            group("").replace("local:exec", "local:exe"),
            "5:10: unknown runner: local:exe; known are local:exec, local:docker, cluster:k8s",
        ),
        (group("").replace("plan = \"network/ping\"\n", ""), "1:1: `plan` of global is missing"),
        (
            group("").replace("case = \"any\"\n", ""),
            "2:8: `case` of global is missing: a run needs a test case",
        ),
        (
            group("").replace("runner = \"local:exec\"\n", ""),
            "2:8: `runner` of global is missing: a run needs a runner",
        ),
        (head.to_owned(), "1:1: a composition needs a group; [[groups]] declares one"),
        (
            group("pod = \"pod.yaml\"\n"),
            "9:7: group a is a Pod manifest, and those are not there yet; name a builder instead",
        ),
    ] {
        assert_eq!(errors(&text), [wanted], "{text}");
    }
}

#[test]
fn unknown_keys_and_wrong_types_have_their_place_and_the_nearest_name() {
    for (tail, line, column, says) in [
        ("instanses = 1\n", 1, 1, "unknown key `instanses` in groups[1]"),
        ("Builder = \"exec:go\"\n", 1, 1, "[builder]"),
        ("[groups.run]\ntest-params = {}\n", 2, 1, "[test_params]"),
        (
            "[groups.run.test_params]\nx = [1]\n",
            2,
            5,
            "text, a number or a boolean is expected, a list is given",
        ),
        (
            "[groups.run.test_params]\nx = \"a|b\"\n",
            2,
            5,
            "the value of x holds `|` or NUL: no SDK can read it",
        ),
        ("[groups.run.test_params]\n\"x|y\" = 1\n", 2, 1, "can't be the name of a parameter"),
        ("[groups.run.test_params]\nx = 1979-05-27\n", 2, 5, "a date is given"),
        ("builder = 5\n", 1, 11, "text (in quotes) is expected, an integer is given"),
        ("[groups.resources]\nmemory = \"12XB\"\n", 2, 10, "Kubernetes quantity"),
        ("[groups.resources]\ncpu = \"0\"\n", 2, 7, "out of range"),
        ("[groups.build]\nselectors = \"a\"\n", 2, 13, "a list of texts is expected"),
        (
            "[[groups.build.dependencies]]\nmodule = \"m\"\n",
            1,
            1,
            "`version` of groups[1].build.dependencies[0] is missing",
        ),
        (
            "[[group]]\nid = \"c\"\n",
            1,
            3,
            "unknown key `group`; known are metadata, global, groups, runs, networks, regions, links, timeline [groups]",
        ),
        ("[[groups]]\nid = \"a/b\"\ninstances = { count = 1 }\n", 2, 6, "can't be an id"),
        ("[[groups]]\ninstances = { count = 1 }\n", 1, 1, "`id` of groups[2] is missing"),
        ("[[groups]]\nid = \"c\"\n", 2, 6, "group c has no number of instances"),
        (
            "[[groups]]\nid = \"c\"\ninstances = { count = 1, percentage = 0.5 }\n",
            3,
            13,
            "count and percentage can't be given together",
        ),
        (
            "[[groups]]\nid = \"c\"\ninstances = { percentage = 50 }\n",
            3,
            28,
            "a percentage is a fraction here, 0 to 1",
        ),
        (
            "[[groups]]\nid = \"c\"\ninstances = { count = -1 }\n",
            3,
            23,
            "-1 is out of range: 1 to 65000 is allowed",
        ),
        ("[[groups]]\nid = \"c\"\ninstances = 3\n", 3, 13, "a table is expected, an integer is given"),
        (
            "[groups.build_config]\nprogam = \"x\"\n",
            2,
            1,
            "builder exec:generic has no setting `progam`; known are build, program, sources [program]",
        ),
        ("[[runs]]\nid = \"a,b\"\n", 2, 6, "can't hold a comma"),
        ("[metadata]\nname = \"unclosed\n", 2, 17, "TOML: "),
        ("[[links]]\nfrom = \"a\" to = \"b\"\n", 2, 12, "TOML: "),
    ] {
        let (at_line, at_column, message) = error(tail);
        assert!(message.contains(says), "{tail}: {message}");
        assert_eq!((at_line, at_column), (line, column), "{tail}: {message}");
    }
}

/// [`HEAD`] with `[global.run_config]`.
fn with_run_config(settings: &str) -> String {
    format!("{HEAD}\n[global.run_config]\n{settings}\n")
}

#[test]
fn settings_of_a_run_are_read_with_their_units() {
    let text = with_run_config(
        r#"
timeout = 90
stall = "2m"
grace = 0.5
max_output = "1MiB"
keep_going = true
seed = 42
proof = { delay = "2ms", rate = "10%", mark_only = true }
min_success = "99.5%"
start_rate = 20
additional_hosts = ["db.example:5432", "[::1]:80", "db.example:5433"]
sync_service = "sync.example:5050"
influxdb_endpoint = "http://[::1]:8086/"
max_message = 65536
"#,
    );
    let settings = runs(&text).remove(0).settings;
    assert_eq!(settings.timeout.as_secs(), 90);
    assert_eq!(settings.stall.as_secs(), 120);
    assert_eq!(settings.grace.as_millis(), 500);
    assert_eq!((settings.max_output, settings.keep_going, settings.seed), (1 << 20, true, 42));
    assert_eq!(settings.proof.delay.as_millis(), 2);
    assert_eq!(
        (settings.proof.rate_percent, settings.proof.mark_only, settings.proof.enabled),
        (10.0, true, true)
    );
    assert_eq!((settings.min_success, settings.start_rate, settings.max_message), (99.5, Some(20.0), 65_536));
    assert_eq!(settings.influxdb_endpoint.as_deref(), Some("http://[::1]:8086"));
    let hosts: Vec<String> = settings.additional_hosts.iter().map(|h| format!("{h} {}", h.name())).collect();
    assert_eq!(
        hosts,
        ["db.example:5432 db.example", "[::1]:80 host.testground", "db.example:5433 db.example"]
    );
    assert_eq!(settings.sync_service.map(|s| s.to_string()), Some("sync.example:5050".to_owned()));
    assert!(!runs(&with_run_config("proof = false")).remove(0).settings.proof.enabled);
}

#[test]
fn settings_of_a_run_that_do_not_fit_are_refused() {
    for (line, says) in [
        ("timeout = \"5 minutes\"", "its unit is unknown"),
        ("timeout = true", "a duration such as"),
        ("timeout = 0", "0s is out of range: 1ms to 720h"),
        ("grace = -1", "is no duration"),
        ("stall = \"1ms\"", "1ms is out of range: 100ms to 720h"),
        ("max_output = \"64 MiBs\"", "its unit is unknown"),
        ("max_output = 5", "5B is out of range: 1KiB to"),
        ("seed = -1", "a whole number, 0 to"),
        ("seed = \"x\"", "a whole number, 0 to"),
        ("keep_going = \"yes\"", "true or false"),
        ("min_success = 99.5", "a percentage such as"),
        ("start_rate = 0", "instances per second"),
        ("additional_hosts = [\"db.example\"]", "is no host with a port"),
        ("additional_hosts = \"db:1\"", "a list of hosts"),
        ("influxdb_endpoint = \"https://db.example:8086\"", "https is not spoken"),
        ("influxdb_endpoint = \"db.example:8086\"", "the address of an InfluxDB, such as"),
        ("influxdb_endpoint = \"http://me:pw@db:8086\"", "is no host with a port"),
        ("additional_hosts = [\"localhost:80\", \"127.0.0.1:80\"]", "would both be host.testground:80"),
        ("additional_hosts = [\"host.testground:80\"]", "is written \"127.0.0.1:80\""),
        ("sync_service = \"sync.example\"", "is no host with a port"),
        ("sync_service = 5050", "the address of a sync service"),
        ("proof = 1", "true, false or a table"),
        ("proof = { delai = \"1ms\" }", "did you mean `delay`?"),
        ("timout = 1", "| ^^^^^^ did you mean `timeout`?"),
    ] {
        let shown = attempt(&with_run_config(line), &Files::new()).unwrap_err().render();
        assert!(shown.contains(says) && shown.contains("1 error"), "{line}: {shown}");
        assert!(shown.contains(&format!("c.toml:{}:", HEAD.lines().count() + 3)), "{line}: {shown}");
    }
}

#[test]
fn the_command_line_has_the_last_word() {
    let composition = Composition::parse("c.toml", &with_run_config("seed = 1\ntimeout = 5")).unwrap();
    let overrides = Overrides {
        seed: Some(9),
        timeout: Some(std::time::Duration::from_secs(7)),
        keep_going: true,
        ignore_artifacts: true,
        disable_metrics: true,
        fallback_seed: 3,
        ..Overrides::default()
    };
    let run = resolve(&manifest(), &composition, &Files::new(), &overrides).unwrap().value.remove(0);
    assert_eq!((run.settings.seed, run.settings.timeout.as_secs(), run.settings.keep_going), (9, 7, true));
    assert!(run.disable_metrics);
    let overrides = Overrides { fallback_seed: 3, ..Overrides::default() };
    let plain = Composition::parse("c.toml", HEAD).unwrap();
    let run = resolve(&manifest(), &plain, &Files::new(), &overrides).unwrap().value.remove(0);
    assert_eq!(run.settings.seed, 3);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    assert_eq!(warnings(""), Vec::<String>::new());
    let found = warnings("[groups.run.test_params]\nx = \"a=b\"\n");
    assert!(found[0].contains("sdk-go and sdk-js drop"), "{found:?}");
    let found = warnings("[groups.build_config]\ngo_proxy_mode = \"direct\"\nenabled = true\n");
    assert!(found.len() == 1 && found[0].contains("builder exec:generic does not read it"), "{found:?}");
    let found = attempt(&with_run_config("keep_containers = true\nenabled = true"), &Files::new()).unwrap().1;
    assert!(found.len() == 1 && found.render().contains("runner local:exec does not read it"), "{found}");
    let found = attempt(
        &HEAD
            .replace("\"any\"", "\"ping-pong\"")
            .replace("count = 2 }", "count = 2 }\nrun = { test_params = { cuont = 1 } }"),
        &Files::new(),
    );
    let shown = found.unwrap().1.render();
    assert!(
        shown.contains("declares no parameter cuont") && shown.contains("did you mean `count`?"),
        "{shown}"
    );
}

#[test]
fn all_mistakes_of_both_files_come_together() {
    let broken = MANIFEST.replace("min = 2", "min = 30").replace("default = 2 }", "defualt = 2 }");
    let manifest = Manifest::parse("manifest.toml", &broken).unwrap();
    let text = HEAD.replace("count = 2", "cuont = 2").replace("\"any\"", "\"nay\"")
        + "[[links]]\nfrom = \"c\"\nto = \"*\"\nlatency = 5\n";
    let composition = Composition::parse("c.toml", &text).unwrap();
    let found = resolve(&manifest, &composition, &Files::new(), &Overrides::default()).unwrap_err();
    let places: Vec<String> = found
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .map(|d| format!("{}:{}", d.file, d.path))
        .collect();
    let wanted = [
        "c.toml:global.case",
        "c.toml:groups[0].instances.cuont",
        "c.toml:links[0].from",
        "c.toml:links[0].latency",
        "manifest.toml:testcases[0].instances.min",
        "manifest.toml:testcases[0].instances.defualt",
    ];
    assert_eq!(places, wanted, "{found}");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json[0]["line"], 4);
    assert_eq!(json[0]["suggestion"], "any");
}

#[test]
fn a_template_is_refused_by_name() {
    let found = Composition::parse("c.toml", "[global]\nplan = \"{{ .Env.PLAN }}\"\n").unwrap_err();
    assert!(found.render().contains("c.toml:2:9") && found.render().contains("is a template"), "{found}");
}

#[test]
fn precedence_of_build_settings_is_group_global_manifest() {
    for (group, global, wanted) in [("", "", "plan.sh"), ("", "g.sh", "g.sh"), ("own.sh", "g.sh", "own.sh")] {
        let table = |program: &str| {
            if program.is_empty() {
                String::new()
            } else {
                format!("build_config = {{ program = {program:?} }}\n")
            }
        };
        let text = HEAD.replace("runner = ", &format!("{}runner = ", table(global)));
        let text = text.replace("id = \"a\"\n", &format!("id = \"a\"\n{}", table(group)));
        let groups = runs(&text).remove(0).groups;
        assert_eq!(groups[0].build.config["program"], Value::String(wanted.into()), "{text}");
        let other = if global.is_empty() { "plan.sh" } else { global };
        assert_eq!(groups[1].build.config["program"], Value::String(other.into()), "{text}");
    }
}

#[test]
fn builds_are_resolved_without_case_and_runner() {
    let text = "[global]\nplan = \"network/ping\"\nbuilder = \"exec:go\"\n[[groups]]\nid = \"a\"\n[groups.build_config]\nexec_pkg = \"./x\"\n";
    let composition = Composition::parse("c.toml", text).unwrap();
    let builds = resolve_builds(&manifest(), &composition, &Overrides::default()).unwrap().value;
    assert_eq!(builds[0].0, "a");
    assert_eq!(builds[0].1.config["exec_pkg"], Value::String("./x".into()));
    assert_eq!(builds[0].1.config["module_path"], Value::String("example.org/ping".into()));
}

#[test]
fn manifests_say_what_is_wrong_with_them() {
    for (text, says) in [
        (
            "name = \"x\"\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"a\"\n",
            "plan supports no builders; review the manifest",
        ),
        (
            "name = \"x\"\n[builders.\"exec:go\"]\n[[testcases]]\nname = \"a\"\n",
            "plan supports no runners; review the manifest",
        ),
        (
            "[builders.\"exec:go\"]\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"a\"\n",
            "`name` is missing",
        ),
        ("name = \"x\"\n[builders.\"exec:go\"]\n[runners.\"local:exec\"]\n", "a plan needs a test case"),
        (
            "name = \"x\"\n[builders.\"exec:go\"]\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"a\"\ninstances = { minn = 1 }\n",
            "did you mean `min`?",
        ),
        (
            "name = \"x\"\n[builders.\"exec:go\"]\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"a\"\n[[testcases]]\nname = \"a\"\n",
            "test case names not unique; found duplicate: a",
        ),
    ] {
        let shown = match Manifest::parse("manifest.toml", text) {
            Err(found) => found.render(),
            Ok(manifest) => manifest.check().unwrap_err().render(),
        };
        assert!(shown.contains(says) && shown.contains("1 error"), "{text}: {shown}");
    }
    let dead = MANIFEST.replace(
        "[builders.\"exec:go\"]",
        "[defaults]\nbuilder = \"exec:go\"\n[builders.\"exec:go\"]\nenabled = true",
    );
    let found = Manifest::parse("manifest.toml", &dead).unwrap().check().unwrap();
    assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [4, 7], "{found}");
}

/// The shapes that manifests of the field have.
#[test]
fn manifests_of_the_field_are_read_with_warnings_at_most() {
    let text = r#"
name = "libp2p/ping"
[defaults]
builder = "exec:go"
runner = "local:exec"
[builders]
"docker:go" = { enabled = true, enable_go_build_cache = true }
"exec:go" = { enabled = true }
[runners]
"local:exec" = { enabled = true }
[runners."cluster:swarm"]
enabled = true
[runners."local:docker".additional_envs]
HELLO = "there"
[global.build_config]
enable_go_build_cache = true
[[testcases]]
name = "ping"
instances = { min = 2, max = 100000, default = 5 }
  [testcases.params]
  channel = { type = "enum", desc = "a channel", values = ["a", "b"], default = "a" }
  odd = { type = "int", descr = "a typo", default = 1 }
"#;
    let manifest = Manifest::parse("manifest.toml", text).unwrap();
    let found = manifest.check().unwrap_or_else(|e| panic!("{e}"));
    let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
    let wanted = [
        "defaults",
        "builders.\"docker:go\".enabled",
        "builders.\"exec:go\".enabled",
        "runners.\"local:exec\".enabled",
        "runners.\"cluster:swarm\".enabled",
        "global",
        "testcases[0].params.odd.descr",
    ];
    assert_eq!(paths, wanted, "{found}");
    assert_eq!(manifest.testcases[0].max, Some(100_000));
}

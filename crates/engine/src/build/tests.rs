//! Builders on real directories, with the tools of this machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use testground_model::event::EventKind;
use testground_model::run::toml_value::Value;
use testground_model::run::{Build, Dependency, Group, Resources};

use super::*;
use crate::home::Home;

fn site(root: &Path) -> Site {
    let plan = root.join("plan");
    fs::create_dir_all(&plan).unwrap();
    let plan = fs::canonicalize(plan).unwrap();
    let home = Home::at(&root.join("home")).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    Site { plan, home, logs: root.join("logs"), path, timeout: Duration::from_secs(300) }
}

fn wanted(builder: &str, config: &[(&str, Value)]) -> Build {
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let (builder, dependencies) = (builder.to_owned(), BTreeMap::new());
    Build { builder, config, selectors: Vec::new(), dependencies, artifact: None }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn script(path: &Path, body: &str) {
    fs::write(path, body).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn group(id: &str, build: &Build) -> Group {
    Group {
        id: id.to_owned(),
        instances: 1,
        build: build.clone(),
        params: BTreeMap::new(),
        profiles: BTreeMap::new(),
        resources: Resources::default(),
        pod: None,
    }
}

fn output_of(artifact: &Artifact) -> String {
    let output = std::process::Command::new(&artifact.program).args(&artifact.args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Everything below a directory with its contents, to see that nothing was touched.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            seen.extend(snapshot(&entry.path()));
        } else {
            seen.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    seen
}

#[tokio::test]
async fn a_script_runs_from_where_it_lies_even_in_a_read_only_directory() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    script(&site.plan.join("run.sh"), "#!/bin/sh\necho \"$1\"\n");
    fs::set_permissions(&site.plan, fs::Permissions::from_mode(0o555)).unwrap();
    let program = Value::Array(vec![text("run.sh"), text("hello")]);
    let built = build(&wanted("exec:generic", &[("program", program)]), &site).await.unwrap();
    assert_eq!(built.artifact.dir, site.plan);
    assert_eq!(output_of(&built.artifact), "hello\n");
    let from_path = build(&wanted("exec:generic", &[("program", text("true"))]), &site).await.unwrap();
    assert!(from_path.artifact.program.is_absolute());
}

#[tokio::test]
async fn an_unchanged_source_is_built_once_and_the_plan_is_never_touched() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    fs::write(site.plan.join("in"), "one").unwrap();
    let before = snapshot(&site.plan);
    let make = "echo built >> ../../../../built; (echo '#!/bin/sh'; echo echo $(cat in)) > out; chmod +x out; echo x > in2";
    let wanted = wanted("exec:generic", &[("build", text(make)), ("program", text("./out"))]);
    let first = build(&wanted, &site).await.unwrap();
    let second = build(&wanted, &site).await.unwrap();
    assert_eq!((first.cached, second.cached), (false, true));
    assert_eq!(first.artifact, second.artifact);
    assert_eq!(output_of(&second.artifact), "one\n");
    assert_eq!(snapshot(&site.plan), before);

    fs::write(site.plan.join("in"), "two").unwrap();
    let third = build(&wanted, &site).await.unwrap();
    assert!(!third.cached);
    assert_eq!(output_of(&third.artifact), "two\n");
    assert_eq!(output_of(&first.artifact), "one\n", "an earlier artifact stays whole");
}

#[tokio::test]
async fn builds_of_the_same_at_once_build_once() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    let count = t.path().join("count");
    let make = format!("echo built >> {}; printf '#!/bin/sh\\n' > out; chmod +x out", count.display());
    let wanted = wanted("exec:generic", &[("build", text(&make)), ("program", text("out"))]);
    let (a, b) = tokio::join!(build(&wanted, &site), build(&wanted, &site));
    assert_eq!(a.unwrap().artifact, b.unwrap().artifact);
    assert_eq!(fs::read_to_string(count).unwrap(), "built\n");
}

#[tokio::test]
async fn a_failed_build_says_what_the_tool_said_and_leaves_nothing_to_use() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    fs::write(site.plan.join("x"), "").unwrap();
    let make = "printf '#!/bin/sh\\n' > out; chmod +x out; echo no such luck >&2; exit 3";
    let wanted = wanted("exec:generic", &[("build", text(make)), ("program", text("out"))]);
    for _ in 0..2 {
        let groups = [group("a", &wanted), group("b", &wanted)];
        let failed = build_all(&groups, &site, 2, |_| {}).await.unwrap_err();
        let words = failed.to_string();
        assert!(
            words.contains("failed to build a, b with exec:generic") && words.contains("exited with code 3"),
            "{words}"
        );
        assert!(words.contains("| no such luck"), "{words}");
    }
    let left: Vec<_> = fs::read_dir(site.home.work().join("builds")).unwrap().flatten().collect();
    assert!(left.iter().all(|e| e.path().is_file()), "{left:?}");
}

#[tokio::test]
async fn groups_share_equal_builds_and_get_their_own_otherwise() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    for name in ["one.sh", "two.sh"] {
        script(&site.plan.join(name), &format!("#!/bin/sh\necho {name}\n"));
    }
    let one = wanted("exec:generic", &[("program", text("one.sh"))]);
    let two = wanted("exec:generic", &[("program", text("two.sh"))]);
    let pod = Group { pod: Some("pod.yaml".into()), ..group("d", &wanted("none", &[])) };
    let mut started = Vec::new();
    let groups = [group("a", &one), group("b", &two), group("c", &one), pod];
    let made = build_all(&groups, &site, 1, |event| {
        if let EventKind::BuildStarted { groups, .. } = event {
            started.push(groups);
        }
    });
    let made = made.await.unwrap();
    assert_eq!(started, [vec!["a", "c"], vec!["b"]]);
    let outputs: Vec<_> = made.iter().map(|a| a.as_ref().map(output_of)).collect();
    let said = |s: &str| Some(format!("{s}\n"));
    assert_eq!(outputs, [said("one.sh"), said("two.sh"), said("one.sh"), None]);
}

#[tokio::test]
async fn mistakes_are_named_before_anything_is_started() {
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    let check = |build: &Build, path: &str| {
        check_tools(&[group("g", build)], path.as_ref()).map_err(|e| e.to_string()).unwrap_err()
    };
    let no_go = check(&wanted("exec:go", &[]), "/nowhere");
    assert!(no_go.contains("needs `go`") && no_go.contains("go.dev"), "{no_go}");
    let kind = check(&wanted("exec:go", &[("fresh_gomod", text("yes"))]), "/nowhere");
    assert!(kind.contains("true or false is expected, text is given"), "{kind}");
    let name = check(&wanted("exec:g0", &[]), "");
    assert!(name.contains("did you mean exec:go?"), "{name}");
    let no_cargo = check(&wanted("exec:rust", &[]), "/nowhere");
    assert!(no_cargo.contains("needs `cargo`") && no_cargo.contains("rustup.rs"), "{no_cargo}");
    let no_node = check(&wanted("exec:node", &[]), "/nowhere");
    assert!(no_node.contains("needs `node`") && no_node.contains("nodejs.org"), "{no_node}");
    let outside = check(&wanted("exec:node", &[("path", text("../x"))]), "/nowhere");
    assert!(outside.contains("lies outside"), "{outside}");
    let profile = check(&wanted("exec:rust", &[("profile", text("--x"))]), "/nowhere");
    assert!(profile.contains("name of a profile"), "{profile}");
    let bare = check(&wanted("exec:generic", &[]), "");
    assert!(bare.contains("\"program\""), "{bare}");
    let out = [("program", text("x")), ("build", text("true")), ("sources", text("../x"))];
    assert!(check(&wanted("exec:generic", &out), "").contains("outside of the plan"));

    fs::write(site.plan.join("plain"), "").unwrap();
    let plain =
        build(&wanted("exec:generic", &[("program", text("plain"))]), &site).await.unwrap_err().to_string();
    assert!(plain.contains("chmod +x"), "{plain}");
    let gone =
        build(&wanted("exec:generic", &[("program", text("./gone"))]), &site).await.unwrap_err().to_string();
    assert!(gone.contains("plan/gone") && gone.contains("No such file"), "{gone}");
}

/// The tools of the languages; without them these tests have nothing to stand on.
fn tool_or_skip(tool: &str, test: &str) -> bool {
    if tool::find(tool, &std::env::var_os("PATH").unwrap_or_default()).is_some() {
        return true;
    }
    let required = std::env::var_os("TESTGROUND_TEST_REQUIRE").is_some_and(|v| v == "all");
    assert!(!required, "{test} needs {tool}, and TESTGROUND_TEST_REQUIRE=all");
    eprintln!("SKIPPED {test}: {tool} is not installed");
    false
}

/// Writes a file below a directory.
fn write(root: &Path, name: &str, body: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, body).unwrap();
}

#[tokio::test]
async fn go_builds_with_tags_replacements_and_a_fresh_gomod_offline() {
    if !tool_or_skip("go", "go_builds_with_tags_replacements_and_a_fresh_gomod_offline") {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    let write = |name: &str, body: &str| write(t.path(), name, body);
    write(
        "plan/go.mod",
        "module example.test/p\n\ngo 1.21\n\nrequire example.test/lib v0.0.0\n\nreplace example.test/lib => ../lib\n",
    );
    write(
        "plan/cmd/main.go",
        "package main\n\nimport (\n\t\"fmt\"\n\t\"example.test/lib\"\n)\n\nfunc main() { fmt.Print(lib.Name, tag) }\n",
    );
    write("plan/cmd/plain.go", "//go:build !loud\n\npackage main\n\nconst tag = \"\"\n");
    write("plan/cmd/loud.go", "//go:build loud\n\npackage main\n\nconst tag = \"!\"\n");
    for (dir, name) in [("lib", "lib"), ("fork", "fork")] {
        write(&format!("{dir}/go.mod"), "module example.test/lib\n\ngo 1.21\n");
        write(&format!("{dir}/lib.go"), &format!("package lib\n\nconst Name = \"{name}\"\n"));
    }
    let before = snapshot(&site.plan);
    let plain = wanted("exec:go", &[("exec_pkg", text("./cmd")), ("enabled", Value::Bool(true))]);
    let first = build(&plain, &site).await.unwrap();
    assert_eq!(output_of(&first.artifact), "lib");
    assert!(build(&plain, &site).await.unwrap().cached);

    let loud = Build { selectors: vec!["loud".into()], ..plain.clone() };
    assert_eq!(output_of(&build(&loud, &site).await.unwrap().artifact), "lib!");

    let fork = Dependency { target: Some("../fork".into()), version: String::new() };
    let forked = Build { dependencies: [("example.test/lib".to_owned(), fork)].into(), ..plain.clone() };
    assert_eq!(output_of(&build(&forked, &site).await.unwrap().artifact), "fork");

    // What lies outside of the plan and is compiled in is part of the sources too.
    write("lib/lib.go", "package lib\n\nconst Name = \"newer\"\n");
    assert_eq!(output_of(&build(&plain, &site).await.unwrap().artifact), "newer");
    assert_eq!(snapshot(&site.plan), before);

    let broken = wanted("exec:go", &[("exec_pkg", text("./nothing"))]);
    let words = build(&broken, &site).await.unwrap_err().to_string();
    assert!(words.contains("go build") && words.contains("nothing"), "{words}");

    fs::remove_file(site.plan.join("go.mod")).unwrap();
    let missing = build(&plain, &site).await.unwrap_err().to_string();
    assert!(missing.contains("fresh_gomod"), "{missing}");
    write("plan/cmd/main.go", "package main\n\nfunc main() { print(tag); println(\"fresh\") }\n");
    let fresh = [
        ("exec_pkg", text("./cmd")),
        ("fresh_gomod", Value::Bool(true)),
        ("module_path", text("example.test/q")),
    ];
    assert!(build(&wanted("exec:go", &fresh), &site).await.is_ok());
    assert!(!site.plan.join("go.mod").exists());
}

#[tokio::test]
async fn go_builds_for_a_user_without_a_home() {
    if !tool_or_skip("go", "go_builds_for_a_user_without_a_home") {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let real = tool::find("go", &std::env::var_os("PATH").unwrap_or_default()).unwrap();
    // A `go` whose user's cache directory can't be made, unless it is told of another one.
    let bin = t.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let body = format!(
        "#!/bin/sh\nunset HOME XDG_CACHE_HOME GOPATH\n: \"${{GOCACHE:=/proc/nowhere}}\"\nexport GOCACHE\nexec {} \"$@\"\n",
        real.display()
    );
    script(&bin.join("go"), &body);
    let site = Site { path: bin.into_os_string(), ..site(t.path()) };
    fs::write(site.plan.join("go.mod"), "module example.test/p\n\ngo 1.21\n").unwrap();
    // Without imports little has to be compiled into the empty cache.
    fs::write(site.plan.join("main.go"), "package main\n\nfunc main() {}\n").unwrap();
    let built = build(&wanted("exec:go", &[]), &site).await.unwrap();
    assert!(built.artifact.program.is_file() && site.home.work().join("go/cache").is_dir());
}

#[tokio::test]
async fn rust_builds_with_features_and_the_plan_s_own_lock_file() {
    let test = "rust_builds_with_features_and_the_plan_s_own_lock_file";
    if !tool_or_skip("cargo", test) {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    let write = |name: &str, body: &str| write(&site.plan, name, body);
    let toml = "[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[features]\nloud = []\n[workspace]\n";
    let lock = "version = 4\n\n[[package]]\nname = \"p\"\nversion = \"0.1.0\"\n";
    let main = "fn main() { print!(\"{}{}\", WORD, if cfg!(feature = \"loud\") { \"!\" } else { \"\" }) }\n";
    write("rs/Cargo.toml", toml);
    write("rs/Cargo.lock", lock);
    write("rs/src/main.rs", &format!("const WORD: &str = \"one\";\n{main}"));
    write("rs/target/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    let before = snapshot(&site.plan);
    let plain = wanted("exec:rust", &[("path", text("./rs")), ("profile", text("dev"))]);
    let first = build(&plain, &site).await.unwrap();
    assert_eq!(output_of(&first.artifact), "one");
    write("rs/target/debris", "made by a tool");
    assert!(build(&plain, &site).await.unwrap().cached);
    fs::remove_file(site.plan.join("rs/target/debris")).unwrap();
    assert_eq!(snapshot(&site.plan), before);

    let loud = Build { selectors: vec!["loud".into()], ..plain.clone() };
    assert_eq!(output_of(&build(&loud, &site).await.unwrap().artifact), "one!");
    write("rs/src/main.rs", &format!("const WORD: &str = \"two\";\n{main}"));
    assert_eq!(output_of(&build(&plain, &site).await.unwrap().artifact), "two");
    assert_eq!(output_of(&first.artifact), "one", "an earlier artifact stays whole");

    let failing = async |why: &str| match build(&plain, &site).await {
        Ok(_) => panic!("it is built although {why}"),
        Err(e) => e.to_string(),
    };
    write("rs/Cargo.lock", &lock.replace("0.1.0", "0.2.0"));
    let stale = failing("the lock file is another's").await;
    assert!(stale.contains("Cargo.lock doesn't fit Cargo.toml"), "{stale}");
    write("rs/Cargo.lock", lock);
    write("rs/src/bin/second.rs", "fn main() {}\n");
    let two = failing("there are two programs").await;
    assert!(two.contains("\"bin\"") && two.contains("second") && two.contains("choose one"), "{two}");
    write("rs/src/main.rs", "fn main() { what }\n");
    fs::remove_file(site.plan.join("rs/src/bin/second.rs")).unwrap();
    let broken = failing("it makes no sense").await;
    assert!(broken.contains("| error[E0425]: cannot find value `what`"), "{broken}");
    assert!(!broken.contains("{\"reason\""), "what cargo tells programs is not for people: {broken}");
    // A registry that nobody answers for.
    let config = "[source.crates-io]\nreplace-with = \"none\"\n[source.none]\nregistry = \"sparse+http://127.0.0.1:9/\"\n[net]\nretry = 0\n";
    write("rs/.cargo/config.toml", config);
    write("rs/Cargo.toml", &format!("{toml}[dependencies]\nno-such-crate = \"1\"\n"));
    fs::remove_file(site.plan.join("rs/Cargo.lock")).unwrap();
    let cut_off = failing("the registry is not there").await;
    assert!(cut_off.contains("crates can't be fetched"), "{cut_off}");

    let purged = purge(&site.home, "exec:rust", &site.plan).await.unwrap();
    assert!(purged.artifacts == 3 && purged.bytes > 0, "{purged:?}");
    assert!(!first.artifact.program.exists());
}

#[tokio::test]
async fn node_packages_are_installed_in_a_copy_and_start_by_themselves() {
    let test = "node_packages_are_installed_in_a_copy_and_start_by_themselves";
    if !tool_or_skip("node", test) || !tool_or_skip("npm", test) {
        return;
    }
    let t = tempfile::tempdir().unwrap();
    let site = site(t.path());
    let write = |name: &str, body: &str| write(&site.plan, name, body);
    let package = "{\"name\": \"p\", \"version\": \"1.0.0\", \"scripts\": {\"start\": \"node main.js a=b\", \"odd\": \"X=1 && node main.js $X\"}, \"dependencies\": {\"lib\": \"file:lib\"}}";
    write("js/package.json", package);
    write("js/lib/package.json", "{\"name\": \"lib\", \"version\": \"1.0.0\"}");
    write("js/lib/index.js", "module.exports = 'the lib'\n");
    write(
        "js/main.js",
        "process.stdout.write(require('lib') + ' ' + process.argv.slice(2).join() + ' ' + process.cwd())\n",
    );
    let before = snapshot(&site.plan);
    let plain = wanted("exec:node", &[("path", text("js"))]);
    let first = build(&plain, &site).await.unwrap();
    let here = std::env::current_dir().unwrap().display().to_string();
    assert_eq!(output_of(&first.artifact), format!("the lib a=b {here}"), "it starts where it is started");
    assert!(build(&plain, &site).await.unwrap().cached);
    assert_eq!(snapshot(&site.plan), before, "the plan has no node_modules");
    let odd =
        build(&wanted("exec:node", &[("path", text("js")), ("script", text("odd"))]), &site).await.unwrap();
    let said = output_of(&odd.artifact);
    assert!(said.starts_with("the lib 1 ") && said.ends_with("/src/js"), "as npm would: {said}");

    let failing = async |why: &str| match build(&plain, &site).await {
        Ok(_) => panic!("it is built although {why}"),
        Err(e) => e.to_string(),
    };
    write(
        "js/package-lock.json",
        "{\"name\": \"p\", \"version\": \"1.0.0\", \"lockfileVersion\": 3, \"packages\": {\"\": {\"name\": \"p\", \"version\": \"1.0.0\"}}}",
    );
    let stale = failing("the lock file is another's").await;
    assert!(stale.contains("npm ci") && stale.contains("lock file doesn't fit"), "{stale}");
    fs::remove_file(site.plan.join("js/package-lock.json")).unwrap();
    // A registry that nobody answers for.
    write("js/.npmrc", "registry=http://127.0.0.1:9/\nfetch-retries=0\n");
    write("js/package.json", &package.replace("file:lib", "1.0.0"));
    let cut_off = failing("the registry is not there").await;
    assert!(cut_off.contains("the registry can't be reached"), "{cut_off}");
    write("js/package.json", "{\"main\": \"gone.js\"}");
    let gone = failing("there is nothing to start").await;
    assert!(gone.contains("gone.js") && gone.contains("it is missing"), "{gone}");
}

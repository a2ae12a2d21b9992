//! Who may import whom: the arrows of `docs/design.md`, asked of cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Our crates, and which of ours each may use.
const ARROWS: [(&str, &[&str]); 9] = [
    (
        "testground",
        &[
            "testground-daemon",
            "testground-engine",
            "testground-model",
            "testground-pod",
            "testground-sidecar",
            "testground-sync",
        ],
    ),
    ("testground-daemon", &["testground-engine", "testground-model", "testground-sync"]),
    (
        "testground-engine",
        &["testground-linux", "testground-model", "testground-pod", "testground-sidecar", "testground-sync"],
    ),
    ("testground-sidecar", &["testground-linux", "testground-model", "testground-sync"]),
    ("testground-pod", &["testground-linux", "testground-model"]),
    ("testground-kit", &["testground-model"]),
    ("testground-sync", &["testground-model"]),
    ("testground-linux", &[]),
    ("testground-model", &[]),
];

/// Crates of others that belong to a few of ours.
const OWNED: [(&str, &[&str]); 8] = [
    ("axum", &["testground-daemon", "testground-sync"]),
    ("bollard", &["testground-engine", "testground-sidecar"]),
    ("kube", &["testground-engine", "testground-sidecar"]),
    ("libc", &["testground-linux"]),
    ("netlink-packet-core", &["testground-linux"]),
    ("netlink-packet-route", &["testground-linux"]),
    ("netlink-sys", &["testground-linux"]),
    ("nix", &["testground-linux"]),
];

/// What a crate that does no input or output must not use.
const NOT_IN_MODEL: [&str; 5] = ["tokio", "rustix", "axum", "tracing", "tempfile"];

#[test]
fn imports_follow_the_arrows_of_the_design() {
    let mut wrong = Vec::new();
    for (krate, uses) in dependencies() {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate) else {
            wrong.push(format!("{krate} has no arrows: draw them in docs/design.md and here"));
            continue;
        };
        for used in &uses {
            let ours = used.starts_with("testground");
            if ours && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{krate} must not use {used}"));
            }
            let owned = OWNED.iter().find(|(name, _)| name == used);
            if let Some((_, owners)) = owned.filter(|(_, owners)| !owners.contains(&krate.as_str())) {
                wrong.push(format!("{used} belongs to {}, {krate} must not use it", owners.join(" and ")));
            }
            if krate == "testground-model" && NOT_IN_MODEL.contains(&used.as_str()) {
                wrong.push(format!("{krate} does no input or output, it has no use for {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_arrows_have_no_circle() {
    let reach = |from: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(krate) = next.pop() {
            let uses = ARROWS.iter().find(|(name, _)| *name == krate).map_or(&[][..], |(_, uses)| uses);
            next.extend(uses.iter().filter(|u| seen.insert(**u)).map(|u| (*u).to_owned()));
        }
        seen
    };
    for (krate, _) in ARROWS {
        assert!(!reach(krate).contains(krate), "{krate} reaches itself");
    }
}

/// The crates of the workspace, each with what it uses outside of its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() >= 7, "the workspace has {} crates", packages.len());
    let uses = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies").iter();
        all.filter(|d| d["kind"] != "dev").map(|d| text(&d["name"])).collect()
    };
    packages.iter().map(|p| (text(&p["name"]), uses(p))).collect()
}

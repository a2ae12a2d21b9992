//! Whatever is read: no panic, and what resolves is whole.

mod common;

use common::{HEAD, MANIFEST, manifest};
use proptest::prelude::*;
use testground_model::composition::{Composition, Files};
use testground_model::manifest::Manifest;
use testground_model::resolve::{Overrides, resolve};

/// A composition that has every table, for mutation.
fn rich() -> String {
    format!(
        "{HEAD}{}",
        r#"
regions = { eu = "40%", us = "rest" }
[groups.resources]
memory = "64Mi"
[groups.run.test_params]
x = 1
[regions]
latency_matrix = "azure"
[[networks]]
name = "n"
subnet = "10.0.0.0/8"
[[links]]
from = "a"
to = "b[0]"
latency = "50ms"
loss = "1%"
[[timeline]]
at = "10s"
action = "ramp"
over = "1s"
from = "*"
to = "*"
loss = "5%"
[[runs]]
id = "r"
total_instances = 10
[[runs.groups]]
id = "a"
instances = { percentage = 0.5 }
[[runs.groups]]
id = "b"
instances = { percentage = 0.5 }
"#
    )
}

fn survives(text: &str) {
    if let Ok(composition) = Composition::parse("c.toml", text) {
        let _ = composition.check();
        match resolve(&manifest(), &composition, &Files::new(), &Overrides::default()) {
            Ok(checked) => {
                for run in checked.value {
                    assert!(run.groups.iter().all(|g| g.instances > 0));
                    let placed: usize = run.regions.values().map(Vec::len).sum();
                    assert!(placed <= run.instance_count() as usize);
                    assert!(run.timeline.is_sorted_by_key(|change| change.at));
                    let _ = run.to_string();
                }
            }
            Err(found) => {
                assert!(found.has_errors());
                let _ = found.render();
            }
        }
    }
    if let Ok(manifest) = Manifest::parse("manifest.toml", text) {
        let _ = manifest.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn toml_of_any_kind_is_read_without_a_panic(text in "((\\[\\[?[a-z.]{1,9}\\]\\]?|[a-z_]{1,8} ?= ?(\"[a-z%0-9]{0,6}\"|[0-9.-]{1,6}|\\{\\}|\\[\\])) ?\n){0,12}") {
        survives(&text);
    }

    #[test]
    fn a_mutilated_composition_is_read_without_a_panic(cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}\"=.a-z0-9%\n-]{0,4}"), 1..4)) {
        let mut text = rich();
        for (at, length, instead) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &instead);
            }
        }
        survives(&text);
    }

    #[test]
    fn a_mutilated_manifest_is_read_without_a_panic(at in 0usize..MANIFEST.len(), instead in "[\\[\\]{}\"=.a-z0-9]{0,4}") {
        let mut text = MANIFEST.to_owned();
        text.replace_range(at..(at + instead.len()).min(text.len()), &instead);
        survives(&text);
    }

    #[test]
    fn counts_of_a_run_sum_to_its_total(parts in proptest::collection::vec(1u32..9, 2..6), total in 60u32..500) {
        let of: u32 = parts.iter().sum();
        let mut text = format!("[global]\nplan = \"network/ping\"\ncase = \"any\"\nbuilder = \"exec:generic\"\nrunner = \"local:exec\"\ntotal_instances = {total}\n");
        for (i, part) in parts.iter().enumerate() {
            text.push_str(&format!("[[groups]]\nid = \"g{i}\"\ninstances = {{ percentage = {:?} }}\n", f64::from(*part) / f64::from(of)));
        }
        let composition = Composition::parse("c.toml", &text).unwrap();
        let runs = resolve(&manifest(), &composition, &Files::new(), &Overrides::default());
        let runs = runs.unwrap_or_else(|e| panic!("{e}")).value;
        prop_assert_eq!(runs[0].instance_count(), total);
    }
}

#[test]
fn the_rich_composition_resolves() {
    let composition = Composition::parse("c.toml", &rich()).unwrap();
    let runs = resolve(&manifest(), &composition, &Files::new(), &Overrides::default());
    let shown = runs.expect_err("its regions are not Azure's").render();
    assert!(shown.contains("2 errors"), "{shown}");
    let text = rich().replace("{ eu", "{ westeurope").replace(", us", ", eastus");
    survives(&text);
    let composition = Composition::parse("c.toml", &text).unwrap();
    resolve(&manifest(), &composition, &Files::new(), &Overrides::default())
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn deep_nesting_is_refused_and_does_not_end_the_program() {
    survives(&format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000)));
    survives(&format!("{HEAD}\n[{}]\n", vec!["a"; 100_000].join(".")));
    survives(&format!("{HEAD}\n[groups.build_config]\n{} = 1\n", vec!["a"; 100_000].join(".")));
}

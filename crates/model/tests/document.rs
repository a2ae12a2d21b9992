//! `docs/composition.md` says what the program does.

mod common;

use common::{HEAD, attempt};
use testground_model::catalogue::{BUILDERS, RUNNERS};
use testground_model::composition::Files;
use testground_model::manifest::Manifest;
use testground_model::regions;
use testground_model::template::FUNCTIONS;

const DOCUMENT: &str = include_str!("../../../docs/composition.md");

/// The TOML examples.
fn examples() -> Vec<&'static str> {
    DOCUMENT.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_is_right() {
    let inside = |name: &str| format!("id = \"{name}\"\nregion = \"westeurope\"");
    let head = HEAD.replace("id = \"a\"", &inside("clients")).replace("id = \"b\"", &inside("servers"));
    let regions = "[[groups]]\nid = \"eu\"\nregion = \"westeurope\"\ninstances = { count = 1 }\n[[groups]]\nid = \"us\"\nregion = \"eastus\"\ninstances = { count = 1 }\n";
    for example in examples() {
        if example.contains("[[testcases]]") {
            let manifest = Manifest::parse("manifest.toml", example).unwrap_or_else(|e| panic!("{e}"));
            assert!(manifest.check().unwrap_or_else(|e| panic!("{e}")).is_empty());
            continue;
        }
        let (_, warnings) =
            attempt(&format!("{head}{regions}{example}"), &Files::new()).unwrap_or_else(|e| panic!("{e}"));
        assert!(warnings.is_empty(), "{warnings}");
    }
    assert!(examples().len() >= 4);
}

#[test]
fn the_regions_of_built_in_matrices_are_listed() {
    let network = include_str!("../../../docs/network.md");
    for matrix in regions::built_in_names().map(|name| regions::built_in(name).unwrap()) {
        for region in matrix.names() {
            assert!(network.contains(&format!("`{region}`")), "{region} is not in docs/network.md");
        }
    }
}

#[test]
fn every_known_name_is_in_it() {
    let mut names: Vec<String> = Vec::new();
    for builder in BUILDERS {
        names.push(builder.name.to_owned());
        names.extend(builder.settings.iter().map(|s| (*s).to_owned()));
    }
    names.extend(RUNNERS.iter().map(|r| r.name.to_owned()));
    names.extend(regions::built_in_names().map(str::to_owned));
    // The program's own lists: whatever it offers for a wrong key.
    for tail in [
        "[unknown]\n",
        "[global2]\n[metadata]\nunknown = 1\n",
        "unknown = 1\n",
        "[groups.build]\nunknown = 1\n",
        "[groups.resources]\nunknown = 1\n",
        "[groups.run]\nunknown = 1\n",
        "[[runs]]\nid = \"r\"\nunknown = 1\n",
        "[[runs]]\nid = \"r\"\n[[runs.groups]]\nid = \"a\"\nunknown = 1\n",
        "[[networks]]\nname = \"n\"\nunknown = 1\n",
        "[[links]]\nfrom = \"a\"\nto = \"b\"\nunknown = 1\n",
        "[[timeline]]\nat = \"1s\"\naction = \"flap\"\nfrom = \"a\"\nto = \"b\"\nup = \"1s\"\ndown = \"1s\"\nunknown = 1\n",
        "[[timeline]]\nat = \"1s\"\naction = \"trace\"\nfrom = \"a\"\nto = \"b\"\nfile = \"f\"\nunknown = 1\n",
        "[[timeline]]\nat = \"1s\"\naction = \"ramp\"\nfrom = \"a\"\nto = \"b\"\nover = \"1s\"\nloss = \"1%\"\nunknown = 1\n",
    ] {
        let found = attempt(&format!("{HEAD}{tail}"), &Files::new()).unwrap_err();
        for mistake in found.iter() {
            let known = mistake.message.split("known are ").nth(1).unwrap_or_default();
            names.extend(
                known.split(", ").flat_map(|n| n.split(" and ")).map(str::to_owned).filter(|n| !n.is_empty()),
            );
        }
    }
    let settings = HEAD.replace("runner = ", "run_config = { unknown = 1 }\nrunner = ");
    let found = attempt(&settings, &Files::new()).unwrap_err().render();
    let known = found.split("known are ").nth(1).unwrap().lines().next().unwrap();
    names.extend(known.split(", ").map(str::to_owned));
    assert!(names.len() > 90, "{}", names.len());
    for name in names {
        let there = DOCUMENT.contains(&format!("`{name}"))
            || DOCUMENT.contains(&format!(".{name}`"))
            || DOCUMENT.contains(&format!("{name} = "))
            || DOCUMENT.contains(&format!("] {name}`"))
            || DOCUMENT.contains(&format!("[[{name}]]"))
            || DOCUMENT.contains(&format!("[{name}]"))
            || DOCUMENT.contains(&format!(".{name}]"))
            || name.ends_with(" more");
        assert!(there, "{name} is not in docs/composition.md");
    }
    for function in FUNCTIONS {
        assert!(DOCUMENT.contains(&format!("`{function} ")), "{function}");
    }
}

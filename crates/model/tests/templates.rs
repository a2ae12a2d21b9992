//! Templates, beside what Go's own text/template made of them (`tests/templates/generate`).

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use testground_model::composition::Files;
use testground_model::template::{Expanded, MAX_OUTPUT, expand};

fn environment() -> BTreeMap<String, String> {
    let pairs = [
        ("PLAN", "network/ping"),
        ("N", "3"),
        ("VERSIONS", "v0.1,v0.2,v0.3"),
        ("EMPTY", ""),
        ("ODD", r#"q"uo\te"#),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Expands a text, reading what it needs from the folder of the templates.
fn expanded(name: &str, text: &str) -> Result<(String, Vec<String>), String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let mut files = Files::new();
    for _ in 0..8 {
        match expand(name, text, &environment(), &files).map_err(|e| e.render())? {
            Expanded::Text { text, warnings } => {
                return Ok((text, warnings.iter().map(ToString::to_string).collect()));
            }
            Expanded::Needs(paths) => {
                for path in paths {
                    let text = std::fs::read_to_string(dir.join(&path)).map_err(|e| e.to_string());
                    assert!(files.insert(path, text).is_none(), "asked for twice");
                }
            }
        }
    }
    panic!("{name} never has enough files")
}

#[test]
fn templates_become_what_go_makes_of_them() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let mut compared = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "tmpl") {
            continue;
        }
        compared += 1;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let found = expanded(&name, &std::fs::read_to_string(&path).unwrap());
        match std::fs::read_to_string(path.with_extension("expected")) {
            Ok(wanted) => assert_eq!(found.unwrap_or_else(|e| panic!("{name}: {e}")).0, wanted, "{name}"),
            Err(_) => {
                let error = std::fs::read_to_string(path.with_extension("error")).unwrap();
                assert!(found.is_err(), "{name} became {found:?}, and Go says {error}");
            }
        }
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn mistakes_of_a_template_have_a_place() {
    for (text, says) in [
        (
            "a = 1\nb = {{ lower \"X\" }}\n",
            "t:2:8: failed to process composition template: there is no function lower",
        ),
        ("{{ splitt .Env.N }}", "did you mean `split`?"),
        ("a\n  {{ if .Env.N }}\n", "failed to process composition template: "),
        ("{{ atoi \"x\" }}", "strconv.Atoi: parsing \"x\": invalid syntax"),
        ("{{ atoi 5 }}", "atoi takes a text, and is given int"),
        ("{{ split }}", "split takes a text, and is given nothing"),
        ("{{ toml \"x\" }}", "toml takes a map"),
        ("{{ pick .Env }}", "pick takes a map and a key"),
        ("{{ load_resource \"missing.toml\" }}", "load_resource missing.toml failed: "),
        ("x = {{ $nothing }}", "$nothing"),
        (
            "{{ $count := 1 }}{{ $cuont = 2 }}",
            "t:1:21: failed to process composition template: undefined variable: $cuont (`:=` declares one) (did you mean `$count`?)",
        ),
        ("{{ end }}", "no block is open"),
        ("{{ .Env.N", "failed to process composition template: "),
        ("{{ template \"nobody\" }}", "nobody"),
        ("{{ define \"a\" }}{{ template \"a\" . }}{{ end }}{{ template \"a\" . }}", "more than 200 levels"),
        ("{{ range 3 }}{{ range 900000 }}{{ end }}{{ end }}", "more than 1000000 rounds"),
        ("{{ range 900 }}{{ printf \"%100000d\" 1 }}{{ end }}", "becomes more than"),
    ] {
        let found = match expand(
            "t",
            text,
            &environment(),
            &Files::from([("missing.toml".to_owned(), Err("gone".to_owned()))]),
        ) {
            Err(found) => found.iter().map(ToString::to_string).collect::<String>(),
            Ok(became) => panic!("{text} became {became:?}"),
        };
        assert!(found.contains(says), "{text}: {found}");
    }
}

#[test]
fn a_missing_key_is_warned_of() {
    let (text, warnings) = expanded("c.toml", "a = \"{{ .Env.NOBODY }}\"\n").unwrap();
    assert_eq!(text, "a = \"<no value>\"\n");
    assert!(warnings[0].starts_with("c.toml (expanded):1:6: "), "{warnings:?}");
}

#[test]
fn deep_nesting_is_refused_before_it_is_parsed() {
    for text in [
        "{{ if true }}".repeat(100_000),
        format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{{{{ if true }}}}{}{{{{ end }}}}", "{{ else if true }}".repeat(100_000)),
        "{{ range .x }}{{ with .y }}".repeat(60),
    ] {
        let found = expand("t", &text, &environment(), &Files::new()).unwrap_err().render();
        assert!(found.contains("more than 100 levels deep"), "{found}");
    }
    // A long chain of blocks that are closed is no nesting.
    let flat = "{{ if true }}x{{ end }}".repeat(10_000);
    assert!(
        matches!(expand("t", &flat, &environment(), &Files::new()), Ok(Expanded::Text { text, .. }) if text.len() == 10_000)
    );
}

#[test]
fn huge_widths_do_not_take_the_machine() {
    if let Ok(Expanded::Text { text, .. }) =
        expand("t", "{{ printf \"%999999999d\" 1 }}", &environment(), &Files::new())
    {
        assert!(text.len() <= MAX_OUTPUT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_expands_without_a_panic(text in "\\PC*") {
        let _ = expand("t", &text, &environment(), &Files::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_action_expands_without_a_panic(text in "(\\{\\{-? ?(if|else|end|range|with|define|template|block|\\$x|:=|=|\\.|\\.Env|\\||\\(|\\)|\"a\"|1|printf|\"%[0-9*.]{0,3}[a-zA-Z%]\"|index|slice|toml|pick|atoi| )* ?-?\\}\\}|x){0,8}") {
        let _ = expand("t", &text, &environment(), &Files::new());
    }
}

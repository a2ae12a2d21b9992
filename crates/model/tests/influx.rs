//! Lines of InfluxDB's line protocol, read by us and by InfluxDB's own parser (`influxdb1-client/models`, in Go).

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde::Deserialize;
use testground_model::measure::line::{Precision, Value, field_name, parse};

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Error", default)]
    error: String,
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "Tags", default)]
    tags: Vec<(String, String)>,
    #[serde(rename = "Fields", default)]
    fields: Vec<Field>,
    #[serde(rename = "Time")]
    time: i64,
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: String,
}

/// Lines as clients write them.
fn good() -> impl Strategy<Value = String> {
    let name = "[a-z]{1,3}(\\\\[ ,=])?[a-z.µ_-]{1,4}";
    let tags = proptest::collection::btree_map(
        "[a-z]{1,2}(\\\\=)?[a-z]{0,2}",
        "[a-z0-9./-]{1,4}(\\\\ )?[a-z]{1,2}",
        0..4,
    );
    let value = prop_oneof![
        "-?[0-9]{1,6}i",
        "-?[0-9]{1,4}(\\.[0-9]{1,4})?",
        "-?[0-9]\\.[0-9]{1,3}[eE][+-]?[0-9]{1,2}",
        "t|T|true|True|TRUE|f|F|false|False|FALSE",
        "\"([a-z ,=]|\\\\\"|\\\\\\\\){0,6}\"",
    ];
    let fields = proptest::collection::btree_map("[a-z]{1,3}", value, 1..4);
    (name, tags, fields, proptest::option::of(any::<i32>())).prop_map(|(name, tags, fields, time)| {
        let tags: String = tags.iter().map(|(k, v)| format!(",{k}={v}")).collect();
        let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let time = time.map_or_else(String::new, |t| format!(" {t}"));
        format!("{name}{tags} {}{time}", fields.join(","))
    })
}

/// The same with a character gone, doubled or replaced, and lines of nothing but special characters.
fn odd() -> impl Strategy<Value = String> {
    let changed = (good(), any::<prop::sample::Index>(), 0..3u8, "[a, =\"\\\\1iu.e+-]").prop_map(
        |(line, index, change, other)| {
            let mut characters: Vec<char> = line.chars().collect();
            let at = index.index(characters.len());
            match change {
                0 => drop(characters.remove(at)),
                1 => characters.insert(at, characters[at]),
                _ => characters[at] = other.chars().next().unwrap_or('x'),
            }
            characters.into_iter().collect()
        },
    );
    prop_oneof![3 => changed, 1 => "[a,= \"\\\\1i.e-]{1,16}"]
}

fn drawn(strategy: impl Strategy<Value = String>, count: usize) -> Vec<String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a line").current()).collect()
}

/// What InfluxDB makes of them; none where there is no Go.
fn asked(lines: &[String]) -> Option<Vec<Answer>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/influx");
    let mut go = Command::new("go")
        .args(["run", "."])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let hex: String =
        lines.iter().map(|l| l.bytes().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect();
    let mut to = go.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || to.write_all(hex.as_bytes()));
    let output = go.wait_with_output().expect("go ends");
    writer.join().expect("no panic").expect("go reads");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Some(text.lines().map(|l| serde_json::from_str(l).expect("an answer")).collect())
}

#[test]
fn influxdbs_own_parser_agrees() {
    let sane = drawn(good(), 3000);
    let mut lines = sane.clone();
    lines.extend(drawn(odd(), 9000));
    let Some(answers) = asked(&lines) else {
        assert!(std::env::var_os("TESTGROUND_TEST_REQUIRE").is_none_or(|v| v != "all"), "there is no Go");
        eprintln!("SKIPPED influxdbs_own_parser_agrees: there is no Go");
        return;
    };
    assert_eq!(answers.len(), lines.len());
    let (mut both, mut neither, mut stricter) = (0, 0, Vec::new());
    for (i, (line, theirs)) in lines.iter().zip(&answers).enumerate() {
        match parse(line.as_bytes(), Precision::Nanoseconds) {
            Ok(ours) => {
                assert!(theirs.error.is_empty(), "{line:?}: we take it, InfluxDB says {}", theirs.error);
                assert_eq!(ours.measurement(), theirs.name, "{line:?}");
                let mut tags: Vec<(String, String)> =
                    ours.tags().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
                tags.sort();
                let mut wanted = theirs.tags.clone();
                wanted.sort();
                assert_eq!(tags, wanted, "{line:?}");
                let fields: Vec<(String, String)> =
                    ours.fields().map(|(k, v)| (field_name(k).into_owned(), shown(&v))).collect();
                let wanted: Vec<(String, String)> =
                    theirs.fields.iter().map(|f| (f.key.clone(), f.value.clone())).collect();
                assert_eq!(fields, wanted, "{line:?}");
                assert_eq!(ours.time.unwrap_or(0), theirs.time, "{line:?}");
                both += 1;
            }
            Err(fault) if theirs.error.is_empty() => {
                assert!(i >= sane.len(), "{line:?}: InfluxDB takes it, we say {fault}");
                stricter.push((line, fault));
            }
            Err(_) => neither += 1,
        }
    }
    // Where we refuse more, a quote or a backslash stands where no client puts one.
    for (line, fault) in &stricter {
        assert!(line.contains(['"', '\\']), "{line:?}: InfluxDB takes it, we say {fault}");
    }
    assert!(both > 3500 && neither > 2000, "{both} {neither} {}", stricter.len());
    assert!(stricter.len() < lines.len() / 50, "{stricter:?}");
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Float(x) => format!("float {:016x} <nil>", x.to_bits()),
        Value::Integer(n) => format!("integer {n} <nil>"),
        Value::Boolean(b) => format!("boolean {b} <nil>"),
        Value::Text(text) => format!("text {text}"),
    }
}

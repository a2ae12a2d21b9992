//! Measurements: from an instance's socket to tables, files, comparisons and a real InfluxDB.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testground_model::event::EventKind;
use testground_model::measure::Measured;

use super::port::Port;
use super::support::{Done, PATIENCE, Session, composition, skip, until};

/// Bash that sends `$2` to the path `$1`, with more headers in `$3`, and shows the answer.
const POST: &str = r#"
post() { exec 3<>/dev/tcp/testground-influxdb/8086
  { printf 'POST %s HTTP/1.0\r\nContent-Length: %d\r\n%s\r\n' "$1" "$(wc -c <"$2")" "$3"; cat "$2"; } >&3; cat <&3; exec 3>&-; }
cd "$TEST_TEMP_PATH"
"#;

fn measured(done: &Done) -> Measured {
    let found = done.events.iter().find_map(|e| match &e.kind {
        EventKind::Measured(measured) => Some(measured.clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("nothing was measured: {done:?}"))
}

#[test]
fn what_is_posted_is_summed_up_and_what_is_no_point_is_refused() {
    let script = format!(
        r#"{POST}
printf 'load,kind=a value=%d 170000000%d\n' 1 0 2 1 3 2 4 3 >good
post '/write?db=testground&precision=s' good
printf 'zipped value=7\n' | gzip >zipped.gz
post '/write?db=testground' zipped.gz 'Content-Encoding: gzip
'
printf 'load,kind=a value=5 1700000004\nno point\n\xff value=1\n' >bad
post '/write?db=testground&precision=s' bad
{{ printf 'wide '; for i in {{1..10000}}; do printf 'f%d=1,' $i; done; printf 'last=1\n'; }} >wide
post '/write?db=testground' wide
printf x >x
post '/write' x
post '/write?db=testground&precision=d' x
printf 'q=CREATE+DATABASE+testground' >create
post '/query' create
printf 'q=SELECT+*+FROM+load' >select
post '/query' select
post '/nowhere' x"#
    );
    let session = Session::with_plan(&script, &composition(1, ""));
    let csv = session.path().join("points.csv");
    let done = session.run(&["--metrics", &csv.display().to_string()]);
    done.assert_success();
    let said = done.lines().join("\n");
    assert_eq!(said.matches("HTTP/1.0 204").count(), 2, "{said}");
    for words in [
        r"partial write: unable to parse 'no point': invalid field format\nunable to parse '� value=1': not UTF-8 dropped=0",
        "too many fields: more than 1000",
        "database is required",
        r#"invalid precision \"d\" (use n, u, ms, s, m or h)"#,
        r#"{"results":[{"statement_id":0}]}"#,
        "`SELECT * FROM load` is not answered here",
        "/nowhere is not answered here",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }
    let measured = measured(&done);
    assert_eq!((measured.points, measured.refused), (6, 3), "{measured:?}");
    let load = measured.rows.iter().find(|r| r.series.name == "load").expect("the load");
    assert_eq!((load.count, load.mean, load.p50, load.p99), (5, 3.0, 3.0, 5.0), "{load:?}");
    assert_eq!((load.series.tags.as_str(), load.series.group.as_str()), ("kind=a", "g"));
    assert!(done.warnings().iter().any(|w| w.starts_with("a measurement of g[0] was refused")), "{done:?}");

    // The table at the end, in 80 columns.
    let table: Vec<&str> = done.stdout.lines().skip_while(|l| !l.starts_with("  measurement")).collect();
    assert_eq!(table[1], "  load kind=a", "{}", done.stdout);
    assert_eq!(table[2], "    g                      5          3          3          5  ▁▃▅▆█");
    assert!(
        done.stdout.lines().any(|l| l.starts_with("  refused   3 points refused; the first: g[0]")),
        "{}",
        done.stdout
    );

    // Everything, in each format.
    let rows = std::fs::read_to_string(csv).expect("a file");
    assert!(rows.contains("1700000000000000000,g,0,load,kind=a,value,1\n"), "{rows}");
    assert_eq!(rows.lines().count(), 7, "{rows}");
    let lines = session.path().join("points.jsonl");
    let written = session.testground(&["metrics", "last", "-o", &lines.display().to_string()]);
    assert_eq!(written.code, Some(0), "{written:?}");
    let text = std::fs::read_to_string(lines).expect("a file");
    let first: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["tags"]["instance"], &first["fields"]["value"]), (&"0".into(), &1.0.into()));
    let shown = session.testground(&["metrics", "last"]);
    assert!(shown.stdout.contains(table[2]), "{shown:?}");
    let wrong = session.testground(&["metrics", "last", "-o", "points.xml"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains(".csv, .jsonl or .lp"), "{wrong:?}");
}

#[test]
fn files_of_sdks_are_collected_and_count_once() {
    let script = format!(
        r#"{POST}
name="results.$TEST_PLAN-$TEST_CASE.rtt.point,group_id=g,run=$TEST_RUN"
printf '%s value=5 1700000000000000001\n' "$name" >sent
post '/write?db=testground&precision=ns' sent
printf '{{"ts":1700000000000000001,"type":"point","name":"rtt","measures":{{"value":5}}}}\n' >"$TEST_OUTPUTS_PATH/results.out"
printf '{{"ts":1,"type":"timer","name":"t,x=y","measures":{{"mean":2.5,"p99":9}}}}\n{{"ts"' >>"$TEST_OUTPUTS_PATH/results.out"
printf '{{"ts":1,"type":"gauge","name":"heap","measures":{{"value":1}}}}\n' >"$TEST_OUTPUTS_PATH/diagnostics.out""#
    );
    let session = Session::with_plan(&script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    let measured = measured(&done);
    // Two instances; three points each, and half a line.
    assert_eq!((measured.points, measured.refused), (6, 2), "{measured:?}");
    let shown: Vec<(String, u64)> = measured.rows.iter().map(|r| (r.series.label(), r.count)).collect();
    assert_eq!(
        shown,
        [("rtt".to_owned(), 2), ("t x=y mean".into(), 2), ("t x=y p99".into(), 2), ("heap".into(), 2)]
    );
    assert!(!done.stdout.contains("heap") && done.stdout.contains("… 2 more series"), "{}", done.stdout);
    let all = session.testground(&["metrics", "last", "--all"]);
    assert!(all.stdout.contains("heap"), "{all:?}");
}

#[test]
fn a_flood_is_whole_on_disk_and_bounded_in_the_summary() {
    let script = format!(
        r#"{POST}
for ((batch = 0; batch < 10; batch++)); do
  awk -v b=$batch -v n="$TEST_INSTANCE_INDEX" 'BEGIN {{ for (i = 0; i < 10000; i++) printf "flood,id=%d value=%d %d\n", i, i, b * 10000 + i + 1 }}' >batch
  post '/write?db=testground' batch >/dev/null
done"#
    );
    let session = Session::with_plan(&script, &composition(2, ""));
    let done = session.run(&[]);
    done.assert_success();
    let measured = measured(&done);
    assert_eq!((measured.points, measured.refused, measured.series), (200_000, 0, 4096));
    let summed: u64 = measured.rows.iter().map(|r| r.count).sum();
    let shown = session.testground(&["metrics", "last", "--json"]);
    let all: Measured = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(all.rows.iter().map(|r| r.count).sum::<u64>() + all.beyond, 200_000);
    assert!(summed < 200_000 && done.stdout.contains("of more series than are summed up"), "{}", done.stdout);
}

#[test]
fn two_runs_are_compared() {
    let script = |shift: u32| {
        format!(
            r#"{POST}
for ((i = 0; i < 40; i++)); do printf 'latency value=%d %d\nsame value=%d %d\n' $((100 + i % 7 + {shift})) $((i + 1)) $((i % 5)) $((i + 1)); done >points
printf 'few value=1 1\n' >>points
post '/write?db=testground' points"#
        )
    };
    let session = Session::with_plan(&script(0), &composition(1, ""));
    let first = session.run(&[]).run();
    let second = session.run(&[]).run();
    session.script("plan/plan.sh", &script(30));
    let slow = session.run(&[]).run();
    let same = session.testground(&["compare", &first, &second, "--fail-on-regression", "5"]);
    assert_eq!(same.code, Some(0), "{same:?}");
    assert!(
        same.stdout.contains("0 of 2 tested series differ") && same.stdout.contains("too few"),
        "{same:?}"
    );
    let worse = session.testground(&["compare", &first, &slow, "--fail-on-regression", "5%"]);
    assert_eq!(worse.code, Some(1), "{worse:?}");
    assert!(
        worse.stdout.contains("1 of 2 tested series differ")
            && worse.stdout.contains("latency of g: +29.1 %"),
        "{worse:?}"
    );
    let better = session.testground(&[
        "compare",
        &first,
        &slow,
        "--fail-on-regression",
        "5",
        "--higher-is-better",
        "latency",
    ]);
    assert_eq!(better.code, Some(0), "{better:?}");
    let json = session.testground(&["compare", &first, &slow, "--json"]);
    let value: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let latency =
        value["series"].as_array().expect("series").iter().find(|s| s["name"] == "latency").expect("it");
    assert!(
        latency["p_corrected"].as_f64().expect("a probability") < 1e-9 && latency["greater"] == 1.0,
        "{latency}"
    );
}

#[test]
fn a_real_influxdb_gets_them_too() {
    let test = "a_real_influxdb_gets_them_too";
    let session = Session::new();
    let ports = [Port::free(), Port::free()];
    let [address, backup] = ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number));
    let Some(mut influxd) = influxd(&session, &address, &backup) else {
        skip(test, "there is no influxd (Debian: apt-get install influxdb)");
        return;
    };
    until("influxd answers", || http(&address, "/ping").filter(|a| a.contains(" 204 ")));
    let script = format!(
        r#"{POST}
for ((i = 1; i <= 12000; i++)); do printf 'load,kind=a value=%d %d\n' $i $i; done >points
post '/write?db=testground' points"#
    );
    let more = format!("[global.run_config]\ninfluxdb_endpoint = \"http://{address}\"\n");
    let plan = Session::with_plan(&script, &composition(1, &more));
    let done = plan.run(&[]);
    done.assert_success();
    let query = "/query?db=testground&q=SELECT+count(value),sum(value)+FROM+load+WHERE+time+%3E+0+GROUP+BY+instance,group_id";
    let answer = http(&address, query).expect("an answer");
    assert!(answer.contains(r#""tags":{"group_id":"g","instance":"0"}"#), "{answer}");
    assert!(answer.contains("12000,72006000]"), "{answer}");
    // A machine that is busy with something else may be warned of.
    assert!(!done.warnings().iter().any(|w| w.contains("InfluxDB") || w.contains("forward")), "{done:?}");
    let _ = influxd.kill();
    let _ = influxd.wait();

    // Gone: a warning by name, and everything is here.
    let done = plan.run(&[]);
    done.assert_success();
    assert!(
        done.warnings().iter().any(|w| w.contains(&format!("not forwarded to http://{address}"))),
        "{done:?}"
    );
    assert_eq!(measured(&done).points, 12_000);
}

/// InfluxDB, with all it writes in the session's directory.
fn influxd(session: &Session, address: &str, backup: &str) -> Option<Child> {
    Command::new("influxd").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    let dir = session.path().display();
    let config = format!(
        "reporting-disabled = true\nbind-address = \"{backup}\"\n[meta]\ndir = \"{dir}/meta\"\n[data]\ndir = \"{dir}/data\"\n\
         wal-dir = \"{dir}/wal\"\n[http]\nbind-address = \"{address}\"\n[monitor]\nstore-enabled = false\n"
    );
    let config = session.write("influxdb.conf", &config);
    Command::new("influxd")
        .arg("-config")
        .arg(config)
        .env("HOME", session.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

fn http(address: &str, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    std::io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

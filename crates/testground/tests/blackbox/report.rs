//! The HTML report, as somebody who opens it sees it.

use serde_json::Value;

use super::browser::{Page, installed, keep};
use super::support::{Session, composition, skip};

/// Opens the report of a run.
fn opened(test: &str, session: &Session) -> Option<Page> {
    let Some(browser) = installed() else {
        skip(test, "there is no chromium");
        return None;
    };
    let file = session.path().join("report.html");
    let written = session.testground(&["report", "last", "-o", &file.display().to_string()]);
    assert_eq!(written.code, Some(0), "{written:?}");
    Some(Page::open(browser, &file, session.path()))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_failed_run_is_understood_at_a_glance() {
    let evil = r#"<img src=x onerror="alert(1)"></script><script>console.log(666)</script>"#;
    let script = format!(
        r#"
testground sync signal up >/dev/null; testground sync barrier up 6 >/dev/null
post() {{ exec 3<>/dev/tcp/testground-influxdb/8086
  printf 'POST /write?db=testground HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s' ${{#1}} "$1" >&3; cat <&3 >/dev/null; }}
for i in 1 2 3 4 5 6 7 8 9 10; do post "round_trip,kind=<b>tcp</b> value=$((40 + i + TEST_INSTANCE_INDEX))"; done
testground sync signal posted >/dev/null; testground sync barrier posted 6 >/dev/null
echo 'a quiet line'
[ $TEST_INSTANCE_INDEX = 4 ] || {{ testground sync barrier never 1; exit 0; }}
echo '{evil}' >&2
exit 3"#
    );
    let links = "[[links]]\nfrom = \"g\"\nto = \"g\"\nlatency = \"7ms\"\n";
    let session = Session::with_plan(&script, &composition(6, links));
    let done = session.run(&[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let Some(mut page) = opened("a_failed_run_is_understood_at_a_glance", &session) else { return };

    // Outcome and cause come first, in the words of the terminal.
    assert_eq!(page.texts("#outcome"), ["✗ failure"]);
    let verdict = page.texts(".verdict").join("\n");
    assert!(verdict.contains("g[4] exited with code 3") && verdict.contains(evil), "{verdict}");
    assert_eq!(page.value("document.querySelectorAll('img, script[src], link[href^=http]').length"), 0);
    assert_eq!(page.texts(".groups .tally"), ["0 / 6"]);

    // The grid: one cell an instance, colour and text, filters that count.
    let cells = page.texts(".cell");
    assert_eq!(cells.len(), 6, "{cells:?}");
    assert!(
        cells[4].starts_with("✗g[4] exited with code 3") || cells[4].starts_with("✗ g[4] exited with code 3"),
        "{cells:?}"
    );
    assert_eq!(page.texts("#filters button"), ["all 6", "✗ failed 1", "■ stopped with the run 5"]);
    page.value("document.querySelector('#filters [data-value=failed]').click()");
    assert_eq!(page.texts(".cell").len(), 1);
    page.value("document.querySelector('#filters [data-value=all]').click()");
    assert_eq!(page.texts(".cell").len(), 6);

    // The chosen one is the one that failed; the arrow keys go to its neighbour, and Enter chooses it.
    let detail = page.texts("#detail").join("\n");
    assert!(detail.contains("g[4]") && detail.contains(evil) && !detail.contains("null"), "{detail}");
    page.value("document.querySelectorAll('.cell')[4].focus()");
    page.key("ArrowRight");
    assert_eq!(
        page.value("document.activeElement.title").as_str().unwrap_or_default().split(' ').next(),
        Some("g[5]")
    );

    // Search narrows instances and events.
    page.search("onerror");
    let found = page.texts("#found").join("");
    assert!(found.starts_with("1 of 6 instances"), "{found}");
    assert_eq!(page.texts(".cell").len(), 1);
    page.search("no such thing anywhere");
    assert_eq!((page.texts(".cell").len(), page.texts("#events li")), (0, vec!["none".to_owned()]));
    page.search("");
    assert!(page.texts("#events li").len() > 6);

    // Links and measurements say what the terminal said.
    let row = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let measured = page.texts("#links tbody tr:nth-child(2)").join(" ");
    let line = done.stdout.lines().find(|l| l.trim_start().starts_with("measured ")).expect("the link");
    assert_eq!(row(&measured), row(line));
    let cells = page.texts(".measured tbody td.n");
    let line = done.stdout.lines().find(|l| l.starts_with("    g ")).expect("the measurement");
    assert_eq!(row(line)[1..5], cells[..4], "{}", done.stdout);
    assert_eq!(cells[0], "60");
    assert_eq!(page.texts(".measured tbody th"), ["round_trip kind=<b>tcp</b>"]);
    let points = page.value("[...document.querySelectorAll('#plots .path')].length");
    assert!(number(&points) >= 1, "{points}");
    let marks = page.value("document.querySelectorAll('#overview .mark.failure').length");
    assert!(number(&marks) >= 1, "{marks}");

    // It can be read: enough contrast in both themes, one level-one heading, every control with a name.
    for scheme in ["light", "dark"] {
        page.prefer(scheme);
        keep(&mut page, &format!("failed-{scheme}"));
        for selector in
            [".hint", ".cell.failed", ".cell.stopped", ".pill", "#found", "dt", ".culprit strong", ".after"]
        {
            let ratio = page.value(&contrast(selector)).as_f64().expect("a ratio");
            assert!(ratio >= 4.5, "{scheme} {selector}: {ratio}");
        }
    }
    assert_eq!(page.value("document.querySelectorAll('h1').length"), 1);
    let nameless = "[...document.querySelectorAll('button, input')].filter(e => !(e.innerText.trim() || e.ariaLabel || \
                    e.labels?.length || e.textContent.trim())).length";
    assert_eq!(page.value(nameless), 0);
    assert_eq!(page.complaints(), Vec::<&Value>::new());
    assert_eq!(page.requests(), Vec::<String>::new());
}

#[test]
fn a_report_of_a_thousand_instances_is_drawn_and_searched() {
    let session = Session::with_plan("true", &composition(1, ""));
    let done = session.run(&[]);
    done.assert_success();
    // The record of a larger run, made of this one's: a thousand instances of which three failed.
    let dir = done.outputs();
    let text = std::fs::read_to_string(dir.join("run.jsonl")).expect("the record");
    let mut more = String::new();
    for line in text.lines() {
        let mut event: Value = serde_json::from_str(line).expect("an event");
        if event["instance"].is_null() {
            if event["event"] == "run_finished" {
                event["groups"] = serde_json::json!([["g", { "ok": 997, "total": 1000 }]]);
            }
            more.push_str(&format!("{event}\n"));
            continue;
        }
        for index in 0..1000 {
            event["instance"]["index"] = index.into();
            if event["event"] == "instance_ended" && index % 400 == 7 {
                event["end"] = serde_json::json!({ "end": "exit_code", "code": 9 });
                event["last_lines"] = serde_json::json!(["the last word"]);
            }
            more.push_str(&format!("{event}\n"));
            if event["event"] == "instance_ended" {
                event["end"] = serde_json::json!({ "end": "succeeded" });
            }
        }
    }
    std::fs::write(dir.join("run.jsonl"), more).expect("a larger record");
    let Some(mut page) = opened("a_report_of_a_thousand_instances_is_drawn_and_searched", &session) else {
        return;
    };
    assert!(
        page.texts(".cause").join("").starts_with("Enough of every group succeeded: 997 of 1,000 instances")
    );
    assert_eq!(page.texts(".cell").len(), 1000);
    assert_eq!(page.texts("#filters button"), ["all 1,000", "✗ failed 3", "✓ succeeded 997"]);
    page.search("the last word");
    assert_eq!(page.texts(".cell"), ["✗", "✗", "✗"]);
    assert!(page.texts("#found").join("").starts_with("3 of 1,000 instances"), "{:?}", page.texts("#found"));
    page.search("g[999]");
    assert_eq!(page.texts(".cell"), ["✓"]);
    page.search("");
    keep(&mut page, "thousand");
    assert_eq!(page.complaints(), Vec::<&Value>::new());
}

#[test]
fn a_run_that_was_killed_has_a_report_too() {
    let session = Session::with_plan("echo up; sleep 60", &composition(1, ""));
    let mut going = session.start(&[]);
    going.instances_up(1);
    going.signal(rustix::process::Signal::KILL);
    let _ = going.wait();
    let page = session.testground(&["report", "last", "-o", "-"]);
    assert_eq!(page.code, Some(0), "{page:?}");
    assert!(page.stdout.contains("The record of this run has no end"), "{page:?}");
    let unknown = session.testground(&["report", "nonsense"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("nonsense"), "{unknown:?}");
}

/// The contrast of an element's text with the ground behind it (WCAG 2.2).
fn contrast(selector: &str) -> String {
    format!(
        "(() => {{
  const light = (c) => {{
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => {{ v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }});
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }};
  const element = document.querySelector({selector:?});
  let ground = element;
  while (ground && getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
  const a = light(getComputedStyle(element).color), b = light(getComputedStyle(ground || document.body).backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}})()"
    )
}

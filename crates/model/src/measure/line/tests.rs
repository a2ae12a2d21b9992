use proptest::prelude::*;

use super::*;

fn ns(line: &str) -> Result<Line<'_>, Fault> {
    parse(line.as_bytes(), Precision::Nanoseconds)
}

type Fields<'a> = Vec<(String, Value<'a>)>;

fn read(line: &str) -> (String, Vec<(String, String)>, Fields<'_>, Option<i64>) {
    let line = ns(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    (
        line.measurement().into_owned(),
        line.tags().map(|(k, v)| (k.into_owned(), v.into_owned())).collect(),
        line.fields().map(|(k, v)| (field_name(k).into_owned(), v)).collect(),
        line.time,
    )
}

#[test]
fn a_point_has_a_name_tags_fields_and_a_time() {
    let (name, tags, fields, time) = read(r#"cpu,host=a,zone=b load=0.5,n=3i,up=t,why="a \"b\", c=d" 17"#);
    assert_eq!(name, "cpu");
    assert_eq!(tags, [("host".into(), "a".into()), ("zone".into(), "b".into())]);
    let why = Value::Text(r#"a "b", c=d"#.into());
    let wanted =
        [("load", Value::Float(0.5)), ("n", Value::Integer(3)), ("up", Value::Boolean(true)), ("why", why)];
    assert_eq!(fields, wanted.map(|(k, v)| (k.to_owned(), v)));
    assert_eq!(time, Some(17));
}

#[test]
fn escapes_are_those_of_each_place() {
    let (name, tags, fields, _) = read(r#"a\,b\ c\=d,t\=\ x=v\,\ \=y f\ \,\==1 1"#);
    assert_eq!(name, "a,b c=d");
    assert_eq!(tags, [("t= x".into(), "v, =y".into())]);
    assert_eq!(fields, [("f ,=".to_owned(), Value::Float(1.0))]);
    // A backslash before anything else stands for itself.
    assert_eq!(read(r"a\b c=1").0, r"a\b");
}

#[test]
fn what_is_no_point_is_refused_in_influxdbs_words() {
    let words = [
        ("", "missing measurement"),
        (",a=b c=1", "missing measurement"),
        ("a", "missing fields"),
        ("a ", "missing fields"),
        ("a,b=c", "missing fields"),
        ("a, b=1", "missing tag key"),
        ("a,=c d=1", "missing tag key"),
        ("a,b d=1", "missing tag value"),
        ("a,b= d=1", "missing tag value"),
        ("a,b=c=d e=1", "invalid tag format"),
        ("a,b=c,b=d e=1", "duplicate tags"),
        ("a =1", "missing field key"),
        ("a b=", "missing field value"),
        ("a b=1,", "invalid field format"),
        ("a b=1,c", "invalid field format"),
        ("a b", "invalid field format"),
        ("a b=1x", "invalid number"),
        ("a b=NaN", "invalid number"),
        ("a b=-", "invalid number"),
        ("a b=1.5i", "invalid number"),
        ("a b=1u", "invalid number"),
        ("a b=1e400", "invalid number"),
        ("a b=9223372036854775808i", "invalid number"),
        ("a b=yes", "invalid boolean"),
        ("a b=+1", "invalid boolean"),
        (r#"a b="c"#, "unbalanced quotes"),
        (r#"a b="c"d"#, "invalid field format"),
        ("a b=1 x", "bad timestamp"),
        ("a b=1 1\r", "bad timestamp"),
        ("a b=1 1 2", "invalid point"),
        ("a b=1 9223372036854775807", "time outside range"),
    ];
    for (line, fault) in words {
        assert_eq!(ns(line).expect_err(line).to_string(), fault, "{line}");
    }
    assert_eq!(parse(b"a b=\"\xff\" 1", Precision::Nanoseconds), Err(Fault::NotUtf8));
    let key = format!("a,t={} b=1", "x".repeat(MAX_KEY));
    assert!(matches!(ns(&key), Err(Fault::KeyTooLong(_))));
}

#[test]
fn ten_thousand_fields_are_too_many() {
    let fields = |n: usize| (0..n).map(|i| format!("f{i}=1")).collect::<Vec<_>>().join(",");
    assert_eq!(ns(&format!("a {}", fields(10_000))), Err(Fault::TooManyFields));
    let most = format!("a {}", fields(MAX_FIELDS));
    assert_eq!(ns(&most).unwrap().fields().count(), MAX_FIELDS);
}

#[test]
fn times_are_multiplied_into_nanoseconds() {
    let at = |name: &str| parse(b"a b=1 -3", Precision::parse(name).unwrap()).unwrap().time.unwrap();
    let seen = ["", "u", "ms", "s", "m", "h"].map(at);
    assert_eq!(seen, [-3, -3000, -3_000_000, -3_000_000_000, -180_000_000_000, -10_800_000_000_000]);
    assert_eq!(parse(b"a b=1 9223372036855", Precision::Seconds), Err(Fault::TimeOutsideRange));
    assert!(Precision::parse("d").unwrap_err().contains("use n, u, ms"));
}

#[test]
fn a_line_ends_at_a_newline_outside_of_text() {
    fn ends(text: &str) -> (Vec<&str>, String) {
        let (mut at, mut ends) = (0, Vec::new());
        while let Some(end) = line_end(text.as_bytes(), at) {
            ends.push(&text[at..end]);
            at = end + 1;
        }
        (ends, text[at..].to_owned())
    }
    assert_eq!(ends("a b=1\nc d=2\n"), (vec!["a b=1", "c d=2"], String::new()));
    assert_eq!(ends("a b=\"x\ny\" 1\nc d"), (vec!["a b=\"x\ny\" 1"], "c d".to_owned()));
    assert_eq!(ends("a b=\"x\\\"\ny\"\nc"), (vec!["a b=\"x\\\"\ny\""], "c".to_owned()));
    // A quote in a tag is no text.
    assert_eq!(ends("a,t=\" b=1\nc\n").0, ["a,t=\" b=1", "c"]);
    assert!(is_blank(b"  \t") && is_blank(b" # a=1") && is_blank(b"") && !is_blank(b"a"));
}

fn name() -> impl Strategy<Value = String> {
    // A name may hold anything but line breaks; a backslash at its end has no way to be written.
    "[a-zA-Z0-9,= \\\\\"µ#._-]{1,12}".prop_filter("no lone backslash, no leading blank", |s| {
        !s.ends_with('\\')
            && !s.starts_with([' ', '#', '\\'])
            && !s.contains("\\,")
            && !s.contains("\\=")
            && !s.contains("\\ ")
    })
}

fn value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float),
        any::<i64>().prop_map(Value::Integer),
        any::<bool>().prop_map(Value::Boolean),
        "[^\\\\]{0,20}".prop_map(|t| Value::Text(t.into())),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        measurement in name(),
        tags in proptest::collection::btree_map(name(), name(), 0..4),
        fields in proptest::collection::btree_map(name(), value(), 1..5),
        time in i64::MIN + 2..i64::MAX,
    ) {
        let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut text = String::new();
        write(&mut text, &measurement, &tags, fields.iter().map(|(k, v)| (k.as_str(), v.clone())), time);
        prop_assert_eq!(line_end(text.as_bytes(), 0), Some(text.len() - 1));
        let line = parse(&text.as_bytes()[..text.len() - 1], Precision::Nanoseconds);
        let line = line.map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert_eq!(line.measurement(), measurement.as_str());
        let read: Vec<(String, String)> = line.tags().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let wanted: Vec<(String, String)> = tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        prop_assert_eq!(read, wanted);
        let read: Vec<(String, Value<'_>)> = line.fields().map(|(k, v)| (field_name(k).into_owned(), v)).collect();
        let wanted: Vec<(String, Value<'_>)> = fields.into_iter().collect();
        prop_assert_eq!(read, wanted);
        prop_assert_eq!(line.time, Some(time));
    }

    #[test]
    fn any_bytes_are_a_point_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(line) = parse(&bytes, Precision::Seconds) {
            // What was accepted has all its parts.
            prop_assert!(line.fields().count() > 0);
            prop_assert!(line.tags().all(|(k, v)| !k.is_empty() && !v.is_empty()));
            let again = format!("{} {} 5", line.key, line.fields);
            let again = parse(again.as_bytes(), Precision::Nanoseconds).map(|l| (l.key.len(), l.fields.len()));
            prop_assert_eq!(again, Ok((line.key.len(), line.fields.len())));
        }
    }

    #[test]
    fn likely_bytes_are_a_point_or_a_fault(text in "[a,= \"\\\\1i.e-]{0,30}") {
        if let Ok(line) = parse(text.as_bytes(), Precision::Nanoseconds) {
            prop_assert!(line.fields().count() > 0);
        }
    }
}

use proptest::prelude::*;

use super::*;

proptest! {
    /// What is written by hand is what a JSON library reads.
    #[test]
    fn answers_are_json(id in "\\PC{0,20}|[\\x00-\\x7f]{0,20}", seq in any::<u64>(), text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
        let read = |out: &[u8]| -> Response { serde_json::from_slice(out).unwrap() };
        let mut out = Vec::new();
        write_numbered(&mut out, &id, Numbered::Signal, seq);
        let expected = Response { id: id.clone(), signal_entry: Some(Seq { seq }), ..Response::default() };
        prop_assert_eq!(read(&out), expected);
        out.clear();
        write_item(&mut out, &id, &quote(&text), Some(seq));
        let expected =
            Response { id: id.clone(), subscribe: text.clone(), seq: Some(seq), ..Response::default() };
        prop_assert_eq!(read(&out), expected);
        prop_assert_eq!(unquote(&quote(&text)), text.clone());
        out.clear();
        write_error(&mut out, &id, &text, ErrorForm::Json, None);
        let error = read(&out).error;
        prop_assert_eq!(serde_json::from_str::<String>(&error).unwrap(), text);
    }

    /// Any bytes are a request or a mistake, and mistakes name no id that was not there.
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(bad) = parse(&bytes) {
            prop_assert!(!bad.what.is_empty());
            prop_assert!(bad.id.len() <= MAX_ID_BYTES);
        }
    }
}

#[test]
fn an_id_within_a_payload_is_not_taken_for_the_requests() {
    let id = |text: &str| parse_cut(text.as_bytes(), text.as_bytes(), String::new()).id;
    assert_eq!(id(r#"{"id":"5","publish":{"payload":{"id":"9"}}}"#), "5");
    assert_eq!(id(r#"{ "id" : "a\"b" , "#), "a\"b");
    assert_eq!(id(r#"{"publish":{"payload":{"id":"9"}},"id":"5"}"#), "5");
    assert_eq!(id(r#"{"publish":{"payload":{"x":{},"id":"9"}}}"#), "");
    assert_eq!(id(r#"{"publish":{"payload":{"id":"9"#), "");
}

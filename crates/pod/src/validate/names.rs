//! The forms of names: labels and subdomains of RFC 1123, ports, environment variables, qualified names.
//!
//! Each function returns what is wrong with a text, in the API server's words.

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn collect(problems: impl IntoIterator<Item = (bool, String)>) -> Vec<String> {
    problems.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect()
}

fn too_long(text: &str, most: usize) -> (bool, String) {
    (text.len() > most, format!("must be no more than {most} bytes"))
}

fn is_label(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if inner(a) && inner(z))
        && bytes.iter().all(|b| inner(b) || *b == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// `my-name`: containers, volumes, hostnames.
pub(super) fn label(text: &str) -> Vec<String> {
    collect([too_long(text, 63), (!is_label(text), LABEL.to_owned())])
}

/// `example.com`: pods, config maps, host aliases.
pub(super) fn subdomain(text: &str) -> Vec<String> {
    collect([too_long(text, 253), (!text.split('.').all(is_label), SUBDOMAIN.to_owned())])
}

/// `http-metrics`: named ports.
pub(super) fn port(text: &str) -> Vec<String> {
    let charset =
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    collect([
        too_long(text, 15),
        (!charset, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned()),
        (!text.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)".to_owned()),
        (text.contains("--"), "must not contain consecutive hyphens".to_owned()),
        (text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen".to_owned()),
    ])
}

/// Names of environment variables since 1.32.
pub(super) fn environment(text: &str) -> Vec<String> {
    let printable = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let text =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    collect([(!printable, text.to_owned())])
}

/// Names of environment variables before 1.32.
pub(super) fn environment_strict(text: &str) -> Vec<String> {
    let start = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b"-._".contains(&b));
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let text = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', \
        and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for \
        validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')";
    collect([(!(start && rest), text.to_owned())])
}

/// `example.com/name`: labels, annotations, resources.
pub(super) fn qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) if !name.contains('/') => (Some(prefix), name),
        Some(_) => {
            return vec![
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                 with an alphanumeric character with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
                    .to_owned(),
            ];
        }
        None => (None, text),
    };
    let mut problems: Vec<_> =
        prefix.into_iter().flat_map(subdomain).map(|p| format!("prefix part {p}")).collect();
    problems.extend(collect([
        (name.is_empty(), "name part must be non-empty".to_owned()),
        (name.len() > 63, "name part must be no more than 63 bytes".to_owned()),
        (!name.is_empty() && !is_word(name), QUALIFIED.to_owned()),
    ]));
    problems
}

/// Values of labels.
pub(super) fn label_value(text: &str) -> Vec<String> {
    collect([too_long(text, 63), (!text.is_empty() && !is_word(text), LABEL_VALUE.to_owned())])
}

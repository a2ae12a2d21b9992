//! `/query`: the few statements that clients send before they write. Measurements are read from the run's record.

use serde_json::{Value, json};

/// Parameters of a request's address or form.
#[derive(Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

// === impl Parameters ===

impl Parameters {
    pub(super) fn read(encoded: &str) -> Parameters {
        Parameters(
            form_urlencoded::parse(encoded.as_bytes())
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Answers statements; databases and retention policies need not be made, so that whoever makes one is content.
///
/// # Errors
/// Names the statement that is not answered.
pub(super) fn query(text: &str) -> Result<Value, String> {
    let mut results = Vec::new();
    for (id, statement) in text.split(';').map(str::trim).filter(|s| !s.is_empty()).enumerate() {
        let words: Vec<String> = statement.split_whitespace().take(3).map(str::to_uppercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        results.push(match words.as_slice() {
            ["CREATE", "DATABASE", _] | ["CREATE", "RETENTION", "POLICY"] => json!({ "statement_id": id }),
            ["SHOW", "DATABASES"] => json!({
                "statement_id": id,
                "series": [{ "name": "databases", "columns": ["name"], "values": [["testground"]] }]
            }),
            _ => {
                let statement: String = statement.chars().take(80).collect();
                return Err(format!(
                    "`{statement}` is not answered here: a run's measurements are read with `testground metrics` (CREATE \
                     DATABASE, CREATE RETENTION POLICY and SHOW DATABASES are answered)"
                ));
            }
        });
    }
    if results.is_empty() {
        return Err("missing required parameter \"q\"".to_owned());
    }
    Ok(json!({ "results": results }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_a_database_is_content_and_who_reads_is_told_where() {
        let made = query("CREATE DATABASE \"testground\"; show databases").unwrap();
        assert_eq!(made["results"][1]["statement_id"], 1);
        assert_eq!(made["results"][1]["series"][0]["values"][0][0], "testground");
        let refused = query("SELECT mean(value) FROM x").unwrap_err();
        assert!(refused.contains("`SELECT mean(value) FROM x`") && refused.contains("testground metrics"));
        assert!(query(" ; ").is_err());
        let parameters = Parameters::read("db=a%20b&q=x+y");
        assert_eq!(
            (parameters.get("db"), parameters.get("q"), parameters.get("p")),
            (Some("a b"), Some("x y"), None)
        );
    }
}

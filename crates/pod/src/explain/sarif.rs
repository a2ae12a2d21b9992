//! A report as SARIF 2.1.0, which code hosts show beside the lines.

use serde_json::{Value, json};

use super::{Lint, Report, Severity};
use crate::load::{Code, Position};

/// The report of one or more files as one SARIF log.
pub fn log(reports: &[Report]) -> Value {
    let results: Vec<Value> = reports.iter().flat_map(results).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "testground pod explain",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn rules() -> Vec<Value> {
    let lints = Lint::ALL.iter().map(|lint| {
        json!({
            "id": lint.id(),
            "shortDescription": { "text": lint.about() },
            "help": { "text": format!("Rules {} of docs/pods.md", lint.rules().join(", ")) },
            "defaultConfiguration": { "level": level(lint.severity()) },
        })
    });
    let codes = Code::ALL.iter().map(|code| {
        json!({
            "id": code.id(),
            "shortDescription": { "text": code.describe() },
            "defaultConfiguration": { "level": "error" },
        })
    });
    lints.chain(codes).collect()
}

fn results(report: &Report) -> Vec<Value> {
    let result = |id: &str, level: &str, text: String, at: Position, path: &str| {
        json!({
            "ruleId": id,
            "level": level,
            "message": { "text": text },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(&report.file) },
                    "region": { "startLine": at.line, "startColumn": at.column },
                },
                "logicalLocations": [{ "fullyQualifiedName": path }],
            }],
        })
    };
    let mistakes = report.mistakes.iter().map(|m| result(m.code.id(), "error", m.to_string(), m.at, &m.path));
    let warnings = report.objects.iter().flat_map(|o| &o.warnings).map(|w| {
        let text = format!("{}. {}. Fix: {}.", w.found, w.consequence, w.fix);
        result(w.lint.id(), level(w.severity), text, w.at, &w.path)
    });
    mistakes.chain(warnings).collect()
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
    }
}

/// A relative reference: what a URI reserves is escaped, separators stay.
fn uri(path: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~/".contains(b);
    path.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

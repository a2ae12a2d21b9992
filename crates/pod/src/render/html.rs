//! A timeline as one self-contained page: the picture to fit and in detail, and what happened as tables.

use std::fmt::Write as _;

use super::{
    short,
    svg::{self, WIDTH},
    word,
};
use crate::simulate::timeline::Timeline;

/// Pixels for a second in the detailed picture, and the widest that it may be.
const DETAIL: f64 = 24.0;
const WIDEST: f64 = 16_000.0;

/// The page.
pub fn page(timeline: &Timeline) -> String {
    let title = svg::escape(&timeline.pod);
    let detail = (timeline.end.as_secs_f64() * DETAIL).clamp(WIDTH, WIDEST);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}: a pod's timeline</title>\n\
         <style>{STYLE}</style></head>\n<body>\n\
         <input type=\"radio\" name=\"zoom\" id=\"fit\" checked><label for=\"fit\">fit</label>\n"
    );
    if detail > WIDTH {
        out += "<input type=\"radio\" name=\"zoom\" id=\"detail\"><label for=\"detail\">detail</label>\n";
    }
    let _ = writeln!(out, "<div class=\"picture fit\">{}</div>", svg::picture(timeline));
    if detail > WIDTH {
        let _ = writeln!(out, "<div class=\"picture detail\">{}</div>", svg::draw(timeline, detail));
    }
    kubectl(&mut out, timeline);
    events(&mut out, timeline);
    conditions(&mut out, timeline);
    out + "</body></html>\n"
}

fn kubectl(out: &mut String, timeline: &Timeline) {
    let rows = timeline.kubectl.iter().map(|at| {
        let c = at.is();
        vec![short(at.at), format!("{}/{}", c.ready, c.of), c.status.clone(), c.restarts.to_string()]
    });
    table(out, "kubectl get pods", &["seconds", "READY", "STATUS", "RESTARTS"], rows);
}

fn events(out: &mut String, timeline: &Timeline) {
    let rows = timeline.events.iter().map(|at| {
        let e = at.is();
        let kind = if e.record.warning { "Warning" } else { "Normal" };
        let container = e.container.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        vec![short(at.at), kind.to_owned(), e.record.reason.clone(), container, e.record.message.clone()]
    });
    table(out, "kubectl get events", &["seconds", "TYPE", "REASON", "CONTAINER", "MESSAGE"], rows);
}

fn conditions(out: &mut String, timeline: &Timeline) {
    let rows = timeline.conditions.iter().map(|at| {
        let c = at.is();
        let holds = if c.holds { "True" } else { "False" };
        let reason = c.reason.as_ref().map_or_else(String::new, ToString::to_string);
        let message = c.message.clone().unwrap_or_default();
        vec![short(at.at), word(c.kind), holds.to_owned(), reason, message]
    });
    table(out, "conditions", &["seconds", "TYPE", "STATUS", "REASON", "MESSAGE"], rows);
}

fn table(out: &mut String, title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let cells = |tag: &str, values: &[String]| -> String {
        values.iter().map(|v| format!("<{tag}>{}</{tag}>", svg::escape(v))).collect()
    };
    let head: Vec<_> = head.iter().map(|h| (*h).to_owned()).collect();
    let _ = write!(out, "<h2>{title}</h2>\n<table><thead><tr>{}</tr></thead><tbody>\n", cells("th", &head));
    for row in rows {
        let _ = writeln!(out, "<tr>{}</tr>", cells("td", &row));
    }
    out.push_str("</tbody></table>\n");
}

const STYLE: &str = "
body{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;margin:16px;color:#1f2933;background:#fff}
.picture{overflow-x:auto;margin:8px 0 20px}.picture.detail{display:none}.fit svg{max-width:100%;height:auto}
#fit:checked~.detail{display:none}#fit:checked~.fit{display:block}
#detail:checked~.detail{display:block}#detail:checked~.fit{display:none}
h2{font-size:15px;margin:18px 0 6px}table{border-collapse:collapse}
th,td{text-align:left;padding:2px 14px 2px 0;font-variant-numeric:tabular-nums;vertical-align:top}
th{color:#7b8794;font-size:11px}td{border-top:1px solid #e4e7eb}
";

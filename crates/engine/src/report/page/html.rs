//! The page's markup.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use testground_model::event::{BarrierWait, Proof};
use testground_model::measure::{EXACT_VALUES, Measured, QUANTILE_ERROR};
use testground_model::outcome::RunOutcome;

use super::super::measured::{self, Shown, is_main};
use super::super::record::{End, Finished};
use super::super::summary::{LinkWords, emulator, link_words, other_effects};
use super::super::words::{clock, count, counted, list, seconds, tame};
use super::Page;
use super::data::data;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Failed instances that stand below the outcome; the grid has all.
const MOST_CAUSES: usize = 5;
/// Lines of the last output of each.
const MOST_LINES: usize = 12;
/// Rows of the tables of links and of measurements.
const MOST_ROWS: usize = 500;
/// Names in a list.
const MOST_NAMES: usize = 12;

/// The whole page.
pub(super) fn page(page: &Page) -> String {
    let record = &page.record;
    let mut out = String::with_capacity(1 << 20);
    let title = format!("{}:{} {}", record.plan, record.case, outcome(page).0);
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        hash(STYLE),
        hash(SCRIPT),
        Text(&title)
    );
    header(&mut out, page);
    out.push_str("<main>\n");
    verdict(&mut out, page);
    groups(&mut out, page);
    instances(&mut out, page);
    links(&mut out, &record.proofs);
    if let Some(measured) = &record.measured {
        measurements(&mut out, measured);
    }
    timeline(&mut out, page);
    about(&mut out, page);
    let _ = write!(
        out,
        "</main>\n<script type=\"application/json\" id=\"data\">{}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        data(page)
    );
    out
}

/// The outcome's word, its class, and its sign.
fn outcome(page: &Page) -> (&'static str, &'static str, &'static str) {
    let Some(outcome) = page.record.finished.as_ref().map(|f| &f.outcome) else {
        return ("no end in the record", "unknown", "?");
    };
    let (class, sign) = match outcome {
        RunOutcome::Success => ("ok", "✓"),
        RunOutcome::Interrupted => ("stopped", "■"),
        _ => ("failed", "✗"),
    };
    (outcome.title(), class, sign)
}

fn header(out: &mut String, page: &Page) {
    let record = &page.record;
    let (word, class, sign) = outcome(page);
    let run = record.run.as_ref().map(ToString::to_string).unwrap_or_default();
    let _ = write!(
        out,
        "<header>\n<div class=\"title\"><h1>{}<span class=\"case\">{}</span></h1>\
         <span class=\"pill {class}\" id=\"outcome\"><span aria-hidden=\"true\">{sign}</span> {word}</span></div>\n\
         <dl class=\"facts\"><div><dt>run</dt><dd><code>{}</code></dd></div><div><dt>began</dt><dd>{} UTC</dd></div>\
         <div><dt>took</dt><dd>{}</dd></div><div><dt>instances</dt><dd>{}</dd></div>\
         <div><dt>seed</dt><dd><code>{}</code></dd></div></dl>\n\
         <nav aria-label=\"parts of this page\"><a href=\"#instances\">Instances</a>{}{}<a href=\"#timeline\">Timeline</a>\
         <a href=\"#about\">About</a></nav>\n\
         <div class=\"search\" role=\"search\"><label for=\"search\">Search</label>\
         <input id=\"search\" type=\"search\" placeholder=\"an instance, words of an event, a last line of output\" \
         autocomplete=\"off\" spellcheck=\"false\"><kbd aria-hidden=\"true\">/</kbd>\
         <span id=\"found\" role=\"status\"></span>\
         <button id=\"theme\" type=\"button\" title=\"light or dark\">◐<span class=\"hidden\">light or dark</span></button></div>\n\
         </header>\n",
        Text(&record.plan),
        Text(&record.case),
        Text(&run),
        Text(clock(record.began).split('.').next().unwrap_or_default()),
        record.finished.as_ref().map_or_else(|| "?".to_owned(), |f| seconds(f.seconds)),
        count(u64::from(record.instances)),
        record.seed,
        if record.proofs.is_empty() { "" } else { "<a href=\"#links\">Links</a>" },
        if record.measured.is_some() { "<a href=\"#measurements\">Measurements</a>" } else { "" },
    );
}

fn verdict(out: &mut String, page: &Page) {
    let record = &page.record;
    let (_, class, _) = outcome(page);
    let _ = writeln!(out, "<section class=\"verdict {class}\" aria-label=\"outcome\">");
    match &record.finished {
        None => out.push_str(
            "<p class=\"cause\">The record of this run has no end: its client was killed, or the run still goes on.</p>\n",
        ),
        Some(Finished { outcome: RunOutcome::Success, groups, seconds: took, .. }) => {
            let (ok, total) = groups.iter().fold((0, 0), |(ok, total), (_, t)| (ok + t.ok, total + t.total));
            let words = if ok == total {
                format!("Every group is whole: {}", counted(u64::from(total), "instance"))
            } else {
                let of = counted(u64::from(total), "instance");
                format!("Enough of every group succeeded: {} of {of}", count(u64::from(ok)))
            };
            let _ = writeln!(out, "<p class=\"cause\">{words} in {}.</p>", seconds(*took));
        }
        Some(Finished { outcome, seconds: took, .. }) => {
            let mut lines = outcome.cause().unwrap_or_default().lines();
            let first = tame(lines.next().unwrap_or_default());
            let _ = writeln!(out, "<p class=\"cause\">{} <span class=\"after\">after {}</span></p>", Text(&first), seconds(*took));
            let rest: Vec<String> = lines.map(tame).collect();
            if !rest.is_empty() && record.causes().next().is_none() {
                let _ = writeln!(out, "<pre>{}</pre>", Text(&rest.join("\n")));
            }
        }
    }
    // Whoever looks for the cause should know that it may be the machine's.
    let cause = record.finished.as_ref().and_then(|f| f.outcome.cause());
    let late = record.finished.as_ref().and_then(|f| f.emulator_late).map(|late| late.to_string());
    if let Some(late) = late.filter(|late| cause != Some(late)) {
        let _ = writeln!(out, "<p class=\"warning\"><strong>emulator</strong> {}</p>", Text(&late));
    }
    causes(out, page);
    stall(out, page);
    for warning in &record.warnings {
        let _ = writeln!(out, "<p class=\"warning\"><strong>warning</strong> {}</p>", Text(&tame(warning)));
    }
    out.push_str("</section>\n");
}

fn causes(out: &mut String, page: &Page) {
    let causes: Vec<&End> = page.record.causes().collect();
    for End { instance, end, seconds: ran, .. } in causes.iter().take(MOST_CAUSES) {
        let _ = writeln!(
            out,
            "<div class=\"culprit\"><p><strong>{}</strong> {} <span class=\"after\">after {}</span></p>",
            Text(&instance.to_string()),
            Text(&tame(&end.to_string())),
            seconds(*ran)
        );
        let lines = page.instances.get(instance).map(|life| life.lines.as_slice()).unwrap_or_default();
        let last = &lines[lines.len().saturating_sub(MOST_LINES)..];
        if !last.is_empty() {
            let _ = writeln!(out, "<pre>{}</pre>", Text(&last.join("\n")));
        }
        out.push_str("</div>\n");
    }
    if causes.len() > MOST_CAUSES {
        let names: Vec<String> = causes[MOST_CAUSES..].iter().map(|e| e.instance.to_string()).collect();
        let _ = writeln!(out, "<p>Also failed: {}</p>", Text(&list(&names, MOST_NAMES)));
    }
}

fn stall(out: &mut String, page: &Page) {
    let Some((waited, barriers)) = &page.record.stall else { return };
    let _ = writeln!(out, "<p>Everybody waited, and nothing had changed for {waited:.1} s:</p>\n<ul>");
    for BarrierWait { state, count: signals, target, waiting, missing } in barriers.iter().take(20) {
        let _ = write!(
            out,
            "<li>barrier <strong>{}</strong>: {signals} of {target}; waiting: {}",
            Text(&tame(state)),
            Text(&list(waiting, MOST_NAMES))
        );
        if !missing.is_empty() {
            let _ = write!(out, "; missing: <strong>{}</strong>", Text(&list(missing, MOST_NAMES)));
        }
        out.push_str("</li>\n");
    }
    out.push_str("</ul>\n");
}

fn groups(out: &mut String, page: &Page) {
    let Some(finished) = &page.record.finished else { return };
    out.push_str("<section aria-label=\"groups\"><ul class=\"groups\">\n");
    for (id, tally) in finished.groups.iter().take(MOST_ROWS) {
        let class = if tally.ok == tally.total { "ok" } else { "failed" };
        let _ = writeln!(
            out,
            "<li class=\"{class}\"><span class=\"name\">{}</span> <meter min=\"0\" max=\"{}\" value=\"{}\" \
             aria-label=\"succeeded\"></meter> <span class=\"tally\">{} / {}</span></li>",
            Text(&tame(id)),
            tally.total.max(1),
            tally.ok,
            count(u64::from(tally.ok)),
            count(u64::from(tally.total))
        );
    }
    out.push_str("</ul></section>\n");
}

fn instances(out: &mut String, page: &Page) {
    let _ = write!(
        out,
        "<section id=\"instances\"><h2>Instances</h2>\n<p class=\"hint\">One cell an instance. Choose one to see how it \
         ended and what it wrote last; {} of output in all, in the run's folder.</p>\n\
         <div class=\"filters\" role=\"group\" aria-label=\"which instances\" id=\"filters\"></div>\n\
         <div id=\"grid\"></div><div id=\"detail\" role=\"region\" aria-label=\"the chosen instance\" aria-live=\"polite\" \
         hidden></div>\n<noscript><p>The grid, plots and search need JavaScript; the rest of the page doesn't.</p></noscript>\n\
         </section>\n",
        counted(page.output_lines, "line")
    );
}

fn links(out: &mut String, proofs: &[Proof]) {
    if proofs.is_empty() {
        return;
    }
    out.push_str(
        "<section id=\"links\"><h2>Links</h2>\n<p class=\"hint\">What the composition asks for, and what was measured before \
         the instances were let go, between two ports of the lab that had these links.</p>\n<div class=\"wide\"><table><thead><tr><th>link</th><th></th>\
         <th class=\"n\">round trip</th><th class=\"n\">one way (p50 / p99)</th><th class=\"n\">rate</th>\
         <th class=\"n\">loss</th></tr></thead>\n",
    );
    // Those that are off come first: they are why one looks.
    let off = proofs.iter().filter(|p| !p.off.is_empty());
    let well = proofs.iter().filter(|p| p.off.is_empty());
    for proof in off.chain(well).take(MOST_ROWS) {
        let LinkWords { asked, measured } = link_words(proof);
        let class = if proof.off.is_empty() { "ok" } else { "failed" };
        let cells = |cells: &[String; 4]| {
            cells.iter().map(|c| format!("<td class=\"n\">{}</td>", Text(c))).collect::<String>()
        };
        let _ = writeln!(
            out,
            "<tbody class=\"{class}\"><tr><th rowspan=\"2\" scope=\"rowgroup\">{}{}</th><td class=\"what\">asked</td>{}</tr>\
             <tr><td class=\"what\">measured</td>{}</tr>",
            Text(&tame(&proof.label)),
            other_effects(proof)
                .map(|e| format!("<small>also asked: {}</small>", Text(&e)))
                .unwrap_or_default(),
            cells(&asked),
            cells(&measured),
        );
        for off in &proof.off {
            let _ = writeln!(out, "<tr><td colspan=\"6\" class=\"off\">OFF: {}</td></tr>", Text(&tame(off)));
        }
        out.push_str("</tbody>\n");
    }
    out.push_str("</table></div>\n");
    if proofs.len() > MOST_ROWS {
        let _ = writeln!(out, "<p>… and {}.</p>", counted((proofs.len() - MOST_ROWS) as u64, "more link"));
    }
    out.push_str("</section>\n");
}

fn measurements(out: &mut String, measured: &Measured) {
    let _ = write!(
        out,
        "<section id=\"measurements\"><h2>Measurements</h2>\n<p class=\"hint\">What the instances recorded: {}. Lines are \
         means over time since the run began, bands reach from the least value to the greatest.{}</p>\n\
         <div id=\"plots\"></div>\n",
        counted(measured.points, "point"),
        if measured.rows.iter().all(|r| r.exact) {
            String::new()
        } else {
            format!(
                " Of more than {EXACT_VALUES} values p50 and p99 are within {} %.",
                QUANTILE_ERROR * 100.0
            )
        }
    );
    if measured.refused > 0 {
        let first = measured.first_refused.as_deref().unwrap_or_default();
        let _ = writeln!(
            out,
            "<p class=\"warning\"><strong>{} refused</strong> the first: {}</p>",
            counted(measured.refused, "point"),
            Text(&super::short(first))
        );
    }
    let (mains, others): (Vec<_>, Vec<_>) = measured.rows.iter().take(MOST_ROWS).partition(|r| is_main(r));
    for (rows, summary) in
        [(mains, None), (others, Some("More series: what SDKs add, and diagnostics of runtimes"))]
    {
        if rows.is_empty() {
            continue;
        }
        if let Some(summary) = summary {
            let _ = writeln!(out, "<details><summary>{summary} ({})</summary>", count(rows.len() as u64));
        }
        out.push_str(
            "<div class=\"wide\"><table class=\"measured\"><thead><tr><th>measurement</th><th>group</th><th class=\"n\">count</th>\
             <th class=\"n\">mean</th><th class=\"n\">p50</th><th class=\"n\">p99</th><th class=\"n\">least</th>\
             <th class=\"n\">greatest</th><th>over time</th></tr></thead><tbody>\n",
        );
        for row in rows {
            let Shown { count, mean, p50, p99 } = Shown::of(row);
            let figure = super::super::words::figure;
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{count}</td><td class=\"n\">{mean}</td>\
                 <td class=\"n\">{p50}</td><td class=\"n\">{p99}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"spark\" aria-hidden=\"true\">{}</td></tr>",
                Text(&super::short(&row.series.label())),
                Text(&tame(&row.series.group)),
                figure(row.min),
                figure(row.max),
                measured::spark(&row.spark)
            );
        }
        out.push_str("</tbody></table></div>\n");
        if summary.is_some() {
            out.push_str("</details>\n");
        }
    }
    let more = measured.series.saturating_sub(measured.rows.len().min(MOST_ROWS) as u64);
    if more > 0 {
        let _ = writeln!(out, "<p>… and {} more series, in the run's record.</p>", count(more));
    }
    out.push_str("</section>\n");
}

fn timeline(out: &mut String, page: &Page) {
    out.push_str(
        "<section id=\"timeline\"><h2>Timeline</h2>\n<p class=\"hint\">How many instances ran when, changes of the network, \
         and failures; below, event by event, in seconds since the run began.</p>\n<div id=\"overview\"></div>\n\
         <div class=\"filters\" role=\"group\" aria-label=\"which events\" id=\"kinds\"></div>\n\
         <ol id=\"events\" class=\"events\"></ol>\n",
    );
    if page.left_out > 0 {
        let _ = writeln!(
            out,
            "<p class=\"hint\">{} of single instances are not in this list; <code>run.jsonl</code> in the run's folder has \
             all.</p>",
            counted(page.left_out, "event")
        );
    }
    out.push_str("</section>\n");
}

fn about(out: &mut String, page: &Page) {
    let record = &page.record;
    out.push_str("<section id=\"about\"><h2>About this run</h2>\n<dl class=\"about\">");
    if let Some(text) = emulator(record) {
        let known = record.lateness.as_ref().is_some_and(|record| record.late.is_some());
        let words = if known {
            "Lateness is how long after its time a packet left: what the machine, not the link, added."
        } else {
            "The kernel carried the packets, and keeps no record of how long after its time each one left."
        };
        let _ = write!(out, "<dt>network emulator</dt><dd>{}<br><small>{words}</small></dd>", Text(&text));
    }
    if let Some(requests) = &record.requests {
        let _ = write!(out, "<dt>network requests</dt><dd>{}</dd>", Text(&requests.to_string()));
    }
    let run = record.run.as_ref().map(ToString::to_string).unwrap_or_default();
    let again = match &record.lateness {
        Some(by_kernel) if by_kernel.late.is_none() => {
            "<code>--plane switch</code> repeats every chance on the links by a seed; here the kernel drew."
                .to_owned()
        }
        _ => {
            let command = again(&record.command, record.seed);
            format!("<code>{}</code> gives every chance on the links the same value.", Text(&tame(&command)))
        }
    };
    let _ = write!(
        out,
        "<dt>outputs</dt><dd><code>{}</code></dd><dt>again</dt><dd>{again}</dd><dt>all measurements</dt><dd><code>testground metrics {} -o points.csv</code></dd></dl>\n\
         </section>\n",
        Text(&tame(&record.outputs)),
        Text(&run)
    );
}

/// The command that was given, for a shell, with the seed that was in force; the flag alone where the command is unknown.
fn again(command: &[String], seed: u64) -> String {
    let mut words = Vec::new();
    let mut typed = command.iter();
    while let Some(word) = typed.next() {
        match word.trim_start_matches('-') {
            "seed" if word.starts_with('-') => drop(typed.next()),
            flag if flag.starts_with("seed=") && word.starts_with('-') => {}
            _ => words.push(quoted(word)),
        }
    }
    if !words.is_empty() {
        words.insert(0, "testground".to_owned());
    }
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Text from anywhere, as text in markup or in a quoted attribute.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if super::turns(c) => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_done_again_by_its_own_command_with_its_seed() {
        let command = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let typed = command(&["run", "a plan", "--seed", "7", "-seed=8", "--tp", "x=it's"]);
        assert_eq!(again(&typed, 42), r"testground run 'a plan' --tp 'x=it'\''s' --seed 42");
        assert_eq!(again(&[], 42), "--seed 42");
    }
}

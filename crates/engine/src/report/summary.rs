//! What stands at the end of a run: groups, links asked and measured, where outputs lie, and the cause of a failure.
//!
//! Made for 80 columns. The cause comes last, where the eye is when the run has ended.

use std::fmt::Write;

use serde_json::Value;
use testground_model::event::{BarrierWait, Late, Proof, Replayed};
use testground_model::name::RunId;
use testground_model::outcome::{InstanceEnd, RunOutcome};
use testground_model::shape::{Chance, Filter, LinkShape, Loss};

use super::measured;
use super::record::{End, Finished, Record};
use super::words::{self, asked_delay, count, counted, delay, list, percent, rate, seconds, tame, wrapped};

/// Links that are within tolerance and shown one by one.
const MOST_LINKS: usize = 12;
/// Failed instances that are shown one by one.
const MOST_CAUSES: usize = 5;
/// Barriers that are shown one by one.
const MOST_BARRIERS: usize = 8;
/// Groups that are shown one by one.
const MOST_GROUPS: usize = 40;
/// Names in a list of instances.
const MOST_NAMES: usize = 6;
/// Lines of an instance's output.
const MOST_LINES: usize = 12;

/// Whether escape sequences colour what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(pub(super) bool);

/// Why a run failed, for a lab that is held before the summary can be written.
pub(super) fn causes(record: &Record, width: usize, paint: Paint) -> String {
    let mut out = String::new();
    failures(&mut out, record, width, paint);
    stall(&mut out, record, width);
    waits(&mut out, record, width);
    out
}

/// The summary of a run that has ended; nothing before that.
pub(super) fn summary(record: &Record, width: usize, paint: Paint) -> String {
    let Some(finished) = &record.finished else { return String::new() };
    let mut out = String::from("\n");
    groups(&mut out, finished, paint);
    links(&mut out, &record.proofs, width, paint);
    if let Some(measured) = &record.measured {
        let run = record.run.as_ref().map_or("last", RunId::as_str);
        out.push_str(&measured::table(measured, width, run));
    }
    facts(&mut out, record, width);
    failures(&mut out, record, width, paint);
    stall(&mut out, record, width);
    waits(&mut out, record, width);
    verdict(&mut out, record, finished, width, paint);
    out
}

fn groups(out: &mut String, finished: &Finished, paint: Paint) {
    let longest = finished.groups.iter().map(|(id, _)| id.chars().count()).max().unwrap_or(0).clamp(5, 50);
    let _ = writeln!(out, "  {:<longest$}   ok / total", "group");
    // Groups that are whole say least: they give way when there are many.
    let many = finished.groups.len() > MOST_GROUPS;
    let mut whole = 0;
    for (id, tally) in &finished.groups {
        let is_whole = tally.ok == tally.total;
        if many && is_whole && whole >= MOST_GROUPS / 2 {
            whole += 1;
            continue;
        }
        whole += usize::from(is_whole);
        let line = format!("{:>5} / {}", tally.ok, tally.total);
        let line = if is_whole { paint.green(&line) } else { paint.red(&line) };
        let _ = writeln!(out, "  {:<longest$}{line}", words::cut(&tame(id), longest));
    }
    if many && whole > MOST_GROUPS / 2 {
        let _ = writeln!(out, "  … {} more, all whole", counted((whole - MOST_GROUPS / 2) as u64, "group"));
    }
}

fn links(out: &mut String, proofs: &[Proof], width: usize, paint: Paint) {
    if proofs.is_empty() {
        return;
    }
    row(out, ["link", "round trip", "one way p50 / p99", "rate", "loss"]);
    let mut well = 0;
    for proof in proofs {
        if proof.off.is_empty() {
            well += 1;
            if well > MOST_LINKS {
                continue;
            }
        }
        let _ = writeln!(out, "  {}", words::cut(&tame(&proof.label), width - 2));
        let LinkWords { asked, measured } = link_words(proof);
        let [a, b, c, d] = &asked;
        row(out, ["  asked", a, b, c, d]);
        let [a, b, c, d] = &measured;
        row(out, ["  measured", a, b, c, d]);
        if let Some(effects) = other_effects(proof) {
            out.push_str(&wrapped("    also asked: ", &effects, width));
        }
        for off in &proof.off {
            let text = wrapped("    OFF: ", &tame(off), width);
            out.push_str(&paint.red(text.trim_end()));
            out.push('\n');
        }
    }
    if well > MOST_LINKS {
        let _ =
            writeln!(out, "  … {}, all within tolerance", counted((well - MOST_LINKS) as u64, "more link"));
    }
}

/// A link in words: round trip, one way, rate and loss.
pub(super) struct LinkWords {
    pub(super) asked: [String; 4],
    pub(super) measured: [String; 4],
}

/// What was asked of a link and what was measured on it.
pub(super) fn link_words(proof: &Proof) -> LinkWords {
    let round_trip = asked_round_trip(proof).map_or_else(|| "-".into(), asked_delay);
    let limit = proof.replayed.map(|r| r.rate).or(proof.asked.bandwidth.map(|b| b as f64));
    let limit = limit.map_or_else(|| "-".into(), rate);
    let measured = |d: Option<std::time::Duration>| d.map_or_else(|| "-".to_owned(), delay);
    let one_way = match (proof.delay_p50, proof.delay_p99) {
        (None, None) => "-".to_owned(),
        (p50, p99) => format!("{} / {}", measured(p50), measured(p99)),
    };
    let carried = proof.rate.map_or_else(|| "-".into(), rate);
    let lost = percent((proof.loss_percent * 100.0).round() / 100.0);
    LinkWords {
        asked: [round_trip, asked_one_way(&proof.asked), limit, asked_loss(&proof.asked)],
        measured: [measured(proof.round_trip_p50), one_way, carried, lost],
    }
}

fn row(out: &mut String, [label, round_trip, one_way, rate, loss]: [&str; 5]) {
    if label == "link" {
        out.push('\n');
    }
    let line = format!("  {label:<14} {round_trip:>11} {one_way:>23} {rate:>13} {loss:>10}");
    let _ = writeln!(out, "{}", line.trim_end());
}

/// What a round trip should take.
fn asked_round_trip(proof: &Proof) -> Option<std::time::Duration> {
    let back = proof.back.filter(|_| proof.asked.filter == Filter::Accept)?;
    Some(proof.asked.latency + back)
}

fn asked_one_way(shape: &LinkShape) -> String {
    if shape.filter != Filter::Accept {
        return "-".into();
    }
    match shape.jitter.spread {
        std::time::Duration::ZERO => asked_delay(shape.latency),
        spread => format!("{} ± {}", asked_delay(shape.latency), asked_delay(spread)),
    }
}

/// The share that is lost in the long run.
fn asked_loss(shape: &LinkShape) -> String {
    let share = match shape.loss {
        _ if shape.filter != Filter::Accept => 100.0,
        Loss::Random(chance) => chance.percent,
        // A chain that never leaves the state that it begins in, which is the good one.
        Loss::GilbertElliott { p: 0.0, good, .. } => good,
        Loss::GilbertElliott { p, r, bad, good } => (p * bad + r * good) / (p + r),
    };
    percent((share * 100.0).round() / 100.0)
}

/// What has no column.
pub(super) fn other_effects(proof: &Proof) -> Option<String> {
    let shape = &proof.asked;
    let mut effects = Vec::new();
    if let Some(Replayed { from, length, .. }) = proof.replayed {
        let (from, length) = (asked_delay(from), asked_delay(length));
        effects.push(format!("the bandwidth follows a trace: {length} of it were replayed, from {from} on"));
    }
    match shape.filter {
        Filter::Accept => {}
        Filter::Reject => effects.push("everything refused".to_owned()),
        Filter::Drop => effects.push("everything dropped".to_owned()),
    }
    if let Loss::GilbertElliott { p, r, bad, good } = shape.loss {
        effects.push(format!("loss in bursts (p {p} %, r {r} %, bad {bad} %, good {good} %)"));
    }
    let chances = [("duplicate", shape.duplicate), ("corrupt", shape.corrupt), ("reorder", shape.reorder)];
    let asked = chances.into_iter().filter(|(_, chance): &(_, Chance)| !chance.is_never());
    effects.extend(asked.map(|(name, chance)| {
        let lost = if name == "corrupt" { " (which a receiver drops)" } else { "" };
        format!("{name} {}{lost}", percent(chance.percent))
    }));
    (!effects.is_empty()).then(|| effects.join(", "))
}

fn facts(out: &mut String, record: &Record, width: usize) {
    out.push('\n');
    if let Some(text) = emulator(record) {
        out.push_str(&wrapped("  emulator  ", &text, width));
    }
    if let Some(requests) = &record.requests {
        out.push_str(&wrapped("  requests  ", &requests.to_string(), width));
    }
    for warning in &record.warnings {
        out.push_str(&wrapped("  warning   ", &tame(warning), width));
    }
    let _ = writeln!(out, "  seed      {}", record.seed);
    let _ = writeln!(out, "  outputs   {}", record.outputs);
}

/// What the emulator says of itself, where it had anything to do.
pub(super) fn emulator(record: &Record) -> Option<String> {
    let late = record.lateness.as_ref().filter(|l| l.packets > 0 || !l.drops.is_empty())?;
    let mut text = counted(late.packets, "packet");
    let _ = match late.late {
        Some(Late { p50_us, p99_us, max_us }) => write!(
            text,
            "; released late by {p50_us:.0} us (p50), {p99_us:.0} us (p99), {max_us:.0} us (worst)"
        ),
        None => write!(text, "; how late they were released is unknown on this plane"),
    };
    let drops: Vec<_> = late.drops.iter().filter(|(_, n)| **n > 0).collect();
    if !drops.is_empty() {
        let drops: Vec<String> = drops.iter().map(|(why, n)| format!("{} {why}", count(**n))).collect();
        let _ = write!(text, "; dropped: {}", drops.join(", "));
    }
    Some(text)
}

fn failures(out: &mut String, record: &Record, width: usize, paint: Paint) {
    let causes: Vec<&End> = record.causes().collect();
    for end in causes.iter().take(MOST_CAUSES) {
        let End { instance, end, seconds: ran, last_lines } = end;
        let after = if matches!(end, InstanceEnd::NotStarted { .. }) {
            String::new()
        } else {
            format!(" (after {})", seconds(*ran))
        };
        out.push('\n');
        let words = wrapped("  ", &format!("{instance} {}{after}", tame(&end.to_string())), width);
        out.push_str(&paint.red(words.trim_end()));
        out.push('\n');
        let said: Vec<String> = last_lines.iter().filter_map(|line| spoken(line)).collect();
        let hidden = said.len().saturating_sub(MOST_LINES);
        for line in &said[hidden..] {
            let _ = writeln!(out, "    | {}", words::cut(line, width - 6));
        }
    }
    if causes.len() > MOST_CAUSES {
        let names: Vec<String> = causes[MOST_CAUSES..].iter().map(|e| e.instance.to_string()).collect();
        out.push('\n');
        out.push_str(&wrapped("  also failed: ", &list(&names, MOST_NAMES), width));
    }
}

/// A line as an instance meant it: of the event protocol only what messages say, for the rest is in the report already.
pub(super) fn spoken(line: &str) -> Option<String> {
    let event = serde_json::from_str::<Value>(line).ok().and_then(|value| value.get("event").cloned());
    match event {
        None => Some(tame(line)),
        Some(event) => event.pointer("/message_event/message").and_then(Value::as_str).map(tame),
    }
}

fn stall(out: &mut String, record: &Record, width: usize) {
    let Some((waited, barriers)) = &record.stall else { return };
    let _ = writeln!(out, "\n  everybody waits, and nothing has changed for {waited:.1} s:");
    for BarrierWait { state, count: signals, target, waiting, missing } in barriers.iter().take(MOST_BARRIERS)
    {
        out.push_str(&wrapped("    ", &format!("barrier {}: {signals} of {target}", tame(state)), width));
        out.push_str(&wrapped("      waiting: ", &list(waiting, MOST_NAMES), width));
        if !missing.is_empty() {
            out.push_str(&wrapped("      missing: ", &list(missing, MOST_NAMES), width));
        }
    }
    if barriers.len() > MOST_BARRIERS {
        let _ = writeln!(out, "    … {}", counted((barriers.len() - MOST_BARRIERS) as u64, "more barrier"));
    }
}

/// The living instances at the end, those that wait for the same together. A stall has said it already.
fn waits(out: &mut String, record: &Record, width: usize) {
    if record.waits.is_empty() || record.stall.is_some() {
        return;
    }
    let mut alike: Vec<(String, Vec<String>)> = Vec::new();
    for wait in &record.waits {
        let barriers: Vec<String> = wait
            .barriers
            .iter()
            .map(|b| format!("barrier {} ({} of {})", tame(&b.state), b.count, b.target))
            .collect();
        let what = match (barriers.as_slice(), &wait.last_word) {
            ([], None) => "at work, waiting at no barrier".to_owned(),
            ([], Some(word)) => format!("at work; last said: {}", words::cut(&tame(word), 60)),
            (barriers, _) => format!("waiting at {}", barriers.join(", ")),
        };
        match alike.iter_mut().find(|(known, _)| *known == what) {
            Some((_, names)) => names.push(wait.instance.to_string()),
            None => alike.push((what, vec![wait.instance.to_string()])),
        }
    }
    let _ = writeln!(out, "\n  when the run was ended:");
    for (what, names) in alike.iter().take(MOST_BARRIERS) {
        out.push_str(&wrapped("    ", &format!("{}: {what}", list(names, MOST_NAMES)), width));
    }
    if alike.len() > MOST_BARRIERS {
        let _ = writeln!(out, "    … {}", counted((alike.len() - MOST_BARRIERS) as u64, "more kind"));
    }
}

fn verdict(out: &mut String, record: &Record, finished: &Finished, width: usize, paint: Paint) {
    out.push('\n');
    let took = seconds(finished.seconds);
    let ended = match &finished.outcome {
        RunOutcome::Success => {
            let total: u32 = finished.groups.iter().map(|(_, t)| t.total).sum();
            let text = format!("success: {} in {took}", counted(u64::from(total), "instance"));
            let line = match finished.emulator_late {
                None => paint.green(&format!("  {text}")),
                Some(late) => paint.yellow(wrapped("  ", &format!("{text} ({late})"), width).trim_end()),
            };
            let _ = writeln!(out, "{line}");
            return;
        }
        RunOutcome::TimedOut { .. } => "timed out",
        RunOutcome::Interrupted => "interrupted",
        RunOutcome::LabLost { .. } => "lost",
        RunOutcome::Failure { .. } | RunOutcome::BuildFailed { .. } => "failure",
    };
    // An interruption is its own cause.
    let cause = finished.outcome.cause().filter(|cause| *cause != ended);
    // The first line is the cause. What an instance wrote is above; what a build's tool wrote stands below.
    let mut lines = cause.unwrap_or_default().lines();
    let because = lines.next().map_or_else(String::new, |cause| format!(": {}", tame(cause)));
    let first = format!("{ended} after {took}{because}");
    let _ = writeln!(out, "{}", paint.red(wrapped("  ", &first, width).trim_end()));
    // Whoever looks for the cause should know that it may be the machine's.
    if let Some(late) = finished.emulator_late.map(|l| l.to_string()).filter(|late| cause != Some(late)) {
        let _ = writeln!(out, "{}", paint.yellow(wrapped("  ", &late, width).trim_end()));
    }
    if record.causes().next().is_none() {
        for line in lines {
            let _ = writeln!(out, "  {}", tame(line).trim_end());
        }
    }
    if let Some(run) = &record.run {
        let how = if finished.outcome == RunOutcome::Interrupted { "was interrupted" } else { "failed" };
        let _ = writeln!(out, "run \"{run}\" {how}");
    }
}

// === impl Paint ===

impl Paint {
    pub(super) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(super) fn blue(self, text: &str) -> String {
        self.with("34", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

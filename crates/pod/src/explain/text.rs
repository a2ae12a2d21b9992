//! An explanation as text for a terminal.

use std::fmt::Write as _;

use super::{ContainerFacts, Explanation, Report, Severity, StopSchedule, Warning, seconds, stop::StopStep};
use crate::{
    load::Mistake,
    resources::{Derivation, Phase, Quantity, ResourceList},
};

/// The width that prose is broken at.
const WIDTH: usize = 110;
/// The width of the picture of the stop.
const CHART: usize = 48;

/// A whole report.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    for (i, explanation) in report.objects.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        object(&mut out, &report.file, explanation);
    }
    if !report.skipped.is_empty() {
        let _ = writeln!(out, "\nWithout a pod, and left out: {}", report.skipped.join(", "));
    }
    out
}

/// Mistakes as compilers print them: `file:line:column: error[code]: path: what`.
pub fn mistakes(file: &str, mistakes: &[Mistake]) -> String {
    let mut out = String::new();
    for m in mistakes {
        let path = if m.path.is_empty() { String::new() } else { format!("{}: ", m.path) };
        let _ = writeln!(out, "{file}:{}: error[{}]: {path}{}", m.at, m.code.id(), m.message);
        if let Some(help) = &m.help {
            let _ = writeln!(out, "    help: {help}");
        }
    }
    out
}

fn object(out: &mut String, file: &str, e: &Explanation) {
    let _ = writeln!(
        out,
        "{}  ({file}:{})  Kubernetes {}, restartPolicy {}, grace period {}",
        e.title,
        e.at.line,
        e.kubernetes,
        e.restart_policy,
        seconds(e.grace_seconds)
    );
    containers(out, e);
    resources(out, e);
    start(out, e);
    stop(out, e);
    warnings(out, file, &e.warnings);
}

fn containers(out: &mut String, e: &Explanation) {
    let _ = writeln!(out, "\nCONTAINERS  (request/limit; with a dash where there is none)");
    let mut rows = vec![
        ["NAME", "ROLE", "CPU", "MEMORY", "OTHER", "OOM_SCORE_ADJ", "CGROUP cpu.weight cpu.max memory.max"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for c in &e.containers {
        let oom = match c.oom.own {
            Some(own) => format!("{} (own {own})", c.oom.value),
            None => c.oom.value.to_string(),
        };
        rows.push(vec![
            c.name.clone(),
            c.role.word().to_owned(),
            pair(c, "cpu"),
            pair(c, "memory"),
            others(c),
            oom,
            format!("{} {} {}", c.cgroup.cpu_weight, quota(c.cgroup.cpu_quota), bytes(c.cgroup.memory_max)),
        ]);
    }
    table(out, &rows);
}

fn resources(out: &mut String, e: &Explanation) {
    let _ = writeln!(out, "\nTHE WHOLE POD");
    let show = |q: Option<Quantity>| q.map_or_else(|| "-".to_owned(), |q| q.to_string());
    let mut rows = vec![
        ["RESOURCE", "", "RUNNING", "STARTING", "POD-LEVEL", "OVERHEAD", "EFFECTIVE", "BECAUSE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for d in &e.resources.derivations {
        rows.push(vec![
            d.resource.clone(),
            d.of.trim_end_matches('s').to_owned(),
            show(d.running),
            show(d.starting),
            show(d.pod_level),
            show(d.overhead),
            d.effective.to_string(),
            because(d),
        ]);
    }
    if rows.len() > 1 {
        table(out, &rows);
        let _ = writeln!(
            out,
            "  running: sidecars + apps; starting: the most that an init or sidecar uses with the sidecars before it"
        );
    } else {
        let _ = writeln!(out, "  requests nothing and is limited by nothing");
    }
    let _ = writeln!(out, "  QoS class      {}: {}", e.qos, e.qos_because);
    let _ = writeln!(
        out,
        "  cgroup         {}/pod<UID>: cpu.weight {} (cpu.shares {}), cpu.max {}, memory.max {}",
        e.cgroup.parent,
        e.cgroup.values.cpu_weight,
        e.cgroup.values.cpu_shares,
        quota(e.cgroup.values.cpu_quota),
        bytes(e.cgroup.values.memory_max)
    );
    let unlimited = [("cpu", &e.cgroup.without_cpu_limit), ("memory", &e.cgroup.without_memory_limit)];
    for (resource, names) in unlimited {
        if !names.is_empty() && names.len() < e.containers.len() {
            let _ = writeln!(
                out,
                "                 no {resource} limit for the pod, because {} has none",
                some(names)
            );
        }
    }
    for (name, size) in &e.memory_volumes {
        let _ = writeln!(out, "  volume         {name} in memory: {}", Quantity::from_bytes(*size));
    }
    let node = Quantity::from_bytes(e.node_memory);
    let _ = writeln!(out, "  oom_score_adj  as on a node with {node} of memory (--node-memory)");
}

fn start(out: &mut String, e: &Explanation) {
    let _ = writeln!(out, "\nSTART");
    let name_width = e.start.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
    let indent = name_width + 17;
    for (i, step) in e.start.iter().enumerate() {
        let head = format!("  {:>2}  {:<name_width$}  {:<7}  ", i + 1, step.name, step.role.word());
        let lines = [
            format!("when: {}", step.after),
            format!("then: {}", step.gate),
            format!("fails: {}", step.on_failure),
        ];
        let last = i + 1 == e.start.len();
        // What comes after the last one is nobody's gate.
        let lines = lines.iter().filter(|l| !(last && l.starts_with("then:")));
        for (j, line) in lines.enumerate() {
            let first = if j == 0 { head.clone() } else { " ".repeat(indent) };
            wrap(out, &first, indent + 6, line);
        }
    }
    wrap(out, "  Ready when ", 13, &e.ready_when);
}

fn stop(out: &mut String, e: &Explanation) {
    let s = &e.stop_worst;
    let _ = writeln!(out, "\nSTOP  (seconds after the deletion, of a budget of {} for all)", s.grace);
    let scale = s.end.max(e.stop_given.end).max(s.grace as f64).max(1.0);
    let _ = writeln!(out, "  worst case: nothing ends by itself, and no hook returns");
    schedule(out, s, scale);
    let head = if e.times_given {
        "with the given times, and at once where none is given"
    } else {
        "best case: each one ends as soon as it is told (--stop NAME=SECONDS shows other times)"
    };
    let _ = writeln!(out, "  {head}");
    schedule(out, &e.stop_given, scale);
    let _ = writeln!(
        out,
        "  ▒ preStop hook   · waits for its turn   █ between the stop signal and its end   ✗ SIGKILL"
    );
}

fn schedule(out: &mut String, schedule: &StopSchedule, scale: f64) {
    let mut rows = vec![["", "NAME", "preStop", "STOP SIGNAL", "GONE", "", ""].map(str::to_owned).to_vec()];
    for s in &schedule.containers {
        let hook = s.hook_end.map_or_else(
            || "-".to_owned(),
            |end| format!("0 - {}{}", short(end), if s.hook_cut { " cut" } else { "" }),
        );
        let waited = match (&s.waited_for, s.by_deadline) {
            (Some(whom), false) => format!("after {whom}"),
            (Some(whom), true) => format!("at the deadline, {whom} still runs"),
            (None, _) => String::new(),
        };
        let gone = if s.killed { format!("{} SIGKILL", short(s.exit_at)) } else { short(s.exit_at) };
        rows.push(vec![
            String::new(),
            s.name.clone(),
            hook,
            format!("{} at {}", s.signal, short(s.signal_at)),
            gone,
            chart(s, scale),
            waited,
        ]);
    }
    table(out, &rows);
    if let Some(eater) = schedule.eater.as_ref().filter(|e| e.took > 0.0) {
        let share = 100.0 * eater.took / (schedule.grace as f64).max(1.0);
        let what = if eater.doing == "preStop" { "its preStop hook" } else { "its end" };
        let _ = writeln!(
            out,
            "     `{}` eats {share:.0}% of the grace period: {} s for {what}; the pod is gone after {} s",
            eater.name,
            short(eater.took),
            short(schedule.end)
        );
    }
}

fn warnings(out: &mut String, file: &str, warnings: &[Warning]) {
    if warnings.is_empty() {
        let _ = writeln!(out, "\nNo warnings.");
        return;
    }
    let _ = writeln!(out, "\nWARNINGS");
    for w in warnings {
        let severity = match w.severity {
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let head = format!("  {severity}[{}]: ", w.lint.id());
        wrap(out, &head, 4, &w.found);
        let _ = writeln!(out, "    --> {file}:{}  {}", w.at, w.path);
        wrap(out, "    so:  ", 9, &w.consequence);
        wrap(out, "    fix: ", 9, &w.fix);
        let _ = writeln!(out, "    ({})", w.rules.join(", "));
    }
}

/// The stop of one container as a bar.
fn chart(s: &StopStep, scale: f64) -> String {
    let cell = |t: f64| (t / scale * CHART as f64).round() as usize;
    let hook = cell(s.hook_end.unwrap_or(0.0)).min(CHART);
    let signal = cell(s.signal_at).clamp(hook, CHART);
    let exit = cell(s.exit_at).clamp(signal, CHART);
    let mut bar = "▒".repeat(hook) + &"·".repeat(signal - hook) + &"█".repeat((exit - signal).max(1));
    if s.killed {
        bar.pop();
        bar.push('✗');
    }
    bar
}

fn because(d: &Derivation) -> String {
    let base = match (d.pod_level, d.winner, &d.peak_at) {
        (Some(_), ..) => "set for the pod".to_owned(),
        (None, Phase::Starting, Some(at)) => format!("starting `{at}` needs more than running"),
        (None, ..) if d.running.is_none() => String::new(),
        (None, ..) => "sidecars + apps".to_owned(),
    };
    match (d.overhead, base.is_empty()) {
        (Some(_), true) => "overhead".to_owned(),
        (Some(_), false) => base + " + overhead",
        (None, _) => base,
    }
}

fn pair(c: &ContainerFacts, resource: &str) -> String {
    let of = |list: &ResourceList| list.get(resource).map_or_else(|| "-".to_owned(), ToString::to_string);
    format!("{}/{}", of(&c.own.requests), of(&c.own.limits))
}

fn others(c: &ContainerFacts) -> String {
    let mut names: Vec<_> = c.own.requests.keys().chain(c.own.limits.keys()).collect();
    names.retain(|n| *n != "cpu" && *n != "memory");
    names.sort();
    names.dedup();
    let all: Vec<_> = names.iter().map(|n| format!("{n} {}", pair(c, n))).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

fn some(names: &[String]) -> String {
    match names {
        [one] => format!("`{one}`"),
        [one, two] => format!("`{one}` or `{two}`"),
        [one, rest @ ..] => format!("`{one}` or {} more", rest.len()),
        [] => String::new(),
    }
}

fn quota(quota: Option<u64>) -> String {
    quota.map_or_else(|| "max".to_owned(), |q| format!("{q}/100000"))
}

fn bytes(bytes: Option<i64>) -> String {
    bytes.map_or_else(|| "max".to_owned(), |b| Quantity::from_bytes(b).to_string())
}

/// A number of seconds with no more digits than it needs.
fn short(n: f64) -> String {
    let text = format!("{n:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let used: Vec<usize> =
        (0..columns).map(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0)).collect();
    // A column with nothing but dashes tells nothing.
    let empty = |i: usize| rows.len() > 1 && rows[1..].iter().all(|r| r[i] == "-");
    for row in rows {
        let mut line = String::from("  ");
        for (i, value) in row.iter().enumerate().filter(|(i, _)| !empty(*i)) {
            let pad = used[i] - value.chars().count() + 2;
            line.push_str(value);
            line.extend(std::iter::repeat_n(' ', pad));
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Breaks a text between words; later lines are indented.
fn wrap(out: &mut String, head: &str, indent: usize, text: &str) {
    let mut line = head.to_owned();
    let mut length = line.chars().count();
    let mut first = true;
    for word in text.split_whitespace() {
        let size = word.chars().count();
        if !first && length + 1 + size > WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent);
            length = indent;
            first = true;
        }
        if !first {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += size;
        first = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

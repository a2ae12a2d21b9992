//! A resolved run as a person reads it: what `--dry-run` prints. The JSON form is serde's.
//!
//! Words and units are those of compositions, so that what is read here can be written there.

use std::fmt;

use crate::name::InstanceName;
use crate::run::toml_value::Value;
use crate::run::{Build, Group, Plane, Run};
use crate::shape::{Chance, Discipline, Distribution, Filter, LinkShape, Loss, QueueLimit};
use crate::topology::{Action, Change, Endpoint, Link};
use crate::units::{show_duration, show_rate, show_size};

impl fmt::Display for Endpoint {
    /// As a composition selects it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::All => f.write_str("*"),
            Endpoint::Group(group) => f.write_str(group),
            Endpoint::Instance(instance) => write!(f, "{instance}"),
            Endpoint::Region(region) => write!(f, "region:{region}"),
            Endpoint::Subnet(net) => write!(f, "{net}"),
        }
    }
}

impl fmt::Display for LinkShape {
    /// The settings that have an effect, such as `latency 50ms, loss 1%`; `unshaped` when none has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match self.filter {
            Filter::Accept => {}
            Filter::Reject => parts.push("filter reject".to_owned()),
            Filter::Drop => parts.push("filter drop".to_owned()),
        }
        if !self.latency.is_zero() {
            parts.push(format!("latency {}", show_duration(self.latency)));
        }
        if !self.jitter.spread.is_zero() {
            let distribution = match self.jitter.distribution {
                Distribution::Uniform => "uniform",
                Distribution::Normal => "normal",
                Distribution::Pareto => "pareto",
            };
            let reorder = if self.jitter.may_reorder { ", may reorder" } else { "" };
            let correlation = correlated(self.jitter.correlation);
            parts.push(format!(
                "jitter {} {distribution}{correlation}{reorder}",
                show_duration(self.jitter.spread)
            ));
        }
        if let Some(bandwidth) = self.bandwidth {
            let limit = match self.queue.limit {
                QueueLimit::Auto => String::new(),
                QueueLimit::Packets(n) => format!(", queue {n} packets"),
                QueueLimit::Bytes(n) => format!(", queue {}", show_size(n)),
                QueueLimit::Time(t) => format!(", queue {}", show_duration(t)),
            };
            let codel = if self.queue.discipline == Discipline::Codel { ", codel" } else { "" };
            parts.push(format!("bandwidth {}{limit}{codel}", show_rate(bandwidth)));
        }
        match self.loss {
            Loss::Random(loss) => chance(&mut parts, "loss", loss),
            Loss::GilbertElliott { p, r, bad, good } => {
                parts.push(format!("gilbert_elliott p {p}% r {r}% bad {bad}% good {good}%"));
            }
        }
        chance(&mut parts, "corrupt", self.corrupt);
        chance(&mut parts, "reorder", self.reorder);
        if !self.reorder.is_never() && self.reorder_gap > 1 {
            parts.push(format!("reorder_gap {}", self.reorder_gap));
        }
        chance(&mut parts, "duplicate", self.duplicate);
        if parts.is_empty() {
            return f.write_str("unshaped");
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", ends(&self.from, &self.to, self.both_ways, &self.network), self.shape)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = show_duration(self.at);
        write!(f, "{at}  {}  {}", ends(&self.from, &self.to, self.both_ways, &self.network), self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Partition => f.write_str("partition"),
            Action::Heal => f.write_str("heal"),
            Action::Shape(shape) => write!(f, "set {shape}"),
            Action::Ramp { to, over } => write!(f, "ramp within {} to {to}", show_duration(*over)),
            Action::Flap { down, up, times } => {
                write!(f, "flap {times} times: down {}, up {}", show_duration(*down), show_duration(*up))
            }
            Action::Trace { opportunities, repeat } => {
                let length = opportunities.last().copied().unwrap_or(0);
                let repeat = if *repeat { ", repeated" } else { "" };
                write!(f, "trace of {} packets in {length}ms{repeat}", opportunities.len())
            }
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run {}: plan {}, case {}, on {}", self.id, self.plan, self.case, self.runner)?;
        let s = &self.settings;
        let show = show_duration;
        writeln!(
            f,
            "  {}; seed {}, timeout {}, stall {}, grace {}, max_output {}, min_success {}%{}{}{}{}",
            instances(self.instance_count()),
            s.seed,
            show(s.timeout),
            show(s.stall),
            show(s.grace),
            show_size(s.max_output),
            s.min_success,
            s.start_rate.map(|rate| format!(", start_rate {rate}")).unwrap_or_default(),
            if s.plane == Plane::Switch { String::new() } else { format!(", plane {}", s.plane.name()) },
            if s.keep_going { ", keep_going" } else { "" },
            if self.disable_metrics { ", no metrics" } else { "" },
        )?;
        let proof = match (s.proof.enabled, s.proof.mark_only) {
            (false, _) => "not measured".to_owned(),
            (true, mark) => format!(
                "delay within {}, rate within {}%{}",
                show(s.proof.delay),
                s.proof.rate_percent,
                if mark { ", marked only" } else { "" }
            ),
        };
        let late = if s.proof.late_fails { "; an emulator later than that fails the run" } else { "" };
        writeln!(f, "  proof of shapes: {proof}{late}")?;
        if !s.additional_hosts.is_empty() {
            let hosts: Vec<String> = s.additional_hosts.iter().map(ToString::to_string).collect();
            writeln!(f, "  additional hosts: {}", hosts.join(", "))?;
        }
        if let Some(service) = &s.sync_service {
            writeln!(f, "  sync service: {service}")?;
        }
        self.groups.iter().try_for_each(|group| write!(f, "{group}"))?;
        writeln!(f, "networks")?;
        for network in &self.networks {
            let subnet6 = network.subnet6.map(|net| format!(", {net}")).unwrap_or_default();
            writeln!(f, "  {}  {}{subnet6}, mtu {}", network.name, network.subnet, network.mtu)?;
        }
        section(f, "regions", self.regions.iter().map(|(name, all)| format!("{name}  {}", ranges(all))))?;
        section(f, "links", self.links.iter().map(ToString::to_string))?;
        section(f, "timeline", self.timeline.iter().map(ToString::to_string))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "group {}: {}", self.id, instances(self.instances))?;
        writeln!(f, "  build      {}", self.build)?;
        let list = |pairs: Vec<String>| pairs.join(", ");
        if !self.params.is_empty() {
            writeln!(
                f,
                "  params     {}",
                list(self.params.iter().map(|(k, v)| format!("{k} = {v:?}")).collect())
            )?;
        }
        if !self.profiles.is_empty() {
            writeln!(
                f,
                "  profiles   {}",
                list(self.profiles.iter().map(|(k, v)| format!("{k} = {v:?}")).collect())
            )?;
        }
        let memory = self.resources.memory.map(|bytes| format!("memory {}", show_size(bytes)));
        let cpu = self.resources.cpu_millis.map(|millis| format!("cpu {millis}m"));
        if memory.is_some() || cpu.is_some() {
            writeln!(f, "  resources  {}", list(memory.into_iter().chain(cpu).collect()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.builder)?;
        if let Some(artifact) = &self.artifact {
            return write!(f, ", artifact {artifact}");
        }
        for (key, value) in &self.config {
            write!(f, ", {key} = {value}")?;
        }
        if !self.selectors.is_empty() {
            write!(f, ", selectors {}", self.selectors.join(" "))?;
        }
        for (module, by) in &self.dependencies {
            let target = by.target.as_ref().map(|t| format!("{t}@")).unwrap_or_default();
            write!(f, ", {module} => {target}{}", by.version)?;
        }
        Ok(())
    }
}

impl fmt::Display for Value {
    /// As TOML, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(b) => write!(f, "{b}"),
            Value::Integer(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::String(s) => write!(f, "{s:?}"),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Value::Table(entries) => {
                let entries: Vec<String> = entries.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                write!(f, "{{ {} }}", entries.join(", "))
            }
        }
    }
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}

fn ends(from: &Endpoint, to: &Endpoint, both_ways: bool, network: &str) -> String {
    let arrow = if both_ways { "<->" } else { "->" };
    let on =
        if network == crate::topology::DEFAULT_NETWORK { String::new() } else { format!(" on {network}") };
    format!("{from} {arrow} {to}{on}")
}

fn chance(parts: &mut Vec<String>, name: &str, chance: Chance) {
    if !chance.is_never() {
        parts.push(format!("{name} {}%{}", chance.percent, correlated(chance.correlation)));
    }
}

fn correlated(percent: f64) -> String {
    if percent > 0.0 { format!(" (correlation {percent}%)") } else { String::new() }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: impl Iterator<Item = String>) -> fmt::Result {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
}

/// Instances in short: `a[0..4] b[7]`.
fn ranges(all: &[InstanceName]) -> String {
    let mut parts: Vec<(&str, u32, u32)> = Vec::new();
    for instance in all {
        match parts.last_mut() {
            Some((group, _, last)) if *group == instance.group && *last + 1 == instance.index => *last += 1,
            _ => parts.push((&instance.group, instance.index, instance.index)),
        }
    }
    let show = |(group, first, last): (&str, u32, u32)| {
        if first == last { format!("{group}[{first}]") } else { format!("{group}[{first}..{last}]") }
    };
    parts.into_iter().map(show).collect::<Vec<_>>().join(" ")
}

//! `--capture`: whose packets, checked against the runs before anything starts.

use std::collections::BTreeSet;

use anyhow::bail;
use testground_engine::lab::protocol::Capture;
use testground_model::diagnostic::nearest;
use testground_model::name::InstanceName;
use testground_model::run::Run;

/// Everybody of every run.
const ALL: &str = "all";
/// Instances of a group that are named one by one.
const SHOWN: u32 = 2;

/// Whose packets are captured in a command's runs.
#[derive(Debug)]
pub(super) enum Wanted {
    Everybody,
    /// Each name belongs to a run; not every run has each of them.
    Named(Vec<Named>),
}

/// A whole group, or one instance of it.
#[derive(Debug)]
pub(super) struct Named {
    group: String,
    index: Option<u32>,
}

// === impl Wanted ===

impl Wanted {
    /// What was typed: `all`, `GROUP` or `GROUP[INDEX]`, each time.
    ///
    /// # Errors
    /// For a name that none of the runs has, said with the names that there are and the nearest of them.
    pub(super) fn of(typed: &[String], runs: &[Run]) -> anyhow::Result<Wanted> {
        let mut named = Vec::new();
        let mut everybody = false;
        for text in typed {
            let there = |name: &Named| runs.iter().any(|run| name.instances(run).next().is_some());
            match Named::read(text).filter(there) {
                _ if text == ALL => everybody = true,
                Some(name) => named.push(name),
                None => bail!("--capture {text}: {}", unknown(text, runs)),
            }
        }
        Ok(if everybody { Wanted::Everybody } else { Wanted::Named(named) })
    }

    /// Whom this means in one of the runs.
    pub(super) fn in_run(&self, run: &Run) -> Capture {
        let Wanted::Named(named) = self else { return Capture::All };
        // A set, since a port can be captured once only.
        let instances: BTreeSet<InstanceName> = named.iter().flat_map(|name| name.instances(run)).collect();
        if instances.is_empty() { Capture::Nobody } else { Capture::Some(instances.into_iter().collect()) }
    }
}

// === impl Named ===

impl Named {
    fn read(text: &str) -> Option<Named> {
        if !text.contains('[') {
            return Some(Named { group: text.to_owned(), index: None });
        }
        InstanceName::parse(text).map(|InstanceName { group, index }| Named { group, index: Some(index) })
    }

    /// Those of the run that are meant.
    fn instances<'r>(&'r self, run: &'r Run) -> impl Iterator<Item = InstanceName> + 'r {
        run.instances().filter(|i| i.group == self.group && self.index.is_none_or(|index| i.index == index))
    }
}

/// Which names there are, and which one was probably meant.
fn unknown(text: &str, runs: &[Run]) -> String {
    let whose = if runs.len() == 1 { "the run has" } else { "the runs have" };
    let mut counts: Vec<(&str, u32)> = Vec::new();
    for group in runs.iter().flat_map(|run| &run.groups) {
        match counts.iter_mut().find(|(id, _)| *id == group.id) {
            Some((_, count)) => *count = group.instances.max(*count),
            None => counts.push((&group.id, group.instances)),
        }
    }
    let words: Vec<String> = counts.iter().map(|(id, count)| words(id, *count)).collect();
    let mut candidates = vec![ALL.to_owned()];
    for (id, count) in &counts {
        candidates.push((*id).to_owned());
        candidates.extend((0..*count).map(|index| InstanceName::new(*id, index).to_string()));
    }
    let mut said = format!("{whose} no such group or instance; there are all, {}", words.join(", "));
    if let Some(near) = nearest(text, candidates.iter().map(String::as_str)) {
        said.push_str(&format!("; did you mean {near}?"));
    }
    said
}

/// A group and its instances: `a, a[0], a[1]`, or `a, a[0] to a[99]`.
fn words(id: &str, count: u32) -> String {
    match count {
        ..=SHOWN => {
            let each: Vec<String> = (0..count).map(|i| InstanceName::new(id, i).to_string()).collect();
            format!("{id}, {}", each.join(", "))
        }
        _ => format!("{id}, {id}[0] to {id}[{}]", count - 1),
    }
}

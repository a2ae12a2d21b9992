//! Reads the tables of a composition that say what runs: global, groups and runs.

use std::collections::BTreeMap;

use super::{
    BuildSpec, Composition, DependencySpec, Global, GroupSpec, Instances, MAX_INSTANCES, Metadata,
    ResourcesSpec, RunGroupSpec, RunParts, RunSpec, network,
};
use crate::diagnostic::{Diagnostic, Diagnostics, Place, Source, names};
use crate::manifest::{NAME_RULE, is_name};
use crate::reader::{At, Item, Mistakes, TableReader};
use crate::run::toml_value::Value;
use crate::units;

/// No program starts with less memory, bytes.
const LEAST_MEMORY: u64 = 1 << 20;

/// Reads the whole composition; `None` when it has no plan.
pub(super) fn read(source: &Source, root: &TableReader<'_>, mistakes: &Mistakes) -> Option<Composition> {
    let metadata = root.table("metadata", |t| Metadata {
        name: t.string("name").map(|s| s.value),
        author: t.string("author").map(|s| s.value),
    });
    let global = root.table("global", |t| read_global(t, mistakes));
    let global = root.required("global", global).flatten();
    let groups: Vec<GroupSpec> =
        root.tables("groups", |t| read_group(t, mistakes)).into_iter().flatten().collect();
    if !root.has("groups") {
        mistakes.push(root.place().error("a composition needs a group; [[groups]] declares one"));
    }
    let runs: Vec<RunSpec> = root.tables("runs", |t| read_run(t, mistakes)).into_iter().flatten().collect();
    let networks = network::networks(root, mistakes);
    let regions = network::regions(root, mistakes);
    let links = network::links(root, mistakes);
    let timeline = network::timeline(root, mistakes);

    let ids = |ids: Vec<&At<String>>, word: &str, prefix: &str| {
        for (i, id) in ids.iter().enumerate() {
            if ids[..i].iter().any(|earlier| earlier.value == id.value) {
                let message = format!("{word} ids not unique; found duplicate: {prefix}{}", id.value);
                mistakes.push(id.place.error(message));
            }
        }
    };
    ids(groups.iter().map(|g| &g.id).collect(), "group", "");
    ids(runs.iter().map(|r| &r.id).collect(), "runs", "");
    for run in &runs {
        ids(run.groups.iter().map(|g| &g.id).collect(), "group", &format!("{}:", run.id.value));
        for group in &run.groups {
            let base = group.group_id.as_ref().unwrap_or(&group.id);
            let known = || groups.iter().map(|g| g.id.value.as_str());
            if !known().any(|id| id == base.value) {
                let (run, id) = (&run.id.value, &group.id.value);
                let message = format!(
                    "run {run}:{id} references non-existent group {}; there are {}",
                    base.value,
                    names(known())
                );
                mistakes.push(base.place.error(message).suggest_nearest(&base.value, known()));
            }
        }
    }
    let global = global?;
    for group in groups.iter().filter(|g| g.builder.is_none() && global.builder.is_none() && g.pod.is_none())
    {
        mistakes.push(
            group.id.place.error(format!(
                "group {} is missing a builder; name one there or in [global]",
                group.id.value
            )),
        );
    }
    Some(Composition {
        metadata: metadata.unwrap_or_default(),
        global,
        groups,
        runs,
        networks,
        regions,
        links,
        timeline,
        source: source.clone(),
        mistakes: Diagnostics::new(),
    })
}

fn read_global(t: &TableReader<'_>, mistakes: &Mistakes) -> Option<Global> {
    let plan = t.required("plan", t.string("plan"));
    let case = t.string("case");
    let runner = t.string("runner");
    let builder = t.string("builder");
    let total_instances = t.count("total_instances", 0, MAX_INSTANCES).filter(|n| n.value > 0);
    let concurrent_builds = t.count("concurrent_builds", 0, 1024);
    let disable_metrics = t.boolean("disable_metrics").is_some_and(|b| b.value);
    let build = read_build(t);
    let run_config = t.values("run_config");
    let run = t.table("run", |t| read_parts(t, mistakes, true)).unwrap_or_default();
    if let Some(artifact) = &run.artifact {
        mistakes.push(
            artifact
                .place
                .warning("an artifact of [global.run] is given to no group; name it in [groups.run]"),
        );
    }
    for (name, what) in [(&plan, "plan"), (&case, "test case"), (&runner, "runner")] {
        if let Some(name) = name.as_ref().filter(|n| !is_name(&n.value)) {
            mistakes.push(name.place.error(format!("{:?} is no name of a {what}: {NAME_RULE}", name.value)));
        }
    }
    Some(Global {
        plan: plan?,
        case,
        runner,
        builder,
        total_instances,
        concurrent_builds,
        disable_metrics,
        build,
        run_config,
        run,
    })
}

fn read_group(t: &TableReader<'_>, mistakes: &Mistakes) -> Option<GroupSpec> {
    let id = t.required("id", t.string("id"));
    check_group_id(id.as_ref(), mistakes);
    let group = (
        t.string("builder"),
        read_build(t),
        read_resources(t, mistakes),
        read_instances(t, mistakes),
        t.table("run", |t| read_parts(t, mistakes, true)).unwrap_or_default(),
        network::region_shares(t, mistakes),
        t.string("pod"),
    );
    let (builder, build, resources, instances, run, regions, pod) = group;
    Some(GroupSpec { id: id?, builder, build, resources, instances, run, regions, pod })
}

fn read_run(t: &TableReader<'_>, mistakes: &Mistakes) -> Option<RunSpec> {
    let id = t.required("id", t.string("id"));
    check_id(id.as_ref(), mistakes);
    if let Some(id) = id.as_ref().filter(|id| id.value.contains(',')) {
        mistakes.push(id.place.error("a run's id can't hold a comma: --run-ids splits there"));
    }
    let total_instances = t.count("total_instances", 0, MAX_INSTANCES).filter(|n| n.value > 0);
    let test_params = read_params(t, "test_params", mistakes);
    let groups = t.tables("groups", |t| {
        let id = t.required("id", t.string("id"));
        check_group_id(id.as_ref(), mistakes);
        let group_id = t.string("group_id").filter(|id| !id.value.is_empty());
        let resources = read_resources(t, mistakes);
        let instances = read_instances(t, mistakes);
        let run = read_parts(t, mistakes, false);
        let regions = network::region_shares(t, mistakes);
        Some(RunGroupSpec { id: id?, group_id, resources, instances, run, regions })
    });
    Some(RunSpec { id: id?, total_instances, test_params, groups: groups.into_iter().flatten().collect() })
}

fn read_build(t: &TableReader<'_>) -> BuildSpec {
    let config = t.values("build_config");
    let build = t.table("build", |t| {
        let dependencies = t.tables("dependencies", |t| {
            let module = t.required("module", t.string("module"));
            let target = t.string("target").map(|s| s.value).filter(|s| !s.is_empty());
            let version = t.required("version", t.string("version"));
            Some(DependencySpec { module: module?, target, version: version?.value })
        });
        (t.strings("selectors"), dependencies.into_iter().flatten().collect())
    });
    let (selectors, dependencies) = build.unwrap_or_default();
    BuildSpec { config, selectors, dependencies }
}

fn read_parts(t: &TableReader<'_>, mistakes: &Mistakes, with_artifact: bool) -> RunParts {
    let artifact = with_artifact.then(|| t.string("artifact")).flatten().filter(|a| !a.value.is_empty());
    let test_params = read_params(t, "test_params", mistakes);
    let profiles = read_params(t, "profiles", mistakes);
    RunParts { artifact, test_params, profiles }
}

/// A table of texts that travel to instances packed as `k=v|k=v`, without any escape.
fn read_params(t: &TableReader<'_>, key: &'static str, mistakes: &Mistakes) -> BTreeMap<String, At<String>> {
    let read = |(name, item): (At<String>, Item<'_>)| {
        let value = param_text(&item)?;
        let fits = check_param([&name.place, item.place()], &name.value, &value);
        let broken = fits.iter().any(|d| d.severity == crate::diagnostic::Severity::Error);
        fits.into_iter().for_each(|d| mistakes.push(d));
        (!broken).then(|| (name.value, item.at(value)))
    };
    let read_all = |t: &TableReader<'_>| t.entries().into_iter().filter_map(read).collect();
    t.item(key).and_then(|item| item.table(read_all)).unwrap_or_default()
}

fn param_text(item: &Item<'_>) -> Option<String> {
    let value = match item.free()?.value {
        Value::String(text) => text,
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        other @ Value::Float(_) => crate::manifest::as_parameter(&other),
        Value::Array(_) | Value::Table(_) => return item.wrong_type("text, a number or a boolean"),
    };
    Some(value)
}

/// What is wrong with a parameter on its way to an instance; the places are those of its name and of its value.
pub(crate) fn check_param([key, at]: [&Place; 2], name: &str, value: &str) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if name.contains(['|', '=', '\0']) || name.is_empty() {
        found.push(key.error(format!(
            "{name:?} can't be the name of a parameter: it must not be empty or hold `|`, `=` or NUL (no SDK can read it)"
        )));
    }
    if value.contains(['|', '\0']) {
        found.push(at.error(format!("the value of {name} holds `|` or NUL: no SDK can read it")));
    } else if value.contains('=') {
        found.push(
            at.warning(format!("the value of {name} holds `=`: sdk-go and sdk-js drop such a parameter")),
        );
    }
    found
}

fn read_resources(t: &TableReader<'_>, mistakes: &Mistakes) -> ResourcesSpec {
    let quantity = |t: &TableReader<'_>, key: &'static str, in_millis: bool| -> Option<At<u64>> {
        let item = t.item(key)?;
        let text = match (item.as_str(), item.as_number()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(number)) => number.to_string(),
            _ => return item.wrong_type("a Kubernetes quantity such as \"500m\" or \"256Mi\""),
        };
        if text.is_empty() {
            return None;
        }
        match units::quantity_millis(&text) {
            Err(e) => {
                mistakes.push(item.place().error(e.to_string()));
                None
            }
            Ok(millis) => {
                let value = if in_millis { millis } else { millis.div_ceil(1000) };
                match u64::try_from(value) {
                    Ok(value) if value > 0 => Some(item.at(value)),
                    _ => {
                        item.error(format!(
                            "{text:?} is out of range: more than 0 and less than 16Ei is allowed"
                        ));
                        None
                    }
                }
            }
        }
    };
    let resources = t.table("resources", |t| ResourcesSpec {
        memory: quantity(t, "memory", false),
        cpu_millis: quantity(t, "cpu", true),
    });
    let resources = resources.unwrap_or_default();
    if let Some(memory) = resources.memory.as_ref().filter(|memory| memory.value < LEAST_MEMORY) {
        mistakes.push(memory.place.warning(format!(
            "that is {}, with which an instance is killed as it starts: \"256Mi\" is 256 MiB",
            units::show_size(memory.value)
        )));
    }
    resources
}

fn read_instances(t: &TableReader<'_>, mistakes: &Mistakes) -> Option<Instances> {
    t.table("instances", |t| {
        // 0 is how the original spells "not given".
        let count = t.item("count").filter(|item| item.as_integer() != Some(0));
        let count = count.and_then(|item| item.count(1, MAX_INSTANCES));
        let share = t.item("percentage").and_then(|item| read_share(&item)).filter(|s| s.value > 0.0);
        match (count, share) {
            (Some(count), Some(_)) => {
                mistakes.push(
                    t.place().error("count and percentage can't be given together: one of them says it"),
                );
                Some(Instances::Count(count))
            }
            (Some(count), None) => Some(Instances::Count(count)),
            (None, share) => share.map(Instances::Share),
        }
    })
    .flatten()
}

fn read_share(item: &Item<'_>) -> Option<At<f64>> {
    if let Some(text) = item.as_str() {
        return match units::percent(text) {
            Ok(percent) => Some(item.at(percent / 100.0)),
            Err(e) => {
                item.error(e.to_string());
                None
            }
        };
    }
    let Some(number) = item.as_number() else {
        return item.wrong_type("a fraction such as 0.5, or text such as \"50%\"");
    };
    if (0.0..=1.0).contains(&number) {
        return Some(item.at(number));
    }
    item.error(format!(
        "{number} is out of range: a percentage is a fraction here, 0 to 1 (0.5, or \"50%\", is a half)"
    ));
    None
}

/// Files and folders beside those of the groups in the outputs of a run.
pub const OUTPUT_NAMES: [&str; 8] = [
    "build",
    "links.jsonl",
    "measurements.json",
    "measurements.lp",
    "measurements.refused",
    "report.html",
    "run.json",
    "run.jsonl",
];

/// A group's outputs lie in a folder of its name.
fn check_group_id(id: Option<&At<String>>, mistakes: &Mistakes) {
    check_id(id, mistakes);
    if let Some(id) = id.filter(|id| OUTPUT_NAMES.contains(&id.value.as_str())) {
        mistakes.push(id.place.error(format!(
            "{:?} can't be the id of a group: in a run's outputs, where each group has a folder, something else is called so",
            id.value
        )));
    }
}

/// Ids end up in paths, host names and selectors.
fn check_id(id: Option<&At<String>>, mistakes: &Mistakes) {
    let Some(id) = id else { return };
    let text = id.value.as_str();
    let why = if matches!(text, "." | "..") {
        "as the name of a folder it means another one"
    } else if text.starts_with("region:") {
        "in a selector `region:` stands for a region"
    } else if !is_name(text)
        || text.len() > 200
        || text.contains(['/', '[', ']', '*', '|', '='])
        || text.trim() != text
    {
        "1 to 200 bytes, no `/`, `[`, `]`, `*`, `|`, `=`, no control character, no space at an end"
    } else {
        return;
    };
    mistakes.push(id.place.error(format!("{text:?} can't be an id: {why}")));
}

//! Writes artifacts into a composition's text, and leaves everything else of it as it is: comments, order, templates.

use crate::template::action_length;
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// Why artifacts could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The text is no TOML, or a template in a place where it can't be set aside.
    #[error("the composition can't be changed in place: {0}")]
    Syntax(String),
    /// The group isn't written out in the text.
    #[error(
        "group {0:?} is not written out in the composition (a template makes it), so its artifact has no place there"
    )]
    NoSuchGroup(String),
    /// Something else than a table is in the way.
    #[error("`run` of group {0:?} is no table, so its artifact has no place there")]
    NotATable(String),
}

/// The text with `run.artifact` of each named group set.
pub fn write_artifacts<G: AsRef<str>, A: AsRef<str>>(
    text: &str,
    artifacts: &[(G, A)],
) -> Result<String, WriteError> {
    let masked = Masked::new(text);
    let mut document: DocumentMut = masked.text.parse().map_err(|e: toml_edit::TomlError| {
        WriteError::Syntax(e.message().lines().next().unwrap_or_default().to_owned())
    })?;
    for (group, artifact) in artifacts {
        let (group, artifact) = (group.as_ref(), artifact.as_ref());
        let inline = document.get("groups").is_some_and(Item::is_value);
        let table = find(&mut document, group).ok_or_else(|| WriteError::NoSuchGroup(group.to_owned()))?;
        set(table, inline, artifact).ok_or_else(|| WriteError::NotATable(group.to_owned()))?;
    }
    Ok(masked.unmask(&document.to_string()))
}

/// The table of a group, in `[[groups]]` or in a list of inline tables.
fn find<'d>(document: &'d mut DocumentMut, group: &str) -> Option<&'d mut dyn TableLike> {
    let is_it = |table: &dyn TableLike| table.get("id").and_then(Item::as_str) == Some(group);
    match document.get_mut("groups")? {
        Item::ArrayOfTables(tables) => {
            tables.iter_mut().find(|table| is_it(*table)).map(|table| table as &mut dyn TableLike)
        }
        Item::Value(Value::Array(items)) => items
            .iter_mut()
            .filter_map(Value::as_inline_table_mut)
            .find(|table| is_it(*table))
            .map(|table| table as &mut dyn TableLike),
        _ => None,
    }
}

/// Sets the artifact of a group; `inline` when the group is on one line, so that `run` has to be there too.
fn set(group: &mut dyn TableLike, inline: bool, artifact: &str) -> Option<()> {
    if !group.contains_key("run") {
        let run = if inline { Item::Value(InlineTable::new().into()) } else { Item::Table(Table::new()) };
        group.insert("run", run);
    }
    let run = group.get_mut("run")?.as_table_like_mut()?;
    match run.get_mut("artifact").and_then(Item::as_value_mut) {
        Some(value) => {
            let decor = value.decor().clone();
            *value = Value::from(artifact);
            *value.decor_mut() = decor;
        }
        None => {
            run.insert("artifact", toml_edit::value(artifact));
        }
    }
    Some(())
}

/// A text whose template actions are set aside.
struct Masked {
    text: String,
    /// What stands for an action, and the action.
    actions: Vec<(String, String)>,
}

// === impl Masked ===

impl Masked {
    /// Puts a number in the place of each `{{ … }}`, which TOML takes for a value, a key or a part of a text; an action
    /// that has its lines for itself becomes a comment.
    fn new(text: &str) -> Masked {
        let mut masked = Masked { text: String::new(), actions: Vec::new() };
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let Some(length) = action_length(&rest[start..]) else { break };
            let (before, after) = (&rest[..start], &rest[start + length..]);
            let line_start = before.rsplit('\n').next().unwrap_or_default();
            let goes_on = !masked.text.ends_with('\n') && !masked.text.is_empty() && !before.contains('\n');
            let alone = line_start.trim().is_empty()
                && !goes_on
                && after.split('\n').next().unwrap_or_default().trim().is_empty();
            masked.text.push_str(before);
            let token = masked.token(text, alone);
            masked.text.push_str(&token);
            masked.actions.push((token, rest[start..start + length].to_owned()));
            rest = after;
        }
        masked.text.push_str(rest);
        masked
    }

    /// A number that occurs nowhere in the text.
    fn token(&self, text: &str, alone: bool) -> String {
        let hash = if alone { "#" } else { "" };
        (0u64..)
            .map(|salt| format!("{hash}77{:05}{:05}77", salt, self.actions.len()))
            .find(|token| !text.contains(token.trim_start_matches('#')))
            .unwrap_or_default()
    }

    fn unmask(&self, text: &str) -> String {
        self.actions.iter().fold(text.to_owned(), |text, (token, action)| text.replacen(token, action, 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"# why
[global] # here
plan = "p"

[[groups]]
id = "a" # first
[groups.build_config]
x = 1 # kept

[[groups]]
id = "b"
  [groups.run]
  artifact = "old" # mine
  test_params = { a = "b" }

[[groups]]
id = "c"
run = { test_params = { a = "b" } }

[[runs]]
id = "r"
"#;

    #[test]
    fn artifacts_are_written_and_the_rest_is_kept() {
        let written = write_artifacts(TEXT, &[("a", "/x\"y"), ("b", "new"), ("c", "third")]).unwrap();
        let wanted = TEXT.replace("artifact = \"old\" # mine", "artifact = \"new\" # mine").replace(
            "{ test_params = { a = \"b\" } }",
            "{ test_params = { a = \"b\" } , artifact = \"third\" }",
        );
        let with_a = wanted.replace("x = 1 # kept\n", "x = 1 # kept\n\n[groups.run]\nartifact = '/x\"y'\n");
        let composition = crate::composition::Composition::parse("c.toml", &written).unwrap();
        let artifact = |id: &str| composition.group(id).unwrap().run.artifact.clone().map(|a| a.value);
        assert_eq!(artifact("a").as_deref(), Some("/x\"y"));
        assert_eq!((artifact("b").as_deref(), artifact("c").as_deref()), (Some("new"), Some("third")));
        for line in TEXT.lines().filter(|l| l.contains('#') && !l.contains("old")) {
            assert!(written.contains(line), "{line} is gone:\n{written}");
        }
        assert!(written.contains("artifact = \"new\" # mine"), "{written}");
        assert_eq!(written.lines().count(), with_a.lines().count(), "{written}");
    }

    #[test]
    fn templates_are_kept() {
        let text = "{{- $n := atoi .Env.N -}}\n[global]\nplan = \"{{ .Env.PLAN }}\"\ntotal_instances = {{ .Env.N }}\n{{ with (load_resource \"}}.toml\") }}\n[[groups]]\nid = \"a\" # {{ .x }}\n{{ end }}\n";
        let written = write_artifacts(text, &[("a", "art")]).unwrap();
        assert!(written.starts_with(&text[..text.find("\n{{ end }}").unwrap()]), "{written}");
        assert!(written.contains("artifact = \"art\""), "{written}");
        assert!(written.contains("{{ end }}"), "{written}");
    }

    #[test]
    fn what_has_no_place_is_named() {
        let made = "{{ range $i := split \"a,b\" }}\n[[groups]]\nid = \"{{ $i }}\"\n{{ end }}\n";
        assert_eq!(write_artifacts(made, &[("a", "x")]), Err(WriteError::NoSuchGroup("a".into())));
        assert!(matches!(
            write_artifacts("{{ if .x }} a = 1 {{ end }}", &[("a", "x")]),
            Err(WriteError::Syntax(_))
        ));
        let odd = "[[groups]]\nid = \"a\"\nrun = 5\n";
        assert_eq!(write_artifacts(odd, &[("a", "x")]), Err(WriteError::NotATable("a".into())));
    }

    proptest! {
        #[test]
        fn nothing_changes_when_nothing_is_written(text in "(\\{\\{|\\}\\}|[a-z\"'#=\n \\[\\]]|x = 1\n){0,20}") {
            if let Ok(written) = write_artifacts::<&str, &str>(&text, &[]) {
                prop_assert_eq!(written.trim_end_matches('\n'), text.trim_end_matches('\n'));
            }
        }
    }
}

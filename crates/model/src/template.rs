//! Compositions as Go templates: from a text with `{{ … }}` to a text without.
//!
//! The language is Go's text/template (the `gotmpl` crate), the data `{Env: …}`, and the functions those that
//! compositions always had: `pick`, `toml`, `withEnv`, `split`, `atoi`, `load_resource`. Nothing is read here: a
//! template that loads a file says which one, and is expanded again when its text is there.
//!
//! Every expansion ends: nesting, calls, rounds and output are bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use gotmpl::{Template, TemplateError, Value, ValueFunc};

use crate::composition::Files;
use crate::diagnostic::{Diagnostics, Source, nearest};

pub(crate) use shield::action_length;

mod resource;
mod shield;

/// The most that a template can become, bytes.
pub const MAX_OUTPUT: usize = 16 << 20;

/// The most rounds of all `range` actions together.
pub const MAX_ROUNDS: u64 = 1_000_000;

/// What became of a template.
#[derive(Debug, Clone)]
pub enum Expanded {
    /// The text, and what the user should know of it.
    Text {
        /// TOML without templates, for [`Composition::parse_expanded`](crate::composition::Composition::parse_expanded).
        text: String,
        /// Warnings only.
        warnings: Diagnostics,
    },
    /// Files that have to be read first, relative to the composition; then it is expanded again.
    Needs(Vec<String>),
}

/// The functions that templates have besides Go's own.
pub const FUNCTIONS: [&str; 6] = ["pick", "toml", "withEnv", "split", "atoi", "load_resource"];

/// Go's own functions.
const BUILTINS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print",
    "printf", "println", "slice", "urlquery",
];

/// Whether a text has to be expanded before it is read.
pub fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// Expands a composition's text. `environment` is what templates see as `.Env`; `files` holds the texts of what earlier
/// rounds needed, by the path that was asked for.
pub fn expand(
    file: &str,
    text: &str,
    environment: &BTreeMap<String, String>,
    files: &Files,
) -> Result<Expanded, Diagnostics> {
    let source = Source::new(file, text);
    if let Some(mistake) = shield::check(&source) {
        return Err(one(mistake));
    }
    let needs: Arc<Mutex<Vec<String>>> = Arc::default();
    let env = Value::Map(Arc::new(
        environment.iter().map(|(k, v)| (k.as_str().into(), Value::String(v.as_str().into()))).collect(),
    ));
    let data = Value::Map(Arc::new(BTreeMap::from([("Env".into(), env.clone())])));
    let template = Template::new(file)
        .max_range_iters(MAX_ROUNDS)
        .funcs(functions(env, files.clone(), needs.clone()))
        .parse(text)
        .map_err(|e| one(mistake(&source, &e)))?;
    let mut output = Bounded(String::new());
    match template.execute_fmt(&mut output, &data) {
        Ok(()) => {}
        Err(_) if needs.lock().is_ok_and(|needs| !needs.is_empty()) => {
            return Ok(Expanded::Needs(needs.lock().map(|needs| needs.clone()).unwrap_or_default()));
        }
        Err(TemplateError::Write) => {
            let message = format!("the template becomes more than {MAX_OUTPUT} bytes");
            return Err(one(source.start().error(message)));
        }
        Err(e) => return Err(one(mistake(&source, &e))),
    }
    let text = output.0;
    let expanded = Source::new(format!("{file} (expanded)"), text.as_str());
    let mut warnings = Diagnostics::new();
    for (at, missing) in text.match_indices("<no value>") {
        let warning = "a key that the template asks for is missing, so `<no value>` stands here";
        warnings.push(expanded.place(at..at + missing.len(), "").warning(warning));
    }
    Ok(Expanded::Text { text, warnings })
}

/// The functions of compositions.
fn functions(env: Value, files: Files, needs: Arc<Mutex<Vec<String>>>) -> BTreeMap<String, ValueFunc> {
    let load = move |args: &[Value]| {
        let [Value::String(path)] = args else {
            return wrong("load_resource", "the path of a TOML file", args);
        };
        match files.get(path.as_ref()) {
            Some(Ok(text)) => resource::read(path, text).map_err(TemplateError::Exec),
            Some(Err(why)) => Err(TemplateError::Exec(format!("load_resource {path} failed: {why}"))),
            None => {
                if let Ok(mut needs) = needs.lock()
                    && !needs.iter().any(|known| known == path.as_ref())
                {
                    needs.push(path.to_string());
                }
                Err(TemplateError::Exec(format!("load_resource {path}: not read yet")))
            }
        }
    };
    let own = env.clone();
    let with_env = move |args: &[Value]| {
        let [Value::Map(map)] = args else { return wrong("withEnv", "a map", args) };
        let mut map = (**map).clone();
        map.insert("Env".into(), own.clone());
        Ok(Value::Map(Arc::new(map)))
    };
    let of_env = env;
    // In Go the environment is a map of texts, so that a missing key is an empty text to `index`; elsewhere it is nil.
    let index = move |args: &[Value]| {
        let (value, keys) =
            args.split_first().ok_or_else(|| TemplateError::Exec("index takes a value".to_owned()))?;
        let is_env = matches!((value, &of_env), (Value::Map(a), Value::Map(b)) if Arc::ptr_eq(a, b));
        match keys {
            [Value::String(_)] if is_env => match value.index(&keys[0])? {
                Value::Nil => Ok(Value::String("".into())),
                found => Ok(found),
            },
            _ => keys.iter().try_fold(value.clone(), |value, key| value.index(key)),
        }
    };
    let all: [(&str, ValueFunc); 7] = [
        ("index", Arc::new(index)),
        ("pick", Arc::new(pick)),
        ("toml", Arc::new(toml)),
        ("withEnv", Arc::new(with_env)),
        ("split", Arc::new(split)),
        ("atoi", Arc::new(atoi)),
        ("load_resource", Arc::new(load)),
    ];
    all.into_iter().map(|(name, function)| (name.to_owned(), function)).collect()
}

/// A map with one key of another one.
fn pick(args: &[Value]) -> Result<Value, TemplateError> {
    let [Value::Map(map), Value::String(key)] = args else { return wrong("pick", "a map and a key", args) };
    let value = map.get(key.as_ref()).cloned().unwrap_or(Value::Nil);
    Ok(Value::Map(Arc::new(BTreeMap::from([(key.clone(), value)]))))
}

/// A map as TOML.
fn toml(args: &[Value]) -> Result<Value, TemplateError> {
    let [Value::Map(map)] = args else { return wrong("toml", "a map", args) };
    resource::write(map).map(|text| Value::String(text.into())).map_err(TemplateError::Exec)
}

/// The parts of a text between commas.
fn split(args: &[Value]) -> Result<Value, TemplateError> {
    let [Value::String(text)] = args else { return wrong("split", "a text", args) };
    // Go splits an empty text into one empty part, as Rust does.
    Ok(Value::List(text.split(',').map(|part| Value::String(part.into())).collect()))
}

/// A text as a number.
fn atoi(args: &[Value]) -> Result<Value, TemplateError> {
    let [Value::String(text)] = args else { return wrong("atoi", "a text", args) };
    match text.parse::<i64>() {
        Ok(number) => Ok(Value::Int(number)),
        Err(_) => Err(TemplateError::Exec(format!("strconv.Atoi: parsing {text:?}: invalid syntax"))),
    }
}

fn wrong(function: &str, expected: &str, args: &[Value]) -> Result<Value, TemplateError> {
    let given: Vec<&str> = args.iter().map(Value::type_name).collect();
    let given = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
    Err(TemplateError::Exec(format!("{function} takes {expected}, and is given {given}")))
}

/// An error of the template with its place, as far as that is known.
fn mistake(source: &Source, error: &TemplateError) -> crate::diagnostic::Diagnostic {
    let text = source.text();
    let message = |what: String| format!("failed to process composition template: {what}");
    let named = |name: &str| {
        let at = text.match_indices(name).map(|(at, _)| at).find(|&at| {
            let action = text[..at].rfind("{{").unwrap_or(0);
            !text[action..at].contains("}}") && text[..at].contains("{{")
        });
        at.map_or_else(|| source.start(), |at| source.place(at..at + name.len(), ""))
    };
    match error {
        TemplateError::Parse { line, col, message: what, .. }
        | TemplateError::Lex { line, col, message: what, .. } => {
            let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
            let at = start + col.saturating_sub(1);
            source.place(at..at + 1, "").error(message(what.clone()))
        }
        TemplateError::UndefinedFunction(name) => {
            let known = FUNCTIONS.into_iter().chain(BUILTINS);
            let what =
                format!("there is no function {name}; known are {}, and Go's own", FUNCTIONS.join(", "));
            let mistake = named(name).error(message(what));
            match nearest(name, known) {
                Some(near) => mistake.suggest(near),
                None => mistake,
            }
        }
        TemplateError::UndefinedVariable(name) | TemplateError::UndefinedTemplate(name) => {
            named(name).error(message(error.to_string()))
        }
        TemplateError::RecursionLimit => source.start().error(message(
            "templates call each other (or blocks lie in each other) more than 200 levels deep".to_owned(),
        )),
        TemplateError::RangeIterLimit => source
            .start()
            .error(message(format!("its range actions go on for more than {MAX_ROUNDS} rounds"))),
        TemplateError::Exec(what) => {
            named(what.split_whitespace().next().unwrap_or_default()).error(message(what.clone()))
        }
        other => source.start().error(message(other.to_string())),
    }
}

fn one(mistake: crate::diagnostic::Diagnostic) -> Diagnostics {
    let mut mistakes = Diagnostics::new();
    mistakes.push(mistake);
    mistakes
}

/// A text that doesn't grow beyond [`MAX_OUTPUT`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.0.len() + part.len() > MAX_OUTPUT {
            return Err(fmt::Error);
        }
        self.0.push_str(part);
        Ok(())
    }
}

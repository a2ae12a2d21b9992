//! Mistakes in what a user wrote: where each one is, what was expected there, and the nearest thing that exists.
//!
//! A file's mistakes are reported all at once, by place. How a mistake is found belongs to the readers of each file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

/// A text and the name that its mistakes are reported under.
#[derive(Clone)]
pub struct Source(Arc<SourceText>);

struct SourceText {
    name: String,
    text: String,
}

/// Where something is: bytes of a text, and the path of keys that leads there.
#[derive(Clone)]
pub struct Place {
    source: Source,
    span: Range<usize>,
    path: String,
    /// Of a value that has a key: where that is.
    key: Option<Range<usize>>,
}

/// How bad a mistake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing can be run.
    Error,
    /// What was written has no effect, or probably another one than meant.
    Warning,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The keys that lead there, such as `groups[1].instances.count`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// The nearest known name, or another short hint of what to write.
    pub suggestion: Option<String>,
    #[serde(skip)]
    excerpt: Excerpt,
}

/// The source line of a mistake, for rendering.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Excerpt {
    line: String,
    indent: usize,
    carets: usize,
}

/// Mistakes, by file and place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

/// A value that was read without an error, and what the user should know of it all the same.
#[derive(Debug, Clone)]
pub struct Checked<T> {
    /// The value.
    pub value: T,
    /// Warnings only.
    pub warnings: Diagnostics,
}

/// The longest part of a source line that is shown, in characters.
const EXCERPT: usize = 160;

// === impl Source ===

impl Source {
    /// A text under the name of its file.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source(Arc::new(SourceText { name: name.into(), text: text.into() }))
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A place in the text; a span beyond its end is moved to the end.
    pub fn place(&self, span: Range<usize>, path: impl Into<String>) -> Place {
        let end = self.text().len();
        let start = floor_char(self.text(), span.start.min(end));
        let stop = floor_char(self.text(), span.end.min(end)).max(start);
        Place { source: self.clone(), span: start..stop, path: path.into(), key: None }
    }

    /// The text as a whole.
    pub fn start(&self) -> Place {
        self.place(0..0, "")
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?})", self.name())
    }
}

// === impl Place ===

impl Place {
    /// The keys that lead here.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same place, and that of its key.
    pub(crate) fn under(self, key: &Place) -> Place {
        Place { key: Some(key.span()), ..self }
    }

    /// The place of the key that a value stands under; the value's own where it has none.
    pub(crate) fn of_key(&self) -> Place {
        let span = self.key.clone().unwrap_or_else(|| self.span());
        Place { source: self.source.clone(), span, path: self.path.clone(), key: None }
    }

    /// The bytes of the text.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The source that it is a place of.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Line and column, from 1, the column in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        let before = &self.source.text()[..self.span.start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// A mistake here.
    pub fn error(&self, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, message.into())
    }

    /// A warning here.
    pub fn warning(&self, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, message.into())
    }

    fn diagnostic(&self, severity: Severity, message: String) -> Diagnostic {
        let (line, column) = self.line_and_column();
        let (file, path) = (self.source.name().to_owned(), self.path.clone());
        Diagnostic { severity, file, line, column, path, message, suggestion: None, excerpt: self.excerpt() }
    }

    fn excerpt(&self) -> Excerpt {
        let text = self.source.text();
        let line_start = text[..self.span.start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[self.span.start..].find('\n').map_or(text.len(), |i| self.span.start + i);
        let indent = text[line_start..self.span.start].chars().count();
        let skipped = indent.saturating_sub(EXCERPT / 2);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let line: String =
            text[line_start..line_end].chars().skip(skipped).take(EXCERPT).map(shown).collect();
        let indent = indent - skipped;
        let carets = text[self.span.start..self.span.end.min(line_end).max(self.span.start)].chars().count();
        let carets = carets.min(line.chars().count().saturating_sub(indent)).max(1);
        Excerpt { line: line.trim_end().to_owned(), indent, carets }
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.span == other.span && self.path == other.path && self.source.name() == other.source.name()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column} ({})", self.source.name(), self.path)
    }
}

// === impl Diagnostic ===

impl Diagnostic {
    /// Adds the hint of what to write instead.
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Diagnostic {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds the nearest of the known names, where one is near.
    pub fn suggest_nearest<'a>(
        mut self,
        wrong: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Diagnostic {
        self.suggestion = nearest(wrong, known).map(str::to_owned);
        self
    }

    /// The mistake as rustc would show it: message, place, the source line and a caret under it.
    pub fn render(&self) -> String {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let path = if self.path.is_empty() { String::new() } else { format!(" ({})", self.path) };
        let mut text = format!("{word}: {}\n", self.message);
        text.push_str(&format!("{margin}--> {}:{}:{}{path}\n", self.file, self.line, self.column));
        let hint = self.suggestion.as_deref().map(|s| format!(" did you mean `{s}`?")).unwrap_or_default();
        if self.excerpt.line.is_empty() {
            if !hint.is_empty() {
                text.push_str(&format!("{margin} ={hint}\n"));
            }
            return text;
        }
        let Excerpt { line, indent, carets } = &self.excerpt;
        let (gap, carets) = (" ".repeat(*indent), "^".repeat(*carets));
        text.push_str(&format!("{margin} |\n{number} | {line}\n{margin} | {gap}{carets}{hint}\n"));
        text
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: message (did you mean …?)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.suggestion {
            Some(name) => write!(f, " (did you mean `{name}`?)"),
            None => Ok(()),
        }
    }
}

// === impl Diagnostics ===

impl Diagnostics {
    /// No mistake.
    pub fn new() -> Diagnostics {
        Diagnostics::default()
    }

    /// Adds one.
    pub fn push(&mut self, mistake: Diagnostic) {
        self.list.push(mistake);
    }

    /// Adds all of another list.
    pub fn append(&mut self, other: Diagnostics) {
        self.list.extend(other.list);
    }

    /// All of them: by file in the order in which files were read, by place in each, each once.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// All of them in the style of rustc, with a count at the end.
    pub fn render(&self) -> String {
        let mut text: String = self.list.iter().map(|d| d.render() + "\n").collect();
        let errors = self.list.iter().filter(|d| d.severity == Severity::Error).count();
        let warnings = self.list.len() - errors;
        let count = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
        let counts: Vec<String> =
            [count(errors, "error"), count(warnings, "warning")].into_iter().flatten().collect();
        if !counts.is_empty() {
            text.push_str(&counts.join(", "));
            text.push('\n');
        }
        text
    }

    /// The value when there is no error; all mistakes otherwise.
    pub(crate) fn check<T>(mut self, value: Option<T>) -> Result<Checked<T>, Diagnostics> {
        self.sort();
        match value {
            Some(value) if !self.has_errors() => Ok(Checked { value, warnings: self }),
            _ => Err(self),
        }
    }

    /// Sorts by place, keeping the order of files, and drops what is said twice.
    fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for mistake in &self.list {
            if !files.contains(&mistake.file) {
                files.push(mistake.file.clone());
            }
        }
        let rank = |d: &Diagnostic| files.iter().position(|f| *f == d.file);
        self.list.sort_by_key(|d| (rank(d), d.line, d.column, d.severity));
        let mut seen: Vec<(String, usize, usize, String)> = Vec::new();
        self.list.retain(|d| {
            let key = (d.file.clone(), d.line, d.column, d.message.clone());
            let fresh = !seen.contains(&key);
            seen.push(key);
            fresh
        });
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render())
    }
}

impl std::error::Error for Diagnostics {}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

/// The known name that is nearest to a wrong one, if any is near: case, `-` and `_` don't count. Where none is, one that
/// the wrong name begins with, such as `both` for `both_ways`.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let wrong = plain(wrong);
    let known: Vec<&str> = known.into_iter().collect();
    let begins = |name: &&str| !name.is_empty() && wrong.starts_with(&format!("{}_", plain(name)));
    let beginning = known.iter().copied().find(begins);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &plain(name)), name))
        .filter(|(distance, name)| {
            let (a, b) = (name.chars().count(), wrong.chars().count());
            *distance <= a.max(b).div_ceil(3) && *distance < a.min(b)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
        .or(beginning)
}

/// The list of names in a sentence: `a, b, c`, cut where it grows too long.
pub(crate) fn names<'a>(known: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = known.into_iter().collect();
    match all.len() {
        0 => "none".to_owned(),
        n if n > 24 => format!("{} and {} more", all[..20].join(", "), n - 20),
        _ => all.join(", "),
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_shows_its_line_with_a_caret() {
        let source = Source::new("c.toml", "[global]\n  pläne = 1\n");
        let at = source.place(11..17, "global.pläne");
        let shown = at.error("unknown key `pläne`").suggest_nearest("pläne", ["plan", "case"]).render();
        let wanted = "error: unknown key `pläne`\n --> c.toml:2:3 (global.pläne)\n  |\n2 |   pläne = 1\n  |   ^^^^^ did you mean `plan`?\n";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn mistakes_are_sorted_by_place_and_said_once() {
        let source = Source::new("c", "a\nb\nc");
        let mut all = Diagnostics::new();
        all.push(source.place(4..5, "").error("three"));
        all.push(source.place(0..1, "").warning("one"));
        all.push(source.place(4..5, "").error("three"));
        let found = all.check(Some(())).unwrap_err();
        assert_eq!(found.iter().map(|d| d.line).collect::<Vec<_>>(), [1, 3]);
        assert!(found.render().ends_with("1 error, 1 warning\n"));
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("Test-Params", ["test_params", "instances"]), Some("test_params"));
        assert_eq!(nearest("instanses", ["test_params", "instances"]), Some("instances"));
        assert_eq!(nearest("x", ["test_params", "instances"]), None);
        assert_eq!(nearest("both_ways", ["from", "both", "way"]), Some("both"));
        assert_eq!(nearest("bothways", ["from", "both", "way"]), None);
    }

    #[test]
    fn places_anywhere_are_no_panic() {
        let source = Source::new("c", "ä\r\n\tü");
        for start in 0..12 {
            for end in 0..12 {
                let _ = source.place(start..end, "p").error("e").render();
            }
        }
    }
}

//! YAML into a tree that knows where each part was written, with bounds on everything.
//!
//! Anchors, aliases and merge keys are resolved here, duplicate keys are found here. What a plain scalar *means* is
//! in [`super::scalar`], what a field may hold in [`super::decode`].

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write as _},
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde::Serialize;

use super::{
    mistake::{Code, Mistake},
    scalar::Scalar,
};

/// The largest file that is read, in bytes. The API server takes requests of up to 3 MiB.
pub const MAX_BYTES: usize = 4 << 20;
/// The most nodes of a file, with aliases expanded.
pub const MAX_NODES: usize = 400_000;
/// The most documents of a file.
pub const MAX_DOCUMENTS: usize = 1_000;
/// The deepest nesting. The deepest field of a pod is at 17.
pub const MAX_DEPTH: usize = 64;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

/// A value of a document, and where it was written.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value starts. A value that came through an alias keeps the place of its anchor.
    pub at: Position,
    /// The value.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping; keys are unique.
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, as JSON would have it.
    pub key: String,
    /// Where the key was written.
    pub key_at: Position,
    /// The value.
    pub value: Node,
}

/// All documents of a text, in order, empty ones left out. Mistakes are added to `mistakes`; after one of syntax or
/// size the documents before it are returned.
pub fn parse(text: &str, mistakes: &mut Vec<Mistake>) -> Vec<Node> {
    if text.len() > MAX_BYTES {
        let message = format!(
            "the file has {} bytes; more than {MAX_BYTES} are not read (the API server itself takes 3 MiB)",
            text.len()
        );
        mistakes.push(Mistake::new(Code::TooLarge, Position::START, message));
        return Vec::new();
    }
    let mut builder =
        Builder { mistakes, documents: Vec::new(), stack: Vec::new(), anchors: HashMap::new(), nodes: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let stop = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(e) => {
                let message = format!("this is not YAML: {}", e.info());
                Err(Mistake::new(Code::Syntax, Position::from(*e.marker()), message))
            }
        };
        if let Err(mistake) = stop {
            builder.mistakes.push(mistake);
            break;
        }
    }
    builder.documents
}

struct Builder<'m> {
    mistakes: &'m mut Vec<Mistake>,
    documents: Vec<Node>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchor>,
    nodes: usize,
}

/// A collection whose end has not come yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value; `None` in a list.
    key: Option<(String, Position, bool)>,
    /// Values of merge keys, in order.
    merges: Vec<Node>,
    /// The line of each key so far.
    seen: HashMap<String, u32>,
}

enum Anchor {
    Open,
    Closed(Node, usize),
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let at = Position::from(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar::new(&text, style == ScalarStyle::Plain, core_tag(tag.as_deref()));
                self.count(at, 1)?;
                let node = Node { at, value: Value::Scalar(scalar) };
                self.close_anchor(anchor, &node)?;
                self.value(node)
            }
            Event::SequenceStart(anchor, _) => self.open(at, Value::Sequence(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.open(at, Value::Mapping(Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return Ok(()) };
                let mut node = open.node;
                merge(&mut node, open.merges);
                self.close_anchor(open.anchor, &node)?;
                self.value(node)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(Anchor::Closed(node, size)) => {
                    let (node, size) = (node.clone(), *size);
                    if self.stack.len() + node.depth() > MAX_DEPTH {
                        return Err(too_deep(at));
                    }
                    self.count(at, size)?;
                    self.value(node)
                }
                Some(Anchor::Open) => {
                    let message = "the alias refers to the value that it is part of";
                    Err(Mistake::new(Code::Recursion, at, message))
                }
                None => Err(Mistake::new(Code::Syntax, at, "the alias refers to no anchor")),
            },
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, at: Position, value: Value, anchor: usize) -> Result<(), Mistake> {
        self.count(at, 1)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        if let Some(Open { node: Node { value: Value::Mapping(_), .. }, key: None, .. }) = self.stack.last() {
            return Err(Mistake::new(Code::Syntax, at, "a key must be a word, not a list or a mapping"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Anchor::Open);
        }
        let node = Node { at, value };
        self.stack.push(Open { node, anchor, key: None, merges: Vec::new(), seen: HashMap::new() });
        Ok(())
    }

    /// Keeps a copy of an anchored value; copies count, so that anchors within anchors stay bounded too.
    fn close_anchor(&mut self, id: usize, node: &Node) -> Result<(), Mistake> {
        if id > 0 {
            let size = node.count();
            self.count(node.at, size)?;
            self.anchors.insert(id, Anchor::Closed(node.clone(), size));
        }
        Ok(())
    }

    fn count(&mut self, at: Position, nodes: usize) -> Result<(), Mistake> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} values once its aliases are expanded");
            return Err(Mistake::new(Code::TooLarge, at, message));
        }
        Ok(())
    }

    /// The path of the value that is being read, for a message. Cheap enough to be made only when it is needed.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match (&open.node.value, &open.key) {
                (Value::Sequence(items), _) => {
                    let _ = write!(path, "[{}]", items.len());
                }
                (_, Some((key, ..))) if path.is_empty() => path.push_str(key),
                (_, Some((key, ..))) => {
                    let _ = write!(path, ".{key}");
                }
                (_, None) => {}
            }
        }
        path
    }

    /// Puts a complete value where it belongs: into the open list, as key or value of the open mapping, or as a
    /// document.
    fn value(&mut self, node: Node) -> Result<(), Mistake> {
        let Some(open) = self.stack.last_mut() else {
            if self.documents.len() >= MAX_DOCUMENTS {
                let message = format!("the file has more than {MAX_DOCUMENTS} documents");
                return Err(Mistake::new(Code::TooLarge, node.at, message));
            }
            if !matches!(&node.value, Value::Scalar(s) if s.is_null()) {
                self.documents.push(node);
            }
            return Ok(());
        };
        match &mut open.node.value {
            Value::Sequence(items) => items.push(node),
            Value::Mapping(entries) => match open.key.take() {
                None => {
                    let Value::Scalar(scalar) = &node.value else {
                        let message = "a key must be a word, not a list or a mapping";
                        return Err(Mistake::new(Code::Syntax, node.at, message));
                    };
                    open.key = Some((scalar.as_key(), node.at, scalar.is_plain("<<")));
                }
                Some((_, key_at, true)) => match &node.value {
                    Value::Mapping(_) => open.merges.push(node),
                    Value::Sequence(items) if items.iter().all(|i| matches!(i.value, Value::Mapping(_))) => {
                        open.merges.extend(items.iter().cloned());
                    }
                    _ => {
                        let message = "map merge requires map or sequence of maps as the value";
                        return Err(Mistake::new(Code::Syntax, key_at, message));
                    }
                },
                Some((key, key_at, false)) => match open.seen.get(&key) {
                    None => {
                        open.seen.insert(key.clone(), key_at.line);
                        entries.push(Entry { key, key_at, value: node });
                    }
                    Some(first) => {
                        let message = format!("`{key}` is already set in line {first}");
                        let words = format!("yaml: line {}: key \"{key}\" already set in map", key_at.line);
                        open.key = Some((key, key_at, false));
                        let path = self.path();
                        if let Some(open) = self.stack.last_mut() {
                            open.key = None;
                        }
                        let mistake = Mistake::new(Code::DuplicateKey, key_at, message).at_path(path);
                        self.mistakes.push(mistake.in_api_words(words));
                    }
                },
            },
            Value::Scalar(_) => {}
        }
        Ok(())
    }
}

/// Adds the entries of merge keys that the mapping does not have itself; earlier ones win.
fn merge(node: &mut Node, merges: Vec<Node>) {
    let Value::Mapping(entries) = &mut node.value else { return };
    if merges.is_empty() {
        return;
    }
    let mut known: HashSet<String> = entries.iter().map(|e| e.key.clone()).collect();
    for merged in merges {
        let Value::Mapping(more) = merged.value else { continue };
        entries.extend(more.into_iter().filter(|entry| known.insert(entry.key.clone())));
    }
}

fn too_deep(at: Position) -> Mistake {
    Mistake::new(Code::TooLarge, at, format!("values are nested more than {MAX_DEPTH} deep"))
}

fn core_tag(tag: Option<&Tag>) -> Option<&str> {
    tag.filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str())
}

// === impl Position ===

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl From<Marker> for Position {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line() as u32, column: marker.col() as u32 + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

// === impl Node ===

impl Node {
    /// The entry of a mapping.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    /// The value of a mapping's entry.
    pub fn field(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|e| &e.value)
    }

    /// The text of a scalar that is a string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(s) => s.as_str(),
            _ => None,
        }
    }

    /// Where the value at a path such as `spec.containers[0].name` was written. When there is no such value, the
    /// nearest one above it; the flag says whether the path was found whole.
    ///
    /// A path to a field gives the place of its key.
    pub fn locate(&self, path: &str) -> (Position, bool) {
        let mut node = self;
        let mut at = self.at;
        let mut rest = path;
        while !rest.is_empty() {
            let step = if let Some(after) = rest.strip_prefix('[') {
                let Some((inside, after)) = after.split_once(']') else { return (at, false) };
                rest = after;
                match inside.parse::<usize>() {
                    Ok(i) => match &node.value {
                        Value::Sequence(items) => items.get(i).map(|n| (n.at, n)),
                        _ => None,
                    },
                    Err(_) => node.entry(inside).map(|e| (e.key_at, &e.value)),
                }
            } else {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let end = name.find(['.', '[']).unwrap_or(name.len());
                rest = &name[end..];
                node.entry(&name[..end]).map(|e| (e.key_at, &e.value))
            };
            let Some((found, next)) = step else { return (at, false) };
            at = found;
            node = next;
        }
        (at, true)
    }

    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::Sequence(items) => items.iter().map(Self::count).sum(),
            Value::Mapping(entries) => entries.iter().map(|e| 1 + e.value.count()).sum(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::Sequence(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Mapping(entries) => entries.iter().map(|e| e.value.depth()).max().unwrap_or(0),
        }
    }
}

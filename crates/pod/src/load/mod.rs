//! Manifests: from the text of a file to pods, with every mistake at once and its line and column.
//!
//! The way of a text: [`tree`] reads YAML into a marked tree within bounds; [`decode`] turns the tree into the types of
//! `k8s-openapi` and collects what does not fit them; [`crate::validate`] says what the API server would refuse.
//! Nothing here reads files.
//!
//! The parser is `saphyr-parser`: it is maintained, gives a position with every event, and being event-driven lets the
//! bounds be kept while reading. What a scalar means is decided here, because `kubectl` reads YAML 1.1.

pub mod decode;
mod home;
pub mod mistake;
pub mod scalar;
pub mod tree;
pub mod workload;

pub use decode::nearest;
pub use mistake::{Code, Mistake};
pub use tree::{MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Position};
pub use workload::{Kind, Object, Workload};

use serde::{Serialize, de::DeserializeOwned};

use crate::{validate, version::Features};

/// More containers in one pod than these are refused.
pub const MAX_CONTAINERS: usize = 1_000;
/// The longest duration in seconds that a field may have: what nanoseconds in 63 bits hold, 292 years.
pub const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// Everything that a file holds.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// The documents, in order.
    pub documents: Vec<Document>,
    /// What is wrong with the file as a whole: its syntax, its size.
    pub mistakes: Vec<Mistake>,
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its kind as written.
    pub kind: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it starts.
    pub at: Position,
    /// What it holds: `None` for kinds without a pod, and when nothing could be made of it.
    pub workload: Option<Workload>,
    /// What is wrong with it.
    pub mistakes: Vec<Mistake>,
    /// Fields that this version of Kubernetes drops in silence, as paths.
    pub dropped: Vec<Dropped>,
}

/// A field that the API server drops without a word, because its feature gate is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The field.
    pub path: String,
    /// Where it was written.
    #[serde(flatten)]
    pub at: Position,
    /// The gate that would keep it.
    pub gate: &'static str,
}

/// Reads all documents of a text.
pub fn read(text: &str, features: &Features) -> Manifest {
    let mut mistakes = Vec::new();
    let roots = tree::parse(text, &mut mistakes);
    let mut manifest = Manifest::default();
    // Duplicate keys are found while reading; they belong to the document they stand in.
    let mut starts: Vec<Position> = roots.iter().map(|r| r.at).collect();
    starts.push(Position { line: u32::MAX, column: 1 });
    let (mut duplicates, whole): (Vec<_>, Vec<_>) =
        mistakes.into_iter().partition(|m| m.code == Code::DuplicateKey);
    manifest.mistakes = whole;
    for (i, root) in roots.into_iter().enumerate() {
        let (mine, rest) = duplicates.into_iter().partition(|m| m.at < starts[i + 1]);
        duplicates = rest;
        document(root, mine, features, &mut manifest.documents);
    }
    manifest
}

/// Reads one value of any type from a text that holds a single document.
///
/// # Errors
/// Every mistake in the text, in order.
pub fn value<T: DeserializeOwned>(text: &str) -> Result<T, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut roots = tree::parse(text, &mut mistakes);
    if roots.len() > 1 {
        mistakes.push(Mistake::new(Code::Syntax, roots[1].at, "there must be one document only"));
    }
    let Some(root) = (!roots.is_empty()).then(|| roots.swap_remove(0)) else {
        mistakes.push(Mistake::new(Code::Syntax, Position::START, "the file is empty"));
        return Err(mistakes);
    };
    match decode::decode(&root, &mut mistakes) {
        Some(value) if mistakes.is_empty() => Ok(value),
        _ => Err(mistakes),
    }
}

fn document(root: Node, mistakes: Vec<Mistake>, features: &Features, documents: &mut Vec<Document>) {
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let mut document = Document {
        kind: text(root.field("kind")).unwrap_or_default(),
        name: text(root.field("metadata").and_then(|m| m.field("name"))),
        at: root.at,
        workload: None,
        mistakes,
        dropped: Vec::new(),
    };
    if document.kind == "List"
        && let Some(Node { value: tree::Value::Sequence(items), .. }) = root.field("items")
    {
        for item in items {
            self::document(item.clone(), Vec::new(), features, documents);
        }
        return;
    }
    match workload::kind_of(&root) {
        Ok(Some(kind)) => {
            document.workload = Workload::decode(kind, root, &mut document.mistakes);
            document.check(features);
        }
        Ok(None) => {}
        Err(mistake) => document.mistakes.push(mistake),
    }
    documents.push(document);
}

// === impl Manifest ===

impl Manifest {
    /// The objects that hold pods.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.documents.iter().filter_map(|d| d.workload.as_ref())
    }

    /// Every mistake of the file, in the order of the text.
    pub fn all_mistakes(&self) -> Vec<&Mistake> {
        let of_documents = self.documents.iter().flat_map(|d| &d.mistakes);
        let mut all: Vec<_> = of_documents.chain(&self.mistakes).collect();
        all.sort_by_key(|m| m.at);
        all
    }
}

// === impl Document ===

impl Document {
    /// What the API server would say to this document; `None` when it would accept it, or when it is not known here.
    pub fn api_message(&self) -> Option<String> {
        let kind = self.workload.as_ref()?.kind();
        let handled = |why: String| {
            format!(
                "{k} in version \"{v}\" cannot be handled as a {k}: {why}",
                k = kind.name(),
                v = kind.api_version()
            )
        };
        let strict = |m: &&Mistake| matches!(m.code, Code::UnknownField | Code::DuplicateKey);
        let decoding = |m: &&Mistake| matches!(m.code, Code::WrongType | Code::OutOfRange | Code::Quantity);
        let words = |m: &Mistake| m.api.as_deref().unwrap_or(&m.message).to_owned();
        if let Some(first) = self.mistakes.iter().find(decoding) {
            return Some(handled(words(first)));
        }
        let unknown: Vec<_> = self.mistakes.iter().filter(strict).map(words).collect();
        if !unknown.is_empty() {
            return Some(handled(format!("strict decoding error: {}", unknown.join(", "))));
        }
        let invalid: Vec<_> = self
            .mistakes
            .iter()
            .filter(|m| m.code == Code::Invalid)
            .map(|m| format!("{}: {}", m.path, words(m)))
            .collect();
        let list = match invalid.as_slice() {
            [] => return None,
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let name = self.name.as_deref().unwrap_or_default();
        Some(format!("{} \"{name}\" is invalid: {list}", kind.qualified()))
    }

    fn check(&mut self, features: &Features) {
        let Some(workload) = &mut self.workload else { return };
        self.dropped = validate::drop_disabled(workload, features);
        for (path, since) in validate::unknown_fields(workload, features) {
            let field = path.rsplit('.').next().unwrap_or_default();
            let message = format!("there is no field `{field}` in Kubernetes {}", features.version());
            let mistake = Mistake::new(Code::UnknownField, workload.position(&path), message);
            let words = format!("unknown field \"{path}\"");
            let help = format!("it is there since 1.{since}");
            self.mistakes.push(mistake.at_path(path).with_help(help).in_api_words(words));
        }
        let containers =
            workload.spec().containers.len() + workload.spec().init_containers.iter().flatten().count();
        if containers > MAX_CONTAINERS {
            let path = workload.path("containers");
            let message =
                format!("the pod has {containers} containers; more than {MAX_CONTAINERS} are not modelled");
            let mistake = Mistake::new(Code::TooLarge, workload.position(&path), message);
            self.mistakes.push(mistake.at_path(path));
            self.workload = None;
            return;
        }
        for error in validate::workload(workload, features) {
            // What could not be read has been reported; its stand-in is not to be judged.
            let hidden = self.mistakes.iter().any(|m| {
                !matches!(m.code, Code::UnknownField | Code::DuplicateKey | Code::Invalid)
                    && error.path.starts_with(&m.path)
            });
            // A field that is missing because its name is misspelt has been reported under that name.
            let misspelt = error.message.starts_with("Required value")
                && self.mistakes.iter().any(|m| m.meant.as_deref() == Some(error.path.as_str()));
            if hidden || misspelt {
                continue;
            }
            let at = workload.position(&error.path);
            let mistake = Mistake::new(Code::Invalid, at, error.message).at_path(error.path);
            self.mistakes.push(Mistake { help: error.help, ..mistake });
            if self.mistakes.len() >= decode::MAX_MISTAKES {
                break;
            }
        }
    }
}

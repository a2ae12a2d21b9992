//! A mistake in a manifest: what is wrong, where, and what would be right.

use std::fmt;

use serde::Serialize;

use super::tree::Position;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// What sort of mistake.
    pub code: Code,
    /// The field, as the API server would write it: `spec.containers[0].image`. Empty for the whole document.
    pub path: String,
    /// Where it was written; for something missing, where it should be.
    #[serde(flatten)]
    pub at: Position,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it, when that is more than obvious.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The API server's own words for this, without the path, when they differ from `message`.
    #[serde(skip)]
    pub(crate) api: Option<Box<str>>,
    /// The path of the field that an unknown one was most likely to be.
    #[serde(skip)]
    pub(crate) meant: Option<Box<str>>,
}

/// Sorts of mistakes. [`Code::id`] is what JSON and SARIF call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not YAML.
    Syntax,
    /// Larger, deeper or wider than what is read.
    TooLarge,
    /// An alias within its own anchor.
    Recursion,
    /// A key twice in one mapping.
    DuplicateKey,
    /// A field that the type does not have.
    UnknownField,
    /// A value of another type than the field's.
    WrongType,
    /// A number that its field can't hold.
    OutOfRange,
    /// A text that is no quantity.
    Quantity,
    /// Nothing here is a pod, or what is has an unknown version.
    Kind,
    /// What the API server's validation refuses.
    Invalid,
}

// === impl Mistake ===

impl Mistake {
    pub(crate) fn new(code: Code, at: Position, message: impl Into<String>) -> Self {
        Self { code, path: String::new(), at, message: message.into(), help: None, api: None, meant: None }
    }

    pub(crate) fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn in_api_words(mut self, words: impl Into<String>) -> Self {
        self.api = Some(words.into().into_boxed_str());
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"))
    }
}

// === impl Code ===

impl Code {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::Syntax,
        Self::TooLarge,
        Self::Recursion,
        Self::DuplicateKey,
        Self::UnknownField,
        Self::WrongType,
        Self::OutOfRange,
        Self::Quantity,
        Self::Kind,
        Self::Invalid,
    ];

    /// The stable name, in kebab case.
    pub fn id(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::TooLarge => "too-large",
            Self::Recursion => "recursion",
            Self::DuplicateKey => "duplicate-key",
            Self::UnknownField => "unknown-field",
            Self::WrongType => "wrong-type",
            Self::OutOfRange => "out-of-range",
            Self::Quantity => "quantity",
            Self::Kind => "kind",
            Self::Invalid => "invalid",
        }
    }

    /// What the sort of mistake means, for a catalogue of rules.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Syntax => "the text is not YAML",
            Self::TooLarge => "the file is larger, deeper or wider than what is read",
            Self::Recursion => "an alias refers to the value that it is part of",
            Self::DuplicateKey => "a key is set twice in one mapping; only one of them would count",
            Self::UnknownField => "the API has no such field, and rejects the manifest or drops the field",
            Self::WrongType => "the value has another type than the field",
            Self::OutOfRange => "the number does not fit its field",
            Self::Quantity => "the text is not a quantity of a resource",
            Self::Kind => "the document holds no pod, or a version of the API that is not known",
            Self::Invalid => "the API server refuses this value",
        }
    }
}

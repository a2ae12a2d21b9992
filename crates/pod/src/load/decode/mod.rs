//! A tree of YAML into any type of the API, collecting every mistake on the way.
//!
//! The schema is the type itself: `Deserialize` tells a deserializer which fields a struct has and which type each
//! one wants, so this deserializer knows as much as a schema would, always completely and always of the very types
//! that are used afterwards. It never stops at a mistake: it records what is wrong, hands the visitor a harmless
//! value instead, and goes on. A visitor that refuses a value itself (a date, say) is met by decoding once more
//! without that value.
//!
//! What a *valid* value is belongs to [`crate::validate`].

mod access;

use std::{
    cell::RefCell,
    collections::HashSet,
    fmt::{self, Write as _},
};

use serde::de::{self, DeserializeOwned, Deserializer, Visitor, value::StrDeserializer};

use self::access::{Fields, Items, Variant};
use super::{
    mistake::{Code, Mistake},
    scalar::Meaning,
    tree::{Entry, Node, Value},
};
use crate::resources::Quantity;

/// More mistakes than these are not collected: nobody reads them.
pub const MAX_MISTAKES: usize = 200;
/// How often a document is decoded again without a value that its type refused.
const MAX_ATTEMPTS: usize = 32;

/// Decodes a tree. `None` only when no value of the type can be made at all; whatever was wrong is in `mistakes`.
pub fn decode<T: DeserializeOwned>(root: &Node, mistakes: &mut Vec<Mistake>) -> Option<T> {
    let context = Context::default();
    for _ in 0..MAX_ATTEMPTS {
        context.found.borrow_mut().clear();
        let path = Path { parent: None, step: Step::Root };
        match T::deserialize(Decoder { node: root, path: &path, owner: "", context: &context }) {
            Ok(value) => {
                mistakes.append(&mut context.all());
                return Some(value);
            }
            Err(Refusal { placed: Some(node), .. }) if context.without.borrow_mut().insert(node) => {}
            Err(Refusal { message, placed }) => {
                if placed.is_none() {
                    context.refused.borrow_mut().push(Mistake::new(Code::WrongType, root.at, message));
                }
                break;
            }
        }
    }
    mistakes.append(&mut context.all());
    None
}

/// The names of a struct's fields.
pub fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Ask<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = Refusal;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refusal> {
            Err(de::Error::custom("only structs have fields"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Refusal> {
            *self.0 = fields;
            Err(de::Error::custom("the fields are all that was wanted"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut fields: &'static [&'static str] = &[];
    // The answer is in `fields`; the error is how the question ends.
    let _ = T::deserialize(Ask(&mut fields));
    fields
}

/// The nearest of some names, if it is near enough to be meant.
pub fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let lower = name.to_lowercase();
    let rated = names.into_iter().map(|n| (strsim::damerau_levenshtein(&lower, &n.to_lowercase()), n));
    rated
        .min_by_key(|(distance, _)| *distance)
        .filter(|(d, n)| *d <= 1.max(n.len().max(name.len()) / 3))
        .map(|r| r.1)
}

#[derive(Default)]
struct Context {
    /// Mistakes of this attempt.
    found: RefCell<Vec<Mistake>>,
    /// Mistakes that a visitor found, of all attempts.
    refused: RefCell<Vec<Mistake>>,
    /// Nodes to be left out, by address: the tree stays where it is while it is decoded.
    without: RefCell<HashSet<usize>>,
}

struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

enum Step<'p> {
    Root,
    Field(&'p str),
    Key(&'p str),
    Index(usize),
}

struct Decoder<'de, 'p> {
    node: &'de Node,
    path: &'p Path<'p>,
    /// The struct that the value is in, by its name in Go.
    owner: &'static str,
    context: &'p Context,
}

/// A value that a visitor refused; `placed` once it is known which node that was.
#[derive(Debug)]
struct Refusal {
    message: String,
    placed: Option<usize>,
}

// === impl Context ===

impl Context {
    fn all(&self) -> Vec<Mistake> {
        let mut all = std::mem::take(&mut *self.found.borrow_mut());
        all.append(&mut self.refused.borrow_mut());
        all.sort_by_key(|m| m.at);
        all
    }

    fn record(&self, mistake: Mistake) {
        let mut found = self.found.borrow_mut();
        if found.len() < MAX_MISTAKES {
            found.push(mistake);
        }
    }

    /// Notes which node a refusal is about, the first time it passes by.
    fn place<T>(&self, result: Result<T, Refusal>, node: &Node, path: &Path<'_>) -> Result<T, Refusal> {
        result.map_err(|mut refusal| {
            if refusal.placed.is_none() {
                let mistake = Mistake::new(Code::WrongType, node.at, refusal.message.clone());
                self.refused.borrow_mut().push(mistake.at_path(path.to_string()));
                refusal.placed = Some(address(node));
            }
            refusal
        })
    }
}

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

// === impl Path ===

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.parent.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(key) => write!(f, "[{key}]"),
            Step::Index(i) => write!(f, "[{i}]"),
        }
    }
}

impl Path<'_> {
    /// The path as Go's JSON decoder writes it, without indexes.
    fn plain(&self) -> String {
        let mut out = self.parent.map(Path::plain).unwrap_or_default();
        if let Step::Field(name) | Step::Key(name) = self.step {
            let dot = if out.is_empty() { "" } else { "." };
            let _ = write!(out, "{dot}{name}");
        }
        out
    }
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), placed: None }
    }
}

// === impl Decoder ===

impl<'de> Decoder<'de, '_> {
    fn meaning(&self) -> Option<Meaning> {
        match &self.node.value {
            _ if self.is_left_out() => Some(Meaning::Null),
            Value::Scalar(scalar) => Some(scalar.meaning()),
            _ => None,
        }
    }

    fn is_left_out(&self) -> bool {
        self.context.without.borrow().contains(&address(self.node))
    }

    fn is_null(&self) -> bool {
        self.meaning() == Some(Meaning::Null)
    }

    fn actual(&self) -> (&'static str, String) {
        match &self.node.value {
            Value::Scalar(s) => {
                (s.meaning().name(), format!("`{}` is a {}", shorten(s.text()), s.meaning().name()))
            }
            Value::Sequence(_) => ("array", "this is a list".to_owned()),
            Value::Mapping(_) => ("object", "this is a mapping".to_owned()),
        }
    }

    fn wrong(&self, wanted: &str, go: &str) {
        let (json, actual) = self.actual();
        let message = format!("{wanted} belongs here, but {actual}");
        let field = self.path.plain();
        let words =
            format!("json: cannot unmarshal {json} into Go struct field {}.{field} of type {go}", self.owner);
        let mut mistake = self.mistake(Code::WrongType, message).in_api_words(words);
        if let (Value::Scalar(s), "string") = (&self.node.value, go) {
            mistake = mistake.with_help(format!("quote it: \"{}\"", s.text()));
        }
        self.context.record(mistake);
    }

    fn mistake(&self, code: Code, message: impl Into<String>) -> Mistake {
        Mistake::new(code, self.node.at, message).at_path(self.path.to_string())
    }

    fn integer(&self, go: &'static str, low: i64, high: u64) -> i64 {
        let meaning = self.meaning();
        let fits = |n: i64| n >= low && (n < 0 || n.unsigned_abs() <= high);
        match meaning {
            Some(Meaning::Int(n)) if fits(n) => return n,
            Some(Meaning::Null) => return 0,
            Some(Meaning::Float(n)) if n.fract() == 0.0 && n.abs() < 9e15 && fits(n as i64) => {
                return n as i64;
            }
            Some(Meaning::Int(_) | Meaning::Large(_) | Meaning::Float(_)) if self.is_whole() => {
                let (_, actual) = self.actual();
                let message = format!("{actual}, but the field takes {low} to {high}");
                let text = if let Value::Scalar(s) = &self.node.value { s.text() } else { "" };
                let field = self.path.plain();
                let words = format!(
                    "json: cannot unmarshal number {text} into Go struct field {}.{field} of type {go}",
                    self.owner
                );
                self.context.record(self.mistake(Code::OutOfRange, message).in_api_words(words));
            }
            _ => self.wrong("a whole number", go),
        }
        0
    }

    /// Whether it is a whole number, of any size.
    fn is_whole(&self) -> bool {
        match self.meaning() {
            Some(Meaning::Int(_) | Meaning::Large(_)) => true,
            Some(Meaning::Float(n)) => n.fract() == 0.0,
            _ => false,
        }
    }

    /// A text that is to be a quantity; an empty one when it is none.
    fn quantity(&self) -> String {
        let text = match &self.node.value {
            _ if self.is_null() => return "0".to_owned(),
            Value::Scalar(s) => match s.meaning() {
                Meaning::String => s.text().to_owned(),
                // As a number it would be a plain 0, and as a quantity in quotes it is refused.
                Meaning::Int(0) if s.text().starts_with('-') => s.text().to_owned(),
                _ => s.as_number().map(std::borrow::Cow::into_owned).unwrap_or_else(|| s.text().to_owned()),
            },
            _ => {
                self.wrong("a quantity such as 100m or 1Gi", "resource.Quantity");
                return String::new();
            }
        };
        match text.parse::<Quantity>() {
            Ok(_) => text,
            Err(e) => {
                let message = format!("`{}` is not a quantity: {e}", shorten(&text));
                let help = quantity_help(&text);
                let mut mistake = self.mistake(Code::Quantity, message).in_api_words(e.to_string());
                mistake.help = help;
                self.context.record(mistake);
                String::new()
            }
        }
    }

    fn entries(&self, wanted: &str, go: &str) -> &'de [Entry] {
        match &self.node.value {
            _ if self.is_null() => &[],
            Value::Mapping(entries) => entries,
            _ => {
                self.wrong(wanted, go);
                &[]
            }
        }
    }
}

/// What people usually mean by a text that is no quantity.
fn quantity_help(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, suffix) = text.split_at(end);
    let meant = match suffix.trim() {
        "MB" | "mb" | "Mb" | "mi" | "MiB" | "mib" => "Mi",
        "GB" | "gb" | "Gb" | "gi" | "g" | "GiB" | "gib" => "Gi",
        "KB" | "kb" | "Kb" | "ki" | "K" | "KiB" | "kib" => "Ki",
        "TB" | "tb" | "ti" | "t" | "TiB" => "Ti",
        _ => return None,
    };
    Some(format!("write {number}{meant}"))
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            visitor.$visit(self.integer($go, <$type>::MIN as i64, <$type>::MAX as u64) as $type)
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            _ if self.is_null() => visitor.visit_unit(),
            Value::Scalar(s) => match s.meaning() {
                Meaning::Null => visitor.visit_unit(),
                Meaning::Bool(b) => visitor.visit_bool(b),
                Meaning::Int(n) => visitor.visit_i64(n),
                Meaning::Large(n) => visitor.visit_u64(n),
                Meaning::Float(n) => visitor.visit_f64(n),
                Meaning::String => visitor.visit_borrowed_str(s.text()),
            },
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let value = match self.meaning() {
            Some(Meaning::Bool(b)) => b,
            Some(Meaning::Null) => false,
            _ => {
                self.wrong("true or false", "bool");
                false
            }
        };
        visitor.visit_bool(value)
    }

    integers! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        deserialize_i32 visit_i32 i32, "int32";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint32";
        deserialize_u64 visit_u64 u64, "uint64";
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let value = match self.meaning() {
            Some(Meaning::Float(n)) => n,
            Some(Meaning::Int(n)) => n as f64,
            Some(Meaning::Large(n)) => n as f64,
            Some(Meaning::Null) => 0.0,
            _ => {
                self.wrong("a number", "float64");
                0.0
            }
        };
        visitor.visit_f64(value)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::Scalar(s) if !self.is_null() && s.meaning() == Meaning::String => {
                visitor.visit_borrowed_str(s.text())
            }
            _ => {
                if !self.is_null() {
                    self.wrong("a string", "string");
                }
                visitor.visit_str("")
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        if name == "Quantity" {
            let text = self.quantity();
            return visitor.visit_newtype_struct(StrDeserializer::new(&text));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let items: &[Node] = match &self.node.value {
            _ if self.is_null() => &[],
            Value::Sequence(items) => items,
            _ => {
                self.wrong("a list", "[]");
                &[]
            }
        };
        visitor.visit_seq(Items { items, next: 0, path: self.path, owner: self.owner, context: self.context })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let entries = self.entries("a mapping", "map");
        let Decoder { path, owner, context, .. } = self;
        visitor.visit_map(Fields { entries, value: None, known: None, path, owner, context })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let entries = self.entries(&format!("a mapping with the fields of {name}"), &format!("v1.{name}"));
        let Decoder { path, context, .. } = self;
        visitor.visit_map(Fields { entries, value: None, known: Some(fields), path, owner: name, context })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let (name, content) = match &self.node.value {
            Value::Scalar(s) if !self.is_null() => (s.text(), None),
            Value::Mapping(entries) if entries.len() == 1 => {
                (entries[0].key.as_str(), Some(&entries[0].value))
            }
            _ => {
                let message = format!("exactly one of {} belongs here", variants.join(", "));
                return Err(de::Error::custom(message));
            }
        };
        if !variants.contains(&name) {
            let near = nearest(name, variants.iter().copied());
            let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            let message = format!("`{}` is none of {}{near}", shorten(name), variants.join(", "));
            return Err(de::Error::custom(message));
        }
        let path = Path { parent: Some(self.path), step: Step::Field(name) };
        let path = if content.is_some() { &path } else { self.path };
        visitor.visit_enum(Variant { name, content, path, context: self.context })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_unit()
    }
}

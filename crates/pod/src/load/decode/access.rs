//! The insides of collections: the items of lists, the fields of structs and maps, the content of variants.

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor, value::StrDeserializer,
};

use super::{Context, Decoder, Path, Refusal, Step, nearest, shorten};
use crate::load::{
    home,
    mistake::{Code, Mistake},
    tree::{Entry, Node},
};

pub(super) struct Items<'de, 'p> {
    pub(super) items: &'de [Node],
    pub(super) next: usize,
    pub(super) path: &'p Path<'p>,
    pub(super) owner: &'static str,
    pub(super) context: &'p Context,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = Path { parent: Some(self.path), step: Step::Index(self.next) };
        self.next += 1;
        let decoder = Decoder { node, path: &path, owner: self.owner, context: self.context };
        self.context.place(seed.deserialize(decoder), node, &path).map(Some)
    }
}

pub(super) struct Fields<'de, 'p> {
    pub(super) entries: &'de [Entry],
    pub(super) value: Option<&'de Entry>,
    /// The fields of a struct; `None` for a map, which takes any key.
    pub(super) known: Option<&'static [&'static str]>,
    pub(super) path: &'p Path<'p>,
    pub(super) owner: &'static str,
    pub(super) context: &'p Context,
}

impl Fields<'_, '_> {
    fn unknown(&self, entry: &Entry, known: &[&str]) {
        let place = |key: &str| Path { parent: Some(self.path), step: Step::Field(key) }.to_string();
        let path = place(&entry.key);
        let message = format!("there is no field `{}` here", shorten(&entry.key));
        let near = nearest(&entry.key, known.iter().copied());
        let help = match near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => home::of_field(&entry.key, self.owner),
        };
        let words = format!("unknown field \"{path}\"");
        let mistake = Mistake::new(Code::UnknownField, entry.key_at, message).at_path(path);
        self.context.record(Mistake {
            help,
            meant: near.map(|near| place(near).into()),
            ..mistake.in_api_words(words)
        });
    }
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        while let Some((entry, rest)) = self.entries.split_first() {
            self.entries = rest;
            if let Some(known) = self.known.filter(|known| !known.contains(&entry.key.as_str())) {
                self.unknown(entry, known);
                continue;
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, Refusal> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refusal> {
        let entry = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        let step = if self.known.is_some() { Step::Field(&entry.key) } else { Step::Key(&entry.key) };
        let path = Path { parent: Some(self.path), step };
        let decoder = Decoder { node: &entry.value, path: &path, owner: self.owner, context: self.context };
        self.context.place(seed.deserialize(decoder), &entry.value, &path)
    }
}

pub(super) struct Variant<'de, 'p> {
    pub(super) name: &'de str,
    pub(super) content: Option<&'de Node>,
    pub(super) path: &'p Path<'p>,
    pub(super) context: &'p Context,
}

impl<'de, 'p> Variant<'de, 'p> {
    fn decoder(&self) -> Result<Decoder<'de, 'p>, Refusal> {
        let missing =
            || de::Error::custom(format!("`{}` needs a value: write `{}: ...`", self.name, self.name));
        let node = self.content.ok_or_else(missing)?;
        Ok(Decoder { node, path: self.path, owner: "", context: self.context })
    }
}

impl<'de> EnumAccess<'de> for Variant<'de, '_> {
    type Error = Refusal;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Refusal> {
        let name: StrDeserializer<'_, Refusal> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de, '_> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refusal> {
        let decoder = self.decoder()?;
        let node = decoder.node;
        self.context.place(seed.deserialize(decoder), node, self.path)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.decoder()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.decoder()?.deserialize_struct("variant", fields, visitor)
    }
}

//! Reads a JSON object field by field, so that a refusal can name the field at fault. Unknown fields are refused by
//! name, because ignoring a parameter silently would give a wrong answer. Fields that occur twice are refused too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::Refusal;

/// Most characters of an unknown field's name that a refusal repeats.
const MAX_NAME: usize = 64;
/// Most elements of any list.
pub(super) const LONGEST: usize = 1024;
/// Most fields of any object.
const MOST_FIELDS: usize = 64;
/// Fields that OpenAI's API has and this API does not support.
const UNSUPPORTED: &[&str] = &[
    "audio",
    "best_of",
    "echo",
    "function_call",
    "functions",
    "modalities",
    "moderation",
    "name",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "refusal",
    "suffix",
    "verbosity",
    "web_search_options",
];

/// An object whose values have not been parsed yet: no text of a prompt is copied for it.
pub(super) struct Fields<'a>(BTreeMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Fields<'a> {
    /// Parses the object at `place`, which is empty for the whole body.
    pub fn parse(json: &'a [u8], place: &str) -> Result<Self, Refusal> {
        let read: Read<'a> = serde_json::from_slice(json).map_err(|error| match place {
            // The error's text could quote the body, so the refusal contains only the position.
            "" => Refusal::body(format!(
                "The request body is not a JSON object (line {}, column {}).",
                error.line(),
                error.column()
            )),
            place => Refusal::field(place, format!("`{place}` must be an object.")),
        })?;
        if let Some(name) = read.twice {
            let param = join(place, &told(&name));
            let message = format!("`{param}` is given twice: leave one out.");
            return Err(Refusal::field(param, message));
        }
        if read.fields.len() > MOST_FIELDS {
            let more = format!("more than {MOST_FIELDS} fields, and so many are not known");
            return Err(match place {
                "" => Refusal::body(format!("The request body has {more}.")),
                place => Refusal::field(place, format!("`{place}` has {more}.")),
            });
        }
        Ok(Self(read.fields))
    }

    /// Parses the object in `raw`, a value that was not parsed yet.
    pub fn of(raw: &'a RawValue, place: &str) -> Result<Self, Refusal> {
        Self::parse(raw.get().as_bytes(), place)
    }

    /// Takes a field. `shape` describes the expected value in a refusal. A null field counts as absent.
    pub fn take<T: Parse<'a>>(
        &mut self,
        name: &'static str,
        shape: &str,
    ) -> Result<Option<T>, Refusal> {
        self.take_in("", name, shape)
    }

    /// As [`Self::take`], for a field of the object at `place`.
    pub fn take_in<T: Parse<'a>>(
        &mut self,
        place: &str,
        name: &'static str,
        shape: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(raw) = self.0.remove(name).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        let param = join(place, name);
        T::parse(raw)
            .map(Some)
            .ok_or_else(|| Refusal::field(&param, format!("`{param}` must be {shape}.")))
    }

    /// Takes a required field.
    pub fn need<T: Parse<'a>>(&mut self, name: &'static str, shape: &str) -> Result<T, Refusal> {
        self.need_in("", name, shape)
    }

    /// As [`Self::need`], for a field of the object at `place`.
    pub fn need_in<T: Parse<'a>>(
        &mut self,
        place: &str,
        name: &'static str,
        shape: &str,
    ) -> Result<T, Refusal> {
        self.take_in(place, name, shape)?.ok_or_else(|| {
            let param = join(place, name);
            Refusal::field(&param, format!("`{param}` is required: {shape}."))
        })
    }

    /// Takes a number within `range`, or `default` if it is absent.
    pub fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<f32>,
        default: f32,
    ) -> Result<f32, Refusal> {
        let number = self.take(name, "a number")?.unwrap_or(default);
        match range.contains(&number) {
            true => Ok(number),
            false => Err(Refusal::field(
                name,
                format!("`{name}` must be {} to {}.", range.start(), range.end()),
            )),
        }
    }

    /// Discards a field of at most `limit` bytes, whatever its value is.
    pub fn pass(&mut self, name: &'static str, limit: usize) -> Result<(), Refusal> {
        match self.0.remove(name) {
            Some(raw) if raw.get().len() > limit => Err(Refusal::field(
                name,
                format!("`{name}` must be at most {limit} bytes."),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses the first field that was not taken, unless it is null.
    pub fn finish(self, place: &str) -> Result<(), Refusal> {
        let mut left = self.0.into_iter();
        let Some((name, _)) = left.find(|(_, raw)| raw.get() != "null") else {
            return Ok(());
        };
        let known = UNSUPPORTED.contains(&&*name);
        let param = join(place, &told(&name));
        Err(match known {
            true => {
                Refusal::unsupported(&param, format!("`{param}` is not supported: leave it out."))
            }
            false => Refusal::unknown(&param),
        })
    }
}

/// The part of an unknown field's name that a refusal repeats.
fn told(name: &str) -> String {
    let plain = name.chars().filter(|c| !c.is_control());
    plain.take(MAX_NAME).collect()
}

/// The fields of an object, of which at most one more than [`MOST_FIELDS`] is kept, and the first name that occurs twice.
struct Read<'a> {
    fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
    twice: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Read<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Read<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Read<'de>, M::Error> {
        let (mut fields, mut twice) = (BTreeMap::new(), None);
        while let Some((name, raw)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            let many = fields.len() > MOST_FIELDS;
            match fields.entry(name) {
                Entry::Vacant(_) if many => {}
                Entry::Vacant(place) => _ = place.insert(raw),
                Entry::Occupied(place) => twice = twice.or_else(|| Some(place.key().clone())),
            }
        }
        Ok(Read { fields, twice })
    }
}

/// Name of a field together with the place of its object.
pub(super) fn join(place: &str, name: &str) -> String {
    if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    }
}

/// Parses one value; borrowed raw values are passed through.
pub(super) trait Parse<'a>: Sized {
    fn parse(raw: &'a RawValue) -> Option<Self>;
}

impl<'a> Parse<'a> for &'a RawValue {
    fn parse(raw: &'a RawValue) -> Option<Self> {
        Some(raw)
    }
}

impl<'a> Parse<'a> for Vec<&'a RawValue> {
    fn parse(raw: &'a RawValue) -> Option<Self> {
        let List(list) = serde_json::from_str(raw.get()).ok()?;
        Some(list)
    }
}

/// A list whose elements have not been parsed yet. At most one element more than [`LONGEST`] is kept: the caller
/// refuses so long a list, and until then it must not take sixteen times the memory of its text.
struct List<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Lister)
    }
}

struct Lister;

impl<'de> Visitor<'de> for Lister {
    type Value = List<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut elements: S) -> Result<List<'de>, S::Error> {
        let mut list = Vec::new();
        while let Some(raw) = elements.next_element::<&'de RawValue>()? {
            if list.len() <= LONGEST {
                list.push(raw);
            }
        }
        Ok(List(list))
    }
}

macro_rules! owned {
    ($($kind:ty),*) => {$(
        impl Parse<'_> for $kind {
            fn parse(raw: &RawValue) -> Option<Self> {
                from_owned(raw)
            }
        }
    )*};
}

owned!(String, bool, f32, i64, u32);

fn from_owned<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

//! JSON text and values that may hold a user's words.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

use crate::wiping::WipingWriter;

/// Returns `text` as a JSON string with its quotes.
pub fn json_string(text: &str) -> Zeroizing<String> {
    let mut json = WipingWriter::with_capacity(text.len() + 16);
    // Writing a string into memory cannot fail, and the result is UTF-8.
    let _ = serde_json::to_writer(&mut json, text);
    Zeroizing::new(String::from_utf8(json.into_bytes()).unwrap_or_default())
}

/// Parses JSON text into a value, for libraries that require one. Returns `None` if it is not JSON.
pub fn json_value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Parses JSON text into a map, for libraries that require one. Returns `None` if it is not a JSON object.
pub fn json_object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

/// Returns whether `text` is a JSON object that [`json_object`] accepts.
///
/// The text is parsed without building a value: a value of many small objects takes more than seventy times the memory of its
/// text.
pub fn is_json_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<Read>(text).is_ok()
}

/// Deserialises like a [`Value`], with the same limits for depth, numbers and escapes, but keeps nothing.
pub(super) struct Read;

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_str<E>(self, _: &str) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Read, A::Error> {
        while let Some(Read) = values.next_element()? {}
        Ok(Read)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Read, A::Error> {
        while let Some((Read, Read)) = entries.next_entry()? {}
        Ok(Read)
    }
}

/// Wipes the strings of a value. Its numbers are not wiped.
pub fn wipe(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(values) => values.into_iter().for_each(wipe),
        Value::Object(values) => values.into_iter().for_each(|(mut name, value)| {
            name.zeroize();
            wipe(value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_what_reads_as_one() {
        let deep = |levels| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        for (text, object) in [
            (
                r#" {"a":[1,-2,3.5e7,true,false,null,"b"],"a":{"\u0041":{}}} "#,
                true,
            ),
            (&deep(126), true),
            (&deep(127), false),
            (r#"{"a":"\ud800"}"#, false),
            (r#"{"a":1e999}"#, false),
            (r#"{"a":1} {}"#, false),
            (r#"{"a":1"#, false),
            ("\u{a0}{}", false),
            ("[]", false),
            ("", false),
        ] {
            assert_eq!(is_json_object(text), object, "{text}");
            assert_eq!(json_object(text).is_some(), object, "{text}");
        }
    }
}

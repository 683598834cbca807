//! JSON objects without duplicate names. RFC 8259 §4 leaves open which of two equal names counts. Parsers that keep the first
//! and parsers that keep the last would read the same signed bytes differently.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// Deserialises a map and refuses duplicate names. Meant for `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// Fails on a repeated name and on any value that does not deserialise.
pub fn names<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Names<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some(name) = entries.next_key::<String>()? {
                if map.contains_key(&name) {
                    // The name is untrusted and may be long: the message quotes only its beginning.
                    let name: String = name.chars().take(64).collect();
                    return Err(A::Error::custom(format_args!("{name:?} stands twice")));
                }
                map.insert(name, entries.next_value()?);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Names(PhantomData))
}

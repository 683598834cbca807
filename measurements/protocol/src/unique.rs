//! Maps in JSON in which no name stands twice: readers that keep the first and readers that keep the last would otherwise
//! read the same signed bytes differently (RFC 8259, section 4, leaves it open).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// For `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// A repeated name, and whatever a value's own form refuses.
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
                    // The name is foreign: only its beginning goes into the message.
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

//! Lists the differences between two manifests field by field, causes before effects.

use cocoon_protocol::manifest::Manifest;
use serde::Serialize;
use serde_json::Value;

use crate::assemble::name;
use crate::shown::printable;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Path of the field, such as `artefacts/vmlinuz/sha256`.
    pub field: String,
    /// Value in the first manifest; `None` if the field is absent.
    pub first: Option<String>,
    /// Value in the second manifest; `None` if the field is absent.
    pub second: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let absent = "(absent)";
        let value = |value: &Option<String>| {
            let text = value.as_deref();
            text.map_or_else(|| absent.to_owned(), printable)
        };
        write!(
            f,
            "{}: {} → {}",
            printable(&self.field),
            value(&self.first),
            value(&self.second)
        )
    }
}

/// Returns all fields in which `first` and `second` differ. Artefacts come first, in the order of [`name::ARTEFACTS`].
pub fn diff(first: &Manifest, second: &Manifest) -> Vec<Difference> {
    let (first, second) = (leaves(first), leaves(second));
    let mut differences = Vec::new();
    for (field, value) in &first {
        let other = second
            .iter()
            .find(|(other, _)| other == field)
            .map(|(_, value)| value.clone());
        if other.as_ref() != Some(value) {
            differences.push(Difference {
                field: field.clone(),
                first: Some(value.clone()),
                second: other,
            });
        }
    }
    for (field, value) in second {
        if !first.iter().any(|(other, _)| *other == field) {
            differences.push(Difference {
                field,
                first: None,
                second: Some(value),
            });
        }
    }
    differences.sort_by_key(|difference| rank(&difference.field));
    differences
}

/// Returns the first artefact that differs, if there is one.
pub fn first_artefact(differences: &[Difference]) -> Option<&'static str> {
    let differs = |name: &&str| {
        let prefix = format!("artefacts/{name}/");
        differences
            .iter()
            .any(|difference| difference.field.starts_with(&prefix))
    };
    name::ARTEFACTS.iter().copied().find(differs)
}

fn rank(field: &str) -> usize {
    let is_of = |name: &str| field.starts_with(&format!("artefacts/{name}/"));
    name::ARTEFACTS
        .iter()
        .position(|name| is_of(name))
        .unwrap_or(name::ARTEFACTS.len())
}

fn leaves(manifest: &Manifest) -> Vec<(String, String)> {
    let mut found = Vec::new();
    // A manifest has only strings, numbers, lists and maps with string keys, so it always has a JSON form.
    collect(
        "",
        &serde_json::to_value(manifest).unwrap_or_default(),
        &mut found,
    );
    found
}

/// Recursion ends, because the schema bounds the depth.
fn collect(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}/{key}")
        }
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| collect(&below(key), value, found)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| collect(&below(&index.to_string()), value, found));
        }
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        other => found.push((path.to_owned(), other.to_string())),
    }
}

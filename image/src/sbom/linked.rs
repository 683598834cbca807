//! Compares the libraries in the SBOMs of two images. Different libraries of the build machines explain different executables.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::LINKED;

/// A library that differs between two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// Name of the library.
    pub name: String,
    /// Version in the first image, with the digest if the versions are equal; `None` if the library is absent.
    pub first: Option<String>,
    /// Version in the second image, in the same form.
    pub second: Option<String>,
}

/// Returns the libraries in which the documents `first` and `second` differ, or `None` if one is not a valid document.
pub fn others(first: &[u8], second: &[u8]) -> Option<Vec<Other>> {
    let (first, second) = (libraries(first)?, libraries(second)?);
    let mut others = Vec::new();
    for name in first
        .keys()
        .chain(second.keys().filter(|name| !first.contains_key(*name)))
    {
        let (one, other) = (first.get(name), second.get(name));
        if one == other {
            continue;
        }
        let same_version = one.map(|one| &one.version) == other.map(|other| &other.version);
        let shown = |library: &Library| match same_version {
            true => format!("{}, sha256 {}", library.version, library.sha256),
            false => library.version.clone(),
        };
        others.push(Other {
            name: name.clone(),
            first: one.map(shown),
            second: other.map(shown),
        });
    }
    Some(others)
}

#[derive(PartialEq, Eq)]
struct Library {
    version: String,
    sha256: String,
}

/// Returns the libraries of a document by name.
fn libraries(document: &[u8]) -> Option<BTreeMap<String, Library>> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let packages = document.get("packages")?.as_array()?.iter();
    let linked = packages.filter(|package| {
        let id = package["SPDXID"].as_str();
        id.is_some_and(|id| id.starts_with(LINKED))
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let library = |package: &Value| {
        let library = Library {
            version: text(&package["versionInfo"]),
            sha256: text(&package["checksums"][0]["checksumValue"]),
        };
        (text(&package["name"]), library)
    };
    Some(linked.map(library).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use cocoon_protocol::bytes::Hex32;

    use super::*;

    fn document(libraries: &[(&str, &str, &[u8])]) -> Vec<u8> {
        let library = |(name, version, bytes): &(&str, &str, &[u8])| super::super::Library {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            sha256: Some(Hex32::sha256(bytes)),
        };
        let libraries: BTreeSet<_> = libraries.iter().map(library).collect();
        let (none, lock) = (BTreeSet::new(), Hex32::sha256(b""));
        super::super::document(&[], &[], &none, &libraries, &BTreeMap::new(), lock)
    }

    #[test]
    fn libraries_of_another_version_or_with_other_bytes_are_named() {
        let first = document(&[
            ("libc.a", "2.36-9+deb12u10", b"old"),
            ("libgcc.a", "12.2.0-14", b"same"),
            ("libm.a", "2.36", b"one"),
            ("libgone.a", "1", b""),
        ]);
        let second = document(&[
            ("libc.a", "2.36-9+deb12u13", b"new"),
            ("libgcc.a", "12.2.0-14", b"same"),
            ("libm.a", "2.36", b"other"),
        ]);
        let other = |name: &str, first: Option<&str>, second: Option<&str>| Other {
            name: name.to_owned(),
            first: first.map(str::to_owned),
            second: second.map(str::to_owned),
        };
        let [one, two] =
            [&b"one"[..], b"other"].map(|bytes| format!("2.36, sha256 {}", Hex32::sha256(bytes)));
        assert_eq!(
            others(&first, &second).unwrap(),
            [
                other("libc.a", Some("2.36-9+deb12u10"), Some("2.36-9+deb12u13")),
                other("libgone.a", Some("1"), None),
                other("libm.a", Some(&one), Some(&two)),
            ]
        );
        assert_eq!(others(&first, &first).unwrap(), []);
        for rubbish in [&b"{"[..], b"7", b"{}", b"{\"packages\": 7}"] {
            assert_eq!(others(rubbish, &first), None);
            assert_eq!(others(&first, rubbish), None);
        }
    }
}

//! What an image is made of, as an SPDX 2.3 document (ISO/IEC 5962): the foreign packages of the lock file that went in,
//! and every crate compiled into the guest's executables, with the libraries that these are linked to.
//!
//! The document is an artefact like the others: the manifest holds its digest, and the same ingredients give the same
//! bytes. Digests are those that were checked: of the package files for foreign inputs, cargo's checksums for crates.

mod linked;

use std::collections::{BTreeMap, BTreeSet};

use cocoon_inputs::{Entry, Kind};
use cocoon_protocol::bytes::Hex32;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

pub use linked::{Other, others};

/// The largest document that is read, in bytes.
pub const MAX_DOCUMENT: u64 = 64 << 20;
/// Identifier of the whole.
const IMAGE: &str = "SPDXRef-image";
/// Beginning of the identifiers of Python packages: models, and NVIDIA's tools.
const PYTHON: &str = "SPDXRef-pypi-";
/// Beginning of the identifiers of libraries.
const LINKED: &str = "SPDXRef-linked-";

/// The format wants a date, and the clock must not decide any byte: when an image was made stands in its manifest.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A crate in an executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The licence it declares, an SPDX expression; empty if none.
    pub licence: String,
}

/// A library that no lock file names, of which bytes are in an executable: the machine's, or the pinned Rust toolchain's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// Its version, or that of the toolchain that it comes with.
    pub version: String,
    /// Digest of the archive, where it is one.
    pub sha256: Option<Hex32>,
}

/// Why there is no document.
#[derive(Debug, Error)]
pub enum SbomError {
    /// Not a lock file of cargo.
    #[error("Cargo.lock is not a lock file of cargo")]
    Lock(#[source] toml::de::Error),
    /// Not a document of ours.
    #[error("sbom.spdx.json is not a document that cocoon-image wrote: build the image again")]
    Document(#[source] serde_json::Error),
    /// JSON, and no document of ours.
    #[error("sbom.spdx.json lists no packages: build the image again")]
    Lists,
}

impl Crate {
    /// From a line of `cargo tree --format "{p}|{l}"`, such as `serde v1.0.2|MIT OR Apache-2.0`.
    pub fn parse(line: &str) -> Option<Self> {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
        let (name, rest) = package.split_once(" v")?;
        let version = rest.split(' ').next()?;
        Some(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
        })
    }
}

/// Checksums of crates by name and version, from the text of a `Cargo.lock`.
///
/// # Errors
/// [`SbomError::Lock`].
pub fn checksums(cargo_lock: &str) -> Result<BTreeMap<(String, String), String>, SbomError> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(cargo_lock).map_err(SbomError::Lock)?;
    let packages = lock.package.into_iter();
    Ok(packages
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect())
}

/// The document of an image made of `inputs`, `crates` and `libraries` with `tools`, built from the lock file with digest
/// `inputs_lock`.
pub fn document(
    inputs: &[Entry],
    tools: &[Entry],
    crates: &BTreeSet<Crate>,
    libraries: &BTreeSet<Library>,
    checksums: &BTreeMap<(String, String), String>,
    inputs_lock: Hex32,
) -> Vec<u8> {
    let mut packages = vec![json!({
        "SPDXID": IMAGE,
        "name": "cocoon-appliance",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
    })];
    let mut listed: Vec<&Entry> = inputs.iter().collect();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    packages.extend(listed.into_iter().map(foreign));
    // What is in the image and made something of it stands here once, as a part.
    let is_part = |tool: &&Entry| inputs.iter().any(|part| part.sha256 == tool.sha256);
    let mut used: Vec<&Entry> = tools.iter().filter(|tool| !is_part(tool)).collect();
    used.sort_by(|a, b| a.name.cmp(&b.name));
    let used: Vec<Value> = used.into_iter().map(foreign).collect();
    packages.extend(crates.iter().map(|found| {
        let key = (found.name.clone(), found.version.clone());
        compiled(found, checksums.get(&key).map(String::as_str))
    }));
    packages.extend(libraries.iter().map(linked));
    let contains = packages.iter().skip(1).map(|package| {
        json!({
            "spdxElementId": IMAGE,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": package["SPDXID"],
        })
    });
    let describes = json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": IMAGE,
    });
    let made_with = used.iter().map(|tool| {
        json!({
            "spdxElementId": tool["SPDXID"],
            "relationshipType": "BUILD_TOOL_OF",
            "relatedSpdxElement": IMAGE,
        })
    });
    let relationships: Vec<Value> = [describes]
        .into_iter()
        .chain(contains)
        .chain(made_with)
        .collect();
    packages.extend(used);
    bytes(&json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "cocoon-appliance",
        "documentNamespace": format!("urn:cocoon:inputs-lock:sha256:{inputs_lock}"),
        "creationInfo": {
            "created": CREATED,
            "creators": [concat!("Tool: cocoon-image-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    }))
}

/// The document `old` without the package of the default model, whose place another model takes: the Python package that is
/// in the image.
///
/// # Errors
/// [`SbomError::Document`].
pub fn without_model(old: &[u8]) -> Result<Vec<u8>, SbomError> {
    let mut document: Value = serde_json::from_slice(old).map_err(SbomError::Document)?;
    let mut models = BTreeSet::new();
    list(&mut document, "relationships")?.retain(|relationship| {
        let contains = relationship["relationshipType"] == "CONTAINS";
        let part = relationship["relatedSpdxElement"].as_str();
        match part.filter(|id| contains && id.starts_with(PYTHON)) {
            Some(id) => {
                models.insert(id.to_owned());
                false
            }
            None => true,
        }
    });
    list(&mut document, "packages")?.retain(|package| {
        let id = package["SPDXID"].as_str();
        !id.is_some_and(|id| models.contains(id))
    });
    Ok(bytes(&document))
}

fn list<'a>(document: &'a mut Value, name: &str) -> Result<&'a mut Vec<Value>, SbomError> {
    let items = document.get_mut(name).and_then(Value::as_array_mut);
    items.ok_or(SbomError::Lists)
}

fn foreign(entry: &Entry) -> Value {
    let (prefix, purl) = match entry.kind {
        Kind::Debian => (
            "SPDXRef-deb-",
            format!(
                "pkg:deb/debian/{}@{}?arch={}",
                entry.name,
                encoded(&entry.version),
                entry.architecture
            ),
        ),
        Kind::Python => (
            PYTHON,
            format!("pkg:pypi/{}@{}", entry.name, encoded(&entry.version)),
        ),
    };
    json!({
        "SPDXID": identifier(prefix, &entry.name, &entry.version),
        "name": entry.name,
        "versionInfo": entry.version,
        "packageFileName": entry.path,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": entry.sha256.to_string()}],
        "externalRefs": [reference(&purl)],
    })
}

fn compiled(found: &Crate, checksum: Option<&str>) -> Value {
    let purl = format!("pkg:cargo/{}@{}", found.name, encoded(&found.version));
    // Crates of this workspace have no checksum: the manifest's revision names them.
    let mut package = named("SPDXRef-crate-", (&found.name, &found.version), checksum);
    package["externalRefs"] = json!([reference(&purl)]);
    if !found.licence.is_empty() {
        // Old crates write `MIT/Apache-2.0` for `OR`.
        package["licenseDeclared"] = found.licence.replace('/', " OR ").into();
    }
    package
}

/// What is known by its name and version, and by a digest where it has one.
fn named(prefix: &str, (name, version): (&str, &str), sha256: Option<&str>) -> Value {
    let mut package = json!({
        "SPDXID": identifier(prefix, name, version),
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
    });
    if let Some(sha256) = sha256 {
        package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
    }
    package
}

fn linked(library: &Library) -> Value {
    let digest = library.sha256.map(|sha256| sha256.to_string());
    named(LINKED, (&library.name, &library.version), digest.as_deref())
}

fn reference(purl: &str) -> Value {
    json!({
        "referenceCategory": "PACKAGE-MANAGER",
        "referenceType": "purl",
        "referenceLocator": purl,
    })
}

/// SPDX identifiers hold letters, digits, points and hyphens only.
fn identifier(prefix: &str, name: &str, version: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    format!("{prefix}{name}-{version}")
        .chars()
        .map(plain)
        .collect()
}

/// Percent-encoding as package URLs want it, for what occurs in versions.
fn encoded(version: &str) -> String {
    version
        .replace('+', "%2B")
        .replace(':', "%3A")
        .replace('~', "%7E")
}

fn bytes(document: &Value) -> Vec<u8> {
    // Strings, lists and maps with string keys, the latter in key order: serialisation cannot fail.
    let mut bytes = serde_json::to_vec_pretty(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;

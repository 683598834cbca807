//! Writes the image's SBOM as an SPDX 2.3 document (ISO/IEC 5962): foreign packages of the lock file, and the crates and
//! libraries in the guest's executables.
//!
//! The document is an artefact like the others: the manifest holds its digest, and the same ingredients give the same bytes.
//! The digests in it were checked: SHA-256 of the package files for foreign inputs, and cargo's checksums for crates.

mod linked;

use std::collections::{BTreeMap, BTreeSet};

use cocoon_inputs::{Entry, Kind};
use cocoon_protocol::bytes::Hex32;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

pub use linked::{Other, others};

/// Largest document that is read, in bytes.
pub const MAX_DOCUMENT: u64 = 64 << 20;
/// SPDX identifier of the whole image.
const IMAGE: &str = "SPDXRef-image";
/// Prefix of the identifiers of Python packages, which are models and NVIDIA's tools.
const PYTHON: &str = "SPDXRef-pypi-";
/// Prefix of the identifiers of libraries.
const LINKED: &str = "SPDXRef-linked-";

/// Date of the document. The format requires one, but the clock must have no influence; the manifest holds the real time.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A crate that is compiled into an executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Name of the crate.
    pub name: String,
    /// Version of the crate.
    pub version: String,
    /// Declared licence as an SPDX expression; empty if there is none.
    pub licence: String,
}

/// A library that is linked into an executable and is in no lock file: from the machine or the pinned Rust toolchain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// Name of the library.
    pub name: String,
    /// Version of the library, or of the toolchain that it belongs to.
    pub version: String,
    /// SHA-256 of the archive, if the library is a single archive.
    pub sha256: Option<Hex32>,
}

/// Why the document cannot be written or adapted.
#[derive(Debug, Error)]
pub enum SbomError {
    /// `Cargo.lock` is not a valid lock file.
    #[error("Cargo.lock is not a lock file of cargo")]
    Lock(#[source] toml::de::Error),
    /// The document is not JSON.
    #[error("sbom.spdx.json is not a document that cocoon-image wrote: build the image again")]
    Document(#[source] serde_json::Error),
    /// The document is JSON, but has no list of packages or relationships.
    #[error("sbom.spdx.json lists no packages: build the image again")]
    Lists,
}

impl Crate {
    /// Parses a line of `cargo tree --format "{p}|{l}"`, such as `serde v1.0.2|MIT OR Apache-2.0`.
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

/// Returns the checksums of crates by name and version, from the content of a `Cargo.lock`.
///
/// # Errors
/// [`SbomError::Lock`] when it is not a lock file.
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

/// Returns the document of an image that contains `inputs`, `crates` and `libraries`, and was made with `tools`. `checksums`
/// are those of the crates, and `inputs_lock` is the digest of the lock file of inputs.
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
    // A package that is also in the image is listed once, as contained.
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

/// Returns the document `old` without the package of the default model, which another model replaces. It is the only Python
/// package that the image contains.
///
/// # Errors
/// [`SbomError`] when `old` is not a document that this program wrote.
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
    // Crates of this workspace have no checksum. The revision in the manifest identifies them.
    let mut package = named("SPDXRef-crate-", (&found.name, &found.version), checksum);
    package["externalRefs"] = json!([reference(&purl)]);
    if !found.licence.is_empty() {
        // Old crates write `MIT/Apache-2.0` instead of `MIT OR Apache-2.0`.
        package["licenseDeclared"] = found.licence.replace('/', " OR ").into();
    }
    package
}

/// Returns the SPDX package for a name, a version and, if known, a digest.
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

/// Returns an SPDX identifier, which may have only letters, digits, full stops and hyphens.
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

/// Percent-encodes a version for a package URL, as far as versions need it.
fn encoded(version: &str) -> String {
    version
        .replace('+', "%2B")
        .replace(':', "%3A")
        .replace('~', "%7E")
}

fn bytes(document: &Value) -> Vec<u8> {
    // Serialisation cannot fail, because there are only strings, lists and maps with string keys. Maps are in key order.
    let mut bytes = serde_json::to_vec_pretty(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;

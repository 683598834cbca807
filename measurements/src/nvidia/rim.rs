//! Reference manifests (RIM): the measurements that NVIDIA expects of one version of a driver or a VBIOS.
//!
//! A manifest is a signed SWID tag (ISO/IEC 19770-2) with the attributes of TCG's reference integrity manifest.
//! [`Rim::parse`] reveals the version that a file claims, which is needed to select a file. Nothing else in a file counts
//! before [`Rim::verify`], which reads the measurements from the bytes that were signed.

use std::collections::{BTreeMap, BTreeSet};

use cocoon_protocol::bytes::Hex;
use roxmltree::Node;
use thiserror::Error;

use super::{
    certificate::{CertificateError, Parsed},
    known::Known,
    signature::{CERTIFICATES, SignatureError, Signed, plain},
    xml::{self, XmlError},
};

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
/// Namespace of the attributes that hold digests. The same URI names an algorithm elsewhere.
const HASHES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// Greatest index of a measurement in a manifest: a report has at most 64, and manifests count from 0.
const MAX_INDEX: u8 = 63;
/// Largest number of alternative values for one measurement. NVIDIA's manifests have up to 4.
const MAX_ALTERNATIVES: usize = 32;
/// Length of a measurement in bytes (SHA-384).
const SIZE: usize = 48;
/// Longest version, in bytes.
const MAX_VERSION: usize = 32;

/// Names of the certificates in error messages, from the signer to the root.
pub(super) const NAMES: [&str; CERTIFICATES] = [
    "the certificate of the reference manifest's signer",
    "the certificate above the reference manifest's signer",
    "the certificate of NVIDIA's reference values",
    "the root of the reference manifest's certificates",
];

/// Why a reference manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RimError {
    /// The file is not XML of the form that manifests have.
    #[error("the reference manifest cannot be read")]
    Xml(#[from] XmlError),
    /// The signature does not hold, or does not have the accepted shape.
    #[error("the reference manifest's signature is refused")]
    Signature(#[from] SignatureError),
    /// The certificates are refused.
    #[error("the reference manifest's certificates are refused")]
    Certificate(#[from] CertificateError),
    /// The root of the certificates is not trusted.
    #[error("the root of the reference manifest's certificates is refused: {reason}")]
    Root {
        /// Cause of the refusal.
        reason: String,
    },
    /// An element does not occur exactly once.
    #[error("reference manifest: {found} elements {name}, one expected")]
    Element {
        /// Name of the element.
        name: &'static str,
        /// Number of elements found.
        found: usize,
    },
    /// An attribute is missing or has an invalid value.
    #[error(
        "reference manifest: {attribute} is {found} at offset {offset:#x} of its canonical form, {expected} expected"
    )]
    Attribute {
        /// Name of the attribute.
        attribute: &'static str,
        /// Value of the attribute, shortened.
        found: String,
        /// Offset of its element in the canonical form.
        offset: usize,
        /// Description of the valid values.
        expected: &'static str,
    },
    /// Two measurements have the same index.
    #[error("reference manifest: measurement {index} stands twice")]
    Repeated {
        /// The index that occurs twice.
        index: u8,
    },
    /// No measurement is active, so that there is nothing to compare with.
    #[error("reference manifest: no measurement is active, so it would accept anything")]
    Nothing,
}

/// Expected values of one measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Name that NVIDIA gives to the measurement.
    pub name: String,
    /// The accepted values.
    pub alternatives: BTreeSet<[u8; SIZE]>,
}

/// Content of a verified manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Version of the driver or VBIOS.
    pub version: String,
    /// Name of the chip.
    pub product: String,
    /// Expected values of the active measurements, by index from 0.
    pub measurements: BTreeMap<u8, Golden>,
}

/// A decoded manifest, not verified.
#[derive(Debug, Clone)]
pub struct Rim {
    signed: Signed,
    version: String,
    chain: Vec<Parsed>,
}

impl Rim {
    /// Decodes a file.
    ///
    /// # Errors
    /// [`RimError`] if the file is not a reference manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, RimError> {
        let signed = Signed::split(&xml::parse(bytes)?)?;
        let version = version(meta(xml::reparse(&signed.content)?.root_element())?)?;
        let chain = NAMES
            .iter()
            .zip(&signed.certificates)
            .map(|(name, der)| Parsed::new(name, der))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            signed,
            version,
            chain,
        })
    }

    /// Returns the version that the file claims. It is not verified, and serves only to select a file.
    #[must_use]
    pub fn claimed_version(&self) -> &str {
        &self.version
    }

    /// Returns the certificates in the file, from the signer to the root.
    pub(super) fn chain(&self) -> &[Parsed] {
        &self.chain
    }

    /// Verifies the signature with the first certificate in the file, and returns the signed content. The caller must verify
    /// that the certificate is trusted.
    pub(super) fn verify(&self, known: &Known) -> Result<Reference, RimError> {
        if let Some(signer) = self.chain.first() {
            self.signed.verify(&signer.key()?, known)?;
        } else {
            return Err(SignatureError::Signature.into());
        }
        Reference::read(&self.signed.content)
    }
}

impl Reference {
    /// Decodes the canonical text of a manifest.
    fn read(canonical: &str) -> Result<Self, RimError> {
        let document = xml::reparse(canonical)?;
        let root = document.root_element();
        let meta = meta(root)?;
        let mut measurements = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for resource in only(root, "Payload")?.children().filter(Node::is_element) {
            if !is_measurement(resource)? {
                continue;
            }
            let (index, golden) = measurement(resource)?;
            if !seen.insert(index) {
                return Err(RimError::Repeated { index });
            }
            measurements.extend(golden.map(|golden| (index, golden)));
        }
        if measurements.is_empty() {
            return Err(RimError::Nothing);
        }
        Ok(Self {
            version: version(meta)?,
            product: text(meta, "product", MAX_VERSION)?,
            measurements,
        })
    }
}

/// Whether an element of the payload is a measurement. Resources of another type are skipped, as NVIDIA's own verifiers do,
/// so that newer manifests may have some.
fn is_measurement(resource: Node<'_, '_>) -> Result<bool, RimError> {
    let is_resource = resource.has_tag_name((SWID, "Resource"));
    match plain(resource, "type").filter(|kind| is_resource && !kind.is_empty()) {
        Some(kind) => Ok(kind == "Measurement"),
        None => Err(refused(resource, "type", "a word, in an element Resource")),
    }
}

/// Decodes one measurement. Returns no expected values if it is not active.
fn measurement(resource: Node<'_, '_>) -> Result<(u8, Option<Golden>), RimError> {
    let refused = |attribute, expected| refused(resource, attribute, expected);
    let index = number(resource, "index").filter(|index| *index <= usize::from(MAX_INDEX));
    let index = index.ok_or_else(|| refused("index", "a number from 0 to 63"))?;
    // The index is at most 63, so that the conversion never fails.
    let index = u8::try_from(index).unwrap_or(MAX_INDEX);
    match plain(resource, "active") {
        Some("False") => return Ok((index, None)),
        Some("True") => {}
        _ => return Err(refused("active", "True or False")),
    }
    if number(resource, "size") != Some(SIZE) {
        return Err(refused("size", "48"));
    }
    let count =
        number(resource, "alternatives").filter(|count| (1..=MAX_ALTERNATIVES).contains(count));
    let count = count.ok_or_else(|| refused("alternatives", "a number from 1 to 32"))?;
    let hashes = resource
        .attributes()
        .filter(|attribute| attribute.namespace() == Some(HASHES));
    if hashes.count() != count {
        return Err(refused("alternatives", "the number of its digests"));
    }
    let mut alternatives = BTreeSet::new();
    for number in 0..count {
        let value = resource.attribute((HASHES, &*format!("Hash{number}")));
        let digest = value
            .and_then(|text| text.parse::<Hex<SIZE>>().ok())
            .ok_or_else(|| refused("Hash", "96 lower-case hexadecimal digits, numbered from 0"))?;
        alternatives.insert(digest.0);
    }
    let name = text(resource, "name", 64)?;
    Ok((index, Some(Golden { name, alternatives })))
}

fn meta<'a, 'i>(root: Node<'a, 'i>) -> Result<Node<'a, 'i>, RimError> {
    if !root.has_tag_name((SWID, "SoftwareIdentity")) {
        return Err(RimError::Element {
            name: "SoftwareIdentity",
            found: 0,
        });
    }
    only(root, "Meta")
}

fn only<'a, 'i>(parent: Node<'a, 'i>, name: &'static str) -> Result<Node<'a, 'i>, RimError> {
    let mut found = parent
        .children()
        .filter(|node| node.has_tag_name((SWID, name)));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (first, second) => Err(RimError::Element {
            name,
            found: usize::from(first.is_some()) + usize::from(second.is_some()) + found.count(),
        }),
    }
}

fn version(meta: Node<'_, '_>) -> Result<String, RimError> {
    text(meta, "colloquialVersion", MAX_VERSION)
}

/// Returns an attribute's value of at most `most` printable ASCII characters, without white space.
fn text(element: Node<'_, '_>, name: &'static str, most: usize) -> Result<String, RimError> {
    plain(element, name)
        .filter(|text| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        })
        .map(str::to_owned)
        .ok_or_else(|| refused(element, name, "a short word"))
}

/// Returns an attribute's decimal value. Refuses leading zeroes and signs.
fn number(element: Node<'_, '_>, name: &str) -> Option<usize> {
    let text = plain(element, name)?;
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn refused(element: Node<'_, '_>, attribute: &'static str, expected: &'static str) -> RimError {
    let value = plain(element, attribute).unwrap_or("missing or of another form");
    RimError::Attribute {
        attribute,
        found: value.chars().take(80).collect(),
        offset: element.range().start,
        expected,
    }
}

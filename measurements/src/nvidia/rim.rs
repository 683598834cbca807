//! Reference manifests (RIM): which measurements NVIDIA expects of one driver or one VBIOS, as signed SWID tags (ISO/IEC
//! 19770-2) with the attributes of TCG's reference integrity manifest.
//!
//! [`Rim::parse`] tells for which version a file claims to be, so that the right one can be chosen; nothing else of it
//! counts before [`Rim::verify`], which reads the measurements from the very bytes that were signed.

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
/// Not the name of an algorithm here, but the namespace of the attributes that hold digests.
const HASHES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// Most measurements in a manifest: a report has no more.
const MAX_INDEX: u8 = 63;
/// Most alternatives for one measurement: NVIDIA's have up to 4.
const MAX_ALTERNATIVES: usize = 32;
/// Bytes of a measurement: SHA-384.
const SIZE: usize = 48;
/// Longest version.
const MAX_VERSION: usize = 32;

/// From the signer on, as errors call them.
pub(super) const NAMES: [&str; CERTIFICATES] = [
    "the certificate of the reference manifest's signer",
    "the certificate above the reference manifest's signer",
    "the certificate of NVIDIA's reference values",
    "the root of the reference manifest's certificates",
];

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RimError {
    /// Not XML, or not XML of the kind that manifests use.
    #[error("the reference manifest cannot be read")]
    Xml(#[from] XmlError),
    /// Its signature does not hold, or has another shape.
    #[error("the reference manifest's signature is refused")]
    Signature(#[from] SignatureError),
    /// Its certificates do not hold.
    #[error("the reference manifest's certificates are refused")]
    Certificate(#[from] CertificateError),
    /// Its certificates end in another root.
    #[error("the root of the reference manifest's certificates is refused: {reason}")]
    Root {
        /// Why.
        reason: String,
    },
    /// An element is missing or stands twice.
    #[error("reference manifest: {found} elements {name}, one expected")]
    Element {
        /// Which element.
        name: &'static str,
        /// How many there are.
        found: usize,
    },
    /// An attribute is missing or has a value that it cannot have.
    #[error(
        "reference manifest: {attribute} is {found} at offset {offset:#x} of its canonical form, {expected} expected"
    )]
    Attribute {
        /// Which attribute.
        attribute: &'static str,
        /// Its value, shortened.
        found: String,
        /// Where its element begins.
        offset: usize,
        /// What it must be.
        expected: &'static str,
    },
    /// Two measurements with one index.
    #[error("reference manifest: measurement {index} stands twice")]
    Repeated {
        /// Which index.
        index: u8,
    },
    /// Nothing to compare.
    #[error("reference manifest: no measurement is active, so it would accept anything")]
    Nothing,
}

/// What a manifest expects of one measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// What NVIDIA calls it.
    pub name: String,
    /// The values that are good.
    pub alternatives: BTreeSet<[u8; SIZE]>,
}

/// What a verified manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Of which driver or VBIOS.
    pub version: String,
    /// For which chip.
    pub product: String,
    /// Expectations by index, from 0; those that are not active are left out.
    pub measurements: BTreeMap<u8, Golden>,
}

/// A manifest that has not been verified.
#[derive(Debug, Clone)]
pub struct Rim {
    signed: Signed,
    version: String,
    chain: Vec<Parsed>,
}

impl Rim {
    /// Takes a file apart.
    ///
    /// # Errors
    /// [`RimError`] when it is no manifest.
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

    /// The version that the file claims to be for: good for choosing a file, and for nothing else.
    #[must_use]
    pub fn claimed_version(&self) -> &str {
        &self.version
    }

    /// The certificates in the file, from the signer to the root.
    pub(super) fn chain(&self) -> &[Parsed] {
        &self.chain
    }

    /// Verifies the signature under the file's own first certificate, and reads what was signed. Whether that
    /// certificate counts is for the caller to check.
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
    /// Reads canonical text.
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

/// Whether an element of the payload is a measurement: NVIDIA's own verifiers read no resource of another type, so that newer
/// manifests may have some.
fn is_measurement(resource: Node<'_, '_>) -> Result<bool, RimError> {
    let is_resource = resource.has_tag_name((SWID, "Resource"));
    match plain(resource, "type").filter(|kind| is_resource && !kind.is_empty()) {
        Some(kind) => Ok(kind == "Measurement"),
        None => Err(refused(resource, "type", "a word, in an element Resource")),
    }
}

/// One measurement; nothing to expect where it is not active.
fn measurement(resource: Node<'_, '_>) -> Result<(u8, Option<Golden>), RimError> {
    let refused = |attribute, expected| refused(resource, attribute, expected);
    let index = number(resource, "index").filter(|index| *index <= usize::from(MAX_INDEX));
    let index = index.ok_or_else(|| refused("index", "a number from 0 to 63"))?;
    // Lossless: at most 63.
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

/// Printable ASCII without white space.
fn text(element: Node<'_, '_>, name: &'static str, most: usize) -> Result<String, RimError> {
    plain(element, name)
        .filter(|text| {
            (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        })
        .map(str::to_owned)
        .ok_or_else(|| refused(element, name, "a short word"))
}

/// Decimal digits, written in the one way that numbers are.
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

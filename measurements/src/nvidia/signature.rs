//! The enveloped XML signature of a reference manifest (W3C, "XML Signature Syntax and Processing" 1.1).
//!
//! Only the one shape that NVIDIA uses is accepted: the whole document except the signature is signed, with Canonical XML
//! 1.1, SHA-384 and ECDSA on P-384. Every element, attribute and algorithm is compared with that shape, in order, so that
//! the signature's content selects nothing. The result is the signed canonical text, and only that text is read further.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p384::ecdsa::VerifyingKey;
use roxmltree::{Document, Node};
use sha2::{Digest as _, Sha384};
use thiserror::Error;

use super::{known::Known, xml};

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
/// Number of certificates in a signature: the signer's, two authorities', the root's.
pub(super) const CERTIFICATES: usize = 4;

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is not exactly one signature, or it is not the last node of the root element.
    #[error(
        "the manifest has {found} signatures, or its signature is not the last thing in it: one at the end is expected"
    )]
    Place {
        /// Number of signatures found.
        found: usize,
    },
    /// A part of the signature differs from the accepted shape.
    #[error("XML signature: {found} at offset {offset:#x}, {expected} expected")]
    Shape {
        /// The XML found, shortened.
        found: String,
        /// Its offset.
        offset: usize,
        /// Description of what is accepted there.
        expected: &'static str,
    },
    /// The manifest's digest differs from the signed one.
    #[error(
        "the manifest's digest is not the one in its signature: it was changed after it was signed"
    )]
    Digest,
    /// The signature over `SignedInfo` does not verify.
    #[error("the signature on the manifest does not hold")]
    Signature,
}

/// A signature with the content that it covers, not verified.
#[derive(Debug, Clone)]
pub(super) struct Signed {
    /// The manifest without its signature, in canonical form.
    pub content: String,
    /// `SignedInfo` in canonical form.
    signed_info: String,
    digest: [u8; 48],
    value: [u8; 96],
    /// The certificates from the signer to the root, each in DER.
    pub certificates: Vec<Vec<u8>>,
}

impl Signed {
    /// Splits a document into its signature and the content that the signature covers.
    pub(super) fn split(document: &Document<'_>) -> Result<Self, SignatureError> {
        let root = document.root_element();
        let is_signature = |node: &Node<'_, '_>| node.has_tag_name((DSIG, "Signature"));
        let found = document.descendants().filter(is_signature).count();
        let signature = root
            .last_child()
            .filter(is_signature)
            .filter(|_| found == 1);
        let signature = signature.ok_or(SignatureError::Place { found })?;
        let [info, value, key] = children(
            signature,
            ["SignedInfo", "SignatureValue", "KeyInfo"],
            "SignedInfo, SignatureValue and KeyInfo",
        )?;
        let digest = signed_info(info)?;
        let [data] = children(key, ["X509Data"], "X509Data")?;
        let names = ["X509Certificate"; CERTIFICATES];
        let certificates = children(data, names, "four elements X509Certificate")?;
        Ok(Self {
            content: xml::canonical(root, Some(signature)),
            signed_info: xml::canonical(info, None),
            digest: fixed(digest, "48 bytes of Base64")?,
            value: fixed(value, "96 bytes of Base64")?,
            certificates: certificates
                .into_iter()
                .map(|certificate| base64(certificate, "a certificate in Base64"))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Verifies that `key` signed the content.
    pub(super) fn verify(&self, key: &VerifyingKey, known: &Known) -> Result<(), SignatureError> {
        if Sha384::digest(self.content.as_bytes())[..] != self.digest {
            return Err(SignatureError::Digest);
        }
        if known.raw(key, self.signed_info.as_bytes(), &self.value) {
            return Ok(());
        }
        Err(SignatureError::Signature)
    }
}

/// Checks that a `SignedInfo` has the accepted shape, and returns its `DigestValue`.
fn signed_info<'a, 'i>(info: Node<'a, 'i>) -> Result<Node<'a, 'i>, SignatureError> {
    let [canonicalization, method, reference] = children(
        info,
        ["CanonicalizationMethod", "SignatureMethod", "Reference"],
        "CanonicalizationMethod, SignatureMethod and one Reference",
    )?;
    algorithm(canonicalization, C14N, "Canonical XML 1.1")?;
    algorithm(method, ECDSA_SHA384, "ECDSA with SHA-384")?;
    attribute(reference, "URI", "", "a reference to the whole document")?;
    let [transforms, digest_method, digest] = elements(
        reference,
        ["Transforms", "DigestMethod", "DigestValue"],
        "Transforms, DigestMethod and DigestValue",
    )?;
    let names = ["Transform", "Transform"];
    let [enveloped, canonical] = children(transforms, names, "two elements Transform")?;
    algorithm(
        enveloped,
        ENVELOPED,
        "the transform for an enveloped signature",
    )?;
    algorithm(canonical, C14N, "Canonical XML 1.1")?;
    algorithm(digest_method, SHA384, "SHA-384")?;
    no_attributes(digest)?;
    Ok(digest)
}

/// Returns the children of an element that must have no attributes and exactly these children.
fn children<'a, 'i, const N: usize>(
    parent: Node<'a, 'i>,
    names: [&str; N],
    expected: &'static str,
) -> Result<[Node<'a, 'i>; N], SignatureError> {
    no_attributes(parent)?;
    elements(parent, names, expected)
}

/// Returns the children of an element that must be exactly these elements in this order, with only white space between.
fn elements<'a, 'i, const N: usize>(
    parent: Node<'a, 'i>,
    names: [&str; N],
    expected: &'static str,
) -> Result<[Node<'a, 'i>; N], SignatureError> {
    let blank = |node: &Node<'_, '_>| {
        node.is_text() && node.text().is_some_and(|text| text.trim_ascii().is_empty())
    };
    let found: Vec<Node<'a, 'i>> = parent.children().filter(|node| !blank(node)).collect();
    let fit = found
        .iter()
        .zip(names)
        .all(|(node, name)| node.has_tag_name((DSIG, name)));
    match <[Node<'a, 'i>; N]>::try_from(found) {
        Ok(found) if fit => Ok(found),
        _ => Err(shape(parent, expected)),
    }
}

/// Checks that an element is empty and that its only attribute is `Algorithm` with the value `uri`.
fn algorithm(
    element: Node<'_, '_>,
    uri: &'static str,
    expected: &'static str,
) -> Result<(), SignatureError> {
    attribute(element, "Algorithm", uri, expected)?;
    elements::<0>(element, [], "nothing").map(|_| ())
}

/// Returns the value of the attribute `name` without a namespace. The library's own lookup by local name ignores namespaces.
pub(super) fn plain<'a>(element: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let mut attributes = element.attributes();
    let found = attributes.find(|it| it.namespace().is_none() && it.name() == name)?;
    Some(found.value())
}

fn attribute(
    element: Node<'_, '_>,
    name: &str,
    value: &str,
    expected: &'static str,
) -> Result<(), SignatureError> {
    let only = element.attributes().len() == 1;
    if only && plain(element, name) == Some(value) {
        return Ok(());
    }
    Err(shape(element, expected))
}

fn no_attributes(element: Node<'_, '_>) -> Result<(), SignatureError> {
    if element.attributes().len() == 0 {
        return Ok(());
    }
    Err(shape(element, "an element without attributes"))
}

fn fixed<const N: usize>(
    element: Node<'_, '_>,
    expected: &'static str,
) -> Result<[u8; N], SignatureError> {
    let bytes = base64(element, expected)?;
    bytes.try_into().map_err(|_| shape(element, expected))
}

/// Decodes an element that contains only Base64, which may be broken into lines.
fn base64(element: Node<'_, '_>, expected: &'static str) -> Result<Vec<u8>, SignatureError> {
    no_attributes(element)?;
    let mut children = element.children();
    let text = match (children.next(), children.next()) {
        (Some(only), None) => only.text(),
        _ => None,
    };
    let mut text: Vec<u8> = text.unwrap_or_default().into();
    text.retain(|byte| !byte.is_ascii_whitespace());
    STANDARD.decode(&text).map_err(|_| shape(element, expected))
}

fn shape(element: Node<'_, '_>, expected: &'static str) -> SignatureError {
    let range = element.range();
    let source = element.document().input_text();
    let shown = source.get(range.clone()).unwrap_or_default();
    SignatureError::Shape {
        found: shown.chars().take(80).collect(),
        offset: range.start,
        expected,
    }
}

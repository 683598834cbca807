//! Reference manifests of the simulated NVIDIA.
//!
//! The canonical text is written by hand, without the verifier's canonicaliser, so that each tests the other.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha384};

use super::pki::{Error, Identity, Key};

const NAMESPACES: &str = r#"xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" xmlns:ns0="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" xmlns:ns2="http://www.w3.org/2001/04/xmlenc#sha384""#;
const DSIG: &str = r#"xmlns:ds="http://www.w3.org/2000/09/xmldsig#""#;

/// The parts of a manifest before it is signed.
#[derive(Clone, Debug)]
pub struct ManifestParts {
    /// Value of `colloquialVersion`: the driver or VBIOS version.
    pub version: String,
    /// Value of `product`: the chip.
    pub product: String,
    /// Elements of the payload.
    pub resources: Vec<Resource>,
}

/// The element of one measurement, with one field for each attribute.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Value of `type`: `Measurement`, or another text for a resource that is not a measurement.
    pub kind: String,
    /// Value of `index`.
    pub index: String,
    /// Value of `active`.
    pub active: String,
    /// Value of `alternatives`; `None` stands for the number of digests.
    pub alternatives: Option<String>,
    /// Values of `Hash0`, `Hash1` and so on.
    pub digests: Vec<String>,
    /// Value of `size`.
    pub size: String,
}

impl ManifestParts {
    /// Returns a manifest of `version`, whose measurements `active` expect the values in simulated reports.
    #[must_use]
    pub fn new(version: &str, active: &[u8]) -> Self {
        let resources = (0..64).map(|index: u8| {
            // Reports count from 1, and each simulated measurement is filled with its index.
            let digest = hex::encode([index + 1; 48]);
            let active = active.contains(&index);
            Resource {
                kind: "Measurement".to_owned(),
                index: index.to_string(),
                active: if active { "True" } else { "False" }.to_owned(),
                alternatives: None,
                digests: vec![if active { digest } else { "0".repeat(60) }],
                size: "48".to_owned(),
            }
        });
        Self {
            version: version.to_owned(),
            product: "GH100".to_owned(),
            resources: resources.collect(),
        }
    }

    /// Returns the canonical text that is signed, without the signature.
    #[must_use]
    pub fn canonical(&self) -> String {
        let (version, product) = (&self.version, &self.product);
        let mut text = format!(
            r#"<SoftwareIdentity {NAMESPACES} corpus="false" name="GH100" tagId="simulated" version="1.0">
    <ns0:Entity name="NVIDIA Corporation" role="softwareCreator tagCreator"></ns0:Entity>
    <ns0:Meta xmlns:ns1="https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/" colloquialVersion="{version}" edition="GPU" product="{product}" ns1:BindingSpec="RIMIM"></ns0:Meta>
    <ns0:Payload xmlns:SHA384="http://www.w3.org/2001/04/xmlenc#sha384">
"#
        );
        for resource in &self.resources {
            let Resource {
                kind,
                index,
                active,
                digests,
                size,
                ..
            } = resource;
            let count = digests.len().to_string();
            let alternatives = resource.alternatives.as_ref().unwrap_or(&count);
            // Canonical order: by name, attributes of a namespace last. Writing to a string cannot fail.
            let _ = write!(
                text,
                r#"        <ns0:Resource active="{active}" alternatives="{alternatives}" index="{index}" name="Measurement_{index}" size="{size}" type="{kind}""#
            );
            let numbers = (0..digests.len()).map(|number| format!("Hash{number}"));
            let mut hashes: Vec<(String, &String)> = numbers.zip(digests).collect();
            hashes.sort_unstable();
            for (name, digest) in hashes {
                let _ = write!(text, r#" ns2:{name}="{digest}""#);
            }
            text.push_str("></ns0:Resource>\n");
        }
        text.push_str("    </ns0:Payload>\n</SoftwareIdentity>");
        text
    }

    /// Returns the manifest, signed by `key` and with these certificates, which are taken as they are.
    ///
    /// # Errors
    /// Never fails.
    pub fn signed(&self, key: &Key, certificates: &[&Identity]) -> Result<String, Error> {
        let certificates: Vec<&[u8]> = certificates
            .iter()
            .map(|identity| &identity.certificate[..])
            .collect();
        Ok(signed(&self.canonical(), key, &certificates))
    }
}

/// Adds an enveloped signature to `canonical`, before the end tag of its root element.
#[must_use]
pub fn signed(canonical: &str, key: &Key, certificates: &[&[u8]]) -> String {
    let digest = STANDARD.encode(Sha384::digest(canonical));
    let inside = format!(
        r#"<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:CanonicalizationMethod><ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"></ds:SignatureMethod><ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform><ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"></ds:Transform></ds:Transforms><ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"#
    );
    // The canonical form of a part declares the inherited namespaces, sorted by prefix, the default namespace first.
    let (first, rest) = NAMESPACES.split_once(" xmlns:ns0").unwrap_or_default();
    let message = format!("<ds:SignedInfo {first} {DSIG} xmlns:ns0{rest}>{inside}");
    let value = STANDARD.encode(key.sign_raw(message.as_bytes()));
    let mut signature = format!(
        "<ds:Signature {DSIG}><ds:SignedInfo>{inside}<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>"
    );
    for certificate in certificates {
        let text = STANDARD.encode(certificate);
        let _ = write!(signature, "<ds:X509Certificate>{text}</ds:X509Certificate>");
    }
    signature.push_str("</ds:X509Data></ds:KeyInfo></ds:Signature>");
    let end = canonical.rfind("</").unwrap_or(canonical.len());
    let (content, closing) = canonical.split_at(end);
    // NVIDIA's tool writes empty elements in the short form, which the canonical form does not have.
    let content = content.replace("></ns0:Resource>", "/>");
    format!("{content}{signature}{closing}")
}

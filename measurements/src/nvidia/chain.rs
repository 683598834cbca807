//! A GPU's chain of five certificates: attestation key, device identity, provisioner, product line, NVIDIA's root.
//!
//! An attestation key belongs to one firmware on one device: the boot ROM derives the key, and names the firmware's digest
//! (FWID) in the key's certificate. The extension is TCG DICE's for a composite device identity.

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_cert::{
    der::{
        Decode as _, Encode as _, Reader as _, SliceReader, asn1::OctetStringRef,
        oid::ObjectIdentifier,
    },
    spki::SubjectPublicKeyInfoRef,
};

use super::{
    MAX_CHAIN,
    certificate::{CertificateError, Parsed},
};
use crate::snp::report::certificates_from_pem;

/// Number of certificates in a GPU's chain, root included.
pub const CHAIN_LENGTH: usize = 5;
const CHAIN: &str = "the GPU's certificate chain";
/// Names of the certificates in error messages, from the leaf to the root.
pub(super) const NAMES: [&str; CHAIN_LENGTH] = [
    "the certificate of the GPU's attestation key",
    "the certificate of the GPU's identity",
    "the certificate of NVIDIA's provisioner",
    "the certificate of NVIDIA's product line",
    "the root of the GPU's certificates",
];

/// Extension of Hopper's attestation key certificates, in the form of TCG's `CompositeDeviceID`.
const HOPPER_FWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
/// Extension `tcg-dice-TcbInfo` of Blackwell's attestation key certificates.
const TCB_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Why the firmware digest of an attestation key cannot be determined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FirmwareIdError {
    /// The certificate has no such extension.
    #[error("{} does not name its firmware (extension {HOPPER_FWID})", NAMES[0])]
    Missing,
    /// The extension cannot be decoded.
    #[error("the firmware's digest in {} (extension {HOPPER_FWID}) cannot be read", NAMES[0])]
    Malformed(#[source] x509_cert::der::Error),
    /// The digest is not SHA-384.
    #[error("the firmware's digest in {} is not SHA-384 but {found}", NAMES[0])]
    Algorithm {
        /// The digest algorithm found.
        found: ObjectIdentifier,
    },
    /// The extension names another device identity key than the second certificate of the chain.
    #[error("{} names another device identity than the key that signed it", NAMES[0])]
    OtherDevice,
}

/// A GPU's chain, decoded but not verified.
#[derive(Debug)]
pub(super) struct DeviceChain {
    /// The certificates from the leaf to the root.
    pub certificates: Vec<Parsed>,
}

impl DeviceChain {
    /// Decodes a chain in PEM, the leaf first.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, CertificateError> {
        if pem.len() > MAX_CHAIN {
            let length = pem.len();
            return Err(CertificateError::ChainTooLarge { length });
        }
        // The driver pads its buffer with zeroes.
        let end = pem
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let text = pem.get(..end).unwrap_or_default();
        let ders = certificates_from_pem(text).map_err(|error| match error {
            crate::snp::report::ChainError::Malformed { reason, .. } => {
                CertificateError::Malformed {
                    certificate: CHAIN,
                    reason,
                }
            }
            // Apart from malformed input, reading PEM only fails for its size, which was checked above.
            _ => CertificateError::TooLarge {
                certificate: CHAIN,
                length: pem.len(),
            },
        })?;
        if ders.len() != CHAIN_LENGTH {
            return Err(CertificateError::Count {
                chain: CHAIN,
                found: ders.len(),
                expected: CHAIN_LENGTH,
            });
        }
        let certificates = NAMES
            .iter()
            .zip(&ders)
            .map(|(name, der)| Parsed::new(name, der))
            .collect::<Result<_, _>>()?;
        Ok(Self { certificates })
    }

    /// Returns the certificate of the attestation key.
    pub(super) fn leaf(&self) -> Option<&Parsed> {
        self.certificates.first()
    }

    /// Returns the chip's name, which begins the leaf's common name: `GH100` in `GH100 A01 GSP FMC LF`.
    pub(super) fn chip(&self) -> String {
        let subject = self
            .leaf()
            .map(|leaf| leaf.certificate.tbs_certificate.subject.to_string());
        let subject = subject.unwrap_or_default();
        let name = subject.split("CN=").nth(1).unwrap_or_default();
        let end = name.find(|c: char| !c.is_ascii_alphanumeric());
        name.get(..end.unwrap_or(name.len()))
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether the certificate of the attestation key has Blackwell's form.
    pub(super) fn has_tcb_info(&self) -> bool {
        self.leaf()
            .is_some_and(|leaf| leaf.extension(TCB_INFO).is_some())
    }

    /// Returns the SHA-256 of the device identity key (SubjectPublicKeyInfo). Unlike the attestation key, it does not change
    /// with the firmware.
    pub(super) fn device(&self) -> Result<[u8; 32], CertificateError> {
        let identity = self.certificates.get(1).map(Parsed::key_info);
        Ok(Sha256::digest(identity.transpose()?.unwrap_or_default()).into())
    }

    /// Returns the firmware digest that the leaf names.
    pub(super) fn firmware_id(&self) -> Result<[u8; 48], FirmwareIdError> {
        let [leaf, identity, ..] = &self.certificates[..] else {
            return Err(FirmwareIdError::Missing);
        };
        let extension = leaf
            .extension(HOPPER_FWID)
            .ok_or(FirmwareIdError::Missing)?;
        let (device, algorithm, digest) = composite_device_id(extension.extn_value.as_bytes())
            .map_err(FirmwareIdError::Malformed)?;
        if algorithm != SHA384 {
            return Err(FirmwareIdError::Algorithm { found: algorithm });
        }
        if identity.key_info().ok().as_deref() != Some(&device[..]) {
            return Err(FirmwareIdError::OtherDevice);
        }
        Ok(digest)
    }
}

/// Decodes the extension's value (TCG, "Implicit Identity Based Device Attestation"): the device's key, the digest's
/// algorithm, the digest. The value is `SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid SEQUENCE { hashAlg
/// OBJECT IDENTIFIER, fwid OCTET STRING } }`.
fn composite_device_id(
    der: &[u8],
) -> Result<(Vec<u8>, ObjectIdentifier, [u8; 48]), x509_cert::der::Error> {
    let mut reader = SliceReader::new(der)?;
    let parts = reader.sequence(|outer| {
        if u8::decode(outer)? != 1 {
            return Err(x509_cert::der::Tag::Integer.value_error());
        }
        let device = SubjectPublicKeyInfoRef::decode(outer)?.to_der()?;
        let (algorithm, digest) = outer.sequence(|inner| {
            let algorithm = ObjectIdentifier::decode(inner)?;
            Ok((algorithm, OctetStringRef::decode(inner)?))
        })?;
        let length = x509_cert::der::Length::try_from(digest.as_bytes().len())?;
        let digest = digest.as_bytes().try_into().map_err(|_| {
            x509_cert::der::ErrorKind::Length {
                tag: x509_cert::der::Tag::OctetString,
            }
            .at(length)
        })?;
        Ok((device, algorithm, digest))
    })?;
    reader.finish(parts)
}

//! AMD's certificate chain: VCEK or VLEK, signed by ASK or ASVK, signed by the root key ARK; and the ARK's revocation list.
//!
//! The `sev` crate checks signatures only. This module checks names, dates and revocation; [`ark`] has the pinned roots. The
//! reference is AMD 57230, "VCEK certificate and KDS interface specification".

use rsa::{pss, signature::Verifier as _};
use sev::certs::snp::{Certificate as SevCertificate, Verifiable as _};
use sha2::Sha384;
use thiserror::Error;
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Encode as _, oid::ObjectIdentifier},
    ext::pkix::BasicConstraints,
};

use super::ark;
use crate::{
    der,
    roots::{self, MAX_CERTIFICATE, RootClass, TrustRoot, ValidityError},
};

/// Largest revocation list that is read, in bytes. AMD's have 1 KB.
pub const MAX_CRL: usize = 256 << 10;

const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// A generation of AMD's server processors, each with a root key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Returns the generation for a CPUID family and model. It covers Milan and Milan-X; Genoa, Genoa-X, Bergamo and Siena;
    /// Turin and Turin Dense. The `sev` crate decodes reports of no other.
    #[must_use]
    pub const fn of_cpu(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }
}

/// The certificates below the root, each in DER, with the root's revocation list.
#[derive(Debug, Clone, Copy)]
pub struct SnpChain<'a> {
    /// Certificate of the VCEK or VLEK.
    pub vek: &'a [u8],
    /// Certificate of the ASK (above a VCEK) or ASVK (above a VLEK).
    pub intermediate: &'a [u8],
    /// The root's revocation list, if any.
    pub crl: Option<&'a [u8]>,
}

/// Whether revocation was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// The ASK or ASVK is not on the root's valid revocation list.
    Checked {
        /// `thisUpdate` of the list, in Unix time.
        issued: u64,
        /// `nextUpdate` of the list, in Unix time.
        next_update: u64,
    },
    /// No list was given. The caller's policy decides whether this is acceptable.
    NotChecked,
}

/// Why a chain or its revocation list is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// A certificate, list or file is larger than its limit.
    #[error("{certificate} has {length} bytes, more than {limit}")]
    TooLarge {
        /// Name of the structure.
        certificate: &'static str,
        /// Size in bytes.
        length: usize,
        /// Largest size accepted, in bytes.
        limit: usize,
    },
    /// A certificate or list is not X.509 in DER.
    #[error("{certificate} is not X.509 in DER")]
    Malformed {
        /// Name of the structure.
        certificate: &'static str,
        /// The decoder's error.
        #[source]
        reason: x509_cert::der::Error,
    },
    /// A certificate has the same extension twice.
    #[error("{certificate} has the extension {oid} twice")]
    Repeated {
        /// Name of the certificate.
        certificate: &'static str,
        /// Identifier of the extension.
        oid: ObjectIdentifier,
    },
    /// The `sev` crate's copy of a root does not have the pinned key.
    #[error(
        "the built-in root for {product:?} does not have AMD's key: this program was built of changed parts, so take a released one"
    )]
    RootKey {
        /// Generation of the root.
        product: Product,
    },
    /// The named issuer is not the subject of the next certificate.
    #[error("{certificate} names another issuer ({issuer})")]
    Issuer {
        /// Name of the certificate or list.
        certificate: &'static str,
        /// The issuer that it names.
        issuer: String,
    },
    /// A signature does not verify under the issuer's key.
    #[error("the signature on {certificate} does not hold")]
    Signature {
        /// Name of the certificate or list.
        certificate: &'static str,
    },
    /// The ASK or ASVK may not sign certificates.
    #[error("the ASK is not a certificate authority")]
    NotAuthority,
    /// A certificate or list is not yet valid, or no longer.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// The root revoked the ASK or ASVK.
    #[error("the {certificate} is revoked by its root: every report under it is worthless")]
    Revoked {
        /// Name of the revoked certificate.
        certificate: &'static str,
    },
}

/// Result of verifying a chain.
pub(super) struct Verified {
    pub root: RootClass,
    /// Generation of the root; `None` under a development root.
    pub product: Option<Product>,
    pub revocation: Revocation,
    pub vek: Certificate,
    /// Last second at which all certificates and the list are valid, in Unix time.
    pub valid_until: u64,
}

pub(super) const VEK: &str = "the VCEK or VLEK";
pub(super) const ASK: &str = "the ASK";
pub(super) const ARK: &str = "the ARK";
const CRL: &str = "the ARK's revocation list";

pub(super) fn verify(
    chain: &SnpChain<'_>,
    root: &TrustRoot,
    now: u64,
) -> Result<Verified, ChainError> {
    let vek = parse(VEK, chain.vek)?;
    let ask = parse(ASK, chain.intermediate)?;
    let (product, ark) = match root {
        TrustRoot::Vendor => ark::pinned(&ask, &ark::ROOTS)?,
        TrustRoot::Development(root) => (None, root.certificate().clone()),
    };
    for (name, certificate, issuer) in [(ASK, &ask, &ark), (VEK, &vek, &ask)] {
        if certificate.tbs_certificate.issuer != issuer.tbs_certificate.subject {
            let issuer = certificate.tbs_certificate.issuer.to_string();
            return Err(ChainError::Issuer {
                certificate: name,
                issuer,
            });
        }
        (
            &SevCertificate::from(issuer.clone()),
            &SevCertificate::from(certificate.clone()),
        )
            .verify()
            .map_err(|_| ChainError::Signature { certificate: name })?;
    }
    if !is_authority(&ask) {
        return Err(ChainError::NotAuthority);
    }
    let mut valid_until = u64::MAX;
    for (name, certificate) in [(ARK, &ark), (ASK, &ask), (VEK, &vek)] {
        let dates = roots::validity(certificate);
        roots::check_dates(name, dates, now)?;
        valid_until = valid_until.min(dates.1);
    }
    let revocation = match chain.crl {
        Some(der) => check_revocation(der, &ark, &ask, now)?,
        None => Revocation::NotChecked,
    };
    if let Revocation::Checked { next_update, .. } = revocation {
        valid_until = valid_until.min(next_update);
    }
    Ok(Verified {
        root: root.class(),
        product,
        revocation,
        vek,
        valid_until,
    })
}

/// Returns the certificates of a PEM file, each in DER.
///
/// # Errors
/// [`ChainError::Malformed`] if the file is not PEM of certificates, [`ChainError::TooLarge`] if it is too large.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, ChainError> {
    const FILE: &str = "the PEM file";
    const LIMIT: usize = 16 * MAX_CERTIFICATE;
    let malformed = |reason| ChainError::Malformed {
        certificate: FILE,
        reason,
    };
    if pem.len() > LIMIT {
        return Err(ChainError::TooLarge {
            certificate: FILE,
            length: pem.len(),
            limit: LIMIT,
        });
    }
    der::certificates(pem).map_err(malformed)
}

fn parse(name: &'static str, bytes: &[u8]) -> Result<Certificate, ChainError> {
    if bytes.len() > MAX_CERTIFICATE {
        return Err(ChainError::TooLarge {
            certificate: name,
            length: bytes.len(),
            limit: MAX_CERTIFICATE,
        });
    }
    let parsed = der::decode(bytes).map_err(|reason| ChainError::Malformed {
        certificate: name,
        reason,
    })?;
    match der::repeated_extension(&parsed) {
        Some(oid) => Err(ChainError::Repeated {
            certificate: name,
            oid,
        }),
        None => Ok(parsed),
    }
}

fn is_authority(certificate: &Certificate) -> bool {
    let extensions = certificate
        .tbs_certificate
        .extensions
        .as_deref()
        .unwrap_or_default();
    extensions
        .iter()
        .find(|extension| extension.extn_id == BASIC_CONSTRAINTS)
        .and_then(|extension| der::decode(extension.extn_value.as_bytes()).ok())
        .is_some_and(|constraints: BasicConstraints| constraints.ca)
}

fn check_revocation(
    bytes: &[u8],
    ark: &Certificate,
    ask: &Certificate,
    now: u64,
) -> Result<Revocation, ChainError> {
    if bytes.len() > MAX_CRL {
        return Err(ChainError::TooLarge {
            certificate: CRL,
            length: bytes.len(),
            limit: MAX_CRL,
        });
    }
    let malformed = |reason| ChainError::Malformed {
        certificate: CRL,
        reason,
    };
    let list: CertificateList = der::decode(bytes).map_err(malformed)?;
    let body = &list.tbs_cert_list;
    if body.issuer != ark.tbs_certificate.subject {
        return Err(ChainError::Issuer {
            certificate: CRL,
            issuer: body.issuer.to_string(),
        });
    }
    let message = body.to_der().map_err(malformed)?;
    if list.signature_algorithm.oid != RSA_PSS
        || !signed_by(ark, &message, list.signature.raw_bytes())
    {
        return Err(ChainError::Signature { certificate: CRL });
    }
    let issued = body.this_update.to_unix_duration().as_secs();
    // A list without nextUpdate would never have to be replaced, so it expires at the second of its issue.
    let next_update = body
        .next_update
        .map_or(issued, |time| time.to_unix_duration().as_secs());
    roots::check_dates(CRL, (issued, next_update), now)?;
    let revoked = body.revoked_certificates.as_deref().unwrap_or_default();
    let serial = &ask.tbs_certificate.serial_number;
    if revoked.iter().any(|entry| entry.serial_number == *serial) {
        return Err(ChainError::Revoked { certificate: "ASK" });
    }
    Ok(Revocation::Checked {
        issued,
        next_update,
    })
}

fn signed_by(signer: &Certificate, message: &[u8], signature: &[u8]) -> bool {
    use x509_cert::der::referenced::OwnedToRef as _;
    let key = rsa::RsaPublicKey::try_from(
        signer
            .tbs_certificate
            .subject_public_key_info
            .owned_to_ref(),
    );
    match (key, pss::Signature::try_from(signature)) {
        (Ok(key), Ok(signature)) => pss::VerifyingKey::<Sha384>::new(key)
            .verify(message, &signature)
            .is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sev::certs::snp::builtin;
    use x509_cert::der::DecodePem as _;

    use super::*;

    #[test]
    fn an_extension_that_stands_twice_is_refused() {
        let mut ask = Certificate::from_pem(builtin::milan::ASK).unwrap();
        assert_eq!(parse(ASK, &ask.to_der().unwrap()), Ok(ask.clone()));
        let extensions = ask.tbs_certificate.extensions.as_mut().unwrap();
        let mut again = extensions[0].clone();
        let oid = again.extn_id;
        again.critical = !again.critical;
        extensions.push(again);
        let refused = ChainError::Repeated {
            certificate: ASK,
            oid,
        };
        assert_eq!(parse(ASK, &ask.to_der().unwrap()), Err(refused));
    }
}

//! AMD's certificates: VCEK or VLEK, signed by ASK or ASVK, signed by the root key ARK, and the ARK's revocation list.
//!
//! The `sev` crate checks signatures only. Here are the pins, names, dates and revocation that it leaves to its caller
//! (AMD 57230, "VCEK certificate and KDS interface specification").

use rsa::{pss, signature::Verifier as _};
use sev::certs::snp::{Certificate as SevCertificate, Verifiable as _, builtin};
use sha2::Sha384;
use thiserror::Error;
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Decode as _, DecodePem as _, Encode as _, oid::ObjectIdentifier},
    ext::pkix::BasicConstraints,
};

use crate::roots::{self, MAX_CERTIFICATE, RootClass, TrustRoot, ValidityError};

/// The largest revocation list read: AMD's have 1 KB.
pub const MAX_CRL: usize = 256 << 10;

const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");

/// A generation of AMD's server processors, as its root key tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// The certificates below the root, each in DER.
#[derive(Debug, Clone, Copy)]
pub struct SnpChain<'a> {
    /// VCEK or VLEK.
    pub vek: &'a [u8],
    /// ASK (above a VCEK) or ASVK (above a VLEK).
    pub intermediate: &'a [u8],
    /// The root's revocation list, if there is one.
    pub crl: Option<&'a [u8]>,
}

/// Whether revocation was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Nothing is revoked by a valid list of the root.
    Checked {
        /// When the list was issued, Unix time.
        issued: u64,
        /// When the next one is due, Unix time.
        next_update: u64,
    },
    /// No list was given: the caller's policy decides what that means.
    NotChecked,
}

/// Why AMD's certificates are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// Larger than any.
    #[error("{certificate} has {length} bytes, more than {limit}")]
    TooLarge {
        /// Which one.
        certificate: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// Not what it should be.
    #[error("{certificate} is not X.509 in DER")]
    Malformed {
        /// Which one.
        certificate: &'static str,
        /// What the decoder says.
        #[source]
        reason: x509_cert::der::Error,
    },
    /// A certificate names an issuer that is not the next one's subject.
    #[error("{certificate} names another issuer ({issuer})")]
    Issuer {
        /// Which one.
        certificate: &'static str,
        /// The issuer that it names.
        issuer: String,
    },
    /// The signature of the next key does not hold.
    #[error("the signature on {certificate} does not hold")]
    Signature {
        /// Which one.
        certificate: &'static str,
    },
    /// The key in the middle may not sign certificates.
    #[error("the ASK is not a certificate authority")]
    NotAuthority,
    /// Too early or too late.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// The root has revoked the key.
    #[error("the {certificate} is revoked by its root: every report under it is worthless")]
    Revoked {
        /// Which one.
        certificate: &'static str,
    },
}

/// What the chain established.
pub(super) struct Verified {
    pub root: RootClass,
    /// `None` under a development root.
    pub product: Option<Product>,
    pub revocation: Revocation,
    pub vek: Certificate,
    /// Last second at which certificates and list are all in their time, Unix time.
    pub valid_until: u64,
}

pub(super) const VEK: &str = "the VCEK or VLEK";
const ASK: &str = "the ASK";
const ARK: &str = "the ARK";
const CRL: &str = "the ARK's revocation list";

pub(super) fn verify(
    chain: &SnpChain<'_>,
    root: &TrustRoot,
    now: u64,
) -> Result<Verified, ChainError> {
    let vek = parse(VEK, chain.vek)?;
    let ask = parse(ASK, chain.intermediate)?;
    let (product, ark) = match root {
        TrustRoot::Vendor => pinned(&ask)?,
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

/// Certificates of a PEM file (several may follow each other), each in DER.
///
/// # Errors
/// [`ChainError::Malformed`] or [`ChainError::TooLarge`].
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
    // The library's loop counts down from the length, which it must not do from none.
    if pem.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let certificates = Certificate::load_pem_chain(pem).map_err(malformed)?;
    certificates
        .iter()
        .map(|certificate| certificate.to_der().map_err(malformed))
        .collect()
}

fn parse(name: &'static str, der: &[u8]) -> Result<Certificate, ChainError> {
    if der.len() > MAX_CERTIFICATE {
        return Err(ChainError::TooLarge {
            certificate: name,
            length: der.len(),
            limit: MAX_CERTIFICATE,
        });
    }
    Certificate::from_der(der).map_err(|reason| ChainError::Malformed {
        certificate: name,
        reason,
    })
}

/// The pinned root that `ask` names as its issuer.
fn pinned(ask: &Certificate) -> Result<(Option<Product>, Certificate), ChainError> {
    let roots = [
        (Product::Milan, builtin::milan::ARK),
        (Product::Genoa, builtin::genoa::ARK),
        (Product::Turin, builtin::turin::ARK),
    ];
    for (product, pem) in roots {
        let ark = Certificate::from_pem(pem).map_err(|reason| ChainError::Malformed {
            certificate: ARK,
            reason,
        })?;
        if ark.tbs_certificate.subject == ask.tbs_certificate.issuer {
            return Ok((Some(product), ark));
        }
    }
    Err(ChainError::Issuer {
        certificate: ASK,
        issuer: ask.tbs_certificate.issuer.to_string(),
    })
}

fn is_authority(certificate: &Certificate) -> bool {
    let extensions = certificate
        .tbs_certificate
        .extensions
        .as_deref()
        .unwrap_or_default();
    let mut constraints = extensions
        .iter()
        .filter(|extension| extension.extn_id == BASIC_CONSTRAINTS);
    constraints
        .next()
        .and_then(|extension| BasicConstraints::from_der(extension.extn_value.as_bytes()).ok())
        .is_some_and(|constraints| constraints.ca)
}

fn check_revocation(
    der: &[u8],
    ark: &Certificate,
    ask: &Certificate,
    now: u64,
) -> Result<Revocation, ChainError> {
    if der.len() > MAX_CRL {
        return Err(ChainError::TooLarge {
            certificate: CRL,
            length: der.len(),
            limit: MAX_CRL,
        });
    }
    let malformed = |reason| ChainError::Malformed {
        certificate: CRL,
        reason,
    };
    let list = CertificateList::from_der(der).map_err(malformed)?;
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
    // A list without an end would never have to be replaced: it counts as ended when it was issued.
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

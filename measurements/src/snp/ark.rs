//! AMD's root keys (ARK), one for each processor generation, with their pins.

use sev::certs::snp::builtin;
use sha2::{Digest as _, Sha384};
use x509_cert::{
    Certificate,
    der::{DecodePem as _, Encode as _},
};

use super::chain::{ARK, ASK, ChainError, Product};

const MILAN_KEY: [u8; 48] = [
    0x12, 0x49, 0xf6, 0x7f, 0x15, 0xcf, 0x22, 0x9a, 0x40, 0x69, 0x19, 0x5e, 0x1a, 0x9c, 0xe5, 0x37,
    0xd1, 0x76, 0x5e, 0xf7, 0x06, 0xa1, 0xf4, 0xa1, 0x23, 0xc3, 0x6b, 0xe9, 0x51, 0x87, 0x86, 0x51,
    0x5d, 0x25, 0xec, 0xc0, 0x07, 0xf3, 0x66, 0xb5, 0x64, 0xd2, 0xb3, 0xf3, 0x1c, 0x48, 0x08, 0x2e,
];
const GENOA_KEY: [u8; 48] = [
    0x32, 0xab, 0x53, 0xa6, 0xce, 0x5e, 0xc1, 0x49, 0x26, 0x20, 0x73, 0x96, 0xe5, 0xc4, 0x75, 0xae,
    0x76, 0x8a, 0x6a, 0x98, 0x31, 0xb7, 0xe8, 0x60, 0xb5, 0xac, 0xf2, 0xe1, 0xc1, 0xdf, 0xf2, 0x22,
    0xbc, 0x5a, 0x8b, 0xfc, 0x43, 0xeb, 0x5e, 0x06, 0x39, 0x31, 0x89, 0xc1, 0xf2, 0x46, 0xd8, 0x80,
];
const TURIN_KEY: [u8; 48] = [
    0x34, 0x75, 0xf0, 0x8a, 0x97, 0x27, 0xf8, 0xac, 0x9a, 0x1d, 0xea, 0xea, 0x5f, 0x2a, 0x20, 0x97,
    0xaa, 0x59, 0xd6, 0x4d, 0x05, 0xc2, 0xa6, 0x78, 0xc2, 0x29, 0xc8, 0x73, 0xe6, 0x35, 0x9d, 0x3a,
    0x69, 0x26, 0x28, 0x7a, 0x2a, 0x22, 0xcd, 0x5f, 0x88, 0xa3, 0x85, 0xe3, 0x33, 0xa2, 0xfc, 0xc5,
];
/// A generation with its root certificate in PEM and the pin of the root key.
pub(super) type Root = (Product, &'static [u8], [u8; 48]);

/// AMD's root certificates from the `sev` crate, with the SHA-384 of each subjectPublicKeyInfo. The pins are independent of
/// that crate, so that another version of it cannot replace a root.
pub(super) const ROOTS: [Root; 3] = [
    (Product::Milan, builtin::milan::ARK, MILAN_KEY),
    (Product::Genoa, builtin::genoa::ARK, GENOA_KEY),
    (Product::Turin, builtin::turin::ARK, TURIN_KEY),
];

/// Returns the pinned root that `ask` names as its issuer.
pub(super) fn pinned(
    ask: &Certificate,
    roots: &[Root],
) -> Result<(Option<Product>, Certificate), ChainError> {
    for &(product, pem, pin) in roots {
        let malformed = |reason| ChainError::Malformed {
            certificate: ARK,
            reason,
        };
        let ark = Certificate::from_pem(pem).map_err(malformed)?;
        if ark.tbs_certificate.subject == ask.tbs_certificate.issuer {
            let key = &ark.tbs_certificate.subject_public_key_info;
            let key = key.to_der().map_err(malformed)?;
            if Sha384::digest(key)[..] != pin {
                return Err(ChainError::RootKey { product });
            }
            return Ok((Some(product), ark));
        }
    }
    Err(ChainError::Issuer {
        certificate: ASK,
        issuer: ask.tbs_certificate.issuer.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers the roots. Issuer, signature, authority, dates and revocation of the certificates below them are tested with
    /// signed chains in the repository's `tests/attestation`: `snp_formats.rs`, `endorsers.rs` and `times.rs`.
    #[test]
    fn cocoon_snp_12() {
        for (product, pem, pin) in ROOTS {
            let ark = Certificate::from_pem(pem).unwrap();
            let key = &ark.tbs_certificate.subject_public_key_info;
            assert_eq!(Sha384::digest(key.to_der().unwrap())[..], pin);
            // A root is its own issuer, so it can be used in place of an ASK here.
            assert_eq!(pinned(&ark, &ROOTS), Ok((Some(product), ark.clone())));
            let mut changed = ROOTS;
            for (_, _, pin) in &mut changed {
                pin[47] ^= 1;
            }
            let refused = Err(ChainError::RootKey { product });
            assert_eq!(pinned(&ark, &changed), refused);
            let mut other = ark;
            other.tbs_certificate.issuer = Default::default();
            assert_eq!(
                pinned(&other, &ROOTS),
                Err(ChainError::Issuer {
                    certificate: ASK,
                    issuer: String::new(),
                })
            );
        }
    }
}

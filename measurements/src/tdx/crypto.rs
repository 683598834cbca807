//! P-256 signature verification with graviola for `dcap-qvl`, which is faster than the library's own `p256`.
//!
//! `dcap-qvl` still parses certificates, signatures and quotes. Its `p256` takes most of a verdict's time. graviola also
//! serves TLS and verifies NVIDIA's signatures.

use dcap_qvl::{
    config::{Config, CryptoProvider},
    signature::DerSigEncoder,
    x509::X509CertBackend,
};
use graviola::{
    hashing::Sha256,
    signing::ecdsa::{P256, VerifyingKey},
};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha2::Digest as _;

/// The parsers of `dcap-qvl` with graviola's P-256.
pub(super) struct Fast;

impl Config for Fast {
    type X509 = X509CertBackend;
    type SigEncoder = DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for Fast {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256Sha256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(data).into()
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        sha2::Sha384::digest(data).into()
    }
}

/// ECDSA on P-256 with SHA-256 (RFC 5758), the only signatures in Intel's certificates, lists and quotes.
#[derive(Debug)]
struct EcdsaP256Sha256;

impl SignatureVerificationAlgorithm for EcdsaP256Sha256 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        VerifyingKey::<P256>::from_x962_uncompressed(public_key)
            .and_then(|key| key.verify_asn1::<Sha256>(&[message], signature))
            .map_err(|_| InvalidSignature)
    }
}

#[cfg(test)]
mod tests {
    use dcap_qvl::configs::RustCryptoConfig;
    use proptest::prelude::*;

    use super::*;

    /// RFC 6979, A.2.5: P-256, SHA-256, the message "sample".
    const KEY: &str = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
                       7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
    const SIGNATURE: &str = "3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
                             022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";

    fn both(key: &[u8], message: &[u8], signature: &[u8]) -> [bool; 2] {
        let theirs = <RustCryptoConfig as Config>::Crypto::sig_algo();
        [Fast::sig_algo(), theirs]
            .map(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
    }

    #[test]
    fn the_signature_of_the_standard_holds() {
        let (key, signature) = (hex::decode(KEY).unwrap(), hex::decode(SIGNATURE).unwrap());
        assert_eq!(both(&key, b"sample", &signature), [true, true]);
        assert_eq!(both(&key, b"test", &signature), [false, false]);
        let theirs = <RustCryptoConfig as Config>::Crypto::sig_algo();
        assert_eq!(
            Fast::sig_algo().public_key_alg_id(),
            theirs.public_key_alg_id()
        );
        assert_eq!(
            Fast::sig_algo().signature_alg_id(),
            theirs.signature_alg_id()
        );
    }

    proptest! {
        /// Both libraries refuse every change of one bit.
        #[test]
        fn a_changed_byte_is_refused(at in 0_usize..(65 + 6 + 72), bit in 0_u8..8) {
            let mut key = hex::decode(KEY).unwrap();
            let mut message = b"sample".to_vec();
            let mut signature = hex::decode(SIGNATURE).unwrap();
            let bytes = key.iter_mut().chain(&mut message).chain(&mut signature);
            *bytes.into_iter().nth(at).unwrap() ^= 1 << bit;
            prop_assert_eq!(both(&key, &message, &signature), [false, false]);
        }
    }
}

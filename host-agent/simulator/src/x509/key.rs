//! Private keys in software, of the kinds that TEE vendors sign with.

use p256::ecdsa::signature::{RandomizedSigner, SignatureEncoding, Signer};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use rand_core::OsRng;
use sha2::Sha384;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::spki::{
    AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, SubjectPublicKeyInfoOwned,
};
use zeroize::Zeroizing;

use super::{X509Error, der};

/// Size of the stand-ins for AMD's RSA keys in bits. AMD's have 4096 bits. Verifiers also accept 2048 bits, which a debug
/// build generates in seconds.
pub const RSA_BITS: usize = 2048;

/// Kinds of keys in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Intel's keys: ECDSA with SHA-256.
    P256,
    /// AMD's chip and provider keys: ECDSA with SHA-384.
    P384,
    /// AMD's authorities: RSA-PSS with SHA-384.
    Rsa,
}

/// A private key. Its memory is wiped on drop, and its `Debug` output is redacted.
pub enum PrivateKey {
    /// ECDSA on P-256.
    P256(p256::ecdsa::SigningKey),
    /// ECDSA on P-384.
    P384(p384::ecdsa::SigningKey),
    /// RSA-PSS. Boxed because it is much larger than the others.
    Rsa(Box<rsa::pss::SigningKey<Sha384>>),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl PrivateKey {
    /// Generates a key from the operating system's random numbers.
    ///
    /// # Errors
    /// [`X509Error::Key`] if RSA key generation fails.
    pub fn generate(kind: KeyKind) -> Result<Self, X509Error> {
        Ok(match kind {
            KeyKind::P256 => Self::P256(p256::ecdsa::SigningKey::random(&mut OsRng)),
            KeyKind::P384 => Self::P384(p384::ecdsa::SigningKey::random(&mut OsRng)),
            KeyKind::Rsa => Self::generate_rsa(RSA_BITS)?,
        })
    }

    /// Generates an RSA key of `bits` bits.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_rsa(bits: usize) -> Result<Self, X509Error> {
        let private = rsa::RsaPrivateKey::new(&mut OsRng, bits).map_err(key("make"))?;
        Ok(Self::Rsa(Box::new(rsa::pss::SigningKey::new(private))))
    }

    /// Returns a copy of the key, to be certified under another name.
    ///
    /// # Errors
    /// [`X509Error::Key`] if the key cannot be encoded and decoded.
    pub fn copy(&self) -> Result<Self, X509Error> {
        let kind = match self {
            Self::P256(_) => KeyKind::P256,
            Self::P384(_) => KeyKind::P384,
            Self::Rsa(_) => KeyKind::Rsa,
        };
        Self::from_pem(kind, &self.to_pem()?)
    }

    /// Reads a key in PKCS #8 PEM.
    ///
    /// # Errors
    /// [`X509Error::Key`] if the text is not a key of this kind.
    pub fn from_pem(kind: KeyKind, pem: &str) -> Result<Self, X509Error> {
        Ok(match kind {
            KeyKind::P256 => {
                Self::P256(DecodePrivateKey::from_pkcs8_pem(pem).map_err(key("read"))?)
            }
            KeyKind::P384 => {
                Self::P384(DecodePrivateKey::from_pkcs8_pem(pem).map_err(key("read"))?)
            }
            KeyKind::Rsa => {
                let private = rsa::RsaPrivateKey::from_pkcs8_pem(pem).map_err(key("read"))?;
                Self::Rsa(Box::new(rsa::pss::SigningKey::new(private)))
            }
        })
    }

    /// Returns the key in PKCS #8 PEM.
    ///
    /// # Errors
    /// [`X509Error::Key`] if encoding fails.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, X509Error> {
        let pem = match self {
            Self::P256(private) => private.to_pkcs8_pem(LineEnding::LF),
            Self::P384(private) => private.to_pkcs8_pem(LineEnding::LF),
            Self::Rsa(private) => {
                AsRef::<rsa::RsaPrivateKey>::as_ref(private.as_ref()).to_pkcs8_pem(LineEnding::LF)
            }
        };
        pem.map_err(key("write"))
    }

    /// Returns the public key.
    ///
    /// # Errors
    /// [`X509Error`] if encoding fails.
    pub fn public(&self) -> Result<SubjectPublicKeyInfoOwned, X509Error> {
        let document = match self {
            Self::P256(private) => private.verifying_key().to_public_key_der(),
            Self::P384(private) => private.verifying_key().to_public_key_der(),
            Self::Rsa(private) => AsRef::<rsa::RsaPrivateKey>::as_ref(private.as_ref())
                .to_public_key()
                .to_public_key_der(),
        };
        let document = document.map_err(key("write the public half of"))?;
        SubjectPublicKeyInfoOwned::from_der(document.as_bytes()).map_err(der("public key"))
    }

    /// Signs like a certificate signature: ECDSA as a DER sequence, RSA-PSS with a random salt of 48 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(private) => {
                let signature: p256::ecdsa::DerSignature = private.sign(message);
                signature.as_bytes().to_vec()
            }
            Self::P384(private) => {
                let signature: p384::ecdsa::DerSignature = private.sign(message);
                signature.as_bytes().to_vec()
            }
            Self::Rsa(private) => private.sign_with_rng(&mut OsRng, message).to_vec(),
        }
    }

    pub(super) fn algorithm(&self) -> Result<AlgorithmIdentifierOwned, X509Error> {
        match self {
            Self::P256(_) => Ok(AlgorithmIdentifierOwned {
                oid: ECDSA_SHA256,
                parameters: None,
            }),
            Self::P384(_) => Ok(AlgorithmIdentifierOwned {
                oid: ECDSA_SHA384,
                parameters: None,
            }),
            Self::Rsa(private) => private
                .signature_algorithm_identifier()
                .map_err(key("describe")),
        }
    }
}

const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

fn key<E: std::fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> X509Error {
    move |error| X509Error::Key {
        operation,
        reason: error.to_string(),
    }
}

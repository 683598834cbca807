//! The two keys of a boot: TLS leaf key (P-256) and meter key (Ed25519). They are generated at boot, kept only in memory,
//! never stored, and wiped on drop.

use cocoon_protocol::bytes::{Hex, Hex32};
use ed25519_dalek::SigningKey;
use p256::SecretKey;
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _};
use zeroize::Zeroizing;

/// Why keys could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The processor has no RDRAND instruction.
    #[error(
        "this processor has no RDRAND: choose a CPU model that has it, nothing else is trusted for keys"
    )]
    NoRdrand,
    /// The kernel returned no random bytes.
    #[error("cannot draw random bytes from the kernel: {0}")]
    Random(getrandom::Error),
    /// A key could not be encoded.
    #[error("cannot encode the TLS leaf key")]
    Encode,
}

/// The keys of this boot.
pub struct Keys {
    leaf: SecretKey,
    leaf_spki: Vec<u8>,
    meter: SigningKey,
}

/// Fails on a processor without RDRAND, the only source that the command line lets the kernel credit as entropy at boot.
pub fn require_rdrand() -> Result<(), KeyError> {
    if std::arch::is_x86_feature_detected!("rdrand") {
        Ok(())
    } else {
        Err(KeyError::NoRdrand)
    }
}

/// Returns `N` random bytes from the kernel.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(KeyError::Random)?;
    Ok(bytes)
}

impl Keys {
    /// Generates both keys.
    pub fn generate() -> Result<Self, KeyError> {
        let leaf = loop {
            // Only about one draw in 2^32 is not below the group order.
            if let Ok(key) = SecretKey::from_slice(random::<32>()?.as_slice()) {
                break key;
            }
        };
        let leaf_spki = leaf
            .public_key()
            .to_public_key_der()
            .map_err(|_| KeyError::Encode)?
            .into_vec();
        let meter = SigningKey::from_bytes(&*random::<32>()?);
        Ok(Self {
            leaf,
            leaf_spki,
            meter,
        })
    }

    /// Returns the SHA-256 of the leaf key's SubjectPublicKeyInfo.
    pub fn leaf_spki_sha256(&self) -> Hex32 {
        Hex32::sha256(&self.leaf_spki)
    }

    /// Returns the public half of the meter key.
    pub fn meter_public(&self) -> Hex32 {
        Hex(self.meter.verifying_key().to_bytes())
    }

    /// Returns the meter key, which signs receipts.
    pub(crate) fn meter(&self) -> &SigningKey {
        &self.meter
    }

    /// Returns the leaf key, which signs the certificate.
    pub(crate) fn leaf(&self) -> &SecretKey {
        &self.leaf
    }

    /// Returns the leaf key as PKCS #8 for the TLS library, which keeps its own copy.
    pub(crate) fn leaf_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = self.leaf.to_pkcs8_der().map_err(|_| KeyError::Encode)?;
        Ok(Zeroizing::new(document.as_bytes().to_vec()))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Keys(leaf {}, meter {})",
            self.leaf_spki_sha256(),
            self.meter_public()
        )
    }
}

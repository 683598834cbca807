//! The ID block: a guest owner's signed word for what may be launched, and the digests by which reports name its keys.
//!
//! SEV-SNP firmware ABI 56860, section 8.18 (`SNP_LAUNCH_FINISH`): structures `ID_BLOCK` and `ID_AUTH_INFO`, keys and
//! signatures as in chapter 10. The secure processor refuses to finish a launch whose digest or policy is not the
//! block's, and puts the SHA-384 of both public keys into every report: a verifier can pin a key instead of digests.

use p384::{
    FieldBytes,
    ecdsa::{
        Signature, SigningKey, VerifyingKey,
        signature::{Signer as _, Verifier as _},
    },
    pkcs8::DecodePrivateKey as _,
};
use sha2::{Digest as _, Sha384};
use thiserror::Error;

use super::report::LaunchIdentity;

/// Bytes of an ID block.
pub const ID_BLOCK_LENGTH: usize = 96;
/// Bytes of the authentication information.
pub const ID_AUTH_LENGTH: usize = 4096;

const VERSION: u32 = 1;
/// ECDSA on P-384 with SHA-384, among the algorithms of signatures.
const ECDSA_P384_SHA384: u32 = 1;
/// P-384 among the curves of keys.
const P384: u32 = 2;
/// A number of the curve, and how many bytes the firmware keeps for it.
const NUMBER: usize = 48;
const NUMBER_FIELD: usize = 72;
const KEY_LENGTH: usize = 0x404;
const SIGNATURE_LENGTH: usize = 0x200;

const ID_BLOCK_SIGNATURE: usize = 0x40;
const ID_KEY: usize = 0x240;
const ID_KEY_SIGNATURE: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;
const END: usize = AUTHOR_KEY + KEY_LENGTH;

/// What may be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest: [`launch_digest`](super::launch::launch_digest).
    pub launch_digest: [u8; 48],
    /// The owner's name for a family of guests.
    pub family_id: [u8; 16],
    /// The owner's name for this image.
    pub image_id: [u8; 16],
    /// The owner's security version of the guest.
    pub guest_svn: u32,
    /// The guest policy, equal to the one that the guest is started with.
    pub policy: u64,
}

impl IdBlock {
    /// The block as the secure processor reads it; in Base64 it is QEMU's `id-block=`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ID_BLOCK_LENGTH] {
        let mut bytes = [0; ID_BLOCK_LENGTH];
        put(&mut bytes, 0, &self.launch_digest);
        put(&mut bytes, 48, &self.family_id);
        put(&mut bytes, 64, &self.image_id);
        put(&mut bytes, 80, &VERSION.to_le_bytes());
        put(&mut bytes, 84, &self.guest_svn.to_le_bytes());
        put(&mut bytes, 88, &self.policy.to_le_bytes());
        bytes
    }
}

/// A secret P-384 key for ID blocks, of their owner or of the author who vouches for that owner. Wiped when dropped.
#[derive(Clone)]
pub struct IdKey(SigningKey);

impl std::fmt::Debug for IdKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdKey(…)")
    }
}

impl IdKey {
    /// Reads a key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`), as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// [`IdBlockError::Key`] when it is none, or not on P-384.
    pub fn from_pem(pem: &str) -> Result<Self, IdBlockError> {
        SigningKey::from_pkcs8_pem(pem)
            .map(Self)
            .map_err(|_| IdBlockError::Key)
    }

    /// SHA-384 of the public key, as reports hold it.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        Sha384::digest(public_key(self.0.verifying_key())).into()
    }
}

/// The signatures over an ID block and the keys that made them.
#[derive(Clone, PartialEq, Eq)]
pub struct IdAuth(Box<[u8; ID_AUTH_LENGTH]>);

impl std::fmt::Debug for IdAuth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdAuth(4096 bytes)")
    }
}

/// Why a block does not count, or cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdBlockError {
    /// The secret key cannot be read.
    #[error("the key for ID blocks is no P-384 key in PKCS#8 PEM: make one with openssl genpkey")]
    Key,
    /// Another length than the structure has.
    #[error("{structure} has {length} bytes, {expected} expected")]
    Length {
        /// `ID block` or `ID authentication`.
        structure: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A field has another value than the ABI allows.
    #[error("ID authentication: {field} at offset {offset:#x} is not what the ABI allows")]
    Field {
        /// The field.
        field: &'static str,
        /// Offset in the structure.
        offset: usize,
    },
    /// A signature does not hold.
    #[error("ID authentication: the signature of the {over} does not hold")]
    Signature {
        /// `ID block` or `ID key`.
        over: &'static str,
    },
}

impl IdAuth {
    /// Signs `block` with `id_key`, and that key with `author`, if there is one. Equal arguments give equal bytes
    /// (RFC 6979).
    #[must_use]
    pub fn sign(block: &IdBlock, id_key: &IdKey, author: Option<&IdKey>) -> Self {
        let key = public_key(id_key.0.verifying_key());
        let over_block = id_key.0.sign(&block.to_bytes());
        let author = author.map(|author| (author.0.sign(&key), author.0.verifying_key()));
        Self::of_signatures(id_key.0.verifying_key(), &over_block, author)
    }

    fn of_signatures(
        id_key: &VerifyingKey,
        over_block: &Signature,
        author: Option<(Signature, &VerifyingKey)>,
    ) -> Self {
        let mut bytes = Box::new([0; ID_AUTH_LENGTH]);
        put(&mut *bytes, 0, &ECDSA_P384_SHA384.to_le_bytes());
        put(&mut *bytes, ID_BLOCK_SIGNATURE, &signature(over_block));
        put(&mut *bytes, ID_KEY, &public_key(id_key));
        if let Some((over_key, author_key)) = author {
            put(&mut *bytes, 4, &ECDSA_P384_SHA384.to_le_bytes());
            put(&mut *bytes, ID_KEY_SIGNATURE, &signature(&over_key));
            put(&mut *bytes, AUTHOR_KEY, &public_key(author_key));
        }
        Self(bytes)
    }

    /// The structure as the secure processor reads it; in Base64 it is QEMU's `id-auth=`, and with an author
    /// `author-key-enabled=on` belongs beside it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_AUTH_LENGTH] {
        &self.0
    }
}

/// Checks `auth` over `block` as the secure processor does, and tells how a report of such a guest names the keys.
///
/// # Errors
/// [`IdBlockError`] naming the field or signature for which a launch would fail.
pub fn launch_identity(block: &[u8], auth: &[u8]) -> Result<LaunchIdentity, IdBlockError> {
    length("ID block", block, ID_BLOCK_LENGTH)?;
    length("ID authentication", auth, ID_AUTH_LENGTH)?;
    let zero = |field, offset, end: usize| match auth.get(offset..end) {
        Some(bytes) if bytes.iter().all(|byte| *byte == 0) => Ok(()),
        _ => Err(IdBlockError::Field { field, offset }),
    };
    zero("reserved", 8, ID_BLOCK_SIGNATURE)?;
    zero("reserved", ID_KEY + KEY_LENGTH, ID_KEY_SIGNATURE)?;
    zero("reserved", END, ID_AUTH_LENGTH)?;
    if auth.get(..4) != Some(&ECDSA_P384_SHA384.to_le_bytes()) {
        let field = "the ID key's algorithm";
        return Err(IdBlockError::Field { field, offset: 0 });
    }
    let id_key = part(auth, ID_KEY, KEY_LENGTH);
    verify("ID block", auth, ID_BLOCK_SIGNATURE, ID_KEY, block)?;
    let author_key_digest = match auth.get(4..8) {
        Some(&[0, 0, 0, 0]) => {
            zero("the author's part without an author", ID_KEY_SIGNATURE, END)?;
            [0; 48]
        }
        Some(algorithm) if algorithm == ECDSA_P384_SHA384.to_le_bytes() => {
            verify("ID key", auth, ID_KEY_SIGNATURE, AUTHOR_KEY, id_key)?;
            Sha384::digest(part(auth, AUTHOR_KEY, KEY_LENGTH)).into()
        }
        _ => {
            let field = "the author key's algorithm";
            return Err(IdBlockError::Field { field, offset: 4 });
        }
    };
    Ok(LaunchIdentity {
        id_key_digest: Sha384::digest(id_key).into(),
        author_key_digest,
    })
}

fn length(structure: &'static str, bytes: &[u8], expected: usize) -> Result<(), IdBlockError> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(IdBlockError::Length {
        structure,
        length: bytes.len(),
        expected,
    })
}

fn verify(
    over: &'static str,
    auth: &[u8],
    signature_at: usize,
    key_at: usize,
    message: &[u8],
) -> Result<(), IdBlockError> {
    let key = key(part(auth, key_at, KEY_LENGTH)).ok_or(IdBlockError::Field {
        field: "a public key",
        offset: key_at,
    })?;
    let field = part(auth, signature_at, SIGNATURE_LENGTH);
    let signature = numbers(field)
        .and_then(|[r, s]| Signature::from_scalars(r, s).ok())
        .ok_or(IdBlockError::Field {
            field: "a signature",
            offset: signature_at,
        })?;
    key.verify(message, &signature)
        .map_err(|_| IdBlockError::Signature { over })
}

/// Curve, x and y in little-endian fields of 72 bytes, zeroes.
fn public_key(key: &VerifyingKey) -> [u8; KEY_LENGTH] {
    let mut bytes = [0; KEY_LENGTH];
    put(&mut bytes, 0, &P384.to_le_bytes());
    let point = key.to_encoded_point(false);
    for (index, number) in [point.x(), point.y()].into_iter().flatten().enumerate() {
        put_number(&mut bytes, 4 + index * NUMBER_FIELD, number);
    }
    bytes
}

fn key(bytes: &[u8]) -> Option<VerifyingKey> {
    let (curve, numbers_field) = bytes.split_at_checked(4)?;
    if curve != P384.to_le_bytes() {
        return None;
    }
    let [x, y] = numbers(numbers_field)?;
    let point = p384::EncodedPoint::from_affine_coordinates(&x, &y, false);
    VerifyingKey::from_encoded_point(&point).ok()
}

/// r and s in little-endian fields of 72 bytes, zeroes.
fn signature(signature: &Signature) -> [u8; SIGNATURE_LENGTH] {
    let mut bytes = [0; SIGNATURE_LENGTH];
    let (r, s) = signature.split_bytes();
    put_number(&mut bytes, 0, &r);
    put_number(&mut bytes, NUMBER_FIELD, &s);
    bytes
}

/// Two numbers, when nothing but zeroes stands around them.
fn numbers(bytes: &[u8]) -> Option<[FieldBytes; 2]> {
    let (both, rest) = bytes.split_at_checked(2 * NUMBER_FIELD)?;
    let number = |field: &[u8]| {
        let (number, padding) = field.split_at_checked(NUMBER)?;
        let mut big = FieldBytes::default();
        big.copy_from_slice(number);
        big.reverse();
        padding.iter().all(|byte| *byte == 0).then_some(big)
    };
    let (first, second) = both.split_at(NUMBER_FIELD);
    let numbers = [number(first)?, number(second)?];
    rest.iter().all(|byte| *byte == 0).then_some(numbers)
}

fn put_number(bytes: &mut [u8], offset: usize, big_endian: &FieldBytes) {
    let mut little = *big_endian;
    little.reverse();
    put(bytes, offset, &little);
}

/// Offsets are the constants above, all within their structures.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// Likewise; the structure's length has been checked.
fn part(bytes: &[u8], offset: usize, length: usize) -> &[u8] {
    bytes.get(offset..offset + length).unwrap_or_default()
}

#[cfg(test)]
mod tests;

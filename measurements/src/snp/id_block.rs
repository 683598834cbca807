//! The ID block, in which a guest's owner signs what may be launched, and the digests by which reports name its keys.
//!
//! The structures are `ID_BLOCK` and `ID_AUTH_INFO` of the SEV-SNP firmware ABI 56860, section 8.18 (`SNP_LAUNCH_FINISH`),
//! with keys and signatures as in chapter 10. The secure processor refuses to finish a launch whose digest or policy differs
//! from the block's. It puts the SHA-384 of both public keys into every report, so that a verifier can pin a key instead of
//! launch digests.

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

/// Length of an ID block in bytes.
pub const ID_BLOCK_LENGTH: usize = 96;
/// Length of the ID authentication structure in bytes.
pub const ID_AUTH_LENGTH: usize = 4096;

const VERSION: u32 = 1;
/// Signature algorithm: ECDSA on P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;
/// Curve of a key: P-384.
const P384: u32 = 2;
/// Length of a P-384 number in bytes; its field has `NUMBER_FIELD` bytes.
const NUMBER: usize = 48;
const NUMBER_FIELD: usize = 72;
const KEY_LENGTH: usize = 0x404;
const SIGNATURE_LENGTH: usize = 0x200;

const ID_BLOCK_SIGNATURE: usize = 0x40;
const ID_KEY: usize = 0x240;
const ID_KEY_SIGNATURE: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;
const END: usize = AUTHOR_KEY + KEY_LENGTH;

/// An ID block: the guest that may be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    /// Expected launch digest, as computed by [`launch_digest`](super::launch::launch_digest).
    pub launch_digest: [u8; 48],
    /// Family of guests, as named by the owner.
    pub family_id: [u8; 16],
    /// Image, as named by the owner.
    pub image_id: [u8; 16],
    /// Security version of the guest, as numbered by the owner.
    pub guest_svn: u32,
    /// Guest policy, which must equal the one that the guest is started with.
    pub policy: u64,
}

impl IdBlock {
    /// Encodes the block as the secure processor reads it. In Base64, this is QEMU's `id-block=`.
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

/// A private P-384 key for ID blocks: the owner's, or the author's who vouches for the owner. Erased from memory on drop.
#[derive(Clone)]
pub struct IdKey(SigningKey);

impl std::fmt::Debug for IdKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdKey(…)")
    }
}

impl IdKey {
    /// Reads a key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`), as written by `openssl genpkey`.
    ///
    /// # Errors
    /// [`IdBlockError::Key`] if it cannot be read or is not on P-384.
    pub fn from_pem(pem: &str) -> Result<Self, IdBlockError> {
        SigningKey::from_pkcs8_pem(pem)
            .map(Self)
            .map_err(|_| IdBlockError::Key)
    }

    /// Returns the SHA-384 of the public key, as reports contain it.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        Sha384::digest(public_key(self.0.verifying_key())).into()
    }
}

/// An ID authentication structure: the signatures over an ID block and the public keys that verify them.
#[derive(Clone, PartialEq, Eq)]
pub struct IdAuth(Box<[u8; ID_AUTH_LENGTH]>);

impl std::fmt::Debug for IdAuth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IdAuth(4096 bytes)")
    }
}

/// Why an ID block is refused, or cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdBlockError {
    /// The private key cannot be read.
    #[error("the key for ID blocks is no P-384 key in PKCS#8 PEM: make one with openssl genpkey")]
    Key,
    /// A structure has the wrong length.
    #[error("{structure} has {length} bytes, {expected} expected")]
    Length {
        /// Name of the structure: `ID block` or `ID authentication`.
        structure: &'static str,
        /// Length found, in bytes.
        length: usize,
        /// Length required, in bytes.
        expected: usize,
    },
    /// A field has a value that the ABI does not allow.
    #[error("ID authentication: {field} at offset {offset:#x} is not what the ABI allows")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Offset of the field in the structure.
        offset: usize,
    },
    /// A signature does not verify.
    #[error("ID authentication: the signature of the {over} does not hold")]
    Signature {
        /// What is signed: `ID block` or `ID key`.
        over: &'static str,
    },
}

impl IdAuth {
    /// Signs `block` with `id_key`, and the public ID key with `author` if given. Signatures are deterministic (RFC 6979).
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

    /// Returns the structure as the secure processor reads it. In Base64, this is QEMU's `id-auth=`. With an author, QEMU also
    /// needs `author-key-enabled=on`.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_AUTH_LENGTH] {
        &self.0
    }
}

/// Checks `auth` over `block` as the secure processor does, and returns the key digests in reports of such a guest.
///
/// # Errors
/// [`IdBlockError`] names the field or signature that would make the launch fail.
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

/// Encodes a public key: curve, x and y little-endian in 72 bytes each, then zeroes.
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

/// Encodes a signature: r and s little-endian in 72 bytes each, then zeroes.
fn signature(signature: &Signature) -> [u8; SIGNATURE_LENGTH] {
    let mut bytes = [0; SIGNATURE_LENGTH];
    let (r, s) = signature.split_bytes();
    put_number(&mut bytes, 0, &r);
    put_number(&mut bytes, NUMBER_FIELD, &s);
    bytes
}

/// Decodes two numbers in fields of 72 bytes, if all bytes around them are zero.
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

/// Writes a value. Never panics, because all offsets are the constants above, within their structures.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

/// Returns a field. Its offset is one of the constants above, and the structure's length has been checked.
fn part(bytes: &[u8], offset: usize, length: usize) -> &[u8] {
    bytes.get(offset..offset + length).unwrap_or_default()
}

#[cfg(test)]
mod tests;

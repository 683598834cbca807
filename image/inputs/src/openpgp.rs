//! Verifies a clear-signed Release file against Debian's archive keys.

use std::io::Cursor;

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};

/// Why a signed file or a keyring was refused.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The keyring cannot be parsed or is empty.
    #[error("the keyring holds no OpenPGP certificate")]
    Keyring,
    /// The input is not exactly one clear-signed message.
    #[error("not a clear-signed OpenPGP message")]
    Message(#[source] Box<pgp::errors::Error>),
    /// No signature by a key of the keyring is valid.
    #[error("no valid signature by a key of the keyring (signatures: {})", reasons.join("; "))]
    Untrusted {
        /// For each signature, why it is not accepted.
        reasons: Vec<String>,
    },
}

/// A verified text and its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The signed text alone, with line ends as LF.
    pub text: String,
    /// Fingerprint of the key whose signature verified.
    pub signer: String,
}

/// Parses a keyring, binary or armoured.
///
/// # Errors
/// [`SignatureError::Keyring`] if there is no certificate that can be used.
pub(crate) fn keyring(bytes: &[u8]) -> Result<Vec<SignedPublicKey>, SignatureError> {
    let (keys, _) = SignedPublicKey::from_reader_many(Cursor::new(bytes))
        .map_err(|_| SignatureError::Keyring)?;
    // Certificates with algorithms unknown to the library cannot verify anything, so they are skipped.
    let keys: Vec<_> = keys.take(1024).filter_map(Result::ok).collect();
    if keys.is_empty() {
        Err(SignatureError::Keyring)
    } else {
        Ok(keys)
    }
}

/// Verifies `message` at `now` (seconds since 1970). One valid signature by one valid key suffices, as for apt.
///
/// # Errors
/// [`SignatureError`] if the message is malformed or no signature is valid, with the reason for each signature.
pub(crate) fn verify(
    message: &[u8],
    keys: &[SignedPublicKey],
    now: u64,
) -> Result<Signed, SignatureError> {
    let (message, _) = CleartextSignedMessage::from_armor(message)
        .map_err(|error| SignatureError::Message(Box::new(error)))?;
    let text = message.signed_text();
    let mut reasons = Vec::new();
    for signature in message.signatures().iter().take(16) {
        match verify_one(signature, &text, keys, now) {
            Ok(signer) => {
                return Ok(Signed {
                    text: text.replace("\r\n", "\n"),
                    signer,
                });
            }
            Err(reason) => reasons.push(reason),
        }
    }
    Err(SignatureError::Untrusted { reasons })
}

fn verify_one(
    signature: &Signature,
    text: &str,
    keys: &[SignedPublicKey],
    now: u64,
) -> Result<String, String> {
    if !matches!(
        signature.typ(),
        Some(SignatureType::Text | SignatureType::Binary)
    ) {
        return Err("not a document signature".to_owned());
    }
    if !matches!(
        signature.hash_alg(),
        Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
    ) {
        return Err("hash weaker than SHA-256".to_owned());
    }
    let created = signature
        .created()
        .map(|time| u64::from(time.as_secs()))
        .ok_or("no creation time")?;
    if created > now.saturating_add(24 * 3600) {
        return Err("made in the future".to_owned());
    }
    if signature
        .signature_expiration_time()
        .is_some_and(|life| life.as_secs() > 0 && created + u64::from(life.as_secs()) < now)
    {
        return Err("signature expired".to_owned());
    }
    let mut reason = format!("key {} unknown", issuer(signature));
    for key in keys {
        let primary = &key.primary_key;
        if signature.verify(primary, text.as_bytes()).is_ok() {
            match usable(key, now) {
                Ok(()) => return Ok(primary.fingerprint().to_string()),
                Err(why) => reason = format!("key {} {why}", primary.fingerprint()),
            }
        }
        for subkey in &key.public_subkeys {
            if signature.verify(&subkey.key, text.as_bytes()).is_err() {
                continue;
            }
            let bound = usable(key, now).and_then(|()| {
                let revoked = subkey
                    .signatures
                    .iter()
                    .any(|s| s.typ() == Some(SignatureType::SubkeyRevocation));
                let bindings = subkey
                    .signatures
                    .iter()
                    .filter(|s| s.typ() == Some(SignatureType::SubkeyBinding));
                let binding = bindings
                    .max_by_key(|s| s.created().map(|time| time.as_secs()))
                    .ok_or("is not bound")?;
                match () {
                    () if revoked => Err("is revoked"),
                    () if !binding.key_flags().sign() => Err("is not a signing key"),
                    () if subkey.verify_bindings(primary).is_err() => Err("is not bound"),
                    () => alive(binding, u64::from(subkey.key.created_at().as_secs()), now),
                }
            });
            match bound {
                Ok(()) => return Ok(subkey.key.fingerprint().to_string()),
                Err(why) => reason = format!("key {} {why}", subkey.key.fingerprint()),
            }
        }
    }
    Err(reason)
}

/// Checks that a primary key is valid at `now`: not revoked, and not expired according to its newest valid
/// self-signature.
fn usable(key: &SignedPublicKey, now: u64) -> Result<(), &'static str> {
    let primary = &key.primary_key;
    if !key.details.revocation_signatures.is_empty() {
        return Err("is revoked");
    }
    let by_user = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(move |s| {
            s.verify_certification(primary, Tag::UserId, &user.id)
                .is_ok()
        })
    });
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|s| s.verify_key(primary).is_ok());
    let newest = by_user
        .chain(direct)
        .max_by_key(|s| s.created().map(|time| time.as_secs()));
    alive(
        newest.ok_or("has no valid self-signature")?,
        u64::from(primary.created_at().as_secs()),
        now,
    )
}

fn alive(binding: &Signature, created: u64, now: u64) -> Result<(), &'static str> {
    match binding.key_expiration_time() {
        Some(life) if life.as_secs() > 0 && created + u64::from(life.as_secs()) < now => {
            Err("is expired")
        }
        _ => Ok(()),
    }
}

fn issuer(signature: &Signature) -> String {
    let print = signature
        .issuer_fingerprint()
        .first()
        .map(ToString::to_string);
    print
        .or_else(|| signature.issuer_key_id().first().map(ToString::to_string))
        .unwrap_or_else(|| "without name".to_owned())
}

#[cfg(test)]
#[path = "openpgp_tests.rs"]
mod tests;

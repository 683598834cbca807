//! Cache of verified signatures, for a verifier that judges the same GPUs repeatedly: certificates, reference manifests and
//! OCSP responses rarely change from one session to the next.
//!
//! The cache holds only the fact that a signature over these bytes verified under this key, which stays true for ever.
//! Structure, names, roots, dates, revocation and measurements are judged each time. So is the signature of each report,
//! which answers a fresh nonce.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use p384::ecdsa::VerifyingKey;
use sha2::{Digest as _, Sha256};

use super::certificate::{der_signature_holds, raw_signature_holds};

/// Capacity in signatures. One appraisal verifies at most a third of it. The oldest entry is evicted first.
const MOST: usize = 1024;

/// Signatures that one verifier has already verified. An appraisal has the same result with and without entries.
#[derive(Debug, Default)]
pub struct Known(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    digests: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Known {
    /// Verifies an ECDSA signature in DER, unless it is already known to hold.
    pub(super) fn der(&self, key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
        let digest = digest(b"der", key, message, signature);
        self.ask(digest, || der_signature_holds(key, message, signature))
    }

    /// Verifies an ECDSA signature of 96 bytes (r, then s), unless it is already known to hold.
    pub(super) fn raw(&self, key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
        let digest = digest(b"raw", key, message, signature);
        self.ask(digest, || raw_signature_holds(key, message, signature))
    }

    /// Verifies outside the lock. Two threads may verify the same signature at once, with the same result.
    fn ask(&self, digest: [u8; 32], verify: impl FnOnce() -> bool) -> bool {
        if self.held().digests.contains(&digest) {
            return true;
        }
        let holds = verify();
        if holds {
            self.held().remember(digest);
        }
        holds
    }

    /// Ignores poisoning: a thread that panicked cannot have left a partial digest.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn remember(&mut self, digest: [u8; 32]) {
        if !self.digests.insert(digest) {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }
}

/// Hashes everything that decides whether a signature holds. Kind and key have a fixed length, and the signature follows its
/// length, so that the encoding is unambiguous.
fn digest(kind: &[u8; 3], key: &VerifyingKey, message: &[u8], signature: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(kind)
        .chain_update(key.to_encoded_point(false))
        .chain_update(signature.len().to_be_bytes())
        .chain_update(signature)
        .chain_update(message)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvidia::simulated::Key;

    #[test]
    fn what_held_is_asked_about_once_and_what_did_not_each_time() {
        let known = Known::default();
        let asked = |digest: u16, holds: bool| {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&digest.to_be_bytes());
            let mut asked = false;
            let outcome = known.ask(key, || {
                asked = true;
                holds
            });
            (asked, outcome)
        };
        assert_eq!(asked(0, false), (true, false));
        assert_eq!(asked(0, true), (true, true));
        // A known signature is not verified again.
        assert_eq!(asked(0, false), (false, true));
        // The oldest entry is evicted first, and the capacity is kept.
        let most = u16::try_from(MOST).unwrap();
        for digest in 1..=most {
            assert_eq!(asked(digest, true), (true, true));
        }
        assert_eq!(asked(1, false), (false, true));
        assert_eq!(asked(0, false), (true, false));
        assert_eq!(known.held().digests.len(), MOST);
        assert_eq!(known.held().order.len(), MOST);
    }

    #[test]
    fn a_signature_is_known_by_key_message_and_bytes() {
        let known = Known::default();
        let public = |seed: &str| {
            let info = Key::from_seed(seed).unwrap().public().unwrap();
            VerifyingKey::from_sec1_bytes(info.subject_public_key.raw_bytes()).unwrap()
        };
        let (key, other) = (public("one"), public("other"));
        let signer = Key::from_seed("one").unwrap();
        let (raw, der) = (signer.sign_raw(b"message"), signer.sign_der(b"message"));
        assert!(known.raw(&key, b"message", &raw) && known.der(&key, b"message", &der));
        assert_eq!(known.held().digests.len(), 2);
        assert!(!known.raw(&key, b"massage", &raw));
        assert!(!known.raw(&other, b"message", &raw));
        assert!(!known.raw(&key, b"message", &der));
        assert!(!known.der(&key, b"message", &raw));
        let mut changed = raw;
        changed[95] ^= 1;
        assert!(!known.raw(&key, b"message", &changed));
        assert_eq!(known.held().digests.len(), 2);
        assert!(known.raw(&key, b"message", &raw));
    }
}

//! Signatures that were found to hold, for whoever judges the same GPUs again: the certificates, reference manifests and OCSP
//! responses of a session are those of the session before.
//!
//! That a signature held over these very bytes under this very key holds for ever, and is all that is remembered. Forms,
//! names, roots, dates, revocation and measurements are judged each time, and so is the signature of each report, which
//! answers a question of its own.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use p384::ecdsa::VerifyingKey;
use sha2::{Digest as _, Sha256};

use super::certificate::{der_signature_holds, raw_signature_holds};

/// Most that are remembered; one verdict verifies no more than a third of it. The oldest is forgotten first.
const MOST: usize = 1024;

/// What one verifier knows from earlier verdicts. Empty it says nothing, and a verdict is the same with it and without.
#[derive(Debug, Default)]
pub struct Known(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    digests: BTreeSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl Known {
    /// Whether an ECDSA signature in DER holds, verified now or before.
    pub(super) fn der(&self, key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
        let digest = digest(b"der", key, message, signature);
        self.ask(digest, || der_signature_holds(key, message, signature))
    }

    /// The same of one of 96 bytes (r, then s).
    pub(super) fn raw(&self, key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
        let digest = digest(b"raw", key, message, signature);
        self.ask(digest, || raw_signature_holds(key, message, signature))
    }

    /// Verifies outside of the lock: two that verify the same at once agree.
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

    /// Whoever panicked left whole digests behind.
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

/// Of all that decides whether a signature holds. The key has one length, and the signature's is said.
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
        // Not even asked.
        assert_eq!(asked(0, false), (false, true));
        // The oldest goes first, and no more are kept than may be.
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

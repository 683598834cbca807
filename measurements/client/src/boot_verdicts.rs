//! Verdicts on boot documents, kept for the next connection that shows the same certificate:
//! SPEC.md, VERDICT-10.
//!
//! A kept verdict is used again only while it would be the same: not before the last time at which
//! it was made or used, and not after the second before the first date or age limit that changes
//! it. Session documents are fresh and are appraised every time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cocoon_protocol::bytes::Hex32;

use crate::judge::Judgement;

/// Number of certificates whose verdicts are kept; the least recently used one is dropped.
const MAX_KEPT: usize = 64;

/// Verdicts on boot documents under one manifest and one policy.
#[derive(Default)]
pub(crate) struct BootVerdicts(Mutex<VecDeque<Kept>>);

struct Kept {
    /// SHA-256 of the whole certificate, which covers its key and document.
    certificate: Hex32,
    /// Time when the verdict was made or last used. An earlier time means that the clock was set
    /// back.
    seen: u64,
    /// Last second for which the verdict holds.
    until: u64,
    judgement: Judgement,
}

impl BootVerdicts {
    /// Returns the verdict on the document in the certificate with this SHA-256 at the time `now`,
    /// in seconds since 1970. Calls `judge` if none is kept.
    pub(crate) fn get_or(
        &self,
        certificate: Hex32,
        now: u64,
        judge: impl FnOnce() -> Judgement,
    ) -> Judgement {
        if let Some(judgement) = self.recall(certificate, now) {
            return judgement;
        }
        // The lock is released meanwhile, so that other handshakes need not wait for signature
        // checks. Two handshakes may judge the same document.
        let judgement = judge();
        if let Some(until) = judgement.holds_until {
            self.keep(Kept {
                certificate,
                seen: now,
                until,
                judgement: judgement.clone(),
            });
        }
        judgement
    }

    fn recall(&self, certificate: Hex32, now: u64) -> Option<Judgement> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.iter().position(|kept| kept.certificate == certificate);
        let mut kept = all.remove(place?)?;
        if now < kept.seen || now > kept.until {
            return None;
        }
        kept.seen = now;
        let judgement = kept.judgement.clone();
        all.push_back(kept);
        Some(judgement)
    }

    fn keep(&self, new: Kept) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.certificate != new.certificate);
        if all.len() == MAX_KEPT {
            all.pop_front();
        }
        all.push_back(new);
    }
}

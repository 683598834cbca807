//! Verdicts on boot documents, for the next connection to the same certificate: SPEC.md, VERDICT-10.
//!
//! A verdict is used again only in the time through which it would be the same: from the last second in which the clock
//! showed it to be good to the second before the first date or age limit that changes it. Sessions' documents are fresh, and
//! are judged every time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cocoon_protocol::bytes::Hex32;

use crate::judge::Judgement;

/// Certificates about which verdicts are kept; the one that was used longest ago makes room.
const MAX_KEPT: usize = 64;

/// Verdicts under one manifest and one policy.
#[derive(Default)]
pub(crate) struct BootVerdicts(Mutex<VecDeque<Kept>>);

struct Kept {
    /// SHA-256 of the whole certificate, and so of key and document.
    certificate: Hex32,
    /// The clock when the verdict was made or last used: an earlier time is a clock that went back.
    seen: u64,
    /// Last second at which the verdict is the same.
    until: u64,
    judgement: Judgement,
}

impl BootVerdicts {
    /// The verdict on the document in the certificate with this SHA-256, at the time `now`, in seconds since 1970.
    pub(crate) fn get_or(
        &self,
        certificate: Hex32,
        now: u64,
        judge: impl FnOnce() -> Judgement,
    ) -> Judgement {
        if let Some(judgement) = self.recall(certificate, now) {
            return judgement;
        }
        // Unlocked: other handshakes need not wait for signatures. Two of them may judge the same.
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

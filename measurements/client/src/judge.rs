//! The judge of evidence: the appraisal policy of `cocoon-measurements`. Only this crate's own
//! tests use another one.

use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_measurements::appraise::{Presented, appraise_knowing};
use cocoon_measurements::manifest::TrustedManifest;
use cocoon_measurements::nvidia::Known;
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;

/// Appraises what an appliance presents. Private to the crate: with a judge of its own, another
/// crate could make an [`AttestedConnection`](crate::AttestedConnection) to anything.
pub(crate) trait Judge: Send + Sync {
    /// Returns the verdict on a boot or session document at the time `now`, in seconds since 1970.
    fn judge(&self, presented: &Presented<'_>, now: u64) -> Judgement;
}

/// A verdict, and separately whether it authorises prompts.
#[derive(Clone)]
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict,
    pub(crate) authorized: bool,
    /// See [`Verdict::holds_until`].
    pub(crate) holds_until: Option<u64>,
}

/// Appraises by a trusted manifest and a policy. Remembers NVIDIA signatures that were verified in
/// earlier appraisals.
pub(crate) struct Appraiser {
    pub(crate) manifest: TrustedManifest,
    pub(crate) policy: Policy,
    pub(crate) known: Known,
}

impl Judge for Appraiser {
    fn judge(&self, presented: &Presented<'_>, now: u64) -> Judgement {
        let (manifest, policy) = (&self.manifest, &self.policy);
        let verdict = appraise_knowing(presented, manifest, policy, now, &self.known);
        Judgement {
            authorized: verdict.authorizes().is_some(),
            holds_until: verdict.holds_until(),
            verdict,
        }
    }
}

/// Returns the same verdict on everything, because no manifest is valid.
pub(crate) struct Refusing(pub(crate) Verdict);

impl Judge for Refusing {
    fn judge(&self, _: &Presented<'_>, _: u64) -> Judgement {
        Judgement {
            verdict: self.0.clone(),
            authorized: false,
            holds_until: None,
        }
    }
}

/// Returns the client's clock in seconds since 1970. A clock before 1970 reads as 0, when no
/// manifest is valid yet.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

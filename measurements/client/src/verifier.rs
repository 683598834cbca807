//! What a client believes in: a trusted manifest, a policy, and how long it waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_measurements::appraise::Presented;
use cocoon_measurements::manifest::TrustedManifest;
use cocoon_measurements::nvidia::Known;
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::bytes::Hex32;
use rustls::crypto::CryptoProvider;

use crate::address::Address;
use crate::boot_verdicts::BootVerdicts;
use crate::collateral::CollateralCache;
use crate::error::{ConnectError, Stage};
use crate::judge::{Appraiser, Judge, Judgement, Refusing, now};
use crate::tls;
use crate::trust::KnownHost;

/// How long each part of a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// TCP.
    pub reach: Duration,
    /// TLS handshake.
    pub handshake: Duration,
    /// From the nonce sent to the whole document received, with the collateral that it names.
    pub attest: Duration,
}

impl Default for Deadlines {
    /// Generous to a VM under emulation with one quote at a time, short enough to fail over.
    fn default() -> Self {
        Self {
            reach: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            attest: Duration::from_secs(60),
        }
    }
}

/// Makes attested connections. Cheap to clone; clones share what they know of boot documents that were judged before, and
/// of appliances.
#[derive(Clone)]
pub struct Verifier {
    pub(crate) deadlines: Deadlines,
    judge: Arc<dyn Judge>,
    boot_verdicts: Arc<BootVerdicts>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    simulated_accepted: bool,
    known: Arc<Mutex<BTreeMap<String, KnownHost>>>,
    release: u64,
    provider: Arc<CryptoProvider>,
    pub(crate) cache: Option<Arc<CollateralCache>>,
}

impl Verifier {
    /// Accepts appliances that run the image of `manifest` under `policy`. Simulated evidence
    /// counts only when the policy names a development root.
    pub fn new(manifest: TrustedManifest, policy: Policy) -> Self {
        let simulated_accepted = !policy.development_roots.is_empty();
        let release = manifest.release;
        let judge = Appraiser {
            manifest,
            policy,
            known: Known::default(),
        };
        Self {
            release,
            ..Self::with_judge(Arc::new(judge), simulated_accepted)
        }
    }

    /// The same with other deadlines.
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Refuses appliances, by `HOST:PORT`, that show less than what is remembered of them. Those that it accepts it
    /// remembers itself, for as long as it lives.
    pub fn with_known_hosts(self, known: BTreeMap<String, KnownHost>) -> Self {
        Self {
            known: Arc::new(Mutex::new(known)),
            ..self
        }
    }

    /// The same, with the memory of appliances of `before`, which learns what this one knew.
    pub(crate) fn remembering(self, before: &Self) -> Self {
        if !Arc::ptr_eq(&self.known, &before.known) {
            let mut all = before.known();
            for (host, known) in self.known().iter() {
                let kept = all.entry(host.clone()).or_insert(*known);
                kept.release = kept.release.max(known.release);
            }
        }
        Self {
            known: Arc::clone(&before.known),
            ..self
        }
    }

    /// One that refuses every appliance in these words.
    pub(crate) fn refusing(&self, verdict: Verdict) -> Self {
        Self {
            judge: Arc::new(Refusing(verdict)),
            boot_verdicts: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether both judge alike: one is a clone of the other.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.boot_verdicts, &other.boot_verdicts)
    }

    /// Keeps collateral of accepted appliances there, and fetches only what is not there. Without it every connection
    /// fetches all of its collateral, in one round more, and no appliance can tell from it whether this client was there
    /// before.
    pub fn with_cache(self, cache: Arc<CollateralCache>) -> Self {
        Self {
            cache: Some(cache),
            ..self
        }
    }

    pub(crate) fn with_judge(judge: Arc<dyn Judge>, simulated_accepted: bool) -> Self {
        let provider = Arc::new(tls::provider());
        Self {
            deadlines: Deadlines::default(),
            judge,
            boot_verdicts: Arc::default(),
            clock: Arc::new(now),
            simulated_accepted,
            known: Arc::default(),
            release: 0,
            provider,
            cache: None,
        }
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// The same by another clock.
    #[cfg(test)]
    pub(crate) fn with_clock(self, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self { clock, ..self }
    }

    /// A session's document: always judged.
    pub(crate) fn judge(&self, presented: &Presented<'_>) -> Judgement {
        self.judge.judge(presented, (self.clock)())
    }

    /// The boot document in the certificate `der`: judged once, for as long as the verdict holds.
    pub(crate) fn judge_boot(&self, der: &[u8], presented: &Presented<'_>) -> Judgement {
        let now = (self.clock)();
        self.boot_verdicts
            .get_or(Hex32::sha256(der), now, || self.judge.judge(presented, now))
    }

    /// The verdict when it lets the connection go on, an error that carries it otherwise. A boot
    /// document only has to fit: without endorsements its class says nothing. A session document
    /// must authorise.
    pub(crate) fn accept(
        &self,
        address: &Address,
        stage: Stage,
        judgement: Judgement,
    ) -> Result<Verdict, ConnectError> {
        let Judgement {
            verdict,
            authorized,
            ..
        } = judgement;
        let accepted = match (verdict.class, stage) {
            (Class::Rejected, _) => false,
            (Class::Confidential | Class::Simulated, Stage::Handshake) => true,
            (Class::Confidential, _) => authorized,
            (Class::Simulated, _) => authorized && self.simulated_accepted,
        };
        if accepted {
            if stage == Stage::Attest {
                self.recognise(address, verdict.class)?;
            }
            return Ok(verdict);
        }
        Err(ConnectError::Rejected {
            address: address.clone(),
            stage,
            verdict: Box::new(verdict),
            collateral: None,
        })
    }

    /// Holds an appliance against what is known of it. Only confidential ones are remembered, so that a simulated one is
    /// always less.
    fn recognise(&self, address: &Address, class: Class) -> Result<(), ConnectError> {
        let (host, release) = (address.authority(), self.release);
        let mut all = self.known();
        let known = all.get(&host).map(|known| known.release);
        let found = match class {
            Class::Confidential if known.is_none_or(|known| release >= known) => {
                all.insert(host, KnownHost { release });
                return Ok(());
            }
            Class::Confidential => format!("of release {release}"),
            Class::Simulated | Class::Rejected => "simulated".to_owned(),
        };
        let Some(known) = known else {
            return Ok(());
        };
        Err(ConnectError::Downgrade {
            address: address.clone(),
            known: format!("confidential and of release {known}"),
            found,
        })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, KnownHost>> {
        // Nothing panics while it holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}

//! The verifier: a trusted manifest, a policy and deadlines.

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

/// Time limits for the stages of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the TCP connection.
    pub reach: Duration,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From sending the nonce to having the whole document, including its collateral.
    pub attest: Duration,
}

impl Default for Deadlines {
    /// Long enough for a virtual machine under emulation that makes one quote at a time, short
    /// enough for fail-over.
    fn default() -> Self {
        Self {
            reach: Duration::from_secs(10),
            handshake: Duration::from_secs(30),
            attest: Duration::from_secs(60),
        }
    }
}

/// Makes attested connections. Cheap to clone. Clones share the verdicts on boot documents and the
/// memory of known appliances.
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
    /// Makes a verifier that accepts appliances that run the image of `manifest` under `policy`.
    /// Simulated evidence is accepted only if the policy names a development root.
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

    /// Sets the deadlines.
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Sets the known appliances, by `HOST:PORT`. An appliance that presents less than what is
    /// remembered of it is refused. The verifier and its clones also remember confidential
    /// appliances that they accept.
    pub fn with_known_hosts(self, known: BTreeMap<String, KnownHost>) -> Self {
        Self {
            known: Arc::new(Mutex::new(known)),
            ..self
        }
    }

    /// Uses the memory of appliances of `before`, after adding the appliances known to this
    /// verifier.
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

    /// Makes a verifier that refuses every appliance with this verdict.
    pub(crate) fn refusing(&self, verdict: Verdict) -> Self {
        Self {
            judge: Arc::new(Refusing(verdict)),
            boot_verdicts: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns whether one of them is a clone of the other, so that both judge alike.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.boot_verdicts, &other.boot_verdicts)
    }

    /// Caches the collateral of accepted appliances, and fetches only pieces that are not in the
    /// cache. Without a cache, every connection fetches all of its collateral in one more round
    /// trip; then no appliance can tell from the request whether this client connected before.
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

    /// Sets the clock.
    #[cfg(test)]
    pub(crate) fn with_clock(self, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self { clock, ..self }
    }

    /// Appraises a session document, which is never taken from a cache.
    pub(crate) fn judge(&self, presented: &Presented<'_>) -> Judgement {
        self.judge.judge(presented, (self.clock)())
    }

    /// Appraises the boot document in the certificate `der`, or returns the kept verdict while it
    /// holds.
    pub(crate) fn judge_boot(&self, der: &[u8], presented: &Presented<'_>) -> Judgement {
        let now = (self.clock)();
        self.boot_verdicts
            .get_or(Hex32::sha256(der), now, || self.judge.judge(presented, now))
    }

    /// Returns the verdict if it lets the connection go on, else an error that contains it. A boot
    /// document only has to match: it has no endorsements, so its class means nothing. A session
    /// document must authorise prompts.
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

    /// Compares an appliance with what is remembered of it. Only confidential appliances are
    /// remembered, so a simulated one is always a downgrade.
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
        // No code panics while it holds the lock.
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

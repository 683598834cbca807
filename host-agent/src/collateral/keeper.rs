//! Everything together: what a guest asks for, from what is kept, asked for anew where it is time.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_measurements::policy::Policy;
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::Collateral;
use cocoon_protocol::gpu::{CollateralRequest, GpuCollateral};

use super::http::Client;
use super::store::StoreError;
use super::unkept::Unkept;
use super::want::{self, WantError};
use super::{CollateralError, Dates, Entry, Services, Store, Want, amd, intel, nvidia, schedule};
use crate::text::chain;

/// Asks, checks and keeps.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// What is kept.
    pub store: Store,
    unkept: Unkept,
    services: Services,
    client: Client,
    policy: Policy,
}

/// What there is for a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    /// Of the CPU's vendor.
    pub collateral: Option<Collateral>,
    /// Of the GPUs'.
    pub gpu: Option<GpuCollateral>,
    /// Whether that is all of it: no manifest and no response of NVIDIA's is missing.
    pub gpu_whole: bool,
    /// What there is not, with the reason.
    pub missing: Vec<(String, String)>,
    /// What is wrong with the place to keep it, if it did not take something.
    pub unkept: Option<String>,
    /// When to look again, Unix time.
    pub next: u64,
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The vendor, or its answer.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// The place to keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Keeper {
    /// Keeps in `store` what `services` answer. Manifests of NVIDIA's that only a development root of `policy` vouches for
    /// are kept as well.
    #[must_use]
    pub fn new(store: Store, services: Services, client: Client, policy: Policy) -> Self {
        Self {
            store,
            unkept: Unkept::default(),
            services,
            client,
            policy,
        }
    }

    /// Gathers what there is for a request, and asks for what is missing or due. Blocks.
    ///
    /// # Errors
    /// [`WantError`] for evidence that no vendor could be asked about.
    pub fn gather(&self, request: &CollateralRequest, now: u64) -> Result<Gathered, WantError> {
        let mut gathered = self.collect(request, now, |want| self.asked(want, now))?;
        gathered.unkept = self.unkept.settle(&self.store);
        Ok(gathered)
    }

    /// The same of what is kept alone: asks nobody, and so is done at once.
    ///
    /// # Errors
    /// As [`Keeper::gather`].
    pub fn kept(&self, request: &CollateralRequest, now: u64) -> Result<Gathered, WantError> {
        self.collect(request, now, |_| None)
    }

    /// `ask` sees to it that what is wanted is kept, or says why it is not.
    fn collect(
        &self,
        request: &CollateralRequest,
        now: u64,
        ask: impl Fn(&Want) -> Option<String>,
    ) -> Result<Gathered, WantError> {
        let mut gathered = Gathered {
            next: u64::MAX,
            gpu_whole: true,
            ..Gathered::default()
        };
        let mut gpu = GpuCollateral::default();
        let mut wants = want::of(request)?;
        let mut seen: BTreeSet<Want> = wants.iter().cloned().collect();
        // A manifest that came asks for more: the list grows while it is worked through.
        let mut place = 0;
        while let Some(want) = wants.get(place).cloned() {
            place += 1;
            let had = self.have(&want, now, ask(&want));
            gathered.next = gathered.next.min(self.next(&want, now));
            let bytes = match had {
                Ok(bytes) => bytes,
                Err(why) => {
                    gathered.missing.push((want.title(), why));
                    gathered.gpu_whole &= !matches!(want, Want::Rim { .. } | Want::Ocsp { .. });
                    continue;
                }
            };
            match &want {
                Want::Intel { .. } => {
                    gathered.collateral = Some(Collateral::Tdx { json: Blob(bytes) });
                }
                Want::Amd { .. } => gathered.collateral = serde_json::from_slice(&bytes).ok(),
                Want::Rim { .. } => {
                    let more = want::of_manifest(&bytes);
                    wants.extend(more.into_iter().filter(|want| seen.insert(want.clone())));
                    // Manifests were found to be text when they came.
                    gpu.rims.extend(String::from_utf8(bytes));
                }
                Want::Ocsp { .. } => gpu.ocsp.push(Blob(bytes)),
                Want::RimNames => {}
            }
        }
        let some = !gpu.rims.is_empty() || !gpu.ocsp.is_empty();
        // A guest takes whoever sends it more than there may be for broken.
        match gpu.check() {
            Ok(()) => gathered.gpu = some.then_some(gpu),
            Err(error) => {
                let missing = ("NVIDIA, all of it together".to_owned(), error.to_string());
                gathered.missing.push(missing);
                gathered.gpu_whole = false;
            }
        }
        gathered.gpu_whole &= gathered.gpu.is_some();
        Ok(gathered)
    }

    fn next(&self, want: &Want, now: u64) -> u64 {
        let known = self.unkept.known(want, self.store.known(want));
        schedule::next(want, known, now)
    }

    /// Asks for `want` when it is time; why there is no answer.
    fn asked(&self, want: &Want, now: u64) -> Option<String> {
        let due = self.next(want, now) <= now;
        // What was not kept is held.
        let refused = due.then(|| self.obtain(want, now).err()).flatten();
        refused.map(|error| chain(&error))
    }

    /// What is good for `want` now of what is kept; `why` it was asked for in vain, if it was.
    fn have(&self, want: &Want, now: u64, why: Option<String>) -> Result<Vec<u8>, String> {
        if let Some(bytes) = self.unkept.get(want, now) {
            return Ok(bytes);
        }
        let kept = match self.store.get(want) {
            Some((entry, bytes)) if now <= entry.dates.due => return Ok(bytes),
            Some((entry, _)) => format!("what is kept ended at {}", entry.dates.due),
            None => "there is none".to_owned(),
        };
        let stored = || self.store.failure(want).map(|failure| failure.why);
        let failure = || self.unkept.refused(want).or_else(stored);
        Err(why.or_else(failure).unwrap_or(kept))
    }

    /// Asks for `want`, whether it is time or not. A failure is counted.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn fetch(&self, want: &Want, now: u64) -> Result<Entry, FetchError> {
        Ok(self.obtain(want, now)??)
    }

    /// The same; inside, whether the store has taken it.
    fn obtain(&self, want: &Want, now: u64) -> Result<Result<Entry, StoreError>, CollateralError> {
        let answer = self.ask(want).and_then(|bytes| {
            let dates = self.check(want, &bytes, now)?;
            Ok((bytes, dates))
        });
        match answer {
            Ok((bytes, dates)) => {
                let kept = self.store.put(want, &bytes, dates, now);
                match &kept {
                    Ok(_) => self.unkept.forget(want),
                    Err(error) => self.unkept.answered(want, (now, dates, bytes), error),
                }
                Ok(kept)
            }
            Err(error) => {
                let before = self.unkept.known(want, self.store.known(want));
                let why = chain(&error);
                match self.store.failed(want, &why, now) {
                    Ok(()) => self.unkept.counted(want),
                    Err(lost) => self.unkept.failed(want, before, (now, why), &lost),
                }
                Err(error)
            }
        }
    }

    fn ask(&self, want: &Want) -> Result<Vec<u8>, CollateralError> {
        let (client, services) = (&self.client, &self.services);
        match want {
            Want::Intel { fmspc, ca } => intel::fetch(client, services, fmspc, *ca),
            Want::Amd { product, chip, tcb } => amd::fetch(client, services, *product, chip, tcb),
            Want::Rim { name } => nvidia::rim(client, services, name),
            Want::RimNames => nvidia::names(client, services),
            Want::Ocsp {
                certificate,
                issuer,
            } => nvidia::ocsp(client, services, &certificate.0.0, &issuer.0.0),
        }
    }

    /// Whether `bytes` are what `want` asks for, good at `now`.
    ///
    /// # Errors
    /// [`CollateralError`].
    pub fn check(&self, want: &Want, bytes: &[u8], now: u64) -> Result<Dates, CollateralError> {
        match want {
            Want::Intel { fmspc, .. } => intel::check(bytes, fmspc, now),
            Want::Amd { chip, .. } => amd::check(bytes, chip, now),
            Want::Rim { name } => nvidia::check_rim(bytes, name, &self.policy, now),
            Want::RimNames => nvidia::check_names(bytes, now),
            Want::Ocsp {
                certificate,
                issuer,
            } => {
                let pair = (&certificate.0.0[..], &issuer.0.0[..]);
                nvidia::check_ocsp(bytes, pair, &self.policy, now)
            }
        }
    }
}

/// This machine's clock, Unix time.
#[must_use]
pub fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

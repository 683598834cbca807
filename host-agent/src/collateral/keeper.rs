//! Gathers the collateral that a guest needs: from the store, and from the vendors where an item is missing or due.

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

/// Requests, checks and keeps collateral.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// The store.
    pub store: Store,
    unkept: Unkept,
    services: Services,
    client: Client,
    policy: Policy,
}

/// The collateral found for a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gathered {
    /// Collateral from the CPU's vendor.
    pub collateral: Option<Collateral>,
    /// Collateral of the GPUs, from NVIDIA.
    pub gpu: Option<GpuCollateral>,
    /// Whether the GPUs' part is complete: no reference manifest and no OCSP response is missing.
    pub gpu_whole: bool,
    /// Title of each missing item, with the reason.
    pub missing: Vec<(String, String)>,
    /// What is wrong with the store, if it could not take something.
    pub unkept: Option<String>,
    /// When to look again, Unix time.
    pub next: u64,
}

/// Why an item was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The vendor did not answer, or its answer was refused.
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    /// The store could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Keeper {
    /// Creates a keeper that stores in `store` what `services` answer. Reference manifests signed under a development root of
    /// `policy` are accepted too.
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

    /// Gathers collateral for a request, and fetches what is missing or due. Blocks.
    ///
    /// # Errors
    /// Fails with [`WantError`] for evidence that no vendor can be asked about.
    pub fn gather(&self, request: &CollateralRequest, now: u64) -> Result<Gathered, WantError> {
        let mut gathered = self.collect(request, now, |want| self.asked(want, now))?;
        gathered.unkept = self.unkept.settle(&self.store);
        Ok(gathered)
    }

    /// Gathers only what is kept. Sends no request, and so returns at once.
    ///
    /// # Errors
    /// As [`Keeper::gather`].
    pub fn kept(&self, request: &CollateralRequest, now: u64) -> Result<Gathered, WantError> {
        self.collect(request, now, |_| None)
    }

    /// Gathers collateral for a request. `ask` fetches an item if it is due, and returns why it could not be fetched.
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
        // A reference manifest adds its own certificates, so the list grows while it is processed.
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
                    // The check on arrival ensured that manifests are UTF-8.
                    gpu.rims.extend(String::from_utf8(bytes));
                }
                Want::Ocsp { .. } => gpu.ocsp.push(Blob(bytes)),
                Want::RimNames => {}
            }
        }
        let some = !gpu.rims.is_empty() || !gpu.ocsp.is_empty();
        // A guest treats a host that sends more than the limits as broken.
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

    /// Fetches `want` if it is due. Returns the reason if that fails.
    fn asked(&self, want: &Want, now: u64) -> Option<String> {
        let due = self.next(want, now) <= now;
        // A failure of the store is no failure here: `unkept` holds the answer.
        let refused = due.then(|| self.obtain(want, now).err()).flatten();
        refused.map(|error| chain(&error))
    }

    /// Returns the kept item for `want` if it is valid now. `why` is the reason of a fetch that has just failed.
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

    /// Fetches `want`, due or not, and counts a failure.
    ///
    /// # Errors
    /// Fails with [`FetchError`] if the vendor gives no acceptable answer or the store cannot take it.
    pub fn fetch(&self, want: &Want, now: u64) -> Result<Entry, FetchError> {
        Ok(self.obtain(want, now)??)
    }

    /// As [`Self::fetch`], but the inner result says whether the store took the answer.
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

    /// Checks that `bytes` are the item `want`, valid at `now`.
    ///
    /// # Errors
    /// Fails with [`CollateralError`] if they are another item, invalid, or outside their validity period.
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

/// This machine's clock, in Unix time.
#[must_use]
pub fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

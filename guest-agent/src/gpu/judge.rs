//! Verification of GPU evidence, without access to a device.
//!
//! The rules are those of every verifier ([`cocoon_measurements::nvidia`]) with the default policy, with two differences. A
//! guest has no trusted clock, so it verifies at the time of the newest OCSP response from the host and leaves the age of
//! responses to clients. And on a machine that is no TEE any development root is accepted, because nothing there is
//! protected; in a TEE none is.

use cocoon_measurements::nvidia::{
    self, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, Known, ocsp, presented_roots,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Check, Outcome};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral as Stapled, GpuNeeds};

/// Which roots GPU evidence may chain to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roots {
    /// NVIDIA's roots: in a TEE, and for all real GPUs.
    Vendor,
    /// The roots of any simulator, if the CPU is simulated too.
    Development,
}

/// What GPU evidence must match.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Number of GPUs that the guest counts.
    pub functions: usize,
    /// Nonce that the evidence must contain.
    pub nonce: &'a Hex32,
    /// Roots that the evidence must chain to.
    pub roots: Roots,
    /// Attestation keys at boot, in order, as SHA-256 of the SubjectPublicKeyInfo. `None` at boot.
    pub keys: Option<&'a [Hex32]>,
    /// Time of the newest OCSP response that evidence was verified with, in Unix seconds. The verification time is never
    /// earlier. Zero at boot.
    pub since: u64,
}

/// Checks that failed, by their ids in SPEC.md §7 and with the verifier's texts. Displays as the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.first())]
pub struct Refused {
    checks: Vec<(&'static str, String)>,
    lapsed: bool,
}

impl Refused {
    fn because(id: &'static str, cause: &str) -> Self {
        Self {
            checks: vec![(id, cause.to_owned())],
            lapsed: false,
        }
    }

    /// Returns the distinct ids of the failed checks. They contain no untrusted text.
    pub fn ids(&self) -> Vec<&'static str> {
        let mut ids = Vec::new();
        for (id, _) in &self.checks {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        ids
    }

    /// Returns whether collateral that the host may still be fetching could make every failed check pass.
    pub fn may_be_mended(&self) -> bool {
        let stapled =
            |id: &str| id == "gpu.measurements" || MENDED.iter().any(|own| id.starts_with(own));
        self.checks.iter().all(|(id, _)| stapled(id))
    }

    /// Returns whether the only fault is an OCSP response that is absent or expired. Everything that the GPUs present has
    /// then passed, and no OCSP response is malformed or reports a revocation.
    pub fn is_lapse(&self) -> bool {
        self.lapsed
    }

    /// Returns the first failed check with its cause, for the operator of a guest that has received no prompt yet.
    fn first(&self) -> String {
        let first = self.checks.first();
        first.map_or_else(
            || NOTHING.to_owned(),
            |(id, cause)| format!("{id}: {cause}"),
        )
    }
}

/// Verifies GPU evidence and returns the GPUs' attestation keys. Certificates, manifests and OCSP responses repeat from call
/// to call, so signatures recorded in `known` are not verified again.
///
/// # Errors
/// [`Refused`] with every failed check.
pub fn judge(
    shown: &[CollectedGpu],
    stapled: Option<&Stapled>,
    demand: &Demand<'_>,
    known: &Known,
) -> Result<Vec<Hex32>, Refused> {
    let appraisal = appraise(shown, stapled, demand, known);
    let keys: Vec<Hex32> = appraisal
        .gpus
        .iter()
        .map(|gpu| gpu.attestation_key)
        .collect();
    let failed = |check: &&Check| check.outcome == Outcome::Fail;
    let mut checks: Vec<_> = appraisal
        .checks
        .iter()
        .filter(failed)
        .map(|check| (check.id, words(check)))
        .collect();
    if !checks.is_empty() {
        // A GPU that was replaced must not be treated as one whose OCSP responses lapsed.
        let exchanged = demand.keys.is_some_and(|at_boot| at_boot != keys);
        if exchanged {
            checks.push(("gpu.keys", OTHER_KEYS.to_owned()));
        }
        let lapsed = appraisal.lapsed && !exchanged;
        return Err(Refused { checks, lapsed });
    }
    if appraisal.is_rejected() || keys.len() != demand.functions {
        return Err(Refused::because("gpu.count", UNVERIFIED));
    }
    match demand.keys {
        Some(at_boot) if at_boot != keys => Err(Refused::because("gpu.keys", OTHER_KEYS)),
        _ => Ok(keys),
    }
}

/// Returns the time of the newest OCSP response in Unix seconds, or zero if there is none. Only for responses that were
/// verified.
pub fn time(stapled: &Stapled) -> u64 {
    let ocsp: Vec<&[u8]> = stapled.ocsp.iter().map(AsRef::as_ref).collect();
    ocsp::newest(&ocsp).unwrap_or(0)
}

/// Returns what must be fetched from NVIDIA for the GPUs whose reports verify. Other GPUs are left out.
pub fn needs(shown: &[CollectedGpu], demand: &Demand<'_>, known: &Known) -> Vec<GpuNeeds> {
    let one = |gpu: &CollectedGpu| {
        let appraisal = appraise(std::slice::from_ref(gpu), None, demand, known);
        let found = appraisal.gpus.into_iter().next()?;
        Some(GpuNeeds {
            driver_rim: found.driver_rim,
            vbios_rim: found.vbios_rim,
            chain: gpu.chain.clone(),
        })
    };
    shown.iter().filter_map(one).collect()
}

fn appraise(
    shown: &[CollectedGpu],
    stapled: Option<&Stapled>,
    demand: &Demand<'_>,
    known: &Known,
) -> GpuAppraisal {
    let evidence: Vec<_> = shown.iter().map(GpuEvidence::of).collect();
    let rims = stapled.map_or(&[][..], |stapled| &stapled.rims);
    let rims: Vec<&[u8]> = rims.iter().map(String::as_bytes).collect();
    let ocsp = stapled.map_or(&[][..], |stapled| &stapled.ocsp);
    let ocsp: Vec<&[u8]> = ocsp.iter().map(AsRef::as_ref).collect();
    let development_roots = match demand.roots {
        Roots::Vendor => Vec::new(),
        Roots::Development => {
            let chains: Vec<&[u8]> = shown.iter().map(|gpu| gpu.chain.as_bytes()).collect();
            presented_roots(&chains, &rims)
        }
    };
    let policy = Policy {
        development_roots,
        ..Policy::default()
    };
    // Without a response there is no time, but then the missing responses fail their checks anyway.
    let now = ocsp::newest(&ocsp).unwrap_or(NO_TIME).max(demand.since);
    let demand = GpuDemand {
        nonce: demand.nonce.0,
        count: Some(demand.functions),
        driver_state: true,
    };
    let collateral = GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    nvidia::appraise_knowing(&evidence, &collateral, &demand, &policy, now, known)
}

fn words(check: &Check) -> String {
    let cause = check.cause.as_deref().unwrap_or_default();
    let found = check
        .found
        .as_deref()
        .map(|found| format!(" (found: {found})"));
    let text = format!("{}: {cause}{}", check.title, found.unwrap_or_default());
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// Start of 2026, in Unix seconds. Every certificate of a Hopper GPU's chain is valid then.
const NO_TIME: u64 = 1_767_225_600;
/// Prefixes of the checks of reference manifests and OCSP responses.
const MENDED: [&str; 2] = ["gpu.rim", "gpu.revocation"];
const NOTHING: &str = "nothing was shown";
const UNVERIFIED: &str = "not every GPU's evidence verified";
const OTHER_KEYS: &str =
    "another GPU than at boot, or one with other firmware: it was exchanged or reset";

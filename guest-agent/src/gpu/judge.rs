//! The decision on GPUs, without a device: what they must show, and what is said when they do not.
//!
//! The rules are those of every verifier ([`cocoon_measurements::nvidia`]), with the default policy. Two things differ. A
//! guest has no clock that it could trust: it judges at the time of the newest of NVIDIA's answers that the host handed
//! over, so that what can be said without a clock is said, and leaves ages to clients. And on a machine that is no TEE
//! any development root counts, because nothing there is protected; in a TEE none does.

use cocoon_measurements::nvidia::{
    self, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, Known, ocsp, presented_roots,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Check, Outcome};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::{CollectedGpu, GpuCollateral as Stapled, GpuNeeds};

/// Whose GPUs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roots {
    /// NVIDIA's: in a TEE, and wherever there is hardware.
    Vendor,
    /// Those of any simulator: where the CPU is simulated too.
    Development,
}

/// What GPUs must show.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// As many as the guest counts.
    pub functions: usize,
    /// The question.
    pub nonce: &'a Hex32,
    /// Whose.
    pub roots: Roots,
    /// Their attestation keys (SHA-256 of the SubjectPublicKeyInfo) at boot, in order; `None` at boot.
    pub keys: Option<&'a [Hex32]>,
    /// When NVIDIA answered what counted last, Unix time: it is no earlier now. Zero at boot.
    pub since: u64,
}

/// What was refused, by the ids of SPEC.md §7 and in the verifier's words, which its text shows the first of.
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

    /// The failed checks' ids, each once, which hold no foreign text.
    pub fn ids(&self) -> Vec<&'static str> {
        let mut ids = Vec::new();
        for (id, _) in &self.checks {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        ids
    }

    /// Whether NVIDIA's word, which the host may still be fetching, could change it.
    pub fn may_be_mended(&self) -> bool {
        let stapled =
            |id: &str| id == "gpu.measurements" || MENDED.iter().any(|own| id.starts_with(own));
        self.checks.iter().all(|(id, _)| stapled(id))
    }

    /// Whether nothing is wrong but that an answer of NVIDIA's on revocation is absent or over its time: nothing that the
    /// GPUs show, which has been compared, no answer that speaks against them, and none that is damaged.
    pub fn is_lapse(&self) -> bool {
        self.lapsed
    }

    /// The first failed check with its cause, for the operator of a guest that has seen no prompt yet.
    fn first(&self) -> String {
        let first = self.checks.first();
        first.map_or_else(
            || NOTHING.to_owned(),
            |(id, cause)| format!("{id}: {cause}"),
        )
    }
}

/// The attestation keys of GPUs that show what they must. The same certificates, manifests and answers come each time, and what
/// is `known` of their signatures is not verified again.
///
/// # Errors
/// [`Refused`] with every check that failed.
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
        // A GPU that was exchanged shall not pass for one whose answers lapsed.
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

/// When the newest of these answers was made, Unix time; zero where there is none. For answers that counted.
pub fn time(stapled: &Stapled) -> u64 {
    let ocsp: Vec<&[u8]> = stapled.ocsp.iter().map(AsRef::as_ref).collect();
    ocsp::newest(&ocsp).unwrap_or(0)
}

/// What NVIDIA has to be asked for about GPUs whose reports verify; the others are left out.
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
    // Without an answer there is no time, and the missing answers refuse in any case.
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

/// The beginning of 2026: every certificate of a Hopper's chain is in its time.
const NO_TIME: u64 = 1_767_225_600;
/// Checks of manifests and of answers on revocation.
const MENDED: [&str; 2] = ["gpu.rim", "gpu.revocation"];
const NOTHING: &str = "nothing was shown";
const UNVERIFIED: &str = "not every GPU's evidence verified";
const OTHER_KEYS: &str =
    "another GPU than at boot, or one with other firmware: it was exchanged or reset";

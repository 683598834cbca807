//! The GPUs of a document: whether they are proven, and whether their evidence belongs to this session.
//!
//! [`nvidia::appraise`] judges the evidence itself. This module ties it to the session. The CPU's report data commit to the
//! GPU section. The reports in the section answer a nonce that commits to everything else in the CPU's report data. So
//! neither half can come from another session.

use cocoon_protocol::{
    batch::{Batch, BatchError},
    binding::{self, BINDING_LEN},
    bytes::Hex32,
    document::{Document, Kind},
    gpu_section::{GpuSection, keys_digest},
};

use super::{Freshness, Presented};
use crate::{
    manifest::TrustedManifest,
    nvidia::{self, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, Known},
    policy::{GpuRequirement, Policy},
    roots::RootClass,
    verdict::{Check, chain},
};

const ID: &str = "document.gpu";
const TITLE: &str = "GPU section";

/// Checks the claimed GPU digest by manifest, policy and section. Returns one row, whatever the policy.
pub(super) fn claimed(
    document: &Document,
    manifest: &TrustedManifest,
    policy: &Policy,
    session: bool,
) -> Check {
    let found = document.claims.gpu_section_digest;
    let refused = |(cause, advice)| Check::fail(ID, TITLE, cause, advice).found(found);
    let needed = "evidence of the GPU";
    if let Some(section) = &document.gpu {
        if !manifest.claims_gpu() {
            return refused((UNEXPECTED, UNEXPECTED_ADVICE)).expected(Hex32::ZERO);
        }
        return Check::equal(ID, TITLE, &section.digest(), &found, || {
            (OTHER_SECTION, UNPROVEN_ADVICE)
        });
    }
    match (found.is_zero(), manifest.claims_gpu()) {
        (true, true) => refused((UNPROVEN, UNPROVEN_ADVICE)).expected(needed),
        (true, false) if policy.gpu == GpuRequirement::Required => {
            refused((REQUIRED, REQUIRED_ADVICE)).expected(needed)
        }
        (true, false) => Check::pass(ID, TITLE, found).expected(found),
        (false, false) => refused((UNEXPECTED, UNEXPECTED_ADVICE)).expected(Hex32::ZERO),
        (false, true) if session || document.kind == Kind::Session => {
            refused((CLAIMED, UNPROVEN_ADVICE)).expected(needed)
        }
        // In a boot document, the digest is of keys that the session's document proves.
        (false, true) => Check::note(ID, TITLE, KEYS_ONLY).found(found),
    }
}

/// Returns the rows on a session's GPUs and the class that they allow, or nothing if there is no section. `cpu` is the class
/// of the CPU's root, if its evidence was verified.
pub(super) fn session(
    presented: &Presented<'_>,
    fresh: Freshness,
    cpu: Option<RootClass>,
    policy: &Policy,
    now: u64,
    known: &Known,
) -> (Option<RootClass>, Vec<Check>) {
    let document = presented.document;
    let Some(section) = &document.gpu else {
        return (None, Vec::new());
    };
    // The guest asked the GPUs before it had their answer, so the nonce covers the claims without the section's digest.
    let asked = binding::session(&document.claims, &fresh);
    let nonce = match nonce(section, document.batch.as_ref(), &asked) {
        Ok(nonce) => nonce,
        Err(error) => {
            let title = "nonce of the report";
            return (
                None,
                vec![Check::fail("gpu.nonce", title, chain(&error), SERVER)],
            );
        }
    };
    let judged = judge(section, document, nonce, policy, now, known);
    let mut checks = judged.checks;
    if judged.root.is_none() {
        // Some check has failed already. This row makes the rejection independent of that check.
        checks.push(Check::fail("gpu.class", CLASS, UNVERIFIED, SERVER));
    }
    let keys: Vec<Hex32> = judged.gpus.iter().map(|gpu| gpu.attestation_key).collect();
    checks.extend(presented.handshake_gpus.map(|committed| {
        Check::equal(
            "gpu.keys",
            "GPUs of the boot",
            &committed,
            &keys_digest(&keys),
            || (OTHER_KEYS, OTHER_KEYS_ADVICE),
        )
    }));
    let (worth, row) = class(cpu, judged.root, judged.developer_mode);
    checks.extend(row);
    (worth, checks)
}

/// Returns the class of GPUs under the root `gpus` beside a CPU under the root `cpu`, with its row. A GPU in developer mode,
/// if the policy accepts that, is worth no more than a simulated one, even under NVIDIA's root.
pub(super) fn class(
    cpu: Option<RootClass>,
    gpus: Option<RootClass>,
    developer_mode: bool,
) -> (Option<RootClass>, Option<Check>) {
    const ID: &str = "gpu.class";
    let worth = gpus.map(|root| match developer_mode {
        true => RootClass::Development,
        false => root,
    });
    let row = match (cpu, gpus) {
        (Some(RootClass::Vendor), Some(RootClass::Development)) => {
            Check::fail(ID, CLASS, SIMULATED_BESIDE_REAL, DO_NOT_USE)
        }
        (Some(_), Some(RootClass::Vendor)) if developer_mode => {
            Check::note(ID, CLASS, DEVELOPER_MODE).found("NVIDIA's, in developer mode")
        }
        (Some(_), Some(RootClass::Vendor)) => Check::pass(ID, CLASS, "NVIDIA's"),
        (Some(_), Some(RootClass::Development)) => {
            Check::pass(ID, CLASS, "simulated, like the CPU")
        }
        // Without a verified CPU, or without verified GPUs, there is nothing to compare.
        (None, _) | (_, None) => return (worth, None),
    };
    (worth, Some(row))
}

/// Computes the nonce that the reports must answer, from the verifier's own knowledge of this session.
fn nonce(
    section: &GpuSection,
    batch: Option<&Batch>,
    asked: &[u8; BINDING_LEN],
) -> Result<Hex32, BatchError> {
    let Some(place) = batch else {
        return Ok(binding::gpu_nonce(asked));
    };
    let path = section.path.clone();
    Batch { path, ..*place }.gpu_nonce(asked)
}

fn judge(
    section: &GpuSection,
    document: &Document,
    nonce: Hex32,
    policy: &Policy,
    now: u64,
    known: &Known,
) -> GpuAppraisal {
    let evidence = section.gpus.iter().map(GpuEvidence::of);
    let evidence: Vec<_> = evidence.collect();
    let stapled = document.gpu_collateral.as_ref();
    let rims: Vec<&[u8]> = stapled
        .into_iter()
        .flat_map(|all| &all.rims)
        .map(String::as_bytes)
        .collect();
    let ocsp: Vec<&[u8]> = stapled
        .into_iter()
        .flat_map(|all| &all.ocsp)
        .map(AsRef::as_ref)
        .collect();
    let collateral = GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    let demand = GpuDemand {
        nonce: nonce.0,
        count: Some(section.functions.into()),
        driver_state: true,
    };
    nvidia::appraise_knowing(&evidence, &collateral, &demand, policy, now, known)
}

const CLASS: &str = "GPU beside the CPU";
const UNEXPECTED: &str = "the guest claims a GPU, and the manifest's image has none";
const UNEXPECTED_ADVICE: &str = "use the manifest of the image that runs there: one with a GPU";
const OTHER_SECTION: &str = "the GPU section is another one than the guest's claims name: it was changed or exchanged on the way";
const UNPROVEN: &str = "the manifest is of a GPU image, and the guest shows no evidence of a GPU: prompts would reach one that \
     nobody has checked";
const UNPROVEN_ADVICE: &str = "nothing was sent; the operator starts the VM with its GPU and this release's image, and passes on what the guest says unchanged";
const CLAIMED: &str = "the guest claims a GPU, and the evidence of it is missing from the document";
const REQUIRED: &str = "your policy requires a GPU, and this image has none";
const REQUIRED_ADVICE: &str =
    "use a machine and manifest with a GPU, or set gpu = \"if_claimed\" in the policy";
const KEYS_ONLY: &str = "the certificate commits to the keys of GPUs: the session's document has to prove these very ones";
const SERVER: &str = "the server does not follow the protocol: do not use it";
const UNVERIFIED: &str = "no GPU's evidence verified, so nothing vouches for one";
const OTHER_KEYS: &str = "other GPUs than those that the certificate of this connection committed to when the guest started: \
     one was exchanged, reset with other firmware, or another machine's evidence is shown";
const OTHER_KEYS_ADVICE: &str =
    "nothing was sent; connect again, and if it happens again do not use this server";
const SIMULATED_BESIDE_REAL: &str =
    "a simulated GPU beside a real CPU: an image that is what its manifest says never does that";
const DEVELOPER_MODE: &str = "a GPU in developer mode, which your policy accepts, protects nothing: the whole is worth no more than a \
     simulated machine";
const DO_NOT_USE: &str = "do not use this machine: simulated GPUs are for simulated machines";

//! Appraisal of all GPUs of a machine: the right number of distinct devices, each with its own report for the same nonce.

use std::collections::BTreeSet;

use super::{
    DriverState, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, MAX_GPUS, MAX_OCSP_RESPONSES,
    MAX_RIMS,
    device::{self, Device},
    golden,
    known::Known,
    manifests::{Manifests, Part, Verified},
    revocation::Revocations,
};
use crate::{
    policy::Policy,
    roots::RootClass,
    verdict::{Check, Outcome},
};

/// Appraises the evidence of all GPUs of a machine at `now`, in seconds since 1970 on the verifier's clock.
///
/// Makes all checks, even after one failed. But nothing in a GPU's report is compared unless its signatures hold.
/// Development roots count only if the policy names them, and only for the kind of chain that ends in them.
#[must_use]
pub fn appraise(
    evidence: &[GpuEvidence<'_>],
    collateral: &GpuCollateral<'_>,
    demand: &GpuDemand,
    policy: &Policy,
    now: u64,
) -> GpuAppraisal {
    appraise_knowing(evidence, collateral, demand, policy, now, &Known::default())
}

/// Like [`appraise`], with a cache of verified signatures. The result is the same, but faster for certificates, manifests
/// and OCSP responses that were appraised before.
#[must_use]
pub fn appraise_knowing(
    evidence: &[GpuEvidence<'_>],
    collateral: &GpuCollateral<'_>,
    demand: &GpuDemand,
    policy: &Policy,
    now: u64,
    known: &Known,
) -> GpuAppraisal {
    let mut checks = vec![count(evidence.len(), demand.count)];
    let sizes = [
        ("GPUs", evidence.len(), MAX_GPUS),
        ("reference manifests", collateral.rims.len(), MAX_RIMS),
        ("OCSP responses", collateral.ocsp.len(), MAX_OCSP_RESPONSES),
    ];
    if let Some((what, found, most)) = sizes.into_iter().find(|(_, found, most)| found > most) {
        let row = Check::fail("gpu.count", format!("number of {what}"), TOO_MANY, FEWER);
        checks.push(row.expected(format!("at most {most}")).found(found));
        return rejected(checks);
    }
    let (mut manifests, rows) = Manifests::new(collateral.rims, policy, now, known);
    checks.extend(rows);
    let (mut revocations, rows) = Revocations::new(collateral.ocsp, policy, now, known);
    checks.extend(rows);
    let several = evidence.len().max(demand.count.unwrap_or(1)) > 1;
    let mut gpus = Vec::new();
    let mut roots = Vec::new();
    for (place, evidence) in evidence.iter().enumerate() {
        let (device, mut rows) = device::verify(evidence, policy, now, known);
        if let Some(device) = device {
            roots.push(device.root);
            let both = (&mut manifests, &mut revocations);
            let (root, more) = judge(&device, evidence.driver, demand, policy, both);
            roots.extend(root);
            rows.extend(more);
            gpus.push(device.gpu);
        } else {
            rows.push(Check::note("gpu.measurements", "measurements", NOT_JUDGED));
        }
        if several {
            for row in &mut rows {
                row.title = format!("GPU {place}: {}", row.title);
            }
        }
        checks.extend(rows);
    }
    let devices: BTreeSet<_> = gpus.iter().map(|gpu| gpu.device).collect();
    if gpus.len() > 1 {
        let (title, all) = ("different devices", gpus.len());
        checks.push(Check::equal(
            "gpu.distinct",
            title,
            &all,
            &devices.len(),
            || (SHOWN_TWICE, OWN_EVIDENCE),
        ));
    }
    let development = roots.contains(&RootClass::Development);
    let root = roots.first().map(|_| match development {
        true => RootClass::Development,
        false => RootClass::Vendor,
    });
    let developer = |gpu: &GpuEvidence<'_>| gpu.driver.is_some_and(|said| said.developer_mode);
    let failed = (checks.iter()).filter(|row| row.outcome == Outcome::Fail);
    let (failed, lapses) = (failed.count(), revocations.lapses());
    GpuAppraisal {
        root,
        gpus,
        developer_mode: evidence.iter().any(developer),
        lapsed: lapses > 0 && failed == lapses,
        checks,
    }
}

/// Checks a verified GPU against demand, policy and manifests. Returns the rows and the root classes of the manifests that
/// were compared.
fn judge(
    device: &Device<'_>,
    driver: Option<&DriverState>,
    demand: &GpuDemand,
    policy: &Policy,
    (manifests, revocations): (&mut Manifests<'_>, &mut Revocations<'_>),
) -> (Vec<RootClass>, Vec<Check>) {
    let mut checks = device::judge(device, driver, demand, policy);
    // The GPU issues the certificate of its attestation key itself, so that no responder knows it. The device identity above
    // it can be revoked.
    let chain = &device.chain.certificates;
    checks.extend(revocations.of(chain, 1));
    let gpu = &device.gpu;
    // Of several manifests, one that the report agrees with is used; else the first, to show how the report differs.
    let mut manifest = |part, version: &str, name: &str| {
        let (found, rows) = manifests.of(part, (version, name), revocations);
        checks.extend(rows);
        let agrees = |(reference, _): &&Verified| golden::agrees(&device.report, reference);
        found.iter().find(agrees).or(found.first()).cloned()
    };
    let driver = manifest(Part::Driver, &gpu.driver_version, &gpu.driver_rim);
    let vbios = manifest(Part::Vbios, &gpu.vbios_version, &gpu.vbios_rim);
    let (Some((driver, one)), Some((vbios, other))) = (driver, vbios) else {
        let title = "measurements of driver and VBIOS";
        checks.push(Check::fail(
            "gpu.measurements",
            title,
            NO_MANIFEST,
            NO_MANIFEST_ADVICE,
        ));
        return (Vec::new(), checks);
    };
    checks.extend(golden::compare(&device.report, &driver, &vbios));
    (vec![one, other], checks)
}

fn count(found: usize, expected: Option<usize>) -> Check {
    let title = "number of GPUs";
    let (good, shown) = match expected {
        Some(expected) => (found == expected && found > 0, expected.to_string()),
        None => (found > 0, "at least 1".to_owned()),
    };
    let row = if good {
        Check::pass("gpu.count", title, found)
    } else {
        Check::fail("gpu.count", title, OTHER_COUNT, OWN_EVIDENCE).found(found)
    };
    row.expected(shown)
}

fn rejected(checks: Vec<Check>) -> GpuAppraisal {
    GpuAppraisal {
        checks,
        root: None,
        gpus: Vec::new(),
        developer_mode: false,
        lapsed: false,
    }
}

const TOO_MANY: &str = "more than any machine has: reading them would cost more than they can tell";
const FEWER: &str = "the operator presents each GPU once, and only the collateral of these GPUs";
const OTHER_COUNT: &str = "a GPU without evidence could do anything with what it is given";
const OWN_EVIDENCE: &str =
    "the operator collects evidence of every GPU of the machine, each its own";
const SHOWN_TWICE: &str = "one GPU's evidence stands in for another's";
const NOT_JUDGED: &str = "not judged: the report that carries them is not verified";
const NO_MANIFEST: &str =
    "not compared: the reference manifests of driver and VBIOS do not both count";
const NO_MANIFEST_ADVICE: &str = "see the rows of the manifests";

//! Turns facts into findings. Pure, so that tests cover the good and the bad form of every finding.

use cocoon_measurements::policy::Policy;

use super::facts::{Facts, Wanted};
use super::finding::Finding;

mod gpu;
mod host;
mod qemu;
mod snp;
mod tdx;

pub(super) use tdx::KERNEL as PAGE_ORDER_SINCE;

/// Returns all findings, in the order in which a machine is set up. `policy` is the clients' policy.
#[must_use]
pub fn judge(facts: &Facts, wanted: &Wanted, policy: &Policy) -> Vec<Finding> {
    let mut findings = host::processor(facts);
    findings.extend(tdx::findings(facts));
    findings.extend(snp::findings(facts, policy));
    findings.extend(qemu::findings(facts));
    findings.extend(host::resources(facts, wanted));
    findings.extend(gpu::findings(facts, wanted));
    findings
}

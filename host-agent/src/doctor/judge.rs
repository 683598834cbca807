//! Facts in, findings out: pure, so that every finding is tested in its good and its bad forms.

use cocoon_measurements::policy::Policy;

use super::facts::{Facts, Wanted};
use super::finding::Finding;

mod gpu;
mod host;
mod qemu;
mod snp;
mod tdx;

pub(super) use tdx::KERNEL as PAGE_ORDER_SINCE;

/// Everything that matters, in the order in which a person would set a machine up. `policy` is the clients'.
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

//! Checks of the platform for both TEEs: the machine's identity, and the age of the vendor's collateral.

use super::evidence::{ASK_OPERATOR, COLLATERAL};
use crate::{
    policy::{MachineId, Policy},
    verdict::Check,
};

/// Checks the machine by the policy's list. `found` is `None` if the evidence proves no identity of a known form.
pub(super) fn machine(found: Option<MachineId>, policy: &Policy) -> Check {
    const ID: &str = "evidence.machine";
    let title = "machine";
    let known = found.filter(|id| !id.is_masked());
    let shown = known.map_or_else(|| "not proven".to_owned(), |id| id.to_string());
    if policy.machines.is_empty() {
        return Check::pass(ID, title, shown).expected("any");
    }
    let row = match known {
        Some(id) if policy.machines.contains(&id) => Check::pass(ID, title, shown),
        Some(_) => Check::fail(ID, title, OTHER_MACHINE, MACHINE_ADVICE).found(shown),
        None => Check::fail(ID, title, MASKED, MASKED_ADVICE).found(shown),
    };
    row.expected(match &policy.machines[..] {
        [only] => only.to_string(),
        several => format!("one of the {} that the policy lists", several.len()),
    })
}

/// Checks that collateral called `what`, issued at `issued`, is at most `most` seconds old at `now`.
pub(super) fn age(title: &str, (what, issued): (&str, u64), most: u64, now: u64) -> Check {
    const HOUR: u64 = 60 * 60;
    // Ages are shown in the unit of the limit and rounded up, so that a refused age never looks like an accepted one.
    let (unit, name) = if most.is_multiple_of(24 * HOUR) {
        (24 * HOUR, "days")
    } else if most.is_multiple_of(HOUR) {
        (HOUR, "hours")
    } else {
        (1, "seconds")
    };
    let age = now.saturating_sub(issued);
    let found = format!("{} {name} ({what})", age.div_ceil(unit));
    let row = if age <= most {
        Check::pass(COLLATERAL, title, found)
    } else {
        Check::fail(COLLATERAL, title, STALE, ASK_OPERATOR).found(found)
    };
    row.expected(format!("at most {} {name}", most / unit))
}

const OTHER_MACHINE: &str = "genuine evidence, of a machine that your policy does not list";
const MACHINE_ADVICE: &str = "use a machine of your list; add this one only after its operator told you its identity another way than over this connection";
const MASKED: &str =
    "the evidence does not prove which machine made it, so it cannot be one of your policy's list";
const MASKED_ADVICE: &str =
    "the operator clears MASK_CHIP_ID and has the report signed with the chip's own key (VCEK)";
const STALE: &str = "stale collateral: it is still in its time, but older than this client accepts, and may hide newer revocations";

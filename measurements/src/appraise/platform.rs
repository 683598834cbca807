//! Rows on the platform that hold for both technologies: which machine it is, and how old the vendor's word on it.

use super::evidence::{ASK_OPERATOR, COLLATERAL};
use crate::{
    policy::{MachineId, Policy},
    verdict::Check,
};

/// The machine against the policy's list. `found` is `None` when the evidence proves no identity of a known form.
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

/// What was issued at `issued` (and is called so in the row) may not be older than `most` seconds at `now`.
pub(super) fn age(title: &str, (what, issued): (&str, u64), most: u64, now: u64) -> Check {
    const HOUR: u64 = 60 * 60;
    // The limit's own unit, and ages rounded up: no age that is refused reads like one that is not.
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

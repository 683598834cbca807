//! Checks the patch levels of AMD's platform by the policy's floor.
//!
//! A report has four TCB levels. Three of them are compared:
//!
//! * **Reported**: the level from which the signing key is derived, so that older firmware cannot claim it. It may be below
//!   what really runs, never above.
//! * **Committed**: the level below which the host cannot downgrade the firmware. If it is below the floor, the host can load
//!   weak firmware under a running guest, after the report was made.
//! * **Launch**: the level that ran when the guest's memory was measured and encrypted. A guest that weak firmware launched
//!   stays suspect even if the host updates afterwards.
//!
//! The fourth, *current*, is at least the committed one and adds nothing. Committed and launch level are statements of
//! firmware that is at least at the reported level, so they are meaningful only if that level is high enough.

use crate::{
    policy::{Policy, SnpPart, SnpTcbFloor},
    roots::RootClass,
    snp::report::{SnpClaims, TcbVersion},
    verdict::Check,
};

const ID: &str = "evidence.tcb";

/// Returns the row on the levels. Under a development root it is a note, because the simulator made the levels up. They are
/// compared with the floor only to show how real hardware with these levels would be judged.
pub(super) fn row(claims: &SnpClaims, policy: &Policy) -> Check {
    let part = SnpPart::of(claims.product, claims.cpuid);
    let floor = policy.snp_tcb_floor.of(part);
    let title = "TCB level of the platform";
    let low = lacking(claims, floor);
    let row = match claims.root {
        RootClass::Vendor if low.is_empty() => Check::pass(ID, title, found(claims)),
        RootClass::Vendor => {
            Check::fail(ID, title, format!("{OLD_TCB} {low}"), advice(claims, floor))
                .found(found(claims))
        }
        RootClass::Development => {
            let worth = if low.is_empty() {
                GOOD_ENOUGH.to_owned()
            } else {
                format!("{TOO_OLD} {low}")
            };
            Check::note(ID, title, format!("{SIMULATED} {worth}")).found(found(claims))
        }
    };
    let fmc = claims.reported_tcb.fmc.map(|_| floor.fmc);
    let least = show(&TcbVersion {
        fmc,
        bootloader: floor.bootloader,
        tee: floor.tee,
        snp: floor.snp,
        microcode: floor.microcode,
    });
    row.expected(format!("at least {least} ({part})"))
}

/// Lists the components below the floor; empty if there are none.
fn lacking(claims: &SnpClaims, floor: &SnpTcbFloor) -> String {
    let levels = [
        ("reported", &claims.reported_tcb),
        ("committed", &claims.committed_tcb),
        ("launch", &claims.launch_tcb),
    ];
    let level = |(name, tcb): (&str, &TcbVersion)| {
        let parts: Vec<String> = (floor.below(tcb).into_iter())
            .map(|(part, found, least)| format!("{part} {found} instead of {least}"))
            .collect();
        (!parts.is_empty()).then(|| format!("{name}: {}", parts.join(", ")))
    };
    let low: Vec<String> = levels.into_iter().filter_map(level).collect();
    low.join("; ")
}

/// Shows the levels, separately only if they differ.
fn found(claims: &SnpClaims) -> String {
    let (reported, committed, launch) = (
        &claims.reported_tcb,
        &claims.committed_tcb,
        &claims.launch_tcb,
    );
    if reported == committed && reported == launch {
        return show(reported);
    }
    format!(
        "reported {}; committed {}; at launch {}",
        show(reported),
        show(committed),
        show(launch)
    )
}

fn show(tcb: &TcbVersion) -> String {
    let fmc = tcb
        .fmc
        .map_or_else(String::new, |fmc| format!("FMC {fmc}, "));
    format!(
        "{fmc}boot loader {}, TEE {}, SNP {}, microcode {}",
        tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
    )
}

fn advice(claims: &SnpClaims, floor: &SnpTcbFloor) -> &'static str {
    if !floor.below(&claims.reported_tcb).is_empty() {
        UPDATE
    } else if !floor.below(&claims.committed_tcb).is_empty() {
        COMMIT
    } else {
        LAUNCH_AGAIN
    }
}

const OLD_TCB: &str = "the platform's firmware or microcode is older than the policy's floor:";
const SIMULATED: &str =
    "simulated: no hardware stands behind these numbers, so they reject nothing; on hardware";
const GOOD_ENOUGH: &str = "they would be good enough";
const TOO_OLD: &str = "they would be below the policy's floor:";
const UPDATE: &str =
    "the operator updates BIOS, SEV firmware and microcode, and reports their level (SNP_CONFIG)";
const COMMIT: &str =
    "the operator commits the newer firmware (SNP_COMMIT), so that the older one cannot come back";
const LAUNCH_AGAIN: &str =
    "the operator starts the VM again: it was started before the platform was updated";
